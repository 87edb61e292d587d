"""The weighted losses a second time: float64, row by row, in plain loops over Python numbers.

Written from the published formulas, for the library to be held to: nothing here calls detmix, a loss of
torch or a matcher of torchvision. An object is a dict of `box`, `label`, `weight`, `source` and, where its
target has them, `keypoints`; a box is a list x1, y1, x2, y2; logits are lists of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Box = Sequence[float]
Object = dict[str, Any]
Matching = Callable[[list[Box], list[Box]], list[int]]

BACKGROUND, IGNORED = -1, -2
ROUNDING = 1e-6  # float32 weights that add up to 1 leave less than this


@dataclass
class Row:
    """What an anchor, point or proposal is to learn: objects with their shares, and background."""

    box: Box
    objects: list[tuple[Object, float]]
    background: float
    ignored: bool  # by every source

    @property
    def share(self) -> float:
        return sum(share for _, share in self.objects)

    def mix(self, on_object: Callable[[Object], float], on_background: float = 0.0) -> float:
        """A loss of the row: the objects' by their shares, and the background's by its own."""
        return sum(share * on_object(item) for item, share in self.objects) + self.background * on_background


def objects_of(target: dict[str, Any]) -> list[Object]:
    """The objects of a target, as plain numbers; each weighs 1 and is of source 0 unless the target says else."""
    count = len(target["boxes"])
    columns = {
        "box": target["boxes"].tolist(),
        "label": target["labels"].tolist(),
        "weight": target["weights"].tolist() if "weights" in target else [1.0] * count,
        "source": target["sources"].tolist() if "sources" in target else [0] * count,
        "number": list(range(count)),
    }
    if "keypoints" in target:
        columns["keypoints"] = target["keypoints"].tolist()
    return [{key: column[i] for key, column in columns.items()} for i in range(count)]


def rows_of(objects: list[Object], boxes: list[Box], matching: Matching, objective: str) -> list[Row]:
    """What each box (anchor, point or proposal) of an image is to learn under `"weighted"` or `"pair"`."""
    sources = sorted({item["source"] for item in objects}) if objective == "pair" else [None]
    groups = [[item for item in objects if source is None or item["source"] == source] for source in sources]
    found = [matching([item["box"] for item in group], boxes) for group in groups]
    return [
        _row(box, [(group, numbers[i]) for group, numbers in zip(groups, found, strict=True)], objective)
        for i, box in enumerate(boxes)
    ]


def _row(box: Box, matches: list[tuple[list[Object], int]], objective: str) -> Row:
    learnt = [(group[number], group[number]["weight"]) for group, number in matches if number >= 0]
    ignored = [max(item["weight"] for item in group) for group, number in matches if number == IGNORED]
    idle = bool(matches) and len(ignored) == len(matches)
    if objective == "weighted":
        return Row(box, learnt, 1.0 if matches[0][1] == BACKGROUND else 0.0, idle)
    taken = sum(share for _, share in learnt) + sum(ignored)
    shares = [(item, share / max(taken, 1.0)) for item, share in learnt]
    return Row(box, shares, 1 - taken if 1 - taken > ROUNDING else 0.0, idle)


def average(values: Sequence[float], weights: Sequence[float], normalizer: str) -> float:
    """Sum of the values, by the number of weights (`"count"`) or by their sum (`"weight"`), at least 1."""
    return sum(values) / max(1.0, len(weights) if normalizer == "count" else sum(weights))


def cross_entropy(logits: Sequence[float], label: int) -> float:
    top = max(logits)
    return top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[label]


def binary_cross_entropy(logit: float, target: float) -> float:
    return target * math.log(1 + math.exp(-logit)) + (1 - target) * math.log(1 + math.exp(logit))


def focal(logits: Sequence[float], label: int | None, alpha: float = 0.25, gamma: float = 2.0) -> float:
    """Focal loss over all classes, of which one, or none, is right."""
    total = 0.0
    for k, logit in enumerate(logits):
        p = 1 / (1 + math.exp(-logit))
        if k == label:
            total -= alpha * (1 - p) ** gamma * math.log(p)
        else:
            total -= (1 - alpha) * p**gamma * math.log(1 - p)
    return total


def smooth_l1(predicted: Sequence[float], wanted: Sequence[float], beta: float) -> float:
    errors = [abs(p - w) for p, w in zip(predicted, wanted, strict=True)]
    return sum(e * e / (2 * beta) if e < beta else e - beta / 2 for e in errors)


def delta_loss(deltas: Sequence[float], row: Row, item: Object, *, weights: Sequence[float], beta: float) -> float:
    """Smooth L1 loss of the deltas predicted for a row against those that lead to an object."""
    return smooth_l1(deltas, encode(item["box"], row.box, weights), beta)


def giou_loss(first: Box, second: Box) -> float:
    shared = _area(_overlap(first, second))
    union = _area(first) + _area(second) - shared
    hull = _area(_hull(first, second))
    return 1 - shared / union + (hull - union) / hull


def diou_loss(first: Box, second: Box) -> float:
    """The square of the way between the centres, by that of the diagonal of what holds both boxes."""
    (x, y, _, _), (other_x, other_y, _, _) = _centre(first), _centre(second)
    _, _, width, height = _centre(_hull(first, second))
    return 1 - iou(first, second) + ((x - other_x) ** 2 + (y - other_y) ** 2) / (width**2 + height**2)


def ciou_loss(first: Box, second: Box) -> float:
    """The same and, by a weight of its own, how the proportions differ."""
    (_, _, w, h), (_, _, other_w, other_h) = _centre(first), _centre(second)
    v = 4 / math.pi**2 * (math.atan(w / h) - math.atan(other_w / other_h)) ** 2
    return diou_loss(first, second) + v * v / (1 - iou(first, second) + v)


def focal_values(rows: list[Row], logits: list[list[float]]) -> list[float]:
    """The focal loss of each row by its shares."""
    return [
        row.mix(lambda item, scores=scores: focal(scores, item["label"]), focal(scores, None))
        for row, scores in zip(rows, logits, strict=True)
    ]


def mask_loss(logits: list[list[float]], truth: list[list[float]]) -> float:
    """Mean over the pixels of a mask."""
    pixels = [pair for lines in zip(logits, truth, strict=True) for pair in zip(*lines, strict=True)]
    return sum(binary_cross_entropy(logit, target) for logit, target in pixels) / len(pixels)


def encode(box: Box, anchor: Box, weights: Sequence[float]) -> list[float]:
    """R-CNN's deltas from an anchor to a box."""
    (x, y, w, h), (ax, ay, aw, ah) = _centre(box), _centre(anchor)
    deltas = (x - ax) / aw, (y - ay) / ah, math.log(w / aw), math.log(h / ah)
    return [weight * delta for weight, delta in zip(weights, deltas, strict=True)]


