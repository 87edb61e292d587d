import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torchvision.datasets import CocoDetection

from detmix.evaluation import evaluate_coco, evaluate_voc, find_mistakes
from detmix.evaluation.reading import read_ground_truth, read_predictions

from .factories import write_coco_folder
from .hostile import ending

TRUTH = {
    "info": {"year": 2024},
    "images": [{"id": 9, "file_name": "b.jpg", "height": 40, "width": 60}, {"id": 4, "height": 20, "width": 30}],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 90.5, "iscrowd": 1},
        {"id": 0, "image_id": 9, "category_id": 7, "bbox": [1.5, 2, 3, 4], "difficult": True},
    ],
}
ROW = {"image_id": 4, "category_id": 3, "bbox": [0, 0, 10, 10.5], "score": 0.5}


def changed(where, number=0, **values):
    """The ground truth with one row of one of its lists changed; a value of None drops the key."""
    rows = list(TRUTH[where])
    rows[number] = {k: v for k, v in {**rows[number], **values}.items() if v is not None}
    return {**TRUTH, where: rows}


def found(rows, truth=TRUTH, **options):
    return read_predictions(rows, read_ground_truth(truth), **options)


def test_ground_truth_is_sorted_by_id_and_completed():
    truth = read_ground_truth(TRUTH)
    assert truth.image_ids.tolist() == [4, 9]
    assert truth.file_names == ("", "b.jpg")
    assert truth.sizes.tolist() == [[20, 30], [40, 60]]
    assert truth.category_ids.tolist() == [3, 7]
    assert truth.class_names == ("cat", "dog")
    objects = truth.objects
    assert (objects.images.tolist(), objects.labels.tolist()) == ([0, 1], [0, 1])
    assert objects.areas.tolist() == [90.5, 12.0]
    assert (objects.crowd.tolist(), objects.difficult.tolist()) == ([True, False], [False, True])
    assert objects.corners[1].tolist() == [2.5, 3, 4.5, 6]  # 1-based, the last pixel included


def test_the_object_of_pycocotools_is_read_as_its_file(tmp_path):
    write_coco_folder(tmp_path / "coco", 4)
    file = tmp_path / "coco" / "set.json"
    held = CocoDetection(str(tmp_path / "coco" / "images"), str(file)).coco
    rows = [{"image_id": 100, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}]
    assert evaluate_coco(held, rows).metrics == evaluate_coco(file, rows).metrics
    assert evaluate_voc(held, rows).ap == evaluate_voc(file, rows).ap
    with pytest.raises(ValueError, match="ground truth: Expected `object`, got `types.SimpleNamespace`"):
        read_ground_truth(SimpleNamespace(dataset=[held.dataset]))


def test_of_two_categories_of_one_name_that_with_objects_counts():
    for number in (1, 5, 8):
        truth = read_ground_truth({**TRUTH, "categories": [*TRUTH["categories"], {"id": number, "name": "dog"}]})
        assert (truth.category_ids.tolist(), truth.class_names) == ([3, 7], ("cat", "dog"))
        assert truth.objects.labels.tolist() == [0, 1]


@pytest.mark.parametrize("from_file", [False, True])
def test_predictions_keep_their_order(tmp_path, from_file):
    rows = [{**ROW, "image_id": 9}, ROW, {**ROW, "score": 1, "category_id": 7, "extra": "x"}]
    path = tmp_path / "found.json"
    path.write_text(json.dumps(rows))
    detections = found(path if from_file else rows)
    assert detections.images.tolist() == [1, 0, 0]
    assert detections.labels.tolist() == [0, 0, 1]
    assert detections.scores.tolist() == [0.5, 0.5, 1.0]
    assert detections.xywh[0].tolist() == [0, 0, 10, 10.5]
    assert detections.areas[0] == 105


def test_what_is_read_already_is_taken_as_it_is():
    truth = read_ground_truth(TRUTH)
    detections = read_predictions([ROW], truth)
    assert read_ground_truth(truth) is truth
    assert read_predictions(detections, truth) is detections
    assert evaluate_coco(truth, detections).metrics == evaluate_coco(TRUTH, [ROW]).metrics


