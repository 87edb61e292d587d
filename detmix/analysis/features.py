"""Features of ground-truth boxes at the layers of a detector.

Letters: B images of a batch; C channels, H and W height and width of a map; N boxes of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.ops import roi_align

from ..layers import INPUT, ROI, check_keys, check_module, split_layer, tensors_of


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

    Raises:
        ValueError: the backbone does not call a layer; what that gives lacks a key that is named for it, or is no map
            of shape (B, C, H, W).
        TypeError: a layer returns something else than tensors, or lists, tuples and dicts of them.
    """
    batch, targets = model.transform(images, [{"boxes": rows} for rows in boxes])
    placed = [target["boxes"] for target in targets]
    pooled: dict[str, dict[str, Tensor]] = {layer: {} for layer in layers}

    def keep(layer: str, output: Any) -> None:
        pooled[layer] = {
            name: _pooled(values, placed, batch.tensors.shape[-2:], grid) for name, values in _maps(layer, output)
        }

    if INPUT in pooled:
        keep(INPUT, batch.tensors)
    with _watched(model, pooled, keep):
        levels = model.backbone(batch.tensors)
    if ROI in pooled:
        maps = {"0": levels} if isinstance(levels, Tensor) else levels
        pooled[ROI] = {ROI: model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, placed, batch.image_sizes))}
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
    if not layers:
        raise ValueError(f"layers must name one layer or more, such as {INPUT} or backbone")
    with_head = hasattr(getattr(model, "roi_heads", None), "box_head")
    for layer in layers:
        if layer == ROI and not with_head:
            raise ValueError(f"{ROI!r} is the box head of an R-CNN detector, and {type(model).__name__} has none")
        if layer not in (INPUT, ROI):
            check_module(model, layer, [INPUT, ROI] if with_head else [INPUT])


def _pooled(values: Tensor, boxes: list[Tensor], size: Sequence[int], grid: int) -> Tensor:
    """Mean of a (B, C, H, W) map over the cells of each box, whose pixels are those of a picture of a size."""
    height, width = values.shape[-2:]
    scale = values.new_tensor([width / size[1], height / size[0]]).repeat(2)
    placed = [rows.to(values.dtype) * scale for rows in boxes]
    return roi_align(values, placed, output_size=grid, sampling_ratio=-1, aligned=True)


def _maps(layer: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    """The maps that a layer's name stands for, (B, C, H, W) each, by a name of their own."""
    check_keys(layer, output)
    module, keys = split_layer(layer)
    for key, values in tensors_of(output).items():
        if keys and key not in keys:
            continue
        name = f"{module}:{key}" if key else module
        if values.ndim != 4:
            raise ValueError(f"layer {name!r} must give maps of shape (B, C, H, W), got shape {tuple(values.shape)}")
        yield name, values


@contextmanager
def _watched(model: nn.Module, layers: Iterable[str], keep: Callable[[str, Any], None]) -> Iterator[None]:
    """Pass the outputs of modules on as they are called, before any later one writes to them; hooks go on exit."""

    def pass_on(layer: str, module: nn.Module, arguments: Any, output: Any) -> None:
        keep(layer, output)

    modules = {layer: model.get_submodule(split_layer(layer)[0]) for layer in layers if layer not in (INPUT, ROI)}
    handles = [module.register_forward_hook(partial(pass_on, layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
