"""The ranked detections of a class, and its average precision when images count several times or not at all.

Letters beside those of ``records.py``: B resamples, H detections that are right, best first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .curves import Curve


@dataclass(frozen=True, eq=False)
class Ranking:
    """Detections of one class over all images, best first, and what became of them at each IoU threshold.

    Attributes:
        images: (D,) int64, 0 ... I-1.
        scores: (D,) float64, never rising.
        right: (T, D) bool, found an object that counts.
        counted: (T, D) bool, is right or wrong; the others lie on objects that do not count.
        objects: (I,) int64, objects that count in each image.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int64]

    def curve(self) -> Curve:
        """Precision against recall at the first threshold, a point for each detection that counts."""
        counted = self.counted[0]
        found = self.right[0, counted].cumsum()
        recall = found / max(1, self.objects.sum())
        return Curve(recall, found / np.arange(1, len(found) + 1), self.scores[counted])

    def averages(
        self, weights: NDArray[np.float64], recalls: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Average precision and recall if each image were there as often as its weight says.

        Nothing is matched anew: a detection and an object count as often as their image. At each recall the precision
        is the best there or beyond it.

        Args:
            weights: (B, I), how often each image is there.
            recalls: (R,) rising, over which precision is averaged; without them the area below it is taken.

        Returns:
            (B, T) average precision and (B, T) recall of all detections, NaN where there are no objects.
        """
        precision, recall = (np.full((len(weights), len(self.right)), np.nan) for _ in range(2))
        wanted = weights @ self.objects
        some = np.flatnonzero(wanted)
        if len(some):
            weights, wanted = weights[some], wanted[some, None]
            share = weights[:, self.images]  # (B, D)
            common = self.counted.all(axis=0)
            base, place = _running(share[:, common]), common.cumsum()
            for t, (right, counted) in enumerate(zip(self.right, self.counted, strict=True)):
                hits, others = np.flatnonzero(right), np.flatnonzero(counted & ~common)
                found = _running(share[:, hits])
                rank = base[:, place[hits]] + _running(share[:, others])[:, np.searchsorted(others, hits, "right")]
                best = found[:, 1:] / np.maximum(rank, 1)
                best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
                reached = found / wanted
                recall[some, t] = reached[:, -1]
                precision[some, t] = (_steps(reached, recalls) * best).sum(axis=1)
        return precision, recall


def _running(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the columns before each, and of all, (B, D + 1)."""
    sums = np.zeros((len(shares), shares.shape[1] + 1))
    shares.cumsum(axis=1, out=sums[:, 1:])
    return sums


def _steps(reached: NDArray[np.float64], recalls: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The share of the average that each right detection stands for, (B, H)."""
    if recalls is None:
        return np.diff(reached, axis=1)
    passed = np.searchsorted(recalls, reached, "right")
    passed[:, 0] = 0  # recall 0 is reached with the first that is right
    return np.diff(passed, axis=1) / len(recalls)
