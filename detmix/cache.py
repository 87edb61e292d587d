"""The samples that a process loaded last, as partners that need not be decoded again."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .memory import MB, Held, part_of_memory

_TRIES = 32  # places that are looked at before all are


@dataclass(slots=True)
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
        self._memory = Held()
        self._limit: int | None = None  # of bytes held
        self._checked_by: int | None = None

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def nbytes(self) -> int:
        """Bytes that the samples take which this process holds."""
        return self._memory.nbytes

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
            ValueError: two are held for the first time in this process, and ``capacity`` samples of the second one's
                size do not fit in memory; or, later, what is held exceeds this process's part of what was available
                then.
        """
        self._keep(state)
        for loaded in samples:
            place = self._place_for(loaded.index)
            self._ring[place : place + 1] = [loaded]
            self._places[loaded.index] = place
            self._check(loaded.index, self._memory.add(loaded.index, loaded.sample))

    def _place_for(self, index: int) -> int:
        if index not in self._places and len(self._ring) < self.capacity:
            return len(self._ring)
        leaving = index if index in self._places else next(iter(self._places))
        self._memory.remove(leaving)
        return self._places.pop(leaving)

    def _check(self, index: int, size: int) -> None:
        """Measure what is available once: later on it lacks what the other workers hold."""
        if len(self._ring) == 2 and self._checked_by != os.getpid():
            part = part_of_memory("cache", self.capacity, size)
            self._limit = None if part is None else self.nbytes + part
            self._checked_by = os.getpid()
        elif self._checked_by == os.getpid() and self._limit is not None and self.nbytes > self._limit:
            raise ValueError(
                f"cache={self.capacity}: with sample {index} of {size / MB:.3g} MB the {len(self)} samples held take "
                f"{self.nbytes / MB:,.0f} MB, and this process's part of memory is {self._limit / MB:,.0f} MB: "
                "lower cache or the number of workers"
            )

    def clear(self) -> None:
        """Hold nothing any more."""
        self._state, self._ring, self._places, self._memory = [], [], OrderedDict(), Held()

    def _keep(self, state: list[int]) -> None:
        if self._state != [os.getpid(), *state]:
            self.clear()
            self._state = [os.getpid(), *state]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.capacity,)
