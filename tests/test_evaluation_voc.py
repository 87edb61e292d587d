"""evaluate_voc against the kit's rules, written out one detection at a time in the kit's own coordinates."""

import copy
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detmix.evaluation import NO_OBJECTS, evaluate_voc, voc
from detmix.evaluation.overlaps import blocks_of_pairs, box_ious, pairs_of_images
from detmix.evaluation.reading import read_ground_truth, read_predictions


def make_truth(objects, num_images=1, names=("cat", "dog")):
    """Objects are (image_id, category_id, kit box, flags): the box 1-based with its last pixel."""
    annotations = [
        {"id": n, "image_id": image, "category_id": kind, "bbox": exclusive(box), **flags}
        for n, (image, kind, box, flags) in enumerate(objects)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    return {"images": [{"id": i} for i in range(num_images)], "categories": categories, "annotations": annotations}


def make_predictions(detections):
    return [
        {"image_id": image, "category_id": kind, "bbox": exclusive(box), "score": score}
        for image, kind, box, score in detections
    ]


def exclusive(box):
    x1, y1, x2, y2 = box
    return [x1 - 1, y1 - 1, x2 - (x1 - 1), y2 - (y1 - 1)]


def kit_overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def kit_ap(objects, detections, kind, iou, use_07_metric):
    """The kit's loop over the detections of one class; None where there is nothing to find."""
    objects = [(image, box, any(flags.values())) for image, k, box, flags in objects if k == kind]
    found = [False] * len(objects)
    wanted = sum(not ignored for _, _, ignored in objects)
    if not wanted:
        return None
    right = wrong = 0
    recall, precision = [], []
    for image, k, box, _ in sorted(detections, key=lambda d: -d[3]):
        if k != kind:
            continue
        best, nearest = -1.0, None
        for n, (other, theirs, _) in enumerate(objects):
            overlap = kit_overlap(box, theirs) if other == image else -1.0
            if overlap > best:
                best, nearest = overlap, n
        if best < iou:
            wrong += 1
        elif not objects[nearest][2]:
            right, wrong = right + (not found[nearest]), wrong + found[nearest]
            found[nearest] = True
        recall.append(right / wanted)
        precision.append(right / (right + wrong) if right + wrong else 0.0)
    return kit_eleven_points(recall, precision) if use_07_metric else kit_area(recall, precision)


def kit_eleven_points(recall, precision):
    steps = [0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]  # MATLAB's 0:0.1:1
    return sum(max((p for r, p in zip(recall, precision, strict=True) if r >= t), default=0.0) for t in steps) / 11


def kit_area(recall, precision):
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in reversed(range(len(precision) - 1)):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


starts, sides = st.integers(1, 5), st.integers(0, 4)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), starts, starts, sides, sides)
flags = st.sampled_from([{}, {"difficult": 0}, {"difficult": 1}, {"iscrowd": 1}, {"difficult": 0, "iscrowd": 0}])
images, kinds = st.integers(0, 2), st.integers(1, 2)
scores = st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0])  # few, so that ties are common
scenes = st.tuples(
    st.lists(st.tuples(images, kinds, boxes, flags), max_size=12),
    st.lists(st.tuples(images, kinds, boxes, scores), max_size=20),
)


@settings(max_examples=150, deadline=None)
@given(scenes, st.sampled_from([0.3, 0.5, 1.0]), st.booleans())
def test_equals_the_kits_loop(scene, iou, use_07_metric):
    objects, detections = scene
    result = evaluate_voc(
        make_truth(objects, num_images=3), make_predictions(detections), iou=iou, use_07_metric=use_07_metric
    )
    wanted = {name: kit_ap(objects, detections, k, iou, use_07_metric) for k, name in enumerate(("cat", "dog"), 1)}
    known = [ap for ap in wanted.values() if ap is not None]
    assert result.ap == pytest.approx(np.mean(known) if known else NO_OBJECTS, abs=1e-9)
    for name, ap in wanted.items():
        assert result.ap_by_class[name] == pytest.approx(NO_OBJECTS if ap is None else ap, abs=1e-9)
        assert (name in result.curves) == (ap is not None)


