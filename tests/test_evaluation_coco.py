"""evaluate_coco against pycocotools run as its own demo does."""

import contextlib
import copy
import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detmix.evaluation import NO_OBJECTS, evaluate_coco, find_mistakes
from detmix.evaluation.coco import METRICS
from detmix.evaluation.reading import read_ground_truth

BACKENDS = ("pycocotools", "faster-coco-eval")
NAMES = {3: "cat", 7: "dog", 8: "bird"}


def crowded_truth(*numbers, crowds=0):
    """A class for each number, with as many objects in one image, and crowd regions of the first."""
    labels = [1 + label for label, number in enumerate(numbers) for _ in range(number)] + [1] * crowds
    boxes = [[10 * n, 0, 8, 8] for n in range(len(labels))]
    rows = [
        {"id": 1 + n, "image_id": 1, "category_id": label, "bbox": box, "area": 64, "iscrowd": int(n >= sum(numbers))}
        for n, (label, box) in enumerate(zip(labels, boxes, strict=True))
    ]
    categories = [{"id": 1 + label, "name": f"class {label}"} for label in range(len(numbers))]
    truth = {"images": [{"id": 1, "width": 10 * len(rows), "height": 8}], "annotations": rows, "categories": categories}
    names = ("image_id", "category_id", "bbox")
    return truth, [{name: row[name] for name in names} | {"score": 0.5} for row in rows if not row["iscrowd"]]


def test_more_objects_than_detections_count_are_warned_about_with_what_can_be_found():
    truth, found = crowded_truth(300, 20)
    told = (
        r"an image has 300 objects of a class, and the best 100 detections count, so that at most 37% .*\(1, 10, 300\)"
    )
    with pytest.warns(UserWarning, match=told):
        capped = evaluate_coco(truth, found)
    assert capped.metrics["AR100"] == pytest.approx((100 / 300 + 1) / 2)
    assert evaluate_coco(truth, found, max_detections=(1, 10, 300)).metrics["AP50"] == pytest.approx(1)
    with pytest.warns(
        UserWarning, match="an image has 320 objects, and the best 100 detections count, so that at most 31%"
    ):
        evaluate_coco(truth, found, class_agnostic=True)


