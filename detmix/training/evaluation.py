"""What one pass over a validation or test set gave: accuracy by the rules of COCO and of VOC, and losses."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..evaluation import CocoResult, VocResult, evaluate_coco
from ..evaluation.backends import Backend, load_faster
from ..evaluation.keypoints import with_keypoints
from ..evaluation.masks import encode_masks
from ..evaluation.reading import read_predictions
from ..evaluation.records import Detections, GroundTruth, of_images
from ..evaluation.voc import rank_voc, result_of

_BACKEND: Backend = "faster-coco-eval"  # pycocotools gives the same numbers, and trainings wait for them

_COLUMNS = {"segm": "mask AP", "keypoints": "keypoint AP"}  # of the table by class

PARTS = {"segm": "masks", "keypoints": "keypoints"}
"""What detectors may give beside boxes, by the beginning of its numbers' names."""

load_faster()  # where it is missing, that is told now and not at the first validation


class Evaluation(NamedTuple):
    """What was measured, and on what."""

    coco: CocoResult
    voc: VocResult  # area measure, IoU 0.5
    voc_11_point: VocResult  # the measure of 2007, IoU 0.5
    parts: dict[str, CocoResult]  # ``segm`` of masks and ``keypoints``, where the detector gives them
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

    def ap_of_parts(self) -> dict[str, float]:
        """AP of what is measured beside boxes, by its name in words."""
        return {PARTS[kind]: part.metrics["AP"] for kind, part in self.parts.items()}

    def summary(self) -> dict[str, float]:
        """The numbers over all classes: ``AP`` ... ``ARl``, ``voc/AP50``, ``voc/AP50_11point`` and those of parts.

        The latter are ``segm/AP`` ... of masks and ``keypoints/AP`` ...
        """
        return {
            **self.coco.metrics,
            **{f"{kind}/{name}": value for kind, part in self.parts.items() for name, value in part.metrics.items()},
            "voc/AP50": self.voc.ap,
            "voc/AP50_11point": self.voc_11_point.ap,
        }

    def metrics(self) -> dict[str, float]:
        """All numbers under flat keys: the summary, and ``AP/<class>``, ``AP50/<class>`` of COCO, parts and VOC."""
        return {
            **self.summary(),
            **_ap_of_classes("", self.coco),
            **{key: ap for kind, part in self.parts.items() for key, ap in _ap_of_classes(f"{kind}/", part).items()},
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
                **{_COLUMNS[kind]: part.ap_by_class[name] for kind, part in self.parts.items()},
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
    keypoints: bool = False,
    sigmas: Sequence[float] | None = None,
) -> Evaluation:
    """Measure predictions by both rules.

    Args:
        ground_truth: with masks and keypoints where these are measured.
        predictions: COCO results.
        visited: ids of the images that count: fewer than all under ``limit_val_batches``.
        losses: means over these images.
        masks: measure masks beside boxes; predictions then have a ``segmentation`` beside the ``bbox``.
        keypoints: measure keypoints beside boxes; predictions then have ``keypoints`` beside the ``bbox``.
        sigmas: of keypoints, as for ``evaluate_coco``.

    Raises:
        ValueError: the predictions are wrong (the row is named); or masks or keypoints are measured, and the ground
            truth has none.
    """
    truth = of_images(ground_truth, visited)
    found = read_predictions(predictions, truth, is_xywh=True)
    rankings = rank_voc(truth, found, iou=0.5)
    voc, eleven_point = (result_of(truth, rankings, use_07_metric=eleven) for eleven in (False, True))
    coco = evaluate_coco(truth, found, backend=_BACKEND)
    parts = {}
    if masks:
        parts["segm"] = evaluate_coco(truth, _with_masks(found, predictions, truth), "segm", backend=_BACKEND)
    if keypoints:
        posed = with_keypoints(found, predictions)
        parts["keypoints"] = evaluate_coco(truth, posed, "keypoints", backend=_BACKEND, sigmas=sigmas)
    return Evaluation(coco, voc, eleven_point, parts, dict(losses), truth, len(ground_truth.image_ids))


def _with_masks(found: Detections, rows: Sequence[dict[str, Any]], truth: GroundTruth) -> Detections:
    """The same detections with their masks; the area is still the box's, as in pycocotools where there is one."""
    segmentations, sizes = [row["segmentation"] for row in rows], truth.sizes[found.images]
    return replace(found, masks=encode_masks(segmentations, sizes, found.source, "$[{}].segmentation"))
