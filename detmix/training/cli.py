"""The command line: a LightningCLI whose runs have a name and a folder."""

from __future__ import annotations

import shlex
import shutil
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import lightning as L
from jsonargparse import ActionYesNo, capture_parser
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only

from ..files import remove_temporary, require_writable, write_whole
from ..reporting.tables import number_text
from ..terminal import outliving_readers, replace_unprintable, require_text, tell
from .artifacts import RunFiles
from .best import BestCheckpoint, require_measured, require_same_accuracy
from .callbacks import ProgressBar, Throughput, ValidateAtTheEnd, mixing_of
from .checkpoints import CheckpointFiles, read_checkpoint
from .configs import CONFIG_MODE
from .data import DetectionData
from .devices import best_precision, require_all_processes, require_gpu, require_precision
from .faults import FiniteLoss
from .files import forget_from, read_history, set_aside
from .lock import hold, let_go
from .log import EventLogger, RowLogger
from .module import DetectionModule
from .parser import DESCRIPTIONS, Formatter, Parser, explain_options, link_seed
from .quiet import quiet
from .resume import LastCheckpoint
from .signals import StopRequests
from .skipped import SkippedImages


class DetmixCLI(LightningCLI):
    """LightningCLI with a run folder: ``runs/<config name>``, or ``..._nomix`` where nothing is mixed."""

    _trial: TemporaryDirectory[str] | None = None  # the place of all runs under fast_dev_run, which nobody is to keep

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that reads configs within bounds."""
        return super().init_parser(parser_mode=CONFIG_MODE, formatter_class=Formatter, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, the folder of all runs, and how a run is taken up again."""
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run; the config file's by default. Where nothing is mixed, _nomix is added to either.",
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--resume",
            action=ActionYesNo,
            default=False,
            help="fit: go on from the run's own last checkpoint, if it has one; begin if not.",
        )
        parser.add_argument(
            "--checkpoint_every",
            type=PositiveInt,
            default=500,
            help="fit: steps between two checkpoints within an epoch; there is one at the end of each epoch too.",
        )
        parser.add_argument(
            "--best_by",
            type=str,
            default="AP",
            help="fit: the accuracy of which best.ckpt has the highest, by its name in metrics.json: AP50, AP/<class>, "
            "voc/AP50, segm/AP of masks ...",
        )
        link_seed(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Say what is so here, in the place of what is so in Lightning."""
        kwargs["description"] = DESCRIPTIONS[subcommand]
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        explain_options(parser, subcommand)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep the command, for the report; what torchrun was told is not known here."""
        require_text(parser, args)
        launcher = "torchrun ..." if TorchElasticEnvironment.detect() else "python"
        self.command = f"{launcher} {shlex.join(sys.argv if args is None else ['tools/train.py', *args])}"
        try:
            super().parse_arguments(parser, args)
        except UnicodeDecodeError as error:
            parser.error(f"a config file is not text in UTF-8: {error}")
        except UnicodeEncodeError as error:
            parser.error(f"standard output does not take what is to be printed, PYTHONIOENCODING=utf-8 does: {error}")
        replace_unprintable()
        if self.config[self.config.subcommand].seed_everything is True:
            parser.error("--seed_everything must be a number, or false for none: for true Lightning takes 0, always")

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; bad data or settings end with their own message, not a traceback."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, OSError, RuntimeError, MisconfigurationException) as error:
            self.parser.error(str(error))

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the run's loggers, checkpoints and files."""
        config = self._get(self.config_init, "trainer", default={})
        run_dir = self.run_dir
        fitting = self.subcommand == "fit"
        self._checkpoint = self._read_checkpoint()
        self._first_step = self._checkpoint.get("global_step")  # None where no checkpoint is gone on from
        self._requests = StopRequests(at_once=True)
        chosen: dict[str, Any] = {
            "default_root_dir": run_dir,
            "callbacks": [*_as_list(config.get("callbacks")), *self._callbacks(run_dir, fitting)],
        }
        require_gpu(config.get("accelerator"))
        require_precision(config.get("precision"))
        if config.get("precision") is None:
            chosen["precision"] = best_precision(config.get("accelerator"))
        plugins = _as_list(config.get("plugins"))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            chosen["plugins"] = [*plugins, CheckpointFiles()]
        if config.get("logger") in (None, True):
            chosen["logger"] = self._loggers(run_dir) if fitting else False
        trainer = super().instantiate_trainer(**chosen, **kwargs)
        require_all_processes(trainer)
        # Lightning leaves the number that a launcher such as srun has given to a process which trains alone
        rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]  # of a function
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ValueError("trainer.strategy starts processes that keep their results to themselves: use 'ddp'")
        return trainer

    @property
    def run_dir(self) -> Path:
        """Folder of this run."""
        suffix = "" if self._mixes else "_nomix"
        return Path(self._get(self.config, "runs")) / f"{self._get(self.config, 'name')}{suffix}"

    @property
    def _mixes(self) -> bool:
        callbacks = _as_list(self._get(self.config_init, "trainer.callbacks"))
        return bool(mixing_of(self.datamodule, self.model, callbacks))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """``fit``, ``validate`` and ``test``."""
        return {name: arguments for name, arguments in LightningCLI.subcommands().items() if name != "predict"}

    def before_instantiate_classes(self) -> None:
        """Give the run its name, so that its saved config writes to the same folder; a trial gets another one."""
        config = self._get_config()
        if self.subcommand == "fit" and config.trainer.fast_dev_run:
            self._trial = TemporaryDirectory(prefix="detmix-")
            config.runs = self._trial.name
        if config.name is None:
            config.name = Path(str(config.config[-1])).stem if config.config else "run"
        name = Path(config.name)
        if name.is_absolute() or ".." in name.parts or name == Path():
            self.parser.error(f"--name must name a folder below --runs, got {config.name!r}")

    def before_fit(self) -> None:
        """Keep an earlier run of the same name, unless this one goes on from it."""
        self._prepare()
        try:
            self._held = _hold(self.run_dir)
            if self._goes_on:
                # read again: who held it may have gone on until now
                self._checkpoint = self._read_checkpoint()
                self._first_step = self._checkpoint["global_step"]
                _take_for_last(self._checkpoint_path, self._first_step, self.run_dir / "checkpoints", self._read)
                _forget_from(self.run_dir, self._first_step)
            else:
                _keep_earlier(self.run_dir)
        except (ValueError, OSError) as error:
            self.parser.error(str(error))
        self._checkpoint = {}

    def before_validate(self) -> None:
        """Look at everything before the work begins."""
        self._prepare()
        try:
            require_writable(self.run_dir / str(self.subcommand) / "metrics.json", "results")
        except (ValueError, OSError) as error:
            self.parser.error(str(error))

    before_test = before_validate

    def _prepare(self) -> None:
        """Open the data, build the detector and compare it with the checkpoint before anything is written."""
        stage = str(self.subcommand)
        try:
            self.model.check_data(self.datamodule)
            self.datamodule.setup(stage)
            self.model.build(stage, self.datamodule.class_names, self.datamodule.num_keypoints)
            if stage == "fit":
                require_measured(
                    self._best_by,
                    self.datamodule.class_names,
                    masks=self.model.measures_masks,
                    keypoints=self.model.measures_keypoints,
                )
                self.model.check_schedule(self.trainer)
                if self._mixes and self._trial is None:
                    self.datamodule.check_schedule(self.trainer.max_epochs)
            if self._goes_on:
                read_history(self.run_dir)
            if self._checkpoint:
                self.model.require_own(self._checkpoint, self._checkpoint_path, self.trainer, stage)
                if self._goes_on and stage == "fit":
                    require_same_accuracy(self._best_by, self._checkpoint, self.run_dir / "checkpoints")
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            self.parser.error(str(error))

    def fit(self, **arguments: Any) -> None:
        """Train; what SIGINT and SIGTERM do meanwhile is up to ``LastCheckpoint``."""
        try:
            self._listening(self.trainer.fit, arguments)
        finally:
            if self._held is not None:
                let_go(self._held)

    def validate(self, **arguments: Any) -> None:
        """Measure; SIGINT and SIGTERM end it at once."""
        self._listening(self.trainer.validate, arguments)

    def test(self, **arguments: Any) -> None:
        """The same for the test images."""
        self._listening(self.trainer.test, arguments)

    def _listening(self, work: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._requests.listen()
        try:
            work(**arguments)
        finally:
            self._requests.restore()

    def after_fit(self) -> None:
        """Say what came out, and where to look."""
        self._say_result(self.run_dir / "report.html")
        if self._trial is not None:
            self._trial.cleanup()

    def after_validate(self) -> None:
        """Say what came out, and where to look."""
        self._say_result(self.run_dir / "validate" / "metrics.json")

    def after_test(self) -> None:
        """Say what came out, and where to look."""
        self._say_result(self.run_dir / "test" / "metrics.json")

    @rank_zero_only
    def _say_result(self, file: Path) -> None:
        if self.model.evaluation is None:
            tell(self._way_to_numbers() if self.subcommand == "fit" else "Nothing was evaluated.")
        else:
            shown = {name: number_text(value) for name, value in self.model.evaluation.summary().items()}
            parts = self.model.evaluation.ap_of_parts()
            others = "".join(f"AP {number_text(value)} ({what})  " for what, value in parts.items())
            line = f"AP {shown['AP']}  AP50 {shown['AP50']} (COCO)  {others}AP50 {shown['voc/AP50']} (VOC)"
            tell(line + self.model.evaluation.part(), style="bold")
            tell(f"See {file}" if self._trial is None else "This was a trial (fast_dev_run): nothing of it is kept.")

    def _way_to_numbers(self) -> str:
        """What is left to do after a training in which no validation was due."""
        place = f"epoch {self.trainer.current_epoch}, step {self.trainer.global_step}"
        ended = f"Nothing was evaluated: training stopped at {place}"
        if self.trainer.global_step == self._first_step:
            ended = f"The run is finished, at {place}, and there is nothing to do"
        return (
            f"{ended}. A finished run goes on with a higher --trainer.max_epochs, max_steps or max_time; 'validate' in "
            "the place of 'fit' evaluates its last checkpoint."
        )

    @property
    def _best_by(self) -> str:
        return self._get(self.config, "best_by")

    @property
    def _checkpoint_path(self) -> Path:
        return Path(str(self._get(self.config_init, "ckpt_path")))

    @property
    def _goes_on(self) -> bool:
        """Whether the checkpoint is this run's own, and not that of a run to begin another from."""
        folder = (self.run_dir / "checkpoints").resolve()
        return bool(self._checkpoint) and folder in self._checkpoint_path.resolve().parents

    def _read_checkpoint(self) -> dict[str, Any]:
        """The checkpoint that was asked for, or that the command takes by default; empty where there is none."""
        settings = self.config_init[self.subcommand]
        settings["ckpt_path"] = self._chosen_checkpoint(settings)
        if settings["ckpt_path"] is None:
            return {}
        return self._read(self._checkpoint_path)

    def _read(self, file: Path) -> dict[str, Any]:
        may_run_code = self.config_init[self.subcommand]["weights_only"] is False
        return read_checkpoint(file, weights_only=not may_run_code, mmap=True)

    def _chosen_checkpoint(self, settings: Any) -> str | None:
        """Path of it; ``last`` and ``best`` are the run's own, of which ``fit`` may begin without the last."""
        given, folder = settings["ckpt_path"], self.run_dir / "checkpoints"
        if self._trial is not None:  # its few steps are behind those of any run
            return None if given in ("last", "best", None) else str(given)
        if self.subcommand != "fit":
            given = given or "last"
        elif settings["resume"] or given == "last":
            others = None if given == "last" else given
            given = "last" if (folder / "last.ckpt").exists() else others
        if given not in ("last", "best"):
            return given and str(given)
        file = folder / f"{given}.ckpt"
        if not file.exists():
            raise FileNotFoundError(f"there is no {file}: run 'fit' first, or pass --ckpt_path with a file")
        return str(file)

    def _loggers(self, run_dir: Path) -> list[Any]:
        """The rows for the report, and TensorBoard, which overlooks what it was told of steps that are done again."""
        again = self._checkpoint["global_step"] if self._goes_on else None
        events = EventLogger(run_dir, name="tensorboard", version=0, purge_step=again)
        return [RowLogger(run_dir, name="csv", version=0), events]

    def _config_text(self) -> str:
        """The resolved config, from which the run can be done again from its beginning."""
        config = self._get_config().clone()
        config.resume = False
        if self._goes_on:
            config.ckpt_path = None
        return self._parser(self.subcommand).dump(config, skip_none=False)

    def _callbacks(self, run_dir: Path, fitting: bool) -> list[L.Callback]:
        shown = self._get(self.config_init, "trainer.enable_progress_bar") is not False
        bar: list[L.Callback] = [ProgressBar()] if shown else []
        seed = self._get(self.config, "seed_everything")
        stated = "none" if seed is False else str(seed)
        told = RunFiles(run_dir, self.command, self._config_text(), stated, self._measured(fitting))
        files: list[L.Callback] = [*bar, told]
        if not fitting:
            return files
        folder = run_dir / "checkpoints"
        logs = self._get(self.config_init, "trainer.logger") not in (False, [])
        return [
            ValidateAtTheEnd(),
            Throughput(),
            *([LearningRateMonitor("step")] if logs else []),
            FiniteLoss(),
            SkippedImages(run_dir),
            *files,
            BestCheckpoint(folder, self._best_by),
            # after the best one, so that it knows of it
            LastCheckpoint(
                folder,
                every_n_steps=self._get(self.config, "checkpoint_every"),
                command=self._way_on(),
                requests=self._requests,
            ),
        ]

    def _measured(self, fitting: bool) -> dict[str, int | str]:
        """Which state of the weights is measured by commands that do not train."""
        if fitting:
            return {}
        place = {"epoch": self._checkpoint["epoch"], "step": self._checkpoint["global_step"]}
        return {**place, "checkpoint": str(self._checkpoint_path)}

    def _way_on(self) -> str:
        """The command that takes this run up again."""
        return self.command + ("" if "--resume" in self.command.split() else " --resume")

    def _get_config(self) -> Any:
        return self.config.get(str(self.subcommand), self.config)


def cli_main(args: Sequence[str] | None = None, description: str | None = None) -> DetmixCLI:
    """Run the command line.

    Args:
        args: the arguments, without the program's name, such as ``["fit", "--config", "configs/quickstart.yaml"]``;
            those of the process unless given.
        description: what ``--help`` begins with.

    Returns:
        What it has made: ``model``, whose ``detector`` is the trained one; ``datamodule``; ``trainer``; and
        ``run_dir``, where the files are.

    Raises:
        TypeError: args is a text instead of a list of words.
        SystemExit: a setting is wrong, or the run was told to stop.
    """
    if isinstance(args, str):
        raise TypeError(f"args must be a list of words, as {args.split()}, got the text {args!r}")
    with quiet(), outliving_readers():
        return _make(None if args is None else list(args), parser_kwargs={"description": description})


def check_fits(fits: Mapping[str, Sequence[str]]) -> None:
    """Check arguments of ``fit`` against the types of the settings, without building anything.

    Args:
        fits: the arguments by a name for them.

    Raises:
        ValueError: a key does not exist or a value is of the wrong type; the name and the key are told.
    """
    with quiet():
        raising = {"exit_on_error": False, "fit": {"exit_on_error": False}}
        parser = capture_parser(_make, ["fit"], parser_kwargs=raising)
        for name, arguments in fits.items():
            try:
                parser.parse_args(["fit", *arguments])
            except ArgumentError as error:
                raise ValueError(f"{name}: {error}") from error


def _make(args: list[str] | None, **options: Any) -> DetmixCLI:
    return DetmixCLI(
        DetectionModule,
        DetectionData,
        args=args,
        save_config_callback=None,
        parser_class=Parser,
        seed_everything_default=0,
        trainer_defaults={"log_every_n_steps": 10},
        auto_configure_optimizers=False,
        **options,
    )


@rank_zero_only
def _hold(run_dir: Path) -> IO[str]:
    return hold(run_dir)


@rank_zero_only
def _keep_earlier(run_dir: Path) -> None:
    kept = set_aside(run_dir)
    if kept is not None:
        tell(f"The earlier run in {run_dir} is now in {kept}.")


@rank_zero_only
def _forget_from(run_dir: Path, step: int) -> None:
    remove_temporary(run_dir)
    forget_from(run_dir, step)


@rank_zero_only
def _take_for_last(checkpoint: Path, step: int, folder: Path, read: Callable[[Path], dict[str, Any]]) -> None:
    """Let a run go back to an earlier checkpoint of its own: those of later steps are no more."""
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    if checkpoint.resolve() != last.resolve():
        write_whole(last, partial(shutil.copyfile, checkpoint))
        if best.exists() and read(best)["global_step"] > step:
            best.unlink()


def _as_list(callbacks: Any) -> list[L.Callback]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
