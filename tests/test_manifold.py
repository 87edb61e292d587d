"""What ManifoldMixup mixes, and what it draws."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from detmix import weight_losses
from detmix.detectors.rows import RowTargets, mix_rows
from detmix.draws import MANIFOLD, generator_at
from detmix.manifold import ManifoldMixup

from .factories import FAMILIES, TinyBackbone, make_assembled, make_batch, make_boxes, make_detector, make_parts
from .test_detectors import losses_of, relative
from .test_stream import process_group

COUNTS = (3, 2, 0)
HALF = 1e6  # of alpha: every ratio is close to a half
every_family = pytest.mark.parametrize("family", FAMILIES)
every_objective = pytest.mark.parametrize("objective", ["weighted", "pair", "unweighted"])
every_pairing = pytest.mark.parametrize("pairing", ["roll", "shuffle"])


def make_model(family="FasterRCNN", objective="weighted", normalizer="count"):
    return weight_losses(make_assembled(family), objective, normalizer)


def layers_of(family, objective="weighted"):
    return ["input", "backbone.1", "backbone", *(["roi"] if "RCNN" in family and objective != "unweighted" else [])]


def mixed_losses(mixer, batch, seed=7):
    """Losses and gradients of one mixed step, at one seed of torchvision's samplers."""
    with mixer:
        return losses_of(mixer.model, batch, seed)


def make_unequal(counts, sizes, *, seed=0):
    """Images of the given (H, W), and targets with masks and keypoints."""
    rng, images, targets = np.random.default_rng(seed), [], []
    for row, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        boxes = make_boxes(count, size, rng)
        labels = torch.from_numpy(rng.integers(1, 4, count))
        images.append(torch.from_numpy(rng.random((3, *size), dtype=np.float32)))
        targets.append({"boxes": boxes, "labels": labels, "image_id": row, **make_parts(boxes, seed=row, size=size)})
    return images, targets


def partners_of(count, pairing, seed, step=0):
    circle = (
        generator_at(seed, 0, step, MANIFOLD + 1).permutation(count).tolist()
        if pairing == "shuffle"
        else [*range(count)]
    )
    return [circle[circle.index(row) - 1] for row in range(count)]


@every_objective
@every_family
@pytest.mark.parametrize("options", [{"alpha": 0}, {"p": 0.0}])
def test_where_nothing_is_to_be_mixed_nothing_changes_bit_for_bit(family, objective, options):
    losses, gradients = losses_of(make_model(family, objective), make_batch(COUNTS))
    mixer = ManifoldMixup(make_model(family, objective), layers_of(family, objective), **options)
    mixed, mixed_gradients = mixed_losses(mixer, make_batch(COUNTS))
    assert (mixed, mixer.lam) == (losses, 1.0)
    assert torch.equal(mixed_gradients, gradients)


def test_a_ratio_that_is_drawn_as_one_changes_nothing():
    plain, _ = losses_of(make_model(), make_batch(COUNTS))
    mixers = [ManifoldMixup(make_model(), ["backbone"], alpha=1e-4, seed=seed) for seed in range(6)]
    found = [(mixed_losses(mixer, make_batch(COUNTS))[0] == plain, mixer.lam) for mixer in mixers]
    assert {lam for _, lam in found} == {0.0, 1.0}
    assert all(same == (lam == 1) for same, lam in found)


@every_objective
@every_family
def test_every_layer_changes_the_losses_in_its_own_way(family, objective):
    totals = [sum(losses_of(make_model(family, objective), make_batch(COUNTS))[0].values())]
    for layer in layers_of(family, objective):
        mixer = ManifoldMixup(make_model(family, objective), [layer], alpha=HALF)
        losses, gradients = mixed_losses(mixer, make_batch(COUNTS))
        assert gradients.isfinite().all()
        totals.append(sum(losses.values()))
    assert len({float(total) for total in totals}) == len(totals)


def outputs_of(mixer, layer, batch):
    """What a layer returns without and with the mixing, in one mixed step."""
    module, seen = mixer.model.get_submodule(layer), []

    def keep(module, arguments, output):
        seen.append(output)

    first = module.register_forward_hook(keep)
    try:
        with mixer:
            second = module.register_forward_hook(keep)
            losses = mixer.model(*batch)
            second.remove()
    finally:
        first.remove()
    return *seen, losses


@pytest.fixture(scope="module")
def pyramid():
    """A detector whose backbone returns a dict of levels."""
    return weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"))


