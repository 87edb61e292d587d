"""Which training images could not be read, where they are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console

from ..files import write_whole
from .data import data_of


class SkippedImages(L.Callback):
    """Under ``data.on_error: skip``, lists the training images that were skipped in ``skipped_images.txt``.

    It is written, and their number said, at the end of each epoch in which there were new ones, in any process.
    Checkpoints keep the list.

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

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask all processes."""
        data = data_of(trainer)
        if data.on_error != "skip":
            return
        found: list[Any] = [data.skipped_images()] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(found, found[0])
        files = sorted({*self.files, *(file for part in found for file in part)})
        if len(files) > len(self.files) and trainer.is_global_zero:
            write_whole(self.path, lambda path: path.write_text("\n".join(files) + "\n"))
            Console().print(f"{len(files)} of {len(data.train_set)} training images skipped: see {self.path}")
        self.files = files

    def state_dict(self) -> dict[str, Any]:
        """The list, for the checkpoint."""
        return {"files": self.files}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the list."""
        self.files = state_dict["files"]
