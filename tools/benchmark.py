"""What detmix costs, as ratios measured in one run.

python tools/benchmark.py                 # both parts, on the CPU
python tools/benchmark.py step --detector retinanet_resnet50_fpn --threads 2
python tools/benchmark.py step --device cuda --batch-size 8 --size 800
python tools/benchmark.py blend --repeats 200

The sides of a ratio are timed in turn, A B A B ..., and the median of the pairwise ratios is printed with its
quartiles, so that a machine that slows down half-way spoils both alike. Peak memory is what torch
allocates for a step. The step "MixupBatch" mixes its batch first and then has twice the objects.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torchvision.models import detection

from detmix import MixupBatch, weight_losses
from detmix.canvas import blend

Action = Callable[[], Any]
Side = Literal["plain", "weighted", "pair", "MixupBatch"]
SIDES: tuple[Side, ...] = ("weighted", "pair", "MixupBatch")


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
    parser.add_argument("--objects", type=int, default=8, help="objects in each of its images (default: 8)")
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
    """A training step on mixed targets as a multiple of plain torchvision's, and mixing in the step on top of it."""
    synchronize = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    peaks = {side: _peak(options, side) for side in get_args(Side)}
    plain = _step(options, "plain")
    title = (
        f"Training step of {options.detector}, {options.batch_size} images of {options.size} pixels, {options.device}"
    )
    table = Table("step", "detmix", "torchvision", "detmix / torchvision", "peak memory", title=title)
    for side in SIDES:
        cells = _cells([_step(options, side), plain], options.repeats or 10, synchronize)
        table.add_row(side, *cells, f"{peaks[side] / peaks['plain']:.3f} x {peaks['plain'] / 2**20:.0f} MiB")
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


def _peak(options: argparse.Namespace, side: Side) -> int:
    """Bytes that a training step takes at most, beside those that were taken before it."""
    step = _step(options, side)
    step()
    if options.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


def _step(options: argparse.Namespace, side: Side) -> Action:
    """A training step: plain torchvision's; under an objective, half of the objects from either image; or mixed."""
    torch.manual_seed(0)
    builder = getattr(detection, options.detector)
    sizes = {} if "ssd" in options.detector else {"min_size": options.size, "max_size": 2 * options.size}
    model = builder(weights=None, weights_backbone=None, num_classes=91, **sizes).to(options.device).train()
    images, targets = _batch(options)
    mixer = MixupBatch() if side == "MixupBatch" else None
    if side == "MixupBatch":
        weight_losses(model)
    elif side != "plain":
        weight_losses(model, side)
        halves = torch.arange(options.objects, device=options.device) % 2
        targets = [t | {"weights": torch.full_like(t["boxes"][:, 0], 0.5), "sources": halves} for t in targets]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        batch = (images, targets) if mixer is None else mixer(images, targets)
        torch.stack(list(model(*batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _batch(options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Images of noise; boxes, masks and keypoints at random places."""
    generator = torch.Generator().manual_seed(0)
    height, width, count = options.size, options.size * 4 // 3, options.objects
    images = [torch.rand(3, height, width, generator=generator).to(options.device) for _ in range(options.batch_size)]
    targets = []
    for _ in images:
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        extents = torch.tensor([width, height]) * (0.1 + 0.3 * torch.rand(count, 2, generator=generator))
        points = corners[:, None] + torch.rand(count, 17, 2, generator=generator) * extents[:, None]
        target = {"boxes": torch.cat([corners, corners + extents], dim=1), "labels": torch.arange(count) % 90 + 1}
        target |= {"masks": torch.randint(0, 2, (count, height, width), dtype=torch.uint8, generator=generator)}
        target |= {"keypoints": torch.cat([points, torch.ones(count, 17, 1)], dim=2)}
        targets.append({key: value.to(options.device) for key, value in target.items()})
    return images, targets


if __name__ == "__main__":
    main()
