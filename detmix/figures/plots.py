"""Plots in small multiples. Made with matplotlib's objects, never with pyplot. Letter: P points of a line."""

from __future__ import annotations

import io
import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

from ..captions import one_line
from ..evaluation.curves import NO_OBJECTS, Curve
from .style import PALETTE

_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_MARKED = 30  # points of a line; those of a longer one would run together
_STRETCHES = 500  # of a line, about one for each pixel that a small plot is wide
_LINE = 0.2  # inches of a line of a legend
_SMALL = (3.9, 2.8)  # inches: lettering is read on a phone as well
_SHORT = 20  # characters of a name, two of which fit beside each other
_MOST_CURVES = 40
_AXES = ("step", "epoch")
_BY_CLASS = " by class"
_AVERAGE = re.compile(r"(?:.*?/)?(A[PR])(?:\d*|[sml])(?:_\w+)?(/.+)?")  # val/AP50, val/voc/AP50_11point, val/AP/<class>


def precision_recall_figure(curves: Mapping[str, Curve], title: str | None = None) -> Figure:
    """Precision against recall by class: in one plot up to six classes, in a small plot each beyond.

    Of more than 40 classes those 20 are shown that have the largest area below their curve, and those 20 that have the
    least, which the title says. Drawn is the best precision at a recall or any higher one, as COCO and VOC average it,
    up to the last recall that was reached, which has a point.

    Args:
        curves: by class name, as the evaluators return them; may be empty.
        title: written above.
    """
    if len(curves) > _MOST_CURVES:
        ranked = sorted(curves, key=lambda name: -_area(curves[name]))
        curves = {name: curves[name] for name in best_and_worst(ranked, _MOST_CURVES)}
        title = title_of_some(title, _MOST_CURVES, len(ranked))
    together = len(curves) <= len(PALETTE)
    columns = 1 if together else min(5, math.ceil(math.sqrt(len(curves))))
    figure, axes = small_plots(1 if together else len(curves), columns, (4.6, 4.2) if together else (2.2, 2.2))
    for n, (name, curve) in enumerate(curves.items()):
        axis = axes[0 if together else n]
        end: dict[str, Any] = {"drawstyle": "steps-pre", "marker": "o", "markersize": 4, "markevery": [-1]}
        axis.plot(*_steps(curve), label=name, **end, **line_style(n if together else 0))
        if not together:
            axis.set_title(one_line(name), fontsize="medium", parse_math=False)
            axis.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axis in axes:
        axis.set(xlim=(0, 1.02), ylim=(0, 1.04))
    if together and curves:
        columns = 2 if max(map(len, curves)) <= _SHORT else 1
        legend(axes[0], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    figure.supxlabel("recall (share of the objects found)", fontsize="medium")
    figure.supylabel("precision (share of the detections right), interpolated", fontsize="medium")
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


def _steps(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision from recall 0 on, never rising, without COCO's zeros beyond the last recall."""
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    reached = best > 0
    return np.append([0.0][: reached.sum()], curve.recall[reached]), np.append(best[:1][: reached.sum()], best[reached])


def history_series(rows: Iterable[Mapping[str, Any]]) -> tuple[str, dict[str, np.ndarray]]:
    """Sort logged rows, as Lightning's CSV logger writes them, into one series for each quantity.

    Args:
        rows: dicts with ``step`` or ``epoch`` and any quantities; a value that is missing, empty, not
            finite, or -1 for an AP or AR (COCO's "no such objects") is left out.

    Returns:
        What the x axis counts ("step", "epoch" or "row"), and by name (P, 2) float64: x and value. Only
        quantities that have a value are there, in the order in which they first come.
    """
    rows = list(rows)
    axis = next((k for k in _AXES if any(_number(row.get(k)) is not None for row in rows)), "row")
    points: dict[str, array[float]] = {}
    for n, row in enumerate(rows):
        x = float(n) if axis == "row" else _number(row.get(axis))
        for key, value in row.items():
            y = _number(value)
            unmeasured = y == NO_OBJECTS and _AVERAGE.fullmatch(key)
            if key not in _AXES and x is not None and y is not None and not unmeasured:
                points.setdefault(key, array("d")).extend((x, y))
    return axis, {key: np.array(series).reshape(-1, 2) for key, series in points.items()}


def history_figures(axis: str, series: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Training curves by title: a plot for each loss term, average precision, and whatever else was logged.

    ``train/loss`` and ``val/loss`` share a plot, as do AP, AP50, AP75 and the other averages. Those of single
    classes, ``val/AP/<class>``, are drawn up to six classes, and left out beyond. Of a line of more than 1,000 points
    those are drawn that show at this size: the ends, and the lowest and highest of each of 500 stretches.

    Args:
        axis: what x counts, as ``history_series`` gives it.
        series: by name (P, 2), as there; without any there are no plots.
    """
    figures = {}
    for title, keys in _grouped(series).items():
        columns = 2 if len(keys) > 2 and max(map(len, keys)) <= _SHORT else 1
        width, height = _SMALL
        figure, (plot,) = small_plots(1, 1, (width, height + _LINE * math.ceil(len(keys) / columns)))
        for n, key in enumerate(keys):
            marker = MARKERS[n % len(MARKERS)] if len(series[key]) <= _MARKED else None
            plot.plot(*_outline(series[key]).T, label=key, marker=marker, markersize=5, **line_style(n))
        plot.set_title(title, fontsize="medium", parse_math=False)
        plot.set_xlabel(axis)
        plot.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        legend(figure, loc="outside lower center", ncols=columns)
        figures[title] = figure
    return figures


def _outline(points: np.ndarray) -> np.ndarray:
    """The points of a line that show: its ends, and the lowest and highest of each stretch."""
    if len(points) <= 2 * _STRETCHES:
        return points
    stretches = np.array_split(np.arange(len(points)), _STRETCHES)
    extremes = {s[pick(points[s, 1])] for s in stretches for pick in (np.argmin, np.argmax)}
    return points[sorted({0, len(points) - 1, *extremes})]


def _area(curve: Curve) -> float:
    return float(np.diff(curve.recall, prepend=0.0) @ curve.precision)


def best_and_worst(ranked: Sequence[str], most: int) -> list[str]:
    """As many from the beginning as from the end of a ranking, ``most`` in all, of one that is longer."""
    return [*ranked[: most // 2], *ranked[-(most // 2) :]]


def title_of_some(title: str | None, shown: int, classes: int) -> str:
    """A title that says that the best and the worst classes are shown, and how many there are."""
    told = f"the {shown // 2} best and the {shown // 2} worst of {classes} classes"
    return f"{title}\n{told}" if title else told


class Plot(Figure):
    """A figure that a notebook shows as the value of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


def small_plots(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` plots of a size in inches, row by row."""
    rows = math.ceil(count / columns)
    figure = Plot(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, n + 1) for n in range(count)]
    for axis in axes:
        axis.grid(color="0.88", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of a line, blue first: the first 6 differ in both, the first 36 in one of them."""
    turn, place = divmod(number, len(PALETTE))
    return {"color": PALETTE[4 - place], "linestyle": _DASHES[(place + turn) % len(_DASHES)], "linewidth": 1.8}


def legend(axis: Axes | Figure, **options: Any) -> Legend:
    """A legend in which class names are shown as they are, dollar signs and all."""
    drawn = axis.legend(fontsize="small", framealpha=0.8, edgecolor="none", handlelength=3, **options)
    for text in drawn.get_texts():
        text.set_parse_math(False)
        text.set_text(one_line(text.get_text()))
    return drawn


def _grouped(keys: Iterable[str]) -> dict[str, list[str]]:
    """The quantities of each plot by its title: losses first, otherwise in the order they come."""
    panels: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda k: "loss" not in k):
        panels.setdefault(_panel(key), []).append(key)
    legible = {k: v for k, v in panels.items() if len(v) <= len(PALETTE) or not k.endswith(_BY_CLASS)}
    return legible or panels


def _panel(key: str) -> str:
    average = _AVERAGE.fullmatch(key)
    name = key.partition("/")[2] or key  # without train/ or val/
    if average is None:
        return name
    kind, of_class = average.groups()
    if of_class:
        return name.removesuffix(of_class) + _BY_CLASS
    return "average precision" if kind == "AP" else "average recall"


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
