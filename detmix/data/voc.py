"""VOC folders: one XML file for each image, lists of names for each set.

What the XML files say is kept in a cache file, with the size and the time of change of each.

Format: Everingham and Winn, The PASCAL Visual Object Classes Challenge 2012 Development Kit.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from . import cache
from .annotations import Annotations
from .bounds import LARGEST_SIDE, Pixels
from .cache import CacheDir
from .cleaning import Images, Objects, OnInvalid, build_annotations, require_unique
from .images import size_in_header
from .paths import Folder, file_status, read_file

_LOGGER = logging.getLogger("detmix.data")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"": False, "false": False, "unspecified": False, "true": True}
_LAYOUT = 3  # of the cache file; another number as soon as it holds something else, or the same read differently
_YOUNG = 2_000_000_000  # nanoseconds; a file changed again this soon may keep its time, by which changes are told


class VocObject(Struct, array_like=True, gc=False):
    """One object as its XML file has it: the box as xmin, ymin, xmax, ymax, 1-based, the last pixel included."""

    name: str
    box: list[float]
    difficult: bool


class VocRecord(Struct, array_like=True, gc=False):
    """What one XML file says; the size is height and width."""

    name: str
    file_name: str
    size: tuple[Pixels, Pixels] | None
    objects: list[VocObject]


class _Index(Struct):
    layout: int
    root: str
    stamps: list[tuple[int, int]]  # size and time of change in nanoseconds of each XML file
    records: list[VocRecord]


def read_voc(
    root: str | Path,
    image_set: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    on_invalid: OnInvalid = "drop",
    cache_dir: CacheDir = None,
) -> Annotations:
    """Read one image set of a VOC folder.

    The folder holds ``Annotations/*.xml``, ``ImageSets/Main/<image_set>.txt`` and ``JPEGImages/``. VOC's
    coordinates, which count from 1 and include xmax and ymax, become 0-based and exclusive; a box with
    xmax = xmin or ymax = ymin is taken to be empty. Image ids are 1 ... I, in the order of the set. A size
    that the XML lacks is read from the image. An image is ``<name>.jpg``, or has the suffix that the XML's
    ``<filename>`` has. Messages count objects from 1, as in ``object[3]``.

    What the XML files say is written to a cache file and read from there the next time, unless the list of names, or
    the size or time of change of one of the files, is another; the result and its warnings are the same either way.

    Args:
        root: the folder, ``VOC2007`` for example.
        image_set: the name of the list, without ``.txt``.
        class_names: names in the order wanted for the labels; left out, those found in the set, sorted.
            Pass the training set's to read the validation set, which may lack a class.
        on_invalid: ``"drop"`` drops a box without width or height and clips one past the edge, with
            one warning in the log; ``"raise"`` makes either an error.
        cache_dir: folder of the cache file, of about a tenth of the size of the XML files; False for none. Left out, it
            is the environment variable ``DETMIX_CACHE_DIR``, a folder or ``off``, and where that is not set
            ``$XDG_CACHE_HOME/detmix`` or ``~/.cache/detmix``. Where it cannot be written, there is none.

    Raises:
        FileNotFoundError: the image set or the XML file of an image is missing.
        ValueError: the image set is empty, has a name twice or one that leads out of the folder; an XML file is
            malformed, has a document type declaration or lacks a tag; a class is not in ``class_names``; a coordinate
            is not finite, or a size not in 0 ... 2**31 - 1; a box is invalid and ``on_invalid="raise"``. The file is
            named, and the object.
    """
    root = Path(root)
    set_file, records = read_voc_records(root, image_set, cache_dir=cache_dir)
    sizes = [record.size or size_in_header(root / "JPEGImages" / record.file_name) for record in records]
    objects = [found for record in records for found in record.objects]
    image = np.repeat(np.arange(len(records)), [len(record.objects) for record in records])

    def where(row: int) -> str:
        number = row - int(np.searchsorted(image, image[row])) + 1
        return f"{xml_path(root, records[image[row]].name)}: object[{number}]"

    classes = sorted({found.name for found in objects}) if class_names is None else list(class_names)
    return build_annotations(
        Images([r.file_name for r in records], sizes, range(1, len(records) + 1)),
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


def read_voc_records(root: Path, image_set: str, *, cache_dir: CacheDir = None) -> tuple[Path, list[VocRecord]]:
    """The list of an image set, and what the XML files of its images say, nothing changed.

    Args:
        root: as for ``read_voc``.
        image_set: as for ``read_voc``.
        cache_dir: as for ``read_voc``.

    Raises:
        FileNotFoundError: the image set or the XML file of an image is missing.
        ValueError: a name is there twice; an XML file is malformed, has a document type declaration or lacks a tag.
    """
    set_file, names = _read_image_set(root, image_set)
    return set_file, _read_records(root, names, set_file, cache.cache_folder(cache_dir))


def xml_path(root: Path, name: str) -> Path:
    """Where the annotations of an image lie."""
    return root / "Annotations" / f"{name}.xml"


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
        there = sorted(p.stem for p in folder.glob("*.txt"))
        hint = f"there are {there}" if there else f"is {root} the folder that holds Annotations and ImageSets?"
        raise FileNotFoundError(f"{path}: no such image set; {hint}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8: {error}") from None
    names = [_name_in(line, root) for line in lines]
    annotations = Folder(root / "Annotations")
    for name in names:
        annotations.require(name, str(path))
    require_unique(names, f"{path}: image names")
    return path, names


def _name_in(line: str, root: Path) -> str:
    """The name in a line; the sets of one class have a second column, unless the whole line is a name."""
    name = re.sub(r"\s+(-1|0|1)$", "", line)
    return line if name != line and os.path.isfile(f"{root}/Annotations/{line}.xml") else name


def _read_records(root: Path, names: list[str], set_file: Path, folder: Path | None) -> list[VocRecord]:
    """What the XML files say, from the cache file if it is of these files as they are now."""
    stamps = [_stamp(root, name, set_file) for name in names]
    if folder is None:
        return [_read_record(root, name) for name in names]
    place = str(root.resolve())
    key = hashlib.blake2b(f"{place}\0{set_file.stem}".encode(), digest_size=8).hexdigest()
    file = folder / f"voc-{key}.index"
    found = cache.load(file, _Index)
    if found and (found.layout, found.root, found.stamps) == (_LAYOUT, place, stamps):
        if [record.name for record in found.records] == names:
            return found.records
    _LOGGER.info("%s: reading %d annotation files", set_file, len(names))
    started = time.time_ns()
    records = [_read_record(root, name) for name in names]
    if max((changed for _, changed in stamps), default=0) < started - _YOUNG:
        cache.store(file, _Index(_LAYOUT, place, stamps, records))
    return records


def _stamp(root: Path, name: str, set_file: Path) -> tuple[int, int]:
    try:
        found = file_status(f"{root}/Annotations/{name}.xml")
    except FileNotFoundError:
        message = f"{xml_path(root, name)}: no such annotation file, and {set_file} lists it"
        raise FileNotFoundError(message) from None
    return found.st_size, found.st_mtime_ns


def _read_record(root: Path, name: str) -> VocRecord:
    path = xml_path(root, name)
    annotation = _parse(path)
    suffix = PurePosixPath(annotation.findtext("filename", "").strip()).suffix
    stated = "" if suffix[1:].isdigit() else suffix  # that is a part of a name with dots
    objects = [
        _read_object(f"{path}: object[{number}]", element)
        for number, element in enumerate(annotation.findall("object"), start=1)
    ]
    return VocRecord(name, name + (stated or ".jpg"), _read_size(path, annotation), objects)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type declaration, the only place where entities, and bombs of them, are made."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("document type declarations and entities are not accepted")


def _parse(path: Path) -> Element:
    content = read_file(path)
    try:
        annotation: Element = ElementTree.fromstring(content, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last of encodings that are none of text
        raise ValueError(f"{path}: not a VOC annotation: {error}") from None
    if annotation.tag != "annotation":
        raise ValueError(f"{path}: not a VOC annotation: the outer tag must be <annotation>, got <{annotation.tag}>")
    return annotation


def _read_size(path: Path, annotation: Element) -> tuple[int, int] | None:
    """Height and width, None where the file does not state them; some tools write zeros for that."""
    size = annotation.find("size")
    if size is None or not any(size.findtext(tag, "").strip() for tag in ("height", "width")):
        return None
    height, width = (_side(f"{path}: size", size, tag) for tag in ("height", "width"))
    return (height, width) if height and width else None


def _side(where: str, size: Element, tag: str) -> int:
    number = _number(where, size, tag)
    if not 0 <= number <= LARGEST_SIDE:
        raise ValueError(f"{where}: <{tag}> must lie in 0 ... {LARGEST_SIDE}, got {number}")
    return int(number)


def _read_object(where: str, element: Element) -> VocObject:
    box = element.find("bndbox")  # the object's own; its parts have theirs further down
    if box is None:
        raise ValueError(f"{where}: the tag <bndbox> is missing")
    name = _text(where, element, "name")
    return VocObject(
        name=name,
        box=[_number(f"{where}: bndbox", box, corner) for corner in _CORNERS],
        difficult=_is_set(where, element, "difficult"),
    )


def _is_set(where: str, element: Element, tag: str) -> bool:
    """Whether a flag is; some tools write words, or leave it empty."""
    word = element.findtext(tag, "").strip().lower()
    if word in _FLAGS:
        return _FLAGS[word]
    return _number(where, element, tag) != 0


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
