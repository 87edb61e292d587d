"""Memory that processes share: what one of them writes, those that already run see."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Shared:
    """A tensor in shared memory. A copy of it, or what is read from a pickle, has shared memory of its own.

    Attributes:
        values: the tensor, to be written to in place.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.values = state["values"].share_memory_()  # an ordinary copy or unpickling gives private memory
