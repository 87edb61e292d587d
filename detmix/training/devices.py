"""On which devices and in which precision a run may compute."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

_PRECISIONS = ("32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16")


def require_precision(precision: Any) -> None:
    """Refuse weights other than float32.

    Raises:
        ValueError: the precision makes them so.
    """
    if isinstance(precision, (str, int)) and str(precision) not in _PRECISIONS:
        raise ValueError(
            f"trainer.precision must be one of {', '.join(_PRECISIONS)}, which leave weights and boxes in float32, "
            f"got {precision!r}"
        )


def require_gpu(accelerator: Any) -> None:
    """Refuse to use a GPU where there is none.

    Raises:
        ValueError: one is asked for.
    """
    found = {"cuda": torch.cuda.is_available(), "gpu": torch.cuda.is_available() or torch.backends.mps.is_available()}
    if isinstance(accelerator, str) and not found.get(accelerator, True):
        raise ValueError(
            f"trainer.accelerator is {accelerator}, and torch finds none: --trainer.accelerator cpu does without one"
        )


def require_all_processes(trainer: Trainer) -> None:
    """Refuse a trainer that expects other processes than ``torchrun`` has started: each might train for itself.

    Raises:
        ValueError: it does; what to pass is told.
    """
    if not TorchElasticEnvironment.detect():
        return
    started, expected = TorchElasticEnvironment().world_size(), trainer.num_devices * trainer.num_nodes
    if started != expected:
        on_each = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = "" if started == on_each else f" --trainer.num_nodes {started // on_each}"
        raise ValueError(
            f"the number of processes that torchrun has started is {started}, and the trainer expects {expected}: "
            f"pass --trainer.devices {on_each}{nodes} --trainer.strategy ddp"
        )


def best_precision(accelerator: str | None) -> str:
    """The precision that a run takes unless it says which: bf16 on a GPU that computes in it, else float32.

    Args:
        accelerator: as the trainer is told.
    """
    chosen = accelerator in (None, "auto", "gpu", "cuda")
    has_bf16 = chosen and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "32-true"
