"""The kit's text files: what is in them, and what is wrong with them."""

import os

import numpy as np
import pytest

from detmix.evaluation import evaluate_voc, read_kit_files
from detmix.evaluation.kit_files import is_kit_files
from detmix.evaluation.reading import read_ground_truth
from tests.hostile import ending
from tests.test_evaluation_voc import make_predictions, make_truth

TRUTH = read_ground_truth(
    {
        "images": [{"id": 7, "file_name": "2008_000001.jpg"}, {"id": 3, "file_name": "val/000002.png"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "big_cat"}, {"id": 5, "name": "dog"}],
        "annotations": [],
    }
)
LINE = "000002 0.5 1 1 10.5 10\n"


def write(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def read(tmp_path, text, name="comp4_det_val_cat.txt", image_set="val"):
    return read_kit_files(write(tmp_path, {name: text}), TRUTH, image_set)


def test_files_read_by_hand(tmp_path):
    files = {
        "comp3_det_my_val_big_cat.txt": LINE + "\n2008_000001 -3.5 2 3 4 6\n",
        "comp3_det_my_val_cat.txt": "2008_000001\t1e1 5 5 5 5",
        "notes.txt": "not read",
    }
    found, missing = read_kit_files(str(write(tmp_path, files)), TRUTH, "my_val")
    assert found.images.tolist() == [0, 1, 1]  # by image id
    assert found.labels.tolist() == [1, 1, 0]
    assert found.scores.tolist() == [0.5, -3.5, 10]  # as the kit, any number
    assert found.corners.tolist() == [[1, 1, 10.5, 10], [2, 3, 4, 6], [5, 5, 5, 5]]
    assert found.xywh.tolist() == [[0, 0, 10.5, 10], [1, 2, 3, 4], [4, 4, 1, 1]]
    assert found.areas.tolist() == [105, 12, 1]
    assert missing == ["dog"]
    assert found.source == str(tmp_path)


def test_names_may_have_spaces_and_files_a_byte_order_mark(tmp_path):
    images = [{"id": 1, "file_name": "my photo.jpg"}, {"id": 2, "file_name": "photo.jpg"}]
    truth = read_ground_truth({"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": []})
    file = tmp_path / "comp4_det_val_cat.txt"
    file.write_text("photo 0.5 1 1 9 9\n  my photo\t0.9 11 21 40 60 \n", encoding="utf-8-sig")
    found, _ = read_kit_files(file, truth)
    assert found.images.tolist() == [1, 0]
    assert found.scores.tolist() == [0.5, 0.9]


@pytest.mark.parametrize("image_set", [None, "val"])
def test_one_file_is_one_class(tmp_path, image_set):
    folder = write(tmp_path, {"comp4_det_val_big_cat.txt": LINE, "comp4_det_val_dog.txt": ""})
    found, missing = read_kit_files(folder / "comp4_det_val_big_cat.txt", TRUTH, image_set)
    assert (found.labels.tolist(), missing) == ([1], ["cat", "dog"])
    found, missing = read_kit_files(folder / "comp4_det_val_dog.txt", TRUTH, image_set)
    assert (len(found), missing) == (0, ["cat", "big_cat"])


def test_what_is_a_file_of_the_kit(tmp_path):
    assert not is_kit_files(tmp_path)
    write(tmp_path, {"comp4_det_val_cat.txt": ""})
    assert is_kit_files(tmp_path)
    assert is_kit_files(tmp_path / "a.txt")
    assert not is_kit_files(tmp_path / "a.json")


@pytest.mark.parametrize("use_07_metric", [False, True])
def test_numbers_are_those_of_the_same_detections_as_coco_results(tmp_path, use_07_metric):
    rng = np.random.default_rng(0)
    corners = rng.integers(1, 30, (300, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 20, (300, 2))], 1).tolist()
    images, kinds = rng.integers(0, 4, 300).tolist(), rng.integers(1, 3, 300).tolist()
    scores = (rng.integers(0, 20, 300) / 20).tolist()  # ties: the order of the lines counts
    rows = list(zip(images, kinds, boxes, scores, strict=True))
    truth = make_truth([(i, k, b, {"difficult": s > 0.8}) for i, k, b, s in rows[:60]], 4)
    for image in truth["images"]:
        image["file_name"] = f"{image['id']:06d}.jpg"
    for k, name in ((1, "cat"), (2, "dog")):
        lines = [f"{i:06d} {s} {' '.join(map(str, b))}\n" for i, kind, b, s in rows[60:] if kind == k]
        write(tmp_path, {f"comp4_det_val_{name}.txt": "".join(lines)})
    found, _ = read_kit_files(tmp_path, read_ground_truth(truth))
    sources = found, make_predictions(rows[60:])
    result, wanted = (evaluate_voc(truth, source, use_07_metric=use_07_metric) for source in sources)
    assert 0 < result.ap < 1
    assert result.ap_by_class == wanted.ap_by_class


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINE + "000002 0.5 1 1 10", r"got 5 fields, '000002 0.5 1 1 10' - at line 2; the file ends there, was it cut"),
        (
            "000002,0.5,1,1,10,10\n\n" + LINE,
            r"must be <image> <score> .*, got 1 fields, '000002,0.5.* - at line 1; .*not commas$",
        ),
        (LINE + "\n000002 high 1 1 9 9\n", r"got '000002 high 1 1 9 9' - at line 3"),
        (LINE + "000002 nan 1 1 9 9", r"numbers must be finite, got \[nan, 1.0, .* - at line 2"),
        (LINE + "000002 0.5 1 inf 9 9", r"numbers must be finite, got \[0.5, 1.0, inf, .* - at line 2"),
        (LINE + "000002 0.5 1 1 9 1e300", r"pixels, of 2\*\*53 at most, got \[1.0, 1.0, 9.0, 1e\+300\] - at line 2"),
        (LINE + "000003 0.5 1 1 9 9", r"has no image '000003' - at line 2; 1 of 2 lines are of unknown ones$"),
        ("000002.png 0.5 1 1 9 9", r"'000002.png' - at line 1; 1 of 1 .*: names go without suffix$"),
        ("000003 0.5 1 1 9 9", r"'000003' - at line 1; 1 of 1 .*: are the detections of another image set\?"),
        ("000002 1_0 1 1 9 9", r"got '000002 1_0 1 1 9 9' - at line 1$"),
        (
            LINE + "000002 0.5 50 50 20 30\n" * 3,
            r"not be below xmin and ymin, got \[50.0, 50.0, 20.0, 30.0\] - at line 2; 3 of 4 lines are such; "
            "are they <x> <y> <width> <height>",
        ),
        ("000002 5 5 9 9 0.7\n" * 2, r"got \[5.0, 9.0, 9.0, 0.7\] - at line 1; 2 of 2.*does the score stand last\?"),
        ("000002 0.5 0.1 0.1 0.3 0.4\n" * 2, r"must be in pixels, got no number above 1: .*shares of the image\?"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"comp4_det_val_cat\.txt: .*{message}"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "image_set", "message"),
    [
        (
            "comp4_det_test_cat.txt",
            "val",
            r"must be called comp3_det_val_<class>.txt, .*; is it of another image set\?",
        ),
        ("comp4_det_cat.txt", None, "must be called comp3_det_<image set>_<class>.txt"),
        ("comp4_det_val_dgo.txt", "val", "no class is called 'dgo', they are cat, big_cat, dog; is 'dog' meant"),
        ("comp4_det_val_unicorn.txt", None, "no class is called 'unicorn', they are cat, big_cat, dog$"),
    ],
)
def test_bad_file_names_are_named(tmp_path, name, image_set, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, LINE, name, image_set)


