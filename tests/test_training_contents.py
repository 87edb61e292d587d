"""What a run is told of its data before it begins."""

import json

import pytest

from detmix.training import DetectionData, ShapesOptions

from .test_configs import write_coco

FILE = "annotations/instances_{}.json"


@pytest.fixture
def change(tmp_path):
    """Writes a data set of two splits, and puts other things into a split's file."""
    write_coco(tmp_path)

    def put(split, **content):
        file = tmp_path / FILE.format(split)
        file.write_text(json.dumps(json.loads(file.read_text()) | content))

    return put


def doubts(root, stage="fit", **settings):
    splits = {"train": ["train2017"], "val": "val2017", "test": "val2017"}
    return DetectionData("coco", root=str(root), augment=[], **{**splits, **settings}).doubts(stage)


def test_sound_data_and_made_up_scenes_raise_no_doubts(tmp_path, change):
    assert doubts(tmp_path) == doubts(tmp_path, "test") == []
    assert DetectionData(shapes=ShapesOptions(train=2, val=1)).doubts("fit") == []


@pytest.mark.parametrize(("stage", "evaluated"), [("fit", "val"), ("validate", "val"), ("test", "test")])
def test_training_data_that_is_evaluated_on_is_told_of(tmp_path, change, stage, evaluated):
    (tmp_path / "annotations" / "instances_link.json").symlink_to(tmp_path / FILE.format("train2017"))
    for other in ("train2017", "link"):
        [told] = doubts(tmp_path, stage, **{evaluated: other}, images="train2017")
        assert told.startswith(
            f"{tmp_path / FILE.format('train2017')}: data.train has 4 of the 4 images of data.{evaluated}"
        )


def test_images_of_two_splits_are_counted(tmp_path, change):
    rows = json.loads((tmp_path / FILE.format("val2017")).read_text())["images"]
    change("val2017", images=[rows[0], *({**row, "file_name": f"others/{row['id']}.jpg"} for row in rows[1:])])
    [told] = doubts(tmp_path, images="train2017")
    assert "data.train has 1 of the 4 images of data.val (0.jpg is one), so" in told


def test_training_splits_without_objects_are_told_of_together(tmp_path, change):
    change("train2017", annotations=[])
    [told] = doubts(tmp_path)
    assert told.startswith(f"{tmp_path / FILE.format('train2017')}: no object is annotated for data.train")
    assert doubts(tmp_path, train=["val2017", "train2017"], val="val2017")[1:] == []


@pytest.mark.parametrize(("stage", "evaluated"), [("fit", "val"), ("test", "test")])
def test_evaluated_data_without_objects_are_told_of(tmp_path, change, stage, evaluated):
    change("val2017", annotations=[])
    [told] = doubts(tmp_path, stage)
    assert told.startswith(f"{tmp_path / FILE.format('val2017')}: no object is annotated for data.{evaluated}")


def test_a_class_that_is_trained_on_and_not_evaluated_on_is_told_of(tmp_path, change):
    rows = json.loads((tmp_path / FILE.format("val2017")).read_text())["annotations"]
    change("val2017", annotations=[row for row in rows if row["category_id"] == 3])
    [told] = doubts(tmp_path)
    assert told == (
        f"{tmp_path / FILE.format('val2017')}: no object of data.val is of 'train', while some of data.train are, so "
        "AP is the mean over 1 class of 2"
    )
    rows = json.loads((tmp_path / FILE.format("train2017")).read_text())["annotations"]
    change("train2017", annotations=[row for row in rows if row["category_id"] == 3])
    assert doubts(tmp_path, class_names=["car", "train"]) == []  # neither is trained on what is not there


def test_crowds_are_no_objects(tmp_path, change):
    rows = json.loads((tmp_path / FILE.format("train2017")).read_text())["annotations"]
    change("train2017", annotations=[{**row, "iscrowd": 1} for row in rows])
    [told] = doubts(tmp_path)
    assert "no object is annotated for data.train" in told
    change("train2017", annotations=[*rows[:2], *({**row, "iscrowd": 1} for row in rows[2:])])
    assert doubts(tmp_path) == []


def test_a_class_without_training_objects_is_told_of_unless_the_classes_are_named(tmp_path, change):
    names = {3: "car", 7: "a train", 1: "all"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    for split in ("train2017", "val2017"):
        change(split, categories=categories)
    [told] = doubts(tmp_path)
    assert "no training object is of 'all'" in told
    assert told.endswith("""--data.class_names '["car", "a train"]'""")
    assert doubts(tmp_path, class_names=["car", "a train"]) == doubts(tmp_path, class_names=list(names.values())) == []
