"""The folder of a run: an earlier one set aside, and the rows of its log."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
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
        One dict for each row, of the quantities that were logged in it.

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
    """Names and rows of a log; a row has the values that were logged in it.

    What a kill or a power cut can leave at its end is left out: a line that was cut off, or one of zeros.

    Raises:
        ValueError: it is damaged in another place; it is named.
    """
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
            lines = csv.reader(_ended(text), strict=True)
            names = next(lines, [])
            found = [_values(names, cells) for cells in lines]
    except csv.Error as error:
        raise ValueError(f"{file}: the log is damaged: {error}. {_MEND}") from error
    if found and "step" not in names:
        raise ValueError(f"{file}: the log is damaged: its first line has no 'step'. {_MEND}")
    while found and found[-1] is None:
        found.pop()
    rows = [row for row in found if row is not None]
    if len(rows) < len(found):
        place = f"row {found.index(None) + 1} of {len(found)}"
        raise ValueError(f"{file}: the log is damaged: {place} is no row of numbers. {_MEND}")
    return names, rows


def write_rows(path: Path, names: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Write names and rows of a log; what a row lacks is left empty."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)


def _ended(lines: Iterable[str]) -> Iterator[str]:
    """Lines up to the last line feed; a name of several lines may have other ends in it."""
    waiting = []
    for line in lines:
        waiting.append(line)
        if line.endswith("\n"):
            yield from waiting
            waiting.clear()


def _values(names: Sequence[str], cells: Sequence[str]) -> dict[str, str] | None:
    """What a row has, by name; None where it has no value or empty place for each name, or no step."""
    row = dict(itertools.compress(zip(names, cells, strict=False), cells))  # far from each cell has a value
    whole = len(cells) == len(names) and "".join(row.values()).isprintable() and row.get("step", "").isdecimal()
    return row if whole else None
