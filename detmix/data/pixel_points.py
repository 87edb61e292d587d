"""Keypoints for torchvision's v2 transforms, moved as the pixels are that they lie in.

``tv_tensors.KeyPoints`` takes coordinates for indices of pixels where it flips, and for distances from the image's
edges, as those of boxes are, where it rotates or resizes, so that a point leaves its pixel. And a point that a crop
took away comes back when a later transform pads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .points import PROBES, inside, is_mirrored, right_angle

_Shift = Callable[[Tensor], Any]

_SUPPORTED = hasattr(v2, "SanitizeKeyPoints")  # since 0.24; 0.23 pushes points that leave the image to its border


def require_support() -> None:
    """Raise RuntimeError if torchvision is older than 0.24."""
    if not _SUPPORTED:
        raise RuntimeError(
            f"v2 transforms move keypoints from torchvision 0.24 on, got {torchvision.__version__}: "
            "detmix.data.transforms.Albumentations moves them with any"
        )


def pixel_points(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Keypoints (N, P, 2) of an image of (H, W), for v2 transforms.

    Args:
        places: x and y as indices of pixels.
        size: (H, W) of the image.

    Returns:
        ``tv_tensors.KeyPoints``, float64 on the CPU. What was outside of the image before a transform is NaN after it.

    Raises:
        RuntimeError: torchvision is older than 0.24.
    """
    require_support()
    return PixelPoints.of(places.to("cpu", torch.float64), size, mirror_image=False)


def moved_points(points: Any) -> tuple[Tensor, bool]:
    """What the transforms have made of ``pixel_points``: the places, and whether the image is a mirror image now.

    Raises:
        TypeError: a transform has put something else in their place, which does not tell of flips before it.
    """
    if not hasattr(points, "mirror_image"):
        raise TypeError(
            f"the transforms must leave keypoints what they are, got {type(points).__name__}: "
            "wrap the tensor that you make of them by keypoints.wrap(tensor, like=keypoints)"
        )
    return points.as_subclass(Tensor), points.mirror_image


if _SUPPORTED:

    class PixelPoints(tv_tensors.KeyPoints):
        """Points (..., 2) whose coordinates are indices of pixels under every transform.

        Attributes:
            canvas_size: (H, W) of their image.
            mirror_image: whether that is a mirror image by now, of an odd number of flips.
        """

        mirror_image: bool

        @classmethod
        def of(cls, places: Tensor, size: tuple[int, int], *, mirror_image: bool) -> PixelPoints:
            """Points as what they are, with what is known of their image."""
            points = places.as_subclass(cls)
            points.canvas_size, points.mirror_image = size, mirror_image
            return points

        @classmethod
        def wrap(cls, tensor: Tensor, like: PixelPoints, *, canvas_size: tuple[int, int] | None = None) -> PixelPoints:
            """A tensor as points of the image that others are of, for ``tv_tensors.wrap``."""
            return cls.of(tensor, canvas_size or like.canvas_size, mirror_image=like.mirror_image)

        @classmethod
        def _wrap_output(cls, output: Any, args: Any = (), kwargs: Any = None) -> Any:
            """The same for what ``clone``, ``to`` and others give that keep the kind of their first argument."""
            if isinstance(output, (tuple, list)):
                return type(output)(cls._wrap_output(part, args, kwargs) for part in output)
            if not isinstance(output, Tensor) or isinstance(output, cls):
                return output
            return cls.wrap(output, next(one for one in tree_leaves((args, kwargs)) if isinstance(one, cls)))

        def __getitem__(self, rows: Any) -> PixelPoints:
            """Some of the objects, as ``SanitizeBoundingBoxes`` takes them."""
            return self.wrap(self.as_subclass(Tensor)[rows], self)

    def _moved(functional: Any, shift_of: _Shift, points: PixelPoints, *args: Any, **kwargs: Any) -> PixelPoints:
        """What torchvision makes of points if it gets them in the coordinates that it takes them for."""
        places = points.as_subclass(Tensor)
        flat = torch.cat([places.reshape(-1, 2), right_angle(points.canvas_size)])
        shift = shift_of(flat)
        given = tv_tensors.KeyPoints(flat + shift, canvas_size=points.canvas_size)
        result = functional(given, *args, **kwargs)
        now = result.as_subclass(Tensor) - shift
        mirror_image = points.mirror_image != is_mirrored(now[-PROBES:])
        now = torch.where(inside(flat, points.canvas_size)[:, None], now, torch.nan)
        return PixelPoints.of(now[:-PROBES].reshape(places.shape), result.canvas_size, mirror_image=mirror_image)

    def _center_crop(points: Any, output_size: Any) -> Any:
        """As images are cropped, which are padded first where they are smaller."""
        size = F.center_crop(points, output_size).canvas_size
        below, beside = (max(0, new - old) for new, old in zip(size, points.canvas_size, strict=True))
        padded = F.pad(points, [beside // 2, below // 2, (beside + 1) // 2, (below + 1) // 2])
        return F.center_crop(padded, output_size)

    def _rotate(points: Any, angle: float, *, expand: bool = False, center: Any = None, **unused: Any) -> Any:
        """As images are turned, whose middle is that of the larger image too."""
        turned = F.rotate(points, angle, center=center)
        if not expand:
            return turned
        image = torch.empty(1, *points.canvas_size, device="meta")  # which takes no time, and tells the size
        size = F.rotate(image, angle, expand=True, center=center).shape[1:]
        growth = turned.new_tensor(size) - turned.new_tensor(points.canvas_size)
        return tv_tensors.KeyPoints(turned.as_subclass(Tensor) + growth.flip(0) / 2, canvas_size=tuple(size))

    def _no_shift(places: Tensor) -> float:
        return 0.0

    def _to_edges(places: Tensor) -> float:
        return 0.5

    def _to_whole_pixels(places: Tensor) -> Tensor:
        return places.round() - places

    _OWN = {F.center_crop: _center_crop, F.rotate: _rotate}  # where torchvision does not move points as it does images
    _KERNELS: dict[_Shift, tuple[Any, ...]] = {
        _no_shift: (F.horizontal_flip, F.vertical_flip),
        _to_edges: (F.affine, F.center_crop, F.crop, F.pad, F.perspective, F.resize, F.resized_crop, F.rotate),
        _to_whole_pixels: (F.elastic,),  # which looks its displacements up by pixel
    }
    for _shift, _functionals in _KERNELS.items():
        for _functional in _functionals:
            F.register_kernel(_functional, PixelPoints)(partial(_moved, _OWN.get(_functional, _functional), _shift))
