"""How long a run takes, from its first batches: what there is to go by before a run of a sweep has finished."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import lightning as L

from .outcome import last_lines
from .plan import Plan

BATCHES = 8  # that are trained
_SKIPPED = 2  # of them: caches and memory are cold
_STOPWATCH = f"{__name__}.Stopwatch"


@dataclass(frozen=True)
class Estimate:
    """How long a run of an arm takes.

    Attributes:
        arm: name of the arm whose first batches were tried.
        seconds: of a whole run; None if that cannot be told: it failed, or never ends by itself.
        lines: the last that it printed, if it failed.
    """

    arm: str
    seconds: float | None
    lines: list[str]


def estimate_run(plan: Plan, arm: str, train: Sequence[str]) -> Estimate:
    """Train a few batches in a folder that is thrown away, alone and on all cores.

    Args:
        plan: the sweep.
        arm: the one to be tried.
        train: the command of the trainer, ``[python, tools/train.py]``.
    """
    with tempfile.TemporaryDirectory(prefix="detmix-estimate-") as name:
        folder = Path(name)
        times, log = folder / "times.json", folder / "log.txt"
        command = [*train, "fit", *plan.arguments(arm), "--name=estimate", f"--runs={folder / 'runs'}"]
        command += ["--trainer.enable_progress_bar=false", f"--trainer.callbacks+={_STOPWATCH}"]
        command += [f"--trainer.callbacks.file={times}"]
        start = time.monotonic()
        with log.open("wb") as output:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode
        took = time.monotonic() - start
        if code or not times.is_file():
            return Estimate(arm, None, last_lines(log))
        told = json.loads(times.read_text())
    return Estimate(arm, None if told["whole"] is None else took - told["tried"] + told["whole"], [])


class Stopwatch(L.Callback):
    """Ends a training after a few batches, and writes how long it took for them and would take for the rest."""

    def __init__(self, file: str) -> None:
        """Say where to write.

        Args:
            file: JSON with ``tried``, the seconds of these batches, and ``whole``, those of all batches of the training
                and of its validations; null if there is no last one.
        """
        self.file = Path(file)
        self._trained: list[float] = []  # when each batch had ended, and before the first
        self._validated: list[float] = []  # seconds of each batch of the trainer's first look at the validation set
        self._begun = 0.0

    def on_validation_batch_start(self, *_: Any) -> None:
        """Look at the clock."""
        self._begun = time.monotonic()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Look again."""
        self._validated.append(time.monotonic() - self._begun)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the clock."""
        self._trained = [time.monotonic()]

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Look again, and end after the last batch that is wanted."""
        self._trained.append(time.monotonic())
        if len(self._trained) - 1 == min(BATCHES, int(trainer.num_training_batches)):
            self._end(trainer)

    def _end(self, trainer: L.Trainer) -> NoReturn:
        if trainer.is_global_zero:
            tried = self._trained[-1] - self._trained[0]
            self.file.write_text(json.dumps({"tried": tried, "whole": self._whole(trainer)}))
        raise SystemExit(0)

    def _whole(self, trainer: L.Trainer) -> float | None:
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        if not 0 <= steps < float("inf"):
            return None
        pauses = [after - before for before, after in zip(self._trained, self._trained[1:], strict=False)]
        looks = max(1, _validations(trainer, steps)) * sum(trainer.num_val_batches)
        return steps * _typical(pauses, _SKIPPED) + looks * _typical(self._validated, 1)


def _validations(trainer: L.Trainer, steps: float) -> float:
    """How many begin within that many batches, as far as they are counted in batches or epochs."""
    if trainer.check_val_every_n_epoch is None:
        return steps // (trainer.val_check_batch or steps)
    batches, every = trainer.num_training_batches, trainer.check_val_every_n_epoch
    interval = trainer.val_check_batch or batches
    epochs, rest = divmod(steps, batches)
    begun = rest // interval if (epochs + 1) % every == 0 else 0
    return epochs // every * max(1, batches // interval) + begun


def _typical(seconds: list[float], skipped: int) -> float:
    """The median, the first ones left out if there are others; 0 of none."""
    return median(seconds[skipped:] or seconds or [0.0])