def decode(deltas: Sequence[float], anchor: Box) -> list[float]:
    """The box that deltas of weights 1 lead to from an anchor; it grows to 62.5 times the anchor's size at most."""
    ax, ay, aw, ah = _centre(anchor)
    x, y = ax + deltas[0] * aw, ay + deltas[1] * ah
    w, h = aw * min(math.exp(deltas[2]), 62.5), ah * min(math.exp(deltas[3]), 62.5)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def decode_distances(distances: Sequence[float], anchor: Box) -> list[float]:
    """The box whose sides lie so many anchor sizes away from the anchor's centre."""
    x, y, w, h = _centre(anchor)
    left, top, right, bottom = distances
    return [x - left * w, y - top * h, x + right * w, y + bottom * h]


def centerness(box: Box, anchor: Box) -> float:
    x, y, _, _ = _centre(anchor)
    across, down = (x - box[0], box[2] - x), (y - box[1], box[3] - y)
    return math.sqrt(min(across) / max(across) * min(down) / max(down))


def cell_of(keypoint: Sequence[float], box: Box, side: int) -> int | None:
    """The cell of a keypoint in the heat map of a box; None where it is hidden or outside."""
    place = []
    for value, low, high in ((keypoint[0], box[0], box[2]), (keypoint[1], box[1], box[3])):
        place.append(side - 1 if value == high else math.floor((value - low) * (side / (high - low))))
    inside = all(0 <= index < side for index in place)
    return place[1] * side + place[0] if inside and keypoint[2] > 0 else None