def test_files_of_other_sets_in_the_folder_are_left_out(tmp_path):
    files = {"comp4_det_val_cat.txt": LINE, "comp4_det_test_cat.txt": LINE + LINE, "comp4_det_test_dog.txt": LINE}
    found, missing = read_kit_files(write(tmp_path, files), TRUTH, "val")
    assert (len(found), missing) == (1, ["big_cat", "dog"])


def test_two_files_of_a_class_are_named(tmp_path):
    files = dict.fromkeys(("comp3_det_val_cat.txt", "comp4_det_val_cat.txt"), LINE)
    with pytest.raises(
        ValueError, match=r"comp3_det_val_cat\.txt and comp4_det_val_cat\.txt are of one class; pass the"
    ):
        read_kit_files(write(tmp_path, files), TRUTH, "val")


def test_what_is_no_text_or_not_there_is_named(tmp_path):
    (tmp_path / "comp4_det_val_cat.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"cat\.txt: not a text file"):
        read_kit_files(tmp_path, TRUTH)
    for path in (tmp_path / "nowhere", tmp_path / "nowhere.txt"):
        with pytest.raises(
            FileNotFoundError, match=r"nowhere.*: no such file, and no folder with files comp\[34\]_det_"
        ):
            read_kit_files(path, TRUTH)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "comp4_det_val_cat.txt")
    with ending(60), pytest.raises(ValueError, match=r"cat\.txt: not a file, but a folder, a pipe or a device"):
        read_kit_files(tmp_path, TRUTH)


def test_images_are_known_by_their_path_and_by_its_last_part_where_one_has_it(tmp_path):
    names = ["a/1.jpg", ".\\b\\1.jpg", "./a/2.v1.jpg", "3.jpg", "a/3.jpg"]
    images = [{"id": place, "file_name": name} for place, name in enumerate(names)]
    truth = read_ground_truth({"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": []})
    lines = [f"{name} 0.5 1 1 9 9\n" for name in ("b/1", "a/1", "2.v1", "a/2.v1", "3", "a/3")]
    (file,) = write(tmp_path, {"comp4_det_val_cat.txt": "".join(lines)}).iterdir()
    assert read_kit_files(file, truth)[0].images.tolist() == [1, 0, 2, 2, 3, 4]
    file.write_text(lines[0].replace("b/", ""))
    with pytest.raises(ValueError, match=r"has no image '1' - at line 1; .*: is a/1 or b/1 meant\?"):
        read_kit_files(file, truth)


def test_images_must_differ_in_their_names(tmp_path):
    images = [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "./a/1.png"}]
    truth = read_ground_truth({"images": images, "categories": [], "annotations": []})
    with pytest.raises(
        ValueError, match=r"ground truth: .*need images of different file names.*, and 2 are called 'a/1'"
    ):
        read_kit_files(write(tmp_path, {"comp4_det_val_cat.txt": LINE}), truth)


@pytest.mark.parametrize(("stated", "line"), [("train\\a.jpg", "train\\a"), ("./train/a.jpg", "./train/a")])
def test_names_in_lines_are_read_as_those_of_the_images(tmp_path, stated, line):
    images = [{"id": 1, "file_name": stated}, {"id": 2, "file_name": "val/a.jpg"}]
    truth = read_ground_truth({"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": []})
    (tmp_path / "comp4_det_val_cat.txt").write_text(f"{line} 0.5 1 1 9 9\ntrain/a 0.5 1 1 9 9\n")
    assert read_kit_files(tmp_path, truth)[0].images.tolist() == [0, 0]


def test_the_first_pixel_twice_is_no_share_of_the_image(tmp_path):
    found, _ = read(tmp_path, "000002 0.5 1 1 1 1\n" * 2)
    assert found.corners.tolist() == [[1, 1, 1, 1]] * 2
