"""Detectors by name: torchvision's builders, and one small enough for a CPU."""

from __future__ import annotations

from typing import Any, Literal
from urllib.error import URLError

from torch import nn
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, get_model_weights, list_models, resnet18
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead

Weights = Literal["backbone", "coco"]

SMALL = "fasterrcnn_resnet18_small"

_HIDDEN = 256  # width of the small detector's box head
_LEVELS = 5  # FPN levels: four of the backbone, one pooled


def build_detector(name: str, num_classes: int, weights: Weights | None, **options: Any) -> nn.Module:
    """A torchvision detector with a head for `num_classes` classes.

    Args:
        name: of one of torchvision's detection builders, or ``"fasterrcnn_resnet18_small"``.
        num_classes: K, background included.
        weights: ``"backbone"`` starts from torchvision's ImageNet backbone, ``"coco"`` from its detector
            trained on COCO with a fresh box predictor, None from nothing.
        options: passed on to the builder, such as min_size, max_size, trainable_backbone_layers.

    Raises:
        ValueError: no such detector, or no such weights for it.
        RuntimeError: the weights could not be downloaded; the message says how to go on.
    """
    known = [SMALL, *list_models(torchvision_detection)]
    if name not in known:
        raise ValueError(f"there is no detector {name!r}; known are {', '.join(known)}")
    if name == SMALL:
        return _small(num_classes, weights, **options)
    if weights == "coco":
        return _from_coco(name, num_classes, **options)
    backbone = _backbone_weights(name) if weights == "backbone" else None
    return _download(name, weights=None, weights_backbone=backbone, num_classes=num_classes, **options)


def _small(num_classes: int, weights: Weights | None, *, channels: int = 64, **options: Any) -> FasterRCNN:
    """Faster R-CNN with ResNet-18, a thin FPN, one MLP head and few proposals: about 12 million parameters."""
    if weights is not None:
        raise ValueError(f"{SMALL} has no pre-trained weights: pass weights=null, got {weights!r}")
    body = resnet18(weights=None)
    layers = {f"layer{stage}": str(stage - 1) for stage in range(1, 5)}
    backbone = BackboneWithFPN(body, layers, [64, 128, 256, 512], channels)
    settings: dict[str, Any] = {
        "rpn_pre_nms_top_n_train": 200,
        "rpn_post_nms_top_n_train": 100,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 64,
        "box_batch_size_per_image": 32,
        "box_detections_per_img": 50,
    } | options
    anchors = AnchorGenerator(tuple((2**level,) for level in range(4, 4 + _LEVELS)), ((0.5, 1.0, 2.0),) * _LEVELS)
    head = TwoMLPHead(channels * 7 * 7, _HIDDEN)
    predictor = FastRCNNPredictor(_HIDDEN, num_classes)
    return FasterRCNN(backbone, rpn_anchor_generator=anchors, box_head=head, box_predictor=predictor, **settings)


def _from_coco(name: str, num_classes: int, **options: Any) -> nn.Module:
    model: Any = _download(name, weights="COCO_V1", **options)
    if not isinstance(model, FasterRCNN):
        raise ValueError(f"weights='coco' is for Faster R-CNN, got {name}")
    model.roi_heads.box_predictor = FastRCNNPredictor(model.roi_heads.box_predictor.cls_score.in_features, num_classes)
    return model


def _backbone_weights(name: str) -> str:
    weights: Any = get_model_weights(name)
    return weights.DEFAULT.meta.get("backbone", "IMAGENET1K_V1")


def _download(name: str, **options: Any) -> nn.Module:
    try:
        return get_model(name, **options)
    except (URLError, ConnectionError, TimeoutError) as error:
        wanted = options.get("weights") or options.get("weights_backbone")
        raise RuntimeError(
            f"the weights {wanted} of {name} could not be downloaded ({error}). Go on in one of three ways: "
            "connect and run again; put the file that torchvision names above into the folder "
            "$TORCH_HOME/hub/checkpoints; or train from nothing with --model.weights null"
        ) from error
