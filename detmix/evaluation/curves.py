"""Precision against recall, and the area below it. P: points of a curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_OBJECTS = -1.0
"""Stands where a number has no meaning, because the ground truth has no such object: COCO's mark."""

# the kit's 0:0.1:1 as MATLAB makes it, from both ends: its fourth value is 3 * 0.1, one bit above 3 / 10
_RECALLS_2007 = np.concatenate([0.1 * np.arange(6), 1 - 0.1 * np.arange(5)[::-1]])


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


def ranked_curve(right: np.ndarray, scores: np.ndarray, count: int) -> Curve:
    """The curve of detections that are ranked already.

    Args:
        right: (P,) bool, whether each detection found an object; best first.
        scores: (P,) float64, never rising.
        count: number of objects there are to find, 1 or more.
    """
    found = right.cumsum()
    return Curve(found / count, found / np.arange(1, len(right) + 1), scores)


def area_below(curve: Curve) -> float:
    """Area below the precision made monotone: at each recall the best precision there or beyond it (VOC 2010)."""
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * envelope))


def eleven_point_mean(curve: Curve) -> float:
    """Mean of the best precision at or beyond the recalls 0, 0.1 ... 1; 0 where they are not reached (VOC 2007)."""
    reached = curve.recall >= _RECALLS_2007[:, None]  # (11, P)
    return float(np.where(reached, curve.precision, 0.0).max(axis=1, initial=0.0).mean())
