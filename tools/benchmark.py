"""What detmix costs, as ratios measured in one run.

python tools/benchmark.py                 # both parts, on the CPU
python tools/benchmark.py step --device cuda --batch-size 8 --size 800
python tools/benchmark.py blend --repeats 200

The two sides of a ratio are timed in turn, A B A B ..., and the median of the pairwise ratios is printed with
its quartiles, so that a machine that slows down half-way spoils both alike.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.models import detection

from detmix import weight_losses
from detmix.canvas import blend

Action = Callable[[], Any]


def main() -> None:
    """Parse the command line and print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", "blend", "step"], default="all", help="what to measure")
    parser.add_argument("--repeats", type=int, help="timed runs of each side (blend: 300, step: 10)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch and OpenCV (default: 1)")
    parser.add_argument("--device", default="cpu", help="device of the training step, such as cuda (default: cpu)")
    parser.add_argument("--detector", default="fasterrcnn_resnet50_fpn", help="torchvision builder of the step")
    parser.add_argument("--batch-size", type=int, default=2, help="images of the training step (default: 2)")
    parser.add_argument("--size", type=int, default=256, help="shorter side of its images (default: 256)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    if options.part in ("all", "blend"):
        Console().print(blend_table(options.repeats or 300))
    if options.part in ("all", "step"):
        Console().print(step_table(options))


def blend_table(repeats: int) -> Table:
    """Blending two images, as a multiple of copying the canvas."""
    rng = np.random.default_rng(0)
    table = Table("images", "blend", "copy", "blend / copy", title="Blend of two uint8 images, 3 channels")
    for size_a, size_b in (((480, 640), (480, 640)), ((480, 640), (640, 427)), ((1080, 1920), (1080, 1920))):
        images = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for size in (size_a, size_b)]
        name = " + ".join(f"{width}x{height}" for height, width in (size_a, size_b))
        table.add_row(name, *_cells(_blend_and_copy(*images), repeats, lambda: None))
    return table


def _blend_and_copy(image_a: torch.Tensor, image_b: torch.Tensor) -> list[Action]:
    canvas = blend(image_a, image_b, 0.3)
    target = torch.empty_like(canvas)
    return [lambda: blend(image_a, image_b, 0.3), lambda: target.copy_(canvas)]


def step_table(options: argparse.Namespace) -> Table:
    """A training step of the adapted model on weighted targets, as a multiple of plain torchvision's."""
    device = torch.device(options.device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    plain = _detector(options).to(device).train()
    images, targets = _batch(options, device)
    weighted = [target | {"weights": torch.full((len(target["boxes"]),), 0.5, device=device)} for target in targets]
    sides = [_step(weight_losses(copy.deepcopy(plain)), images, weighted), _step(plain, images, targets)]
    title = f"Training step of {options.detector}, {options.batch_size} images of {options.size} pixels, {device}"
    table = Table("", "detmix", "torchvision", "detmix / torchvision", title=title)
    cells = _cells(sides, options.repeats or 10, synchronize)
    table.add_row("time", *cells)
    if device.type == "cuda":
        table.add_row("peak memory", *_peaks(sides))
    return table


def _cells(sides: list[Action], repeats: int, synchronize: Action) -> list[str]:
    """Median of either side in milliseconds, and the median and quartiles of their ratio."""
    times = np.array([[_time(side, synchronize) for side in sides] for _ in range(repeats + 2)])[2:]
    low, middle, high = np.percentile(times[:, 0] / times[:, 1], [25, 50, 75])
    first, second = 1000 * np.median(times, axis=0)
    return [f"{first:.2f} ms", f"{second:.2f} ms", f"{middle:.2f} ({low:.2f} to {high:.2f})"]


def _time(action: Action, synchronize: Action) -> float:
    synchronize()
    start = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - start


def _peaks(sides: list[Action]) -> list[str]:
    peaks = []
    for side in sides:
        torch.cuda.reset_peak_memory_stats()
        side()
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() / 2**20)
    return [*(f"{peak:.0f} MiB" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}"]


def _detector(options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    builder = getattr(detection, options.detector)
    return builder(weights=None, weights_backbone=None, min_size=options.size, max_size=2 * options.size)


def _batch(options: argparse.Namespace, device: torch.device) -> tuple[list[Any], list[Any]]:
    """Images of noise with eight boxes each."""
    generator = torch.Generator().manual_seed(0)
    height, width = options.size, options.size * 4 // 3
    images = [torch.rand(3, height, width, generator=generator).to(device) for _ in range(options.batch_size)]
    targets = []
    for _ in images:
        corners = torch.rand(8, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        extents = torch.tensor([width, height]) * (0.1 + 0.3 * torch.rand(8, 2, generator=generator))
        boxes = torch.cat([corners, corners + extents], dim=1).to(device)
        targets.append({"boxes": boxes, "labels": torch.arange(1, 9, device=device)})
    return images, targets


def _step(model: nn.Module, images: list[Any], targets: list[Any]) -> Action:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(model(images, targets).values())).sum().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
