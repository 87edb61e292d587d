"""Callbacks that follow the training: mixing of batches, the last validation, what is shown."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar

from ..batch import BatchMix, MixupBatch, Pairing
from .data import DetectionData, data_of
from .evaluation import PARTS
from .module import DetectionModule
from .schedule import is_trial


class MixBatches(L.Callback):
    """Mixes the images of each training batch with each other before the step, on the device that trains.

    See ``detmix.MixupBatch``; it draws from the seed of the mixing, the process and the number of the step,
    which checkpoints keep. It is off in the last ``data.mixup.no_mixup_epochs``. What the data set has mixed
    already is mixed again, so ``data.mixup.alpha`` is to be 0 where that is not wanted.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.5,
        p: float = 1.0,
        mix: BatchMix = "mixup",
        pairing: Pairing = "roll",
        per_sample: bool = False,
        min_weight: float = 0.0,
    ) -> None:
        """Set what is drawn.

        Args:
            alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. The defaults are those of
                ``MixupDataset``, for one rule in all; here they have not been measured.
            p: probability that the batch is mixed or, with per_sample, that an image is.
            mix: ``mixup`` blends two images, ``cutmix`` replaces a region of the one by the other's.
            pairing: ``roll`` mixes each image with the one before it, the first with the last; ``shuffle``
                puts the images in a random circle first, so that every other one is equally likely.
            per_sample: one ratio for each image, instead of one for the batch.
            min_weight: objects fainter than this are left out.

        Raises:
            TypeError: alpha, p or min_weight is no number.
            ValueError: alpha is negative or not finite, p or min_weight outside [0, 1], or mix or pairing is unknown.
        """
        self.mixer = MixupBatch(
            alpha=alpha, p=p, mix=mix, pairing=pairing, per_sample=per_sample, min_weight=min_weight
        )

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed at all."""
        return self.mixer.alpha > 0 and self.mixer.p > 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the seed of the mixing, and refuse a schedule under which nothing would be mixed."""
        data = data_of(trainer)
        self.mixer.seed = data.mixing_seed
        if self.mixes and not is_trial(trainer):
            data.check_schedule(trainer.max_epochs)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mix the batch in place, unless the epoch is one of the last."""
        self.mixer.set_epoch(trainer.current_epoch)
        self.mixer.enable(data_of(trainer).in_mixed_epoch)
        images, targets = batch
        images[:], targets[:] = self.mixer(images, targets)

    def state_dict(self) -> dict[str, Any]:
        """The step that comes next, for the checkpoint."""
        return self.mixer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on drawing where the checkpoint was written."""
        self.mixer.load_state_dict(state_dict)


def mixing_of(data: DetectionData, module: DetectionModule, callbacks: Iterable[L.Callback]) -> list[str]:
    """All that a run mixes, each with its settings: samples, batches, features; nothing where it does not mix."""
    found = [_stated("data.mixup", vars(data.mixup))] if data.mixes else []
    for callback in callbacks:
        if isinstance(callback, MixBatches) and callback.mixes:
            names = ("alpha", "p", "mix", "pairing", "per_sample", "min_weight")
            found.append(_stated("MixBatches", {name: getattr(callback.mixer, name) for name in names}))
    return [*found, _stated("model.manifold", vars(module.manifold))] if module.mixes else found


def _stated(name: str, settings: Mapping[str, Any]) -> str:
    """Settings as a config has them."""
    return f"{name}: {json.dumps(settings)}"


def callbacks_of(trainer: Any) -> list[L.Callback]:
    """The callbacks of a trainer; Lightning attaches them at run time."""
    return trainer.callbacks


class ValidateAtTheEnd(L.Callback):
    """Validates after the last step whatever the interval, so that the numbers are those of the final weights.

    Where a run is to end is known before: after ``max_epochs`` or ``max_steps``. Lightning validates one that is told
    to stop, if validations are due in the epoch.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last batch, set whatever interval there is to one; Lightning looks at it next."""
        if trainer.global_step == trainer.max_steps or (trainer.is_last_batch and is_last_epoch(trainer)):
            trainer.check_val_every_n_epoch = trainer.val_check_batch = 1
            trainer._last_val_time = -math.inf  # type: ignore[attr-defined]  # of an interval by the clock


def is_last_epoch(trainer: L.Trainer) -> bool:
    """Whether no epoch comes after this one."""
    return trainer.current_epoch + 1 == trainer.max_epochs


class Throughput(L.Callback):
    """Logs how many images a second one device trains on, after each batch that follows another without a pause.

    Pauses are the end of an epoch, validations and the writing of checkpoints, but for those of weights alone, of which
    Lightning does not tell. Where one follows every step, as a validation may, nothing is logged.
    """

    def __init__(self) -> None:
        self._last: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The time between epochs is not the training's."""
        self._last = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nor is that of a validation."""
        self._last = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Nor is that of a checkpoint, which is written next."""
        self._last = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the batch's images over the time since the batch before."""
        now = time.perf_counter()
        if self._last is not None:
            images = len(batch[0])
            speed = torch.tensor(images / (now - self._last))  # on the CPU: a copy to a GPU would wait for it
            pl_module.log("images_per_s", speed, batch_size=images)
        self._last = now


class ProgressBar(RichProgressBar):
    """Lightning's bar, whose numbers change twice a second: to read one, the host waits for the GPU.

    They are picked here, and not with ``log(..., prog_bar=True)``, which reads them after each batch.
    """

    _MEASURED = ("AP50", *(f"{part}/AP" for part in PARTS))
    _NUMBERS = ("train/loss", "images_per_s", *(f"{stage}/{name}" for name in _MEASURED for stage in ("val", "test")))
    _INTERVAL = 0.5  # seconds

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Any] = {}
        self._read_at = 0.0

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The numbers to show: those of the last half second while training, else the newest."""
        now = time.perf_counter()
        if not trainer.training or now - self._read_at >= self._INTERVAL:
            logged = trainer.callback_metrics
            chosen = {name: float(logged[name]) for name in self._NUMBERS if name in logged}
            self._shown = super().get_metrics(trainer, pl_module) | chosen
            self._read_at = now
        return self._shown
