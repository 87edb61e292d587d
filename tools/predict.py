r"""Detect objects in images with a trained model: boxes drawn, COCO results, and tables of what was found.

python tools/predict.py photos --weights runs/bccd/checkpoints/best.ckpt
python tools/predict.py "photos/**/*.jpg" holiday.png --weights runs/bccd/model.pt --output found --score-threshold 0.3
python tools/predict.py photos --detector fasterrcnn_resnet50_fpn --weights COCO_V1
python tools/predict.py photos --detector retinanet_resnet50_fpn --weights elsewhere.pth --classes cat dog

The weights are a checkpoint or model.pt of tools/train.py, with its config.yaml and classes.json beside it; or, with
--detector, what was trained elsewhere with torchvision: a file, or torchvision's own weights by their name. Files are
read without running code from them. The output folder gets predictions.json (COCO results, all that the model gives, so
that AP can be counted from them), images.json (which id is which image and class) and pictures/. An earlier folder of
that name is kept beside it.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from rich.console import Console

from detmix.terminal import Parser, replace_unprintable, require_text, tell
from detmix.training.predict import predict_images
from detmix.training.signals import StopRequests
from detmix.training.trained import open_trained


def main() -> None:
    """Parse the command line, and print the tables."""
    parser = make_parser()
    require_text(parser)
    settings = vars(parser.parse_args())
    replace_unprintable()
    model = {name: settings.pop(name) for name in ("weights", "config", "detector", "classes", "options")}
    requests = StopRequests(at_once=True)
    requests.listen()  # or SIGTERM would leave what is half written
    try:
        tables = predict_images(trained=open_trained(**model), **settings)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        parser.error(str(error))
    finally:
        requests.restore()
    Console().print(tables)
    tell(f"See {settings['output']}")


def make_parser() -> ArgumentParser:
    """The options, in the order in which one comes to them."""
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("sources", nargs="+", metavar="IMAGES", help="image files, folders with all below them, or quoted patterns")
    add("--weights", required=True, metavar="FILE|NAME", help="checkpoint, model.pt, or torchvision's name of weights")
    add("--config", type=Path, metavar="FILE", help="config of the run (default: config.yaml near the weights)")
    add("--detector", metavar="NAME", help="of a model trained elsewhere: torchvision's name of its builder")
    add("--classes", nargs="+", metavar="NAME", help="names of the labels from 1 on (default: the run's, or COCO's)")
    add("--options", type=keywords, metavar="JSON", help='arguments of the builder: {"min_size": 400}')
    add(
        "--output", type=Path, default=Path("predictions"), metavar="DIR", help="folder to write (default: predictions)"
    )
    add("--score-threshold", type=float, default=0.5, metavar="S", help="least score drawn and counted (default: 0.5)")
    add("--pictures", choices=["jpg", "png", "none"], default="jpg", help="format of the pictures (default: jpg)")
    add("--annotations", type=Path, metavar="FILE", help="COCO file whose image ids are taken (default: 1, 2, ...)")
    add("--batch-size", type=int, default=4, metavar="N", help="images in a batch (default: 4)")
    add("--num-workers", type=int, default=0, metavar="N", help="processes that read images (default: 0)")
    add("--device", help="such as cuda or cpu (default: a GPU if there is one)")
    add(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="of an image that cannot be read (default: raise)",
    )
    return parser


def keywords(text: str) -> dict[str, Any]:
    """Keyword arguments from JSON."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ArgumentTypeError(f'must be a JSON object such as {{"min_size": 400}}, got {text}')
    return content


if __name__ == "__main__":
    main()
