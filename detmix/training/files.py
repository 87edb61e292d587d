"""The folder of a run: where it is, and what earlier runs left there."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path


def set_aside(run_dir: Path) -> Path | None:
    """Rename the folder of an earlier run to the first free ``<name>-1``, ``<name>-2`` ...

    Args:
        run_dir: where the next run is to write.

    Returns:
        The new name; None where there was no such folder, or an empty one.
    """
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return None
    names = (run_dir.with_name(f"{run_dir.name}-{number}") for number in itertools.count(1))
    free = next(name for name in names if not name.exists())
    return run_dir.rename(free)


def read_history(run_dir: Path) -> list[dict[str, str]]:
    """The logged rows of a run, in order, those from before an interruption included.

    Args:
        run_dir: the run's folder; the rows are in ``csv/version_*/metrics.csv``.

    Returns:
        One dict for each row; a quantity that was not logged in it is an empty string. Steps that were done
        again after an interruption are there once, as they were done last.
    """
    versions = sorted((run_dir / "csv").glob("version_*"), key=lambda folder: int(folder.name.split("_")[1]))
    rows: list[dict[str, str]] = []
    for folder in versions:
        file = folder / "metrics.csv"
        if file.exists():
            with file.open(newline="") as lines:
                continued = list(csv.DictReader(lines))
            start = min((int(row["step"]) for row in continued), default=math.inf)
            rows = [row for row in rows if int(row["step"]) < start] + continued
    return rows
