"""What a target must be: checks of the dict that :mod:`detmix.targets` describes."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from .targets import OBJECT_KEYS, OPTIONAL_KEYS, Target, name_of, plain

_RANKS = {"boxes": 2, "masks": 3, "keypoints": 3, "covers": 3}  # number of dimensions; 1 for the rest
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_OVERHANG = 1.0  # pixels a box may reach past the image: rounding of annotation tools
_LARGEST = sys.float_info.max


def check_target(
    target: Target, *, size: tuple[int, int] | None = None, num_classes: int | None = None, values: bool = True
) -> None:
    """Raise if a target is not what a detector can train on.

    Args:
        target: the dict that :mod:`detmix.targets` describes.
        size: (H, W) of the image in pixels; given, every box must lie in the image (one pixel of
            overhang is allowed for rounding).
        num_classes: K, background included; given, labels must be below it.
        values: False looks at keys, shapes and dtypes alone: reading values waits for the device that they are on.

    Raises:
        ValueError: a value is wrong (missing key, wrong length, NaN, empty box, label, weight or mask out of range).
        TypeError: a dtype or type is wrong. Both name the image id, the key and the row.
    """
    if not isinstance(target, dict):
        is_list = isinstance(target, list)  # as torchvision's CocoDetection gives
        way = ": for COCO's rows take DetectionDataset(read_coco(...)) of detmix.data" if is_list else ""
        raise TypeError(f"a target must be a dict with boxes and labels, got {type(target).__name__}{way}")
    boxes, labels = _tensor(target, "boxes"), _tensor(target, "labels")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name_of(target)}: boxes must have shape (N, 4), got {tuple(boxes.shape)}")
    if not boxes.is_floating_point():
        raise TypeError(f"{name_of(target)}: boxes must be of a floating dtype, got {boxes.dtype}: {_to_float(boxes)}")
    require_xyxy(target)
    if labels.dtype != torch.int64:
        raise TypeError(f"{name_of(target)}: labels must be int64, got {labels.dtype}")
    _check_lengths(target, boxes.shape[0])
    _check_masks(target, size)
    if "keypoints" in target:
        _check_keypoints(target, values)
    if values:
        _check_boxes(target, size)
        _check_labels(target, num_classes)
        _check_mask_values(target)
    if "weights" in target:
        _check_weights(target, values)
    if "sources" in target and target["sources"].dtype != torch.int64:
        raise TypeError(f"{name_of(target)}: sources must be int64, got {target['sources'].dtype}{_taken('sources')}")
    if "covers" in target and (target["covers"].shape[1] < 1 or target["covers"].shape[2] != 4):
        shapes = f"shape (N, 1 + M, 4), got {tuple(target['covers'].shape)}"
        raise ValueError(f"{name_of(target)}: covers must have {shapes}{_taken('covers')}")


def require_target_each(images: int, targets: Any) -> None:
    """Raise unless a batch of that many images has as many targets, in a list.

    Raises:
        TypeError: the targets are none.
        ValueError: there are more or fewer.
    """
    if not isinstance(targets, Sequence) or isinstance(targets, str):
        raise TypeError(f"targets must be a list of dicts, one for each image, got {type(targets).__name__}")
    if images != len(targets):
        raise ValueError(f"a batch must have as many images as targets, got {images} and {len(targets)}")


def require_xyxy(target: Target) -> None:
    """Raise ValueError if the boxes of a target are ``tv_tensors.BoundingBoxes`` of another format than xyxy."""
    boxes = target["boxes"]
    if isinstance(boxes, tv_tensors.BoundingBoxes) and boxes.format != tv_tensors.BoundingBoxFormat.XYXY:
        way = "v2.ConvertBoundingBoxFormat('XYXY') converts them"
        raise ValueError(f"{name_of(target)}: boxes must be in the format XYXY, got {boxes.format.value}: {way}")


def require_aligned(target: Target, keys: Iterable[str]) -> None:
    """Raise ValueError if transforms left out boxes, and not the rows of these keys that belong to them."""
    count = target["boxes"].shape[0]
    for key in keys:
        rows = target.get(key)
        if isinstance(rows, Tensor) and rows.shape[:1] != (count,):
            raise ValueError(
                f"{name_of(target)}: the transforms left {count} boxes, and {key!r} of shape {tuple(rows.shape)}: give "
                "SanitizeBoundingBoxes labels_getter=detmix.object_keys, or leave it out and put the others into "
                "detmix.data.Augment, which clears what was cut away"
            )


def _tensor(target: Target, key: str) -> Tensor:
    if key not in target:
        has = f"it has {sorted(target)}{_way_to_keys(target)}"
        raise ValueError(f"{name_of(target)}: the key {key!r} is missing; {has}")
    value = target[key]
    if not isinstance(value, Tensor):
        way = ": torch.as_tensor makes one" if isinstance(value, (list, np.ndarray)) else ""
        kind = f"{type(value).__name__}{way}{_taken(key)}"
        raise TypeError(f"{name_of(target)}: {key} must be a torch.Tensor, got {kind}")
    return value


def _taken(key: str) -> str:
    """That a key has a meaning, which a target from elsewhere may not know of."""
    return f" ({key!r} is a key of detmix: what else you keep needs another name)" if key in OPTIONAL_KEYS else ""


def _way_to_keys(target: Target) -> str:
    """What to do about a target of torchvision's data sets that lacks keys."""
    if target.keys() == {"annotation"}:  # as VOCDetection gives
        return ": for VOC's files take DetectionDataset(read_voc(...)) of detmix.data"
    if target.keys() == {"image_id"}:  # as the wrapped CocoDetection gives where an image has no annotations
        return ": an image without objects needs boxes of shape (0, 4) and labels of shape (0,), or leave it out"
    return ""


