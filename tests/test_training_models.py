import inspect
import re
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from torchvision.models import get_model, mobilenet_v3_large
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.vgg import cfgs, make_layers

from detmix import weight_losses
from detmix.training import DetectionModule, build_detector
from detmix.training.models import detector_names, learns_keypoints, learns_masks, weights_shape_the_model

from .factories import make_target

NAMES = [
    "fasterrcnn_resnet18_small",
    "maskrcnn_resnet18_small",
    "keypointrcnn_resnet18_small",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
]
SSDLITE = "ssdlite320_mobilenet_v3_large"
# what of a detector trained on COCO is not kept, as the keys of its state_dict
CLASS_LAYERS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": r"roi_heads\.box_predictor\..*",
    "maskrcnn_resnet50_fpn": r"roi_heads\.(box_predictor\..*|mask_predictor\.mask_fcn_logits\..*)",
    "retinanet_resnet50_fpn_v2": r"head\.classification_head\.cls_logits\..*",
    "fcos_resnet50_fpn": r"head\.classification_head\.cls_logits\..*",
    "ssd300_vgg16": r"head\.classification_head\.module_list\.[0-5]\.\w+",
    SSDLITE: r"head\.classification_head\.module_list\.[0-5]\.1\.\w+",
}


@pytest.fixture
def light_vgg(monkeypatch):
    """SSD takes the features of VGG alone: spare the tests the 120 million weights of its classifier."""

    def features(**_):
        return SimpleNamespace(features=make_layers(cfgs["D"], batch_norm=False))

    monkeypatch.setattr("torchvision.models.detection.ssd.vgg16", features)


@pytest.fixture
def downloads(monkeypatch):
    """A list; the state dicts that are put into it are what torchvision downloads next."""
    states = []
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: states.pop(0))
    return states


