"""Predictions measured against a ground truth: the body of ``tools/evaluate.py``."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress import Progress

from ..evaluation import Difference, Mistakes, find_mistakes
from ..evaluation.compare import compare_sides
from ..evaluation.keypoints import COCO_SIGMAS, DEFAULT_SIGMA, count_of
from ..evaluation.records import Detections, GroundTruth
from ..figures import average_precision_figure, comparison_figure, confusion_figure, precision_recall_figure
from ..files import require_writable, write_whole
from ..machine import versions
from ..terminal import bar_of, progress_bars
from .measured import Measured, Options, measure, measure_side
from .sources import CocoFile, VocFolder, open_predictions
from .tables import class_table, comparison_table, confusion_table, images_table, metrics_table

_PLOTS = ("precision_recall", "average_precision", "confusion", "comparison")


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """All that was measured.

    Attributes:
        paths: of the predictions, and of those that they are compared with, if any.
        images: how many.
        measured: of the first.
        mistakes: of the first; None where classes do not count, and of keypoints.
        differences: second - first; empty where there is no second.
        notes: what had to be assumed, and what is left out.
    """

    paths: Sequence[Path]
    images: int
    measured: Measured
    mistakes: Mistakes | None
    differences: Mapping[str, Difference]
    notes: Sequence[str]


def evaluate_files(
    source: CocoFile | VocFolder,
    predictions: Path,
    options: Options,
    *,
    other: Path | None = None,
    resamples: int = 1000,
    json_file: Path | None = None,
    plots: Path | None = None,
) -> Group:
    """Measure predictions, alone or beside others, and write what was measured.

    Args:
        source: the ground truth.
        predictions: COCO results, a run's folder or its ``predictions.json``, or the VOC kit's text files.
        options: how to measure.
        other: predictions to compare them with.
        resamples: draws of images for the intervals of a comparison.
        json_file: written if given: all numbers.
        plots: folder for PNG files, if given: ``precision_recall``, ``average_precision``, ``confusion`` and, of two
            sets of predictions, ``comparison``. One of these that this evaluation has not is removed.

    Returns:
        Tables for the terminal.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an option does not fit, or a file is wrong: it is named, with line or record and the likely cause.
            Nothing has been written then.
        ImportError: the backend is not installed.
    """
    options.check(comparing=other is not None, resamples=resamples)
    _check_outputs(json_file, plots)
    paths = [predictions] if other is None else [predictions, other]
    evaluation = _evaluate(source, paths, options, resamples)
    _write(evaluation, source, options, json_file, plots)
    return Group(*_tables(evaluation, options))


def _evaluate(source: CocoFile | VocFolder, paths: Sequence[Path], options: Options, resamples: int) -> _Evaluation:
    with progress_bars() as bars:
        with _stage(bars, "ground truth: reading"):
            truth = source.read(paths, options)
        found, notes = [], []
        for path in paths:
            with _stage(bars, f"{path}: reading"):
                detections, note = open_predictions(path, truth, source.image_set, options)
                found.append(detections)
                notes.append(note)
        differences: dict[str, Difference] = {}
        if len(found) == 1:
            with _stage(bars, f"{paths[0]}: measuring"):
                measured = measure(truth, found[0], options)
        else:
            measured, differences = _compare(bars, paths, truth, found, options, resamples)
        with _stage(bars, f"{paths[0]}: looking for mistakes"):
            mistakes = _mistakes(truth, found[0], options)
    if options.keypoints:
        notes += _notes_of_keypoints(truth, options)
    return _Evaluation(paths, len(truth.image_ids), measured, mistakes, differences, notes)


def _notes_of_keypoints(truth: GroundTruth, options: Options) -> Iterator[str]:
    count = count_of(truth)
    if options.sigmas is None and count != len(COCO_SIGMAS):
        yield f"Sigmas of OKS: {DEFAULT_SIGMA:g} for each of the {count} keypoints, since --sigmas does not say."
    yield "Confusions and the images with the most mistakes are told of boxes and masks only."


def _compare(
    bars: Progress,
    paths: Sequence[Path],
    truth: GroundTruth,
    found: Sequence[Detections],
    options: Options,
    resamples: int,
) -> tuple[Measured, dict[str, Difference]]:
    """What the first set measures, and how the second differs."""
    counted = []
    for path, detections in zip(paths, found, strict=True):
        with _stage(bars, f"{path}: measuring"):
            counted.append(measure_side(truth, detections, options))
    (measured, first), (_, second) = counted
    on_step = bar_of(bars, "comparing", "draws")
    return measured, compare_sides(first, second, len(truth.image_ids), resamples, on_step=on_step)


@contextmanager
def _stage(bars: Progress, name: str) -> Iterator[None]:
    """A bar without a length, as long as the block runs."""
    task = bars.add_task(name, total=None)
    yield
    bars.remove_task(task)


def _mistakes(truth: GroundTruth, found: Detections, options: Options) -> Mistakes | None:
    if options.class_agnostic or options.keypoints:
        return None
    return find_mistakes(truth, found, iou=options.match_iou, min_score=options.min_score, masks=options.masks)


def _write(
    evaluation: _Evaluation, source: CocoFile | VocFolder, options: Options, json_file: Path | None, plots: Path | None
) -> None:
    """Everything is made before the first file is written."""
    files: dict[Path, bytes] = {}
    if json_file is not None:
        text = json.dumps(_content(evaluation, source, options), indent=2, default=os.fspath)
        files[json_file] = f"{text}\n".encode()
    if plots is not None:
        files |= {plots / f"{name}.png": _png(figure) for name, figure in _figures(evaluation)}
    for path, content in files.items():
        write_whole(path, partial(Path.write_bytes, data=content))
    if plots is not None:
        for name in _PLOTS:  # of an earlier evaluation, which would seem to be of this one
            if plots / f"{name}.png" not in files:
                (plots / f"{name}.png").unlink(missing_ok=True)


def _figures(evaluation: _Evaluation) -> Iterator[tuple[str, Figure]]:
    measured, names = evaluation.measured, ["/".join(path.parts[-2:]) for path in evaluation.paths]
    title = f"Precision and recall at {measured.curves_at}\n{names[0]}"
    yield "precision_recall", precision_recall_figure(measured.curves, title)
    yield "average_precision", average_precision_figure(measured.by_class, f"Average precision by class\n{names[0]}")
    if evaluation.mistakes is not None:
        yield "confusion", confusion_figure(evaluation.mistakes, f"What objects were taken for\n{names[0]}")
    if len(evaluation.paths) > 1:
        yield "comparison", comparison_figure(evaluation.differences, names, "Two sets of predictions, 95 % intervals")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _content(evaluation: _Evaluation, source: CocoFile | VocFolder, options: Options) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "versions": versions(),
        "ground_truth": asdict(source),
        "predictions": str(evaluation.paths[0]),
        "options": asdict(options),
        "metrics": evaluation.measured.metrics,
        "by_class": evaluation.measured.by_class,
        **({} if evaluation.mistakes is None else _mistakes_content(evaluation.mistakes)),
        **({} if len(evaluation.paths) == 1 else _comparison_content(evaluation)),
    }


def _mistakes_content(mistakes: Mistakes) -> dict[str, Any]:
    return {
        "confusion": {
            "iou": mistakes.iou,
            "min_score": mistakes.min_score,
            "rows": [*mistakes.class_names, "false"],
            "columns": [*mistakes.class_names, "missed"],
            "counts": mistakes.confusion.tolist(),
        },
        "worst_images": [asdict(image) for image in mistakes.worst()],
        "best_images": [asdict(image) for image in mistakes.best()],
    }


def _comparison_content(evaluation: _Evaluation) -> dict[str, Any]:
    rows = {name: _difference_content(of) for name, of in evaluation.differences.items()}
    return {"comparison": {"with": str(evaluation.paths[1]), "confidence": 0.95, "differences": rows}}


def _difference_content(of: Difference) -> dict[str, Any]:
    """JSON has no NaN: without an interval its ends are null."""
    ends = {key: None if math.isnan(end) else end for key, end in (("low", of.low), ("high", of.high))}
    return {**asdict(of), **ends, "difference": of.value, "clear": of.clear}


def _tables(evaluation: _Evaluation, options: Options) -> Iterator[RenderableType]:
    if len(evaluation.paths) > 1:
        yield escape(f"A alone, {evaluation.paths[0]}; the comparison with B comes last.\n")
    yield metrics_table(evaluation.measured, options)
    yield class_table(evaluation.measured)
    if evaluation.mistakes is not None:
        yield confusion_table(evaluation.mistakes)
        yield images_table(evaluation.mistakes)
    if len(evaluation.paths) > 1:
        first, second = map(str, evaluation.paths)
        yield comparison_table(evaluation.differences, (first, second), evaluation.images)
    yield from map(escape, filter(None, evaluation.notes))


def _check_outputs(json_file: Path | None, plots: Path | None) -> None:
    """Long work comes first, so what cannot be written is refused before it."""
    if plots is not None and plots.exists() and not plots.is_dir():
        raise ValueError(f"--plots must be a folder, got {plots}, a file")
    if json_file is not None and json_file.is_dir():
        raise ValueError(f"--json must be a file, got {json_file}, a folder")
    for option, path in {"--json": json_file, "--plots": plots}.items():
        if path is not None:
            require_writable(path, option)
