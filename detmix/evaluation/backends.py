"""Two libraries that match and count as COCO does, fed alike: pycocotools and faster-coco-eval.

Letters: T IoU thresholds, R recalls, K classes, A area ranges, N numbers of detections an image.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..arguments import check_choice
from .ranking import Ranking
from .records import Detections, GroundTruth, Objects

Backend = Literal["pycocotools", "faster-coco-eval"]
IouType = Literal["bbox", "segm", "keypoints"]

MAX_DETECTIONS = (1, 10, 100)
"""COCO's numbers of detections of an image and class that count."""

KEYPOINT_MAX_DETECTIONS = (20,)
"""The same where keypoints are measured."""

_PROBES = 0.5 ** np.arange(31)  # one of them lies in (1 / n, 2 / n] for each n from 2 to 2**31


@dataclass(frozen=True, eq=False)
class Counts:
    """What COCO's accumulation leaves, -1 where a class has no object.

    Attributes:
        precision: (T, R, K, A, N) float64.
        scores: (T, R, K, A, N) float64, of the detection with which the recall was reached.
        recall: (T, K, A, N) float64, with all detections.
        recalls: (R,) float64, 0, 0.01 ... 1.
        iou_thresholds: (T,) float64, 0.5, 0.55 ... 0.95; of OKS where keypoints are measured.
        sizes: where the area ranges stand, by their letters: all (none), s, m and l; keypoints have no small ones.
    """

    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    recall: NDArray[np.float64]
    recalls: NDArray[np.float64]
    iou_thresholds: NDArray[np.float64]
    sizes: dict[str, int]


def count(
    truth: GroundTruth,
    found: Detections,
    iou_type: IouType,
    backend: Backend,
    *,
    class_agnostic: bool,
    max_detections: Sequence[int],
    sigmas: NDArray[np.float64] | None = None,
) -> Counts:
    """Match and accumulate; the two backends give the same numbers, bit for bit. Keypoints need their (P,) sigmas.

    Raises:
        ValueError: there is no such backend.
        ImportError: its package is not installed.
    """
    check_choice("backend", backend, Backend)
    if backend == "faster-coco-eval":
        return _run_faster(truth, found, iou_type, class_agnostic, max_detections, sigmas)
    return counts_of(run_pycocotools(truth, found, iou_type, class_agnostic, max_detections, sigmas))


def rows_by_iou(thresholds: NDArray[np.float64]) -> dict[str, int]:
    """Where each IoU threshold stands among (T,), by its value in words: "0.50", "0.55" ... "0.95"."""
    return {f"{threshold:.2f}": row for row, threshold in enumerate(thresholds)}


def counted(objects: Objects, iou_type: IouType) -> NDArray[np.bool_]:
    """Which objects are to be found, (G,): no crowds, and of keypoints those that have visible ones."""
    return ~objects.crowd & objects.posed if iou_type == "keypoints" else ~objects.crowd


