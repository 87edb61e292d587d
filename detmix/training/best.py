"""The best checkpoint of a run, and by which of its accuracies it is chosen."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from .accuracies import accuracies, listed

_LOGGER = logging.getLogger("detmix.training")
_FILE = "best.ckpt"
_STAGE = "val/"  # before the name of what validations log


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, that of the highest accuracy, through interruptions and moves of the run's folder."""

    def __init__(self, folder: Path, best_by: str) -> None:
        """Say where, and by which accuracy, as ``metrics.json`` names it."""
        super().__init__(folder, "best", monitor=_STAGE + best_by, mode="max", enable_version_counter=False)
        self._warned = False

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether the accuracy is the best so far; what is none, NaN or COCO's mark for no objects, is not."""
        if current is None or current >= 0:
            return super().check_monitor_top_k(trainer, current)
        if trainer.is_global_zero and not self._warned:
            _LOGGER.warning(
                "%s is %g: no object that it could be of is in the images that were measured. %s waits until one is",
                *(self.monitor, float(current), _FILE),
            )
        self._warned = True
        return False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far, if it is still there."""
        path = os.path.join(str(self.dirpath), _FILE)
        scores = list(state_dict["best_k_models"].values())
        if scores and os.path.exists(path):
            moved = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict({**state_dict, **moved, "best_k_models": {path: scores[0]}})


def require_measured(best_by: str, class_names: Sequence[str], *, masks: bool, keypoints: bool) -> None:
    """Refuse a name of what no validation will measure.

    Args:
        best_by: an accuracy as ``metrics.json`` names it.
        class_names: those of the data, without background.
        masks: whether masks are measured beside boxes.
        keypoints: whether keypoints are.

    Raises:
        ValueError: so it is, or it is no accuracy, such as the loss; the names that there are are told.
    """
    there = accuracies(class_names, masks=masks, keypoints=keypoints)
    if best_by not in there:
        raise ValueError(
            f"best_by must be an accuracy that this training measures, of which more is better: {listed(there)}; got "
            f"{best_by!r}"
        )


def require_same_accuracy(best_by: str, checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on by another accuracy while the best so far is there, with which it could not be compared.

    Args:
        best_by: the accuracy to go on with.
        checkpoint: from which the run goes on.
        folder: of its checkpoints.

    Raises:
        ValueError: so it is; both names are told.
    """
    before = _accuracy_of(checkpoint)
    if before not in (None, best_by) and (folder / _FILE).exists():
        raise ValueError(
            f"{folder / _FILE} is of the highest {before} so far, and best_by is {best_by} now: go on with --best_by "
            f"{before}, or move the file away, and the best is sought by {best_by} among what comes from here on"
        )


def _accuracy_of(checkpoint: Mapping[str, Any]) -> str | None:
    """That by which the best checkpoint was chosen when this one was written; None if it does not tell."""
    for key, state in checkpoint.get("callbacks", {}).items():
        if str(key).startswith(BestCheckpoint.__qualname__) and isinstance(state, dict):
            return str(state.get("monitor")).removeprefix(_STAGE)
    return None
