import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detmix.analysis import entanglement, soft_nearest_neighbour_loss
from detmix.analysis.neighbours import squared_distances
from tests.factories import ListDataset, make_assembled, make_detector, make_sample

NAMES = ("cat", "dog", "bird")


def naive_loss(features, labels, temperature):
    losses = []
    for i, x in enumerate(features):
        near = all_near = 0.0
        for j, y in enumerate(features):
            if i != j:
                share = math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / temperature)
                all_near += share
                near += share * (labels[i] == labels[j])
        losses.append(-math.log(near / all_near) if near else math.nan)
    return losses


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(0.5, 50))
def test_the_loss_is_the_papers_double_sum(seed, count, temperature):
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(count, 3)), rng.integers(0, 3, count)
    loss = soft_nearest_neighbour_loss(torch.tensor(features), torch.tensor(labels), temperature)
    np.testing.assert_allclose(loss.numpy(), naive_loss(features.tolist(), labels.tolist(), temperature), atol=1e-9)
    assert loss.dtype == torch.float64


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_order_shift_and_scale_with_its_temperature_change_no_loss(seed, scale, shift):
    rng = np.random.default_rng(seed)
    features, labels = torch.tensor(rng.normal(size=(9, 4))), torch.tensor(rng.integers(0, 3, 9))
    loss = soft_nearest_neighbour_loss(features, labels, 2.0)
    order = torch.tensor(rng.permutation(9))
    torch.testing.assert_close(
        soft_nearest_neighbour_loss(features[order], labels[order], 2.0), loss[order], equal_nan=True
    )
    moved = soft_nearest_neighbour_loss(features * scale + shift, labels, 2.0 * scale**2)
    torch.testing.assert_close(moved, loss, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dimensions", [3, 100])
def test_distances_are_those_of_a_double_loop_and_those_of_twins_are_zero(dimensions):
    """With an offset of all that is large beside what tells them apart."""
    rng = np.random.default_rng(dimensions)
    features = rng.normal(size=(12, dimensions))
    features[6:9] = features[:3]  # twins
    features[9] = features[3]
    features[9, 0] += 1e-4  # nearly one
    features = features * 37 + 1e6
    naive = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in features] for x in features]
    expected = torch.tensor(naive, dtype=torch.float64)
    found = squared_distances(torch.from_numpy(features))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8)
    assert torch.equal(found == 0, expected == 0)
    assert (expected == 0).sum() == 12 + 6


def make_clusters(count=20, distance=100.0, seed=0):
    labels = torch.arange(2 * count) % 2
    noise = torch.tensor(np.random.default_rng(seed).normal(size=(2 * count, 4)))
    return noise + distance * labels[:, None], labels


def test_separated_clusters_lose_nothing_and_shuffled_labels_lose_much():
    features, labels = make_clusters()
    assert soft_nearest_neighbour_loss(features, labels, 1.0).max() < 1e-6
    shuffled = labels[torch.tensor(np.random.default_rng(1).permutation(len(labels)))]
    assert soft_nearest_neighbour_loss(features, shuffled, 1.0).mean() > math.log(2) / 2


@pytest.mark.parametrize("temperature", [1e-308, 1e-12, 1e-3, 1e12])
def test_the_loss_is_finite_at_extreme_temperatures(temperature):
    features, labels = make_clusters(distance=1e3)
    assert soft_nearest_neighbour_loss(features.float(), labels, temperature).isfinite().all()


def test_objects_that_are_all_the_same_lose_what_chance_does():
    labels = torch.tensor([1, 1, 1, 2, 2])
    loss = soft_nearest_neighbour_loss(torch.full((5, 7), 0.1), labels, 1e-9)
    torch.testing.assert_close(loss, torch.tensor([4 / 2, 4 / 2, 4 / 2, 4, 4], dtype=torch.float64).log())


@pytest.mark.parametrize(
    ("features", "labels", "temperature", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2), 1.0, r"\(N, D\) and \(N,\), got \(3, 2\) and \(2,\)"),
        (torch.zeros(3), torch.zeros(3), 1.0, "must have shapes"),
        (torch.full((2, 2), torch.nan), torch.zeros(2), 1.0, "finite"),
        (torch.zeros(2, 2), torch.zeros(2), 0.0, "temperature must be a finite number above 0, got 0.0"),
        (torch.zeros(2, 2), torch.zeros(2), math.inf, "temperature"),
    ],
)
def test_wrong_arguments_of_the_loss_are_named(features, labels, temperature, message):
    with pytest.raises(ValueError, match=message):
        soft_nearest_neighbour_loss(features, labels, temperature)


