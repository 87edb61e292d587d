"""Corners in the place of sizes are refused, and correct results never are."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detmix.evaluation.reading import read_ground_truth, read_predictions

MESSAGE = r"predictions: bbox must be \[x, y, width, height\], and these look like \[x1, y1, x2, y2\]"


def make_truth(boxes, images, sizes=True, side=640):
    known = {"height": side, "width": side} if sizes else {}
    rows = [{"image_id": int(i), "category_id": 1, "bbox": b} for i, b in zip(images, boxes.tolist(), strict=True)]
    kinds = [{"id": 1, "name": "cat"}]
    count = int(max(images)) + 1
    return {"images": [{"id": i, **known} for i in range(count)], "categories": kinds, "annotations": rows}


def make_results(boxes, images):
    rows = zip(images, boxes.tolist(), strict=True)
    return [{"image_id": int(i), "category_id": 1, "bbox": b, "score": 0.5} for i, b in rows]


def scene(seed, count, reach=600.0):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, reach / 2, (count, 2)), rng.uniform(4, reach / 2, (count, 2))], 1)
    return boxes, rng.integers(0, max(1, count // 4), count), rng


def moved(boxes, rng, share):
    """Each number moved by up to a share of its box's side, still in the image."""
    shifts = rng.uniform(-share, share, boxes.shape) * np.tile(boxes[:, 2:], 2)
    return (boxes + shifts).clip(0)


def corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def read(truth, results):
    return read_predictions(results, read_ground_truth(truth))


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("reach", [300.0, 600.0])
@pytest.mark.parametrize("count", [5, 40])
def test_corners_are_refused_in_any_part_of_images_of_any_size(count, reach, sizes):
    boxes, images, rng = scene(0, count, reach)
    noise = scene(1, 3 * count, reach)[0]
    found, where = np.concatenate([moved(boxes, rng, 0.1), noise]), np.tile(images, 4)
    truth = make_truth(boxes, images, sizes)
    assert len(read(truth, make_results(found, where))) == 4 * count
    wrong = corners(found)
    wrong[0, 2] += 10  # one that reaches beyond
    with pytest.raises(ValueError, match=MESSAGE):
        read(truth, make_results(wrong, where))


def test_large_objects_in_the_middle_tell_too():
    boxes = np.array([[120.0, 120.0, 400.0, 400.0]] * 12)  # within the image either way
    truth = make_truth(boxes, range(12))
    with pytest.raises(ValueError, match=r"mean IoU of 0.59, as the latter of 1.00.* - at `\$\[0\].bbox`"):
        read(truth, make_results(corners(boxes), range(12)))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0, 0.15), st.integers(0, 90), st.floats(10, 600))
@example(0, 1, 0.15, 0, 10.0)
def test_correct_results_are_never_refused(seed, count, share, noise, reach):
    boxes, images, rng = scene(seed, count, reach)
    false = scene(seed + 1, noise, reach)[0]
    found = np.concatenate([moved(boxes, rng, share), false])
    where = np.concatenate([images, rng.integers(0, max(images) + 1, noise)])
    truth = make_truth(boxes, images, sizes=bool(seed % 2))
    assert len(read(truth, make_results(found, where))) == count + noise


def test_detections_that_cannot_all_be_corners_are_let_through():
    boxes = np.array([[120.0, 120.0, 400.0, 400.0]] * 100)
    truth = make_truth(boxes, range(100))
    found, sizes = make_results(corners(boxes), range(100)), make_results(np.array([[300.0, 300, 50, 50]] * 2), (0, 1))
    with pytest.raises(ValueError, match=MESSAGE):
        read(truth, found + sizes[:1])  # of 101 one is less than a hundredth
    assert len(read(truth, found + sizes)) == 102


def test_one_object_may_be_overlapped_better_by_chance():
    truth = make_truth(np.array([[4.0, 4, 10, 10]]), [0])
    assert len(read(truth, make_results(np.array([[4.0, 4, 14, 14]]), [0]))) == 1  # IoU 0.51, as corners 1


def test_sets_without_objects_or_in_other_images_are_let_through():
    boxes, images, _ = scene(0, 8)
    truth = make_truth(boxes, images, sizes=False)
    assert len(read({**truth, "annotations": []}, make_results(corners(boxes), images))) == 8
    assert len(read({**truth, "annotations": truth["annotations"][:0]}, [])) == 0
