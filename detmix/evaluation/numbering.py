"""By which ids predictions call images and classes, where a file beside them says so.

A run of ``tools/train.py`` writes ``classes.json`` (COCO's ``categories``) near its ``predictions.json``, and
``tools/predict.py`` writes ``images.json`` (COCO's ``images`` and ``categories``). Such predictions and a ground truth
have the names in common; ids may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.bounds import Id
from ..data.categories import Category, read_classes
from .records import GroundTruth

PREDICTIONS_FILE = "predictions.json"
CLASSES_FILE = "classes.json"
IMAGES_FILE = "images.json"


class _Image(msgspec.Struct):
    id: Id
    file_name: str


class _Images(msgspec.Struct):
    images: list[_Image]
    categories: list[Category]


@dataclass(frozen=True, eq=False)
class Numbering:
    """Ids, and which image or class of a ground truth each means.

    Attributes:
        image_ids: (N,) int64, rising.
        images: (N,) int64, 0 ... I-1.
        category_ids: (N,) int64, rising.
        labels: (N,) int64, 0 ... K-1.
        source: the file that says so; empty for the ground truth's own ids.
    """

    image_ids: NDArray[np.int64]
    images: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    source: str = ""


def numbering_of(truth: GroundTruth, predictions: Path | None = None) -> Numbering:
    """The ids that are valid in predictions.

    Args:
        truth: the ground truth; its own ids, unless a file says otherwise.
        predictions: the file of predictions. If it is called ``predictions.json``, a file ``images.json`` beside it, or
            ``classes.json`` beside it or one folder up, tells its ids.

    Raises:
        ValueError: that file is not of its form, or has an id twice.
    """
    images, labels = (np.arange(len(ids)) for ids in (truth.image_ids, truth.category_ids))
    own = Numbering(truth.image_ids, images, truth.category_ids, labels)
    file = None if predictions is None else _file_near(predictions)
    if file is None:
        return own
    stated = _read(file)
    pairs = [(category.id, category.name) for category in stated.categories]
    category_ids, labels = _matched(file, pairs, truth.class_names)
    if file.name == CLASSES_FILE:
        return Numbering(own.image_ids, own.images, category_ids, labels, str(file))
    return Numbering(*_matched_images(file, stated.images, truth), category_ids, labels, str(file))


def stated_classes(predictions: Path) -> list[str]:
    """The names of the classes that a file near the predictions states, as ``numbering_of`` finds it; or none."""
    file = _file_near(predictions)
    return [] if file is None else [category.name for category in _read(file).categories]


def _file_near(predictions: Path) -> Path | None:
    if predictions.name != PREDICTIONS_FILE:
        return None
    folder = predictions.absolute().parent
    near = (folder / IMAGES_FILE, folder / CLASSES_FILE, folder.parent / CLASSES_FILE)
    return next((file for file in near if file.is_file()), None)


def _read(file: Path) -> _Images:
    if file.name == CLASSES_FILE:
        return _Images([], _read_classes(file))
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Images)
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise ValueError(f"{file}: {error}") from None


def _read_classes(file: Path) -> list[Category]:
    try:
        return read_classes(file)
    except ValueError as error:
        raise ValueError(
            f"{error}. Beside {PREDICTIONS_FILE} it is to say what the category ids there mean, as in a run's folder: "
            "rename one of the two if it is a file of yours"
        ) from error


def _matched_images(
    file: Path, images: Sequence[_Image], truth: GroundTruth
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By the last part of their paths, or by all of it where that is needed to tell images apart."""
    given, wanted = [image.file_name for image in images], list(truth.file_names)
    short = [[PurePosixPath(name).name for name in names] for names in (given, wanted)]
    if all(len(set(names)) == len(names) for names in short):
        given, wanted = short
    pairs = [(image.id, name) for image, name in zip(images, given, strict=True)]
    return _matched(file, pairs, wanted)


def _matched(
    file: Path, stated: Sequence[tuple[int, str]], names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The stated ids whose name is among the names, rising, and where it stands there."""
    ids = dict(stated)
    if len(ids) < len(stated):
        number, _ = Counter(number for number, _ in stated).most_common(1)[0]
        raise ValueError(f"{file}: id {number} appears twice")
    places = {name: place for place, name in enumerate(names)}
    known = sorted((number, places[name]) for number, name in ids.items() if name in places)
    table = np.array(known, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
