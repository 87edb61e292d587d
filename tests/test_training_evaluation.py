"""What a validation measures: the images that it visited."""

from detmix.evaluation import evaluate_coco, evaluate_voc
from detmix.training.evaluation import evaluate

from .test_evaluation_coco import make_scene


def test_images_that_were_not_visited_count_for_nothing():
    truth, predictions = make_scene(0)
    visited = {0, 2, 5}
    rows = [row for row in predictions if row["image_id"] in visited]
    part = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in visited],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in visited],
    }
    result = evaluate(truth, rows, visited, {"loss": 0.5})
    assert result.coco.metrics == evaluate_coco(part, rows).metrics
    assert result.voc.ap == evaluate_voc(part, rows).ap
    assert result.voc_11_point.ap == evaluate_voc(part, rows, use_07_metric=True).ap
    assert (result.ground_truth, result.predictions, result.losses) == (part, rows, {"loss": 0.5})
