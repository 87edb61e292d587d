"""In which epochs a training mixes."""

from __future__ import annotations

from typing import Any

import lightning as L

from .data import data_of


class MixupSchedule(L.Callback):
    """Tells the training set which epoch it is, and switches all mixing off for the last epochs.

    ``DetectionModule`` brings it along, so that it is there under every trainer; ``data.mixup.no_mixup_epochs`` says
    how many epochs go unmixed.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a schedule under which nothing would be mixed, or whose end is unknown."""
        data = data_of(trainer)
        if (data.mixes or pl_module.mixes) and not is_trial(trainer):
            data.check_schedule(trainer.max_epochs)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass the epoch on, also to data-loading workers that are already running."""
        data_of(trainer).start_epoch(trainer.current_epoch, None if is_trial(trainer) else trainer.max_epochs)

    on_train_start = on_train_epoch_start  # a run that goes on in the middle of an epoch does not start it again


def is_trial(trainer: Any) -> bool:
    """Whether this is ``fast_dev_run``, a few steps for a trial: ``no_mixup_epochs`` does not count there."""
    return bool(trainer.fast_dev_run)
