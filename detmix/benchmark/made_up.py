"""Annotation files of any number, the same every time, for the benchmark: written once to the temporary folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..files import whole_folder, write_whole

_POLYGONS = 499  # different ones; they recur, each time with another object
_LINES = 50_000  # written at a time
_AGE = 3600  # seconds; files that were written just now are not trusted to stay


def coco_file(images: int, boxes: int, *, polygons: bool = True, classes: int = 80) -> Path:
    """A file in the layout of COCO's ``instances_train2017.json``: as many bytes for each image and object.

    Args:
        images: how many.
        boxes: how many, spread over the images at random; one in a hundred is a crowd.
        polygons: whether objects have outlines, which are five sixths of such a file.
        classes: of the objects, each as frequent.
    """
    name = f"coco-{images}-{boxes}-{classes}{'' if polygons else '-boxes'}.json"
    path = _folder() / name
    if not path.is_file():
        write_whole(path, partial(_write, images, boxes, polygons, classes))
    return path


def coco_results(images: int, boxes: int, detections: int, *, classes: int = 80) -> Path:
    """COCO results for the file of ``coco_file``, as many for each image: each object found once, the rest at random.

    Args:
        images: of that file.
        boxes: of that file.
        detections: how many results; a multiple of the images.
        classes: of that file.
    """
    path = _folder() / f"results-{images}-{boxes}-{detections}-{classes}.json"
    if not path.is_file():
        truth = coco_file(images, boxes, polygons=False, classes=classes)
        write_whole(path, partial(_write_results, truth, images, detections // images, classes))
    return path


def voc_folder(images: int) -> Path:
    """A folder in VOC's layout, without the images, which need not be opened: one image set, ``train``.

    Args:
        images: XML files, with 1 to 4 objects each; VOC 2007 has 5,011 for training and validation.
    """
    path = _folder() / f"voc-{images}"
    if not path.is_dir():
        with whole_folder(path) as temporary:
            _write_voc(images, temporary)
    return path


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / "detmix-benchmark"


def _write(images: int, boxes: int, polygons: bool, classes: int, path: Path) -> None:
    rng = np.random.default_rng(0)
    with path.open("w", encoding="ascii") as file:
        file.write('{"info": {"description": "made up"}, "licenses": [], "images": [')
        _write_rows(file, _image_rows(images))
        file.write('], "annotations": [')
        _write_rows(file, _object_rows(images, boxes, classes, _outlines(rng) if polygons else [""], rng))
        categories = (f'{{"supercategory": "thing", "id": {i + 1}, "name": "class {i}"}}' for i in range(classes))
        file.write(f'], "categories": [{", ".join(categories)}]}}')


def _write_rows(file: Any, rows: Iterator[str]) -> None:
    comma = ""
    while lines := list(islice(rows, _LINES)):
        file.write(comma + ", ".join(lines))
        comma = ", "


def _image_rows(images: int) -> Iterator[str]:
    for i in range(1, images + 1):
        yield (
            f'{{"license": 3, "file_name": "{i:012d}.jpg", "coco_url": "http://images.example/train/{i:012d}.jpg", '
            f'"height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", '
            f'"flickr_url": "http://pictures.example/6116/{i:012d}_z.jpg", "id": {i}}}'
        )


def _object_rows(images: int, boxes: int, classes: int, outlines: list[str], rng: np.random.Generator) -> Iterator[str]:
    for start in range(0, boxes, _LINES):
        count = min(_LINES, boxes - start)
        corners, extents = rng.uniform(0, 400, (count, 2)).round(2), rng.uniform(2, 80, (count, 2)).round(2)
        columns = (rng.integers(1, images + 1, count), rng.integers(1, classes + 1, count), rng.random(count) < 0.01)
        rows = zip(*(column.tolist() for column in (corners, extents, *columns)), strict=True)
        for number, ((x, y), (width, height), image, category, crowd) in enumerate(rows, start=start + 1):
            yield (
                f'{{{outlines[number % len(outlines)]}"area": {width * height:.4f}, "iscrowd": {crowd:d}, '
                f'"image_id": {image}, "bbox": [{x}, {y}, {width}, {height}], "category_id": {category}, '
                f'"id": {number}}}'
            )


def _write_results(truth: Path, images: int, each: int, classes: int, path: Path) -> None:
    rng = np.random.default_rng(0)
    objects: dict[int, list[tuple[int, list[float]]]] = {image: [] for image in range(1, images + 1)}
    for row in json.loads(truth.read_bytes())["annotations"]:
        objects[row["image_id"]].append((row["category_id"], row["bbox"]))
    rows = (row for image, own in objects.items() for row in _result_rows(image, own[:each], each, classes, rng))
    with path.open("w", encoding="ascii") as file:
        file.write("[")
        _write_rows(file, rows)
        file.write("]")


def _result_rows(
    image: int, objects: list[tuple[int, list[float]]], each: int, classes: int, rng: np.random.Generator
) -> Iterator[str]:
    boxes = np.concatenate([rng.uniform(0, 400, (each, 2)), rng.uniform(2, 80, (each, 2))], axis=1)
    labels, scores = rng.integers(1, classes + 1, each), rng.beta(0.3, 3, each)
    for place, (label, box) in enumerate(objects):
        boxes[place] = np.array(box) + rng.normal(0, 0.05, 4) * max(box[2:])
        labels[place], scores[place] = label, rng.beta(3, 1)
    boxes = np.maximum(boxes, 0).round(2)
    for label, (x, y, width, height), score in zip(labels.tolist(), boxes.tolist(), scores.tolist(), strict=True):
        yield (
            f'{{"image_id": {image}, "category_id": {label}, "bbox": [{x}, {y}, {width}, {height}], '
            f'"score": {score:.6f}}}'
        )


def _outlines(rng: np.random.Generator) -> list[str]:
    points = (rng.uniform(0, 400, 2 * int(rng.integers(4, 46))).round(2).tolist() for _ in range(_POLYGONS))
    return [f'"segmentation": [{polygon}], ' for polygon in points]


def _write_voc(images: int, root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    names = [f"{i:06d}" for i in range(1, images + 1)]
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names) + "\n")
    for name in names:
        objects = (_voc_object(rng) for _ in range(int(rng.integers(1, 5))))
        file = root / "Annotations" / f"{name}.xml"
        file.write_text(
            f"<annotation>\n\t<folder>VOC</folder>\n\t<filename>{name}.jpg</filename>\n\t<size>\n\t\t<width>500</width>\n"
            f"\t\t<height>375</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n{''.join(objects)}"
            "</annotation>\n"
        )
        written = file.stat().st_mtime - _AGE
        os.utime(file, (written, written))


def _voc_object(rng: np.random.Generator) -> str:
    x, y, width, height = rng.integers(1, (300, 200, 200, 150)).tolist()
    corners = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
    box = "".join(f"\t\t\t<{tag}>{value}</{tag}>\n" for tag, value in corners.items())
    return (
        f"\t<object>\n\t\t<name>class {rng.integers(20)}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n{box}\t\t</bndbox>\n\t</object>\n"
    )
