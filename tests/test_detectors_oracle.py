"""Every loss of every detector family against the plain loops of `oracle`, on predictions drawn at random.

No image and no backbone takes part: the parts of the detectors that compute losses are called as
torchvision calls them, in float64, with anchors around the objects so that all kinds of rows occur.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from detmix import weight_losses

from . import oracle
from .factories import make_boxes
from .oracle import Row, average, counted_by_ssd, delta_loss, focal_values, objects_of, rows_of

SIZE, CLASSES, MASK_SIDE, HEATMAP_SIDE, ANCHORS = (48, 64), 4, 4, 6, 24
LEVELS = (48, 12)  # points of FCOS's two levels on an image of SIZE

# an image is the number of objects of each source, and how its target states weights and sources
IMAGES = st.tuples(
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from(["mixup", "mixup", "free", "no sources", "no weights", "plain"]),
)
BATCHES = st.lists(IMAGES, min_size=1, max_size=3)
SEEDS = st.integers(0, 10_000)


def every_case(test):
    """A handful of random batches for each objective and normalizer."""
    test = settings(max_examples=12, deadline=None)(given(BATCHES, SEEDS)(test))
    test = pytest.mark.parametrize("normalizer", ["count", "weight"])(test)
    return pytest.mark.parametrize("objective", ["weighted", "pair"])(test)


def near(boxes: Tensor, rng: np.random.Generator) -> Tensor:
    """Boxes moved at each side by up to a quarter of their size, some hardly at all; values of float32."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    reach = rng.uniform(0, 0.25, (len(boxes), 1)) * rng.uniform(-1, 1, (len(boxes), 4))
    return (boxes + torch.from_numpy(reach) * size).float().double()


def make_target(sources: list[int], kind: str, rng: np.random.Generator) -> dict[str, Tensor]:
    """Objects of several sources around two places, in any order, so that they overlap."""
    count = sum(sources)
    source = rng.permutation(np.repeat(np.arange(len(sources)), sources))
    free = rng.choice([0.0, 0.25, 1.0, *rng.uniform(0, 1, 5)], count)
    weights = free if kind in ("free", "no sources") else rng.dirichlet([1.0] * len(sources))[source]
    keypoints = np.concatenate([rng.uniform(0, SIZE[0], (count, 3, 2)), rng.integers(0, 3, (count, 3, 1))], axis=2)
    coarse = torch.from_numpy(rng.integers(0, 2, (count, 12, 16), dtype=np.uint8))
    places = make_boxes(2, SIZE, rng).double()
    target = {
        "boxes": near(places[rng.integers(0, 2, count)], rng),
        "labels": torch.from_numpy(rng.integers(1, CLASSES, count)),
        "weights": torch.from_numpy(weights).float(),
        "sources": torch.from_numpy(rng.permutation([0, 1, 5])[source]),
        "keypoints": torch.from_numpy(keypoints).float(),
        "masks": coarse.repeat_interleave(4, 1).repeat_interleave(4, 2),
    }
    target["keypoints"][:, 0, :2] = target["boxes"][:, 2:].float()  # on the far corner of a proposal
    absent = {"no sources": ["sources"], "no weights": ["weights"], "plain": ["weights", "sources"]}
    return {key: value for key, value in target.items() if key not in absent.get(kind, ())}


def make_targets(batch: list[tuple[list[int], str]], rng: np.random.Generator) -> list[dict[str, Tensor]]:
    """Targets of a batch, of which the first has weights: without any, torchvision's own code runs."""
    first, kind = batch[0]
    kind = kind if kind in ("free", "no sources") else "mixup"
    return [make_target(*image, rng) for image in [(first, kind), *batch[1:]]]


def make_anchors(
    target: dict[str, Tensor], rng: np.random.Generator, count: int = ANCHORS, crowd: float = 0.75
) -> Tensor:
    """Boxes anywhere, and three of four (or another share, `crowd`) near an object where there is one."""
    boxes = make_boxes(count, SIZE, rng).double()
    if not len(target["boxes"]):
        return boxes
    close = near(target["boxes"][rng.integers(0, len(target["boxes"]), count)], rng)
    return close.where(torch.from_numpy(rng.uniform(size=(count, 1)) < crowd), boxes)


