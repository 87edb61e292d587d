"""Transforms of samples, called with image and target as data sets call theirs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from .targets import Target

_MOVING = (
    v2.CenterCrop,
    v2.ElasticTransform,
    v2.Pad,
    v2.RandomAffine,
    v2.RandomCrop,
    v2.RandomHorizontalFlip,
    v2.RandomIoUCrop,
    v2.RandomPerspective,
    v2.RandomResize,
    v2.RandomResizedCrop,
    v2.RandomRotation,
    v2.RandomShortestSize,
    v2.RandomVerticalFlip,
    v2.RandomZoomOut,
    v2.Resize,
    v2.ScaleJitter,
)


def check_transform(transform: Any) -> Any:
    """A transform of samples as it is, or None.

    Raises:
        TypeError: it cannot be called with image and target, or is one of albumentations' own, which take neither.
    """
    if transform is None:
        return None
    if not callable(transform):
        raise TypeError(f"transform must be called with image and target, and {transform!r} cannot be called")
    if type(transform).__module__.startswith("albumentations."):
        raise TypeError(
            "transform must be called with image and target, and albumentations takes images and boxes by name: pass "
            "detmix.data.transforms.Albumentations([...]) of the same transforms"
        )
    if not _takes_two(transform):
        raise TypeError(f"transform must be called with image and target, and {transform!r} takes other arguments")
    return transform


def _takes_two(transform: Callable[..., Any]) -> bool:
    try:
        inspect.signature(transform, follow_wrapped=False).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # what is written in C may not tell
        return True
    return True


def apply(transform: Callable[[Any, Target], Any] | None, image: Any, target: Target) -> Any:
    """What a transform makes of a sample, and the sample without one.

    Raises:
        TypeError: a transform of torchvision's v2 would move the pixels and, since the boxes are a plain tensor, leave
            the boxes where they are.
    """
    if transform is None:
        return image, target
    if isinstance(transform, v2.Transform) and isinstance(target, dict) and "boxes" in target:
        _require_boxes_that_move(transform, target["boxes"])
    return transform(image, target)


def parts_of(transform: Any) -> Iterator[Any]:
    """A transform and those within it.

    Containers of v2 and of albumentations keep theirs in a list, torch's as modules, and the bridges of detmix as
    ``compose``.
    """
    yield transform
    listed = getattr(transform, "transforms", ())
    composed = [transform.compose] if hasattr(transform, "compose") else []
    children = transform.children() if isinstance(transform, nn.Module) else ()
    for part in (*(listed if isinstance(listed, (list, tuple)) else ()), *composed, *children):
        yield from parts_of(part)


def _require_boxes_that_move(transform: v2.Transform, boxes: Any) -> None:
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        return
    for part in parts_of(transform):
        if not type(part).__module__.startswith(("torchvision.", "torch.nn.")):
            return  # one of the caller's own comes first, which may wrap the boxes
        if isinstance(part, _MOVING):
            raise TypeError(
                f"v2.{type(part).__name__} would move the pixels and leave the boxes, which are a plain tensor and no "
                "tv_tensors.BoundingBoxes: pass detmix.data.Augment([...]) of the same transforms"
            )
