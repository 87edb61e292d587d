"""Pairs of boxes of the same image, and how much they overlap. Letter: P pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
_BLOCK = 1 << 18  # pairs that are looked at together; each takes some 150 bytes


def pairs_of_images(first: NDArray[np.int64], second: NDArray[np.int64]) -> _Pairs:
    """All pairs of a row of one list with a row of another that are of the same image.

    Args:
        first: (M,) images of the one.
        second: (N,) images of the other.

    Returns:
        (P,) rows of the first, never falling, and (P,) rows of the second, rising for each of the first.
    """
    (pairs,) = blocks_of_pairs(first, second, size=len(first) * len(second) + 1)
    return pairs


def blocks_of_pairs(first: NDArray[np.int64], second: NDArray[np.int64], *, size: int = _BLOCK) -> Iterator[_Pairs]:
    """The same pairs in blocks, since an image with many rows of both has more than memory holds.

    Args:
        first: as for ``pairs_of_images``.
        second: as for ``pairs_of_images``.
        size: how many pairs a block may have beside those of its last row.

    Yields:
        The pairs of some rows of the first list, all that each has.
    """
    by_image = np.argsort(second, kind="stable")
    images = second[by_image]
    start, end = (np.searchsorted(images, first, side) for side in ("left", "right"))
    count = end - start
    before = count.cumsum() - count  # pairs of the rows before
    for rows in np.split(np.arange(len(first)), np.flatnonzero(np.diff(before // size)) + 1):
        pairs = count[rows]
        places = np.arange(pairs.sum()) + np.repeat(start[rows] - (pairs.cumsum() - pairs), pairs)
        yield np.repeat(rows, pairs), by_image[places]


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
