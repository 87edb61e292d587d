"""The blend of two images, as a multiple of copying the canvas."""

from __future__ import annotations

import numpy as np
import torch

from ..canvas import blend
from .comparison import Comparison, Report, compare


def measure_blend(repeats: int = 300) -> Report:
    """Blend two images, against a copy of the canvas.

    Args:
        repeats: timed pairs of each row.
    """
    pairs = (((480, 640), (480, 640)), ((480, 640), (640, 427)), ((1080, 1920), (1080, 1920)))
    return Report("Blend of two uint8 images, 3 channels", [_against_copy(*sizes, repeats) for sizes in pairs])


def _against_copy(size_a: tuple[int, int], size_b: tuple[int, int], repeats: int) -> Comparison:
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for size in (size_a, size_b))
    canvas = blend(first, second, 0.3)
    target = torch.empty_like(canvas)
    name = " + ".join(f"{width}x{height}" for height, width in (size_a, size_b))
    return compare(name, lambda: blend(first, second, 0.3), "copy", lambda: target.copy_(canvas), repeats=repeats)
