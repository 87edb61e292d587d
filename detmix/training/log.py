"""The rows, events and pictures that a training logs.

The file of rows is whole at any moment, and on the disk when it is said to be saved.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from PIL.Image import Image

from ..files import naming, write_whole
from .files import read_rows, write_rows


class RowLogger(CSVLogger):
    """Lightning's ``CSVLogger``, whose rows survive SIGKILL, a power cut and a full disk once they are saved.

    Lightning writes the file anew when a name is logged for the first time, and a kill in the middle of that would lose
    the rows before; half a row that got to a full disk would spoil the next. Here the new file takes the place of the
    old one when it is whole, and rows are written whole or not at all.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the rows."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        return self._experiment

    def finalize(self, status: str) -> None:
        """Write the last rows."""
        with _unless_it_failed(status):
            super().finalize(status)


class EventLogger(TensorBoardLogger):
    """Lightning's ``TensorBoardLogger``, which names its folder where that cannot be written to."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers of a step."""
        with naming(Path(self.log_dir)):
            super().log_metrics(metrics, step)

    def save(self) -> None:
        """Write what was logged."""
        with naming(Path(self.log_dir)):
            super().save()

    def finalize(self, status: str) -> None:
        """Write the last numbers."""
        with _unless_it_failed(status), naming(Path(self.log_dir)):
            super().finalize(status)


def log_picture(logger: Logger, name: str, picture: Image, step: int) -> None:
    """Give a picture to a logger, if it takes any, as TensorBoard's does.

    Raises:
        NotWritten: it could not be written; the logger's folder is named.
    """
    add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
    if add_image is not None:
        with naming(Path(logger.log_dir or ".")):
            add_image(name, np.asarray(picture), step, dataformats="HWC")


class _Rows(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Keep the rows of a run that goes on, which Lightning would remove."""

    def save(self) -> None:
        """Write what is new, and wait until the disk has the rows; if that fails they wait for the next time."""
        if not self.metrics:
            return
        file = Path(self.metrics_file_path)
        names = sorted({*self.metrics_keys, *(name for row in self.metrics for name in row)})
        if names != self.metrics_keys:
            before, rows = read_rows(file) if file.exists() else ([], [])
            names = sorted({*before, *names})
            write_whole(file, partial(write_rows, names=names, rows=rows))
            self.metrics_keys = names
        with naming(file):
            _append(file, names, self.metrics)
        self.metrics = []


def _append(file: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    size = file.stat().st_size
    try:
        with file.open("a", newline="", encoding="utf-8") as lines:
            csv.DictWriter(lines, names).writerows(rows)
            lines.flush()
            os.fsync(lines.fileno())
    except OSError:
        os.truncate(file, size)
        raise


def _unless_it_failed(status: str) -> AbstractContextManager[None]:
    """A run that has failed has said why, and how to go on: that is not to be followed by more."""
    return suppress(OSError) if status == "failed" else nullcontext()
