"""Weighted losses inside torchvision's two-stage detectors: the region proposal network and the box head.

Letters: B images, A anchors of one image, R sampled rows of all images, N objects of one image, K
classes including background.

The rows, their order and every draw of torchvision's samplers are torchvision's own; only what is
summed differs. So the weighted and the plain loss of one seed are over the same rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from ..losses import Normalizer, box_rows, classification_rows, objectness_rows, reduce_rows
from ..targets import Target, visible_shares


class MatchedAnchors(NamedTuple):
    """What the anchors of one image are to learn."""

    labels: Tensor  # (A,) float: 1 object, 0 background, -1 ignored
    weights: Tensor  # (A,) float: the matched object's weight, 1 for background


class WeightedRegionProposalNetwork(RegionProposalNetwork):
    """torchvision's region proposal network; objectness and box loss honour the objects' weights."""

    objective: str
    normalizer: Normalizer

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: list[Target]) -> tuple[list[Any], list[Tensor]]:
        """Match anchors to objects; with weighted targets, labels come as ``MatchedAnchors``."""
        if not _are_weighted(self, targets):
            return super().assign_targets_to_anchors(anchors, targets)
        matches = [self._match(*pair) for pair in zip(anchors, targets, strict=True)]
        return [matched for matched, _ in matches], [boxes for _, boxes in matches]

    def _match(self, anchors: Tensor, target: Target) -> tuple[MatchedAnchors, Tensor]:
        boxes, weights = target["boxes"], visible_shares(target)
        if not len(boxes):
            return MatchedAnchors(anchors.new_zeros(len(anchors)), anchors.new_ones(len(anchors))), torch.zeros_like(
                anchors
            )
        matched = self.proposal_matcher(self.box_similarity(boxes, anchors))  # (A,) row of boxes, or negative
        labels = (matched >= 0).to(torch.float32)
        labels = labels.where(matched != self.proposal_matcher.BETWEEN_THRESHOLDS, -1.0)
        rows = matched.clamp(min=0)
        return MatchedAnchors(labels, weights[rows].where(matched >= 0, 1.0)), boxes[rows]

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Any], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss over the sampled anchors of all images."""
        if isinstance(labels[0], Tensor):
            return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        classes = [matched.labels for matched in labels]
        positives, negatives = (torch.where(torch.cat(rows))[0] for rows in self.fg_bg_sampler(classes))
        sampled = torch.cat([positives, negatives])  # (R,)
        weights = torch.cat([matched.weights for matched in labels])
        sampled_weights = weights[sampled]
        objectness_loss = objectness_rows(objectness.flatten()[sampled], torch.cat(classes)[sampled], sampled_weights)
        box_loss = box_rows(pred_bbox_deltas[positives], torch.cat(regression_targets)[positives], weights[positives])
        return (
            reduce_rows(objectness_loss, sampled_weights, self.normalizer),
            reduce_rows(box_loss, sampled_weights, self.normalizer),
        )


class WeightedRoIHeads(RoIHeads):
    """torchvision's box head; class and box loss honour the objects' weights."""

    objective: str
    normalizer: Normalizer

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's; in training with weighted targets, the losses are the weighted ones."""
        if not self.training or targets is None or not _are_weighted(self, targets):
            return super().forward(features, proposals, image_shapes, targets)
        proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, box_regression = self.box_predictor(self.box_head(pooled))
        weights = [_row_weights(*image) for image in zip(targets, matched, labels, strict=True)]
        return [], self._losses(logits, box_regression, torch.cat(labels), torch.cat(deltas), torch.cat(weights))

    def _losses(
        self, logits: Tensor, box_regression: Tensor, labels: Tensor, deltas: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        objects = torch.where(labels > 0)[0]  # rows of images without boxes have no finite deltas
        predicted = box_regression.reshape(len(labels), -1, 4)[objects, labels[objects]]
        losses = {
            "loss_classifier": classification_rows(logits, labels, weights),
            "loss_box_reg": box_rows(predicted, deltas[objects], weights[objects]),
        }
        return {name: reduce_rows(values, weights, self.normalizer) for name, values in losses.items()}


def _are_weighted(head: WeightedRegionProposalNetwork | WeightedRoIHeads, targets: list[Target]) -> bool:
    if head.objective == "unweighted":
        return False
    for row, target in enumerate(targets):
        _check_dtypes(row, target)
    return any("weights" in target for target in targets)


def _check_dtypes(row: int, target: Target) -> None:
    """What can be checked without a look at the values, which would stop the GPU."""
    weights, labels, count = target.get("weights"), target.get("labels"), len(target["boxes"])
    if weights is None:
        return
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        got = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"weights of target {row} must be a tensor of a floating dtype, got {got}")
    if weights.shape != (count,):
        raise ValueError(f"weights of target {row} must have shape ({count},), one per box, got {tuple(weights.shape)}")
    if labels is not None and getattr(labels, "dtype", None) != torch.int64:
        raise TypeError(f"labels of target {row} must be an int64 tensor, got {getattr(labels, 'dtype', type(labels))}")


def _row_weights(target: Target, matched: Tensor, labels: Tensor) -> Tensor:
    """Weight of each sampled row of one image: the matched object's, or 1 for background."""
    if not len(target["boxes"]):
        return labels.new_ones(labels.shape, dtype=torch.float32)
    return visible_shares(target)[matched].where(labels > 0, 1.0)
