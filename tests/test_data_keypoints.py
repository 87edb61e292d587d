"""Keypoints of COCO files: what a sample gets, and what is refused."""

from __future__ import annotations

import copy
import json
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from detmix import MixupDataset, check_target
from detmix.data import DetectionDataset, read_coco
from detmix.data.skeleton import Skeleton

NAMES = ["nose", "left_eye", "right_eye"]


def content():
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 50} for i in (1, 2, 3)],
        "categories": [
            {"id": 4, "name": "dog"},
            {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]},
        ],
        "annotations": [
            {"id": 8, "image_id": 2, "category_id": 4, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
            {
                "id": 5,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 5, 20, 30],
                "area": 300.0,
                "iscrowd": 0,
                "keypoints": [12, 8, 2, 14.5, 7, 1, 0, 0, 0],
                "num_keypoints": 2,
            },
            {"id": 6, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1, "keypoints": [0] * 9},
            {"id": 7, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "iscrowd": 0, "keypoints": None},
        ],
    }


def write(folder, data):
    file = folder / "set.json"
    file.write_text(json.dumps(data))
    return file


def read(folder, data, **options):
    return read_coco(write(folder, data), folder, **{"keypoints": True, **options})


@pytest.fixture
def found(tmp_path):
    for number in (1, 2, 3):
        Image.new("RGB", (50, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return read(tmp_path, content())


def test_a_sample_has_the_keypoints_of_its_objects_and_crowds_have_gone(found):
    data = DetectionDataset(found)
    target = data[0][1]
    assert target["keypoints"].dtype == torch.float32
    assert target["keypoints"].tolist() == [[[12, 8, 2], [14.5, 7, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    assert data[1][1]["keypoints"].tolist() == [[[0, 0, 0]] * 3]  # a dog has none
    assert data[2][1]["keypoints"].shape == (0, 3, 3)
    for index in range(3):
        check_target(data[index][1], size=(40, 50))
    target["keypoints"].zero_()
    assert data[0][1]["keypoints"].sum() == 12 + 8 + 2 + 14.5 + 7 + 1  # a sample owns its memory


def test_the_skeleton_is_that_of_the_category_that_names_one(found):
    assert found.skeleton == Skeleton(tuple(NAMES), ((0, 1), (0, 2)))


def test_keypoints_are_left_out_unless_wanted(tmp_path):
    found = read(tmp_path, content(), keypoints=False)
    assert found.keypoints is None
    assert found.skeleton is None
    assert "keypoints" not in DetectionDataset(found).target_of(0)
    assert "keypoints" not in str(found.ground_truth())


def test_files_without_keypoints_are_read_whatever_else_their_categories_say(tmp_path):
    data = content()
    data["categories"][0] |= {"keypoints": "", "skeleton": 3}
    assert len(read(tmp_path, data, keypoints=False)) == 3


def test_masks_and_keypoints_come_together(tmp_path):
    data = content()
    for row in data["annotations"]:
        row["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    target = DetectionDataset(read(tmp_path, data, masks=True)).target_of(0)
    assert target["masks"].shape == (2, 40, 50)
    assert target["keypoints"].shape == (2, 3, 3)


def test_the_ground_truth_written_out_reads_back_the_same_here_and_in_pycocotools(tmp_path, found):
    truth = found.ground_truth()
    again = read(tmp_path, truth)
    np.testing.assert_array_equal(again.keypoints, found.keypoints)
    assert again.skeleton == found.skeleton
    theirs, given = COCO(write(tmp_path, truth)), COCO(write(tmp_path, content()))
    assert theirs.anns[5]["keypoints"] == given.anns[5]["keypoints"]
    assert [theirs.anns[i]["num_keypoints"] for i in (5, 6, 7, 8)] == [2, 0, 0, 0]
    assert theirs.cats[1]["skeleton"] == given.cats[1]["skeleton"]


def test_objects_that_are_dropped_take_their_keypoints_along(tmp_path):
    data = content()
    data["annotations"][0]["bbox"] = [1, 1, 0, 5]
    found = read(tmp_path, data)
    assert found.ids.tolist() == [5, 6, 7]
    assert found.keypoints[0].tolist() == [[12, 8, 2], [14.5, 7, 1], [0, 0, 0]]


def test_keypoints_without_names_are_numbered(tmp_path):
    data = content()
    del data["categories"][1]["keypoints"]
    assert read(tmp_path, data).skeleton == Skeleton(("1", "2", "3"), ((0, 1), (0, 2)))


def test_names_alone_tell_how_many_there_are(tmp_path):
    data = content()
    for row in data["annotations"]:
        row.pop("keypoints", None)
    assert read(tmp_path, data).keypoints.shape == (4, 3, 3)


def test_mixed_samples_have_the_keypoints_of_both(found):
    image, target = MixupDataset(DetectionDataset(found), seed=3)[0]
    assert target["keypoints"].shape == (len(target["boxes"]), 3, 3)
    assert target["keypoints"][0].tolist() == [[12, 8, 2], [14.5, 7, 1], [0, 0, 0]]
    check_target(target, size=tuple(image.shape[1:]))


def _keypoints_of(data, queue):
    queue.put(data[0][1]["keypoints"].tolist())


def test_a_spawned_process_sees_the_same_keypoints(found):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    data = DetectionDataset(found)
    process = context.Process(target=_keypoints_of, args=(data, queue))
    process.start()
    assert queue.get() == data[0][1]["keypoints"].tolist()
    process.join()


def _set(place, key, value):
    def change(data):
        section, row = place
        data[section][row][key] = value

    return change


def _no_keypoints(data):
    for row in (*data["categories"], *data["annotations"]):
        row.pop("keypoints", None)


def _half_alone(data):
    for row in data["annotations"]:
        row.pop("keypoints", None)
    data["annotations"][1]["keypoints"] = [1, 2]


REFUSED = {
    "not x, y and visibility": (_set(("annotations", 1), "keypoints", [1, 2, 2, 3]), r"annotations\[1\].*9 numbers.*4"),
    "half a keypoint alone": (_half_alone, r"annotations\[1\]: keypoints must be x, y and visibility .* 3 points"),
    "other number": (_set(("annotations", 2), "keypoints", [1, 2, 2] * 4), r"annotations\[2\].*9 numbers, got 12"),
    "not finite": (_set(("annotations", 1), "keypoints", [float("nan")] * 9), r"annotations\[1\].*finite"),
    "a text": (_set(("annotations", 1), "keypoints", "nose"), r"annotations\[1\]"),
    "two skeletons": (_set(("categories", 0), "keypoints", ["tail"] * 3), "same keypoints, got .*tail"),
    "beyond all images": (_set(("annotations", 1), "keypoints", [1e300] * 9), r"annotations\[1\].*finite"),
    "a name twice": (_set(("categories", 1), "keypoints", ["eye", "eye", "nose"]), "each once"),
    "an edge to nowhere": (_set(("categories", 1), "skeleton", [[0, 1]]), r"keypoints 1 ... 3, got \[0, 1\]"),
    "none": (_no_keypoints, "no keypoints"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_keypoints_is_named(tmp_path, case):
    change, message = REFUSED[case]
    data = copy.deepcopy(content())
    change(data)
    with pytest.raises(ValueError, match=f"set.json.*{message}"):
        read(tmp_path, data)


def test_images_without_objects_can_be_left_out_with_masks_and_keypoints_in_step(tmp_path):
    data = content()
    for row in data["annotations"]:
        row["segmentation"] = [[row["id"], 1, 30, 1, 30, 30]]
    data["images"].insert(0, {"id": 9, "file_name": "9.png", "height": 40, "width": 50})
    whole = DetectionDataset(read(tmp_path, data, masks=True))
    some = DetectionDataset(read(tmp_path, data, masks=True).with_objects())
    assert some.annotations.image_ids.tolist() == [1, 2]
    for index in (0, 1):
        ours, theirs = some.target_of(index), whole.target_of(index + 1)
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in theirs)


@pytest.mark.parametrize("shares", [False, True])
def test_keypoints_that_lie_outside_of_their_boxes_are_warned_of(tmp_path, caplog, shares):
    data = content()
    points = [0.3, 0.4, 2, 0.5, 0.5, 2, 0.4, 0.6, 1] if shares else [12, 8, 2, 14, 36, 2, 26, 7, 1]  # one just below
    data["annotations"][1]["keypoints"] = data["annotations"][3]["keypoints"] = points
    data["annotations"][3]["bbox"] = data["annotations"][1]["bbox"]
    read(tmp_path, data)
    told = [record.getMessage() for record in caplog.records if "visible keypoints" in record.getMessage()]
    assert len(told) == shares
    if shares:
        assert "annotations[1]: keypoint 1 lies at [0.3" in told[0]
        assert "6 of the 6 visible keypoints" in told[0]


def test_a_class_that_is_left_out_has_no_say_in_what_keypoints_there_are(tmp_path):
    data = content()
    data["categories"].append({"id": 9, "name": "person", "keypoints": ["tail"]})  # none is of it
    assert read(tmp_path, data).skeleton.names == tuple(NAMES)
    data["categories"][-1]["name"] = "cat"
    assert read(tmp_path, data, class_names=["dog", "person"]).skeleton.names == tuple(NAMES)
    with pytest.raises(ValueError, match="same keypoints"):
        read(tmp_path, data)


def test_lines_may_be_those_of_any_class_that_names_the_keypoints(tmp_path):
    data = content()
    data["categories"][0]["keypoints"] = NAMES  # the dog, before the person in the file and after it by its id
    assert read(tmp_path, data).skeleton == Skeleton(tuple(NAMES), ((0, 1), (0, 2)))
    data["categories"][0]["id"] = 0
    data["annotations"][0]["category_id"] = 0
    assert read(tmp_path, data).skeleton == Skeleton(tuple(NAMES), ((0, 1), (0, 2)))
