"""Plots of an evaluation: average precision by class, confusion of classes, two sets of predictions compared.

Letter: K classes without background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..captions import one_line
from ..evaluation import NO_OBJECTS, Difference, Mistakes
from .plots import Plot, best_and_worst, legend, small_plots, title_of_some
from .style import INK, PALETTE

_MOST_ROWS = 60  # of a table of bars
_MOST_CLASSES = 20  # of a confusion matrix that can be read
_OTHERS = "other classes"
_BLUE = PALETTE[4]


def average_precision_figure(by_class: Mapping[str, Mapping[str, float]], title: str | None = None) -> Figure:
    """Average precision of each class, the best on top, with its number.

    Args:
        by_class: for each class its ``objects``, ``AP`` and, by COCO's rules, ``AP50``; classes without objects are
            left out, and there may be none. Of more than 60 the 30 best and the 30 worst are shown, which the title
            says.
        title: written above.
    """
    counted = {name: row for name, row in by_class.items() if row["AP"] != NO_OBJECTS}
    ranked = sorted(counted, key=lambda name: -counted[name]["AP"])
    if len(ranked) > _MOST_ROWS:
        title, ranked = title_of_some(title, _MOST_ROWS, len(ranked)), best_and_worst(ranked, _MOST_ROWS)
    figure, axis = _rows([f"{name} ({counted[name]['objects']})" for name in ranked], title)
    places, aps = range(len(ranked)), [counted[name]["AP"] for name in ranked]
    axis.barh(places, aps, height=0.6, color=_BLUE, label="AP", zorder=2)
    if any("AP50" in row for row in counted.values()):
        ap50s = [counted[name]["AP50"] for name in ranked]
        axis.plot(ap50s, places, "|", color=INK, markersize=10, markeredgewidth=2, label="AP50", zorder=3)
        legend(axis, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, reverse=True)
    for place, ap in enumerate(aps):
        axis.annotate(f"{ap:.2f}", (1.02, place), va="center", fontsize="small", annotation_clip=False)
    axis.set(xlim=(0, 1), xlabel="average precision", ylabel="class (objects)")
    return figure


def confusion_figure(mistakes: Mistakes, title: str | None = None) -> Figure:
    """What objects of each class were taken for: a row each, shaded by the share of the class's objects, with counts.

    Beyond 20 classes those are shown that are confused most often, and the others as if they were one.

    Args:
        mistakes: what was found, confused, missed and false.
        title: written above.
    """
    names, counts = _readable(mistakes)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    shares[-1] = 0  # false detections are shares of nothing
    figure = Plot(figsize=(2.6 + 0.55 * len(counts), 1.9 + 0.42 * len(counts)), layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(counts).tolist():
        color = "white" if shares[row, column] > 0.68 else INK  # either has a contrast of 4 or more
        axis.annotate(str(counts[row, column]), (column, row), ha="center", va="center", color=color, fontsize="small")
    last = len(counts) - 1.5
    axis.axhline(last, color=INK, linewidth=1)
    axis.axvline(last, color=INK, linewidth=1)
    axis.set_xticks(range(len(counts)), [*names, "missed"], rotation=45, ha="right", parse_math=False)
    axis.set_yticks(range(len(counts)), [*names, "false detections"], parse_math=False)
    axis.set_xlabel(f"taken for (score {mistakes.min_score:g} or more, IoU {mistakes.iou:g} or more)")
    axis.set_ylabel("objects of")
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


def comparison_figure(differences: Mapping[str, Difference], names: Sequence[str], title: str | None = None) -> Figure:
    """The difference of two sets of predictions in each measure, with its interval.

    Full points are clear differences; the interval of an open one holds 0.

    Args:
        differences: second - first, of each measure; may be empty.
        names: of the two.
        title: written above.
    """
    figure, axis = _rows(list(differences), title)
    axis.axvline(0, color=INK, linewidth=1)
    for clear, label in ((True, "clear"), (False, "may be chance")):
        shown = [(place, of) for place, of in enumerate(differences.values()) if of.clear is clear]
        for place, of in shown:
            axis.plot([of.low, of.high], [place, place], color=_BLUE, linewidth=2)
        if shown:
            places, face = [place for place, _ in shown], _BLUE if clear else "white"
            style: dict[str, Any] = {"color": _BLUE, "markerfacecolor": face, "markersize": 7, "markeredgewidth": 2}
            axis.plot([of.value for _, of in shown], places, "o", label=label, **style)
    axis.set_ylabel("measure")
    axis.set_xlabel(f"difference, B - A\nA: {names[0]}\nB: {names[1]}", parse_math=False)
    if differences:
        legend(axis, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure


def _rows(labels: Sequence[str], title: str | None) -> tuple[Figure, Axes]:
    """A plot with a row for each label, the first on top."""
    figure, (axis,) = small_plots(1, 1, (6.4, 1.7 + 0.26 * max(1, len(labels))))
    axis.set_yticks(range(len(labels)), list(map(one_line, labels)), parse_math=False)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    if title:
        figure.suptitle(title, parse_math=False)
    return figure, axis


def _readable(mistakes: Mistakes) -> tuple[list[str], NDArray[np.int64]]:
    """Names and counts of at most 20 classes with objects or detections; the last then stands for those left out."""
    occurring, counts = mistakes.occurring()
    names = list(map(one_line, occurring))
    if len(names) <= _MOST_CLASSES:
        return names, counts
    between = mistakes.confused
    ranked = np.argsort(-(between.sum(axis=0) + between.sum(axis=1))[mistakes.occurs], kind="stable")
    kept = np.sort(ranked[: _MOST_CLASSES - 1])
    group = np.full(len(counts), len(kept))  # which row and column of the result each one is added to
    group[kept], group[-1] = np.arange(len(kept)), len(kept) + 1
    merged = np.zeros((len(kept) + 2, len(kept) + 2), dtype=np.int64)
    np.add.at(merged, (group[:, None], group[None, :]), counts)
    return [*(names[k] for k in kept), f"{len(names) - len(kept)} {_OTHERS}"], merged
