"""Keypoints against pycocotools run as its own demo does, and OKS worked out by hand."""

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from detmix.evaluation import NO_OBJECTS, coco_results, compare_coco, evaluate_coco, oks_sigmas, with_keypoints
from detmix.evaluation.coco import KEYPOINT_METRICS
from detmix.evaluation.reading import read_ground_truth, read_predictions
from detmix.evaluation.records import of_images

BACKENDS = ("pycocotools", "faster-coco-eval")
NAMES = {3: "person", 7: "dog", 8: "bird"}


def box_around(points):
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return [*low.tolist(), *(high - low).tolist()]


def make_poses(seed, count=17, num_images=5, objects=50, boxes=True):
    """Random objects of all sizes, some crowds, some without visible points, and poses near and far; no birds."""
    rng = np.random.default_rng(seed)
    annotations, near = [], []
    for number in range(1, objects + 1):
        corner, sides = rng.uniform(0, 200, 2), np.exp(rng.uniform(np.log(20), np.log(200), 2))
        points = np.column_stack([rng.uniform(corner, corner + sides, (count, 2)), rng.integers(0, 3, count)])
        points[points[:, 2] == 0] = 0
        unseen = rng.random() < 0.2
        points = np.zeros_like(points) if unseen else points.round(2)
        row = {"image_id": int(rng.integers(num_images)), "category_id": int(rng.choice([3, 7]))}
        annotations.append(
            {
                **row,
                "id": number,
                "bbox": [*corner.round(2).tolist(), *sides.round(2).tolist()],
                "area": float(sides.prod() * rng.uniform(0.4, 1)),
                "iscrowd": int(rng.random() < 0.1),
                "keypoints": points.flatten().tolist(),
                "num_keypoints": int((points[:, 2] > 0).sum()),
            }
        )
        for spread in rng.choice([0.02, 0.05, 0.1, 0.2], 3):
            moved = rng.uniform(corner, corner + sides, (count, 2)) if unseen else points[:, :2]
            near.append({**row, "points": moved + rng.normal(0, spread * math.sqrt(sides.prod()), (count, 2))})
    far = [
        {
            "image_id": int(rng.integers(num_images)),
            "category_id": int(rng.choice(list(NAMES))),
            "points": rng.uniform(0, 400, (count, 2)),
        }
        for _ in range(60)
    ]
    predictions = [as_result(row, round(float(rng.random()), 2), boxes) for row in near + far]
    truth = {
        "images": [{"id": i, "height": 450, "width": 450} for i in range(num_images + 1)],  # the last has none
        "categories": [{"id": k, "name": name} for k, name in NAMES.items()],
        "annotations": annotations,
    }
    return truth, predictions


def as_result(row, score, boxes):
    points = row.pop("points").round(2)
    box = {"bbox": [value * 1.25 for value in box_around(points)]} if boxes else {}  # not that of the points
    return {
        **row,
        **box,
        "keypoints": np.column_stack([points, np.ones(len(points))]).flatten().tolist(),
        "score": score,
    }


def plain_keypoints(truth, predictions, sigmas=None):
    """pycocotools' own numbers, accumulated and summed up."""
    objects = COCO()
    objects.dataset = copy.deepcopy(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        objects.createIndex()
        results = objects.loadRes(copy.deepcopy(predictions)) if predictions else COCO()
        if not predictions:
            results.dataset = {**objects.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(objects, results, "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_on_files(tmp_path, seed, boxes, backend):
    truth, predictions = make_poses(seed, boxes=boxes)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(predictions))
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(tmp_path / "truth.json"))
        plain = COCOeval(objects, objects.loadRes(str(tmp_path / "results.json")), "keypoints")
        plain.evaluate()
        plain.accumulate()
        plain.summarize()
    result = evaluate_coco(tmp_path / "truth.json", tmp_path / "results.json", "keypoints", backend=backend)
    assert list(result.metrics) == list(KEYPOINT_METRICS)
    assert list(result.metrics.values()) == plain.stats.tolist()
    assert 0 < result.metrics["AP"] < 1
    assert min(result.metrics.values()) > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "sigmas"), [(5, [0.05] * 5), (5, [0.01, 0.1, 0.3, 0.05, 0.07]), (1, [0.2])])
