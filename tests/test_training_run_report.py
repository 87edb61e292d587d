import json
import shutil

import pytest
import torch
from PIL import Image

from detmix.data import Shapes
from detmix.evaluation import coco_results, evaluate_coco
from detmix.training.run_report import as_detections, report_run, write_sample

from .test_training_report import Page

CONFIG = "data:\n  format: shapes\n  shapes: {train: 2, val: 5, size: 64, max_extent: 32}\n"
FACTS = {"summary": {"Command": "train.py fit"}, "environment": {"torch": "2.6.0"}, "images": [0, 1, 2, 3]}
RATES = {
    "visibilities": [0.2, 0.8],
    "class_names": ["circle"],
    "counts": [4],
    "found": [[1], [3]],
    "iou_threshold": 0.5,
    "score_threshold": 0.05,
    "num_pairs": 2,
}


def make_predictions(truth):
    """Of scenes 0 and 1 all that there is, of 2 nothing, of 3 all as another class and a faint one; 4 was left out."""
    rows = []
    for row in truth["annotations"]:
        image, kind = row["image_id"], row["category_id"]
        if image not in (2, 4):
            kind = kind % 3 + 1 if image == 3 else kind
            rows.append({"image_id": image, "category_id": kind, "bbox": row["bbox"], "score": 0.9})
    return [*rows, {"image_id": 3, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.4}]


@pytest.fixture(scope="module")
def truth():
    return Shapes(5, size=64, max_extent=32, seed=1).ground_truth()


