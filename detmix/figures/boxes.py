"""Boxes over their image. Letters: C channels, H and W height and width in pixels, N boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..captions import one_line
from ..evaluation import Fate
from ..targets import Target
from .style import PALETTE, font_of, line_height

Place: TypeAlias = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture
Pixels: TypeAlias = tuple[int, int, int, int]  # the same in whole pixels, x2 and y2 exclusive
Font: TypeAlias = ImageFont.FreeTypeFont

_READABLE = 480  # pixels: a picture whose longer side is shorter is magnified
_FAINTEST = 0.15  # opacity at which a box can still be found
_DASHES = {"confused": (6, 2), "missed": (2, 2), "false": (2, 2), "ignored": (2, 6)}  # line and gap, in line widths
_WORDS = {"found": "✓"}  # other fates stand for themselves


def draw_boxes(
    image: Tensor,
    target: Target,
    class_names: Sequence[str] | None = None,
    fates: Sequence[Fate] | None = None,
) -> Image.Image:
    """Draw the boxes of a target, or of detections, over their image.

    Outline and caption are as opaque as the object's weight (but never below 0.15), and the caption tells
    the weight ("RBC 0.37") or the score ("RBC 93%"). Small images are magnified by a whole number.

    Args:
        image: (C, H, W) with C 1 or 3; uint8, or float in [0, 1] (values outside are clipped).
        target: ``boxes`` (N, 4) xyxy in pixels of the image and ``labels`` (N,) in 1 ... K-1; ``weights``
            (N,) where it is mixed, ``scores`` (N,) where it is a detection. N may be 0.
        class_names: name of label l at ``[l - 1]``; without it the label's number is written.
        fates: N of them, what became of each box: the caption begins with it, or with a tick where the object was
            found; the outline is whole then, in long dashes where it was confused, otherwise in short ones.

    Raises:
        ValueError: the image is of another shape, or a label has no name.
    """
    photo = to_picture(image)
    scale = max(1, math.ceil(_READABLE / max(photo.size)))
    canvas = photo.resize((photo.width * scale, photo.height * scale), Image.Resampling.BICUBIC).convert("RGBA")
    font = font_of(max(18, max(canvas.size) / 36))
    boxes: list[Place] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in (target["boxes"].cpu().double() * scale).tolist()]
    opacities, captions = _opacities(target), _captions(target, class_names)
    if fates is not None:
        captions = [f"{_WORDS.get(fate, fate)} {text}" for fate, text in zip(fates, captions, strict=True)]
    faint_first = sorted(range(len(boxes)), key=lambda n: opacities[n])
    places = _place_captions(boxes, captions, font, canvas.size, faint_first[::-1])
    for n in faint_first:
        color = PALETTE[(int(target["labels"][n]) - 1) % len(PALETTE)]
        dashes = None if fates is None else _DASHES.get(fates[n])
        _draw(canvas, _Mark(_pixels(boxes[n], canvas.size), color, dashes, captions[n], places[n], opacities[n]), font)
    return canvas.convert("RGB")


def to_picture(image: Tensor) -> Image.Image:
    """A (C, H, W) tensor, uint8 or float in [0, 1], C 1 or 3, as an RGB PIL image.

    Raises:
        ValueError: the shape is another.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image must have shape (C, H, W) with C 1 or 3, got {tuple(image.shape)}")
    planes = image.detach().as_subclass(Tensor).cpu()
    if planes.is_floating_point():
        planes = (planes.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(planes.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


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


def _faded(opacity: float) -> list[int]:
    return [round(alpha * opacity) for alpha in range(256)]


class _Mark(NamedTuple):
    """What is drawn of one box."""

    box: Pixels
    color: str
    dashes: tuple[int, int] | None  # line and gap, in line widths
    caption: str
    place: Place  # of the caption
    opacity: float


def _draw(canvas: Image.Image, mark: _Mark, font: Font) -> None:
    """Blend a mark into the picture where it has ink: a layer of the whole picture would cost all its pixels."""
    stroke, width = _stroke(font), _line_width(font)
    corner = mark.place[0] + stroke, mark.place[1] + stroke
    for x1, y1, x2, y2 in _regions(mark, font, canvas.size):
        layer = Image.new("RGBA", (x2 - x1, y2 - y1))
        box = (mark.box[0] - x1, mark.box[1] - y1, mark.box[2] - x1, mark.box[3] - y1)
        _draw_outline(layer, box, mark.color, width)
        if mark.dashes is not None:
            _cut_gaps(layer, box, *(length * width for length in mark.dashes))
        if x1 <= corner[0] < x2 and y1 <= corner[1] < y2:  # the one region of the caption
            _draw_caption(layer, mark.caption, (corner[0] - x1, corner[1] - y1), font)
        layer.putalpha(layer.getchannel("A").point(_faded(mark.opacity)))
        canvas.alpha_composite(layer, (x1, y1))


def _regions(mark: _Mark, font: Font, size: tuple[int, int]) -> list[Pixels]:
    """Parts of the picture that do not overlap and hold all ink of a mark: its caption and, around that, its sides."""
    x1, y1, x2, y2 = mark.box
    edge = _line_width(font) + 4  # in a box that is thinner than its lines, they reach out of it
    picture = (0, 0, *size)
    caption = _shared(_caption_extent(mark, font), picture)
    sides = _without((x1 - edge, y1 - edge, x2 + edge, y2 + edge), (x1 + edge, y1 + edge, x2 - edge, y2 - edge))
    parts = [caption, *(part for side in sides for part in _without(side, caption))]
    return [part for part in (_shared(part, picture) for part in parts) if _has_pixels(part)]


def _caption_extent(mark: _Mark, font: Font) -> Pixels:
    """Where a caption may have ink: letters can reach over the place that is kept for them."""
    left, top, right, bottom = font.getbbox(mark.caption, stroke_width=_stroke(font))
    x1, y1, x2, y2 = mark.place
    reach = _stroke(font) + 2
    return (
        math.floor(x1 + min(0, left)) - reach,
        math.floor(y1 + min(0, top)) - reach,
        math.ceil(max(x2, x1 + right)) + reach,
        math.ceil(max(y2, y1 + bottom)) + reach,
    )


def _without(place: Pixels, hole: Pixels) -> list[Pixels]:
    """A rectangle around a hole, as rectangles above, below, left and right of it; some may be empty."""
    x1, y1, x2, y2 = place
    left, top, right, bottom = _shared(place, hole)
    if not _has_pixels((left, top, right, bottom)):
        return [place]
    return [(x1, y1, x2, top), (x1, bottom, x2, y2), (x1, top, left, bottom), (right, top, x2, bottom)]


def _shared(a: Pixels, b: Pixels) -> Pixels:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _has_pixels(place: Pixels) -> bool:
    return place[0] < place[2] and place[1] < place[3]


def _draw_outline(layer: Image.Image, box: Pixels, color: str, width: int) -> None:
    """The outermost pixels of the box, between two dark lines, so that it shows on any background."""
    draw = ImageDraw.Draw(layer)
    x1, y1, x2, y2 = box
    for margin, ink, thickness in ((0, "black", width + 2), (1, color, width)):
        low = (x1 + margin, y1 + margin)
        draw.rectangle((*low, max(low[0], x2 - 1 - margin), max(low[1], y2 - 1 - margin)), outline=ink, width=thickness)


def _cut_gaps(layer: Image.Image, box: Pixels, dash: int, gap: int) -> None:
    """Make an outline that is alone on its layer one of dashes, each side beginning with one."""
    x1, y1, x2, y2 = box
    for x in range(x1 + dash, x2 - gap, dash + gap):
        layer.paste((0, 0, 0, 0), (x, y1, x + gap, y2))
    for y in range(y1 + dash, y2 - gap, dash + gap):
        layer.paste((0, 0, 0, 0), (x1, y, x2, y + gap))


def _pixels(box: Place, size: tuple[int, int]) -> Pixels:
    """The corners of a box in whole pixels, within the picture."""
    x1, x2 = (min(max(round(x), 0), size[0]) for x in box[::2])
    y1, y2 = (min(max(round(y), 0), size[1]) for y in box[1::2])
    return x1, y1, x2, y2


def _draw_caption(layer: Image.Image, caption: str, corner: tuple[float, float], font: Font) -> None:
    draw = ImageDraw.Draw(layer)
    draw.text(corner, caption, fill="white", font=font, stroke_width=_stroke(font), stroke_fill="black")


def _place_captions(
    boxes: list[Place], captions: list[str], font: Font, size: tuple[int, int], order: list[int]
) -> dict[int, Place]:
    """Where each caption goes: at a corner of its box, in the picture, off those placed before where it can."""
    places: dict[int, Place] = {}
    stroke = _stroke(font)
    height = line_height(font) + 2 * stroke
    for n in order:
        width = font.getlength(captions[n]) + 2 * stroke
        x1, y1, x2, y2 = boxes[n]
        corners = [(x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width)]
        spots = [_inside(corner, width, height, size) for corner in corners]
        places[n] = min(spots, key=lambda spot: sum(_shared_area(spot, taken) for taken in places.values()))
    return places


def _inside(corner: tuple[float, float], width: float, height: float, size: tuple[int, int]) -> Place:
    x = max(0.0, min(corner[0], size[0] - width))
    y = max(0.0, min(corner[1], size[1] - height))
    return x, y, x + width, y + height


def _shared_area(a: Place, b: Place) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _stroke(font: Font) -> int:
    return max(1, round(font.size / 8))


def _line_width(font: Font) -> int:
    return round(font.size / 5)
