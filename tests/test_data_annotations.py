import copy
import json
import logging
import math
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detmix import check_target
from detmix.data import DetectionDataset
from detmix.data.cleaning import Images, Objects, build_annotations

from .factories import write_coco_folder

SIZES = [(40, 60), (30, 30), (50, 20)]


def test_annotations_and_their_data_set_say_how_much_there_is(tmp_path):
    annotations = write_coco_folder(tmp_path / "coco", 7)
    objects = len(annotations.boxes)
    said = f"<Annotations of 7 images, {objects} objects, {len(annotations.class_names)} classes>"
    assert repr(annotations) == said
    assert repr(DetectionDataset(annotations)) == f"<DetectionDataset of {said}>"


def build(boxes, images=None, *, crowd=None, ids=None, area=None, sizes=SIZES, **arguments):
    count = len(boxes)
    objects = Objects(
        image=np.array([0] * count if images is None else images, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.arange(count) % 2 + 1,
        area=np.array([math.nan] * count if area is None else area, dtype=np.float64),
        iscrowd=np.array([False] * count if crowd is None else crowd, dtype=bool),
        difficult=np.arange(count) % 3 == 0,
        ids=np.arange(1, count + 1) if ids is None else np.array(ids, dtype=np.int64),
    )
    names = [f"ordner/bild-{i}-ä.png" for i in range(len(sizes))]
    settings = {
        "class_names": ("cat", "dog"),
        "category_ids": (3, 7),
        "image_dir": Path("images"),
        "source": "set.json",
    }
    settings |= {"where": lambda row: f"set.json: row {row}"} | arguments
    return build_annotations(Images(names, sizes, [11 * (i + 1) for i in range(len(sizes))]), objects, **settings)


def keep_in_a_loop(boxes, images, one_based):
    kept = []
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        height, width = SIZES[images[row]]
        if x2 <= x1 or y2 <= y1:
            continue
        if one_based:
            x1, y1 = x1 - 1, y1 - 1
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if x2 > x1 and y2 > y1:
            kept.append((images[row], row, [x1, y1, x2, y2]))
    return sorted(kept, key=lambda item: item[:2])


quarter_pixels = st.integers(-40, 320).map(lambda n: n / 4)
some_boxes = st.lists(st.tuples(st.integers(0, 2), *[quarter_pixels] * 4), max_size=12)


@settings(max_examples=60, deadline=None)
@given(some_boxes, st.booleans())
def test_cleaning_is_a_loop_over_boxes_grouped_by_image(rows, one_based):
    images, boxes = [row[0] for row in rows], [row[1:] for row in rows]
    found = build(boxes, images, one_based=one_based)
    expected = keep_in_a_loop(boxes, images, one_based)
    assert found.boxes.tolist() == [box for _, _, box in expected]
    assert found.ids.tolist() == [row + 1 for _, row, _ in expected]
    assert found.labels.tolist() == [row % 2 + 1 for _, row, _ in expected]
    assert found.difficult.tolist() == [row % 3 == 0 for _, row, _ in expected]
    for i in range(3):
        assert [expected[row][0] for row in range(len(expected))[found.rows(i)]] == [i] * np.diff(found.offsets)[i]
    np.testing.assert_allclose(found.area, [(x2 - x1) * (y2 - y1) for _, _, (x1, y1, x2, y2) in expected])


def test_names_paths_and_dtypes_survive_the_flat_layout():
    found = build([[1, 2, 3, 4]])
    assert len(found) == 3
    assert [found.file_name(i) for i in range(3)] == [f"ordner/bild-{i}-ä.png" for i in range(3)]
    assert found.image_path(2) == Path("images/ordner/bild-2-ä.png")
    dtypes = {
        f.name: str(getattr(found, f.name).dtype) for f in fields(found) if hasattr(getattr(found, f.name), "dtype")
    }
    assert dtypes == {
        "file_names": "uint8",
        "name_offsets": "int64",
        "sizes": "int32",
        "image_ids": "int64",
        "offsets": "int64",
        "boxes": "float32",
        "labels": "int64",
        "area": "float64",
        "iscrowd": "bool",
        "difficult": "bool",
        "ids": "int64",
    }


def test_number_of_python_objects_does_not_depend_on_the_number_of_images():
    small, large = build([[1, 2, 3, 4]]), build([[1, 2, 3, 4]] * 50, sizes=SIZES * 20)
    for field in fields(large):
        value = getattr(large, field.name)
        assert isinstance(value, np.ndarray | Path | None) or len(value) == len(getattr(small, field.name))


def test_what_was_dropped_and_clipped_is_reported_once_with_rows(caplog):
    boxes = [[1, 1, 5, 5], [5, 5, 5, 9], [70, 3, 80, 9], [-3, 1, 5, 5], [-0.5, 1, 60.75, 5]]
    build(boxes)
    (record,) = caplog.records
    message = record.getMessage()
    assert (record.name, record.levelno) == ("detmix.data", logging.WARNING)
    assert "set.json: 2 of 5 boxes without width or height" in message
    assert "dropped: row 1 has xyxy [5.0, 5.0, 5.0, 9.0]; row 2" in message
    assert "1 of 5 boxes more than a pixel past the edge of the image, clipped: row 3" in message
    assert message.count("set.json") == 1


def test_a_long_report_shows_the_first_rows_only(caplog):
    build([[5, 5, 5, 9]] * 100)
    message = caplog.records[0].getMessage()
    assert "100 of 100" in message
    assert message.count("row ") == 3


def test_nothing_to_report_is_silent(caplog):
    build([[0, 0, 60, 40], [-0.5, 1, 60.75, 5]], on_invalid="raise")
    assert not caplog.records


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 5, 9, 4], [70, 3, 80, 9], [-3, 1, 5, 5]])
def test_raise_makes_a_dropped_or_clipped_box_an_error(box):
    with pytest.raises(ValueError, match=r"set\.json: 1 of 2 boxes .*: row 1 has xyxy"):
        build([[1, 1, 2, 2], box], on_invalid="raise")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("on_invalid", ["drop", "raise"])
