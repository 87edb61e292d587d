"""COCO annotation files: typed decoding, row by row, that skips what a detector does not need, such as segmentations.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Container, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw, Struct
from numpy.typing import NDArray

from .annotations import Annotations
from .bounds import Id, Pixels
from .categories import Category, one_of_each_name, with_names
from .cleaning import Images, Objects, OnInvalid, Segmentations, build_annotations, require_unique
from .json_rows import read_rows
from .masks import without_slivers

_Coordinate = float | None  # null becomes NaN, which is refused with the row's number and values


class _Image(Struct, gc=False):
    id: Id
    file_name: str
    height: Pixels
    width: Pixels


class _Annotation(Struct, gc=False):
    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]
    area: float | None = None
    iscrowd: int | bool = 0
    difficult: int | bool = 0


class _MaskedAnnotation(_Annotation, gc=False):
    segmentation: Raw = Raw(b"")


class _Columns(NamedTuple):
    """Some annotations, or all of them, in the order of the file."""

    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]  # (M, 4) xyxy
    area: NDArray[np.float64]
    iscrowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    text: NDArray[np.uint8]  # the segmentations
    lengths: NDArray[np.int64]  # (M,) of each; no rows where they are not wanted


class _Content(NamedTuple):
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    file_names: list[str]
    categories: list[Category]
    annotations: _Columns


def read_coco(
    annotation_file: str | Path,
    image_dir: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    masks: bool = False,
    on_invalid: OnInvalid = "drop",
) -> Annotations:
    """Read a COCO annotation file (``instances_*.json``).

    Labels 1 ... K-1 follow the category ids in ascending order, or ``class_names`` where given. Of two categories of
    one name that is left out which has no objects. Images without annotations are kept. File names must stay in
    ``image_dir``: relative without ``..``, or absolute and below it (so ``image_dir="/"`` takes any absolute one).
    Messages count rows from 0, as in ``annotations[12]``. The file is read once, from start to end; a change that is
    made to it later is not seen.

    Args:
        annotation_file: the JSON file.
        image_dir: the folder that its file names start from.
        class_names: the names in the order wanted for the labels: those of the training set for a validation set. The
            file may lack some of them; its own ``category_ids`` then go on with the first ids from 1 on that are free
            in it. Categories that are not named may have no objects.
        masks: keep the segmentations, from which a sample gets ``masks``. They are kept as the file writes them, but
            for polygons of fewer than three points, which are left out.
        on_invalid: ``"drop"`` drops a box without width or height, and with ``masks`` an object without a
            segmentation, and clips a box past the edge, with one warning in the log; ``"raise"`` makes each
            an error.

    Raises:
        FileNotFoundError: there is no such annotation file.
        ValueError: it is not JSON; a key is missing or of the wrong type; it has no images; an id
            occurs twice; an annotation is of an unknown image or category; a coordinate is not
            finite; an area is below 0; an object's class is not in ``class_names``; two categories of one name
            have objects; a file name leads out of ``image_dir``; an object is invalid and ``on_invalid="raise"``; the
            file was changed while it was read. The file is named, and the row.
    """
    path = Path(annotation_file)
    content = _read(path, masks)
    for section, ids in (
        ("images", content.image_ids),
        ("categories", np.array([category.id for category in content.categories], np.int64)),
        ("annotations", content.annotations.ids),
    ):
        _refuse_repeated_ids(f"{path}: {section}", ids)
    annotated = set(np.unique(content.annotations.category_ids).tolist())
    categories = _in_label_order(path, content.categories, annotated, class_names)

    def where(row: int) -> str:
        return f"{path}: annotations[{row}]"

    _refuse_areas(content.annotations.area, where)
    return build_annotations(
        Images(content.file_names, content.sizes, content.image_ids),
        _objects(content, categories, where, masks),
        class_names=[category.name for category in categories],
        category_ids=[category.id for category in categories],
        image_dir=Path(image_dir),
        source=str(path),
        where=where,
        on_invalid=on_invalid,
    )


def _objects(content: _Content, categories: list[Category], where: Callable[[int], str], masks: bool) -> Objects:
    rows = content.annotations
    category_ids = np.array([category.id for category in categories], np.int64)
    known = ", ".join(f"{category.id} ({category.name})" for category in categories)
    ends = np.cumsum(rows.lengths)
    spans = np.stack([ends - rows.lengths, ends], axis=1)
    return Objects(
        image=_positions(rows.image_ids, content.image_ids, where, "image_id", "the id of an image in it"),
        boxes=rows.boxes,
        labels=_positions(rows.category_ids, category_ids, where, "category_id", f"one of {known}") + 1,
        area=rows.area,
        iscrowd=rows.iscrowd,
        difficult=rows.difficult,
        ids=rows.ids,
        segmentations=Segmentations(rows.text, spans) if masks else None,
    )


def _read(path: Path, masks: bool) -> _Content:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such COCO annotation file")
    before = path.stat()
    try:
        with path.open("rb") as file:
            content = _collect(_in_utf8(file), masks)
    except RecursionError:
        raise ValueError(f"{path}: not a COCO annotation file: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a COCO annotation file: {error}") from None
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ValueError(f"{path}: changed while it was read: read it again")
    return content


def _in_utf8(file: BinaryIO) -> BinaryIO:
    """The same text without the byte order mark that some tools write, and in UTF-8 whatever their encoding."""
    start = file.read(4)
    encoding = json.detect_encoding(start)
    file.seek(len(b"\xef\xbb\xbf") if encoding == "utf-8-sig" else 0)
    return file if encoding.startswith("utf-8") else io.BytesIO(file.read().decode(encoding).encode())


def _collect(file: BinaryIO, masks: bool) -> _Content:
    images: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = [(np.empty(0, np.int64), np.empty((0, 2), np.int32))]
    file_names: list[str] = []
    categories: list[Category] = []
    annotations = [_columns([], masks)]
    kind = _MaskedAnnotation if masks else _Annotation
    for piece in read_rows(file, {"images": _Image, "categories": Category, "annotations": kind}):
        if piece.section == "images":
            sizes = np.array([(row.height, row.width) for row in piece.rows], np.int32)
            images.append((np.array([row.id for row in piece.rows], np.int64), sizes))
            file_names += [row.file_name for row in piece.rows]
        elif piece.section == "categories":
            categories += piece.rows
        else:
            annotations.append(_columns(piece.rows, masks))
    ids, sizes = (np.concatenate(column) for column in zip(*images, strict=True))
    return _Content(ids, sizes, file_names, categories, _joined(annotations))


def _columns(rows: list[Any], masks: bool) -> _Columns:
    boxes = np.array([row.bbox for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    texts = [_text(row) for row in rows] if masks else []
    return _Columns(
        ids=np.array([row.id for row in rows], np.int64),
        image_ids=np.array([row.image_id for row in rows], np.int64),
        category_ids=np.array([row.category_id for row in rows], np.int64),
        boxes=boxes,
        area=np.array([row.area for row in rows], np.float64),
        iscrowd=np.array([row.iscrowd for row in rows], np.bool_),
        difficult=np.array([row.difficult for row in rows], np.bool_),
        text=np.array(bytearray(b"".join(texts)), np.uint8),
        lengths=np.array([len(text) for text in texts], np.int64),
    )


def _text(row: _MaskedAnnotation) -> bytes:
    text = bytes(row.segmentation)
    if not text.isascii() or b"\\" in text:  # what is passed over undecoded is not looked at for these
        try:
            msgspec.json.decode(text)
        except ValueError as error:
            raise ValueError(f"annotation {row.id}: the segmentation is not JSON in UTF-8: {error}") from None
    return without_slivers(text)


def _joined(parts: list[_Columns]) -> _Columns:
    """All parts as one; they are given up column by column, so that little is there twice."""
    columns: list[tuple[Any, ...]] = list(zip(*parts, strict=True))
    parts.clear()
    return _Columns(*(np.concatenate(columns.pop(0)) for _ in _Columns._fields))


def _refuse_repeated_ids(what: str, ids: NDArray[np.int64]) -> None:
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if len(again):
        row, first = min((int(order[i + 1]), int(order[i])) for i in again.tolist())
        raise ValueError(f"{what}[{row}]: ids must be unique, got {ids[row]} in row {first} too")


def _refuse_areas(areas: NDArray[np.float64], where: Callable[[int], str]) -> None:
    for row in np.flatnonzero(areas < 0)[:1].tolist():  # NaN stands for one that is not given
        raise ValueError(f"{where(row)}: area must be 0 or more, got {areas[row]}")


def _in_label_order(
    path: Path, categories: list[Category], annotated: Container[int], names: Sequence[str] | None
) -> list[Category]:
    require_unique(names or (), f"{path}: class_names")
    try:
        found = one_of_each_name(with_names(categories, names or ()), annotated)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if names is None:
        return found
    _refuse_unnamed(path, categories, annotated, names)
    by_name = {category.name: category for category in found}
    return [by_name[name] for name in names]


def _refuse_unnamed(path: Path, categories: list[Category], annotated: Container[int], names: Sequence[str]) -> None:
    used = [category.name for category in categories if category.id in annotated]
    if unnamed := set(used).difference(names):
        unknown = set(names).difference(category.name for category in categories)
        rest = f", and no class {_listed(unknown)}, which is" if unknown else ""
        raise ValueError(f"{path}: it has objects of {_listed(unnamed)}, not in class_names{rest}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def _positions(
    ids: NDArray[np.int64], known: NDArray[np.int64], where: Callable[[int], str], key: str, wanted: str
) -> NDArray[np.int64]:
    """Where each id stands among the known ones."""
    position = {i: p for p, i in enumerate(known.tolist())}
    distinct, inverse = np.unique(ids, return_inverse=True)
    found = np.array([position.get(i, -1) for i in distinct.tolist()], np.int64)[inverse]
    for row in np.flatnonzero(found < 0)[:1].tolist():
        raise ValueError(f"{where(row)}: {key} must be {wanted}, got {ids[row]}")
    return found
