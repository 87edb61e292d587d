"""Laws of the weighted losses, over all of torchvision's detector builders."""

import pytest
import torch

from detmix import weight_losses
from detmix.detectors.matching import Matched, Objects

from .factories import BUILDERS, FAMILIES, make_assembled, make_batch, make_detector

COUNTS = (3, 2, 0)
SOURCES = ((0, 1, 1), (1, 0), ())

every_objective = pytest.mark.parametrize("objective", ["weighted", "pair"])
every_normalizer = pytest.mark.parametrize("normalizer", ["count", "weight"])


def losses_of(model, batch, seed=7):
    """Losses and gradients of one training step, at one seed of torchvision's samplers."""
    torch.manual_seed(seed)
    model.zero_grad()
    losses = model(*batch)
    sum(losses.values()).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {k: v.detach() for k, v in losses.items()}, torch.cat(gradients)


def same_weights(value):
    return tuple((value,) * count for count in COUNTS)


def test_shares_that_add_up_to_one_but_for_rounding_leave_no_background():
    first, second = torch.tensor([0.225, 0.1])
    weights = torch.stack([first * second, first * (1 - second), 1 - first])  # as of what was mixed twice
    assert 0 < 1 - weights.sum() < 1e-6
    target = {"boxes": torch.rand(3, 4), "labels": torch.arange(1, 4), "weights": weights, "sources": torch.arange(3)}
    rows = Matched(Objects([target], "pair"), [torch.tensor([0])] * 3).targets()
    assert (rows.shares[:, 0].tolist(), rows.background.tolist()) == (weights.tolist(), [0])


def without_body(model):
    """Freeze the first layers, whose gradients take most of the time and say nothing more."""
    getattr(model.backbone, "body", model.backbone).requires_grad_(False)
    return model


@pytest.fixture(scope="module", params=BUILDERS)
def plain(request):
    """A detector of each builder, with the losses and gradients that plain torchvision gives."""
    model = without_body(make_detector(request.param))
    return model, *losses_of(model, make_batch(COUNTS))


def relative(difference, of):
    return float(difference.double().norm() / of.double().norm())


@every_objective
def test_targets_without_weights_give_torchvisions_losses_and_gradients_bit_for_bit(plain, objective):
    model, losses, gradients = plain
    adapted, adapted_gradients = losses_of(weight_losses(model, objective), make_batch(COUNTS, sources=SOURCES))
    assert adapted == losses
    assert torch.equal(adapted_gradients, gradients)


@every_objective
@every_normalizer
def test_unit_weights_give_torchvisions_losses_and_gradients(plain, objective, normalizer):
    model, losses, gradients = plain
    weight_losses(model, objective, normalizer)
    adapted, adapted_gradients = losses_of(model, make_batch(COUNTS, weights=same_weights(1.0)))
    assert adapted.keys() == losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(adapted[name], loss, rtol=1e-6, atol=1e-6, msg=name)
    assert relative(adapted_gradients - gradients, of=gradients) <= 1e-5


@every_objective
def test_losses_are_linear_in_the_weights_and_box_losses_vanish_at_zero(plain, objective):
    model, full, _ = plain
    weight_losses(model, objective)
    faint, half = (losses_of(model, make_batch(COUNTS, weights=same_weights(w)))[0] for w in (0.0, 0.5))
    for name in full:
        torch.testing.assert_close(half[name], (faint[name] + full[name]) / 2, rtol=1e-5, atol=1e-6)
    classes = {"loss_classifier", "loss_objectness", "classification"}
    assert all(faint[name] > 0 for name in classes & full.keys())  # background rows keep their weight
    assert all(faint[name] == 0 for name in full.keys() - classes)


def test_unweighted_ignores_the_weights(plain):
    model, losses, _ = plain
    batch = make_batch(COUNTS, weights=same_weights(0.3), sources=SOURCES)
    assert losses_of(weight_losses(model, "unweighted"), batch)[0] == losses