def test_a_coordinate_that_is_not_finite_is_always_an_error(value, on_invalid):
    with pytest.raises(ValueError, match=r"set\.json: row 1: box coordinates must be finite"):
        build([[1, 1, 2, 2], [1, value, 2, 2]], on_invalid=on_invalid)


def test_errors_of_the_whole_set():
    with pytest.raises(ValueError, match=r"set\.json: there is no image"):
        build([], sizes=[])
    with pytest.raises(ValueError, match=r"set\.json: class names must be unique, got 'cat'"):
        build([[1, 1, 2, 2]], class_names=("cat", "cat"))
    with pytest.raises(ValueError, match="on_invalid must be one of drop, raise, got 'ignore'"):
        build([[1, 1, 2, 2]], on_invalid="ignore")


def as_coco(ground_truth, tmp_path):
    path = tmp_path / "ground_truth.json"
    path.write_text(json.dumps(ground_truth))
    return COCO(str(path))


@pytest.mark.parametrize("ids", [[5, 6, 9, 12], [0, 1, 2, 3], [-4, 0, 7, 8], [-(2**63), 1, 2, 2**63 - 1]])
def test_pycocotools_gives_the_ground_truth_itself_full_marks(ids, tmp_path, capsys):
    boxes, images = [[1, 2, 11, 22], [5, 5, 25, 25], [2.5, 3.5, 19.5, 28], [0, 0, 20, 50]], [0, 0, 1, 2]
    truth = build(boxes, images, ids=ids).ground_truth()
    assert len({row["id"] for row in truth["annotations"]}) == 4
    coco = as_coco(truth, tmp_path)
    keys = ("image_id", "category_id", "bbox")
    results = [{key: row[key] for key in keys} | {"score": 0.9} for row in truth["annotations"]]
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    capsys.readouterr()


