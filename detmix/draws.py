"""Random draws that depend on what is drawn for, and on nothing else.

A counter-based generator turns (seed, epoch, index) into its own stream of numbers: the same sample
comes out whatever the number of workers, the order of visits, or a restart in the middle.

Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (Philox).
"""

from __future__ import annotations

import numpy as np

_WORD = (1 << 64) - 1


def generator_at(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that belongs to one sample of one epoch.

    Args:
        seed: any integer; taken modulo 2**64.
        epoch: 0 or more.
        index: 0 or more.

    Returns:
        A numpy generator over Philox with key (seed, epoch) and the index in the counter's highest
        word, so two streams overlap only after 2**192 blocks.
    """
    return np.random.Generator(np.random.Philox(key=(seed & _WORD) | (epoch & _WORD) << 64, counter=index << 192))
