"""Masks from COCO's segmentations, polygons and run lengths, drawn when a sample is asked for; and back.

pycocotools draws the polygons. It takes what it gets, and memory without end or memory of others with it, so all is
checked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_MOST_DIGITS = 7  # of a run length; five bits each
_LONGEST_OUTLINE = 2**22  # pixels, 78 times around the largest image that Pillow opens; each takes up to 80 bytes
_LONGEST_SIDE = 2**31 // 10 - 1  # pixels; points lie within twice that, and pycocotools takes five times theirs as int
_FEWEST_NUMBERS = 6  # of a polygon: three points
_Polygon = Annotated[list[float], Meta(min_length=_FEWEST_NUMBERS)]


class _RunLengths(Struct):
    counts: list[_Count] | str
    size: tuple[_Count, _Count]


_FEWEST_COMMAS = 6  # of three points, with the one before all polygons but the first
_POLYGONS = msgspec.json.Decoder(list[list[Any]])
_DECODER = msgspec.json.Decoder(_RunLengths | Annotated[list[_Polygon], Meta(min_length=1)])


def without_slivers(text: bytes) -> bytes:
    """A segmentation without its polygons of fewer than three points, which cover nothing.

    Args:
        text: its JSON.

    Returns:
        The same text if all is well or it has another form; empty where nothing is left.
    """
    if not text.startswith(b"["):
        return b"" if text == b"null" or (text.startswith(b"{") and not text[1:-1].strip()) else text
    commas = [part.count(b",") for part in text.split(b"]")[:-2]]
    if min(commas, default=0) >= _FEWEST_COMMAS:  # the usual case, told without decoding
        return text
    try:
        polygons = _POLYGONS.decode(text)
    except ValueError:  # refused when it is drawn
        return text
    kept = of_three_points(polygons)
    if len(kept) == len(polygons) > 0:
        return text
    return msgspec.json.encode(kept) if kept else b""


def of_three_points(polygons: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """The polygons without those of fewer than three points, which cover nothing; what has other parts stays."""
    return [polygon for polygon in polygons if len(polygon) >= _FEWEST_NUMBERS or any(map(_has_parts, polygon))]


def _has_parts(value: Any) -> bool:
    return isinstance(value, (list, dict))  # a pair for each point is another format, which is told when it is drawn


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
        found = _read(name, text, size)
        mask[:] = _expand(found if isinstance(found, np.ndarray) else _runs_of(found, size), size)
    return masks


def require_masks(segmentations: Sequence[tuple[str, bytes]], size: tuple[int, int]) -> None:
    """Raise what ``decode_masks`` would, in a fraction of its time: nothing is drawn."""
    for name, text in segmentations:
        _read(name, text, size)


def _read(name: str, text: bytes, size: tuple[int, int]) -> list[list[float]] | NDArray[np.int64]:
    """The polygons of an object or its run lengths, which can be drawn."""
    try:
        found = _DECODER.decode(text)
        if isinstance(found, _RunLengths):
            return _checked_runs(found, size)
        require_polygons(found, size)
    except ValueError as error:  # msgspec's are, too
        raise ValueError(f"{name}: not a segmentation: {error}") from None
    return found


def encode_planes(planes: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Masks as COCO's compressed run lengths, which ``json.dump`` writes.

    Args:
        planes: (N, H, W), 1 where an object is.
    """
    count, height, width = planes.shape
    columns = np.empty((count, width, height), np.uint8)  # which run lengths go down
    for plane, turned in zip(planes, columns, strict=True):
        cv2.transpose(plane, dst=turned)  # in a third of numpy's time
    found = coco_mask.encode(columns.transpose(2, 1, 0))
    return [{**mask, "counts": mask["counts"].decode("ascii")} for mask in found]


def _runs_of(polygons: list[list[float]], size: tuple[int, int]) -> NDArray[np.int64]:
    return uncompressed(coco_mask.merge(coco_mask.frPyObjects(polygons, *size))["counts"])


