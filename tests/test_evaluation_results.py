import json

import pytest
import torch
from torchvision.ops import box_convert

from detmix.evaluation import coco_results, evaluate_coco, evaluate_voc
from detmix.evaluation.results import read_ground_truth, read_predictions

TRUTH = {
    "info": {"year": 2024},
    "images": [{"id": 4, "file_name": "a.jpg"}, {"id": 9}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 4, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}],
}
ROW = {"image_id": 4, "category_id": 3, "bbox": [0, 0, 10, 10.5], "score": 0.5}


def make_detection(count, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 50], 1)
    labels = torch.randint(1, 3, (count,), generator=generator)
    return {"boxes": boxes.to(dtype), "labels": labels, "scores": torch.rand(count, generator=generator).to(dtype)}


def changed(where, **values):
    """The ground truth with the first row of one of its lists changed; a value of None drops the key."""
    row = {k: v for k, v in {**TRUTH[where][0], **values}.items() if v is not None}
    return {**TRUTH, where: [row, *TRUTH[where][1:]]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coco_results_keep_order_ids_boxes_and_scores(dtype):
    detections = [make_detection(3, 0, dtype), make_detection(0, 1, dtype), make_detection(2, 2, dtype)]
    rows = coco_results([4, 9, 5], detections, category_ids=[3, 7])
    assert [r["image_id"] for r in rows] == [4, 4, 4, 5, 5]
    labels = torch.cat([d["labels"] for d in detections]).tolist()
    assert [r["category_id"] for r in rows] == [{1: 3, 2: 7}[label] for label in labels]
    boxes = torch.cat([d["boxes"] for d in detections]).double()
    torch.testing.assert_close(torch.tensor([r["bbox"] for r in rows]).double(), box_convert(boxes, "xyxy", "xywh"))
    assert [r["score"] for r in rows] == torch.cat([d["scores"] for d in detections]).double().tolist()


def test_coco_results_are_what_the_evaluators_read(tmp_path):
    detection = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1]), "scores": torch.ones(1)}
    rows = coco_results(torch.tensor([4]), [detection], category_ids=[3, 7])
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert read_predictions(tmp_path / "rows.json", TRUTH) == rows
    assert evaluate_coco(TRUTH, tmp_path / "rows.json").metrics["AP"] == pytest.approx(1)
    assert evaluate_voc(TRUTH, tmp_path / "rows.json").ap == 1


def test_masks_become_segmentations_that_score():
    masks = torch.zeros(1, 1, 20, 30)
    masks[0, 0, 2:12, 5:20] = 0.6
    box = torch.tensor([[5.0, 2, 20, 12]])
    detection = {"boxes": box, "labels": torch.tensor([2]), "scores": torch.ones(1), "masks": masks}
    rows = json.loads(json.dumps(coco_results([4], [detection], category_ids=[3, 7])))
    polygon = [5, 2, 20, 2, 20, 12, 5, 12]
    annotation = {"image_id": 4, "category_id": 7, "bbox": [5, 2, 15, 10], "segmentation": [polygon]}
    images = [{"id": 4, "height": 20, "width": 30}]
    result = evaluate_coco({**TRUTH, "images": images, "annotations": [annotation]}, rows, iou_type="segm")
    assert result.metrics["AP"] == pytest.approx(1)


@pytest.mark.parametrize("label", [0, 3, -1])
def test_coco_results_refuse_a_label_without_a_category(label):
    detection = {**make_detection(1), "labels": torch.tensor([label])}
    with pytest.raises(ValueError, match=rf"image 4: labels must lie in \[1, 2\], got {label}"):
        coco_results([4], [detection], category_ids=[3, 7])


def test_coco_results_refuse_other_lengths():
    with pytest.raises(ValueError, match="2 image ids and detections of 1 images"):
        coco_results([4, 9], [make_detection(1)], category_ids=[3, 7])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {**ROW, "image_id": 5}], r"unknown image_id 5 - at `\$\[1\].image_id`"),
        ([ROW, {**ROW, "category_id": 1}], r"unknown category_id 1 - at `\$\[1\].category_id`"),
        ([ROW, {**ROW, "score": float("nan")}], r"score must be finite, got nan - at `\$\[1\].score`"),
        ([{**ROW, "bbox": [0, 0, float("inf"), 1]}], r"bbox must be finite, got .*inf.* - at `\$\[0\].bbox`"),
        ([{**ROW, "bbox": [0, 0, -2, 1]}], r"width and height of 0 or more, got .*-2.* - at `\$\[0\].bbox`"),
        ([{**ROW, "bbox": [0, 0, 1]}], r"length 4, got 3 - at `\$\[0\].bbox`"),
        ([{**ROW, "score": "high"}], r"Expected `float`, got `str` - at `\$\[0\].score`"),
        ([{k: v for k, v in ROW.items() if k != "score"}], r"missing required field `score` - at `\$\[0\]`"),
        ({"annotations": []}, "Expected `array`, got `object`"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_bad_predictions_name_file_row_and_key(tmp_path, rows, message, from_file):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(rows))
    name = r".*found\.json" if from_file else "predictions"
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        read_predictions(path if from_file else rows, TRUTH)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (changed("annotations", image_id=5), r"unknown image_id 5 - at `\$.annotations\[0\].image_id`"),
        (changed("annotations", category_id=4), r"unknown category_id 4 - at `\$.annotations\[0\].category_id`"),
        (changed("annotations", bbox=None), r"missing required field `bbox` - at `\$.annotations\[0\]`"),
        (changed("annotations", bbox=[0, 0, 1, -1]), r"width and height of 0 or more.* at `\$.annotations\[0\].bbox`"),
        (changed("categories", name="dog"), r"name 'dog' appears twice - at `\$.categories\[1\].name`"),
        (changed("categories", id=7), r"id 7 appears twice - at `\$.categories\[1\].id`"),
        (changed("images", id=9), r"id 9 appears twice - at `\$.images\[1\].id`"),
        ({k: v for k, v in TRUTH.items() if k != "images"}, "missing required field `images`"),
    ],
)
def test_bad_ground_truth_names_file_row_and_key(tmp_path, truth, message):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=rf"truth\.json: .*{message}"):
        read_ground_truth(path)
    with pytest.raises(ValueError, match=rf"ground truth: .*{message}"):
        read_ground_truth(truth)


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "found.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"found\.json: not JSON"):
        read_predictions(path, TRUTH)


def test_masks_are_asked_for_only_where_they_are_needed():
    assert read_ground_truth(TRUTH) is TRUTH
    with pytest.raises(ValueError, match="missing required field `height`"):
        read_ground_truth(TRUTH, masks=True)
    with pytest.raises(ValueError, match=r"missing required field `segmentation` - at `\$\[0\]`"):
        read_predictions([ROW], TRUTH, masks=True)


def test_no_predictions_are_valid(tmp_path):
    (tmp_path / "found.json").write_text("[]")
    assert read_predictions(tmp_path / "found.json", TRUTH) == read_predictions([], TRUTH) == []
