"""Made-up photographs as JPEG files, with objects in COCO's layout.

The time that a JPEG takes to decode goes with its bytes. Those of 640x480 pixels have as many as a file of COCO's
train2017 has on average: 163 kB, 19.3 GB in 118,287 files (the size of train2017.zip on huggingface.co/datasets).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_OCTAVES = (4, 16, 64, 256)  # cells across the picture at each scale
_GRAIN = 4.5  # levels of brightness from pixel to pixel, as a sensor's noise
_QUALITY = 95
_CLASSES = 8


def photograph(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise that is smooth at several scales, the finer the fainter, and grain; as (H, W, 3) uint8."""
    picture = np.repeat(rng.normal(size=(height, width, 1)).astype(np.float32) * _GRAIN, 3, axis=2)
    for cells in _OCTAVES:
        coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32) * 128 / cells**0.5
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def jpeg(height: int, width: int, rng: np.random.Generator) -> bytes:
    """A photograph as a JPEG file holds it."""
    _, data = cv2.imencode(".jpg", photograph(height, width, rng), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()


def write_coco(folder: Path, count: int, size: tuple[int, int], *, objects: int = 8, portraits: float = 0.0) -> Path:
    """Write a data set of photographs.

    Args:
        folder: where; ``images/`` and ``annotations.json`` are written into it.
        count: photographs.
        size: their height and width, in pixels.
        objects: boxes at random places of each.
        portraits: share of the photographs that stand on end, spread evenly.

    Returns:
        The annotation file.
    """
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, count + 1):
        name = f"{image_id:06d}.jpg"
        on_end = int(image_id * portraits) > int((image_id - 1) * portraits)
        height, width = size[::-1] if on_end else size
        (folder / "images" / name).write_bytes(jpeg(height, width, rng))
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        extents = rng.uniform(0.1, 0.4, (objects, 2)) * (width, height)
        corners = rng.uniform(0, 1, (objects, 2)) * ((width, height) - extents)
        labels = rng.integers(1, _CLASSES + 1, objects).tolist()
        for box, label in zip(np.hstack([corners, extents]).tolist(), labels, strict=True):
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "bbox": box, "iscrowd": 0}
            annotations.append(row | {"area": box[2] * box[3]})
    categories = [{"id": label, "name": f"class {label}"} for label in range(1, _CLASSES + 1)]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return file
