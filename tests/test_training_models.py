from urllib.error import URLError

import pytest
import torch
from torchvision.models.detection.faster_rcnn import FasterRCNN

from detmix.training import build_detector


@pytest.mark.parametrize("name", ["fasterrcnn_resnet18_small", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_a_detector_has_a_head_for_every_class(name):
    model = build_detector(name, 6, None, min_size=64, max_size=96).eval()
    assert type(model) is FasterRCNN
    assert model.roi_heads.box_predictor.cls_score.out_features == 6
    with torch.no_grad():
        [detection] = model([torch.rand(3, 64, 80)])
    assert detection.keys() == {"boxes", "labels", "scores"}


def test_an_unknown_detector_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no detector 'yolo'; known are .*fasterrcnn_resnet50_fpn"):
        build_detector("yolo", 2, None)


def test_the_small_detector_has_no_weights_to_start_from():
    with pytest.raises(ValueError, match="no pre-trained weights: pass weights=null, got 'coco'"):
        build_detector("fasterrcnn_resnet18_small", 2, "coco")


@pytest.mark.parametrize("weights", ["backbone", "coco"])
def test_a_failed_download_says_so_and_how_to_go_on(monkeypatch, weights):
    def offline(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("detmix.training.models.get_model", offline)
    with pytest.raises(RuntimeError, match=r"could not be downloaded .*no route to host.*--model\.weights null"):
        build_detector("fasterrcnn_resnet50_fpn", 2, weights)


def test_coco_weights_get_a_fresh_predictor(monkeypatch):
    asked = {}

    def plain(name, *, weights, **options):
        asked.update(weights=weights)
        return build(name, weights=None, weights_backbone=None, **options)

    from torchvision.models import get_model as build

    monkeypatch.setattr("detmix.training.models.get_model", plain)
    model = build_detector("fasterrcnn_mobilenet_v3_large_320_fpn", 3, "coco")
    assert asked == {"weights": "COCO_V1"}
    assert model.roi_heads.box_predictor.cls_score.out_features == 3
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 12


def test_a_misspelt_option_is_named():
    with pytest.raises(ValueError, match=r"model\.options has no min_sizee; there are .*min_size"):
        build_detector("fasterrcnn_resnet50_fpn", 2, None, min_sizee=3)
