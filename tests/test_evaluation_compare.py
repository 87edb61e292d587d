"""The paired bootstrap: its point estimates, the measures of a draw against copies of images, and its calibration."""

import numpy as np
import pytest
from pycocotools import mask as rle

from detmix.evaluation import compare_coco, compare_voc, evaluate_coco, evaluate_voc
from detmix.evaluation.backends import rankings_of, run_pycocotools
from detmix.evaluation.compare import _measure_coco, _measure_voc
from detmix.evaluation.curves import RECALLS_2007
from detmix.evaluation.reading import read_ground_truth, read_predictions
from detmix.evaluation.voc import rank_voc
from tests.test_evaluation_coco import add_masks, make_scene

SHARED = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


def copied(truth, predictions, counts):
    """The data set in which image i is there counts[i] times, each copy with its objects and detections."""
    copies = [(i, 1000 * c + i) for i, count in enumerate(counts) for c in range(count)]
    images = [{"id": new} for _, new in copies]
    objects, found = (
        [{**row, "image_id": new} for old, new in copies for row in rows if row["image_id"] == old]
        for rows in (truth["annotations"], predictions)
    )
    objects = [{**row, "id": n} for n, row in enumerate(objects, 1)]
    return {**truth, "images": images, "annotations": objects}, found


def distinct(predictions):
    """Without ties, which copies would bring into another order."""
    scores = np.random.default_rng(0).permutation(len(predictions)) / len(predictions)
    return [{**row, "score": float(score)} for row, score in zip(predictions, scores, strict=True)]


def coco_draws(truth, predictions, weights):
    read = read_ground_truth(truth)
    evaluation = run_pycocotools(read, read_predictions(predictions, read), "bbox")
    return _measure_coco(rankings_of(evaluation), read.class_names, evaluation.params, weights)


@pytest.mark.parametrize("seed", range(3))
def test_values_are_exactly_those_of_the_evaluators(seed):
    truth, predictions = make_scene(seed)
    sets = predictions, predictions[::2]
    result = compare_coco(truth, *sets, resamples=5)
    for side, rows in zip(("first", "second"), sets, strict=True):
        alone = evaluate_coco(truth, rows)
        wanted = {name: alone.metrics[name] for name in SHARED}
        wanted |= {f"AP/{name}": alone.ap_by_class[name] for name in ("cat", "dog")}
        assert {name: getattr(difference, side) for name, difference in result.items()} == wanted
    for options in ({}, {"use_07_metric": True, "iou": 0.7}):
        result = compare_voc(truth, *sets, resamples=5, **options)
        for side, rows in zip(("first", "second"), sets, strict=True):
            alone = evaluate_voc(truth, rows, **options)
            values = {name: getattr(difference, side) for name, difference in result.items()}
            assert values == {"AP": alone.ap, **{f"AP/{name}": alone.ap_by_class[name] for name in ("cat", "dog")}}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [[1] * 6, [0, 2, 1, 0, 3, 1], [0, 0, 0, 6, 0, 0]])
def test_a_draw_measures_what_copies_of_the_images_would(seed, counts):
    truth, predictions = make_scene(seed)
    predictions = distinct(predictions)
    alone = evaluate_coco(*copied(truth, predictions, counts))
    draws = coco_draws(truth, predictions, np.array([counts, [1] * 6], dtype=np.float64))
    for name in SHARED:
        wanted = alone.metrics[name]
        assert draws[name][0] == pytest.approx(np.nan if wanted == -1 else wanted, abs=1e-12, nan_ok=True)
    read = read_ground_truth(truth)
    rankings = rank_voc(read, read_predictions(predictions, read), 0.5)
    for recalls in (None, RECALLS_2007):
        alone = evaluate_voc(*copied(truth, predictions, counts), use_07_metric=recalls is not None)
        drawn = _measure_voc(rankings, recalls, np.array([counts], dtype=np.float64))
        assert drawn["AP"][0] == pytest.approx(alone.ap, abs=1e-12)


