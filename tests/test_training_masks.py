"""Trainings that learn from masks: what they measure, write and draw."""

import json

import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from detmix.data import Shapes
from detmix.evaluation import evaluate_coco
from detmix.training import DetectionData, cli_main
from detmix.training.predict import predict_images
from detmix.training.run_report import report_run
from detmix.training.trained import open_trained

from .test_configs import write_coco
from .test_training_report import Page
from .trainings import TINY, losses_in

CONFIG = "configs/shapes_masks.yaml"
ONE_EPOCH = ["--trainer.max_epochs=1", "--data.mixup.no_mixup_epochs=0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished fit of one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    cli_main(["fit", "--config", CONFIG, "--runs", str(folder), *TINY, *ONE_EPOCH])
    return folder / "shapes_masks"


def read(file):
    return json.loads(file.read_text())


def test_masks_are_measured_as_pycocotools_measures_the_results_that_are_written(finished):
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


def test_masks_of_a_coco_file_are_mixed_trained_on_and_measured(tmp_path, in_repository, no_report):
    write_coco(tmp_path)
    data = ["--data.format=coco", f"--data.root={tmp_path}", "--data.train=train2017", "--data.val=val2017"]
    options = ["--data.mixup.mix=cutmix", "--model.options={min_size: 64, max_size: 64}"]
    options.append("--trainer.enable_progress_bar=false")
    cli_main(["fit", "--config", CONFIG, "--runs", str(tmp_path / "runs"), *data, *options, *ONE_EPOCH])
    folder = tmp_path / "runs" / "shapes_masks"
    predictions = read(folder / "predictions.json")
    wanted = evaluate_coco(str(tmp_path / "annotations" / "instances_val2017.json"), predictions, "segm").metrics
    metrics = read(folder / "metrics.json")
    assert {name: metrics[f"segm/{name}"] for name in wanted} == pytest.approx(wanted)


def test_samples_carry_masks_where_they_are_wanted():
    with_masks, without = (DetectionData(masks=masks, augment=[]).train_set[0][1] for masks in (True, False))
    assert with_masks["masks"].shape == (len(with_masks["boxes"]), 128, 128)
    assert torch.equal(with_masks["boxes"], without["boxes"])
    assert "masks" not in without


def test_masks_of_voc_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.masks=true reads masks from COCO files, and data\.format is voc"):
        DetectionData("voc", root=str(tmp_path), masks=True)
