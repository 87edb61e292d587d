"""The keypoints of a data set: their names, which are each other's mirror image, and the lines between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SIDE = re.compile("left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)


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
        for edge in self.edges:
            if not all(0 <= end < len(self.names) for end in edge):
                raise ValueError(f"an edge must join two of {len(self.names)} keypoints, got {edge}")

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Where the keypoint stands that each one becomes in a mirror image, P places.

        ``left`` in a name becomes ``right``, an ``l`` by itself, as in ``l_eye``, ``r``, and the other way round,
        if there is a keypoint of that name; one without such a counterpart stays what it is.
        """
        place = {name: number for number, name in enumerate(self.names)}
        return tuple(place.get(_other_side(name), number) for number, name in enumerate(self.names))


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
        ValueError: they are not 0 ... P-1, each once, such that mirroring twice changes nothing.
    """
    places = tuple(map(int, mirrored))
    if sorted(places) != list(range(len(places))) or any(places[places[n]] != n for n in range(len(places))):
        raise ValueError(f"mirrored must exchange pairs of the places 0 ... {len(places) - 1}, got {list(mirrored)}")
    return places