@pytest.mark.parametrize(("use_07_metric", "block"), [(False, 1 << 18), (True, 1 << 18), (False, 7), (True, 1)])
def test_equals_the_kits_loop_on_a_crowded_scene(use_07_metric, block, monkeypatch):
    monkeypatch.setattr(voc, "blocks_of_pairs", partial(blocks_of_pairs, size=block))
    rng = np.random.default_rng(0)

    def draw(count):
        corners = rng.integers(1, 60, (count, 2))
        return np.concatenate([corners, corners + rng.integers(5, 30, (count, 2))], 1).tolist()

    objects = [
        (int(rng.integers(20)), int(rng.integers(1, 3)), b, {"difficult": int(rng.random() < 0.2)}) for b in draw(150)
    ]
    near = [(i, k, (np.array(b) + rng.integers(-2, 3)).tolist(), float(rng.random())) for i, k, b, _ in objects * 2]
    away = [(int(rng.integers(20)), int(rng.integers(1, 3)), b, float(rng.random())) for b in draw(200)]
    result = evaluate_voc(make_truth(objects, 20), make_predictions(near + away), use_07_metric=use_07_metric)
    wanted = [kit_ap(objects, near + away, kind, 0.5, use_07_metric) for kind in (1, 2)]
    assert 0.1 < wanted[0] < 0.9
    assert list(result.ap_by_class.values()) == pytest.approx(wanted, abs=1e-9)


rows_of_images = st.lists(st.integers(0, 4), max_size=12).map(lambda rows: np.array(rows, dtype=np.int64))


@settings(max_examples=150, deadline=None)
@given(rows_of_images, rows_of_images, st.integers(1, 30))
def test_pairs_are_those_of_a_loop_in_blocks_of_whole_rows(first, second, size):
    wanted = [(m, n) for m, image in enumerate(first) for n, other in enumerate(second) if image == other]
    assert list(zip(*pairs_of_images(first, second), strict=True)) == wanted
    blocks = [list(zip(*block, strict=True)) for block in blocks_of_pairs(first, second, size=size)]
    assert sum(blocks, []) == wanted
    for block in filter(None, blocks):
        assert sum(row < block[-1][0] for row, _ in block) < size
    rows = [row for block in blocks for row in {row for row, _ in block}]
    assert len(rows) == len(set(rows))


def test_five_boxes_by_hand():
    objects = [(0, 1, (1, 1, 10, 10), {}), (0, 1, (21, 1, 30, 10), {}), (1, 1, (1, 1, 10, 10), {})]
    detections = [
        (0, 1, (1, 1, 10, 10), 0.9),  # right: IoU 1
        (0, 1, (2, 1, 11, 10), 0.8),  # wrong: that object is taken
        (0, 1, (21, 1, 30, 5), 0.7),  # right: IoU is 50 / 100, just enough
        (1, 1, (1, 1, 10, 4), 0.6),  # wrong: IoU 40 / 100
        (1, 1, (1, 1, 10, 9), 0.5),  # right: IoU 90 / 100
    ]
    truth, predictions = make_truth(objects, 2), make_predictions(detections)
    result = evaluate_voc(truth, predictions)
    np.testing.assert_allclose(result.curves["cat"].recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(result.curves["cat"].precision, [1, 1 / 2, 2 / 3, 1 / 2, 3 / 5])
    np.testing.assert_array_equal(result.curves["cat"].scores, [0.9, 0.8, 0.7, 0.6, 0.5])
    assert result.ap_by_class == {"cat": pytest.approx((1 + 2 / 3 + 3 / 5) / 3), "dog": NO_OBJECTS}
    assert result.ap == result.ap_by_class["cat"]
    eleven = evaluate_voc(truth, predictions, use_07_metric=True)
    assert eleven.ap == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)


def test_a_recall_of_three_tenths_is_below_the_kits_fourth_step():
    # MATLAB's 0:0.1:1 holds 3 * 0.1, which is above 0.3; its other steps are what they look like
    objects = [(0, 1, (1 + 20 * n, 1, 10 + 20 * n, 10), {}) for n in range(10)]
    for found, steps in ((2, 3), (3, 3), (6, 7), (7, 8), (10, 11)):
        predictions = make_predictions([(*o[:3], 0.5) for o in objects[:found]])
        assert evaluate_voc(make_truth(objects), predictions, use_07_metric=True).ap == pytest.approx(steps / 11)


def test_order_of_the_rows_matters_for_equal_scores_only():
    objects = [(0, 1, (1, 1, 10, 10), {})]
    hit, miss = (0, 1, (1, 1, 10, 10), 0.5), (0, 1, (50, 50, 60, 60), 0.5)
    truth = make_truth(objects)
    assert evaluate_voc(truth, make_predictions([hit, miss])).ap == 1.0
    assert evaluate_voc(truth, make_predictions([miss, hit])).ap == 0.5


