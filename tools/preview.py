"""Show what a training will see, before it starts: writes two PNG files and opens nothing.

python tools/preview.py --config configs/quickstart.yaml
python tools/preview.py --config configs/bccd.yaml --data.mixup.alpha 0.2 --output previews

samples.png is a grid of training samples, each box as opaque as its weight; lambda.png is one pair of images at
every ratio from 0.1 to 0.9. The config is that of tools/train.py; all its data settings can be overridden here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning import seed_everything

from detmix.training import DetectionData
from detmix.training.preview import write_preview

OTHER_SECTIONS = ("model", "trainer", "name", "runs", "ckpt_path", "weights_only", "verbose")


def main() -> None:
    """Parse the command line and write the pictures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", action="config", help="Config file of tools/train.py.")
    parser.add_argument("--output", type=Path, default=Path("previews"), help="Folder for the pictures.")
    parser.add_argument("--samples", type=int, default=8, help="How many training samples to draw.")
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of the augmentation.")
    parser.add_class_arguments(DetectionData, "data")
    for section in OTHER_SECTIONS:
        parser.add_argument(f"--{section}", type=Any, help="Read by tools/train.py; no matter here.")
    settings = parser.parse_args()
    try:
        seed_everything(settings.seed_everything, verbose=False)
        data = parser.instantiate_classes(settings).data
        files = write_preview(data, settings.output, samples=settings.samples)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("\n".join(map(str, files)))


if __name__ == "__main__":
    main()
