"""What the training will see, before it starts: blended samples, and one pair at every ratio."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image

from ..figures import draw_boxes, image_grid, lambda_grid
from ..mixing import mix_pair
from .data import DetectionData
from .files import write_whole


def write_preview(data: DetectionData, folder: Path, *, samples: int = 8) -> list[Path]:
    """Draw the first training samples of the first epoch, and the blends of one pair at 0.1 ... 0.9.

    Args:
        data: the data module of a run.
        folder: where ``samples.png`` and ``lambda.png`` are written.
        samples: how many samples are drawn, 1 or more.

    Returns:
        The two files.

    Raises:
        ValueError: there is a single training image, and so no pair; or samples is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, got {samples}")
    if len(data.train_set) < 2:
        raise ValueError("the data set has a single training image: there is no pair to show")
    sample_a, sample_b = (data.train_set.dataset[index] for index in _first_pair(data))
    pictures = {
        "samples.png": _samples(data, min(samples, len(data.train_set))),
        "lambda.png": lambda_grid(sample_a, sample_b, mix_pair, class_names=data.class_names),
    }
    for name, picture in pictures.items():
        write_whole(folder / name, partial(picture.save, format="PNG"))
    return [folder / name for name in pictures]


def _samples(data: DetectionData, count: int) -> Image.Image:
    mixed = [data.train_set[index] for index in range(count)]
    pictures = [draw_boxes(image, target, data.class_names) for image, target in mixed]
    captions = [_caption(target) for _, target in mixed]
    return image_grid(pictures, captions, title="Training samples: each box is as opaque as its weight")


def _caption(target: dict[str, object]) -> str:
    return f"λ = {target['lam']:.2f}" if "lam" in target else "not mixed"


def _first_pair(data: DetectionData) -> tuple[int, int]:
    """The first sample and the partner that was drawn for it, or its neighbour where nothing is mixed."""
    draw = data.train_set.draw(0)
    return 0, 1 if draw is None else draw.partner
