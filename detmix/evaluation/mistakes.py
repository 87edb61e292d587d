"""What a detector took for what, and the images that it did best and worst on.

Detections below a score count for nothing here, as they would for a user. The others are matched to objects one to
one, the best first: each takes the object of its own class that it overlaps most, the least IoU being 0.5; then those
without an object take one of any class that is left. So an object is either found, confused (taken for another class)
or missed, and a detection right, confused or false. Difficult objects and crowd regions are not missed, and
a detection that has no object but lies on one of its class is not false: they count for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_iou
from .masks import mask_boxes, mask_ious
from .overlaps import blocks_of_pairs, box_ious
from .reading import PredictionSource, TruthSource, read_ground_truth, read_predictions
from .records import Detections, GroundTruth, Objects, Rows, corners_of

_Rows = TypeVar("_Rows", Detections, Objects)


@dataclass(frozen=True)
class ImageMistakes:
    """What was found, confused, missed and made up in one image.

    Attributes:
        image_id: its id.
        file_name: empty where the ground truth has none.
        found: objects with a detection of their class.
        confused: objects with a detection of another class.
        missed: objects without one.
        false: detections without an object.
    """

    image_id: int
    file_name: str
    found: int
    confused: int
    missed: int
    false: int

    @property
    def f1(self) -> float:
        """``2 found / (objects + detections)``: 1 where all is right, also with nothing to find and nothing found."""
        both = 2 * self.found + 2 * self.confused + self.missed + self.false
        return 2 * self.found / both if both else 1.0


@dataclass(frozen=True)
class Confusion:
    """Objects of a class that were taken for another one.

    Attributes:
        of: name of their class.
        taken_for: name of the other.
        times: how many.
        share: of all objects of their class.
    """

    of: str
    taken_for: str
    times: int
    share: float


@dataclass(frozen=True, eq=False)
class Mistakes:
    """What became of the objects and detections of a data set.

    Attributes:
        class_names: K names.
        confusion: (K + 1, K + 1) int64: objects of a class, by row, that were taken for a class, by column. The
            last column counts missed objects, the last row false detections; their corner is 0.
        images: each image, in the order of their ids.
        iou: the least IoU of a match.
        min_score: the least score of a detection that counts.
    """

    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    images: tuple[ImageMistakes, ...] = field(repr=False)
    iou: float
    min_score: float

    @property
    def occurs(self) -> NDArray[np.bool_]:
        """(K,) bool: whether a class has objects or detections."""
        return (self.confusion[:-1].sum(axis=1) + self.confusion[:, :-1].sum(axis=0)) > 0

    def occurring(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Names of the C classes with objects or detections, and the confusion of these, (C + 1, C + 1)."""
        there = np.flatnonzero(self.occurs)
        kept = np.append(there, -1)
        return tuple(self.class_names[place] for place in there), self.confusion[kept][:, kept]

    @property
    def confused(self) -> NDArray[np.int64]:
        """(K, K) int64: objects of a class, by row, that were taken for another one, by column."""
        between = self.confusion[:-1, :-1].copy()
        np.fill_diagonal(between, 0)
        return between

    def most_confused(self, count: int = 10) -> list[Confusion]:
        """What was taken for another class most often, those with any; the first of equals."""
        times, objects, names = self.confused, self.confusion.sum(axis=1), self.class_names
        ranked = np.argsort(-times, axis=None, kind="stable")[:count]
        return [
            Confusion(names[row], names[column], int(times[row, column]), float(times[row, column] / objects[row]))
            for row, column in zip(*np.unravel_index(ranked, times.shape), strict=True)
            if times[row, column]
        ]

    def worst(self, count: int = 10) -> list[ImageMistakes]:
        """The images with the most mistakes (confused, missed and false ones), those with any; the first of equals."""
        ranked = sorted(self.images, key=lambda image: -_mistakes(image))
        return [image for image in ranked[:count] if _mistakes(image)]

    def best(self, count: int = 10) -> list[ImageMistakes]:
        """The images with the highest F1, of equals those with the most found objects; none without objects found."""
        ranked = sorted(self.images, key=lambda image: (-image.f1, -image.found))
        return [image for image in ranked if image.found][:count]


def find_mistakes(
    ground_truth: TruthSource,
    predictions: PredictionSource,
    *,
    iou: float = 0.5,
    min_score: float = 0.5,
    masks: bool = False,
) -> Mistakes:
    """Count what was found, confused, missed and made up, by class and by image; the module has the rules.

    Args:
        ground_truth: COCO-format dict, the path of its JSON file, or pycocotools' ``COCO`` of it.
        predictions: list of COCO results or the path of their JSON file. May be empty.
        iou: the least IoU of a match, in (0, 1].
        min_score: the least score of a detection that counts.
        masks: compare masks rather than boxes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the data are wrong (file, row and key are named), or iou is out of range.
    """
    truth = read_ground_truth(ground_truth, masks=masks)
    found = read_predictions(predictions, truth, masks=masks)
    kept, taken, ignored = match(truth, found, iou=iou, min_score=min_score, masks=masks)
    return _count(truth, found, kept, taken, ignored, iou, min_score)