def test_equals_pycocotools_with_other_keypoints(count, sigmas, backend):
    truth, predictions = make_poses(7, count)
    wanted = plain_keypoints(truth, predictions, sigmas).stats.tolist()
    given = None if set(sigmas) == {0.05} else sigmas  # which is what others than COCO's have
    result = evaluate_coco(truth, predictions, "keypoints", backend=backend, sigmas=given)
    assert list(result.metrics.values()) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_than_twenty_detections_of_an_image(backend):
    truth, predictions = make_poses(1, num_images=1)
    wanted = plain_keypoints(truth, predictions).stats.tolist()
    found = [evaluate_coco(truth, predictions, "keypoints", backend=backend, max_detections=n) for n in (None, [100])]
    assert list(found[0].metrics.values()) == wanted
    assert found[1].metrics["AR"] > found[0].metrics["AR"]
    assert list(found[1].metrics) == list(KEYPOINT_METRICS)


def test_a_box_beside_the_keypoints_gives_the_area():
    truth, with_boxes = make_poses(0)
    without = [{key: value for key, value in row.items() if key != "bbox"} for row in with_boxes]
    first, second = (evaluate_coco(truth, rows, "keypoints").metrics for rows in (with_boxes, without))
    assert first["AP"] == second["AP"]
    assert first["APm"] != second["APm"]
    read = read_predictions(without, read_ground_truth(truth, keypoints=True), keypoints=True)
    points = np.array(without[3]["keypoints"]).reshape(-1, 3)
    assert read.xywh[3].tolist() == box_around(points)
    assert read.areas[3] == np.ptp(points[:, 0]) * np.ptp(points[:, 1])


