"""Images of any kind on a common canvas: what their size is, and how two of them are blended or joined.

Kinds: (C, H, W) tensor, plain or ``tv_tensors.Image``; (H, W, C) or (H, W) numpy array; PIL image.
The kind that comes is the kind that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from .targets import plain, wrap_like

Image: TypeAlias = Tensor | np.ndarray | PILImage.Image
Region: TypeAlias = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 exclusive

_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TO_FLOAT = "scale it to floats in [0, 1], which detectors take"
_DTYPES_OF_NUMPY = (np.uint8, np.float32, np.float64)
_COLOURS, _NO_CHANNELS = 4, 16  # a shape is in the wrong order if so few stand where pixels should, and so many not
_PIL_MODES = ("L", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


def image_size(image: Image) -> tuple[int, int]:
    """(H, W) of an image, in pixels."""
    if isinstance(image, Tensor):
        return image.shape[-2], image.shape[-1]
    return (image.height, image.width) if isinstance(image, PILImage.Image) else image.shape[:2]


def canvas_size(image_a: Image, image_b: Image) -> tuple[int, int]:
    """(H, W) of the canvas that holds two images, each at the top left, in pixels."""
    return enclosing(image_size(image_a), image_size(image_b))


def enclosing(size_a: tuple[int, int], size_b: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the canvas that holds images of two sizes (H, W)."""
    return max(size_a[0], size_b[0]), max(size_a[1], size_b[1])


def require_same_kind(image_a: Image, image_b: Image) -> None:
    """Raise unless two images are of one supported kind.

    Raises:
        TypeError: a kind or dtype is not supported, or they differ.
        ValueError: the shapes are not those of images, or the channel counts or modes differ.
    """
    for image in (image_a, image_b):
        require_supported(image)
    if _kind(image_a) != _kind(image_b):
        kinds = f"{_describe(image_a)} and {_describe(image_b)}"
        raise TypeError(f"both images must be of one kind and dtype, got {kinds}")
    channels_a, channels_b = _channels(image_a), _channels(image_b)
    if channels_a != channels_b:
        raise ValueError(f"both images must have the same channels, got {channels_a} and {channels_b}")


def blend(image_a: Image, image_b: Image, lam: float) -> Any:
    """``lam * A + (1 - lam) * B`` on a zero canvas that holds both, each at the top left.

    Args:
        image_a: an image that ``require_same_kind`` accepts together with image_b.
        image_b: the other one.
        lam: weight of image A, in [0, 1].

    Returns:
        The canvas, of the same kind and dtype; integers are rounded to nearest. A tensor lies in memory as A does,
        colour by colour or pixel by pixel.
    """
    if isinstance(image_a, Tensor):
        assert isinstance(image_b, Tensor)
        return wrap_like(_blend_tensors(plain(image_a), plain(image_b), lam), image_a)
    if isinstance(image_a, np.ndarray):
        assert isinstance(image_b, np.ndarray)
        return _blend_arrays(image_a, image_b, lam)
    return to_pil(_blend_arrays(np.asarray(image_a), np.asarray(image_b), lam), image_a.mode)


def paste(image_a: Image, image_b: Image | None, region: Region) -> Any:
    """A with the pixels of B inside a region, on a zero canvas that holds both, each at the top left.

    Args:
        image_a: an image that ``require_supported`` accepts.
        image_b: one that ``require_same_kind`` accepts together with it; None leaves the region zero.
        region: where B shows, on the canvas; zero where B has no pixels.

    Returns:
        The canvas, of the kind and dtype of image_a, in memory as by ``blend``.
    """
    if isinstance(image_a, PILImage.Image):
        return to_pil(
            _paste(np.asarray(image_a), None if image_b is None else np.asarray(image_b), region), image_a.mode
        )
    if isinstance(image_a, np.ndarray):
        return _paste(image_a, image_b, region)
    assert not isinstance(image_b, (np.ndarray, PILImage.Image))
    return wrap_like(_paste(plain(image_a), None if image_b is None else plain(image_b), region), image_a)


