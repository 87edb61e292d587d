"""Trained detectors, ready to be used: of a run, of torchvision's training elsewhere, or torchvision's own.

Letter: K classes with background.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import yaml
from msgspec import UNSET, UnsetType
from torch import nn

from ..data.categories import read_classes
from ..data.skeleton import COCO_PERSON, Skeleton, skeleton_of
from ..evaluation.numbering import CLASSES_FILE
from .configs import RUN_OPTIONS, load_config
from .data import DetectionData
from .models import (
    COCO_KEYPOINTS,
    Weights,
    coco_classes,
    detector_names,
    learns_keypoints,
    pretrained_detector,
    untrained_detector,
)
from .module import DetectionModule
from .parser import run_parser
from .weights import count_classes, keypoints_of, lasting_shapes, read_state, require_file, require_weights_of

_OTHER_SECTIONS = ("seed_everything", "trainer", *RUN_OPTIONS)


@dataclass(frozen=True)
class Trained:
    """A detector with trained weights, and what its labels mean.

    Attributes:
        model: torchvision's detector.
        class_names: K-1 names; label l is ``class_names[l - 1]``.
        category_ids: K-1 ids for COCO results, in the same order.
        skeleton: what its keypoints are, if it gives some and that is known.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    skeleton: Skeleton | None = None


class _Model(msgspec.Struct):
    """Those settings of ``DetectionModule`` that matter to trained weights."""

    detector: str | UnsetType = UNSET
    weights: Weights | None | UnsetType = UNSET
    num_classes: int | None | UnsetType = UNSET
    options: dict[str, Any] | None | UnsetType = UNSET


class _Config(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)