@pytest.mark.parametrize("content", ["[]", " [ ] "])
def test_no_predictions_are_valid(tmp_path, content):
    (tmp_path / "found.json").write_text(content)
    assert len(found(tmp_path / "found.json")) == len(found([])) == 0


@pytest.mark.parametrize("value", [2**31, 2**63, 10**400, -1])
@pytest.mark.parametrize("key", ["height", "width"])
def test_a_size_that_no_image_has_is_named(key, value, tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(changed("images", 1, **{key: value})))
    with pytest.raises(ValueError, match=rf"truth\.json: .* - at `\$\.images\[1\]\.{key}`"):
        read_ground_truth(path)


def test_masks_of_every_form_become_run_lengths():
    square = np.zeros((20, 30), dtype=np.uint8, order="F")
    square[2:8, 3:9] = 1
    compressed = rle.encode(square)
    forms = [
        [[3, 2, 9, 2, 9, 8, 3, 8]],
        {"size": [20, 30], "counts": [62] + [6, 14] * 5 + [6, 432]},
        {**compressed, "counts": compressed["counts"].decode()},
        compressed,
    ]
    for form in forms:
        annotations = [{**TRUTH["annotations"][0], "segmentation": form, "area": None}]
        objects = read_ground_truth({**TRUTH, "annotations": annotations}, masks=True).objects
        assert rle.iou(objects.masks, [compressed], [0]).tolist() == [[1.0]]
        assert objects.areas.tolist() == [36]
    row = {**ROW, "segmentation": forms[2]}
    for rows, area in (([row], 105), ([{k: v for k, v in row.items() if k != "bbox"}], 36)):
        detections = found(rows, masks=True)
        assert detections.areas.tolist() == [area]
        assert detections.xywh.tolist() == [[3, 2, 6, 6]]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [30, 20], "counts": [600]}, r"polygons or run lengths of 20 x 30 pixels: it is of 30 x 20 - at `\$"),
        ({"size": [20, 30], "counts": 600}, r"counts must be text or a list, got int - at `\$"),
        ({"size": [20, 30], "counts": [0, 300]}, r"must add up to 600 pixels, got 300 - at `\$"),
        ({"size": [20, 30], "counts": [0, 700, -100]}, r"must lie in 0 \.\.\. 600, got 700 - at `\$"),
        (
            {"size": [20, 30], "counts": [2**62] * 4 + [600]},
            r"must lie in 0 \.\.\. 600, got 4611686018427387904 - at `\$",
        ),
        ({"size": [20, 30], "counts": [0, "600"]}, r"Expected `int`, got `str` - at `\$\[1\]` - at `\$"),
        ({"size": [20, 30], "counts": "09"}, r"must add up to 600 pixels, got 9 - at `\$"),
        ({"size": [20, 30], "counts": "é"}, r"characters from '0' to 'o' - at `\$"),
        ({"counts": "abc"}, r"polygons or run lengths of 20 x 30 pixels: 'size' - at `\$"),
    ],
)
def test_bad_masks_are_named(segmentation, message):
    row = {**ROW, "segmentation": segmentation}
    with pytest.raises(ValueError, match=message + r"\[0\].segmentation`"):
        found([row], masks=True)
    truth = changed("annotations", segmentation=segmentation)
    with pytest.raises(ValueError, match=message + r".annotations\[0\].segmentation`"):
        read_ground_truth({**truth, "annotations": truth["annotations"][:1]}, masks=True)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([1, 2, 3, 4, 5, 1e9], r"the point \[5.0, 1000000000.0\] lies far outside the image of 30x20 pixels"),
        ([1, 2, 3, 4, 5, math.nan], "lies far outside"),
        ([1, 2, 3, 4, 5, 6, 7], "pairs of numbers, got 7"),
    ],
)
def test_polygons_without_end_are_named(polygon, message):
    truth = changed("annotations", segmentation=[polygon])
    with pytest.raises(ValueError, match=message):
        read_ground_truth({**truth, "annotations": truth["annotations"][:1]}, masks=True)


