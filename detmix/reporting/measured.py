"""How predictions are to be measured, and what was measured, in one form for both rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..arguments import check_count, check_iou
from ..evaluation import CocoResult, Curve, VocResult, evaluate_coco, evaluate_voc, oks_sigmas
from ..evaluation.backends import Backend, IouType
from ..evaluation.coco import check_max_detections
from ..evaluation.compare import Side, count_coco, count_voc
from ..evaluation.records import Detections, GroundTruth

Rules = Literal["coco", "voc"]

_OF_COCO = ("iou_type", "backend", "class_agnostic", "max_detections", "sigmas")
_OF_VOC = ("iou", "use_07_metric")
_MEASURED = {None: "boxes", "bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}


@dataclass(frozen=True)
class Options:
    """How to measure; what is left out is as the rules have it.

    Attributes:
        rules: COCO's or the VOC kit's.
        iou_type: of COCO's: boxes, masks or keypoints.
        backend: of COCO's: the library that counts; a comparison is counted by pycocotools.
        class_agnostic: of COCO's: take all classes for one.
        max_detections: of COCO's: numbers of detections of an image that count.
        sigmas: of COCO's: the constants of keypoints, as for ``oks_sigmas``.
        iou: of VOC's: the least IoU of a match, 0.5 if left out.
        use_07_metric: of VOC's: the mean at eleven recalls, as in 2007.
        min_score: least score of a detection that is shown among confusions and mistakes.
    """

    rules: Rules = "coco"
    iou_type: IouType | None = None
    backend: Backend | None = None
    class_agnostic: bool = False
    max_detections: Sequence[int] | None = None
    sigmas: Sequence[float] | None = None
    iou: float | None = None
    use_07_metric: bool = False
    min_score: float = 0.5

    def check(self, *, comparing: bool, resamples: int = 1) -> None:
        """Refuse what does not go together.

        Raises:
            ValueError: an option is of the other rules, is no number, is out of range, or cannot be compared.
            TypeError: resamples is not an integer.
        """
        wrong, owner = (_OF_COCO, "COCO") if self.rules == "voc" else (_OF_VOC, "VOC")
        for name in wrong:
            if getattr(self, name) not in (None, False):
                raise ValueError(f"{_flag(name)} belongs to the rules of {owner}, and --rules is {self.rules}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"--min-score must lie in [0, 1], got {self.min_score}")
        check_iou("--iou", self.match_iou)
        if self.max_detections is not None:
            check_max_detections(self.max_detections)
        if self.sigmas is not None and not self.keypoints:
            raise ValueError("--sigmas belongs to --iou-type keypoints")
        if self.sigmas is not None:
            oks_sigmas(len(self.sigmas), self.sigmas)
        if self.class_agnostic and self.keypoints:
            raise ValueError("--class-agnostic does not go together with --iou-type keypoints: OKS is within a class")
        check_count("--resamples", resamples, least=1)
        for name in ("class_agnostic", "max_detections"):
            if comparing and getattr(self, name):
                raise ValueError(f"--compare does not go together with {_flag(name)}")

    @property
    def measured(self) -> str:
        """What is measured: boxes, masks or keypoints."""
        return _MEASURED[self.iou_type]

    @property
    def masks(self) -> bool:
        """Whether masks are measured rather than boxes."""
        return self.iou_type == "segm"

    @property
    def keypoints(self) -> bool:
        """Whether keypoints are measured rather than boxes."""
        return self.iou_type == "keypoints"

    @property
    def match_iou(self) -> float:
        """The least IoU of a match where there is only one."""
        return 0.5 if self.iou is None else self.iou


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured.

    Attributes:
        metrics: overall numbers, by name.
        by_class: for each class its number of ``objects`` and its average precisions, by name.
        curves: precision against recall by class name.
        curves_at: the threshold of the curves, in words: that of IoU, or of OKS where keypoints are measured.
    """

    metrics: Mapping[str, float]
    by_class: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, Curve]
    curves_at: str


def measure(truth: GroundTruth, found: Detections, options: Options) -> Measured:
    """Evaluate by the rules wanted; errors are those of ``evaluate_coco`` and ``evaluate_voc``."""
    if options.rules == "voc":
        return _of_voc(evaluate_voc(truth, found, iou=options.match_iou, use_07_metric=options.use_07_metric), options)
    coco = evaluate_coco(
        truth,
        found,
        options.iou_type or "bbox",
        backend=options.backend or "pycocotools",
        class_agnostic=options.class_agnostic,
        max_detections=options.max_detections,
        sigmas=options.sigmas,
    )
    return _of_coco(coco, options)


def measure_side(truth: GroundTruth, found: Detections, options: Options) -> tuple[Measured, Side]:
    """What ``measure`` gives of options that pass ``check(comparing=True)``, and the side of a comparison."""
    if options.rules == "voc":
        voc, side = count_voc(truth, found, options.match_iou, use_07_metric=options.use_07_metric)
        return _of_voc(voc, options), side
    coco, side = count_coco(truth, found, options.iou_type or "bbox", options.sigmas)
    return _of_coco(coco, options), side


def _of_voc(voc: VocResult, options: Options) -> Measured:
    columns: dict[str, Mapping[str, float]] = {"objects": voc.objects_by_class, "AP": voc.ap_by_class}
    return Measured({"AP": voc.ap}, _by_class(columns), voc.curves, f"IoU {options.match_iou:g}")


def _of_coco(coco: CocoResult, options: Options) -> Measured:
    columns: dict[str, Mapping[str, float]] = {
        "objects": coco.objects_by_class,
        "AP": coco.ap_by_class,
        "AP50": coco.ap50_by_class,
        **coco.ap_by_size,
    }
    return Measured(coco.metrics, _by_class(columns), coco.curves, f"{'OKS' if options.keypoints else 'IoU'} 0.5")


def _by_class(columns: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: values[name] for key, values in columns.items()} for name in columns["objects"]}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
