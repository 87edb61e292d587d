"""Small made-up samples and detectors that the tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection

Sample = tuple[Tensor, dict[str, Any]]

FASTER_RCNNS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)


def make_boxes(count: int, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """(count, 4) float32 xyxy boxes of at least four pixels a side, inside an image of (H, W) pixels."""
    height, width = size
    corner = rng.uniform(0, [width - 4, height - 4], (count, 2))
    extent = rng.uniform(4, [width, height] - corner)
    return torch.tensor(np.concatenate([corner, corner + extent], axis=1), dtype=torch.float32).reshape(count, 4)


def make_target(count: int, *, seed: int, size: tuple[int, int] = (48, 64), num_classes: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(1, num_classes, count))
    return {"boxes": make_boxes(count, size, rng), "labels": labels, "image_id": seed}


def make_sample(count: int, *, seed: int, size: tuple[int, int] = (48, 64), dtype: torch.dtype = torch.uint8) -> Sample:
    """A (3, H, W) image of noise, uint8 or floating in [0, 1], and a target with `count` boxes."""
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8))
    image = pixels if dtype == torch.uint8 else (pixels.double() / 255).to(dtype)
    return image, make_target(count, seed=seed, size=size)


def make_detector(name: str = "fasterrcnn_resnet50_fpn", *, num_classes: int = 4, seed: int = 0) -> nn.Module:
    """A torchvision detector with random weights, on images resized to 64 pixels, in training mode."""
    torch.manual_seed(seed)
    builder = getattr(detection, name)
    return builder(weights=None, weights_backbone=None, num_classes=num_classes, min_size=64, max_size=96).train()


def make_batch(counts: tuple[int, ...], *, weights: tuple[tuple[float, ...], ...] | None = None) -> tuple[list, list]:
    """Float images and targets with the given numbers of boxes; with weights where they are given."""
    samples = [make_sample(count, seed=seed, dtype=torch.float32) for seed, count in enumerate(counts)]
    for (_, target), shares in zip(samples, weights or (), strict=False):
        target["weights"] = torch.tensor(shares, dtype=torch.float32).reshape(-1)
    return [image for image, _ in samples], [target for _, target in samples]


class ListDataset(torch.utils.data.Dataset):
    """A map-style data set over samples in memory."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]
