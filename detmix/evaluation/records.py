"""What the evaluators work on: ground truth and detections in flat arrays.

Letters used in this folder: I images, G objects, D detections, M rows of either, K classes without background,
P keypoints of each object, T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Rows:
    """Boxes with their image and class.

    Attributes:
        images: (M,) int64, 0 ... I-1.
        labels: (M,) int64, 0 ... K-1.
        xywh: (M, 4) float64 in pixels, 0-based: COCO's boxes.
        corners: (M, 4) float64 xmin, ymin, xmax, ymax in pixels, 1-based, the last pixel included: VOC's boxes.
        areas: (M,) float64 in square pixels: the file's own, otherwise that of the box, or of the mask.
        masks: M compressed RLEs, where masks were asked for.
        keypoints: (M, P, 3) float64 x, y in pixels, 0-based, and visibility, where keypoints were asked for.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    xywh: NDArray[np.float64]
    corners: NDArray[np.float64]
    areas: NDArray[np.float64]
    masks: list[dict[str, Any]] | None
    keypoints: NDArray[np.float64] | None

    def __len__(self) -> int:
        """Number of rows, M."""
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Objects(Rows):
    """The objects of a ground truth.

    Attributes:
        crowd: (G,) bool, a region with many objects in it.
        difficult: (G,) bool.
        posed: (G,) bool, has visible keypoints; False for all where keypoints were not asked for.
    """

    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    posed: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Detections(Rows):
    """What a detector found, in the order given.

    Attributes:
        scores: (D,) float64.
        source: the file, or what else messages call it.
    """

    scores: NDArray[np.float64]
    source: str


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Images, classes and objects.

    Attributes:
        image_ids: (I,) int64, rising.
        file_names: I names, empty where the file has none.
        sizes: (I, 2) int64, height and width in pixels, 0 where the file has none.
        category_ids: (K,) int64, rising; or fewer, where the last classes go by their names alone.
        class_names: K names.
        objects: G of them, in the order given.
        source: the file, or what else messages call it.
    """

    image_ids: NDArray[np.int64]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    class_names: tuple[str, ...]
    objects: Objects
    source: str


def of_images(truth: GroundTruth, ids: Container[int]) -> GroundTruth:
    """The images of some ids, with their objects."""
    kept = np.array([image_id in ids for image_id in truth.image_ids.tolist()], dtype=np.bool_)
    if kept.all():
        return truth
    objects = truth.objects
    rows = np.flatnonzero(kept[objects.images])
    return replace(
        truth,
        image_ids=truth.image_ids[kept],
        file_names=tuple(name for name, wanted in zip(truth.file_names, kept.tolist(), strict=True) if wanted),
        sizes=truth.sizes[kept],
        objects=Objects(
            images=(kept.cumsum() - 1)[objects.images[rows]],
            labels=objects.labels[rows],
            xywh=objects.xywh[rows],
            corners=objects.corners[rows],
            areas=objects.areas[rows],
            masks=None if objects.masks is None else [objects.masks[row] for row in rows.tolist()],
            keypoints=None if objects.keypoints is None else objects.keypoints[rows],
            crowd=objects.crowd[rows],
            difficult=objects.difficult[rows],
            posed=objects.posed[rows],
        ),
    )


def corners_of(xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """COCO's boxes as VOC's, (M, 4)."""
    return np.concatenate([xywh[:, :2] + 1, xywh[:, :2] + xywh[:, 2:]], axis=1)


def xywh_of(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """VOC's boxes as COCO's, (M, 4)."""
    return np.concatenate([corners[:, :2] - 1, corners[:, 2:] - corners[:, :2] + 1], axis=1)
