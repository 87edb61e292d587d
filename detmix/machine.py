"""What something was measured or trained on: hardware, Python and packages."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = (
    "detmix",
    "torch",
    "torchvision",
    "lightning",
    "numpy",
    "numba",
    "opencv-python-headless",
    "pillow",
    "pycocotools",
    "faster-coco-eval",
)


def machine() -> dict[str, str]:
    """Processor, GPU if any, Python and the packages that matter, by name."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    processor = f"{_processor()}, {os.cpu_count()} cores"
    return {"processor": processor, **gpu, "python": platform.python_version(), **versions()}


def versions() -> dict[str, str]:
    """The version of each package that matters, by name; those that are not installed are left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(facts: Mapping[str, str]) -> str:
    """The machine in a line."""
    return ", ".join(fact if name in ("processor", "gpu") else f"{name} {fact}" for name, fact in facts.items())


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
