"""Cutting regions out of samples, and putting another image's pixels there: pure functions.

Letters: H, W height and width in pixels; N objects of one image; M regions recorded for each.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import check_count, check_share, require_generator
from .canvas import Image, Region, enclosing, image_size, paste, require_same_kind, require_supported
from .target_checks import check_target
from .targets import SLIVER, Target, concatenate, plain, select_objects, visible_shares, widened, wrap_like

_SAME_PLACE = 0.01  # pixels: a box that moved by less did not move


def sample_region(lam: float, size: tuple[int, int], generator: np.random.Generator) -> Region:
    """Draw a region with a share of 1 - lam of the canvas, its centre anywhere on it.

    Args:
        lam: share of the canvas that is left, in [0, 1].
        size: (H, W) of the canvas in pixels.
        generator: where the randomness comes from; the caller owns it.

    Returns:
        (x1, y1, x2, y2) in pixels, x2 and y2 exclusive, with the proportions of the canvas. It is clipped to
        the canvas, so a region near the border has less than its share; ``cutmix_pair`` counts what it got.

    Raises:
        ValueError: lam outside [0, 1], or size has not two numbers of 0 or more.
        TypeError: lam is no number, a number of size is not an integer, or the generator is not numpy's.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features, arXiv:1905.04899.
    """
    require_generator(generator)
    if len(size) != 2:
        raise ValueError(f"size must be (H, W), got {tuple(size)}: image.shape[-2:] of a tensor")
    height, width = (check_count(name, side) for name, side in zip(("height", "width"), size, strict=True))
    centre_x, centre_y = generator.random(2).tolist()
    return region_around((centre_x, centre_y), lam, (height, width))


def region_around(centre: tuple[float, float], lam: float, size: tuple[int, int]) -> Region:
    """The region of ``sample_region`` whose centre has been drawn.

    Args:
        centre: (x, y) as fractions of the canvas, in [0, 1].
        lam: share of the canvas that is left, in [0, 1].
        size: (H, W) of the canvas in pixels.
    """
    check_share("lam", lam)
    height, width = size
    side = math.sqrt(1.0 - lam)
    x1, x2 = _interval(centre[0] * width, round(side * width), width)
    y1, y2 = _interval(centre[1] * height, round(side * height), height)
    return x1, y1, x2, y2


def _interval(centre: float, length: int, limit: int) -> tuple[int, int]:
    start = round(centre - length / 2)
    return min(max(start, 0), limit), min(max(start + length, 0), limit)


def cutmix_pair(
    image_a: Image,
    target_a: Target,
    image_b: Image,
    target_b: Target,
    *,
    region: Region,
    min_weight: float = 0.0,
) -> tuple[Any, Target]:
    """Replace a region of A by the same region of B; boxes weigh what remains to be seen of them.

    Both images sit at the top left of a zero canvas that holds them. Inside the region the pixels are B's,
    or zero where B has none; outside they are A's. Boxes of A stay where they are, boxes of B are clipped
    to the region and to image B. A weight is multiplied by the share of the object's visible area that the
    cut leaves, so after several cuts a total is the area of the box outside the union of all that was cut
    out, divided by the area of the box as annotated. Areas are of what lies in the object's own image, where
    a box overhangs it. ``covers`` in the result keeps count; :mod:`detmix.targets` says how, and what
    becomes of it when boxes are moved in between.

    Shares are of boxes with ``masks`` too. But an object goes of whose mask the cut leaves no pixel, whatever
    is left of its box, since nothing of it can be seen. One whose mask was empty before is judged by its box.

    Args:
        image_a: any kind that ``mix_pair`` takes.
        target_a: boxes (Na, 4) xyxy in pixels of image A; labels (Na,). Na may be 0.
        image_b: as image_a: same kind, dtype, device and number of channels; any size.
        target_b: as target_a, with Nb boxes.
        region: (x1, y1, x2, y2), integer pixels of the canvas, x2 and y2 exclusive; it may be empty.
        min_weight: objects whose weight comes out below this are left out, with all their keys. Those
            whose weight comes out as 0 always are, and so are those that lose the last pixel of their mask, and
            what shows of an object of B if it is narrower or lower than a thousandth of a pixel.

    Returns:
        The canvas, max(Ha, Hb) by max(Wa, Wb), of the kind and dtype given, and a new target: A's objects,
        then B's. ``lam`` is the share of the canvas outside the region, ``sources`` is as in ``mix_pair``.
        ``area`` is scaled by the same share as the weight; ``masks`` lose their hidden pixels; hidden
        ``keypoints`` get visibility 0. Keys that belong to the image are A's. Inputs are left untouched.

    Raises:
        ValueError: the region has not four numbers, or is not on the canvas; min_weight outside [0, 1]; channel counts
            differ; a target is malformed.
        TypeError: the region is not made of integers; min_weight is no number; the images differ in kind or dtype, or
            are of a kind that is not supported.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features, arXiv:1905.04899, which mixes labels of images; the weights of boxes are this package's.
    """
    check_share("min_weight", min_weight)
    require_same_kind(image_a, image_b)
    size_a, size_b = image_size(image_a), image_size(image_b)
    size = enclosing(size_a, size_b)
    region = _checked(region, size)
    check_target(target_a, size=size_a)
    check_target(target_b, size=size_b)
    target = concatenate(outside(target_a, region, size_a), inside(target_b, region, size_b), size=size)
    target["lam"] = 1.0 - _area(region) / (size[0] * size[1])
    return paste(image_a, image_b, region), _visible(target, min_weight)


def cutout(image: Image, target: Target, *, region: Region, min_weight: float = 0.0) -> tuple[Any, Target]:
    """Set a region of an image to zero; boxes lose the covered part of their weight.

    Args:
        image: any kind that ``mix_pair`` takes.
        target: boxes (N, 4) xyxy in pixels, labels (N,). N may be 0.
        region: (x1, y1, x2, y2), integer pixels of the image, x2 and y2 exclusive; it may be empty.
        min_weight: objects whose weight comes out below this are left out, with all their keys. Those
            whose weight comes out as 0 always are, and so are those that lose the last pixel of their mask.

    Returns:
        A new image of the kind and dtype given, and a new target, its objects as those of A in
        ``cutmix_pair``. ``sources`` and ``lam`` stay as they were. Inputs are left untouched.

    Raises:
        ValueError: the region has not four numbers, or is not on the image; min_weight outside [0, 1]; the target is
            malformed.
        TypeError: the region is not made of integers; min_weight is no number; the image is of a kind that is not
            supported.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout,
    arXiv:1708.04552, which leaves the labels alone; the weights of boxes are this package's.
    """
    check_share("min_weight", min_weight)
    require_supported(image)
    size = image_size(image)
    region = _checked(region, size)
    check_target(target, size=size)
    return paste(image, None, region), _visible(outside(target, region, size), min_weight)


def outside(target: Target, region: Region, size: tuple[int, int]) -> Target:
    """The target of an image of (H, W) pixels that a region is cut out of; hidden objects stay, with weight 0."""
    boxes, covers = _wide_boxes(target), _covers(target)
    in_image = _clip(boxes, (0, 0, size[1], size[0]))
    cut = boxes.new_tensor(region).expand(len(boxes), 1, 4)
    more_covers = torch.cat([covers, cut], dim=1)
    share = _share(_visible_areas(in_image, more_covers), _visible_areas(in_image, covers))
    return _shown(target, target["boxes"].as_subclass(Tensor), more_covers, share, region, keep_inside=False)


def inside(target: Target, region: Region, size: tuple[int, int]) -> Target:
    """The target of an image of (H, W) pixels of which only a region shows; what lies outside it gets weight 0."""
    covers, in_image = _covers(target), _clip(_wide_boxes(target), (0, 0, size[1], size[0]))
    in_region = _clip(in_image, region)
    share = _share(_visible_areas(in_region, covers), _visible_areas(in_image, covers))
    boxes = in_region.to(target["boxes"].dtype)
    thick = (boxes[:, 2:] - boxes[:, :2] >= SLIVER).all(dim=1)
    return _shown(target, boxes, covers, share * thick, region, keep_inside=True)


def _shown(
    target: Target, boxes: Tensor, covers: Tensor, share: Tensor, region: Region, *, keep_inside: bool
) -> Target:
    """The target with new boxes and covers, and all that depends on the share of each object that is left."""
    changed: Target = {
        "boxes": wrap_like(boxes, target["boxes"]),
        "weights": (visible_shares(target) * share).float(),
        "covers": torch.cat([widened(boxes)[:, None], covers], dim=1),
    }
    if "area" in target:
        changed["area"] = (target["area"] * share).to(target["area"].dtype)
    if "masks" in target:
        changed["masks"] = _cut_masks(target["masks"], region, keep_inside)
        changed["weights"] *= _has_pixels(changed["masks"]) == _has_pixels(target["masks"])  # a cut adds none
    if "keypoints" in target:
        changed["keypoints"] = _cut_keypoints(target["keypoints"], region, keep_inside)
    return {**target, **changed}


def _covers(target: Target) -> Tensor:
    """What hides each object, (N, M, 4); a record made for a box that has moved since counts for nothing."""
    boxes = _wide_boxes(target)
    if "covers" not in target:
        return boxes.new_zeros(len(boxes), 0, 4)
    record: Tensor = target["covers"].to(boxes.dtype)
    in_place = ((record[:, 0] - boxes).abs() <= _SAME_PLACE).all(dim=1)
    return record[:, 1:] * in_place[:, None, None]


def _wide_boxes(target: Target) -> Tensor:
    return widened(target["boxes"].as_subclass(Tensor))  # float16 has no number for each pixel past 2048


def _clip(boxes: Tensor, region: Region) -> Tensor:
    limits = boxes.new_tensor(region)
    return boxes.reshape(-1, 2, 2).clamp(limits[:2], limits[2:]).reshape(-1, 4)


def _share(left: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, left / whole, 0.0).clamp(max=1.0)  # float32 may round it up


def _visible_areas(boxes: Tensor, covers: Tensor) -> Tensor:
    """The area of each box outside the union of its covers, exact up to the rounding of the result's dtype.

    The sides of a box and of its covers divide it into a grid of cells, each hidden or seen as a whole.

    Args:
        boxes: (N, 4).
        covers: (N, M, 4).

    Returns:
        (N,) float64, on Apple's GPUs float32, square pixels; exactly 0 where nothing is left.
    """
    dtype = _widest(boxes.device)
    low, high = boxes.to(dtype)[:, None].split(2, dim=2)
    starts, stops = (corners.to(dtype).clamp(low, high) for corners in covers.split(2, dim=2))  # (N, M, 2)
    edges = torch.cat([low, starts, stops, high], dim=1).sort(dim=1).values  # (N, 2M + 2, 2), x and y
    hidden = (starts[:, :, None] <= edges[:, None, :-1]) & (edges[:, None, 1:] <= stops[:, :, None])
    hidden_cells = (hidden[..., 0, None] & hidden[..., None, :, 1]).any(dim=1)  # (N, 2M + 1, 2M + 1)
    widths, heights = edges.diff(dim=1).unbind(dim=2)
    return (widths[:, :, None] * heights[:, None] * ~hidden_cells).sum(dim=(1, 2))


def _widest(device: torch.device) -> torch.dtype:
    """The widest floating dtype of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def _cut_masks(masks: Tensor, region: Region, keep_inside: bool) -> Tensor:
    x1, y1, x2, y2 = region
    shown = torch.full(masks.shape[-2:], not keep_inside, device=masks.device)
    shown[y1:y2, x1:x2] = keep_inside
    return wrap_like(masks.as_subclass(Tensor) * shown, masks)


