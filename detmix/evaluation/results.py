"""The two things an evaluator reads: COCO-format ground truth and a list of COCO results.

A result is ``{"image_id": int, "category_id": int, "bbox": [x, y, w, h], "score": float}``, its box in
pixels, 0-based; for mask AP it has a ``segmentation`` (compressed RLE) instead of the ``bbox``, or both.
Ground truth is COCO's dict with ``images``, ``categories`` and ``annotations``, whose rows may say
``difficult`` (0 or 1) as VOC's do.

Errors are ValueErrors that name the file and the place in it, as ``$[3].score``: row 3, counted from 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor

Source: TypeAlias = str | os.PathLike[str]
Box: TypeAlias = tuple[float, float, float, float]


class _Image(msgspec.Struct):
    id: int


class _SizedImage(_Image):
    height: int
    width: int


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: Box
    area: float | None = None
    iscrowd: bool | int = 0
    difficult: bool | int = 0


class _MaskAnnotation(_Annotation, kw_only=True):
    segmentation: list[list[float]] | dict[str, Any]


class _BoxTruth(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


class _MaskTruth(msgspec.Struct):
    images: list[_SizedImage]
    categories: list[_Category]
    annotations: list[_MaskAnnotation]


class _BoxPrediction(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    bbox: Box


class _MaskPrediction(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    segmentation: dict[str, Any]


def coco_results(
    image_ids: Sequence[int], detections: Sequence[dict[str, Tensor]], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Turn what a torchvision detector returns into COCO results.

    Args:
        image_ids: one id for each image.
        detections: one dict for each image: ``boxes`` (N, 4) xyxy in pixels, ``labels`` (N,) in
            1 ... K-1, ``scores`` (N,); and, where the detector has them, ``masks`` (N, 1, H, W) in
            [0, 1], which are cut at 0.5. Any device and floating dtype. N may be 0.
        category_ids: K-1 of them; label l becomes ``category_ids[l - 1]``.

    Returns:
        A list of plain dicts that ``json.dump`` writes, image by image in the order given.

    Raises:
        ValueError: the two sequences differ in length, or a label has no category id.
    """
    if len(image_ids) != len(detections):
        raise ValueError(f"got {len(image_ids)} image ids and detections of {len(detections)} images")
    rows: list[dict[str, Any]] = []
    for image_id, detection in zip(image_ids, detections, strict=True):
        rows += _image_results(int(image_id), detection, category_ids)
    return rows


def read_ground_truth(source: Source | dict[str, Any], *, masks: bool = False) -> dict[str, Any]:
    """Check a ground truth and return it as the dict it is.

    Args:
        source: COCO-format dict, or the path of a JSON file that holds one.
        masks: also ask for each annotation's ``segmentation`` and each image's ``height`` and ``width``.

    Raises:
        ValueError: the file is not JSON; a key is missing or of the wrong type; an id or a class name
            appears twice; an annotation's image or category is unknown; a box is not finite or of negative size.
    """
    name, content = _read(source, "ground truth")
    truth = _convert(content, _MaskTruth if masks else _BoxTruth, name)
    image_ids = _unique([i.id for i in truth.images], f"{name}: id", "$.images[{}].id")
    category_ids = _unique([c.id for c in truth.categories], f"{name}: id", "$.categories[{}].id")
    _unique([c.name for c in truth.categories], f"{name}: name", "$.categories[{}].name")
    _check_rows(truth.annotations, image_ids, category_ids, name, "$.annotations[{}]")
    _check_boxes([a.bbox for a in truth.annotations], name, "$.annotations[{}].bbox")
    return content


