"""The annotations of a whole data set as flat arrays.

Worker processes share them. Forked ones read their parent's memory, and visiting a sample touches no reference count
in it, so a worker does not grow. To spawned ones torch passes the arrays through shared memory, one copy for all.

Letters used below: I images, M objects of all images, N objects of one image, K classes including background.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .masks import decode_masks, require_masks
from .paths import path_below
from .skeleton import Skeleton, coco_keypoints


def offsets_of(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of some pieces begins that stand one after the other, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclass(frozen=True, eq=False, repr=False)
class Annotations:
    """Images, boxes and classes of a data set.

    Attributes:
        file_names: all file names in UTF-8, one after the other, uint8.
        name_offsets: (I + 1,) int64; name i is ``file_names[name_offsets[i] : name_offsets[i + 1]]``.
        sizes: (I, 2) int32, height and width in pixels.
        image_ids: (I,) int64.
        offsets: (I + 1,) int64; the objects of image i are the rows ``offsets[i]`` to ``offsets[i + 1]``.
        boxes: (M, 4) float32, xyxy in pixels, 0-based, x2 and y2 exclusive, inside their image.
        labels: (M,) int64, 1 ... K-1.
        area: (M,) float64, square pixels, as the file has it, otherwise the box's.
        iscrowd: (M,) bool; crowds are for the evaluation only.
        difficult: (M,) bool.
        ids: (M,) int64, the objects' own ids.
        class_names: K - 1 names; label i is ``class_names[i - 1]``.
        category_ids: K - 1 original ids, in label order.
        image_dir: the folder that the file names start from.
        segmentations: the segmentations as the file writes them, in JSON, uint8; None where they were not wanted.
        segmentation_spans: (M, 2) int64, where in it those of an object begin and end.
        keypoints: (M, P, 3) float32, x and y in pixels and visibility: 0 where it is not known, 1 hidden, 2 visible;
            None where they were not wanted.
        skeleton: what the P keypoints are.
    """

    file_names: NDArray[np.uint8]
    name_offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]
    image_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    area: NDArray[np.float64]
    iscrowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    ids: NDArray[np.int64]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_dir: Path
    segmentations: NDArray[np.uint8] | None = None
    segmentation_spans: NDArray[np.int64] | None = None
    keypoints: NDArray[np.float32] | None = None
    skeleton: Skeleton | None = None

    def __repr__(self) -> str:
        """How much there is of what."""
        return f"<Annotations of {len(self)} images, {len(self.boxes)} objects, {len(self.class_names)} classes>"

    def __len__(self) -> int:
        """Number of images, I."""
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """The file name of an image as the annotations give it."""
        start, stop = self.name_offsets[index], self.name_offsets[index + 1]
        return self.file_names[start:stop].tobytes().decode()

    def image_path(self, index: int) -> Path:
        """Where the image lies; backslashes in its name are slashes if there is no such file."""
        return path_below(self.image_dir, self.file_name(index))

    def rows(self, index: int) -> slice:
        """Which rows of the object arrays belong to an image."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def with_objects(self) -> Annotations:
        """Those images that have an object which samples show, so one that is no crowd, and all objects of these.

        Raises:
            ValueError: there is no such image.
        """
        before = offsets_of((~self.iscrowd).astype(np.int64))  # how many samples show of the objects before each
        kept = np.diff(before[self.offsets]) > 0
        if not kept.any():
            raise ValueError("none of its images has an object that samples show")
        rows, letters = (np.repeat(kept, np.diff(offsets)) for offsets in (self.offsets, self.name_offsets))
        columns = ("boxes", "labels", "area", "iscrowd", "difficult", "ids", "segmentation_spans", "keypoints")
        objects = {name: getattr(self, name)[rows] for name in columns if getattr(self, name) is not None}
        return replace(
            self,
            file_names=self.file_names[letters],
            name_offsets=offsets_of(np.diff(self.name_offsets)[kept]),
            sizes=self.sizes[kept],
            image_ids=self.image_ids[kept],
            offsets=offsets_of(np.diff(self.offsets)[kept]),
            **objects,
        )

    def masks(self, index: int, rows: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """The masks of some objects of an image, decoded now.

        Args:
            index: which image.
            rows: (N,) rows of the object arrays.

        Returns:
            (N, H, W) uint8, 1 where the object is; None where segmentations were not wanted.

        Raises:
            ValueError: a segmentation is malformed; the image's file and the id of the annotation are named.
        """
        return None if self.segmentations is None else decode_masks(*self._named_segmentations(index, rows.tolist()))

    def require_masks(self) -> None:
        """Raise ValueError, as ``masks``, if a segmentation of any image is malformed."""
        for index in range(0 if self.segmentations is None else len(self)):
            rows = self.rows(index)
            require_masks(*self._named_segmentations(index, range(rows.start, rows.stop)))

    def _named_segmentations(self, index: int, rows: Iterable[int]) -> tuple[list[tuple[str, bytes]], tuple[int, int]]:
        """Those of some objects of an image, what errors call each, and the image's size."""
        height, width = self.sizes[index].tolist()
        path = self.image_path(index)
        return [(f"{path}: annotation {self.ids[row]}", self._segmentation(row)) for row in rows], (height, width)

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """The annotations in COCO's format, for pycocotools and the evaluators.

        Returns:
            ``images``, ``categories`` and ``annotations``, with the original category ids and areas, crowds
            included, and ``difficult`` beside ``iscrowd``. Boxes are xywh. Segmentations and keypoints are there if
            they were read. Should an annotation's id be below 1, all are numbered anew, because pycocotools takes
            id 0 for "no match".
        """
        heights, widths = self.sizes.T.tolist()
        images = [
            {"id": image_id, "file_name": self.file_name(i), "height": height, "width": width}
            for i, (image_id, height, width) in enumerate(zip(self.image_ids.tolist(), heights, widths, strict=True))
        ]
        points = {} if self.skeleton is None else self.skeleton.of_category()
        categories = [{"id": i, "name": n, **points} for i, n in zip(self.category_ids, self.class_names, strict=True)]
        return {"images": images, "categories": categories, "annotations": self._coco_objects()}

    def _coco_objects(self) -> list[dict[str, Any]]:
        corners = self.boxes.astype(np.float64)
        columns = {
            "id": self.ids if self.ids.min(initial=1) > 0 else np.arange(1, len(self.ids) + 1),
            "image_id": np.repeat(self.image_ids, np.diff(self.offsets)),
            "category_id": np.array(self.category_ids, dtype=np.int64)[self.labels - 1],
            "bbox": np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]),
            "area": self.area,
            "iscrowd": self.iscrowd.astype(int),
            "difficult": self.difficult.astype(int),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        if self.segmentations is not None:
            for row, annotation in enumerate(found):
                annotation["segmentation"] = msgspec.json.decode(self._segmentation(row))
        if self.keypoints is not None:
            for points, annotation in zip(self.keypoints, found, strict=True):
                annotation |= coco_keypoints(points)
        return found

    def _segmentation(self, row: int) -> bytes:
        assert self.segmentations is not None
        assert self.segmentation_spans is not None
        start, stop = self.segmentation_spans[row]
        return self.segmentations[start:stop].tobytes()

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """The arrays as tensors: what a process that is spawned gets in shared memory, and the next one again."""
        return {name: torch.from_numpy(value) for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: self._tensors.get(field.name, getattr(self, field.name)) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {name: value.numpy() for name, value in state.items() if isinstance(value, Tensor)}
        self.__dict__.update(state | arrays)
