"""Manifold mixup for detectors: a batch is mixed with itself at a layer inside the model, drawn anew each step.

Letters: B images; N objects of one image; R rows that the box head sees, of all images; D their features;
S layers of a row's targets (see ``detectors.rows``). ``lam`` is the weight of an image, or row; its partner
has ``1 - lam``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models.detection.image_list import ImageList

from .arguments import check_alpha, check_choice, check_count, check_integer, check_share
from .batch import Pairing, draw_partners
from .detectors.fcos import WeightedFCOS
from .detectors.rcnn import WeightedRoIHeads
from .detectors.retinanet import WeightedRetinaNet
from .detectors.rows import RowTargets, mix_rows
from .detectors.ssd import WeightedSSD
from .draws import MANIFOLD, generator_at
from .indices import indices_on
from .layers import INPUT, ROI, check_keys, check_module, map_tensors, split_layer, stages_before
from .mixing import mix_targets, sample_lambda
from .readers import this_process
from .target_checks import require_target_each
from .targets import Target, visible_shares

_LOGGER = logging.getLogger("detmix.manifold")
_PARTNERS = MANIFOLD + 1  # what the partners of a step are drawn from, apart from its layer and ratio

_being_mixed: WeakSet[nn.Module] = WeakSet()


@dataclass
class _Step:
    """What is drawn for one entry of the context, and what has happened since."""

    layer: str
    lam: float
    key: tuple[int, int, int]  # seed, rank, step
    seen: bool = False  # the model's transform has run
    images: int = 0  # B of the pass that is running; 0 where it is not mixed
    in_forward: bool = False  # its backbone has not finished
    expected: int = 0  # passes that are to be mixed
    mixed: int = 0  # times that the layer was mixed in them
    with_graph: bool = False  # the pass that is running is for a backward pass
    recorded: bool = True  # autograd has seen what the layer became


class ManifoldMixup:
    """Mixes the images of a batch with each other at a random layer of a detector, boxes included.

    Called like the model, or as a context around any call of it, such as one through a wrapper::

        model = weight_losses(fasterrcnn_resnet50_fpn(num_classes=21))
        mixer = ManifoldMixup(model, ["input", "backbone.body.layer1"], alpha=2.0)
        losses = mixer(images, targets)

        with mixer:
            losses = ddp_model(images, targets)

    A layer is one of

    - ``"input"``: the batch as the backbone gets it, every image resized by the model and padded;
    - ``"backbone"`` or a module in it by its dotted name, such as ``"backbone.body.layer1"`` (a stage),
      ``"backbone.fpn"`` (all levels): what it returns, a tensor or a list, tuple or dict of tensors;
    - some of what a module returns, by its keys: ``"backbone.fpn:0"`` (one level) or ``"backbone.fpn:0,1,pool"``;
    - ``"roi"``: the features that the box predictor of a two-stage detector gets. The sampled rows of all
      images are mixed with a random permutation of themselves, and each learns the targets of both, its
      partner's boxes as seen from its partner's proposal. Images keep their own objects, and the mask and
      keypoint heads are not mixed.

    Everywhere but at ``"roi"`` each image takes its partner's objects too, where the partner's own resizing
    puts them, at weights ``1 - lam``; its own have ``lam``. Proposals are clipped to the larger of the two.
    A batch of one image has no partners and stays as it is, but for ``"roi"``.

    An object's weight is its visible share where all levels are mixed. One level alone, or a stage behind the first
    that gives a level, leaves levels unmixed that show nothing of the partner's objects, and these are learned there
    at ``1 - lam`` all the same; a warning of the logger ``detmix.manifold`` names such stages of torchvision's ResNets.
    RESULTS.md has what that cost on made-up scenes, where ``"backbone.fpn"`` and ``"roi"`` cost AP too, and ``"input"``
    and a stage before all levels did not: prefer these, such as ``"backbone.body.layer1"`` of a ResNet-50 with an FPN.

    Nothing is mixed in evaluation mode or without targets, and at ``lam`` 1 nothing is touched at all. All
    that is drawn is a function of (seed, rank, ``step``), where ``step`` counts the entries and goes on from
    ``load_state_dict``. Hooks live from entry to exit, an exception's included. The host never waits for the
    device.

    Copy a model outside of the context, or the copy keeps its hooks.

    Activation checkpointing runs a part of the model again in the backward pass: where that part contains
    the layer, call ``backward`` inside the context, so that it is mixed again as it was.

    ``torch.compile`` of the backbone works with ``"input"``, ``"backbone"`` and ``"roi"``. It looks at the
    hooks of inner modules when it compiles and not again: they are mixed if the first training step runs inside
    the context, at the price of a graph break each, and otherwise leaving it raises.

    Attributes:
        layer: the layer that the latest step drew; None before the first.
        lam: the ratio that the latest step drew; 1 where it was not to be mixed.
        mixed: whether the latest step has mixed anything: not so in evaluation, at ``lam`` 1, or where a single image
            has no partner.
        step: how many steps were drawn.

    Source: Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States,
    arXiv:1806.05236.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] = (INPUT,),
        alpha: float = 2.0,
        *,
        p: float = 1.0,
        pairing: Pairing = "roll",
        seed: int = 0,
    ) -> None:
        """Set what is drawn, and look whether the model has the layers.

        Args:
            model: a detector adapted by ``weight_losses``; not its wrapper (DistributedDataParallel, compile).
            layers: the layers to draw from, each as likely as the others.
            alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. 2 is the value of Manifold
                Mixup (Verma et al., arXiv:1806.05236). RESULTS.md compares layers on made-up scenes, at alpha 1.5.
            p: probability that a step is mixed.
            pairing: ``roll`` mixes each image with the one before it, the first with the last; ``shuffle``
                puts the images in a random circle first, so that every other one is equally likely.
            seed: of the draws; an integer.

        Raises:
            TypeError: alpha or p is no number, the seed is not an integer, or layers is no list of names.
            ValueError: the model is not adapted; a layer does not exist in it, is not for its kind, is a mere list
                or dict of modules, or is named twice; ``"roi"`` is named under the objective ``"unweighted"``; alpha is
                negative or not finite, p outside [0, 1], or pairing unknown.
        """
        alpha = check_alpha(alpha)
        p = check_share("p", p)
        check_choice("pairing", pairing, Pairing)
        names = isinstance(layers, Sequence) and not isinstance(layers, str)
        if not names or not all(isinstance(layer, str) for layer in layers):
            raise TypeError(f"layers must be a list of names, got {layers!r}")
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(f"layers must be one or more names, each once, got {list(layers)}")
        _check_layers(model, layers)
        _warn_of_unmixed_levels(model, layers)
        self.model = model
        self.layers = tuple(layers)
        self.alpha = alpha
        self.p = p
        self.pairing = pairing
        self.seed = check_integer("seed", seed)
        self.step = 0
        self.layer: str | None = None
        self.lam = 1.0
        self.mixed = False
        self._now: _Step | None = None
        self._handles: list[RemovableHandle] = []
        # the same objects at every entry: code that was compiled with them calls those it has seen
        inner = [
            (split_layer(layer)[0], partial(self._mix_layer, layer)) for layer in layers if layer not in (INPUT, ROI)
        ]
        self._hooks = [("transform", self._after_transform), *inner, ("backbone", self._after_backbone)]

    def __call__(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """What the model returns for a batch, mixed in training: one step of the draws.

        Args:
            images: as the model takes them.
            targets: as the model takes them, of equal per-object keys; not changed.

        Returns:
            The model's losses in training, its detections in evaluation.

        Raises:
            RuntimeError: as ``__enter__`` and ``__exit__``.
            ValueError: there are not as many images as targets, one target has a per-object key that its partner
                lacks, or the output of a module lacks a key that is named for it.
        """
        if self.model.training and targets is not None:
            require_target_each(len(images), targets)
        with self:
            return self.model(images, targets)

    def __enter__(self) -> ManifoldMixup:
        """Draw a layer and a ratio, and mix there until ``__exit__``; counts one step, mixed or not.

        Raises:
            RuntimeError: the model is being mixed already, by this object or another.
            ValueError: the model is no longer adapted.
        """
        if self.model in _being_mixed:
            raise RuntimeError("the model is being mixed already: leave that context before entering another")
        _check_layers(self.model, self.layers)
        key = (self.seed, this_process().number, self.step)
        generator = generator_at(*key, MANIFOLD)
        self.layer = self.layers[int(generator.integers(len(self.layers)))]
        self.lam = sample_lambda(self.alpha, generator) if generator.random() < self.p else 1.0
        self.step += 1
        self.mixed = False
        self._now = _Step(self.layer, self.lam, key)
        _being_mixed.add(self.model)
        if self.lam < 1:
            self._install()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the model as it was before ``__enter__``.

        Raises:
            RuntimeError: the step was to be mixed and its layer never ran, or ran more than once, or is to run again in
                a backward pass outside.
        """
        self._remove()
        step, self._now = self._now, None
        if kind is None and step is not None and step.lam < 1:
            _check_mixed(step, self.model)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, such as that of a model while it is mixed: they are in no step."""
        return {**vars(self), "_now": None, "_handles": []}

    def state_dict(self) -> dict[str, int]:
        """The step that comes next, for ``load_state_dict``."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on drawing where ``state_dict`` was taken.

        Raises:
            KeyError: the state lacks the step.
            TypeError: it is not an integer.
            ValueError: it is negative.
        """
        self.step = check_count("step", state["step"])

    def _install(self) -> None:
        for name, hook in self._hooks:
            self._handles.append(self.model.get_submodule(name).register_forward_hook(hook))
        if ROI in self.layers:
            model: Any = self.model
            model.roi_heads.row_mixer = self._mix_rows

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        vars(getattr(self.model, "roi_heads", self.model)).pop("row_mixer", None)
        _being_mixed.discard(self.model)

    @torch.compiler.disable
    def _after_transform(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        """Join the objects of each image and its partner and, at ``"input"``, mix the images."""
        step = self._now
        if step is None:
            return output
        images, targets = output
        step.seen, step.in_forward, step.images, step.with_graph = True, True, 0, torch.is_grad_enabled()
        if not self.model.training or targets is None or (len(targets) < 2 and step.layer != ROI):
            return output
        require_target_each(len(images.image_sizes), targets)
        step.images = len(targets)
        step.expected += 1
        if step.layer == ROI:  # weights, so that the weighted losses run
            return images, [{**target, "weights": visible_shares(target)} for target in targets]
        partners = self._partners(step, len(targets))
        rows = partners.tolist()
        sizes = [_larger(size, images.image_sizes[row]) for size, row in zip(images.image_sizes, rows, strict=True)]
        joined = [
            mix_targets(target, targets[row], step.lam, size)
            for target, row, size in zip(targets, rows, sizes, strict=True)
        ]
        pixels = images.tensors
        if step.layer == INPUT:
            pixels = _mix(pixels, indices_on(pixels.device, partners), step.lam)
            self._count(step)
        return ImageList(pixels, sizes), joined

    @torch.compiler.disable
    def _mix_layer(self, name: str, module: nn.Module, arguments: Any, output: Any) -> Any:
        """Mix what a layer returns, in the forward pass and where checkpointing runs it again."""
        step = self._now
        if step is None:
            return output
        check_keys(name, output)  # whatever this step drew, so that a wrong one is told in the first that is mixed
        if step.layer != name or not step.images:
            return output
        if step.in_forward:
            self._count(step)
        # reentrant checkpointing hides it from autograd until the backward pass runs it again
        hidden = step.with_graph and not torch.is_grad_enabled()
        step.recorded = not (hidden and any(p.requires_grad for p in module.parameters()))
        keys = split_layer(name)[1]
        return map_tensors(
            output, lambda key, feature: self._mix_feature(feature, step) if key in keys or not keys else feature
        )

    def _mix_feature(self, feature: Tensor, step: _Step) -> Tensor:
        if step.in_forward and len(feature) != step.images:
            raise RuntimeError(
                f"layer {step.layer!r} cannot be mixed: it returns {len(feature)} rows for {step.images} images"
            )
        return _mix(feature, indices_on(feature.device, self._partners(step, len(feature))), step.lam)

    @torch.compiler.disable
    def _after_backbone(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._now is not None:
            self._now.in_forward = False

    def _mix_rows(self, features: Tensor, rows: RowTargets, own: Tensor) -> tuple[Tensor, RowTargets, Tensor]:
        """Mix the features (R, D), targets and proposals (R, 4) of the box head's rows: a ``RowMixer``."""
        step = self._now
        if step is None or step.layer != ROI or not step.images:
            return features, rows, own
        self._count(step)
        order = generator_at(*step.key, _PARTNERS).permutation(len(features))
        partners = indices_on(features.device, torch.from_numpy(order))
        proposals = torch.stack([own, own[partners]]).repeat_interleave(len(rows.objects), dim=0)  # (2 S, R, 4)
        return _mix(features, partners, step.lam), mix_rows(rows, partners, step.lam), proposals

    def _count(self, step: _Step) -> None:
        step.mixed += 1
        self.mixed = True

    def _partners(self, step: _Step, count: int) -> Tensor:
        """Row of the partner of each of B images, (B,) int64: the same each time that one step asks."""
        return torch.from_numpy(draw_partners(count, self.pairing, generator_at(*step.key, _PARTNERS)))


def _mix(values: Tensor, partners: Tensor, lam: float) -> Tensor:
    return lam * values + (1.0 - lam) * values[partners]


def _larger(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return max(first[0], second[0]), max(first[1], second[1])


def _check_mixed(step: _Step, model: nn.Module) -> None:
    if not step.seen and model.training:
        raise RuntimeError(
            f"layer {step.layer!r} was not mixed: the model did not run inside the context, or it is compiled as "
            "a whole, where hooks are not seen. Compile model.backbone instead"
        )
    if step.mixed < step.expected:
        raise RuntimeError(
            f"layer {step.layer!r} was not mixed: it did not run, or ran inside a part that torch.compile had compiled "
            "before. Run the first training step inside the context, or set "
            "torch._dynamo.config.skip_nnmodule_hook_guards = False before it"
        )
    if not step.recorded:
        raise RuntimeError(
            f"layer {step.layer!r} runs again in the backward pass, under activation checkpointing: call backward "
            "inside the context, so that it is mixed again"
        )
    if step.mixed > step.expected:
        raise RuntimeError(
            f"layer {step.layer!r} was mixed more than once: it runs {step.mixed} times in {step.expected} passes"
        )


def _warn_of_unmixed_levels(model: Any, layers: Sequence[str]) -> None:
    for layer in layers:
        before = stages_before(model, layer)
        if before:
            _LOGGER.warning(
                "layer %r: the features of %s, which come before it, stay unmixed, so they show nothing of the "
                "partners' objects, which are learned there all the same. Mix 'input' or %r instead",
                *(layer, ", ".join(before), f"backbone.body.{before[0]}"),
            )


def _check_layers(model: Any, layers: Sequence[str]) -> None:
    heads = getattr(model, "roi_heads", None)
    adapted = heads if isinstance(heads, WeightedRoIHeads) else model
    if not isinstance(adapted, (WeightedRoIHeads, WeightedRetinaNet, WeightedFCOS, WeightedSSD)):
        raise ValueError(
            "ManifoldMixup needs a detector that detmix.weight_losses has adapted, so that the weights of its boxes "
            f"count, and the detector itself rather than its wrapper: got {type(model).__name__}"
        )
    for layer in layers:
        if layer == ROI and adapted is model:
            raise ValueError(f"layer 'roi' is for two-stage detectors: {type(model).__name__} has no box head")
        if layer == ROI and adapted.objective == "unweighted":
            raise ValueError("layer 'roi' needs the objective 'weighted' or 'pair', got 'unweighted'")
        if layer not in (INPUT, ROI):
            check_module(model, layer, [INPUT] if adapted is model else [INPUT, ROI])
