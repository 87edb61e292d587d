"""COCO results made of what a torchvision detector returns."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from ..data.masks import encode_planes
from ..data.points import check_keypoints


def coco_results(
    image_ids: Sequence[int], detections: Sequence[dict[str, Tensor]], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Turn what a torchvision detector returns into COCO results.

    Args:
        image_ids: one id for each image.
        detections: one dict for each image: ``boxes`` (N, 4) xyxy in pixels, ``labels`` (N,) in
            1 ... K-1, ``scores`` (N,); and, where the detector has them, ``masks`` (N, 1, H, W) in
            [0, 1], which are cut at 0.5, or bool; ``keypoints`` (N, P, 3), x, y and visibility, in pixels. Any
            device and floating dtype. N may be 0.
        category_ids: K-1 of them; label l becomes ``category_ids[l - 1]``.

    Returns:
        A list of plain dicts that ``json.dump`` writes, image by image in the order given.

    Raises:
        ValueError: the two sequences differ in length, a label has no category id, or keypoints have another shape.
        TypeError: the category ids are a mapping, whose keys would be taken for them; or an id is no integer.
    """
    if len(image_ids) != len(detections):
        raise ValueError(f"got {len(image_ids)} image ids and detections of {len(detections)} images")
    if isinstance(category_ids, Mapping):
        raise TypeError(f"category_ids must be a sequence, one id for each label from 1 on, got {category_ids!r}")
    ids = [_as_id("category", category_id) for category_id in category_ids]
    rows: list[dict[str, Any]] = []
    for image_id, detection in zip(image_ids, detections, strict=True):
        rows += _image_results(_as_id("image", image_id), detection, ids)
    return rows


def _keypoint_rows(keypoints: Tensor, objects: int, image_id: int) -> list[list[float]]:
    """Keypoints (N, P, 3) as COCO's lists of 3P numbers."""
    try:
        check_keypoints(keypoints, objects)
    except (TypeError, ValueError) as error:
        raise type(error)(f"image {image_id}: {error}") from None
    return keypoints.detach().to("cpu", torch.float64).flatten(1).tolist()


def _as_id(what: str, number: Any) -> int:
    try:
        return operator.index(int(number) if isinstance(number, float) and number.is_integer() else number)
    except TypeError:
        raise TypeError(f"{what} ids must be integers, got {number!r}") from None


def _image_results(image_id: int, detection: dict[str, Tensor], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    boxes, scores = (detection[k].detach().to("cpu", torch.float64) for k in ("boxes", "scores"))
    labels = detection["labels"].tolist()
    unknown = [label for label in labels if not 1 <= label <= len(category_ids)]
    if unknown:
        raise ValueError(f"image {image_id}: labels must lie in [1, {len(category_ids)}], got {unknown[0]}")
    xywh = box_convert(boxes.reshape(-1, 4), "xyxy", "xywh").tolist()
    rows: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(xywh, labels, scores.tolist(), strict=True)
    ]
    if "masks" in detection:
        planes = (detection["masks"][:, 0] > 0.5).cpu().numpy().view(np.uint8)
        for row, mask in zip(rows, encode_planes(planes), strict=True):
            row["segmentation"] = mask
    if "keypoints" in detection:
        points = _keypoint_rows(detection["keypoints"], len(rows), image_id)
        for row, numbers in zip(rows, points, strict=True):
            row["keypoints"] = numbers
    return rows
