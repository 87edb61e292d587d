"""Keypoints on their way through transforms: which of them are still seen, and whether the image became a mirror image.

Letters: N objects, P keypoints of each, H and W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PROBES = 3  # points of a right angle, which turns the other way in a mirror image


def right_angle(size: tuple[int, int]) -> Tensor:
    """Three points in the middle of an image of (H, W): (3, 2) float64."""
    height, width = size
    x, y = (width - 1) / 2, (height - 1) / 2
    return torch.tensor([[x, y], [x + width / 4, y], [x, y + height / 4]], dtype=torch.float64)


def is_mirrored(probes: Tensor) -> bool:
    """Whether the right angle, (3, 2), turns the other way now, whatever else was done to it."""
    (a, b), (c, d) = (probes[1:] - probes[0]).tolist()
    return a * d < b * c


def inside(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Which of the points (..., 2) lie in a pixel of an image of (H, W): bool, False for NaN."""
    pixels = places + 0.5  # a point is the middle of its pixel
    return ((pixels >= 0) & (pixels < pixels.new_tensor(size[::-1]))).all(-1)


def joined(places: Tensor, visibility: Tensor, size: tuple[int, int]) -> Tensor:
    """Keypoints (N, P, 3) of the places (N, P, 2) where they are now, of the dtype of their visibility (N, P).

    Those outside the image of (H, W) lose their visibility, and so do those that were lost on the way, whose places
    are NaN and become -1.
    """
    known = torch.where(places.isnan(), -1.0, places)
    known = known if visibility.is_floating_point() else known.round()
    seen = visibility * inside(places, size).to(visibility.device)
    return torch.cat([known.to(visibility), seen[..., None]], dim=-1)


def exchanged(keypoints: Tensor, mirrored: Sequence[int]) -> Tensor:
    """Keypoints (N, P, 3) of a mirror image under the names that they have there."""
    return keypoints[:, list(mirrored)]


def check_keypoints(keypoints: Tensor, objects: int, mirrored: Sequence[int] | None = None) -> None:
    """Raise an error unless there are keypoints (N, P, 3) for so many objects, with P places in ``mirrored``."""
    if not isinstance(keypoints, Tensor):
        raise TypeError(f"keypoints must be a tensor of shape ({objects}, P, 3), got {type(keypoints).__name__}")
    if keypoints.ndim != 3 or keypoints.shape[0] != objects or keypoints.shape[2] != 3:
        raise ValueError(f"keypoints must have shape ({objects}, P, 3), one row for each box, got {_shape(keypoints)}")
    if mirrored is not None and len(mirrored) != keypoints.shape[1]:
        raise ValueError(f"mirrored has {len(mirrored)} places, and keypoints have the shape {_shape(keypoints)}")


def _shape(values: Tensor) -> tuple[int, ...]:
    return tuple(values.shape)
