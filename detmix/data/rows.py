"""Samples as albumentations' Compose holds them: an array with a row for each box, label fields in its last columns.

``processor`` is the one that Compose has for boxes: it knows the format of the boxes and encodes label fields.
Nothing here imports albumentations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..canvas import image_size
from ..targets import Target

_UNSAID = {"weights": 1.0, "sources": 0}  # what a partner means that leaves the field out


def encode(partner: dict[str, Any], processor: Any, *, given: dict[str, Any]) -> NDArray[Any]:
    """A partner's boxes and label fields as Compose encodes those of ``given``: (N, 4 + fields), in [0, 1].

    Raises:
        ValueError: the partner is no dict with image and bboxes, lacks a label field, or has more or fewer values of
            one than boxes; boxes or weights are no numbers; or albumentations refuses its boxes, as those that leave
            the image.
        TypeError: boxes or a label field are no sequence.
    """
    if not isinstance(partner, dict) or not {"image", "bboxes"} <= partner.keys():
        got = sorted(partner) if isinstance(partner, dict) else type(partner).__name__
        raise ValueError(f"a partner must be a dict with image and bboxes, got {got}")
    fields = processor.params.label_fields
    boxes = np.asarray(partner["bboxes"], np.result_type(np.asarray(given["bboxes"]), np.float32))
    if not len(boxes):
        return np.zeros((0, 4 + len(fields)), boxes.dtype)
    columns = [boxes]
    for field in fields:
        values = _field_of(partner, field, len(boxes), given.get(field))
        columns.append(processor.label_manager.process_field("bboxes", field, values))
    height, width = image_size(partner["image"])
    return processor.check_and_convert(np.hstack(columns), {"height": height, "width": width}, "to")


def _field_of(partner: dict[str, Any], field: str, count: int, like: Any) -> Any:
    """A partner's label field; where it may leave it out, what it means, as the kind of sequence that ``like`` is."""
    if field not in partner and field in _UNSAID:
        value = _UNSAID[field]
        return np.full(count, value, like.dtype) if isinstance(like, np.ndarray) else [value] * count
    if field not in partner:
        raise ValueError(f"the label field {field!r} is missing, got {sorted(partner)}")
    if len(partner[field]) != count:
        raise ValueError(f"{field} must have one value for each of {count} boxes, got {len(partner[field])}")
    return partner[field]


def check_columns(processor: Any) -> None:
    """Raise TypeError where albumentations would hand weights or sources back as something else than it got."""
    for field, about in processor.label_manager.metadata["bboxes"].items():
        whole = about.dtype is not None and not np.issubdtype(about.dtype, np.floating)
        if (field in _UNSAID and not about.is_numerical) or (field == "weights" and whole):
            wanted = "floats" if field == "weights" else "integers"
            raise TypeError(f"{field} must be an array or a list of {wanted}, got {about.dtype or about.input_type}")


def to_sample(
    item: dict[str, Any], rows: NDArray[Any], fields: Sequence[str], *, masks: bool
) -> tuple[NDArray[Any], Target]:
    """Image and target for ``mix_pair``; the labels number the rows from 1, to tell which of them come through."""
    height, width = image_size(item["image"])
    columns = dict(zip(fields, rows[:, rows.shape[1] - len(fields) :].T, strict=True))
    target: Target = {
        "boxes": torch.from_numpy(rows[:, :4] * [width, height, width, height]),
        "labels": torch.arange(1, len(rows) + 1),
        "weights": torch.from_numpy(columns["weights"].copy()),
    }
    if "sources" in columns:
        target["sources"] = torch.from_numpy(columns["sources"].astype(np.int64))
    if masks:
        target["masks"] = _masks_of(item, (height, width))
    return item["image"], target


def _masks_of(item: dict[str, Any], size: tuple[int, int]) -> Tensor:
    if "masks" not in item:
        raise ValueError(f"the image has masks, so its partner must have them too, got {sorted(item)}")
    masks = np.asarray(item["masks"])
    if masks.shape == (0,):
        masks = np.zeros((0, *size), bool)  # those of the other image keep their dtype
    if masks.shape[1:] != size:
        raise ValueError(f"masks must be of shape (N, {size[0]}, {size[1]}), as the image, got {masks.shape}")
    return torch.tensor(masks)


def to_rows(target: Target, rows: NDArray[Any], fields: Sequence[str], size: tuple[int, int]) -> NDArray[Any]:
    """The rows that came through ``mix_pair``, on a canvas of (H, W) pixels."""
    height, width = size
    mixed = rows[target["labels"].numpy() - 1]
    mixed[:, :4] = target["boxes"].numpy() / [width, height, width, height]
    for field in (field for field in fields if field in _UNSAID):
        mixed[:, mixed.shape[1] - len(fields) + fields.index(field)] = target[field].numpy()
    return mixed
