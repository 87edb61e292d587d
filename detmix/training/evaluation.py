"""What one pass over a validation or test set gave: accuracy by the rules of COCO and of VOC, and losses."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..evaluation import CocoResult, VocResult, evaluate_coco
from ..evaluation.backends import Backend, load_faster
from ..evaluation.masks import encode_masks
from ..evaluation.reading import read_predictions
from ..evaluation.records import Detections, GroundTruth, of_images
from ..evaluation.voc import rank_voc, result_of

_BACKEND: Backend = "faster-coco-eval"  # pycocotools gives the same numbers, and trainings wait for them

load_faster()  # where it is missing, that is told now and not at the first validation


class Evaluation(NamedTuple):
    """What was measured, and on what."""

    coco: CocoResult
    voc: VocResult  # area measure, IoU 0.5
    voc_11_point: VocResult  # the measure of 2007, IoU 0.5
    segm: CocoResult | None  # of masks
    losses: dict[str, float]  # ``loss`` and its terms ``loss_...``, means over the images
    ground_truth: GroundTruth  # of the images that were visited
    images: int  # that there are, visited or not

    @property
    def measured(self) -> int:
        """How many images were visited."""
        return len(self.ground_truth.image_ids)

    def part(self) -> str:
        """How many images were visited, in brackets, where they are not all, as under ``limit_val_batches``."""
        return "" if self.measured == self.images else f" (measured: {self.measured} of {self.images} images)"

    def summary(self) -> dict[str, float]:
        """The numbers over all classes: ``AP`` ... ``ARl``, ``segm/AP`` ..., ``voc/AP50`` and ``voc/AP50_11point``."""
        return {
            **self.coco.metrics,
            **({} if self.segm is None else {f"segm/{name}": value for name, value in self.segm.metrics.items()}),
            "voc/AP50": self.voc.ap,
            "voc/AP50_11point": self.voc_11_point.ap,
        }

    def metrics(self) -> dict[str, float]:
        """All numbers under flat keys: the summary, and ``AP/<class>``, ``AP50/<class>`` of COCO, masks and VOC."""
        return {
            **self.summary(),
            **_ap_of_classes("", self.coco),
            **({} if self.segm is None else _ap_of_classes("segm/", self.segm)),
            **{f"voc/AP50/{name}": value for name, value in self.voc.ap_by_class.items()},
        }

    def by_class(self) -> dict[str, dict[str, float]]:
        """The numbers of each class, by class name."""
        return {
            name: {
                "objects": self.coco.objects_by_class[name],
                "AP": ap,
                "AP50": self.coco.ap50_by_class[name],
                **{size: values[name] for size, values in self.coco.ap_by_size.items()},
                **({} if self.segm is None else {"mask AP": self.segm.ap_by_class[name]}),
                "VOC AP50": self.voc.ap_by_class[name],
            }
            for name, ap in self.coco.ap_by_class.items()
        }


def _ap_of_classes(prefix: str, result: CocoResult) -> dict[str, float]:
    ap = {f"{prefix}AP/{name}": value for name, value in result.ap_by_class.items()}
    return ap | {f"{prefix}AP50/{name}": value for name, value in result.ap50_by_class.items()}


def evaluate(
    ground_truth: GroundTruth,
    predictions: Sequence[dict[str, Any]],
    visited: Container[int],
    losses: Mapping[str, float],
    *,
    masks: bool = False,
) -> Evaluation:
    """Measure predictions by both rules.

    Args:
        ground_truth: with masks where these are measured.
        predictions: COCO results.
        visited: ids of the images that count: fewer than all under ``limit_val_batches``.
        losses: means over these images.
        masks: measure masks beside boxes; predictions then have a ``segmentation`` beside the ``bbox``.

    Raises:
        ValueError: the predictions are wrong (the row is named); or masks are measured, and the ground truth has none.
    """
    truth = of_images(ground_truth, visited)
    found = read_predictions(predictions, truth, is_xywh=True)
    rankings = rank_voc(truth, found, iou=0.5)
    voc, eleven_point = (result_of(truth, rankings, use_07_metric=eleven) for eleven in (False, True))
    coco = evaluate_coco(truth, found, backend=_BACKEND)
    segm = evaluate_coco(truth, _with_masks(found, predictions, truth), "segm", backend=_BACKEND) if masks else None
    return Evaluation(coco, voc, eleven_point, segm, dict(losses), truth, len(ground_truth.image_ids))


def _with_masks(found: Detections, rows: Sequence[dict[str, Any]], truth: GroundTruth) -> Detections:
    """The same detections with their masks; the area is still the box's, as in pycocotools where there is one."""
    segmentations, sizes = [row["segmentation"] for row in rows], truth.sizes[found.images]
    return replace(found, masks=encode_masks(segmentations, sizes, found.source, "$[{}].segmentation"))
