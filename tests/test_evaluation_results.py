import json
import re

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from detmix.evaluation import coco_results, evaluate_coco, evaluate_voc

TRUTH = {
    "info": {"year": 2024},
    "images": [{"id": 4, "file_name": "a.jpg"}, {"id": 9}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 4, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}],
}


def make_detection(count, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 50], 1)
    labels = torch.randint(1, 3, (count,), generator=generator)
    return {"boxes": boxes.to(dtype), "labels": labels, "scores": torch.rand(count, generator=generator).to(dtype)}


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


@pytest.mark.parametrize("category_ids", [np.array([3, 7]), torch.tensor([3, 7]), (3, 7)])
def test_category_ids_of_any_kind_become_plain_numbers(category_ids):
    rows = json.loads(json.dumps(coco_results([4], [make_detection(5)], category_ids)))
    assert [row["category_id"] for row in rows] == [[3, 7][label - 1] for label in make_detection(5)["labels"].tolist()]


def test_category_ids_by_label_are_refused():
    with pytest.raises(TypeError, match=r"one id for each label from 1 on, got \{1: 3, 2: 7\}"):
        coco_results([4], [make_detection(1)], {1: 3, 2: 7})


@pytest.mark.parametrize(
    ("image_id", "category_ids", "named"),
    [(7.9, [3], "image ids must be integers, got 7.9"), ("007", [3], "image ids must be integers, got '007'")]
    + [(7, [10.5], "category ids must be integers, got 10.5")],
)
def test_ids_that_are_no_integers_are_refused_and_not_cut(image_id, category_ids, named):
    with pytest.raises(TypeError, match=named):
        coco_results([image_id], [make_detection(1)], category_ids)


def test_ids_may_be_integers_of_numpy_and_torch():
    detection = make_detection(1) | {"labels": torch.tensor([1])}
    for image_ids, category_ids in ((torch.tensor([7]), np.array([3])), ([7.0], np.array([3.0]))):
        [row] = coco_results(image_ids, [detection], category_ids)
        assert (row["image_id"], row["category_id"]) == (7, 3)
        assert type(row["image_id"]) is type(row["category_id"]) is int


def test_coco_results_refuse_other_lengths():
    with pytest.raises(ValueError, match="2 image ids and detections of 1 images"):
        coco_results([4, 9], [make_detection(1)], category_ids=[3, 7])


@pytest.mark.parametrize("shape", [(1, 5, 2), (2, 5, 3), (5, 3)])
def test_keypoints_of_another_shape_are_refused(shape):
    detection = {"boxes": torch.rand(1, 4), "labels": torch.tensor([1]), "scores": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"image 7: keypoints must have shape \(1, P, 3\), .* got " + re.escape(str(shape))
    ):
        coco_results([7], [{**detection, "keypoints": torch.zeros(shape)}], [3])
