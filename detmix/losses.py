"""Weighted losses: pure functions of predictions, targets and shares.

Each term comes unreduced, one value per row; ``reduce_rows`` is the one place where rows become a
number. All compute in float32, or wider, where autocast gave half precision, and raise ValueError where the
shapes of shares and labels do not fit. Letters: R rows (anchors, points or proposals), K classes including
background, S layers: a row may learn from one object of each layer. Under the objective ``"pair"`` a layer is
one of the mixed images; otherwise there is a single layer.

What a row is to learn is given by its shares, (S, R), one for the object of each layer, 0 where there is
none, and by its share of background, (R,). They need not add up to 1: a row of the objective
``"weighted"`` has the share of its object and no background at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from .arguments import check_choice, check_share
from .targets import widened

Normalizer = Literal["count", "weight"]


def classification_rows(logits: Tensor, labels: Tensor, shares: Tensor, background: Tensor) -> Tensor:
    """Cross entropy of each row over its objects and the background, by their shares.

    Args:
        logits: (R, K) float.
        labels: (S, R) int64 in 0 ... K-1; any where the share is 0.
        shares: (S, R) float.
        background: (R,) float, the share of class 0.

    Returns:
        (R,) ``-sum_s shares[s] log p[labels[s]] - background log p[0]`` with p = softmax(logits).

    Source: Ren et al., Faster R-CNN, arXiv:1506.01497, equation 1; one share per object as in Zhang et al.,
    Bag of Freebies for Training Object Detection Neural Networks, arXiv:1902.04103; a mixture of two
    targets as in Zhang et al., mixup, arXiv:1710.09412.
    """
    _check_layers(logits, shares, background, labels)
    log_p = F.log_softmax(widened(logits), dim=-1)
    objects = log_p.gather(1, labels.T).where(shares.T != 0, 0.0)  # (R, S); a class masked by -inf costs no one else
    return -((objects * shares.T).sum(1) + log_p[:, 0].where(background != 0, 0.0) * background)


def objectness_rows(logits: Tensor, shares: Tensor, background: Tensor) -> Tensor:
    """Binary cross entropy of each row over object and background, by their shares.

    Args:
        logits: (R,) float.
        shares: (S, R) float.
        background: (R,) float.

    Returns:
        (R,) ``-sum_s shares[s] log p - background log(1 - p)`` with p = sigmoid(logits).

    Source: as ``classification_rows``.
    """
    _check_layers(logits, shares, background)
    logits = widened(logits)
    share = shares.sum(0)
    yes, no = F.softplus(-logits).where(share != 0, 0.0), F.softplus(logits).where(background != 0, 0.0)
    return share * yes + background * no


def focal_rows(
    logits: Tensor, labels: Tensor, shares: Tensor, background: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss of each row, summed over its classes: a binary loss for each.

    A share says yes to one class and no to all the others; the background's says no to all.

    Args:
        logits: (R, K) float, finite.
        labels: (S, R) int64 in 0 ... K-1; any where the share is 0.
        shares: (S, R) float.
        background: (R,) float.
        alpha: weight of yes in [0, 1]; no has 1 - alpha. -1 gives both the weight 1.
        gamma: exponent that plays down what is already right.

    Returns:
        (R,) ``sum_s shares[s] F(labels[s]) + background F(none)`` with
        ``F(c) = sum_k FL(logits[k], 1 if k == c else 0)``.

    Source: Lin et al., Focal Loss for Dense Object Detection, arXiv:1708.02002; the defaults are torchvision's.
    """
    _check_layers(logits, shares, background, labels)
    logits = widened(logits)
    yes, no = (1.0, 1.0) if alpha == -1 else (check_share("alpha", alpha), 1.0 - alpha)
    chosen = logits.gather(1, labels.T)  # (R, S)
    against = no * _focal(logits, gamma).sum(1) * (shares.sum(0) + background)
    turned = yes * _focal(-chosen, gamma) - no * _focal(chosen, gamma)
    return against + (turned * shares.T).sum(1)


def smooth_l1_rows(deltas: Tensor, targets: Tensor, shares: Tensor, *, beta: float) -> Tensor:
    """Smooth L1 loss of each row, summed over its four coordinates.

    Args:
        deltas: (..., 4) float, predicted box deltas.
        targets: (..., 4) float, encoded ground truth.
        shares: (...,) float.
        beta: where the loss turns from quadratic to linear: 1/9 in torchvision's Faster R-CNN, 1 in its SSD;
            0 is the L1 loss of its RetinaNet.

    Returns:
        (...,) float.

    Source: Girshick, Fast R-CNN, arXiv:1504.08083, equation 3.
    """
    _check_rows(deltas.shape[:-1], shares)
    values = F.smooth_l1_loss(widened(deltas), widened(targets), beta=beta, reduction="none")
    return values.sum(-1) * shares


