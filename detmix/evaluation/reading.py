"""COCO-format ground truth and COCO results, read into flat arrays and checked.

A result is ``{"image_id": int, "category_id": int, "bbox": [x, y, w, h], "score": float}``, its box in
pixels, 0-based; for mask AP it has a ``segmentation`` (compressed RLE) instead of the ``bbox``, or both, and for that
of keypoints ``keypoints`` [x, y, visibility, ...]. Ground truth is COCO's dict with ``images``, ``categories`` and
``annotations``, whose rows may say ``difficult`` (0 or 1) as VOC's do.

Errors are ValueErrors that name the file and the place in it, as ``$[3].score``: row 3, counted from 0.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.bounds import Id
from ..data.categories import Category, one_of_each_name
from ..data.coco_rows import AnnotationRow, ImageRow
from .checks import check_areas, check_boxes, check_format, check_ids, check_scores
from .corners import check_not_corners
from .decoding import decode, not_given
from .keypoints import check_keypoint_count, detected_keypoints, keypoint_boxes, object_keypoints
from .masks import encode_masks, mask_areas, mask_boxes
from .numbering import Ids, numbering_of
from .records import Detections, GroundTruth, Objects, Rows, corners_of


class HoldsDataset(Protocol):
    """What has COCO's dict as its ``dataset``: pycocotools' ``COCO``, which is torchvision's ``CocoDetection.coco``."""

    dataset: dict[str, Any]


Source: TypeAlias = str | os.PathLike[str]
TruthSource: TypeAlias = Source | dict[str, Any] | HoldsDataset | GroundTruth
PredictionSource: TypeAlias = Source | Sequence[dict[str, Any]] | Detections
_Box = tuple[float, float, float, float]


class _Annotation(AnnotationRow, gc=False, kw_only=True):
    bbox: _Box


class _MaskAnnotation(_Annotation, kw_only=True):
    segmentation: list[list[float]] | dict[str, Any] | None


class _KeypointAnnotation(_Annotation, kw_only=True):
    keypoints: list[float] | None = None
    num_keypoints: int | None = None


class _FullAnnotation(_MaskAnnotation, kw_only=True):
    keypoints: list[float] | None = None
    num_keypoints: int | None = None


_Row = TypeVar("_Row", bound=_Annotation)


class _Truth(Struct, Generic[_Row]):
    images: list[ImageRow]
    categories: list[Category]
    annotations: list[_Row]


_TRUTHS: dict[tuple[bool, bool], Any] = {  # by whether masks and keypoints are read
    (False, False): _Truth[_Annotation],
    (True, False): _Truth[_MaskAnnotation],
    (False, True): _Truth[_KeypointAnnotation],
    (True, True): _Truth[_FullAnnotation],
}


class _Prediction(Struct, gc=False, kw_only=True):
    image_id: Id
    category_id: Id | None = None
    score: float


class _BoxPrediction(_Prediction, kw_only=True):
    bbox: _Box


class _MaskPrediction(_Prediction, kw_only=True):
    bbox: _Box | None = None
    segmentation: dict[str, Any]


class _KeypointPrediction(_Prediction, kw_only=True):
    bbox: _Box | None = None
    keypoints: list[float]


