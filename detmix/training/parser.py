"""The parser of the command line: what its help says, and how it tells of what is wrong."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from .configs import CONFIG_MODE, RUN_OPTIONS, plain_error, with_suggestion
from .data import DetectionData
from .mixing import ManifoldOptions, MixupOptions
from .module import DetectionModule
from .splits import ShapesOptions

_OWN_CHECKPOINTS = "'last' and 'best' are last.ckpt and best.ckpt in the run's own folder."
_CHECKPOINT = {
    True: f"Checkpoint file to go on from. {_OWN_CHECKPOINTS}",
    False: f"Checkpoint file whose weights are measured; by default the run's last one. {_OWN_CHECKPOINTS}",
}
DESCRIPTIONS = {
    "fit": """Train, and evaluate on the validation images as trainer.check_val_every_n_epoch says.

python tools/train.py fit --config configs/quickstart.yaml
python tools/train.py fit --config configs/bccd.yaml --model.lr 0.0005 --name slower
python tools/train.py fit --config configs/bccd.yaml --print_config           # all settings, and nothing is done""",
    "validate": """Evaluate a checkpoint of a run on the validation images.

python tools/train.py validate --config configs/bccd.yaml
python tools/train.py validate --config configs/bccd.yaml --ckpt_path best""",
    "test": """Evaluate a checkpoint of a run on the test images.

python tools/train.py test --config configs/bccd.yaml
python tools/train.py test --config configs/bccd.yaml --ckpt_path best""",
}
_SEED = "Number from which all that is drawn follows. Under false nothing seeds torch, and order and mixing follow 0."
_WEIGHTS_ONLY = (
    "false: read a checkpoint that holds more than numbers and texts. That can run code from it, so only where you "
    "trust who made it."
)


class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the description."""


class Parser(LightningArgumentParser):
    """A parser whose errors begin with the setting that is wrong, and tell of an unknown one which it may be."""

    def print_usage(self, file: Any = None) -> None:
        """Print nothing: an error would be lost behind the names of all settings, which ``--help`` has."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """End the program with the message, or raise it."""
        groups = {"data.mixup": MixupOptions, "data.shapes": ShapesOptions, "model.manifold": ManifoldOptions}
        names = {key: [field.name for field in fields(options)] for key, options in groups.items()}
        within = (f"{key}.{name}" for key, found in names.items() for name in found)
        super().error(with_suggestion(plain_error(message, names), self, *within), ex)


def run_parser(sections: Sequence[str], **options: Any) -> Parser:
    """A parser of the trainer's configs for those who do not train: what only the trainer needs is read, and left.

    Args:
        sections: which of ``data``, ``model`` and ``trainer`` are looked at; the last as a dict, its callbacks built.
        options: keyword arguments of the parser.
    """
    parser = Parser(parser_mode=CONFIG_MODE, formatter_class=Formatter, **options)
    parser.add_argument("--config", action="config", help="Config file of tools/train.py.")
    parser.add_argument("--seed_everything", type=Literal[False] | int, default=0, help="Seed of the run; false is 0.")
    for section, kind in {"data": DetectionData, "model": DetectionModule}.items():
        if section in sections:
            parser.add_class_arguments(kind, section)
        else:
            parser.add_argument(f"--{section}", type=Any)
    trainer: Any = dict[str, Any] | None if "trainer" in sections else Any
    parser.add_argument("--trainer", type=trainer, help="Of tools/train.py; only its callbacks matter here.")
    for option in RUN_OPTIONS:
        parser.add_argument(f"--{option}", type=Any, help="Read by tools/train.py; no matter here.")
    if "data" in sections:
        link_seed(parser)
    return parser


def link_seed(parser: LightningArgumentParser) -> None:
    """Let the data draw from the seed of the run, ``seed_everything``, which is a setting beside ``data``."""
    parser.link_arguments("seed_everything", "data.run_seed", compute_fn=int)  # false is 0


def explain_options(parser: LightningArgumentParser, subcommand: str) -> None:
    """Say of some options what is so here, in the place of what is so in Lightning."""
    checkpoint = _CHECKPOINT[subcommand == "fit"]
    texts = {"ckpt_path": checkpoint, "seed_everything": _SEED, "weights_only": _WEIGHTS_ONLY}
    for option in parser._actions:
        option.help = texts.get(option.dest, option.help)