@pytest.mark.parametrize("segmentation", [None, []])
def test_an_object_without_a_mask_is_named_where_masks_are_measured(tmp_path, segmentation):
    (tmp_path / "truth.json").write_text(
        json.dumps({**TRUTH, "annotations": [{**TRUTH["annotations"][0], "segmentation": segmentation}]})
    )
    assert len(read_ground_truth(tmp_path / "truth.json").objects) == 1
    message = r"truth.json: a mask must be .*, got .* - at `\$.annotations\[0\].segmentation`"
    with pytest.raises(ValueError, match=message):
        read_ground_truth(tmp_path / "truth.json", masks=True)


def test_masks_are_asked_for_only_where_they_are_needed():
    for truth in (TRUTH, changed("images", height=None)):
        assert len(read_ground_truth(truth).objects) == 2
    with pytest.raises(ValueError, match="missing required field `segmentation`"):
        read_ground_truth(TRUTH, masks=True)
    with pytest.raises(ValueError, match="masks need the height and width of their image, and image 9 has none"):
        read_ground_truth({**changed("images", height=None), "annotations": []}, masks=True)
    with pytest.raises(ValueError, match=r"missing required field `segmentation` - at `\$\[0\]`"):
        found([ROW], masks=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {**ROW, "image_id": 5}], r"unknown image_id 5 - at `\$\[1\].image_id`; 1 of 2 rows"),
        ([{**ROW, "image_id": 5}], "none of a known one: is this file of another data set?"),
        ([ROW, {**ROW, "category_id": 1}], r"unknown category_id 1 - at `\$\[1\].category_id`"),
        ([ROW, {k: v for k, v in ROW.items() if k != "category_id"}], r"field `category_id` - at `\$\[1\]`"),
        (
            [ROW, {**ROW, "score": float("nan")}],
            r"score must be finite, got nan - at `\$\[1\].score`; did the train",
        ),
        ([ROW, {**ROW, "score": 93.5}], r"in \[0, 1\], got 93.5 - at `\$\[1\].score`; are they percentages\?"),
        ([ROW, {**ROW, "score": 1.01}], r"in \[0, 1\], got 1.01 - at `\$\[1\].score`"),
        ([ROW, {**ROW, "score": -0.01}], r"in \[0, 1\], got -0.01 - at `\$\[1\].score`"),
        ([ROW, {**ROW, "score": -3.5}], r"got -3.5 - at `\$\[1\].score`; are they logits"),
        ([{**ROW, "bbox": [0, 0, float("inf"), 1]}], r"bbox must be finite, got .*inf.* - at `\$\[0\].bbox`"),
        ([{**ROW, "bbox": [0, 0, -2, 1]}], r"width and height of 0 or more, got .*-2.* - at `\$\[0\].bbox`"),
        ([{**ROW, "bbox": [0, 0, 1]}], r"length 4, got 3 - at `\$\[0\].bbox`"),
        ([ROW, {**ROW, "score": "high"}], r"Expected `float`, got `str` - at `\$\[1\].score`"),
        ([{k: v for k, v in ROW.items() if k != "score"}], r"missing required field `score` - at `\$\[0\]`"),
        ({"annotations": []}, "Expected `array`, got `object`"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_bad_predictions_name_file_row_and_key(tmp_path, rows, message, from_file):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(rows))
    name = r".*found\.json" if from_file else "predictions"
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        found(path if from_file else rows)


def test_labels_in_the_place_of_category_ids_are_recognised():
    truth = {**TRUTH, "categories": [{"id": i, "name": str(i)} for i in (1, 2, 7)]}
    truth["annotations"] = []
    with pytest.raises(ValueError, match=r"category_id 3 .*; 1 of 3 rows .*are they numbered 0, 1, 2"):
        found([{**ROW, "category_id": i} for i in (1, 2, 3)], truth)
    with pytest.raises(ValueError, match=r"category_id 0 .*; 1 of 1 rows .*are they numbered 0, 1, 2"):
        found([{**ROW, "category_id": 0}], truth)  # of which none is known


