"""The state of the global random generators, from which a model draws: samplers of rows, dropout."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the global generators of torch, numpy and ``random``.

    Args:
        device: where the model is; on a GPU its generator is included.

    Returns:
        Tensors and plain values, which ``torch.load`` reads with ``weights_only=True``.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "random": random.getstate(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on drawing where ``random_state`` was taken.

    Args:
        state: what it returned.
        device: where the model is.
    """
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["random"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def require_random_state(state: Any) -> None:
    """Refuse what ``set_random_state`` would not take, by setting generators of its own.

    Raises:
        ValueError: it is no such state.
    """
    try:
        torch.Generator().set_state(state["torch"])
        np.random.RandomState().set_state(state["numpy"])
        random.Random().setstate(state["random"])
        place, on_gpu = state["numpy"][2], state.get("cuda", state["torch"])
    except Exception as error:  # each raises what it likes
        raise ValueError(f"it holds no state of the random generators: {error}") from error
    if not isinstance(on_gpu, torch.Tensor):
        raise ValueError("it holds no state of the random generators: that of the GPU is no tensor")
    if not 0 <= place <= 624:  # numpy would read beyond its numbers
        raise ValueError(f"it holds no state of the random generators: numpy's is at {place} of 624")
