"""The target: torchvision's dict of per-image ground truth, with ``weights`` and ``sources`` beside the boxes.

Letters used below: N objects of one image, K classes including background.

Keys that belong to the objects (first dimension N):

========== ==================== ===========================================================
key        shape, dtype         meaning
========== ==================== ===========================================================
boxes      (N, 4) float         xyxy in pixels, 0-based, x2 and y2 exclusive
labels     (N,) int64           1 ... K-1; 0 is background
weights    (N,) float, [0, 1]   visible share of the object's box in the composite; absent means 1
sources    (N,) int64           which mixed image it came from, 0 for the first; absent means 0
masks      (N, H, W), 0 or 1    carried; lose the pixels that a cut hides; none left: the object goes
keypoints  (N, P, 3) float      carried; visibility 0 where a cut hides them
area       (N,)                 carried; scaled by the share that a cut leaves
iscrowd    (N,)                 carried
difficult  (N,)                 carried
covers     (N, 1 + M, 4) float  what hides the object; see below, absent means nothing
========== ==================== ===========================================================

Any other tensor whose first dimension is N is taken to belong to the objects too, so that a key of
your own stays aligned. What belongs to the image (``IMAGE_KEYS``, scalars, strings) is left alone.

The x and y of ``keypoints`` are indices of pixels, as in COCO, and not edges as those of boxes: a flip takes x to
W - 1 - x. Albumentations and torchvision's v2 transforms do so.

``area`` is scaled by the cuts of this package and by ``reduce_to`` alone: ``Augment`` and ``Albumentations`` of
:mod:`detmix.data` carry it as it was, also where they resize or crop.

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

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

Target = dict[str, Any]

OBJECT_KEYS = ("boxes", "labels", "weights", "sources", "masks", "keypoints", "area", "iscrowd", "difficult", "covers")
IMAGE_KEYS = ("image_id", "size", "orig_size", "lam")

OPTIONAL_KEYS = ("weights", "sources", "covers")  # may be absent, which means a value

_OF_NUMPY = {torch.float32: np.float32, torch.int64: np.int64}
_SANITIZED = (tv_tensors.BoundingBoxes, tv_tensors.Mask)  # what SanitizeBoundingBoxes filters without being told

# pixels; a box that is thinner after a cut or a crop is a rounding error, which resizing turns into an empty box
SLIVER = 1e-3


def object_keys(sample: Any) -> tuple[Tensor, ...]:
    """The per-object tensors of a sample besides its boxes, for torchvision's ``SanitizeBoundingBoxes``.

    That transform filters only ``labels`` unless told otherwise, and so misaligns every other key.
    ``v2.SanitizeBoundingBoxes(labels_getter=detmix.object_keys)`` keeps them all in step.

    Args:
        sample: a target, or a tuple that ends with one, as a v2 transform receives it.

    Returns:
        The tensors of all keys that belong to the objects, but for the boxes and what is ``tv_tensors.BoundingBoxes``
        or ``tv_tensors.Mask``: torchvision filters those by itself. ``tv_tensors.KeyPoints`` come out of it as a plain
        tensor, which no later transform moves, so let it be the last one.
    """
    target = sample if isinstance(sample, dict) else sample[-1]
    return tuple(target[k] for k in per_object_keys(target) if k != "boxes" and not isinstance(target[k], _SANITIZED))


def per_object_keys(target: Target) -> list[str]:
    """Names of the keys whose rows belong to the objects, in the target's order."""
    count = target["boxes"].shape[0]  # len() of a tensor takes far longer
    return [k for k, v in target.items() if k in OBJECT_KEYS or _has_rows(k, v, count)]


def select_objects(target: Target, rows: Tensor) -> Target:
    """A copy of the target with some of its objects; all per-object keys stay aligned.

    Args:
        target: the dict described at the top of this module.
        rows: (N,) bool mask, or int64 row numbers.
    """
    keys = set(per_object_keys(target))
    return {k: wrap_like(plain(v)[rows], v) if k in keys else v for k, v in target.items()}


def without_covers(target: Target) -> Target:
    """A copy of the target without the record of what hides its objects, for transforms that move them."""
    return {k: v for k, v in target.items() if k != "covers"}


def visible_shares(target: Target, fade: float = 1.0) -> Tensor:
    """The weights of a target times a factor, (N,) float32; the factor itself where it has none."""
    boxes: Tensor = target["boxes"]
    weights = target.get("weights")
    if weights is None:
        return boxes.new_full((boxes.shape[0],), fade, dtype=torch.float32)
    return weights.to(torch.float32) * fade


def concatenate(
    first: Target, second: Target, *, size: tuple[int, int], shares: tuple[float, float] = (1.0, 1.0)
) -> Target:
    """Join the objects of two targets on one canvas: the first's rows, then the second's.

    ``sources`` of the second are shifted past those of the first. Keys that belong to the image are the
    first's. ``covers`` may be in one of them alone.

    Args:
        first: target of the image whose image_id the result keeps.
        second: target of the other image.
        size: (H, W) of the canvas; masks and box canvas sizes are extended to it.
        shares: what the weights of the first and of the second are multiplied with.

    Raises:
        ValueError: one target has a per-object key that the other lacks.
    """
    joint = dict(first)
    for key in _shared_object_keys(first, second):
        joint[key] = _join(key, first[key], second[key], size)
    joint["weights"] = _joint_weights(first, second, shares)
    joint["sources"] = _joint_sources(first, second)
    if "covers" in first or "covers" in second:
        joint["covers"] = torch.cat([_same_covers(first, second), _same_covers(second, first)])
    return joint


