"""Checkpoint files: written whole, read without running code from them, refused with a reason."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from ..files import write_whole
from .safe_load import load_plain


class CheckpointFiles(TorchCheckpointIO):
    """How the trainer writes and reads checkpoints.

    A checkpoint is written beside its place and moved there, so what was there before stays until the new one is
    whole. Reading takes tensors and plain values only (``weights_only=True``), unless told otherwise.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            NotWritten: it could not be written, as on a full disk; what was at the path before is there still.
        """
        save_whole(Path(path), _each_once(checkpoint))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; see ``read_checkpoint``."""
        return read_checkpoint(Path(path), map_location=map_location, weights_only=weights_only is not False)


def save_whole(path: Path, content: Any) -> None:
    """``torch.save``, to a temporary name first.

    Raises:
        NotWritten: it could not be written, as on a full disk; what was at the path before is there still.
    """
    write_whole(path, lambda file: _save(file, content))


def _save(file: Path, content: Any) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # that of torch's own writer, on a full disk too
        if isinstance(error, torch.OutOfMemoryError) or str(error).startswith("DataLoader worker"):
            raise  # a worker's death is told wherever the main thread is just then
        raise OSError(first_line(error)) from error


def _each_once(content: Any) -> Any:
    """The same nest with no list or dict at two places, as ``read_checkpoint`` wants it; tensors are not copied."""
    if isinstance(content, dict):
        apart = copy.copy(content)  # with its kind, and what torch hangs on it
        apart.update((key, _each_once(value)) for key, value in content.items())
        return apart
    return type(content)(map(_each_once, content)) if type(content) in (list, tuple) else content


def read_checkpoint(
    path: Path, *, map_location: Any = "cpu", weights_only: bool = True, mmap: bool = False
) -> dict[str, Any]:
    """A checkpoint of the trainer.

    Args:
        path: the file.
        map_location: see ``torch.load``.
        weights_only: refuse what is no tensor or plain value, since reading it could run code or take all memory.
        mmap: leave the values of the tensors on disk until they are looked at.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no checkpoint, or holds what is refused.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        if weights_only:
            checkpoint = load_plain(path, map_location=map_location, mmap=mmap)
        else:
            checkpoint = torch.load(path, map_location=map_location, weights_only=False, mmap=mmap)
    except UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than tensors and plain values, and reading that could run code from the file or take "
            f"all memory: {first_line(error)}. If you trust it, pass --weights_only false"
        ) from error
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise ValueError(f"{path}: truncated, or no checkpoint: {first_line(error)}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "global_step", "epoch"} <= checkpoint.keys():
        raise ValueError(f"{path}: not a checkpoint of tools/train.py, such as it leaves in checkpoints/last.ckpt")
    if not isinstance(checkpoint["state_dict"], dict) or not all(isinstance(n, str) for n in checkpoint["state_dict"]):
        raise ValueError(f"{path}: not a checkpoint of tools/train.py: its state_dict is none")
    for name in ("global_step", "epoch"):
        if type(checkpoint[name]) is not int or checkpoint[name] < 0:
            raise ValueError(f"{path}: not a checkpoint of tools/train.py: its {name} is no number of them")
    return checkpoint


def require_same_tensors(path: Path, given: Mapping[str, Any], module: nn.Module) -> None:
    """Refuse weights that are not a module's.

    Args:
        path: where they come from, for the message.
        given: the weights by name.
        module: what they are for; it is not changed.

    Raises:
        ValueError: names or shapes differ; the first that does is named.
    """
    other = difference(shapes_of(module.state_dict()), shapes_of(given))
    if other:
        raise ValueError(f"{path}: not the weights of this config's detector; {other}")


def require_same_classes(source: Path | str, trained: Any, names: Sequence[str]) -> None:
    """Refuse weights that were trained on other classes, or on these in another order: their labels mean others.

    Args:
        source: where the weights come from, for the message.
        trained: their classes in the order of the labels, as a list; None if that is not known.
        names: the classes of the data, in the order of the labels.

    Raises:
        ValueError: they differ, and the first label that does is named; or ``trained`` is no list of names.
    """
    if trained is None:
        return
    if not (isinstance(trained, list) and all(isinstance(name, str) for name in trained)):
        raise ValueError(f"{source}: its class_names are no list of names")
    pairs = enumerate(zip_longest(trained, names), 1)
    label, pair = next(((label, pair) for label, pair in pairs if pair[0] != pair[1]), (0, ()))
    if not label:
        return
    there, here = ("no class" if name is None else repr(name) for name in pair)
    raise ValueError(
        f"{source}: trained on other classes: label {label} is {there} there and {here} in this data. If the data "
        f"has those classes, pass --data.class_names {shlex.quote(json.dumps(trained, ensure_ascii=False))}"
    )


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of each tensor by its name; None for what is no tensor."""
    return {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in tensors.items()}


def difference(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Where shapes are not those that are wanted, in words; empty if they are."""
    other = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if not other:
        return ""
    sides = (f"shape {shapes[other[0]]}" if shapes.get(other[0]) is not None else "none" for shapes in (wanted, given))
    return "{} of {} tensors differ, {} first: wanted {}, got {}".format(len(other), len(wanted), other[0], *sides)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
