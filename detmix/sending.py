"""Batches on their way from a data-loading worker to the process that trains.

torch hands each tensor over in a shared-memory file of its own, and opening those files takes time: for the boxes and
labels of a few objects, more than decoding their image. So the images of a batch travel in one file in memory, the
large tensors of its targets, such as masks, in another, and the small ones in the message itself.

The files are written and not mapped here: a copy into a new mapping takes twice as long, since each of its pages costs
a page fault. They have no names and do not lie in /dev/shm, which is small in many containers.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedWriter
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import get_worker_info

from .targets import Target

_MOST = 1 << 14  # bytes of a tensor that is copied into the message
_ALIGNED = 64  # bytes: images begin at multiples of it


def sent_together(images: list[Any], targets: list[Target]) -> tuple[list[Any], list[Target]]:
    """The same batch; in a data-loading worker, as lists that are sent faster and arrive as plain lists of the same."""
    return (images, targets) if get_worker_info() is None else (SentTensors(images), SentTargets(targets))


# Nothing in what sends may fail: it runs in a thread of the worker whose errors are printed and lost, while the loader
# waits for the batch. What it does not know goes as it is. It is for messages alone, not for pickles that are kept.


class SentTensors(list[Any]):
    """A list whose tensors arrive in another process in one piece of shared memory.

    They arrive with the strides they had, without gaps. Whoever keeps one of them keeps the memory of all. Where the
    system has no such files, or torch is set to share by names instead of open files, they go as torch sends them.
    What is no plain tensor goes as it is.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def _send_tensors(tensors: SentTensors) -> tuple[Any, ...]:
    values = [value.resolve_neg() if _is_plain(value) else value for value in tensors]  # torch would lose the sign
    if any(map(_goes_into_file, values)) and _sends_files():
        with suppress(OSError):  # no memory or too many open files
            return _unpack, _written(values)
    return list, (values,)


class SentTargets(list[Target]):
    """A list of targets whose small tensors arrive in another process by value; what is no plain dict goes as it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def _send_targets(targets: SentTargets) -> tuple[Any, ...]:
    packed = [_pack(target) if type(target) is dict else target for target in targets]
    dicts = [(target, sent.small) for target, sent in zip(targets, packed, strict=True) if isinstance(sent, _Packed)]
    rest = [value for target, small in dicts for key, value in target.items() if key not in small]
    return _unpack_targets, (packed, SentTensors(rest))


reduction.ForkingPickler.register(SentTensors, _send_tensors)
reduction.ForkingPickler.register(SentTargets, _send_targets)


class _Place(NamedTuple):
    """Where a tensor lies in the memory of its batch, and how."""

    offset: int  # bytes
    size: int  # bytes
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements


def _sends_files() -> bool:
    return hasattr(os, "memfd_create") and get_sharing_strategy() == "file_descriptor"


def _goes_into_file(value: Any) -> bool:
    return _is_plain(value) and value.nbytes > 0


def _written(values: Sequence[Any]) -> tuple[Any, list[Any]]:
    """A file that holds the tensors, as multiprocessing sends one; and their places in it, other values as they are."""
    with open(os.memfd_create("batch"), "wb") as file:
        sent = [_write(file, value) if _goes_into_file(value) else value for value in values]
        file.flush()
        return reduction.DupFd(file.fileno()), sent


def _write(file: BufferedWriter, tensor: Tensor) -> _Place:
    stride = torch.empty_like(tensor, device="meta").stride()  # without gaps, the dimensions in the same order
    dense = tensor if tensor.stride() == stride else tensor.clone()
    place = _Place(-(-file.tell() // _ALIGNED) * _ALIGNED, tensor.nbytes, tensor.dtype, tuple(tensor.shape), stride)
    file.seek(place.offset)
    file.write(dense.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data)
    return place


def _unpack(file: Any, sent: Sequence[Any]) -> list[Any]:
    with open(file.detach(), "r+b") as opened:
        memory = torch.frombuffer(mmap.mmap(opened.fileno(), 0), dtype=torch.uint8)
    return [_view(memory, one) if isinstance(one, _Place) else one for one in sent]


def _view(memory: Tensor, place: _Place) -> Tensor:
    return memory.narrow(0, place.offset, place.size).view(place.dtype).as_strided(place.shape, place.stride)


class _Packed(NamedTuple):
    """The keys of a target in their order, and its small tensors as arrays, which are pickled by value."""

    keys: list[str]
    small: dict[str, NDArray[Any]]


def _pack(target: Target) -> _Packed:
    # copies: memory that is shared with a large tensor is given back when that one is sent, before these are written
    small = {key: value for key, value in target.items() if _is_plain(value) and value.nbytes <= _MOST}
    return _Packed(list(target), {key: value.resolve_neg().numpy().copy() for key, value in small.items()})


def _unpack_targets(packed: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
    values = iter(rest)
    return [_target(one, values) if isinstance(one, _Packed) else one for one in packed]


def _target(packed: _Packed, rest: Iterator[Any]) -> Target:
    return {key: torch.from_numpy(packed.small[key]) if key in packed.small else next(rest) for key in packed.keys}


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of which numpy has a view, once its sign is resolved."""
    plain = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
    return plain and not value.requires_grad and value.dtype in _DTYPES


_DTYPES = {torch.from_numpy(np.empty(0, kind)).dtype for kind in "?bBhilefd"}  # those that numpy has too