def _checked_runs(found: _RunLengths, size: tuple[int, int]) -> NDArray[np.int64]:
    if found.size != size:
        raise ValueError(f"its size is {list(found.size)}, the image's {list(size)}")
    counts = uncompressed(found.counts.encode()) if isinstance(found.counts, str) else np.array(found.counts, np.int64)
    require_runs(counts, size)
    return counts


def _expand(counts: NDArray[np.int64], size: tuple[int, int]) -> NDArray[Any]:
    height, width = size
    inside = (np.arange(len(counts)) % 2).astype(np.uint8)
    return np.repeat(inside, counts).reshape(width, height).T


def require_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> None:
    """Refuse polygons that pycocotools would take memory without end for.

    Args:
        polygons: each ``[x1, y1, x2, y2 ...]`` in pixels.
        size: (H, W) of their image.

    Raises:
        ValueError: one has half a point, or leaves the image by more than the size of the image; the outlines are
            longer than 2^22 pixels together; or the image has 2^31 pixels or more, or a side of 2^31 / 10.
    """
    _require_countable(size)
    if max(size) > _LONGEST_SIDE:
        raise ValueError(f"polygons need sides of at most {_LONGEST_SIDE} pixels, got {size[1]}x{size[0]}")
    limit = np.array(size[::-1])
    outline = 0.0
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError(f"a polygon must have pairs of numbers, got {len(polygon)} numbers")
        points = np.array(polygon, np.float64).reshape(-1, 2)
        near = (points >= -limit) & (points <= 2 * limit)  # NaN is not
        for point in points[~near.all(1)][:1].tolist():
            raise ValueError(f"the point {point} lies far outside the image of {size[1]}x{size[0]} pixels")
        outline += np.abs(points - np.roll(points, 1, axis=0)).max(axis=1, initial=0).sum()  # the steps that it draws
    if outline > _LONGEST_OUTLINE:
        raise ValueError(f"outlines must be at most {_LONGEST_OUTLINE} pixels long, got {outline:.0f}")


def require_runs(counts: NDArray[np.int64], size: tuple[int, int]) -> None:
    """Refuse run lengths that do not fill their image: pycocotools compares such for ever.

    Args:
        counts: pixels outside and inside in turn, down the columns.
        size: (H, W) of their image.

    Raises:
        ValueError: they do not; or the image has 2^31 pixels or more.
    """
    _require_countable(size)
    pixels = size[0] * size[1]
    for count in counts[(counts < 0) | (counts > pixels)][:1].tolist():  # the sum might not fit 64 bits
        raise ValueError(f"a run length must lie in 0 ... {pixels}, got {count}")
    if counts.sum() != pixels:
        raise ValueError(f"the run lengths must add up to {pixels} pixels, got {counts.sum()}")


def uncompressed(text: bytes) -> NDArray[np.int64]:
    """The run lengths of a string of COCO's: five bits a character, from the fourth on as steps from the last but one.

    Format: ``rleFrString`` of https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c

    Raises:
        ValueError: it is no such string.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if len(digits) and not 0 <= digits.min() <= digits.max() < 64:
        raise ValueError("compressed counts must be characters from '0' to 'o'")
    ends = np.flatnonzero(digits < 32)  # the other bit says that the number goes on
    if len(digits) and not (len(ends) and ends[-1] == len(digits) - 1):
        raise ValueError("the last run length is cut short")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if lengths.max(initial=0) > _MOST_DIGITS:
        raise ValueError(f"a run length has more than {5 * _MOST_DIGITS} bits")
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    counts = np.add.reduceat((digits & 31) << shifts, starts) if len(starts) else digits
    counts -= (digits[ends] >> 4) << (5 * lengths)  # the sign
    for first in (1, 2):
        counts[first::2] = np.cumsum(counts[first::2])
    return counts


def _require_countable(size: tuple[int, int]) -> None:
    if size[0] * size[1] >= 2**31:
        raise ValueError(f"an image with masks must have fewer than 2^31 pixels, got {size[1]}x{size[0]}")