def read_predictions(
    source: Source | Sequence[dict[str, Any]], ground_truth: dict[str, Any], *, masks: bool = False
) -> list[dict[str, Any]]:
    """Check predictions against their ground truth and return them as the list they are.

    Args:
        source: list of COCO results, or the path of a JSON file that holds one. May be empty.
        ground_truth: what ``read_ground_truth`` returned; its images and categories are the ones allowed.
        masks: ask for ``segmentation`` instead of ``bbox``.

    Raises:
        ValueError: the file is not JSON; a key is missing or of the wrong type; an image or category is
            unknown; a score or box is not finite, or a box is of negative size.
    """
    name, content = _read(source, "predictions")
    rows = _convert(content, list[_MaskPrediction] if masks else list[_BoxPrediction], name)
    image_ids = {i["id"] for i in ground_truth["images"]}
    category_ids = {c["id"] for c in ground_truth["categories"]}
    _check_rows(rows, image_ids, category_ids, name, "$[{}]")
    scores = np.array([r.score for r in rows], dtype=np.float64)
    _refuse(~np.isfinite(scores), scores, f"{name}: score must be finite", "$[{}].score")
    if not masks:
        _check_boxes([r.bbox for r in rows], name, "$[{}].bbox")
    return list(content)


def _image_results(image_id: int, detection: dict[str, Tensor], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    boxes, scores = (detection[k].detach().to("cpu", torch.float64) for k in ("boxes", "scores"))
    labels = detection["labels"].tolist()
    unknown = [label for label in labels if not 1 <= label <= len(category_ids)]
    if unknown:
        raise ValueError(f"image {image_id}: labels must lie in [1, {len(category_ids)}], got {unknown[0]}")
    rows: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(_xywh(boxes), labels, scores.tolist(), strict=True)
    ]
    if "masks" in detection:
        for row, mask in zip(rows, _encode(detection["masks"]), strict=True):
            row["segmentation"] = mask
    return rows


def _xywh(boxes: Tensor) -> list[list[float]]:
    corner, end = boxes.reshape(-1, 4).split(2, dim=1)
    return torch.cat([corner, end - corner], dim=1).tolist()


def _encode(masks: Tensor) -> list[dict[str, Any]]:
    planes = (masks[:, 0] > 0.5).permute(1, 2, 0).to("cpu", torch.uint8).numpy()  # (H, W, N)
    return [{**m, "counts": m["counts"].decode("ascii")} for m in rle.encode(np.asfortranarray(planes))]


def _read(source: Any, name: str) -> tuple[str, Any]:
    if not isinstance(source, (str, os.PathLike)):
        return name, source
    try:
        # the standard library's reader, because it takes the NaN that a diverged run writes: so its row can be named
        return str(source), json.loads(Path(source).read_bytes())
    except ValueError as error:
        raise ValueError(f"{source}: not JSON: {error}") from error


def _convert(content: Any, form: Any, name: str) -> Any:
    try:
        return msgspec.convert(content, form)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from error


def _unique(values: list[Any], what: str, place: str) -> set[Any]:
    seen: set[Any] = set()
    for row, value in enumerate(values):
        if value in seen:
            raise ValueError(f"{what} {value!r} appears twice - at `{place.format(row)}`")
        seen.add(value)
    return seen


def _check_rows(rows: list[Any], image_ids: set[int], category_ids: set[int], name: str, place: str) -> None:
    for number, row in enumerate(rows):
        if row.image_id not in image_ids:
            raise ValueError(f"{name}: unknown image_id {row.image_id} - at `{place.format(number)}.image_id`")
        if row.category_id not in category_ids:
            raise ValueError(f"{name}: unknown category_id {row.category_id} - at `{place.format(number)}.category_id`")


def _check_boxes(boxes: list[Box], name: str, place: str) -> None:
    values = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    _refuse(~np.all(np.isfinite(values), axis=1), values, f"{name}: bbox must be finite", place)
    _refuse(np.any(values[:, 2:] < 0, axis=1), values, f"{name}: bbox must have a width and height of 0 or more", place)


def _refuse(bad: np.ndarray, values: np.ndarray, wanted: str, place: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{wanted}, got {values[row].tolist()} - at `{place.format(row)}`")
