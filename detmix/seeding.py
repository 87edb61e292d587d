"""Seeds for each sample: what transforms draw becomes a function of (seed, epoch, index) too."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .dataset import MapDataset, Sample
from .draws import AUGMENTATION, generator_at
from .switch import Switched

_STREAM = AUGMENTATION + 1
_numpy: Any = np.random  # its stubs do not know that bit generators can be exchanged


class SeededDataset(Switched, Dataset[Sample]):
    """Makes the random transforms within a data set draw by (seed, epoch, index), whichever generator they use.

    While a sample is loaded, the global generators of torch (on the CPU), numpy and ``random`` are seeded for it;
    afterwards they are as they were. So is every ``transform`` of the wrapped data sets that keeps generators of its
    own and has albumentations' ``set_random_state``, as ``A.Compose`` does. Then samples depend neither on the number
    of workers, nor on the order of visits, nor on a restart in the middle::

        train_set = SeededDataset(MixupDataset(data, alpha=1.5, transform=augment), seed=0)
        train_set.set_epoch(epoch)  # before each epoch; reaches the mixing, and running workers

    Not covered are generators that a transform hides elsewhere, draws on a GPU, and what depends on earlier samples.
    Some 40 microseconds a sample.
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
        self.seed = operator.index(seed)
        self._composes = _composes_within(dataset)
        self._numpy_bits = np.random.MT19937()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The data set's own sample, drawn for this index and epoch."""
        index = range(len(self))[index]
        generator = generator_at(self.seed, self.epoch, index, _STREAM)
        with self._seeded(generator):
            for compose in self._composes:
                compose.set_random_state(generator, random.Random(random.getrandbits(64)))
            return self.dataset[index]

    @property
    def _depth(self) -> int:
        return super()._depth - 1  # this is no mixer, and those around it are to draw as they would without

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
    """The transforms with a random state of their own, along the data sets that wrap each other."""
    several = getattr(dataset, "datasets", None)
    wrapped = [getattr(dataset, "dataset", None), *(several if isinstance(several, (list, tuple)) else ())]
    own = [t for t in (getattr(dataset, "transform", None),) if hasattr(t, "set_random_state")]
    return own + [compose for inner in wrapped if inner is not None for compose in _composes_within(inner)]
