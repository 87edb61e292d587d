"""Under autocast what a detector gives is no less exact than without: anchors, proposals, boxes, scores and losses."""

import json

import pytest
import torch

from detmix.detectors import losses_and_detections
from detmix.training import DetectionModule, cli_main
from detmix.training.precision import keep_boxes_exact

from .factories import FAMILIES, make_assembled, make_parts, make_target
from .test_training import TINY

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


def make_module(family, monkeypatch):
    """The trainer's module around the same detector."""
    monkeypatch.setattr("detmix.training.module.build_detector", lambda *_, **__: make_plain(family))
    module = DetectionModule(objective="unweighted")
    module.build("fit", ("cat", "dog", "owl"))
    keep_boxes_exact(module.detector)  # as the trainer has it done
    return module


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
def test_detections_are_not_rounded(family, monkeypatch):
    module = make_module(family, monkeypatch).eval()
    with torch.no_grad():
        [detection] = in_bfloat16(lambda: module(make_images()))
        losses, [same] = in_bfloat16(lambda: losses_and_detections(module.detector, make_images(), [TARGET]))
    assert len(detection["boxes"]) > 50
    assert is_exact(detection["boxes"])
    assert is_exact(detection["scores"])
    assert all(value.dtype in (torch.float32, torch.int64) for value in detection.values())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.testing.assert_close(same, detection, rtol=0, atol=0)


@every_family
def test_anchors_are_those_of_full_precision(family, monkeypatch):
    module = make_module(family, monkeypatch).eval()
    name = "rpn.anchor_generator" if "RCNN" in family else "anchor_generator"
    generator = module.detector.get_submodule(name)
    _, rounded = called(generator, lambda: in_bfloat16(lambda: module(make_images())))
    _, anchors = called(generator, lambda: module(make_images()))
    torch.testing.assert_close(rounded, anchors, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["FasterRCNN", "MaskRCNN", "KeypointRCNN"])
@pytest.mark.parametrize("training", [True, False])
def test_proposals_are_not_rounded(family, training, monkeypatch):
    detector = make_module(family, monkeypatch).detector.train(training)
    _, ([proposals], _) = called(detector.rpn, lambda: in_bfloat16(lambda: detector.rpn(*rpn_inputs(detector))))
    assert is_exact(proposals)


def rpn_inputs(detector):
    images, targets = detector.transform(make_images(), [dict(TARGET)])
    return images, {"0": detector.backbone(images.tensors)}, targets


@every_family
def test_without_autocast_it_is_torchvisions_own(family, monkeypatch):
    detector, plain = make_module(family, monkeypatch).detector, make_plain(family)
    assert detector.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        results = [losses_and_detections(model, make_images(), [TARGET]) for model in (detector, plain)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_a_fit_in_bfloat16_measures_boxes_that_are_not_rounded(tmp_path, in_repository, no_report):
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    arguments = [*TINY, *limits, "--data.mixup=null", "--trainer.precision=bf16-mixed"]
    run = cli_main(["fit", "--config", "configs/quickstart.yaml", "--runs", str(tmp_path), *arguments])
    hooked = [name for name, m in run.model.detector.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == []  # or it could not be scripted
    rows = json.loads((tmp_path / "quickstart_nomix" / "predictions.json").read_text())
    assert len(rows) > 10
    assert is_exact(torch.tensor([row["score"] for row in rows]))
    assert is_exact(torch.tensor([row["bbox"] for row in rows]))