def make_points() -> Tensor:
    """Square anchors of FCOS on two levels, small enough for the objects of an image to use both."""
    squares = []
    for stride, size in ((8, 4), (16, 8)):
        y, x = (torch.arange(length // stride) * stride + stride / 2 for length in SIZE)
        x, y = torch.meshgrid(x, y, indexing="xy")
        squares.append(torch.stack([x - size / 2, y - size / 2, x + size / 2, y + size / 2], dim=-1).reshape(-1, 4))
    return torch.cat(squares).double()


def make_outputs(images: int, rows: int, rng: np.random.Generator, **widths: int) -> dict[str, Tensor]:
    """Random predictions of a dense head."""
    return {key: torch.from_numpy(rng.normal(size=(images, rows, width))) for key, width in widths.items()}


class Backbone(nn.Module):
    """Nothing but a number of channels, which is all that the detectors ask for when they are assembled."""

    def __init__(self, out_channels: int | list[int]) -> None:
        super().__init__()
        self.out_channels = out_channels


class Noise(nn.Module):
    """A predictor with random results for any number of rows; it keeps the last ones."""

    def __init__(self, rng: np.random.Generator, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.rng = rng
        self.shapes = shapes
        self.last: list[Tensor] = []

    def forward(self, rows: Tensor) -> list[Tensor] | Tensor:
        self.last = [torch.from_numpy(self.rng.normal(size=(len(rows), *shape))) for shape in self.shapes]
        return self.last if len(self.last) > 1 else self.last[0]


class Pool(nn.Module):
    """Hands on the proposals in the place of their features, and keeps them."""

    def forward(self, features: dict, proposals: list[Tensor], shapes: list[tuple[int, int]]) -> Tensor:
        self.last = proposals
        return torch.cat(proposals)


class RecordingSampler:
    """A sampler of torchvision's that keeps what it was given and what it drew, for each image."""

    def __init__(self, sampler) -> None:
        self.sampler = sampler

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = self.sampler(labels)
        self.labels = [image.tolist() for image in labels]
        self.drawn = [torch.where(p | n)[0].tolist() for p, n in zip(positive, negative, strict=True)]
        return positive, negative


def sampler_label(row: Row) -> int:
    """A row on objects has a class, the largest; one that every source ignores is not drawn; others are negative."""
    return max((item["label"] for item, _ in row.objects), default=-1 if row.ignored else 0)


def assert_agree(losses: dict[str, Tensor], expected: dict[str, float]) -> None:
    """Within 1e-6 of the value."""
    assert {key: float(value) for key, value in losses.items()} == pytest.approx(expected, rel=1e-6, abs=1e-12)


def make_rcnn(rng: np.random.Generator) -> FasterRCNN:
    """Torchvision's two-stage detector with box, mask and keypoint heads that predict noise."""
    predictor = Noise(rng, (CLASSES,), (4 * CLASSES,))
    generator = AnchorGenerator(((8,),), ((1.0,),))
    thresholds = {"box_bg_iou_thresh": 0.3, "box_batch_size_per_image": 12, "rpn_batch_size_per_image": 12}
    model = FasterRCNN(
        Backbone(1), None, rpn_anchor_generator=generator, box_head=nn.Identity(), box_predictor=predictor, **thresholds
    )
    heads = model.roi_heads
    heads.box_roi_pool, heads.mask_roi_pool, heads.keypoint_roi_pool = Pool(), Pool(), Pool()
    heads.mask_head = heads.keypoint_head = nn.Identity()
    heads.mask_predictor = Noise(rng, (CLASSES, MASK_SIDE, MASK_SIDE))
    heads.keypoint_predictor = Noise(rng, (3, HEATMAP_SIDE, HEATMAP_SIDE))
    for part in (model.rpn, heads):
        part.fg_bg_sampler = RecordingSampler(part.fg_bg_sampler)
    return model.train()


@every_case
def test_the_region_proposal_network_loses_what_plain_loops_say(objective, normalizer, batch, seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    targets = make_targets(batch, rng)
    anchors = [make_anchors(target, rng) for target in targets]
    outputs = make_outputs(len(targets), ANCHORS, rng, objectness=1, deltas=4)
    objectness, deltas = (outputs[key].flatten(0, 1) for key in ("objectness", "deltas"))
    rpn = weight_losses(make_rcnn(rng), objective, normalizer).rpn
    labels, boxes = rpn.assign_targets_to_anchors(anchors, targets)
    losses = rpn.compute_loss(objectness, deltas, labels, rpn.box_coder.encode(boxes, anchors))

    matching = oracle.by_overlap(0.7, 0.3, every_object=True)
    images = [
        rows_of(objects_of(target), boxes.tolist(), matching, objective)
        for target, boxes in zip(targets, anchors, strict=True)
    ]
    assert rpn.fg_bg_sampler.labels == [[min(1, sampler_label(row)) for row in rows] for rows in images]
    pairs = zip(images, rpn.fg_bg_sampler.drawn, strict=True)
    drawn = [(rows[i], image * ANCHORS + i) for image, (rows, numbers) in enumerate(pairs) for i in numbers]
    yes_no, box = [], []
    for row, i in drawn:
        logit, delta = objectness[i].item(), deltas[i].tolist()
        yes, no = oracle.binary_cross_entropy(logit, 1), oracle.binary_cross_entropy(logit, 0)
        yes_no.append(row.mix(lambda _, yes=yes: yes, no))
        box.append(row.mix(partial(delta_loss, delta, row, weights=(1, 1, 1, 1), beta=1 / 9)))
    masses = [row.share + row.background for row, _ in drawn]
    expected = {"objectness": average(yes_no, masses, normalizer), "box": average(box, masses, normalizer)}
    assert_agree(dict(zip(expected, losses, strict=True)), expected)


@every_case
def test_the_heads_of_an_rcnn_lose_what_plain_loops_say(objective, normalizer, batch, seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    targets = make_targets(batch, rng)
    proposals = [make_anchors(target, rng, count=16) for target in targets]
    heads = weight_losses(make_rcnn(rng), objective, normalizer).roi_heads
    _, losses = heads({}, proposals, [SIZE] * len(targets), targets)

    matching = oracle.by_overlap(0.5, 0.3, every_object=False)
    images = []
    for target, boxes in zip(targets, proposals, strict=True):
        everything = torch.cat([boxes, target["boxes"]]).tolist()
        images.append(rows_of(objects_of(target), everything, matching, objective))
    assert heads.fg_bg_sampler.labels == [[sampler_label(row) for row in rows] for rows in images]
    drawn = [
        (row, target)
        for rows, numbers, target in zip(images, heads.fg_bg_sampler.drawn, targets, strict=True)
        for row in (rows[i] for i in numbers)
    ]
    assert torch.cat(heads.box_roi_pool.last).tolist() == [row.box for row, _ in drawn]
    matched = [(row, target) for row, target in drawn if row.objects]
    assert torch.cat(heads.mask_roi_pool.last).tolist() == [row.box for row, _ in matched]
    expected = {
        **expected_box_losses([row for row, _ in drawn], *heads.box_predictor.last, normalizer),
        "loss_mask": expected_mask_loss(matched, heads.mask_predictor.last[0], normalizer),
        "loss_keypoint": expected_keypoint_loss(matched, heads.keypoint_predictor.last[0], normalizer),
    }
    assert_agree(losses, expected)


def expected_box_losses(rows, logits, deltas, normalizer):
    classes, box = [], []
    for row, scores, delta in zip(rows, logits.tolist(), deltas.view(-1, CLASSES, 4).tolist(), strict=True):
        on_object = [oracle.cross_entropy(scores, label) for label in range(CLASSES)]
        classes.append(row.mix(lambda item, on_object=on_object: on_object[item["label"]], on_object[0]))
        weights = {"weights": (10, 10, 5, 5), "beta": 1 / 9}
        box.append(row.mix(lambda o, d=delta, r=row, w=weights: delta_loss(d[o["label"]], r, o, **w)))
    masses = [row.share + row.background for row in rows]
    return {
        "loss_classifier": average(classes, masses, normalizer),
        "loss_box_reg": average(box, masses, normalizer),
    }


def expected_mask_loss(matched, logits, normalizer):
    values = []
    for (row, target), planes in zip(matched, logits.tolist(), strict=True):
        crop = partial(crop_of_mask, row.box, target["masks"])
        values.append(row.mix(lambda o, p=planes, c=crop: oracle.mask_loss(p[o["label"]], c(o["number"]))))
    return average(values, [row.share for row, _ in matched], normalizer)


def crop_of_mask(box, masks, number):
    """One object's mask inside one box, by torchvision's own crop of that mask alone."""
    boxes = torch.tensor([box], dtype=torch.float64)
    return project_masks_on_boxes(masks[number : number + 1], boxes, torch.tensor([0]), MASK_SIDE)[0].tolist()


def expected_keypoint_loss(matched, logits, normalizer):
    values, weights = [], []
    for (row, _), maps in zip(matched, logits.flatten(2).tolist(), strict=True):
        for k, scores in enumerate(maps):
            cells = [(oracle.cell_of(o["keypoints"][k], row.box, HEATMAP_SIDE), share) for o, share in row.objects]
            visible = [(cell, share) for cell, share in cells if cell is not None]
            if visible:
                values.append(sum(share * oracle.cross_entropy(scores, cell) for cell, share in visible))
                weights.append(sum(share for _, share in visible))
    return average(values, weights, normalizer)


IOU_LOSSES = {"giou": oracle.giou_loss, "diou": oracle.diou_loss, "ciou": oracle.ciou_loss}


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", *IOU_LOSSES])
@every_case
def test_retinanet_loses_what_plain_loops_say(kind, objective, normalizer, batch, seed):
    rng = np.random.default_rng(seed)
    targets = make_targets(batch, rng)
    anchors = [make_anchors(target, rng) for target in targets]
    outputs = make_outputs(len(targets), ANCHORS, rng, cls_logits=CLASSES, bbox_regression=4)
    model = RetinaNet(Backbone(1), CLASSES, anchor_generator=AnchorGenerator(((8,),), ((1.0,),)))
    model.head.regression_head._loss_type = kind
    losses = weight_losses(model, objective, normalizer).compute_loss(targets, outputs, anchors)

    def box_loss(delta, row, item):
        if kind in IOU_LOSSES:
            return IOU_LOSSES[kind](oracle.decode(delta, row.box), item["box"])
        return delta_loss(delta, row, item, weights=(1, 1, 1, 1), beta={"l1": 0.0, "smooth_l1": 1.0}[kind])

    matching = oracle.by_overlap(0.5, 0.4, every_object=True)
    expected = {"classification": 0.0, "bbox_regression": 0.0}
    for i, target in enumerate(targets):
        rows = rows_of(objects_of(target), anchors[i].tolist(), matching, objective)
        logits, deltas = (outputs[key][i].tolist() for key in ("cls_logits", "bbox_regression"))
        weights = [row.share for row in rows if row.objects]
        box = [row.mix(partial(box_loss, delta, row)) for row, delta in zip(rows, deltas, strict=True)]
        expected["classification"] += average(focal_values(rows, logits), weights, normalizer) / len(targets)
        expected["bbox_regression"] += average(box, weights, normalizer) / len(targets)
    assert_agree(losses, expected)


@every_case
def test_fcos_loses_what_plain_loops_say(objective, normalizer, batch, seed):
    rng = np.random.default_rng(seed)
    targets = make_targets(batch, rng)
    points = make_points()
    outputs = make_outputs(len(targets), len(points), rng, cls_logits=CLASSES, bbox_regression=4, bbox_ctrness=1)
    outputs["bbox_regression"] = outputs["bbox_regression"].abs() * 2
    generator = AnchorGenerator(((4,), (8,)), ((1.0,), (1.0,)))
    model = weight_losses(FCOS(Backbone(32), CLASSES, anchor_generator=generator), objective, normalizer)
    losses = model.compute_loss(targets, outputs, [points] * len(targets), list(LEVELS))

    images = [rows_of(objects_of(t), points.tolist(), oracle.by_centre(LEVELS), objective) for t in targets]
    rows = [row for image in images for row in image]
    logits, distances, centres = (column.flatten(0, 1).tolist() for column in outputs.values())
    box, centerness = [], []
    for row, distance, (centre,) in zip(rows, distances, centres, strict=True):
        predicted = oracle.decode_distances(distance, row.box)
        box.append(row.mix(lambda item, predicted=predicted: oracle.giou_loss(predicted, item["box"])))
        centerness.append(row.mix(partial(centre_loss, centre, row)))
    values = {"classification": focal_values(rows, logits), "bbox_regression": box, "bbox_ctrness": centerness}
    weights = [row.share for row in rows if row.objects]
    assert_agree(losses, {key: average(column, weights, normalizer) for key, column in values.items()})


def centre_loss(logit, row, item):
    return oracle.binary_cross_entropy(logit, oracle.centerness(item["box"], row.box))


@every_case
def test_ssd_loses_what_plain_loops_say(objective, normalizer, batch, seed):
    rng = np.random.default_rng(seed)
    targets = make_targets(batch, rng)
    crowd = rng.choice([0.05, 0.75])  # with background to choose from, and with too little of it
    anchors = [make_anchors(target, rng, crowd=crowd) for target in targets]
    outputs = make_outputs(len(targets), ANCHORS, rng, cls_logits=CLASSES, bbox_regression=4)
    model = weight_losses(SSD(Backbone([1]), DefaultBoxGenerator([[2]]), SIZE, CLASSES), objective, normalizer)
    matched = [ssd_matches(model, target["boxes"], boxes) for target, boxes in zip(targets, anchors, strict=True)]
    losses = model.compute_loss(targets, outputs, anchors, matched)

    matching = oracle.by_overlap_or_best_anchor(0.5)
    pairs = zip(targets, anchors, strict=True)
    images = [rows_of(objects_of(target), boxes.tolist(), matching, objective) for target, boxes in pairs]
    entropies = [
        [entropy_of(row, scores) for row, scores in zip(rows, logits, strict=True)]
        for rows, logits in zip(images, outputs["cls_logits"].tolist(), strict=True)
    ]
    foreground = torch.tensor([[bool(row.objects) for row in rows] for rows in images])
    hardness = torch.tensor(entropies, dtype=torch.float64).where(~foreground, -torch.inf)
    orders = hardness.argsort(1, descending=True).tolist()
    classes, box, weights = [], [], []
    for rows, values, order, deltas in zip(images, entropies, orders, outputs["bbox_regression"].tolist(), strict=True):
        classes += counted_by_ssd(rows, values, order)
        loss = partial(delta_loss, weights=(10, 10, 5, 5), beta=1.0)
        box += [row.mix(partial(loss, delta, row)) for row, delta in zip(rows, deltas, strict=True)]
        weights += [row.share for row in rows if row.objects]
    expected = {"classification": classes, "bbox_regression": box}
    assert_agree(losses, {key: average(column, weights, normalizer) for key, column in expected.items()})


def ssd_matches(model, boxes, anchors):
    """As in the forward pass of torchvision's SSD."""
    if not len(boxes):
        return torch.full((len(anchors),), -1)
    return model.proposal_matcher(box_iou(boxes, anchors))


def entropy_of(row, scores):
    return row.mix(lambda item: oracle.cross_entropy(scores, item["label"]), oracle.cross_entropy(scores, 0))


def test_the_batches_hold_rows_of_every_kind():
    rng = np.random.default_rng(0)
    batch = [([2, 2], "mixup"), ([1, 2, 2], "free"), ([0, 2], "no weights"), ([0], "mixup")]
    rows = []
    for target in make_targets(batch * 3, rng):
        anchors = make_anchors(target, rng).tolist()
        rows += rows_of(objects_of(target), anchors, oracle.by_overlap(0.7, 0.3, every_object=True), "pair")
    assert {len(row.objects) for row in rows} == {0, 1, 2, 3}
    assert any(row.share > 0 and row.background > 0 for row in rows), "a faint object before background"
    assert any(row.ignored for row in rows), "ignored by every source"
    others = [row for row in rows if not row.ignored]
    assert any(not row.objects and row.background < 1 for row in others), "ignored by one source only"
    assert any(0 < row.share < 0.999 and row.background == 0 for row in others), "an object of one, ignored by another"
