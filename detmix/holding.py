"""What an object holds, however deep: a walk, and where data sets hold each other and their transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from .pipelines import parts_of

MOST_MEMBERS = 100  # of a container that is looked through: more are data
_CONTAINERS = (list, tuple, dict)
_NO_DATASETS = (torch.Tensor, np.ndarray, np.generic, str, bytes, bytearray, set, frozenset, range, nn.Module)


def nearest(
    outer: Any, held_by: Callable[[Any], list[Any]], wanted: Callable[[Any], bool], *, most: float = math.inf
) -> Iterator[Any]:
    """What is held and wanted, each once, in a fixed order, and nothing of what that holds.

    Args:
        outer: where to begin; it is not looked at itself.
        held_by: what something holds, in order.
        wanted: whether something is looked for.
        most: things that are looked at.
    """
    seen = {id(outer): outer}  # while it lives, nothing else has its id
    waiting = held_by(outer)[::-1]
    while waiting and len(seen) < most:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen[id(held)] = held
        if wanted(held):
            yield held
        else:
            waiting += held_by(held)[::-1]


def held_by(holder: Any) -> list[Any]:
    """What may hold or be a mixer, or asks for the epoch: members of a container, or attributes of anything else."""
    if isinstance(holder, _CONTAINERS):
        return [member for member in _members(holder) if _is_worth_a_look(member)]
    named = [attribute(holder, name) for name in ("dataset", "datasets")]  # also where they are properties
    transforms = [attribute(holder, name) for name in ("transform", "transforms")]
    parts = [part for transform in transforms for part in parts_of(transform) if takes_epoch(part)]
    others = [value for value in _own(holder).values() if _is_worth_a_look(value)]
    return [value for value in named if value is not None and not isinstance(value, _NO_DATASETS)] + parts + others


def attribute(holder: Any, name: str) -> Any:
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
    if len(container) <= MOST_MEMBERS:
        return members
    first = next(iter(members)) if isinstance(container, dict) else container[0]
    return members if isinstance(first, Dataset) else ()


def _is_worth_a_look(value: Any) -> bool:
    if isinstance(value, _NO_DATASETS):
        return False
    return isinstance(value, _CONTAINERS) or _gives_samples(value) or takes_epoch(value)


def _gives_samples(value: Any) -> bool:
    return any(hasattr(type(value), name) for name in ("__getitem__", "__iter__"))


def takes_epoch(value: Any) -> bool:
    """Whether something has a method ``set_epoch``, of its own or of its class."""
    method = _own(value).get("set_epoch") or getattr(type(value), "set_epoch", None)
    return callable(method) and not isinstance(value, type)


def _own(value: Any) -> Mapping[str, Any]:
    """Attributes of an object itself."""
    return getattr(value, "__dict__", {})
