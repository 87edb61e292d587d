"""The blend of two images, as a multiple of copying the canvas."""

from __future__ import annotations

import numpy as np
import torch

from ..canvas import blend
from .comparison import Report, compare


def measure_blend(repeats: int = 300) -> Report:
    """Blend two images, against a copy of the canvas.

    Args:
        repeats: timed pairs of each row.
    """
    rng = np.random.default_rng(0)
    report = Report("Blend of two uint8 images, 3 channels")
    for size_a, size_b in (((480, 640), (480, 640)), ((480, 640), (640, 427)), ((1080, 1920), (1080, 1920))):
        first, second = (
            torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for size in (size_a, size_b)
        )
        canvas = blend(first, second, 0.3)
        target = torch.empty_like(canvas)
        name = " + ".join(f"{width}x{height}" for height, width in (size_a, size_b))
        report.rows.append(
            compare(name, lambda: blend(first, second, 0.3), "copy", lambda: target.copy_(canvas), repeats=repeats)
        )
    return report
