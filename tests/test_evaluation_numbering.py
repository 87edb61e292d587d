"""Ids of predictions that a file near them explains."""

import json
import re

import pytest

from detmix.evaluation import evaluate_coco
from detmix.evaluation.numbering import categories, stated_classes
from detmix.evaluation.reading import read_ground_truth, read_predictions
from tests.test_evaluation_coco import NAMES, make_scene

IMAGES = [{"id": 40, "file_name": "a/1.jpg"}, {"id": 20, "file_name": "a/2.jpg"}, {"id": 30, "file_name": "b/3.jpg"}]
TRUTH = {
    "images": IMAGES,
    "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [],
}
ROW = {"image_id": 40, "category_id": 9, "bbox": [0, 0, 10, 10], "score": 0.5}


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "predictions.json"


def read(path, truth=TRUTH):
    found = read_predictions(path, read_ground_truth(truth))
    return found.images.tolist(), found.labels.tolist()


def test_a_run_states_its_classes(tmp_path):
    classes = [{"id": 1, "name": "dog"}, {"id": 2, "name": "owl"}, {"id": 3, "name": "cat"}]
    rows = [{**ROW, "category_id": k} for k in (3, 1)]
    write(tmp_path, classes=classes)
    for folder in (tmp_path, tmp_path / "validate"):  # beside it, or one folder up
        path = write(folder, predictions=rows)
        assert read(path) == ([2, 2], [1, 0])
        assert stated_classes(path) == ["dog", "owl", "cat"]


def test_a_class_may_be_called_as_torchvision_calls_the_numbers_that_coco_left_out():
    assert categories(["N/A", "cat"], [1, 2]) == [{"id": 1, "name": "N/A"}, {"id": 2, "name": "cat"}]
    assert categories(["N/A", "cat", "N/A"], [1, 2, 3]) == [{"id": 2, "name": "cat"}]


def test_predict_states_its_images_too(tmp_path):
    images = [{"id": 1, "file_name": "x/3.jpg"}, {"id": 2, "file_name": "x/1.jpg"}, {"id": 3, "file_name": "x/0.jpg"}]
    stated = {"images": images, "categories": [{"id": 5, "name": "cat"}], "annotations": []}
    rows = [{**ROW, "image_id": i, "category_id": 5} for i in (1, 2)]
    path = write(tmp_path, images=stated, predictions=rows, classes=[])
    assert read(path) == ([1, 2], [1, 1])
    write(tmp_path, predictions=[{**rows[0], "image_id": 3}])
    with pytest.raises(ValueError, match=r"predictions.json \(ids as in .*images.json\): image_id 3 is '0.jpg', and"):
        read(path)


def test_a_name_that_the_ground_truth_does_not_have_is_told_with_some_that_it_has(tmp_path):
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "3.jpeg"}]
    stated = {"images": images, "categories": [{"id": 5, "name": "Cat"}, {"id": 4, "name": "dog"}]}
    path = write(tmp_path, images=stated, predictions=[{**ROW, "image_id": i, "category_id": 4} for i in (1, 2, 2)])
    told = "image_id 2 is '3.jpeg', and ground truth has none of that name; it has '3.jpg', '2.jpg', '1.jpg' - at `$[1]"
    with pytest.raises(ValueError, match=f"{re.escape(told)}.*; 2 of 3 rows"):
        read(path)
    write(tmp_path, predictions=[{**ROW, "image_id": 1, "category_id": 5}])
    told = "category_id 5 is 'Cat', and ground truth has none of that name; it has 'cat', 'dog' - at `$[0].category_id`"
    with pytest.raises(ValueError, match=re.escape(told)):
        read(path)


def test_names_may_be_written_as_windows_does_and_with_detours(tmp_path):
    truth = {**TRUTH, "images": [{"id": 1, "file_name": "a\\1.jpg"}, {"id": 2, "file_name": "./b/1.jpg"}]}
    stated = {"images": [{"id": 7, "file_name": "b/1.jpg"}, {"id": 8, "file_name": ".\\a/1.jpg"}]}
    rows = [{**ROW, "image_id": i} for i in (7, 8)]
    path = write(tmp_path, images={**stated, "categories": TRUTH["categories"]}, predictions=rows)
    assert read(path, truth)[0] == [1, 0]


def test_a_name_that_two_images_of_the_ground_truth_have_is_refused(tmp_path):
    truth = {**TRUTH, "images": [*IMAGES, {"id": 1, "file_name": "./a/1.jpg"}]}
    for name, refused in (("b/3.jpg", False), ("a/1.jpg", True)):
        stated = {"images": [{"id": 7, "file_name": name}], "categories": TRUTH["categories"]}
        path = write(tmp_path, images=stated, predictions=[{**ROW, "image_id": 7}])
        if refused:
            with pytest.raises(ValueError, match=r"images\.json: which image 'a/1\.jpg' is .*ground truth has 2 of"):
                read(path, truth)
        else:
            assert read(path, truth)[0] == [2]


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path):
    truth = {**TRUTH, "images": [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "b/1.jpg"}]}
    stated = {"images": [{"id": 7, "file_name": "b/1.jpg"}], "categories": TRUTH["categories"]}
    path = write(tmp_path, images=stated, predictions=[{**ROW, "image_id": 7}])
    assert read(path, truth) == ([1], [1])


def test_other_files_have_the_ids_of_the_ground_truth(tmp_path):
    write(tmp_path, classes=[{"id": 9, "name": "dog"}], results=[ROW])
    assert read(tmp_path / "results.json") == ([2], [1])
    assert stated_classes(tmp_path / "results.json") == []
    (tmp_path / "classes.json").unlink()
    assert read(write(tmp_path, predictions=[ROW])) == ([2], [1])


def test_numbers_do_not_depend_on_the_ids(tmp_path):
    truth, predictions = make_scene(0)
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    images = [{"id": 100 - i["id"], "file_name": i["file_name"]} for i in truth["images"]]
    stated = {"images": images, "categories": [{"id": 50 - k, "name": name} for k, name in NAMES.items()]}
    rows = [{**p, "image_id": 100 - p["image_id"], "category_id": 50 - p["category_id"]} for p in predictions]
    path = write(tmp_path, images=stated, predictions=rows)
    assert evaluate_coco(truth, path).metrics == evaluate_coco(truth, predictions).metrics


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classes": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, r"classes.json: id 1 appears twice"),
        ({"classes": {"categories": []}}, r"classes.json: Expected `array`, got `object`"),
        ({"classes": ["cat", "dog"]}, r"classes.json: Expected .*rename one of the two if it is a file of yours"),
        ({"classes": [{"id": 1, "name": "owl"}]}, r"\(ids as in .*classes.json\): unknown category_id 9 - at"),
        ({"images": {"images": []}}, r"images.json: Object missing required field `categories`"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, predictions=[ROW], **files))