@every_pairing
@pytest.mark.parametrize("layer", ["backbone", "backbone.fpn", "backbone.fpn.layer_blocks.0", "backbone.body.4"])
def test_a_layer_becomes_the_mixture_of_the_images_features(pyramid, layer, pairing):
    batch = make_unequal((1, 2, 0), [(48, 64), (64, 48), (50, 70)])
    mixer = ManifoldMixup(pyramid, [layer], alpha=1.0, pairing=pairing, seed=5)
    before, after, _ = outputs_of(mixer, layer, batch)
    assert type(after) is type(before)
    befores, afters = ([*x.values()] if isinstance(x, dict) else [x] for x in (before, after))
    for feature, mixed in zip(befores, afters, strict=True):
        exact = feature.double()
        expected = mixer.lam * exact + (1 - mixer.lam) * exact[partners_of(3, pairing, seed=5)]
        torch.testing.assert_close(mixed.double(), expected, rtol=1e-5, atol=1e-6)


class Parts(nn.Module):
    def forward(self, x):
        return x, [x * x, {"half": x.half()}]


class PartedBackbone(nn.Module):
    """One layer returns a tuple, a list and a dict in each other."""

    out_channels = 32

    def __init__(self):
        super().__init__()
        self.body, self.parts = TinyBackbone(), Parts()

    def forward(self, x):
        x, (square, rest) = self.parts(self.body(x))
        return x + square + rest["half"].float()


def test_tuples_lists_and_dicts_are_mixed_part_by_part():
    model = make_model("RetinaNet")
    model.backbone = PartedBackbone()
    mixer = ManifoldMixup(model, ["backbone.parts"], alpha=1.0)
    before, after, _ = outputs_of(mixer, "backbone.parts", make_batch((1, 2)))
    flat = [(x, square, rest["half"]) for x, (square, rest) in (before, after)]
    for feature, mixed in zip(*flat, strict=True):
        assert mixed.dtype == feature.dtype
        expected = mixer.lam * feature.double() + (1 - mixer.lam) * feature.double().flip(0)
        tolerance = 1e-2 if mixed.dtype == torch.half else 1e-5
        torch.testing.assert_close(mixed.double(), expected, rtol=tolerance, atol=tolerance)


def to_size(image, size):
    return F.pad(image, (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2]))


SIZES = st.tuples(st.integers(20, 80), st.integers(20, 80))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), SIZES), min_size=2, max_size=4), st.booleans(), st.integers(0, 99))
def test_partners_join_where_their_own_resize_puts_them(rows, shuffle, seed):
    model, pairing = make_model("MaskRCNN"), "shuffle" if shuffle else "roll"
    images, targets = make_unequal(*zip(*rows, strict=True), seed=seed)
    given_images, given_targets = copy.deepcopy((images, targets))
    mixer = ManifoldMixup(model, ["input"], pairing=pairing, seed=seed)
    with mixer:
        batch, joined = model.transform(images, targets)
    torch.testing.assert_close((images, targets), (given_images, given_targets), rtol=0, atol=0)
    alone = [model.transform([image], [target]) for image, target in zip(images, targets, strict=True)]
    for row, partner in enumerate(partners_of(len(rows), pairing, seed)):
        (own, (first,)), (other, (second,)) = alone[row], alone[partner]
        size = tuple(max(sides) for sides in zip(own.image_sizes[0], other.image_sizes[0], strict=True))
        assert batch.image_sizes[row] == size
        assert (joined[row]["lam"], joined[row]["image_id"]) == (mixer.lam, row)
        for key in ("boxes", "labels", "keypoints"):
            assert torch.equal(joined[row][key], torch.cat([first[key], second[key]]))
        assert torch.equal(joined[row]["masks"], torch.cat([to_size(t["masks"], size) for t in (first, second)]))
        counts = len(first["boxes"]), len(second["boxes"])
        shares = [share for share, count in zip((mixer.lam, 1 - mixer.lam), counts, strict=True) for _ in range(count)]
        torch.testing.assert_close(joined[row]["weights"], torch.tensor(shares, dtype=torch.float32))
        assert joined[row]["sources"].tolist() == [0] * counts[0] + [1] * counts[1]
        pixels = [
            to_size(x.tensors[0, :, : x.image_sizes[0][0], : x.image_sizes[0][1]], batch.tensors.shape[2:])
            for x in (own, other)
        ]
        torch.testing.assert_close(batch.tensors[row], mixer.lam * pixels[0] + (1 - mixer.lam) * pixels[1])


def test_what_is_mixed_already_keeps_its_shares_and_sources():
    model = make_model()
    batch = make_batch((2, 1), weights=((0.5, 0.25), (1.0,)), sources=((0, 2), (0,)))
    mixer = ManifoldMixup(model, ["input"])
    with mixer:
        _, (first, second) = model.transform(*batch)
    lam = mixer.lam
    torch.testing.assert_close(first["weights"], torch.tensor([0.5 * lam, 0.25 * lam, 1 - lam]))
    torch.testing.assert_close(second["weights"], torch.tensor([lam, 0.5 * (1 - lam), 0.25 * (1 - lam)]))
    assert (first["sources"].tolist(), second["sources"].tolist()) == ([0, 2, 3], [0, 1, 3])


