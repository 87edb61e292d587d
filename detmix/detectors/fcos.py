"""Weighted losses inside torchvision's FCOS. Letters as in ``dense``; K classes including background."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOS, FCOSHead

from ..losses import Normalizer, centerness_rows, focal_rows, iou_rows, reduce_rows
from ..targets import Target
from .dense import Groups, Matches, grouped
from .rows import Objective


class WeightedFCOS(FCOS):
    """torchvision's FCOS, which matches the points to the objects of each group."""

    objective: Objective
    normalizer: Normalizer

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        num_anchors_per_level: list[int],
    ) -> dict[str, Tensor]:
        """As torchvision's; weighted targets reach the head as ``Groups``."""
        targets, anchors = grouped(self, targets, head_outputs, anchors)
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, num_anchors_per_level)
        return losses


class WeightedFCOSHead(FCOSHead):
    """torchvision's FCOS head; focal loss, box loss and centre-ness honour the objects' weights."""

    objective: Objective
    normalizer: Normalizer

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """The three losses, each a sum over the batch's foreground, as torchvision's."""
        if not isinstance(targets, Groups):
            losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
            return losses
        rows = targets.rows(matched_idxs)
        matches = Matches.of(rows, targets.targets)
        points = targets.of_rows(anchors)[matches.rows]
        deltas = head_outputs["bbox_regression"].flatten(0, 1)[matches.rows]
        centerness = head_outputs["bbox_ctrness"].flatten()[matches.rows]
        boxes = self.box_coder.decode(deltas.to(points.dtype), points)  # half precision would move the points
        wanted = _centerness(self.box_coder.encode(points, matches.boxes))
        values = {
            "classification": focal_rows(
                head_outputs["cls_logits"].flatten(0, 1), rows.labels, rows.shares, rows.background
            ),
            "bbox_regression": matches.by_row(iou_rows(boxes, matches.boxes, matches.shares), rows),
            "bbox_ctrness": matches.by_row(centerness_rows(centerness, wanted, matches.shares), rows),
        }
        shares, counted = rows.shares.sum(0), rows.foreground
        return {key: reduce_rows(value, shares, self.normalizer, counted=counted) for key, value in values.items()}


def _centerness(distances: Tensor) -> Tensor:
    """How central points lie in their boxes, (M,) in [0, 1], from their distances (M, 4) to its sides.

    Source: Tian et al., FCOS, arXiv:1904.01355, equation 3.
    """
    left, top, right, bottom = distances.unbind(1)
    across, down = _evenness(left, right), _evenness(top, bottom)
    return torch.sqrt(across * down)


def _evenness(first: Tensor, second: Tensor) -> Tensor:
    return torch.minimum(first, second) / torch.maximum(first, second)