def run_pycocotools(
    truth: GroundTruth,
    found: Detections,
    iou_type: IouType,
    class_agnostic: bool = False,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    sigmas: NDArray[np.float64] | None = None,
) -> Any:
    """A ``COCOeval`` that has evaluated and accumulated; it numbers images and classes as the arrays do."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(*(_index(COCO, truth, rows, iou_type) for rows in (truth.objects, found)), iou_type)
        _set(evaluation.params, truth, class_agnostic, max_detections, sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def counts_of(evaluation: Any) -> Counts:
    """What a ``COCOeval`` has accumulated."""
    precision, scores, recall = (evaluation.eval[key] for key in ("precision", "scores", "recall"))
    parameters = evaluation.params
    return Counts(precision, scores, recall, parameters.recThrs, parameters.iouThrs, _sizes(parameters))


def _set(
    parameters: Any,
    truth: GroundTruth,
    class_agnostic: bool,
    max_detections: Sequence[int],
    sigmas: NDArray[np.float64] | None,
) -> None:
    """Set the parameters of either library."""
    parameters.catIds = [*range(len(truth.class_names))]  # of keypoints the second leaves out classes without objects
    parameters.useCats = int(not class_agnostic)
    parameters.maxDets = list(max_detections)
    if sigmas is not None:
        parameters.kpt_oks_sigmas = sigmas


def _sizes(parameters: Any) -> dict[str, int]:
    """Where the area ranges stand, by their letters."""
    return {"" if label == "all" else label[0]: place for place, label in enumerate(parameters.areaRngLbl)}


def rankings_of(evaluation: Any) -> dict[str, list[Ranking]]:
    """The ranked detections that a ``COCOeval`` has matched, by the letter of the area range, a list of K each."""
    images, sizes = len(evaluation.params.imgIds), _sizes(evaluation.params)
    if not evaluation.evalImgs:
        return {size: [] for size in sizes}
    cells = np.array(evaluation.evalImgs, dtype=object).reshape(-1, len(sizes), images)
    thresholds = len(evaluation.params.iouThrs)
    return {size: [_ranking(of_class[place], thresholds) for of_class in cells] for size, place in sizes.items()}


def _ranking(cells: NDArray[Any], thresholds: int) -> Ranking:
    """One class and area range: what was matched in each image at each threshold, None where there is nothing."""
    known = [(image, cell) for image, cell in enumerate(cells) if cell is not None]
    scores = np.concatenate([cell["dtScores"] for _, cell in known] or [[]])
    order = np.argsort(-scores, kind="stable")
    nothing = np.zeros((thresholds, 0))
    ignored = np.concatenate([cell["dtIgnore"] for _, cell in known] or [nothing], axis=1)[:, order].astype(np.bool_)
    matched = np.concatenate([cell["dtMatches"] for _, cell in known] or [nothing], axis=1)[:, order] > 0
    images = np.repeat([image for image, _ in known], [len(cell["dtScores"]) for _, cell in known])
    objects = np.zeros(len(cells), dtype=np.int64)
    for image, cell in known:
        objects[image] = np.count_nonzero(cell["gtIgnore"] == 0)
    return Ranking(images[order].astype(np.int64), scores[order], matched & ~ignored, ~ignored, objects)


def load_faster() -> Any:
    """The package faster-coco-eval.

    Raises:
        ImportError: it is not installed; what to do is told.
    """
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise ImportError(
            "backend='faster-coco-eval' needs the package faster-coco-eval: pip install -e \".[fast-eval]\""
        ) from error


def _run_faster(
    truth: GroundTruth,
    found: Detections,
    iou_type: IouType,
    class_agnostic: bool,
    max_detections: Sequence[int],
    sigmas: NDArray[np.float64] | None,
) -> Counts:
    faster_coco_eval = load_faster()
    indexes = [_index(faster_coco_eval.COCO, truth, rows, iou_type) for rows in (truth.objects, found)]
    evaluation = faster_coco_eval.COCOeval_faster(*indexes, iou_type)
    parameters = evaluation.params
    recalls = parameters.recThrs
    _set(parameters, truth, class_agnostic, max_detections, sigmas)
    parameters.recThrs = np.union1d(recalls, _PROBES)
    evaluation.evaluate()
    evaluation.accumulate()
    precision, scores = evaluation.eval["precision"], evaluation.eval["scores"]
    objects = _object_counts(truth, iou_type, class_agnostic, parameters.areaRng)
    _restore_epsilon(precision, parameters.recThrs, objects)
    kept = np.isin(parameters.recThrs, recalls)
    # in pycocotools' layout, since it decides the order in which a mean is summed
    precision, scores = (np.ascontiguousarray(values[:, kept]) for values in (precision, scores))
    return Counts(precision, scores, evaluation.eval["recall"], recalls, parameters.iouThrs, _sizes(parameters))


def _restore_epsilon(precision: NDArray[np.float64], recalls: NDArray[np.float64], objects: NDArray[np.int64]) -> None:
    """Make a precision of 1 what pycocotools makes of it where only the first detection is right.

    It adds the spacing of doubles at 1 to each number of detections, which changes a double only where that number
    is 1. So a precision of 1 is one spacing lower if the first detection is right and the next is wrong, or is none:
    if, of n objects, a second one, a recall of 2 / n, is not reached with precision 1.

    Args:
        precision: (T, R, K, A, N), changed in place.
        recalls: (R,) with ``_PROBES`` among them.
        objects: (K, A), n.
    """
    probes = np.searchsorted(recalls, 0.5 ** np.ceil(np.log2(objects.clip(2) / 2)))  # (K, A)
    second = np.take_along_axis(precision, probes[None, None, :, :, None], axis=1) == 1  # (T, 1, K, A, N)
    alone = ~second | (objects < 2)[:, :, None]
    precision[(precision == 1) & alone] = 1 / (1 + np.spacing(1))


def _object_counts(
    truth: GroundTruth, iou_type: IouType, class_agnostic: bool, ranges: Sequence[Sequence[float]]
) -> NDArray[np.int64]:
    """Objects to be found, of each class and area range, (K, A)."""
    objects = truth.objects
    low, high = np.array(ranges).T
    within = (objects.areas[:, None] >= low) & (objects.areas[:, None] <= high) & counted(objects, iou_type)[:, None]
    labels = np.zeros_like(objects.labels) if class_agnostic else objects.labels
    classes = 1 if class_agnostic else len(truth.class_names)
    return np.stack([np.bincount(labels[column], minlength=classes) for column in within.T], axis=1)


def _index(kind: Any, truth: GroundTruth, rows: Objects | Detections, iou_type: IouType) -> Any:
    """An object of a library's class ``COCO``; ids of rows count from 1, since a match with id 0 would be none."""
    index = kind()
    with _collector_paused():
        _fill(index, truth, rows, iou_type)
    return index


def _fill(index: Any, truth: GroundTruth, rows: Objects | Detections, iou_type: IouType) -> None:
    index.dataset = {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(truth.sizes.tolist())],
        "categories": [{"id": k} for k in range(len(truth.class_names))],
        "annotations": _as_dicts(rows, iou_type),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """A million new dicts set the garbage collector off again and again, and there is nothing to collect."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _as_dicts(rows: Objects | Detections, iou_type: IouType) -> list[dict[str, Any]]:
    columns = {"image_id": rows.images, "category_id": rows.labels, "bbox": rows.xywh, "area": rows.areas}
    columns |= {"iscrowd": rows.crowd.astype(int)} if isinstance(rows, Objects) else {"score": rows.scores}
    if iou_type == "keypoints" and isinstance(rows, Objects):
        columns |= {"num_keypoints": rows.posed.astype(int)}  # whether there are any is what counts, and no more
    if iou_type == "keypoints" and rows.keypoints is not None:
        columns |= {"keypoints": rows.keypoints.reshape(len(rows), 3 * rows.keypoints.shape[1])}
    keys, values = ("id", *columns), [column.tolist() for column in columns.values()]
    dicts = [dict(zip(keys, row, strict=True)) for row in zip(range(1, len(rows) + 1), *values, strict=True)]
    for row, mask in zip(dicts, rows.masks or (), strict=False):
        row["segmentation"] = mask
    return dicts
