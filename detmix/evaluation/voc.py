"""Average precision by the rules of the PASCAL VOC development kit.

Letter: D detections of one class, over all images.

Source: Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, section 4.2, and
the kit's VOCevaldet.m and VOCap.m of 2007 and 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .curves import NO_OBJECTS, Curve, area_below, eleven_point_mean, ranked_curve
from .results import Source, read_ground_truth, read_predictions


@dataclass(frozen=True)
class VocResult:
    """What the VOC kit measures.

    Attributes:
        ap: mean of the classes' average precisions, in [0, 1]; classes without objects are left out, and
            it is -1 if all are.
        ap_by_class: average precision by class name; -1 for a class without objects that count.
        curves: recall and precision after each detection that counts, by rank, by class name; classes
            without objects are left out.
    """

    ap: float
    ap_by_class: dict[str, float]
    curves: dict[str, Curve]


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Boxes of one class, M of them."""

    images: np.ndarray  # (M,) int64
    corners: np.ndarray  # (M, 4) float64 xyxy
    values: np.ndarray  # (M,) scores of detections, or whether an object is ignored

    def __getitem__(self, rows: np.ndarray) -> _Boxes:
        return _Boxes(self.images[rows], self.corners[rows], self.values[rows])


def evaluate_voc(
    ground_truth: Source | dict[str, Any],
    predictions: Source | Sequence[dict[str, Any]],
    *,
    iou: float = 0.5,
    use_07_metric: bool = False,
) -> VocResult:
    """Measure predictions as the VOC development kit does.

    The detections of a class are ranked by score, equal scores in the order given. Each looks at the
    object of its image and class that it overlaps most (the first of equals): with an IoU of at least
    ``iou`` it is a true positive, or a false one if a better ranked detection has that object already.
    If that object is ``difficult`` the detection does not count at all; nor do difficult objects count
    as missed. Crowd regions (``iscrowd``) are treated as difficult.

    The kit's boxes are 1-based and include their last pixel, so it adds 1 to widths and heights. Ours are
    0-based and exclude it: the kit's (xmin, ymin, xmax, ymax) is our (xmin - 1, ymin - 1, xmax, ymax),
    whose plain width is the kit's width with its 1, and so the IoU is the same.

    Args:
        ground_truth: COCO-format dict or the path of its JSON file.
        predictions: list of COCO results or the path of their JSON file. May be empty.
        iou: the least IoU of a match, in (0, 1].
        use_07_metric: mean of the best precision at recalls 0, 0.1 ... 1, as in 2007; otherwise the area
            below the precision made monotone, as from 2010 on.

    Raises:
        ValueError: the data are wrong (file, row and key are named), or iou is out of range.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou must lie in (0, 1], got {iou}")
    truth = read_ground_truth(ground_truth)
    rows = read_predictions(predictions, truth)
    objects = _by_class(truth["annotations"], np.array([_ignored(a) for a in truth["annotations"]], bool), truth)
    detections = _by_class(rows, np.array([r["score"] for r in rows], np.float64), truth)
    curves = {name: _curve(detections[name], objects[name], iou) for name in objects if not objects[name].values.all()}
    average = eleven_point_mean if use_07_metric else area_below
    aps = {name: average(curve) for name, curve in curves.items()}
    mean = float(np.mean(list(aps.values()))) if aps else NO_OBJECTS
    return VocResult(mean, {name: aps.get(name, NO_OBJECTS) for name in objects}, curves)


def _ignored(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("difficult", 0) or annotation.get("iscrowd", 0))


def _by_class(rows: list[dict[str, Any]], values: np.ndarray, truth: dict[str, Any]) -> dict[str, _Boxes]:
    kinds = np.array([r["category_id"] for r in rows], dtype=np.int64)
    images = np.array([r["image_id"] for r in rows], dtype=np.int64)
    corners = np.array([r["bbox"] for r in rows], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    boxes = _Boxes(images, corners, values)
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    return {c["name"]: boxes[kinds == c["id"]] for c in categories}


def _curve(detections: _Boxes, objects: _Boxes, iou: float) -> Curve:
    ranked = detections[np.argsort(-detections.values, kind="stable")]
    nearest, overlap = _nearest_objects(ranked, objects)
    matched = overlap >= iou
    ignored = matched & objects.values[nearest]
    rivals = np.flatnonzero(matched & ~ignored)
    _, first = np.unique(nearest[rivals], return_index=True)  # the best ranked detection of each object
    right = np.zeros(len(ranked.images), dtype=bool)
    right[rivals[first]] = True
    return ranked_curve(right[~ignored], ranked.values[~ignored], int((~objects.values).sum()))


def _nearest_objects(detections: _Boxes, objects: _Boxes) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the object of its image with the highest IoU: (D,) rows, and (D,) IoUs, 0 without one."""
    by_image = np.argsort(objects.images, kind="stable")
    images = objects.images[by_image]
    start, end = (np.searchsorted(images, detections.images, side) for side in ("left", "right"))
    count = end - start
    offset = count.cumsum() - count  # where the pairs of each detection begin
    detection = np.repeat(np.arange(len(count)), count)
    partner = by_image[np.arange(count.sum()) + np.repeat(start - offset, count)]
    ious = _pair_ious(detections.corners[detection], objects.corners[partner])
    best = np.lexsort((-ious, detection))[offset[count > 0]]  # stable: the first of equals
    nearest, overlap = np.zeros(len(count), dtype=np.int64), np.zeros(len(count))
    nearest[count > 0], overlap[count > 0] = partner[best], ious[best]
    return nearest, overlap


def _pair_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each row of one (M, 4) with the same row of the other; 0 for two empty boxes."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clip(min=0).prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
