"""Plot of a sweep: every run as a point, and each arm's difference to the baseline with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plots import small_plots
from .style import INK, PALETTE


def sweep_figure(
    measure: str,
    baseline: str,
    values: Mapping[str, Sequence[float]],
    differences: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float]],
) -> Figure:
    """Two plots side by side with a row for each arm.

    Args:
        measure: name of what was measured.
        baseline: name of the arm that the others are compared with.
        values: of each arm, by name, one for each seed, in percent; maybe none.
        differences: of each arm that is compared, its differences to the baseline, one for each seed, in points.
        intervals: of the means of those, where there is one.
    """
    figure, (left, right) = small_plots(2, 2, (4.6, 1.3 + 0.42 * len(values)))
    places = {name: place for place, name in enumerate(values)}
    for axis, of_axis in ((left, values), (right, differences)):
        for name, points in of_axis.items():
            _draw_row(axis, places[name], points)
        axis.set_yticks(list(places.values()), list(places) if axis is left else [""] * len(places), parse_math=False)
        axis.set_ylim(len(places) - 0.5, -0.5)
    for name, ends in intervals.items():
        right.plot(ends, [places[name]] * 2, color=INK, linewidth=1.5)
    right.axvline(0, color="0.35", linestyle="--", linewidth=1.2)
    left.set_xlabel(f"{measure} in percent\n(point: a seed, bar: mean)", parse_math=False)
    right.set_xlabel(f"points of {measure} more than\n{baseline}\n(line: 95 % interval)", parse_math=False)
    return figure


def _draw_row(axis: Axes, place: int, points: Sequence[float]) -> None:
    """The points of an arm, a little apart, and their mean."""
    if points:
        offsets = np.linspace(-0.14, 0.14, len(points)) if len(points) > 1 else np.zeros(1)
        axis.plot(points, place + offsets, "o", color=PALETTE[4], markersize=5, alpha=0.75)
        axis.plot(np.mean(points), place, "|", color=INK, markersize=20, markeredgewidth=2.5)
