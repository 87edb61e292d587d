"""A training step on mixed targets, and mixing within it, as multiples of plain torchvision's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import detection

from ..batch import MixupBatch
from ..detectors import weight_losses
from .comparison import Action, BenchmarkReport, compare, comparison

Side = Literal["plain", "weighted", "pair", "MixupBatch"]
SIDES: tuple[Side, ...] = ("weighted", "pair", "MixupBatch")


@dataclass(frozen=True)
class StepOptions:
    """What the step trains, on what.

    Attributes:
        detector: torchvision builder.
        device: such as ``cpu`` or ``cuda``.
        batch_size: images.
        size: their shorter side, in pixels.
        objects: in each image.
    """

    detector: str
    device: str
    batch_size: int
    size: int
    objects: int

    @property
    def on_gpu(self) -> bool:
        """Whether the step runs on a GPU."""
        return self.device.startswith("cuda")


def measure_step(
    detector: str = "fasterrcnn_resnet50_fpn",
    device: str = "cpu",
    batch_size: int = 1,
    size: int = 160,
    objects: int = 8,
    repeats: int = 20,
) -> BenchmarkReport:
    """Train a step on mixed targets, against plain torchvision.

    Peak memory is what torch allocates for a step. Operations are those of torch, views included: a GPU that is
    quicker than the host can start them waits for it. The step "MixupBatch" mixes its batch first and then has
    twice the objects.

    Args:
        detector: torchvision builder.
        device: such as cuda.
        batch_size: images of the step.
        size: shorter side of its images, in pixels.
        objects: in each of its images.
        repeats: timed pairs of each row.
    """
    options = StepOptions(detector, device, batch_size, size, objects)
    wait = torch.cuda.synchronize if options.on_gpu else lambda: None
    report = BenchmarkReport(f"Training step of {detector}, {batch_size} images of {size} pixels, {device}")
    peaks = {side: _peak(options, side) / 2**20 for side in get_args(Side)}
    operations = {side: _operations(options, side) for side in get_args(Side)}
    plain = _step(options, "plain")
    for side in SIDES:
        report.rows.append(compare(side, _step(options, side), "torchvision", plain, repeats=repeats, wait=wait))
        row = comparison(f"{side}, peak memory", peaks[side], "torchvision", peaks["plain"], unit="MiB")
        report.rows.append(row)
        counts = operations[side], operations["plain"]
        report.rows.append(comparison(f"{side}, operations", counts[0], "torchvision", counts[1], unit="ops"))
    return report


def _peak(options: StepOptions, side: Side) -> int:
    """Bytes that a training step takes at most, beside those that were taken before it."""
    step = _step(options, side)
    step()
    if options.on_gpu:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


class Operations(TorchDispatchMode):
    """Counts the operations that torch is asked for while it is entered, views included."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def _operations(options: StepOptions, side: Side) -> int:
    """Operations of torch in a training step but the first."""
    step = _step(options, side)
    step()
    with Operations() as operations:
        step()
    return operations.count


def _step(options: StepOptions, side: Side) -> Action:
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


def _batch(options: StepOptions) -> tuple[list[Any], list[Any]]:
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
