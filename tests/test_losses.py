"""The pure losses: against plain loops, against torchvision's own functions, and the laws they share."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from detmix.losses import (
    centerness_rows,
    classification_rows,
    focal_rows,
    iou_rows,
    keypoint_rows,
    mask_rows,
    objectness_rows,
    reduce_rows,
    smooth_l1_rows,
)

from . import oracle

CLASSES, SIDE, CELLS = 5, 4, 9
FLOAT64 = {"dtype": torch.float64}

COUNTS, LAYERS, SEEDS = st.integers(0, 8), st.integers(1, 3), st.integers(0, 1000)
loops = settings(max_examples=15, deadline=None)
every_normalizer = pytest.mark.parametrize("normalizer", ["count", "weight"])


def make_rows(count=6, layers=2, seed=0, dtype=torch.float64):
    """Predictions, targets and shares of `count` rows, of which some have no share of an object or of background."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, **FLOAT64).to(dtype)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, **FLOAT64).to(dtype)

    def boxes():
        corner = 3 * uniform(count, 2)
        return torch.cat([corner, corner + 1 + uniform(count, 2)], dim=1)

    return SimpleNamespace(
        logits=normal(count, CLASSES),
        labels=torch.randint(CLASSES, (layers, count), generator=generator),
        shares=F.threshold(uniform(layers, count), 0.25, 0.0),
        background=F.threshold(uniform(count), 0.25, 0.0),
        deltas=normal(layers, count, 4),
        wanted=normal(layers, count, 4),
        boxes=boxes(),
        truth=boxes(),
        even=uniform(count),
        masks=normal(layers, count, SIDE, SIDE),
        pixels=uniform(layers, count, SIDE, SIDE),
        maps=normal(count, CELLS),
        cells=torch.randint(CELLS, (count,), generator=generator),
    )


def terms_of(r):
    """Each term: its predictions, and the rows as a function of predictions, shares (S, R) and background (R,)."""
    return {
        "classification": (r.logits, lambda x, s, b: classification_rows(x, r.labels, s, b)),
        "objectness": (r.logits[:, 0], objectness_rows),
        "focal": (r.logits, lambda x, s, b: focal_rows(x, r.labels, s, b)),
        "smooth_l1": (r.deltas, lambda x, s, b: smooth_l1_rows(x, r.wanted, s, beta=1 / 9)),
        "iou": (r.boxes, lambda x, s, b: iou_rows(x, r.truth, s[0])),
        "centerness": (r.logits[:, 0], lambda x, s, b: centerness_rows(x, r.even, s[0])),
        "mask": (r.masks, lambda x, s, b: mask_rows(x, r.pixels, s)),
        "keypoint": (r.maps, lambda x, s, b: keypoint_rows(x, r.cells, s[0])),
    }


every_term = pytest.mark.parametrize("term", terms_of(make_rows()))


def assert_rows(rows, expected):
    torch.testing.assert_close(rows, torch.tensor(expected, **FLOAT64).reshape(rows.shape))


def mixtures(r):
    """Each row as the oracle has it: its labels with their shares, and its background."""
    for labels, shares, background in zip(r.labels.T, r.shares.T, r.background, strict=True):
        objects = list(zip(labels.tolist(), shares.tolist(), strict=True))
        yield oracle.Row([], objects, background.item(), ignored=False)


@loops
@given(COUNTS, LAYERS, SEEDS)
def test_classification_is_a_plain_loop(count, layers, seed):
    r = make_rows(count, layers, seed)
    expected = [
        row.mix(lambda label, scores=scores: oracle.cross_entropy(scores, label), oracle.cross_entropy(scores, 0))
        for row, scores in zip(mixtures(r), r.logits.tolist(), strict=True)
    ]
    assert_rows(classification_rows(r.logits, r.labels, r.shares, r.background), expected)


@loops
@given(COUNTS, LAYERS, SEEDS)
def test_objectness_is_a_plain_loop(count, layers, seed):
    r = make_rows(count, layers, seed)
    expected = [
        row.mix(lambda _, x=x: oracle.binary_cross_entropy(x, 1), oracle.binary_cross_entropy(x, 0))
        for row, x in zip(mixtures(r), r.logits[:, 0].tolist(), strict=True)
    ]
    assert_rows(objectness_rows(r.logits[:, 0], r.shares, r.background), expected)


