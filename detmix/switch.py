"""What everything that mixes shares: an epoch and an on-off switch that running workers see."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from .arguments import check_count, check_flag
from .pipelines import parts_of
from .shared import Shared

_MOST = 100  # members of a container that is looked through
_MOST_SEEN = 10_000  # things that are looked at: beyond, they are data
_CONTAINERS = (list, tuple, dict)
_NO_DATASETS = (torch.Tensor, np.ndarray, np.generic, str, bytes, bytearray, set, frozenset, range, nn.Module)


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
        self._hand_on(tell_epoch, self, epoch)

    def enable(self, flag: bool = True) -> None:
        """Switch mixing on or off, here and in running workers."""
        self._set(1, check_flag("flag", flag))
        self._hand_on(_enable_within, self, flag)

    def _hand_on(self, tell: Callable[..., None], *arguments: Any) -> None:
        """Tell those within, unless it is one of them that tells: they may hold this in turn."""
        if self._handing_on:
            return
        self._handing_on = True
        try:
            tell(*arguments)
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
        dataset: anything. A stream says so by an attribute ``shares_itself_out``. What wraps one keeps it as
            ``dataset``, or in a list ``datasets``: under another name it may be there for something else.
    """
    if getattr(dataset, "shares_itself_out", False) is True:
        return True
    several = _read(dataset, "datasets")
    wrapped = (_read(dataset, "dataset"), *(several if isinstance(several, (list, tuple)) else ()))
    return any(shares_itself_out(inner) for inner in wrapped if inner is not None)


def _enable_within(outer: Any, flag: bool) -> None:
    for mixer in mixers_within(outer):
        mixer.enable(flag)


def _nearest(outer: Any, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """What is held and wanted, each once, in a fixed order, and nothing of what that holds."""
    seen = {id(outer): outer}  # while it lives, nothing else has its id
    waiting = _held_by(outer)[::-1]
    while waiting and len(seen) < _MOST_SEEN:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen[id(held)] = held
        if wanted(held):
            yield held
        else:
            waiting += _held_by(held)[::-1]


def _held_by(holder: Any) -> list[Any]:
    """What may hold or be a mixer, or asks for the epoch: members of a container, or attributes of anything else."""
    if isinstance(holder, _CONTAINERS):
        return [member for member in _members(holder) if _is_worth_a_look(member)]
    named = [_read(holder, name) for name in ("dataset", "datasets")]  # also where they are properties
    transforms = [_read(holder, name) for name in ("transform", "transforms")]
    parts = [part for transform in transforms for part in parts_of(transform) if _takes_epoch(part)]
    others = [value for value in _own(holder).values() if _is_worth_a_look(value)]
    return [value for value in named if value is not None and not isinstance(value, _NO_DATASETS)] + parts + others


def _read(holder: Any, name: str) -> Any:
    """An attribute that is there, and not made up by a ``__getattr__``; None if it cannot be read."""
    if name not in _own(holder) and not hasattr(type(holder), name):
        return None
    try:
        return getattr(holder, name)
    except Exception:  # a property may raise anything
        return None


def _members(container: Any) -> Iterable[Any]:
    """Those of a small container, or of one of data sets; large ones hold data."""
    members = container.values() if isinstance(container, dict) else container
    if len(container) <= _MOST:
        return members
    first = next(iter(members)) if isinstance(container, dict) else container[0]
    return members if isinstance(first, Dataset) else ()


def _is_worth_a_look(value: Any) -> bool:
    if isinstance(value, _NO_DATASETS):
        return False
    return isinstance(value, _CONTAINERS) or _gives_samples(value) or _takes_epoch(value)


def _gives_samples(value: Any) -> bool:
    return any(hasattr(type(value), name) for name in ("__getitem__", "__iter__"))


def _takes_epoch(value: Any) -> bool:
    method = _own(value).get("set_epoch") or getattr(type(value), "set_epoch", None)
    return callable(method) and not isinstance(value, type)


def _own(value: Any) -> Mapping[str, Any]:
    """Attributes of an object itself."""
    return getattr(value, "__dict__", {})
