"""JSON, or what Python has in its place, as structs, however tools have written it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from ..data.json_rows import parse_number, whole_or_float
from ..data.paths import read_file


def decode(source: Any, form: Any, name: str, mend: Callable[[Any], Any] = lambda content: content) -> tuple[str, Any]:
    """Read a JSON file, or take what would be its content, as a type of msgspec's.

    Args:
        source: the path of a file, or its content.
        form: the type.
        name: of a content, for messages; a file has its path.
        mend: makes content that is not of the form such that it is, where it can.

    Returns:
        The name, and what was read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not of the form; name and place are told.
    """
    try:
        if not isinstance(source, (str, os.PathLike)):
            return name, _converted(source, form, mend)
        name, data = str(source), read_file(Path(source))
        try:
            return name, msgspec.json.decode(data, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # again by a reader that takes whole floats, and the NaN of a diverged run, so that its row can be named
            return name, msgspec.convert(mend(_lenient(data, name, error)), form)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError) as error:
        swapped = (
            "; annotations are an object and results a list that stands alone, in no object: were the two swapped?"
            if _whole(error)
            else ""
        )
        raise ValueError(f"{name}: {error}{swapped}") from None


def _converted(source: Any, form: Any, mend: Callable[[Any], Any]) -> Any:
    try:
        return msgspec.convert(source, form)
    except msgspec.ValidationError:
        return msgspec.convert(mend(_plain(source)), form)


def _plain(value: Any) -> Any:
    """The same with numbers and arrays of numpy and torch as Python's, and whole floats as integers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        return _plain(value.tolist())
    return whole_or_float(value) if isinstance(value, float) else value


def not_given(value: Any) -> Any:
    """The same with None for NaN, as tools write where they know nothing; in lists, such as boxes, it stays."""
    if isinstance(value, dict):
        return {key: not_given(item) for key, item in value.items()}
    if isinstance(value, list):
        return [not_given(item) if isinstance(item, dict) else item for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _whole(error: Exception) -> bool:
    """Whether it is the file as a whole that is of another type, an object or a list."""
    return str(error) in ("Expected `array`, got `object`", "Expected `object`, got `array`")


def _lenient(data: bytes, name: str, cause: Exception) -> Any:
    try:
        return json.loads(data, parse_float=parse_number)
    except ValueError as error:
        cut = "; the file ends too early, was it cut short while it was written?" if "truncated" in str(cause) else ""
        raise ValueError(f"{name}: not JSON: {error}{cut}") from None
