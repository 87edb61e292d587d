"""What a run's settings say of keypoints, and whether all of its splits have the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.pixel_points import require_support
from ..data.skeleton import Skeleton, mirrored_by
from ..evaluation import oks_sigmas


def check_wanted(wanted: bool, *settings: Any) -> None:
    """Refuse settings of keypoints where none are wanted, and keypoints where torchvision would not move them.

    Raises:
        ValueError: so it is.
    """
    if wanted:
        try:
            require_support()
        except RuntimeError as error:
            raise ValueError(f"data.keypoints=true: {error}") from None
    elif any(setting is not None for setting in settings):
        raise ValueError("data.keypoint_pairs and data.oks_sigmas are of keypoints, and data.keypoints is false")


def sigmas_of(skeleton: Skeleton, given: Sequence[float] | None) -> list[float]:
    """The constants of the measure of P keypoints, those given or the usual ones.

    Raises:
        ValueError: they are not P numbers above 0.
    """
    try:
        return oks_sigmas(len(skeleton.names), given).tolist()
    except ValueError as error:
        raise ValueError(f"data.oks_sigmas: {error}") from None


def mirrored_of(skeleton: Skeleton, pairs: Sequence[tuple[str, str]] | None) -> tuple[int, ...]:
    """Which keypoint each one becomes in a mirror image, by pairs of names or, without, by left and right in them.

    Raises:
        ValueError: a pair is none.
    """
    try:
        return skeleton.mirrored if pairs is None else mirrored_by(skeleton.names, pairs)
    except ValueError as error:
        raise ValueError(f"data.keypoint_pairs: {error}") from None


def require_same(wanted: Skeleton | None, given: Skeleton | None, name: str) -> None:
    """Refuse other keypoints than those of the first training split; a file that does not name its own has those.

    Args:
        wanted: those of the first training split, if keypoints are read.
        given: those of another split.
        name: of that, for the message.

    Raises:
        ValueError: so it is; both are listed.
    """
    if wanted is not None and given is not None and given.names not in (wanted.names, wanted.numbers):
        raise ValueError(
            f"{name}: its keypoints are {', '.join(given.names)}, and those of the first of data.train "
            f"{', '.join(wanted.names)}: all splits must have the same, in the same order"
        )
