"""Two ways to do the same, measured in turn, A B A B ..., so that a machine that changes its speed spoils both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ..machine import describe, machine

Action = Callable[[], Any]

_WARM_UP = 2


@dataclass(frozen=True)
class Comparison:
    """One row of a report: a figure of detmix beside one of something else, both in the same unit.

    Attributes:
        what: what was measured.
        value: the figure, a median if it was taken several times.
        against: what it is compared with.
        reference: that one's figure.
        unit: of both figures, such as ``ms`` or ``MiB``.
        ratio: lower quartile, median and upper quartile of value / reference, pair by pair.
        repeats: how many pairs.
    """

    what: str
    value: float
    against: str
    reference: float
    unit: str
    ratio: tuple[float, float, float]
    repeats: int


class TooLittle(ValueError):
    """A setting that leaves nothing to measure."""


@dataclass
class BenchmarkReport:
    """What a part of the benchmark prints, and writes as JSON.

    Attributes:
        title: what was measured, and on what.
        rows: the comparisons.
        notes: lines below the table.
    """

    title: str
    rows: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> Table:
        """The rows for a terminal, the notes and the machine below them."""
        caption = "\n".join([*self.notes, describe(machine())])
        table = Table(title=self.title, caption=caption, caption_justify="left")
        for heading in ("measured", "", "against", "", "ratio", "quartiles", "pairs"):
            table.add_column(heading, justify="left" if heading in ("measured", "against") else "right")
        for row in self.rows:
            low, middle, high = row.ratio
            value, reference = _shown(row)
            quartiles = f"{low:.3g} to {high:.3g}" if row.repeats > 1 else ""
            table.add_row(row.what, value, row.against, reference, f"{middle:.3g}", quartiles, str(row.repeats))
        return table


def _shown(row: Comparison) -> tuple[str, str]:
    """Both figures with their unit, which is µs where milliseconds are too long for one of them."""
    short = row.unit == "ms" and min(row.value, row.reference) < 1
    factor, unit = (1000, "µs") if short else (1, row.unit)
    return f"{factor * row.value:.4g} {unit}", f"{factor * row.reference:.4g} {unit}"


def compare(
    what: str, action: Action, against: str, reference: Action, *, repeats: int, wait: Action = lambda: None
) -> Comparison:
    """Time two actions in turn.

    Args:
        what: name of the action.
        action: what is measured.
        against: name of what it is compared with.
        reference: that.
        repeats: timed pairs, after two that do not count.
        wait: called before either clock is read; ``torch.cuda.synchronize`` for work on a GPU.
    """
    seconds = time_in_turn({what: action, against: reference}, repeats, wait)
    return comparison(what, seconds[what] * 1000, against, seconds[against] * 1000, unit="ms")


def comparison(
    what: str, values: NDArray[Any] | float, against: str, references: NDArray[Any] | float, *, unit: str
) -> Comparison:
    """The row for figures that were taken in pairs.

    Args:
        what: what was measured.
        values: (R,) its figures, or one.
        against: what it is compared with.
        references: (R,) the figures of that, or one.
        unit: of both.
    """
    values, references = np.atleast_1d(values), np.atleast_1d(references)
    low, middle, high = np.percentile(values / references, [25, 50, 75]).tolist()
    medians = float(np.median(values)), float(np.median(references))
    return Comparison(what, medians[0], against, medians[1], unit, (low, middle, high), len(values))


def time_in_turn(
    actions: Mapping[str, Action], repeats: int, wait: Action = lambda: None, *, warm_up: int = _WARM_UP
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each run of several actions, (repeats,) float64 by name: one run of each, then the next of each.

    The garbage collector runs between the pairs, not inside them. The first ``warm_up`` runs of each do not count.
    """
    seconds = np.empty((repeats + warm_up, len(actions)))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for row in seconds:
            for column, action in enumerate(actions.values()):
                row[column] = _seconds(action, wait)
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()
    return {name: seconds[warm_up:, column] for column, name in enumerate(actions)}


def _seconds(action: Action, wait: Action) -> float:
    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start
