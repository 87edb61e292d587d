"""Pictures as they travel: small, and understood by every browser."""

from __future__ import annotations

import base64
import io
from typing import TypeAlias

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

Picture: TypeAlias = Image.Image | Figure

_QUALITY = 80  # of WebP, in which a photograph with boxes takes an eighth of its PNG
_SMALL = 1 << 16  # bytes of an SVG that are not worth the time to draw a PNG beside it


def data_url(picture: Picture, longest: int = 640) -> str:
    """A picture as a ``data:`` URL, for a page that needs nothing beside it.

    Args:
        picture: a photograph, which becomes WebP; or a plot, which becomes SVG, or PNG where the SVG is large and the
            PNG smaller.
        longest: longest side of a photograph in pixels; a larger one is scaled down to it.
    """
    kind, content = _plot(picture) if isinstance(picture, Figure) else _photograph(picture, longest)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _photograph(picture: Image.Image, longest: int) -> tuple[str, bytes]:
    copy = picture.convert("RGB")
    copy.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    copy.save(buffer, format="WEBP", quality=_QUALITY)
    return "webp", buffer.getvalue()


def _plot(figure: Figure) -> tuple[str, bytes]:
    vector, pixels = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "detmix"}):  # otherwise ids are random, and so the bytes
        figure.savefig(vector, format="svg", metadata={"Date": None})
    kinds = {"svg+xml": vector.getvalue()}
    if len(kinds["svg+xml"]) > _SMALL:
        figure.savefig(pixels, format="png", dpi=150)
        kinds["png"] = pixels.getvalue()
    smallest = min(kinds, key=lambda kind: len(kinds[kind]))
    return smallest, kinds[smallest]
