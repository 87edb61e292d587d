"""What rows are to learn: where the objectives ``"weighted"`` and ``"pair"`` differ, and the only place.

Letters: R rows (anchors, points or proposals) of one or more images, N objects, S layers; B images.

A matcher of torchvision's gives each row the number of its object, or says background or ignored. Here
that becomes shares. Under ``"weighted"`` there is one layer: a row on an object has its weight and no
background; any other has background 1. Under ``"pair"`` each mixed image is a layer, matched on its own:
a row has the share of its object in each, and what is left over is background. What a layer ignores is
neither: a row between the thresholds of one image still learns from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from ..indices import indices_on
from ..targets import Target, visible_shares

Objective = Literal["weighted", "pair", "unweighted"]

_NO_OBJECT: dict[str, Any] = {"objects": -1, "labels": 0, "weights": 0.0}
_ROUNDING = 1e-6  # shares that add up to 1 leave this much or less


class RowTargets(NamedTuple):
    """Objects and shares of R rows."""

    objects: Tensor  # (S, R) int64: row of the object in its target (after `join` in all of them), -1 for none
    labels: Tensor  # (S, R) int64: 0 for none
    shares: Tensor  # (S, R) float: 0 for none
    background: Tensor  # (R,) float
    ignored: Tensor  # (R,) bool: every layer ignores the row

    @property
    def foreground(self) -> Tensor:
        """(R,) bool: the rows that match an object, however faint."""
        return (self.objects >= 0).any(0)

    @property
    def masses(self) -> Tensor:
        """(R,) float: all that a row learns from, objects and background."""
        return self.shares.sum(0) + self.background

    def at(self, rows: Tensor) -> RowTargets:
        """The targets of some rows, by number."""
        return RowTargets(*(column[..., rows] for column in self))

    def matches(self) -> Tensor:
        """(R,) int64 for the sampler of anchors: 1 for an object of any label, 0 for background, -1 for ignored."""
        return self.foreground.to(torch.int64) - self.ignored.to(torch.int64)

    def sampler_labels(self) -> Tensor:
        """(R,) int64 for the sampler of proposals: an object's class, 0 for background, -1 for ignored."""
        return self.labels.amax(0) - self.ignored.to(torch.int64)


def groups_of(targets: Sequence[Target], objective: Objective) -> list[list[Target]]:
    """The objects of each image in the groups that are matched on their own: one per layer.

    Args:
        targets: of B images, each with boxes (N, 4), labels (N,) and, where given, weights and sources.
        objective: ``"pair"`` makes a group of each source; to read which there are the host waits for a GPU, once.

    Returns:
        For each image S dicts of boxes, labels, weights and objects, the rows of the group in the target.
    """
    if objective == "pair" and any("sources" in target for target in targets):
        return [_groups(target, rows) for target, rows in zip(targets, _rows_by_source(targets), strict=True)]
    return [_groups(target, []) for target in targets]


def match_boxes(
    matcher: Matcher, boxes: Tensor, anchors: Tensor, similarity: Callable[[Tensor, Tensor], Tensor] = box_iou
) -> Tensor:
    """Row of the box that each anchor of one image matches, (A,) int64, or what the matcher says instead of one.

    Args:
        matcher: torchvision's, or one that answers alike; not asked where there are no boxes.
        boxes: (N, 4); N may be 0, and then all is background.
        anchors: (A, 4).
        similarity: (N, 4) and (A, 4) to (N, A).
    """
    if not len(boxes):
        return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
    return matcher(similarity(boxes, anchors))


def row_targets(matched: Sequence[Tensor], groups: Sequence[Target], objective: Objective) -> RowTargets:
    """What the rows of one image are to learn.

    Args:
        matched: S tensors (R,) int64: the row of the object in its group; ``Matcher.BELOW_LOW_THRESHOLD``,
            -1, is background, and ``Matcher.BETWEEN_THRESHOLDS``, -2, ignored.
        groups: S groups of ``groups_of``.
        objective: ``"weighted"`` or ``"pair"``.
    """
    objects, labels, shares = (
        torch.stack([_pick(group[key], rows, none) for rows, group in zip(matched, groups, strict=True)])
        for key, none in _NO_OBJECT.items()
    )
    ignored = torch.stack([rows == Matcher.BETWEEN_THRESHOLDS for rows in matched])  # (S, R)
    if objective == "weighted":
        background = (matched[0] == Matcher.BELOW_LOW_THRESHOLD).to(shares.dtype)
        return RowTargets(objects, labels, shares, background, ignored[0])
    opacity = torch.stack([_most_visible(group["weights"]) for group in groups])  # (S,)
    taken = shares.sum(0) + (ignored * opacity[:, None]).sum(0)  # (R,)
    left = (1.0 - taken).where(taken < 1.0 - _ROUNDING, 0.0)
    return RowTargets(objects, labels, shares / taken.clamp(min=1.0), left, ignored.all(0))