def _joint_weights(first: Target, second: Target, shares: tuple[float, float]) -> Tensor:
    if "weights" in first or "weights" in second:
        return torch.cat([visible_shares(first, shares[0]), visible_shares(second, shares[1])])
    return _one_for_each(first, second, shares, torch.float32)


def _joint_sources(first: Target, second: Target) -> Tensor:
    """The sources of the first, then those of the second, counted on from them."""
    if not ("sources" in first or "sources" in second):
        return _one_for_each(first, second, (0, 1), torch.int64)
    sources, others = (t["sources"] if "sources" in t else torch.zeros_like(t["labels"]) for t in (first, second))
    past = sources.max() + 1 if sources.shape[0] else 1  # stays on its device: reading it would wait for the GPU
    return torch.cat([sources, others + past])


def _one_for_each(first: Target, second: Target, values: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """One number for each object of the first target, the other for each of the second, where their boxes are."""
    boxes, count = first["boxes"], first["boxes"].shape[0]
    total = count + second["boxes"].shape[0]
    if boxes.is_cpu:  # numpy makes and sets a few numbers in a fraction of torch's time
        numbers = np.empty(total, _OF_NUMPY[dtype])
        numbers[:count], numbers[count:] = values
        return torch.from_numpy(numbers)
    rows: Tensor = boxes.new_empty(total, dtype=dtype)
    rows[:count], rows[count:] = values
    return rows


def _same_covers(target: Target, other: Target) -> Tensor:
    """The covers of a target, as many for each object as the other one has."""
    columns = max(t["covers"].shape[1] for t in (target, other) if "covers" in t)
    covers = widened(target.get("covers", plain(target["boxes"])[:, None]))
    return torch.nn.functional.pad(covers, (0, 0, 0, columns - covers.shape[1]))


def widened(values: Tensor) -> Tensor:
    """Floating values as float32, or as they are if they are wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _shared_object_keys(first: Target, second: Target) -> list[str]:
    """The per-object keys that both targets must have, and whose rows are joined as they are."""
    firsts, seconds = ([k for k in per_object_keys(t) if k not in OPTIONAL_KEYS] for t in (first, second))
    if firsts == seconds:
        return firsts
    for keys, owner, other in ((firsts, first, second), (seconds, second, first)):
        missing = [k for k in keys if k not in other]
        if missing:
            raise ValueError(
                f"{name_of(owner)} has the per-object key {missing[0]!r} and {name_of(other)} has not: "
                "both must carry the same keys to be mixed"
            )
    shared = [k for k in firsts if k in seconds]
    for key in {*firsts, *seconds}.difference(shared):
        if first[key].shape[0] != second[key].shape[0]:
            raise ValueError(f"{key} has one row for each box in one of the two targets and not in the other")
    return shared


def _join(key: str, first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
    first_rows, second_rows = plain(first), plain(second)
    if key == "masks":
        return wrap_like(_on_canvas(first_rows, second_rows, size), first, size)
    if first_rows.shape[1:] != second_rows.shape[1:]:
        raise ValueError(
            f"{key} of the two targets differ in shape: rows of {tuple(first_rows.shape[1:])} "
            f"and of {tuple(second_rows.shape[1:])}"
        )
    return wrap_like(torch.cat([first_rows, second_rows]), first, size)  # of the wider dtype, if they differ


def _on_canvas(first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of two images, each at the top left of a canvas of (H, W); masks of many objects are to be copied once."""
    if first.shape[1:] == second.shape[1:] == size:
        return torch.cat([first, second])
    dtype, count = torch.promote_types(first.dtype, second.dtype), first.shape[0]
    joint = first.new_zeros((count + second.shape[0], *size), dtype=dtype)
    for rows, masks in ((joint[:count], first), (joint[count:], second)):
        rows[:, : masks.shape[1], : masks.shape[2]] = masks
    return joint


def plain(tensor: Tensor) -> Tensor:
    """A tensor without the kind of ``tv_tensors`` that it may be; the same memory."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def wrap_like(rows: Tensor, like: Any, size: tuple[int, int] | None = None) -> Tensor:
    """Rows as the kind of ``tv_tensors`` that another value is, if it is one; on a canvas of (H, W), if it has one."""
    if type(like) is Tensor or not isinstance(like, tv_tensors.TVTensor):
        return rows
    canvas = {} if size is None or not hasattr(like, "canvas_size") else {"canvas_size": size}
    return tv_tensors.wrap(rows, like=like, **canvas)


def _has_rows(key: str, value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == count and key not in IMAGE_KEYS


def name_of(target: Target) -> str:
    """What a target is called in errors: by its ``image_id``, if it has one."""
    image_id = target.get("image_id")
    if image_id is None:
        return "target"
    return f"target of image {image_id.tolist() if isinstance(image_id, Tensor) else image_id}"
