import json
import logging
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detmix.data import DetectionDataset, coco_columns, json_rows, read_coco
from detmix.data.json_rows import read_rows
from detmix.evaluation.reading import read_ground_truth


def content(**changes):
    """Three images, the second without objects, two categories whose ids are neither dense nor in order."""
    return {
        "info": {"year": 2024},
        "images": [
            {"id": 30, "file_name": "c.jpg", "height": 40, "width": 60, "license": 1},
            {"id": 10, "file_name": "a.jpg", "height": 50, "width": 50},
            {"id": 20, "file_name": "sub/b.jpg", "height": 30, "width": 20},
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 7, "image_id": 20, "category_id": 18, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 0},
            {"id": 5, "image_id": 30, "category_id": 3, "bbox": [0.5, 1.25, 8, 9.5], "segmentation": [[0, 0, 8, 9]]},
            {"id": 6, "image_id": 20, "category_id": 3, "bbox": [3, 3, 4, 4], "area": 9, "iscrowd": 1, "score": "x"},
        ],
    } | changes


def write(tmp_path, data, name="set.json"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def read(tmp_path, data, **options):
    return read_coco(write(tmp_path, data), tmp_path / "images", **options)


def changed(section, row, **changes):
    data = content()
    data[section][row] |= changes
    return data


def without(section, row, key):
    data = content()
    del data[section][row][key]
    return data


def test_of_very_many_classes_a_message_lists_the_first(tmp_path):
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, 1204)]
    data = changed("annotations", 1, category_id=5000) | {"categories": categories}
    wanted = r"one of 1 \(class 1\), 2 \(.*, 30 \(class 30\) \.\.\. \(1203 in all\), got 5000$"
    with pytest.raises(ValueError, match=wanted):
        read(tmp_path, data)


def test_a_file_read_by_hand(tmp_path):
    found = read(tmp_path, content())
    assert [found.image_path(i) for i in range(3)] == [tmp_path / "images" / n for n in ("c.jpg", "a.jpg", "sub/b.jpg")]
    assert found.image_ids.tolist() == [30, 10, 20]
    assert found.sizes.tolist() == [[40, 60], [50, 50], [30, 20]]
    assert (found.class_names, found.category_ids) == (("car", "dog"), (3, 18))
    assert found.offsets.tolist() == [0, 1, 1, 3]
    assert found.boxes.tolist() == [[0.5, 1.25, 8.5, 10.75], [1, 2, 11, 22], [3, 3, 7, 7]]
    assert found.labels.tolist() == [1, 2, 1]
    assert found.ids.tolist() == [5, 7, 6]
    assert found.area.tolist() == [76, 150.5, 9]
    assert found.iscrowd.tolist() == [False, False, True]


def same(a, b):
    return all((getattr(a, key) == getattr(b, key)).all() for key in ("boxes", "labels", "area", "iscrowd", "offsets"))


def test_the_ground_truth_written_out_reads_back_the_same(tmp_path):
    first = read(tmp_path, content())
    truth = first.ground_truth()
    truth["annotations"][0]["difficult"] = 1
    second = read(tmp_path, truth)
    assert same(first, second)
    assert second.difficult.tolist() == [True, False, False]
    assert (second.class_names, second.category_ids) == (first.class_names, first.category_ids)


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_categories_and_of_unlike_annotations_does_not_matter(tmp_path_factory, random):
    tmp_path = tmp_path_factory.mktemp("coco")
    data = content()
    expected = read(tmp_path, data)
    random.shuffle(data["categories"])
    data["annotations"][1:1] = [data["annotations"].pop(1 if random.random() < 0.5 else 0)]
    assert same(read(tmp_path, data), expected)


