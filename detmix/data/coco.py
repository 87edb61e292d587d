"""COCO annotation files: typed decoding that skips what a detector does not need, such as segmentations.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from .annotations import Annotations, Images, Objects, OnInvalid, build_annotations

_Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Coordinate = float | None  # null becomes NaN, which is refused with the row's number and values
_Pixels = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class _Image(Struct, gc=False):
    id: _Id
    file_name: str
    height: _Pixels
    width: _Pixels


class _Category(Struct, gc=False):
    id: _Id
    name: str


class _Annotation(Struct, gc=False):
    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]
    area: float | None = None
    iscrowd: int | bool = 0
    difficult: int | bool = 0


class _File(Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Rows(Struct):
    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


def read_coco(
    annotation_file: str | Path,
    image_dir: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    on_invalid: OnInvalid = "drop",
) -> Annotations:
    """Read a COCO annotation file (``instances_*.json``).

    Labels 1 ... K-1 follow the category ids in ascending order, or ``class_names`` where given. Images
    without annotations are kept. Messages count rows from 0, as in ``annotations[12]``.

    Args:
        annotation_file: the JSON file.
        image_dir: the folder that its file names start from.
        class_names: the names that the file must have, in the order wanted for the labels.
        on_invalid: ``"drop"`` drops a box without width or height and clips one past the edge, with
            one warning in the log; ``"raise"`` makes either an error.

    Raises:
        FileNotFoundError: there is no such annotation file.
        ValueError: it is not JSON; a key is missing or of the wrong type; it has no images; an id
            occurs twice; an annotation is of an unknown image or category; a coordinate is not
            finite; ``class_names`` are not the file's; a box is invalid and ``on_invalid="raise"``.
            The file is named, and the row.
    """
    path = Path(annotation_file)
    content = _decode(path)
    for section in ("images", "categories", "annotations"):
        _refuse_repeated_ids(f"{path}: {section}", [row.id for row in getattr(content, section)])
    categories = _in_label_order(path, content.categories, class_names)
    names, category_ids = [c.name for c in categories], [c.id for c in categories]

    def where(row: int) -> str:
        return f"{path}: annotations[{row}]"

    rows, image_ids = content.annotations, [image.id for image in content.images]
    xywh = np.array([row.bbox for row in rows], dtype=np.float64).reshape(-1, 4)
    known = ", ".join(f"{i} ({n})" for i, n in zip(category_ids, names, strict=True))
    objects = Objects(
        image=_positions([row.image_id for row in rows], image_ids, where, "image_id", "the id of an image in it"),
        boxes=np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]),
        labels=_positions([row.category_id for row in rows], category_ids, where, "category_id", f"one of {known}") + 1,
        area=np.array([np.nan if row.area is None else row.area for row in rows], dtype=np.float64),
        iscrowd=np.array([row.iscrowd for row in rows], dtype=np.bool_),
        difficult=np.array([row.difficult for row in rows], dtype=np.bool_),
        ids=np.array([row.id for row in rows], dtype=np.int64),
    )
    return build_annotations(
        Images([i.file_name for i in content.images], [(i.height, i.width) for i in content.images], image_ids),
        objects,
        class_names=names,
        category_ids=category_ids,
        image_dir=Path(image_dir),
        source=str(path),
        where=where,
        on_invalid=on_invalid,
    )


def _decode(path: Path) -> _File:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such COCO annotation file")
    data = path.read_bytes()
    try:
        return _decode_typed(path, data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _decode_typed(path, _to_strict_json(path, data, error))


def _decode_typed(path: Path, data: bytes) -> _File:
    try:
        return msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: not a COCO annotation file: {_bad_row(data) or error}") from None


def _to_strict_json(path: Path, data: bytes, cause: Exception) -> bytes:
    """The same without the byte order mark that some tools write, and with their NaN as null."""
    try:
        return msgspec.json.encode(json.loads(data))
    except (ValueError, OverflowError):
        raise ValueError(f"{path}: not JSON: {cause}") from None


def _bad_row(data: bytes) -> str | None:
    """The first row that is not as it should be; the decoder's own message leaves its number out."""
    kinds = {"images": _Image, "annotations": _Annotation, "categories": _Category}
    try:
        rows = msgspec.json.decode(data, type=_Rows)
    except msgspec.ValidationError:
        return None
    for section, kind in kinds.items():
        for number, row in enumerate(getattr(rows, section)):
            try:
                msgspec.json.decode(row, type=kind)
            except (msgspec.ValidationError, UnicodeDecodeError) as error:
                return f"{section}[{number}]: {error}"
    return None


def _refuse_repeated_ids(what: str, ids: list[int]) -> None:
    if len(set(ids)) == len(ids):
        return
    first: dict[int, int] = {}
    for row, i in enumerate(ids):
        if i in first:
            raise ValueError(f"{what}[{row}]: ids must be unique, got {i} in row {first[i]} too")
        first[i] = row


def _in_label_order(path: Path, categories: list[_Category], names: Sequence[str] | None) -> list[_Category]:
    by_id = sorted(categories, key=lambda category: category.id)
    if names is None:
        return by_id
    found = [category.name for category in by_id]
    if sorted(names) != sorted(found):
        raise ValueError(
            f"{path}: class_names and the file's categories disagree: "
            f"{len(names)} given, {list(names)}; {len(found)} in the file, {found}"
        )
    wanted = list(names)
    return sorted(by_id, key=lambda category: wanted.index(category.name))


def _positions(
    ids: list[int], known: list[int], where: Callable[[int], str], key: str, wanted: str
) -> NDArray[np.int64]:
    """Where each id stands in the list of known ones."""
    position = {i: p for p, i in enumerate(known)}
    found = np.array([position.get(i, -1) for i in ids], dtype=np.int64)
    for row in np.flatnonzero(found < 0)[:1].tolist():
        raise ValueError(f"{where(row)}: {key} must be {wanted}, got {ids[row]}")
    return found
