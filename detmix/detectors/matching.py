"""Which object each row of a batch matches: the only place where the objectives ``"weighted"`` and ``"pair"`` differ.

Letters: B images, N objects of all of them, R rows (anchors, points or proposals) of all of them, S layers.

A matcher of torchvision's gives each row the number of its object, or says background or ignored. Under ``"weighted"``
the objects of an image are matched all together, in one layer: a row on an object has its weight and no background, any
other has background 1. Under ``"pair"`` those of each mixed image are a group that is matched on its own, the first
group of each image in the first layer, the second in the next: a row has the share of its object in each, and what is
left over is background. What a layer ignores is neither: a row between the thresholds of one mixed image still learns
from the others. An image of fewer groups than another ignores the layers that it lacks.

Matching goes image by image, as torchvision's does; all else is done once for the batch. Each operation costs the host
the same, however few rows it is of, and a GPU that is through waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, repeat, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from ..indices import indices_on
from ..targets import Target, visible_shares
from .rows import Objective, RowTargets

_BACKGROUND, _IGNORED = Matcher.BELOW_LOW_THRESHOLD, Matcher.BETWEEN_THRESHOLDS
_ROUNDING = 1e-6  # shares that add up to 1 leave this much or less


class Objects:
    """The objects of a batch, group after group.

    Attributes:
        boxes: (N, 4) float.
        labels: (N,) int64.
        weights: (N,) float.
        numbers: (N,) int64, where each object stands in the targets of all images, one after the other.
        counts: of each image, how many objects each of its groups has.
        pair: whether a group is what comes from one of the mixed images.
    """

    def __init__(self, targets: Sequence[Target], objective: Objective) -> None:
        """Group them: under ``"pair"`` by their sources, which are read, so that the host waits for a GPU, once.

        Args:
            targets: of B images, each with boxes, labels and, where given, weights and sources.
            objective: of the model.
        """
        self.pair = objective == "pair"
        self.boxes = torch.cat([target["boxes"] for target in targets])
        self.labels = torch.cat([target["labels"] for target in targets])
        self.weights = torch.cat([visible_shares(target) for target in targets])
        self.numbers = torch.arange(len(self.boxes), device=self.boxes.device)
        self.counts = [[len(target["boxes"])] for target in targets]
        if self.pair and any("sources" in target for target in targets):
            order, self.counts = _by_source(targets)
            self.numbers = indices_on(self.boxes.device, order)
            self.boxes, self.labels, self.weights = (
                column[self.numbers] for column in (self.boxes, self.labels, self.weights)
            )

    @property
    def groups(self) -> list[Target]:
        """Boxes and labels of each group."""
        counts = list(chain.from_iterable(self.counts))
        columns = zip(self.boxes.split(counts), self.labels.split(counts), strict=True)
        return [{"boxes": boxes, "labels": labels} for boxes, labels in columns]

    def repeat(self, images: Sequence[Tensor]) -> list[Tensor]:
        """What belongs to an image, once for each of its groups."""
        return [image for image, counts in zip(images, self.counts, strict=True) for _ in counts]


class Matched:
    """What the rows of a batch match.

    Attributes:
        objects: of the batch.
        found: (S, R) int64, a row of the group, -1 for background or -2 for ignored.
        rows: of each image, how many rows it has.
    """

    def __init__(self, objects: Objects, by_group: Sequence[Tensor]) -> None:
        """Put together what was found for each group.

        Args:
            objects: of the batch.
            by_group: of each group, for the R_i rows of its image, (R_i,) int64: what the matcher said.
        """
        parts = iter(by_group)
        images = [[next(parts) for _ in counts] for counts in objects.counts]
        layers = zip_longest(*images)
        found = [
            torch.full_like(groups[0], _IGNORED) if own is None else own
            for layer in layers
            for groups, own in zip(images, layer, strict=True)
        ]
        self.objects = objects
        self.rows = [len(groups[0]) for groups in images]
        self.found = torch.cat(found).view(max(map(len, images)), -1)

    def matches(self) -> list[Tensor]:
        """For the sampler of anchors, of each image (R_i,) int64: 1 on an object, 0 for background, -1 for ignored."""
        foreground, ignored = (self.found >= 0).any(0), (self.found == _IGNORED).all(0)
        return list((foreground.to(torch.int64) - ignored.to(torch.int64)).split(self.rows))

    def targets(self, rows: Tensor | None = None) -> RowTargets:
        """What the rows are to learn, all or, by number, some."""
        found = self.found if rows is None else self.found[:, rows]
        rows = torch.arange(found.shape[1], device=found.device) if rows is None else rows
        image = torch.bucketize(rows, self._places.ends, right=True)  # (R,)
        objects, none = self.objects, len(self.objects.numbers)  # the row of none, that follows the last object's
        at = (found + self._places.starts[:, image]).where(found >= 0, none)  # (S, R)
        numbers, labels = pad(objects.numbers, (0, 1), value=-1)[at], pad(objects.labels, (0, 1))[at]
        shares, ignored = pad(objects.weights, (0, 1))[at], found == _IGNORED
        if objects.pair:
            return self._pair_targets(numbers, labels, shares, ignored, image)
        return RowTargets(numbers, labels, shares, (found[0] == _BACKGROUND).to(shares.dtype), ignored[0])

    def _pair_targets(
        self, numbers: Tensor, labels: Tensor, shares: Tensor, ignored: Tensor, image: Tensor
    ) -> RowTargets:
        zeros = torch.zeros_like(self._places.starts, dtype=shares.dtype)  # (S, B)
        opacity = zeros.flatten().scatter_reduce(0, self._places.groups, self.objects.weights, "amax").view_as(zeros)
        taken = shares.sum(0) + (ignored * opacity[:, image]).sum(0)  # (R,)
        left = (1.0 - taken).where(taken < 1.0 - _ROUNDING, 0.0)
        return RowTargets(numbers, labels, shares / taken.clamp(min=1.0), left, ignored.all(0))

    @cached_property
    def _places(self) -> _Places:
        counts, layers = self.objects.counts, range(len(self.found))
        first = accumulate(chain.from_iterable(counts), initial=0)
        starts = [[next(first) for _ in groups] for groups in counts]
        columns = (
            list(accumulate(self.rows)),
            [groups[layer] if layer < len(groups) else 0 for layer in layers for groups in starts],
            [layer * len(counts) + i for i, groups in enumerate(counts) for layer in _each(groups)],
        )
        here = torch.tensor(list(chain(*columns)), device="cpu")  # whatever torch's default device is
        there = indices_on(self.found.device, here).split([*map(len, columns)])
        return _Places(there[0], there[1].view(len(layers), -1), there[2])


class _Places(NamedTuple):
    """Where things are, on the device."""

    ends: Tensor  # (B,) int64: row after the last of each image
    starts: Tensor  # (S, B) int64: first object of each group
    groups: Tensor  # (N,) int64: the group of each object, counted layer by layer


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
        return torch.full((len(anchors),), _BACKGROUND, device=anchors.device)
    return matcher(similarity(boxes, anchors))


def _by_source(targets: Sequence[Target]) -> tuple[Tensor, list[list[int]]]:
    """The objects of all images in the order of their sources, (N,) int64 on the CPU, and how many each source has."""
    columns = [target.get("sources", torch.zeros_like(target["labels"])) for target in targets]
    images = torch.cat(columns).cpu().split([len(column) for column in columns])
    offsets = accumulate((len(column) for column in columns), initial=0)
    order = torch.cat([sources.argsort(stable=True) + offset for sources, offset in zip(images, offsets, strict=False)])
    return order, [sources.unique(return_counts=True)[1].tolist() or [0] for sources in images]


def _each(counts: Sequence[int]) -> Iterator[int]:
    """The number of its group for each object: 0, 0, 1 of two and one."""
    return chain.from_iterable(repeat(number, count) for number, count in enumerate(counts))