def join(images: Sequence[RowTargets], targets: Sequence[Target]) -> RowTargets:
    """The rows of all images, one after the other; ``objects`` then count through all targets."""
    shifted, offset = [], 0
    for rows, target in zip(align(images), targets, strict=True):
        shifted.append(rows._replace(objects=rows.objects.where(rows.objects < 0, rows.objects + offset)))
        offset += len(target["boxes"])
    return RowTargets(*(torch.cat(columns, dim=-1) for columns in zip(*shifted, strict=True)))


def mix_rows(rows: RowTargets, partners: Tensor, lam: float) -> RowTargets:
    """What rows are to learn when each is mixed with another: both their targets, by their shares of the mixture.

    Args:
        rows: the targets of R rows, in S layers.
        partners: (R,) int64, the row that each is mixed with.
        lam: weight of the row itself, in [0, 1]; its partner has ``1 - lam``.

    Returns:
        The targets in 2 S layers: each row's own, then its partner's.
    """
    others = rows.at(partners)
    return RowTargets(
        torch.cat([rows.objects, others.objects]),
        torch.cat([rows.labels, others.labels]),
        torch.cat([lam * rows.shares, (1.0 - lam) * others.shares]),
        lam * rows.background + (1.0 - lam) * others.background,
        rows.ignored & others.ignored,
    )


def align(images: Sequence[RowTargets]) -> list[RowTargets]:
    """Give all images as many layers as the one with the most; the layers that are added match nothing."""
    layers = max(len(rows.objects) for rows in images)
    return [_pad(rows, layers) for rows in images]


def matched_boxes(boxes: Tensor, objects: Tensor, own: Tensor) -> Tensor:
    """The box that each row is to predict; its own where it matches no object.

    Args:
        boxes: (N, 4) of all objects.
        objects: (S, R) int64, rows of boxes, -1 for none.
        own: (R, 4) anchors or proposals, or (S, R, 4).

    Returns:
        (S, R, 4) float.
    """
    own = own.expand(*objects.shape, 4)
    if not len(boxes):
        return own
    return boxes.to(own.dtype)[objects.clamp(min=0)].where((objects >= 0)[..., None], own)


def _groups(target: Target, rows: Sequence[Tensor]) -> list[Target]:
    everything = torch.arange(len(target["boxes"]), device=target["boxes"].device)
    columns = {**target, "weights": visible_shares(target), "objects": everything}
    if len(rows) > 1:
        return [{key: columns[key][row] for key in ("boxes", "labels", "weights", "objects")} for row in rows]
    return [{key: columns[key] for key in ("boxes", "labels", "weights", "objects")}]


def _rows_by_source(targets: Sequence[Target]) -> list[Sequence[Tensor]]:
    """Of each image the rows of the objects of each source, S tensors; on their device, in their order."""
    columns = [target.get("sources", torch.zeros_like(target["labels"])) for target in targets]
    images = torch.cat(columns).cpu().split([len(column) for column in columns])
    order = torch.cat([sources.argsort(stable=True) for sources in images])
    counts = [sources.unique(return_counts=True)[1].tolist() for sources in images]
    groups = iter(indices_on(columns[0].device, order).split([count for image in counts for count in image]))
    return [[next(groups) for _ in image] for image in counts]


def _pad(rows: RowTargets, layers: int) -> RowTargets:
    objects, labels, shares = (
        torch.cat([column, column.new_full((layers - len(column), *column.shape[1:]), none)])
        for column, none in zip(rows[:3], _NO_OBJECT.values(), strict=True)
    )
    return rows._replace(objects=objects, labels=labels, shares=shares)


def _most_visible(weights: Tensor) -> Tensor:
    return weights.max() if len(weights) else weights.new_zeros(())


def _pick(values: Tensor, matched: Tensor, none: float) -> Tensor:
    if not len(values):
        return torch.full_like(matched, none, dtype=values.dtype)
    return values[matched.clamp(min=0)].where(matched >= 0, none)