def _paste(image_a: Any, image_b: Any, region: Region) -> Any:
    """The same for a plain tensor or array."""
    height, width = image_size(image_a) if image_b is None else canvas_size(image_a, image_b)
    if isinstance(image_a, Tensor):
        canvas: Any = _canvas_like(image_a, (height, width), image_a.dtype).zero_()
    else:
        canvas = np.zeros((height, width, *image_a.shape[2:]), image_a.dtype)
    x1, y1, x2, y2 = region
    _window(canvas, 0, 0, *image_size(image_a))[...] = image_a
    _window(canvas, y1, x1, y2, x2)[...] = 0
    if image_b is not None:
        patch = _window(image_b, y1, x1, y2, x2)
        patch_height, patch_width = image_size(patch)
        _window(canvas, y1, x1, y1 + patch_height, x1 + patch_width)[...] = patch
    return canvas


def _window(image: Any, y1: int, x1: int, y2: int, x2: int) -> Any:
    """A view of a part of a plain tensor or array; what lies outside the image is left out."""
    return image[:, y1:y2, x1:x2] if isinstance(image, Tensor) else image[y1:y2, x1:x2]


def to_pil(pixels: np.ndarray, mode: str) -> PILImage.Image:
    """The PIL image of a mode whose pixels are an (H, W, C) or (H, W) array of uint8."""
    return PILImage.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


@cache
def compiled_blend() -> Callable[[np.ndarray, np.ndarray, np.ndarray, float], None]:
    """What blends uint8 images; see ``blend_rows``. The first call in a process takes about a second.

    What blends calls it when it is made, such as a data set, so that workers forked later have it.
    """
    from .compiled import blend_rows

    return blend_rows


def _blend_tensors(image_a: Tensor, image_b: Tensor, lam: float) -> Tensor:
    if image_a.dtype == torch.uint8 and image_a.device.type == "cpu":
        return torch.from_numpy(_blend_bytes(image_a.numpy(), image_b.numpy(), lam))
    return _blend_floats(image_a, image_b, lam)


def _blend_arrays(image_a: np.ndarray, image_b: np.ndarray, lam: float) -> np.ndarray:
    """Blend (H, W, C) or (H, W) arrays."""
    if image_a.dtype == np.uint8 and image_a.ndim == 3:
        return _blend_bytes(image_a.transpose(2, 0, 1), image_b.transpose(2, 0, 1), lam).transpose(1, 2, 0)
    if image_a.dtype == np.uint8:
        return _blend_bytes(image_a[None], image_b[None], lam)[0]
    canvas = np.zeros(tuple(map(max, image_a.shape, image_b.shape)), image_a.dtype)
    for image, share in ((image_a, lam), (image_b, 1.0 - lam)):
        canvas[: image.shape[0], : image.shape[1]] += share * image
    return canvas


def _blend_bytes(image_a: np.ndarray, image_b: np.ndarray, lam: float) -> np.ndarray:
    """Blend (C, H, W) arrays of uint8; the canvas lies in memory as A does, colour by colour or pixel by pixel."""
    channels, height, width = map(max, image_a.shape, image_b.shape)
    if 0 < abs(image_a.strides[0]) < abs(image_a.strides[2]):
        canvas = np.empty((height, width, channels), np.uint8).transpose(2, 0, 1)
    else:
        canvas = np.empty((channels, height, width), np.uint8)
    rows: Sequence[np.ndarray] = (canvas, image_a, image_b)
    if all(map(_has_whole_pixels, rows)):
        rows = [image.transpose(1, 2, 0).reshape(1, image.shape[1], -1) for image in rows]
    to, first, second = rows
    compiled_blend()(to, first, second, lam)
    return canvas


def _has_whole_pixels(image: np.ndarray) -> bool:
    """Whether each row of a (C, H, W) array lies in memory pixel by pixel, without a gap."""
    per_colour, _, per_pixel = image.strides
    return per_colour == 1 and per_pixel == image.shape[0]


