"""Annotations and their image files as WebDataset's shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..arguments import check_count
from ..files import whole_folder
from .annotations import Annotations
from .paths import image_suffix, read_file


def write_shards(annotations: Annotations, folder: str | Path, *, samples_per_shard: int = 1000) -> list[Path]:
    """Write a data set as tar files that ``WebDatasetStream`` reads.

    A sample is ``<key>.<suffix of the image>``, the image file as it is, and ``<key>.json``; an image whose name has
    none gets ``.jpg``, whatever it is. The JSON is
    ``{"image_id", "file_name", "height", "width", "objects": {"bbox", "category", "area", "iscrowd", "difficult"}}``,
    boxes xywh in pixels from 0, categories by name. Segmentations and keypoints are left out. Keys count the images.
    The folder appears once all is written, with the same bytes for the same data.

    Args:
        annotations: from ``read_coco`` or ``read_voc``.
        folder: where the shards go, as ``<name of the folder>-000000.tar``; it must not exist, or be empty.
        samples_per_shard: images in a shard; the last one may have fewer.

    Returns:
        The shards, in order.

    Raises:
        FileExistsError: the folder has something in it.
        NotADirectoryError: it is a file.
        FileNotFoundError: an image file is missing.
        ValueError: samples_per_shard is below 1.
        TypeError: samples_per_shard is not an integer.
    """
    folder = Path(folder)
    if folder.name in ("", "..") or folder.is_symlink():  # without a name, or what no folder can replace
        folder = folder.resolve()
    samples_per_shard = check_count("samples_per_shard", samples_per_shard, least=1)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: shards go to a folder that is new or empty")
    names = []
    with whole_folder(folder) as temporary:
        for number, start in enumerate(range(0, len(annotations), samples_per_shard)):
            names.append(f"{folder.name}-{number:06d}.tar")
            stop = min(start + samples_per_shard, len(annotations))
            with tarfile.open(temporary / names[-1], "w") as shard:
                for member, content in _members(annotations, range(start, stop)):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))
    return [folder / name for name in names]


def _members(annotations: Annotations, indices: range) -> Iterator[tuple[str, bytes]]:
    for index in indices:
        path = annotations.image_path(index)
        yield f"{index:09d}{image_suffix(path.name).lower() or '.jpg'}", read_file(path)
        yield f"{index:09d}.json", msgspec.json.encode(_describe(annotations, index))


def _describe(annotations: Annotations, index: int) -> dict[str, Any]:
    rows = annotations.rows(index)
    corners = annotations.boxes[rows].astype(float)
    corners[:, 2:] -= corners[:, :2]
    height, width = annotations.sizes[index].tolist()
    objects = {
        "bbox": corners.tolist(),
        "category": [annotations.class_names[label - 1] for label in annotations.labels[rows].tolist()],
        "area": annotations.area[rows].tolist(),
        "iscrowd": annotations.iscrowd[rows].astype(int).tolist(),
        "difficult": annotations.difficult[rows].astype(int).tolist(),
    }
    image_id = int(annotations.image_ids[index])
    size = {"height": height, "width": width}
    return {"image_id": image_id, "file_name": annotations.file_name(index), **size, "objects": objects}
