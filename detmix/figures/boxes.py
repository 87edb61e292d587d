"""Boxes, masks and keypoints over their image.

Letters: C channels, H and W height and width in pixels, N boxes, P keypoints of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..arguments import check_count
from ..canvas import Image as AnyImage
from ..captions import one_line
from ..data.points import check_keypoints
from ..data.skeleton import check_edges
from ..evaluation import Fate
from ..targets import Target
from .marks import Font, Mark, Pixels, Place, draw_mark, faded, stroke_of
from .skeletons import Joints, draw_skeleton
from .style import PALETTE, font_of, line_height

SHOWN = 1280  # pixels: longest side of a picture on a page or in a grid, which show it at half of that or less
_READABLE = 480  # pixels: a picture whose longer side is shorter is magnified
_FAINTEST = 0.15  # opacity at which a box can still be found
_TINT = 0.45  # opacity within the mask of an object that is seen in full
_MOST_CHANNELS = 16
_MOST_CAPTIONS = 100  # of a picture: more cover what they are to tell of
_DASHES = {"confused": (6, 2), "missed": (2, 2), "false": (2, 2), "ignored": (2, 6)}  # line and gap, in line widths
_WORDS = {"found": "✓"}  # other fates stand for themselves


def draw_boxes(
    image: AnyImage,
    target: Target,
    class_names: Sequence[str] | None = None,
    fates: Sequence[Fate] | None = None,
    *,
    max_side: int | None = None,
    edges: Sequence[tuple[int, int]] = (),
) -> Image.Image:
    """Draw the boxes of a target, or of detections, over their image, tint their masks and mark their keypoints.

    Outline and caption are as opaque as the object's weight (but never below 0.15), and the caption tells
    the weight ("RBC 0.37") or the score ("RBC 93%"). Beyond 100 boxes there are no captions, and the lines are thin.
    Small images are magnified by a whole number.

    Args:
        image: as for ``to_picture``; values of floats outside [0, 1] are clipped.
        target: ``boxes`` (N, 4) xyxy in pixels of the image and ``labels`` (N,) in 1 ... K-1; ``weights``
            (N,) where it is mixed, ``scores`` (N,) where it is a detection; ``masks`` (N, H, W) or, as detectors give
            them, (N, 1, H, W), shown where they are above 0.5; ``keypoints`` (N, P, 3), of which a dot shows those
            whose third number is above 0. N may be 0.
        class_names: name of label l at ``[l - 1]``; without it the label's number is written.
        fates: N of them, what became of each box: the caption begins with it, or with a tick where the object was
            found; the outline is whole then, in long dashes where it was confused, otherwise in short ones.
        max_side: the picture's longest side is no longer than so many pixels: the image is scaled before it is drawn
            on.
        edges: pairs of keypoints, 0 ... P-1, which a line joins where both are shown.

    Raises:
        TypeError: the image is of another dtype, or max_side is no integer.
        ValueError: the image is of another shape, a label has no name, there are more or fewer fates or masks than
            boxes, masks are of another size than the image, keypoints have another shape, an edge joins what is none
            of them, or max_side is below 1.
    """
    limit = math.inf if max_side is None else check_count("max_side", max_side, least=1)
    photo = to_picture(image)
    scale = min(max(1, math.ceil(_READABLE / max(photo.size))), limit / max(photo.size))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    canvas = photo.resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    crowded = len(target["boxes"]) > _MOST_CAPTIONS
    font = font_of(10 if crowded else max(18, max(canvas.size) / 36))
    boxes: list[Place] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in (target["boxes"].cpu().double() * scale).tolist()]
    opacities, captions = _opacities(target), _captions(target, class_names)
    if fates is not None:
        if len(fates) != len(boxes):
            raise ValueError(f"fates must be one for each of {len(boxes)} boxes, got {len(fates)}")
        captions = [f"{_WORDS.get(fate, fate)} {text}" for fate, text in zip(fates, captions, strict=True)]
    faint_first = sorted(range(len(boxes)), key=lambda n: opacities[n])
    if crowded:
        captions, places = [""] * len(boxes), {n: (x1, y1, x1, y1) for n, (x1, y1, *_) in enumerate(boxes)}
    else:
        places = _place_captions(boxes, captions, font, canvas.size, faint_first[::-1])
    colors = [PALETTE[(label - 1) % len(PALETTE)] for label in target["labels"].tolist()]
    if "masks" in target:
        _check_masks(target["masks"], len(boxes), photo.size)
        for n in faint_first:
            _tint(canvas, target["masks"][n], colors[n], opacities[n])
    if "keypoints" in target:
        check_keypoints(target["keypoints"], len(boxes))
        check_edges(edges, target["keypoints"].shape[1])
        joints = _joints(target["keypoints"], scale)
        for n in faint_first:
            draw_skeleton(canvas, joints[n], edges, colors[n], opacities[n], font)
    for n in faint_first:
        dashes = None if fates is None else _DASHES.get(fates[n])
        box = _pixels(boxes[n], canvas.size)
        draw_mark(canvas, Mark(box, colors[n], dashes, captions[n], places[n], opacities[n]), font)
    return canvas.convert("RGB")


def to_picture(image: AnyImage) -> Image.Image:
    """An image as an RGB PIL image.

    Args:
        image: (C, H, W) tensor or (H, W, C) or (H, W) array, uint8 or float in [0, 1], C 1 or 3, or up to 16, of
            which the first three are shown; or PIL image.

    Raises:
        TypeError: the dtype is another.
        ValueError: the shape is another.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray):
        return to_picture(torch.from_numpy(np.array(np.atleast_3d(image), order="C")).permute(2, 0, 1))
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image must be of dtype uint8 or floating, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] not in (1, *range(3, _MOST_CHANNELS + 1)):
        shape = tuple(image.shape)
        raise ValueError(f"image must have shape (C, H, W) with C 1, or 3 to {_MOST_CHANNELS}, got {shape}")
    planes = image.detach().as_subclass(Tensor)[:3].cpu()
    if planes.is_floating_point():
        planes = (planes.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(planes.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _check_masks(masks: Tensor, boxes: int, size: tuple[int, int]) -> None:
    if len(masks) != boxes or tuple(masks.shape[-2:]) != size[::-1]:
        raise ValueError(
            f"masks must be one for each of {boxes} boxes, of the image's {size[0]}x{size[1]} pixels, got the shape "
            f"{tuple(masks.shape)}"
        )


def _joints(keypoints: Tensor, scale: float) -> list[Joints]:
    """Of each object, where its visible keypoints lie in the picture, by number: in the middle of their pixels."""
    rows = keypoints.detach().cpu().double()
    places = (rows[..., :2] + 0.5) * scale
    shown = (rows[..., 2] > 0) & places.isfinite().all(-1)
    return [
        {number: tuple(place) for number, (place, visible) in enumerate(zip(*points, strict=True)) if visible}
        for points in zip(places.tolist(), shown.tolist(), strict=True)
    ]


def _tint(canvas: Image.Image, mask: Tensor, color: str, opacity: float) -> None:
    """Blend a colour into the pixels of a mask, (H, W) or (1, H, W), stronger along its edge."""
    shown = (mask.as_subclass(Tensor).reshape(mask.shape[-2:]) > 0.5).to("cpu", torch.uint8) * 255
    whole = Image.fromarray(shown.numpy()).resize(canvas.size, Image.Resampling.NEAREST)
    place = whole.getbbox()
    if place is None:
        return
    x1, y1, x2, y2 = place
    width = max(canvas.size) // _READABLE
    around = whole.crop((x1 - width, y1 - width, x2 + width, y2 + width))  # beyond the picture there is no mask
    eroded = cv2.erode(np.asarray(around), np.ones((2 * width + 1,) * 2, np.uint8))
    inner = Image.fromarray(eroded).crop((width, width, width + x2 - x1, width + y2 - y1))
    alpha = whole.crop(place).point(faded(opacity))
    alpha.paste(inner.point(faded(_TINT * opacity)), mask=inner)
    layer = Image.new("RGBA", alpha.size, color)
    layer.putalpha(alpha)
    canvas.alpha_composite(layer, (x1, y1))


def _opacities(target: Target) -> list[float]:
    weights = target.get("weights")
    return [1.0] * len(target["boxes"]) if weights is None else weights.clamp(_FAINTEST, 1).tolist()


def _captions(target: Target, class_names: Sequence[str] | None) -> list[str]:
    captions = [_name(label, class_names) for label in target["labels"].tolist()]
    for key, form in (("weights", "{} {:.2f}"), ("scores", "{} {:.0%}")):
        if key in target:
            captions = [form.format(*pair) for pair in zip(captions, target[key].tolist(), strict=True)]
    return captions


def _name(label: int, class_names: Sequence[str] | None) -> str:
    if class_names is None:
        return str(label)
    if not 1 <= label <= len(class_names):
        raise ValueError(f"labels must lie in [1, {len(class_names)}], one for each class name, got {label}")
    return one_line(class_names[label - 1])


def _pixels(box: Place, size: tuple[int, int]) -> Pixels:
    """The corners of a box in whole pixels, within the picture."""
    x1, x2 = (min(max(round(x), 0), size[0]) for x in box[::2])
    y1, y2 = (min(max(round(y), 0), size[1]) for y in box[1::2])
    return x1, y1, x2, y2


def _place_captions(
    boxes: list[Place], captions: list[str], font: Font, size: tuple[int, int], order: list[int]
) -> dict[int, Place]:
    """Where each caption goes: at a corner of its box, in the picture, off those placed before where it can."""
    places: dict[int, Place] = {}
    taken = np.empty((0, 4))
    stroke = stroke_of(font)
    height = line_height(font) + 2 * stroke
    for n in order:
        width = font.getlength(captions[n]) + 2 * stroke
        x1, y1, x2, y2 = boxes[n]
        corners = [(x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width)]
        spots = [_inside(corner, width, height, size) for corner in corners]
        places[n] = spots[_shared_areas(np.array(spots), taken).sum(1).argmin()]
        taken = np.vstack([taken, places[n]])
    return places


def _inside(corner: tuple[float, float], width: float, height: float, size: tuple[int, int]) -> Place:
    x = max(0.0, min(corner[0], size[0] - width))
    y = max(0.0, min(corner[1], size[1] - height))
    return x, y, x + width, y + height


def _shared_areas(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each pair of (A, 4) and (B, 4) rectangles: (A, B)."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared: NDArray[np.float64] = (high - low).clip(min=0).prod(-1)
    return shared
