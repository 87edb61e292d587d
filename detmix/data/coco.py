"""COCO annotation files: what they hold is checked, and their classes get labels.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Container, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .annotations import Annotations
from .bounds import EXACT
from .box_format import wrong_format
from .categories import Category, KeypointCategory, one_of_each_name, with_names
from .cleaning import Images, Objects, OnInvalid, Segmentations, build_annotations, require_list, require_unique
from .coco_columns import Columns, Content, read_content
from .images import size_in_header
from .paths import Folder, path_below
from .skeleton import Skeleton, skeleton_of

_LOGGER = logging.getLogger("detmix.data")
_LISTED = 30  # classes, in a message
_STRAY = 0.2  # of a box's sides, by which a keypoint may lie outside of it
_FEWEST, _MOST_STRAYS = 5, 0.3  # visible keypoints that tell anything, and share of them that may be stray


def read_coco(
    annotation_file: str | Path,
    image_dir: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    masks: bool | Literal["required"] = False,
    keypoints: bool = False,
    on_invalid: OnInvalid = "drop",
) -> Annotations:
    """Read a COCO annotation file (``instances_*.json``, or ``person_keypoints_*.json``).

    Labels 1 ... K-1 follow the category ids in ascending order, or ``class_names`` where given. Of two categories of
    one name that is left out which has no objects. Images without annotations are kept. A size that the file lacks is
    read from the image; annotations without an id get the first from 1 on that are free. File names must stay in
    ``image_dir``: relative without ``..``, or absolute and below it (so ``image_dir="/"`` takes any absolute one);
    backslashes in them are slashes where there is no file of the name as it is written.
    Messages count rows from 0, as in ``annotations[12]``. The file is read once, from start to end; a change that is
    made to it later is not seen.

    Args:
        annotation_file: the JSON file.
        image_dir: the folder that its file names start from.
        class_names: the names in the order wanted for the labels: those of the training set for a validation set. The
            file may lack some of them; its own ``category_ids`` then go on with the first ids from 1 on that are free
            in it. Categories that are not named may have no objects.
        masks: keep the segmentations, from which a sample gets ``masks``. They are kept as the file writes them, but
            for polygons of fewer than three points, which are left out. ``"required"`` makes an object without one an
            error, as for an evaluation, where its box would be missing too.
        keypoints: keep the keypoints, of which a sample gets ``keypoints``. All objects have as many, P, and classes
            that name theirs name the same; one that has none gets P of visibility 0. A warning tells if many lie
            outside of their object's box, as shares of the image would.
        on_invalid: ``"drop"`` drops a box without width or height, and with ``masks`` an object without a
            segmentation, and clips a box past the edge, with one warning in the log; ``"raise"`` makes each
            an error.

    Raises:
        FileNotFoundError: there is no such annotation file, or no image whose size it does not state.
        ValueError: it is not JSON; a key is missing or of the wrong type; it has no images; an id occurs twice; an
            annotation is of an unknown image or category; boxes are corners, or shares of the image, to all
            appearance; a coordinate is not finite; an area is below 0; an object's class is not in ``class_names``;
            two categories of one name have objects; a file name leads out of ``image_dir``; an object is invalid and
            ``on_invalid="raise"``, or has no segmentation and ``masks="required"``; there are no keypoints, other
            numbers of them, or one that is not finite; the file was changed while it was read. The file is named, and
            the row. Or masks is none of the three.
        TypeError: ``class_names`` is a text.
    """
    require_list(class_names, "class_names")
    if masks not in (True, False, "required"):
        raise ValueError(f"masks must be True, False or 'required', got {masks!r}")
    class_names = None if class_names is None else list(class_names)
    path = Path(annotation_file)
    content = read_content(path, masks=bool(masks), keypoints=keypoints)
    if not len(content.image_ids):
        raise ValueError(f"{path}: there is no image in it")
    for section, ids in (
        ("images", content.image_ids),
        ("categories", np.array([category.id for category in content.categories], np.int64)),
        ("annotations", content.annotations.ids),
    ):
        _refuse_repeated_ids(f"{path}: {section}", ids)
    _complete_sizes(path, content, Path(image_dir))
    annotated = set(np.unique(content.annotations.category_ids).tolist())
    categories = _in_label_order(path, content.categories, annotated, class_names)

    def where(row: int) -> str:
        return f"{path}: annotations[{row}]"

    _refuse_areas(content.annotations.area, where)
    if masks == "required":
        _refuse_without_masks(path, content.annotations.lengths)
    skeleton = _skeleton(path, categories, content.annotations.point_lengths) if keypoints else None
    return build_annotations(
        Images(content.file_names, content.sizes, content.image_ids),
        _objects(content, categories, where, bool(masks), skeleton),
        class_names=[category.name for category in categories],
        category_ids=[category.id for category in categories],
        image_dir=Path(image_dir),
        skeleton=skeleton,
        source=str(path),
        where=where,
        on_invalid=on_invalid,
    )


def _skeleton(path: Path, categories: list[Category], lengths: NDArray[np.int64]) -> Skeleton:
    """What the classes' keypoints are, of which objects have so many numbers, 0 for none."""
    known = lengths[lengths > 2]  # fewer numbers are no keypoint, and refused with their row
    named = [category for category in categories if isinstance(category, KeypointCategory)]
    try:
        return skeleton_of(named, int(known[0]) // 3 if len(known) else None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _objects(
    content: Content,
    categories: list[Category],
    where: Callable[[int], str],
    masks: bool,
    skeleton: Skeleton | None,
) -> Objects:
    rows = content.annotations
    category_ids = np.array([category.id for category in categories], np.int64)
    known = _some([f"{category.id} ({category.name})" for category in categories])
    ends = np.cumsum(rows.lengths)
    spans = np.stack([ends - rows.lengths, ends], axis=1)
    image = _positions(rows.image_ids, content.image_ids, where, "image_id", "the id of an image in it")
    boxes = _corners(rows.boxes, image, content.sizes, where)
    keypoints = None if skeleton is None else _points(rows, skeleton, where)
    if keypoints is not None:
        _warn_of_strays(keypoints, boxes, where)
    return Objects(
        image=image,
        boxes=boxes,
        labels=_positions(rows.category_ids, category_ids, where, "category_id", f"one of {known}") + 1,
        area=rows.area,
        iscrowd=rows.iscrowd,
        difficult=rows.difficult,
        ids=rows.ids,
        segmentations=Segmentations(rows.text, spans) if masks else None,
        keypoints=keypoints,
    )


