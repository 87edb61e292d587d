"""Features of ground-truth boxes at the layers of a detector.

Letters: B images of a batch; C channels, H and W height and width of a map; N boxes of all images.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.ops import roi_align


def box_features(
    model: Any, images: list[Tensor], boxes: list[Tensor], layers: Sequence[str], grid: int
) -> dict[str, Tensor]:
    """Features of boxes at each layer.

    Args:
        model: in evaluation mode.
        images: B float images (C, H, W) of any sizes, on the model's device.
        boxes: (N_b, 4) xyxy of each, in its pixels.
        layers: as ``entanglement`` takes them.
        grid: cells a side.

    Returns:
        (N, D) by layer, the boxes of all images in order, with one entry for each map of a module that gives several.
    """
    batch, targets = model.transform(images, [{"boxes": rows} for rows in boxes])
    placed = [target["boxes"] for target in targets]
    pooled: dict[str, dict[str, Tensor]] = {layer: {} for layer in layers}

    def keep(layer: str, output: Any) -> None:
        pooled[layer] = {
            name: _pooled(values, placed, batch.tensors.shape[-2:], grid) for name, values in _maps(layer, output)
        }

    if "input" in pooled:
        keep("input", batch.tensors)
    with _watched(model, pooled, keep):
        levels = model.backbone(batch.tensors)
    if "roi" in pooled:
        maps = {"0": levels} if isinstance(levels, Tensor) else levels
        pooled["roi"] = {"roi": model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, placed, batch.image_sizes))}
    uncalled = [layer for layer, rows in pooled.items() if not rows]
    if uncalled:
        raise ValueError(f"the backbone does not call its layer {uncalled[0]!r}")
    return {name: rows.flatten(1) for levels in pooled.values() for name, rows in levels.items()}


def check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    """Raise ValueError unless each layer is there, naming near ones; TypeError for a model that is no detector."""
    for part in ("transform", "backbone"):
        if not isinstance(getattr(model, part, None), nn.Module):
            raise TypeError(
                f"the model must be a detector with transform and backbone, {type(model).__name__} has no {part}"
            )
    known = [name for name, _ in model.named_modules() if name.split(".")[0] == "backbone"]
    with_head = hasattr(getattr(model, "roi_heads", None), "box_head")
    choices = ["input", *known, *(["roi"] if with_head else [])]
    if not layers:
        raise ValueError(f"layers must name one layer or more, such as {', '.join(choices[:4])}")
    for layer in layers:
        if layer == "roi" and not with_head:
            raise ValueError(f"'roi' is the box head of an R-CNN detector, and {type(model).__name__} has none")
        if layer not in choices:
            near = difflib.get_close_matches(layer, choices, n=5, cutoff=0.5) or choices[:5]
            raise ValueError(f"there is no layer {layer!r} in the detector's backbone; near are {', '.join(near)}")


def _pooled(values: Tensor, boxes: list[Tensor], size: Sequence[int], grid: int) -> Tensor:
    """Mean of a (B, C, H, W) map over the cells of each box, whose pixels are those of a picture of a size."""
    height, width = values.shape[-2:]
    scale = values.new_tensor([width / size[1], height / size[0]]).repeat(2)
    placed = [rows.to(values.dtype) * scale for rows in boxes]
    return roi_align(values, placed, output_size=grid, sampling_ratio=-1, aligned=True)


def _maps(name: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    """The maps of a layer, (B, C, H, W) each, by name."""
    if isinstance(output, Tensor) and output.ndim == 4:
        yield name, output
    elif isinstance(output, (Mapping, list, tuple)):
        levels = output.items() if isinstance(output, Mapping) else enumerate(output)
        for key, value in levels:
            yield from _maps(f"{name}:{key}", value)
    else:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"layer {name!r} must give maps of shape (B, C, H, W), got {got}")


@contextmanager
def _watched(model: nn.Module, layers: Iterable[str], keep: Callable[[str, Any], None]) -> Iterator[None]:
    """Pass the outputs of modules on as they are called, before any later one writes to them; hooks go on exit."""

    def pass_on(layer: str, module: nn.Module, arguments: Any, output: Any) -> None:
        keep(layer, output)

    modules = {layer: model.get_submodule(layer) for layer in layers if layer not in ("input", "roi")}
    handles = [module.register_forward_hook(partial(pass_on, layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
