"""The optimizer and the schedule of its learning rate: made, and told the settings of a run that goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "multistep", "constant"]


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer over those parameters that are to be trained, as one group.

    Args:
        name: ``sgd`` or ``adamw``.
        parameters: of the model.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: of either.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay)


def lr_factor(
    schedule: Schedule, step: int, steps: float, *, warmup_steps: int = 0, milestones: Sequence[float] = ()
) -> float:
    """The learning rate of a step as a multiple of the one that is set.

    Args:
        schedule: ``cosine`` to zero, ``multistep`` (a tenth at each milestone), or ``constant``.
        step: from 0.
        steps: of the whole training.
        warmup_steps: in which the rate grows from nothing.
        milestones: as shares of all steps.
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    if schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
    if schedule == "multistep":
        return float(warmup * 0.1 ** sum(step >= share * steps for share in milestones))
    return warmup


def check_warm_up(warmup_steps: int, steps: float, factor: Callable[[int], float]) -> None:
    """Say so where the warm-up takes more than a fifth of a training, which then hardly comes to the rate that is set.

    Args:
        warmup_steps: in which the rate grows from nothing.
        steps: of the whole training.
        factor: the learning rate of a step as a multiple of the one that is set.
    """
    if warmup_steps * 5 > steps:
        most = int(steps / 5)
        highest = max(map(factor, range(int(steps))), default=0)
        rank_zero_info(
            f"--model.warmup_steps is {warmup_steps} and the training has {steps:g} steps: its learning rate reaches "
            f"{highest:.3g} of --model.lr at most. Set it to {f'{most} or less' if most else 0}, or train longer."
        )


def change_settings(
    optimizer: torch.optim.Optimizer, scheduler: Any, *, lr: float, momentum: float, weight_decay: float
) -> None:
    """Put settings into an optimizer and its schedule that come from a checkpoint, and say which of them are others.

    Where they are the same, nothing changes, not a bit.

    Args:
        optimizer: of one group of parameters.
        scheduler: torch's ``LambdaLR`` of it; warm-up and schedule are those of this run already.
        lr: learning rate after the warm-up.
        momentum: passed over where the optimizer has none.
        weight_decay: of either.
    """
    for name, value in {"initial_lr": lr, "momentum": momentum, "weight_decay": weight_decay}.items():
        before = optimizer.param_groups[0].get(name, value)
        for group in optimizer.param_groups:
            group.update({name: value} if name in group else {})
        if before != value:
            setting = "lr" if name == "initial_lr" else name
            rank_zero_info(f"--model.{setting} is {value:g} from here on; in the checkpoint it is {before:g}.")
    scheduler.base_lrs = [lr for _ in scheduler.base_lrs]
    for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
        group["lr"] = lr * factor(scheduler.last_epoch)
