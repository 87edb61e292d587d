"""Laws of the weighted losses, over torchvision's Faster R-CNN builders."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from detmix import unweight_losses, weight_losses

from .factories import FASTER_RCNNS, make_batch, make_detector

COUNTS = (3, 2, 0)
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}

every_normalizer = pytest.mark.parametrize("normalizer", ["count", "weight"])


def losses_of(model, batch, seed=7):
    """Losses and gradients of one training step, at one seed of torchvision's samplers."""
    torch.manual_seed(seed)
    model.zero_grad()
    losses = model(*batch)
    sum(losses.values()).backward()
    return {k: v.detach() for k, v in losses.items()}, [p.grad for p in model.parameters() if p.requires_grad]


def same_weights(value):
    return tuple((value,) * count for count in COUNTS)


@pytest.fixture(scope="module", params=FASTER_RCNNS)
def plain(request):
    """A detector of each builder, with the losses and gradients that plain torchvision gives."""
    model = make_detector(request.param)
    return model, *losses_of(model, make_batch(COUNTS))


@pytest.mark.parametrize("objective", ["weighted", "unweighted"])
def test_targets_without_weights_give_torchvisions_losses_and_gradients_bit_for_bit(plain, objective):
    model, losses, gradients = plain
    adapted, adapted_gradients = losses_of(weight_losses(model, objective), make_batch(COUNTS))
    assert adapted == losses
    assert all(map(torch.equal, adapted_gradients, gradients))


@every_normalizer
def test_unit_weights_give_torchvisions_losses_and_gradients(plain, normalizer):
    model, losses, gradients = plain
    weight_losses(model, normalizer=normalizer)
    adapted, adapted_gradients = losses_of(model, make_batch(COUNTS, weights=same_weights(1.0)))
    assert set(adapted) == LOSSES
    torch.testing.assert_close(adapted, losses, rtol=1e-6, atol=1e-6)
    difference = torch.cat([(a - b).flatten() for a, b in zip(adapted_gradients, gradients, strict=True)])
    assert difference.norm() <= 1e-5 * torch.cat([g.flatten() for g in gradients]).norm()


def test_losses_are_linear_in_the_weights_and_box_losses_vanish_at_zero(plain):
    model, full, _ = plain
    weight_losses(model)
    faint, half = (losses_of(model, make_batch(COUNTS, weights=same_weights(w)))[0] for w in (0.0, 0.5))
    for name in LOSSES:
        torch.testing.assert_close(half[name], (faint[name] + full[name]) / 2, rtol=1e-5, atol=1e-6)
        assert full[name] > faint[name]
    assert faint["loss_rpn_box_reg"] == 0
    assert faint["loss_box_reg"] == 0
    assert faint["loss_classifier"] > 0  # background rows keep their weight


def test_unweighted_ignores_the_weights(plain):
    model, losses, _ = plain
    assert losses_of(weight_losses(model, "unweighted"), make_batch(COUNTS, weights=same_weights(0.3)))[0] == losses


@every_normalizer
@pytest.mark.parametrize("counts", [(0,), (0, 0), (1, 1)])
def test_batches_with_few_or_no_objects_are_finite_and_backpropagate(counts, normalizer):
    model = weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"), normalizer=normalizer)
    losses, gradients = losses_of(model, make_batch(counts, weights=tuple((0.4,) * n for n in counts)))
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients)


class Recorder(nn.Module):
    """Stands in for a predictor: passes its outputs on and keeps them, with their gradients."""

    def __init__(self, predictor):
        super().__init__()
        self.predictor = predictor

    def forward(self, x):
        self.logits, self.deltas = self.predictor(x)
        self.logits.retain_grad()
        self.deltas.retain_grad()
        return self.logits, self.deltas


def record_rows(monkeypatch, model):
    """The rows that the box head of a model samples, as (matched, labels, regression targets)."""
    rows = []
    select = RoIHeads.select_training_samples

    def selecting(self, proposals, targets):
        proposals, *sampled = select(self, proposals, targets)
        rows.append(sampled)
        return proposals, *sampled

    monkeypatch.setattr(RoIHeads, "select_training_samples", selecting)
    model.roi_heads.box_predictor = Recorder(model.roi_heads.box_predictor)
    return rows, model.roi_heads.box_predictor


@every_normalizer
def test_box_head_equals_a_naive_loop_over_the_sampled_rows(monkeypatch, normalizer):
    shares = ((0.9, 0.25, 0.0), (0.6, 0.1), ())
    model = weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"), normalizer=normalizer)
    rows, recorder = record_rows(monkeypatch, model)
    losses, _ = losses_of(model, make_batch(COUNTS, weights=shares))

    classes, boxes, total, row = 0.0, 0.0, 0.0, 0
    for image, (matched, labels, deltas) in enumerate(zip(*rows[0], strict=True)):
        for match, label, delta in zip(matched.tolist(), labels.tolist(), deltas.double().tolist(), strict=True):
            weight = shares[image][match] if label else 1.0
            total += weight if normalizer == "weight" else 1.0
            classes -= weight * float(recorder.logits[row].detach().double().log_softmax(0)[label])
            if label:
                predicted = recorder.deltas[row, 4 * label : 4 * label + 4].double().tolist()
                errors = [abs(p - d) for p, d in zip(predicted, delta, strict=True)]
                boxes += weight * sum(4.5 * e * e if e < 1 / 9 else e - 1 / 18 for e in errors)
            row += 1
    assert float(losses["loss_classifier"]) == pytest.approx(classes / total, rel=1e-5)
    assert float(losses["loss_box_reg"]) == pytest.approx(boxes / total, rel=1e-5)