def iou_rows(
    boxes: Tensor, targets: Tensor, shares: Tensor, *, loss: Callable[..., Tensor] = generalized_box_iou_loss
) -> Tensor:
    """Loss of each row by the overlap of its box with the ground truth.

    Args:
        boxes: (R, 4) float, predicted, xyxy.
        targets: (R, 4) float, ground truth, xyxy.
        shares: (R,) float.
        loss: torchvision's ``generalized_box_iou_loss``, ``distance_box_iou_loss`` or ``complete_box_iou_loss``.

    Returns:
        (R,) float.

    Source: Rezatofighi et al., Generalized Intersection over Union, arXiv:1902.09630; Zheng et al.,
    Distance-IoU Loss, arXiv:1911.08287.
    """
    _check_rows(boxes.shape[:-1], shares)
    return loss(boxes, targets, reduction="none") * shares  # in float32, or wider, whatever comes


def centerness_rows(logits: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """Binary cross entropy of each row's centre-ness.

    Args:
        logits: (R,) float.
        targets: (R,) float in [0, 1].
        shares: (R,) float.

    Returns:
        (R,) float.

    Source: Tian et al., FCOS, arXiv:1904.01355, equation 3.
    """
    _check_rows(logits.shape, shares)
    return F.binary_cross_entropy_with_logits(widened(logits), targets, reduction="none") * shares


def mask_rows(logits: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """Binary cross entropy of each row's mask, averaged over its pixels.

    Args:
        logits: (..., M, M) float, the mask predicted for the class of the row's object.
        targets: (..., M, M) float in [0, 1].
        shares: (...,) float.

    Returns:
        (...,) float.

    Source: He et al., Mask R-CNN, arXiv:1703.06870, section 3.
    """
    _check_rows(logits.shape[:-2], shares)
    logits = widened(logits)
    pixels = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return pixels.mean((-2, -1)) * shares


def keypoint_rows(logits: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """Cross entropy of each visible keypoint over the cells of its heat map.

    Args:
        logits: (R, L) float, a heat map of L cells for each keypoint.
        cells: (R,) int64 in 0 ... L-1, where the keypoint is.
        shares: (R,) float.

    Returns:
        (R,) float.

    Source: He et al., Mask R-CNN, arXiv:1703.06870, section 5.
    """
    _check_rows(logits.shape[:1], shares)
    return F.cross_entropy(widened(logits), cells, reduction="none") * shares


def reduce_rows(rows: Tensor, weights: Tensor, normalizer: Normalizer, *, counted: Tensor | None = None) -> Tensor:
    """Sum of the rows over a denominator, along the last dimension.

    Args:
        rows: (..., R) weighted losses.
        weights: (..., R) weights of the rows.
        normalizer: ``"count"`` divides by the number of rows, as torchvision does; ``"weight"`` by the sum
            of their weights.
        counted: (..., R) bool, the rows that enter the denominator; None for all.

    Returns:
        (...,) float. The denominator is at least 1, so that rows without weight give 0, and few faint
        objects do not outweigh a whole background.

    Raises:
        ValueError: the normalizer is unknown.
    """
    check_choice("normalizer", normalizer, Normalizer)
    if counted is None:
        counted = torch.ones_like(weights, dtype=torch.bool)
    total = counted if normalizer == "count" else weights.where(counted, 0.0)
    return rows.sum(-1) / total.sum(-1).clamp(min=1)


def _focal(wrong: Tensor, gamma: float) -> Tensor:
    """``-p**gamma log(1 - p)`` with p the probability of the wrong answer, from its logit.

    torchvision's ``sigmoid_focal_loss`` takes any target, and three times as many passes over memory for it.
    """
    return torch.sigmoid(wrong) ** gamma * F.softplus(wrong)


def _check_layers(logits: Tensor, shares: Tensor, background: Tensor, labels: Tensor | None = None) -> None:
    _check_rows(logits.shape[:1], background, "background")
    if shares.ndim != 2:
        raise ValueError(f"shares must have shape (S, R), a row for each layer, got {tuple(shares.shape)}")
    _check_rows((len(shares), len(logits)), shares)
    if labels is not None:
        _check_rows(shares.shape, labels, "labels")


def _check_rows(rows: Sequence[int], values: Tensor, name: str = "shares") -> None:
    if tuple(rows) != tuple(values.shape):
        raise ValueError(f"{name} must have one value per row: got {tuple(values.shape)} for rows {tuple(rows)}")
