"""What became of every single object and detection, by the rules of ``mistakes``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .mistakes import match
from .reading import PredictionSource, TruthSource, read_ground_truth, read_predictions

Fate = Literal["found", "confused", "missed", "false", "ignored"]


@dataclass(frozen=True)
class Fates:
    """What became of each object and detection, in the order in which they were given.

    Attributes:
        objects: found, confused (taken for another class), missed, or ignored: difficult objects and crowd regions.
        detections: found (right), confused, false, or ignored: below the score, or on what is ignored.
    """

    objects: tuple[Fate, ...]
    detections: tuple[Fate, ...]


def find_fates(
    ground_truth: TruthSource, predictions: PredictionSource, *, iou: float = 0.5, min_score: float = 0.5
) -> Fates:
    """Tell of each box whether it was found, confused, missed or made up; arguments as for ``find_mistakes``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the data are wrong (file, row and key are named), or iou is out of range.
    """
    truth = read_ground_truth(ground_truth)
    found = read_predictions(predictions, truth)
    kept, taken, ignored = match(truth, found, iou=iou, min_score=min_score)
    objects: list[Fate] = ["ignored" if out else "missed" for out in ignored.tolist()]
    detections: list[Fate] = ["ignored"] * len(found)
    same = truth.objects.labels[taken] == found.labels if len(objects) else np.zeros(len(found), dtype=np.bool_)
    for detection in kept.tolist():
        target = int(taken[detection])
        fate: Fate = "false" if target < 0 else "found" if same[detection] else "confused"
        detections[detection] = fate
        if target >= 0:
            objects[target] = fate
    return Fates(tuple(objects), tuple(detections))