def test_only_rows_of_an_object_of_weight_zero_have_no_gradient(monkeypatch):
    model = weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"))
    rows, recorder = record_rows(monkeypatch, model)
    losses_of(model, make_batch((2,), weights=((0.0, 0.5),)))
    matched, labels, _ = (value[0] for value in rows[0])
    silent = (labels > 0) & (matched == 0)
    moved = recorder.logits.grad.abs().sum(1) > 0
    assert silent.any()
    assert torch.equal(moved, ~silent)


def test_region_proposal_rows_weigh_what_their_object_weighs():
    model = weight_losses(make_detector())
    anchors = torch.tensor([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60], [0, 0, 10, 17.0]])
    target = {"boxes": torch.tensor([[0, 0, 10, 10], [20, 20, 40, 41.0]]), "weights": torch.tensor([0.3, 0.8])}
    [matched], [boxes] = model.rpn.assign_targets_to_anchors([anchors], [target])
    assert matched.labels.tolist() == [1, 1, 0, -1]  # IoU with the first box: 1, 0, 0, 10/17
    torch.testing.assert_close(matched.weights[:3], torch.tensor([0.3, 0.8, 1.0]))
    assert torch.equal(boxes[:2], target["boxes"])
    [labels], _ = weight_losses(model, "unweighted").rpn.assign_targets_to_anchors([anchors], [target])
    assert torch.equal(labels, matched.labels)


def test_parameters_state_dict_and_inference_are_untouched():
    model = make_detector("fasterrcnn_mobilenet_v3_large_320_fpn")
    images, _ = make_batch(COUNTS)
    before = copy.deepcopy(model.state_dict())
    detections = model.eval()(images)
    weight_losses(model)
    assert list(model.state_dict()) == list(before)
    torch.testing.assert_close(model(images), detections, rtol=0, atol=0)
    make_detector("fasterrcnn_mobilenet_v3_large_320_fpn", seed=1).load_state_dict(model.state_dict())


def test_unweight_losses_gives_plain_torchvision_back():
    model = unweight_losses(weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn")))
    assert type(model.rpn) is RegionProposalNetwork
    assert type(model.roi_heads) is RoIHeads
    assert vars(model.roi_heads).keys() == vars(make_detector().roi_heads).keys()
    batch = make_batch(COUNTS, weights=same_weights(0.1))
    plain = make_batch(COUNTS)
    assert losses_of(model, batch)[0] == losses_of(model, plain)[0]


def test_unweighted_models_can_be_scripted():
    model = unweight_losses(weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about scripting at large
        scripted = torch.jit.script(model)
        images, _ = make_batch((1,))
        _, found = scripted(images)
    torch.testing.assert_close(found, model(images))


def test_weight_losses_again_changes_the_settings():
    model = weight_losses(weight_losses(make_detector()), "unweighted", "weight")
    assert (model.rpn.objective, model.roi_heads.normalizer) == ("unweighted", "weight")


def test_one_model_is_adapted_and_no_other():
    weight_losses(make_detector())
    assert type(make_detector().roi_heads) is RoIHeads


class OwnRoIHeads(RoIHeads):
    pass


def test_foreign_heads_and_models_are_refused_by_name():
    model = make_detector()
    model.roi_heads.__class__ = OwnRoIHeads
    with pytest.raises(TypeError, match=r"model\.roi_heads must be .*OwnRoIHeads"):
        weight_losses(model)
    with pytest.raises(TypeError, match=r"got torch\.nn\.modules\.linear\.Linear"):
        weight_losses(nn.Linear(1, 1))
    mask = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    with pytest.raises(TypeError, match="MaskRCNN"):
        weight_losses(mask)


@pytest.mark.parametrize(
    ("options", "wanted"), [({"objective": "heavy"}, "objective"), ({"normalizer": "mean"}, "normalizer")]
)
def test_unknown_settings_are_refused(options, wanted):
    with pytest.raises(ValueError, match=f"{wanted} must be"):
        weight_losses(make_detector(), **options)


def test_weights_of_the_wrong_length_are_refused():
    images, targets = make_batch((2, 1), weights=((0.5,), (1.0,)))
    with pytest.raises(ValueError, match=r"weights of target 0 must have shape \(2,\).*got \(1,\)"):
        weight_losses(make_detector())(images, targets)


def test_mixed_batches_treat_absent_weights_as_one():
    model = weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"))
    images, targets = make_batch(COUNTS, weights=same_weights(1.0))
    full, _ = losses_of(model, (images, targets))
    del targets[1]["weights"]
    torch.testing.assert_close(losses_of(model, (images, targets))[0], full, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite(dtype):
    model = weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"))
    with torch.autocast("cpu", dtype=dtype):
        losses, _ = losses_of(model, make_batch(COUNTS, weights=same_weights(0.5)))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            {"weights": torch.tensor([1, 1])},
            "weights of target 0 must be a tensor of a floating dtype, got torch.int64",
        ),
        ({"weights": [0.5, 0.5]}, "weights of target 0 must be a tensor of a floating dtype, got list"),
        (
            {"labels": torch.tensor([1, 2], dtype=torch.int32)},
            "labels of target 0 must be an int64 tensor, got torch.int32",
        ),
    ],
)
def test_targets_of_the_wrong_dtype_are_refused(change, wanted):
    images, targets = make_batch((2,), weights=((0.5, 0.5),))
    targets[0].update(change)
    with pytest.raises(TypeError, match=wanted):
        weight_losses(make_detector())(images, targets)
