"""VOC folders: one XML file for each image, lists of names for each set.

What the XML files say is kept in a cache file, with the size and the times of change of each.

Format: Everingham and Winn, The PASCAL Visual Object Classes Challenge 2012 Development Kit.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from . import cache
from .annotations import Annotations
from .cache import CacheDir
from .cleaning import Images, Objects, OnInvalid, build_annotations, require_list, require_unique
from .images import size_in_header
from .paths import Folder, file_status, image_suffix, missing_folder, other_spelling, path_below, stamp_of
from .voc_xml import VocObject, VocRecord, read_record, xml_path

_LOGGER = logging.getLogger("detmix.data")
_LAYOUT = 6  # of the cache file; another number as soon as it holds something else, or the same read differently
_YOUNG = 2_000_000_000  # nanoseconds; a file changed again this soon may keep its time, by which changes are told


class _Index(Struct):
    layout: int
    root: bytes  # its path, which need not be text
    stamps: list[tuple[int, int, int]]  # of each XML file
    records: list[VocRecord]


def read_voc(
    root: str | Path,
    image_set: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    one_based: bool = True,
    on_invalid: OnInvalid = "drop",
    cache_dir: CacheDir = None,
) -> Annotations:
    """Read one image set of a VOC folder.

    The folder holds ``Annotations/*.xml``, ``ImageSets/Main/<image_set>.txt`` and ``JPEGImages/``. The list has the
    name of one image a line, without suffix; one that is written all the same is passed over. VOC's
    coordinates, which count from 1 and include xmax and ymax, become 0-based and exclusive; a box with
    xmax = xmin or ymax = ymin is taken to be empty. Image ids are 1 ... I, in the order of the set. A size
    that the XML lacks is read from the image. An image is ``<name>.jpg``, or has the suffix of an image that
    the XML's ``<filename>`` has. Messages count objects from 1, as in ``object[3]``.

    What the XML files say is written to a cache file and read from there the next time, unless the list of names, or
    the size or a time of change of one of the files, is another; the result and its warnings are the same either way.

    Args:
        root: the folder, ``VOC2007`` for example.
        image_set: the name of the list, without ``.txt``.
        class_names: names in the order wanted for the labels; left out, those found in the set, sorted.
            Pass the training set's to read the validation set, which may lack a class.
        one_based: corners count from 1, the last pixel included, as VOC's own. False for the files of tools that write
            x, y, x + width, y + height from 0; a warning says so if they look like that.
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
        TypeError: ``class_names`` is a text.
    """
    root = Path(root)
    found = read_voc_set(root, image_set, class_names, one_based=one_based, cache_dir=cache_dir)
    images = root / "JPEGImages"
    sizes = [record.size or size_in_header(path_below(images, record.file_name)) for record in found.records]
    return build_annotations(
        Images([record.file_name for record in found.records], sizes, range(1, len(found.records) + 1)),
        Objects(
            image=found.image,
            boxes=found.boxes,
            labels=found.labels(),
            area=np.full(len(found.boxes), np.nan),
            iscrowd=np.zeros(len(found.boxes), dtype=np.bool_),
            difficult=found.difficult,
            ids=np.arange(1, len(found.boxes) + 1),
        ),
        class_names=found.class_names,
        category_ids=range(1, len(found.class_names) + 1),
        image_dir=images,
        source=str(found.file),
        where=found.where,
        one_based=one_based,
        on_invalid=on_invalid,
    )


@dataclass(frozen=True, eq=False)
class VocSet:
    """An image set with its M objects, as the XML files have them.

    Attributes:
        root: the folder.
        file: the list of names.
        records: what each XML file says.
        objects: of all files.
        class_names: those given, or those found, sorted.
        image: (M,) int64, the record of each object.
        boxes: (M, 4) float64, xmin, ymin, xmax, ymax in the files' own numbers, valid or not.
        difficult: (M,) bool.
    """

    root: Path
    file: Path
    records: list[VocRecord]
    objects: list[VocObject]
    class_names: list[str]
    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    difficult: NDArray[np.bool_]

    def where(self, row: int) -> str:
        """The file of an object, and its number there, from 1."""
        number = row - int(np.searchsorted(self.image, self.image[row])) + 1
        return f"{xml_path(self.root, self.records[self.image[row]].name)}: object[{number}]"

    def labels(self) -> NDArray[np.int64]:
        """1 ... K-1 of each object, (M,).

        Raises:
            ValueError: an object is of another class.
        """
        labels = {name: label for label, name in enumerate(self.class_names, start=1)}
        for row, found in enumerate(self.objects):
            if found.name not in labels:
                raise ValueError(f"{self.where(row)}: the class must be one of {self.class_names}, got {found.name!r}")
        return np.array([labels[found.name] for found in self.objects], dtype=np.int64)


def read_voc_set(
    root: Path,
    image_set: str,
    class_names: Sequence[str] | None,
    *,
    one_based: bool,
    cache_dir: CacheDir = None,
) -> VocSet:
    """Read an image set, nothing changed.

    Args:
        root: as for ``read_voc``.
        image_set: as for ``read_voc``.
        class_names: as for ``read_voc``.
        one_based: what is said of the boxes; if they are said to count from 1 and seem to count from 0, there is a
            warning.
        cache_dir: as for ``read_voc``.

    Raises:
        FileNotFoundError: the image set or the XML file of an image is missing.
        ValueError: a name is there twice; an XML file is malformed, has a document type declaration or lacks a tag.
        TypeError: ``class_names`` is a text.
    """
    require_list(class_names, "class_names")
    file, names = _read_image_set(root, image_set)
    records = _read_records(root, names, file, cache.cache_folder(cache_dir))
    objects = [item for record in records for item in record.objects]
    found = VocSet(
        root,
        file,
        records,
        objects,
        class_names=sorted({item.name for item in objects}) if class_names is None else list(class_names),
        image=np.repeat(np.arange(len(records)), [len(record.objects) for record in records]),
        boxes=np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4),
        difficult=np.array([item.difficult for item in objects], dtype=np.bool_),
    )
    if one_based:
        _warn_if_zero_based(found)
    return found


def _warn_if_zero_based(found: VocSet) -> None:
    """Tell by where boxes at the left or upper edge begin: some zeros among more ones are slips of a tool.

    What an empty box says does not count, since tools write zeros for it.
    """
    starts, ends = np.split(found.boxes, 2, axis=1)
    edge = np.floor(np.where((ends > starts).all(axis=1, keepdims=True), starts, np.inf))
    at_zero, at_one = (edge == 0).any(axis=1), (edge == 1).any(axis=1)
    if at_zero.sum() > at_one.sum():
        rows = np.flatnonzero(at_zero)
        _LOGGER.warning(
            "%s: %d of %d boxes begin at 0, fewer at 1, so the corners seem to count from 0. If they do, pass "
            "one_based=False (--data.one_based false in the trainer, --zero-based in tools/evaluate.py), or all are a "
            "pixel off: %s has xyxy %s",
            *(found.file, len(rows), len(found.boxes), found.where(rows[0]), found.boxes[rows[0]].tolist()),
        )


def _read_image_set(root: Path, image_set: str) -> tuple[Path, list[str]]:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{image_set}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image set; {_advice(root, folder)}")
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


def _advice(root: Path, folder: Path) -> str:
    if missing := missing_folder(root / "ImageSets"):
        return f"there is no folder {missing}"
    if there := sorted(path.stem for path in folder.glob("*.txt")):
        return f"there are {there}"
    asked = "" if (root / "Annotations").is_dir() else f"; is {root} the folder that holds Annotations and ImageSets?"
    return f"it is a text file with the name of one image a line, without its suffix: write it{asked}"


def _name_in(line: str, root: Path) -> str:
    """The name in a line; the sets of one class have a second column, and some tools write a suffix.

    What seems to be either is part of the name where there is such an annotation file.
    """
    name = re.sub(r"\s+(-1|0|1)$", "", line)
    if name != line and _is_annotated(root, line):
        return line
    bare, suffix = os.path.splitext(name)
    is_file = suffix.lower() == ".xml" or image_suffix(name)
    return bare if is_file and not _is_annotated(root, name) and _is_annotated(root, bare) else name


def _is_annotated(root: Path, name: str) -> bool:
    return os.path.isfile(f"{root}/Annotations/{name}.xml")


def _read_records(root: Path, names: list[str], set_file: Path, folder: Path | None) -> list[VocRecord]:
    """What the XML files say, from the cache file if it is of these files as they are now."""
    stamps = [_stamp(root, name, set_file) for name in names]
    if folder is None:
        return [read_record(root, name) for name in names]
    place = os.fsencode(root.resolve())
    key = hashlib.blake2b(place + b"\0" + os.fsencode(os.path.relpath(set_file, root)), digest_size=8).hexdigest()
    file = folder / f"voc-{key}.index"
    found = cache.load(file, _Index)
    if found and (found.layout, found.root, found.stamps) == (_LAYOUT, place, stamps):
        if [record.name for record in found.records] == names:
            return found.records
    _LOGGER.info("%s: reading %d annotation files", set_file, len(names))
    started = time.time_ns()
    records = [read_record(root, name) for name in names]
    if max((changed for _, changed, _ in stamps), default=0) < started - _YOUNG:
        cache.store(file, _Index(_LAYOUT, place, stamps, records))
    return records


def _stamp(root: Path, name: str, set_file: Path) -> tuple[int, int, int]:
    try:
        return stamp_of(file_status(f"{root}/Annotations/{name}.xml"))
    except FileNotFoundError:
        file = xml_path(root, name)
        hint = other_spelling(file)
        message = f"{file}: no such annotation file, and {set_file} lists it"
        raise FileNotFoundError(f"{message}; {hint}" if hint else message) from None
