"""Where the splits of a data set lie, and how they are opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..data import DetectionDataset, Shapes, read_coco, read_voc
from ..data.annotations import Annotations
from ..data.dataset import OnError
from ..data.paths import other_spelling

Format = Literal["coco", "voc", "shapes"]
Stage = Literal["train", "val", "test"]


@dataclass
class ShapesOptions:
    """Made-up scenes; see ``detmix.data.Shapes``. Each split has scenes of its own.

    Attributes:
        train: number of training scenes.
        val: number of validation scenes.
        test: number of test scenes.
        size: height and width of a scene in pixels.
        max_objects: most objects in a scene.
        min_extent: smallest width and height of an object in pixels.
        max_extent: largest one.
    """

    train: int = 800
    val: int = 200
    test: int = 200
    size: int = 128
    max_objects: int = 6
    min_extent: int = 16
    max_extent: int = 56


@dataclass(frozen=True)
class Splits:
    """Opens the splits of a data set; the settings are those of ``DetectionData``."""

    format: Format
    root: Path
    annotations: str
    images: str
    shapes: ShapesOptions
    seed: int
    on_error: OnError
    reduce_to: int | None
    one_based: bool
    masks: bool
    keypoints: bool
    empty_images: bool

    def open(
        self,
        split: str,
        stage: Stage,
        names: Sequence[str] | None,
        category_ids: tuple[int, ...] | None = None,
    ) -> Any:
        """Read the annotations of a split.

        Args:
            split: its name.
            stage: what it is for, ``train``, ``val`` or ``test``; made-up scenes go by that.
            names: the classes in the order of their labels; see ``DetectionData``.
            category_ids: of the classes, in place of those that a file of this split has: ids of one name may differ
                from split to split, and a run states one for each.

        Raises:
            ValueError: the data is malformed, empty, or of other classes, or lacks masks that are to be measured; the
                file is named.
            FileNotFoundError: a file is missing.
        """
        if self.format == "shapes":
            return self._draw(stage)
        try:
            found = self._read(split, stage, names)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data.{stage}={split}: {error}") from error
        except ValueError as error:
            raise ValueError(f"data.{stage}={split}: {error}{self._remedy(split, stage, names)}") from error
        if category_ids is not None:
            found = replace(found, category_ids=category_ids)
        if stage != "train":
            return DetectionDataset(found)
        if not self.empty_images:
            found = self._with_objects(found, split)
        return DetectionDataset(found, on_error=self.on_error, reduce_to=self.reduce_to)

    def _with_objects(self, found: Annotations, split: str) -> Annotations:
        try:
            return found.with_objects()
        except ValueError as error:
            raise ValueError(
                f"data.train={split}: {self.file(split)}: {error}, and data.empty_images is false"
            ) from None

    def _read(self, split: str, stage: Stage, names: Sequence[str] | None) -> Annotations:
        if self.format == "coco":
            file, images = (self.root / _filled(pattern, split) for pattern in (self.annotations, self.images))
            masks: Any = "required" if self.masks and stage != "train" else self.masks
            return read_coco(file, images, class_names=names, masks=masks, keypoints=self.keypoints)
        folder, _, image_set = split.rpartition("/")
        return read_voc(self.root / folder, image_set, class_names=names, one_based=self.one_based)

    def _remedy(self, split: str, stage: Stage, names: Sequence[str] | None) -> str:
        """What to pass if nothing but its classes is wrong with a split."""
        if not names:
            return ""
        try:
            self._read(split, stage, None)
        except (ValueError, OSError):
            return ""
        listed = ", ".join(names)
        return (
            f". The classes are {listed}, those of data.train. To have others, name all of them with data.class_names"
        )

    def file(self, split: str) -> Path | None:
        """The file that says which images a split has; None for made-up scenes."""
        if self.format == "shapes":
            return None
        if self.format == "coco":
            return self.root / _filled(self.annotations, split)
        folder, _, image_set = split.rpartition("/")
        return self.root / folder / "ImageSets" / "Main" / f"{image_set}.txt"

    def _draw(self, stage: Stage) -> Shapes:
        count = getattr(self.shapes, stage)
        if count < 1:
            raise ValueError(f"data.shapes.{stage} must be 1 or more, got {count}")
        return Shapes(
            count,
            size=self.shapes.size,
            max_objects=self.shapes.max_objects,
            min_extent=self.shapes.min_extent,
            max_extent=self.shapes.max_extent,
            seed=3 * self.seed + ("train", "val", "test").index(stage),
            masks=self.masks,
            keypoints=self.keypoints,
        )


def _filled(pattern: str, split: str) -> str:
    try:
        return pattern.format(split=split)
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(f"data: {pattern!r} is no path in which {{split}} stands for the split") from error


def require_first_image(source: DetectionDataset, name: str) -> None:
    """Refuse a folder without images; where images may be missing, one that is not there.

    Args:
        source: the data of a split.
        name: what errors call it.
    """
    first = source.image_path(0)
    wanted = first if source.on_error == "raise" else first.parent
    if not wanted.exists():
        advice = other_spelling(first) or "look at --data.root and, for COCO, --data.images and --data.annotations"
        raise FileNotFoundError(f"{wanted}: not found, and the first image of {name}, is to be there; {advice}")
