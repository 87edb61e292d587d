import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detmix import check_target
from detmix.data.samples import Layout, read_target

SIZE = (40, 60)
LAYOUT = Layout(("cat", "dog", 7), "xywh")


def read(objects, layout=LAYOUT, **row):
    return read_target({layout.objects: objects, **row}, layout, SIZE, "shard: sample 3")


COLUMNS = {"bbox": [[1, 2, 10.5, 20], [5, 5, 3, 3]], "category": ["dog", 7], "area": [9.5, None], "iscrowd": [0, False]}


def test_a_row_read_by_hand():
    target = read(COLUMNS, image_id=12)
    assert target["boxes"].tolist() == [[1, 2, 11.5, 22], [5, 5, 8, 8]]
    assert target["labels"].tolist() == [2, 3]
    assert target["area"].tolist() == [9.5, 9]
    assert target["image_id"] == 12
    assert {key: str(value.dtype) for key, value in target.items() if key != "image_id"} == {
        "boxes": "torch.float32",
        "labels": "torch.int64",
        "area": "torch.float32",
        "iscrowd": "torch.int64",
        "difficult": "torch.int64",
    }
    check_target(target, size=SIZE, num_classes=4)


def rows_of(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "objects",
    [
        rows_of(COLUMNS),
        COLUMNS | {"bbox": np.array(COLUMNS["bbox"])},
        COLUMNS | {"bbox": torch.tensor(COLUMNS["bbox"]), "iscrowd": np.zeros(2, np.int64)},
        COLUMNS | {"difficult": [False, 0], "other": ["a"]},
        COLUMNS | {"area": [9.5, float("nan")], "iscrowd": [None, 0.0], "difficult": [float("nan"), None]},
        COLUMNS | {"category": ["dog", 7.0], "iscrowd": np.zeros(2), "difficult": torch.zeros(2)},
        [{"bbox": [1, 2, 10.5, 20], "category": "dog", "area": 9.5}, {"bbox": [5, 5, 3, 3], "category": 7}],
    ],
)
def test_objects_may_be_rows_columns_arrays_or_tensors(objects):
    assert same(read(objects), read(COLUMNS))


@pytest.mark.parametrize(
    ("written", "image_id"), [(12.0, {"image_id": 12}), (float("nan"), {}), ("12", {}), (None, {})]
)
def test_an_image_id_that_is_no_integer_is_left_out(written, image_id):
    target = read([], image_id=written)
    assert {key: value for key, value in target.items() if key == "image_id"} == image_id


def test_keys_and_formats_are_what_the_layout_says():
    layout = Layout((0, 1), "xyxy", objects="things", boxes="box", labels="kind")
    target = read({"box": [[1, 2, 11.5, 22]], "kind": [1]}, layout)
    assert target["boxes"].tolist() == [[1, 2, 11.5, 22]]
    assert target["labels"].tolist() == [2]
    assert "image_id" not in target


def test_integers_stand_for_names_where_the_layout_has_them():
    layout = Layout(("dog", "cat"), "xywh", names=("cat", "dog", "owl"))
    assert read({"bbox": [[1, 1, 2, 2]] * 2, "category": [0, 1]}, layout)["labels"].tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"objects\[0\]: category must be one of \['dog', 'cat'\], got 2"):
        read({"bbox": [[1, 1, 2, 2]], "category": [2]}, layout)


@pytest.mark.parametrize("objects", [[], {"bbox": [], "category": []}])
def test_a_row_may_have_no_objects(objects):
    target = read(objects)
    assert target["boxes"].shape == (0, 4)
    check_target(target, size=SIZE)


coordinates = st.integers(-40, 400).map(lambda n: n / 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates, coordinates, coordinates), max_size=6), st.booleans())
def test_what_comes_out_can_be_trained_on_and_is_what_lies_in_the_image(boxes, crowd):
    layout = Layout((1,), "xyxy")
    flags = [int(crowd and not number) for number in range(len(boxes))]
    target = read({"bbox": boxes, "category": [1] * len(boxes), "iscrowd": flags}, layout)
    expected = []
    for flag, (x1, y1, x2, y2) in zip(flags, boxes, strict=True):
        clipped = [max(x1, 0), max(y1, 0), min(x2, SIZE[1]), min(y2, SIZE[0])]
        if not flag and x2 > x1 and y2 > y1 and clipped[2] > clipped[0] and clipped[3] > clipped[1]:
            expected.append(clipped)
    assert target["boxes"].tolist() == expected
    check_target(target, size=SIZE)


