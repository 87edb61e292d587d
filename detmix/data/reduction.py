"""Targets of images that are decoded at a part of their size.

Letters used below: N objects of one image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..targets import Target
from .images import PARTS


def reduce_target(target: Target, size: tuple[int, int], reduced: tuple[int, int]) -> Target:
    """The target of an image that ``read_image`` may have reduced.

    A pixel of such an image stands for a square of 2, 4 or 8 pixels a side, counted from the top left.

    Args:
        target: boxes (N, 4) xyxy in pixels, area (N,) in square pixels, and masks (N, H, W) and keypoints (N, P, 3) if
            it has them.
        size: (H, W) as annotated.
        reduced: (H, W) of the image; each side is that of ``size`` divided by one of ``PARTS`` and rounded up.

    Returns:
        The target itself if the sizes are the same; otherwise a copy with these keys scaled. A pixel of a mask is that
        in the middle of its square. Keypoints stay where they are in the picture, as where ``Augment`` resizes it.

    Raises:
        ValueError: the image is of no such size.
    """
    part = next((part for part in PARTS if tuple(-(-side // part) for side in size) == tuple(reduced)), None)
    if part is None:
        raise ValueError(f"an image of {tuple(reduced)} pixels is no part of one that is annotated as {tuple(size)}")
    if part == 1:
        return target
    scaled = {**target, "boxes": target["boxes"] / part, "area": target["area"] / part**2}
    if "masks" in target:
        scaled["masks"] = _middles(target["masks"], part)
    if "keypoints" in target:
        middle = torch.tensor([0.5, 0.5, 0.0])  # of a pixel, whose index its keypoints have
        scaled["keypoints"] = (target["keypoints"] + middle) / torch.tensor([part, part, 1]) - middle
    return scaled


def _middles(masks: Tensor, part: int) -> Tensor:
    rows, columns = (torch.arange(0, side, part).add_(part // 2).clamp_(max=side - 1) for side in masks.shape[1:])
    return masks[:, rows[:, None], columns]
