"""What measuring a detector takes: its device, its input, the names of its classes, and results as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_dtype, to_image

OnStep: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and of how much, after each step of long work."""


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for one without."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def as_input(image: Any, device: torch.device) -> Tensor:
    """An image of any kind that ``detmix.mix_pair`` takes as detectors want it: (C, H, W) float, uint8 to [0, 1]."""
    if isinstance(image, np.ndarray):
        image = np.ascontiguousarray(image)  # torch has no strides below 0, as of BGR turned into RGB
    return to_dtype(to_image(image).as_subclass(Tensor).to(device), torch.float32, scale=True)


def names_of(dataset: Any, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """The classes without background: those given, or the data set's own.

    Raises:
        ValueError: there are neither.
    """
    names = getattr(dataset, "class_names", None) if class_names is None else class_names
    if names is None:
        raise ValueError(f"{type(dataset).__name__} has no class_names: pass class_names=")
    return tuple(names)


def classes_of(labels: Tensor, names: Sequence[str]) -> np.ndarray:
    """Labels 1 ... K-1 as rows 0 ... K-2 of the class names, (N,) int64.

    Raises:
        ValueError: a label has no name.
    """
    rows = labels.numpy(force=True) - 1
    unnamed = (rows < 0) | (rows >= len(names))
    if unnamed.any():
        raise ValueError(f"labels must lie in [1, {len(names)}], one for each class name, got {rows[unnamed][0] + 1}")
    return rows


def as_json(value: Any) -> Any:
    """Arrays and tuples as lists, and NaN as None, which JSON has no number for."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
