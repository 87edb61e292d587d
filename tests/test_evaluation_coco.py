"""evaluate_coco against pycocotools run as its own demo does."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detmix.evaluation import NO_OBJECTS, evaluate_coco
from detmix.evaluation.coco import METRICS

NAMES = {3: "cat", 7: "dog", 8: "bird"}


def make_scene(seed, num_images=6, crowd=0.15, noise=200):
    """Random objects of all sizes and detections near and far from them; birds are never there."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        sides = np.exp(rng.uniform(np.log(8), np.log(250), (count, 2)))
        return np.concatenate([rng.uniform(0, 200, (count, 2)), sides], 1).round(1)

    objects = boxes(60)
    annotations = [
        {
            "id": n,
            "image_id": int(rng.integers(num_images)),
            "category_id": int(rng.choice([3, 7])),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
            "iscrowd": int(rng.random() < crowd),
        }
        for n, box in enumerate(objects, 1)
    ]
    near = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": (np.array(a["bbox"]) + shift).tolist()}
        for a in annotations
        for shift in rng.uniform(-4, 4, (2, 4))
    ]
    far = [
        {"image_id": int(rng.integers(num_images)), "category_id": int(rng.choice(list(NAMES))), "bbox": box.tolist()}
        for box in boxes(noise)
    ]
    predictions = [{**row, "score": round(float(rng.random()), 2)} for row in near + far]
    truth = {
        "images": [{"id": i, "height": 450, "width": 450} for i in range(num_images)],
        "categories": [{"id": k, "name": name} for k, name in NAMES.items()],
        "annotations": annotations,
    }
    return truth, predictions


