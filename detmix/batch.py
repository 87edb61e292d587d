"""Batches of detection samples: lists, since images differ in size and in their number of objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .targets import Target


def collate(samples: Iterable[tuple[Any, Target]]) -> tuple[list[Any], list[Target]]:
    """Put samples into a batch, as torchvision's detectors take it: a ``collate_fn`` for ``DataLoader``.

    Args:
        samples: (image, target) pairs; sizes may differ.

    Returns:
        The images and the targets, each as a list.
    """
    pairs = list(samples)
    return [image for image, _ in pairs], [target for _, target in pairs]
