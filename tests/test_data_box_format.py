"""Corners and shares of the image are told from xywh in pixels, and boxes in pixels are never taken for them."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detmix.data import read_coco, read_voc
from detmix.data.box_format import wrong_format
from detmix.evaluation.reading import read_ground_truth

from .test_data_cache import BCCD

SIDES = st.integers(1, 2000)
POSITIONS = st.floats(0, 1, width=32)


def told(boxes, *sides):
    """What is told of boxes in images of these sides (H, W); one image for all, or one for each."""
    images = np.arange(len(boxes)) if len(sides) > 1 else np.zeros(len(boxes), np.int64)
    return wrong_format(np.array(boxes, float).reshape(-1, 4), images, np.array(sides).reshape(-1, 2))


def is_corners(found):
    return found is not None and "these look like [x1, y1, x2, y2]" in found[1]


def is_shares(found):
    return found is not None and "are they shares of the image?" in found[1]


@st.composite
def scenes(draw, least=0, side=SIDES):
    """Boxes as (x1, y1, x2, y2) in shares of their image, and the images' sides; (M, 4) and (M, 2)."""
    rows = draw(st.lists(st.tuples(st.tuples(*[POSITIONS] * 4), st.tuples(side, side)), min_size=least, max_size=12))
    shares = np.array([row[0] for row in rows]).reshape(-1, 2, 2)
    return np.sort(shares, axis=1).reshape(-1, 4), np.array([row[1] for row in rows]).reshape(-1, 2)


def as_sizes(corners):
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


@settings(max_examples=200, deadline=None)
@given(scenes(), st.sampled_from([1, 1.09]), st.booleans())
@example((np.array([[0.0, 0, 1, 1]]), np.array([[1, 1]])), 1, False)
@example((np.array([[0.5, 0.5, 1, 1]] * 2), np.array([[20, 2]] * 2)), 1, False)
def test_boxes_in_pixels_are_let_through(scene, reach, whole):
    shares, sides = scene
    boxes = as_sizes(shares * reach * np.tile(sides[:, ::-1], 2))
    boxes = boxes.round() if whole else boxes
    if boxes.max(initial=0) > 1 or not (boxes % 1).any():
        assert wrong_format(boxes, np.arange(len(boxes)), sides) is None


@given(scenes(least=5, side=st.integers(20, 2000)))
def test_corners_beyond_the_middle_are_told(scene):
    shares, sides = scene
    corners = (0.6 + 0.4 * shares) * np.tile(sides[:, ::-1], 2)
    row, message = wrong_format(corners, np.arange(len(corners)), sides)
    assert row == 0
    assert f"as the former {len(corners)} of the {len(corners)} looked at reach beyond their image" in message
    assert f"got {corners[0].tolist()}" in message
    assert wrong_format(as_sizes(corners), np.arange(len(corners)), sides) is None


@given(scenes(least=2, side=st.integers(17, 2000)))
def test_shares_of_the_image_are_told(scene):
    shares, sides = scene
    boxes = as_sizes(shares)
    fractions = (boxes % 1).any() and boxes[:, 2:].any()
    assert is_shares(wrong_format(boxes, np.arange(len(boxes)), sides)) == fractions


def test_few_boxes_tell_nothing():
    assert told([[80, 80, 90, 90]] * 4, (100, 100)) is None
    assert is_corners(told([[80, 80, 90, 90]] * 5, (100, 100)))
    assert told([[0.1, 0.1, 0.5, 0.5]], (100, 100)) is None
    assert is_shares(told([[0.1, 0.1, 0.5, 0.5]] * 2, (100, 100)))
    assert told([], (100, 100)) is None


def test_some_boxes_may_reach_far_beyond_their_image():
    inside, beyond = [10, 20, 30, 40], [60, 70, 80, 90]
    assert told([inside] * 7 + [beyond] * 3, (100, 100)) is None
    assert told([inside] * 6 + [beyond] * 4, (100, 100))[0] == 6
    assert told([beyond] * 9 + [[60, 70, 20, 20]], (100, 100)) is None  # no corners