@every_family
def test_losses_are_those_of_the_images_mixed_and_their_boxes_joined_by_hand(family):
    images, targets = make_batch((3, 2))
    mixer = ManifoldMixup(make_model(family), ["input"], alpha=1.0)
    losses, gradients = mixed_losses(mixer, (images, targets))
    lam = mixer.lam
    by_hand = [lam * images[0] + (1 - lam) * images[1], lam * images[1] + (1 - lam) * images[0]]
    joined = []
    for own, other in (targets, targets[::-1]):
        keys = ("boxes", "labels", "masks", "keypoints")
        shares = [lam] * len(own["boxes"]) + [1 - lam] * len(other["boxes"])
        joined.append({key: torch.cat([own[key], other[key]]) for key in keys} | {"weights": torch.tensor(shares)})
    expected, expected_gradients = losses_of(make_model(family), (by_hand, joined))
    torch.testing.assert_close(losses, expected)  # images of one size: resizing and mixing commute
    assert relative(gradients - expected_gradients, expected_gradients) < 1e-3


@every_family
def test_a_batch_of_one_stays_as_it_is(family):
    losses, _ = losses_of(make_model(family), make_batch((3,)))
    assert mixed_losses(ManifoldMixup(make_model(family), layers_of(family)[:3]), make_batch((3,)))[0] == losses


def encoded(box, own):
    """Deltas from one box to another, as the box head learns them: Faster R-CNN, equation 2, times 10 and 5."""
    (w, h), (own_w, own_h) = ((b[2:] - b[:2]).tolist() for b in (box, own))
    shift = (box[:2] + box[2:] - own[:2] - own[2:]) / 2
    return [10 * shift[0] / own_w, 10 * shift[1] / own_h, 5 * np.log(w / own_w), 5 * np.log(h / own_h)]


def smooth_l1(difference, beta=1 / 9):
    difference = abs(float(difference))
    return difference**2 / (2 * beta) if difference < beta else difference - beta / 2


def expected_of_rows(lam, partners, rows, own, boxes, logits, deltas, normalizer):
    """Class and box loss of mixed rows, a row, side and layer at a time."""
    classes = regression = mass = 0.0
    log_p = logits.double().log_softmax(1)
    for row, partner in enumerate(partners):
        for side, share in ((row, lam), (partner, 1 - lam)):
            classes -= share * float(rows.background[side]) * float(log_p[row, 0])
            mass += share * float(rows.background[side] + rows.shares[:, side].sum())
            for objects, labels, shares in zip(rows.objects, rows.labels, rows.shares, strict=True):
                weight, label = share * float(shares[side]), int(labels[side])
                classes -= weight * float(log_p[row, label])
                if objects[side] >= 0:
                    wanted = encoded(boxes[objects[side]].double(), own[side].double())
                    predicted = deltas[row, 4 * label : 4 * label + 4].tolist()
                    regression += weight * sum(smooth_l1(p - w) for p, w in zip(predicted, wanted, strict=True))
    whole = len(partners) if normalizer == "count" else mass
    return {"loss_classifier": classes / whole, "loss_box_reg": regression / whole}


@pytest.mark.parametrize("normalizer", ["count", "weight"])
@pytest.mark.parametrize("objective", ["weighted", "pair"])
@pytest.mark.parametrize("family", ["FasterRCNN", "MaskRCNN", "KeypointRCNN"])
def test_at_roi_each_row_learns_its_own_targets_and_its_partners_from_mixed_features(family, objective, normalizer):
    weights, sources = ((0.9, 0.25, 0.7), (0.6, 1.0), ()), ((0, 1, 1), (0, 1), ())
    batch = make_batch(COUNTS, weights=weights, sources=sources)
    mixer, seen = ManifoldMixup(make_model(family, objective, normalizer), ["roi"], alpha=1.0, seed=3), {}
    heads = mixer.model.roi_heads
    heads.box_predictor.register_forward_hook(
        lambda module, given, output: seen.update(features=given[0], output=output)
    )
    with mixer:
        mix, heads.row_mixer = heads.row_mixer, lambda *rows: mix(*seen.setdefault("rows", rows))
        losses, _ = losses_of(mixer.model, batch)
    features, rows, own = seen["rows"]
    partners = generator_at(3, 0, 0, MANIFOLD + 1).permutation(len(features))
    mixed = mixer.lam * features + (1 - mixer.lam) * features[torch.from_numpy(partners)]
    torch.testing.assert_close(seen["features"], mixed)
    boxes = torch.cat([target["boxes"] for target in mixer.model.transform(*batch)[1]])
    output = [column.detach() for column in seen["output"]]
    expected = expected_of_rows(mixer.lam, partners.tolist(), rows, own, boxes, *output, normalizer)
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-5)
    unmixed, _ = losses_of(make_model(family, objective, normalizer), batch)
    assert {k: v for k, v in losses.items() if k not in expected} == {
        k: v for k, v in unmixed.items() if k not in expected
    }


