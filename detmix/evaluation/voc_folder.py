"""The ground truth of a VOC folder, in the kit's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.bounds import EXACT
from ..data.cleaning import WITHOUT_PIXELS, report, require_unique
from ..data.voc import VocSet, read_voc_set
from .records import GroundTruth, Objects, xywh_of


def read_voc_folder(
    root: str | Path, image_set: str, class_names: Sequence[str] | None = None, *, one_based: bool = True
) -> GroundTruth:
    """Read one image set of a VOC folder as the development kit does: objects with a pixel count, no box is clipped.

    (``detmix.data.read_voc`` makes training data of it, and so clips boxes and drops those that are empty within their
    image.) A box without a pixel, as where its corners are reversed, is dropped, with one warning of the logger
    ``detmix.data``. Image ids are 1 ... I in the order of the set, category ids 1 ... K in the order of the class
    names. What was read is kept in ``read_voc``'s cache file.

    Args:
        root: the folder that holds ``Annotations/*.xml`` and ``ImageSets/Main/<image_set>.txt``.
        image_set: the name of the list, without ``.txt``.
        class_names: the classes; left out, those found in the set, sorted.
        one_based: corners count from 1, the last pixel included; False where they are x, y, x + width, y + height
            from 0, as for ``read_voc``.

    Raises:
        FileNotFoundError: the list is missing, or the XML file of an image in it.
        ValueError: the list is empty or has a name twice; an XML file is malformed; an object's class is not in
            ``class_names``, or its box is beyond 2**53. The file is named, and the object, counted from 1.
        TypeError: ``class_names`` is a text.
    """
    found = read_voc_set(Path(root), image_set, class_names, one_based=one_based)
    if not found.records:
        raise ValueError(f"{found.file}: there is no image in it")
    require_unique(found.class_names, "class names")
    sizes = [record.size or (0, 0) for record in found.records]
    return GroundTruth(
        image_ids=np.arange(1, len(found.records) + 1),
        file_names=tuple(record.file_name for record in found.records),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        category_ids=np.arange(1, len(found.class_names) + 1),
        class_names=tuple(found.class_names),
        objects=_objects(found, one_based),
        source=str(found.file),
    )


def _objects(found: VocSet, one_based: bool) -> Objects:
    for row in np.flatnonzero((np.abs(found.boxes) > EXACT).any(axis=1))[:1].tolist():
        wanted = "the box must be in pixels, of 2**53 at most"
        raise ValueError(f"{found.where(row)}: {wanted}, got {found.boxes[row].tolist()}")
    corners = found.boxes if one_based else found.boxes + np.array([1, 1, 0, 0])
    xywh = xywh_of(corners)
    nothing: NDArray[np.bool_] = np.any(xywh[:, 2:] <= 0, axis=1)
    report(str(found.file), found.where, found.boxes, {WITHOUT_PIXELS: nothing}, "drop")
    kept = ~nothing
    return Objects(
        images=found.image[kept],
        labels=found.labels()[kept] - 1,
        xywh=xywh[kept],
        corners=corners[kept],
        areas=np.prod(xywh[kept, 2:], axis=1),
        masks=None,
        keypoints=None,
        crowd=np.zeros(kept.sum(), dtype=np.bool_),
        difficult=found.difficult[kept],
        posed=np.zeros(kept.sum(), dtype=np.bool_),
    )
