"""The order in which a training visits its samples, from any batch on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, DistributedSampler

_APART = 1_000_003  # of the seeds: torch shuffles by seed + epoch, and one seed's orders are to be none of another's


class TrainingOrder(DistributedSampler[int]):
    """The shuffled samples of one process in an epoch: a function of (seed, epoch, process).

    torch's own sampler for several processes, and for one as well. ``skip`` leaves out what was visited before an
    interruption.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        processes: int = 1,
        rank: int = 0,
        seed: int = 0,
        batch_size: int = 1,
        landscape: NDArray[np.bool_] | None = None,
    ) -> None:
        """Describe the order.

        Args:
            dataset: what is visited; only its length matters.
            processes: how many share it; the last round is filled up from the beginning, so that all have as many.
            rank: which of them this is.
            seed: of the order.
            batch_size: samples of this process that make a batch, one after the other.
            landscape: (I,), which of the I samples are wider than high; given, they share batches with each other
                alone, as by ``in_like_batches``.
        """
        # torch's signature asks for a Dataset, and takes nothing but its length
        super().__init__(dataset, num_replicas=processes, rank=rank, shuffle=True, seed=seed * _APART)  # type: ignore[arg-type]
        self._batch_size, self._landscape = batch_size, landscape
        self._visited = (0, 0)  # epoch, samples of this process

    def skip(self, epoch: int, samples: int) -> None:
        """Begin an epoch, and no other, after so many samples of this process."""
        self._visited = (epoch, samples)

    def __iter__(self) -> Iterator[int]:
        epoch, samples = self._visited
        order = list(super().__iter__())
        if self._landscape is not None:
            over = len(order) % self._batch_size == 1  # it may be left out, and so is to be any sample
            whole = order[: len(order) - over]
            order = [*in_like_batches(whole, self._landscape, self._batch_size), *order[len(whole) :]]
        return iter(order[samples:] if epoch == self.epoch else order)


def in_like_batches(order: Sequence[int], landscape: NDArray[np.bool_], batch_size: int) -> list[int]:
    """Samples in such an order that batches are of one orientation, and are padded to no larger a canvas than that.

    A batch comes when its last sample does, so if all samples are alike they stay in order. What fills no batch comes
    last: there one batch at most has both, and the last one may be smaller.

    Args:
        order: samples, each once or more.
        landscape: (I,), which of the I samples are wider than high.
        batch_size: samples that make a batch, one after the other.

    Source: ``GroupedBatchSampler`` of torchvision's references/detection/group_by_aspect_ratio.py, and the two groups
    of detectron2's ``AspectRatioGroupedDataset``.
    """
    batches: list[int] = []
    waiting: dict[bool, list[int]] = {False: [], True: []}
    for index in order:
        batch = waiting[bool(landscape[index])]
        batch.append(index)
        if len(batch) == batch_size:
            batches += batch
            batch.clear()
    return [*batches, *waiting[False], *waiting[True]]


class TrainingLoader(DataLoader[Any]):
    """A data loader that takes nothing before it is asked for a batch: by then the epoch is known."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises its own class of iterators
        """The batches.

        Raises:
            RuntimeError: a worker has ended, as by the system for want of memory.
        """
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError) as error:
            if self.num_workers == 0 or str(error).startswith("Caught "):  # raised by the data set
                raise
            time.sleep(1)  # torch's own error, which names the worker and the signal, may come in this second
            raise RuntimeError("a DataLoader worker was ended, as by a signal, while it sent a batch") from error
