"""Maps the ids of images and classes in a predictions file to those of the ground truth, by names in a file beside it.

``tools/predict.py`` and a run of ``tools/train.py`` write ``images.json`` (COCO's ``images`` and ``categories``) beside
their ``predictions.json``; where images have no names, a run has ``classes.json`` (COCO's ``categories``) alone. Such
predictions and a ground truth have the names in common; ids may differ.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.bounds import Id
from ..data.categories import Category, read_classes
from ..data.paths import plain_name
from .checks import check_ids
from .records import GroundTruth

PREDICTIONS_FILE = "predictions.json"
CLASSES_FILE = "classes.json"
IMAGES_FILE = "images.json"
_UNUSED = "N/A"  # torchvision's name for each of the ten numbers that COCO left out
_SHOWN = 3  # names in a message
_LOOKED_AT = 5000  # of the names, for similar ones: each takes some microseconds


class _Image(msgspec.Struct):
    id: Id
    file_name: str


class _Images(msgspec.Struct):
    images: list[_Image]
    categories: list[Category]


@dataclass(frozen=True, eq=False)
class Ids:
    """Ids of images or of classes, and which one of a ground truth each means.

    Attributes:
        known: (N,) int64, rising.
        places: (N,) int64, where each stands in the ground truth.
        unknown: the names of other ids, which the ground truth does not have.
        names: those that it has.
        truth: what messages call it.
    """

    known: NDArray[np.int64]
    places: NDArray[np.int64]
    unknown: Mapping[int, str]
    names: Sequence[str]
    truth: str

    def places_of(self, ids: NDArray[np.int64], name: str, place: str) -> NDArray[np.int64]:
        """Where the image or class of each row stands in the ground truth.

        Args:
            ids: (M,) of the rows.
            name: the file.
            place: where in it, with ``{}`` for the number of the row; its last word is the key.

        Raises:
            ValueError: the ground truth does not have one of that id, or of that name.
        """
        unnamed = np.isin(ids, list(self.unknown))
        if unnamed.any():
            row, key = int(unnamed.argmax()), place.rpartition(".")[2]
            wanted = self.unknown[int(ids[row])]
            raise ValueError(
                f"{name}: {key} {ids[row]} is {wanted!r}, and {self.truth} has none of that name; it has "
                f"{_similar(wanted, self.names)} - at `{place.format(row)}`; {unnamed.sum()} of {len(ids)} rows are of "
                "names that it does not have"
            )
        return self.places[check_ids(ids, self.known, name, place)]


def _similar(name: str, names: Sequence[str]) -> str:
    """Two or three names, those most like it first, if some are."""
    near = get_close_matches(name, names[:_LOOKED_AT], _SHOWN)
    shown = list(dict.fromkeys([*near, *names[:_SHOWN]]))[:_SHOWN]
    return ", ".join(map(repr, shown)) + (" ..." if len(names) > len(shown) else "")


@dataclass(frozen=True, eq=False)
class Numbering:
    """By which ids predictions call images and classes.

    Attributes:
        images: ids of images.
        classes: ids of classes.
        source: the file that says so; empty for the ground truth's own ids.
    """

    images: Ids
    classes: Ids
    source: str = ""


def numbering_of(truth: GroundTruth, predictions: Path | None = None) -> Numbering:
    """The ids that are valid in predictions.

    Args:
        truth: the ground truth; its own ids, unless a file says otherwise.
        predictions: the file of predictions. If it is called ``predictions.json``, a file ``images.json`` beside it, or
            ``classes.json`` beside it or one folder up, tells its ids.

    Raises:
        ValueError: that file is not of its form, or has an id twice; two images of the ground truth have a name that it
            states.
    """
    images, classes = (
        Ids(ids, np.arange(len(ids)), {}, names, truth.source)
        for ids, names in ((truth.image_ids, truth.file_names), (truth.category_ids, truth.class_names))
    )
    file = None if predictions is None else file_near(predictions)
    if file is None:
        return Numbering(images, classes)
    stated = _read(file)
    pairs = [(category.id, category.name) for category in stated.categories]
    classes = _matched(file, pairs, truth.class_names, truth.source)
    if file.name != CLASSES_FILE:
        images = _matched_images(file, stated.images, truth)
    return Numbering(images, classes, str(file))


def stated_classes(predictions: Path) -> list[str]:
    """The names of the classes that a file near the predictions states, as ``numbering_of`` finds it; or none."""
    file = file_near(predictions)
    return [] if file is None else [category.name for category in _read(file).categories]


def stated_ids(
    images: Sequence[Mapping[str, Any]], class_names: Sequence[str], category_ids: Sequence[int]
) -> dict[str, Any]:
    """What ``images.json`` says beside predictions: which id is which image and class, as COCO without annotations.

    Args:
        images: COCO's rows.
        class_names: in the order of the labels.
        category_ids: of these.
    """
    return {"images": [*images], "categories": categories(class_names, category_ids), "annotations": []}


def categories(class_names: Sequence[str], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's ``categories`` in the order of the labels, those left out that COCO does not use."""
    some_are_unused = [*class_names].count(_UNUSED) > 1  # once, it is the name of a class
    pairs = zip(category_ids, class_names, strict=True)
    return [{"id": number, "name": name} for number, name in pairs if not (some_are_unused and name == _UNUSED)]


