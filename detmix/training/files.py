"""The folder of a run: where it is, and what earlier runs left there."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..files import write_whole


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


def forget_from(run_dir: Path, step: int) -> None:
    """Drop the logged rows of a step and later ones: a run that goes on from there will log them again.

    Args:
        run_dir: the run's folder; the rows are in ``csv/version_*/metrics.csv``.
        step: first of the steps that are done again.
    """
    for file in _logs(run_dir):
        names, rows = read_rows(file)
        kept = [row for row in rows if int(row["step"]) < step]
        write_whole(file, partial(write_rows, names=names, rows=kept))


def read_history(run_dir: Path) -> list[dict[str, str]]:
    """The logged rows of a run, in order, those from before an interruption included.

    Args:
        run_dir: the run's folder; the rows are in ``csv/version_*/metrics.csv``.

    Returns:
        One dict for each row; a quantity that was not logged in it is an empty string.
    """
    return [row for file in _logs(run_dir) for row in read_rows(file)[1]]


def newest_version(folder: Path) -> int | None:
    """Number of the newest of a logger's folders ``version_0``, ``version_1`` ...; None where there are none."""
    return max((_number(path) for path in folder.glob("version_*")), default=None)


def read_rows(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Names and rows of a log; a last line that was cut off when the process was killed is left out."""
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(whole.splitlines())
    return list(reader.fieldnames or []), list(reader)


def write_rows(path: Path, names: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Write names and rows of a log; what a row lacks is left empty."""
    with path.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)


def _logs(run_dir: Path) -> list[Path]:
    folders = sorted((run_dir / "csv").glob("version_*"), key=_number)
    return [folder / "metrics.csv" for folder in folders if (folder / "metrics.csv").exists()]


def _number(folder: Path) -> int:
    return int(folder.name.split("_")[1])