def _points(rows: Columns, skeleton: Skeleton, where: Callable[[int], str]) -> NDArray[np.float32]:
    """The keypoints of all objects, (M, P, 3); zeros where an object has none."""
    count = len(skeleton.names)
    has = rows.point_lengths > 0
    for row in np.flatnonzero(has & (rows.point_lengths != 3 * count))[:1].tolist():
        raise ValueError(
            f"{where(row)}: keypoints must be x, y and visibility of each of {count} points, {3 * count} numbers, "
            f"got {rows.point_lengths[row]}"
        )
    points = np.zeros((len(has), count, 3))
    points[has] = rows.points.reshape(-1, count, 3)
    for row in np.flatnonzero(~(np.abs(points) <= EXACT).all((1, 2)))[:1].tolist():  # NaN is not either
        raise ValueError(f"{where(row)}: keypoints must be finite pixels, got {points[row].ravel().tolist()}")
    return points.astype(np.float32)


def _warn_of_strays(keypoints: NDArray[np.float32], boxes: NDArray[np.float64], where: Callable[[int], str]) -> None:
    """Say so if many of the visible keypoints lie outside of the boxes, as shares of the image do, or of a box."""
    places, visible = keypoints[..., :2], keypoints[..., 2] > 0
    margin = _STRAY * (boxes[:, 2:] - boxes[:, :2])
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    outside = visible & ((places < low[:, None]) | (places > high[:, None])).any(axis=2)
    if visible.sum() >= _FEWEST and outside.sum() > _MOST_STRAYS * visible.sum():
        row, point = np.argwhere(outside)[0].tolist()
        _LOGGER.warning(
            "%s: keypoint %d lies at %s, and the box goes from %s to %s; %d of the %d visible keypoints lie outside of "
            "their object's box: are x and y pixels of the image?",
            *(where(row), point + 1, places[row, point].tolist(), boxes[row, :2].tolist(), boxes[row, 2:].tolist()),
            *(outside.sum(), visible.sum()),
        )


def _corners(
    xywh: NDArray[np.float64], image: NDArray[np.int64], sizes: NDArray[np.int32], where: Callable[[int], str]
) -> NDArray[np.float64]:
    """The boxes as xyxy, in the place of those given, which must look like xywh in pixels."""
    found = wrong_format(xywh, image, sizes)
    if found is not None:
        row, wrong = found
        raise ValueError(f"{where(row)}: {wrong}")
    xywh[:, 2:] += xywh[:, :2]
    return xywh


def _complete_sizes(path: Path, content: Content, image_dir: Path) -> None:
    """Read the sizes that are not stated from the images."""
    folder = Folder(image_dir)
    for row in np.flatnonzero((content.sizes == 0).any(axis=1)).tolist():
        name = content.file_names[row]
        folder.require(name, f"{path}: images[{row}].file_name")
        try:
            content.sizes[row] = size_in_header(path_below(image_dir, name))
        except (OSError, ValueError) as error:
            raise type(error)(
                f"{path}: images[{row}] states no height and width, so its image is read: {error}"
            ) from None


def _refuse_repeated_ids(what: str, ids: NDArray[np.int64]) -> None:
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if len(again):
        row, first = min((int(order[i + 1]), int(order[i])) for i in again.tolist())
        raise ValueError(f"{what}[{row}]: ids must be unique, got {ids[row]} in row {first} too")


def _refuse_areas(areas: NDArray[np.float64], where: Callable[[int], str]) -> None:
    for row in np.flatnonzero(areas < 0)[:1].tolist():  # NaN stands for one that is not given
        raise ValueError(f"{where(row)}: area must be 0 or more, got {areas[row]}")


def _refuse_without_masks(path: Path, lengths: NDArray[np.int64]) -> None:
    """Refuse objects whose segmentations are of no length."""
    without = np.flatnonzero(lengths == 0)
    if len(without):
        raise ValueError(
            f"{path}: {len(without)} of {len(lengths)} objects have no segmentation, annotations[{without[0]}] for "
            "one, and masks are required: give each one, leave such objects out of the file, or read it without masks "
            "(in the trainer --data.masks false)"
        )


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
    return _some([repr(name) for name in sorted(names)])


def _some(texts: Sequence[str]) -> str:
    """A list of texts, of which the first are enough where they are very many."""
    more = f" ... ({len(texts)} in all)" if len(texts) > _LISTED else ""
    return ", ".join(texts[:_LISTED]) + more


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