def test_ground_truth_keeps_ids_area_crowd_and_difficult():
    found = build([[1, 2, 11, 22], [5, 5, 25, 25]], [1, 0], ids=[40, 30], crowd=[True, False], area=[99.5, math.nan])
    truth = found.ground_truth()
    assert truth["images"][1] == {"id": 22, "file_name": "ordner/bild-1-ä.png", "height": 30, "width": 30}
    assert truth["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert truth["annotations"] == [
        {
            "id": 30,
            "image_id": 11,
            "category_id": 7,
            "bbox": [5, 5, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "difficult": 0,
        },
        {
            "id": 40,
            "image_id": 22,
            "category_id": 3,
            "bbox": [1, 2, 10, 20],
            "area": 99.5,
            "iscrowd": 1,
            "difficult": 1,
        },
    ]


@pytest.fixture
def annotations(tmp_path):
    found = build(
        [[1, 2, 11, 22], [5, 5, 25, 25], [3, 3, 8, 9]], [0, 0, 1], crowd=[False, True, False], image_dir=tmp_path
    )
    (tmp_path / "ordner").mkdir()
    for i, (height, width) in enumerate(SIZES):
        Image.new("RGB", (width, height), (i, 20, 30)).save(found.image_path(i))
    return found


def test_samples_are_what_a_detector_trains_on(annotations):
    dataset = DetectionDataset(annotations)
    assert (len(dataset), dataset.num_classes) == (3, 3)
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (3, 7))
    for i, (image, target) in enumerate(dataset):
        assert (image.shape, image.dtype) == ((3, *SIZES[i]), torch.uint8)
        assert image[0].unique().tolist() == [i]
        check_target(target, size=SIZES[i], num_classes=dataset.num_classes)
        assert target["image_id"] == 11 * (i + 1)
        assert target["labels"].tolist() == dataset.labels_of(i).tolist()
        assert dataset.get_height_and_width(i) == SIZES[i]
        assert {key: target[key].dtype for key in ("boxes", "area", "iscrowd", "difficult")} == {
            "boxes": torch.float32,
            "area": torch.float32,
            "iscrowd": torch.int64,
            "difficult": torch.int64,
        }
    assert dataset[2][1]["boxes"].shape == (0, 4)


def test_crowds_are_left_out_of_samples_and_kept_in_the_ground_truth(annotations):
    dataset = DetectionDataset(annotations)
    assert dataset[0][1]["boxes"].tolist() == [[1, 2, 11, 22]]
    assert [row["iscrowd"] for row in dataset.ground_truth()["annotations"]] == [0, 1, 0]


def test_writing_to_a_sample_leaves_the_annotations_alone(annotations):
    dataset = DetectionDataset(annotations)
    before = dataset.ground_truth()
    _, target = dataset[0]
    for key in ("boxes", "labels", "area", "iscrowd", "difficult"):
        target[key].fill_(77)
    dataset.labels_of(0).fill_(77)
    assert dataset.ground_truth() == before
    assert dataset[0][1]["labels"].tolist() == [1]


def test_indices_are_those_of_a_list(annotations):
    dataset = DetectionDataset(annotations)
    assert dataset[-1][1]["image_id"] == dataset[2][1]["image_id"]
    assert dataset.image_path(-1) == annotations.image_path(2)
    assert dataset[torch.tensor(1)][1]["image_id"] == 22
    with pytest.raises(IndexError):
        dataset[3]


def test_the_transform_gets_image_and_target_and_returns_both(annotations):
    dataset = DetectionDataset(annotations, transform=lambda image, target: (image.flip(-1), {**target, "seen": True}))
    image, target = dataset[0]
    assert torch.equal(image, DetectionDataset(annotations)[0][0].flip(-1))
    assert target["seen"] is True


def test_an_image_that_cannot_be_read_is_named(annotations):
    dataset = DetectionDataset(annotations)
    Image.new("RGB", (61, 40)).save(dataset.image_path(0))
    with pytest.raises(ValueError, match=r"bild-0-ä\.png: the annotations say 40 high and 60 wide"):
        dataset[0]
    dataset.image_path(1).unlink()
    with pytest.raises(FileNotFoundError, match=r"bild-1-ä\.png"):
        dataset[1]