def test_a_class_that_is_masked_costs_nothing_where_its_share_is_0():
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf, 0.0, 0.0], [-torch.inf, 0.0, 0.0]], requires_grad=True)
    shares, background = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]]), torch.tensor([0.0, 0.0, 0.5])
    found = classification_rows(logits, torch.tensor([[1, 1, 1], [2, 0, 0]]), shares, background)
    torch.testing.assert_close(found, torch.tensor([math.log(2), math.log(2), torch.inf]))
    found[:2].sum().backward()
    torch.testing.assert_close(logits.grad[:2], torch.tensor([[0.5, 0, -0.5], [0, -0.5, 0.5]]))


def test_an_infinite_logit_costs_nothing_where_its_share_is_0():
    logits = torch.tensor([-torch.inf, torch.inf, -torch.inf], requires_grad=True)
    shares, background = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.5, 0.0]]), torch.tensor([1.0, 0.0, 0.0])
    found = objectness_rows(logits, shares, background)
    assert found.tolist() == [0, 0, torch.inf]
    found[:2].sum().backward()
    assert logits.grad[:2].tolist() == [0, 0]


@loops
@given(COUNTS, LAYERS, SEEDS, st.floats(0, 1), st.floats(0.5, 3))
def test_the_focal_loss_is_a_plain_loop(count, layers, seed, alpha, gamma):
    r = make_rows(count, layers, seed)
    expected = [
        row.mix(
            lambda label, scores=scores: oracle.focal(scores, label, alpha, gamma),
            oracle.focal(scores, None, alpha, gamma),
        )
        for row, scores in zip(mixtures(r), r.logits.tolist(), strict=True)
    ]
    assert_rows(focal_rows(r.logits, r.labels, r.shares, r.background, alpha=alpha, gamma=gamma), expected)


@loops
@given(COUNTS, LAYERS, SEEDS, st.just(0.0) | st.floats(0.05, 2))
def test_the_smooth_l1_loss_is_a_plain_loop(count, layers, seed, beta):
    r = make_rows(count, layers, seed)
    columns = (column.flatten(0, 1).tolist() for column in (r.deltas, r.wanted, r.shares))
    expected = [share * oracle.smooth_l1(*pair, beta) for *pair, share in zip(*columns, strict=True)]
    assert_rows(smooth_l1_rows(r.deltas, r.wanted, r.shares, beta=beta), expected)


@loops
@given(COUNTS, SEEDS)
def test_the_generalized_iou_loss_is_a_plain_loop(count, seed):
    r = make_rows(count, 1, seed)
    columns = (column.tolist() for column in (r.boxes, r.truth, r.shares[0]))
    expected = [share * oracle.giou_loss(*pair) for *pair, share in zip(*columns, strict=True)]
    rows = iou_rows(r.boxes, r.truth, r.shares[0])
    torch.testing.assert_close(rows, torch.tensor(expected, **FLOAT64), rtol=0, atol=5e-7)  # torchvision adds 1e-7


@loops
@given(COUNTS, SEEDS)
def test_centerness_is_a_plain_loop(count, seed):
    r = make_rows(count, 1, seed)
    columns = (column.tolist() for column in (r.logits[:, 0], r.even, r.shares[0]))
    expected = [share * oracle.binary_cross_entropy(*pair) for *pair, share in zip(*columns, strict=True)]
    assert_rows(centerness_rows(r.logits[:, 0], r.even, r.shares[0]), expected)


@loops
@given(COUNTS, LAYERS, SEEDS)
def test_the_mask_loss_is_a_plain_loop(count, layers, seed):
    r = make_rows(count, layers, seed)
    columns = (column.flatten(0, 1).tolist() for column in (r.masks, r.pixels, r.shares))
    expected = [share * oracle.mask_loss(*pair) for *pair, share in zip(*columns, strict=True)]
    assert_rows(mask_rows(r.masks, r.pixels, r.shares), expected)


@loops
@given(COUNTS, SEEDS)
def test_the_keypoint_loss_is_a_plain_loop(count, seed):
    r = make_rows(count, 1, seed)
    columns = (column.tolist() for column in (r.maps, r.cells, r.shares[0]))
    expected = [share * oracle.cross_entropy(*pair) for *pair, share in zip(*columns, strict=True)]
    assert_rows(keypoint_rows(r.maps, r.cells, r.shares[0]), expected)


