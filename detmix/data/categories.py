"""COCO's categories, as annotation files and the ``classes.json`` of a run list them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import count
from pathlib import Path

import msgspec

from .bounds import Id


class Category(msgspec.Struct, gc=False):
    """A class of objects, and its id in the file."""

    id: Id
    name: str


class KeypointCategory(Category, gc=False):
    """A class whose objects may have keypoints: their names, and pairs of their numbers, from 1 on, that are joined."""

    keypoints: list[str] | None = None
    skeleton: list[tuple[int, int]] | None = None


def read_classes(file: Path) -> list[KeypointCategory]:
    """The classes of a run, in the order of its labels, with their keypoints if it learnt some.

    Args:
        file: its ``classes.json``.

    Raises:
        ValueError: the file is not of that form.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[KeypointCategory])
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise ValueError(f"{file}: {error}") from error


def one_of_each_name(categories: Sequence[Category], annotated: Container[int]) -> list[Category]:
    """The categories by ascending id, one of each name: that which has objects, where several have the name.

    Some tools write a category beside the others for what all have in common, and it may have the name of one of them.

    Args:
        categories: in the order of the file.
        annotated: ids of those that have objects.

    Raises:
        ValueError: two of one name have objects; their rows are named.
    """
    rows: dict[str, int] = {}
    for row in sorted(range(len(categories)), key=lambda row: categories[row].id):
        first = rows.setdefault(categories[row].name, row)
        if first == row or categories[row].id not in annotated:
            continue
        if categories[first].id in annotated:
            name = categories[row].name
            raise ValueError(f"categories[{first}] and categories[{row}] both have the name {name!r}, and objects")
        rows[categories[row].name] = row
    return sorted((categories[row] for row in rows.values()), key=lambda category: category.id)


def with_names(categories: Sequence[Category], names: Sequence[str]) -> list[Category]:
    """The categories, and one more for each name that they lack, with the first id from 1 on that none of them has."""
    ids, known = {category.id for category in categories}, {category.name for category in categories}
    free = (number for number in count(1) if number not in ids)
    return [*categories, *(Category(next(free), name) for name in dict.fromkeys(names) if name not in known)]
