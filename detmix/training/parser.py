"""The parser of the command line: what its help says, and how it tells of what is wrong."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from dataclasses import fields
from typing import Any

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from .configs import plain_error, with_suggestion
from .mixing import ManifoldOptions, MixupOptions
from .splits import ShapesOptions

_OWN_CHECKPOINTS = "'last' and 'best' are last.ckpt and best.ckpt in the run's own folder."
_CHECKPOINT = {
    True: f"Checkpoint file to go on from. {_OWN_CHECKPOINTS}",
    False: f"Checkpoint file whose weights are measured; by default the run's last one. {_OWN_CHECKPOINTS}",
}
DESCRIPTIONS = {
    "fit": """Train, and evaluate on the validation images as trainer.check_val_every_n_epoch says.

python tools/train.py fit --config configs/quickstart.yaml
python tools/train.py fit --config configs/bccd.yaml --model.lr 0.01 --name slower
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


def explain_options(parser: LightningArgumentParser, subcommand: str) -> None:
    """Say of some options what is so here, in the place of what is so in Lightning."""
    checkpoint = _CHECKPOINT[subcommand == "fit"]
    texts = {"ckpt_path": checkpoint, "seed_everything": _SEED, "weights_only": _WEIGHTS_ONLY}
    for option in parser._actions:
        option.help = texts.get(option.dest, option.help)