def make_pair(seed, num_images=100):
    """A ground truth and the detections of two detectors that are equally good: hard images are hard for both."""
    rng = np.random.default_rng(seed)
    objects, found = [], ([], [])
    for image in range(num_images):
        hard = rng.random()
        for _ in range(rng.integers(0, 5)):
            kind, box = int(rng.integers(1, 3)), np.concatenate([rng.uniform(0, 60, 2), rng.uniform(20, 60, 2)])
            objects.append({"image_id": image, "category_id": kind, "bbox": box.tolist()})
            for rows in found:
                if rng.random() < 0.85 - 0.4 * hard:
                    near = box + rng.normal(0, 0.05 + 0.1 * hard, 4) * np.tile(box[2:], 2)
                    near[2:] = near[2:].clip(4)
                    seen = kind if rng.random() < 0.9 else 3 - kind
                    rows.append(
                        {"image_id": image, "category_id": seen, "bbox": near.tolist(), "score": rng.beta(4, 2)}
                    )
        for rows in found:
            for _ in range(rng.poisson(1.5)):
                box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(20, 60, 2)]).tolist()
                kind = int(rng.integers(1, 3))
                rows.append({"image_id": image, "category_id": kind, "bbox": box, "score": rng.beta(2, 3)})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": [{"id": i} for i in range(num_images)], "categories": categories, "annotations": objects}, *found


def test_intervals_cover_no_difference_in_92_to_98_of_100_pairs_without_one():
    covered = {"COCO AP": [], "VOC AP": []}
    for seed in range(200):
        truth, first, second = make_pair(seed, num_images=60)
        options = {"resamples": 200, "seed": seed}
        covered["COCO AP"].append(not compare_coco(truth, first, second, **options)["AP"].clear)
        covered["VOC AP"].append(not compare_voc(truth, first, second, **options)["AP"].clear)
    assert all(0.92 <= np.mean(hits) <= 0.98 for hits in covered.values()), {k: np.mean(v) for k, v in covered.items()}


def test_a_real_difference_is_clear():
    truth, first, _ = make_pair(0)
    worse = [row for n, row in enumerate(first) if n % 3]
    for compare in (compare_coco, compare_voc):
        difference = compare(truth, first, worse, resamples=200)["AP"]
        assert difference.clear
        assert difference.low < difference.value < difference.high < 0


def test_a_set_against_itself_does_not_differ():
    truth, first, _ = make_pair(0, num_images=20)
    for difference in compare_coco(truth, first, first, resamples=20).values():
        assert (difference.value, difference.low, difference.high, difference.clear) == (0, 0, 0, False)


def test_draws_follow_the_seed_and_are_counted():
    truth, first, second = make_pair(1, num_images=20)
    steps = []
    once = compare_voc(truth, first, second, resamples=120, seed=3, on_step=lambda *step: steps.append(step))
    assert steps == [(50, 120), (100, 120), (120, 120)]
    assert once == compare_voc(truth, first, second, resamples=120, seed=3)
    assert once != compare_voc(truth, first, second, resamples=120, seed=4)
    assert once["AP"].draws == 120


