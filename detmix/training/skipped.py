"""Which training images could not be read, where they are skipped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ..files import write_text
from ..terminal import tell
from .data import data_of


class SkippedImages(L.Callback):
    """Under ``data.on_error: skip``, lists the training images that were skipped in ``skipped_images.txt``.

    It is written, and their number said, at the end of each epoch in which there were new ones, in any process.
    Checkpoints keep the list, with those that were skipped since.

    Attributes:
        files: their paths, in order.
    """

    def __init__(self, run_dir: Path) -> None:
        """Say where to write.

        Args:
            run_dir: the run's folder.
        """
        self.path = run_dir / "skipped_images.txt"
        self.files: list[str] = []
        self._found: Callable[[], list[str]] = list  # what all processes have skipped by now

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learn whom to ask."""
        self._found = partial(_skipped_images, trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask all processes."""
        self.files = self._all_files()
        text = "".join(f"{file}\n" for file in self.files)
        # what is listed may be less than the checkpoint knew from which the run goes on
        if trainer.is_global_zero and text and not (self.path.exists() and self.path.read_text("utf-8") == text):
            write_text(self.path, text)
            images = len(data_of(trainer).train_set)
            tell(f"{len(self.files)} of {images} training images skipped: see {self.path}")

    def state_dict(self) -> dict[str, Any]:
        """The list, for the checkpoint."""
        return {"files": self._all_files()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the list."""
        self.files = [str(name) for name in state_dict["files"]]

    def _all_files(self) -> list[str]:
        return sorted({*self.files, *self._found()})


def _skipped_images(trainer: L.Trainer) -> list[str]:
    data = data_of(trainer)
    if data.on_error != "skip":
        return []
    found: list[Any] = [data.skipped_images()] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(found, found[0])
    return [file for part in found for file in part]