def adversarial(draw):
    """Few places and scores, so that ties are common; counts that belie the points; an empty class; any areas."""
    image_ids = sorted(draw(st.sets(st.integers(0, 10**12), min_size=1, max_size=3)))
    count = draw(st.sampled_from([1, 2, 17]))
    places, sides = st.integers(0, 30).map(float), st.integers(0, 40).map(float)
    point = st.tuples(places, places, st.sampled_from([0, 1, 2]))

    def rows(least, most):
        row = st.tuples(
            st.sampled_from(image_ids),
            st.sampled_from([2, 5, 900]),
            st.tuples(places, places, sides, sides),
            st.tuples(point, st.lists(point, min_size=count - 1, max_size=count - 1)),
        )
        return [
            {
                "image_id": i,
                "category_id": k,
                "bbox": list(box),
                "keypoints": [float(v) for p in (one, *more) for v in p],
            }
            for i, k, box, (one, more) in draw(st.lists(row, min_size=least, max_size=most))
        ]

    objects, found = rows(1, 8), rows(0, 16)
    for number, row in enumerate(objects, 1):
        if draw(st.integers(0, 4)) == 0:
            row["keypoints"] = [0.0] * (3 * count)
        seen = sum(v > 0 for v in row["keypoints"][2::3])
        row |= {"id": number, "num_keypoints": draw(st.sampled_from([seen, seen, seen, 0, 3]))}
        row |= {"area": draw(st.sampled_from([0.0, 400.0, 32.0**2, 96.0**2, 96.0**2, 1e10, 2e10]))}
        row |= {"iscrowd": draw(st.sampled_from([0, 0, 0, 1]))}
    for row in found:
        row["score"] = draw(st.sampled_from([0.1, 0.5, 0.5, 1.0]))
        if objects and draw(st.booleans()):  # the very pose of some object
            like = draw(st.sampled_from(objects))
            row |= {key: like[key] for key in ("image_id", "category_id", "keypoints")}
    if draw(st.booleans()):
        found = [{k: v for k, v in row.items() if k != "bbox"} for row in found]
    categories = [{"id": k, "name": str(k)} for k in (2, 5, 900, 7)]
    return {"images": [{"id": i} for i in image_ids], "categories": categories, "annotations": objects}, found


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_backends_equal_pycocotools_on_adversarial_sets(data):
    truth, found = adversarial(data.draw)
    count = len(truth["annotations"][0]["keypoints"]) // 3
    plain = plain_keypoints(truth, found, oks_sigmas(count))
    results = [evaluate_coco(truth, found, "keypoints", backend=backend) for backend in BACKENDS]
    for result in results:
        assert list(result.metrics.values()) == plain.stats.tolist()
    for name, curve in results[0].curves.items():
        other = results[1].curves[name]
        np.testing.assert_array_equal(curve.precision, other.precision)
        np.testing.assert_array_equal(curve.scores, other.scores)


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101])
@pytest.mark.parametrize("right", ["first", "first two", "second", "all"])
def test_a_precision_of_one_is_pycocotools_own(count, right):
    # objects without visible keypoints must not count among those of which the first found are a share
    truth = {"images": [{"id": i} for i in range(count + 1)], "categories": [{"id": 1, "name": "cat"}]}
    pose = {"category_id": 1, "bbox": [0, 0, 50, 50], "keypoints": [9, 9, 2]}
    truth["annotations"] = [{**pose, "image_id": i} for i in range(count)]
    truth["annotations"] += [{**pose, "image_id": count - 1, "num_keypoints": 0}] * 3
    hits = {"first": {0}, "first two": {0, 1}, "second": {1}, "all": set(range(count))}[right]
    order = [i if i in hits else count for i in range(max(count, 3))]  # the last image has no object
    rows = [{**pose, "image_id": i, "score": 1 - n / 2000} for n, i in enumerate(order)]
    results = [evaluate_coco(truth, rows, "keypoints", backend=backend) for backend in BACKENDS]
    assert results[0].metrics == results[1].metrics
    np.testing.assert_array_equal(*(result.curves["cat"].precision for result in results))


THRESHOLDS = [0.5 + 0.05 * n for n in range(10)]


def one_pose(distance, area=10000.0, **values):
    """An object with a visible keypoint and one that is not, and a detection so far beside the first."""
    annotation = {
        "image_id": 1,
        "category_id": 1,
        "bbox": [0, 0, 100, 100],
        "area": area,
        "keypoints": [50, 60, 2, 0, 0, 0],
    }
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}], "annotations": [{**annotation, **values}]}
    points = [50 + 0.6 * distance, 60 + 0.8 * distance, 1, 77, 88, 1]
    return truth, [{"image_id": 1, "category_id": 1, "keypoints": points, "score": 0.5}]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sigma", [0.05, 0.1])