def test_specks_in_the_first_pixel_are_let_through():
    assert told([[0, 0, 1, 1], [1, 1, 1, 1]], (100, 100)) is None
    assert told([[0.5, 0.5, 0.0, 0.0]] * 2, (100, 100)) is None
    assert told([[0.5, 0.5, 0.25, 0.25]] * 2, (16, 16)) is None


def test_images_without_a_size_and_numbers_that_are_none_tell_nothing():
    wrong = [[80, 80, 90, 90]] * 6
    assert told(wrong, *[(0, 0)] * 6) is None
    assert told(wrong, *[(0, 0)] * 3, *[(100, 100)] * 3) is None
    nan = [[np.nan, 80, 90, 90], [np.inf, -np.inf, 1e308, 1e308]]
    assert told([*nan, *wrong], (100, 100))[0] == 2
    assert told(nan * 3, (100, 100)) is None


def test_of_many_boxes_some_are_looked_at():
    boxes = np.tile([[10.0, 20, 30, 40]], (50_000, 1))
    assert told(boxes, (100, 100)) is None
    boxes[1:] = [60, 70, 80, 90]
    row, _ = told(boxes, (100, 100))
    assert boxes[row].tolist() == [60, 70, 80, 90]
    assert told(boxes[:20_000], (100, 100))[1].count("19999 of the 20000 looked at") == 1


def test_one_box_in_pixels_tells_that_none_is_a_share():
    boxes = np.tile([[0.1, 0.1, 0.5, 0.5]], (50_000, 1))
    assert is_shares(told(boxes, (100, 100)))
    boxes[1] = [10, 10, 50, 50]
    assert told(boxes, (100, 100)) is None


def write(tmp_path, boxes):
    rows = [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes, 1)]
    images = [{"id": 1, "file_name": "1.jpg", "height": 100, "width": 120}]
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": rows}))
    return path


@pytest.mark.parametrize("on_invalid", ["drop", "raise"])
@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[90, 80, 110, 99]] * 6, r"bbox must be \[x, y, width, height\], and these look like \[x1, y1, x2, y2\]: .*"),
        ([[0.5, 0.25, 0.5, 0.125]] * 6, r"bbox must be in pixels, and no number in it is above 1: are they shares .*"),
    ],
)
def test_the_readers_refuse_the_same(boxes, message, on_invalid, tmp_path):
    path = write(tmp_path, boxes)
    with pytest.raises(ValueError, match=rf"set\.json: annotations\[0\]: {message}got \["):
        read_coco(path, tmp_path, on_invalid=on_invalid)
    with pytest.raises(ValueError, match=rf"set\.json: {message} - at `\$\.annotations\[0\]\.bbox`"):
        read_ground_truth(path)


def test_a_single_box_is_clipped_as_ever(tmp_path):
    assert read_coco(write(tmp_path, [[90, 80, 110, 99]]), tmp_path).boxes.tolist() == [[90, 80, 120, 100]]
    assert read_coco(write(tmp_path, [[0.5, 0.5, 0.25, 0.25]]), tmp_path).boxes.tolist() == [[0.5, 0.5, 0.75, 0.75]]


@pytest.mark.skipif(not BCCD.is_dir(), reason="the blood cell images are not in data/bccd")
@pytest.mark.parametrize("image_set", ["train", "val"])
def test_the_blood_cells_in_a_coco_file_are_read(image_set, tmp_path):
    cells = read_voc(BCCD, image_set, cache_dir=False)
    (tmp_path / "cells.json").write_text(json.dumps(cells.ground_truth()))
    found = read_coco(tmp_path / "cells.json", tmp_path)
    assert found.boxes.tolist() == cells.boxes.tolist()
    assert found.labels.tolist() == cells.labels.tolist()
