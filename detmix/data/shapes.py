"""Made-up scenes: textured shapes on a textured ground, drawn when asked for, nothing to download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..arguments import check_count, check_index, check_integer
from ..draws import SCENES, generator_at
from ..pipelines import apply, check_transform
from ..targets import Target
from .masks import encode_planes
from .skeleton import Skeleton, coco_keypoints

CLASS_NAMES = ("circle", "square", "triangle")
SKELETON = Skeleton(("top", "left", "right"), ((0, 1), (1, 2), (2, 0)))
"""The keypoints of a shape: of a triangle its corners, of the others the middles of three sides of the box."""

_EDGE = 3  # pixels a shape keeps from the border of the image
_MAX_COVERED = 0.5  # share of a shape's box that one later shape may cover
_ATTEMPTS = 20


class Shapes(Dataset[tuple[torch.Tensor, Target]]):
    """Scenes of circles, squares and triangles: a data set with objects to detect and nothing to fetch.

    A scene is a function of (seed, index) alone. Shapes overlap, but none covers more than half of
    another's box. Colour and texture tell nothing of the class; only the outline does.
    """

    def __init__(
        self,
        num_scenes: int,
        *,
        size: int = 128,
        max_objects: int = 6,
        min_extent: int = 16,
        max_extent: int = 56,
        seed: int = 0,
        masks: bool = False,
        keypoints: bool = False,
        transform: Callable[[Any, Target], tuple[Any, Target]] | None = None,
    ) -> None:
        """Describe the scenes; nothing is drawn yet.

        Args:
            num_scenes: length of the data set.
            size: height and width of a scene, in pixels.
            max_objects: a scene has 1 ... max_objects shapes.
            min_extent: smallest width and height of a shape, in pixels.
            max_extent: largest one.
            seed: scenes of different seeds have nothing in common.
            masks: give the targets ``masks`` (N, size, size) uint8, of whole shapes as the boxes are, also where other
                shapes cover them; and the ground truth ``segmentation``, and its area in the place of the box's.
            keypoints: give the targets ``keypoints`` (N, 3, 3) float32, the x, y and visibility of the points named by
                ``SKELETON``: 1 where another shape hides it, otherwise 2; and the ground truth the like.
            transform: ``image, target -> image, target``, applied to each scene.

        Raises:
            ValueError: num_scenes or max_objects is below 1, or the extents do not fit each other or the scene.
            TypeError: num_scenes, max_objects, a size or the seed is not an integer, or the transform cannot be called
                with image and target.
        """
        num_scenes = check_count("num_scenes", num_scenes, least=1)
        max_objects = check_count("max_objects", max_objects, least=1)
        size, min_extent = check_count("size", size), check_count("min_extent", min_extent)
        max_extent = check_count("max_extent", max_extent)
        if not 4 <= min_extent <= max_extent <= size - 2 * _EDGE:
            raise ValueError(
                f"extents must satisfy 4 <= min_extent <= max_extent <= size - {2 * _EDGE}, "
                f"got min_extent={min_extent}, max_extent={max_extent}, size={size}"
            )
        self.num_scenes = num_scenes
        self.size = size
        self.max_objects = max_objects
        self.extents = min_extent, max_extent
        self.seed = check_integer("seed", seed)
        self.masks = masks
        self.keypoints = keypoints
        self.transform = check_transform(transform)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; label i is ``class_names[i - 1]``."""
        return CLASS_NAMES

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO category ids, in the order of the labels."""
        return tuple(range(1, len(CLASS_NAMES) + 1))

    @property
    def skeleton(self) -> Skeleton | None:
        """What the keypoints are; None without them."""
        return SKELETON if self.keypoints else None

    def __repr__(self) -> str:
        """How many scenes of which size."""
        return f"<Shapes: {self.num_scenes} scenes of {self.size}x{self.size}>"

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, index: int) -> tuple[Any, Target]:
        """A scene and its target.

        Returns:
            (3, size, size) uint8, and a dict of ``boxes`` (N, 4) float32, xyxy in pixels, ``labels`` (N,) int64, from 1
            on, N 1 or more, and ``image_id``, the index, an int; with masks also ``masks`` (N, size, size) uint8, with
            keypoints ``keypoints`` (N, 3, 3) float32. Or what ``transform`` makes of the two.

        Raises:
            IndexError: there is no such scene.
            TypeError: the index is not an integer.
        """
        index = check_index(index, self.num_scenes)
        rng = generator_at(self.seed, 0, index, SCENES)
        boxes, labels = self._place(rng)
        target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels), "image_id": index}
        if self.masks:
            target["masks"] = torch.from_numpy(self._masks(boxes, labels))
        if self.keypoints:
            target["keypoints"] = torch.from_numpy(self._keypoints(boxes, labels))
        image = torch.from_numpy(self._draw(rng, boxes, labels))
        return apply(self.transform, image, target)

    def labels_of(self, index: int) -> torch.Tensor:
        """The labels of a scene, (N,) int64, without drawing it or calling the transform."""
        _, labels = self._place(generator_at(self.seed, 0, check_index(index, self.num_scenes), SCENES))
        return torch.from_numpy(labels)

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """The size of a scene, in pixels; all have the same."""
        check_index(index, self.num_scenes)
        return self.size, self.size

    def ground_truth(self) -> dict[str, Any]:
        """All scenes' objects as a COCO dict, for evaluation."""
        objects = [row for index in range(self.num_scenes) for row in self._annotations(index)]
        return {
            "images": [{"id": i, "width": self.size, "height": self.size} for i in range(self.num_scenes)],
            "categories": [
                {"id": i, "name": name, **(SKELETON.of_category() if self.keypoints else {})}
                for i, name in zip(self.category_ids, CLASS_NAMES, strict=True)
            ],
            "annotations": [{"id": number, **row} for number, row in enumerate(objects, start=1)],
        }

    def _annotations(self, index: int) -> list[dict[str, Any]]:
        """The objects of a scene as rows of COCO's, without their ids."""
        boxes, labels = self._place(generator_at(self.seed, 0, index, SCENES))
        rows = [_annotation(index, box, label) for box, label in zip(boxes, labels, strict=True)]
        if self.masks:
            masks = self._masks(boxes, labels)
            for row, mask, encoded in zip(rows, masks, encode_planes(masks), strict=True):
                row |= {"segmentation": encoded, "area": float(mask.sum())}
        if self.keypoints:
            for row, points in zip(rows, self._keypoints(boxes, labels), strict=True):
                row |= coco_keypoints(points)
        return rows

    def _masks(self, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, size, size) uint8, 1 where a shape is."""
        masks = np.zeros((len(boxes), self.size, self.size), np.uint8)
        for mask, (x1, y1, x2, y2), label in zip(masks, boxes.astype(int), labels, strict=True):
            mask[y1:y2, x1:x2] = _silhouette(CLASS_NAMES[label - 1], x2 - x1)
        return masks

    def _keypoints(self, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, 3, 3) float32: x and y in pixels, and visibility."""
        masks = self._masks(boxes, labels)
        keypoints = np.full((len(boxes), len(SKELETON.names), 3), 2, np.float32)
        for number, (box, label) in enumerate(zip(boxes.astype(int), labels, strict=True)):
            x, y = _points(CLASS_NAMES[label - 1], *box).T
            keypoints[number, :, 0], keypoints[number, :, 1] = x, y
            keypoints[number, masks[number + 1 :, y, x].any(0), 2] = 1  # later shapes cover earlier ones
        return keypoints

    def _place(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4) float32 and labels (N,) of a scene, back to front; later shapes cover earlier ones."""
        boxes: list[np.ndarray] = []
        for _ in range(rng.integers(1, self.max_objects + 1)):
            for _ in range(_ATTEMPTS):
                box = self._random_box(rng)
                if all(_covered_share(other, box) <= _MAX_COVERED for other in boxes):
                    boxes.append(box)
                    break
        labels = rng.integers(1, len(CLASS_NAMES) + 1, len(boxes))
        return np.array(boxes, np.float32), labels

    def _random_box(self, rng: np.random.Generator) -> np.ndarray:
        extent = rng.integers(*self.extents, endpoint=True)
        corner = rng.integers(_EDGE, self.size - _EDGE - extent, size=2, endpoint=True)
        return np.concatenate([corner, corner + extent])

    def _draw(self, rng: np.random.Generator, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scene = _texture(rng, self.size)
        for (x1, y1, x2, y2), label in zip(boxes.astype(int), labels, strict=True):
            patch = scene[:, y1:y2, x1:x2]
            np.copyto(patch, _texture(rng, x2 - x1), where=_silhouette(CLASS_NAMES[label - 1], x2 - x1))
        return scene


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """(3, size, size) uint8: one colour with coarse and fine noise."""
    colour = rng.integers(30, 226, (3, 1, 1))
    coarse = cv2.resize(rng.normal(0, 20, (8, 8)).astype(np.float32), (size, size))
    fine = rng.normal(0, 8, (size, size))
    return np.clip(colour + coarse + fine, 0, 255).astype(np.uint8)


def _silhouette(name: str, extent: int) -> np.ndarray:
    """(extent, extent) bool: the pixels of a shape that touches all four sides of its box."""
    last = extent - 1
    if name == "square":
        return np.ones((extent, extent), bool)
    if name == "triangle":
        points = np.array([(last // 2, 0), (last, last), (0, last)])
    else:
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        points = np.rint((np.stack([np.cos(angles), np.sin(angles)], axis=1) + 1) * last / 2)
    return cv2.fillPoly(np.zeros((extent, extent), np.uint8), [points.astype(np.int32)], 1) > 0


def _points(name: str, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    """(3, 2) pixels of a shape, x and y, in the order of ``SKELETON``."""
    middle, last = (x2 - x1 - 1) // 2, y2 - 1
    side = last if name == "triangle" else y1 + middle
    return np.array([(x1 + middle, y1), (x1, side), (x2 - 1, side)])


def _covered_share(box: np.ndarray, cover: np.ndarray) -> float:
    """Share of a box's area that another box covers."""
    width, height = np.clip(np.minimum(box[2:], cover[2:]) - np.maximum(box[:2], cover[:2]), 0, None)
    return float(width * height / np.prod(box[2:] - box[:2]))


def _annotation(image_id: int, box: np.ndarray, label: int) -> dict[str, Any]:
    x1, y1, x2, y2 = box.tolist()
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {
        "image_id": image_id,
        "category_id": int(label),
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
    }