def _to_float(boxes: Tensor) -> str:
    """How boxes of integers, as torchvision's wrapped data sets give, become floats."""
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        return "v2.ToDtype({tv_tensors.BoundingBoxes: torch.float32, 'others': None}) in transforms= converts them"
    return "boxes.float() converts them"


def _check_lengths(target: Target, count: int) -> None:
    for key in OBJECT_KEYS:
        if key in target:
            shape, ranks = _tensor(target, key).shape, _RANKS.get(key, 1)
            if len(shape) != ranks:
                shapes = f"{ranks} dimensions, got the shape {tuple(shape)}"
                raise ValueError(f"{name_of(target)}: {key} must have {shapes}{_taken(key)}")
            if shape[0] != count:
                raise ValueError(f"{name_of(target)}: {key} has {shape[0]} rows and boxes has {count}{_taken(key)}")


def _check_masks(target: Target, size: tuple[int, int] | None) -> None:
    masks: Tensor | None = target.get("masks")
    if masks is not None and size is not None and masks.shape[1:] != tuple(size):
        (height, width), (high, wide) = size, masks.shape[1:]
        raise ValueError(f"{name_of(target)}: masks must be of the image's {width}x{height} pixels, got {wide}x{high}")


# Values are compared as Python's numbers: an image has few objects, and one tensor operation takes longer than all.
def _check_boxes(target: Target, size: tuple[int, int] | None) -> None:
    low, height, width = (-_LARGEST, _LARGEST, _LARGEST) if size is None else (-_OVERHANG, *size)
    right, bottom = width + _OVERHANG, height + _OVERHANG
    for row, (x1, y1, x2, y2) in enumerate(target["boxes"].tolist()):
        if not (low <= x1 < x2 <= right and low <= y1 < y2 <= bottom):
            _refuse(target, "boxes", _fault(x1, y1, x2, y2, size), [x1, y1, x2, y2], row)


def _fault(x1: float, y1: float, x2: float, y2: float, size: tuple[int, int] | None) -> str:
    """What a wrong box should be."""
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return "must be finite"
    if x2 <= x1 or y2 <= y1 or size is None:
        return "are x1, y1, x2, y2, and must have x2 > x1 and y2 > y1"
    return f"must lie in the image of {size[1]}x{size[0]} pixels (torchvision.ops.clip_boxes_to_image cuts them)"


def _check_labels(target: Target, num_classes: int | None) -> None:
    limit = sys.maxsize if num_classes is None else num_classes
    for row, label in enumerate(target["labels"].tolist()):
        if label < 1:
            _refuse(target, "labels", "must be 1 or more (0 is background)", label, row)
        if label >= limit:
            _refuse(target, "labels", f"must be below the number of classes, {num_classes}", label, row)


def _check_mask_values(target: Target) -> None:
    """Raise ValueError if masks of integers, as PNG files give, hold other values than 0 and 1; others are not read."""
    masks: Tensor | None = target.get("masks")
    if masks is not None and masks.dtype in _INTEGERS and masks.numel():
        least, most = (values.tolist() for values in plain(masks).flatten(1).aminmax(dim=1))
        for row, (low, high) in enumerate(zip(least, most, strict=True)):
            if low < 0 or high > 1:
                _refuse(target, "masks", "must be 0 or 1", high if high > 1 else low, row)


def _check_keypoints(target: Target, values: bool) -> None:
    keypoints: Tensor = target["keypoints"]
    if keypoints.shape[2] != 3:
        raise ValueError(
            f"{name_of(target)}: keypoints must have shape (N, P, 3), x, y and visibility, got {tuple(keypoints.shape)}"
        )
    if not keypoints.is_floating_point():
        dtypes = f"a floating dtype, got {keypoints.dtype}: keypoints.float() converts them"
        raise TypeError(f"{name_of(target)}: keypoints must be of {dtypes}")
    wrong = plain(keypoints).isfinite().all(dim=2).logical_not().nonzero().tolist() if values else ()
    for row, point in wrong:
        _refuse(target, "keypoints", "must be finite", plain(keypoints)[row, point].tolist(), row)


def _check_weights(target: Target, values: bool) -> None:
    weights: Tensor = target["weights"]
    if not weights.is_floating_point():
        dtypes = f"a floating dtype, got {weights.dtype}"
        raise TypeError(f"{name_of(target)}: weights must be of {dtypes}{_taken('weights')}")
    for row, weight in enumerate(weights.tolist() if values else ()):
        if not 0 <= weight <= 1:
            _refuse(target, "weights", "must lie in [0, 1]", weight, row)


def _refuse(target: Target, key: str, wanted: str, value: Any, row: int) -> NoReturn:
    raise ValueError(f"{name_of(target)}: {key} {wanted}, got {value} in row {row}{_taken(key)}")
