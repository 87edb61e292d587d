"""What the one-stage detectors share: every anchor of every image is a row.

Letters: B images, A anchors (or points) of one image, R = B * A rows, S layers (see ``rows``), M matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..targets import Target
from .checks import are_weighted, require_labels
from .matching import Matched, Objects
from .names import full_name
from .rows import Objective, RowTargets


class Groups(list[Target]):
    """The groups of all images, in the place of torchvision's list of targets.

    torchvision matches each member with the anchors beside it and hands all of them to the head: so its
    matching, whatever it is, runs once for each group.
    """

    def __init__(self, targets: Sequence[Target], objective: Objective) -> None:
        self.targets = targets
        self.objects = Objects(targets, objective)
        super().__init__(self.objects.groups)

    def of_rows(self, anchors: Sequence[Tensor]) -> Tensor:
        """The anchors of all rows, (R, 4), from those of each group."""
        parts = iter(anchors)
        return torch.cat([[next(parts) for _ in counts][0] for counts in self.objects.counts])

    def rows(self, matched: Sequence[Tensor]) -> RowTargets:
        """What the rows of all images are to learn, from the matches of each group."""
        return Matched(self.objects, matched).targets()


def grouped(
    model: Any, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor]
) -> tuple[list[Target], list[Tensor]]:
    """What a model matches: where targets carry weights their ``Groups``, each with the anchors of its image.

    Raises:
        TypeError: the head was replaced after ``weight_losses``, and would take groups for images.
        ValueError: there are more or fewer targets than images, or a label is too large.
    """
    if not are_weighted(anchors, targets, model.objective):
        return targets, anchors
    if not hasattr(model.head, "objective"):
        raise TypeError(
            f"model.head is a {full_name(model.head)}, which ignores weights: it was put there after weight_losses. "
            "Call weight_losses again"
        )
    require_labels(targets, head_outputs["cls_logits"].shape[-1])
    groups = Groups(targets, model.objective)
    return groups, groups.objects.repeat(anchors)


class Matches(NamedTuple):
    """The pairs of a row and an object that it predicts."""

    layers: Tensor  # (M,) int64
    rows: Tensor  # (M,) int64
    boxes: Tensor  # (M, 4) float, of the objects
    shares: Tensor  # (M,) float

    @staticmethod
    def of(rows: RowTargets, targets: Sequence[Target]) -> Matches:
        """All of them, layer by layer."""
        layers, numbers = torch.where(rows.objects >= 0)
        boxes = torch.cat([target["boxes"] for target in targets])
        return Matches(layers, numbers, boxes[rows.objects[layers, numbers]], rows.shares[layers, numbers])

    def by_row(self, values: Tensor, like: RowTargets) -> Tensor:
        """Values of the matches, (M,), summed by row, (R,)."""
        spread = values.new_zeros(like.shares.shape)
        spread[self.layers, self.rows] = values
        return spread.sum(0)
