"""What data sets tell of their samples without reading an image: labels, and the sizes of images.

A data set tells it by a method of its own; torch's ``Subset`` and ``ConcatDataset`` ask those they hold.

Letters: I images, M objects of all images.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Subset

from .arguments import check_number

_LABELS = ("labels_of", "the (N,) integer labels of a sample")
_SIZES = ("get_height_and_width", "the height and width of one, in pixels,")


def read_labels(dataset: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All labels of a data set, (M,), and how many each sample has, (I,): what its ``labels_of(index)`` gives.

    Raises:
        TypeError: it has no such method, or that gives something else than (N,) integers.
    """
    labels_of = _asking(dataset, *_LABELS)
    labels, counts = array("q"), np.zeros(len(dataset), np.int64)
    for index in range(len(dataset)):
        found = np.asarray(labels_of(index))
        if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
            raise TypeError(f"labels_of({index}) must give (N,) integers, got {found.dtype} of shape {found.shape}")
        labels.extend(found.tolist())
        counts[index] = len(found)
    return np.frombuffer(labels, np.int64) if labels else np.zeros(0, np.int64), counts


def read_landscape(dataset: Any) -> NDArray[np.bool_]:
    """Whether each image is wider than it is high, (I,), by what its ``get_height_and_width(index)`` gives.

    The method is that of torchvision's reference scripts: (height, width) of an image in pixels.

    Raises:
        TypeError: the data set has no such method, or that gives something else than two numbers.
    """
    size_of = _asking(dataset, *_SIZES)
    landscape = np.zeros(len(dataset), np.bool_)
    for index in range(len(dataset)):
        size = size_of(index)
        try:
            height, width = (check_number("a side", side) for side in size)
        except (TypeError, ValueError):
            raise TypeError(f"get_height_and_width({index}) must give two numbers, got {size!r}") from None
        landscape[index] = width > height
    return landscape


def _asking(dataset: Any, method: str, returned: str) -> Callable[[int], Any]:
    """The method of a data set that tells something of a sample.

    Raises:
        TypeError: neither it has one, nor what it holds.
    """
    if callable(getattr(dataset, method, None)):
        return getattr(dataset, method)
    if isinstance(dataset, Subset):
        inner, indices = _asking(dataset.dataset, method, returned), dataset.indices
        return lambda index: inner(indices[index])
    if isinstance(dataset, ConcatDataset):
        return _in_turn(dataset, [_asking(part, method, returned) for part in dataset.datasets])
    raise TypeError(
        f"{type(dataset).__name__} needs a method {method}(index) that returns {returned} without reading the image. "
        "Or pass partner='any'"
    )


def _in_turn(dataset: ConcatDataset[Any], readers: list[Callable[[int], Any]]) -> Callable[[int], Any]:
    """What asks the part that a sample lies in."""
    starts = [0, *dataset.cumulative_sizes]

    def ask(index: int) -> Any:
        index = range(starts[-1])[index]  # a Subset may count from the end
        number = bisect_right(starts, index) - 1
        return readers[number](index - starts[number])

    return ask