@every_normalizer
def test_unit_shares_give_the_loss_of_fast_rcnn(normalizer):
    r = make_rows(40, layers=1)
    objects = (r.labels > 0).double()
    regression = r.logits[:, :1] + torch.arange(CLASSES * 4, **FLOAT64) / 10
    classes = classification_rows(r.logits, r.labels, objects, 1 - objects[0])
    deltas = regression.view(40, CLASSES, 4)[torch.arange(40), r.labels]
    boxes = smooth_l1_rows(deltas, r.wanted, objects, beta=1 / 9)[0]
    got = [reduce_rows(rows, torch.ones(40, **FLOAT64), normalizer) for rows in (classes, boxes)]
    assert 0 < objects.sum() < 40
    torch.testing.assert_close(got, list(fastrcnn_loss(r.logits, regression, [r.labels[0]], [r.wanted[0]])))


def test_unit_shares_give_the_objectness_loss_of_faster_rcnn():
    r = make_rows(40, layers=1)
    objects = (r.labels > 0).double()
    rows = objectness_rows(r.logits[:, 0], objects, 1 - objects[0])
    torch.testing.assert_close(rows.mean(), F.binary_cross_entropy_with_logits(r.logits[:, 0], objects[0]))


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.6, "gamma": 1.5}, {"alpha": -1}])
def test_unit_shares_give_torchvisions_focal_loss(settings):
    r = make_rows(40, layers=1)
    objects = torch.arange(40, **FLOAT64)[None] % 2
    wanted = F.one_hot(r.labels[0], CLASSES) * objects.T
    rows = focal_rows(r.logits, r.labels, objects, 1 - objects[0], **settings)
    torch.testing.assert_close(rows, sigmoid_focal_loss(r.logits, wanted, **settings).sum(1))


@pytest.mark.parametrize("loss", [generalized_box_iou_loss, distance_box_iou_loss, complete_box_iou_loss])
def test_unit_shares_give_torchvisions_overlap_losses(loss):
    r = make_rows(40)
    torch.testing.assert_close(iou_rows(r.boxes, r.truth, torch.ones(40), loss=loss), loss(r.boxes, r.truth))


def test_the_overlap_loss_is_the_generalized_one_unless_told():
    r = make_rows(40)
    torch.testing.assert_close(iou_rows(r.boxes, r.truth, torch.ones(40)), generalized_box_iou_loss(r.boxes, r.truth))


def test_unit_shares_give_torchs_binary_cross_entropy_for_masks_and_centerness():
    r = make_rows(40)
    ones = torch.ones_like(r.shares)
    masks = F.binary_cross_entropy_with_logits(r.masks, r.pixels)
    torch.testing.assert_close(mask_rows(r.masks, r.pixels, ones).mean(), masks)
    centerness = F.binary_cross_entropy_with_logits(r.logits[:, 0], r.even)
    torch.testing.assert_close(centerness_rows(r.logits[:, 0], r.even, ones[0]).mean(), centerness)


def test_unit_shares_give_the_keypoint_loss_of_keypoint_rcnn():
    r = make_rows(40)
    torch.testing.assert_close(keypoint_rows(r.maps, r.cells, torch.ones(40)).mean(), F.cross_entropy(r.maps, r.cells))


@every_term
def test_gradients_are_those_of_finite_differences(term):
    r = make_rows()
    predictions, rows = terms_of(r)[term]
    assert torch.autograd.gradcheck(lambda x: rows(x, r.shares, r.background), predictions.requires_grad_())


@every_term
@given(lam=st.floats(0, 1))
@settings(max_examples=10)
def test_rows_are_linear_in_their_shares(term, lam):
    r, other = make_rows(seed=0), make_rows(seed=1)
    predictions, rows = terms_of(r)[term]
    shares = lam * r.shares + (1 - lam) * other.shares
    background = lam * r.background + (1 - lam) * other.background
    first, second = rows(predictions, r.shares, r.background), rows(predictions, other.shares, other.background)
    torch.testing.assert_close(rows(predictions, shares, background), lam * first + (1 - lam) * second)