def _has_pixels(masks: Tensor) -> Tensor:
    return plain(masks).flatten(1).any(dim=1)


def _cut_keypoints(keypoints: Tensor, region: Region, keep_inside: bool) -> Tensor:
    points = keypoints.as_subclass(Tensor).clone()
    places = widened(points[..., :2])
    limits = places.new_tensor(region) - 0.5  # a keypoint is the middle of its pixel
    within = ((places >= limits[:2]) & (places < limits[2:])).all(dim=-1)
    points[..., 2:] *= (within == keep_inside)[..., None]
    return wrap_like(points, keypoints)


def _visible(target: Target, min_weight: float) -> Target:
    weights: Tensor = target["weights"]
    return select_objects(target, (weights > 0) & (weights >= min_weight))


def _checked(region: Region, size: tuple[int, int]) -> Region:
    try:
        sides = [operator.index(side) for side in region]
    except TypeError:
        raise TypeError(f"region must be (x1, y1, x2, y2), made of integers, got {region}") from None
    if len(sides) != 4:
        raise ValueError(f"region must be (x1, y1, x2, y2), got {region}")
    x1, y1, x2, y2 = sides
    height, width = size
    if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
        raise ValueError(f"region must lie on the canvas of {width}x{height} pixels, got {(x1, y1, x2, y2)}")
    return x1, y1, x2, y2


def _area(region: Region) -> int:
    x1, y1, x2, y2 = region
    return (x2 - x1) * (y2 - y1)
