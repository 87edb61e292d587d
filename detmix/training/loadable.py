"""Whether a checkpoint holds what a run would load from it, asked before anything is written.

Lightning looks at each part only when it loads it, and says then what Python says.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from packaging.version import Version
from torch import Tensor, nn

from .checkpoints import first_line, require_same_tensors
from .random_state import require_random_state

# what LastCheckpoint adds
_ORDER = {"seed": 0, "images": 1, "batch size": 1, "processes": 1}
_PLACE: dict[str, Any] = {"epoch": 0, "batches": 0, "order": _ORDER, "threads": 1, "random": []}
_PACKAGE = __name__.partition(".")[0] + "."
_OF_A_SCHEDULE = ("base_lrs", "last_epoch", "_step_count", "_last_lr", "lr_lambdas")
_OF_EACH_PARAMETER = {"SGD": {"momentum_buffer"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}}


def require_loadable(checkpoint: dict[str, Any], path: Path, trainer: Any, module: nn.Module) -> None:
    """Refuse a checkpoint that would not load into a model or into the callbacks.

    Args:
        checkpoint: as ``read_checkpoint`` gives it.
        path: where it comes from, for the message.
        trainer: with the callbacks of the run.
        module: the model; it is not changed.

    Raises:
        ValueError: a part is missing or of another kind; it is named.
    """
    with _naming(path):
        Version(checkpoint.get("pytorch-lightning_version", ""))
        states = _dict_in(checkpoint, "callbacks", {})
        for callback in trainer.callbacks:
            if callback.state_key in states:
                # what others keep, and when they can tell it, is their own affair
                own = callback.state_dict() if type(callback).__module__.startswith(_PACKAGE) else {}
                _require_like(own, states[callback.state_key], f"callbacks.{callback.state_key}")
        for name in ("loops", "MixedPrecision"):
            _dict_in(checkpoint, name, {})
    if "averaging_state" in checkpoint or "current_model_state" in checkpoint:  # of Lightning's averages of weights
        with _naming(path):
            _require_like({"n_averaged": 0.0}, _dict_in(checkpoint, "averaging_state"), "averaging_state", exactly=True)
            _dict_in(checkpoint, "current_model_state")
        require_same_tensors(path, checkpoint["current_model_state"], module)


def require_resumable(
    checkpoint: dict[str, Any], path: Path, trainer: L.Trainer, optimizer: torch.optim.Optimizer | None
) -> None:
    """Refuse a checkpoint from which no training can go on, such as one of weights alone.

    Args:
        checkpoint: as ``read_checkpoint`` gives it.
        path: where it comes from, for the message.
        trainer: that of the run; it is not changed.
        optimizer: one as the run's, to be tried and thrown away; None if it cannot be known before the run begins.

    Raises:
        ValueError: a part is missing or of another kind, or the checkpoint is of more epochs than the run is to have;
            what it is is named.
    """
    with _naming(path):
        _require_loops(_dict_in(checkpoint, "loops"), trainer)
        for name in ("optimizer_states", "lr_schedulers"):
            _require_like([] if optimizer is None else [{}], checkpoint.get(name), name, exactly=True)
        if optimizer is not None:
            _require_optimizer(checkpoint["optimizer_states"][0], checkpoint["lr_schedulers"][0], optimizer)
        place = checkpoint.get("detmix")
        if place is not None:
            _require_place(place)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # parts are tried, and what is in them makes torch raise almost anything
        raise ValueError(f"{path}: no checkpoint to go on from: {first_line(error)}") from error


def _require_loops(loops: dict[str, Any], trainer: Any) -> None:
    given = _dict_in(loops, "fit_loop")
    own = trainer.fit_loop.state_dict()
    _require_like({name: state for name, state in own.items() if name in given}, given, "loops")
    epochs = given.get("epoch_progress", own["epoch_progress"])["current"]["processed"]
    more = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)  # for batch norm
    if trainer.max_epochs not in (None, -1) and epochs > trainer.max_epochs + more:
        raise ValueError(f"it has {epochs} epochs behind it, and --trainer.max_epochs is {trainer.max_epochs}")


def _require_place(place: Any) -> None:
    _require_like(_PLACE, place, "detmix")
    if not place.keys() <= {*_PLACE, "ended_early"}:
        raise ValueError("detmix has parts that no run adds")
    order = place["order"]
    images = -(-order["images"] // order["processes"])  # of each process
    if place["batches"] * order["batch size"] >= images:
        raise ValueError(f"detmix has as many batches behind it as an epoch of {images} images has, or more")
    if place.get("ended_early"):
        _require_like([0.0, 0.0], place["ended_early"], "detmix.ended_early")
    for state in place["random"]:
        require_random_state(state)


def _require_optimizer(state: dict[str, Any], schedule: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Load both into an optimizer, and take a step with it; the parameters stay as they are."""
    for key in ("state", "param_groups"):
        if key not in state:
            raise ValueError(f"optimizer_states has no {key}")
    own = [{name: float(v) if type(v) is int else v for name, v in group.items()} for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 + min(0, step))
    _require_like({name: scheduler.state_dict()[name] for name in _OF_A_SCHEDULE}, schedule, "lr_schedulers")
    if any(name == "optimizer" or callable(getattr(type(scheduler), name, None)) for name in schedule):
        raise ValueError("lr_schedulers would take the place of what torch's schedule does")
    optimizer.load_state_dict(copy.deepcopy(state))
    scheduler.load_state_dict(schedule)
    _require_like(own, optimizer.param_groups, "param_groups")
    for parameter, values in optimizer.state.items():
        _require_state_of(parameter, values, type(optimizer).__name__)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        _try_step(optimizer, parameter)
    scheduler.step()