def read_ground_truth(source: TruthSource, *, masks: bool = False, keypoints: bool = False) -> GroundTruth:
    """Read and check a ground truth.

    Args:
        source: COCO-format dict, the path of a JSON file that holds one, pycocotools' ``COCO`` of it, or a ground
            truth that is read already.
        masks: also read each annotation's ``segmentation``; images then need a ``height`` and ``width``.
        keypoints: also read each annotation's ``keypoints`` and ``num_keypoints``. Without the second those count whose
            visibility is above 0. An annotation without keypoints (no such key, null, []) has none that is visible.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON; a key is missing or of the wrong type; an id appears twice; two categories of
            one name have objects; an annotation's image or category is unknown; a box is not finite, of negative
            size, or looks like xyxy; keypoints are not finite, are not three numbers for each of the P that all have,
            or there are none at all.
    """
    if isinstance(source, GroundTruth):
        _check_read(source.objects, source.source, masks, keypoints)
        return source
    name, content = decode(_content(source), _TRUTHS[masks, keypoints], "ground truth", not_given)
    images = sorted(content.images, key=lambda i: i.id)
    _check_unique(content, name)
    rows = content.annotations
    categories = _classes_of(content.categories, rows, name)
    image_ids, category_ids = _array([i.id for i in images]), _array([c.id for c in categories])
    sizes = _array([(i.height or 0, i.width or 0) for i in images]).reshape(-1, 2)
    places = check_ids(_array([r.image_id for r in rows]), image_ids, name, "$.annotations[{}].image_id")
    labels = check_ids(_array([r.category_id for r in rows]), category_ids, name, "$.annotations[{}].category_id")
    xywh = _boxes(rows)
    check_boxes(xywh, name, "$.annotations[{}].bbox")
    check_format(xywh, places, sizes, name, "$.annotations[{}].bbox")
    encoded = None
    if masks:
        _check_sizes(sizes, image_ids, name)
        encoded = encode_masks([r.segmentation for r in rows], sizes[places], name, "$.annotations[{}].segmentation")
    points, posed = None, np.zeros(len(rows), dtype=np.bool_)
    if keypoints:
        points, posed = object_keypoints(rows, name, "$.annotations[{}].keypoints")
    natural = _areas(xywh) if encoded is None else mask_areas(encoded)
    areas = np.array([np.nan if r.area is None else r.area for r in rows], dtype=np.float64)
    check_areas(areas, name, "$.annotations[{}].area")
    objects = Objects(
        images=places,
        labels=labels,
        xywh=xywh,
        corners=corners_of(xywh),
        areas=np.where(np.isnan(areas), natural, areas),
        masks=encoded,
        keypoints=points,
        crowd=np.array([r.iscrowd for r in rows], dtype=np.bool_),
        difficult=np.array([r.difficult for r in rows], dtype=np.bool_),
        posed=posed,
    )
    names = tuple(c.name for c in categories)
    return GroundTruth(image_ids, tuple(i.file_name for i in images), sizes, category_ids, names, objects, name)


def _content(source: Source | dict[str, Any] | HoldsDataset) -> Source | dict[str, Any]:
    held = getattr(source, "dataset", None)
    return held if isinstance(held, dict) else source  # type: ignore[return-value]  # or what msgspec is to name


def read_predictions(
    source: PredictionSource,
    truth: GroundTruth,
    *,
    masks: bool = False,
    keypoints: bool = False,
    class_agnostic: bool = False,
    is_xywh: bool = False,
) -> Detections:
    """Read and check predictions.

    Args:
        source: list of COCO results, the path of a JSON file that holds one, or detections that are read
            already. May be empty. Ids are the ground truth's, unless it is a ``predictions.json`` with a file near it
            that says which image or class each id means, as ``numbering_of`` finds it.
        truth: the ground truth; its images and categories are the ones allowed.
        masks: read ``segmentation`` instead of ``bbox``; a ``bbox`` beside it gives the area, as in pycocotools.
        keypoints: read ``keypoints``, of the ground truth's number P; a ``bbox`` beside it gives box and area, as in
            pycocotools, and else they are those of all P points. Not together with masks.
        class_agnostic: a result without ``category_id`` is taken to be of the first category.
        is_xywh: boxes are xywh in pixels for certain, however much bad ones look like something else.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON; a key is missing or of the wrong type; an image or category is
            unknown; a score is not in [0, 1]; a box is not finite, of negative size, or looks like xyxy, also beside
            the objects; keypoints are not finite, or not three numbers for each of the ground truth's.
    """
    if masks and keypoints:
        raise ValueError("predictions are read with masks or with keypoints, not with both")
    if isinstance(source, Detections):
        _check_read(source, source.source, masks, keypoints)
        if keypoints:
            check_keypoint_count(source, truth)
        return source
    form = _MaskPrediction if masks else _KeypointPrediction if keypoints else _BoxPrediction
    name, rows = decode(source, list[form], "predictions")  # type: ignore[valid-type]
    ids = numbering_of(truth, Path(source) if isinstance(source, (str, os.PathLike)) else None)
    named = f"{name} (ids as in {ids.source})" if ids.source else name
    images = ids.images.places_of(_array([r.image_id for r in rows]), named, "$[{}].image_id")
    labels = _labels(rows, ids.classes, truth, named, class_agnostic)
    scores = np.array([r.score for r in rows], dtype=np.float64)
    check_scores(scores, name, "$[{}].score")
    boxes, encoded, points = _stated_boxes(rows, name), None, None
    if masks:
        encoded = encode_masks([r.segmentation for r in rows], truth.sizes[images], name, "$[{}].segmentation")
        xywh, areas = mask_boxes(encoded), mask_areas(encoded) if boxes is None else _areas(boxes)
    else:
        if keypoints:
            points = detected_keypoints(rows, truth, name, "$[{}].keypoints")
        if boxes is not None:
            _check_detected(boxes, images, truth, name, is_xywh)
        else:
            assert points is not None  # whoever reads boxes has stated ones
            boxes = keypoint_boxes(points)
        xywh, areas = boxes, _areas(boxes)
    return Detections(images, labels, xywh, corners_of(xywh), areas, encoded, points, scores, name)