@pytest.mark.parametrize("reached", range(10))
def test_oks_by_hand(reached, sigma, backend):
    # exp(-d² / (2 s² k²)) is the threshold for s² = 10000, k = 2 sigma: a hair nearer it is a match, beyond it is not
    distance = math.sqrt(-math.log(THRESHOLDS[reached]) * 2 * 10000 * (2 * sigma) ** 2)
    for hair, count in ((1 - 1e-6, reached + 1), (1 + 1e-6, reached)):
        scene = one_pose(distance * hair)
        metrics = evaluate_coco(*scene, "keypoints", backend=backend, sigmas=[sigma, 0.3]).metrics
        assert metrics["AR"] == pytest.approx(count / 10)
        assert metrics["AR50"] == float(count > 0)
        assert metrics["AR75"] == float(count > 5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unseen", [{"keypoints": [50, 60, 0, 0, 0, 0]}, {"num_keypoints": 0}, {"iscrowd": 1}])
def test_what_is_not_to_be_found_does_not_count(unseen, backend):
    result = evaluate_coco(*one_pose(0, **unseen), "keypoints", backend=backend)
    assert set(result.metrics.values()) == {NO_OBJECTS}
    assert result.objects_by_class == {"cat": 0}
    assert result.curves == {}


@pytest.mark.parametrize("lacking", [{}, {"keypoints": None}, {"keypoints": []}, {"keypoints": [], "num_keypoints": 2}])
def test_an_annotation_without_keypoints_has_none_that_is_visible(lacking):
    truth, found = one_pose(0)
    bare = {"image_id": 1, "category_id": 1, "bbox": [200, 200, 10, 10], **lacking}
    objects = read_ground_truth({**truth, "annotations": [bare, *truth["annotations"]]}, keypoints=True).objects
    assert objects.posed.tolist() == [False, True]
    assert objects.keypoints.tolist() == [[[0] * 3] * 2, [[50, 60, 2], [0, 0, 0]]]
    for rows, count in ((truth["annotations"], 1), ([bare, *truth["annotations"]], 1)):
        result = evaluate_coco({**truth, "annotations": rows}, found, "keypoints")
        assert (result.metrics["AP"], result.objects_by_class["cat"]) == (pytest.approx(1), count)


def test_a_hidden_keypoint_counts_and_one_that_is_not_marked_does_not():
    points = [[50, 60, v] for v in (0, 1, 2)]
    truth, _ = one_pose(0)
    truth["annotations"] = [{**truth["annotations"][0], "keypoints": point} for point in points]
    assert read_ground_truth(truth, keypoints=True).objects.posed.tolist() == [False, True, True]


def test_area_and_num_keypoints_may_be_absent():
    truth, predictions = make_poses(2)
    full = {**truth, "annotations": [{**a, "area": a["bbox"][2] * a["bbox"][3]} for a in truth["annotations"]]}
    bare = [{k: v for k, v in a.items() if k not in ("area", "num_keypoints")} for a in truth["annotations"]]
    metrics = evaluate_coco({**truth, "annotations": bare}, predictions, "keypoints").metrics
    assert metrics == evaluate_coco(full, predictions, "keypoints").metrics


def test_numbers_of_classes_sizes_and_curves():
    truth, predictions = make_poses(1)
    precision = plain_keypoints(truth, predictions).eval["precision"][..., 0]
    result = evaluate_coco(truth, predictions, "keypoints")
    assert list(result.ap_by_size) == ["APm", "APl"]
    for place, name in enumerate(("person", "dog")):
        assert result.ap_by_class[name] == pytest.approx(precision[:, :, place, 0].mean())
        assert result.ap50_by_class[name] == pytest.approx(precision[0, :, place, 0].mean())
        for number, size in enumerate(("APm", "APl"), 1):
            assert result.ap_by_size[size][name] == pytest.approx(precision[:, :, place, number].mean())
        np.testing.assert_array_equal(result.curves[name].precision, precision[0, :, place, 0])
    assert result.ap_by_class["bird"] == result.ap_by_size["APm"]["bird"] == NO_OBJECTS
    posed = [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    assert sum(result.objects_by_class.values()) == len(posed)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_predictions(backend):
    result = evaluate_coco(make_poses(0)[0], [], "keypoints", backend=backend)
    assert set(result.metrics.values()) == {0.0}
    assert result.ap_by_class == {"person": 0.0, "dog": 0.0, "bird": NO_OBJECTS}


def test_what_was_read_with_keypoints_is_measured_as_boxes_too():
    truth, predictions = make_poses(0)
    read = read_ground_truth(truth, keypoints=True)
    found = read_predictions(predictions, read)
    assert evaluate_coco(read, found).metrics == evaluate_coco(truth, predictions).metrics
    assert evaluate_coco(read, found).objects_by_class == evaluate_coco(truth, predictions).objects_by_class
    complete = with_keypoints(found, predictions)
    for backend in BACKENDS:
        result = evaluate_coco(read, complete, "keypoints", backend=backend)
        assert result.metrics == evaluate_coco(truth, predictions, "keypoints").metrics


def test_detections_that_are_completed_equal_those_read_at_once():
    truth, predictions = make_poses(0)
    read = read_ground_truth(truth, keypoints=True)
    at_once = read_predictions(predictions, read, keypoints=True)
    completed = with_keypoints(read_predictions(predictions, read, is_xywh=True), predictions)
    for key in ("xywh", "corners", "areas", "keypoints", "scores", "images", "labels"):
        np.testing.assert_array_equal(getattr(completed, key), getattr(at_once, key))
    nothing = with_keypoints(read_predictions([], read), [])
    assert set(evaluate_coco(read, nothing, "keypoints").metrics.values()) == {0.0}


def test_some_images_of_a_ground_truth():
    truth, predictions = make_poses(3)
    some = {**truth, "images": truth["images"][1:3]}
    some["annotations"] = [a for a in truth["annotations"] if a["image_id"] in (1, 2)]
    predictions = [row for row in predictions if row["image_id"] in (1, 2)]
    part = of_images(read_ground_truth(truth, keypoints=True), {1, 2})
    assert (
        evaluate_coco(part, predictions, "keypoints").metrics == evaluate_coco(some, predictions, "keypoints").metrics
    )


def test_keypoints_and_masks_can_be_read_of_one_ground_truth():
    truth, _ = one_pose(0, segmentation=[[0, 0, 10, 0, 10, 10]])
    truth["images"] = [{"id": 1, "height": 200, "width": 200}]
    objects = read_ground_truth(truth, masks=True, keypoints=True).objects
    assert len(objects.masks) == 1
    assert objects.keypoints.shape == (1, 2, 3)


def test_torchvision_detections_are_written_and_measured():
    truth, _ = one_pose(0)
    detection = {
        "boxes": torch.tensor([[0.0, 0, 100, 100]]),
        "labels": torch.tensor([1]),
        "scores": torch.ones(1),
        "keypoints": torch.tensor([[[50.0, 60, 1], [3.5, 4.25, 1]]]),
    }
    nothing = {key: value[:0] for key, value in detection.items()}
    rows = json.loads(json.dumps(coco_results([1, 2], [detection, nothing], [1])))
    assert [row["keypoints"] for row in rows] == [[50, 60, 1, 3.5, 4.25, 1]]
    assert rows[0]["bbox"] == [0, 0, 100, 100]
    assert evaluate_coco(truth, rows, "keypoints").metrics["AP"] == pytest.approx(1)


def test_a_comparison_has_the_numbers_of_each_side():
    truth, predictions = make_poses(1)
    sets = predictions, predictions[::2]
    result = compare_coco(truth, *sets, "keypoints", resamples=20, sigmas=[0.1] * 17)
    for side, rows in zip(("first", "second"), sets, strict=True):
        alone = evaluate_coco(truth, rows, "keypoints", sigmas=[0.1] * 17)
        wanted = {name: alone.metrics[name] for name in ("AP", "AP50", "AP75", "APm", "APl", "AR")}
        wanted |= {f"AP/{name}": alone.ap_by_class[name] for name in ("person", "dog")}
        assert {name: getattr(difference, side) for name, difference in result.items()} == wanted
    assert result["AR"].low < result["AR"].value < result["AR"].high < 0
    posed = {a["image_id"] for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]}
    assert result["AR"].images == len(posed)


def test_sigmas_are_cocos_or_a_twentieth():
    assert oks_sigmas(17).tolist() == Params("keypoints").kpt_oks_sigmas.tolist()
    assert oks_sigmas(4).tolist() == [0.05] * 4
    assert oks_sigmas(2, (1, 0.5)).tolist() == [1.0, 0.5]
    oks_sigmas(17)[:] = 0
    assert oks_sigmas(17).all()


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([0.1], "one for each of 2 keypoints, got 1"),
        ([0.1, 0], r"finite numbers above 0, one for each keypoint, got \[0.1, 0\]"),
        ([0.1, -1], "finite numbers above 0"),
        ([0.1, math.inf], "finite numbers above 0"),
        ([math.nan, 1], "finite numbers above 0"),
        (["a", "b"], "finite numbers above 0"),
        (0.1, "finite numbers above 0"),
        ([], "one for each of 2 keypoints, got 0"),
    ],
)
def test_bad_sigmas_are_named(sigmas, message):
    for measure in (lambda: oks_sigmas(2, sigmas), lambda: evaluate_coco(*one_pose(0), "keypoints", sigmas=sigmas)):
        with pytest.raises(ValueError, match=f"sigmas must be .*{message}"):
            measure()