@every_objective
@every_normalizer
@pytest.mark.parametrize("counts", [(0,), (0, 0), (1, 1), (2,)])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_with_few_or_no_objects_are_finite_and_backpropagate(family, counts, objective, normalizer):
    model = weight_losses(make_assembled(family), objective, normalizer)
    weights, sources = tuple((0.4,) * n for n in counts), tuple(tuple(range(n)) for n in counts)
    losses, gradients = losses_of(model, make_batch(counts, weights=weights, sources=sources))
    assert all(loss.isfinite() for loss in losses.values())
    assert gradients.isfinite().all()


@every_objective
@every_normalizer
@pytest.mark.parametrize("family", FAMILIES)
def test_models_assembled_by_hand_obey_the_same_law(family, objective, normalizer):
    losses, gradients = losses_of(make_assembled(family), make_batch(COUNTS))
    model = weight_losses(make_assembled(family), objective, normalizer)
    adapted, adapted_gradients = losses_of(model, make_batch(COUNTS, weights=same_weights(1.0)))
    torch.testing.assert_close(adapted, losses, rtol=1e-6, atol=1e-6)
    assert relative(adapted_gradients - gradients, of=gradients) <= 1e-5


@every_objective
@pytest.mark.parametrize("chosen", [slice(1), slice(None)], ids=["an object", "all objects"])
@pytest.mark.parametrize("family", FAMILIES)
def test_objects_with_the_label_of_background_obey_it_too(family, objective, chosen):
    plain, weighted = make_batch(COUNTS), make_batch(COUNTS, weights=same_weights(1.0))
    for _, targets in (plain, weighted):
        for target in targets:
            target["labels"][chosen] = 0
    losses, gradients = losses_of(make_assembled(family), plain)
    adapted, adapted_gradients = losses_of(weight_losses(make_assembled(family), objective), weighted)
    torch.testing.assert_close(adapted, losses, rtol=1e-6, atol=1e-6)
    assert relative(adapted_gradients - gradients, of=gradients) <= 1e-5


def row_gradients(model, batch):
    """What flows back into the outputs of a model's last layers: a tensor for each."""
    outputs = []

    def keep(_, __, result):
        values = result.values() if isinstance(result, dict) else result if isinstance(result, tuple) else [result]
        for value in values:
            for tensor in value if isinstance(value, list) else [value]:
                tensor.retain_grad()
                outputs.append(tensor)

    if hasattr(model, "roi_heads"):
        parts = (
            model.rpn.head,
            *(getattr(model.roi_heads, f"{k}_predictor", None) for k in ("box", "mask", "keypoint")),
        )
        heads = [part for part in parts if part is not None]
    else:
        heads = [model.head]
    handles = [head.register_forward_hook(keep) for head in heads]
    losses_of(model, batch)
    for handle in handles:
        handle.remove()
    return [output.grad for output in outputs]


def test_only_rows_of_an_object_of_weight_zero_have_no_gradient(plain):
    model = weight_losses(plain[0])
    silent, loud = (row_gradients(model, make_batch((2, 1), weights=((w, 0.5), (0.5,)))) for w in (0.0, 1.0))
    changed = [a != b for a, b in zip(silent, loud, strict=True)]
    assert sum(int(c.sum()) for c in changed) > 0
    for gradient, moved in zip(silent, changed, strict=True):
        assert (gradient[moved] == 0).all()


@every_normalizer
@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_mixed_with_itself_is_itself_to_the_pair_objective(family, normalizer):
    images, [target] = make_batch((2,))
    twice = {key: torch.cat([target[key], target[key]]) for key in ("boxes", "labels", "masks", "keypoints")}
    twice |= {"weights": torch.tensor([0.3, 0.3, 0.7, 0.7]), "sources": torch.tensor([0, 0, 1, 1])}
    model = weight_losses(make_assembled(family), "pair", normalizer)
    alone, _ = losses_of(model, (images, [target]))
    mixed, _ = losses_of(model, (images, [twice]))
    for name in alone:
        if name not in ("loss_classifier", "loss_box_reg", "loss_mask", "loss_keypoint"):  # other proposals: more boxes
            torch.testing.assert_close(mixed[name], alone[name], rtol=1e-5, atol=1e-6, msg=name)
