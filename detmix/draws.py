"""Random draws that depend on what is drawn for, and on nothing else.

A counter-based generator turns (seed, epoch, index) into its own stream of numbers: the same sample
comes out whatever the number of workers, the order of visits, or a restart in the middle.

Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (Philox).
"""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np
from numpy.random.bit_generator import ISeedSequence

# What draws are for. Two purposes with one seed are so kept from drawing the same numbers.
MIXING = 0  # plus the depth of nesting
SCENES = 1 << 32
AUGMENTATION = 2 << 32  # plus 1 for the seeds of samples
BATCHES = 3 << 32  # plus 1 in the collate function
STREAMS = 4 << 32  # plus the depth of nesting
MANIFOLD = 5 << 32  # plus 1 for the partners
ANALYSIS = 6 << 32  # plus 1 for the choice of objects
SHARDS = 8 << 32

_WORD = (1 << 64) - 1


class _Key(ISeedSequence):
    """A key as it is. Without a seed sequence numpy first asks the system for one, which takes longer than all else."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """The words of the key, whatever is asked for."""
        return self._words


def generator_at(seed: SupportsIndex, epoch: SupportsIndex, index: SupportsIndex, stream: int) -> np.random.Generator:
    """The generator that belongs to one sample of one epoch.

    Args:
        seed: any integer, Python's or numpy's; taken modulo 2**64.
        epoch: 0 or more.
        index: as the seed; ids of images may be negative.
        stream: what the draws are for: one of the constants of this module, plus what its comment says.

    Returns:
        A numpy generator over Philox with key (seed, epoch) and (index, stream) in the counter's upper
        words, so two streams overlap only after 2**128 blocks.

    Raises:
        TypeError: a number is not an integer.
    """
    # numpy's integers would overflow below
    seed, epoch, index = (operator.index(number) for number in (seed, epoch, index))
    key = _Key(np.array([seed & _WORD, epoch & _WORD], np.uint64))
    counter = np.array([0, 0, stream, index & _WORD], np.uint64)
    return np.random.Generator(np.random.Philox(key, counter=counter))  # type: ignore[arg-type]  # numpy's stub is narrow
