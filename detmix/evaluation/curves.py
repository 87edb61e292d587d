"""Precision against recall. P: points of a curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_OBJECTS = -1.0
"""Stands where a number has no meaning, because the ground truth has no such object: COCO's mark."""

# from both ends, as MATLAB makes its 0:0.1:1: its fourth value is 3 * 0.1, one bit above 3 / 10
RECALLS_2007 = np.concatenate([0.1 * np.arange(6), 1 - 0.1 * np.arange(5)[::-1]])
"""The eleven recalls of VOC 2007."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision against recall of one class, from the highest score to the lowest.

    Attributes:
        recall: (P,) float64 in [0, 1], never falling: share of the objects that were found.
        precision: (P,) float64 in [0, 1]: share of the detections so far that are right.
        scores: (P,) float64: score of the detection that brought the curve to this point.
    """

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
