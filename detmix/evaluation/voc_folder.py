"""The ground truth of a VOC folder, in the kit's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.cleaning import require_unique
from ..data.voc import VocRecord, read_voc_records, xml_path
from .checks import LARGEST
from .records import GroundTruth, Objects, xywh_of


def read_voc_folder(root: str | Path, image_set: str, class_names: Sequence[str] | None = None) -> GroundTruth:
    """Read one image set of a VOC folder as the development kit does: every object counts, no box is clipped.

    (``detmix.data.read_voc`` makes training data of it, and so clips boxes and drops empty ones.) Image ids are
    1 ... I in the order of the set, category ids 1 ... K in the order of the class names. What was read is kept in
    ``read_voc``'s cache file.

    Args:
        root: the folder that holds ``Annotations/*.xml`` and ``ImageSets/Main/<image_set>.txt``.
        image_set: the name of the list, without ``.txt``.
        class_names: the classes; left out, those found in the set, sorted.

    Raises:
        FileNotFoundError: the list is missing, or the XML file of an image in it.
        ValueError: the list is empty or has a name twice; an XML file is malformed; an object's class is not in
            ``class_names``, or its box ends before it begins or is beyond 2**53. The file is named, and the object,
            counted from 1.
    """
    root = Path(root)
    set_file, records = read_voc_records(root, image_set)
    if not records:
        raise ValueError(f"{set_file}: there is no image in it")
    names = sorted({found.name for record in records for found in record.objects})
    names = names if class_names is None else list(class_names)
    _check(root, records, names)
    sizes = [record.size or (0, 0) for record in records]
    return GroundTruth(
        image_ids=np.arange(1, len(records) + 1),
        file_names=tuple(record.file_name for record in records),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        category_ids=np.arange(1, len(names) + 1),
        class_names=tuple(names),
        objects=_objects(records, names),
        source=str(set_file),
    )


def _objects(records: Sequence[VocRecord], names: Sequence[str]) -> Objects:
    found = [item for record in records for item in record.objects]
    labels = {name: label for label, name in enumerate(names)}
    corners = np.array([item.box for item in found], dtype=np.float64).reshape(-1, 4)
    xywh = xywh_of(corners)
    return Objects(
        images=np.repeat(np.arange(len(records)), [len(record.objects) for record in records]),
        labels=np.array([labels[item.name] for item in found], dtype=np.int64),
        xywh=xywh,
        corners=corners,
        areas=xywh[:, 2] * xywh[:, 3],
        masks=None,
        crowd=np.zeros(len(found), dtype=np.bool_),
        difficult=np.array([item.difficult for item in found], dtype=np.bool_),
    )


def _check(root: Path, records: Sequence[VocRecord], names: Sequence[str]) -> None:
    require_unique(names, "class names")
    known = set(names)
    for record in records:
        for number, item in enumerate(record.objects, start=1):
            place = f"{xml_path(root, record.name)}: object[{number}]"
            if item.name not in known:
                raise ValueError(f"{place}: the class must be one of {', '.join(names)}, got {item.name!r}")
            if max(map(abs, item.box)) > LARGEST:
                raise ValueError(f"{place}: the box must be in pixels, of 2**53 at most, got {item.box}")
            if item.box[2] < item.box[0] or item.box[3] < item.box[1]:
                raise ValueError(f"{place}: xmax and ymax must not be below xmin and ymin, got {item.box}")
