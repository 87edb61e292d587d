"""Weighted losses inside torchvision's RetinaNet. Letters as in ``dense``; K classes including background."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from ..losses import Normalizer, focal_rows, iou_rows, reduce_rows, smooth_l1_rows
from ..targets import Target
from .dense import Groups, Matches, grouped
from .rows import Objective, RowTargets

_L1_BETA = {"l1": 0.0, "smooth_l1": 1.0}
_IOU_LOSS = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}


class WeightedRetinaNet(RetinaNet):
    """torchvision's RetinaNet, which matches the anchors to the objects of each group."""

    objective: Objective
    normalizer: Normalizer

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """As torchvision's; weighted targets reach the head as ``Groups``."""
        targets, anchors = grouped(self, targets, head_outputs, anchors)
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors)
        return losses


class WeightedRetinaNetHead(RetinaNetHead):
    """torchvision's RetinaNet head; focal loss and box loss honour the objects' weights."""

    objective: Objective
    normalizer: Normalizer

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Both losses, as a mean over the images of each image's sum over its foreground, as torchvision's."""
        if not isinstance(targets, Groups):
            losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
            return losses
        rows = targets.rows(matched_idxs)
        classes = focal_rows(head_outputs["cls_logits"].flatten(0, 1), rows.labels, rows.shares, rows.background)
        matches = Matches.of(rows, targets.targets)
        predicted = head_outputs["bbox_regression"].flatten(0, 1)[matches.rows]
        boxes = self._box_rows(predicted, targets.of_rows(anchors)[matches.rows], matches)
        values = {"classification": classes, "bbox_regression": matches.by_row(boxes, rows)}
        return {name: self._reduce(column, rows, len(targets.targets)) for name, column in values.items()}

    def _box_rows(self, predicted: Tensor, anchors: Tensor, matches: Matches) -> Tensor:
        kind, coder = self.regression_head._loss_type, self.regression_head.box_coder
        if kind in _L1_BETA:
            wanted = coder.encode_single(matches.boxes, anchors)
            return smooth_l1_rows(predicted, wanted, matches.shares, beta=_L1_BETA[kind])
        if kind not in _IOU_LOSS:
            raise ValueError(f"_loss_type must be one of {', '.join([*_L1_BETA, *_IOU_LOSS])}, got {kind!r}")
        boxes = coder.decode_single(predicted.to(anchors.dtype), anchors)  # half precision would move the anchors
        return iou_rows(boxes, matches.boxes, matches.shares, loss=_IOU_LOSS[kind])

    def _reduce(self, values: Tensor, rows: RowTargets, images: int) -> Tensor:
        values, shares, counted = (x.view(images, -1) for x in (values, rows.shares.sum(0), rows.foreground))
        return reduce_rows(values, shares, self.normalizer, counted=counted).mean()
