"""What an evaluation takes: by the fast library against pycocotools, and beside the libraries alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from ..evaluation import evaluate_coco, evaluate_voc
from ..evaluation.backends import Backend
from ..reporting import CocoFile, Options, evaluate_files
from .comparison import BenchmarkReport, Comparison, TooLittle, compare, comparison, time_in_turn
from .made_up import coco_file, coco_results

_FAST: Backend = "faster-coco-eval"
_VOC_CLASSES = 20
_VOC_DETECTIONS = 20  # of an image

Files = tuple[Path, Path]
Numbers = dict[str, list[float]]


def measure_evaluate(
    images: int = 5_000,
    objects: int = 36_000,
    detections: int = 500_000,
    voc_detections: int = 100_000,
    part: int = 20,
    rounds: int = 5,
    repeats: int = 20,
) -> BenchmarkReport:
    """Measure COCO results and VOC detections, from files to numbers, against the libraries alone.

    The files are made up on the first run and kept in the temporary folder.

    Args:
        images: of the COCO file, which is like val2017.
        objects: in them, of 80 classes.
        detections: in the results, as many in each image.
        voc_detections: measured by VOC's rules, of 20 classes, 20 in each image.
        part: what detmix adds to a library is measured on one part of so many of the files, since pycocotools is slow.
        rounds: timed runs of each side there; all of the files is measured once.
        repeats: timed pairs of VOC's rules.

    Raises:
        TooLittle: there are fewer images, objects or detections than parts, or not enough for one image.
    """
    least = {"images": part, "objects": part, "detections": part, "voc_detections": _VOC_DETECTIONS}
    given = {"images": images, "objects": objects, "detections": detections, "voc_detections": voc_detections}
    for name, number in given.items():
        if number < least[name]:
            raise TooLittle(f"{name} must be {least[name]} or more, got {number}")
    say = Console(stderr=True).print
    say("writing what is not there yet ...")
    whole, some = (_files(images // n, objects // n, detections // n) for n in (1, part))
    report = BenchmarkReport(f"Evaluation: {images:,} images with {detections:,} detections, from files to numbers")
    say(f"measuring {detections:,} detections by both libraries ...")
    report.rows.append(_fast_against_pycocotools(whole, detections, report.notes))
    say(f"measuring {detections // part:,} detections by each library, alone and in detmix ...")
    report.rows += _added(some, detections // part, rounds)
    say(f"measuring {voc_detections:,} detections by VOC's rules ...")
    report.rows.append(_voc(voc_detections, repeats))
    return report


def _files(images: int, objects: int, detections: int, classes: int = 80) -> Files:
    truth = coco_file(images, objects, polygons=False, classes=classes)
    return truth, coco_results(images, objects, detections, classes=classes)


def _fast_against_pycocotools(files: Files, detections: int, notes: list[str]) -> Comparison:
    numbers: Numbers = {}
    sides = {"detmix": _kept(_detmix(files, _FAST), numbers, _FAST), "alone": _kept(_alone(files), numbers, "alone")}
    seconds = time_in_turn(sides, 1, warm_up=0)
    notes.append("All 12 numbers are the same." if numbers[_FAST] == numbers["alone"] else f"Numbers differ: {numbers}")
    what = f"{detections:,} detections, {_FAST}"
    return comparison(what, seconds["detmix"], "pycocotools alone", seconds["alone"], unit="s")


def _added(files: Files, detections: int, rounds: int) -> list[Comparison]:
    """What reading, checks and bookkeeping add to either library, and what the tool does beside."""
    import faster_coco_eval  # not all that use the benchmark have it

    sides = {
        "pycocotools": _detmix(files, "pycocotools"),
        "pycocotools alone": _alone(files),
        _FAST: _detmix(files, _FAST),
        f"{_FAST} alone": _alone(files, faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
        f"{_FAST}, tools/evaluate.py": lambda: evaluate_files(CocoFile(files[0]), files[1], Options(backend=_FAST)),
    }
    seconds = time_in_turn(sides, rounds, warm_up=1)
    pairs = {
        "pycocotools": "pycocotools alone",
        _FAST: f"{_FAST} alone",
        f"{_FAST}, tools/evaluate.py": f"{_FAST} alone",
    }
    return [
        comparison(f"{detections:,}, {what}", seconds[what], alone, seconds[alone], unit="s")
        for what, alone in pairs.items()
    ]


def _detmix(files: Files, backend: Backend) -> Callable[[], list[float]]:
    return lambda: list(evaluate_coco(*files, backend=backend).metrics.values())


def _alone(files: Files, index: Any = COCO, evaluation: Any = COCOeval) -> Callable[[], list[float]]:
    """What the libraries' own pages tell one to write."""

    def measure() -> list[float]:
        with redirect_stdout(StringIO()):
            truth = index(str(files[0]))
            measured = evaluation(truth, truth.loadRes(str(files[1])), "bbox")
            measured.evaluate()
            measured.accumulate()
            measured.summarize()
        return np.asarray(measured.stats).tolist()

    return measure


def _kept(action: Callable[[], list[float]], numbers: Numbers, name: str) -> Callable[[], None]:
    return lambda: numbers.update({name: action()})


def _voc(detections: int, repeats: int) -> Comparison:
    images = detections // _VOC_DETECTIONS
    files = _files(images, 3 * images, detections, _VOC_CLASSES)
    return compare(
        f"VOC, {detections:,} detections, {_VOC_CLASSES} classes",
        lambda: evaluate_voc(*files),
        "reading the JSON alone",
        lambda: [json.loads(file.read_bytes()) for file in files],
        repeats=repeats,
    )
