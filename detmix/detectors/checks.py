"""Checks of the targets that adapted losses get: whether they carry weights, and whether all is of the right form.

Values are looked at on the CPU only: on a GPU that would stop the queue at every step.
``detmix.check_target``, which the data sets call, looks at all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..target_checks import require_target_each
from ..targets import Target
from .rows import Objective


def are_weighted(images: Sequence[Any], targets: Sequence[Target], objective: Objective) -> bool:
    """Whether the losses of a batch are ours to compute: torchvision's own are right where nothing has weights.

    Args:
        images: something of each image, such as its anchors; counted alone.
        targets: theirs.
        objective: of the model.

    Raises:
        TypeError: weights, sources or labels are of a wrong type or dtype.
        ValueError: there are more or fewer targets than images; labels are missing; something has a wrong shape or
            lies on another device; a weight is outside [0, 1].
    """
    if objective == "unweighted":
        return False
    for row, target in enumerate(targets):
        require_keys(row, target, "labels")
    if not any("weights" in target for target in targets):
        return False
    require_target_each(len(images), targets)
    for row, target in enumerate(targets):
        _check_column(row, target, "weights")
        _check_column(row, target, "sources")
        _check_column(row, target, "labels")
        _check_values(row, target)
    return True


def require_keys(row: int, target: Target, *keys: str) -> None:
    """Raise ValueError unless the target of that row of a batch has all of these keys."""
    for key in keys:
        if key not in target:
            raise ValueError(f"target {row} has no {key}; it has {sorted(target)}")


def require_keypoints(targets: Sequence[Target], count: int | None) -> None:
    """Refuse keypoints of another number than a detector has: torchvision would take those of other objects for them.

    Args:
        targets: of a batch.
        count: P, how many the detector tells apart; None if its predictor does not say.

    Raises:
        ValueError: keypoints are missing or have another shape than (N, P, 3); target and shape are named.
    """
    for row, target in enumerate(targets):
        require_keys(row, target, "keypoints")
        shape = tuple(target["keypoints"].shape)
        objects = target["boxes"].shape[0]
        if len(shape) != 3 or shape != (objects, shape[1] if count is None else count, 3):
            wanted = f"({objects}, {'P' if count is None else count}, 3)"
            raise ValueError(
                f"keypoints of target {row} must have shape {wanted}, one row for each box with as many keypoints as "
                f"the detector has, got {shape}"
            )


def require_labels(targets: Sequence[Target], classes: int) -> None:
    """Refuse labels that a detector has no output for, those below 0 too, which torchvision's R-CNNs let pass.

    Args:
        targets: of a batch, with labels.
        classes: of the detector, background included where it has one.

    Raises:
        ValueError: a label is negative or too large; target and object are named.
    """
    for row, target in enumerate(targets):
        labels = target["labels"].tolist() if target["labels"].device.type == "cpu" else []
        for number, label in enumerate(labels):
            if not 0 <= label < classes:
                raise ValueError(
                    f"labels of target {row} must be 0 or more and below {classes}, the detector's classes with "
                    f"background, got {label} for object {number}"
                )


def _check_column(row: int, target: Target, key: str) -> None:
    if key not in target:
        return
    column, boxes = target[key], target["boxes"]
    wanted = "a floating dtype" if key == "weights" else "dtype int64"
    if not isinstance(column, Tensor):
        raise TypeError(f"{key} of target {row} must be a tensor of {wanted}, got {type(column).__name__}")
    if not (column.is_floating_point() if key == "weights" else column.dtype == torch.int64):
        raise TypeError(f"{key} of target {row} must be a tensor of {wanted}, got {column.dtype}")
    if column.shape != boxes.shape[:1]:
        shape = tuple(boxes.shape[:1])
        raise ValueError(f"{key} of target {row} must have shape {shape}, one per box, got {tuple(column.shape)}")
    if column.device != boxes.device:
        raise ValueError(f"{key} of target {row} must be on {boxes.device}, as its boxes, got {column.device}")


def _check_values(row: int, target: Target) -> None:
    weights = target.get("weights")
    if weights is None or weights.device.type != "cpu":
        return
    wrong = torch.where(~((weights >= 0) & (weights <= 1)))[0].tolist()
    if wrong:
        value = float(weights[wrong[0]])
        raise ValueError(f"weights of target {row} must lie in [0, 1], got {value} for object {wrong[0]}")
