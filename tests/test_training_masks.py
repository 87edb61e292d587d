"""Trainings that learn from masks: what they measure, write and draw."""

import json

import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from detmix.data import Shapes
from detmix.detectors import losses_and_detections
from detmix.evaluation import evaluate_coco
from detmix.training import DetectionData
from detmix.training.predict import predict_images
from detmix.training.run_report import report_run
from detmix.training.trained import open_trained

from .test_configs import write_coco
from .test_training_report import Page
from .trainings import fit_on_coco, fit_once, losses_in
from .trainings import read_json as read

CONFIG = "configs/shapes_masks.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished fit of one epoch."""
    return fit_once(tmp_path_factory.mktemp("runs"), CONFIG)


def test_the_numbers_are_those_of_the_results_that_are_written(finished):
    truth = Shapes(4, size=64, max_extent=32, seed=1, masks=True).ground_truth()
    predictions, metrics = read(finished / "predictions.json"), read(finished / "metrics.json")
    assert len(predictions) > 10
    for prefix, kind in {"": "bbox", "segm/": "segm"}.items():
        wanted = evaluate_coco(truth, predictions, kind)
        assert {name: metrics[f"{prefix}{name}"] for name in wanted.metrics} == pytest.approx(wanted.metrics)
    assert losses_in(finished)["loss_mask"] > 0


def test_the_report_has_masks_and_can_be_written_anew(finished, in_repository):
    page = Page((finished / "report.html").read_text())
    assert {"segm/AP", "segm/APm", "mask AP"} <= {text.strip() for text in page.text("th")}
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    report_run(finished)
    assert (finished / "report.html").read_bytes() == before


def test_other_images_get_masks_too(finished, tmp_path):
    scene = Shapes(4, size=64, max_extent=32, seed=1)[2][0]
    Image.fromarray(scene.permute(1, 2, 0).numpy()).save(tmp_path / "scene.png")
    predict_images([str(tmp_path / "scene.png")], open_trained(str(finished / "model.pt")), tmp_path / "out")
    found = read(tmp_path / "out/predictions.json")
    wanted = [row for row in read(finished / "predictions.json") if row["image_id"] == 2]
    assert len(found) == len(wanted) > 0
    for row, other in zip(found, wanted, strict=True):
        assert row["score"] == pytest.approx(other["score"], rel=1e-4)
        assert rle.iou([row["segmentation"]], [other["segmentation"]], [0]).item() > 0.99 or not rle.area(
            row["segmentation"]
        )


@pytest.fixture
def coco(tmp_path, in_repository, no_report):
    """Calls ``fit`` on a COCO data set of four images in each split, each with a triangle; its folder is ``root``."""
    write_coco(tmp_path)

    return fit_on_coco(tmp_path, CONFIG)


def change(file, row, **content):
    """Put other things into one annotation of a file."""
    given = read(file)
    given["annotations"][row] |= content
    file.write_text(json.dumps(given))


@pytest.mark.parametrize("shift", [0, 2])
def test_masks_of_a_coco_file_are_mixed_trained_on_and_measured(coco, monkeypatch, shift):
    """What is detected is what is annotated, its masks moved aside."""

    def annotated(detector, images, targets, **options):
        losses, _ = losses_and_detections(detector, images, targets, **options)
        found = [{**t, "masks": t["masks"].roll(shift, 2)[:, None].float(), "scores": torch.ones(1)} for t in targets]
        return losses, found

    monkeypatch.setattr("detmix.training.visits.losses_and_detections", annotated)
    folder = coco("--data.mixup.mix=cutmix")
    metrics, predictions = read(folder / "metrics.json"), read(folder / "predictions.json")
    assert metrics["AP"] == pytest.approx(1)
    assert (metrics["segm/AP"] == pytest.approx(1)) == (shift == 0)
    assert 0 < metrics["segm/AP"] < 1 or shift == 0
    wanted = evaluate_coco(str(coco.val), predictions, "segm").metrics
    assert {name: metrics[f"segm/{name}"] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"segmentation": []}, "1 of 4 objects have no segmentation, annotations[2] for one, and masks are required"),
        ({"segmentation": None, "iscrowd": 1}, "1 of 4 objects have no segmentation, annotations[2] for one"),
        (
            {"segmentation": {"size": [9, 9], "counts": [81]}},
            "annotation 3: not a segmentation: its size is [9, 9], the image's [48, 64]",
        ),
    ],
    ids=["none", "crowd", "size"],
)
def test_masks_that_cannot_be_measured_are_refused_before_the_training(coco, capsys, content, message):
    change(coco.val, 2, **content)
    with pytest.raises(SystemExit):
        coco()
    told = capsys.readouterr().err
    assert message in told
    assert str(coco.val) in told
    assert not (coco.root / "runs").exists()


def test_a_detector_of_boxes_may_train_on_the_same_objects(coco):
    folder = coco("--model.detector=fasterrcnn_resnet18_small")
    assert {name for name in read(folder / "metrics.json") if name.startswith("segm")} == set()
    assert all("segmentation" not in row for row in read(folder / "predictions.json"))


def test_samples_carry_masks_where_they_are_wanted():
    with_masks, without = (DetectionData(masks=masks, augment=[]).train_set[0][1] for masks in (True, False))
    assert with_masks["masks"].shape == (len(with_masks["boxes"]), 128, 128)
    assert torch.equal(with_masks["boxes"], without["boxes"])
    assert "masks" not in without


def test_masks_of_voc_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.masks=true reads masks from COCO files, and data\.format is voc"):
        DetectionData("voc", root=str(tmp_path), masks=True)
