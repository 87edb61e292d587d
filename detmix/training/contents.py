"""What a run's splits hold."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..captions import one_line
from .splits import Stage

_NAMES_SHOWN = 5


class Part(NamedTuple):
    """A split that a run reads."""

    stage: Stage
    file: Path | None  # its annotations or image set; none of made-up scenes
    source: Any  # its data set

    @property
    def name(self) -> str:
        """What errors call it: its setting and its file."""
        return f"data.{self.stage}, in {self.file}"

    @property
    def objects(self) -> int:
        """How many objects its samples show, all together; crowds are not shown. Not for made-up scenes."""
        return int((~self.source.annotations.iscrowd).sum())

    @property
    def visible_keypoints(self) -> bool | None:
        """Whether its objects have any; None where keypoints are not read, and of made-up scenes, which do."""
        keypoints = None if self.file is None else self.source.annotations.keypoints
        return None if keypoints is None else bool((keypoints[..., 2] > 0).any())

    @property
    def labels(self) -> list[int]:
        """The labels that its objects have, each once. Not for made-up scenes."""
        annotations = self.source.annotations
        return np.unique(annotations.labels[~annotations.iscrowd]).tolist()

    @property
    def images(self) -> dict[str, str]:
        """Its image files: where they lie, and their names in the annotations. Not for made-up scenes."""
        annotations = self.source.annotations
        folder, names = annotations.image_dir.resolve(), map(annotations.file_name, range(len(annotations)))
        return {os.path.join(folder, name): name for name in names}


def all_classes(sources: Sequence[Any]) -> tuple[str, ...]:
    """The classes of the first data set, and after them those that objects of the others are of."""
    first, *others = sources
    used = [
        source.class_names[label - 1] for source in others for label in np.unique(source.annotations.labels).tolist()
    ]
    return tuple(dict.fromkeys([*first.class_names, *used]))


def described(
    format: str, parts: Sequence[Part], class_names: Sequence[str], mirrored: Sequence[int] | None = None
) -> str:
    """One line on what a run reads: format, classes, keypoints, and the images and objects of each file.

    Args:
        format: of the data.
        parts: the splits.
        class_names: in the order of the labels.
        mirrored: the place of each keypoint in a mirror image, if keypoints are read.
    """
    shown = ", ".join(class_names[:_NAMES_SHOWN]) + (", ..." if len(class_names) > _NAMES_SHOWN else "")
    classes = f"{len(class_names)} classes ({shown})"
    points = "" if mirrored is None else f", {_keypoints(mirrored)}"
    return one_line(f"{format}, {classes}{points}; {'; '.join(f'{part.stage} {_size(part)}' for part in parts)}")


def _keypoints(mirrored: Sequence[int]) -> str:
    """How many there are, and how many become others where an image is mirrored, by which a wrong name shows."""
    sides = sum(place != number for number, place in enumerate(mirrored))
    return f"{len(mirrored)} keypoints ({sides or 'none'} of them left or right)"


def _size(part: Part) -> str:
    if part.file is None:
        return f"{len(part.source)} made-up images"
    return f"{part.file}, {len(part.source)} images, {part.objects} objects"


def doubts(parts: Sequence[Part]) -> Iterator[str]:
    """What can hardly be meant: evaluation on images trained on, and training or other data without objects.

    Training splits count together, since one of several may be of images without objects on purpose.

    Args:
        parts: the training splits, and the one that is evaluated on. Made-up scenes raise no doubts.
    """
    *trained, evaluated = parts
    if evaluated.file is None:
        return
    images = evaluated.images
    for part in trained:
        shared = set() if part.file is None else part.images.keys() & images.keys()
        if shared:
            yield (
                f"{part.file}: data.train has {len(shared)} of the {len(images)} images of data.{evaluated.stage} "
                f"({images[min(shared)]} is one), so the AP is measured on images that were trained on, and says less "
                "of others. Give each split images of its own"
            )
    consequences = {"train": "its samples show nothing", evaluated.stage: "there is no AP to measure"}
    for group in (trained, [evaluated]):
        if not any(part.objects for part in group):
            stage = group[0].stage
            yield f"{_files(group)}: no object is annotated for data.{stage}: {consequences[stage]}"


def unposed(parts: Sequence[Part]) -> Iterator[str]:
    """Training data that is to teach keypoints, and in which none is visible.

    Args:
        parts: as for ``doubts``.
    """
    trained = parts[:-1]
    seen = {part.visible_keypoints for part in trained}
    if False in seen and True not in seen:
        yield f"{_files(trained)}: no keypoint of an object is visible in data.train: none will be learned"


def unmeasured(parts: Sequence[Part], class_names: Sequence[str]) -> Iterator[str]:
    """Classes that are trained on, and that no object is of on which the run is evaluated, if others have some.

    Args:
        parts: as for ``doubts``.
        class_names: the training data's, in the order of the labels.
    """
    *trained, evaluated = parts
    if evaluated.file is None:
        return
    seen = set(evaluated.labels)
    missing = sorted({label for part in trained for label in part.labels} - seen)
    if seen and missing:
        names = ", ".join(repr(class_names[label - 1]) for label in missing[:_NAMES_SHOWN])
        more = ", ..." if len(missing) > _NAMES_SHOWN else ""
        left = "1 class" if len(seen) == 1 else f"{len(seen)} classes"
        yield (
            f"{evaluated.file}: no object of data.{evaluated.stage} is of {names}{more}, while some of data.train "
            f"are, so AP is the mean over {left} of {len(class_names)}"
        )


def unused(parts: Sequence[Part], class_names: Sequence[str]) -> Iterator[str]:
    """Classes that no training object is of, and what to pass without them.

    Args:
        parts: as for ``doubts``.
        class_names: the training data's, in the order of the labels.
    """
    seen = {label for part in parts[:-1] if part.file is not None for label in part.labels}
    empty = [name for label, name in enumerate(class_names, start=1) if label not in seen]
    if seen and empty:
        left = json.dumps([name for name in class_names if name not in empty], ensure_ascii=False)
        yield (
            f"{_files(parts[:-1])}: no training object is of {', '.join(map(repr, empty))}, which the detector learns "
            f"all the same. Leave out what is no class of yours: --data.class_names {shlex.quote(left)}"
        )


def _files(parts: Sequence[Part]) -> str:
    return ", ".join(str(part.file) for part in parts)