def open_trained(
    weights: str,
    *,
    config: Path | None = None,
    detector: str | None = None,
    classes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Trained:
    """A detector with its trained weights.

    Args:
        weights: a file as for ``read_weights``; or, with ``detector``, torchvision's name of weights of its own,
            such as ``COCO_V1``.
        config: of the run that trained it; ``config.yaml`` beside the weights, or one folder up, unless given. Only
            plain values of its section ``model`` are read, and no ``class_path`` is followed.
        detector: for a model that was not trained here: torchvision's name of its builder.
        classes: names of the labels from 1 on. A run states its own in ``classes.json`` beside its config; where that
            is gone, the data of a config that was given is opened, as a program of yours. A file for COCO's 91 classes
            has COCO's.
        options: keyword arguments for the builder, such as min_size and max_size, that differ from the config's or,
            with ``detector``, from torchvision's.

    Raises:
        ValueError: the weights are of other classes or another detector; a setting is wrong or missing.
        FileNotFoundError: a file is missing.
        RuntimeError: weights could not be downloaded.
    """
    if detector is None:
        return _of_run(Path(weights), config, classes, options or {})
    if config is not None:
        raise ValueError(f"pass --config for a run's model or --detector for one trained elsewhere, not both: {config}")
    if Path(weights).exists() or not weights.isupper():
        return _of_file(Path(weights), detector, classes, options or {})
    if classes is not None:
        raise ValueError(f"{weights} of {detector} has classes of its own: leave out --classes")
    model, names = pretrained_detector(detector, weights, **(options or {}))
    skeleton = COCO_PERSON if learns_keypoints(detector) else None
    return Trained(model, names, tuple(range(1, len(names) + 1)), skeleton)


def open_run(config: Path, overrides: Sequence[str] = ()) -> tuple[DetectionData, nn.Module]:
    """The data and the untrained detector of a training config.

    Args:
        config: config file of ``tools/train.py``.
        overrides: settings to change, as on its command line.

    Raises:
        ValueError: a setting is wrong or unknown, or the data is.
        FileNotFoundError: a file is missing.
        RuntimeError: the detector's shape depends on weights that could not be downloaded.
    """
    run = _read_config(config, ("data", "model"), overrides)
    run.model.build("test", run.data.class_names, run.data.num_keypoints)
    return run.data, run.model.detector


def open_data(config: Path) -> DetectionData:
    """The data of a training config.

    Raises:
        ValueError: a setting is wrong or unknown, or the data is.
        FileNotFoundError: a file is missing.
    """
    data: DetectionData = _read_config(config, ("data",)).data
    return data


def classes_of_weights(weights: Path) -> list[str] | None:
    """The classes that the run states whose weights these are, in the order of its labels.

    Args:
        weights: a file in the folder of the run, or one folder down.

    Returns:
        None where no run or no ``classes.json`` is there.

    Raises:
        ValueError: ``classes.json`` is malformed.
    """
    config = _config_near(weights)
    file = None if config is None else config.with_name(CLASSES_FILE)
    return None if file is None or not file.is_file() else [category.name for category in read_classes(file)]


def device_named(name: str | None) -> torch.device:
    """The device of this name; a GPU if there is one where none is given.

    Raises:
        ValueError: it is a GPU, and there is none; or torch knows no such device.
    """
    if name is not None and name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: there is no GPU here that torch can use; pass --device cpu")
    try:
        return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {name}: torch knows no such device; pass cpu, or cuda for a GPU") from error


def _read_config(config: Path, sections: Sequence[str], overrides: Sequence[str] = ()) -> Any:
    """Some sections of a training config, built; the others are left as they are."""
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such config file")
    parser = run_parser(sections, exit_on_error=False)
    given = [f"--config={config}"]
    try:
        parser.parse_args(given)  # what is wrong with it is not the overrides' fault
    except (ArgumentError, UnicodeDecodeError) as error:
        raise ValueError(f"{config}: {error}") from error
    try:
        settings = parser.parse_args([*given, *overrides])
        for section in {"data", "model", *_OTHER_SECTIONS} - set(sections):
            settings.pop(section)  # nothing of it is built, callbacks least of all
        return parser.instantiate(settings)
    except UnicodeDecodeError as error:
        raise ValueError(f"a file of {' '.join(overrides)} is not text in UTF-8: {error}") from error
    except ArgumentError as error:
        raise ValueError(str(error)) from error


def _config_near(weights: Path) -> Path | None:
    near = [folder / "config.yaml" for folder in weights.absolute().parents[:2]]
    return next((config for config in near if config.is_file()), None)


def _config_beside(weights: Path) -> Path:
    require_file(weights, hint=" (torchvision's own, by name, need --detector)")
    found = _config_near(weights)
    if found is None:
        raise ValueError(
            f"{weights}: there is no config.yaml beside it or one folder up. Pass --config for the model of a run, or "
            f"--detector for one that was trained elsewhere: {', '.join(detector_names())}"
        )
    return found


def _of_run(weights: Path, given: Path | None, classes: Sequence[str] | None, options: Mapping[str, Any]) -> Trained:
    config = given or _config_beside(weights)
    stated = _stated_model(config)
    names, ids, skeleton = _classes_of_run(config, classes, may_build_data=given is not None)
    state = read_state(weights)
    points = keypoints_of(stated.get("detector", ""), state)
    stated["options"] = {**(stated.get("options") or {}), **points, **options}
    with torch.device("meta"), warnings.catch_warnings():  # shapes alone: a folder may name any number of classes
        warnings.filterwarnings("ignore", ".*to a meta parameter.*", UserWarning)
        shapes = _detector_of(stated, names, config)
    require_weights_of(shapes, len(names) + 1, state, weights)
    detector = _detector_of(stated, names, config)
    detector.load_state_dict(state)
    return Trained(detector, names, ids, skeleton if points else None)


def _detector_of(stated: Mapping[str, Any], names: Sequence[str], config: Path) -> nn.Module:
    module = DetectionModule(**stated)
    try:
        module.build("test", names)
    except TypeError as error:
        raise ValueError(f"{config}: model.options: {error}") from error
    assert module.detector is not None
    return module.detector


def _stated_model(config: Path) -> dict[str, Any]:
    """What a config says of the detector, as plain values: it may lie in a folder of weights from a stranger."""
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such config file")
    try:
        stated = msgspec.convert(load_config(config.read_text("utf-8")), _Config)
    except (ValueError, yaml.YAMLError) as error:  # msgspec's are ValueErrors
        raise ValueError(f"{config}: {error}") from error
    return {name: value for name, value in msgspec.structs.asdict(stated.model).items() if value is not UNSET}


def _classes_of_run(
    config: Path, given: Sequence[str] | None, *, may_build_data: bool
) -> tuple[tuple[str, ...], tuple[int, ...], Skeleton | None]:
    """Names and ids, in the order of the labels: those given, those that the run stated, or those of its data."""
    file = config.with_name(CLASSES_FILE)
    if given is not None:
        _require_order(given, file)
        return tuple(given), tuple(range(1, len(given) + 1)), None
    if not file.is_file():
        if not may_build_data:
            raise FileNotFoundError(
                f"{file}: there is no such file, which says what the labels mean. Pass --classes; or --config {config} "
                "to open the run's data, if you trust that file: its class_path may name any program"
            )
        data = open_data(config)
        return data.class_names, data.category_ids, data.skeleton
    stated = read_classes(file)
    skeleton = skeleton_of(stated, None) if any(category.keypoints for category in stated) else None
    return tuple(category.name for category in stated), tuple(category.id for category in stated), skeleton


def _require_order(given: Sequence[str], file: Path) -> None:
    """Refuse the classes that a run states in another order, in which each label would mean another class."""
    stated = [category.name for category in read_classes(file)] if file.is_file() else []
    if list(given) != stated and sorted(given) == sorted(stated):
        raise ValueError(
            f"--classes names the classes of {file} in another order, and the labels of these weights mean "
            f"{', '.join(stated)}: leave it out"
        )


def _of_file(weights: Path, detector: str, classes: Sequence[str] | None, options: Mapping[str, Any]) -> Trained:
    names = coco_classes() if classes is None else tuple(classes)
    state = read_state(weights)
    options = {**keypoints_of(detector, state), **options}
    with torch.device("meta"):  # shapes alone
        shapes = untrained_detector(detector, len(names) + 1, **options)
    count = count_classes(lasting_shapes(state), lasting_shapes(shapes.state_dict()), len(names) + 1)
    if classes is None and count not in (None, len(names) + 1):
        raise ValueError(f"{weights}: has {count} classes, background included: pass --classes with {count - 1} names")
    require_weights_of(shapes, len(names) + 1, state, weights)
    model = untrained_detector(detector, len(names) + 1, **options)
    model.load_state_dict(state)
    skeleton = COCO_PERSON if options.get("num_keypoints") == COCO_KEYPOINTS else None
    return Trained(model, names, tuple(range(1, len(names) + 1)), skeleton)