EACH = r"keypoints must be 3 numbers, x, y and visibility, for each"


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (
            [1, 2, 2, 3],
            rf"{EACH} of the 2 that the first annotation with any has, got 4 - at `\$.annotations\[1\].keyp",
        ),
        ([1, 2, 2], rf"{EACH} of the 2 that .* has, got 3 - at `\$.annotations\[1\].keypoints`"),
        (
            [1, 2, 2, 1e300, 2, 2],
            r"keypoints must be in pixels, of 2\*\*53 at most, got .* - at `\$.annotations\[1\].keyp",
        ),
        ([1, 2, 2, math.nan, 2, 2], r"keypoints must be finite, got .* - at `\$.annotations\[1\].keypoints`"),
        ([1, 2, 2, 3, -math.inf, 2], r"keypoints must be finite, got .* - at `\$.annotations\[1\].keypoints`"),
        ([1, 2, 2, 3, None, 2], r"Expected `float`, got `null` - at `\$.annotations\[1\].keypoints\[4\]`"),
        ("no", r"Expected `array \| null`, got `str` - at `\$.annotations\[1\].keypoints`"),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_bad_annotations_are_named(tmp_path, keypoints, message, from_file):
    truth, found = one_pose(0)
    truth["annotations"] *= 2
    truth["annotations"][1] = {**truth["annotations"][1], "keypoints": keypoints}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    name = r".*truth\.json" if from_file else "ground truth"
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        evaluate_coco(tmp_path / "truth.json" if from_file else truth, found, "keypoints")


