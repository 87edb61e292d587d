"""Annotations and image files as a torch data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..targets import Target
from .annotations import Annotations
from .images import read_image

Transform = Callable[[Any, Target], tuple[Any, Target]]


class DetectionDataset(Dataset[tuple[Any, Target]]):
    """Samples for torchvision's detectors: ``image, target = dataset[i]``.

    The image is a (3, H, W) uint8 tensor. The target has ``boxes`` (N, 4) float32, ``labels`` (N,)
    int64, ``area`` (N,) float32, ``iscrowd`` and ``difficult`` (N,) int64, ``image_id``, an int, and ``masks``
    (N, H, W) uint8 if the annotations were read with them. They are copies: writing to a sample leaves the
    annotations alone. Crowds are left out of the samples, and kept in :meth:`ground_truth`.

    Args:
        annotations: from :func:`read_coco` or :func:`read_voc`.
        transform: called with image and target, returns both.
    """

    def __init__(self, annotations: Annotations, *, transform: Transform | None = None) -> None:
        self.annotations = annotations
        self.transform = transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Any, Target]:
        """Image and target.

        Raises:
            IndexError: there is no such sample.
            FileNotFoundError: the image file is missing.
            ValueError: the image file is corrupt, or of another size than annotated, or a segmentation is malformed;
                the file is named, or the annotation.
        """
        index = range(len(self))[index]
        height, width = self.annotations.sizes[index].tolist()
        image, target = read_image(self.image_path(index), (height, width)), self.target_of(index)
        return (image, target) if self.transform is None else self.transform(image, target)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes without background; label i is ``class_names[i - 1]``."""
        return self.annotations.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The file's own ids of the classes, in label order."""
        return self.annotations.category_ids

    @property
    def num_classes(self) -> int:
        """K, background included, as torchvision's detector builders want it."""
        return len(self.class_names) + 1

    def image_path(self, index: int) -> Path:
        """Where the image of a sample lies."""
        return self.annotations.image_path(range(len(self))[index])

    def labels_of(self, index: int) -> Tensor:
        """The labels of a sample, (N,) int64, without decoding its image or calling the transform."""
        return torch.from_numpy(self.annotations.labels[self._trainable(range(len(self))[index])])

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """All annotations in COCO's format, crowds included; see :meth:`Annotations.ground_truth`."""
        return self.annotations.ground_truth()

    def target_of(self, index: int) -> Target:
        """The target of a sample, without decoding its image or calling the transform; it takes the same time for all."""
        index = range(len(self))[index]
        given, rows = self.annotations, self._trainable(index)
        columns: dict[str, tuple[NDArray[Any], torch.dtype]] = {
            "boxes": (given.boxes, torch.float32),
            "labels": (given.labels, torch.int64),
            "area": (given.area, torch.float32),
            "iscrowd": (given.iscrowd, torch.int64),
            "difficult": (given.difficult, torch.int64),
        }
        # an index array makes numpy copy, so a sample owns its memory
        target: Target = {key: torch.from_numpy(array[rows]).to(dtype) for key, (array, dtype) in columns.items()}
        target["image_id"] = int(given.image_ids[index])
        masks = given.masks(index, rows)
        return target if masks is None else {**target, "masks": torch.from_numpy(masks)}

    def _trainable(self, index: int) -> NDArray[np.int64]:
        rows = self.annotations.rows(index)
        return rows.start + np.flatnonzero(~self.annotations.iscrowd[rows])
