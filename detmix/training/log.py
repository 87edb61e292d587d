"""The rows that a training logs: a file of them is whole at any moment, and on the disk when it is said to be saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ..files import write_whole
from .files import read_rows, write_rows


class RowLogger(CSVLogger):
    """Lightning's ``CSVLogger``, whose rows survive SIGKILL and a power cut at any moment once they are saved.

    Lightning writes the file anew when a name is logged for the first time, and a kill in the middle of that would lose
    the rows before. Here the new file takes the place of the old one when it is whole.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the rows."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        return self._experiment


class _Rows(ExperimentWriter):
    def save(self) -> None:
        """Write what is new, and wait until the disk has the rows."""
        file = Path(self.metrics_file_path)
        if self.metrics:
            file.touch()  # Lightning leaves the header of a file that is there to us: UTF-8, whatever the locale
        super().save()
        if file.exists():
            with file.open("rb") as rows:
                os.fsync(rows.fileno())

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        file = Path(self.metrics_file_path)
        rows = read_rows(file)[1]
        write_whole(file, lambda path: write_rows(path, fieldnames, rows))
