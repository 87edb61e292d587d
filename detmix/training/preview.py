"""What the training will see, before it starts: mixed samples, and one pair mixed at every ratio and in each way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image

from ..batch import MixupBatch, collate
from ..canvas import canvas_size, image_size
from ..cutmix import cutmix_pair, cutout, region_around
from ..figures import draw_boxes, image_grid, lambda_grid
from ..figures.boxes import SHOWN
from ..files import write_whole
from ..mixing import Sample, mix_pair
from ..targets import Target
from .callbacks import MixBatches
from .data import DetectionData

_LAM = 0.7  # of the pair that is mixed in each way: much of either image is seen
_CENTRE = (0.6, 0.6)  # of the region that is cut out, as fractions of the image


def write_preview(
    data: DetectionData, folder: Path, *, samples: int = 8, mixer: MixupBatch | None = None
) -> list[Path]:
    """Draw the first training samples of the first epoch, and one pair of images mixed in all ways.

    Args:
        data: the data module of a run.
        folder: where ``samples.png``, ``lambda.png`` (a pair blended at 0.1 ... 0.9) and ``kinds.png`` (the
            same pair under mixup, CutMix and cutout) are written.
        samples: how many samples are drawn, 1 or more.
        mixer: what mixes the batches of the run. In ``samples.png`` batches follow the order of the data set;
            the training shuffles it.

    Returns:
        The three files.

    Raises:
        ValueError: there is a single training image, and so no pair; or samples is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, got {samples}")
    if len(data.train_set) < 2:
        raise ValueError("the data set has a single training image: there is no pair to show")
    sample_a, sample_b = (data.train_set.dataset[index] for index in _first_pair(data))
    pictures = {
        "samples.png": _samples(data, min(samples, len(data.train_set)), mixer),
        "lambda.png": lambda_grid(sample_a, sample_b, mix_pair, class_names=data.class_names),
        "kinds.png": _kinds(data, sample_a, sample_b),
    }
    for name, picture in pictures.items():
        write_whole(folder / name, partial(picture.save, format="PNG"))
    return [folder / name for name in pictures]


def batch_mixer(data: DetectionData, trainer: Mapping[str, Any] | None) -> MixupBatch | None:
    """What mixes the batches of a run, if anything does.

    Args:
        data: the data module of the run.
        trainer: the trainer's settings; callbacks are instances, one or a list.

    Raises:
        ValueError: one of the callbacks is none, or some are to be added to others.
    """
    if "callbacks+" in (trainer or {}):
        raise ValueError("--trainer.callbacks+ cannot be told from here: name all callbacks with --trainer.callbacks")
    given = (trainer or {}).get("callbacks") or []
    for callback in given if isinstance(given, list) else [given]:
        if not isinstance(callback, L.Callback):
            raise ValueError(f"trainer.callbacks must be callbacks and take the arguments given, got {callback}")
        if isinstance(callback, MixBatches):
            callback.mixer.seed = data.mixing_seed
            return callback.mixer
    return None


def _samples(data: DetectionData, count: int, mixer: MixupBatch | None) -> Image.Image:
    mixed = _mixed_samples(data, count, mixer)
    pictures = [draw_boxes(*sample, data.class_names, max_side=SHOWN, edges=data.edges) for sample in mixed]
    captions = [_caption(target) for _, target in mixed]
    return image_grid(pictures, captions, title="Training samples: each box is as opaque as its weight")


def _mixed_samples(data: DetectionData, count: int, mixer: MixupBatch | None) -> list[Sample]:
    """The first samples, in whole batches where batches are mixed: a partner may come later."""
    if mixer is None:
        return [data.seeded_set[index] for index in range(count)]
    mixed: list[Sample] = []
    while len(mixed) < count:
        rows = range(len(mixed), min(len(mixed) + data.batch_size, len(data.train_set)))
        mixed += zip(*mixer(*collate(data.seeded_set[index] for index in rows)), strict=True)
    return mixed[:count]


def _caption(target: Target) -> str:
    if "lam" in target:
        return f"λ = {target['lam']:.2f}"
    return "a region cut out" if "covers" in target else "not mixed"


def _kinds(data: DetectionData, sample_a: Sample, sample_b: Sample) -> Image.Image:
    region = region_around(_CENTRE, _LAM, canvas_size(sample_a[0], sample_b[0]))
    hole = region_around(_CENTRE, _LAM, image_size(sample_a[0]))
    kinds = {
        f"mixup: {_LAM:g} of A, {1 - _LAM:.1g} of B": mix_pair(*sample_a, *sample_b, lam=_LAM),
        "CutMix: a region of A is B's": cutmix_pair(*sample_a, *sample_b, region=region),
        "cutout: a region of A is blank": cutout(*sample_a, region=hole),
    }
    pictures = [draw_boxes(*sample, data.class_names, max_side=SHOWN, edges=data.edges) for sample in kinds.values()]
    title = "One pair, A and B, in each way: a weight is the visible share of its object"
    return image_grid(pictures, list(kinds), columns=3, title=title)


def _first_pair(data: DetectionData) -> tuple[int, int]:
    """The first sample and the partner that was drawn for it, or its neighbour where it has none."""
    draw = data.train_set.draw(0)
    return 0, 1 if draw is None or draw.partner == 0 else draw.partner