def _try_step(optimizer: torch.optim.Optimizer, parameter: Tensor) -> None:
    """Take a step of one parameter, and take it back: numbers that torch cannot compute with make it raise."""
    before = parameter.detach().clone()
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
    finally:
        parameter.grad = None
        parameter.detach().copy_(before)


def _require_state_of(parameter: Tensor, values: dict[str, Any], kind: str) -> None:
    if values and values.keys() != _OF_EACH_PARAMETER[kind]:
        raise ValueError(f"optimizer_states has not what {kind} keeps of each parameter")
    for name, value in values.items():
        shape = torch.Size() if name == "step" else parameter.shape
        unused = value is None and name == "momentum_buffer"
        if not unused and not (isinstance(value, Tensor) and value.shape == shape):
            raise ValueError(f"{name} in optimizer_states is no tensor of shape {tuple(shape)}")


def _dict_in(content: Mapping[str, Any], name: str, default: Any = None) -> dict[str, Any]:
    given = content.get(name, default)
    if not isinstance(given, dict):
        raise ValueError(f"it has no {name}" if given is None else f"{name} is no dict")
    return given


def _require_like(wanted: Any, given: Any, name: str, *, exactly: bool = False) -> None:
    """Compare two nests: the same keys at least, numbers where numbers are; None stands for anything.

    A whole number is to be 0 or more, or 1 or more where the one wanted is.

    Raises:
        ValueError: they differ; the place is named.
    """
    if not _like(wanted, given):
        raise ValueError(f"{name} is not as such a run has it")
    if isinstance(wanted, dict):
        if not wanted.keys() <= given.keys() or (exactly and wanted.keys() != given.keys()):
            raise ValueError(f"{name} has not the parts of such a run: {', '.join(map(str, wanted))}")
        for key, value in wanted.items():
            _require_like(value, given[key], f"{name}.{key}")
    elif isinstance(wanted, (list, tuple)) and wanted:
        if len(wanted) != len(given):
            raise ValueError(f"{name} has {len(given)} parts in place of {len(wanted)}")
        for one, other in zip(wanted, given, strict=True):
            _require_like(one, other, name)


def _like(wanted: Any, given: Any) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, Tensor):
        return _like(0.0, given) if wanted.dim() == 0 else isinstance(given, Tensor) and given.shape == wanted.shape
    for kind in (bool, str, dict):
        if isinstance(wanted, kind):
            return isinstance(given, kind)
    if isinstance(wanted, int):
        return isinstance(given, int) and not isinstance(given, bool) and given >= min(1, wanted)
    if isinstance(wanted, float):
        number = isinstance(given, (int, float)) and not isinstance(given, bool)
        return number or (isinstance(given, Tensor) and given.dim() == 0)
    return isinstance(given, (list, tuple)) if isinstance(wanted, (list, tuple)) else True
