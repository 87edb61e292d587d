"""Callbacks that follow the training: the mixing schedule, the last validation and the throughput."""

from __future__ import annotations

import time
from typing import Any

import lightning as L

from .data import data_of


class MixupSchedule(L.Callback):
    """Tells the training set which epoch it is, and switches mixing off for the last epochs.

    Always on in ``tools/train.py``; ``data.mixup.no_mixup_epochs`` says how many epochs go unmixed.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a schedule under which nothing would be mixed, or whose end is unknown."""
        data_of(trainer).check_schedule(trainer.max_epochs)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass the epoch on, also to data-loading workers that are already running."""
        data_of(trainer).start_epoch(trainer.current_epoch, trainer.max_epochs)


class ValidateAtTheEnd(L.Callback):
    """Validates after the last epoch whatever the interval, so that the numbers are those of the final weights."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """In the last epoch, set the interval to one."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class Throughput(L.Callback):
    """Logs how many images a second one device trains on, and shows it in the progress bar."""

    def __init__(self) -> None:
        self._last: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The time between epochs is not the training's."""
        self._last = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the batch's images over the time since the batch before."""
        now = time.perf_counter()
        if self._last is not None:
            images = len(batch[0])
            pl_module.log("images_per_s", images / (now - self._last), prog_bar=True, batch_size=images)
        self._last = now
