"""The keypoints of a data set: their names, which are each other's mirror image, and the lines between them."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .categories import KeypointCategory

_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SIDE = re.compile(
    "(?i:left|right|(?<![a-z])[lr](?![a-z]))"  # left_eye, EYE_R
    "|(?<![A-Za-z])[lr](?=[A-Z])"  # lEye
    "|(?<![A-Z])[LR](?=[A-Z][a-z])"  # LEye, but not LEG
    "|(?<=[a-z])[LR](?![A-Za-z])"  # eyeL
)


def check_edges(edges: Iterable[Sequence[int]], count: int) -> None:
    """Raise ValueError unless each edge joins two of so many keypoints, counted from 0."""
    for edge in edges:
        if len(edge) != 2 or not all(0 <= end < count for end in edge):
            raise ValueError(f"an edge must join two of {count} keypoints, got {edge}")


@dataclass(frozen=True)
class Skeleton:
    """The P keypoints that each object has.

    Attributes:
        names: P names, each once.
        edges: pairs of places in ``names``, 0 ... P-1, that a picture joins by a line.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"keypoints must have one name or more, each once, got {list(self.names)}")
        check_edges(self.edges, len(self.names))

    @property
    def numbers(self) -> tuple[str, ...]:
        """What as many keypoints are called in a file that does not name them."""
        return numbered(len(self.names))

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Where the keypoint stands that each one becomes in a mirror image, P places.

        ``left`` in a name becomes ``right``, an ``l`` by itself ``r``, and the other way round, if there is a keypoint
        of that name, upper and lower case aside. By itself is one as in ``l_eye``, ``lEye``, ``LEye`` and ``eyeL``,
        but not in ``leye``. A keypoint stays what it is unless it and another are each other's counterpart.
        """
        exact = {name: [place] for place, name in enumerate(self.names)}
        folded: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            folded.setdefault(name.casefold(), []).append(place)
        wanted = [_other_side(name) for name in self.names]
        found = [exact.get(name) or folded.get(name.casefold(), []) for name in wanted]
        return tuple(
            others[0] if len(others) == 1 and found[others[0]] == [place] else place
            for place, others in enumerate(found)
        )

    def of_category(self) -> dict[str, Any]:
        """What COCO writes of them in a category: ``keypoints``, and ``skeleton`` with places from 1 on."""
        return {"keypoints": list(self.names), "skeleton": [[start + 1, end + 1] for start, end in self.edges]}


_PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")  # of either side
COCO_PERSON = Skeleton(
    (
        "nose",
        *(f"{side}_{part}" for part in _PARTS for side in ("left", "right")),
    ),
    (
        *((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)),  # head
        *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),  # arms
        *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),  # trunk and legs
    ),
)
"""The keypoints of a person in COCO's files (https://cocodataset.org/#format-data), which torchvision's models give."""


def skeleton_of(categories: Sequence[KeypointCategory], count: int | None) -> Skeleton:
    """The keypoints that categories have in common.

    Args:
        categories: those whose objects may have some; of one that names none they are not known.
        count: how many an object has, None where none has any. Without names they are called ``1`` ... ``P``.

    Raises:
        ValueError: two categories name others; a name occurs twice; an edge joins no two of them; or nothing tells
            that there are any.
    """
    named = [category for category in categories if category.keypoints]
    for category in named[1:]:
        if category.keypoints != named[0].keypoints:
            raise ValueError(
                f"all classes must have the same keypoints, got {named[0].keypoints} of {named[0].name!r} and "
                f"{category.keypoints} of {category.name!r}"
            )
    if not named and not count:
        raise ValueError("it has no keypoints, and they are wanted: neither an object nor a category has any")
    names = tuple(named[0].keypoints or ()) if named else numbered(count or 0)
    edges = next((category.skeleton for category in categories if category.skeleton), [])
    for edge in edges:
        if not all(1 <= end <= len(names) for end in edge):
            raise ValueError(f"a skeleton must join keypoints 1 ... {len(names)}, got {list(edge)}")
    return Skeleton(names, tuple((start - 1, end - 1) for start, end in edges))


def numbered(count: int) -> tuple[str, ...]:
    """Names of so many keypoints that have none of their own."""
    return tuple(map(str, range(1, count + 1)))


def coco_keypoints(points: NDArray[np.floating]) -> dict[str, Any]:
    """What COCO writes of the keypoints of an object, (P, 3): ``keypoints`` in a row, and how many are known."""
    return {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


def _other_side(name: str) -> str:
    """A name with left and right exchanged."""
    return _SIDE.sub(_exchanged, name)


def _exchanged(found: re.Match[str]) -> str:
    word = found.group()
    other = _OTHER[word.lower()]
    return other if word.islower() else other.upper() if word.isupper() and len(word) > 1 else other.capitalize()


def check_mirrored(mirrored: Sequence[int]) -> tuple[int, ...]:
    """The places of ``Skeleton.mirrored`` as integers.

    Raises:
        TypeError: they are no integers.
        ValueError: they are not 0 ... P-1, each once, such that mirroring twice changes nothing.
    """
    if not all(hasattr(place, "__index__") for place in mirrored):
        raise TypeError(f"mirrored must be the places of keypoints, integers, got {mirrored!r}")
    places = tuple(map(operator.index, mirrored))
    if sorted(places) != list(range(len(places))) or any(places[places[n]] != n for n in range(len(places))):
        raise ValueError(f"mirrored must exchange pairs of the places 0 ... {len(places) - 1}, got {list(mirrored)}")
    return places


def mirrored_by(names: Sequence[str], pairs: Iterable[Sequence[str]]) -> tuple[int, ...]:
    """The places of ``Skeleton.mirrored`` where pairs are named, whatever the names say themselves.

    Raises:
        ValueError: a pair is none, of a name that no keypoint has, or of one that another pair has too.
    """
    place = {name: number for number, name in enumerate(names)}
    mirrored = list(range(len(place)))
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= place.keys():
            raise ValueError(f"a pair must be two of the keypoints {', '.join(names)}, got {list(pair)}")
        one, other = (place[name] for name in pair)
        if one == other or (mirrored[one], mirrored[other]) != (one, other):
            raise ValueError(f"a keypoint must be in one pair at most, and not with itself, got {list(pair)}")
        mirrored[one], mirrored[other] = other, one
    return tuple(mirrored)
