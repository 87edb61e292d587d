"""``weight_losses`` and ``unweight_losses``: switch a detector's losses to weighted ones and back."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from torch import nn
from torchvision.models.detection import roi_heads
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import (
    RetinaNet,
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD

from ..losses import Normalizer, check_normalizer
from .fcos import WeightedFCOS, WeightedFCOSHead
from .names import full_name
from .rcnn import WeightedRegionProposalNetwork, WeightedRoIHeads
from .retinanet import WeightedRetinaNet, WeightedRetinaNetHead
from .rows import Objective
from .ssd import WeightedSSD

Model = TypeVar("Model", bound=nn.Module)

_WEIGHTED: dict[type[nn.Module], type[nn.Module]] = {
    RegionProposalNetwork: WeightedRegionProposalNetwork,
    RoIHeads: WeightedRoIHeads,
    RetinaNet: WeightedRetinaNet,
    RetinaNetHead: WeightedRetinaNetHead,
    FCOS: WeightedFCOS,
    FCOSHead: WeightedFCOSHead,
    SSD: WeightedSSD,
}
_HEAD_LOSSES = ("fastrcnn_loss", "maskrcnn_loss", "keypointrcnn_loss")
_PLAIN = {weighted: plain for plain, weighted in _WEIGHTED.items()}


def weight_losses(model: Model, objective: Objective = "weighted", normalizer: Normalizer = "count") -> Model:
    """Make the training losses of a detector honour the ``weights`` of its targets.

    A batch in which no target has ``weights`` goes through torchvision's own code, and so does inference.
    Parameters, buffers and ``state_dict`` stay as they are: the modules that compute losses change their
    class, nothing else, and ``unweight_losses`` changes it back. Calling it again changes the settings.

    Args:
        model: torchvision's Faster R-CNN, Mask R-CNN, Keypoint R-CNN, RetinaNet, FCOS, SSD or SSDlite, from a
            builder or assembled by hand. Weigh it before it is wrapped (DistributedDataParallel, compile), and again
            after its ``rpn``, ``roi_heads`` or ``head`` was replaced: what is put there is torchvision's, and ignores
            weights. A new predictor within them changes nothing.
        objective: what a row (an anchor, point or proposal) learns, in every term of the loss.

            - ``"weighted"``: a row on an object of weight w counts w, background rows count 1. The default: in
              RESULTS.md it is above ``"unweighted"`` on each seed of two data sets, and level with ``"pair"``.
            - ``"pair"``: rows are matched against each of the mixed images (``sources``) on its own, and learn
              from the object of each by its weight; what is left over is background. Shares that add up to
              more than 1 are scaled to 1; what an image ignores adds nothing for it.
            - ``"unweighted"``: the weights are ignored, and not looked at, for comparison.
        normalizer: ``"count"`` divides by the number of rows as torchvision does (sampled rows for the R-CNNs;
            foreground of each image for RetinaNet; of the batch for FCOS and SSD), so that faint objects
            count for less; ``"weight"`` divides by the sum of those rows' weights, at least 1.

    Returns:
        The same model.

    Raises:
        TypeError: the model is not torchvision's, or loss code that ours replaces has been overridden or
            replaced; the message names it. Subclasses of RetinaNet, FCOS, SSD and of heads that compute
            losses are refused too, since their class could not change without losing what they add.
        ValueError: the objective or normalizer is unknown.

    Source: Zhang et al., Bag of Freebies for Training Object Detection Neural Networks, arXiv:1902.04103
    (weighted); Zhang et al., mixup, arXiv:1710.09412, and Vasudevan et al., LossMix, arXiv:2303.10343 (pair).
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be 'weighted', 'pair' or 'unweighted', got {objective!r}")
    check_normalizer(normalizer)
    for module in _loss_modules(model):
        module.__class__ = _WEIGHTED.get(type(module), type(module))
        module.objective, module.normalizer = objective, normalizer
    return model


def unweight_losses(model: Model) -> Model:
    """Undo ``weight_losses``: the model is plain torchvision again, ready for export and scripting.

    Args:
        model: a detector; one that was never weighted is left as it is.

    Returns:
        The same model.
    """
    for module in model.modules():
        if type(module) in _PLAIN:
            module.__class__ = _PLAIN[type(module)]
            del module.objective, module.normalizer
    return model


def _loss_modules(model: Any) -> list[Any]:
    """The modules whose class changes, after a look at everything whose loss code ours replaces."""
    if isinstance(model, GeneralizedRCNN):
        return _two_stage_modules(model)
    if isinstance(model, RetinaNet):
        for name, kind in (("classification", RetinaNetClassificationHead), ("regression", RetinaNetRegressionHead)):
            _require_method(f"model.head.{name}_head", getattr(model.head, f"{name}_head"), kind, "compute_loss")
        return [_own("model", model, RetinaNet), _own("model.head", model.head, RetinaNetHead)]
    if isinstance(model, FCOS):
        return [_own("model", model, FCOS), _own("model.head", model.head, FCOSHead)]
    if isinstance(model, SSD):
        return [_own("model", model, SSD)]
    raise TypeError(f"weight_losses supports the detectors of torchvision, got {full_name(model)}")


def _two_stage_modules(model: Any) -> list[Any]:
    for loss in _HEAD_LOSSES:
        function = getattr(roi_heads, loss)
        if function.__module__ != roi_heads.__name__:
            found = f"{function.__module__}.{function.__qualname__}"
            raise TypeError(f"{roi_heads.__name__}.{loss} has been replaced by {found}, which would not be used")
    modules = {"model.rpn": (model.rpn, RegionProposalNetwork), "model.roi_heads": (model.roi_heads, RoIHeads)}
    for name, (module, _) in modules.items():
        _require_method(f"{name}.box_coder", module.box_coder, BoxCoder, "encode")
    return [_own(name, module, kind) for name, (module, kind) in modules.items()]


def _own(name: str, module: Any, kind: type[nn.Module]) -> Any:
    """A module whose class may change: torchvision's own, and nothing that ours defines is set on the object."""
    if type(module) not in (kind, _WEIGHTED[kind]):
        raise TypeError(f"{name} must be torchvision's own {kind.__name__}, got {full_name(module)}")
    for method in vars(_WEIGHTED[kind]).keys() & vars(module).keys():
        if callable(getattr(kind, method, None)):
            raise TypeError(f"{name} has a {method} of its own, which would be used in place of the weighted one")
    return module


def _require_method(name: str, part: Any, kind: type, method: str) -> None:
    """Refuse a part that brings another version of a method, which the weighted losses do not call."""
    if getattr(type(part), method, None) is not getattr(kind, method) or method in vars(part):
        raise TypeError(f"{name} has a {method} of its own, which would not be used: {full_name(part)}")
