"""Whether boxes are what COCO wants, [x, y, width, height] in pixels: all of them together tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bounds import EXACT

_LOOKED_AT = 20_000  # boxes, spread over the set
_OVERHANG = 1.1  # of the image's side: a box that reaches this far past its image was not meant so
_FEWEST = 5  # boxes that tell corners; a few may reach far past their image by mistake


def wrong_format(
    xywh: NDArray[np.float64], images: NDArray[np.int64], sizes: NDArray[np.integer]
) -> tuple[int, str] | None:
    """What boxes are to all appearance, if not xywh in pixels.

    They are corners if, read as xywh, three in ten reach far beyond their image, and, read as corners, nearly all lie
    within; fewer than five boxes tell nothing. They are shares of the image if there are several, with fractions, and
    no number is above 1.

    Args:
        xywh: (M, 4) boxes, valid or not.
        images: (M,) which image, 0 ... I-1.
        sizes: (I, 2), height and width of the images, 0 where not known; such images tell nothing.

    Returns:
        A row that shows it, and what is wrong; None if all is well.
    """
    rows = np.arange(0, len(xywh), -(-len(xywh) // _LOOKED_AT) or 1)
    rows = rows[(sizes[images[rows]] > 0).all(axis=1) & (np.abs(xywh[rows]) <= EXACT).all(axis=1)]  # no NaN either
    if len(rows) < 2:
        return None
    boxes, sides = xywh[rows], sizes[images[rows]][:, ::-1]  # (width, height)
    beyond = (boxes[:, :2] + boxes[:, 2:] > _OVERHANG * sides).any(axis=1)
    as_corners = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= sides + 1).all(axis=1)
    if len(rows) >= _FEWEST and beyond.mean() > 0.3 and as_corners.mean() > 0.99:
        row = int(rows[beyond.argmax()])
        return row, (
            "bbox must be [x, y, width, height], and these look like [x1, y1, x2, y2]: as the former "
            f"{beyond.sum()} of the {len(boxes)} looked at reach beyond their image, "
            f"as the latter nearly all lie within; got {xywh[row].tolist()}"
        )
    fractions = boxes[:, 2:].any() and (boxes % 1).any()
    if fractions and sides.min() > 16 and boxes.max() <= 1 and not (xywh > 1).any():
        row = int(rows[0])
        return row, (
            "bbox must be in pixels, and no number in it is above 1: are they shares of the image? "
            f"got {xywh[row].tolist()}"
        )
    return None