def test_as_many_objects_as_detections_count_are_not_warned_about():
    evaluate_coco(*crowded_truth(100, 100, crowds=9))


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(tmp_path, seed, backend):
    truth, predictions = make_scene(seed)
    plain = plain_coco(tmp_path, truth, predictions)
    result = evaluate_coco(truth, predictions, backend=backend)
    assert list(result.metrics) == list(METRICS)
    assert list(result.metrics.values()) == plain.stats.tolist()
    assert all(0 < value < 1 for value in result.metrics.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_pycocotools_on_more_than_a_hundred_detections_in_an_image(tmp_path, backend):
    truth, predictions = make_scene(0, num_images=1, noise=900)
    wanted = plain_coco(tmp_path, truth, predictions).stats.tolist()
    assert list(evaluate_coco(truth, predictions, backend=backend).metrics.values()) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_pycocotools_on_masks(tmp_path, backend):
    truth, predictions = make_scene(0)
    add_masks(truth["annotations"] + predictions)
    for row in predictions:
        row["bbox"] = [*row["bbox"][:2], *(3 * side for side in row["bbox"][2:])]  # a bbox beside a mask gives the area
    without_boxes = [{k: v for k, v in row.items() if k != "bbox"} for row in predictions]
    assert evaluate_coco(truth, predictions, "segm").metrics != evaluate_coco(truth, without_boxes, "segm").metrics
    for rows in (without_boxes, predictions):
        plain = plain_coco(tmp_path, truth, rows, "segm")
        result = evaluate_coco(truth, rows, iou_type="segm", backend=backend)
        assert list(result.metrics.values()) == plain.stats.tolist()


def adversarial(draw, side=14, masks=False):
    """Few places and scores, so that ties are common; crowds; ids with gaps; an empty class; areas of their own."""
    image_ids = sorted(draw(st.sets(st.integers(0, 10**12), min_size=1, max_size=4)))

    def rows(most):
        boxes = st.tuples(*[st.integers(0, 5).map(float)] * 2, *[st.integers(0, 6).map(float)] * 2)
        places = st.tuples(st.sampled_from(image_ids), st.sampled_from([2, 5, 900]), boxes)
        return [{"image_id": i, "category_id": k, "bbox": list(b)} for i, k, b in draw(st.lists(places, max_size=most))]

    objects, found = rows(10), rows(24)
    for number, row in enumerate(objects, 1):
        areas = st.sampled_from([row["bbox"][2] * row["bbox"][3], 0.0, 32.0**2, 96.0**2, 1e10, 2e10])
        row |= {"id": number, "area": draw(areas), "iscrowd": draw(st.sampled_from([0, 0, 0, 1]))}
    for row in found:
        row["score"] = draw(st.sampled_from([0.1, 0.5, 0.5, 1.0]))
    if masks:
        add_masks(objects + found, size=side)
        sides = st.sampled_from([1.0, 6.0, 32.0, 96.0, 200.0])
        for row in found:
            row["bbox"] = [*row["bbox"][:2], draw(sides), draw(sides)]
    if masks and draw(st.booleans()):
        found = [{k: v for k, v in row.items() if k != "bbox"} for row in found]
    categories = [{"id": k, "name": str(k)} for k in (2, 5, 900, 7)]
    images = [{"id": i, "height": side, "width": side} for i in image_ids]
    return {"images": images, "categories": categories, "annotations": objects}, found


def copy_without_annotations(objects):
    nothing = COCO()
    nothing.dataset = {**objects.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_both_backends_equal_pycocotools_on_adversarial_sets(data, masks, class_agnostic):
    truth, found = adversarial(data.draw, masks=masks)
    iou_type = "segm" if masks else "bbox"
    objects = COCO()
    objects.dataset = copy.deepcopy(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        objects.createIndex()
        results = objects.loadRes(copy.deepcopy(found)) if found else copy_without_annotations(objects)
        plain = COCOeval(objects, results, iou_type)
        plain.params.useCats = int(not class_agnostic)
        plain.evaluate()
        plain.accumulate()
        plain.summarize()
    for backend in BACKENDS:
        result = evaluate_coco(truth, found, iou_type, backend=backend, class_agnostic=class_agnostic)
        assert list(result.metrics.values()) == plain.stats.tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 150, 201, 1000])
@pytest.mark.parametrize("right", ["first", "first two", "second", "all"])
def test_a_precision_of_one_is_pycocotools_own(count, right):
    # it adds 2.2e-16 to the number of detections, which changes 1 and no larger number
    truth = {"images": [{"id": i} for i in range(count + 1)], "categories": [{"id": 1, "name": "cat"}]}
    box = {"category_id": 1, "bbox": [0, 0, 50, 50]}
    truth["annotations"] = [{**box, "image_id": i} for i in range(count)]
    hits = {"first": {0}, "first two": {0, 1}, "second": {1}, "all": set(range(count))}[right]
    order = [i if i in hits else count for i in range(max(count, 3))]  # the last image has no object
    rows = [{**box, "image_id": i, "score": 1 - n / 2000} for n, i in enumerate(order)]
    results = [evaluate_coco(truth, rows, backend=backend) for backend in BACKENDS]
    assert results[0].metrics == results[1].metrics
    np.testing.assert_array_equal(*(result.curves["cat"].precision for result in results))


@pytest.mark.parametrize("backend", BACKENDS)
def test_class_agnostic_takes_all_classes_for_one(backend):
    truth, predictions = make_scene(1)
    one = {**truth, "categories": [{"id": 3, "name": "any"}]}
    one["annotations"] = [{**a, "category_id": 3} for a in truth["annotations"]]
    scores = np.random.default_rng(0).permutation(len(predictions)) / len(predictions)  # ties would follow the classes
    predictions = [{**p, "score": float(s)} for p, s in zip(predictions, scores, strict=True)]
    wanted = evaluate_coco(one, [{**p, "category_id": 3} for p in predictions])
    result = evaluate_coco(truth, predictions, backend=backend, class_agnostic=True)
    assert result.metrics == wanted.metrics
    assert result.ap_by_class == {"all classes": wanted.ap_by_class["any"]}
    assert result.objects_by_class == {"all classes": wanted.objects_by_class["any"]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_proposals_are_measured_by_their_recall(backend):
    truth, _ = make_scene(0, num_images=1, crowd=0)
    rng = np.random.default_rng(0)
    boxes = [a["bbox"] for a in truth["annotations"]]
    noise = [[float(v) for v in (*rng.uniform(300, 400, 2), 20, 20)] for _ in range(500)]
    order = boxes[:30] + noise + boxes[30:]  # half of the objects are among the best 100
    rows = [{"image_id": 0, "bbox": box, "score": 1 - n / 1000} for n, box in enumerate(order)]
    result = evaluate_coco(truth, rows, backend=backend, class_agnostic=True, max_detections=(1000, 100))
    assert [name for name in result.metrics if name.startswith("AR")] == ["AR100", "AR1000", "ARs", "ARm", "ARl"]
    assert result.metrics["AR100"] == pytest.approx(30 / 60, abs=0.02)
    assert result.metrics["AR1000"] == pytest.approx(1)


def test_the_fast_backend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[fast-eval\]"$'):
        evaluate_coco(*make_scene(0), backend="faster-coco-eval")


def test_per_class_numbers_and_curves(tmp_path):
    truth, predictions = make_scene(1)
    found = plain_coco(tmp_path, truth, predictions).eval
    precision, scores = (found[key][..., 0, 2] for key in ("precision", "scores"))  # (IoU, recall, class)
    result = evaluate_coco(truth, predictions)
    assert result.ap_by_class == {
        "cat": pytest.approx(precision[..., 0].mean()),
        "dog": pytest.approx(precision[..., 1].mean()),
        "bird": NO_OBJECTS,
    }
    assert result.ap50_by_class["dog"] == pytest.approx(precision[0, :, 1].mean())
    assert result.metrics["AP"] == pytest.approx((result.ap_by_class["cat"] + result.ap_by_class["dog"]) / 2)
    assert list(result.curves) == ["cat", "dog"]
    assert result.objects_by_class["bird"] == 0
    assert sum(result.objects_by_class.values()) == sum(not a["iscrowd"] for a in truth["annotations"])
    for number, curve in enumerate(result.curves.values()):
        np.testing.assert_allclose(curve.recall, np.linspace(0, 1, 101))
        np.testing.assert_array_equal(curve.precision, precision[0, :, number])
        np.testing.assert_array_equal(curve.scores, scores[0, :, number])


def test_ap_by_size_and_class(tmp_path):
    truth, predictions = make_scene(1)
    precision = plain_coco(tmp_path, truth, predictions).eval["precision"]
    result = evaluate_coco(truth, predictions)
    for place, size in enumerate(("APs", "APm", "APl"), 1):
        by_class = result.ap_by_size[size]
        assert by_class["dog"] == pytest.approx(precision[:, :, 1, place, 2].mean())
        assert by_class["bird"] == NO_OBJECTS
        measured = [ap for ap in by_class.values() if ap != NO_OBJECTS]
        assert result.metrics[size] == pytest.approx(np.mean(measured))


def test_perfect_detections_score_one():
    truth, _ = make_scene(2, crowd=0)
    perfect = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in truth["annotations"]]
    result = evaluate_coco(truth, perfect)
    assert result.metrics["AP"] == pytest.approx(1)
    assert result.metrics["AR100"] == pytest.approx(1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_predictions(iou_type, backend):
    truth, _ = make_scene(0)
    add_masks(truth["annotations"])
    result = evaluate_coco(truth, [], iou_type=iou_type, backend=backend)
    assert set(result.metrics.values()) == {0.0}
    assert result.ap_by_class == {"cat": 0.0, "dog": 0.0, "bird": NO_OBJECTS}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_predictions", [False, True])
def test_no_objects(with_predictions, backend):
    truth, predictions = make_scene(0)
    result = evaluate_coco({**truth, "annotations": []}, predictions if with_predictions else [], backend=backend)
    assert set(result.metrics.values()) == {NO_OBJECTS}
    assert set(result.ap_by_class.values()) == {NO_OBJECTS}
    assert result.curves == {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("empty", ["images", "categories"])
def test_no_images_or_no_categories(empty, backend):
    truth, _ = make_scene(0)
    result = evaluate_coco({**truth, "annotations": [], empty: []}, [], backend=backend)
    assert set(result.metrics.values()) == {NO_OBJECTS}


def test_only_large_objects_leaves_the_other_sizes_unmeasured():
    truth, predictions = make_scene(0)
    truth["annotations"] = [{**a, "area": 200.0**2} for a in truth["annotations"]]
    result = evaluate_coco(truth, predictions)
    assert result.metrics["APs"] == result.metrics["ARm"] == NO_OBJECTS
    assert result.metrics["APl"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_annotation_of_id_zero_can_be_found(backend):
    # pycocotools stores the id of a match and reads 0 as none
    truth = {"images": [{"id": 0}], "categories": [{"id": 0, "name": "cat"}]}
    truth["annotations"] = [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [0, 0, 50, 50]}]
    predictions = [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 50, 50], "score": 0.5}]
    assert evaluate_coco(truth, predictions, backend=backend).metrics["AP"] == pytest.approx(1)


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


def test_masks_have_boxes_all_or_none_if_the_first_has_one():
    truth, predictions = make_scene(0)
    add_masks(truth["annotations"] + predictions)
    del predictions[2]["bbox"]
    with pytest.raises(ValueError, match=r"predictions: missing required field `bbox`, which the first .*`\$\[2\]`"):
        evaluate_coco(truth, predictions, "segm")


@pytest.mark.parametrize("numbers", [[], [0], [1.5], [10, -1], [float("nan")], 10, ["1"], np.array([[1]])])
def test_refuses_what_is_no_number_of_detections(numbers):
    with pytest.raises(ValueError, match=r"max_detections must be whole numbers of 1 or more, got "):
        evaluate_coco(*make_scene(0), max_detections=numbers)


def test_numbers_of_detections_may_be_an_array():
    scene = make_scene(0)
    found = [evaluate_coco(*scene, max_detections=given).metrics for given in ((1, 10), np.array([1, 10]), {1, 10})]
    assert found[0] == found[1] == found[2]


def test_refuses_to_measure_masks_of_what_was_read_without():
    truth, predictions = make_scene(0)
    boxes = read_ground_truth(truth)
    for measure in (lambda: evaluate_coco(boxes, [], "segm"), lambda: find_mistakes(boxes, predictions, masks=True)):
        with pytest.raises(ValueError, match="ground truth: masks are to be measured, and what was read has boxes on"):
            measure()


def test_proposals_need_a_category_in_the_ground_truth():
    nothing = {"images": [{"id": 1}], "annotations": [], "categories": []}
    row = {"image_id": 1, "bbox": [1, 1, 2, 2], "score": 0.1}
    with pytest.raises(ValueError, match="the ground truth has no categories"):
        evaluate_coco(nothing, [row], class_agnostic=True)


def test_refuses_another_iou_type():
    with pytest.raises(ValueError, match="iou_type must be one of bbox, segm, keypoints, got 'boundary'"):
        evaluate_coco(*make_scene(0), iou_type="boundary")


def test_refuses_another_backend():
    with pytest.raises(ValueError, match="one of pycocotools, faster-coco-eval, got 'torchmetrics'"):
        evaluate_coco(*make_scene(0), backend="torchmetrics")
