"""Who reads the data: which of the data-loading workers of which process this is."""

from __future__ import annotations

from typing import NamedTuple

from torch import distributed
from torch.utils.data import get_worker_info


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


def this_reader(process: Reader = ALONE) -> Reader:
    """This data-loader worker among those of all ranks, or this rank where there are no workers.

    The first workers of all ranks come before the second ones, so that every n-th sample for each of the n readers is
    as many for each rank, but for one.

    Args:
        process: rank and world size where no process group is set up, as in a worker that was spawned.
    """
    rank, processes = this_process(process)
    worker = get_worker_info()
    if worker is None:
        return Reader(rank, processes)
    return Reader(worker.id * processes + rank, processes * worker.num_workers)
