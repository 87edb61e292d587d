"""COCO's categories, as annotation files and the ``classes.json`` of a run list them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .bounds import Id


class Category(msgspec.Struct, gc=False):
    """A class of objects, and its id in the file."""

    id: Id
    name: str


def read_classes(file: Path) -> list[Category]:
    """The classes of a run, in the order of its labels.

    Args:
        file: its ``classes.json``.

    Raises:
        ValueError: the file is not of that form.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Category])
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise ValueError(f"{file}: {error}") from error
