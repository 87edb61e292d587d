"""The skeleton of one object, its keypoints and the lines between them, blended into a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from .marks import Font, Pixels, faded

Joints: TypeAlias = dict[int, tuple[float, float]]  # x and y in pixels of the picture, by the number of the keypoint

_BITS = 4  # behind the point of a coordinate, as OpenCV takes it


def draw_skeleton(
    canvas: Image.Image, joints: Joints, edges: Sequence[tuple[int, int]], color: str, opacity: float, font: Font
) -> None:
    """Blend dots, and lines where both ends are known, into the picture where they have ink."""
    line, radius = max(2, round(font.size / 8)), font.size / 6
    rim = max(1, round(font.size / 18))
    region = _region(joints, math.ceil(radius + rim) + 2, canvas.size)
    if region is None:
        return
    near = {number: (x - region[0], y - region[1]) for number, (x, y) in joints.items()}
    inner = _covered(near, edges, region, line, radius)
    outer = _covered(near, edges, region, line + 2 * rim, radius + rim)
    shares = inner[..., None] / 255
    layer = Image.fromarray((shares * ImageColor.getrgb(color)).round().astype(np.uint8))  # in a black rim
    layer.putalpha(Image.fromarray(np.maximum(inner, outer)).point(faded(opacity)))
    canvas.alpha_composite(layer, region[:2])


def _region(joints: Joints, reach: int, size: tuple[int, int]) -> Pixels | None:
    """The part of the picture that a skeleton may have ink in, if there is one."""
    if not joints:
        return None
    low, high = np.min([*joints.values()], axis=0), np.max([*joints.values()], axis=0)
    x1, y1 = (max(0, math.floor(least) - reach) for least in low)
    x2, y2 = (min(side, math.ceil(most) + reach) for most, side in zip(high, size, strict=True))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _covered(
    joints: Joints, edges: Sequence[tuple[int, int]], region: Pixels, line: int, radius: float
) -> NDArray[np.uint8]:
    """How much of each pixel lines and dots cover, up to 255."""
    covered = np.zeros((region[3] - region[1], region[2] - region[0]), np.uint8)
    places = {number: _fixed_point(place) for number, place in joints.items()}
    for start, end in edges:
        if start in places and end in places:
            cv2.line(covered, places[start], places[end], 255, line, cv2.LINE_AA, _BITS)
    for place in places.values():
        cv2.circle(covered, place, round(radius * 2**_BITS), 255, cv2.FILLED, cv2.LINE_AA, _BITS)
    return covered


def _fixed_point(place: tuple[float, float]) -> tuple[int, int]:
    """A place as OpenCV takes it: where 0 is the middle of the first pixel, within what it can draw."""
    x, y = (round(min(max(side - 0.5, -1e6), 1e6) * 2**_BITS) for side in place)
    return x, y