@pytest.mark.parametrize("compare", [compare_coco, compare_voc])
def test_an_interval_of_less_confidence_lies_within_one_of_more(compare):
    pair = make_pair(0, num_images=20)
    narrow, wide = (compare(*pair, resamples=100, confidence=confidence)["AP"] for confidence in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.high < wide.high


def one_class(images, with_objects):
    """A ground truth, and detections that find all of its objects."""
    truth = {"images": [{"id": i} for i in range(images)], "categories": [{"id": 1, "name": "cat"}]}
    box = {"category_id": 1, "bbox": [0, 0, 50, 50]}
    truth["annotations"] = [{**box, "image_id": i} for i in range(with_objects)]
    return truth, [{**row, "score": 0.5} for row in truth["annotations"]]


@pytest.mark.parametrize(
    ("compare", "options", "wanted"),
    [
        (compare_coco, {}, 51 / 101 * 8 / 10),
        (compare_coco, {"iou_type": "segm"}, 51 / 101 * 3 / 10),
        (compare_voc, {}, 1 / 2),
        (compare_voc, {"use_07_metric": True}, 6 / 11),
        (compare_voc, {"iou": 0.9}, 0),
    ],
)
def test_where_all_images_are_alike_so_are_all_draws(compare, options, wanted):
    """One of two objects is found in each, the box with an IoU of 0.85, the mask, without nine lines, of 0.625."""
    images = [{"id": i, "height": 100, "width": 100} for i in range(5)]
    objects = [{"image_id": i, "bbox": box} for i in range(5) for box in ([0, 0, 40, 40], [50, 50, 40, 40])]
    found = [{"image_id": i, "bbox": [0, 0, 40, 34], "score": 0.5} for i in range(5)]
    for row in objects + found:
        row["category_id"] = 1
    add_masks(objects, size=100)
    mask = np.zeros((100, 100), np.uint8, order="F")
    mask[[*range(24), 33], :40] = 1
    encoded = rle.encode(mask)
    for row in found:
        row["segmentation"] = {**encoded, "counts": encoded["counts"].decode()}
    truth = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": objects}
    result = compare(truth, [], found, **options, resamples=20)["AP"]
    assert [result.second, result.low, result.high] == pytest.approx([wanted] * 3)


@pytest.mark.parametrize("compare", [compare_coco, compare_voc])
def test_draws_without_objects_are_left_out(compare):
    truth, hits = one_class(4, 2)
    result = compare(truth, [], hits, resamples=2000)["AP"]
    assert result.draws == pytest.approx(1875, abs=44)  # of 16 draws one has none; four standard deviations
    assert (result.low, result.high, result.images) == (pytest.approx(1), pytest.approx(1), 2)
    assert result.clear


@pytest.mark.parametrize("compare", [compare_coco, compare_voc])
@pytest.mark.parametrize("images", [1, 2, 30])
def test_one_image_with_objects_gives_no_interval(compare, images):
    truth, hits = one_class(images, 1)
    for difference in compare(truth, [], hits, resamples=20).values():
        assert difference.value == pytest.approx(1)
        assert np.isnan([difference.low, difference.high]).all()
        assert (difference.images, difference.clear) == (1, False)


def test_images_are_counted_by_class_and_size():
    truth, first, second = make_pair(0, num_images=30)
    truth["annotations"] = [{**a, "area": 100.0 if a["image_id"] < 7 else 2000.0} for a in truth["annotations"]]
    result = compare_coco(truth, first, second, resamples=2)

    def wanted(rows):
        return len({row["image_id"] for row in rows})

    rows = truth["annotations"]
    cats, dogs = ([row for row in rows if row["category_id"] == kind] for kind in (1, 2))
    assert {result[name].images for name in ("AP", "AP50", "AP75", "AR100")} == {wanted(rows)}
    assert [result["AP/cat"].images, result["AP/dog"].images] == [wanted(cats), wanted(dogs)]
    assert result["APs"].images == wanted([row for row in rows if row["area"] == 100])
    assert compare_voc(truth, first, second, resamples=2)["AP/cat"].images == wanted(cats)


@pytest.mark.parametrize("empty", ["images", "categories"])
@pytest.mark.parametrize("compare", [compare_coco, compare_voc])
def test_no_images_or_no_categories_to_compare(compare, empty):
    nothing = {"images": [{"id": 0}], "categories": [{"id": 1, "name": "cat"}], "annotations": [], empty: []}
    assert compare(nothing, [], [], resamples=3) == {}


def test_a_class_without_objects_and_detections_changes_nothing():
    truth, first, second = make_pair(0, num_images=4)
    wider = {**truth, "categories": [*truth["categories"], {"id": 99, "name": "yak"}]}
    assert compare_coco(wider, first, second, resamples=5) == compare_coco(truth, first, second, resamples=5)


def test_nothing_to_compare():
    nothing = {"images": [{"id": 0}], "categories": [{"id": 1, "name": "cat"}], "annotations": []}
    assert compare_coco(nothing, [], [], resamples=3) == compare_voc(nothing, [], [], resamples=3) == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resamples": 0}, ValueError, "resamples must be 1 or more, got 0"),
        ({"resamples": 2.5}, TypeError, "resamples must be an integer, got 2.5"),
        ({"confidence": 1.0}, ValueError, r"confidence must lie in \(0, 1\), got 1.0"),
        ({"confidence": 0.0}, ValueError, r"confidence must lie in \(0, 1\), got 0.0"),
    ],
)
@pytest.mark.parametrize("compare", [compare_coco, compare_voc])
def test_refuses_what_makes_no_interval(compare, options, error, message):
    with pytest.raises(error, match=message):
        compare(*make_pair(0, num_images=3), **options)


def test_refuses_another_iou_type():
    with pytest.raises(ValueError, match="iou_type must be one of bbox, segm, keypoints, got 'segmentation'"):
        compare_coco(*make_pair(0, num_images=3), iou_type="segmentation")
