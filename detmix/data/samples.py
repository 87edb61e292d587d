"""Rows of a stream into samples: an image and its objects, as data sets write them, into an image and a target.

Letters used below: N objects of one image, K classes including background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from ..arguments import check_choice
from ..targets import Target
from .bounds import Flag
from .cleaning import Objects, OnInvalid, clip, dropped, report
from .json_rows import whole_or_float

BoxFormat = Literal["xywh", "xyxy"]

_OPTIONAL: dict[str, Any] = {"area": float | None, "iscrowd": Flag, "difficult": bool | int | None}
_Box = tuple[float | None, float | None, float | None, float | None]


@dataclass(frozen=True)
class Layout:
    """Where the rows of a stream keep what a target needs.

    The objects of a row are a dict of columns, ``{"bbox": [...], "category": [...]}``, or a list of dicts. Columns
    ``area`` in square pixels, ``iscrowd`` and ``difficult`` are taken if they are there, and a crowd is left out, as by
    ``DetectionDataset``. As in COCO files, null and NaN say nothing, and whole floats are integers.

    Attributes:
        classes: what the rows write for label 1, 2 ... K-1: names or ids.
        box_format: ``"xywh"`` or ``"xyxy"``, in pixels counted from 0.
        objects: key of the objects.
        boxes: key of their boxes.
        labels: key of their classes.
        names: what integers stand for, where rows write classes as numbers from 0.
        on_invalid: ``"drop"`` drops a box without width or height and clips one past the edge, with a warning in the
            log; ``"raise"`` makes either an error.
    """

    classes: tuple[int | str, ...]
    box_format: BoxFormat
    objects: str = "objects"
    boxes: str = "bbox"
    labels: str = "category"
    names: tuple[str, ...] = ()
    on_invalid: OnInvalid = "drop"

    def __post_init__(self) -> None:
        check_choice("box_format", self.box_format, BoxFormat)
        check_choice("on_invalid", self.on_invalid, OnInvalid)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be one or more, each once, got {list(self.classes)}")


def read_target(row: Mapping[str, Any], layout: Layout, size: tuple[int, int], name: str) -> Target:
    """The target of a row.

    Args:
        row: the objects are in it, and the ``image_id`` if it has an integer one.
        layout: how they are written.
        size: (H, W) of the image.
        name: what to call the row in errors.

    Returns:
        ``boxes`` (N, 4) float32, ``labels`` (N,) int64, ``area`` (N,) float32, ``iscrowd`` and ``difficult`` (N,)
        int64, and ``image_id`` if there is one.

    Raises:
        ValueError: a key is missing; boxes are not numbers, or not as many as classes; a class is unknown; a coordinate
            is not finite; a box is invalid and ``on_invalid="raise"``. The row is named, and the object.
    """

    def where(number: int) -> str:
        return f"{name}: {layout.objects}[{number}]"

    objects = _read_objects(row, layout, name)
    clipped = clip(objects, np.array([size], np.int32), where, one_based=False)
    report(name, where, objects.boxes, clipped.bad, layout.on_invalid)
    kept = ~dropped(clipped) & ~objects.iscrowd
    target: Target = {
        "boxes": torch.from_numpy(clipped.boxes[kept]),
        "labels": torch.from_numpy(objects.labels[kept]),
        "area": torch.from_numpy(clipped.area[kept].astype(np.float32)),
        "iscrowd": torch.from_numpy(objects.iscrowd[kept].astype(np.int64)),
        "difficult": torch.from_numpy(objects.difficult[kept].astype(np.int64)),
    }
    image_id = plain_number(row.get("image_id"))
    return target | {"image_id": image_id} if isinstance(image_id, int) else target


def _read_objects(row: Mapping[str, Any], layout: Layout, name: str) -> Objects:
    columns = _columns(row, layout, name)
    boxes = np.array(_convert(columns, layout.boxes, _Box, name), np.float64).reshape(-1, 4)
    if layout.box_format == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    count = len(boxes)
    area, iscrowd, difficult = (
        _convert(columns, key, kind, name) if key in columns else [None] * count for key, kind in _OPTIONAL.items()
    )
    labels = _labels(_convert(columns, layout.labels, int | str, name), layout, name)
    for key, column in ((layout.labels, labels), ("area", area), ("iscrowd", iscrowd), ("difficult", difficult)):
        if len(column) != count:
            raise ValueError(f"{name}: {layout.boxes} has {count} objects and {key} has {len(column)}")
    return Objects(
        image=np.zeros(count, np.int64),
        boxes=boxes,
        labels=np.array(labels, np.int64),
        area=np.array(area, np.float64),
        iscrowd=np.array(iscrowd, np.bool_),
        difficult=np.array(difficult, np.bool_),
        ids=np.arange(count),
    )


def _columns(row: Mapping[str, Any], layout: Layout, name: str) -> Mapping[str, Any]:
    """The objects as a dict of columns."""
    if layout.objects not in row:
        raise ValueError(f"{name}: the key {layout.objects!r} is missing, got {sorted(row)}")
    objects = row[layout.objects]
    wanted = (layout.boxes, layout.labels)
    if isinstance(objects, Sequence) and not isinstance(objects, str):
        rows = [each if isinstance(each, Mapping) else {} for each in objects]
        if not all(set(wanted) <= each.keys() for each in rows):
            raise ValueError(f"{name}: each of {layout.objects} must be a dict with {' and '.join(wanted)}")
        return {key: [each.get(key) for each in rows] for key in (*wanted, *_OPTIONAL)}
    if not isinstance(objects, Mapping) or not set(wanted) <= objects.keys():
        got = sorted(objects) if isinstance(objects, Mapping) else type(objects).__name__
        raise ValueError(f"{name}: {layout.objects} must have {' and '.join(wanted)}, got {got}")
    return objects


def _convert(columns: Mapping[str, Any], key: str, kind: Any, name: str) -> list[Any]:
    column = columns[key].tolist() if hasattr(columns[key], "tolist") else columns[key]  # arrays and tensors have it
    try:
        return msgspec.convert([plain_number(v) for v in column] if isinstance(column, list) else column, list[kind])
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {key}: {error}") from None


def plain_number(value: Any) -> Any:
    """The same, or None for NaN and an integer for a whole float, as tools write them."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else whole_or_float(value)


def _labels(values: list[int | str], layout: Layout, name: str) -> list[int]:
    labels = {value: label for label, value in enumerate(layout.classes, start=1)}
    names: dict[Any, str] = dict(enumerate(layout.names))
    found = []
    for number, value in enumerate(values):
        label = labels.get(names.get(value, value))
        if label is None:
            wanted = f"one of {list(layout.classes)}"
            raise ValueError(f"{name}: {layout.objects}[{number}]: {layout.labels} must be {wanted}, got {value!r}")
        found.append(label)
    return found
