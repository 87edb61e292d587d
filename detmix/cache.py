"""The samples that a process loaded last, as partners that need not be decoded again."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from .memory import available_memory, bytes_held

_TRIES = 32  # places that are looked at before all are
_MB = 1_000_000


@dataclass(frozen=True)
class Loaded:
    """A sample: its index, and what the data set gave for it."""

    index: int
    sample: tuple[Any, Any]


class PartnerCache:
    """A ring of samples, each held once: a new one takes the place of its older copy, else of the oldest.

    Each process has its own. What it holds belongs to one state of the mixing, such as an epoch; it is empty in a new
    state, after a fork, and in a copy or an unpickled one.
    """

    def __init__(self, capacity: int) -> None:
        """Begin empty.

        Args:
            capacity: samples that it holds at most, 0 or more.
        """
        self.capacity = capacity
        self._state: list[int] = []
        self._ring: list[Loaded] = []
        self._places: OrderedDict[int, int] = OrderedDict()  # by index of the sample, the oldest first
        self._checked_by: int | None = None

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def nbytes(self) -> int:
        """Bytes that the samples take which this process holds."""
        return sum(bytes_held(loaded.sample) for loaded in self._ring)

    def draw(self, state: list[int], fits: Callable[[int], bool], generator: np.random.Generator) -> Loaded | None:
        """One of the samples, each that fits equally likely; None if none does.

        Args:
            state: what the samples must belong to.
            fits: whether the sample of an index will do.
            generator: where the randomness comes from; nothing is drawn from it while nothing is held.
        """
        self._keep(state)
        ring = self._ring
        if not ring:
            return None
        for _ in range(_TRIES):
            loaded = ring[generator.integers(len(ring))]
            if fits(loaded.index):
                return loaded
        fitting = [loaded for loaded in ring if fits(loaded.index)]
        return fitting[generator.integers(len(fitting))] if fitting else None

    def add(self, state: list[int], *samples: Loaded) -> None:
        """Hold samples, the last for longest.

        Args:
            state: what they belong to.
            samples: nobody may write to them from now on.

        Raises:
            ValueError: nothing was held yet in this process, and ``capacity`` samples of the first one's size do not
                fit in memory.
        """
        self._keep(state)
        if self._checked_by != os.getpid():  # once: later on, what other workers hold is not available any more
            _require_memory(self.capacity, bytes_held(samples[0].sample))
            self._checked_by = os.getpid()
        for loaded in samples:
            place = self._place_for(loaded.index)
            self._ring[place : place + 1] = [loaded]
            self._places[loaded.index] = place

    def _place_for(self, index: int) -> int:
        if index in self._places:
            return self._places.pop(index)
        return len(self._ring) if len(self._ring) < self.capacity else self._places.popitem(last=False)[1]

    def clear(self) -> None:
        """Hold nothing any more."""
        self._state, self._ring, self._places = [], [], OrderedDict()

    def _keep(self, state: list[int]) -> None:
        if self._state != [os.getpid(), *state]:
            self.clear()
            self._state = [os.getpid(), *state]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.capacity,)


def _require_memory(count: int, size: int) -> None:
    """Refuse a cache that cannot fit, before the system kills the process that fills it."""
    worker = get_worker_info()
    processes = 1 if worker is None else worker.num_workers
    available = available_memory()
    if available is not None and count * size * processes > available:
        holders = "" if worker is None else f" in each of {processes} workers"
        raise ValueError(
            f"cache={count} samples of {size / _MB:.3g} MB, as large as the first,{holders} take "
            f"{count * size * processes / _MB:,.0f} MB, and {available / _MB:,.0f} MB of memory are available: "
            f"at most cache={available // (size * processes)} fits"
        )
