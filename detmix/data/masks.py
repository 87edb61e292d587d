"""Masks from COCO's segmentations, polygons and run lengths, drawn when a sample is asked for.

pycocotools draws the polygons. It takes what it gets, and memory without end or memory of others with it, so all is
checked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Polygon = Annotated[list[float], Meta(min_length=6)]


class _RunLengths(Struct):
    counts: list[_Count] | str
    size: tuple[_Count, _Count]


_DECODER = msgspec.json.Decoder(_RunLengths | Annotated[list[_Polygon], Meta(min_length=1)])


def decode_masks(segmentations: Sequence[tuple[str, bytes]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw objects.

    Args:
        segmentations: of N objects, what to call it in errors, and its JSON: a list of polygons, ``[x1, y1, x2, y2,
            x3, y3 ...]`` in pixels; or run lengths, as a list of counts or compressed as by COCO's tools.
        size: (H, W) of the image.

    Returns:
        (N, H, W) uint8, 1 where an object is.

    Raises:
        ValueError: a segmentation is of another form or size, or a polygon leaves the image by more than the size of
            the image; the object is named.
    """
    masks = np.zeros((len(segmentations), *size), np.uint8)
    for mask, (name, text) in zip(masks, segmentations, strict=True):
        try:
            found = _DECODER.decode(text)
            mask[:] = _draw_runs(found, size) if isinstance(found, _RunLengths) else _draw_polygons(found, size)
        except ValueError as error:  # msgspec's are, too
            raise ValueError(f"{name}: not a segmentation: {error}") from None
    return masks


def _draw_polygons(polygons: list[list[float]], size: tuple[int, int]) -> NDArray[Any]:
    limit = np.array(size[::-1])
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError(f"a polygon must have pairs of numbers, got {len(polygon)} numbers")
        points = np.array(polygon).reshape(-1, 2)
        for point in points[((points < -limit) | (points > 2 * limit)).any(1)][:1].tolist():
            raise ValueError(f"the point {point} lies far outside the image of {size[1]}x{size[0]} pixels")
    union = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    return _expand(_uncompressed(union["counts"]), size)


def _draw_runs(found: _RunLengths, size: tuple[int, int]) -> NDArray[Any]:
    if found.size != size:
        raise ValueError(f"its size is {list(found.size)}, the image's {list(size)}")
    counts = _uncompressed(found.counts.encode()) if isinstance(found.counts, str) else found.counts
    return _expand(counts, size)


def _expand(counts: list[int], size: tuple[int, int]) -> NDArray[Any]:
    height, width = size
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"the run lengths must add up to {height * width} pixels, got {sum(counts)}")
    return np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T


def _uncompressed(text: bytes) -> list[int]:
    """The run lengths of a string of COCO's: five bits a character, from the third on as differences to the last but one.

    Format: ``rleFrString`` of https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c
    """
    counts: list[int] = []
    value = shift = 0
    for byte in text:
        digit = byte - 48
        if shift > 30:
            raise ValueError("a run length has more than 31 bits")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (1 << shift) if digit & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
