"""The target: torchvision's dict of per-image ground truth, with ``weights`` and ``sources`` beside the boxes.

Letters used below: N objects of one image, K classes including background.

Keys that belong to the objects (first dimension N):

========== ==================== ===========================================================
key        shape, dtype         meaning
========== ==================== ===========================================================
boxes      (N, 4) float         xyxy in pixels, 0-based, x2 and y2 exclusive
labels     (N,) int64           1 ... K-1; 0 is background
weights    (N,) float, [0, 1]   visible share of the object in the composite; absent means 1
sources    (N,) int64           which mixed image it came from, 0 for the first; absent means 0
masks      (N, H, W)            carried; lose the pixels that a cut hides
keypoints  (N, P, 3)            carried; visibility 0 where a cut hides them
area       (N,)                 carried; scaled by the share that a cut leaves
iscrowd    (N,)                 carried
difficult  (N,)                 carried
covers     (N, 1 + M, 4) float  what hides the object; see below, absent means nothing
========== ==================== ===========================================================

Any other tensor whose first dimension is N is taken to belong to the objects too, so that a key of
your own stays aligned. What belongs to the image (``IMAGE_KEYS``, scalars, strings) is left alone.

``covers`` comes with ``cutmix_pair`` and ``cutout``, and lets what is cut be cut again: row 0 is the
object's box, the M rows after it are the regions cut out of its image so far, xyxy, zeros where there
is none. Its dtype is float32 or wider, whatever that of the boxes. It is not moved by geometric
transforms: ``Augment`` and ``Albumentations`` of :mod:`detmix.data` leave the key out of what they
return, and a transform of your own must too if you cut again. Without it an object keeps its weight,
and a later cut takes what is visible to lie evenly over the box. The same holds where row 0 is no
longer the object's box, but do not rely on that: a flip leaves some boxes in place, such as those as
wide as their image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

Target = dict[str, Any]

OBJECT_KEYS = ("boxes", "labels", "weights", "sources", "masks", "keypoints", "area", "iscrowd", "difficult", "covers")
IMAGE_KEYS = ("image_id", "size", "orig_size", "lam")

_RANKS = {"boxes": 2, "masks": 3, "keypoints": 3, "covers": 3}  # number of dimensions; 1 for the rest
_OVERHANG = 1.0  # pixels a box may reach past the image: rounding of annotation tools

# pixels; a box that is thinner after a cut or a crop is a rounding error, which resizing turns into an empty box
SLIVER = 1e-3


def check_target(target: Target, *, size: tuple[int, int] | None = None, num_classes: int | None = None) -> None:
    """Raise if a target is not what a detector can train on.

    Args:
        target: the dict described at the top of this module.
        size: (H, W) of the image in pixels; given, every box must lie in the image (one pixel of
            overhang is allowed for rounding).
        num_classes: K, background included; given, labels must be below it.

    Raises:
        ValueError: a value is wrong (missing key, wrong length, NaN, empty box, label or weight out of range).
        TypeError: a dtype or type is wrong. Both name the image id, the key and the row.
    """
    if not isinstance(target, dict):
        raise TypeError(f"a target must be a dict with boxes and labels, got {type(target).__name__}")
    name = _name(target)
    boxes = _tensor(target, "boxes", name)
    labels = _tensor(target, "labels", name)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: boxes must have shape (N, 4), got {tuple(boxes.shape)}")
    if not boxes.is_floating_point():
        raise TypeError(f"{name}: boxes must be of a floating dtype, got {boxes.dtype}")
    require_xyxy(boxes)
    if labels.dtype != torch.int64:
        raise TypeError(f"{name}: labels must be int64, got {labels.dtype}")
    _check_lengths(target, len(boxes), name)
    _check_boxes(boxes.as_subclass(Tensor), size, name)
    _refuse(labels < 1, labels, "labels", "must be 1 or more (0 is background)", name)
    if num_classes is not None:
        wanted = f"must be below the number of classes, {num_classes}"
        _refuse(labels >= num_classes, labels, "labels", wanted, name)
    if "weights" in target:
        weights = target["weights"]
        if not weights.is_floating_point():
            raise TypeError(f"{name}: weights must be of a floating dtype, got {weights.dtype}")
        _refuse(~((weights >= 0) & (weights <= 1)), weights, "weights", "must lie in [0, 1]", name)
    if "sources" in target and target["sources"].dtype != torch.int64:
        raise TypeError(f"{name}: sources must be int64, got {target['sources'].dtype}")
    if "covers" in target and (target["covers"].shape[1] < 1 or target["covers"].shape[2] != 4):
        raise ValueError(f"{name}: covers must have shape (N, 1 + M, 4), got {tuple(target['covers'].shape)}")


def require_xyxy(boxes: Tensor) -> None:
    """Raise ValueError if boxes are ``tv_tensors.BoundingBoxes`` of another format than xyxy."""
    form = getattr(boxes, "format", tv_tensors.BoundingBoxFormat.XYXY)
    if form != tv_tensors.BoundingBoxFormat.XYXY:
        raise ValueError(f"boxes must be in the format XYXY, got {form.value}: convert them first")


def object_keys(sample: Any) -> tuple[Tensor, ...]:
    """The per-object tensors of a sample besides its boxes, for torchvision's ``SanitizeBoundingBoxes``.

    That transform filters only ``labels`` unless told otherwise, and so misaligns every other key.
    ``v2.SanitizeBoundingBoxes(labels_getter=detmix.object_keys)`` keeps them all in step.

    Args:
        sample: a target, or a tuple that ends with one, as a v2 transform receives it.

    Returns:
        The tensors of all keys that belong to the objects, boxes and ``tv_tensors`` excepted
        (torchvision filters those by itself).
    """
    target = sample if isinstance(sample, dict) else sample[-1]
    keys = per_object_keys(target)
    return tuple(target[k] for k in keys if not isinstance(target[k], tv_tensors.TVTensor) and k != "boxes")


def per_object_keys(target: Target) -> list[str]:
    """Names of the keys whose rows belong to the objects, in the target's order."""
    count = len(target["boxes"])
    return [k for k, v in target.items() if k in OBJECT_KEYS or _has_rows(k, v, count)]


