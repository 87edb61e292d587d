"""Seeds for each sample: what transforms draw becomes a function of (seed, epoch, index) too."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .arguments import check_index, check_integer
from .dataset import MapDataset
from .draws import AUGMENTATION, generator_at
from .holding import MOST_MEMBERS, nearest
from .mixing import Sample
from .switch import Switched, depth_within

_STREAM = AUGMENTATION + 1
_PLAIN = (torch.Tensor, np.ndarray, str, bytes, int, float, type, ModuleType, type(None))
_numpy: Any = np.random  # its stubs do not know that bit generators can be exchanged


class SeededDataset(Switched, Dataset[Sample]):
    """Makes the random transforms within a data set draw by (seed, epoch, index), whichever generator they use.

    While a sample is loaded, the global generators of torch (on the CPU), numpy and ``random`` are seeded for it;
    afterwards they are as they were, but for the second of two Gaussians that ``numpy.random`` keeps for later, which
    is lost. Seeded too is whatever has albumentations' ``set_random_state``, as ``A.Compose`` does, and is found when
    this is made or unpickled: in attributes of the data set and of its class, in lists, tuples and dicts, in a
    ``functools.partial``, in what a function encloses or has as a default, and in what is held by those, however deep:
    data sets and transforms. Then samples depend neither on the number of workers, nor on the order of visits, nor on a
    restart in the middle::

        train_set = SeededDataset(MixupDataset(data, alpha=1.5, transform=augment), seed=0)
        train_set.set_epoch(epoch)  # before each epoch; reaches the mixing, and running workers

    Not covered are an ``A.Compose`` that is a global variable, in a slot, in a set, among more than 100 things in one
    container, or put into place later; other generators of a transform's own (``numpy.random.default_rng()``, a
    ``torch.Generator``); draws on a GPU, and what depends on earlier samples. Some 40 microseconds a sample.
    """

    def __init__(self, dataset: MapDataset, *, seed: int = 0) -> None:
        """Wrap a data set.

        Args:
            dataset: map-style data set; wrap it outside of all that draws.
            seed: of the draws; an integer.

        Raises:
            TypeError: the seed is not an integer.
        """
        super().__init__()
        self.dataset = dataset
        self._depth = depth_within(self) - 1  # this is no mixer, and those around it are to draw as they would without
        self.seed = check_integer("seed", seed)
        self._composes = _composes_within(dataset)
        self._numpy_bits = np.random.MT19937()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The data set's own sample, drawn for this index and epoch."""
        index = check_index(index, len(self))
        generator = generator_at(self.seed, self.epoch, index, _STREAM)
        with self._seeded(generator):
            for compose in self._composes:
                compose.set_random_state(generator, random.Random(random.getrandbits(64)))
            return self.dataset[index]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._composes = _composes_within(self.dataset)  # it may have been built anew

    @contextmanager
    def _seeded(self, generator: np.random.Generator) -> Iterator[None]:
        # numpy's state is 30 microseconds to read or write, the exchange of its source of bits is none
        before = torch.get_rng_state(), random.getstate(), _numpy.get_bit_generator()
        words = generator.bit_generator.random_raw(3).tolist()
        try:
            torch.default_generator.manual_seed(words[0])
            random.seed(words[1])
            _numpy.set_bit_generator(self._numpy_bits)
            np.random.seed(words[2] >> 32)  # it takes 32 bits
            yield
        finally:
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            _numpy.set_bit_generator(before[2])


def _composes_within(dataset: Any) -> list[Any]:
    """All that has a random state of its own, in the data set and in what it holds, however deep, in a fixed order."""
    # what has one hands it on to what it holds
    return list(nearest([dataset], _held_by, lambda held: hasattr(type(held), "set_random_state")))


def _held_by(holder: Any) -> list[Any]:
    if isinstance(holder, _PLAIN):
        return []
    if isinstance(holder, (list, tuple, dict)):
        if len(holder) > MOST_MEMBERS:
            return []
        return list(holder.values() if isinstance(holder, dict) else holder)
    if isinstance(holder, partial):
        return [holder.func, holder.args, holder.keywords]
    if isinstance(holder, MethodType):
        return [holder.__self__, holder.__func__]
    if isinstance(holder, FunctionType):
        return [holder.__closure__, holder.__defaults__, holder.__kwdefaults__]
    if isinstance(holder, CellType):  # of a closure; it may be empty yet
        return gc.get_referents(holder)
    if isinstance(holder, (staticmethod, classmethod)):
        return [holder.__func__]
    if not hasattr(holder, "__dict__"):
        return []
    return [value for names in (holder, *type(holder).__mro__) for value in vars(names).values()]