def test_the_first_annotation_with_keypoints_must_have_three_numbers_each():
    truth, found = one_pose(0, keypoints=[1, 2, 2, 3])
    truth["annotations"].insert(0, {**truth["annotations"][0], "keypoints": []})
    with pytest.raises(ValueError, match=rf"{EACH}, got 4 - at `\$.annotations\[1\].keypoints`"):
        evaluate_coco(truth, found, "keypoints")


@pytest.mark.parametrize("annotations", [[], [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}]])
def test_a_file_without_any_keypoints_is_refused(annotations):
    truth, found = one_pose(0)
    with pytest.raises(ValueError, match="ground truth: no annotation has `keypoints`"):
        evaluate_coco({**truth, "annotations": annotations}, found, "keypoints")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [1, 2, 1]}, rf"{EACH} of the 2 of the ground truth, got 3 - at `\$\[1\].keypoints`"),
        ({"keypoints": []}, rf"{EACH} of the 2 of the ground truth, got 0 - at `\$\[1\].keypoints`"),
        ({"keypoints": [1, 2, 1, 5, 6]}, rf"{EACH} of the 2 of the ground truth, got 5 - at `\$\[1\].keypoints`"),
        ({"keypoints": [1, 2, 1, math.inf, 2, 1]}, r"keypoints must be finite, got .* - at `\$\[1\].keypoints`"),
        (
            {"keypoints": [1, 2, 1, -1e17, 2, 1]},
            r"keypoints must be in pixels, of 2\*\*53 at most, .* - at `\$\[1\].keyp",
        ),
        ({"keypoints": [1, 2, 1, "3", 2, 1]}, r"Expected `float`, got `str` - at `\$\[1\].keypoints\[3\]`"),
        ({"keypoints": ...}, r"Object missing required field `keypoints` - at `\$\[1\]`"),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_bad_predictions_are_named(tmp_path, change, message, from_file):
    truth, found = one_pose(0)
    row = {key: value for key, value in {**found[0], **change}.items() if value is not ...}
    rows = [*found, row]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    name = r".*found\.json" if from_file else "predictions"
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        evaluate_coco(truth, tmp_path / "found.json" if from_file else rows, "keypoints")