def select_objects(target: Target, rows: Tensor) -> Target:
    """A copy of the target with some of its objects; all per-object keys stay aligned.

    Args:
        target: the dict described at the top of this module.
        rows: (N,) bool mask, or int64 row numbers.
    """
    keys = set(per_object_keys(target))
    return {k: wrap_like(v.as_subclass(Tensor)[rows], v) if k in keys else v for k, v in target.items()}


def without_covers(target: Target) -> Target:
    """A copy of the target without the record of what hides its objects, for transforms that move them."""
    return {k: v for k, v in target.items() if k != "covers"}


def visible_shares(target: Target) -> Tensor:
    """The weights of a target, (N,) float32; ones where it has none."""
    boxes: Tensor = target["boxes"]
    weights = target.get("weights")
    return boxes.new_ones(len(boxes), dtype=torch.float32) if weights is None else weights.to(torch.float32)


def source_ids(target: Target) -> Tensor:
    """The sources of a target, (N,) int64; zeros where it has none."""
    boxes: Tensor = target["boxes"]
    sources = target.get("sources")
    return boxes.new_zeros(len(boxes), dtype=torch.int64) if sources is None else sources


def concatenate(first: Target, second: Target, *, size: tuple[int, int]) -> Target:
    """Join the objects of two targets on one canvas: the first's rows, then the second's.

    Weights are joined as they are; ``sources`` of the second are shifted past those of the first.
    Keys that belong to the image are the first's. ``covers`` may be in one of them alone.

    Args:
        first: target of the image whose image_id the result keeps.
        second: target of the other image.
        size: (H, W) of the canvas; masks and box canvas sizes are extended to it.

    Raises:
        ValueError: one target has a per-object key that the other lacks.
    """
    first, second = _with_shares(first), _with_shares(second)
    first, second = _with_covers(first, second), _with_covers(second, first)
    second["sources"] = second["sources"] + _count_sources(first)
    keys = _shared_object_keys(first, second)
    joined = {k: v for k, v in first.items() if k not in keys}
    for key in keys:
        joined[key] = _join(key, first[key], second[key], size)
    return joined


def _with_shares(target: Target) -> Target:
    return {**target, "weights": visible_shares(target), "sources": source_ids(target)}


def _with_covers(target: Target, other: Target) -> Target:
    """The target with as many covers for each object as the other one has, if either has any."""
    columns = max(t["covers"].shape[1] if "covers" in t else 0 for t in (target, other))
    if not columns:
        return target
    covers = widened(target.get("covers", target["boxes"].as_subclass(Tensor)[:, None]))
    return {**target, "covers": torch.nn.functional.pad(covers, (0, 0, 0, columns - covers.shape[1]))}


