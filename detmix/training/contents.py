"""What a run's splits hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..captions import one_line
from .splits import Stage

_NAMES_SHOWN = 5


class Part(NamedTuple):
    """A split that a run reads."""

    stage: Stage
    file: Path | None  # its annotations or image set; none of made-up scenes
    source: Any  # its data set

    @property
    def objects(self) -> int:
        """How many objects its samples show, all together; crowds are not shown. Not for made-up scenes."""
        return int((~self.source.annotations.iscrowd).sum())


def described(format: str, parts: Sequence[Part], class_names: Sequence[str]) -> str:
    """One line on what a run reads: format, classes, and the images and objects of each file."""
    shown = ", ".join(class_names[:_NAMES_SHOWN]) + (", ..." if len(class_names) > _NAMES_SHOWN else "")
    classes = f"{len(class_names)} classes ({shown})"
    return one_line(f"{format}, {classes}; {'; '.join(f'{part.stage} {_size(part)}' for part in parts)}")


def _size(part: Part) -> str:
    if part.file is None:
        return f"{len(part.source)} made-up images"
    return f"{part.file}, {len(part.source)} images, {part.objects} objects"
