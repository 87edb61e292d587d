"""The mark of one box, its outline and its caption, blended into a picture."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

from PIL import Image, ImageDraw, ImageFont

Place: TypeAlias = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture
Pixels: TypeAlias = tuple[int, int, int, int]  # the same in whole pixels, x2 and y2 exclusive
Font: TypeAlias = ImageFont.FreeTypeFont


class Mark(NamedTuple):
    """What is drawn of one box."""

    box: Pixels
    color: str
    dashes: tuple[int, int] | None  # line and gap, in line widths
    caption: str
    place: Place  # of the caption
    opacity: float


def draw_mark(canvas: Image.Image, mark: Mark, font: Font) -> None:
    """Blend a mark into the picture where it has ink: a layer of the whole picture would cost all its pixels."""
    stroke, width = stroke_of(font), _line_width(font)
    corner = mark.place[0] + stroke, mark.place[1] + stroke
    for x1, y1, x2, y2 in _regions(mark, font, canvas.size):
        layer = Image.new("RGBA", (x2 - x1, y2 - y1))
        box = (mark.box[0] - x1, mark.box[1] - y1, mark.box[2] - x1, mark.box[3] - y1)
        _draw_outline(layer, box, mark.color, width)
        if mark.dashes is not None:
            _cut_gaps(layer, box, *(length * width for length in mark.dashes))
        if x1 <= corner[0] < x2 and y1 <= corner[1] < y2:  # the one region of the caption
            _draw_caption(layer, mark.caption, (corner[0] - x1, corner[1] - y1), font)
        layer.putalpha(layer.getchannel("A").point(faded(mark.opacity)))
        canvas.alpha_composite(layer, (x1, y1))


def _regions(mark: Mark, font: Font, size: tuple[int, int]) -> list[Pixels]:
    """Parts of the picture that do not overlap and hold all ink of a mark: its caption and, around that, its sides."""
    x1, y1, x2, y2 = mark.box
    edge = _line_width(font) + 4  # in a box that is thinner than its lines, they reach out of it
    picture = (0, 0, *size)
    caption = _shared(_caption_extent(mark, font), picture)
    sides = _without((x1 - edge, y1 - edge, x2 + edge, y2 + edge), (x1 + edge, y1 + edge, x2 - edge, y2 - edge))
    parts = [caption, *(part for side in sides for part in _without(side, caption))]
    return [part for part in (_shared(part, picture) for part in parts) if _has_pixels(part)]


def _caption_extent(mark: Mark, font: Font) -> Pixels:
    """Where a caption may have ink: letters can reach over the place that is kept for them."""
    left, top, right, bottom = font.getbbox(mark.caption, stroke_width=stroke_of(font))
    x1, y1, x2, y2 = mark.place
    reach = stroke_of(font) + 2
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


def _draw_caption(layer: Image.Image, caption: str, corner: tuple[float, float], font: Font) -> None:
    draw = ImageDraw.Draw(layer)
    draw.text(corner, caption, fill="white", font=font, stroke_width=stroke_of(font), stroke_fill="black")


def faded(opacity: float) -> list[int]:
    """What each level of a channel becomes at an opacity, for Pillow's ``point``."""
    return [round(alpha * opacity) for alpha in range(256)]


def stroke_of(font: Font) -> int:
    """Width of the dark line around the letters of a caption."""
    return max(1, round(font.size / 8))


def _line_width(font: Font) -> int:
    return round(font.size / 5)
