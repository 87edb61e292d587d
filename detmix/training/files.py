"""The folder of a run: an earlier one set aside, and the rows of its log."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..files import write_whole

_LOG = "csv/version_0/metrics.csv"
_MEND = "Mend it, or move it out of the run's folder; the plots of the report then lack its rows"


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
        run_dir: the run's folder; the rows are in ``csv/version_0/metrics.csv``.
        step: first of the steps that are done again.

    Raises:
        ValueError: the log is damaged; it is named, and as it was.
    """
    file = run_dir / _LOG
    if file.exists():
        names, rows = read_rows(file)
        kept = [row for row in rows if int(row["step"]) < step]
        write_whole(file, partial(write_rows, names=names, rows=kept))


def read_history(run_dir: Path) -> list[dict[str, str]]:
    """The logged rows of a run, in order, those from before an interruption included.

    Args:
        run_dir: the run's folder; the rows are in ``csv/version_0/metrics.csv``.

    Returns:
        One dict for each row; a quantity that was not logged in it is an empty string.

    Raises:
        ValueError: the log is damaged, or another one is beside it; it is named.
    """
    file = run_dir / _LOG
    numbered = (path for path in file.parents[1].glob("version_*") if path.name.removeprefix("version_").isdecimal())
    other = min((path for path in numbered if path != file.parent), default=None)  # as of a run before there was one
    if other is not None:
        raise ValueError(f"{other}: a part of the log, which is to be all in {file}. {_MEND}")
    return read_rows(file)[1] if file.exists() else []


def read_rows(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Names and rows of a log.

    What a kill or a power cut can leave at its end is left out: a line that was cut off, or one of zeros.

    Raises:
        ValueError: it is damaged in another place; it is named.
    """
    data = file.read_bytes()
    text = data[: data.rfind(b"\n") + 1].decode(errors="surrogateescape")
    try:
        names, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise ValueError(f"{file}: the log is damaged: {error}. {_MEND}") from error
    if rows and "step" not in names:
        raise ValueError(f"{file}: the log is damaged: its first line has no 'step'. {_MEND}")
    while rows and not _is_whole(names, rows[-1]):
        rows.pop()
    broken = next((number for number, row in enumerate(rows, start=1) if not _is_whole(names, row)), None)
    if broken is not None:
        raise ValueError(f"{file}: the log is damaged: row {broken} of {len(rows)} is no row of numbers. {_MEND}")
    return names, [dict(zip(names, row, strict=True)) for row in rows]


def write_rows(path: Path, names: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Write names and rows of a log; what a row lacks is left empty."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)


def _is_whole(names: Sequence[str], row: Sequence[str]) -> bool:
    """Whether a row has a value or an empty place for each name, and its step."""
    return len(row) == len(names) and "".join(row).isprintable() and row[names.index("step")].isdecimal()
