"""Pictures laid out in rows, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from ..arguments import check_count
from ..canvas import Image as AnyImage
from ..targets import Target
from .boxes import SHOWN, draw_boxes, to_picture
from .style import INK, PAPER, font_of, line_height

Sample: TypeAlias = tuple[AnyImage, Target]


def image_grid(
    images: Sequence[AnyImage],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    title: str | None = None,
    *,
    cell: int = 512,
) -> Image.Image:
    """Lay pictures out in rows, each with its caption below it.

    Args:
        images: as ``draw_boxes`` takes them; of any sizes, at least one.
        captions: one for each image; long ones are broken into lines.
        columns: pictures in a row, at most.
        title: written above the grid.
        cell: longest side of a picture in pixels; larger ones are scaled down to it.

    Raises:
        ValueError: no images, columns or cell below 1, or another number of captions than of images.
        TypeError: cell is not an integer.
    """
    if not images or columns < 1:
        raise ValueError(f"a grid needs at least one image and one column, got {len(images)} and {columns}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"got {len(captions)} captions for {len(images)} images")
    cell = check_count("cell", cell, least=1)
    font, gap = font_of(max(16, cell / 22)), max(8, cell // 40)
    pictures = [_shrink(image, cell) for image in images]
    width = max(p.width for p in pictures)
    cells = [_labelled(p, t, width, font) for p, t in zip(pictures, captions or [""] * len(pictures), strict=True)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    grid = _stack([_stack(row, gap, across=True) for row in rows], gap)
    heading = [_text_block(title, grid.width, font_of(font.size * 1.3))] if title else []
    return _framed(_stack([*heading, grid], gap), gap)


def lambda_grid(
    sample_a: Sample,
    sample_b: Sample,
    mix: Callable[..., Sample],
    lams: Iterable[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """One pair of images blended at each ratio, with its weighted boxes.

    Args:
        sample_a: image and target; its share is lam.
        sample_b: the other; its share is 1 - lam.
        mix: ``detmix.mix_pair`` or a function called like it:
            ``mix(image_a, target_a, image_b, target_b, lam=lam) -> (image, target)``.
        lams: the ratios, in [0, 1].
        class_names: as in ``draw_boxes``.
    """
    ratios = list(lams)
    blends = [mix(*sample_a, *sample_b, lam=lam) for lam in ratios]
    pictures = [draw_boxes(image, target, class_names, max_side=SHOWN) for image, target in blends]
    captions = [f"λ = {lam:g}" for lam in ratios]
    return image_grid(
        pictures,
        captions,
        columns=3,
        title="One pair at each ratio: λ is the share of image A, and the weight of its boxes",
    )


def _shrink(image: AnyImage, longest: int) -> Image.Image:
    picture = to_picture(image)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture


def _labelled(picture: Image.Image, caption: str, width: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    cell = _stack([picture, _text_block(caption, width, font)], 4) if caption else picture
    page = Image.new("RGB", (width, cell.height), PAPER)
    page.paste(cell)
    return page


def _text_block(text: str, width: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    lines, height = _broken(text, width, font), line_height(font)
    block = Image.new("RGB", (width, height * len(lines)), PAPER)
    for n, line in enumerate(lines):
        ImageDraw.Draw(block).text((0, n * height), line, fill=INK, font=font)
    return block


def _broken(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _stack(pictures: Sequence[Image.Image], gap: int, *, across: bool = False) -> Image.Image:
    steps = [p.width if across else p.height for p in pictures]
    breadth = max(p.height if across else p.width for p in pictures)
    length = sum(steps) + gap * (len(steps) - 1)
    page = Image.new("RGB", (length, breadth) if across else (breadth, length), PAPER)
    start = 0
    for picture, step in zip(pictures, steps, strict=True):
        page.paste(picture, (start, 0) if across else (0, start))
        start += step + gap
    return page


def _framed(picture: Image.Image, margin: int) -> Image.Image:
    page = Image.new("RGB", (picture.width + 2 * margin, picture.height + 2 * margin), PAPER)
    page.paste(picture, (margin, margin))
    return page
