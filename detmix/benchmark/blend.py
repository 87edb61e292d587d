"""The blend of two images: against copying the canvas, and against what a user would write otherwise."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from ..canvas import blend
from ..mixing import mix_pair
from ..targets import Target
from .comparison import Action, BenchmarkReport, Comparison, compare, comparison
from .opening import with_peak

_LAM = 0.3
_VGA, _UPRIGHT, _LARGE, _PHOTOGRAPH = (480, 640), (640, 427), (800, 1333), (3000, 4000)  # height, width
_POOL = 48  # MiB of images that are taken in turn, so that none is still in a cache of the processor


def measure_blend(objects: int = 8, repeats: int = 300) -> BenchmarkReport:
    """Mix two images with their targets, against a copy of the canvas and other ways to blend.

    The images are uint8, pixel by pixel as decoders write them. "Fresh" ones come from memory, as does what is copied,
    and both go to what the allocator hands out; the others stay in the processor's cache, and the copy goes where the
    last one went.
    The other ways blend the pixels alone. Peak memory is what the process takes beside the images, the canvas
    included; on Linux.

    Args:
        objects: in each image.
        repeats: timed pairs of each row.
    """
    report = BenchmarkReport(f"Mixing of two uint8 images, 3 channels, {objects} objects in each")
    for sizes in ((_VGA, _VGA), (_VGA, _UPRIGHT), (_LARGE, _LARGE)):
        report.rows.append(_in_cache(*sizes, objects, repeats))
        report.rows.append(_fresh(*sizes, objects, repeats))
    report.rows += _against_others(repeats)
    if sys.platform == "linux":
        report.rows.append(_peak_memory(objects))
    return report


def _in_cache(size_a: tuple[int, int], size_b: tuple[int, int], objects: int, repeats: int) -> Comparison:
    first, second = _sample(size_a, objects), _sample(size_b, objects)
    canvas = blend(first[0], second[0], _LAM)
    target = torch.empty_like(canvas)
    mix = _mixing([(first, second)])
    return compare(_name(size_a, size_b), mix, "copy", lambda: target.copy_(canvas), repeats=repeats)


def _fresh(size_a: tuple[int, int], size_b: tuple[int, int], objects: int, repeats: int) -> Comparison:
    count = max(2, (_POOL << 20) // (3 * (size_a[0] * size_a[1] + size_b[0] * size_b[1])))
    pairs = [(_sample(size_a, objects), _sample(size_b, objects)) for _ in range(count)]
    canvases = cycle([blend(first[0], second[0], _LAM) for first, second in pairs])
    name = f"{_name(size_a, size_b)}, fresh"
    return compare(name, _mixing(pairs), "copy", lambda: next(canvases).clone(), repeats=repeats)


def _mixing(pairs: list[tuple[tuple[Tensor, Target], tuple[Tensor, Target]]]) -> Action:
    turn: Iterator[Any] = cycle(pairs)

    def mix() -> None:
        first, second = next(turn)
        mix_pair(*first, *second, lam=_LAM)

    return mix


def _against_others(repeats: int) -> list[Comparison]:
    (first, _), (second, _) = _sample(_VGA, 0), _sample(_VGA, 0)
    ways: dict[str, Callable[[], Any]] = {
        "cv2.addWeighted, flat": _by_opencv(first, second),
        "numpy, float": lambda: _by_numpy(first.numpy(), second.numpy()),
        "torch, float": lambda: _by_torch(first, second),
        "torchvision v2, MixUp": lambda: _by_torchvision(first, second),
    }
    return [
        compare("640x480, pixels alone", lambda: blend(first, second, _LAM), name, way, repeats=repeats)
        for name, way in ways.items()
    ]


def _by_opencv(first: Tensor, second: Tensor) -> Action:
    """The least that OpenCV does: one plane into memory that is there."""
    flat, other = (image.permute(1, 2, 0).numpy().reshape(-1) for image in (first, second))
    out = np.empty_like(flat)
    return lambda: cv2.addWeighted(flat, _LAM, other, 1 - _LAM, 0.0, dst=out)


def _by_numpy(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.rint(np.float32(_LAM) * first + np.float32(1 - _LAM) * second).astype(np.uint8)


def _by_torch(first: Tensor, second: Tensor) -> Tensor:
    return (_LAM * first.float() + (1 - _LAM) * second.float()).round().to(torch.uint8)


def _by_torchvision(first: Tensor, second: Tensor) -> Tensor:
    """What its class MixUp does to a batch of two, which must be floats."""
    batch = to_dtype(torch.stack([first, second]), torch.float32, scale=True)
    return batch.roll(1, 0).mul_(1 - _LAM).add_(batch.mul(_LAM))


def _peak_memory(objects: int) -> Comparison:
    """In a process of its own: one that has worked before may have room for a canvas in what it has freed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        peak, canvas = fresh.submit(_peak_and_canvas, objects).result()
    return comparison(f"{_name(_PHOTOGRAPH, _PHOTOGRAPH)}, peak memory", peak, "the canvas", canvas, unit="MiB")


def _peak_and_canvas(objects: int) -> tuple[float, float]:
    """By how much the memory of this process rises in a mix, and what its canvas takes, in MiB."""
    small = _sample(_VGA, objects)
    mix_pair(*small, *small, lam=_LAM)  # compiled before
    first, second = _sample(_PHOTOGRAPH, objects), _sample(_PHOTOGRAPH, objects)
    (canvas, _), peak = with_peak(lambda: mix_pair(*first, *second, lam=_LAM))
    return peak, canvas.nbytes / 2**20


def _sample(size: tuple[int, int], objects: int) -> tuple[Tensor, Target]:
    height, width = size
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).permute(2, 0, 1)
    boxes = torch.tensor([[0.0, 0.0, width, height]]).repeat(objects, 1)
    return image, {"boxes": boxes, "labels": torch.ones(objects, dtype=torch.int64)}


def _name(size_a: tuple[int, int], size_b: tuple[int, int]) -> str:
    return " + ".join(f"{width}x{height}" for height, width in (size_a, size_b))