WRONG = {
    "not JSON": ("{", "wanted a key in quotes and a colon at byte 1"),
    "an empty file": ("", "wanted '{', got the end of the file at byte 0"),
    "a picture": ("\x89PNG", r"wanted '\{', got .* at byte 0"),
    "a list": ([], r"not a COCO annotation file: wanted '\{', got '\['"),
    "no annotations": ({"images": [], "categories": []}, "the key 'annotations' is missing"),
    "images no list": (content(images={}), r"images must be an array, got '\{'"),
    "no images": (content(images=[], annotations=[]), "there is no image in it"),
    "objects of no image": (content(images=[]), "there is no image in it"),
    "no file name": (without("images", 1, "file_name"), r"images\[1\]\.file_name: must be the name of a file, got ''"),
    "no bbox": (without("annotations", 2, "bbox"), r"annotations\[2\]: .*`bbox`"),
    "a short bbox": (changed("annotations", 2, bbox=[1, 2, 3]), r"annotations\[2\]: .*length 4.*\$.bbox"),
    "a word in the bbox": (changed("annotations", 2, bbox=[1, 2, "3", 4]), r"annotations\[2\]: .*\$.bbox\[2\]"),
    "null in the bbox": (changed("annotations", 0, bbox=[1, None, 3, 4]), r"annotations\[0\]: .*finite.* nan"),
    "a word as id": (changed("images", 0, id="30"), r"images\[0\]: Expected `int`, got `str` - at `\$.id`"),
    "a negative height": (changed("images", 2, height=-1), r"images\[2\]: .*>= 0 - at `\$.height`"),
    "half a pixel": (changed("images", 2, height=30.5), r"images\[2\]: .* got `float` - at `\$.height`"),
    "a word for a size": (changed("images", 2, height="30"), r"images\[2\]: .* got `str` - at `\$.height`"),
    "a word for a category": (changed("annotations", 2, category_id="3"), r"annotations\[2\]: .* got `str`"),
    "a crowd of 2": (changed("annotations", 2, iscrowd=2), r"annotations\[2\]: .*<= 1 - at `\$.iscrowd`"),
    "an id between two": (changed("annotations", 2, id=6.5), r"annotations\[2\]: .* got `float` - at `\$.id`"),
    "a huge float for an id": (changed("annotations", 2, id=1e300), r"annotations\[2\]: .* got `float` - at `\$.id`"),
    "a huge id": (changed("annotations", 1, id=2**70), r"annotations\[1\]: .*\$.id"),
    "NaN in a box": (changed("annotations", 2, bbox=[1, float("nan"), 3, 4]), r"annotations\[2\]: .*finite.* nan"),
    "infinity in a box": (changed("annotations", 2, bbox=[1, 2, float("inf"), 4]), r"annotations\[2\]: .*finite.* nan"),
    "NaN and a word": (changed("annotations", 2, bbox=[float("nan"), 2, "", 4]), r"annotations\[2\]: .*\$.bbox\[2\]"),
    "unknown image": (changed("annotations", 1, image_id=31), r"annotations\[1\]: image_id must be .*, got 31"),
    "unknown category": (
        changed("annotations", 1, category_id=4),
        r"annotations\[1\]: category_id must be one of 3 \(car\), 18 \(dog\), got 4",
    ),
    "image id twice": (changed("images", 2, id=30), r"images\[2\]: ids must be unique, got 30 in row 0 too"),
    "annotation id twice": (changed("annotations", 2, id=5), r"annotations\[2\]: ids must be unique, got 5 in row 1"),
    "category id twice": (changed("categories", 1, id=18), r"categories\[1\]: ids must be unique, got 18"),
    "category name twice": (
        changed("categories", 1, name="dog"),
        r"categories\[1\] and categories\[0\] both have the name 'dog', and objects",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_the_file_and_the_row(case, tmp_path):
    data, message = WRONG[case]
    with pytest.raises(ValueError, match=r"set\.json: ") as caught:
        read(tmp_path, data)
    caught.match(message)


def test_bytes_that_are_not_text_are_not_json(tmp_path):
    path = tmp_path / "set.json"
    path.write_bytes(b'{"images": [{"id": 1, "file_name": "\xff\xfe"}]}')
    with pytest.raises(ValueError, match=r"set\.json: .* not JSON, in images\[0\] or a later row: 'utf-8' codec"):
        read_coco(path, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    def told(file):
        with pytest.raises(FileNotFoundError) as missing:
            read_coco(file, tmp_path)
        return str(missing.value).removeprefix(f"{file}: no such COCO annotation file; ")

    assert told(tmp_path / "none.json") == f"no .json file is in {tmp_path}"
    for number in reversed(range(12)):
        (tmp_path / f"{number:02}.json").touch()
    names = ", ".join(f"'{number:02}.json'" for number in range(10))
    assert told(tmp_path / "none.json") == f"there are [{names}] ..."
    assert told(tmp_path / "deep" / "deeper" / "none.json") == f"there is no folder {tmp_path}/deep"
    with pytest.raises(ValueError, match="not a file, but a folder"):
        read_coco(tmp_path, tmp_path)


def test_a_missing_folder_is_told_with_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/data$"):
        read_coco("data/coco/none.json", tmp_path)


def test_what_other_tools_write_is_understood(tmp_path):
    data = changed("annotations", 0, iscrowd=False, area=None, bbox=[1.0, 2, 1e1, 20], segmentation=[float("nan")])
    path = tmp_path / "set.json"
    path.write_text(json.dumps(data), encoding="utf-8-sig")
    found = read_coco(path, tmp_path)
    assert found.boxes[1].tolist() == [1, 2, 11, 22]
    assert found.area[1] == 200


def floats(row, keys):
    """The row with some of its integers as other tools write them."""
    return {key: float(value) if key in keys and type(value) is int else value for key, value in row.items()}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_numbers_as_other_tools_write_them_are_the_same_numbers_to_every_reader(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("coco")
    plain, written = content(), content()
    del written["annotations"][2]["iscrowd"], plain["annotations"][2]["iscrowd"]
    keys = ["id", "image_id", "category_id", "height", "width", "area", "iscrowd"]
    for section in ("images", "categories", "annotations"):
        chosen = [data.draw(st.sets(st.sampled_from(keys))) for _ in written[section]]
        written[section] = [floats(row, some) for row, some in zip(written[section], chosen, strict=True)]
    for row in written["annotations"]:
        row["bbox"] = [data.draw(st.sampled_from([float, lambda x: x]))(x) for x in row["bbox"]]
        if "iscrowd" not in row:
            row |= data.draw(st.sampled_from([{}, {"iscrowd": None}, {"iscrowd": False}, {"iscrowd": 0.0}]))
            row |= data.draw(st.sampled_from([{}, {"iscrowd": math.nan}, {"difficult": math.nan}]))
    found, expected = read(tmp_path, written), read(tmp_path, plain)
    for column in ("image_ids", "sizes", "offsets", "boxes", "labels", "area", "iscrowd", "difficult", "ids"):
        assert getattr(found, column).tolist() == getattr(expected, column).tolist()
        assert getattr(found, column).dtype == getattr(expected, column).dtype
    truths = [read_ground_truth(source) for source in (plain, written, write(tmp_path, written))]
    for truth in truths:
        assert (truth.image_ids.tolist(), truth.category_ids.tolist()) == ([10, 20, 30], [3, 18])
        assert truth.sizes.tolist() == truths[0].sizes.tolist()
        assert truth.objects.xywh.tolist() == truths[0].objects.xywh.tolist()
        assert truth.objects.areas.tolist() == [150.5, 76, 9]
        assert not truth.objects.crowd.any()


@pytest.mark.parametrize("reader", [lambda file: read_coco(file, "images"), read_ground_truth])
def test_a_number_too_large_for_a_float_is_refused(reader, tmp_path):
    file = write(tmp_path, json.dumps(content()).replace("150.5", "1e400"))
    with pytest.raises(ValueError, match=rf"{file.name}: .*1e400 is too large"):
        reader(file)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 12), unique=True, max_size=8), st.randoms(use_true_random=False))
def test_annotations_without_an_id_get_the_first_that_are_free(tmp_path_factory, given_ids, random):
    ids = [*given_ids, None, None]
    random.shuffle(ids)
    rows = [{"image_id": 10, "category_id": 3, "bbox": [n, 0, 2, 2]} for n in range(len(ids))]
    for row, number in zip(rows, ids, strict=True):
        row |= {} if number is None and len(ids) % 2 else {"id": number}
    found = read(tmp_path_factory.mktemp("coco"), content(annotations=rows)).ids.tolist()
    free = [number for number in range(1, 30) if number not in ids]
    assert found == [free.pop(0) if number is None else number for number in ids]


def test_a_size_that_the_file_lacks_is_read_from_the_image(tmp_path):
    data = content()
    data["images"][0] |= {"height": None}
    data["images"][1] |= {"height": 0, "width": 0}
    (tmp_path / "images/sub").mkdir(parents=True)
    for name, size in {"c": (60, 40), "a": (50, 50)}.items():
        Image.new("L", size).save(tmp_path / f"images/{name}.jpg")
    assert same(read(tmp_path, data), read(tmp_path, content()))
    assert read(tmp_path, data).sizes.tolist() == [[40, 60], [50, 50], [30, 20]]
    del data["images"][2]["width"]
    with pytest.raises(FileNotFoundError, match=r"set\.json: images\[2\] states no height and width, .*sub/b\.jpg"):
        read(tmp_path, data)
    (tmp_path / "images/sub/b.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"set\.json: images\[2\] states no height and width, .*sub/b\.jpg"):
        read(tmp_path, data)
    data["images"][2]["file_name"] = "../b.jpg"
    with pytest.raises(ValueError, match=r"set\.json: images\[2\]\.file_name: must lie in"):
        read(tmp_path, data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_a_file_may_be_in_any_encoding_of_json(encoding, tmp_path):
    data = changed("images", 1, file_name="bär.jpg")
    path = tmp_path / "set.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding=encoding)
    found = read_coco(path, tmp_path)
    assert found.file_name(1) == "bär.jpg"
    assert same(found, read(tmp_path, content()))


def test_what_was_read_stays_when_the_file_changes(tmp_path):
    path = write(tmp_path, content())
    found = read_coco(path, tmp_path)
    path.write_text("{}")
    assert same(found, read(tmp_path, content()))
    path.unlink()
    assert DetectionDataset(found).target_of(2)["boxes"].tolist() == [[1, 2, 11, 22]]


@pytest.mark.parametrize("after", [content(annotations=[]), changed("annotations", 0, id=8)])
def test_a_file_that_changes_while_it_is_read_is_refused(after, tmp_path, monkeypatch):
    path = write(tmp_path, content())
    before = path.stat()

    def read_and_write(file, kinds):
        yield from read_rows(file, kinds)
        time.sleep(0.05)  # the system's clock for files has ticks
        write(tmp_path, after)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    monkeypatch.setattr(coco_columns, "read_rows", read_and_write)
    with pytest.raises(ValueError, match=r"set\.json: changed while it was read"):
        read_coco(path, tmp_path)


def test_a_file_of_many_pieces_reads_like_one(tmp_path, monkeypatch):
    data = content()
    data["images"] = [{"id": i, "file_name": f"{i}.jpg", "height": 100 + i, "width": 200} for i in range(60)]
    data["annotations"] = [
        {"id": 1000 - i, "image_id": i * 7 % 60, "category_id": (3, 18)[i % 2], "bbox": [i, i / 2, 5, 10]}
        for i in range(150)
    ]
    expected = read(tmp_path, data)
    monkeypatch.setattr(json_rows, "_WINDOW", 500)
    found = read(tmp_path, data)
    assert same(found, expected)
    assert [found.file_name(i) for i in range(60)] == [f"{i}.jpg" for i in range(60)]
    assert found.sizes.tolist() == [[100 + i, 200] for i in range(60)]
    data["annotations"][140]["image_id"] = 77
    with pytest.raises(ValueError, match=r"annotations\[140\]: image_id must be .*, got 77"):
        read(tmp_path, data)


def test_text_nested_without_end_is_refused(tmp_path):
    data = json.dumps(content()).replace("[[0, 0, 8, 9]]", "[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"set\.json: not a COCO annotation file: nested too deeply"):
        read(tmp_path, data)


def test_invalid_boxes_are_dropped_with_one_warning_or_raised(tmp_path, caplog):
    data = changed("annotations", 1, bbox=[5, 5, 0, 10])
    data["annotations"][2]["bbox"] = [15, 3, 30, 4]
    found = read(tmp_path, data)
    assert found.ids.tolist() == [7, 6]
    assert found.boxes[1].tolist() == [15, 3, 20, 7]
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "dropped: annotations[1] has xyxy [5.0, 5.0, 5.0, 15.0]" in message
    assert "clipped: annotations[2] has xyxy [15.0, 3.0, 45.0, 7.0]" in message
    with pytest.raises(ValueError, match=r"set\.json: 1 of 3 .*: annotations\[1\]"):
        read(tmp_path, data, on_invalid="raise")


@pytest.mark.parametrize("changes", [{"iscrowd": 1}, {"bbox": [5, 5, 0, 10]}])
def test_a_file_of_which_samples_show_nothing_is_warned_of(changes, tmp_path, caplog):
    data = content()
    for row in data["annotations"]:
        row |= {"iscrowd": 0} | changes
    dataset = DetectionDataset(read(tmp_path, data))
    assert sum(len(dataset.labels_of(index)) for index in range(3)) == 0
    crowds = 3 * changes.get("iscrowd", 0)
    wanted = f"none of its 3 objects is left for samples to show: {crowds} are crowds, {3 - crowds} were dropped"
    assert caplog.records[-1].getMessage().endswith(f"set.json: {wanted}")
    assert caplog.records[-1].levelno == logging.WARNING
    caplog.clear()
    data["annotations"][0] |= {"iscrowd": 0, "bbox": [1, 2, 10, 20]}
    read(tmp_path, data)
    read(tmp_path, content(annotations=[]))
    assert "for samples to show" not in caplog.text


@pytest.mark.parametrize(("crowds", "warned"), [(0, False), (1, False), (2, True), (19, True)])
def test_crowds_are_told_of_from_one_in_twenty_on(crowds, warned, tmp_path, caplog):
    row = content()["annotations"][0]
    rows = [row | {"id": number, "iscrowd": int(number >= 20 - crowds)} for number in range(20)]
    dataset = DetectionDataset(read(tmp_path, content(annotations=rows)))
    assert len(dataset.labels_of(2)) == 20 - crowds
    said = f"set.json: {crowds} of its 20 objects are crowds, which samples leave out"
    assert [said in record.getMessage() for record in caplog.records] == [True] * warned
    assert f"set.json: annotations[{20 - crowds}] is one" in caplog.text or not warned


@pytest.mark.parametrize("listed", [np.array, iter, list, tuple])
def test_class_names_may_be_any_row_of_texts(listed, tmp_path):
    assert read(tmp_path, content(), class_names=listed(["dog", "car"])).class_names == ("dog", "car")


def test_paths_may_be_strings(tmp_path):
    found = read_coco(str(write(tmp_path, content())), "pictures")
    assert found.image_path(1) == Path("pictures/a.jpg")


@pytest.mark.parametrize("area", [-1, -0.5])
def test_an_area_below_0_is_refused_with_its_row(area, tmp_path):
    with pytest.raises(ValueError, match=rf"set\.json: annotations\[1\]: area must be 0 or more, got {area}"):
        read(tmp_path, changed("annotations", 1, area=area))
