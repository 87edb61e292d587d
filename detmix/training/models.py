"""Detectors by name: torchvision's builders, and three small enough for a CPU."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, Literal
from urllib.error import URLError

from torch import nn
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, get_model_weights, list_models, resnet18
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNN, KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from ..data.skeleton import COCO_PERSON

Weights = Literal["backbone", "coco"]

_SMALL: dict[str, type[FasterRCNN]] = {
    "fasterrcnn_resnet18_small": FasterRCNN,
    "maskrcnn_resnet18_small": MaskRCNN,
    "keypointrcnn_resnet18_small": KeypointRCNN,
}
_CHANNELS = 64  # of the small detectors' FPN, and of their heads of masks and of keypoints
_HIDDEN = 256  # width of their box head
COCO_KEYPOINTS = len(COCO_PERSON.names)

# in torchvision's signatures, but no options: what is given already, and modules, which no config can hold
_GIVEN = {"weights", "weights_backbone", "progress", "num_classes", "backbone", "size", "kwargs"}
_MODULES = {"anchor_generator", "head", "norm_layer", "proposal_matcher"}
_MODULES |= {"rpn_anchor_generator", "rpn_head"}
_MODULES |= {f"{kind}_{part}" for kind in ("box", "mask", "keypoint") for part in ("roi_pool", "head", "predictor")}
# the last layers of the classification heads of RetinaNet and FCOS; of SSD and SSDlite
_CLASS_LAYER = re.compile(r"(cls_logits|module_list\.\d+(\.1)?)\.(weight|bias)")


def detector_names() -> list[str]:
    """The detectors that are known: all of the installed torchvision, and the small ones."""
    return [*_SMALL, *list_models(torchvision_detection)]


def learns_masks(name: str) -> bool:
    """Whether a detector learns from masks beside boxes."""
    return _family(name) == "maskrcnn"


def learns_keypoints(name: str) -> bool:
    """Whether a detector learns from keypoints beside boxes."""
    return _family(name) == "keypointrcnn"


def build_detector(name: str, num_classes: int, weights: Weights | None, **options: Any) -> nn.Module:
    """A torchvision detector with a head for ``num_classes`` classes.

    Args:
        name: one of ``detector_names``: a detection builder of torchvision's (Faster R-CNN, Mask R-CNN, RetinaNet,
            FCOS, SSD, SSDlite, Keypoint R-CNN), ``"fasterrcnn_resnet18_small"``, ``"maskrcnn_resnet18_small"`` or
            ``"keypointrcnn_resnet18_small"``.
        num_classes: K, background included.
        weights: ``"backbone"`` starts from torchvision's ImageNet backbone; ``"coco"`` from its detector
            trained on COCO, all of it but the last layers whose outputs are by class (in Faster, Mask and Keypoint
            R-CNN those of the boxes, and of the masks, too), since labels are the data's own, and that of the keypoints
            if they are not as many as COCO's; None from nothing.
        options: passed on to the builder, such as min_size, max_size, trainable_backbone_layers, and num_keypoints of
            Keypoint R-CNN, 17 unless given.

    Raises:
        ValueError: no such detector, no such weights for it, or no such option.
        RuntimeError: the weights could not be downloaded; the message says how to go on.
    """
    _check_name(name)
    _check_options(name, options)
    if name in _SMALL:
        return _small(name, num_classes, weights, **options)
    if weights == "coco":
        return _from_coco(name, num_classes, **options)
    backbone = _backbone_weights(name) if weights == "backbone" else None
    return _download(name, weights=None, weights_backbone=backbone, num_classes=num_classes, **options)


def untrained_detector(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Any detector with random weights, to load trained ones into.

    Args:
        name: one of ``detector_names``.
        num_classes: K, background included.
        options: passed on to the builder, such as min_size and max_size.

    Raises:
        ValueError: no such detector, or no such option.
    """
    _check_name(name)
    _check_options(name, options)
    if name in _SMALL:
        return _small(name, num_classes, None, **options)
    detector: nn.Module = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **options)
    return detector


def pretrained_detector(name: str, weights: str, **options: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """A detector of torchvision's as torchvision trained it.

    Args:
        name: one of ``detector_names``.
        weights: torchvision's name for them, such as ``COCO_V1``.
        options: passed on to the builder, such as min_size and max_size.

    Returns:
        The detector, and the name of each label from 1 on; a number that COCO does not use is named ``N/A``.

    Raises:
        ValueError: no such detector, no such weights for it, or no such option; or the file of weights that is
            there already holds more than weights.
        RuntimeError: the weights could not be downloaded; the message says how to go on.
    """
    _check_name(name)
    _check_options(name, options)
    known = {} if name in _SMALL else get_model_weights(name).__members__
    if weights not in known:
        raise ValueError(f"{name} has no weights {weights!r} in torchvision; there are {', '.join(known) or 'none'}")
    with _naming_failed_downloads(f"{weights} of {name}", "pass the path of a file with --weights"):
        _check_download(known[weights])
        detector: nn.Module = get_model(name, weights=known[weights], **options)
    return detector, tuple(known[weights].meta["categories"][1:])


def coco_classes() -> tuple[str, ...]:
    """The names of torchvision's labels 1 ... 90 of COCO, its category ids; unused ones are named ``N/A``."""
    return tuple(torchvision_detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])


def weights_shape_the_model(name: str, weights: Weights | None) -> bool:
    """Whether torchvision builds another network with these weights than without.

    If so, a checkpoint that started from them fits only a detector built with them. COCO's Faster R-CNN, Mask
    R-CNN and RetinaNet have batch norms of another epsilon, and SSDlite on an ImageNet backbone has wider last layers.
    """
    return weights == "coco" or (weights == "backbone" and _family(name).startswith("ssdlite"))


