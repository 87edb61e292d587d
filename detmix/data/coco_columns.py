"""The content of a COCO annotation file in flat arrays: typed decoding, some thousand rows at a time.

What a detector does not need is skipped, and so are segmentations and keypoints unless they are wanted.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from .categories import Category, KeypointCategory
from .coco_rows import AnnotationRow, ImageRow
from .json_rows import read_rows
from .masks import without_slivers
from .paths import require_coco_file, stamp_of

_Coordinate = float | None  # null becomes NaN, which is refused with the row's number and values


class _Annotation(AnnotationRow, gc=False, kw_only=True):
    bbox: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]


_SEGMENTATION = ("segmentation", Raw, Raw(b""))
_KEYPOINTS = ("keypoints", list[_Coordinate] | None, None)


class Columns(NamedTuple):
    """Some annotations, or all of them, in the order of the file."""

    ids: NDArray[np.int64]
    stated: NDArray[np.bool_]  # whether the file gives the id
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]  # (M, 4) xywh
    area: NDArray[np.float64]
    iscrowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    text: NDArray[np.uint8]  # the segmentations
    lengths: NDArray[np.int64]  # (M,) of each; no rows where they are not wanted
    points: NDArray[np.float64]  # the numbers of all keypoints, one object's after the other's
    point_lengths: NDArray[np.int64]  # (M,) how many an object has; no rows where they are not wanted


class Content(NamedTuple):
    """What a file holds, in its order."""

    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]  # 0 where the file gives none
    file_names: list[str]
    categories: list[Category]
    annotations: Columns


def read_content(path: Path, *, masks: bool, keypoints: bool = False) -> Content:
    """Read a file from start to end.

    Args:
        path: the file.
        masks: keep the segmentations.
        keypoints: keep the keypoints, and read categories as ``KeypointCategory``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON; a key is missing or of the wrong type; it was changed while it was read. The file
            is named, and the row.
    """
    require_coco_file(path)
    before = stamp_of(path.stat())
    try:
        with path.open("rb") as file:
            content = _collect(file, masks, keypoints)
    except RecursionError:
        raise ValueError(f"{path}: not a COCO annotation file: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a COCO annotation file: {error}") from None
    if stamp_of(path.stat()) != before:
        raise ValueError(f"{path}: changed while it was read: read it again")
    return content


def _collect(file: BinaryIO, masks: bool, keypoints: bool) -> Content:
    images: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = [(np.empty(0, np.int64), np.empty((0, 2), np.int32))]
    file_names: list[str] = []
    categories: list[Category] = []
    annotations = [_columns([], 0, masks, keypoints)]
    category = KeypointCategory if keypoints else Category
    annotation = _annotation_with(*([_SEGMENTATION] if masks else []), *([_KEYPOINTS] if keypoints else []))
    for piece in read_rows(file, {"images": ImageRow, "categories": category, "annotations": annotation}):
        if piece.section == "images":
            sizes = np.array([(row.height or 0, row.width or 0) for row in piece.rows], np.int32).reshape(-1, 2)
            images.append((np.array([row.id for row in piece.rows], np.int64), sizes))
            file_names += [row.file_name for row in piece.rows]
        elif piece.section == "categories":
            categories += piece.rows
        else:
            annotations.append(_columns(piece.rows, piece.first, masks, keypoints))
    ids, sizes = (np.concatenate(column) for column in zip(*images, strict=True))
    joined = _joined(annotations)
    return Content(ids, sizes, file_names, categories, joined._replace(ids=_numbered(joined.ids, joined.stated)))


def _annotation_with(*wanted: tuple[str, Any, Any]) -> Any:
    """The type of a row that has these fields too; all others are skipped."""
    return msgspec.defstruct("_Annotation", wanted, bases=(_Annotation,), gc=False, kw_only=True)


def _numbered(ids: NDArray[np.int64], stated: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The ids, and where none is stated the first from 1 on that are free."""
    if stated.all():
        return ids
    free = np.setdiff1d(np.arange(1, len(ids) + 1), ids[stated])
    numbered = ids.copy()
    numbered[~stated] = free[: len(ids) - stated.sum()]
    return numbered


def _columns(rows: list[Any], first: int, masks: bool, keypoints: bool) -> Columns:
    ids = [row.id for row in rows]
    stated = np.ones(len(ids), np.bool_)
    if None in ids:
        stated = np.array([number is not None for number in ids])
        ids = [number or 0 for number in ids]
    texts = [_text(row.segmentation, number) for number, row in enumerate(rows, first)] if masks else []
    points = [row.keypoints or () for row in rows] if keypoints else []
    return Columns(
        ids=np.array(ids, np.int64),
        stated=stated,
        image_ids=np.array([row.image_id for row in rows], np.int64),
        category_ids=np.array([row.category_id for row in rows], np.int64),
        boxes=np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        area=np.array([row.area for row in rows], np.float64),
        iscrowd=np.array([row.iscrowd for row in rows], np.bool_),
        difficult=np.array([row.difficult for row in rows], np.bool_),
        text=np.array(bytearray(b"".join(texts)), np.uint8),
        lengths=np.array([len(text) for text in texts], np.int64),
        points=np.array(list(chain.from_iterable(points)), np.float64),
        point_lengths=np.array([len(numbers) for numbers in points], np.int64),
    )


def _text(segmentation: Raw, number: int) -> bytes:
    text = bytes(segmentation)
    if not text.isascii() or b"\\" in text:  # what is passed over undecoded is not looked at for these
        try:
            msgspec.json.decode(text)
        except ValueError as error:
            raise ValueError(f"annotations[{number}]: the segmentation is not JSON in UTF-8: {error}") from None
    return without_slivers(text)


def _joined(parts: list[Columns]) -> Columns:
    """All parts as one; they are given up column by column, so that little is there twice."""
    columns: list[tuple[Any, ...]] = list(zip(*parts, strict=True))
    parts.clear()
    return Columns(*(np.concatenate(columns.pop(0)) for _ in Columns._fields))