def test_keypoints_have_boxes_all_or_none_if_the_first_has_one():
    truth, predictions = make_poses(0, boxes=False)
    later = [*predictions[:2], {**predictions[2], "bbox": [0, 0, 1e4, 1e4]}, *predictions[3:]]
    assert evaluate_coco(truth, later, "keypoints").metrics == evaluate_coco(truth, predictions, "keypoints").metrics
    predictions[0]["bbox"], predictions[1]["bbox"] = [0, 0, 9, 9], [0, 0, 9, 9]
    with pytest.raises(ValueError, match=r"predictions: missing required field `bbox`, which the first .*`\$\[2\]`"):
        evaluate_coco(truth, predictions, "keypoints")


def test_rows_that_are_completed_must_have_keypoints():
    truth, predictions = make_poses(0)
    read = read_ground_truth(truth, keypoints=True)
    found = read_predictions(predictions, read)
    lacking = [*predictions[:3], {**predictions[3], "keypoints": None}, *predictions[4:]]
    with pytest.raises(ValueError, match=rf"predictions: {EACH} of the 17 of the first row, got 0 - at `\$\[3\].keyp"):
        with_keypoints(found, lacking)
    with pytest.raises(ValueError, match="predictions: keypoints: Expected `float`, got `str`"):
        with_keypoints(found, [{**row, "keypoints": ["a"]} for row in predictions])
    with pytest.raises(ValueError, match=rf"predictions: {EACH}, got 0 - at `\$\[0\].keypoints`"):
        with_keypoints(found, [{"keypoints": None}] * len(predictions))
    with pytest.raises(ValueError, match=f"predictions: got 3 rows for {len(found)} detections"):
        with_keypoints(found, predictions[:3])
    fewer = with_keypoints(found, [{**row, "keypoints": row["keypoints"][:6]} for row in predictions])
    with pytest.raises(ValueError, match="predictions: keypoints must be 17 as in ground truth, got 2"):
        evaluate_coco(read, fewer, "keypoints")


def test_what_was_read_without_keypoints_is_refused():
    truth, predictions = make_poses(0)
    plain, read = read_ground_truth(truth), read_ground_truth(truth, keypoints=True)
    with pytest.raises(ValueError, match="ground truth: keypoints are to be measured, and it was read without"):
        evaluate_coco(plain, predictions, "keypoints")
    with pytest.raises(ValueError, match="predictions: keypoints are to be measured, and it was read without"):
        evaluate_coco(read, read_predictions(predictions, read), "keypoints")
    with pytest.raises(ValueError, match="with masks or with keypoints, not with both"):
        read_predictions(predictions, read, masks=True, keypoints=True)


def test_what_keypoints_do_not_have_is_refused():
    scene = make_poses(0)
    with pytest.raises(ValueError, match="class_agnostic is of boxes and masks: keypoints are compared within a class"):
        evaluate_coco(*scene, "keypoints", class_agnostic=True)
    with pytest.raises(ValueError, match="sigmas are of iou_type 'keypoints', and it is 'bbox'"):
        evaluate_coco(*scene, sigmas=[0.1] * 17)
