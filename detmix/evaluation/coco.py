"""COCO's numbers, by pycocotools or faster-coco-eval, without their prints.

Source: Lin et al., Microsoft COCO: Common Objects in Context, arXiv:1405.0312, and the detection
evaluation of its web site, whose code pycocotools is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_choice
from .backends import (
    KEYPOINT_MAX_DETECTIONS,
    MAX_DETECTIONS,
    Backend,
    Counts,
    IouType,
    count,
    counted,
    rows_by_iou,
)
from .curves import NO_OBJECTS, Curve
from .keypoints import count_of, oks_sigmas
from .reading import PredictionSource, TruthSource, read_ground_truth, read_predictions
from .records import GroundTruth

METRICS = {
    "AP": "average precision, mean over IoU 0.50, 0.55 ... 0.95 and classes",
    "AP50": "average precision at IoU 0.50",
    "AP75": "average precision at IoU 0.75",
    "APs": "AP of small objects, area of 32 x 32 pixels or less",
    "APm": "AP of medium objects, area of 32 x 32 to 96 x 96 pixels",
    "APl": "AP of large objects, area of 96 x 96 pixels or more",
    "AR1": "share of the objects found, mean over the IoUs, with 1 detection per image and class",
    "AR10": "the same with 10 detections per image and class",
    "AR100": "the same with 100 detections per image and class",
    "ARs": "AR100 of small objects",
    "ARm": "AR100 of medium objects",
    "ARl": "AR100 of large objects",
}
"""The 12 numbers in COCO's order, each with its meaning in words."""

KEYPOINT_METRICS = {
    "AP": "average precision, mean over OKS 0.50, 0.55 ... 0.95 and classes",
    "AP50": "average precision at OKS 0.50",
    "AP75": "average precision at OKS 0.75",
    "APm": "AP of medium objects, area of 32 x 32 to 96 x 96 pixels",
    "APl": "AP of large objects, area of 96 x 96 pixels or more",
    "AR": "share of the objects found, mean over the OKS, with 20 detections per image and class",
    "AR50": "the same at OKS 0.50",
    "AR75": "the same at OKS 0.75",
    "ARm": "AR of medium objects",
    "ARl": "AR of large objects",
}
"""The 10 numbers of keypoints in COCO's order, by object keypoint similarity (OKS)."""

ALL_CLASSES = "all classes"
"""The name of the one class of a class-agnostic evaluation."""


@dataclass(frozen=True)
class CocoResult:
    """What COCO measures.

    Attributes:
        metrics: the 12 numbers by the names of ``METRICS``, or of keypoints the 10 of ``KEYPOINT_METRICS``, each in
            [0, 1], or -1 where the ground truth has no such object (no small one, say): COCO's mark, kept. Of boxes
            and masks ``AR<n>`` for each n of ``max_detections``, so under other names than those three if they were
            changed.
        ap_by_class: AP by class name; -1 for a class without objects.
        ap50_by_class: AP at IoU, or OKS, 0.5 by class name; -1 for a class without objects.
        ap_by_size: ``APs`` (not of keypoints), ``APm`` and ``APl``: for each the AP by class name; -1 for a class
            without such objects.
        objects_by_class: number of objects by class name, crowd regions left out, and of keypoints objects without
            a visible one.
        curves: precision at 101 recalls at IoU, or OKS, 0.5 by class name; classes without objects are left out.
    """

    metrics: dict[str, float]
    ap_by_class: dict[str, float]
    ap50_by_class: dict[str, float]
    ap_by_size: dict[str, dict[str, float]]
    objects_by_class: dict[str, int]
    curves: dict[str, Curve] = field(repr=False)


