"""Detectors by name: torchvision's builders, and one small enough for a CPU."""

from __future__ import annotations

import inspect
from typing import Any, Literal
from urllib.error import URLError

from torch import nn
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, get_model_weights, list_models, resnet18
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

Weights = Literal["backbone", "coco"]

SMALL = "fasterrcnn_resnet18_small"

_CHANNELS = 64  # of the small detector's FPN
_HIDDEN = 256  # width of its box head


def build_detector(name: str, num_classes: int, weights: Weights | None, **options: Any) -> nn.Module:
    """A torchvision detector with a head for `num_classes` classes.

    Args:
        name: of one of torchvision's detection builders, or ``"fasterrcnn_resnet18_small"``.
        num_classes: K, background included.
        weights: ``"backbone"`` starts from torchvision's ImageNet backbone, ``"coco"`` from its detector
            trained on COCO with a fresh box predictor, None from nothing.
        options: passed on to the builder, such as min_size, max_size, trainable_backbone_layers.

    Raises:
        ValueError: no such detector, no such weights for it, or no such option.
        RuntimeError: the weights could not be downloaded; the message says how to go on.
    """
    known = [SMALL, *list_models(torchvision_detection)]
    if name not in known:
        raise ValueError(f"there is no detector {name!r}; known are {', '.join(known)}")
    _check_options(name, options)
    if name == SMALL:
        return _small(num_classes, weights, **options)
    if weights == "coco":
        return _from_coco(name, num_classes, **options)
    backbone = _backbone_weights(name) if weights == "backbone" else None
    return _download(name, weights=None, weights_backbone=backbone, num_classes=num_classes, **options)


def _small(num_classes: int, weights: Weights | None, **options: Any) -> FasterRCNN:
    """Faster R-CNN on the second and third stage of a ResNet-18, with a thin FPN, a small head and few proposals.

    Strides are 8, 16 and, pooled, 32.
    """
    if weights is not None:
        raise ValueError(f"{SMALL} has no pre-trained weights: pass weights=null, got {weights!r}")
    backbone = BackboneWithFPN(resnet18(weights=None), {"layer2": "0", "layer3": "1"}, [128, 256], _CHANNELS)
    settings: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(((24,), (48,), (96,)), ((0.5, 1.0, 2.0),) * 3),
        "rpn_pre_nms_top_n_train": 200,
        "rpn_post_nms_top_n_train": 100,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 64,
        "box_roi_pool": MultiScaleRoIAlign(["0", "1"], output_size=7, sampling_ratio=1),
        "box_head": TwoMLPHead(_CHANNELS * 7 * 7, _HIDDEN),
        "box_predictor": FastRCNNPredictor(_HIDDEN, num_classes),
        "box_batch_size_per_image": 32,
    }
    return FasterRCNN(backbone, **settings | options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    """Torchvision takes any keyword and drops what it does not know; a typo is to be an error."""
    callables: list[Any] = [FasterRCNN, GeneralizedRCNNTransform]
    if name != SMALL:
        callables.append(getattr(torchvision_detection, name))
    known = {key for callable_ in callables for key in inspect.signature(callable_).parameters}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"model.options has no {', '.join(unknown)}; there are {', '.join(sorted(known))}")


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
