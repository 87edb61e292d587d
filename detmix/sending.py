"""Batches on their way from a data-loading worker to the process that trains.

torch hands each tensor over in a shared-memory file of its own, and opening those files takes time: for the boxes and
labels of a few objects, more than decoding their image. So the images of a batch travel in one piece of shared memory,
and the small tensors of the targets in the message itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from .targets import Target

_MOST = 1 << 14  # bytes of a tensor that is copied into the message
_ALIGNED = 64  # bytes: images begin at multiples of it


def sent_together(images: list[Any], targets: list[Target]) -> tuple[list[Any], list[Target]]:
    """The same batch; in a data-loading worker, as lists that are sent faster and arrive as plain lists of the same."""
    return (images, targets) if get_worker_info() is None else (SentImages(images), SentTargets(targets))


# Nothing in the classes below may fail: they run in a thread of the worker whose errors are printed and lost, while the
# loader waits for the batch. What they do not know goes as it is.


class SentImages(list[Any]):
    """A list of images whose tensors arrive in another process in one piece of shared memory.

    They arrive with the strides they had, without gaps. Whoever keeps one of them keeps the memory of all.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        places, size = [], 0
        for image in self:
            places.append(_place_at(size, image) if _is_plain(image) and image.nbytes else None)
            size += 0 if places[-1] is None else -(-image.nbytes // _ALIGNED) * _ALIGNED
        if not size:
            return list, (list(self),)
        memory = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
        for image, place in zip(self, places, strict=True):
            if place is not None:
                _view(memory, place).copy_(image)
        return _unpack_images, (memory, [place or image for image, place in zip(self, places, strict=True)])


class SentTargets(list[Target]):
    """A list of targets whose small tensors arrive in another process by value; what is no plain dict goes as it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack_targets, ([_pack(target) if type(target) is dict else target for target in self],)


class _Place(NamedTuple):
    """Where an image lies in the memory of its batch, and how."""

    offset: int  # bytes
    size: int  # bytes
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements


def _place_at(offset: int, image: Tensor) -> _Place:
    dense = torch.empty_like(image, device="meta").stride()  # the same order of the dimensions in memory
    return _Place(offset, image.nbytes, image.dtype, tuple(image.shape), dense)


def _view(memory: Tensor, place: _Place) -> Tensor:
    return memory.narrow(0, place.offset, place.size).view(place.dtype).as_strided(place.shape, place.stride)


def _unpack_images(memory: Tensor, sent: Sequence[Any]) -> list[Any]:
    return [_view(memory, one) if isinstance(one, _Place) else one for one in sent]


class _Packed(NamedTuple):
    """The keys in their order, the small tensors as arrays, which are pickled by value, and the rest."""

    keys: list[str]
    small: dict[str, NDArray[Any]]
    rest: dict[str, Any]


def _pack(target: Target) -> _Packed:
    # copies: memory that is shared with a large tensor is given back when that one is sent, before these are written
    small = {key: value.numpy().copy() for key, value in target.items() if _is_plain(value) and value.nbytes <= _MOST}
    return _Packed(list(target), small, {key: value for key, value in target.items() if key not in small})


def _unpack_targets(sent: Sequence[Any]) -> list[Any]:
    return [_target(one) if isinstance(one, _Packed) else one for one in sent]


def _target(packed: _Packed) -> Target:
    keys, small, rest = packed
    return {key: torch.from_numpy(small[key]) if key in small else rest[key] for key in keys}


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of which numpy has a view."""
    plain = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
    return plain and not value.requires_grad and not value.is_neg() and value.dtype in _DTYPES


_DTYPES = {torch.from_numpy(np.empty(0, kind)).dtype for kind in "?bBhilefd"}  # those that numpy has too