@every_normalizer
@every_term
@pytest.mark.parametrize("count", [0, 3])
def test_no_rows_or_no_share_give_zero_and_a_gradient_of_zero(term, count, normalizer):
    r = make_rows(count)
    predictions, rows = terms_of(r)[term]
    nothing, weights = torch.zeros_like(r.shares), torch.zeros(count)
    predictions = predictions.detach().requires_grad_()
    loss = reduce_rows(rows(predictions, nothing, nothing[0]), weights, normalizer).sum()
    loss.backward()
    assert loss == 0
    assert torch.equal(predictions.grad, torch.zeros_like(predictions))


@every_term
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(term, dtype):
    r = make_rows(dtype=torch.float32)
    predictions, rows = terms_of(r)[term]
    half = predictions.to(dtype)
    got = rows(half, r.shares, r.background)
    assert got.dtype == torch.float32
    assert torch.equal(got, rows(half.float(), r.shares, r.background))


@every_term
def test_float64_stays_float64(term):
    r = make_rows()
    predictions, rows = terms_of(r)[term]
    assert rows(predictions, r.shares, r.background).dtype == torch.float64


@every_term
def test_a_wrong_number_of_shares_is_refused(term):
    r = make_rows(6)
    predictions, rows = terms_of(r)[term]
    with pytest.raises(ValueError, match=r"shares must have one value per row: got \((2, )?5,?\) for rows"):
        rows(predictions, r.shares[:, :5], r.background)


@pytest.mark.parametrize("term", ["classification", "objectness", "focal"])
def test_background_of_another_length_is_refused_even_where_it_would_broadcast(term):
    r = make_rows(6)
    predictions, rows = terms_of(r)[term]
    with pytest.raises(ValueError, match=r"background must have one value per row: got \(1,\) for rows \(6,\)"):
        rows(predictions, r.shares, r.background[:1])


@pytest.mark.parametrize("rows", [classification_rows, focal_rows])
def test_labels_of_another_number_of_layers_are_refused_though_they_would_broadcast(rows):
    r = make_rows(6, 2)
    with pytest.raises(ValueError, match=r"labels must have one value per row: got \(1, 6\) for rows \(2, 6\)"):
        rows(r.logits, r.labels[:1], r.shares, r.background)


def test_deltas_of_more_dimensions_than_their_shares_are_refused():
    with pytest.raises(ValueError, match=r"got \(3,\) for rows \(3, 3\)"):
        smooth_l1_rows(torch.zeros(3, 3, 4), torch.zeros(3, 3, 4), torch.ones(3), beta=1.0)


@pytest.mark.parametrize("term", ["classification", "objectness", "focal", "centerness", "mask", "keypoint"])
def test_confident_mistakes_are_finite_and_so_is_their_gradient(term):
    r = make_rows(dtype=torch.float32)
    predictions, rows = terms_of(r)[term]
    predictions = (predictions * 1e4).requires_grad_()
    values = rows(predictions, r.shares, r.background)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(predictions.grad).all()


@every_normalizer
@loops
@given(COUNTS, SEEDS)
def test_the_reduction_is_a_plain_loop_over_the_rows_of_each_image(normalizer, count, seed):
    r = make_rows(count, 3, seed)
    counted = r.shares > 0.5
    values, weights = r.deltas[..., 0], r.shares
    expected = [
        oracle.average(value, [w for w, c in zip(weight, some, strict=True) if c], normalizer)
        for value, weight, some in zip(values.tolist(), weights.tolist(), counted.tolist(), strict=True)
    ]
    assert_rows(reduce_rows(values, weights, normalizer, counted=counted), expected)


def test_the_two_denominators():
    values, weights = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.5, 0.5])
    assert reduce_rows(values, weights, "count") == 2.0
    assert reduce_rows(values, weights, "weight") == 3.0


@every_normalizer
def test_the_denominator_is_at_least_one(normalizer):
    values, weights = torch.tensor([1.0, 2.0]), torch.tensor([0.25, 0.5])
    counted = torch.tensor([False, normalizer == "weight"])
    assert reduce_rows(values, weights, normalizer, counted=counted) == 3.0


def test_an_unknown_normalizer_is_refused():
    with pytest.raises(ValueError, match="normalizer must be one of count, weight, got 'mean'"):
        reduce_rows(torch.ones(1), torch.ones(1), "mean")
