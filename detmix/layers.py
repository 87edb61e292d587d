"""Layers of a detector by name, and the tensors that they return.

A name is ``input``, ``roi``, a module of the backbone such as ``backbone.fpn``, or some of what a module returns,
such as ``backbone.fpn:0,pool``. A tensor inside of other containers is named by all keys on the way, ``parts:1:half``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

INPUT = "input"
ROI = "roi"

_COMPILED = "_orig_mod."  # what torch.compile puts between the names of a module and its parts


def split_layer(layer: str) -> tuple[str, tuple[str, ...]]:
    """The module of a layer's name, and the keys behind its colon; none where it stands for all."""
    module, colon, keys = layer.partition(":")
    return module, tuple(keys.split(",")) if colon else ()


def check_module(model: Any, layer: str, others: Sequence[str]) -> None:
    """Raise unless a name is that of a module in the backbone that can be called.

    Args:
        model: a detector.
        layer: the name, with keys or without.
        others: what may be named apart from modules, for the message.

    Raises:
        ValueError: there is no such module (near ones are named), it is a mere list or dict of modules, or a key is
            empty or named twice.
    """
    name, keys = split_layer(layer)
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if module is None or name.split(".")[0] != "backbone":
        raise ValueError(_missing(model, layer, others))
    if getattr(module.forward, "__func__", None) is nn.Module.forward:
        raise ValueError(
            f"layer {layer!r} is a {type(module).__name__}, which is never called: name one of the modules in it, "
            "or one that they are in"
        )
    if "" in keys or len(set(keys)) < len(keys):
        raise ValueError(f"keys of a layer must be one or more, each once, as in '{name}:0,1': got {layer!r}")


def stages_before(model: Any, layer: str) -> list[str]:
    """The stages of a backbone that give a level of features and come before a layer, so that mixing it misses them.

    Args:
        model: a detector. Only torchvision's ``IntermediateLayerGetter``, as in its ResNets with an FPN, tells its
            stages; of other bodies the answer is none.
        layer: the name, with keys or without.
    """
    body = getattr(model.backbone, "body", None)
    parts = split_layer(layer)[0].split(".")
    if not isinstance(body, IntermediateLayerGetter) or parts[:2] != ["backbone", "body"] or len(parts) < 3:
        return []
    stages = list(body)
    return [stage for stage in stages[: stages.index(parts[2])] if stage in body.return_layers]


def check_keys(layer: str, output: Any) -> None:
    """Raise ValueError where a layer's name has keys that the output of its module lacks."""
    name, keys = split_layer(layer)
    known = tensors_of(output) if keys else {}
    lacking = [key for key in keys if key not in known]
    if lacking:
        got = f"has the keys {', '.join(map(repr, known))}" if any(known) else "has none"
        raise ValueError(f"layer {layer!r} has no key {lacking[0]!r}: what {name!r} returns {got}")


def tensors_of(output: Any) -> dict[str, Tensor]:
    """The tensors in what a module returns by their keys; "" is that of a tensor that comes alone."""
    found: dict[str, Tensor] = {}
    map_tensors(output, found.setdefault)
    return found


def map_tensors(value: Any, change: Callable[[str, Tensor], Tensor], key: str = "") -> Any:
    """Change the tensors in what a module returns.

    Args:
        value: a tensor, or lists, tuples, named tuples and dicts of such, in each other; a part that is None stays so.
        change: called with the key and the tensor.
        key: of the value itself.

    Returns:
        The same containers with what ``change`` returned.

    Raises:
        TypeError: there is something else.
    """
    if isinstance(value, Tensor):
        return change(key, value)
    if value is None and key:
        return None
    start = f"{key}:" if key else ""
    if isinstance(value, dict):
        return type(value)({name: map_tensors(part, change, f"{start}{name}") for name, part in value.items()})
    if isinstance(value, (list, tuple)):
        parts = [map_tensors(part, change, f"{start}{place}") for place, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    raise TypeError(f"a layer must return tensors, or lists or dicts of them: got {type(value).__name__}")


def _missing(model: Any, layer: str, others: Sequence[str]) -> str:
    modules = [name.replace(_COMPILED, "") for name, _ in model.backbone.named_modules(prefix="backbone")]
    near = difflib.get_close_matches(split_layer(layer)[0], [*others, *modules], n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    first = next((name for name in modules if "." in name), "backbone.body")
    return (
        f"the model has no layer {layer!r}.{hint} Layers are {', '.join(map(repr, others))}, 'backbone' and the "
        f"modules in it by their dotted names, such as {first!r}"
    )
