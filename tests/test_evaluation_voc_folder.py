import numpy as np
import pytest

from detmix.data import read_voc
from detmix.evaluation import evaluate_voc, read_voc_folder
from tests.test_data_voc import document, folder, thing


def test_a_folder_read_by_hand(tmp_path):
    documents = {
        "b": document(thing("dog", (2, 3, 4, 6)), thing("cat", (1, 1, 1, 1), 1), name="<filename>b.png</filename>"),
        "a": document(size=""),  # there are no images that could tell its size
    }
    truth = read_voc_folder(folder(tmp_path, documents), "train")
    assert truth.image_ids.tolist() == [1, 2]
    assert truth.file_names == ("b.png", "a.jpg")
    assert truth.sizes.tolist() == [[80, 100], [0, 0]]
    assert (truth.class_names, truth.category_ids.tolist()) == (("cat", "dog"), [1, 2])
    objects = truth.objects
    assert (objects.images.tolist(), objects.labels.tolist()) == ([0, 0], [1, 0])
    assert objects.corners.tolist() == [[2, 3, 4, 6], [1, 1, 1, 1]]
    assert objects.xywh.tolist() == [[1, 2, 3, 4], [0, 0, 1, 1]]
    assert objects.areas.tolist() == [12, 1]
    assert objects.difficult.tolist() == [False, True]
    assert not objects.crowd.any()
    assert truth.source == str(tmp_path / "ImageSets/Main/train.txt")


def test_numbers_are_those_of_the_training_data_where_that_changes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.integers(1, 50, (30, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 30, (30, 2))], 1).tolist()
    things = [thing(("cat", "dog")[n % 2], box, int(n % 5 == 0)) for n, box in enumerate(boxes)]
    root = folder(tmp_path, {str(n): document(*things[n::3]) for n in range(3)})
    rows = [
        {"image_id": 1 + n % 3, "category_id": 1 + n % 2, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": n / 30}
        for n, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    truths = read_voc_folder(root, "train"), read_voc(root).ground_truth()
    ours, trained = (evaluate_voc(truth, rows, iou=0.8) for truth in truths)
    assert 0 < ours.ap < 1
    assert ours.ap_by_class == trained.ap_by_class


def test_a_box_past_the_edge_is_not_clipped(tmp_path):
    root = folder(tmp_path, {"a": document(thing(box=(91, 1, 110, 10)))})
    rows = [{"image_id": 1, "category_id": 1, "bbox": [90, 0, 20, 10], "score": 0.5}]
    assert evaluate_voc(read_voc_folder(root, "train"), rows, iou=1.0).ap == 1


def test_a_box_without_a_pixel_is_dropped_with_one_warning_as_from_training_data(tmp_path, caplog):
    root = folder(tmp_path, {"a": document(thing("cat", (9, 5, 3, 9)), thing(), thing("dog", (5, 9, 6, 8)))})
    truth = read_voc_folder(root, "train")
    (ours,) = caplog.messages
    assert truth.objects.corners.tolist() == [[11, 21, 40, 60]]
    assert (truth.class_names, truth.objects.labels.tolist(), len(truth.objects)) == (("cat", "dog"), [1], 1)
    assert "train.txt: 2 of 3 boxes without a pixel, dropped: " in ours
    caplog.clear()
    trained = read_voc(root)
    assert (trained.class_names, trained.labels.tolist()) == (("cat", "dog"), [2])
    (theirs,) = caplog.messages
    assert ours.partition("dropped: ")[2] == theirs.partition("dropped: ")[2]
    assert "a.xml: object[3] has xyxy [5.0, 9.0, 6.0, 8.0]" in ours


def test_corners_from_0_are_corners_from_1_moved_by_a_pixel(tmp_path, caplog):
    truths = []
    for one in (0, 1):
        boxes = [(one, 2 + one, 5, 6), (3 + one, 7 + one, 4, 9), (9 + one, 9 + one, 9, 12)]
        root = folder(tmp_path / str(one), {"a": document(*(thing(box=box) for box in boxes))})
        truths.append(read_voc_folder(root, "train", one_based=bool(one)))
    for key in ("corners", "xywh", "areas"):
        first, second = (getattr(truth.objects, key).tolist() for truth in truths)
        assert first == second
    assert truths[0].objects.xywh.tolist() == [[0, 2, 5, 4], [3, 7, 1, 2]]
    assert ["1 of 3 boxes without a pixel" in message for message in caplog.messages] == [True, True]
    read_voc_folder(tmp_path / "0", "train")
    assert "1 of 3 boxes begin at 0" in caplog.text


def test_classes_may_be_given(tmp_path):
    root = folder(tmp_path, {"a": document(thing("dog"))})
    truth = read_voc_folder(root, "train", ["owl", "dog"])
    assert (truth.class_names, truth.objects.labels.tolist()) == (("owl", "dog"), [1])


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        (
            document(thing("dog")),
            ["cat", "owl"],
            r"a\.xml: object\[1\]: the class must be one of \['cat', 'owl'\], got 'dog'",
        ),
        (document(), ["cat", "cat"], "class names must be unique, got 'cat' more than once"),
        (
            document(thing(box=("-1e308", 1, "1e308", 9))),
            None,
            r"a\.xml: object\[1\]: the box must be in pixels, of 2\*\*53 at most, got \[-1e\+308, 1.0, 1e\+308, 9.0\]",
        ),
        ("<annotation>", None, r"a\.xml: not a VOC annotation"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, classes, message):
    with pytest.raises(ValueError, match=message):
        read_voc_folder(folder(tmp_path, {"a": text}), "train", classes)


def test_what_is_missing_is_named(tmp_path):
    root = folder(tmp_path, {"a": document()}, lines="a\nb\n")
    with pytest.raises(FileNotFoundError, match=r"b\.xml: no such annotation file, and .*train\.txt lists it"):
        read_voc_folder(root, "train")
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such image set; there are \['train'\]"):
        read_voc_folder(root, "val")
    with pytest.raises(ValueError, match=r"none\.txt: there is no image in it"):
        read_voc_folder(folder(tmp_path, {}, "none"), "none")
