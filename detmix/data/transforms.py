"""Bridges to augmentation libraries that keep every per-object key in step with its box.

:class:`Albumentations` runs albumentations transforms on a sample. For torchvision's v2 transforms, wrap a
sample with :func:`detmix.data.to_tv_tensors` and let ``SanitizeBoundingBoxes`` know of all keys:

    pipeline = v2.Compose([
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(labels_getter=detmix.object_keys),
    ])
    image, target = pipeline(*to_tv_tensors(image, target))
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from ..draws import AUGMENTATION, generator_at
from ..targets import Target, require_xyxy, select_objects

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # a look-up on the network at every import
import albumentations as A  # noqa: E402  it reads that variable when imported

# pixels; without it a box that left the image lives on as a line, a rounding error wide, for a rotation to widen
_SLIVER = 1e-3


class Albumentations:
    """Albumentations transforms as a callable on samples: ``image, target = augment(image, target)``.

    Boxes, masks and keypoints are transformed; all other per-object keys (labels, weights, sources, your
    own) follow their box, and leave with it when less than a thousandth of a pixel of its width or height
    is left. Boxes keep their fractions of a pixel. A keypoint that leaves the image gets visibility 0; left
    and right are not swapped by a flip.

    Args:
        transforms: albumentations transforms, in order.
        min_visibility: drops a box of which one transform leaves less than this share of its area.
        min_area: drops a box that a transform leaves smaller than this, in square pixels.
        seed: given, the draws depend on it, the epoch and the target's ``image_id`` alone, whatever the
            number of workers; call :meth:`set_epoch` before each epoch, or they repeat. Left out, every
            call draws anew, in every worker.
    """

    def __init__(
        self,
        transforms: Sequence[A.BasicTransform | A.BaseCompose],
        *,
        min_visibility: float = 0.0,
        min_area: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that already run see it change
        boxes = A.BboxParams(
            format="albumentations",
            label_fields=["rows"],
            min_visibility=min_visibility,
            min_area=min_area,
            min_width=_SLIVER,
            min_height=_SLIVER,
            clip=True,
            filter_invalid_bboxes=True,
        )
        points = A.KeypointParams(format="xy", remove_invisible=False)
        # NoOp takes every kind of target, so boxes are filtered after a list that has only colour changes too
        self._compose = A.Compose([*transforms, A.NoOp()], bbox_params=boxes, keypoint_params=points)

    def set_epoch(self, epoch: int) -> None:
        """Move on to the draws of an epoch; seen by workers that already run."""
        self._epoch.fill_(epoch)

    def __call__(self, image: Any, target: Target) -> tuple[Any, Target]:
        """Augment a sample; the inputs are left untouched.

        Args:
            image: (C, H, W) tensor or (H, W, C) array, uint8, or float32 in [0, 1].
            target: the dict described in :mod:`detmix.targets`; masks (N, H, W), keypoints (N, P, 3).

        Returns:
            An image of the kind given, and a new target.

        Raises:
            TypeError: the image is neither a tensor nor an array, or a transform makes it another kind.
            ValueError: there is a seed, and the target has no ``image_id``; boxes are not in xyxy.
        """
        require_xyxy(target["boxes"])
        pixels = _to_array(image)
        height, width = pixels.shape[:2]
        boxes = target["boxes"].as_subclass(Tensor).double().numpy()
        data: dict[str, Any] = {
            "image": pixels,
            "bboxes": boxes / [width, height, width, height],
            "rows": np.arange(len(boxes)),
        }
        if len(boxes):
            data.update(_masks_and_points(target))
        self._draw_from(self._generator(target))
        result = self._compose(**data)
        return _from_array(result["image"], image), _gather(target, result)

    def _generator(self, target: Target) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng()
        if "image_id" not in target:
            raise ValueError(f"a seed needs targets with an image_id to draw for, got the keys {sorted(target)}")
        return generator_at(self.seed, int(self._epoch), int(target["image_id"]), AUGMENTATION)

    def _draw_from(self, generator: np.random.Generator) -> None:
        self._compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))


def _to_array(image: Any) -> NDArray[Any]:
    """The image as an (H, W, C) array of its own memory."""
    if isinstance(image, Tensor):
        return image.as_subclass(Tensor).permute(1, 2, 0).numpy().copy()
    if isinstance(image, np.ndarray):
        return image.copy()
    raise TypeError(f"image must be a (C, H, W) tensor or an (H, W, C) array, got {type(image).__name__}")


def _from_array(pixels: Any, like: Any) -> Any:
    if not isinstance(pixels, np.ndarray):
        raise TypeError(
            f"the transforms must leave the image an array, got {type(pixels).__name__}: "
            "take ToTensorV2 out, the image comes back as the kind that it was"
        )
    if isinstance(like, np.ndarray):
        return pixels
    return _like(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), like)


def _masks_and_points(target: Target) -> dict[str, NDArray[Any]]:
    data = {}
    if "masks" in target:
        masks = target["masks"].as_subclass(Tensor)
        data["masks"] = (masks if masks.is_floating_point() else masks.to(torch.uint8)).numpy()
    if "keypoints" in target:
        data["keypoints"] = target["keypoints"].as_subclass(Tensor)[..., :2].reshape(-1, 2).numpy()
    return data


def _gather(target: Target, result: dict[str, Any]) -> Target:
    """The objects whose boxes came through, with what was transformed in place of what was given."""
    height, width = result["image"].shape[:2]
    corners = torch.from_numpy(np.asarray(result["bboxes"]) * [width, height, width, height])
    boxes = corners.to(target["boxes"].dtype)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a sliver may round to nothing
    rows = torch.as_tensor(result["rows"], dtype=torch.int64)[kept]
    gathered = select_objects(target, rows)
    gathered["boxes"] = _boxes_like(boxes[kept], target["boxes"], (height, width))
    if "masks" in target:
        masks = torch.from_numpy(result["masks"])[rows] if len(rows) else torch.zeros(0, height, width)
        gathered["masks"] = _like(masks.to(target["masks"].dtype), target["masks"])
    if "keypoints" in result:
        moved = torch.from_numpy(result["keypoints"]).reshape(len(target["boxes"]), -1, 2)[rows]
        gathered["keypoints"] = _move_points(gathered["keypoints"], moved, (height, width))
    return gathered


def _boxes_like(boxes: Tensor, like: Tensor, size: tuple[int, int]) -> Tensor:
    if isinstance(like, tv_tensors.BoundingBoxes):
        return tv_tensors.BoundingBoxes(boxes, format=like.format, canvas_size=size)
    return boxes


def _like(tensor: Tensor, like: Any) -> Tensor:
    return tv_tensors.wrap(tensor, like=like) if isinstance(like, tv_tensors.TVTensor) else tensor


def _move_points(points: Tensor, moved: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (N, P, 3) at their new places (N, P, 2); those outside the image lose their visibility."""
    inside = ((moved >= 0) & (moved < torch.tensor([size[1], size[0]]))).all(-1)
    return torch.cat([moved.to(points.dtype), (points[..., 2] * inside)[..., None]], dim=-1)
