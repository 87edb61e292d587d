"""The one place where bad boxes are dealt with: what a reader found is checked, clipped, and laid out by image.

Letters used below: I images, M objects of all images, K classes including background.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_choice
from .annotations import Annotations, offsets_of
from .paths import Folder
from .skeleton import Skeleton

OnInvalid = Literal["drop", "raise"]

_LOGGER = logging.getLogger("detmix.data")
_OVERHANG = 1.0  # pixels: clipping by no more than this is rounding, and not worth a word
_ROWS_SHOWN = 3
_MOST_CROWDS = 0.05  # of all objects: no more than these, or a single one, are worth no word; COCO has about 0.01
_BLOCK = 1 << 18  # objects that are clipped together, so that the memory this takes is bounded


class Segmentations(NamedTuple):
    """Segmentations of M objects, as the file writes them."""

    text: NDArray[np.uint8]  # JSON, one after the other
    spans: NDArray[np.int64]  # (M, 2) where each begins and ends; both the same where an object has none


class Objects(NamedTuple):
    """Objects of all images, in the order of the file, as a reader found them."""

    image: NDArray[np.int64]  # (M,) which image, 0 ... I-1
    boxes: NDArray[np.float64]  # (M, 4) xyxy in the file's own numbers, valid or not
    labels: NDArray[np.int64]  # (M,)
    area: NDArray[np.float64]  # (M,) NaN where the file has none
    iscrowd: NDArray[np.bool_]  # (M,)
    difficult: NDArray[np.bool_]  # (M,)
    ids: NDArray[np.int64]  # (M,)
    segmentations: Segmentations | None = None
    keypoints: NDArray[np.float32] | None = None  # (M, P, 3)


class Images(NamedTuple):
    """Images, in the order of the file."""

    file_names: Sequence[str]
    sizes: Sequence[tuple[int, int]] | NDArray[np.int32]  # height and width in pixels
    ids: Sequence[int] | NDArray[np.int64]


class Clipped(NamedTuple):
    """Objects clipped to their images, in the order of the file."""

    boxes: NDArray[np.float32]  # (M, 4) xyxy, 0-based
    area: NDArray[np.float64]  # (M,) the box's where the file has none
    bad: dict[str, NDArray[np.bool_]]  # (M,) each, by what is wrong


_EMPTY = "boxes without width or height inside the image"
_OVERHANGING = "boxes more than a pixel past the edge of the image"
_UNMASKED = "objects without a segmentation"
WITHOUT_PIXELS = "boxes without a pixel"
_DROPPED = (_EMPTY, _UNMASKED, WITHOUT_PIXELS)


def build_annotations(
    images: Images,
    objects: Objects,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    image_dir: Path,
    skeleton: Skeleton | None = None,
    source: str,
    where: Callable[[int], str],
    one_based: bool = False,
    on_invalid: OnInvalid = "drop",
) -> Annotations:
    """Clean what a reader found and lay it out by image.

    A box without width or height, in the file's numbers or once clipped to its image, is dropped, and so is an object
    without a segmentation where those were read. What was dropped, or clipped by more than a pixel, is reported
    once, as a warning of the logger ``detmix.data``; so is a file none of whose objects a sample will show, or of whose
    objects two or more, and more than one in twenty, are crowds, which samples leave out.

    Args:
        images: the I images.
        objects: the M objects, in any order.
        class_names: K - 1 names, in label order.
        category_ids: K - 1 original ids, in label order.
        image_dir: the folder that the file names start from.
        skeleton: what the objects' keypoints are, if they were read.
        source: the file that messages name.
        where: tells the file and row of object number m.
        one_based: pixels count from 1 and x2, y2 are inclusive, as in VOC.
        on_invalid: ``"raise"`` makes what would be dropped or reported an error.

    Raises:
        ValueError: there is no image; a class name occurs twice; a coordinate is not finite; an object
            is invalid and ``on_invalid="raise"``; a file name leads out of ``image_dir``. Each names the file, and the
            row where there is one.
    """
    if not len(images.ids):
        raise ValueError(f"{source}: there is no image in it")
    folder = Folder(image_dir)
    for row, name in enumerate(images.file_names):
        folder.require(name, f"{source}: images[{row}].file_name")
    require_unique(sorted(class_names), f"{source}: class names")
    sizes = np.array(images.sizes, dtype=np.int32).reshape(-1, 2)
    clipped = clip(objects, sizes, where, one_based=one_based)
    report(source, where, objects.boxes, clipped.bad, on_invalid)
    order = np.argsort(objects.image, kind="stable")
    kept = order[~dropped(clipped)[order]]
    _warn_of_what_is_not_shown(source, where, objects.iscrowd, kept)
    encoded = [name.encode() for name in images.file_names]
    return Annotations(
        file_names=np.array(bytearray(b"".join(encoded)), dtype=np.uint8),
        name_offsets=offsets_of([len(name) for name in encoded]),
        sizes=sizes,
        image_ids=np.array(images.ids, dtype=np.int64),
        offsets=offsets_of(np.bincount(objects.image[kept], minlength=len(images.ids))),
        boxes=clipped.boxes[kept],
        labels=objects.labels[kept],
        area=clipped.area[kept],
        iscrowd=objects.iscrowd[kept],
        difficult=objects.difficult[kept],
        ids=objects.ids[kept],
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        image_dir=image_dir,
        segmentations=None if objects.segmentations is None else objects.segmentations.text,
        segmentation_spans=None if objects.segmentations is None else objects.segmentations.spans[kept],
        keypoints=None if objects.keypoints is None else objects.keypoints[kept],
        skeleton=skeleton,
    )


def _warn_of_what_is_not_shown(
    source: str, where: Callable[[int], str], iscrowd: NDArray[np.bool_], kept: NDArray[np.int64]
) -> None:
    crowds = np.flatnonzero(iscrowd)
    if len(iscrowd) and iscrowd[kept].all():
        _LOGGER.warning(
            "%s: none of its %d objects is left for samples to show: %d are crowds, %d were dropped",
            *(source, len(iscrowd), len(kept), len(iscrowd) - len(kept)),
        )
    elif len(crowds) > max(1, _MOST_CROWDS * len(iscrowd)):
        _LOGGER.warning(
            "%s: %d of its %d objects are crowds, which samples leave out, so a detector learns them as background: %s "
            "is one. Some tools set iscrowd to 1 for all that they write as masks; for single objects it is to be 0",
            *(source, len(crowds), len(iscrowd), where(int(crowds[0]))),
        )


def require_unique(names: Iterable[str], what: str) -> None:
    """Raise ValueError if a name comes a second time; it is named."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} must be unique, got {name!r} more than once")
        seen.add(name)


