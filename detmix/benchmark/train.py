"""Whole training loops on JPEG files: the trainer with and without mixing, and torchvision's reference loop."""

from __future__ import annotations

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
from torch.profiler import profile as torch_profile
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.models import get_model
from torchvision.transforms import v2

from ..batch import collate
from ..training import DetectionData, DetectionModule, MixupOptions, Throughput
from .comparison import BenchmarkReport, comparison
from .photographs import write_coco

_WARM_UP = 3  # steps that do not count
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
        compile: backend of ``torch.compile`` in the trainer, or None.
    """

    folder: Path
    detector: str
    device: str
    batch_size: int
    size: int
    workers: int
    steps: int
    compile: str | None

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
    compile: str | None = None,
    profile: bool = False,
) -> BenchmarkReport:
    """Train by the trainer, with and without mixing, against torchvision's reference loop.

    Each loop reads, decodes, flips and trains on JPEG files, from random weights. The loops run in turn, each from
    its start, and three steps of each round do not count. A GPU as they are meant for:
    ``train --device cuda --batch_size 16 --size 800 --workers 8 --steps 20 --rounds 5``.

    Args:
        detector: torchvision builder.
        device: such as cuda.
        batch_size: images of a step.
        size: shorter side of the photographs, in pixels.
        workers: processes that load data.
        steps: timed steps of each round.
        rounds: how often each loop runs.
        compile: backend of torch.compile for the trainer's backbone, such as inductor.
        profile: list where the trainer's time goes, by operation, below the table.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        write_coco(Path(folder), batch_size * (_WARM_UP + steps), (size, size * 4 // 3))
        run = Run(Path(folder), detector, device, batch_size, size, workers, steps, compile)
        loops = _loops(run)
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
        if self.done in (_WARM_UP, _WARM_UP + self.run.steps):
            if self.run.device.startswith("cuda"):
                torch.cuda.synchronize()
            now = time.perf_counter()
            if self.done == _WARM_UP:
                self.around.__enter__()
            else:
                self.around.__exit__(None, None, None)
            self.seconds = now - self.seconds


def _loops(run: Run) -> dict[str, Loop]:
    on_gpu = run.device.startswith("cuda")
    loops: dict[str, Loop] = {
        "trainer, mixup": lambda clock: _trainer(run, clock, MixupOptions()),
        "trainer, no mixing": lambda clock: _trainer(run, clock, None),
        "torchvision's loop, fp32": lambda clock: _reference(run, clock, half=False),
    }
    return loops | ({"torchvision's loop, bf16": lambda clock: _reference(run, clock, half=True)} if on_gpu else {})


def _measure(run: Run, loop: Loop, speeds: Speeds) -> None:
    on_gpu = run.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(run)
    torch.manual_seed(0)
    loop(clock)
    speeds.images_per_s.append(run.steps * run.batch_size / clock.seconds)
    if on_gpu:
        speeds.peak.append(torch.cuda.max_memory_allocated() / 2**20)


def _report(run: Run, speeds: dict[str, Speeds]) -> BenchmarkReport:
    size = f"{run.size * 4 // 3}x{run.size}"
    report = BenchmarkReport(
        f"Training of {run.detector}, batches of {run.batch_size} JPEG files of {size}, {run.device}, "
        f"{run.workers} workers, {run.compile or 'no'} compilation"
    )
    pairs = [("trainer, mixup", other) for other in speeds if other != "trainer, mixup"]
    for what, against in pairs:
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


def _trainer(run: Run, clock: Clock, mixup: MixupOptions | None) -> None:
    on_gpu = run.device.startswith("cuda")
    data = DetectionData(
        "coco",
        root=str(run.folder),
        annotations="annotations.json",
        images="images",
        mixup=mixup,
        batch_size=run.batch_size,
        num_workers=run.workers,
    )
    module = DetectionModule(run.detector, weights=None, options=run.options, warmup_steps=10, compile=run.compile)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if on_gpu else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[_Ticks(clock), Throughput()],
    )
    trainer.fit(module, data)


def _reference(run: Run, clock: Clock, *, half: bool) -> None:
    """What torchvision's references/detection/engine.py does, on its v2 transforms."""
    transforms = v2.Compose(
        [v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True), v2.SanitizeBoundingBoxes()]
    )
    with redirect_stdout(StringIO()):  # pycocotools prints
        coco = datasets.CocoDetection(run.folder / "images", run.folder / "annotations.json", transforms=transforms)
    loader = DataLoader(
        datasets.wrap_dataset_for_transforms_v2(coco, target_keys=("boxes", "labels", "image_id")),
        batch_size=run.batch_size,
        shuffle=True,
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
    """The operations that take most of the trainer's time, with their shares of it."""
    recorded = torch_profile()
    _trainer(run, Clock(run, recorded), MixupOptions())
    clock = "self_device_time_total" if run.device.startswith("cuda") else "self_cpu_time_total"
    times = {event.key: getattr(event, clock) for event in recorded.key_averages()}
    largest = sorted(times, key=times.__getitem__, reverse=True)[:_ROWS_OF_PROFILE]
    return "\n".join(f"{times[name] / sum(times.values()):6.1%} {name}" for name in largest)
