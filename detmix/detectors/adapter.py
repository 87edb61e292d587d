"""``weight_losses`` and ``unweight_losses``: switch a detector's losses to weighted ones and back."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from torch import nn
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from ..losses import Normalizer, check_normalizer
from .rcnn import WeightedRegionProposalNetwork, WeightedRoIHeads

Objective = Literal["weighted", "unweighted"]
Model = TypeVar("Model", bound=nn.Module)

_WEIGHTED: dict[type[nn.Module], type[nn.Module]] = {
    RegionProposalNetwork: WeightedRegionProposalNetwork,
    RoIHeads: WeightedRoIHeads,
}
_PLAIN = {weighted: plain for plain, weighted in _WEIGHTED.items()}


def weight_losses(model: Model, objective: Objective = "weighted", normalizer: Normalizer = "count") -> Model:
    """Make the training losses of a detector honour the ``weights`` of its targets.

    Every loss term of a row that is matched to an object (objectness, RPN box, class, box) is multiplied
    by that object's weight; background rows weigh 1. A batch in which no target has ``weights`` goes
    through torchvision's own code, and so does inference. Parameters, buffers and ``state_dict`` stay as
    they are: the region proposal network and the box heads change their class, nothing else, and
    ``unweight_losses`` changes it back. Calling it again changes the settings.

    Args:
        model: torchvision's Faster R-CNN, from any of its builders or assembled by hand.
        objective: ``"weighted"`` as above; ``"unweighted"`` ignores the weights, for comparison.
        normalizer: ``"count"`` divides by the number of sampled rows, as torchvision does, so that faint
            objects count for less; ``"weight"`` divides by the sum of the rows' weights.

    Returns:
        The same model.

    Raises:
        TypeError: the model, or one of its heads, is not torchvision's; the message names it.
        ValueError: the objective or normalizer is unknown.

    Source: Zhang et al., Bag of Freebies for Training Object Detection Neural Networks, arXiv:1902.04103.
    """
    if objective not in ("weighted", "unweighted"):
        raise ValueError(f"objective must be 'weighted' or 'unweighted', got {objective!r}")
    check_normalizer(normalizer)
    for head in _heads(model):
        head.__class__ = _WEIGHTED.get(type(head), type(head))
        head.objective, head.normalizer = objective, normalizer
    return model


def unweight_losses(model: Model) -> Model:
    """Undo ``weight_losses``: the model is plain torchvision again, ready for export and scripting.

    Args:
        model: a detector; one that was never weighted is left as it is.

    Returns:
        The same model.
    """
    for head in model.modules():
        if type(head) in _PLAIN:
            head.__class__ = _PLAIN[type(head)]
            del head.objective, head.normalizer
    return model


def _heads(model: Any) -> list[Any]:
    if type(model) is not FasterRCNN:
        raise TypeError(f"weight_losses supports torchvision's FasterRCNN, got {_full_name(model)}")
    heads = {"rpn": model.rpn, "roi_heads": model.roi_heads}
    for name, head in heads.items():
        if type(head) not in _WEIGHTED and type(head) not in _PLAIN:
            wanted = " or ".join(kind.__name__ for kind in _WEIGHTED)
            raise TypeError(f"model.{name} must be torchvision's own {wanted}, got {_full_name(head)}")
    if model.roi_heads.has_mask() or model.roi_heads.has_keypoint():
        raise TypeError("model.roi_heads has a mask or keypoint branch, whose losses cannot be weighted yet")
    return list(heads.values())


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