def _blend_floats(image_a: Tensor, image_b: Tensor, lam: float) -> Tensor:
    """Blend (C, H, W) tensors on any device, uint8 by way of float32."""
    dtype = image_a.dtype if image_a.is_floating_point() else torch.float32
    canvas = _canvas_like(image_a, canvas_size(image_a, image_b), dtype)
    _window(canvas, 0, 0, *image_size(image_a)).copy_(image_a)
    for gap in _around(canvas, image_a):
        gap.zero_()
    for rest in _around(canvas, image_b):
        rest.mul_(lam)
    # lerp sums in float32 or wider and rounds once, whatever the dtype
    _window(canvas, 0, 0, *image_size(image_b)).lerp_(image_b.to(dtype), 1.0 - lam)
    return canvas if image_a.is_floating_point() else canvas.round_().to(image_a.dtype)


def _canvas_like(image: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A canvas (C, H, W), not filled, that lies in memory as an image does, colour by colour or pixel by pixel."""
    channels = image.shape[0]
    if 0 < image.stride(0) < image.stride(2):  # 0 where one channel stands for all
        return image.new_empty((*size, channels), dtype=dtype).permute(2, 0, 1)
    return image.new_empty((channels, *size), dtype=dtype)


def _around(canvas: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Views of what lies below an image at the top left of a canvas, and of what lies to its right."""
    height, width = image_size(image)
    return canvas[:, height:], canvas[:, :height, width:]


def require_supported(image: Image) -> None:
    """Raise TypeError or ValueError unless an image is of a kind, dtype and shape that is supported."""
    if isinstance(image, Tensor):
        _require_tensor(image)
    elif isinstance(image, np.ndarray):
        _require_array(image)
    elif not isinstance(image, PILImage.Image):
        raise TypeError(f"an image must be a tensor, a numpy array or a PIL image, got {type(image).__name__}")
    elif image.mode not in _PIL_MODES:
        raise TypeError(f"a PIL image must be of mode {', '.join(_PIL_MODES)}, got {image.mode}: convert it first")


def _require_tensor(image: Tensor) -> None:
    shape = image.shape
    if len(shape) != 3:
        raise ValueError(f"an image that is a tensor must have shape (C, H, W), got {tuple(shape)}")
    _require_pixels(shape)
    if shape[2] <= _COLOURS and shape[0] > _NO_CHANNELS:
        way = "image.permute(2, 0, 1) turns (H, W, C) into it"
        raise ValueError(f"an image that is a tensor must have shape (C, H, W), got {tuple(shape)}: {way}")
    if image.dtype not in _DTYPES:
        wanted = "uint8, float16, bfloat16, float32 or float64"
        raise TypeError(f"an image that is a tensor must be of dtype {wanted}, got {image.dtype}: {_TO_FLOAT}")


def _require_array(image: np.ndarray) -> None:
    shape = image.shape
    if len(shape) not in (2, 3):
        raise ValueError(f"an image that is an array must have shape (H, W, C) or (H, W), got {shape}")
    _require_pixels(shape)
    if len(shape) == 3 and shape[0] <= _COLOURS and shape[2] > _NO_CHANNELS:
        way = "image.transpose(1, 2, 0) turns (C, H, W) into it"
        raise ValueError(f"an image that is an array must have shape (H, W, C), got {shape}: {way}")
    if image.dtype not in _DTYPES_OF_NUMPY:
        wanted = "uint8, float32 or float64"
        raise TypeError(f"an image that is an array must be of dtype {wanted}, got {image.dtype}: {_TO_FLOAT}")


def _require_pixels(shape: Sequence[int]) -> None:
    if 0 in shape:
        raise ValueError(f"an image must have at least one pixel and one channel, got shape {tuple(shape)}")


def _kind(image: Image) -> tuple[Any, ...]:
    if isinstance(image, Tensor):
        return type(image), image.dtype, image.device
    if isinstance(image, np.ndarray):
        return np.ndarray, image.dtype, image.ndim
    return PILImage.Image, image.mode


def _describe(image: Image) -> str:
    if isinstance(image, PILImage.Image):
        return f"PIL image of mode {image.mode}"
    if isinstance(image, np.ndarray):
        return f"numpy array of {image.dtype} in {image.ndim} dimensions"
    return f"{type(image).__name__} of {image.dtype} on {image.device}"


def _channels(image: Image) -> int:
    if isinstance(image, Tensor):
        return int(image.shape[0])
    return len(image.getbands()) if isinstance(image, PILImage.Image) else (*image.shape, 1)[2]
