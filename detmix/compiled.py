"""The blend of uint8 images, compiled by Numba when this module is imported, which takes about a second.

Images are (Z, Y, X) here: colours of H rows of W pixels or, where pixels lie colour by colour in memory, one sheet of H
rows of W * C bytes. Any strides will do; long rows whose bytes follow each other are fast.

``lam * A + (1 - lam) * B`` is ``B + lam * (A - B)``, and what is added needs no floats: the difference is a byte and a
sign, and ``lam``, in steps of 2**-24, three bytes. So all products and sums fit in 16 bits, of which a processor takes
twice as many at once as of floats, and the rounding is exact; a half goes towards A where both are, and up where one
is alone.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit, types
from numpy import uint8 as u8
from numpy import uint16 as u16

_CANVAS, _CANVAS_ROW = (types.Array(types.uint8, dimensions, "A") for dimensions in (3, 1))
_IMAGE, _IMAGE_ROW = (types.Array(types.uint8, dimensions, "A", readonly=True) for dimensions in (3, 1))
_SHARE = types.UniTuple(types.uint16, 3)

_Share: TypeAlias = tuple[u16, u16, u16]  # a number in [0, 1] in steps of 2**-24: its digits to the base 256


@njit(inline="always")
def _share(value: float) -> _Share:
    steps = int(np.rint(value * (1 << 24)))
    return u16(steps >> 16), u16((steps >> 8) & 255), u16(steps & 255)  # the first is 256 for 1


@njit(inline="always")
def _part(value: u16, share: _Share) -> u16:
    """A share of a number below 256, rounded to nearest, as digits are multiplied by hand."""
    high, middle, low = share
    carried = u16(u16(value * middle) + u16(u16(value * low) >> u16(8))) >> u16(8)
    return u16(u16(u16(value * high) + carried + u16(128)) >> u16(8))


@njit(inline="always")
def _row(image: np.ndarray, z: int, y: int) -> np.ndarray:
    """Row y; an empty one below the image."""
    return image[z, y] if y < image.shape[1] else image[z, 0, :0]


# The loops are functions of their own: written out one after the other LLVM makes them slower, and takes longer for it.
@njit(types.void(_CANVAS_ROW, _IMAGE_ROW, _IMAGE_ROW, _SHARE), nogil=True)
def _weigh(out: np.ndarray, a: np.ndarray, b: np.ndarray, share_a: _Share) -> None:
    for x in range(out.size):
        level_a, level_b = u16(a[x]), u16(b[x])
        part = _part(u16(max(level_a, level_b) - min(level_a, level_b)), share_a)
        out[x] = u8(u16(level_b + part) if level_a > level_b else u16(level_b - part))


@njit(types.void(_CANVAS_ROW, _IMAGE_ROW, _SHARE), nogil=True)
def _fade(out: np.ndarray, image: np.ndarray, share: _Share) -> None:
    for x in range(out.size):
        out[x] = u8(_part(u16(image[x]), share))


@njit(types.void(_CANVAS, _IMAGE, _IMAGE, types.float64), nogil=True)
def blend_rows(canvas: np.ndarray, image_a: np.ndarray, image_b: np.ndarray, lam: float) -> None:
    """Write ``lam * A + (1 - lam) * B``, rounded to nearest, each byte of the canvas once.

    Args:
        canvas: (Z, max of Y, max of X) uint8, written to.
        image_a: (Z, Ya, Xa) uint8, at the top left of the canvas; where it does not reach it counts as zero.
        image_b: (Z, Yb, Xb) uint8, likewise.
        lam: weight of A, in [0, 1]; taken in steps of 2**-24.
    """
    share_a, share_b = _share(lam), _share(1.0 - lam)
    for z in range(canvas.shape[0]):
        for y in range(canvas.shape[1]):
            row, a, b = canvas[z, y], _row(image_a, z, y), _row(image_b, z, y)
            both = min(a.size, b.size)
            _weigh(row[:both], a[:both], b[:both], share_a)
            longer, share = (a, share_a) if a.size > b.size else (b, share_b)
            _fade(row[both : longer.size], longer[both:], share)
            row[longer.size :] = 0
