"""Targets on their way from a data-loading worker to the process that trains: small tensors travel in one message.

torch hands each tensor over in a shared-memory file of its own. For an image that is what is wanted; for the boxes and
labels of a few objects, opening all those files takes longer than decoding the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from .targets import Target

_MOST = 1 << 14  # bytes of a tensor that is copied into the message


def in_one_message(targets: list[Target]) -> list[Target]:
    """The same targets; in a data-loading worker, as a list that is sent in one message."""
    return targets if get_worker_info() is None else SentTogether(targets)


class SentTogether(list[Target]):
    """A list of targets that arrives in another process as a plain list of the same."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, ([_pack(target) for target in self],)


_Packed = tuple[list[str], dict[str, NDArray[Any]], dict[str, Any]]


def _pack(target: Target) -> _Packed:
    """The keys in their order, the small tensors as arrays, which are pickled by value, and the rest."""
    small = {key: value.numpy() for key, value in target.items() if _is_small(value)}
    return list(target), small, {key: value for key, value in target.items() if key not in small}


def _unpack(packed: Sequence[_Packed]) -> list[Target]:
    return [
        {key: torch.from_numpy(small[key]) if key in small else rest[key] for key in keys}
        for keys, small, rest in packed
    ]


def _is_small(value: Any) -> bool:
    plain = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
    return plain and not value.requires_grad and value.dtype in _DTYPES and value.nbytes <= _MOST


_DTYPES = {torch.from_numpy(np.empty(0, kind)).dtype for kind in "?bBhilefd"}  # those that numpy has too