def test_what_ids_from_0_are_taken_for():
    truth = {
        "images": [{"id": i} for i in (0, 1)],
        "categories": [{"id": i, "name": str(i)} for i in (0, 1, 2)],
        "annotations": [],
    }

    def refused(key, ids, message):
        with pytest.raises(ValueError, match=message) as raised:
            found([{**ROW, "image_id": 0, "category_id": 0, key: i} for i in ids], truth)
        return str(raised.value)

    refused("category_id", (1, 2, 3), r"id 3 .* labels, 1 \.\.\. 3, and known are 0, 1, 2; pass .*category_ids$")
    refused("category_id", (2, 3), r"like labels")  # nothing may be of the first one
    refused("image_id", (1, 2), r"image_id 2 .*, and known are 0, 1: are they numbered from 1\?$")
    assert "numbered" not in refused("image_id", (0, 1, 2), r"image_id 2 .*; 1 of 3 rows .*, and known are 0, 1$")
    refused("image_id", (7, 8), r"; 2 of 2 rows .*none of a known one: .* data set\? Known are 0, 1$")


def test_an_id_in_a_gap_is_no_numbering():
    gaps = {**TRUTH, "categories": [{"id": k, "name": str(k)} for k in range(1, 91) if k != 12], "annotations": []}
    with pytest.raises(ValueError, match=r"unknown category_id 12 (?!.*numbered)"):
        found([{**ROW, "category_id": 12}], gaps)


@pytest.mark.parametrize("of_truth", [False, True])
def test_corners_in_the_place_of_sizes_are_recognised(of_truth):
    rng = np.random.default_rng(0)
    corner, far = rng.uniform(0, [40, 25], (50, 2)), rng.uniform(0, 1, (50, 2))
    corners = np.concatenate([corner, corner + 2 + far * ([58, 38] - corner)], 1)
    sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    message = r"must be \[x, y, width, height\], and these look like \[x1, y1, x2, y2\].* - at `\$"

    def read(boxes):
        rows = [{**ROW, "image_id": 9, "bbox": box} for box in boxes.tolist()]
        return read_ground_truth({**TRUTH, "annotations": rows}).objects if of_truth else found(rows)

    assert len(read(sizes)) == 50
    with pytest.raises(ValueError, match=message):
        read(corners)


def test_boxes_a_little_beyond_their_image_are_let_through():
    assert len(found([{**ROW, "image_id": 9, "bbox": [2, 2, 60, 40]}] * 3)) == 3


def test_shares_in_the_place_of_pixels_are_recognised():
    with pytest.raises(ValueError, match=r"must be in pixels, and no number in it is above 1.* - at `\$\[0\].bbox`"):
        found([{**ROW, "bbox": [0.1, 0.1, 0.5, 0.5]}] * 2)


@pytest.mark.parametrize("make", [lambda value: np.array(value)[()], np.array, torch.tensor])
def test_numbers_of_numpy_and_torch_are_numbers(make):
    row = {"image_id": make(4), "category_id": make(3), "bbox": make([0, 0, 10, 10.5]), "score": make(0.5)}
    assert found([row]).corners.tolist() == found([ROW]).corners.tolist()
    result = evaluate_coco(TRUTH, [row], max_detections=(1.0, np.float64(10)))
    assert result.metrics == evaluate_coco(TRUTH, [ROW], max_detections=(1, 10)).metrics


def test_results_are_short_enough_to_be_read_at_a_prompt():
    for result in (evaluate_coco(TRUTH, [ROW]), evaluate_voc(TRUTH, [ROW]), find_mistakes(TRUTH, [ROW])):
        assert "array([0" not in repr(result)
        assert len(repr(result)) < 1000


@pytest.mark.parametrize("from_file", [False, True])
def test_whole_floats_are_integers_and_numbers_in_quotes_are_none(tmp_path, from_file):
    def read(row):
        (tmp_path / "found.json").write_text(json.dumps([row]))
        return found(tmp_path / "found.json" if from_file else [row])

    detections = read({**ROW, "image_id": 9.0, "category_id": 7.0, "score": 1.0})
    assert (detections.images.tolist(), detections.labels.tolist(), detections.scores.tolist()) == ([1], [1], [1])
    for key, value in (("image_id", "9"), ("image_id", 9.5), ("category_id", "7")):
        with pytest.raises(ValueError, match=rf"Expected `int.*`, got `(str|float)` - at `\$\[0\].{key}`"):
            read({**ROW, key: value})


