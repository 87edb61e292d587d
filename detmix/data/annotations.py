"""The annotations of a whole data set as flat arrays, and the one place where bad boxes are dealt with.

Flat arrays are shared by forked workers and stay shared: visiting a sample touches no reference
count, so a worker's memory does not grow.

Letters used below: I images, M objects of all images, N objects of one image, K classes including background.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

OnInvalid = Literal["drop", "raise"]

_LOGGER = logging.getLogger("detmix.data")
_OVERHANG = 1.0  # pixels: clipping by no more than this is rounding, and not worth a word
_ROWS_SHOWN = 3


@dataclass(frozen=True, eq=False)
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

    def __len__(self) -> int:
        """Number of images, I."""
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """The file name of an image as the annotations give it."""
        start, stop = self.name_offsets[index], self.name_offsets[index + 1]
        return self.file_names[start:stop].tobytes().decode()

    def image_path(self, index: int) -> Path:
        """Where the image lies."""
        return self.image_dir / self.file_name(index)

    def rows(self, index: int) -> slice:
        """Which rows of the object arrays belong to an image."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """The annotations in COCO's format, for pycocotools and the evaluators.

        Returns:
            ``images``, ``categories`` and ``annotations``, with the original category ids and areas, crowds
            included, and ``difficult`` beside ``iscrowd``. Boxes are xywh. Should an annotation's id be below
            1, all are shifted, because pycocotools takes id 0 for "no match".
        """
        heights, widths = self.sizes.T.tolist()
        images = [
            {"id": image_id, "file_name": self.file_name(i), "height": height, "width": width}
            for i, (image_id, height, width) in enumerate(zip(self.image_ids.tolist(), heights, widths, strict=True))
        ]
        categories = [{"id": i, "name": n} for i, n in zip(self.category_ids, self.class_names, strict=True)]
        return {"images": images, "categories": categories, "annotations": self._coco_objects()}

    def _coco_objects(self) -> list[dict[str, Any]]:
        corners = self.boxes.astype(np.float64)
        columns = {
            "id": self.ids + (1 - self.ids.min(initial=1)),
            "image_id": np.repeat(self.image_ids, np.diff(self.offsets)),
            "category_id": np.array(self.category_ids, dtype=np.int64)[self.labels - 1],
            "bbox": np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]),
            "area": self.area,
            "iscrowd": self.iscrowd.astype(int),
            "difficult": self.difficult.astype(int),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


class Objects(NamedTuple):
    """Objects of all images, in the order of the file, as a reader found them."""

    image: NDArray[np.int64]  # (M,) which image, 0 ... I-1
    boxes: NDArray[np.float64]  # (M, 4) xyxy in the file's own numbers, valid or not
    labels: NDArray[np.int64]  # (M,)
    area: NDArray[np.float64]  # (M,) NaN where the file has none
    iscrowd: NDArray[np.bool_]  # (M,)
    difficult: NDArray[np.bool_]  # (M,)
    ids: NDArray[np.int64]  # (M,)


class Images(NamedTuple):
    """Images, in the order of the file."""

    file_names: Sequence[str]
    sizes: Sequence[tuple[int, int]]  # height and width in pixels
    ids: Sequence[int]


def build_annotations(
    images: Images,
    objects: Objects,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    image_dir: Path,
    source: str,
    where: Callable[[int], str],
    one_based: bool = False,
    on_invalid: OnInvalid = "drop",
) -> Annotations:
    """Clean what a reader found and lay it out by image.

    A box without width or height, in the file's numbers or once clipped to its image, is dropped. What
    was dropped, or clipped by more than a pixel, is reported once, as a warning of the logger ``detmix.data``.

    Args:
        images: the I images.
        objects: the M objects, in any order.
        class_names: K - 1 names, in label order.
        category_ids: K - 1 original ids, in label order.
        image_dir: the folder that the file names start from.
        source: the file that messages name.
        where: tells the file and row of object number m.
        one_based: pixels count from 1 and x2, y2 are inclusive, as in VOC.
        on_invalid: ``"raise"`` makes what would be dropped or reported an error.

    Raises:
        ValueError: there is no image; a class name occurs twice; a coordinate is not finite; a box
            is invalid and ``on_invalid="raise"``. Each names the file, and the row where there is one.
    """
    if on_invalid not in ("drop", "raise"):
        raise ValueError(f"on_invalid must be 'drop' or 'raise', got {on_invalid!r}")
    if not len(images.ids):
        raise ValueError(f"{source}: there is no image in it")
    repeated = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if repeated:
        raise ValueError(f"{source}: class names must be unique, got {repeated[0]!r} more than once")
    shapes = np.array(images.sizes, dtype=np.int32).reshape(-1, 2)
    clean = _clean(objects, shapes, source, where, one_based, on_invalid)
    encoded = [name.encode() for name in images.file_names]
    return Annotations(
        file_names=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        name_offsets=_offsets([len(name) for name in encoded]),
        sizes=shapes,
        image_ids=np.array(images.ids, dtype=np.int64),
        offsets=_offsets(np.bincount(clean.image, minlength=len(images.ids))),
        boxes=clean.boxes.astype(np.float32),
        labels=clean.labels,
        area=clean.area,
        iscrowd=clean.iscrowd,
        difficult=clean.difficult,
        ids=clean.ids,
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        image_dir=image_dir,
    )


def _offsets(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _clean(
    objects: Objects,
    sizes: NDArray[np.int32],
    source: str,
    where: Callable[[int], str],
    one_based: bool,
    on_invalid: OnInvalid,
) -> Objects:
    """The objects sorted by image, without those that cannot be trained on."""
    given = objects.boxes
    for row in np.flatnonzero(~np.isfinite(given).all(1))[:1].tolist():
        raise ValueError(f"{where(row)}: box coordinates must be finite, got {given[row].tolist()}")
    boxes = given - np.array([1, 1, 0, 0]) * one_based
    clipped = np.clip(boxes, 0, np.tile(sizes[objects.image, ::-1], 2))
    empty = _is_empty(given) | _is_empty(clipped.astype(np.float32))
    overhanging = (np.abs(clipped - boxes).max(1, initial=0) > _OVERHANG) & ~empty
    _report(source, where, given, empty, overhanging, on_invalid)

    area = np.where(np.isnan(objects.area), np.prod(clipped[:, 2:] - clipped[:, :2], axis=1), objects.area)
    order = np.argsort(objects.image, kind="stable")
    kept = order[~empty[order]]
    return Objects(
        image=objects.image[kept],
        boxes=clipped[kept],
        labels=objects.labels[kept],
        area=area[kept],
        iscrowd=objects.iscrowd[kept],
        difficult=objects.difficult[kept],
        ids=objects.ids[kept],
    )


def _is_empty(boxes: NDArray[Any]) -> NDArray[np.bool_]:
    return (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])


def _report(
    source: str,
    where: Callable[[int], str],
    boxes: NDArray[np.float64],
    empty: NDArray[np.bool_],
    overhanging: NDArray[np.bool_],
    on_invalid: OnInvalid,
) -> None:
    findings = []
    for bad, what, remedy in (
        (empty, "without width or height inside the image", "dropped"),
        (overhanging, "more than a pixel past the edge of the image", "clipped"),
    ):
        rows = np.flatnonzero(bad).tolist()
        if rows:
            shown = "; ".join(f"{where(row)} has xyxy {boxes[row].tolist()}" for row in rows[:_ROWS_SHOWN])
            more = "; ..." if len(rows) > _ROWS_SHOWN else ""
            done = f", {remedy}" if on_invalid == "drop" else ""
            findings.append(f"{len(rows)} of {len(boxes)} boxes {what}{done}: {shown}{more}")
    if findings and on_invalid == "raise":
        raise ValueError(f"{source}: {'. '.join(findings)}")
    if findings:
        _LOGGER.warning("%s: %s", source, ". ".join(findings))