def random_state(model, seed=0):
    """A state for a model in which no two values are the same."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    return {k: torch.rand(v.shape, generator=generator) if v.is_floating_point() else v for k, v in state.items()}


def count_classes(model):
    """K, from the shape of what scores the classes."""
    if isinstance(model, FasterRCNN):
        return model.roi_heads.box_predictor.cls_score.out_features
    head = model.head.classification_head
    last = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    anchors = model.anchor_generator.num_anchors_per_location()[-1]
    return last.out_channels / anchors


def test_the_detectors_are_those_of_torchvision_and_small_ones():
    assert detector_names() == NAMES


def test_the_trainers_help_names_every_detector():
    text = inspect.getdoc(DetectionModule.__init__)
    assert set(re.findall(r"``(\w+_\w+)``", text)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_has_a_head_for_every_class_and_can_be_weighted(name):
    with torch.device("meta"):  # shapes alone
        model = weight_losses(build_detector(name, 6, None), "pair")
    assert count_classes(model) == 6
    if learns_masks(name):
        assert model.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 6
    if learns_keypoints(name):
        assert model.roi_heads.keypoint_predictor.kps_score_lowres.out_channels == 17


@pytest.mark.parametrize("name", [*NAMES[:3], "fasterrcnn_mobilenet_v3_large_320_fpn", SSDLITE])
def test_a_detector_detects(name):
    options = {"detections_per_img": 7} if name == SSDLITE else {"min_size": 64, "box_detections_per_img": 7}
    model = build_detector(name, 6, None, **options).eval()
    with torch.no_grad():
        [detection] = model([torch.rand(3, 64, 80)])
    parts = {"masks"} if learns_masks(name) else set()
    parts |= {"keypoints", "keypoints_scores"} if learns_keypoints(name) else set()
    assert detection.keys() == {"boxes", "labels", "scores"} | parts
    assert len(detection["boxes"]) <= 7
    assert set(detection["labels"].tolist()) <= {1, 2, 3, 4, 5}


def test_an_unknown_detector_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no detector 'yolo'; known are .*fasterrcnn_resnet50_fpn.*retinanet"):
        build_detector("yolo", 2, None)


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_small_detector_has_no_weights_to_start_from(name):
    with pytest.raises(ValueError, match=f"{name} has no pre-trained weights: pass weights=null, got 'coco'"):
        build_detector(name, 2, "coco")


@pytest.mark.parametrize("weights", ["backbone", "coco"])
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_a_failed_download_says_so_and_how_to_go_on(monkeypatch, name, weights):
    def offline(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("detmix.training.models.get_model", offline)
    with pytest.raises(RuntimeError, match=r"could not be downloaded .*no route to host.*--model\.weights null"):
        build_detector(name, 2, weights)


@pytest.mark.parametrize("name", NAMES[3:])
def test_a_backbone_starts_from_the_weights_that_its_builder_takes(monkeypatch, name):
    asked = {}
    monkeypatch.setattr("detmix.training.models.get_model", lambda name, **options: asked.update(options))
    build_detector(name, 5, "backbone", trainable_backbone_layers=2)
    backbone = asked.pop("weights_backbone")
    assert asked == {"weights": None, "num_classes": 5, "trainable_backbone_layers": 2}
    # the VGG of SSD takes pixels of 0 to 255, and its weights in torchvision have a name of their own
    wanted = "IMAGENET1K_FEATURES" if name == "ssd300_vgg16" else "IMAGENET1K_V1"
    assert getattr(backbone, "name", backbone) == wanted


@pytest.mark.parametrize(("name", "classes"), [*((name, 3) for name in CLASS_LAYERS), (SSDLITE, 91)])
def test_coco_weights_are_kept_but_for_the_layers_that_are_by_class(light_vgg, downloads, name, classes):
    trained = random_state(get_model(name, weights=None, weights_backbone=None))
    downloads.append(dict(trained))
    model = build_detector(name, classes, "coco")
    state = model.state_dict()
    changed = {key for key in state if not torch.equal(state[key], trained[key])}
    assert changed == {key for key in state if re.fullmatch(CLASS_LAYERS[name], key)}
    assert count_classes(model) == classes
    assert downloads == []


def test_a_detector_from_coco_learns_the_classes_of_the_data(downloads):
    downloads.append(get_model(SSDLITE, weights=None, weights_backbone=None).state_dict())
    model = build_detector(SSDLITE, 3, "coco")
    losses = model([torch.rand(3, 48, 64)] * 2, [make_target(2, seed=0, num_classes=3)] * 2)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.head.classification_head.parameters())


def test_a_checkpoint_fits_what_is_built_without_weights_unless_those_shape_the_model(downloads):
    for name in ("fasterrcnn_mobilenet_v3_large_320_fpn", SSDLITE):
        downloads.append(mobilenet_v3_large().state_dict())
        started, plain = (build_detector(name, 3, weights).state_dict() for weights in ("backbone", None))
        fits = all(started[key].shape == plain[key].shape for key in started)
        assert fits is not weights_shape_the_model(name, "backbone"), name
    assert weights_shape_the_model("retinanet_resnet50_fpn", "coco")
    assert not weights_shape_the_model(SSDLITE, None)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet18_small", "retinanet_resnet50_fpn"])
def test_a_misspelt_option_is_named(name):
    with pytest.raises(ValueError, match=rf"model\.options has no min_sizee for {name}; there are .*min_size"):
        build_detector(name, 2, None, min_sizee=3, max_size=64)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("retinanet_resnet50_fpn", "box_score_thresh"),
        ("fcos_resnet50_fpn", "rpn_score_thresh"),
        ("ssd300_vgg16", "center_sampling_radius"),
        ("fasterrcnn_resnet50_fpn", "topk_candidates"),
        ("fasterrcnn_resnet50_fpn", "num_keypoints"),
        ("fasterrcnn_resnet18_small", "trainable_backbone_layers"),
    ],
)
def test_an_option_of_another_detector_is_refused(name, option):
    with pytest.raises(ValueError, match=rf"model\.options has no {option} for {name}"):
        build_detector(name, 2, None, **{option: 3})


@pytest.mark.parametrize("option", ["min_size", "max_size", "size", "fixed_size"])
@pytest.mark.parametrize("name", ["ssd300_vgg16", SSDLITE])
def test_a_detector_of_fixed_image_size_says_so(name, option):
    with pytest.raises(ValueError, match=f"has no {option}: {name} resizes every image to the size in its name"):
        build_detector(name, 2, None, **{option: 64})
