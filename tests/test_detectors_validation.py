import copy

import pytest
import torch
from torch import nn

from detmix import weight_losses
from detmix.detectors import losses_and_detections
from detmix.detectors.matching import match_boxes

from .factories import FAMILIES, make_assembled, make_batch, make_detector
from .test_detectors import losses_of
from .test_detectors_adapter import COUNTS, WEIGHTED_BATCH

every_family = pytest.mark.parametrize("family", FAMILIES)


def modes(model):
    return [module.training for module in model.modules()]


@every_family
@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_no_trace(family, training):
    model = make_assembled(family).train(training)
    model.backbone[2].train(not training)  # a module in a mode of its own
    state, before, random = copy.deepcopy(model.state_dict()), modes(model), torch.get_rng_state()
    images, targets = make_batch(COUNTS)
    boxes = [target["boxes"].clone() for target in targets]
    losses_and_detections(model, images, targets)
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(map(torch.equal, boxes, [target["boxes"] for target in targets]))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@every_family
def test_detections_are_those_of_evaluation_mode(family):
    model = make_assembled(family)
    images, targets = make_batch(COUNTS)
    _, detections = losses_and_detections(model, images, targets)
    torch.testing.assert_close(detections, model.eval()(images), rtol=0, atol=0)


def without_noise(model):
    """The same model with nothing that training mode changes or draws."""
    for module in [model.transform, *model.modules()]:
        if isinstance(module, (nn.Dropout, nn.BatchNorm2d)) or module is model.transform:
            module.eval()
    return model


@every_family
@pytest.mark.parametrize("objective", [None, "weighted", "pair"])
def test_losses_are_those_of_training_without_its_noise(family, objective):
    model = make_assembled(family)
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    if objective is not None:
        weight_losses(model, objective, "weight")
    losses, _ = losses_and_detections(model, *batch)
    expected, _ = losses_of(without_noise(model), batch, seed=0)
    torch.testing.assert_close({k: v.detach() for k, v in losses.items()}, expected, rtol=1e-5, atol=1e-6)


@every_family
@pytest.mark.parametrize("objective", [None, "pair"])
def test_the_loss_of_an_image_by_itself_does_not_depend_on_the_batch(family, objective):
    model = make_assembled(family)
    batch = make_batch(COUNTS, **(WEIGHTED_BATCH if objective else {}))
    if objective is not None:
        weight_losses(model, objective)
    losses, detections = losses_and_detections(model, *batch, per_image=True)
    together, expected = losses_and_detections(model, *batch)
    assert losses.keys() == together.keys()
    torch.testing.assert_close(detections, expected, rtol=0, atol=0)
    for n, sample in enumerate(zip(*batch, strict=True)):
        alone, _ = losses_and_detections(model, *([part] for part in sample))
        of_image = {name: values[n] for name, values in losses.items()}
        torch.testing.assert_close(of_image, alone, rtol=1e-4, atol=1e-6)


def test_an_image_loses_the_same_alone_and_in_a_batch():
    """Batch-norm in training mode would tell the two apart."""
    model = make_detector("ssdlite320_mobilenet_v3_large")
    images, targets = make_batch((2, 2))
    together = losses_and_detections(model, images, targets)[0]["bbox_regression"]
    alone = [losses_and_detections(model, images[i : i + 1], targets[i : i + 1])[0] for i in range(2)]
    rows = [
        (match_boxes(model.proposal_matcher, *boxes) >= 0).sum()
        for boxes in transformed_boxes_and_anchors(model, images, targets)
    ]
    sums = sum(losses["bbox_regression"] * count for losses, count in zip(alone, rows, strict=True))
    torch.testing.assert_close(together, sums / sum(rows), rtol=1e-4, atol=1e-5)


def transformed_boxes_and_anchors(model, images, targets):
    images, targets = model.eval().transform(images, targets)
    anchors = model.anchor_generator(images, list(model.backbone(images.tensors).values()))
    model.train()
    return [(target["boxes"], boxes) for target, boxes in zip(targets, anchors, strict=True)]


@every_family
def test_the_backbone_runs_once(family):
    model = make_assembled(family)
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    losses_and_detections(model, *make_batch(COUNTS))
    assert len(calls) == 1


@every_family
def test_the_same_batch_gives_the_same_losses_whatever_was_drawn_before(family):
    model = make_assembled(family)
    batch = make_batch(COUNTS)
    first, _ = losses_and_detections(model, *batch)
    torch.rand(5)
    second, _ = losses_and_detections(model, *batch)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@every_family
def test_gradients_follow_the_callers_mode(family):
    model = make_assembled(family)
    with torch.no_grad():
        losses, _ = losses_and_detections(model, *make_batch(COUNTS))
    assert not any(loss.requires_grad for loss in losses.values())
    losses, _ = losses_and_detections(model, *make_batch(COUNTS))
    sum(losses.values()).backward()


@every_family
def test_images_without_objects_have_finite_losses(family):
    losses, detections = losses_and_detections(make_assembled(family), *make_batch((0, 0)))
    assert all(loss.isfinite() for loss in losses.values())
    assert len(detections) == 2


def test_modes_and_hooks_are_restored_after_an_error():
    model = make_assembled("FCOS")
    images, targets = make_batch((2,))
    targets[0]["boxes"] = targets[0]["boxes"][:, [2, 1, 0, 3]]
    with pytest.raises(AssertionError, match="positive height and width"):
        losses_and_detections(model, images, targets)
    assert modes(model) == modes(make_assembled("FCOS"))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        (lambda images, targets: (images, targets[:1]), ValueError, "as many images as targets, got 2 and 1"),
        (lambda images, targets: (images[:1], targets), ValueError, "as many images as targets, got 1 and 2"),
        (lambda images, targets: ([], []), ValueError, "at least one image"),
        (lambda images, targets: (images, None), TypeError, "targets must be a list of dicts, .* got NoneType"),
        (lambda images, targets: (images, [None, *targets[1:]]), TypeError, "target 0 must be a dict .* got NoneType"),
        (lambda images, targets: (images, [targets[0], {"boxes": targets[1]["boxes"]}]), ValueError, "1 has no labels"),
        (lambda images, targets: (images, [{**targets[0], "boxes": []}, targets[1]]), TypeError, "boxes of target 0 "),
    ],
)
def test_a_batch_that_is_none_is_refused(change, error, wanted):
    with pytest.raises(error, match=wanted):
        losses_and_detections(make_assembled("FCOS"), *change(*make_batch((1, 1))))


def test_what_is_no_detector_is_refused_by_name():
    with pytest.raises(TypeError, match=r"got torch\.nn\.modules\.linear\.Linear"):
        losses_and_detections(nn.Linear(1, 1), *make_batch((1,)))