class Identity(nn.Module):
    """A detector's transform and backbone that leave one batch of equal images as it is, halved in size."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
        self.transform = nn.Identity()
        self.transform.forward = self.stack

    @staticmethod
    def stack(images, targets):
        return type("Batch", (), {"tensors": torch.stack(images)}), targets


class Enlarging(Identity):
    """The same, with images twice as large as they came and padded at the right and below."""

    @staticmethod
    def stack(images, targets):
        large = torch.stack(images).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        boxes = [{"boxes": 2 * target["boxes"]} for target in targets]
        return type("Batch", (), {"tensors": nn.functional.pad(large, (0, 24, 0, 40))}), boxes


def paint(boxes, values):
    """An image whose boxes are filled with a value each."""
    image = torch.zeros(1, 40, 60)
    for (x1, y1, x2, y2), value in zip(boxes, values, strict=True):
        image[:, y1:y2, x1:x2] = value
    labels = torch.tensor([1 if value < 0.5 else 2 for value in values], dtype=torch.int64)
    return image, {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": labels}


PAINTED = ListDataset(
    [
        paint([(4, 4, 16, 16), (30, 8, 42, 32)], [0.2, 0.8]),
        paint([], []),
        paint([(8, 20, 28, 36), (40, 4, 56, 12)], [0.4, 0.9]),
    ]
)


@pytest.mark.parametrize("kind", [Identity, Enlarging])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("grid", [1, 2])
def test_features_are_the_mean_of_a_layers_map_over_the_box(kind, batch_size, grid):
    """A box that is painted evenly has its paint as feature, on the image and on a map of half the size."""
    model = kind().train()
    options = {"class_names": NAMES[:2], "temperature": 0.3, "batch_size": batch_size, "grid": grid}
    result = entanglement(model, PAINTED, ["input", "backbone.0"], **options)
    paints = [[value] * grid**2 for value in (0.2, 0.8, 0.4, 0.9)]
    wanted = naive_loss(paints, [1, 2, 1, 2], 0.3)
    assert result.layers == ("input", "backbone.0")
    np.testing.assert_allclose(result.losses, [np.mean(wanted)] * 2, atol=1e-5)
    np.testing.assert_allclose(result.losses_by_class[1], [np.mean(wanted[::2]), np.mean(wanted[1::2])], atol=1e-5)
    assert (result.counts.tolist(), result.left_out) == ([2, 2], 0)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_an_object_alone_in_its_class_has_no_loss_and_is_counted():
    lonely = ListDataset([*PAINTED.samples, paint([(4, 4, 20, 20)], [0.5])])
    lonely.samples[-1][1]["labels"] += 1
    options = {"class_names": NAMES, "temperature": 0.3}
    result = entanglement(Identity(), lonely, ["input"], **options)
    wanted = naive_loss([[0.2], [0.8], [0.4], [0.9], [0.5]], [1, 2, 1, 2, 3], 0.3)
    assert (result.left_out, result.counts.tolist()) == (1, [2, 2, 1])
    assert np.isnan(result.losses_by_class[0, 2])
    assert result.losses[0] == pytest.approx(np.mean(wanted[:4]), abs=1e-5)
    assert result.uninformed == pytest.approx(math.log(4))
    np.testing.assert_allclose(result.uninformed_by_class, [math.log(4), math.log(4), np.nan])
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["losses_by_class"][0][2] is None


def test_a_class_without_objects_leaves_none_out():
    result = entanglement(Identity(), PAINTED, ["input"], class_names=NAMES, temperature=0.3)
    assert (result.left_out, result.counts.tolist()) == (0, [2, 2, 0])
    assert np.isnan(result.losses_by_class[0]).tolist() == [False, False, True]


def test_what_luck_would_give_is_told_by_class():
    more = ListDataset([*PAINTED.samples, paint([(4, 4, 20, 20)], [0.5]), paint([(4, 4, 20, 20)], [0.6])])
    result = entanglement(Identity(), more, ["input"], class_names=NAMES[:2], temperature=1e6)
    assert result.counts.tolist() == [2, 4]
    np.testing.assert_allclose(result.uninformed_by_class, [-math.log(1 / 5), -math.log(3 / 5)])
    assert result.uninformed == pytest.approx((4 * -math.log(3 / 5) + 2 * -math.log(1 / 5)) / 6)
    np.testing.assert_allclose(result.losses_by_class[0], result.uninformed_by_class, atol=1e-5)  # too hot to tell


def test_the_temperature_follows_the_data():
    options = {"class_names": NAMES[:2]}
    results = {
        wanted: entanglement(Identity(), PAINTED, ["input"], temperature=wanted, **options)
        for wanted in ("median", "optimised", 0.01, 0.03, 0.1, 0.3, 1.0)
    }
    paints = np.array([0.2, 0.8, 0.4, 0.9])
    squares = sorted(((paints[:, None] - paints) ** 2)[~np.eye(4, dtype=bool)])
    assert results["median"].temperatures[0] == pytest.approx(squares[len(squares) // 2 - 1], rel=1e-5)
    least = results["optimised"].losses[0]
    assert all(least <= result.losses[0] + 1e-9 for result in results.values())


@pytest.mark.parametrize(
    ("family", "layers", "names"),
    [
        (
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            ["backbone.fpn"],
            ["backbone.fpn:0", "backbone.fpn:1", "backbone.fpn:pool"],
        ),
        (
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            ["backbone.fpn:pool,0", "roi", "backbone:1", "backbone.fpn:0"],
            ["backbone.fpn:0", "backbone.fpn:pool", "roi", "backbone:1"],
        ),
        ("FasterRCNN", ["roi", "backbone", "backbone.0", "input"], ["roi", "backbone", "backbone.0", "input"]),
        ("RetinaNet", ["backbone"], ["backbone"]),
        ("FCOS", ["backbone.1"], ["backbone.1"]),
        ("SSD", ["backbone.3"], ["backbone.3"]),
    ],
)
def test_every_family_has_layers_and_each_level_is_one(family, layers, names):
    model = make_detector(family) if "_" in family else make_assembled(family)
    dataset = ListDataset([make_sample(n % 4, seed=n, size=(48 + 8 * n, 64)) for n in range(6)])
    before = torch.get_rng_state()
    result = entanglement(model, dataset, layers, class_names=NAMES)
    again = entanglement(model, dataset, layers, class_names=NAMES)
    assert result.layers == tuple(names)
    assert np.isfinite(result.losses).all()
    assert result.to_json() == again.to_json()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules() if isinstance(module, nn.Dropout))


def test_a_layer_is_recorded_before_the_next_one_writes_to_it():
    class Doubler(nn.Module):
        def forward(self, images):
            return images.mul_(2)

    model = Identity()
    model.backbone = nn.Sequential(nn.AvgPool2d(2), Doubler())
    options = {"class_names": NAMES[:2], "temperature": 0.3}
    pooled, doubled, image = entanglement(model, PAINTED, ["backbone.0", "backbone.1", "input"], **options).losses
    assert pooled == pytest.approx(image, abs=1e-5)
    assert abs(doubled - image) > 0.01


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_no_more_objects_are_taken_than_asked(most):
    samples = [paint([(4, 4, 16, 16), (30, 8, 42, 32)], [0.2, 0.3]) for _ in range(3)]
    steps = []
    arguments = (Identity(), ListDataset(samples), ["input"])
    options = {"class_names": NAMES[:2], "max_objects": most, "batch_size": 2, "on_step": lambda *s: steps.append(s)}
    if most == 1:
        with pytest.raises(ValueError, match="a class with two objects or more is needed"):
            entanglement(*arguments, **options)
    else:
        assert entanglement(*arguments, **options).counts.tolist() == [min(most, 6), 0]
    assert steps[-1] == (min(most, 6), most)


@pytest.mark.parametrize("name", ["max_objects", "grid", "batch_size"])
def test_counts_of_the_entanglement_are_integers(name):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got 2.5"):
        entanglement(Identity(), PAINTED, ["input"], class_names=NAMES[:2], **{name: 2.5})


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (["backbone.body.layr2"], {}, r"no layer 'backbone.body.layr2'\. Did you mean .*'backbone.body.layer2'"),
        (["rpn"], {}, "the model has no layer 'rpn'.* Layers are 'input', 'roi', 'backbone' and the modules in it"),
        (["backbone.fpn:poll"], {}, "'backbone.fpn:poll' has no key 'poll'.* has the keys '0', '1', '2', '3', 'pool'"),
        ([], {}, "layers must name one layer or more, such as input or backbone"),
        (["input"], {"temperature": "best"}, "temperature must be a number, 'median' or 'optimised', got 'best'"),
        (["input"], {"max_objects": 0}, "max_objects must be 1 or more, got 0"),
        (["input"], {"grid": 0}, "grid must be 1 or more, got 0"),
        (["backbone.fpn.layer_blocks"], {}, "is a ModuleList, which is never called"),
        (["input"], {"class_names": ("cat",)}, r"labels must lie in \[1, 1\]"),
    ],
)
def test_wrong_settings_of_the_entanglement_are_named(layers, options, message):
    model = make_detector("fasterrcnn_resnet50_fpn")
    dataset = ListDataset([make_sample(4, seed=n) for n in range(2)])
    with pytest.raises(ValueError, match=message):
        entanglement(model, dataset, layers, **{"class_names": NAMES, **options})
    assert not any(module._forward_hooks for module in model.modules())


def test_what_has_no_such_layer_is_refused_by_name():
    dataset = ListDataset([make_sample(4, seed=0)])
    with pytest.raises(ValueError, match="'roi' is the box head of an R-CNN detector, and RetinaNet has none"):
        entanglement(make_assembled("RetinaNet"), dataset, ["roi"], class_names=NAMES)
    with pytest.raises(TypeError, match="transform and backbone, Linear has no transform"):
        entanglement(nn.Linear(1, 1), dataset, ["input"], class_names=NAMES)
    with pytest.raises(ValueError, match=r"'backbone.1' must give maps of shape \(B, C, H, W\), got shape"):
        entanglement(Identity(), PAINTED, ["backbone.1"], class_names=NAMES)
    unused = Identity()
    unused.backbone.forward = nn.Identity().forward
    with pytest.raises(ValueError, match="the backbone does not call its layer 'backbone.0'"):
        entanglement(unused, PAINTED, ["backbone.0"], class_names=NAMES)
    broken = make_assembled("FCOS")
    nn.init.constant_(broken.backbone[0].weight, torch.nan)
    with pytest.raises(ValueError, match=r"features of layer 'backbone.0' are not finite"):
        entanglement(broken, dataset, ["backbone.0"], class_names=NAMES)
