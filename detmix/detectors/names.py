"""Class names of models, for error messages."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

DETECTORS = (GeneralizedRCNN, RetinaNet, FCOS, SSD)


def full_name(module: Any) -> str:
    """Module and name of an object's class; for a wrapper around a detector, which part of it is the detector."""
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, nn.Module) and not isinstance(module, DETECTORS):
        for path, part in module.named_modules():
            if isinstance(part, DETECTORS):
                where = "".join(f"[{step}]" if step.isdecimal() else f".{step}" for step in path.split("."))
                return f"{name}, which wraps one: pass the detector itself, model{where}"
    return name
