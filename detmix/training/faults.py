"""What ends a training early: a loss that is no number, and what to do about that and about other faults."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

# how gloo and NCCL say that they wait for a process that is no more
_LOST = ("by peer", "remote process exited")
_CALMER = "Try a lower --model.lr, a longer --model.warmup_steps or --trainer.gradient_clip_val"


class FiniteLoss(L.Callback):
    """Ends the training when the loss or what it trains is NaN or infinite, before that reaches a checkpoint.

    On a CPU the loss is looked at before the step is taken. On a GPU it is looked at with every row of the log, at each
    checkpoint and before each validation, since looking at it waits for the device.
    """

    def __init__(self) -> None:
        self._finite: Tensor | None = None  # of all losses since the last look
        self._image_ids: list[Any] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which images it is about."""
        self._image_ids = [target.get("image_id") for target in batch[1]]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Note whether the loss is a number; on a CPU end if not."""
        finite = loss.detach().isfinite()
        self._finite = finite if self._finite is None else self._finite & finite
        if finite.device.type == "cpu":
            self.look(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses since the last row of the log."""
        settings: Any = trainer  # Lightning sets this one where mypy does not see it
        if trainer.global_step % settings.log_every_n_steps == 0:
            self.look(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look before the best checkpoint can be written."""
        if not trainer.sanity_checking:
            self.look(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the losses up to the checkpoint, and at what it would keep."""
        self.look(trainer)
        require_finite(pl_module)

    def look(self, trainer: L.Trainer) -> None:
        """Raise if a loss since the last look was no number.

        Raises:
            FloatingPointError: it says which terms, and what to try.
        """
        if self._finite is not None and not self._finite:
            logged = trainer.callback_metrics.items()
            terms = {name: float(value) for name, value in logged if name.startswith("train/loss")}
            values = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
            raise FloatingPointError(
                f"the loss is not finite at epoch {trainer.current_epoch}, step {trainer.global_step}: {values}; "
                f"images {self._image_ids}. {_CALMER}"
            )
        self._finite = None


def require_finite(module: nn.Module) -> None:
    """Refuse to keep parameters, or statistics of batch normalisation and other buffers, that are no numbers.

    Raises:
        FloatingPointError: the first such tensor is named.
    """
    finite = {name: value.isfinite().all() for name, value in module.state_dict().items() if value.is_floating_point()}
    if not torch.stack(list(finite.values())).all():  # on a GPU the only place that waits for it
        name = next(name for name in finite if not finite[name])
        raise FloatingPointError(
            f"{name} holds values that are not finite, and no checkpoint is written of them. {_CALMER}"
        )


def advice(error: BaseException) -> str:
    """What to do about an error, beyond what it says itself; an empty string where nothing is known."""
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return (
            "Out of memory on the device: lower --data.batch_size (--trainer.accumulate_grad_batches can make up for "
            "it) or the image size in --model.options."
        )
    if "DataLoader worker" in str(error) and "Alarm clock" in str(error):
        return "A data-loading worker ended half a minute after SIGTERM, before the step that was to be the last one."
    if "DataLoader worker" in str(error) and ("signal" in str(error) or "exited unexpectedly" in str(error)):
        return "A data-loading worker was killed, most often for memory: lower --data.num_workers."
    if any(words in str(error) for words in _LOST):
        return (
            "Another process of this training has ended, and this one cannot go on without it. What it printed says "
            "why; if it printed nothing it was killed from outside, most often for memory."
        )
    return ""