def require_list(names: Sequence[object] | None, what: str) -> None:
    """Raise TypeError for a text, whose letters would be taken for names."""
    if isinstance(names, str):
        raise TypeError(f"{what} must be a list of names, got the text {names!r}")


def clip(objects: Objects, sizes: NDArray[np.int32], where: Callable[[int], str], *, one_based: bool) -> Clipped:
    """Clip boxes to their images and find what is wrong with them.

    Args:
        objects: the M objects.
        sizes: (I, 2) height and width of the images in pixels.
        where: tells the file and row of object number m.
        one_based: as for ``build_annotations``.

    Raises:
        ValueError: a coordinate is not finite.
    """
    count = len(objects.boxes)
    boxes, area = np.empty((count, 4), np.float32), np.empty(count, np.float64)
    empty, overhanging = np.empty(count, np.bool_), np.empty(count, np.bool_)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        given = objects.boxes[part]
        for row in np.flatnonzero(~np.isfinite(given).all(1))[:1].tolist():
            raise ValueError(f"{where(start + row)}: box coordinates must be finite, got {given[row].tolist()}")
        shifted = given - np.array([1, 1, 0, 0]) * one_based
        inside = np.clip(shifted, 0, np.tile(sizes[objects.image[part], ::-1], 2))
        boxes[part] = inside
        empty[part] = _is_empty(given) | _is_empty(boxes[part])
        overhanging[part] = (np.abs(inside - shifted).max(1) > _OVERHANG) & ~empty[part]
        stated = objects.area[part]
        area[part] = np.where(np.isnan(stated), np.prod(inside[:, 2:] - inside[:, :2], axis=1), stated)
    bad = {_EMPTY: empty, _OVERHANGING: overhanging}
    if objects.segmentations is not None:
        bad[_UNMASKED] = np.diff(objects.segmentations.spans)[:, 0] == 0
    return Clipped(boxes, area, bad)


def dropped(clipped: Clipped) -> NDArray[np.bool_]:
    """Which objects cannot be trained on, (M,)."""
    return np.any([rows for what, rows in clipped.bad.items() if what in _DROPPED], axis=0)


def report(
    source: str,
    where: Callable[[int], str],
    boxes: NDArray[np.float64],
    bad: Mapping[str, NDArray[np.bool_]],
    on_invalid: OnInvalid,
) -> None:
    """Say what was dropped or clipped: one warning in the log, or an error.

    Args:
        source: the file that messages name.
        where: tells the file and row of object number m.
        boxes: (M, 4) in the file's own numbers.
        bad: (M,) each, by what is wrong, as ``clip`` finds it.
        on_invalid: ``"drop"`` warns, ``"raise"`` raises.

    Raises:
        ValueError: something is wrong and ``on_invalid="raise"``; on_invalid is neither.
    """
    check_choice("on_invalid", on_invalid, OnInvalid)
    findings = []
    for what, wrong in bad.items():
        rows = np.flatnonzero(wrong)
        if len(rows):
            places = {row: where(row).removeprefix(f"{source}: ") for row in rows[:_ROWS_SHOWN].tolist()}
            shown = "; ".join(f"{place} has xyxy {boxes[row].tolist()}" for row, place in places.items())
            more = "; ..." if len(rows) > _ROWS_SHOWN else ""
            done = f", {'dropped' if what in _DROPPED else 'clipped'}" if on_invalid == "drop" else ""
            findings.append(f"{len(rows)} of {len(boxes)} {what}{done}: {shown}{more}")
    if findings and on_invalid == "raise":
        raise ValueError(f"{source}: {'. '.join(findings)}")
    if findings:
        _LOGGER.warning("%s: %s", source, ". ".join(findings))


def _is_empty(boxes: NDArray[Any]) -> NDArray[np.bool_]:
    return (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
