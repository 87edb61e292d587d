"""Plots of what mixing does: detection rate against visibility, and entanglement by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis import DetectionRates, Entanglement
from .plots import legend, line_style, small_plots
from .style import INK, PALETTE

_MARKERS = "os^Dv*"


def visibility_figure(results: Mapping[str, DetectionRates], title: str | None = None) -> Figure:
    """Detection rate over all classes against visibility, a line for each model.

    Args:
        results: by the name of the model, at least one; of one IoU threshold and one score threshold.
        title: written above.

    Raises:
        ValueError: there are no results, or they were measured at different thresholds.
    """
    if not results:
        raise ValueError("a plot needs results of at least one model, got none")
    thresholds = {(result.iou_threshold, result.score_threshold) for result in results.values()}
    if len(thresholds) != 1:
        raise ValueError(f"results of one IoU and one score threshold can share a plot, got {sorted(thresholds)}")
    ((iou, score),) = thresholds
    figure, axis = _plot((4.6, 4.2), title)
    for number, (name, result) in enumerate(results.items()):
        order = np.argsort(result.visibilities)
        axis.plot(result.visibilities[order], result.rates[order], label=name, **_line(number))
    axis.set(xlim=(0, 1.02), ylim=(0, 1.04))
    axis.set_xlabel("visibility (share of the object's image in the blend)")
    axis.set_ylabel(f"detection rate\n(recall at IoU {iou:g}, score {score:g} or more)")
    _legend(axis, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def entanglement_figure(result: Entanglement) -> Figure:
    """Soft nearest neighbour loss of each layer, from the first to the last, with a small point for each class.

    Up to six classes have a mark of their own each, and a line where they would be if all objects were equally far
    apart; beyond, all classes have the same mark.

    Args:
        result: of one layer or more.
    """
    places = np.arange(len(result.layers))
    figure, axis = _plot((7.2, 1.6 + 0.42 * len(places)))
    axis.plot(result.losses, places, "|", color=INK, markersize=22, markeredgewidth=3, label="all objects", zorder=3)
    measured = np.flatnonzero(~np.isnan(result.losses_by_class).all(0))
    apart = len(measured) <= len(PALETTE)
    for number, row in enumerate(measured):
        style: dict[str, Any] = {
            "marker": _MARKERS[number] if apart else ".",
            "color": _color(number) if apart else "0.5",
        }
        label = result.class_names[row] if apart else "one class each" if number == 0 else None
        axis.plot(result.losses_by_class[:, row], places, linestyle="none", markersize=6, label=label, **style)
    axis.axvline(result.uninformed, color="0.35", linestyle="--", label="all objects equally far apart")
    for number, row in enumerate(measured if apart else ()):
        label = None if number else "the same, by class"
        axis.axvline(result.uninformed_by_class[row], color=_color(number), linestyle=":", linewidth=1.2, label=label)
    axis.set_yticks(places, result.layers, parse_math=False)
    axis.set_ylim(len(places) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel("soft nearest neighbour loss (nats; low: classes well apart)")
    axis.set_ylabel("layer")
    _legend(axis, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _plot(size: tuple[float, float], title: str | None = None) -> tuple[Figure, Axes]:
    """A figure of one plot, its size in inches."""
    figure, (axis,) = small_plots(1, 1, size)
    if title:
        figure.suptitle(title, parse_math=False)
    return figure, axis


def _line(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of a line: the first 6 differ in all, the first 36 in two of the three."""
    return {**line_style(number), "marker": _MARKERS[number % len(PALETTE)], "markersize": 4.5}


def _color(number: int) -> str:
    return PALETTE[4 - number]  # blue first


def _legend(axis: Axes, **options: Any) -> None:
    for handle in legend(axis, **options).legend_handles:
        if handle is not None:
            handle.set(markersize=7)
