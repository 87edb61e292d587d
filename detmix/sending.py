"""Targets on their way from a data-loading worker to the process that trains: small tensors travel in one message.

torch hands each tensor over in a shared-memory file of its own. For an image that is what is wanted; for the boxes and
labels of a few objects, opening all those files takes longer than decoding the image.
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


def in_one_message(targets: list[Target]) -> list[Target]:
    """The same targets; in a data-loading worker, as a list that is sent in one message."""
    return targets if get_worker_info() is None else SentTogether(targets)


class SentTogether(list[Target]):
    """A list of targets that arrives in another process as a plain list of the same.

    What is no plain dict goes as it is. Nothing here may fail: it runs in a thread of the worker whose errors are
    printed and lost, while the loader waits for the batch.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, ([_pack(target) if type(target) is dict else target for target in self],)


class _Packed(NamedTuple):
    """The keys in their order, the small tensors as arrays, which are pickled by value, and the rest."""

    keys: list[str]
    small: dict[str, NDArray[Any]]
    rest: dict[str, Any]


def _pack(target: Target) -> _Packed:
    small = {key: value.numpy() for key, value in target.items() if _is_small(value)}
    return _Packed(list(target), small, {key: value for key, value in target.items() if key not in small})


def _unpack(sent: Sequence[Any]) -> list[Any]:
    return [_target(one) if isinstance(one, _Packed) else one for one in sent]


def _target(packed: _Packed) -> Target:
    keys, small, rest = packed
    return {key: torch.from_numpy(small[key]) if key in small else rest[key] for key in keys}


def _is_small(value: Any) -> bool:
    plain = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
    own = plain and not value.requires_grad and not value.is_neg()  # numpy has no view of such a tensor
    return own and value.dtype in _DTYPES and value.nbytes <= _MOST


_DTYPES = {torch.from_numpy(np.empty(0, kind)).dtype for kind in "?bBhilefd"}  # those that numpy has too
