"""What everything that mixes shares: an epoch and an on-off switch that running workers see."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from operator import methodcaller
from typing import Any

import torch

from .arguments import check_count, check_flag
from .holding import attribute, held_by, nearest, takes_epoch
from .pipelines import parts_of
from .shared import Shared

_MOST = 10_000  # things that are looked at: beyond, they are data


class Switched:
    """The epoch that draws belong to, and an on-off switch: worker processes that already run see both change.

    The switch is handed on to the mixers within (see ``mixers_within``); the epoch to all that is held and has
    ``set_epoch``, transforms too (see ``tell_epoch``).
    """

    def __init__(self) -> None:
        self._shared = Shared(torch.tensor([0, 1, 0]))  # epoch, enabled, how often either was set
        self._handing_on = False
        self._depth = 0

    def __repr__(self) -> str:
        """What it wraps, the settings that are not the defaults, and its state."""
        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            if name == "dataset":
                shown.append(repr(value) if type(value).__module__.startswith("detmix.") else type(value).__name__)
            elif value is not parameter.default and repr(value) != repr(parameter.default):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join([*shown, f'epoch={self.epoch}', f'enabled={self.enabled}'])})"

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the draws belong to, an integer of 0 or more, here and in running workers."""
        self._set(0, check_count("epoch", epoch))
        self._hand_on(_held(self, takes_epoch), methodcaller("set_epoch", epoch))

    def enable(self, flag: bool = True) -> None:
        """Switch mixing on or off, here and in running workers."""
        self._set(1, check_flag("flag", flag))
        self._hand_on(mixers_within(self), methodcaller("enable", flag))

    def _hand_on(self, held: Iterable[Any], tell: Callable[[Any], object]) -> None:
        """Tell those within, unless it is one of them that tells: they may hold this in turn."""
        if self._handing_on:
            return
        self._handing_on = True
        try:
            for each in held:
                tell(each)
        finally:
            self._handing_on = False

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


def depth_within(outer: Any) -> int:
    """How many mixers lie within each other below something, as they were when they were made."""
    return max((1 + mixer._depth for mixer in mixers_within(outer)), default=0)


def mixers_within(outer: Any) -> list[Switched]:
    """The nearest mixers that something holds.

    Args:
        outer: anything. Mixers are looked for in its attributes and, any number of wrappers deep, in those of the data
            sets among them: whatever gives samples by index or one after another. Lists, tuples and dicts are looked
            through too: of up to 100 members, or of torch's data sets, as ``ConcatDataset`` has them.
    """
    return list(_held(outer, lambda held: isinstance(held, Switched)))


def tell_epoch(outer: Any, epoch: int) -> None:
    """Tell what something holds which epoch it is: data sets, their transforms, and whatever else has ``set_epoch``.

    Args:
        outer: anything; what it holds is looked for as by ``mixers_within``, and not within what has ``set_epoch``.
            Of transforms, those that are attributes of it or of data sets within, and the parts of what is called
            ``transform`` or ``transforms`` there.
        epoch: 0 or more.
    """
    for held in _held(outer, takes_epoch):
        held.set_epoch(epoch)


def tell_transform(dataset: Any, epoch: int) -> None:
    """Tell the ``transform`` of a data set and its parts which epoch it is, where they have ``set_epoch``."""
    for part in parts_of(getattr(dataset, "transform", None)):
        if takes_epoch(part):
            part.set_epoch(epoch)


def shares_itself_out(dataset: Any) -> bool:
    """Whether each reader gets another part of a stream, so that it must not be shared out again.

    Args:
        dataset: anything. A stream says so by an attribute ``shares_itself_out``. What wraps one keeps it as
            ``dataset``, or in a list ``datasets``: under another name it may be there for something else.
    """
    if getattr(dataset, "shares_itself_out", False) is True:
        return True
    several = attribute(dataset, "datasets")
    wrapped = (attribute(dataset, "dataset"), *(several if isinstance(several, (list, tuple)) else ()))
    return any(shares_itself_out(inner) for inner in wrapped if inner is not None)


def _held(outer: Any, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    return nearest(outer, held_by, wanted, most=_MOST)