def break_images(annotations, *indices):
    for index in indices:
        path = annotations.image_path(index)
        path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(("broken", "stand_ins"), [([], [0, 1, 2]), ([1], [0, 2, 2]), ([1, 2], [0, 0, 0])])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_skipped_is_replaced_by_the_next_counted_and_named_once(
    annotations, caplog, broken, stand_ins, workers
):
    break_images(annotations, *broken)
    whole = DetectionDataset(annotations)
    skipping = DetectionDataset(annotations, on_error="skip")
    loader = torch.utils.data.DataLoader(skipping, batch_size=None, num_workers=workers)
    for _ in range(2):
        for index, (image, target) in zip(stand_ins, loader, strict=True):
            assert torch.equal(image, whole[index][0])
            assert target["image_id"] == whole[index][1]["image_id"]
            assert torch.equal(target["boxes"], whole[index][1]["boxes"])
    assert skipping.skipped == broken
    if workers == 0:  # a worker's log is its own
        assert len(caplog.records) == len(broken)
        for index, record in zip(broken, caplog.records, strict=True):
            assert str(annotations.image_path(index)) in record.getMessage()


def test_a_missing_image_and_one_of_another_size_are_skipped_too(annotations):
    skipping = DetectionDataset(annotations, on_error="skip")
    Image.new("RGB", (61, 40)).save(skipping.image_path(0))
    skipping.image_path(1).unlink()
    assert skipping[0][1]["image_id"] == 33
    assert copy.deepcopy(skipping).skipped == skipping.skipped == [0, 1]


@pytest.mark.parametrize("count", [2, 150])
def test_where_no_image_can_be_read_skipping_ends(tmp_path, count):
    found = build([], sizes=[(4, 4)] * count, image_dir=tmp_path)
    with pytest.raises(RuntimeError, match=rf"{min(count, 100)} images, one after the other.*bild-"):
        DetectionDataset(found, on_error="skip")[1]


def test_an_image_that_memory_is_short_for_is_not_skipped(annotations, monkeypatch):
    def no_room(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr("detmix.data.images._to_tensor", no_room)
    skipping = DetectionDataset(annotations, on_error="skip")
    with pytest.raises(MemoryError, match="no room"):
        skipping[0]
    assert skipping.skipped == []


def test_what_is_neither_raise_nor_skip_is_refused(annotations):
    with pytest.raises(ValueError, match="on_error must be one of raise, skip, got 'ignore'"):
        DetectionDataset(annotations, on_error="ignore")


def overwrite(annotations):
    annotations.boxes[0] = 7


def test_a_spawned_process_reads_the_arrays_of_its_parent():
    found = build([[1, 2, 3, 4], [5, 6, 7, 8]], [2, 0])
    process = torch.multiprocessing.get_context("spawn").Process(target=overwrite, args=(found,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert found._tensors["boxes"].tolist() == [[7, 7, 7, 7], [1, 2, 3, 4]]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))])
def test_copies_are_equal_and_apart(duplicate):
    found = build([[1, 2, 3, 4], [5, 6, 7, 8]], [2, 0])
    other = duplicate(found)
    for field in fields(found):
        np.testing.assert_array_equal(getattr(other, field.name), getattr(found, field.name))
    other.boxes[:] = 0
    assert found.boxes.min() == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12))
def test_only_images_that_show_an_object_are_left_with_all_that_is_theirs(objects):
    sizes = [(40, 60), (30, 30), (50, 20), (10, 10), (33, 44)]
    images, crowd = [image for image, _ in objects], [is_crowd for _, is_crowd in objects]
    boxes = [[1, 1, 5 + row / 10, 9] for row in range(len(objects))]
    found = build(boxes, images, crowd=crowd, sizes=sizes)
    wanted = [i for i in range(5) if any(image == i and not is_crowd for image, is_crowd in objects)]
    if not wanted:
        with pytest.raises(ValueError, match="none of its images has an object"):
            found.with_objects()
        return
    some = found.with_objects()
    assert some.image_ids.tolist() == [11 * (i + 1) for i in wanted]
    assert [some.file_name(n) for n in range(len(wanted))] == [found.file_name(i) for i in wanted]
    assert some.sizes.tolist() == [list(sizes[i]) for i in wanted]
    for n, i in enumerate(wanted):
        for name in ("boxes", "labels", "area", "iscrowd", "difficult", "ids"):
            np.testing.assert_array_equal(getattr(some, name)[some.rows(n)], getattr(found, name)[found.rows(i)])
    assert len(some.ids) == some.offsets[-1]
