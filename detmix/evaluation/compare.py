"""Two sets of predictions on the same images: is one better, or was it luck?

The images are drawn anew many times, with replacement, as many as there are; each draw measures both sets on the same
images, and the spread of the differences tells how far another test set of that size might have moved them. This is the
paired percentile bootstrap over images: an interval runs from the 2.5th to the 97.5th percentile of the draws. With a
hundred images it covers the truth about 94 times in 100; the basic bootstrap, which mirrors the percentiles at the
estimate, does so 92 times, and BCa would need a measurement without each image.

Nothing is matched twice. Detections are matched to objects once for each image, and a draw counts an image as often
as it was drawn.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_choice, check_count
from .backends import IouType, counts_of, rankings_of, rows_by_iou, run_pycocotools
from .coco import CocoResult, collect, limits_of, sigmas_of
from .curves import NO_OBJECTS, RECALLS_2007
from .ranking import Ranking
from .reading import PredictionSource, TruthSource, read_ground_truth, read_predictions
from .records import Detections, GroundTruth
from .voc import VocResult, rank_voc, result_of

Weights: TypeAlias = NDArray[np.float64]  # (B, I), how often each image was drawn
Draws: TypeAlias = dict[str, NDArray[np.float64]]  # (B,) values of each measure
OnStep: TypeAlias = Callable[[int, int], None]

_AT_ONCE = 50  # draws that are measured together


@dataclass(frozen=True)
class Difference:
    """One measure of two sets of predictions.

    Attributes:
        first: its value for the first set, exactly as the evaluators give it.
        second: for the second.
        low: lower end of the interval of ``second - first``; NaN where fewer than two images have objects of that kind.
        high: upper end, or NaN.
        draws: how many draws the interval is of: all, unless some had no object of that kind; the others are
            left out.
        images: how many have objects of that kind. Fewer than two tell nothing of others.
    """

    first: float
    second: float
    low: float
    high: float
    draws: int
    images: int

    @property
    def value(self) -> float:
        """``second - first``."""
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether there is an interval, and zero lies outside it."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Side:
    """One set of predictions, counted: all that a comparison needs of it.

    Attributes:
        values: of each measure.
        measure: gives the values of draws.
        images: how many have objects that bear on each measure.
    """

    values: Mapping[str, float]
    measure: Callable[[Weights], Draws]
    images: Mapping[str, int]


def compare_coco(
    ground_truth: TruthSource,
    first: PredictionSource,
    second: PredictionSource,
    iou_type: IouType = "bbox",
    *,
    sigmas: Sequence[float] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> dict[str, Difference]:
    """Compare two sets of predictions by COCO's rules.

    Args:
        ground_truth: COCO-format dict, the path of its JSON file, or pycocotools' ``COCO`` of it.
        first: list of COCO results or the path of their JSON file.
        second: the same; differences are second - first.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
        sigmas: of keypoints, as for ``oks_sigmas``.
        resamples: number of draws.
        confidence: of the intervals, in (0, 1).
        seed: of the draws.
        on_step: called with the draws done and their number.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``AR100`` and ``AP/<class>``, those of which the
        ground truth has objects; of keypoints ``AR``, and no ``APs``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the data are wrong (file, row and key are named), or an argument is.
        TypeError: resamples is not an integer.
    """
    check_choice("iou_type", iou_type, IouType)
    resamples = _check_draws(resamples, confidence)
    wanted = {"masks": iou_type == "segm", "keypoints": iou_type == "keypoints"}
    truth = read_ground_truth(ground_truth, **wanted)
    found = [read_predictions(source, truth, **wanted) for source in (first, second)]
    one, other = (count_coco(truth, rows, iou_type, sigmas)[1] for rows in found)
    return compare_sides(one, other, len(truth.image_ids), resamples, confidence, seed, on_step)


def compare_voc(
    ground_truth: TruthSource,
    first: PredictionSource,
    second: PredictionSource,
    *,
    iou: float = 0.5,
    use_07_metric: bool = False,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> dict[str, Difference]:
    """Compare two sets of predictions by the VOC kit's rules.

    Args:
        ground_truth: COCO-format dict, the path of its JSON file, or pycocotools' ``COCO`` of it.
        first: list of COCO results or the path of their JSON file.
        second: the same; differences are second - first.
        iou: the least IoU of a match, in (0, 1].
        use_07_metric: as in ``evaluate_voc``.
        resamples: number of draws.
        confidence: of the intervals, in (0, 1).
        seed: of the draws.
        on_step: called with the draws done and their number.

    Returns:
        ``AP``, the mean over the classes, and ``AP/<class>``, those of which the ground truth has objects.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the data are wrong (file, row and key are named), or an argument is.
        TypeError: resamples is not an integer.
    """
    resamples = _check_draws(resamples, confidence)
    truth = read_ground_truth(ground_truth)
    found = [read_predictions(source, truth) for source in (first, second)]
    one, other = (count_voc(truth, rows, iou, use_07_metric=use_07_metric)[1] for rows in found)
    return compare_sides(one, other, len(truth.image_ids), resamples, confidence, seed, on_step)


def count_coco(
    truth: GroundTruth, found: Detections, iou_type: IouType, sigmas: Sequence[float] | None = None
) -> tuple[CocoResult, Side]:
    """What ``evaluate_coco`` gives, and the side of a comparison; counted once, and always by pycocotools.

    faster-coco-eval does not tell which detection found what in which image.
    """
    limits, constants = limits_of(iou_type), sigmas_of(truth, iou_type, sigmas)
    evaluation = run_pycocotools(truth, found, iou_type, max_detections=limits, sigmas=constants)
    result = collect(counts_of(evaluation), truth, iou_type, limits)
    rankings = rankings_of(evaluation)
    values = result.metrics | _by_name(result.ap_by_class)
    measure = partial(_measure_coco, rankings, truth.class_names, evaluation.params)
    return result, Side(values, measure, _images_coco(rankings, truth.class_names, _recall_name(evaluation.params)))


def count_voc(truth: GroundTruth, found: Detections, iou: float, *, use_07_metric: bool) -> tuple[VocResult, Side]:
    """What ``evaluate_voc`` gives, and the side of a comparison; matched once."""
    rankings = rank_voc(truth, found, iou)
    result = result_of(truth, rankings, use_07_metric=use_07_metric)
    measure = partial(_measure_voc, rankings, RECALLS_2007 if use_07_metric else None)
    return result, Side({"AP": result.ap} | _by_name(result.ap_by_class), measure, _images_of("AP", rankings))


def _by_name(ap_by_class: Mapping[str, float]) -> dict[str, float]:
    return {f"AP/{name}": ap for name, ap in ap_by_class.items()}


def compare_sides(
    first: Side,
    second: Side,
    images: int,
    resamples: int,
    confidence: float = 0.95,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> dict[str, Difference]:
    """Compare two sets that were counted against the same ground truth of so many images."""
    if not images:
        return {}
    rng = np.random.default_rng(seed)
    spread: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        weights = rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)
        drawn, others = first.measure(weights), second.measure(weights)
        for name in drawn:
            spread.setdefault(name, []).append(others[name] - drawn[name])
        if on_step is not None:
            on_step(start + count, resamples)
    known = [name for name, value in first.values.items() if name in spread and value != NO_OBJECTS]
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: _difference(first, second, name, np.concatenate(spread[name]), ends) for name in known}


def _measure_coco(
    rankings: Mapping[str, Sequence[Ranking]], names: Sequence[str], parameters: Any, weights: Weights
) -> Draws:
    """The measures of draws; ``parameters`` are those of the ``COCOeval``."""
    draws: Draws = {}
    if not names:
        return draws
    at = rows_by_iou(parameters.iouThrs)
    for size, of_classes in rankings.items():
        averages = [ranking.averages(weights, parameters.recThrs) for ranking in of_classes]
        precision, recall = (np.stack(parts) for parts in zip(*averages, strict=True))  # (K, B, T)
        draws[f"AP{size}"] = _mean(precision)
        if not size:
            draws |= {name: _mean(precision[..., [at[iou]]]) for name, iou in (("AP50", "0.50"), ("AP75", "0.75"))}
            draws[_recall_name(parameters)] = _mean(recall)
            draws |= {f"AP/{name}": of_class.mean(1) for name, of_class in zip(names, precision, strict=True)}
    return draws


def _recall_name(parameters: Any) -> str:
    """What the recall of all detections that count is called."""
    return "AR" if parameters.iouType == "keypoints" else f"AR{parameters.maxDets[-1]}"


def _measure_voc(rankings: Mapping[str, Ranking], recalls: NDArray[np.float64] | None, weights: Weights) -> Draws:
    precision = {name: ranking.averages(weights, recalls)[0] for name, ranking in rankings.items()}
    draws = {f"AP/{name}": of_class[:, 0] for name, of_class in precision.items()}
    return draws | {"AP": _mean(np.stack(list(precision.values())))} if precision else {}


def _images_coco(rankings: dict[str, list[Ranking]], names: Sequence[str], recall: str) -> dict[str, int]:
    """How many images have objects that bear on each measure."""
    images: dict[str, int] = {}
    if not rankings[""]:
        return images
    for size, of_classes in reversed(rankings.items()):  # the whole range last: of the classes it counts
        images |= _images_of(f"AP{size}", dict(zip(names, of_classes, strict=True)))
    return images | dict.fromkeys(("AP50", "AP75", recall), images["AP"])


def _images_of(mean: str, rankings: Mapping[str, Ranking]) -> dict[str, int]:
    """How many images have objects of any class, and of each."""
    there = {name: ranking.objects > 0 for name, ranking in rankings.items()}
    counts = {f"AP/{name}": int(np.count_nonzero(of_class)) for name, of_class in there.items()}
    return counts | {mean: int(np.count_nonzero(np.any(list(there.values()), axis=0))) if there else 0}


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over (K, B, T) classes and thresholds, NaN where there is none to take it over, (B,)."""
    known = ~np.isnan(values)
    count = known.sum(axis=(0, 2))
    sums = np.where(known, values, 0).sum(axis=(0, 2))
    return np.divide(sums, count, out=np.full(len(sums), np.nan), where=count > 0)


def _difference(first: Side, second: Side, name: str, draws: NDArray[np.float64], ends: Sequence[float]) -> Difference:
    known, images = draws[~np.isnan(draws)], first.images[name]
    low, high = np.quantile(known, ends).tolist() if images > 1 and len(known) else (math.nan, math.nan)
    return Difference(first.values[name], second.values[name], low, high, len(known), images)


def _check_draws(resamples: int, confidence: float) -> int:
    """The number of draws as Python's."""
    resamples = check_count("resamples", resamples, least=1)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return resamples
