"""What everything that mixes shares: an epoch and an on-off switch that running workers see."""

from __future__ import annotations

from typing import Any

import torch

from .arguments import check_count
from .shared import Shared


class Switched:
    """The epoch that draws belong to, and an on-off switch: worker processes that already run see both change.

    The switch is handed on to the mixers within (see ``mixers_within``); the epoch to all that is wrapped and has
    ``set_epoch``, transforms too.
    """

    def __init__(self) -> None:
        self._shared = Shared(torch.tensor([0, 1, 0]))  # epoch, enabled, how often either was set

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the draws belong to, an integer of 0 or more, here and in running workers."""
        self._set(0, check_count("epoch", epoch))
        tell_transform(self, epoch)
        for inner in _wrapped(self):
            tell_epoch(inner, epoch)

    def enable(self, flag: bool = True) -> None:
        """Switch mixing on or off, here and in running workers."""
        self._set(1, int(flag))
        for mixer in mixers_within(self):
            mixer.enable(flag)

    @property
    def epoch(self) -> int:
        """The epoch that the draws belong to."""
        return self._setting[0]

    @property
    def enabled(self) -> bool:
        """Whether samples are mixed."""
        return bool(self._setting[1])

    @property
    def _setting(self) -> list[int]:
        """Epoch, 1 where enabled, and how often they were set: in one reading, which takes longer than its use."""
        return self._shared.values.tolist()

    def _set(self, place: int, value: int) -> None:
        self._shared.values[place] = value
        self._shared.values[2] += 1

    @property
    def _depth(self) -> int:
        """How many mixers lie within each other below this one."""
        return max((1 + mixer._depth for mixer in mixers_within(self)), default=0)


def mixers_within(outer: Any) -> list[Switched]:
    """The nearest mixers that something wraps.

    Args:
        outer: anything. What it wraps is its attribute ``dataset``, as in torch's ``Subset``, and its list or tuple
            ``datasets``, as in ``ConcatDataset``, any number of wrappers deep.
    """
    found = []
    for inner in _wrapped(outer):
        found += [inner] if isinstance(inner, Switched) else mixers_within(inner)
    return found


def tell_epoch(dataset: Any, epoch: int) -> None:
    """Tell a data set which epoch it is: by its ``set_epoch`` or, without one, its transform and what it wraps.

    Args:
        dataset: anything; wrappers as for ``mixers_within``.
        epoch: 0 or more.
    """
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)
        return
    tell_transform(dataset, epoch)
    for inner in _wrapped(dataset):
        tell_epoch(inner, epoch)


def tell_transform(dataset: Any, epoch: int) -> None:
    """Tell the ``transform`` of a data set which epoch it is, if it has one that has ``set_epoch``."""
    transform: Any = getattr(dataset, "transform", None)
    if hasattr(transform, "set_epoch"):
        transform.set_epoch(epoch)


def shares_itself_out(dataset: Any) -> bool:
    """Whether each reader gets another part of a stream, so that it must not be shared out again.

    Args:
        dataset: anything. A stream says so by an attribute ``shares_itself_out``; wrappers as for ``mixers_within``.
    """
    return bool(getattr(dataset, "shares_itself_out", False)) or any(map(shares_itself_out, _wrapped(dataset)))


def _wrapped(outer: Any) -> list[Any]:
    several = getattr(outer, "datasets", None)
    wrapped = [getattr(outer, "dataset", None), *(several if isinstance(several, (list, tuple)) else ())]
    return [inner for inner in wrapped if inner is not None]
