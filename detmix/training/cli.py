"""The command line: a LightningCLI whose runs have a name and a folder."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from .artifacts import RunFiles
from .callbacks import MixupSchedule, Throughput
from .data import DetectionData
from .files import set_aside
from .module import DetectionModule

_UNHELPFUL = (
    ".*does not have many workers",  # chosen so: see DetectionData's num_workers
    ".*is smaller than the logging interval",  # true of a small data set, and harmless
    ".*recommended to use `self.log.*sync_dist",  # every process has evaluated all images already
    ".*exists and is not empty",  # a run that goes on writes to its own folder
    ".*callbacks used to create the checkpoint",  # those that save are of no use to validate and test
    ".*args parameter is intended to run from within Python",  # cli_main takes them from nowhere else
)


class DetmixCLI(LightningCLI):
    """LightningCLI with a run folder: ``runs/<config name>``, or ``..._nomix`` where nothing is mixed."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and the folder of all runs."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run; the config file's by default."
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep the command, for the report."""
        self.command = shlex.join(["tools/train.py", *(sys.argv[1:] if args is None else args)])
        super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; bad data ends with its own message, not a traceback."""
        try:
            super().instantiate_classes()
        except (ValueError, OSError) as error:
            self.parser.error(str(error))

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the run's loggers, checkpoints and files."""
        config = self._get(self.config_init, "trainer", default={})
        run_dir = self.run_dir
        fitting = self.subcommand == "fit"
        chosen: dict[str, Any] = {
            "default_root_dir": run_dir,
            "callbacks": [*_as_list(config.get("callbacks")), *self._callbacks(run_dir, fitting)],
        }
        if config.get("precision") is None:
            chosen["precision"] = "bf16-mixed" if _has_bf16() else "32-true"
        if config.get("logger") is None:
            chosen["logger"] = (
                [CSVLogger(run_dir, name="csv"), TensorBoardLogger(run_dir, name="tensorboard")] if fitting else False
            )
        _share_cores(self.datamodule.num_workers)
        return super().instantiate_trainer(**chosen, **kwargs)

    @property
    def run_dir(self) -> Path:
        """Folder of this run."""
        name = self._get(self.config, "name") or self._config_name()
        suffix = "" if self.datamodule.mixes else "_nomix"
        return Path(self._get(self.config, "runs")) / f"{name}{suffix}"

    def before_fit(self) -> None:
        """Keep an earlier run of the same name, unless this one goes on from it."""
        if self._get(self.config, "ckpt_path") is None:
            _keep_earlier(self.run_dir)

    def before_validate(self) -> None:
        """Take the run's last checkpoint unless another is given."""
        self._default_checkpoint()

    def before_test(self) -> None:
        """Take the run's last checkpoint unless another is given."""
        self._default_checkpoint()

    def after_fit(self) -> None:
        """Say what came out, and where to look."""
        self._say_result(self.run_dir / "report.html")

    def after_validate(self) -> None:
        """Say what came out, and where to look."""
        self._say_result(self.run_dir / "validate" / "metrics.json")

    def after_test(self) -> None:
        """Say what came out, and where to look."""
        self._say_result(self.run_dir / "test" / "metrics.json")

    @rank_zero_only
    def _say_result(self, file: Path) -> None:
        if self.model.evaluation is not None:
            numbers = self.model.evaluation.metrics()
            line = f"AP {numbers['AP']:.3f}  AP50 {numbers['AP50']:.3f} (COCO)  AP50 {numbers['voc/AP50']:.3f} (VOC)"
            Console().print(f"[bold]{line}[/bold]\nSee {file}", soft_wrap=True)

    def _default_checkpoint(self) -> None:
        settings = self.config_init[self.subcommand]
        if settings["ckpt_path"] is not None:
            return
        last = self.run_dir / "checkpoints" / "last.ckpt"
        if not last.exists():
            self.parser.error(f"there is no {last}: run 'fit' first, or pass --ckpt_path")
        settings["ckpt_path"] = str(last)

    def _callbacks(self, run_dir: Path, fitting: bool) -> list[L.Callback]:
        config_text = self._parser(self.subcommand).dump(self._get_config(), skip_none=False)
        shown = self._get(self.config_init, "trainer.enable_progress_bar") is not False
        bar: list[L.Callback] = [RichProgressBar()] if shown else []
        files: list[L.Callback] = [*bar, RunFiles(run_dir, f"python {self.command}", config_text)]
        if not fitting:
            return files
        folder = run_dir / "checkpoints"
        return [
            MixupSchedule(),
            Throughput(),
            LearningRateMonitor("step"),
            ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False),
            ModelCheckpoint(folder, "best", monitor="val/AP", mode="max", enable_version_counter=False),
            *files,
        ]

    def _get_config(self) -> Any:
        return self.config.get(str(self.subcommand), self.config)

    def _config_name(self) -> str:
        files = self._get(self.config, "config") or []
        return Path(str(files[-1])).stem if files else "run"


def cli_main(args: Sequence[str] | None = None) -> DetmixCLI:
    """Run the command line.

    Args:
        args: the arguments, without the program's name; those of the process unless given.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # between Lightning, jsonargparse and torch
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
        for message in _UNHELPFUL:
            warnings.filterwarnings("ignore", message)
        return DetmixCLI(
            DetectionModule,
            DetectionData,
            args=None if args is None else list(args),
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={"log_every_n_steps": 10},
        )


@rank_zero_only
def _keep_earlier(run_dir: Path) -> None:
    kept = set_aside(run_dir)
    if kept is not None:
        Console().print(f"The earlier run in {run_dir} is now in {kept}.")


def _share_cores(num_workers: int) -> None:
    """Threads and workers together take the cores, not more: oversubscribed, a step takes several times as long."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - num_workers))


def _has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _as_list(callbacks: Any) -> list[L.Callback]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
