"""Annotations and image files as a torch data set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..arguments import check_choice, check_index
from ..canvas import image_size
from ..pipelines import apply, check_transform
from ..shared import Shared
from ..targets import Target
from .annotations import Annotations
from .images import check_reduce_to, read_image
from .reduction import reduce_target
from .skeleton import Skeleton

Transform = Callable[[Any, Target], tuple[Any, Target]]
OnError = Literal["raise", "skip"]

_LOGGER = logging.getLogger("detmix.data")
_MOST_IN_A_ROW = 100  # images that are skipped before it is taken for a wrong folder or a lost disk


class DetectionDataset(Dataset[tuple[Any, Target]]):
    """Samples for torchvision's detectors: ``image, target = dataset[i]``.

    The image is a (3, H, W) uint8 tensor. The target has ``boxes`` (N, 4) float32, ``labels`` (N,)
    int64, ``area`` (N,) float32, ``iscrowd`` and ``difficult`` (N,) int64, ``image_id``, an int, and, if the
    annotations were read with them, ``masks`` (N, H, W) uint8 and ``keypoints`` (N, P, 3) float32. They are copies:
    writing to a sample leaves the annotations alone. Crowds are left out of the samples, and kept in
    :meth:`ground_truth`.

    Args:
        annotations: from :func:`read_coco` or :func:`read_voc`.
        transform: called with image and target, returns both.
        on_error: what an image that is missing, corrupt or of another size than annotated, or a malformed segmentation
            in it, does. ``"raise"`` raises; ``"skip"`` puts the next image that can be read in its place, with that
            one's target, so that the length stays and a sample depends on its index alone. Each such image is a
            warning of the logger ``detmix.data``, once, and listed in :attr:`skipped`. For training only: of an
            evaluation it would make nonsense. Mixing knows nothing of it, so partners are chosen by the labels of the
            image that was skipped, and a sample whose partner was can be mixed with itself.
        reduce_to: given, JPEG files are decoded at a half, a quarter or an eighth of their size, as far as the shorter
            side keeps so many pixels, and the sample's boxes, areas and masks are scaled to match. For training only:
            ``target_of`` and ``ground_truth`` stay as annotated.

    Raises:
        ValueError: on_error is neither, or reduce_to below 1.
        TypeError: reduce_to is not an integer, or the transform cannot be called with image and target.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        transform: Transform | None = None,
        on_error: OnError = "raise",
        reduce_to: int | None = None,
    ) -> None:
        check_choice("on_error", on_error, OnError)
        check_reduce_to(reduce_to)
        self.annotations = annotations
        self.transform = check_transform(transform)
        self.on_error: OnError = on_error
        self.reduce_to = reduce_to
        self._skipped = Shared(torch.zeros(len(annotations), dtype=torch.bool))  # workers write to it

    def __repr__(self) -> str:
        """How much there is of what."""
        return f"<DetectionDataset of {self.annotations!r}>"

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
            RuntimeError: all images, or 100 one after the other, were skipped.
        """
        index = check_index(index, len(self))
        image, target = self._read(index) if self.on_error == "raise" else self._read_from(index)
        return apply(self.transform, image, target)

    @property
    def skipped(self) -> list[int]:
        """The images that were skipped so far, by this process or a data-loading worker of it."""
        return self._skipped.values.nonzero()[:, 0].tolist()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes without background; label i is ``class_names[i - 1]``."""
        return self.annotations.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The file's own ids of the classes, in label order."""
        return self.annotations.category_ids

    @property
    def skeleton(self) -> Skeleton | None:
        """What the keypoints are; None where the annotations were read without them."""
        return self.annotations.skeleton

    @property
    def num_classes(self) -> int:
        """K, background included, as torchvision's detector builders want it."""
        return len(self.class_names) + 1

    def image_path(self, index: int) -> Path:
        """Where the image of a sample lies."""
        return self.annotations.image_path(check_index(index, len(self)))

    def labels_of(self, index: int) -> Tensor:
        """The labels of a sample, (N,) int64, without decoding its image or calling the transform."""
        return torch.from_numpy(self.annotations.labels[self._trainable(check_index(index, len(self)))])

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """The size of a sample's image as annotated, in pixels, without decoding it or calling the transform.

        The name is that of torchvision's reference scripts, which group images by it.
        """
        return self._size(check_index(index, len(self)))

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """All annotations in COCO's format, crowds included; see :meth:`Annotations.ground_truth`."""
        return self.annotations.ground_truth()

    def target_of(self, index: int) -> Target:
        """The target of a sample, without decoding its image or calling the transform; as fast for all.

        Returns:
            A dict of ``boxes`` (N, 4) float32, xyxy in pixels of the whole image, ``labels`` (N,) int64, from 1 on,
            ``area`` (N,) float32, in square pixels, ``iscrowd`` and ``difficult`` (N,) int64, and ``image_id``, an int;
            with masks also ``masks`` (N, H, W) uint8, with keypoints ``keypoints`` (N, P, 3) float32, x and y in
            pixels and visibility. All are copies.

        Raises:
            IndexError: there is no such sample.
            ValueError: a segmentation is malformed; the annotation is named.
        """
        index = check_index(index, len(self))
        given, rows = self.annotations, self._trainable(index)
        columns: dict[str, tuple[NDArray[Any], torch.dtype]] = {
            "boxes": (given.boxes, torch.float32),
            "labels": (given.labels, torch.int64),
            "area": (given.area, torch.float32),
            "iscrowd": (given.iscrowd, torch.int64),
            "difficult": (given.difficult, torch.int64),
        }
        if given.keypoints is not None:
            columns["keypoints"] = given.keypoints, torch.float32
        # an index array makes numpy copy, so a sample owns its memory
        target: Target = {key: torch.from_numpy(array[rows]).to(dtype) for key, (array, dtype) in columns.items()}
        target["image_id"] = int(given.image_ids[index])
        masks = given.masks(index, rows)
        return target if masks is None else {**target, "masks": torch.from_numpy(masks)}

    def _read(self, index: int) -> tuple[Tensor, Target]:
        size = self._size(index)
        image = read_image(self.image_path(index), size, reduce_to=self.reduce_to)
        return image, reduce_target(self.target_of(index), size, image_size(image))

    def _size(self, index: int) -> tuple[int, int]:
        height, width = self.annotations.sizes[index].tolist()
        return height, width

    def _read_from(self, index: int) -> tuple[Tensor, Target]:
        """The first sample from an index on that can be read."""
        tries = min(len(self), _MOST_IN_A_ROW)
        for candidate in ((index + step) % len(self) for step in range(tries)):
            try:
                return self._read(candidate)
            except (OSError, ValueError) as error:
                if not self._skipped.values[candidate]:
                    self._skipped.values[candidate] = True
                    _LOGGER.warning("image skipped, the next one stands in for it: %s", error)
                last = error
        raise RuntimeError(f"{tries} images, one after the other, could not be read; the last: {last}") from last

    def _trainable(self, index: int) -> NDArray[np.int64]:
        rows = self.annotations.rows(index)
        return rows.start + np.flatnonzero(~self.annotations.iscrowd[rows])
