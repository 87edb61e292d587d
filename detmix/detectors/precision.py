"""Boxes, scores and losses in float32 under autocast, whatever the layers before them compute in.

torchvision makes its anchors in the precision of the features. It decodes boxes, ranks and suppresses them, and
computes losses in that of the heads' outputs. bfloat16 has 8 bits: of the coordinates between 512 and 1024 it has each
fourth, of the scores above a half each 256th. Anchors would lie beside their place, proposals and detections would be
rounded, scores would tie. So layers compute in half precision, and what they lead to does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..layers import map_tensors
from .names import DETECTORS, full_name

_ANCHORS = ("anchor_generator", "rpn.anchor_generator")
_HEADS = ("head", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "roi_heads.keypoint_predictor")


def keep_boxes_exact(model: nn.Module) -> list[RemovableHandle]:
    """Let a detector under autocast make its anchors and read its heads' outputs in float32.

    Modules, parameters and ``state_dict`` stay, and so does all that is computed without autocast.

    Call it once predictors have been exchanged: one that comes later has no hook, until it is called again. A copy of
    the model keeps its hooks.

    Args:
        model: a detector of torchvision's, weighted or not.

    Returns:
        The hooks on its anchor generator and its heads, whose ``remove()`` undoes it: a model with hooks cannot be
        scripted. What has its hook from an earlier call gets another in its place, so that those of the last call undo
        all.

    Raises:
        TypeError: the model is not a torchvision detector, but a wrapper of one perhaps.
    """
    if not isinstance(model, DETECTORS):
        raise TypeError(f"keep_boxes_exact supports the detectors of torchvision, got {full_name(model)}")
    modules = dict(model.named_modules())
    anchors, heads = ([modules[n] for n in names if n in modules] for names in (_ANCHORS, _HEADS))
    for hooks in (*(m._forward_pre_hooks for m in anchors), *(m._forward_hooks for m in heads)):
        for key in [key for key, hook in hooks.items() if hook in (_with_exact_features, _exact_outputs)]:
            del hooks[key]
    before = [module.register_forward_pre_hook(_with_exact_features) for module in anchors]
    return before + [module.register_forward_hook(_exact_outputs) for module in heads]


def _with_exact_features(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The features' shapes and device in float32: an anchor generator takes nothing else from them."""
    images, features = arguments
    return images, [level.new_zeros((), dtype=_exact(level)).expand(level.shape) for level in features]


def _exact_outputs(module: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> Any:
    return map_tensors(outputs, lambda _, output: output.to(_exact(output)))


def _exact(tensor: Tensor) -> torch.dtype:
    """The dtype of a tensor, under autocast at least float32."""
    if torch.is_autocast_enabled(tensor.device.type):
        return torch.promote_types(tensor.dtype, torch.float32)
    return tensor.dtype
