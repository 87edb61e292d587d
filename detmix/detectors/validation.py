"""``losses_and_detections``: what a detector in evaluation mode loses and finds, from one pass of its backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

from ..target_checks import require_target_each
from ..targets import Target
from .checks import require_keys
from .matching import match_boxes
from .modes import evaluating
from .names import full_name

_NEEDED = ("boxes", "labels")

Call = tuple[tuple[Any, ...], Any]


def losses_and_detections(
    model: nn.Module, images: Sequence[Tensor], targets: Sequence[Target], *, per_image: bool = False
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Losses and detections of a batch, as in evaluation: a validation loss that leaves no trace.

    The backbone runs once; the region proposal network and the heads of a two-stage detector run a second
    time for the losses, on as many proposals as in training. Batch-norm statistics stay, dropout is off,
    every module gets its mode back, and the caller's random state is untouched: rows are drawn with a
    fixed seed, so that the same weights and batch give the same losses.

    Args:
        model: a detector of torchvision's, adapted by ``weight_losses`` or not, in either mode.
        images: (C, H, W) float tensors in [0, 1], as the model takes them.
        targets: a dict for each image, as in training; not changed.
        per_image: give what is lost on each image by itself. torchvision's losses are means over the rows or
            objects of a batch, so only the mean of these does not depend on which images share one; but for the
            anchors in the padding that a larger one brings.

    Returns:
        The losses that torchvision's code has in training, by name, each (B,) with ``per_image`` and a scalar without,
        and none that the ``forward`` of a subclass adds to them; and what the model returns in evaluation. Gradients
        are recorded as the caller's mode says: wrap the call in ``torch.no_grad()`` for plain validation.

    Raises:
        TypeError: the model is not a torchvision detector, or boxes or labels are no tensors.
        ValueError: there are no images, or not as many as targets; or boxes or labels are missing.
    """
    watched = _watched(model)
    _check_batch(images, targets)
    devices = {tensor.device for tensor in (*images, *model.parameters())}
    with evaluating(model), _recorded(watched) as calls:
        detections: list[dict[str, Tensor]] = model(list(images), [dict(target) for target in targets])
        if not per_image:
            return _losses(model, calls, slice(None), devices), detections
        alone = [_losses(model, calls, slice(n, n + 1), devices) for n in range(len(images))]
    return {name: torch.stack([losses[name] for losses in alone]) for name in alone[0]}, detections


def _check_batch(images: Sequence[Tensor], targets: Sequence[Target]) -> None:
    require_target_each(len(images), targets)
    if not len(images):
        raise ValueError("a batch must have at least one image")
    for row, target in enumerate(targets):
        if not isinstance(target, dict):
            raise TypeError(f"target {row} must be a dict with boxes and labels, got {type(target).__name__}")
        require_keys(row, target, *_NEEDED)
        for key in _NEEDED:
            if not isinstance(target[key], Tensor):
                raise TypeError(f"{key} of target {row} must be a tensor, got {type(target[key]).__name__}")


def _watched(model: Any) -> dict[str, nn.Module]:
    """The modules whose calls tell all that the losses need."""
    if isinstance(model, GeneralizedRCNN):
        names = ["transform", "rpn", "roi_heads"]
    elif isinstance(model, (RetinaNet, FCOS, SSD)):
        names = ["transform", "head", "anchor_generator"]
    else:
        raise TypeError(f"losses_and_detections supports the detectors of torchvision, got {full_name(model)}")
    return {name: getattr(model, name) for name in names}


def _losses(model: Any, calls: dict[str, Call], chosen: slice, devices: set[torch.device]) -> dict[str, Tensor]:
    """What is lost on some images of the pass."""
    targets = calls["transform"][1][1][chosen]
    of_family = _two_stage_losses if isinstance(model, GeneralizedRCNN) else _one_stage_losses
    with _seeded(devices):
        return of_family(model, calls, targets, chosen)


def _one_stage_losses(model: Any, calls: dict[str, Call], targets: list[Target], chosen: slice) -> dict[str, Tensor]:
    (_, features), anchors = calls["anchor_generator"]
    anchors = anchors[chosen]
    outputs = {name: values[chosen] for name, values in calls["head"][1].items()}
    losses: dict[str, Tensor]
    if isinstance(model, RetinaNet):
        losses = model.compute_loss(targets, outputs, anchors)
    elif isinstance(model, FCOS):
        losses = model.compute_loss(targets, outputs, anchors, [level.shape[2] * level.shape[3] for level in features])
    else:
        pairs = zip(targets, anchors, strict=True)
        matched = [match_boxes(model.proposal_matcher, target["boxes"], boxes) for target, boxes in pairs]
        losses = model.compute_loss(targets, outputs, anchors, matched)
    return losses


def _two_stage_losses(
    model: GeneralizedRCNN, calls: dict[str, Call], targets: list[Target], chosen: slice
) -> dict[str, Tensor]:
    batch, levels = calls["rpn"][0][:2]
    images = ImageList(batch.tensors[chosen], batch.image_sizes[chosen])
    features = {name: level[chosen] for name, level in levels.items()}
    with _computing_losses(model.rpn, model.roi_heads):
        proposals, rpn_losses = model.rpn(images, features, targets)
        _, head_losses = model.roi_heads(features, proposals, images.image_sizes, targets)
    return {**head_losses, **rpn_losses}


@contextmanager
def _recorded(modules: dict[str, nn.Module]) -> Iterator[dict[str, Call]]:
    """Arguments and result of the modules' calls, the first of each."""
    calls: dict[str, Call] = {}

    def keep(name: str, module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        calls.setdefault(name, (arguments, result))

    handles = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _computing_losses(*modules: nn.Module) -> Iterator[None]:
    """These modules, and not their children, take the path of training."""
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False


@contextmanager
def _seeded(devices: set[torch.device]) -> Iterator[None]:
    """The samplers draw from torch's own generators: give them a seed, and the caller the state back."""
    gpus = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(0)
        for device in gpus:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        yield
