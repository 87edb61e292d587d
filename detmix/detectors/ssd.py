"""Weighted losses inside torchvision's SSD and SSDlite. Letters as in ``dense``; K classes including background."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.ssd import SSD

from ..losses import Normalizer, classification_rows, reduce_rows, smooth_l1_rows
from ..targets import Target
from .checks import are_weighted, require_labels
from .dense import Groups, Matches
from .matching import match_boxes
from .rows import Objective, RowTargets

_BETA = 1.0  # torchvision's


class WeightedSSD(SSD):
    """torchvision's SSD; class and box loss honour the objects' weights."""

    objective: Objective
    normalizer: Normalizer

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Both losses, each a sum over the batch's foreground and, for the class, its hardest background."""
        if not are_weighted(anchors, targets, self.objective):
            losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
            return losses
        require_labels(targets, head_outputs["cls_logits"].shape[-1])
        groups = Groups(targets, self.objective)
        if len(groups) > len(targets):
            pairs = zip(groups, groups.objects.repeat(anchors), strict=True)
            matched_idxs = [match_boxes(self.proposal_matcher, group["boxes"], boxes) for group, boxes in pairs]
        rows = groups.rows(matched_idxs)
        classes = classification_rows(
            head_outputs["cls_logits"].flatten(0, 1), rows.labels, rows.shares, rows.background
        )
        matches = Matches.of(rows, targets)
        predicted = head_outputs["bbox_regression"].flatten(0, 1)[matches.rows]
        wanted = self.box_coder.encode_single(matches.boxes, torch.cat(anchors)[matches.rows])
        boxes = matches.by_row(smooth_l1_rows(predicted, wanted, matches.shares, beta=_BETA), rows)
        times = self._times_counted(classes, rows, len(targets))
        values = {"bbox_regression": boxes, "classification": classes * times}
        shares, counted = rows.shares.sum(0), rows.foreground
        return {key: reduce_rows(value, shares, self.normalizer, counted=counted) for key, value in values.items()}

    def _times_counted(self, classes: Tensor, rows: RowTargets, images: int) -> Tensor:
        """How often each row enters the class loss, (R,): foreground once, background if it is among the hardest.

        Where an image has too little background, torchvision fills up with foreground, a second time; so do we.
        """
        foreground = (rows.labels > 0).any(0).view(images, -1)
        hardness = classes.detach().view(images, -1).where(~foreground, -torch.inf)
        rank = hardness.argsort(1, descending=True).argsort(1)
        chosen = rank < self.neg_to_pos_ratio * foreground.sum(1, keepdim=True)
        return (foreground.to(classes.dtype) + chosen).flatten()
