"""``weight_losses`` and ``unweight_losses``: switch a detector's losses to weighted ones and back."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from torch import nn
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
_PLAIN = {weighted: plain for plain, weighted in _WEIGHTED.items()}


def weight_losses(model: Model, objective: Objective = "weighted", normalizer: Normalizer = "count") -> Model:
    """Make the training losses of a detector honour the ``weights`` of its targets.

    A batch in which no target has ``weights`` goes through torchvision's own code, and so does inference.
    Parameters, buffers and ``state_dict`` stay as they are: the modules that compute losses change their
    class, nothing else, and ``unweight_losses`` changes it back. Calling it again changes the settings.

    Args:
        model: torchvision's Faster R-CNN, Mask R-CNN, Keypoint R-CNN, RetinaNet, FCOS, SSD or SSDlite, from a
            builder or assembled by hand. Weigh it before it is wrapped (DistributedDataParallel, compile).
        objective: what a row (an anchor, point or proposal) learns, in every term of the loss.

            - ``"weighted"``: a row on an object of weight w counts w, background rows count 1.
            - ``"pair"``: rows are matched against each of the mixed images (``sources``) on its own, and learn
              from the object of each by its weight; what is left over is background. Shares that add up to
              more than 1 are scaled to 1; what an image ignores adds nothing for it.
            - ``"unweighted"``: the weights are ignored, for comparison.
        normalizer: ``"count"`` divides by the number of rows as torchvision does (sampled rows for the R-CNNs;
            foreground of each image for RetinaNet; of the batch for FCOS and SSD), so that faint objects
            count for less; ``"weight"`` divides by the sum of those rows' weights, at least 1.

    Returns:
        The same model.

    Raises:
        TypeError: the model is not torchvision's, or a part that computes losses has been replaced or
            overridden; the message names it.
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
        return [_own("model.rpn", model.rpn, RegionProposalNetwork), _own("model.roi_heads", model.roi_heads, RoIHeads)]
    if isinstance(model, RetinaNet):
        modules = [_own("model", model, RetinaNet), _own("model.head", model.head, RetinaNetHead)]
        for name, kind in (("classification", RetinaNetClassificationHead), ("regression", RetinaNetRegressionHead)):
            part = getattr(model.head, f"{name}_head")
            if not isinstance(part, kind) or type(part).compute_loss is not kind.compute_loss:
                raise TypeError(f"model.head.{name}_head has a loss of its own: got {_full_name(part)}")
            _refuse_patches(f"model.head.{name}_head", part)
        return modules
    if isinstance(model, FCOS):
        return [_own("model", model, FCOS), _own("model.head", model.head, FCOSHead)]
    if isinstance(model, SSD):
        return [_own("model", model, SSD)]
    wrapped = " Weigh the detector before it is wrapped." if _wraps_a_detector(model) else ""
    raise TypeError(f"weight_losses supports the detectors of torchvision, got {_full_name(model)}.{wrapped}")


def _own(name: str, module: Any, kind: type[nn.Module]) -> Any:
    if type(module) not in (kind, _WEIGHTED[kind]):
        raise TypeError(f"{name} must be torchvision's own {kind.__name__}, got {_full_name(module)}")
    _refuse_patches(name, module)
    return module


def _refuse_patches(name: str, module: nn.Module) -> None:
    patched = [key for key in vars(module) if callable(getattr(type(module), key, None))]
    if patched:
        raise TypeError(f"{name} has a {patched[0]} of its own, which would be lost: {_full_name(module)}")


def _wraps_a_detector(model: Any) -> bool:
    kinds = (GeneralizedRCNN, RetinaNet, FCOS, SSD)
    return isinstance(model, nn.Module) and any(isinstance(module, kinds) for module in model.modules())


def _full_name(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
