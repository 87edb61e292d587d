r"""Measure predictions by the rules of COCO or of the VOC development kit, exactly; or tell two sets of them apart.

python tools/evaluate.py coco --annotations instances_val.json --predictions results.json
python tools/evaluate.py coco --annotations instances_val.json --predictions results.json --iou-type segm \
    --backend faster-coco-eval --json numbers.json
python tools/evaluate.py coco --annotations person_keypoints_val.json --predictions results.json --iou-type keypoints
python tools/evaluate.py voc --root data/bccd --image-set val --predictions runs/bccd --plots plots
python tools/evaluate.py voc --root VOC2007 --image-set test --predictions results/VOC2007/Main --use-07-metric
python tools/evaluate.py voc --root data/bccd --image-set val --predictions runs/a --compare runs/b

coco reads COCO annotations, voc a VOC folder; predictions are COCO results, a run's folder or the kit's text files
(comp3_det_val_cat.txt: <image> <score> <xmin> <ymin> <xmax> <ymax>), with either. Each layout is measured by its own
rules unless --rules says otherwise. --compare puts a second set of predictions beside the first, with 95 % intervals of
the difference from a bootstrap over the images: half a point may mean nothing on few images.

Keypoints are compared by object keypoint similarity (OKS) in the place of IoU. Its --sigmas say how far off each may
be: the larger, the farther. They are COCO's own where there are 17 keypoints, and else 0.05 for each, which is about
the middle of COCO's 0.025 ... 0.107 and no standard: give those of your keypoints if there are any.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from detmix.reporting import CocoFile, Options, VocFolder, evaluate_files
from detmix.terminal import Parser, replace_unprintable, require_text, tell


def main() -> None:
    """Parse the command line, and print the tables."""
    parser = make_parser()
    require_text(parser)
    settings = vars(parser.parse_args())
    replace_unprintable()
    open_source = settings.pop("source")
    options = Options(**{field.name: settings.pop(field.name) for field in fields(Options) if field.name in settings})
    try:
        tables = evaluate_files(open_source(settings), options=options, **settings)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    Console().print(tables)
    if settings["plots"] is not None:
        tell(f"See {settings['plots']}")


def make_parser() -> ArgumentParser:
    """The two layouts, each with the options of both rules."""
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parts = parser.add_subparsers(metavar="coco | voc", required=True)
    coco = add_part(parts, "coco", "measure against a COCO annotation file", "FILE|DIR")
    coco.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO's annotations, JSON")
    coco.add_argument("--iou-type", choices=["bbox", "segm", "keypoints"], help="boxes (default), masks, keypoints")
    sigmas = "constants of OKS, one for each keypoint (default: COCO's for 17 of them, else 0.05 for each)"
    coco.add_argument("--sigmas", type=float, nargs="+", metavar="S", help=sigmas)
    coco.set_defaults(source=lambda settings: CocoFile(settings.pop("annotations")))
    voc = add_part(parts, "voc", "measure against a VOC folder", "DIR|FILE")
    voc.add_argument("--root", type=Path, required=True, metavar="DIR", help="holds Annotations and ImageSets/Main")
    voc.add_argument("--image-set", required=True, metavar="NAME", help="list in ImageSets/Main, such as val")
    voc.add_argument("--classes", nargs="+", metavar="NAME", help="all classes (default: those found)")
    zero_based = "corners are x, y, x + width, y + height from 0 (default: from 1, the last pixel included)"
    voc.add_argument("--zero-based", dest="one_based", action="store_false", help=zero_based)
    keys = [field.name for field in fields(VocFolder)]
    voc.set_defaults(source=lambda settings: VocFolder(**{key: settings.pop(key) for key in keys}))
    return parser


def add_part(parts: Any, name: str, summary: str, predictions: str) -> ArgumentParser:
    """Add a layout with the options that both have."""
    part: ArgumentParser = parts.add_parser(
        name, help=summary, description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = part.add_argument
    add("--predictions", type=Path, required=True, metavar=predictions, help="results, run or text files, as above")
    add("--rules", choices=["coco", "voc"], default=name, help=f"whose rules (default: {name})")
    add("--compare", dest="other", type=Path, metavar="OTHER", help="other predictions, of the same images")
    add("--resamples", type=int, default=1000, metavar="N", help="draws for the intervals (default: 1000)")
    add("--json", dest="json_file", type=Path, metavar="FILE", help="write all numbers to this file")
    add("--plots", type=Path, metavar="DIR", help="write plots to this folder, as PNG")
    add("--min-score", type=float, default=0.5, metavar="S", help="least score in tables of mistakes (default: 0.5)")
    coco, voc = part.add_argument_group("rules of COCO"), part.add_argument_group("rules of VOC")
    coco.add_argument(
        "--backend",
        choices=["pycocotools", "faster-coco-eval"],
        help="(default: pycocotools, which always counts comparisons)",
    )
    coco.add_argument(
        "--class-agnostic", action="store_true", help="take all classes for one, for proposals say; no keypoints"
    )
    most = "most of a class in an image (default: 1 10 100, of keypoints 20)"
    coco.add_argument("--max-detections", type=int, nargs="+", metavar="N", help=most)
    voc.add_argument("--iou", type=float, metavar="T", help="least IoU of a match (default: 0.5)")
    voc.add_argument("--use-07-metric", action="store_true", help="mean at eleven recalls, as in 2007")
    return part


if __name__ == "__main__":
    main()
