"""Average precision by the rules of the PASCAL VOC development kit.

Letter: D detections of one class, over all images.

Source: Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, section 4.2, and
the kit's VOCevaldet.m and VOCap.m of 2007 and 2010.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_iou
from .curves import NO_OBJECTS, RECALLS_2007, Curve
from .overlaps import blocks_of_pairs, box_ious
from .ranking import Ranking
from .reading import PredictionSource, TruthSource, read_ground_truth, read_predictions
from .records import Detections, GroundTruth, Objects


@dataclass(frozen=True)
class VocResult:
    """What the VOC kit measures.

    Attributes:
        ap: mean of the classes' average precisions, in [0, 1]; classes without objects are left out, and
            it is -1 if all are.
        ap_by_class: average precision by class name; -1 for a class without objects that count.
        objects_by_class: number of objects that count by class name: neither difficult nor crowd regions.
        curves: recall and precision after each detection that counts, by rank, by class name; classes
            without objects are left out.
    """

    ap: float
    ap_by_class: dict[str, float]
    objects_by_class: dict[str, int]
    curves: dict[str, Curve] = field(repr=False)


def evaluate_voc(
    ground_truth: TruthSource,
    predictions: PredictionSource,
    *,
    iou: float = 0.5,
    use_07_metric: bool = False,
) -> VocResult:
    """Measure predictions as the VOC development kit does.

    The detections of a class are ranked by score, equal scores in the order given (MATLAB's sort is stable,
    and so is ours). Each looks at the object of its image and class that it overlaps most (the first of
    equals): with an IoU of at least ``iou`` it is a true positive, or a false one if a better ranked
    detection has that object already. If that object is ``difficult`` the detection does not count at all;
    nor do difficult objects count as missed. Crowd regions (``iscrowd``) are treated as difficult.

    IoUs are computed by the kit's arithmetic on its own boxes, which are 1-based and include their last
    pixel, so that a side is its difference and 1. A COCO box (x, y, w, h) is its (x + 1, y + 1, x + w, y + h).

    Args:
        ground_truth: COCO-format dict, the path of its JSON file, or pycocotools' ``COCO`` of it.
        predictions: list of COCO results or the path of their JSON file. May be empty.
        iou: the least IoU of a match, in (0, 1].
        use_07_metric: mean of the best precision at recalls 0, 0.1 ... 1, as in 2007; otherwise the area
            below the precision made monotone, as from 2010 on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the data are wrong (file, row and key are named), or iou is out of range.
        TypeError: iou is no number.
    """
    truth = read_ground_truth(ground_truth)
    found = read_predictions(predictions, truth)
    return result_of(truth, rank_voc(truth, found, iou), use_07_metric=use_07_metric)


def result_of(truth: GroundTruth, rankings: Mapping[str, Ranking], *, use_07_metric: bool) -> VocResult:
    """What ``evaluate_voc`` gives, of detections that ``rank_voc`` has matched."""
    everything = np.ones((1, len(truth.image_ids)))
    recalls = RECALLS_2007 if use_07_metric else None
    aps = {name: float(ranking.averages(everything, recalls)[0][0, 0]) for name, ranking in rankings.items()}
    mean = float(np.mean(list(aps.values()))) if aps else NO_OBJECTS
    numbers = {name: int(rankings[name].objects.sum()) if name in rankings else 0 for name in truth.class_names}
    by_class = {name: aps.get(name, NO_OBJECTS) for name in truth.class_names}
    return VocResult(mean, by_class, numbers, {name: ranking.curve() for name, ranking in rankings.items()})


def rank_voc(truth: GroundTruth, found: Detections, iou: float) -> dict[str, Ranking]:
    """Match detections with objects by the kit's rules, at one IoU threshold.

    Returns:
        The ranked detections of each class that has objects which count, by its name.

    Raises:
        ValueError: iou is out of range.
        TypeError: iou is no number.
    """
    iou = check_iou("iou", iou)
    images = len(truth.image_ids)
    rankings = [_rank(found, truth.objects, label, iou, images) for label in range(len(truth.class_names))]
    return {name: r for name, r in zip(truth.class_names, rankings, strict=True) if r.objects.any()}


def _rank(found: Detections, objects: Objects, label: int, iou: float, images: int) -> Ranking:
    detections = np.flatnonzero(found.labels == label)
    ranked = detections[np.argsort(-found.scores[detections], kind="stable")]
    own = np.flatnonzero(objects.labels == label)
    nearest, overlap = _nearest_objects(found, ranked, objects, own)
    matched = overlap >= iou
    difficult = (objects.difficult | objects.crowd)[own]
    ignored = matched & difficult[nearest] if len(own) else matched
    rivals = np.flatnonzero(matched & ~ignored)
    _, first = np.unique(nearest[rivals], return_index=True)  # the best ranked detection of each object
    right = np.zeros(len(ranked), dtype=np.bool_)
    right[rivals[first]] = True
    numbers = np.bincount(objects.images[own[~difficult]], minlength=images)
    return Ranking(found.images[ranked], found.scores[ranked], right[None], ~ignored[None], numbers)


def _nearest_objects(
    found: Detections, detections: NDArray[np.int64], objects: Objects, own: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of some detections the object of its image with the highest IoU, the first of equals.

    Returns:
        Places in ``own``, and the IoUs, 0 where there is no object.
    """
    nearest, overlap = np.zeros(len(detections), dtype=np.int64), np.zeros(len(detections))
    for rows, partners in blocks_of_pairs(found.images[detections], objects.images[own]):
        ious = box_ious(found.corners[detections[rows]], objects.corners[own[partners]])
        order = np.lexsort((-ious, rows))  # stable
        have, start = np.unique(rows, return_index=True)
        nearest[have], overlap[have] = partners[order[start]], ious[order[start]]
    return nearest, overlap
