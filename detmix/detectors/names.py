"""What a model that is refused is called."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD


def full_name(module: Any) -> str:
    """Module and name of an object's class; for a wrapper around a detector, that it has to come off first."""
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    kinds = (GeneralizedRCNN, RetinaNet, FCOS, SSD)
    if isinstance(module, nn.Module) and not isinstance(module, kinds):
        if any(isinstance(part, kinds) for part in module.modules()):
            return f"{name}, which wraps one: pass the detector itself"
    return name