def _small(
    name: str, num_classes: int, weights: Weights | None, num_keypoints: int = COCO_KEYPOINTS, **options: Any
) -> FasterRCNN:
    """A detector on ``layer2`` and ``layer3`` of a ResNet-18, with a thin FPN, small heads and few proposals.

    Strides are 8, 16 and, pooled, 32.
    """
    if weights is not None:
        raise ValueError(f"{name} has no pre-trained weights: pass weights=null, got {weights!r}")
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
    if learns_masks(name):
        settings |= {
            "mask_roi_pool": MultiScaleRoIAlign(["0", "1"], output_size=14, sampling_ratio=1),
            "mask_head": MaskRCNNHeads(_CHANNELS, (_CHANNELS, _CHANNELS), dilation=1),
            "mask_predictor": MaskRCNNPredictor(_CHANNELS, _CHANNELS, num_classes),
        }
    if learns_keypoints(name):
        settings |= {
            "keypoint_roi_pool": MultiScaleRoIAlign(["0", "1"], output_size=14, sampling_ratio=1),
            "keypoint_head": KeypointRCNNHeads(_CHANNELS, (_CHANNELS, _CHANNELS)),
            "keypoint_predictor": KeypointRCNNPredictor(_CHANNELS, num_keypoints),
        }
    return _SMALL[name](backbone, **settings | options)


def _check_name(name: str) -> None:
    known = detector_names()
    if name not in known:
        raise ValueError(f"there is no detector {name!r}; known are {', '.join(known)}")


def _check_options(name: str, options: dict[str, Any]) -> None:
    """Torchvision takes any keyword and drops what it does not know; a typo is to be an error."""
    builder = _SMALL.get(name) or getattr(torchvision_detection, name)
    kind = _SMALL.get(name) or inspect.signature(builder).return_annotation
    resizing = [] if kind is SSD else [GeneralizedRCNNTransform]
    known = {key for part in (builder, kind, *resizing) for key in inspect.signature(part).parameters}
    known -= _GIVEN | _MODULES
    unknown = sorted(set(options) - known)
    if unknown:
        fixed = kind is SSD and not {"min_size", "max_size", "size", "fixed_size"}.isdisjoint(unknown)
        why = f": {name} resizes every image to the size in its name" if fixed else f" for {name}"
        raise ValueError(f"model.options has no {', '.join(unknown)}{why}; there are {', '.join(sorted(known))}")
    for key in {"min_size", "max_size"} & set(options):
        sizes = options[key] if isinstance(options[key], (list, tuple)) else [options[key]]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"model.options.{key} must be in pixels, 1 or more, got {options[key]}")


def _from_coco(name: str, num_classes: int, num_keypoints: int | None = None, **options: Any) -> nn.Module:
    model: Any = _download(name, weights="COCO_V1", **options)
    if isinstance(model, FasterRCNN):
        width = model.roi_heads.box_predictor.cls_score.in_features
        model.roi_heads.box_predictor = FastRCNNPredictor(width, num_classes)
        if isinstance(model, MaskRCNN):
            _replace_mask_classes(model, num_classes)
        if isinstance(model, KeypointRCNN) and num_keypoints not in (None, COCO_KEYPOINTS):
            width = model.roi_heads.keypoint_predictor.kps_score_lowres.in_channels
            model.roi_heads.keypoint_predictor = KeypointRCNNPredictor(width, num_keypoints)
        return model
    trained = model.head.classification_head.state_dict()
    fresh: Any = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)
    model.head.classification_head = fresh.head.classification_head
    kept = {key: value for key, value in trained.items() if not _CLASS_LAYER.fullmatch(key)}
    model.head.classification_head.load_state_dict(model.head.classification_head.state_dict() | kept)
    return model


def _replace_mask_classes(model: Any, num_classes: int) -> None:
    """Give a Mask R-CNN a fresh last layer of its masks, which are by class."""
    trained = model.roi_heads.mask_predictor
    fresh = MaskRCNNPredictor(trained.conv5_mask.in_channels, trained.conv5_mask.out_channels, num_classes)
    trained.mask_fcn_logits = fresh.mask_fcn_logits


def _backbone_weights(name: str) -> Any:
    """The builder's own default, such as the VGG of SSD300 that takes pixels of 0 to 255; ImageNet's first else."""
    default = inspect.signature(getattr(torchvision_detection, name)).parameters["weights_backbone"].default
    return default or "IMAGENET1K_V1"


def _download(name: str, **options: Any) -> nn.Module:
    wanted = options.get("weights") or options.get("weights_backbone")
    with _naming_failed_downloads(f"{wanted} of {name}", "train from nothing with --model.weights null"):
        return get_model(name, **options)


def _check_download(weights: Any) -> None:
    """Look at the file first: torchvision's builders would run code that somebody put into their cache."""
    try:
        weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        name = weights.url.rpartition("/")[2]
        raise ValueError(f"$TORCH_HOME/hub/checkpoints/{name}: not a file of weights, or a damaged one") from error


@contextmanager
def _naming_failed_downloads(weights: str, otherwise: str) -> Iterator[None]:
    try:
        yield
    except (URLError, ConnectionError, TimeoutError) as error:
        raise RuntimeError(
            f"the weights {weights} could not be downloaded ({error}). Go on in one of three ways: "
            "connect and run again; put the file that torchvision names above into the folder "
            f"$TORCH_HOME/hub/checkpoints; or {otherwise}"
        ) from error


def _family(name: str) -> str:
    return name.partition("_")[0]