def test_invalid_boxes_are_dropped_with_a_warning_or_raised(caplog):
    objects = {"bbox": [[5, 5, 0, 9], [50, 5, 30, 9]], "category": ["cat", "dog"]}
    assert read(objects)["boxes"].tolist() == [[50, 5, 60, 14]]
    assert "shard: sample 3: 1 of 2 boxes without width or height" in caplog.text
    assert "dropped: objects[0] has xyxy [5.0, 5.0, 5.0, 14.0]" in caplog.text
    with pytest.raises(ValueError, match=r"shard: sample 3: 1 of 2 .*: objects\[0\] has xyxy"):
        read(objects, Layout(("cat", "dog"), "xywh", on_invalid="raise"))


WRONG = {
    "no boxes": ({"category": []}, r"objects must have bbox and category, got \['category'\]"),
    "a word": ("x", "objects must have bbox and category, got str"),
    "nothing": (None, "objects must have bbox and category, got NoneType"),
    "a number as object": ([3], "each of objects must be a dict with bbox and category"),
    "a class in the first only": (
        [{"bbox": [1, 1, 2, 2], "category": 7}, {"bbox": [1, 1, 2, 2]}],
        "each of objects must be a dict with bbox and category",
    ),
    "a crowd of 2": (COLUMNS | {"iscrowd": [0, 2]}, r"iscrowd: Expected `int` <= 1 - at `\$\[1\]`"),
    "a word for a flag": (COLUMNS | {"iscrowd": [0, "1"]}, r"iscrowd: Expected .* got `str` - at `\$\[1\]`"),
    "a number for flags": (COLUMNS | {"iscrowd": 0}, "iscrowd: Expected `array`, got `int`"),
    "three numbers": ({"bbox": [[1, 2, 3]], "category": [7]}, r"bbox: Expected `array` of length 4.*\$\[0\]"),
    "a word in a box": ({"bbox": [[1, 2, 3, 4], [1, "2", 3, 4]], "category": [7, 7]}, r"bbox: Expected .*\$\[1\]\[1\]"),
    "null in a box": ({"bbox": [[1, None, 3, 4]], "category": [7]}, r"objects\[0\]: box coordinates must be finite"),
    "NaN in a box": ({"bbox": [[1, float("nan"), 3, 4]], "category": [7]}, r"objects\[0\]: .* must be finite"),
    "more boxes than classes": ({"bbox": [[1, 2, 3, 4]] * 3, "category": [7]}, "bbox has 3 objects and category has 1"),
    "too few areas": (
        {"bbox": [[1, 2, 3, 4]] * 2, "category": [7, 7], "area": [1]},
        "bbox has 2 objects and area has 1",
    ),
    "an unknown class": (
        {"bbox": [[1, 2, 3, 4]] * 2, "category": [7, "yak"]},
        r"objects\[1\]: category must be one of \['cat', 'dog', 7\], got 'yak'",
    ),
    "a list as class": ({"bbox": [[1, 2, 3, 4]], "category": [[7]]}, r"category: Expected `int \| str`, got `array`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_the_row_and_the_object(case):
    objects, message = WRONG[case]
    with pytest.raises(ValueError, match="^shard: sample 3: ") as caught:
        read(objects)
    caught.match(message)


def test_a_row_without_objects_says_what_it_has():
    with pytest.raises(ValueError, match=r"shard: sample 3: the key 'objects' is missing, got \['image', 'label'\]"):
        read_target({"image": 1, "label": 2}, LAYOUT, SIZE, "shard: sample 3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box_format": "cxcywh"}, "box_format must be one of xywh, xyxy, got 'cxcywh'"),
        ({"on_invalid": "warn"}, "on_invalid must be one of drop, raise, got 'warn'"),
        ({"classes": ()}, r"classes must be one or more, each once, got \[\]"),
        ({"classes": ("a", "b", "a")}, "each once, got"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout(**{"classes": ("a",), "box_format": "xywh"} | arguments)
