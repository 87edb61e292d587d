"""The picture of the three objectives: the class loss of one proposal against the weight of its object."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..detectors.matching import Matched, Objects
from ..detectors.rows import Objective
from ..losses import classification_rows
from .plots import legend, line_style, small_plots

_PREDICTED = {"background": 0.2, "cat": 0.5, "dog": 0.3}
_OBJECTIVES: tuple[Objective, ...] = ("weighted", "pair", "unweighted")


def objective_losses(weight: float, objective: Objective, *, overlap: bool) -> float:
    """Class loss of a proposal that says background 0.2, cat 0.5, dog 0.3.

    Args:
        weight: of the cat that the proposal is matched to, in [0, 1].
        objective: as for ``detmix.weight_losses``.
        overlap: whether a dog of the other image, of weight 1 - weight, lies in the same place.
    """
    count = 2 if overlap else 1
    target: dict[str, Any] = {"boxes": torch.zeros(count, 4), "labels": torch.tensor([1, 2])[:count]}
    target |= {"weights": torch.tensor([weight, 1 - weight])[:count], "sources": torch.arange(2)[:count]}
    if objective == "unweighted":
        target["weights"] = torch.ones(count)
    objects = Objects([target], objective)
    rows = Matched(objects, [torch.zeros(1, dtype=torch.int64) for _ in objects.groups]).targets()  # the first of each
    logits = torch.tensor([list(_PREDICTED.values())]).log()
    return float(classification_rows(logits, rows.labels, rows.shares, rows.background))


def objectives_figure() -> Figure:
    """Two plots: a proposal on one object, and one on overlapping objects of both images."""
    figure, axes = small_plots(2, 2, (4.4, 3.4))
    weights = np.linspace(0, 1, 51)
    titles = {False: "on a cat of weight w", True: "on a cat of weight w\nand a dog of weight 1 - w"}
    for axis, (overlap, title) in zip(axes, titles.items(), strict=True):
        for n, objective in enumerate(_OBJECTIVES):
            losses = [objective_losses(float(w), objective, overlap=overlap) for w in weights]
            axis.plot(weights, losses, label=objective, **line_style(n))
        axis.set_title(title, fontsize="medium")
        axis.set(xlabel="w, visible share of the cat", xlim=(0, 1), ylim=(0, 1.8))
    axes[0].set_ylabel("class loss of the proposal (nats)")
    legend(axes[0], loc="upper right")
    figure.suptitle("One proposal that says: background 0.2, cat 0.5, dog 0.3", fontsize="medium")
    return figure
