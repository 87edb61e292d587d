import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import fastrcnn_loss

from detmix.losses import box_rows, classification_rows, objectness_rows, reduce_rows


def rows(count, seed=0, classes=5):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return {
        "logits": torch.randn(count, classes, **options),
        "labels": torch.randint(classes, (count,), generator=generator),
        "weights": torch.rand(count, **options),
        "deltas": torch.randn(count, 4, **options),
        "targets": torch.randn(count, 4, **options),
    }


SEEDS = st.integers(0, 1000)


@settings(max_examples=20)
@given(st.integers(0, 8), SEEDS)
def test_classification_is_a_naive_loop(count, seed):
    r = rows(count, seed)
    expected = []
    for logits, label, weight in zip(r["logits"].tolist(), r["labels"].tolist(), r["weights"].tolist(), strict=True):
        expected.append(weight * (math.log(sum(map(math.exp, logits))) - logits[label]))
    torch.testing.assert_close(
        classification_rows(r["logits"], r["labels"], r["weights"]), torch.tensor(expected, dtype=torch.float64)
    )


@settings(max_examples=20)
@given(st.integers(0, 8), SEEDS)
def test_objectness_is_a_naive_loop(count, seed):
    r = rows(count, seed)
    logits, labels = r["logits"][:, 0], (r["labels"] > 0).double()
    expected = []
    for logit, label, weight in zip(logits.tolist(), labels.tolist(), r["weights"].tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected.append(-weight * (label * math.log(p) + (1 - label) * math.log(1 - p)))
    torch.testing.assert_close(
        objectness_rows(logits, labels, r["weights"]), torch.tensor(expected, dtype=torch.float64)
    )


@settings(max_examples=20)
@given(st.integers(0, 8), SEEDS, st.floats(0.05, 2))
def test_boxes_are_a_naive_loop(count, seed, beta):
    r = rows(count, seed)
    expected = []
    for deltas, targets, weight in zip(*(r[k].tolist() for k in ("deltas", "targets", "weights")), strict=True):
        errors = [abs(d - t) for d, t in zip(deltas, targets, strict=True)]
        expected.append(weight * sum(e * e / 2 / beta if e < beta else e - beta / 2 for e in errors))
    torch.testing.assert_close(
        box_rows(r["deltas"], r["targets"], r["weights"], beta=beta), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize("normalizer", ["count", "weight"])
def test_unit_weights_give_torchvisions_own_function(normalizer):
    r = rows(40)
    ones = torch.ones(40, dtype=torch.float64)
    regression = torch.randn(40, 5 * 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = fastrcnn_loss(r["logits"], regression, [r["labels"]], [r["targets"]])
    objects = torch.where(r["labels"] > 0)[0]
    predicted = regression.reshape(40, 5, 4)[objects, r["labels"][objects]]
    classes = classification_rows(r["logits"], r["labels"], ones)
    boxes = box_rows(predicted, r["targets"][objects], ones[objects])
    got = reduce_rows(classes, ones, normalizer), reduce_rows(boxes, ones, normalizer)
    torch.testing.assert_close(got, expected)


def test_the_two_denominators():
    values, weights = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25, 0.25])
    assert reduce_rows(values, weights, "count") == 1.0
    assert reduce_rows(values, weights, "weight") == 3.0


@pytest.mark.parametrize("normalizer", ["count", "weight"])
@pytest.mark.parametrize("weights", [torch.zeros(0), torch.zeros(3)])
def test_no_rows_or_no_weight_give_zero_and_a_finite_gradient(normalizer, weights):
    logits = torch.randn(len(weights), 4, requires_grad=True)
    labels = torch.zeros(len(weights), dtype=torch.int64)
    loss = reduce_rows(classification_rows(logits, labels, weights), weights, normalizer)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_gradients_are_those_of_finite_differences():
    r = rows(6)
    logits, deltas = (r[key].requires_grad_() for key in ("logits", "deltas"))
    objectness = r["labels"].clamp(max=1).double()
    assert torch.autograd.gradcheck(lambda x: classification_rows(x, r["labels"], r["weights"]), logits)
    assert torch.autograd.gradcheck(lambda x: objectness_rows(x[:, 0], objectness, r["weights"]), logits)
    assert torch.autograd.gradcheck(lambda x: box_rows(x, r["targets"], r["weights"]), deltas)


def test_smooth_l1_defaults_to_torchvisions_beta():
    r = rows(5)
    expected = F.smooth_l1_loss(r["deltas"], r["targets"], beta=1 / 9, reduction="none").sum(1)
    torch.testing.assert_close(box_rows(r["deltas"], r["targets"], torch.ones(5, dtype=torch.float64)), expected)


def test_an_unknown_normalizer_is_refused():
    with pytest.raises(ValueError, match="normalizer must be 'count' or 'weight', got 'mean'"):
        reduce_rows(torch.ones(1), torch.ones(1), "mean")


@pytest.mark.parametrize("function", [classification_rows, objectness_rows, box_rows])
def test_pure_losses_refuse_a_wrong_number_of_weights(function):
    with pytest.raises(ValueError, match="got 2 for 3 rows"):
        function(torch.zeros(3, 4), torch.zeros(3, 4), torch.ones(2))
