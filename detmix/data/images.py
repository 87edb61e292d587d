"""Image files into tensors, whatever their format and mode.

Pillow reads them all, and tells a truncated file from a whole one. OpenCV decodes the common kind of JPEG in two thirds
of the time, to the same pixels; what it would not notice or not convert is left to Pillow. Within a JPEG both read on
where bytes are wrong, so zeros are looked for before. torchvision's decoder is as fast, but deprecated since 0.29.
``tools/benchmark.py sample`` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .jpeg import find_zeros
from .paths import read_file, require_file

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_AS_STORED = (None, 1)  # EXIF orientations that leave an image alone
_END_OF_JPEG = b"\xff\xd9"
PARTS = {  # of its size at which a JPEG can be decoded, and OpenCV's flag for it
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_GREY = [128, 128, 128]  # what OpenCV makes of the last pixel, and all that are missing before it


def read_image(path: str | Path, size: tuple[int, int] | None = None, *, reduce_to: int | None = None) -> Tensor:
    """Decode an image file.

    Greyscale is repeated, CMYK converted, 16-bit scaled to 8 bits, alpha dropped, and the EXIF
    orientation applied.

    Args:
        path: the file, of any format that Pillow reads, but for EPS, which is a program.
        size: (H, W) that the annotations state. An image that has this size only without its EXIF
            orientation is left as stored, because so it was annotated; a TIFF is upright always.
        reduce_to: given, a JPEG is decoded at a half, a quarter or an eighth of its size, as far as its shorter side
            keeps so many pixels, which takes less time; other formats keep their size.

    Returns:
        (3, H, W) uint8 tensor, RGB, reduced sides rounded up; its memory holds pixel after pixel, as decoders write it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is corrupt, truncated or not an image, its pixels are floats or integers of 32 bits, or its
            size is not the stated one; reduce_to is below 1. Not every damage within a JPEG can be told: see
            docs/faults.md.
        TypeError: reduce_to is not an integer.
    """
    check_reduce_to(reduce_to)
    path = Path(path)
    return decode_image(read_file(path), size, name=path, reduce_to=reduce_to)


def decode_image(
    data: bytes, size: tuple[int, int] | None = None, *, name: str | Path, reduce_to: int | None = None
) -> Tensor:
    """Decode the content of an image file; see ``read_image``.

    Args:
        data: what the file holds.
        size: as for ``read_image``.
        name: what errors call it.
        reduce_to: as for ``read_image``.
    """
    with _naming(name):
        image = Image.open(BytesIO(data))
        if image.format == "EPS":  # Pillow would have Ghostscript run it
            raise ValueError("EPS files are not read")
        if image.format in ("JPEG", "MPO") and (place := find_zeros(data)) is not None:
            raise ValueError(
                f"zeros stand in the place of its picture from byte {place} on, as a failing disk leaves them"
            )
    stored = (image.height, image.width)
    if size is not None and sorted(size) != sorted(stored):  # before memory is taken for as many pixels as it claims
        raise ValueError(_disagreement(name, size, stored))
    turned = _is_to_be_turned(image, size, name)
    part = _part(stored, reduce_to, turned=turned)
    pixels = None if turned else _decode_plain_jpeg(image, data, part)
    if pixels is not None:
        return _to_tensor(pixels)
    with _naming(name):
        if part > 1:
            image.draft(None, (image.width // part, image.height // part))
        image.load()
        return _finish(image, turned=turned)


def convert_image(image: Image.Image, size: tuple[int, int] | None = None, *, name: str | Path) -> Tensor:
    """Turn an image that Pillow has opened into a tensor; see ``read_image``.

    Args:
        image: the image; it may be turned upright in place.
        size: as for ``read_image``.
        name: what errors call it.
    """
    turned = _is_to_be_turned(image, size, name)
    with _naming(name):
        return _finish(image, turned=turned)


def check_reduce_to(pixels: int | None) -> None:
    """Raise TypeError or ValueError unless it is None or a number of pixels that a side can have."""
    if pixels is not None and not isinstance(pixels, (int, np.integer)):
        raise TypeError(f"reduce_to must be an integer or None, got {pixels!r}")
    if pixels is not None and pixels < 1:
        raise ValueError(f"reduce_to must be 1 or more pixels, or None, got {pixels}")


def _part(size: tuple[int, int], reduce_to: int | None, *, turned: bool) -> int:
    """Which part of its size a JPEG is decoded at, 1 for the whole, 2, 4 or 8.

    Each pixel stands for a square of so many, from the top left on. Where the last ones would stand for less and come
    first when the image is turned, it is not reduced so far.
    """
    parts = (part for part in PARTS if reduce_to is not None and min(size) // part >= reduce_to)
    return max((part for part in parts if not turned or all(side % part == 0 for side in size)), default=1)


def _decode_plain_jpeg(image: Image.Image, data: bytes, part: int) -> np.ndarray | None:
    """(H, W, 3) of a JPEG in colour or grey that seems whole, as it is stored; None for any other image."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or not data.endswith(_END_OF_JPEG):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | PARTS[part]
    pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None if pixels is None or pixels[-1, -1].tolist() == _GREY else pixels


