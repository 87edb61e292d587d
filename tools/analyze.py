r"""Measure what mixing does to trained detectors: what they still see, and where their classes are entangled.

python tools/analyze.py visibility --config configs/quickstart.yaml --plot rates.png \
    --model mixup=runs/quickstart/model.pt --model plain=runs/quickstart_nomix/model.pt
python tools/analyze.py entanglement --config configs/quickstart.yaml --model runs/quickstart/model.pt \
    --layers input backbone.body.layer1 backbone.body.layer2 backbone.fpn roi --plot layers.png

visibility blends pairs of validation images at each ratio and counts which objects are found: one curve for each
model. entanglement tells how far apart the classes are in the features of ground-truth boxes, layer by layer, which
helps to choose where to mix. The config is that of tools/train.py; its data and model settings can be overridden here,
as in --data.root data/voc. Nothing is trained, and model.pt is read without running code from it.
"""

from __future__ import annotations

from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from rich.console import Console

from detmix.analysis.visibility import VISIBILITIES
from detmix.terminal import Parser, replace_unprintable, require_text
from detmix.training.analysis import analyze_entanglement, analyze_visibility


def main() -> None:
    """Parse the command line, and print the table of what was measured."""
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parts = parser.add_subparsers(metavar="visibility | entanglement", required=True)
    add_visibility(parts)
    add_entanglement(parts)
    require_text(parser)
    options, overrides = parser.parse_known_args()
    replace_unprintable()
    settings = vars(options)
    analyze = settings.pop("analyze")
    try:
        table = analyze(overrides=overrides, **settings)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        parser.error(str(error))
    Console().print(table)


def add_visibility(parts: Any) -> None:
    """Add the options of ``visibility``."""
    part = add_part(parts, "visibility", "detection rate against visibility, on blended images")
    part.add_argument(
        "--model",
        dest="models",
        metavar="[NAME=]PATH",
        action=Named,
        required=True,
        help="weights; again for each model. Without a name it is called as the folder of its run",
    )
    part.add_argument("--visibilities", type=float, nargs="+", default=VISIBILITIES, help="default: 0.1 ... 0.9")
    part.add_argument("--iou-threshold", type=float, default=0.5, help="least IoU of a match (default: 0.5)")
    part.add_argument("--score-threshold", type=float, default=0.05, help="least score of a detection (default: 0.05)")
    part.add_argument("--num-pairs", type=int, help="pairs of images, drawn at random (default: each image once)")
    part.add_argument("--num-workers", type=int, default=0, help="processes that load and blend (default: 0)")
    part.add_argument("--batch-size", type=int, default=1, help="pairs in one pass, each at all ratios (default: 1)")
    part.set_defaults(analyze=analyze_visibility)


def add_entanglement(parts: Any) -> None:
    """Add the options of ``entanglement``."""
    part = add_part(parts, "entanglement", "soft nearest neighbour loss of the classes, by layer")
    part.add_argument("--model", metavar="PATH", type=Path, required=True, help="weights: model.pt of a run")
    part.add_argument(
        "--layers",
        nargs="+",
        required=True,
        help="input, backbone modules by dotted name, some of what one gives (backbone.fpn:0,pool), roi",
    )
    part.add_argument(
        "--temperature", type=temperature, default="optimised", help="optimised (default), median, or a number"
    )
    part.add_argument("--max-objects", type=int, default=1000, help="objects at most, at random (default: 1000)")
    part.add_argument("--grid", type=int, default=1, help="cells a side that a box is averaged over (default: 1)")
    part.add_argument("--batch-size", type=int, default=4, help="images in one pass (default: 4)")
    part.set_defaults(analyze=analyze_entanglement)


def add_part(parts: Any, name: str, summary: str) -> ArgumentParser:
    """Add a subcommand with the options that both have."""
    part: ArgumentParser = parts.add_parser(
        name, help=summary, description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    part.add_argument("--config", type=Path, required=True, help="config file of tools/train.py")
    part.add_argument("--split", choices=["val", "test"], default="val", help="which images (default: val)")
    part.add_argument("--device", help="such as cuda or cpu (default: a GPU if there is one)")
    part.add_argument("--seed", type=int, default=0, help="another one draws other pairs or objects (default: 0)")
    part.add_argument("--json", dest="json_file", metavar="FILE", type=Path, help="write all numbers to this file")
    part.add_argument("--plot", metavar="FILE", type=Path, help="write a plot to this file: .png, .svg, .pdf")
    return part


class Named(Action):
    """Collects NAME=PATH, or PATH of what lies in the folder of a run, into a dict of paths by name."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Add one."""
        name, _, path = values.partition("=") if _is_named(values) else (_run_of(values), "", values)
        named = getattr(namespace, self.dest) or {}
        if not (name and path) or name in named:
            parser.error(f"{option_string} must be PATH or NAME=PATH, each with a name of its own, got {values}")
        setattr(namespace, self.dest, named | {name: Path(path)})


def _is_named(values: str) -> bool:
    """Whether what comes before the first = is a name, and not a part of the path of a file."""
    return "=" in values and not Path(values).exists()


def _run_of(weights: str) -> str:
    """The name of the folder that weights lie in, or of the run whose checkpoint they are."""
    folder = Path(weights).absolute().parent
    return folder.parent.name if folder.name == "checkpoints" else folder.name


def temperature(text: str) -> float | str:
    """A number, or the name of a rule."""
    if text in ("median", "optimised"):
        return text
    try:
        return float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"must be a number, median or optimised, got {text}") from error


if __name__ == "__main__":
    main()