def _check_detected(
    boxes: NDArray[np.float64], images: NDArray[np.int64], truth: GroundTruth, name: str, is_xywh: bool
) -> None:
    check_boxes(boxes, name, "$[{}].bbox")
    if not is_xywh:
        check_format(boxes, images, truth.sizes, name, "$[{}].bbox")
        check_not_corners(boxes, images, truth, name, "$[{}].bbox")


def _stated_boxes(rows: list[Any], name: str) -> NDArray[np.float64] | None:
    """The ``bbox`` of all rows, (M, 4), if the first has one: as in pycocotools' ``loadRes`` that decides."""
    if rows and rows[0].bbox is None:
        return None
    without = next((number for number, row in enumerate(rows) if row.bbox is None), None)
    if without is not None:
        raise ValueError(f"{name}: missing required field `bbox`, which the first row has - at `$[{without}]`")
    return _boxes(rows)


def _labels(rows: list[Any], classes: Ids, truth: GroundTruth, name: str, class_agnostic: bool) -> NDArray[np.int64]:
    """The class of each row, 0 ... K-1; the first for a row without one if classes do not count."""
    ids = [r.category_id for r in rows]
    without = [i is None for i in ids]
    if any(without) and not class_agnostic:
        raise ValueError(f"{name}: Object missing required field `category_id` - at `$[{without.index(True)}]`")
    if any(without) and not truth.class_names:
        raise ValueError(f"{name}: the ground truth has no categories, so results have none to be of")
    if all(without):
        return np.zeros(len(rows), np.int64)
    any_id = next(i for i in (*classes.known.tolist(), *ids) if i is not None)
    labels = classes.places_of(_array([any_id if i is None else i for i in ids]), name, "$[{}].category_id")
    return np.where(without, 0, labels)


def _array(values: list[Any]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _boxes(rows: list[Any]) -> NDArray[np.float64]:
    flat = chain.from_iterable(r.bbox for r in rows)
    return np.fromiter(flat, np.float64, 4 * len(rows)).reshape(-1, 4)


def _areas(xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    return xywh[:, 2] * xywh[:, 3]


def _classes_of(categories: list[Category], rows: list[Any], name: str) -> list[Category]:
    try:
        return one_of_each_name(categories, {row.category_id for row in rows})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_unique(content: Any, name: str) -> None:
    for section in ("images", "categories", "annotations"):
        values = [row.id for row in getattr(content, section)]
        given = [value for value in values if value is not None]
        if len(set(given)) < len(given):
            value, _ = Counter(given).most_common(1)[0]
            first, second = [row for row, other in enumerate(values) if other == value][:2]
            place = f"`$.{section}[{second}].id`, first at `$.{section}[{first}].id`"
            raise ValueError(f"{name}: id {value!r} appears twice - at {place}")


def _check_read(rows: Rows, name: str, masks: bool, keypoints: bool) -> None:
    if masks and rows.masks is None:
        raise ValueError(f"{name}: masks are to be measured, and what was read has boxes only")
    if keypoints and rows.keypoints is None:
        raise ValueError(f"{name}: keypoints are to be measured, and it was read without")


def _check_sizes(sizes: NDArray[np.int64], image_ids: NDArray[np.int64], name: str) -> None:
    for row in np.flatnonzero((sizes <= 0).any(1))[:1].tolist():
        raise ValueError(f"{name}: masks need the height and width of their image, and image {image_ids[row]} has none")
