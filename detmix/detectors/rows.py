"""What rows are to learn.

Letters: R rows (anchors, points or proposals) of all images of a batch, N objects, S layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Objective = Literal["weighted", "pair", "unweighted"]


class RowTargets(NamedTuple):
    """Objects and shares of R rows."""

    objects: Tensor  # (S, R) int64: row of the object in the targets of all images, one after the other; -1 for none
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

    def sampler_labels(self) -> Tensor:
        """(R,) int64 for the sampler of proposals: an object's class, 0 for background, -1 for ignored."""
        return self.labels.amax(0) - self.ignored.to(torch.int64)


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


def joined_rows(by_image: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Rows of each image by their number in it, as numbers among those of all images, (R,) int64.

    Args:
        by_image: of each image, (R_i,) int64.
        counts: of each image, how many rows it has.
    """
    first = accumulate(counts, initial=0)
    return torch.cat([rows + offset for rows, offset in zip(by_image, first, strict=False)])


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
