"""JPEG decoders side by side: detmix's, with all that it checks, and the libraries that it could have taken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from io import BytesIO

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as torchvision_decode

from ..data.images import decode_image
from .comparison import Comparison, compare, comparison, time_in_turn
from .photographs import jpeg

_SIZES = ((240, 320), (480, 640), (800, 1333))  # height, width


def compare_decoders(repeats: int) -> list[Comparison]:
    """Decode a photograph of each size to a (3, H, W) tensor of RGB.

    Args:
        repeats: timed repetitions of each row.
    """
    return [*(row for size in _SIZES for row in _of_size(size, repeats)), _reduced(_SIZES[-1], repeats)]


def _of_size(size: tuple[int, int], repeats: int) -> list[Comparison]:
    data = jpeg(*size, np.random.default_rng(0))
    sides: dict[str, Callable[[bytes], Tensor]] = {
        "detmix": partial(decode_image, name="a photograph"),
        "Pillow": _pillow,
        "OpenCV": _opencv,
        "torchvision": _torchvision,
    }
    with warnings.catch_warnings():  # torchvision's decoder says at each call that it will be removed
        warnings.simplefilter("ignore", DeprecationWarning)
        seconds = time_in_turn({name: partial(decode, data) for name, decode in sides.items()}, repeats)
    what, ours = f"{size[1]}x{size[0]}, decoded", seconds.pop("detmix") * 1000
    return [comparison(what, ours, name, values * 1000, unit="ms") for name, values in seconds.items()]


def _reduced(size: tuple[int, int], repeats: int) -> Comparison:
    data, half = jpeg(*size, np.random.default_rng(0)), size[0] // 2
    return compare(
        f"{size[1]}x{size[0]}, reduce_to={half}",
        lambda: decode_image(data, name="a photograph", reduce_to=half),
        "the whole",
        lambda: decode_image(data, name="a photograph"),
        repeats=repeats,
    )


def _pillow(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


def _opencv(data: bytes) -> Tensor:
    return torch.from_numpy(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)).permute(2, 0, 1)


def _torchvision(data: bytes) -> Tensor:
    return torchvision_decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
