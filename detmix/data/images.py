"""Image files into tensors, whatever their format and mode.

Pillow reads them all, and tells a truncated file from a whole one. On 640x480 JPEGs torchvision's decoder
is a third faster, but deprecated since 0.29; OpenCV's is a fifth faster, but knows fewer modes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from .paths import read_file

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode an image file.

    Greyscale is repeated, CMYK converted, 16-bit scaled to 8 bits, alpha dropped, and the EXIF
    orientation applied.

    Args:
        path: the file, of any format that Pillow reads, but for EPS, which is a program.
        size: (H, W) that the annotations state. An image that has this size only without its EXIF
            orientation is left as stored, because so it was annotated.

    Returns:
        (3, H, W) uint8 tensor, RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is corrupt, truncated or not an image, or its size is not the stated one.
    """
    path = Path(path)
    return decode_image(read_file(path), size, name=path)


def decode_image(data: bytes, size: tuple[int, int] | None = None, *, name: str | Path) -> Tensor:
    """Decode the content of an image file; see ``read_image``.

    Args:
        data: what the file holds.
        size: as for ``read_image``.
        name: what errors call it.
    """
    with _naming(name):
        image = Image.open(BytesIO(data))
        if image.format == "EPS":  # Pillow would have Ghostscript run it
            raise ValueError("EPS files are not read")
    stored = (image.height, image.width)
    if size is not None and sorted(size) != sorted(stored):  # before memory is taken for as many pixels as it claims
        raise ValueError(_disagreement(name, size, stored))
    with _naming(name):
        image.load()
    return convert_image(image, size, name=name)


def convert_image(image: Image.Image, size: tuple[int, int] | None = None, *, name: str | Path) -> Tensor:
    """Turn an image that Pillow has opened into a tensor; see ``read_image``.

    Args:
        image: the image; it may be turned upright in place.
        size: as for ``read_image``.
        name: what errors call it.
    """
    with _naming(name):
        stored, upright = (image.height, image.width), _upright_size(image)
    if size is not None and tuple(size) not in (stored, upright):
        raise ValueError(_disagreement(name, size, upright))
    with _naming(name):
        if size is None or tuple(size) == upright:
            ImageOps.exif_transpose(image, in_place=True)
        pixels = np.asarray(_to_rgb(image))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image in pixels, EXIF orientation applied; only the header is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image.
    """
    path = Path(path)
    with path.open("rb") as file, _naming(path), Image.open(file) as image:
        return _upright_size(image)


@contextmanager
def _naming(name: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise ValueError(f"{name}: corrupt, truncated or not an image: {error}") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (image.width, image.height) if turned else (image.height, image.width)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_high_bytes(image)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about some transparent palettes
    return image.convert("RGB")


def _high_bytes(image: Image.Image) -> np.ndarray:
    """16-bit pixels as 8-bit ones, as Pillow itself does for 16-bit colour; its conversion of grey clips."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"pixels must be integers of 8 or 16 bits, got {values.min()} ... {values.max()}")
    return (values >> 8).astype(np.uint8)


def _disagreement(name: str | Path, stated: tuple[int, int], found: tuple[int, int]) -> str:
    return f"{name}: the annotations say {_words(stated)}, the image is {_words(found)}"


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]} high and {size[1]} wide"
