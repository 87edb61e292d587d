"""What all pictures share: colours and lettering."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import ImageFont

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
"""Colours that people with any colour vision tell apart. Source: Okabe and Ito, Color Universal Design, 2008."""

PAPER, INK = "#ffffff", "#1b1b1b"


def font_of(size: float) -> ImageFont.FreeTypeFont:
    """The typeface that matplotlib brings along, which has Greek letters too; size in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", round(size))


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Pixels from one line of text to the next."""
    return sum(font.getmetrics())
