"""How much memory there is, and how much samples take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from torch import Tensor

_UNLIMITED = 1 << 60  # version 1 of cgroups writes a number of this size for "no limit"


def bytes_held(sample: Any) -> int:
    """Bytes that the images and tensors of a sample keep in memory, however small a part of it they show.

    Args:
        sample: a tensor, numpy array or PIL image; or tuples, lists and dicts of such, anything else counting nothing.
    """
    if isinstance(sample, Tensor):
        return sample.untyped_storage().nbytes()
    if isinstance(sample, np.ndarray):
        return bytes_held(sample.base) if isinstance(sample.base, np.ndarray) else sample.nbytes
    if isinstance(sample, PILImage.Image):
        return sample.width * sample.height * len(sample.getbands())
    if isinstance(sample, dict):
        return sum(map(bytes_held, sample.values()))
    return sum(map(bytes_held, sample)) if isinstance(sample, (tuple, list)) else 0


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: what the machine has left, or its control group if that is less.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        None where the system does not tell, as on macOS and Windows.
    """
    return min([*_left_on_machine(root / "proc/meminfo"), *_left_in_groups(root)], default=None)


def _left_on_machine(meminfo: Path) -> Iterator[int]:
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _left_in_groups(root: Path) -> Iterator[int]:
    """What is left to each of the control groups that this process is in, of version 2 or 1."""
    groups, mount = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left_up_from(mount, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _left_up_from(mount / "memory", path, *names)


def _left_up_from(mount: Path, path: str, limit: str, usage: str, cached: str) -> Iterator[int]:
    folder = mount / path.lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(mount):
            return
        try:
            most = int((group / limit).read_text())
            taken = int((group / usage).read_text())
            reclaimable = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no limit, or a group that cannot be seen from inside a container
            continue
        if most < _UNLIMITED:
            yield max(0, most - taken + int(reclaimable.get(cached, 0)))
