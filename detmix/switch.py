"""What everything that mixes shares: a switch that running workers see, and which process this is."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import distributed


class Switched:
    """The epoch that draws belong to, and an on-off switch: worker processes that already run see both change."""

    def __init__(self) -> None:
        self._shared = torch.tensor([0, 1]).share_memory_()  # epoch, enabled

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the draws belong to, here and in running workers."""
        self._shared[0] = epoch

    def enable(self, flag: bool = True) -> None:
        """Switch mixing on or off, here and in running workers."""
        self._shared[1] = int(flag)

    @property
    def epoch(self) -> int:
        """The epoch that the draws belong to."""
        return int(self._shared[0])

    @property
    def enabled(self) -> bool:
        """Whether samples are mixed."""
        return bool(self._shared[1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # an ordinary copy or unpickling gives private memory


class Reader(NamedTuple):
    """One of those who share the data: its number, and how many there are."""

    number: int
    total: int


ALONE = Reader(0, 1)


def this_process(otherwise: Reader = ALONE) -> Reader:
    """Rank and world size of ``torch.distributed``; ``otherwise`` where no process group is set up."""
    if distributed.is_available() and distributed.is_initialized():
        return Reader(distributed.get_rank(), distributed.get_world_size())
    return otherwise
