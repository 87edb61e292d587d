"""Checks of arguments: numbers, counts, indices, choices and generators."""

from __future__ import annotations

import math
import operator
from typing import Any, get_args

import numpy as np
from torch import Tensor


def check_alpha(alpha: float) -> float:
    """Alpha as Python's number; ValueError unless it is finite and 0 or more, and TypeError if it is no number."""
    number = check_number("alpha", alpha)
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"alpha must be a finite number of 0 or more, got {alpha}")
    return number


def check_share(name: str, value: float) -> float:
    """A value as Python's number; ValueError unless it lies in [0, 1], and TypeError if it is no number."""
    number = check_number(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return number


def check_iou(name: str, value: float) -> float:
    """A least IoU as Python's number; ValueError unless it lies in (0, 1], and TypeError if it is no number."""
    number = check_number(name, value)
    if not 0.0 < number <= 1.0:
        raise ValueError(f"{name} must lie in (0, 1], got {value}")
    return number


def check_integer(name: str, value: Any) -> int:
    """A value as Python's integer; TypeError unless it is one, of whatever kind."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def check_count(name: str, value: Any, least: int = 0) -> int:
    """A value as Python's integer; TypeError unless it is an integer, and ValueError if it is below ``least``."""
    number = check_integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """A value as Python's bool; TypeError unless it is a bool, 0 or 1, of whatever kind."""
    number = value.item() if isinstance(value, np.bool_) else check_integer(name, value)
    if number not in (0, 1):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(number)


def check_index(index: Any, length: int) -> int:
    """An index of a sample, which may count from the end, as one from 0 on; IndexError if there is none there."""
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for a data set of {length}")
    return index % length


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError unless a value is one of those that a ``Literal`` names."""
    choices = get_args(kind)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def require_generator(generator: Any) -> None:
    """Raise TypeError unless it is numpy's."""
    if not isinstance(generator, np.random.Generator):
        name = type(generator).__name__
        raise TypeError(f"generator must be a numpy.random.Generator, as np.random.default_rng(0), got {name}")


def check_number(name: str, value: Any) -> float:
    """A number of any kind, such as a tensor without dimensions, as Python's."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from error