def iou(first: Box, second: Box) -> float:
    shared = _area(_overlap(first, second))
    return shared / (_area(first) + _area(second) - shared)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(first: Box, second: Box) -> Box:
    """Where two boxes overlap; without area if they do not."""
    return [*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])]


def _hull(first: Box, second: Box) -> Box:
    """The smallest box that holds both."""
    return [*map(min, first[:2], second[:2]), *map(max, first[2:], second[2:])]


def _centre(box: Box) -> tuple[float, float, float, float]:
    w, h = box[2] - box[0], box[3] - box[1]
    return box[0] + w / 2, box[1] + h / 2, w, h


def counted_by_ssd(rows: list[Row], values: list[float], order: list[int]) -> list[float]:
    """The values that SSD counts in one image: foreground, and three times as many of the hardest others.

    Where those run out, foreground is counted again: `order` has all rows, hardest first, foreground last, in
    the order in which torch sorts what is equal, which it leaves open.
    """
    foreground = [i for i, row in enumerate(rows) if row.objects]
    assert [bool(rows[i].objects) for i in order] == sorted(bool(row.objects) for row in rows)
    others = [values[i] for i in order if not rows[i].objects]
    assert others == sorted(others, reverse=True)
    return [values[i] for i in foreground + order[: 3 * len(foreground)]]


def by_overlap(high: float, low: float, *, every_object: bool) -> Matching:
    """The best object at an overlap of `high` or more, background below `low`, ignored between.

    `every_object`: the boxes that overlap an object most learn their own best object at any overlap.
    """

    def match(objects: list[Box], boxes: list[Box]) -> list[int]:
        overlaps = [[iou(item, box) for item in objects] for box in boxes]
        best = [max(range(len(objects)), key=line.__getitem__, default=0) for line in overlaps]
        found = []
        for number, line in zip(best, overlaps, strict=True):
            top = line[number] if objects else 0.0
            found.append(number if top >= high else BACKGROUND if top < low else IGNORED)
        for item in range(len(objects) if every_object else 0):
            top = max(line[item] for line in overlaps)
            for i, line in enumerate(overlaps):
                if line[item] == top:
                    found[i] = best[i]
        return found

    return match


def by_overlap_or_best_anchor(threshold: float) -> Matching:
    """As `by_overlap`; the one box that overlaps an object most learns that object: SSD's rule."""

    def match(objects: list[Box], boxes: list[Box]) -> list[int]:
        found = by_overlap(threshold, threshold, every_object=False)(objects, boxes)
        for number, item in enumerate(objects):
            found[max(range(len(boxes)), key=lambda i, item=item: iou(item, boxes[i]))] = number
        return found

    return match


def by_centre(levels: Sequence[int], radius: float = 1.5) -> Matching:
    """The smallest object that holds the point near its centre and is of its level's size: FCOS's rule."""
    first, last = levels[0], sum(levels) - levels[-1]

    def match(objects: list[Box], boxes: list[Box]) -> list[int]:
        found = []
        for i, box in enumerate(boxes):
            x, y, size, _ = _centre(box)
            lower, upper = (0 if i < first else 4 * size), (math.inf if i >= last else 8 * size)
            near = []
            for number, item in enumerate(objects):
                sides = x - item[0], y - item[1], item[2] - x, item[3] - y
                ox, oy, _, _ = _centre(item)
                central = max(abs(x - ox), abs(y - oy)) < radius * size
                if min(sides) > 0 and central and lower < max(sides) < upper:
                    near.append(number)
            found.append(min(near, key=lambda number: _area(objects[number]), default=BACKGROUND))
        return found

    return match