@pytest.fixture
def folder(tmp_path, truth):
    """What a run leaves of which its report is made."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "run.json").write_text(json.dumps(FACTS))
    (tmp_path / "predictions.json").write_text(json.dumps(make_predictions(truth)))
    return tmp_path


def objects_in(truth, image):
    return sum(row["image_id"] == image for row in truth["annotations"])


def page_of(folder):
    return Page(report_run(folder).read_text(encoding="utf-8"))


def test_a_report_is_made_of_bad_detections_however_much_they_look_like_corners(folder, truth):
    rows = make_predictions(truth)
    for row in rows:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x, y, x + width, y + height]
    with pytest.raises(ValueError, match="these look like"):
        evaluate_coco(truth, rows)
    (folder / "predictions.json").write_text(json.dumps(rows))
    assert page_of(folder).text("title") == [f"detmix: {folder.name}"]


def test_a_folder_gives_the_report_of_its_validation(folder, truth):
    page = page_of(folder)
    assert page.text("title") == [f"detmix: {folder.name}"]
    assert {"train.py fit", "2.6.0"} <= set(page.text("td"))
    assert "Training curves" not in page.text("h2")  # nothing was logged
    counted = [objects_in(truth, image) for image in FACTS["images"]]
    names = {row["id"]: f"Image {row['id']}" for row in truth["images"]}  # drawn, not read from files
    worst = [names[2], names[3]] if counted[2] >= counted[3] else [names[3], names[2]]
    best = [names[0], names[1]] if counted[0] >= counted[1] else [names[1], names[0]]
    assert page.text("h4") == [*worst, *best]
    captions = [text for text in page.text("p") if "missed" in text]
    told = {
        names[
            0
        ]: f"Objects found: {counted[0]}, missed: 0, taken for another class: 0; detections without an object: 0.",
        names[
            1
        ]: f"Objects found: {counted[1]}, missed: 0, taken for another class: 0; detections without an object: 0.",
        names[
            2
        ]: f"Objects found: 0, missed: {counted[2]}, taken for another class: 0; detections without an object: 0.",
        names[
            3
        ]: f"Objects found: 0, missed: 0, taken for another class: {counted[3]}; detections without an object: 0.",
    }
    assert captions == [told[name] for name in [*worst, *best]]


def test_pictures_tell_the_objects_of_their_own_image(folder, truth):
    page = page_of(folder)
    kinds = {row["id"]: row["name"] for row in truth["categories"]}
    for image in truth["images"][:4]:
        (annotated,) = page.alt(f"Image {image['id']}, annotated: ")
        labels = [kinds[row["category_id"]] for row in truth["annotations"] if row["image_id"] == image["id"]]
        assert sorted(annotated.partition(": ")[2].split(", ")) == sorted(
            f"{labels.count(kind)} {kind}" for kind in set(labels)
        )
    assert page.alt("Image 2, detected") == ["Image 2, detected: no objects"]


def test_what_is_wrong_is_told_below_each_picture(folder):
    page = page_of(folder)
    pictures = [image["alt"].partition(":")[0] for image in page.all("img") if image["alt"].startswith("Image")]
    captions = dict(zip(pictures, page.text("figcaption"), strict=True))
    found, confused = "✓ and a whole line: found", "Confused, long dashes: taken for another class"
    assert {name: captions[name] for name in captions if name.startswith(("Image 0", "Image 2", "Image 3"))} == {
        "Image 0, annotated": f"Annotated. {found}.",
        "Image 0, detected": f"Detected. {found}.",
        "Image 2, annotated": "Annotated. Missed, short dashes: no detection.",
        "Image 2, detected": "Detected. Nothing has a score of 0.5 or more.",
        "Image 3, annotated": f"Annotated. {confused}.",
        "Image 3, detected": f"Detected. {confused}.",
    }
    (words,) = [text for text in page.text("p") if text.startswith("Left, or above")]
    assert "a score of 0.5 or more count, matched to objects at IoU\n0.5 or more" in words


def test_visibility_is_on_the_page_once_it_is_measured(folder):
    assert "Visibility" not in page_of(folder).text("h2")
    (folder / "visibility.json").write_text(json.dumps({"mixup": RATES}))
    page = page_of(folder)
    assert "Visibility" in page.text("h2")
    assert "mixup finds 25% of the objects at a visibility of 20%, 75% at 80%" in page.alt("Detection rate")[0]


def test_samples_are_on_the_page_in_their_order_with_their_words(folder):
    shutil.rmtree(folder / "train_samples", ignore_errors=True)
    labels = {"labels": torch.tensor([2, 2, 1])}
    for number in range(1, 12):
        target = labels | ({"lam": 0.3} if number == 1 else {"covers": 0} if number == 2 else {})
        write_sample(folder / "train_samples", number, Image.new("RGB", (8, 8)), target, ["cat", "Hündin <b>"])
    assert page_of(folder).alt("Training sample") == [
        "Training sample 1: two images blended, with 2 Hündin <b>, 1 cat",
        "Training sample 2: an image with a part cut out, with 2 Hündin <b>, 1 cat",
        *(f"Training sample {number}: an image, with 2 Hündin <b>, 1 cat" for number in range(3, 12)),
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", None, "run.json: no such file; a run of tools/train.py leaves one after its first validation"),
        ("run.json", "{", "run.json: Input data was truncated"),
        ("run.json", '{"summary": 1}', r"run.json: Expected `object`, got `int` - at `\$.summary`"),
        ("config.yaml", None, "config.yaml: no such config file"),
        ("config.yaml", "data: {format: xml}", "(?s)config.yaml.*xml"),
        ("predictions.json", None, "predictions.json: no such file"),
        ("predictions.json", "[1]", "predictions.json: Expected `object`, got `int`"),
        (
            "predictions.json",
            '[{"image_id": 77}]',
            r"predictions.json: .* missing required field `score` - at `\$\[0\]`",
        ),
        ("visibility.json", "[]", "visibility.json: Expected `object`, got `array`"),
        ("visibility.json", '{"mixup": {}}', "visibility.json: not detection rates.*KeyError"),
        ("visibility.json", json.dumps({"a": RATES | {"found": [[1]]}}), "visibility.json: .*shapes"),
        ("visibility.json", json.dumps({"a": RATES | {"visibilities": []}}), "visibility.json: .*shapes"),
    ],
)
def test_what_is_wrong_is_named_and_the_old_page_stays(folder, file, content, message):
    (folder / "report.html").write_text("old")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        report_run(folder)
    assert (folder / "report.html").read_text() == "old"


@pytest.mark.parametrize("rows", [[], [0]])
def test_a_detector_of_boxes_has_no_numbers_of_masks(folder, truth, rows):
    (folder / "config.yaml").write_text(CONFIG.replace("format: shapes", "format: shapes\n  masks: true"))
    (folder / "predictions.json").write_text(json.dumps([make_predictions(truth)[row] for row in rows]))
    told = {text.split()[0] for text in page_of(folder).text("th") if text.strip()}
    assert "AP50" in told
    assert "segm/AP50" not in told


def test_results_become_detections():
    rows = [{"image_id": 0, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 0.5}]
    detections = as_detections(rows, [4, 9], (5, 7))
    assert {name: value.tolist() for name, value in detections.items()} == {
        "boxes": [[1, 2, 4, 6]],
        "labels": [2],
        "scores": [0.5],
    }
    assert as_detections([], [4], (5, 7))["boxes"].shape == (0, 4)


def test_results_with_masks_become_detections_with_masks():
    masks = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    found = {"boxes": torch.tensor([[1.0, 2, 4, 5], [0, 0, 7, 5]]), "labels": torch.tensor([2, 1]), "masks": masks}
    rows = coco_results([3], [{**found, "scores": torch.tensor([0.75, 0.5])}], [4, 9])
    detections = as_detections(rows, [4, 9], (5, 7))
    assert torch.equal(detections["masks"], (masks[:, 0] > 0.5).byte())
    assert torch.equal(detections["boxes"], found["boxes"])
    boxes_alone = {key: value for key, value in rows[1].items() if key != "segmentation"}
    assert "masks" not in as_detections([rows[0], boxes_alone], [4, 9], (5, 7))