def test_many_equal_scores_are_ranked_in_the_order_given():
    objects = [(0, 1, (1, 1, 10, 10), {})]
    for hit in range(50):
        boxes = [(1, 1, 10, 10) if n == hit else (50, 50, 60, 60) for n in range(50)]
        found = [(0, 1, box, (0.5, 0.9)[n % 2]) for n, box in enumerate(boxes)]
        wanted = kit_ap(objects, found, 1, 0.5, False)
        assert evaluate_voc(make_truth(objects), make_predictions(found)).ap == pytest.approx(wanted)


def test_a_detection_of_a_difficult_object_does_not_count():
    easy, hard = (0, 1, (1, 1, 10, 10), {}), (0, 1, (31, 31, 40, 40), {"difficult": 1})
    found = [(0, 1, (31, 31, 40, 40), 0.9), (0, 1, (1, 1, 10, 10), 0.8)]
    assert evaluate_voc(make_truth([easy, hard]), make_predictions(found)).ap == 1.0
    assert evaluate_voc(make_truth([easy]), make_predictions(found)).ap == 0.5


@pytest.mark.parametrize("use_07_metric", [False, True])
def test_nothing_to_find_and_nothing_found(use_07_metric):
    nothing = evaluate_voc(make_truth([]), [], use_07_metric=use_07_metric)
    assert (nothing.ap, nothing.curves) == (NO_OBJECTS, {})
    missed = evaluate_voc(make_truth([(0, 1, (1, 1, 10, 10), {})]), [], use_07_metric=use_07_metric)
    assert missed.ap == 0.0
    assert missed.ap_by_class == {"cat": 0.0, "dog": NO_OBJECTS}
    assert len(missed.curves["cat"].recall) == 0


def test_inputs_are_not_changed():
    truth = make_truth([(0, 1, (1, 1, 10, 10), {})])
    predictions = make_predictions([(0, 1, (1, 1, 10, 10), 0.9)])
    before = copy.deepcopy((truth, predictions))
    evaluate_voc(truth, predictions)
    assert (truth, predictions) == before


@pytest.mark.parametrize("iou", [0, -0.5, 1.5, float("nan")])
def test_refuses_an_iou_out_of_range(iou):
    with pytest.raises(ValueError, match=r"iou must lie in \(0, 1\]"):
        evaluate_voc(make_truth([]), [], iou=iou)
    with pytest.raises(TypeError, match="iou must be a number, got 'a'"):
        evaluate_voc(make_truth([]), [], iou="a")


def make_many(count):
    """100 images with 1000 objects, and so many detections, as they are read; and the pairs of one image and class."""
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 300, (count + 1000, 2)), rng.uniform(10, 200, (count + 1000, 2))], 1)
    ids, kinds = rng.integers(0, 100, len(boxes)).tolist(), rng.integers(1, 6, len(boxes)).tolist()
    rows = [{"image_id": i, "category_id": k, "bbox": b} for i, k, b in zip(ids, kinds, boxes.tolist(), strict=True)]
    truth = {
        "images": [{"id": i} for i in range(100)],
        "categories": [{"id": k, "name": str(k)} for k in range(1, 6)],
        "annotations": [{**row, "id": n} for n, row in enumerate(rows[:1000])],
    }
    read = read_ground_truth(truth)
    scores = rng.random(count).tolist()
    found = read_predictions([{**row, "score": s} for row, s in zip(rows[1000:], scores, strict=True)], read)
    places = list(zip(ids, kinds, strict=True))
    objects, detections = Counter(places[:1000]), Counter(places[1000:])
    return read, found, sum(objects[place] * number for place, number in detections.items())


def count_calls(call, *arguments):
    """How many functions are called, those of C included."""
    events, before = Counter(), sys.getprofile()
    sys.setprofile(lambda frame, event, _: events.update([event]))
    try:
        call(*arguments)
    finally:
        sys.setprofile(before)
    return events["call"] + events["c_call"]


def test_only_boxes_of_one_image_and_class_are_compared_and_not_one_by_one(monkeypatch):
    """So a hundred thousand detections take seconds, and not minutes."""
    pairs, calls = [], []
    monkeypatch.setattr(voc, "box_ious", lambda *boxes: pairs.append(len(boxes[0])) or box_ious(*boxes))
    for count in (500, 5000):
        truth, found, wanted = make_many(count)
        pairs.clear()
        calls.append(count_calls(evaluate_voc, truth, found))
        assert sum(pairs) == wanted
    assert calls[1] < 1.1 * calls[0] < 5000