def _is_to_be_turned(image: Image.Image, size: tuple[int, int] | None, name: str | Path) -> bool:
    """Whether there is an EXIF orientation that is to be applied; refuse another size than stated."""
    with _naming(name):
        stored, upright = (image.height, image.width), _upright_size(image)
        orientation = _orientation(image)
    if size is not None and tuple(size) not in (stored, upright):
        raise ValueError(_disagreement(name, size, upright))
    return orientation not in _AS_STORED and (size is None or tuple(size) == upright)


def _finish(image: Image.Image, *, turned: bool) -> Tensor:
    if turned:
        ImageOps.exif_transpose(image, in_place=True)
    return _to_tensor(np.array(_to_rgb(image)))


def size_in_header(path: str | Path) -> tuple[int, int]:
    """Height and width of an image in pixels, EXIF orientation applied; only the header is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image.
    """
    path = Path(path)
    require_file(path)
    with path.open("rb") as file, _naming(path), Image.open(file) as image:
        return _upright_size(image)


def content_size(data: bytes, *, name: str | Path) -> tuple[int, int]:
    """The same of the content of an image file, which errors call by a name."""
    with _naming(name), Image.open(BytesIO(data)) as image:
        return _upright_size(image)


@contextmanager
def _naming(name: str | Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # says nothing of the file
        raise
    except UnidentifiedImageError as error:  # whose text tells but an address in memory
        raise ValueError(f"{name}: corrupt, truncated or not an image: none of a known format") from error
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise ValueError(f"{name}: corrupt, truncated or not an image: {error}") from error


def _orientation(image: Image.Image) -> int | None:
    if image.format == "TIFF":  # Pillow itself turns it, and its size is upright before
        return None
    return image.getexif().get(ExifTags.Base.Orientation)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = _orientation(image) in _TURNED
    return (image.width, image.height) if turned else (image.height, image.width)


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_high_bytes(image)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about some transparent palettes
    return image.convert("RGB")


def _high_bytes(image: Image.Image) -> np.ndarray:
    """16-bit pixels as 8-bit ones, as Pillow itself does for 16-bit colour; its conversion of grey clips."""
    values = np.asarray(image)
    if image.mode.startswith("F") or (image.mode == "I" and not _has_sixteen_bits(image)) or values.min() < 0:
        raise ValueError(f"pixels must be integers of 8 or 16 bits, 0 or more, got {values.min()} in {values.dtype}")
    return (values >> 8).astype(np.uint8)


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Whether an image that Pillow gives in 32 bits is stored in 16: a PGM, or a TIFF of signed numbers."""
    stored = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample)
    return image.format == "PPM" or (stored is not None and set(stored) == {16})


def _disagreement(name: str | Path, stated: tuple[int, int], found: tuple[int, int]) -> str:
    return f"{name}: the annotations say {_words(stated)}, the image is {_words(found)}"


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]} high and {size[1]} wide"
