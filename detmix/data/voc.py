"""VOC folders: one XML file for each image, lists of names for each set.

Format: Everingham and Winn, The PASCAL Visual Object Classes Challenge 2012 Development Kit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from .annotations import Annotations
from .cleaning import Images, Objects, OnInvalid, build_annotations
from .images import image_size

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Object(NamedTuple):
    name: str
    box: list[float]
    difficult: bool


class _Record(NamedTuple):
    path: Path
    file_name: str
    size: tuple[int, int]
    objects: list[_Object]


def read_voc(
    root: str | Path,
    image_set: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    on_invalid: OnInvalid = "drop",
) -> Annotations:
    """Read one image set of a VOC folder.

    The folder holds ``Annotations/*.xml``, ``ImageSets/Main/<image_set>.txt`` and ``JPEGImages/``. VOC's
    coordinates, which count from 1 and include xmax and ymax, become 0-based and exclusive; a box with
    xmax = xmin or ymax = ymin is taken to be empty. Image ids are 1 ... I, in the order of the set. A size
    that the XML lacks is read from the image. An image is ``<name>.jpg``, or has the suffix that the XML's
    ``<filename>`` has. Messages count objects from 1, as in ``object[3]``.

    Args:
        root: the folder, ``VOC2007`` for example.
        image_set: the name of the list, without ``.txt``.
        class_names: names in the order wanted for the labels; left out, those found in the set, sorted.
            Pass the training set's to read the validation set, which may lack a class.
        on_invalid: ``"drop"`` drops a box without width or height and clips one past the edge, with
            one warning in the log; ``"raise"`` makes either an error.

    Raises:
        FileNotFoundError: the image set or the XML file of an image is missing.
        ValueError: the image set is empty or has a name twice; an XML file is malformed, has a document type
            declaration or lacks a tag; a class is not in ``class_names``; a coordinate is not
            finite; a box is invalid and ``on_invalid="raise"``. The file is named, and the object.
    """
    root = Path(root)
    set_file, names = _read_image_set(root, image_set)
    records = [_read_record(root, name, set_file) for name in names]
    objects = [found for record in records for found in record.objects]
    image = np.repeat(np.arange(len(records)), [len(record.objects) for record in records])

    def where(row: int) -> str:
        number = row - int(np.searchsorted(image, image[row])) + 1
        return f"{records[image[row]].path}: object[{number}]"

    classes = sorted({found.name for found in objects}) if class_names is None else list(class_names)
    return build_annotations(
        Images([r.file_name for r in records], [r.size for r in records], range(1, len(records) + 1)),
        Objects(
            image=image,
            boxes=np.array([found.box for found in objects], dtype=np.float64).reshape(-1, 4),
            labels=_labels([found.name for found in objects], classes, where),
            area=np.full(len(objects), np.nan),
            iscrowd=np.zeros(len(objects), dtype=np.bool_),
            difficult=np.array([found.difficult for found in objects], dtype=np.bool_),
            ids=np.arange(1, len(objects) + 1),
        ),
        class_names=classes,
        category_ids=range(1, len(classes) + 1),
        image_dir=root / "JPEGImages",
        source=str(set_file),
        where=where,
        one_based=True,
        on_invalid=on_invalid,
    )


def _labels(names: list[str], classes: list[str], where: Callable[[int], str]) -> NDArray[np.int64]:
    labels = {name: label for label, name in enumerate(classes, start=1)}
    for row, name in enumerate(names):
        if name not in labels:
            raise ValueError(f"{where(row)}: the class must be one of {classes}, got {name!r}")
    return np.array([labels[name] for name in names], dtype=np.int64)


def _read_image_set(root: Path, image_set: str) -> tuple[Path, list[str]]:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{image_set}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image set; there are {sorted(p.stem for p in folder.glob('*.txt'))}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = [re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]  # the sets of one class have a second column
    if len(set(names)) < len(names):
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{path}: image names must be unique, got {repeated!r} more than once")
    return path, names


def _read_record(root: Path, name: str, set_file: Path) -> _Record:
    path = root / "Annotations" / f"{name}.xml"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file, and {set_file} lists it")
    annotation = _parse(path)
    stated = PurePosixPath(annotation.findtext("filename", "").strip()).suffix
    file_name = name + (stated or ".jpg")
    size = _read_size(path, annotation) or image_size(root / "JPEGImages" / file_name)
    objects = [
        _read_object(f"{path}: object[{number}]", element)
        for number, element in enumerate(annotation.findall("object"), start=1)
    ]
    return _Record(path, file_name, size, objects)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type declaration, the only place where entities, and bombs of them, are made."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("document type declarations and entities are not accepted")


def _parse(path: Path) -> Element:
    try:
        annotation: Element = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path}: not a VOC annotation: {error}") from None
    if annotation.tag != "annotation":
        raise ValueError(f"{path}: not a VOC annotation: the outer tag must be <annotation>, got <{annotation.tag}>")
    return annotation


def _read_size(path: Path, annotation: Element) -> tuple[int, int] | None:
    """Height and width, None where the file does not state them; some tools write zeros for that."""
    size = annotation.find("size")
    if size is None:
        return None
    height, width = (int(_number(f"{path}: size", size, tag)) for tag in ("height", "width"))
    return (height, width) if height > 0 and width > 0 else None


def _read_object(where: str, element: Element) -> _Object:
    box = element.find("bndbox")  # the object's own; its parts have theirs further down
    if box is None:
        raise ValueError(f"{where}: the tag <bndbox> is missing")
    name = _text(where, element, "name")
    return _Object(
        name=name,
        box=[_number(f"{where}: bndbox", box, corner) for corner in _CORNERS],
        difficult=element.find("difficult") is not None and _number(where, element, "difficult") != 0,
    )


def _number(where: str, parent: Element, tag: str) -> float:
    text = _text(where, parent, tag)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: <{tag}> must be a finite number, got {text!r}")
    return number


def _text(where: str, parent: Element, tag: str) -> str:
    text = (parent.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"{where}: the tag <{tag}> is missing or empty")
    return text
