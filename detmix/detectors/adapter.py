"""``weight_losses`` and ``unweight_losses``: switch a detector's losses to weighted ones and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn
from torchvision.models.detection import fcos, retinanet, roi_heads
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

from ..arguments import check_choice
from ..losses import Normalizer
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
# what torchvision's losses call and ours do not: another one put in its place would be passed over
_FUNCTIONS: dict[type[nn.Module], tuple[Any, tuple[str, ...]]] = {
    GeneralizedRCNN: (
        roi_heads,
        ("fastrcnn_loss", "maskrcnn_loss", "keypointrcnn_loss", "project_masks_on_boxes", "keypoints_to_heatmap"),
    ),
    RetinaNet: (retinanet, ("sigmoid_focal_loss", "_box_loss")),
    FCOS: (fcos, ("sigmoid_focal_loss", "generalized_box_iou_loss")),
}
_UNCALLED = "select_training_samples"  # of torchvision's RoIHeads, in the place of which ours has another method
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
              RESULTS.md it is above ``"unweighted"`` in AP on each seed of two data sets, and level with ``"pair"``.
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

        The model itself, in training on a batch with weights, raises TypeError where labels are not int64, also where
        torchvision's RetinaNet and FCOS would take int32, and ValueError where there are more targets than images.

    Source: Zhang et al., Bag of Freebies for Training Object Detection Neural Networks, arXiv:1902.04103
    (weighted); Zhang et al., mixup, arXiv:1710.09412, and Vu et al., LossMix, arXiv:2303.10343 (pair).
    """
    check_choice("objective", objective, Objective)
    check_choice("normalizer", normalizer, Normalizer)
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
            vars(module).pop("row_mixer", None)  # of a copy that was made while ManifoldMixup was at work
    return model


def _loss_modules(model: Any) -> list[Any]:
    """The modules whose class changes, after a look at everything whose loss code ours replaces."""
    for kind, (module, names) in _FUNCTIONS.items():
        if isinstance(model, kind):
            _require_functions(module, names)
    if isinstance(model, GeneralizedRCNN):
        return _two_stage_modules(model)
    if isinstance(model, RetinaNet):
        modules = [_own("model", model, RetinaNet), _own("model.head", model.head, RetinaNetHead)]
        for name, kind in (("classification", RetinaNetClassificationHead), ("regression", RetinaNetRegressionHead)):
            _require_method(f"model.head.{name}_head", getattr(model.head, f"{name}_head"), kind, "compute_loss")
        return modules
    if isinstance(model, FCOS):
        return [_own("model", model, FCOS), _own("model.head", model.head, FCOSHead)]
    if isinstance(model, SSD):
        return [_own("model", model, SSD)]
    raise TypeError(f"weight_losses supports the detectors of torchvision, got {full_name(model)}")


def _two_stage_modules(model: Any) -> list[Any]:
    modules = {"model.rpn": (model.rpn, RegionProposalNetwork), "model.roi_heads": (model.roi_heads, RoIHeads)}
    found = [_own(name, module, kind) for name, (module, kind) in modules.items()]
    for name, (module, _) in modules.items():
        _require_method(f"{name}.box_coder", module.box_coder, BoxCoder, "encode")
    return found


def _own(name: str, module: Any, kind: type[nn.Module]) -> Any:
    """A module whose class may change: torchvision's own, with torchvision's version of all that ours replaces."""
    if type(module) not in (kind, _WEIGHTED[kind]):
        lost = ": of a subclass, what it adds to the losses would be passed over" if isinstance(module, kind) else ""
        raise TypeError(f"{name} must be torchvision's own {kind.__name__}, got {full_name(module)}{lost}")
    for method in sorted({*vars(_WEIGHTED[kind]), _UNCALLED}):
        theirs = getattr(kind, method, None)
        if callable(theirs) and method in vars(module):
            rest = "not be used" if method == _UNCALLED else "be used in place of the weighted one"
            raise TypeError(f"{name} has a {method} of its own, which would {rest}")
        if callable(theirs) and not _is_torchvisions(theirs, method):
            raise TypeError(_replaced(f"{kind.__module__}.{kind.__name__}.{method}", theirs))
    return module


def _require_method(name: str, part: Any, kind: type, method: str) -> None:
    """Refuse a part that brings another version of a method, which the weighted losses do not call."""
    theirs = getattr(kind, method)
    if getattr(type(part), method, None) is not theirs or method in vars(part):
        raise TypeError(f"{name} has a {method} of its own, which would not be used: {full_name(part)}")
    if not _is_torchvisions(theirs, method):
        raise TypeError(_replaced(f"{kind.__module__}.{kind.__name__}.{method}", theirs))


def _require_functions(module: Any, names: Sequence[str]) -> None:
    for name in names:
        function = getattr(module, name)
        if not _is_torchvisions(function, name):
            raise TypeError(_replaced(f"{module.__name__}.{name}", function))


def _is_torchvisions(function: Any, name: str) -> bool:
    origin = getattr(function, "__globals__", {}).get("__name__", "")  # functools.wraps leaves it alone
    return origin.startswith(("torch.", "torchvision.")) and getattr(function, "__name__", None) == name


def _replaced(name: str, found: Any) -> str:
    origin = f"{found.__module__}.{found.__qualname__}" if hasattr(found, "__qualname__") else repr(found)
    return f"{name} has been replaced by {origin}, which would not be used"