def widened(values: Tensor) -> Tensor:
    """Floating values as float32, or as they are if they are wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _count_sources(target: Target) -> Tensor | int:
    sources: Tensor = target["sources"]
    return sources.max() + 1 if len(sources) else 1  # stays on its device: reading it would wait for the GPU


def _shared_object_keys(first: Target, second: Target) -> list[str]:
    firsts, seconds = per_object_keys(first), per_object_keys(second)
    for keys, owner, other in ((firsts, first, second), (seconds, second, first)):
        missing = [k for k in keys if k not in other]
        if missing:
            raise ValueError(
                f"{_name(owner)} has the per-object key {missing[0]!r} and {_name(other)} has not: "
                "both must carry the same keys to be mixed"
            )
    shared = [k for k in firsts if k in seconds]
    for key in {*firsts, *seconds}.difference(shared):
        if len(first[key]) != len(second[key]):
            raise ValueError(f"{key} has one row for each box in one of the two targets and not in the other")
    return shared


def _join(key: str, first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
    if key == "masks":
        first_rows, second_rows = _extend(first, size), _extend(second, size)
    else:
        first_rows, second_rows = first.as_subclass(Tensor), second.as_subclass(Tensor)
    if first_rows.shape[1:] != second_rows.shape[1:]:
        raise ValueError(
            f"{key} of the two targets differ in shape: rows of {tuple(first_rows.shape[1:])} "
            f"and of {tuple(second_rows.shape[1:])}"
        )
    rows = torch.cat([first_rows, second_rows.to(first_rows.dtype)])
    if hasattr(first, "canvas_size"):  # tv_tensors.BoundingBoxes and, where there are any, KeyPoints
        return tv_tensors.wrap(rows, like=first, canvas_size=size)
    return wrap_like(rows, first)


def _extend(masks: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = masks.shape[-2:]
    return torch.nn.functional.pad(masks.as_subclass(Tensor), (0, size[1] - width, 0, size[0] - height))


def wrap_like(rows: Tensor, like: Tensor) -> Tensor:
    """Rows as the kind of ``tv_tensors`` that another tensor is, if it is one."""
    return tv_tensors.wrap(rows, like=like) if isinstance(like, tv_tensors.TVTensor) else rows


def _has_rows(key: str, value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count and key not in IMAGE_KEYS


def _name(target: Target) -> str:
    image_id = target.get("image_id")
    return "target" if image_id is None else f"target of image {_plain(image_id)}"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _tensor(target: Target, key: str, name: str) -> Tensor:
    if key not in target:
        raise ValueError(f"{name}: the key {key!r} is missing; it has {sorted(target)}")
    if not isinstance(target[key], Tensor):
        raise TypeError(f"{name}: {key} must be a torch.Tensor, got {type(target[key]).__name__}")
    return target[key]


def _check_lengths(target: Target, count: int, name: str) -> None:
    for key in (k for k in OBJECT_KEYS if k in target):
        value, ranks = _tensor(target, key, name), _RANKS.get(key, 1)
        if value.ndim != ranks:
            raise ValueError(f"{name}: {key} must have {ranks} dimensions, got the shape {tuple(value.shape)}")
        if len(value) != count:
            raise ValueError(f"{name}: {key} has {len(value)} rows and boxes has {count}")


def _check_boxes(boxes: Tensor, size: tuple[int, int] | None, name: str) -> None:
    _refuse(~boxes.isfinite().all(1), boxes, "boxes", "must be finite", name)
    _refuse((boxes[:, 2:] <= boxes[:, :2]).any(1), boxes, "boxes", "must have x2 > x1 and y2 > y1", name)
    if size is not None:
        limit = boxes.new_tensor([size[1], size[0]]) + _OVERHANG
        outside = (boxes[:, :2] < -_OVERHANG).any(1) | (boxes[:, 2:] > limit).any(1)
        _refuse(outside, boxes, "boxes", f"must lie in the image of {size[1]}x{size[0]} pixels", name)


def _refuse(bad: Tensor, values: Tensor, key: str, wanted: str, name: str) -> None:
    rows: Sequence[int] = bad.nonzero()[:1, 0].tolist()
    for row in rows:
        raise ValueError(f"{name}: {key} {wanted}, got {values[row].tolist()} in row {row}")
