"""Weighted losses: pure functions of logits, targets and weights.

Each term comes unreduced, one value per row; ``reduce_rows`` is the one place where rows become a
number. Letters: R sampled rows of all images, K classes including background.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Normalizer = Literal["count", "weight"]


def classification_rows(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross entropy of each row.

    Args:
        logits: (R, K) float.
        labels: (R,) int64 in 0 ... K-1; 0 is background.
        weights: (R,) float.

    Returns:
        (R,) ``weights * -log softmax(logits)[labels]``.

    Source: Ren et al., Faster R-CNN, arXiv:1506.01497, equation 1; weights as in Zhang et al., Bag of
    Freebies for Training Object Detection Neural Networks, arXiv:1902.04103.
    """
    _check_rows(logits, weights)
    return F.cross_entropy(logits, labels, reduction="none") * weights


def objectness_rows(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross entropy of each row.

    Args:
        logits: (R,) float.
        labels: (R,) float in [0, 1]; 1 is object, 0 background.
        weights: (R,) float.

    Returns:
        (R,) ``weights * BCE(sigmoid(logits), labels)``.

    Source: as ``classification_rows``.
    """
    _check_rows(logits, weights)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights


def box_rows(deltas: Tensor, targets: Tensor, weights: Tensor, *, beta: float = 1 / 9) -> Tensor:
    """Weighted smooth L1 loss of each row, summed over its four coordinates.

    Args:
        deltas: (R, 4) float, predicted box deltas.
        targets: (R, 4) float, encoded ground truth.
        weights: (R,) float.
        beta: where the loss turns from quadratic to linear; torchvision's Faster R-CNN uses 1/9.

    Returns:
        (R,) float.

    Source: Girshick, Fast R-CNN, arXiv:1504.08083, equation 3.
    """
    _check_rows(deltas, weights)
    return F.smooth_l1_loss(deltas, targets, beta=beta, reduction="none").sum(1) * weights


def reduce_rows(rows: Tensor, weights: Tensor, normalizer: Normalizer) -> Tensor:
    """Sum of the rows over a denominator.

    Args:
        rows: (S,) weighted losses, S <= R: a term may exist for some of the sampled rows only.
        weights: (R,) weights of *all* sampled rows, background rows included.
        normalizer: ``"count"`` divides by R, as torchvision does; ``"weight"`` by the sum of weights.

    Returns:
        A scalar; 0 where there are no rows, or where all weights are 0.

    Raises:
        ValueError: the normalizer is unknown.
    """
    check_normalizer(normalizer)
    if normalizer == "count":
        return rows.sum() / max(len(weights), 1)
    total = weights.sum()
    return rows.sum() / total.where(total > 0, 1.0)


def check_normalizer(normalizer: str) -> None:
    """Raise ValueError unless the normalizer is ``"count"`` or ``"weight"``."""
    if normalizer not in ("count", "weight"):
        raise ValueError(f"normalizer must be 'count' or 'weight', got {normalizer!r}")


def _check_rows(rows: Tensor, weights: Tensor) -> None:
    if len(rows) != len(weights):
        raise ValueError(f"weights must have one value per row: got {len(weights)} for {len(rows)} rows")
