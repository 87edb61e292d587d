"""Weighted losses inside torchvision's two-stage detectors: the region proposal network and the heads.

Letters: B images, A anchors of one image, R sampled rows of all images, P those of them on an object, N
objects of one image, S layers (see ``rows``), K classes including background, M side of a mask.

Rows are matched by torchvision's matchers and drawn by its samplers, in its order: with one layer the
weighted and the plain loss of one seed are over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, keypoints_to_heatmap, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork

from ..losses import (
    Normalizer,
    classification_rows,
    keypoint_rows,
    mask_rows,
    objectness_rows,
    reduce_rows,
    smooth_l1_rows,
)
from ..targets import Target
from .checks import are_weighted, require_keypoints, require_labels
from .matching import Matched, Objects, match_boxes
from .rows import Objective, RowTargets, joined_rows, matched_boxes

_BETA = 1 / 9  # torchvision's

# features (R, D), targets and proposals (R, 4) of the box head's rows, mixed: proposals then (S, R, 4), one per layer
RowMixer = Callable[[Tensor, RowTargets, Tensor], tuple[Tensor, RowTargets, Tensor]]


class AnchorTargets(NamedTuple):
    """What the anchors of a batch match; takes the place of torchvision's list of labels."""

    matched: Matched
    anchors: list[Tensor]  # of each image, (A, 4)
    targets: list[Target]


