"""The soft nearest neighbour loss and its temperature. Letters: N objects, D features of each."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

Temperature: TypeAlias = float | Literal["median", "optimised"]

_EXPONENTS = np.arange(-24, 13) / 2  # of 2: the multiples of the median that "optimised" looks at


def soft_nearest_neighbour_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """How much closer each object is to those of its class than to all: 0 if only they are near, high if entangled.

    The loss of object i is ``-log(sum_j exp(-d_ij / T) / sum_k exp(-d_ik / T))``, with d the squared distance,
    j over the other objects of its class, and k over all other objects.

    Args:
        features: (N, D) floating.
        labels: (N,) integers.
        temperature: T, in squared units of the features.

    Returns:
        (N,) float64, 0 or more; NaN for an object that is the only one of its class.

    Raises:
        ValueError: lengths differ, features are not finite, or T is not a finite number above 0.

    Source: Frosst, Papernot, Hinton, Analyzing and Improving Representations with the Soft Nearest Neighbor
    Loss, arXiv:1902.01889, whose loss is the mean over a batch.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features and labels must have shapes (N, D) and (N,), got {shapes}")
    check_temperature(temperature)
    return losses_at(squared_distances(features), labels, temperature)


def squared_distances(features: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of rows, (N, D) to (N, N) float64; what is below rounding is 0.

    Raises:
        ValueError: features are not finite.
    """
    if not features.isfinite().all():
        raise ValueError("features must be finite")
    rows = features.detach().double()
    rows = rows - rows.mean(0)  # or a large common offset would swallow the differences
    squares = rows.square().sum(1)
    distances = squares[:, None] + squares - 2 * rows @ rows.T
    rounding = torch.finfo(torch.float64).eps * rows.shape[1] * squares.amax() if len(rows) else 0.0
    return distances.masked_fill(distances <= rounding, 0.0)


def losses_at(distances: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """``soft_nearest_neighbour_loss`` of squared distances (N, N)."""
    others = ~torch.eye(len(labels), dtype=torch.bool, device=distances.device)
    alike = others & (labels[:, None] == labels)
    nearest = distances.masked_fill(~others, torch.inf).amin(1, keepdim=True) if len(labels) else distances
    logits = (nearest - distances) / temperature  # of which one is 0 in each row, however small the temperature
    near, all_near = (logits.masked_fill(~rows, -torch.inf).logsumexp(1) for rows in (alike, others))
    return torch.where(alike.any(1), (all_near - near).clamp(min=0), torch.nan)


def choose_temperature(distances: Tensor, labels: Tensor, wanted: Temperature) -> float:
    """T as ``entanglement`` takes it, for squared distances (N, N) of which some object has one of its class."""
    if not isinstance(wanted, str):
        return float(wanted)
    apart = distances[distances > 0]  # not an object from itself, nor from its twin
    median = float(apart.median()) if len(apart) else 1.0  # all the same: any T gives the same loss
    if wanted == "median":
        return median
    return min(
        (float(median * 2**exponent) for exponent in _EXPONENTS),
        key=lambda temperature: float(losses_at(distances, labels, temperature).nanmean()),
    )


def check_temperature(temperature: Temperature) -> None:
    """Raise ValueError unless it is a finite number above 0, ``"median"`` or ``"optimised"``."""
    if isinstance(temperature, str):
        if temperature not in ("median", "optimised"):
            raise ValueError(f"temperature must be a number, 'median' or 'optimised', got {temperature!r}")
    elif not (temperature > 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