def add_masks(rows, size=450):
    """Each box as the mask of the pixels it holds, in the compressed form that JSON takes."""
    for row in rows:
        x, y, w, h = (int(v) for v in row["bbox"])
        mask = np.zeros((size, size), dtype=np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        encoded = rle.encode(mask)
        row["segmentation"] = {**encoded, "counts": encoded["counts"].decode()}


def plain_coco(tmp_path, truth, predictions, iou_type="bbox"):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(objects, objects.loadRes(copy.deepcopy(predictions)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(tmp_path, seed):
    truth, predictions = make_scene(seed)
    plain = plain_coco(tmp_path, truth, predictions)
    result = evaluate_coco(truth, predictions)
    assert list(result.metrics) == list(METRICS)
    assert list(result.metrics.values()) == plain.stats.tolist()
    assert all(0 < value < 1 for value in result.metrics.values())


def test_equals_pycocotools_on_more_than_a_hundred_detections_in_an_image(tmp_path):
    truth, predictions = make_scene(0, num_images=1, noise=900)
    assert (
        list(evaluate_coco(truth, predictions).metrics.values())
        == plain_coco(tmp_path, truth, predictions).stats.tolist()
    )


def test_equals_pycocotools_on_masks(tmp_path):
    truth, predictions = make_scene(0)
    add_masks(truth["annotations"] + predictions)
    without_boxes = [{k: v for k, v in row.items() if k != "bbox"} for row in predictions]
    plain = plain_coco(tmp_path, truth, without_boxes, "segm")
    for rows in (without_boxes, predictions):  # a bbox beside the mask changes nothing
        result = evaluate_coco(truth, rows, iou_type="segm")
        assert list(result.metrics.values()) == plain.stats.tolist()


def test_per_class_numbers_and_curves(tmp_path):
    truth, predictions = make_scene(1)
    precision = plain_coco(tmp_path, truth, predictions).eval["precision"][..., 0, 2]  # (IoU, recall, class)
    result = evaluate_coco(truth, predictions)
    assert result.ap_by_class == {
        "cat": pytest.approx(precision[..., 0].mean()),
        "dog": pytest.approx(precision[..., 1].mean()),
        "bird": NO_OBJECTS,
    }
    assert result.ap50_by_class["dog"] == pytest.approx(precision[0, :, 1].mean())
    assert result.metrics["AP"] == pytest.approx((result.ap_by_class["cat"] + result.ap_by_class["dog"]) / 2)
    assert set(result.curves) == {"cat", "dog"}
    np.testing.assert_allclose(result.curves["cat"].recall, np.linspace(0, 1, 101))
    np.testing.assert_array_equal(result.curves["cat"].precision, precision[0, :, 0])
    assert (np.diff(result.curves["cat"].scores) <= 0).all()


def test_perfect_detections_score_one():
    truth, _ = make_scene(2, crowd=0)
    perfect = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in truth["annotations"]]
    result = evaluate_coco(truth, perfect)
    assert result.metrics["AP"] == pytest.approx(1)
    assert result.metrics["AR100"] == pytest.approx(1)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_predictions(iou_type):
    truth, _ = make_scene(0)
    add_masks(truth["annotations"])
    result = evaluate_coco(truth, [], iou_type=iou_type)
    assert set(result.metrics.values()) == {0.0}
    assert result.ap_by_class == {"cat": 0.0, "dog": 0.0, "bird": NO_OBJECTS}


@pytest.mark.parametrize("with_predictions", [False, True])
def test_no_objects(with_predictions):
    truth, predictions = make_scene(0)
    result = evaluate_coco({**truth, "annotations": []}, predictions if with_predictions else [])
    assert set(result.metrics.values()) == {NO_OBJECTS}
    assert set(result.ap_by_class.values()) == {NO_OBJECTS}
    assert result.curves == {}


@pytest.mark.parametrize("empty", ["images", "categories"])
def test_no_images_or_no_categories(empty):
    truth, _ = make_scene(0)
    result = evaluate_coco({**truth, "annotations": [], empty: []}, [])
    assert set(result.metrics.values()) == {NO_OBJECTS}


def test_only_large_objects_leaves_the_other_sizes_unmeasured():
    truth, predictions = make_scene(0)
    truth["annotations"] = [{**a, "area": 200.0**2} for a in truth["annotations"]]
    result = evaluate_coco(truth, predictions)
    assert result.metrics["APs"] == result.metrics["ARm"] == NO_OBJECTS
    assert result.metrics["APl"] > 0


def test_an_annotation_of_id_zero_can_be_found():
    # pycocotools stores the id of a match and reads 0 as none
    truth = {"images": [{"id": 0}], "categories": [{"id": 0, "name": "cat"}]}
    truth["annotations"] = [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [0, 0, 50, 50]}]
    predictions = [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 50, 50], "score": 0.5}]
    assert evaluate_coco(truth, predictions).metrics["AP"] == pytest.approx(1)


def test_area_and_iscrowd_may_be_absent():
    truth, predictions = make_scene(0, crowd=0)
    full = {**truth, "annotations": [{**a, "area": a["bbox"][2] * a["bbox"][3]} for a in truth["annotations"]]}
    bare = [{k: v for k, v in a.items() if k not in ("id", "area", "iscrowd")} for a in truth["annotations"]]
    assert (
        evaluate_coco({**truth, "annotations": bare}, predictions).metrics == evaluate_coco(full, predictions).metrics
    )


def test_files_give_the_same_and_nothing_is_printed_or_changed(tmp_path, capsys):
    truth, predictions = make_scene(0)
    before = copy.deepcopy((truth, predictions))
    from_memory = evaluate_coco(truth, predictions)
    assert (truth, predictions) == before
    for name, content in (("truth", truth), ("found", predictions)):
        (tmp_path / name).write_text(json.dumps(content))
    assert evaluate_coco(tmp_path / "truth", str(tmp_path / "found")).metrics == from_memory.metrics
    assert capsys.readouterr() == ("", "")


def test_refuses_another_iou_type():
    with pytest.raises(ValueError, match="'bbox' or 'segm', got 'keypoints'"):
        evaluate_coco(*make_scene(0), iou_type="keypoints")
