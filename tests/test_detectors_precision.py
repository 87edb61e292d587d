"""Under autocast what a detector gives is no less exact than without: anchors, proposals, boxes, scores and losses."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models.detection._utils import Matcher

from detmix import keep_boxes_exact, losses_and_detections, weight_losses

from .factories import FAMILIES, make_assembled, make_parts, make_target

every_family = pytest.mark.parametrize("family", FAMILIES)
HEIGHT, WIDTH = 40, 600  # bfloat16 has each fourth pixel beyond 512
TARGET = make_target(3, seed=0, size=(HEIGHT, WIDTH))
TARGET |= make_parts(TARGET["boxes"], seed=0, size=(HEIGHT, WIDTH))


def make_plain(family):
    """A detector that leaves wide images as they are, and of whose outputs none are zeros."""
    model = make_assembled(family)
    model.transform.min_size, model.transform.max_size = (HEIGHT,), WIDTH
    if family == "SSD":
        model.transform.fixed_size = (WIDTH, HEIGHT)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def make_exact(family):
    model = make_plain(family)
    keep_boxes_exact(model)
    return model


def make_images():
    return [torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))]


def called(module, call):
    """What a module gets and returns while something is called."""
    seen = []
    handle = module.register_forward_hook(lambda _, arguments, result: seen.append((arguments, result)))
    with torch.no_grad():
        call()
    handle.remove()
    return seen[0]


def in_bfloat16(call):
    with torch.autocast("cpu", torch.bfloat16):
        return call()


def is_exact(tensor):
    """Whether a tensor is in float32, and most of it are numbers that bfloat16 lacks."""
    return tensor.dtype == torch.float32 and (tensor.bfloat16().float() != tensor).float().mean() > 0.5


@every_family
def test_detections_are_not_rounded(family):
    model = make_exact(family).eval()
    with torch.no_grad():
        [detection] = in_bfloat16(lambda: model(make_images()))
        losses, [same] = in_bfloat16(lambda: losses_and_detections(model, make_images(), [TARGET]))
    assert len(detection["boxes"]) > 50
    assert is_exact(detection["boxes"])
    assert is_exact(detection["scores"])
    assert all(value.dtype in (torch.float32, torch.int64) for value in detection.values())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.testing.assert_close(same, detection, rtol=0, atol=0)


@every_family
def test_anchors_are_those_of_full_precision(family):
    model = make_exact(family).eval()
    name = "rpn.anchor_generator" if "RCNN" in family else "anchor_generator"
    generator = model.get_submodule(name)
    _, rounded = called(generator, lambda: in_bfloat16(lambda: model(make_images())))
    _, anchors = called(generator, lambda: model(make_images()))
    torch.testing.assert_close(rounded, anchors, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["FasterRCNN", "MaskRCNN", "KeypointRCNN"])
@pytest.mark.parametrize("training", [True, False])
def test_proposals_are_not_rounded(family, training):
    detector = make_exact(family).train(training)
    _, ([proposals], _) = called(detector.rpn, lambda: in_bfloat16(lambda: detector.rpn(*rpn_inputs(detector))))
    assert is_exact(proposals)


def rpn_inputs(detector):
    images, targets = detector.transform(make_images(), [dict(TARGET)])
    return images, {"0": detector.backbone(images.tensors)}, targets


@pytest.mark.parametrize("family", ["FCOS", "RetinaNet"])
def test_weighted_boxes_are_decoded_in_full_precision_whatever_the_head_gives(family):
    model = weight_losses(make_assembled(family))
    lefts = 1000.0 + 8 * torch.arange(9)
    anchors = torch.stack([lefts, torch.zeros(9), lefts + 16, torch.full((9,), 16.0)], dim=1)
    target = {"boxes": torch.tensor([[1001.3, 0.2, 1050.7, 20.4]]), "labels": torch.tensor([1])}
    target["weights"] = torch.tensor([0.7])
    generator = torch.Generator().manual_seed(0)
    sides = {"cls_logits": 4, "bbox_regression": 4, "bbox_ctrness": 1}
    outputs = {key: torch.rand(1, 9, side, generator=generator).bfloat16() for key, side in sides.items()}
    levels = ([9],) if family == "FCOS" else ()
    if family == "RetinaNet":
        model.head.regression_head._loss_type = "giou"
        model.proposal_matcher = Matcher(0.1, 0.05, allow_low_quality_matches=True)
    found, expected = (
        model.compute_loss([target], {key: value.to(dtype) for key, value in outputs.items()}, [anchors], *levels)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert expected["bbox_regression"] > 0
    torch.testing.assert_close(found["bbox_regression"], expected["bbox_regression"], rtol=1e-6, atol=0)


@every_family
def test_without_autocast_it_is_torchvisions_own(family):
    detector, plain = make_exact(family), make_plain(family)
    assert detector.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        results = [losses_and_detections(model, make_images(), [TARGET]) for model in (detector, plain)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@every_family
def test_once_the_hooks_are_removed_torchvisions_own_is_left(family):
    model = make_plain(family)
    for handle in keep_boxes_exact(model):
        handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@every_family
def test_a_second_call_hooks_nothing_twice_and_its_hooks_undo_all(family):
    model = make_plain(family)
    heads = [module for module in model.modules() if module is not model]
    own = heads[-1].register_forward_hook(lambda *_: None)
    first, second = keep_boxes_exact(model), keep_boxes_exact(model)
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert len(first) == len(second) == len(hooks) - 1
    for handle in second:
        handle.remove()
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()) == 1
    own.remove()
    for handle in first:
        handle.remove()  # there is nothing left to remove


def test_what_is_no_detector_is_refused_and_a_wrapper_told_which_part_to_pass():
    with pytest.raises(TypeError, match=r"pass the detector itself, model\.module"):
        keep_boxes_exact(AveragedModel(make_plain("FCOS")))
    with pytest.raises(TypeError, match="supports the detectors of torchvision, got torch.nn.modules.linear.Linear"):
        keep_boxes_exact(nn.Linear(1, 1))
