"""The 12 COCO numbers, by pycocotools, without its prints.

Source: Lin et al., Microsoft COCO: Common Objects in Context, arXiv:1405.0312, and the detection
evaluation of its web site, whose code pycocotools is.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .curves import NO_OBJECTS, Curve
from .results import Source, read_ground_truth, read_predictions

METRICS = {
    "AP": "average precision, mean over IoU 0.50, 0.55 ... 0.95 and classes",
    "AP50": "average precision at IoU 0.50",
    "AP75": "average precision at IoU 0.75",
    "APs": "AP of small objects, area below 32 x 32 pixels",
    "APm": "AP of medium objects, area between 32 x 32 and 96 x 96 pixels",
    "APl": "AP of large objects, area above 96 x 96 pixels",
    "AR1": "share of the objects found, mean over the IoUs, with 1 detection per image and class",
    "AR10": "the same with 10 detections per image and class",
    "AR100": "the same with 100 detections per image and class",
    "ARs": "AR100 of small objects",
    "ARm": "AR100 of medium objects",
    "ARl": "AR100 of large objects",
}
"""The 12 numbers in COCO's order, each with its meaning in words."""


@dataclass(frozen=True)
class CocoResult:
    """What COCO measures.

    Attributes:
        metrics: the 12 numbers by the names of ``METRICS``, each in [0, 1], or -1 where the ground truth
            has no such object (no small one, say): COCO's mark, kept.
        ap_by_class: AP by class name; -1 for a class without objects.
        ap50_by_class: AP at IoU 0.5 by class name; -1 for a class without objects.
        curves: precision at 101 recalls at IoU 0.5 by class name; classes without objects are left out.
    """

    metrics: dict[str, float]
    ap_by_class: dict[str, float]
    ap50_by_class: dict[str, float]
    curves: dict[str, Curve]


def evaluate_coco(
    ground_truth: Source | dict[str, Any],
    predictions: Source | Sequence[dict[str, Any]],
    *,
    iou_type: str = "bbox",
) -> CocoResult:
    """Measure predictions as COCO does; the numbers are those of pycocotools.

    Objects without ``area`` get their box's, without ``iscrowd`` 0. Annotations are numbered anew, since
    pycocotools takes a match with an annotation of id 0 for none. ``difficult`` means nothing to COCO.

    Args:
        ground_truth: COCO-format dict or the path of its JSON file; it is not changed.
        predictions: list of COCO results or the path of their JSON file; it is not changed. May be empty.
        iou_type: ``"bbox"``, or ``"segm"`` for masks: then annotations and predictions need a
            ``segmentation``, images a ``height`` and ``width``, and a prediction's area is its mask's.

    Raises:
        ValueError: the data are wrong (file, row and key are named), or iou_type is neither.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
    masks = iou_type == "segm"
    truth = read_ground_truth(ground_truth, masks=masks)
    rows = read_predictions(predictions, truth, masks=masks)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _run(truth, rows, iou_type)
    return _collect(evaluation, [c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])])


def _run(truth: dict[str, Any], rows: list[dict[str, Any]], iou_type: str) -> Any:
    objects = _index({**truth, "annotations": [_complete(a, n) for n, a in enumerate(truth["annotations"], 1)]})
    unused = "segmentation" if iou_type == "bbox" else "bbox"  # a bbox would set the area that a mask is filed under
    copies = [{k: v for k, v in row.items() if k != unused} for row in rows]
    # loadRes looks at the first result, and so fails where there is none
    found = objects.loadRes(copies) if copies else _index({**truth, "annotations": []})
    evaluation = COCOeval(objects, found, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _index(dataset: dict[str, Any]) -> Any:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _complete(annotation: dict[str, Any], number: int) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    area = annotation.get("area")
    return {
        **annotation,
        "id": number,
        "area": width * height if area is None else area,
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _collect(evaluation: Any, names: list[str]) -> CocoResult:
    precision = evaluation.eval["precision"][..., 0, -1]  # (IoU, recall, class) of all areas, 100 detections
    scores = evaluation.eval["scores"][0, ..., 0, -1]  # (recall, class) at IoU 0.5
    known = [k for k in range(len(names)) if precision[0, 0, k] != NO_OBJECTS]
    recall = evaluation.params.recThrs
    return CocoResult(
        metrics=dict(zip(METRICS, map(float, evaluation.stats), strict=True)),
        ap_by_class={name: float(np.mean(precision[..., k])) for k, name in enumerate(names)},
        ap50_by_class={name: float(np.mean(precision[0, :, k])) for k, name in enumerate(names)},
        curves={names[k]: Curve(recall, precision[0, :, k], scores[:, k]) for k in known},
    )
