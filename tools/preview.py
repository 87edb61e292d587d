"""Show what a training will see, before it starts: writes three PNG files and opens nothing.

python tools/preview.py --config configs/quickstart.yaml
python tools/preview.py --config configs/bccd.yaml --data.mixup.mix cutmix --output previews

samples.png is a grid of training samples, mixed as the config says, each box as opaque as its weight; lambda.png is one
pair of images at every ratio from 0.1 to 0.9; kinds.png is that pair under mixup, CutMix and cutout. The config is that
of tools/train.py; all its data and model settings can be overridden here.
"""

from __future__ import annotations

from pathlib import Path

from lightning import seed_everything

from detmix.terminal import replace_unprintable, require_text
from detmix.training.parser import run_parser
from detmix.training.preview import batch_mixer, write_preview


def main() -> None:
    """Parse the command line and write the pictures."""
    parser = run_parser(("data", "model", "trainer"), description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("previews"), help="Folder for the pictures.")
    parser.add_argument("--samples", type=int, default=8, help="How many training samples to draw.")
    require_text(parser)
    settings = parser.parse_args()
    replace_unprintable()
    try:
        seed_everything(int(settings.seed_everything), verbose=False)  # the augmentation of the pair draws from torch
        run = parser.instantiate(settings)
        mixer = batch_mixer(run.data, run.trainer)
        files = write_preview(run.data, settings.output, samples=settings.samples, mixer=mixer)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("\n".join(map(str, files)))
    if run.model.mixes:
        print(f"The detector mixes features too, at {' or '.join(run.model.manifold.layers)}: no picture shows that.")


if __name__ == "__main__":
    main()
