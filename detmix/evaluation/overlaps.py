"""Pairs of boxes of the same image, and how much they overlap. Letter: P pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pairs_of_images(first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a row of one list with a row of another that are of the same image.

    Args:
        first: (M,) images of the one.
        second: (N,) images of the other.

    Returns:
        (P,) rows of the first, never falling, and (P,) rows of the second, rising for each of the first.
    """
    by_image = np.argsort(second, kind="stable")
    images = second[by_image]
    start, end = (np.searchsorted(images, first, side) for side in ("left", "right"))
    count = end - start
    before = count.cumsum() - count  # pairs of the rows before
    rows = np.repeat(np.arange(len(first)), count)
    return rows, by_image[np.arange(count.sum()) + np.repeat(start - before, count)]


def box_ious(
    first: NDArray[np.float64], second: NDArray[np.float64], *, of_first: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """IoU of each box with its partner, by the VOC kit's arithmetic.

    Args:
        first: (P, 4) corners, 1-based, the last pixel included, so that a side is their difference and one.
        second: (P, 4), the same.
        of_first: (P,) bool, where the shared area is taken as a share of the first box alone, as COCO does with crowds.

    Returns:
        (P,) float64; 0 for boxes that do not touch.
    """
    shared = _areas(np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:]))
    whole = _areas(first[:, :2], first[:, 2:])
    union = whole + _areas(second[:, :2], second[:, 2:]) - shared
    if of_first is not None:
        union = np.where(of_first, whole, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _areas(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = (high - low + 1).clip(min=0)
    return sides[:, 0] * sides[:, 1]
