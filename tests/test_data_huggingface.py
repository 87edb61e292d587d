"""Rows of Hugging Face's streaming data sets: what they may hold, and what is refused."""

import os
from importlib import import_module

import pytest
import torch

from detmix.data import HuggingFaceStream, read_image

from .datasets import assert_same
from .hostile import ending
from .test_data_streams import CLASSES, COUNT, datasets, hub, picture, row

fsspec = pytest.importorskip("fsspec")


def wrapped(rows, **options):
    dataset = datasets.Dataset.from_list(rows).to_iterable_dataset()
    return HuggingFaceStream(dataset, **{"box_format": "xywh", "classes": CLASSES} | options)


def test_rows_may_hold_files_and_lists_of_objects(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(9))
    objects = [{"box": [1, 2, 3, 4], "kind": 5}]
    for image in (picture(9), str(tmp_path / "a.png"), {"bytes": None, "path": str(tmp_path / "a.png")}):
        rows = [{"pixels": image, "things": objects}]
        keys = {"image": "pixels", "objects": "things", "boxes": "box", "labels": "kind"}
        ((found, target),) = wrapped(rows, classes=[5], box_format="xyxy", **keys)
        assert torch.equal(found, read_image(tmp_path / "a.png"))
        assert target["boxes"].tolist() == [[1, 2, 3, 4]]
        assert target["labels"].tolist() == [1]
        assert "image_id" not in target


@pytest.mark.parametrize("kind", ["torch", "numpy", "arrow"])
@pytest.mark.parametrize("listed", [False, True])
def test_the_format_of_a_data_set_does_not_matter(kind, listed):
    columns = row(1)["objects"]
    objects = [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]
    rows = [{"image": picture(1), **row(1)} | ({"objects": objects} if listed else {})]
    plain = datasets.Dataset.from_list(rows).to_iterable_dataset()
    wrong = datasets.Dataset.from_list([rows[0] | {"height": 13}]).to_iterable_dataset()
    formatted = plain.with_format(kind)
    others = [formatted] if kind == "arrow" else [formatted, formatted.map(dict)]
    expected = list(HuggingFaceStream(plain, box_format="xywh", classes=CLASSES))
    assert expected[0][1]["image_id"] == 1
    for other in others:
        assert_same(HuggingFaceStream(other, box_format="xywh", classes=CLASSES), expected)
    with pytest.raises(ValueError, match="the annotations say 13 high"):
        list(HuggingFaceStream(wrong.with_format(kind), box_format="xywh", classes=CLASSES))


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", f"file://{tmp_path}/pipe", f"local://{tmp_path}/pipe"):
        with ending(60), pytest.raises(OSError, match="not a file, but a folder, a pipe or a device"):
            next(iter(wrapped([{"image": {"bytes": None, "path": str(path)}, **row(1)}])))


def test_images_may_lie_at_a_url():
    fsspec.filesystem("memory").pipe("/a/1.png", picture(9))
    rows = [{"image": {"bytes": None, "path": f"memory://a/{n}.png"}, **row(n)} for n in (1, 2)]
    stream = iter(wrapped(rows))
    assert next(stream)[0].unique().tolist() == [9]
    with pytest.raises(OSError, match=r"row 1 of this reader, image_id 2: memory://a/2\.png cannot be read: .*"):
        next(stream)


def test_a_path_that_is_no_file_is_refused():
    with pytest.raises(OSError, match="row 0 of this reader, image_id 1: /dev/zero cannot be read: .*not a file"):
        list(wrapped([{"image": "/dev/zero", **row(1)}]))


def test_classes_may_be_put_in_another_order():
    stream = HuggingFaceStream(hub(), box_format="xywh", classes=("dog", "cat"))
    assert [target["labels"].item() for _, target in stream] == [2 - number % 2 for number in range(COUNT)]


def test_a_row_of_the_hub_that_is_wrong_is_named():
    rows = [{"image": picture(n), **row(n)} for n in range(2)]
    rows[1]["objects"]["category"] = ["yak"]
    with pytest.raises(ValueError, match=r"row 1 of this reader, image_id 1: objects\[0\]: category .* got 'yak'"):
        list(wrapped(rows))
    with pytest.raises(
        ValueError, match=r"row 0 of this reader, image_id 0: the key 'photo' is missing, got \['height'"
    ):
        list(wrapped(rows, image="photo"))
    with pytest.raises(ValueError, match="row 0 of this reader, image_id 0: the image must be the bytes .* got int"):
        list(wrapped(rows, image="height"))


def test_data_sets_that_do_not_stream_or_are_split_and_a_text_for_classes_are_refused():
    rows = datasets.Dataset.from_list([{"image": picture(0), **row(0)}])
    with pytest.raises(TypeError, match=r"got Dataset: load it with streaming=True .* to_iterable_dataset"):
        HuggingFaceStream(rows, box_format="xywh")
    with pytest.raises(TypeError, match="classes must be a list of names, got the text 'cat'"):
        HuggingFaceStream(hub(), box_format="xywh", classes="cat")
    with pytest.raises(ValueError, match="split among ranks already"):
        HuggingFaceStream(import_module("datasets.distributed").split_dataset_by_node(hub(), 0, 2), box_format="xywh")
    with pytest.raises(ValueError, match=r"objects\.category is no ClassLabel, so classes must be given"):
        wrapped([{"image": picture(0), **row(0)}], classes=None)