class WeightedRegionProposalNetwork(RegionProposalNetwork):
    """torchvision's region proposal network; objectness and box loss honour the objects' weights."""

    objective: Objective
    normalizer: Normalizer

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: list[Target]) -> tuple[Any, list[Tensor]]:
        """Match anchors to objects; with weighted targets, ``AnchorTargets`` come in the place of labels.

        torchvision passes both results on to ``compute_loss``, the boxes encoded against the anchors. The
        weighted loss encodes for itself, and only the sampled rows, so it gets the anchors back as boxes.
        """
        if not are_weighted(anchors, targets, self.objective):
            return super().assign_targets_to_anchors(anchors, targets)
        objects = Objects(targets, self.objective)
        pairs = zip(objects.groups, objects.repeat(anchors), strict=True)
        found = [match_boxes(self.proposal_matcher, group["boxes"], own, self.box_similarity) for group, own in pairs]
        return AnchorTargets(Matched(objects, found), anchors, targets), anchors

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: Any, regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss over the sampled anchors of all images."""
        if not isinstance(labels, AnchorTargets):
            return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        positives, negatives = self.fg_bg_sampler(labels.matched.matches())
        sampled = torch.where(torch.cat(positives) | torch.cat(negatives))[0]  # (R,)
        rows = labels.matched.targets(sampled)
        boxes = torch.cat([target["boxes"] for target in labels.targets])
        anchors = torch.cat(labels.anchors)[sampled]
        box_loss = _box_rows(self, pred_bbox_deltas[sampled].expand(len(rows.objects), -1, 4), rows, boxes, anchors)
        objectness_loss = objectness_rows(objectness.flatten()[sampled], rows.shares, rows.background)
        return (
            reduce_rows(objectness_loss, rows.masses, self.normalizer),
            reduce_rows(box_loss, rows.masses, self.normalizer),
        )


class WeightedRoIHeads(RoIHeads):
    """torchvision's box, mask and keypoint heads; their losses honour the objects' weights.

    ``row_mixer``, which ``ManifoldMixup`` sets for a step, mixes what the box predictor gets.
    """

    objective: Objective
    normalizer: Normalizer
    row_mixer: RowMixer | None = None

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's; in training with weighted targets, the losses are the weighted ones.

        Raises:
            ValueError: in training, keypoints are missing, or not as many as the detector has.
        """
        if self.training and targets is not None and self.has_keypoint():
            last_layer = getattr(self.keypoint_predictor, "kps_score_lowres", None)
            require_keypoints(targets, getattr(last_layer, "out_channels", None))
        if not self.training or targets is None or not are_weighted(proposals, targets, self.objective):
            return super().forward(features, proposals, image_shapes, targets)
        proposals, sampled = self._sample(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        rows, own = sampled, torch.cat(proposals)
        if self.row_mixer is not None:
            pooled, rows, own = self.row_mixer(pooled, rows, own)
        logits, box_regression = self.box_predictor(pooled)
        require_labels(targets, logits.shape[1])
        losses = self._box_losses(logits, box_regression, rows, own, targets)
        if self.has_mask() or self.has_keypoint():
            counts = [len(boxes) for boxes in proposals]
            positives = [torch.where(foreground)[0] for foreground in sampled.foreground.split(counts)]
            proposals = [boxes[own] for boxes, own in zip(proposals, positives, strict=True)]
            sampled = sampled.at(joined_rows(positives, counts))
        if self.has_mask():
            pooled = self.mask_roi_pool(features, proposals, image_shapes)
            losses["loss_mask"] = self._mask_loss(
                self.mask_predictor(self.mask_head(pooled)), sampled, proposals, targets
            )
        if self.has_keypoint():
            pooled = self.keypoint_roi_pool(features, proposals, image_shapes)
            logits = self.keypoint_predictor(self.keypoint_head(pooled))
            losses["loss_keypoint"] = self._keypoint_loss(logits, sampled, proposals, targets)
        return [], losses

    def _sample(self, proposals: list[Tensor], targets: list[Target]) -> tuple[list[Tensor], RowTargets]:
        self.check_targets(targets)
        boxes = [target["boxes"].to(proposals[0].dtype) for target in targets]
        proposals = self.add_gt_proposals(proposals, boxes)
        matched = self._match(proposals, Objects(targets, self.objective))
        rows = matched.targets()
        sampled = self.subsample(list(rows.sampler_labels().split(matched.rows)))
        proposals = [boxes[own] for boxes, own in zip(proposals, sampled, strict=True)]
        return proposals, rows.at(joined_rows(sampled, matched.rows))

    def _match(self, proposals: list[Tensor], objects: Objects) -> Matched:
        repeated, groups = objects.repeat(proposals), objects.groups
        boxes, labels = ([group[key] for group in groups] for key in ("boxes", "labels"))
        found, classes = (torch.cat(parts) for parts in self.assign_targets_to_proposals(repeated, boxes, labels))
        # torchvision's labels are 0 for background and -1 for ignored: one less is what its matcher says
        return Matched(objects, found.where(classes > 0, classes - 1).split([len(own) for own in repeated]))

    def _box_losses(
        self, logits: Tensor, box_regression: Tensor, rows: RowTargets, own: Tensor, targets: list[Target]
    ) -> dict[str, Tensor]:
        everyone = torch.arange(len(logits), device=logits.device)
        deltas = box_regression.unflatten(1, (-1, 4))[everyone, rows.labels]  # (S, R, 4)
        boxes = torch.cat([target["boxes"] for target in targets])
        losses = {
            "loss_classifier": classification_rows(logits, rows.labels, rows.shares, rows.background),
            "loss_box_reg": _box_rows(self, deltas, rows, boxes, own),
        }
        return {name: reduce_rows(values, rows.masses, self.normalizer) for name, values in losses.items()}

    def _mask_loss(self, logits: Tensor, rows: RowTargets, proposals: list[Tensor], targets: list[Target]) -> Tensor:
        images = zip(targets, proposals, _by_image(rows.objects, proposals, targets), strict=True)
        truth = torch.cat(
            [_project(target["masks"], boxes, objects, logits.shape[-1]) for target, boxes, objects in images], dim=1
        )  # (S, P, M, M)
        chosen = logits[torch.arange(len(logits), device=logits.device), rows.labels]
        values = mask_rows(chosen, truth, rows.shares).sum(0)
        return reduce_rows(values, rows.shares.sum(0), self.normalizer)

    def _keypoint_loss(
        self, logits: Tensor, rows: RowTargets, proposals: list[Tensor], targets: list[Target]
    ) -> Tensor:
        images = zip(targets, proposals, _by_image(rows.objects, proposals, targets), strict=True)
        found = [_cells(target["keypoints"], boxes, objects, logits.shape[-1]) for target, boxes, objects in images]
        cells, visible = (torch.cat(columns, dim=1) for columns in zip(*found, strict=True))  # (S, P, keypoints)
        shares = rows.shares[..., None] * visible
        layer, row, keypoint = torch.where(visible)
        values = torch.zeros_like(shares, dtype=torch.promote_types(logits.dtype, shares.dtype))
        values[layer, row, keypoint] = keypoint_rows(
            logits.flatten(2)[row, keypoint], cells[layer, row, keypoint], shares[layer, row, keypoint]
        )
        counted = visible.any(0).flatten()
        return reduce_rows(values.sum(0).flatten(), shares.sum(0).flatten(), self.normalizer, counted=counted)


def _by_image(objects: Tensor, proposals: list[Tensor], targets: list[Target]) -> list[Tensor]:
    """Of each image (S, P): the rows of the objects in its own target; those of none stay below 0."""
    first = accumulate((len(target["boxes"]) for target in targets), initial=0)
    parts = objects.split([len(boxes) for boxes in proposals], dim=1)
    return [part - offset for part, offset in zip(parts, first, strict=False)]


def _box_rows(
    head: WeightedRegionProposalNetwork | WeightedRoIHeads, deltas: Tensor, rows: RowTargets, boxes: Tensor, own: Tensor
) -> Tensor:
    """Box loss of each row, (R,), from deltas (S, R, 4) and the boxes that they start from, (R, 4) or (S, R, 4).

    Rows on no object have a share of 0; what is predicted there is left out of the sum, infinite or not, and so is
    what a box without width or height would have to be moved by.
    """
    matched = (rows.objects >= 0)[..., None]
    wanted = matched_boxes(boxes, rows.objects, own)
    encoded = head.box_coder.encode_single(wanted.flatten(0, 1), own.expand_as(wanted).flatten(0, 1))
    deltas, encoded = deltas.where(matched, 0.0), encoded.view_as(wanted).where(matched, 0.0)
    return smooth_l1_rows(deltas, encoded, rows.shares, beta=_BETA).sum(0)


def _project(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """The masks of the matched objects inside the proposals of one image: (S, P, M, M)."""
    return torch.stack([project_masks_on_boxes(masks, boxes, rows.clamp(min=0), side) for rows in objects])


def _cells(keypoints: Tensor, boxes: Tensor, objects: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where the keypoints of the matched objects fall in the heat maps of one image, and whether: (S, P, keypoints)."""
    found = [keypoints_to_heatmap(keypoints[rows.clamp(min=0)], boxes, side) for rows in objects]
    cells, visible = (torch.stack(columns) for columns in zip(*found, strict=True))
    return cells, visible.bool() & (objects >= 0)[..., None]