def match(
    truth: GroundTruth, found: Detections, *, iou: float, min_score: float, masks: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Which detections count, the object of each detection or -1, (D,), and which objects are ignored, (G,).

    Raises:
        ValueError: iou is out of range, or min_score is NaN.
        TypeError: iou is no number.
    """
    iou = check_iou("iou", iou)
    if math.isnan(min_score):
        raise ValueError("min_score must be a number, got nan")
    kept = np.flatnonzero(found.scores >= min_score)
    kept = kept[np.argsort(-found.scores[kept], kind="stable")]
    ignored = truth.objects.difficult | truth.objects.crowd
    taken, spared = _match(_compared(found, masks), kept, _compared(truth.objects, masks), ignored, iou)
    return kept[~spared[kept]], taken, ignored


def _match(
    found: Detections, kept: NDArray[np.int64], objects: Objects, ignored: NDArray[np.bool_], iou: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The object of each detection or -1, and whether it has none and lies on an ignored one of its class, (D,)."""
    taken, on_ignored, free = np.full(len(found), -1), np.zeros(len(found), dtype=np.bool_), ~ignored
    for own_class in (True, False):
        for rows, targets in blocks_of_pairs(found.images[kept], objects.images):
            same = found.labels[kept[rows]] == objects.labels[targets]
            wanted = same if own_class else ~same & free[targets] & (taken[kept[rows]] < 0)
            rows, targets = _overlapping(found, kept, objects, rows[wanted], targets[wanted], iou)
            on_ignored[kept[rows[ignored[targets]]]] = True  # of the own class: such of others are not free
            for detection, target in zip(kept[rows].tolist(), targets.tolist(), strict=True):
                if free[target] and taken[detection] < 0:
                    taken[detection], free[target] = target, False
    return taken, on_ignored & (taken < 0)


def _overlapping(
    found: Detections,
    kept: NDArray[np.int64],
    objects: Objects,
    rows: NDArray[np.int64],
    targets: NDArray[np.int64],
    iou: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of some pairs with enough IoU, in the order in which they may match."""
    detections, crowd = kept[rows], objects.crowd[targets]
    ious = box_ious(found.corners[detections], objects.corners[targets], of_first=crowd)
    if found.masks is not None:
        touch = np.flatnonzero(ious)  # masks overlap only where their boxes do
        one, other = _masks_of(found, detections[touch]), _masks_of(objects, targets[touch])
        ious[touch] = mask_ious(one, other, of_first=crowd[touch])
    near = np.flatnonzero(ious >= iou)
    near = near[np.lexsort((-ious[near], rows[near]))]
    return rows[near], targets[near]


def _compared(rows: _Rows, masks: bool) -> _Rows:
    """Rows with the boxes of their masks where those are compared, and else with their own and no masks."""
    if rows.masks is None or not masks:
        return replace(rows, masks=None)
    return replace(rows, corners=corners_of(mask_boxes(rows.masks)))


def _masks_of(rows: Rows, places: NDArray[np.int64]) -> list[dict[str, Any]]:
    assert rows.masks is not None
    return [rows.masks[place] for place in places.tolist()]


def _count(
    truth: GroundTruth,
    found: Detections,
    kept: NDArray[np.int64],
    taken: NDArray[np.int64],
    ignored: NDArray[np.bool_],
    iou: float,
    min_score: float,
) -> Mistakes:
    classes, images = len(truth.class_names), len(truth.image_ids)
    matched = kept[taken[kept] >= 0]
    false = kept[taken[kept] < 0]
    targets = taken[matched]
    missed = np.setdiff1d(np.flatnonzero(~ignored), targets)
    confusion = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    np.add.at(confusion, (truth.objects.labels[targets], found.labels[matched]), 1)
    confusion[:-1, -1] = np.bincount(truth.objects.labels[missed], minlength=classes)
    confusion[-1, :-1] = np.bincount(found.labels[false], minlength=classes)
    same = truth.objects.labels[targets] == found.labels[matched]
    parts = (
        found.images[matched[same]],
        found.images[matched[~same]],
        truth.objects.images[missed],
        found.images[false],
    )
    columns = [np.bincount(part, minlength=images).tolist() for part in parts]
    rows = zip(truth.image_ids.tolist(), truth.file_names, *columns, strict=True)
    return Mistakes(truth.class_names, confusion, tuple(ImageMistakes(*row) for row in rows), iou, min_score)


def _mistakes(image: ImageMistakes) -> int:
    return image.confused + image.missed + image.false
