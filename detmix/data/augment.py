"""torchvision's v2 transforms on detection samples, every per-object key in step with the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..targets import Target, object_keys


def to_tv_tensors(image: Tensor, target: Target) -> tuple[tv_tensors.Image, Target]:
    """Wrap a sample so that torchvision's v2 transforms know what is what.

    Args:
        image: (C, H, W) tensor.
        target: the dict described in :mod:`detmix.targets`.

    Returns:
        The image as ``tv_tensors.Image`` and a target with ``boxes`` as ``tv_tensors.BoundingBoxes``, and
        ``masks``, if any, as ``tv_tensors.Mask``; the other keys as they are. Memory is shared.

    Raises:
        ValueError: the target has keypoints, which v2 would leave where they are.
    """
    if "keypoints" in target:
        raise ValueError(
            "v2 transforms do not move keypoints of shape (N, P, 3): use detmix.data.transforms.Albumentations instead"
        )
    size = (image.shape[-2], image.shape[-1])
    wrapped = {**target, "boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)}
    if "masks" in target:
        wrapped["masks"] = tv_tensors.Mask(target["masks"])
    return tv_tensors.Image(image), wrapped


def to_tensors(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Undo ``to_tv_tensors``: plain tensors everywhere."""
    return _plain(image), {key: _plain(value) for key, value in target.items()}


class Augment:
    """Runs torchvision v2 transforms on (image, target) and clears boxes that were cut away."""

    def __init__(self, transforms: Sequence[nn.Module] | None = None) -> None:
        """Compose the transforms.

        Args:
            transforms: v2 transforms, applied in order; a horizontal flip half of the time unless given.
        """
        chosen = [v2.RandomHorizontalFlip()] if transforms is None else list(transforms)
        clean = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=object_keys)]
        self.compose = v2.Compose([*chosen, *clean])

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Transform one sample: (C, H, W) tensor and target in, the same kinds out."""
        return to_tensors(*self.compose(*to_tv_tensors(image, target)))


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value
