"""What a validation measures: the images that it visited."""

import importlib
import sys

import numpy as np
import pytest

from detmix.evaluation import backends, evaluate_coco, evaluate_voc
from detmix.evaluation.reading import read_ground_truth
from detmix.evaluation.records import of_images
from detmix.training import evaluation
from detmix.training.evaluation import evaluate

from .test_evaluation_coco import add_masks, make_scene


def test_images_that_were_not_visited_count_for_nothing():
    truth, predictions = make_scene(0)
    visited = {0, 2, 5}
    rows = [row for row in predictions if row["image_id"] in visited]
    part = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in visited],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in visited],
    }
    result = evaluate(read_ground_truth(truth), rows, visited, {"loss": 0.5})
    assert result.coco.metrics == evaluate_coco(part, rows).metrics
    assert result.voc.ap == evaluate_voc(part, rows).ap
    assert result.voc_11_point.ap == evaluate_voc(part, rows, use_07_metric=True).ap
    assert result.losses == {"loss": 0.5}
    assert (result.ground_truth.image_ids.tolist(), result.measured, result.images) == ([0, 2, 5], 3, 6)


@pytest.mark.parametrize("masks", [False, True])
def test_a_part_of_a_ground_truth_is_what_would_be_read_of_it(masks):
    truth, _ = make_scene(3)
    add_masks(truth["annotations"])
    for wanted in ({1, 4}, set(range(6)), set()):
        part = {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in wanted],
            "annotations": [row for row in truth["annotations"] if row["image_id"] in wanted],
        }
        found, read = of_images(read_ground_truth(truth, masks=masks), wanted), read_ground_truth(part, masks=masks)
        assert (found.file_names, found.class_names, found.source) == (read.file_names, read.class_names, read.source)
        for name in ("image_ids", "sizes", "category_ids"):
            np.testing.assert_array_equal(getattr(found, name), getattr(read, name))
        for name, value in vars(read.objects).items():
            np.testing.assert_array_equal(getattr(found.objects, name), value)


def test_masks_are_measured_beside_boxes():
    truth, predictions = make_scene(1)
    assert evaluate(read_ground_truth(truth), predictions, set(range(6)), {}).parts == {}
    add_masks(truth["annotations"] + predictions)
    result = evaluate(read_ground_truth(truth, masks=True), predictions, set(range(6)), {}, masks=True)
    boxes, masks = (evaluate_coco(truth, predictions, kind) for kind in ("bbox", "segm"))
    assert masks.metrics != boxes.metrics
    metrics = result.metrics()
    for prefix, wanted in {"": boxes, "segm/": masks}.items():
        assert {name: metrics[f"{prefix}{name}"] for name in wanted.metrics} == wanted.metrics
        assert {name: metrics[f"{prefix}AP/{name}"] for name in wanted.ap_by_class} == wanted.ap_by_class
        assert {name: metrics[f"{prefix}AP50/{name}"] for name in wanted.ap50_by_class} == wanted.ap50_by_class
    assert {name: row["mask AP"] for name, row in result.by_class().items()} == masks.ap_by_class


def test_bad_detections_end_no_training_however_much_they_look_like_corners():
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 100, "width": 100} for n in range(10)]
    objects = [{"id": n + 1, "image_id": n, "category_id": 1, "bbox": [25, 25, 50, 50]} for n in range(10)]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    rows = [{"image_id": n, "category_id": 1, "bbox": [20.0, 20.0, 80.0, 80.0], "score": 0.5} for n in range(10)]
    with pytest.raises(ValueError, match="these look like"):
        evaluate_coco(truth, rows)
    assert evaluate(read_ground_truth(truth), rows, set(range(10)), {}).coco.metrics["AP50"] == 0


@pytest.mark.parametrize("masks", [False, True])
def test_all_numbers_are_those_of_pycocotools_which_does_not_run(monkeypatch, masks):
    truth, predictions = make_scene(2)
    if masks:
        add_masks(truth["annotations"] + predictions)
    kinds = {"coco": "bbox"} | ({"segm": "segm"} if masks else {})
    wanted = {name: evaluate_coco(truth, predictions, kind, backend="pycocotools") for name, kind in kinds.items()}
    monkeypatch.setattr(backends, "COCOeval", None)
    result = evaluate(read_ground_truth(truth, masks=masks), predictions, set(range(6)), {}, masks=masks)
    for name, numbers in wanted.items():
        found = (result.parts | {"coco": result.coco})[name]
        for part in ("metrics", "ap_by_class", "ap50_by_class", "ap_by_size", "objects_by_class"):
            assert getattr(found, part) == getattr(numbers, part)
        assert found.curves.keys() == numbers.curves.keys()
        for key, curve in numbers.curves.items():
            for values in ("recall", "precision", "scores"):
                np.testing.assert_array_equal(getattr(found.curves[key], values), getattr(curve, values))


def test_a_trainer_without_what_it_measures_with_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match="pip install"):
        importlib.reload(evaluation)
