"""Whole training loops on JPEG files: the trainer with and without mixing, and torchvision's reference loop."""

from __future__ import annotations

import gc
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jsonargparse.typing import ClosedUnitInterval
from torch.profiler import profile as torch_profile
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.models import get_model
from torchvision.transforms import v2

from ..batch import collate
from ..training import DetectionData, DetectionModule, MixupOptions, Throughput
from ..training.loader import TrainingOrder
from .comparison import BenchmarkReport, comparison
from .photographs import write_coco

_TRAINER, _UNMIXED, _COMPILED = "trainer, mixup", "trainer, no mixing", "trainer, mixup, compiled"
_ALIKE, _UNGROUPED = "trainer, mixup, same orientation", "trainer, no mixing, not grouped"
_FP32, _BF16 = "torchvision's loop, fp32", "torchvision's loop, bf16"
_PAIRS = [
    (_TRAINER, _UNMIXED),
    (_TRAINER, _FP32),
    (_TRAINER, _BF16),
    (_ALIKE, _UNMIXED),
    (_ALIKE, _TRAINER),
    (_UNMIXED, _UNGROUPED),
    (_COMPILED, _TRAINER),
]
_ROWS_OF_PROFILE = 15


@dataclass(frozen=True)
class Run:
    """What is trained, on what.

    Attributes:
        folder: of the photographs.
        detector: torchvision builder.
        device: such as ``cpu`` or ``cuda``.
        batch_size: images.
        size: their shorter side, in pixels.
        workers: processes that load data.
        steps: those that count.
        portraits: share of the photographs that stand on end.
    """

    folder: Path
    detector: str
    device: str
    batch_size: int
    size: int
    workers: int
    steps: int
    portraits: float = 0.0

    @property
    def on_gpu(self) -> bool:
        """Whether it trains on a GPU."""
        return self.device.startswith("cuda")

    @property
    def warm_up(self) -> int:
        """Steps that do not count: three, and as many as workers load batches for while a slow first one lasts."""
        return 3 + 2 * self.workers

    @property
    def options(self) -> dict[str, int]:
        """What the builder is given beside the weights; SSD and SSDlite have one size."""
        return {} if "ssd" in self.detector else {"min_size": self.size, "max_size": 2 * self.size}


@dataclass
class Speeds:
    """What the rounds of one loop gave: images a second, and the most memory on the GPU, in MiB."""

    images_per_s: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)


def measure_train(
    detector: str = "fasterrcnn_resnet50_fpn",
    device: str = "cpu",
    batch_size: int = 2,
    size: int = 160,
    workers: int = 0,
    steps: int = 5,
    rounds: int = 3,
    portraits: ClosedUnitInterval = 0.0,  # checked where it comes from a command line
    compile: str | None = None,
    profile: bool = False,
) -> BenchmarkReport:
    """Train by the trainer, with and without mixing, against torchvision's reference loop.

    Each loop reads, decodes, flips and trains on JPEG files, from random weights. The loops run in turn, each from
    its start. Three steps of each round do not count, and two more for each worker, since that many batches may be
    waiting when a slow first step ends. A GPU as they are meant for:
    ``train --device cuda --batch_size 16 --size 800 --workers 8 --steps 20 --rounds 5``.

    Args:
        detector: torchvision builder.
        device: such as cuda.
        batch_size: images of a step.
        size: shorter side of the photographs, in pixels.
        workers: processes that load data.
        steps: timed steps of each round.
        rounds: how often each loop runs.
        portraits: share of the photographs that stand on end. With some, the trainer also runs without grouping them,
            and with partners of the same orientation.
        compile: backend of torch.compile, such as inductor: the trainer also runs with its backbone compiled.
        profile: list where the trainer's time goes, by operation, below the table.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        run = Run(Path(folder), detector, device, batch_size, size, workers, steps, portraits)
        write_coco(run.folder, batch_size * (run.warm_up + steps), (size, size * 4 // 3), portraits=portraits)
        loops = _loops(run, compile)
        speeds = {name: Speeds() for name in loops}
        for _ in range(rounds):
            for name, loop in loops.items():
                _measure(run, loop, speeds[name])
        report = _report(run, speeds)
        if profile:
            report.notes.append(_profile(run))
    return report


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning says of workers, loggers and devices."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


Loop = Callable[["Clock"], None]


class Clock:
    """Told of each step's end; keeps the time of those that count."""

    def __init__(self, run: Run, around: AbstractContextManager[Any] | None = None) -> None:
        self.run = run
        self.around = around or nullcontext()
        self.done = 0
        self.seconds = 0.0

    def tick(self) -> None:
        """A step has ended."""
        self.done += 1
        if self.done in (self.run.warm_up, self.run.warm_up + self.run.steps):
            if self.run.on_gpu:
                torch.cuda.synchronize()
            if self.done == self.run.warm_up:
                self.around.__enter__()
                self.seconds = time.perf_counter()
            else:
                self.seconds = time.perf_counter() - self.seconds
                self.around.__exit__(None, None, None)


