"""The blend of uint8 images, compiled by Numba when this module is imported, which takes most of a second.

Images are (Z, Y, X) here: colours of H rows of W pixels or, where pixels lie colour by colour in memory, one sheet of H
rows of W * C bytes. Any strides will do; long rows whose bytes follow each other are fast.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

_CANVAS = types.Array(types.uint8, 3, "A")
_IMAGE = types.Array(types.uint8, 3, "A", readonly=True)


@njit(inline="always")
def _row(image: np.ndarray, z: int, y: int) -> np.ndarray:
    """Row y; an empty one below the image."""
    return image[z, y] if y < image.shape[1] else image[z, 0, :0]


@njit(inline="always")
def _weigh(out: np.ndarray, a: np.ndarray, b: np.ndarray, share_a: np.float32, share_b: np.float32) -> None:
    for x in range(out.size):
        value = np.float32(a[x]) * share_a + np.float32(b[x]) * share_b
        out[x] = np.uint8(np.int32(np.rint(value)))


@njit(types.void(_CANVAS, _IMAGE, _IMAGE, types.float32, types.float32), fastmath={"contract"}, nogil=True)
def blend_rows(
    canvas: np.ndarray, image_a: np.ndarray, image_b: np.ndarray, share_a: np.float32, share_b: np.float32
) -> None:
    """Write ``share_a * A + share_b * B``, rounded to nearest, each byte of the canvas once.

    Args:
        canvas: (Z, max of Y, max of X) uint8, written to.
        image_a: (Z, Ya, Xa) uint8, at the top left of the canvas; where it does not reach it counts as zero.
        image_b: (Z, Yb, Xb) uint8, likewise.
        share_a: weight of A, 0 or more; the sum of both is at most 1.
        share_b: weight of B.
    """
    for z in range(canvas.shape[0]):
        for y in range(canvas.shape[1]):
            row, a, b = canvas[z, y], _row(image_a, z, y), _row(image_b, z, y)
            both = min(a.size, b.size)
            _weigh(row[:both], a[:both], b[:both], share_a, share_b)
            _weigh(row[both : a.size], a[both:], a[both:], share_a, np.float32(0))
            _weigh(row[both : b.size], b[both:], b[both:], share_b, np.float32(0))
            row[max(a.size, b.size) :] = 0