def evaluate_coco(
    ground_truth: TruthSource,
    predictions: PredictionSource,
    iou_type: IouType = "bbox",
    *,
    backend: Backend = "pycocotools",
    class_agnostic: bool = False,
    max_detections: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> CocoResult:
    """Measure predictions as COCO does; the numbers are those of pycocotools, to the last bit.

    Objects without ``area`` get their box's, or mask's, without ``iscrowd`` 0. Annotations are numbered anew,
    since pycocotools takes a match with an annotation of id 0 for none. ``difficult`` means nothing to COCO.

    Proposals are measured with ``class_agnostic=True, max_detections=(100, 1000)``: AR100 and AR1000 are the
    average recall of the best 100 and 1000 of each image.

    Of each image and class COCO counts the 100 best detections, so where an image has more objects of a class AP cannot
    reach 1: that is warned about, and a larger ``max_detections`` is the way out.

    Keypoints are compared by object keypoint similarity (OKS) in the place of IoU, which goes by the annotation's own
    area. Objects without visible keypoints neither count nor hurt.

    Args:
        ground_truth: COCO-format dict, the path of its JSON file, or pycocotools' ``COCO`` of it; it is not changed.
        predictions: list of COCO results or the path of their JSON file; it is not changed. May be empty.
        iou_type: ``"bbox"``, or ``"segm"`` for masks: then annotations and predictions need a
            ``segmentation``, images a ``height`` and ``width``, and a prediction's area is
            its ``bbox``'s if the first has one, else its mask's. Or ``"keypoints"``: then predictions need
            ``keypoints``, 3P numbers, and annotations have as many, or none; a prediction's area is its
            ``bbox``'s if the first has one, else that of the box around all its points.
        backend: ``"pycocotools"``, or ``"faster-coco-eval"`` for the same numbers, of boxes in a sixth to a
            twelfth of the time.
        class_agnostic: take all classes for one, which is called ``"all classes"``; not for keypoints.
        max_detections: how many detections of an image and class count, the best first: for AR each in
            turn, for all else, and all of keypoints, the largest. COCO's are 1, 10 and 100, and of keypoints 20.
        sigmas: P of them, of keypoints, as for ``oks_sigmas``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the data are wrong (file, row and key are named), or an argument is.
        ImportError: the backend is not installed.
    """
    check_choice("iou_type", iou_type, IouType)
    limits = limits_of(iou_type, max_detections)
    masks, keypoints = iou_type == "segm", iou_type == "keypoints"
    if class_agnostic and keypoints:
        raise ValueError("class_agnostic is of boxes and masks: keypoints are compared within a class only")
    truth = read_ground_truth(ground_truth, masks=masks, keypoints=keypoints)
    found = read_predictions(predictions, truth, masks=masks, keypoints=keypoints, class_agnostic=class_agnostic)
    _warn_of_limit(truth, iou_type, limits, class_agnostic)
    counts = count(
        truth,
        found,
        iou_type,
        backend,
        class_agnostic=class_agnostic,
        max_detections=limits,
        sigmas=sigmas_of(truth, iou_type, sigmas),
    )
    return collect(counts, truth, iou_type, limits, class_agnostic)


def metrics_of(iou_type: IouType) -> dict[str, str]:
    """The names of COCO's numbers in its order, each with its meaning in words."""
    return KEYPOINT_METRICS if iou_type == "keypoints" else METRICS


def sigmas_of(truth: GroundTruth, iou_type: IouType, sigmas: Sequence[float] | None) -> NDArray[np.float64] | None:
    """The (P,) constants where keypoints are measured, and else None.

    Raises:
        ValueError: they are wrong, or given for something else.
    """
    if iou_type == "keypoints":
        return oks_sigmas(count_of(truth), sigmas)
    if sigmas is not None:
        raise ValueError(f"sigmas are of iou_type 'keypoints', and it is {iou_type!r}")
    return None


def limits_of(iou_type: IouType, max_detections: Sequence[int] | None = None) -> list[int]:
    """The numbers of detections that count, rising: those given, or COCO's own.

    Raises:
        ValueError: one is not whole or below 1.
    """
    if max_detections is None:
        return list(KEYPOINT_MAX_DETECTIONS if iou_type == "keypoints" else MAX_DETECTIONS)
    check_max_detections(max_detections)
    return sorted(set(map(int, max_detections)))


def check_max_detections(numbers: Sequence[int]) -> None:
    """Refuse what are no numbers of detections.

    Raises:
        ValueError: there is none, or one is not whole or below 1.
    """
    array = np.array(list(numbers) if np.iterable(numbers) else numbers)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not len(array) or np.any((array < 1) | (array % 1 != 0)):
        raise ValueError(f"max_detections must be whole numbers of 1 or more, got {numbers}")


def collect(
    counts: Counts, truth: GroundTruth, iou_type: IouType, limits: Sequence[int], class_agnostic: bool = False
) -> CocoResult:
    """The numbers of what was counted with these ``max_detections``, rising."""
    precision = counts.precision[..., -1]  # (T, R, K, A), all that count
    names = (ALL_CLASSES,) if class_agnostic else truth.class_names
    half = rows_by_iou(counts.iou_thresholds)["0.50"]
    known = [k for k in range(len(names)) if precision[half, 0, k, 0] != NO_OBJECTS]
    labels = truth.objects.labels[counted(truth.objects, iou_type)]
    numbers = [len(labels)] if class_agnostic else np.bincount(labels, minlength=len(names)).tolist()

    def by_class(values: NDArray[np.float64]) -> dict[str, float]:  # (..., K)
        return {name: float(np.mean(values[..., k])) for k, name in enumerate(names)}

    return CocoResult(
        metrics=_metrics(counts, iou_type, limits),
        ap_by_class=by_class(precision[..., 0]),
        ap50_by_class=by_class(precision[half, ..., 0]),
        ap_by_size={f"AP{size}": by_class(precision[..., place]) for size, place in counts.sizes.items() if size},
        objects_by_class=dict(zip(names, numbers, strict=True)),
        curves={
            names[k]: Curve(counts.recalls, precision[half, :, k, 0], counts.scores[half, :, k, 0, -1]) for k in known
        },
    )


def _metrics(counts: Counts, iou_type: IouType, limits: Sequence[int]) -> dict[str, float]:
    precision, recall = counts.precision[..., -1], counts.recall
    at = rows_by_iou(counts.iou_thresholds)
    sizes = {size: place for size, place in counts.sizes.items() if size}
    if iou_type == "keypoints":
        rows = {"AR": [*at.values()], "AR50": [at["0.50"]], "AR75": [at["0.75"]]}
        overall = {name: _mean(recall[places, :, 0, -1]) for name, places in rows.items()}
    else:
        overall = {f"AR{limit}": _mean(recall[:, :, 0, n]) for n, limit in enumerate(limits)}
    return {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[at["0.50"], ..., 0]),
        "AP75": _mean(precision[at["0.75"], ..., 0]),
        **{f"AP{size}": _mean(precision[..., place]) for size, place in sizes.items()},
        **overall,
        **{f"AR{size}": _mean(recall[:, :, place, -1]) for size, place in sizes.items()},
    }


def _mean(values: NDArray[np.float64]) -> float:
    """The mean over thresholds, recalls and the classes that have objects."""
    known = values[values != NO_OBJECTS]
    return float(np.mean(known)) if known.size else NO_OBJECTS


def _warn_of_limit(truth: GroundTruth, iou_type: IouType, limits: Sequence[int], class_agnostic: bool) -> None:
    """Warn where images have more objects of a class than detections of it count, so that some cannot be found."""
    objects, limit = truth.objects, limits[-1]
    counted = ~objects.crowd & (objects.posed if iou_type == "keypoints" else True)
    groups = objects.images if class_agnostic else objects.images * len(truth.class_names) + objects.labels
    numbers = np.unique(groups[counted], return_counts=True)[1]
    if len(numbers) and numbers.max() > limit:
        kind = "" if class_agnostic else " of a class"
        warnings.warn(
            f"{truth.source}: an image has {numbers.max()} objects{kind}, and the best {limit} detections count, "
            f"so that at most {math.floor(100 * numbers.clip(max=limit).sum() / numbers.sum())}% of all objects can be "
            f"found. A larger max_detections counts more of them, such as {(*limits[:-1], int(numbers.max()))}",
            stacklevel=3,
        )