def _loops(run: Run, compile: str | None) -> dict[str, Loop]:
    loops: dict[str, Loop] = {
        _TRAINER: lambda clock: _trainer(run, clock, MixupOptions()),
        _UNMIXED: lambda clock: _trainer(run, clock, None),
        _FP32: lambda clock: _reference(run, clock, half=False),
    }
    if run.on_gpu:
        loops[_BF16] = lambda clock: _reference(run, clock, half=True)
    if run.portraits:
        loops[_ALIKE] = lambda clock: _trainer(run, clock, MixupOptions(partner="same_orientation"))
        loops[_UNGROUPED] = lambda clock: _trainer(run, clock, None, aspect_ratio_grouping=False)
    if compile is not None:
        loops[_COMPILED] = lambda clock: _trainer(run, clock, MixupOptions(), compile)
    return loops


def _measure(run: Run, loop: Loop, speeds: Speeds) -> None:
    gc.collect()  # a trainer and its model hold each other, and would count in the next loop's memory
    if run.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(run)
    torch.manual_seed(0)
    loop(clock)
    speeds.images_per_s.append(run.steps * run.batch_size / clock.seconds)
    if run.on_gpu:
        speeds.peak.append(torch.cuda.max_memory_allocated() / 2**20)


def _report(run: Run, speeds: dict[str, Speeds]) -> BenchmarkReport:
    size = f"{run.size * 4 // 3}x{run.size}{f', {run.portraits:.0%} on end' if run.portraits else ''}"
    report = BenchmarkReport(
        f"Training of {run.detector}, batches of {run.batch_size} JPEG files of {size}, {run.device}, "
        f"{run.workers} workers"
    )
    for what, against in (pair for pair in _PAIRS if set(pair) <= speeds.keys()):
        values, references = (np.array(speeds[name].images_per_s) for name in (what, against))
        report.rows.append(comparison(what, values, against, references, unit="images/s"))
        if speeds[what].peak:
            peaks, others = (np.array(speeds[name].peak) for name in (what, against))
            report.rows.append(comparison(f"{what}, peak memory", peaks, against, others, unit="MiB"))
    return report


class _Ticks(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.threads = torch.get_num_threads()

    def on_train_start(self, *_: Any) -> None:
        torch.set_num_threads(self.threads)  # the trainer takes all cores of a CPU, the other loop would not

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.tick()


def _trainer(
    run: Run, clock: Clock, mixup: MixupOptions | None, compile: str | None = None, aspect_ratio_grouping: bool = True
) -> None:
    data = DetectionData(
        "coco",
        root=str(run.folder),
        annotations="annotations.json",
        images="images",
        mixup=mixup,
        batch_size=run.batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=run.workers,
    )
    module = DetectionModule(run.detector, weights=None, options=run.options, warmup_steps=10, compile=compile)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="gpu" if run.on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if run.on_gpu else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[_Ticks(clock), Throughput()],
    )
    trainer.fit(module, data)


def _reference(run: Run, clock: Clock, *, half: bool) -> None:
    """What torchvision's references/detection/engine.py does, on its v2 transforms, with batches of one orientation."""
    transforms = v2.Compose(
        [v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True), v2.SanitizeBoundingBoxes()]
    )
    with redirect_stdout(StringIO()):  # pycocotools prints
        coco = datasets.CocoDetection(run.folder / "images", run.folder / "annotations.json", transforms=transforms)
    landscape = np.array([image["width"] > image["height"] for image in coco.coco.loadImgs(coco.ids)])
    loader = DataLoader(
        datasets.wrap_dataset_for_transforms_v2(coco, target_keys=("boxes", "labels", "image_id")),
        batch_size=run.batch_size,
        sampler=TrainingOrder(coco, batch_size=run.batch_size, landscape=landscape),
        num_workers=run.workers,
        collate_fn=collate,
    )
    model = get_model(run.detector, weights=None, weights_backbone=None, num_classes=9, **run.options)
    model.to(run.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)
    device_type = torch.device(run.device).type
    for images, targets in loader:
        on_device = [image.to(run.device) for image in images]
        moved = [{k: v.to(run.device) if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=half):
            losses = model(on_device, moved)
            loss = torch.stack(list(losses.values())).sum()
        if not np.isfinite(loss.item()):
            raise FloatingPointError(f"the loss of torchvision's loop is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.tick()


def _profile(run: Run) -> str:
    """The operations that take most of the trainer's time, with their shares of it, and how long the GPU works."""
    recorded, kind = torch_profile(), "self_device_time_total" if run.on_gpu else "self_cpu_time_total"
    clock = Clock(run, recorded)
    _trainer(run, clock, MixupOptions())
    # of the CPU's: an operation has the time of the kernels that it starts, which have rows of their own beside it
    events = [event for event in recorded.key_averages() if event.device_type.name == "CPU"]
    times = {event.key: getattr(event, kind) for event in events}
    total = sum(times.values())
    largest = sorted(times, key=times.__getitem__, reverse=True)[:_ROWS_OF_PROFILE]
    lines = [f"{times[name] / total:6.1%} {name}" for name in largest]
    busy = [f"{total / 1e6 / clock.seconds:6.1%} of the time, while recorded, the GPU works"] if run.on_gpu else []
    return "\n".join([*lines, *busy])
