"""Files of trained weights: read without running code from them, and checked against their detector.

Letter: K classes with background.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .checkpoints import difference, first_line, shapes_of
from .models import detector_names, learns_keypoints, untrained_detector
from .safe_load import load_plain

Shapes: TypeAlias = dict[str, tuple[int, ...]]

_KEYPOINTS = "roi_heads.keypoint_predictor.kps_score_lowres.weight"  # (channels, keypoints, 4, 4)
_COUNTER = "num_batches_tracked"  # of batch norms that are not frozen; evaluation needs none


def read_weights(path: Path, detector: nn.Module, num_classes: int) -> dict[str, Tensor]:
    """The weights of a detector from a file.

    Args:
        path: a ``state_dict``, such as a run's ``model.pt``; a checkpoint of ``tools/train.py``, or one of
            torchvision's reference training.
        detector: what the weights are for; it is not changed.
        num_classes: K of the detector.

    Returns:
        A ``state_dict`` that the detector loads, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or one of other classes or of another detector.
    """
    state = read_state(path)
    require_weights_of(detector, num_classes, state, path)
    return state


def require_weights_of(detector: nn.Module, num_classes: int, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights of other classes or of another detector.

    Args:
        detector: what the weights are for, on any device.
        num_classes: K of the detector.
        state: the weights.
        path: where they come from, for the message.

    Raises:
        ValueError: they are not for this detector.
    """
    wanted, given = lasting_shapes(detector.state_dict()), lasting_shapes(state)
    if wanted != given:
        raise ValueError(f"{path}: {_difference(wanted, given, num_classes)}")


def read_state(path: Path) -> dict[str, Tensor]:
    """The ``state_dict`` in a file as for ``read_weights``, whatever it is for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file.
    """
    require_file(path)
    try:
        content = load_plain(path)
    except OSError:
        raise
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise ValueError(
            f"{path}: not a file of weights, such as tools/train.py leaves in model.pt: damaged, or with objects in it "
            f"that are no data and could run code or take all memory, which are not loaded: {first_line(error)}"
        ) from error
    state = _unwrapped(content)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: not a file of weights: wanted a state_dict, got {_kind(content)}")
    return state


def require_file(path: Path, *, hint: str = "") -> None:
    """Refuse what is no file of weights at first sight.

    Args:
        path: where one is wanted.
        hint: to be added where nothing is there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, such as that of a run.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder and no file of weights; pass {path / 'model.pt'}, or a checkpoint in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights{hint}")


def lasting_shapes(state: Mapping[str, Tensor]) -> Shapes:
    """The shapes of all tensors that matter in evaluation, by name."""
    return {name: shape for name, shape in shapes_of(state).items() if not name.endswith(_COUNTER)}


def count_classes(given: Shapes, built: Shapes, num_classes: int) -> int | None:
    """K of given weights, from the layers that are as many times larger as there are classes.

    Args:
        given: shapes of the weights.
        built: shapes of a detector of the same kind.
        num_classes: K of that detector.

    Returns:
        None if the weights are not of that kind of detector, whatever K.
    """
    if given.keys() != built.keys():
        return None
    pairs = [(given[name], built[name]) for name in built if given[name] != built[name]]
    if any(a[1:] != b[1:] or not a or not b for a, b in pairs):
        return None
    counts = {a[0] * num_classes / b[0] for a, b in pairs} or {float(num_classes)}
    count = counts.pop()
    return int(count) if not counts and count.is_integer() else None


def keypoints_of(name: str, state: Mapping[str, Tensor] | Shapes) -> dict[str, int]:
    """The option ``num_keypoints`` of a detector that learns keypoints, as weights for it have it; else no option."""
    layer = state.get(_KEYPOINTS)
    shape = tuple(layer.shape) if isinstance(layer, Tensor) else layer
    return {"num_keypoints": shape[1]} if learns_keypoints(name) and shape is not None and len(shape) > 1 else {}


def detectors_with(given: Shapes) -> list[str]:
    """Names of the detectors that have tensors of these shapes, for whatever number of classes."""
    fitting = []
    for name in detector_names():
        with torch.device("meta"):  # shapes alone
            built = lasting_shapes(untrained_detector(name, 2, **keypoints_of(name, given)).state_dict())
        if count_classes(given, built, 2):
            fitting.append(name)
    return fitting


def _unwrapped(content: Any) -> dict[str, Any]:
    """A ``state_dict`` without what checkpoints and parallel training put around it."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        return {}
    prefix = next((p for p in ("detector.", "module.") if all(str(name).startswith(p) for name in content)), "")
    return {str(name).removeprefix(prefix): value for name, value in content.items()}


def _difference(wanted: Shapes, given: Shapes, num_classes: int) -> str:
    count = count_classes(given, wanted, num_classes)
    if count:
        return f"wanted weights for {num_classes} classes, background included, got them for {count}"
    names = [" or ".join(detectors_with(shapes)) for shapes in (wanted, given)]
    if all(names) and names[0] != names[1]:
        return f"wanted weights of {names[0]}, got those of {names[1]}"
    return f"not the weights of this detector; {difference(wanted, given)}"


def _kind(content: Any) -> str:
    return (
        f"a dict of {', '.join(map(str, list(content)[:3]))} ..." if isinstance(content, dict) else str(type(content))
    )
