"""Images of any kind on a common canvas: what their size is, and how two of them are blended.

Kinds: (C, H, W) tensor, plain or ``tv_tensors.Image``; (H, W, C) or (H, W) numpy array; PIL image.
The kind that comes is the kind that leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torchvision import tv_tensors

Image: TypeAlias = Tensor | np.ndarray | PILImage.Image

_PIL_MODES = ("L", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


def image_size(image: Image) -> tuple[int, int]:
    """(H, W) of an image, in pixels."""
    if isinstance(image, PILImage.Image):
        return image.height, image.width
    height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
    return int(height), int(width)


def require_same_kind(image_a: Image, image_b: Image) -> None:
    """Raise unless two images are of one supported kind.

    Raises:
        TypeError: a kind or dtype is not supported, or they differ.
        ValueError: the shapes are not those of images, or the channel counts or modes differ.
    """
    for image in (image_a, image_b):
        _require_supported(image)
    kind_a, kind_b = _kind(image_a), _kind(image_b)
    if kind_a != kind_b:
        raise TypeError(f"both images must be of one kind and dtype, got {kind_a} and {kind_b}")
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
        The canvas, of the same kind and dtype; integers are rounded to nearest.
    """
    if isinstance(image_a, PILImage.Image):
        pixels = _blend_arrays(np.asarray(image_a), np.asarray(image_b), lam, planar=False)
        return PILImage.frombytes(image_a.mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    if isinstance(image_a, np.ndarray):
        assert isinstance(image_b, np.ndarray)
        return _blend_arrays(image_a, image_b, lam, planar=False)
    assert isinstance(image_b, Tensor)
    blended = _blend_tensors(image_a.as_subclass(Tensor), image_b.as_subclass(Tensor), lam)
    return tv_tensors.Image(blended) if isinstance(image_a, tv_tensors.Image) else blended


def _blend_tensors(image_a: Tensor, image_b: Tensor, lam: float) -> Tensor:
    if image_a.dtype == torch.uint8 and image_a.device.type == "cpu":
        return torch.from_numpy(_blend_arrays(image_a.numpy(), image_b.numpy(), lam, planar=True))
    dtype = image_a.dtype if image_a.is_floating_point() else torch.float32
    height, width = (max(sizes) for sizes in zip(image_size(image_a), image_size(image_b), strict=True))
    canvas = image_a.new_zeros((len(image_a), height, width), dtype=dtype)
    for image, share in ((image_a, lam), (image_b, 1.0 - lam)):
        canvas[:, : image.shape[1], : image.shape[2]].add_(image.to(dtype), alpha=share)
    return canvas if image_a.is_floating_point() else canvas.round_().to(image_a.dtype)


def _blend_arrays(image_a: np.ndarray, image_b: np.ndarray, lam: float, *, planar: bool) -> np.ndarray:
    """Blend (C, H, W) arrays if planar, else (H, W, C) or (H, W) ones, without a float detour."""
    shape = tuple(max(sides) for sides in zip(image_a.shape, image_b.shape, strict=True))
    canvas = (np.empty if image_a.shape == image_b.shape else np.zeros)(shape, image_a.dtype)
    for plane, plane_a, plane_b in zip(*(_planes(x, planar) for x in (canvas, image_a, image_b)), strict=True):
        _blend_planes(plane, plane_a, plane_b, lam)
    return canvas


def _planes(array: np.ndarray, planar: bool) -> Iterator[np.ndarray]:
    """The 2-D arrays an image consists of: one per channel, or one with interleaved channels."""
    return iter(array) if planar else iter([array.reshape(len(array), -1)])


def _blend_planes(canvas: np.ndarray, plane_a: np.ndarray, plane_b: np.ndarray, lam: float) -> None:
    height = min(len(plane_a), len(plane_b))
    width = min(plane_a.shape[1], plane_b.shape[1])
    shared = np.s_[:height, :width]
    _add_weighted(canvas[shared], plane_a[shared], lam, plane_b[shared], 1.0 - lam)
    for plane, share in ((plane_a, lam), (plane_b, 1.0 - lam)):
        for gap in (np.s_[: len(plane), width : plane.shape[1]], np.s_[height : len(plane), :width]):
            _add_weighted(canvas[gap], plane[gap], share, plane[gap], 0.0)


def _add_weighted(out: np.ndarray, first: np.ndarray, share: float, second: np.ndarray, rest: float) -> None:
    if out.size:
        cv2.addWeighted(first, share, second, rest, 0.0, dst=out)


def _require_supported(image: Image) -> None:
    if isinstance(image, PILImage.Image):
        if image.mode not in _PIL_MODES:
            raise TypeError(f"a PIL image must be of mode {', '.join(_PIL_MODES)}, got {image.mode}: convert it first")
        return
    if not isinstance(image, (Tensor, np.ndarray)):
        raise TypeError(f"an image must be a tensor, a numpy array or a PIL image, got {type(image).__name__}")
    if image.ndim != 3 and not (isinstance(image, np.ndarray) and image.ndim == 2):
        wanted = "(C, H, W)" if isinstance(image, Tensor) else "(H, W, C) or (H, W)"
        raise ValueError(f"an image must have shape {wanted}, got {tuple(image.shape)}")
    if isinstance(image, Tensor):
        supported = image.dtype == torch.uint8 or image.is_floating_point()
    else:
        supported = image.dtype in (np.uint8, np.float32, np.float64)
    if not supported:
        raise TypeError(f"an image must be of dtype uint8 or floating, got {image.dtype}")


def _kind(image: Image) -> str:
    if isinstance(image, PILImage.Image):
        return f"PIL image of mode {image.mode}"
    if isinstance(image, np.ndarray):
        return f"numpy array of {image.dtype} in {image.ndim} dimensions"
    return f"{type(image).__name__} of {image.dtype} on {image.device}"


def _channels(image: Image) -> int:
    if isinstance(image, PILImage.Image):
        return len(image.getbands())
    return int(image.shape[0] if isinstance(image, Tensor) else (*image.shape, 1)[2])
