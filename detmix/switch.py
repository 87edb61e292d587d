"""What everything that mixes shares: an epoch and an on-off switch that running workers see."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from .arguments import check_count, check_flag
from .pipelines import parts_of
from .shared import Shared

_CONTAINERS = (list, tuple, dict)
_NO_DATASETS = (torch.Tensor, np.ndarray, np.generic, str, bytes, bytearray, set, frozenset, range, nn.Module)


class Switched:
    """The epoch that draws belong to, and an on-off switch: worker processes that already run see both change.

    The switch is handed on to the mixers within (see ``mixers_within``); the epoch to all that is held and has
    ``set_epoch``, transforms too (see ``tell_epoch``).
    """

    def __init__(self) -> None:
        self._shared = Shared(torch.tensor([0, 1, 0]))  # epoch, enabled, how often either was set

    def __repr__(self) -> str:
        """What it wraps, the settings that are not the defaults, and its state."""
        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            if name == "dataset":
                shown.append(repr(value) if type(value).__module__.startswith("detmix.") else type(value).__name__)
            elif value is not parameter.default and value != parameter.default:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join([*shown, f'epoch={self.epoch}', f'enabled={self.enabled}'])})"

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the draws belong to, an integer of 0 or more, here and in running workers."""
        self._set(0, check_count("epoch", epoch))
        tell_epoch(self, epoch)

    def enable(self, flag: bool = True) -> None:
        """Switch mixing on or off, here and in running workers."""
        self._set(1, check_flag("flag", flag))
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
    """The nearest mixers that something holds.

    Args:
        outer: anything. Mixers are looked for in its attributes and, any number of wrappers deep, in those of the data
            sets among them: whatever gives samples by index or one after another. Lists, tuples and dicts of data sets
            are looked through too, as ``ConcatDataset`` has one.
    """
    return list(_nearest(outer, lambda held: isinstance(held, Switched)))


def tell_epoch(outer: Any, epoch: int) -> None:
    """Tell what something holds which epoch it is: data sets, their transforms, and whatever else has ``set_epoch``.

    Args:
        outer: anything; what it holds is looked for as by ``mixers_within``, and not within what has ``set_epoch``.
            Of transforms, those that are attributes of it or of data sets within, and the parts of what is called
            ``transform`` or ``transforms`` there.
        epoch: 0 or more.
    """
    for held in _nearest(outer, _takes_epoch):
        held.set_epoch(epoch)


def tell_transform(dataset: Any, epoch: int) -> None:
    """Tell the ``transform`` of a data set and its parts which epoch it is, where they have ``set_epoch``."""
    for part in parts_of(getattr(dataset, "transform", None)):
        if _takes_epoch(part):
            part.set_epoch(epoch)


def shares_itself_out(dataset: Any) -> bool:
    """Whether each reader gets another part of a stream, so that it must not be shared out again.

    Args:
        dataset: anything. A stream says so by an attribute ``shares_itself_out``, and what holds one as for
            ``mixers_within`` is such a stream too.
    """

    def shares(held: Any) -> bool:
        return getattr(held, "shares_itself_out", False) is True

    return shares(dataset) or any(_nearest(dataset, shares))


def _nearest(outer: Any, wanted: Callable[[Any], bool], seen: dict[int, Any] | None = None) -> Iterator[Any]:
    """What is held and wanted, each once, and nothing of what that holds."""
    seen = {} if seen is None else seen
    seen[id(outer)] = outer  # while it lives, nothing else has its id
    for held in _held_by(outer):
        if id(held) in seen:
            continue
        if wanted(held):
            seen[id(held)] = held
            yield held
        else:
            yield from _nearest(held, wanted, seen)


def _held_by(holder: Any) -> list[Any]:
    """Data sets that are attributes of something, and other attributes that ask for the epoch."""
    named = (getattr(holder, name, None) for name in ("dataset", "datasets"))  # also where they are properties
    parts = (part for name in ("transform", "transforms") for part in parts_of(getattr(holder, name, None)))
    values = (*named, *parts, *getattr(holder, "__dict__", {}).values())
    members = (member for value in values for member in _members(value))
    return [member for member in members if _is_dataset(member) or _takes_epoch(member)]


def _members(value: Any) -> Iterable[Any]:
    """The data sets in a container, which may have many other things; anything else by itself."""
    if not isinstance(value, _CONTAINERS):
        return (value,)
    members = value.values() if isinstance(value, dict) else value
    first = next(iter(members), None)
    return members if _is_dataset(first) or _takes_epoch(first) else ()


def _is_dataset(value: Any) -> bool:
    if isinstance(value, (*_CONTAINERS, *_NO_DATASETS)):
        return False
    return any(hasattr(type(value), name) for name in ("__getitem__", "__iter__"))


def _takes_epoch(value: Any) -> bool:
    return callable(getattr(type(value), "set_epoch", None))