def test_a_mixed_row_has_both_targets_and_is_ignored_where_both_are():
    objects, labels = torch.tensor([[0, -1, 1, -1]]), torch.tensor([[2, 0, 1, 0]])
    shares, background = torch.tensor([[0.5, 0.0, 1.0, 0.0]]), torch.tensor([0.0, 1.0, 0.0, 0.0])
    rows = RowTargets(objects, labels, shares, background, torch.tensor([False, False, True, True]))
    mixed = mix_rows(rows, torch.tensor([1, 0, 3, 2]), 0.75)
    assert mixed.objects.tolist() == [[0, -1, 1, -1], [-1, 0, -1, 1]]
    assert mixed.labels.tolist() == [[2, 0, 1, 0], [0, 2, 0, 1]]
    assert mixed.shares.tolist() == [[0.375, 0.0, 0.75, 0.0], [0.0, 0.125, 0.0, 0.25]]
    assert mixed.background.tolist() == [0.25, 0.75, 0.0, 0.0]
    assert mixed.ignored.tolist() == [False, False, True, True]
    assert not mix_rows(rows, torch.tensor([2, 3, 0, 1]), 0.75).ignored.any()


def test_at_roi_targets_without_weights_count_as_one_and_one_image_is_enough():
    for batch in (make_batch(COUNTS), make_batch((3,)), make_batch((0, 0))):
        ones = tuple((1.0,) * len(target["boxes"]) for target in batch[1])
        losses = [
            mixed_losses(ManifoldMixup(make_model(), ["roi"]), (batch[0], targets))[0]
            for targets in (batch[1], make_batch(tuple(map(len, ones)), weights=ones)[1])
        ]
        assert losses[0] == losses[1]
        assert losses[0]["loss_classifier"] != losses_of(make_model(), batch)[0]["loss_classifier"]


def drawn(mixer, steps):
    found = []
    for _ in range(steps):
        with mixer:
            found.append((mixer.layer, mixer.lam))
    return found


def test_layers_are_uniform_and_ratios_beta():
    mixer = ManifoldMixup(make_model().eval(), layers_of("FasterRCNN"), alpha=0.4, p=0.75, seed=1)
    found = drawn(mixer, 2000)
    lams = np.array([lam for _, lam in found])
    counts = [sum(layer == name for name, _ in found) for layer in mixer.layers]
    assert stats.chisquare(counts).pvalue > 1e-3
    mixed = lams[lams < 1]
    assert abs(len(mixed) - 1500) < 5 * np.sqrt(2000 * 0.75 * 0.25)
    assert stats.kstest(mixed, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    assert abs(np.corrcoef([mixer.layers.index(name) for name, _ in found], lams)[0, 1]) < 5 / np.sqrt(2000)


def test_every_other_image_is_as_likely_a_partner_when_shuffled():
    model, images, counts = make_model(), [torch.zeros(3, 8, 8)] * 4, np.zeros((4, 4))
    targets = [{"boxes": torch.tensor([[0.0, 0, 8, 8]]), "labels": torch.tensor([row])} for row in range(4)]
    mixer = ManifoldMixup(model, ["input"], pairing="shuffle", alpha=HALF)
    for _ in range(300):
        with mixer:
            _, joined = model.transform(images, targets)
        for row, target in enumerate(joined):
            counts[row, target["labels"][1]] += 1
    assert not counts.diagonal().any()
    assert stats.chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > 1e-3


@pytest.mark.parametrize(("state", "error"), [({}, KeyError), ({"step": 2.5}, TypeError), ({"step": -1}, ValueError)])
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(state, error):
    mixer = ManifoldMixup(make_model(), layers_of("FasterRCNN"))
    with pytest.raises(error, match="step"):
        mixer.load_state_dict(state)
    assert mixer.state_dict() == {"step": 0}


def test_draws_are_those_of_seed_rank_and_step_and_go_on_from_a_state():
    model = make_model().eval()
    mixer = ManifoldMixup(model, layers_of("FasterRCNN"), seed=4)
    assert (mixer.layer, mixer.lam, mixer.step) == (None, 1.0, 0)
    found = drawn(mixer, 6)
    assert mixer.state_dict() == {"step": 6}
    again = ManifoldMixup(model, layers_of("FasterRCNN"), seed=4)
    again.load_state_dict({"step": 2})
    assert drawn(again, 4) == found[2:]
    assert drawn(ManifoldMixup(model, layers_of("FasterRCNN"), seed=5), 6) != found
    again.step = 0
    with process_group(1, 2):
        assert drawn(again, 6) != found