def test_a_proposal_needs_no_class():
    proposal = {k: v for k, v in ROW.items() if k != "category_id"}
    assert found([{**ROW, "category_id": 7}, proposal], class_agnostic=True).labels.tolist() == [1, 0]


def test_a_proposal_needs_no_class_that_its_run_has_in_common_with_the_ground_truth(tmp_path):
    (tmp_path / "classes.json").write_text('[{"id": 1, "name": "nothing of this kind"}]')
    file = tmp_path / "predictions.json"
    proposal = {k: v for k, v in ROW.items() if k != "category_id"}
    file.write_text(json.dumps([proposal] * 2))
    assert found(file, class_agnostic=True).labels.tolist() == [0, 0]
    file.write_text(json.dumps([proposal, {**ROW, "category_id": 1}]))
    with pytest.raises(ValueError, match=r"nothing of this kind"):
        found(file, class_agnostic=True)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (changed("annotations", image_id=5), r"unknown image_id 5 - at `\$.annotations\[0\].image_id`"),
        (changed("annotations", category_id=4), r"unknown category_id 4 - at `\$.annotations\[0\].category_id`"),
        (changed("annotations", 1, bbox=None), r"missing required field `bbox` - at `\$.annotations\[1\]`"),
        (changed("annotations", bbox=[0, 0, 1, -1]), r"width and height of 0 or more.* at `\$.annotations\[0\].bbox`"),
        (
            changed("annotations", area=-1),
            r"area must be finite and 0 or more, got -1.0 - at `\$.annotations\[0\].area`",
        ),
        (changed("annotations", area=math.inf), r"area must be finite .* at `\$.annotations\[0\].area`"),
        (changed("annotations", iscrowd=7), r"Expected `int` <= 1 - at `\$.annotations\[0\].iscrowd`"),
        (changed("annotations", bbox=[0, 0, 1e308, 1]), r"bbox must be in pixels.* at `\$.annotations\[0\].bbox`"),
        (changed("annotations", id=0), r"id 0 appears twice - at `\$.annotations\[1\].id`, first at"),
        (
            changed("categories", name="cat"),
            r"categories\[1\] and categories\[0\] both have the name 'cat', and objects",
        ),
        (changed("categories", id=3), r"id 3 appears twice - at `\$.categories\[1\].id`"),
        (changed("images", id=4), r"id 4 appears twice - at `\$.images\[1\].id`"),
        ({k: v for k, v in TRUTH.items() if k != "images"}, "missing required field `images`"),
    ],
)
def test_bad_ground_truth_names_file_row_and_key(tmp_path, truth, message):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=rf"truth\.json: .*{message}"):
        read_ground_truth(path)
    with pytest.raises(ValueError, match=rf"ground truth: .*{message}"):
        read_ground_truth(truth)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON.*was it cut short"),
        (b'[{"image_id": 4, "categ', "not JSON.*was it cut short"),
        (b"\xff\xd8\xff\xe0", "not JSON"),
        (b"[}", "not JSON"),
    ],
)
def test_a_file_that_is_not_json_is_named(tmp_path, content, message):
    path = tmp_path / "found.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"found\.json: {message}"):
        found(path)


def test_results_and_annotations_that_were_swapped_are_recognised(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    with pytest.raises(ValueError, match=r"truth\.json: .*were the two swapped\?"):
        found(tmp_path / "truth.json")
    with pytest.raises(ValueError, match=r"ground truth: .*were the two swapped\?"):
        read_ground_truth([ROW])


def test_results_in_an_object_are_recognised():
    with pytest.raises(ValueError, match="results a list that stands alone, in no object"):
        found({"results": [ROW]})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        read_ground_truth(tmp_path / "nowhere.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for read in (read_ground_truth, lambda path: read_predictions(path, read_ground_truth(TRUTH))):
        with ending(60), pytest.raises(ValueError, match=r"pipe\.json: not a file, but a folder, a pipe or a device"):
            read(tmp_path / "pipe.json")


def test_inputs_are_not_changed():
    before = json.dumps([TRUTH, ROW])
    evaluate_coco(TRUTH, [ROW])
    assert json.dumps([TRUTH, ROW]) == before
