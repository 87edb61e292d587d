"""Small made-up samples and detectors that the tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

from detmix.data import Annotations, read_coco

Sample = tuple[Tensor, dict[str, Any]]

BUILDERS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
FAMILIES = ("FasterRCNN", "MaskRCNN", "KeypointRCNN", "RetinaNet", "FCOS", "SSD")
KEYPOINTS = 17


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
    """A torchvision detector with random weights, on small images and few rows, in training mode."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {} if "ssd" in name else {"min_size": 64, "max_size": 96}
    if "rcnn" in name:
        options |= {"rpn_post_nms_top_n_train": 100, "rpn_batch_size_per_image": 64, "box_batch_size_per_image": 24}
    builder = getattr(detection, name)
    return builder(weights=None, weights_backbone=None, num_classes=num_classes, **options).train()


class TinyBackbone(nn.Sequential):
    """One convolution of stride 8: a backbone as a user might bring along."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 32, 8, stride=8), nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm2d(32))
        self.out_channels: Any = 32


def make_assembled(family: str, *, num_classes: int = 4, seed: int = 0) -> nn.Module:
    """A detector of torchvision's classes around a backbone of one's own; tens of milliseconds a step."""
    torch.manual_seed(seed)
    if family == "SSD":
        boxes = DefaultBoxGenerator([[2]], scales=[0.2, 0.5], steps=[8])
        backbone = TinyBackbone()
        backbone.out_channels = [32]
        return SSD(backbone, boxes, (64, 64), num_classes).train()
    if family in ("RetinaNet", "FCOS"):
        ratios = ((0.5, 1.0, 2.0),) if family == "RetinaNet" else ((1.0,),)
        anchors = AnchorGenerator(((16,),), ratios)
        kind = getattr(detection, family)
        return kind(TinyBackbone(), num_classes, anchor_generator=anchors, min_size=64, max_size=96).train()
    return _assemble_rcnn(family, num_classes)


def _assemble_rcnn(family: str, num_classes: int) -> nn.Module:
    pools = {side: MultiScaleRoIAlign(["0"], side, 2) for side in (7, 14)}
    options: dict[str, Any] = {"rpn_anchor_generator": AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),))}
    options |= {"min_size": 64, "max_size": 96, "box_roi_pool": pools[7], "box_head": TwoMLPHead(32 * 49, 32)}
    options |= {"box_predictor": FastRCNNPredictor(32, num_classes), "rpn_post_nms_top_n_train": 60}
    if family == "MaskRCNN":
        options |= {"mask_roi_pool": pools[14], "mask_head": MaskRCNNHeads(32, (16,), 1)}
        options |= {"mask_predictor": MaskRCNNPredictor(16, 16, num_classes)}
    if family == "KeypointRCNN":
        options |= {"keypoint_roi_pool": pools[14], "keypoint_head": KeypointRCNNHeads(32, (16,))}
        options |= {"keypoint_predictor": KeypointRCNNPredictor(16, KEYPOINTS)}
    return getattr(detection, family)(TinyBackbone(), **options).train()


def make_batch(
    counts: tuple[int, ...],
    *,
    weights: tuple[tuple[float, ...], ...] | None = None,
    sources: tuple[tuple[int, ...], ...] | None = None,
) -> tuple[list, list]:
    """Float images and targets with the given numbers of objects; with weights and sources where they are given."""
    samples = [make_sample(count, seed=seed, dtype=torch.float32) for seed, count in enumerate(counts)]
    for seed, (_, target) in enumerate(samples):
        target.update(make_parts(target["boxes"], seed=seed))
    for (_, target), shares in zip(samples, weights or (), strict=False):
        target["weights"] = torch.tensor(shares, dtype=torch.float32).reshape(-1)
    for (_, target), numbers in zip(samples, sources or (), strict=False):
        target["sources"] = torch.tensor(numbers, dtype=torch.int64).reshape(-1)
    return [image for image, _ in samples], [target for _, target in samples]


def make_parts(boxes: Tensor, *, seed: int, size: tuple[int, int] = (48, 64)) -> dict[str, Tensor]:
    """Masks of noise and keypoints inside the boxes, a third of them not visible."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 2, (len(boxes), *size), generator=generator, dtype=torch.uint8)
    where = torch.rand(len(boxes), KEYPOINTS, 2, generator=generator)
    points = boxes[:, None, :2] + where * (boxes[:, None, 2:] - boxes[:, None, :2])
    visible = torch.randint(0, 3, (len(boxes), KEYPOINTS, 1), generator=generator)
    return {"masks": masks, "keypoints": torch.cat([points, visible], dim=2)}


class ListDataset(torch.utils.data.Dataset):
    """A map-style data set over samples in memory."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def write_coco_folder(folder: Path, count: int) -> Annotations:
    """Images of noise, unequal in size, and their annotations; the second image has a crowd, the last no object."""
    rng = np.random.default_rng(count)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        height, width = 20 + number, 24
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": 100 + number, "file_name": f"{number}.png", "height": height, "width": width})
        for x1, y1, x2, y2 in make_boxes(1 + number % 3, (height, width), rng).tolist() if number < count - 1 else []:
            row = {"id": len(annotations) + 1, "image_id": 100 + number, "category_id": 1 + len(annotations) % 3}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(number == 1 and len(annotations) == 1)}
            annotations.append(row)
    categories = [{"id": label, "name": name} for label, name in enumerate(("cat", "dog", "owl"), start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "set.json").write_text(json.dumps(content))
    return read_coco(folder / "set.json", folder / "images")
