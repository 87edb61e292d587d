"""Masks as compressed run-length encodings, by pycocotools."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from ..data.masks import of_three_points, require_polygons, require_runs, uncompressed


def encode_masks(segmentations: list[Any], sizes: NDArray[np.int64], name: str, place: str) -> list[dict[str, Any]]:
    """Polygons, uncompressed and compressed RLEs, all as compressed ones.

    Args:
        segmentations: M of them, in COCO's forms; None, as some tools write, is refused in words.
        sizes: (M, 2), height and width of their images.
        name: the file.
        place: where in it, with ``{}`` for the number of the row.

    Raises:
        ValueError: one is none of the three, of another size than its image, or such that pycocotools would not come
            to an end with it.
    """
    encoded = []
    for number, (segmentation, (height, width)) in enumerate(zip(segmentations, sizes.tolist(), strict=True)):
        try:
            encoded.append(_encode(segmentation, height, width))
        except MemoryError:  # says nothing of the mask
            raise
        except Exception as error:  # pycocotools raises plain Exceptions
            wanted = f"polygons or run lengths of {height} x {width} pixels"
            raise ValueError(f"{name}: a mask must be {wanted}: {error} - at `{place.format(number)}`") from None
    return encoded


def _encode(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if segmentation is None:
        raise ValueError("there is none, got null")
    if isinstance(segmentation, list):
        polygons = of_three_points(segmentation)
        if not polygons:
            raise ValueError(f"no polygon has three points, got {segmentation}")
        require_polygons(polygons, (height, width))
        return dict(rle.merge(rle.frPyObjects(polygons, height, width)))
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"it is of {size[0]} x {size[1]}")
    if isinstance(counts, list):
        require_runs(np.array(msgspec.convert(counts, list[int]), np.int64), (height, width))
        return dict(rle.frPyObjects(segmentation, height, width))
    if not isinstance(counts, (str, bytes)):
        raise ValueError(f"counts must be text or a list, got {type(counts).__name__}")
    require_runs(uncompressed(counts.encode() if isinstance(counts, str) else counts), (height, width))
    return {"size": size, "counts": counts}


def mask_areas(masks: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Pixels of each mask, (M,)."""
    return np.array([rle.area(mask) for mask in masks], dtype=np.float64)  # more than 255 at once it cannot take


def mask_boxes(masks: list[dict[str, Any]]) -> NDArray[np.float64]:
    """The box around each mask, (M, 4) xywh; zeros for an empty one."""
    return np.array([rle.toBbox(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)


def mask_ious(
    first: list[dict[str, Any]], second: list[dict[str, Any]], *, of_first: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU of each mask with its partner, (P,): ``of_first`` as in ``box_ious``."""
    pairs = zip(first, second, of_first.tolist(), strict=True)
    return np.array([rle.iou([one], [other], [crowd])[0, 0] for one, other, crowd in pairs], dtype=np.float64)
