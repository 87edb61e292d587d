"""The checkpoint from which a run goes on as if it had never been interrupted."""

from __future__ import annotations

import math
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Checkpoint,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.utilities import rank_zero_warn

from .callbacks import callbacks_of, is_last_epoch
from .data import data_of
from .faults import advice
from .random_state import random_state, set_random_state
from .signals import Stopped, StopRequests

_KEY = "detmix"  # of what is added to Lightning's checkpoint
_WAITING = (GradientAccumulationScheduler,)
_WAITING_WITHIN_EPOCH = (GradientAccumulationScheduler, StochasticWeightAveraging)


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which a run goes on bit for bit, on a CPU; and writes it when the run is to stop.

    It is written every n steps, at the end of each epoch, before the step that a validation follows, and on SIGINT and
    SIGTERM. To Lightning's checkpoint it adds the place in the epoch, the states of the random generators of all
    processes, and whether the run has ended early. A new one takes the place of the old one when the rows that were
    logged up to it are on disk too; that of the last epoch, when all other files of the run are.
    """

    def __init__(self, folder: Path, *, every_n_steps: int, command: str, requests: StopRequests) -> None:
        """Say where and how often.

        Args:
            folder: of the checkpoints.
            every_n_steps: steps of the optimizer from one to the next within an epoch; 1 or more, as the command line
                sees to.
            command: goes on from the checkpoint, to be shown when the run ends early.
            requests: tell when the run is to stop; whoever made them gives the signals back.
        """
        self.path = folder / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.command = command
        self._next = folder / "next.ckpt"
        self._written: int | None = None  # the step of the one that waits to take its place
        self._step: int | None = None  # that of the one in place
        self._requests = requests
        self._stopping = False
        self._trained = False
        self._ended_early = False
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the place in the epoch and the random states."""
        states = [random_state(trainer.strategy.root_device)]
        if trainer.world_size > 1:
            states = [{}] * trainer.world_size
            torch.distributed.all_gather_object(states, random_state(trainer.strategy.root_device))
        batches = trainer.fit_loop.batch_idx + 1
        checkpoint[_KEY] = {
            "epoch": trainer.current_epoch,
            "batches": batches if batches < trainer.num_training_batches else 0,
            "order": data_of(trainer).order(),
            "threads": torch.get_num_threads(),
            "random": states,
            "ended_early": _limits(trainer) if self._ended_early else None,
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take out what was added; a run that had ended early, and may do no more now than then, is to stop at once."""
        self._restored = checkpoint.get(_KEY)
        self._step = checkpoint["global_step"] if self.path.exists() else None  # it may be that of another run
        limits = self._restored and self._restored.pop("ended_early", None)
        if limits and all(now <= then for now, then in zip(_limits(trainer), limits, strict=True)):
            self._ended_early = trainer.should_stop = True

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to signals: see ``_listen``."""
        self._listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on in the epoch and in the random states; stop if asked to by now.

        Raises:
            RuntimeError: processes go on from different steps, since not all have found the checkpoint.
        """
        if trainer.world_size > 1:
            _require_same_step(trainer, self.path)
        _warn_of_steps_out_of_reach(trainer)
        within_epoch = self._restored is not None and self._restored["batches"] > 0
        if self._restored is not None:
            _warn_of_an_epoch_cut_short(trainer, self._restored)
            states = self._restored.pop("random")
            data_of(trainer).go_on(**self._restored)
            if trainer.global_rank < len(states):
                set_random_state(states[trainer.global_rank], trainer.strategy.root_device)
            self._restored = None
        for callback in callbacks_of(trainer):  # those that would wait for the start of an epoch
            if isinstance(callback, _WAITING_WITHIN_EPOCH if within_epoch else _WAITING):
                callback.on_train_epoch_start(trainer, pl_module)
        self._listen()
        if self._is_asked_to_stop(trainer):
            self._leave(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End the step before: its row of the log is written now."""
        self._end_step(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if it is time or the run is to stop, unless a validation or the epoch's end comes next."""
        self._stopping = self._is_asked_to_stop(trainer)
        left, per_step = _batches_left(trainer, batch_idx), trainer.accumulate_grad_batches
        if left > 0 and (batch_idx + 1) % per_step == 0:
            last_chance = left <= per_step and (_validates(trainer) or trainer.max_steps != -1)
            if self._stopping or last_chance or trainer.global_step % self.every_n_steps == 0:
                self._write(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Stop if asked to: there is a checkpoint of one step before the validation."""
        if trainer.state.fn == "fit" and self._is_asked_to_stop(trainer):
            self._leave(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once from now on while what was detected is measured, if no other process would wait for this one."""
        if trainer.state.fn == "fit":
            self._requests.at_once = trainer.world_size == 1
            if self._is_asked_to_stop(trainer):
                self._leave(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop with a step again: what was measured is written."""
        if trainer.state.fn == "fit":
            self._requests.at_once = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write a checkpoint, unless the run counts steps: Lightning would then do this end of the epoch again."""
        if trainer.max_steps in (-1, trainer.global_step) or trainer.should_stop:
            self._ended_early = trainer.should_stop and not _is_out_of_time(trainer)
            self._write(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the epoch before: its row of the log is written now."""
        self._end_step(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if asked to, at once from now on: a run that goes on has the last step and validation to do again."""
        self._trained = True
        if self._is_asked_to_stop(trainer):
            self._leave(trainer)
        self._requests.at_once = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the checkpoint of the last epoch in its place: all other files of the run are written."""
        self._put_in_place(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say what is on disk, and how to go on from it."""
        if not self._trained:
            with suppress(OSError):  # a full disk is not to hide what happened
                self._put_in_place(trainer)
        if trainer.is_global_zero or isinstance(exception, Exception):
            _say_below(exception, "\n".join(filter(None, (advice(exception), self._way_on()))))
        self._requests.at_once = True

    def _listen(self) -> None:
        """Note signals from now on, until all processes can agree on them.

        In Lightning's place: it would send messages from one process to the others within a signal, whatever they are
        about just then.
        """
        self._requests.at_once = False
        self._requests.listen()

    def _write(self, trainer: L.Trainer) -> None:
        self._written = None
        trainer.save_checkpoint(self._next, weights_only=False)
        self._written = trainer.global_step

    def _put_in_place(self, trainer: L.Trainer) -> None:
        if self._written is None:
            return
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            os.replace(self._next, self.path)
        self._step, self._written = self._written, None

    def _end_step(self, trainer: L.Trainer) -> None:
        if self._written is not None:
            self._put_in_place(trainer)
            if self._stopping:
                self._leave(trainer)

    def _is_asked_to_stop(self, trainer: L.Trainer) -> bool:
        """Whether any process was: all have to agree, since they train together."""
        asked = self._requests.received is not None or trainer.received_sigterm
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def _leave(self, trainer: L.Trainer) -> NoReturn:
        number = self._requests.received or signal.SIGTERM
        # Lightning kills the first process, before it has said what there is to say, if another one fails
        raise Stopped(128 + number if trainer.is_global_zero else 0)

    def _way_on(self) -> str:
        if not self.path.exists():
            return f"No checkpoint was written yet. Begin again with\n  {self.command}"
        if self._step is None:
            return f"Nothing was trained since {self.path}. Go on from there with\n  {self.command}"
        return f"{self.path} holds the run up to step {self._step}. Go on from there with\n  {self.command}"


def _limits(trainer: L.Trainer) -> list[float]:
    """How many epochs and steps a run may take."""
    return [math.inf if limit in (None, -1) else float(limit) for limit in (trainer.max_epochs, trainer.max_steps)]


def _is_out_of_time(trainer: L.Trainer) -> bool:
    """Whether max_time is over; that is looked at anew when the run goes on, and may have been raised."""
    left = [callback.time_remaining() for callback in callbacks_of(trainer) if isinstance(callback, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def _require_same_step(trainer: L.Trainer, path: Path) -> None:
    steps: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(steps, trainer.global_step)
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the processes would go on from different steps, {', '.join(map(str, steps))} in the order of their "
            f"ranks: all hosts must see {path}"
        )


def _warn_of_steps_out_of_reach(trainer: L.Trainer) -> None:
    """Say that a run which counts steps has no checkpoint at the end of an epoch, not even of the last."""
    if trainer.max_steps > trainer.estimated_stepping_batches:
        rank_zero_warn(
            f"max_epochs={trainer.max_epochs} ends this run after {trainer.estimated_stepping_batches} steps, before "
            f"max_steps={trainer.max_steps}: its last checkpoint will be of the step before the last one. Leave "
            "max_steps out"
        )


def _warn_of_an_epoch_cut_short(trainer: L.Trainer, restored: dict[str, Any]) -> None:
    """Say that Lightning takes the epoch within which a run was ended by its limits for a whole one."""
    if restored["batches"] and trainer.current_epoch > restored["epoch"]:
        rank_zero_warn(
            f"the run was ended within epoch {restored['epoch']}, after {restored['batches']} of its batches, by "
            "max_steps, max_time or a callback: it goes on with the next epoch, without the rest of that one"
        )


def _say_below(error: BaseException, text: str) -> None:
    """Say something below the traceback of what ends a training; a request to stop has none."""
    if isinstance(error, Exception):
        error.add_note(f"\n{text}")
    else:
        print(f"\n{text}", file=sys.stderr, flush=True)


def _batches_left(trainer: L.Trainer, batch_idx: int) -> float:
    """Batches until a validation may begin, or epoch or run ends; Lightning goes on from neither without a loss."""
    done = batch_idx + 1
    left = trainer.num_training_batches - done
    if trainer.max_steps != -1:
        left = min(left, (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
    every = trainer.val_check_batch
    if every is None:
        return left
    counted = trainer.fit_loop.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else done
    return min(left, -counted % every)


def _validates(trainer: L.Trainer) -> bool:
    """Whether there are validations in this epoch."""
    every = trainer.check_val_every_n_epoch
    due = every is None or (trainer.current_epoch + 1) % every == 0
    return trainer.enable_validation and (due or is_last_epoch(trainer))