def file_near(predictions: Path) -> Path | None:
    """The file near predictions that says which ids they use; None where there is none."""
    if predictions.name != PREDICTIONS_FILE:
        return None
    folder = predictions.absolute().parent
    near = (folder / IMAGES_FILE, folder / CLASSES_FILE, folder.parent / CLASSES_FILE)
    return next((file for file in near if file.is_file()), None)


def _read(file: Path) -> _Images:
    if file.name == CLASSES_FILE:
        return _Images([], [*_read_classes(file)])
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Images)
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise ValueError(f"{file}: {error}") from None


def _read_classes(file: Path) -> Sequence[Category]:
    try:
        return read_classes(file)
    except ValueError as error:
        raise ValueError(
            f"{error}. Beside {PREDICTIONS_FILE} it is to say what the category ids there mean, as in a run's folder: "
            "rename one of the two if it is a file of yours"
        ) from error


def _matched_images(file: Path, images: Sequence[_Image], truth: GroundTruth) -> Ids:
    """By the last part of their paths, or by all of it where that is needed to tell images apart."""
    given = [plain_name(image.file_name) for image in images]
    wanted = [plain_name(name) for name in truth.file_names]
    short = [[posixpath.basename(name) for name in names] for names in (given, wanted)]
    if all(len(set(names)) == len(names) for names in short):
        given, wanted = short
    pairs = [(image.id, name) for image, name in zip(images, given, strict=True)]
    return _matched(file, pairs, wanted, truth.source)


def _matched(file: Path, stated: Sequence[tuple[int, str]], names: Sequence[str], truth: str) -> Ids:
    """The stated ids, by whether their name is among the names of a ground truth."""
    ids = dict(stated)
    if len(ids) < len(stated):
        number, _ = Counter(number for number, _ in stated).most_common(1)[0]
        raise ValueError(f"{file}: id {number} appears twice")
    places = {name: place for place, name in enumerate(names)}
    known = sorted((number, places[name]) for number, name in ids.items() if name in places)
    if len(places) < len(names):
        counts = Counter(names)
        for name in (names[place] for _, place in known if counts[names[place]] > 1):
            raise ValueError(f"{file}: which image {name!r} is cannot be told: {truth} has {counts[name]} of this name")
    table = np.array(known, dtype=np.int64).reshape(-1, 2)
    unknown = {number: name for number, name in ids.items() if name not in places}
    return Ids(table[:, 0], table[:, 1], unknown, names, truth)
