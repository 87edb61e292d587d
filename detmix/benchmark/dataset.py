"""What opening a data set takes, and getting its samples, however many there are."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO
from rich.console import Console

from ..data import DetectionDataset, read_coco, read_voc
from . import opening
from .comparison import BenchmarkReport, Comparison, TooLittle, compare, comparison, time_in_turn
from .made_up import coco_file, voc_folder
from .photographs import photograph

_PICTURE = (480, 640)
_TARGETS = 1_000  # got in each repetition
_SAMPLES = 20


def measure_dataset(
    images: int = 118_000,
    boxes: int = 860_000,
    few: int = 1_000,
    many: int = 10_000_000,
    xml_files: int = 5_000,
    opens: int = 3,
    repeats: int = 20,
) -> BenchmarkReport:
    """Open COCO and VOC data sets, and get samples of large and small ones.

    The files are made up on the first run, which takes about a minute more, and are kept in the temporary folder. What
    is opened in processes of its own is opened and then visited, sample by sample, by a forked worker.

    Args:
        images: of the COCO file, which is like train2017.
        boxes: of it, with polygons.
        few: images of the small COCO file that it is compared with, as rich in boxes.
        many: boxes of another COCO file, with as many images and without polygons.
        xml_files: of the VOC folder.
        opens: how often both libraries open the COCO file, each time in a process of its own.
        repeats: timed pairs of the other rows.

    Raises:
        TooLittle: there are fewer than ten images.
    """
    if images < 10:
        raise TooLittle(f"images must be 10 or more, since a tenth of them is opened too, got {images}")
    say = Console(stderr=True).print
    say("writing what is not there yet ...")
    large, tenth, small = (coco_file(n, boxes * n // images) for n in (images, images // 10, few))
    huge, folder = coco_file(images, many, polygons=False), voc_folder(xml_files)
    report = BenchmarkReport(f"Data sets: COCO files of {images:,} images with {boxes:,} boxes, and others")
    say("opening the COCO file in processes of their own ...")
    report.rows += _opened(large, opens)
    say("opening a tenth of it ...")
    report.rows.append(_opened_here(tenth, boxes // 10, repeats))
    say("getting samples ...")
    report.rows += _samples(large, small, repeats)
    say("opening the VOC folder ...")
    report.rows.append(_voc(folder, xml_files, repeats))
    say(f"opening {many:,} boxes ...")
    found = _probe("detmix", huge)
    report.rows.append(
        comparison(f"{many:,} boxes, memory", found["peak"], "their arrays", found["arrays"], unit="MiB")
    )
    report.notes.append(f"{many:,} boxes opened in {found['seconds']:.1f} s; worker grew by {found['worker']:.1f} MiB")
    return report


def _opened(file: Path, opens: int) -> list[Comparison]:
    """Time, memory and what a worker adds, in fresh processes."""
    sides = ("detmix", "pycocotools")
    found = [{side: _probe(side, file) for side in sides} for _ in range(opens)]
    rows = {"seconds": ("opened", "s"), "peak": ("peak memory", "MiB"), "worker": ("worker's growth", "MiB")}
    report = []
    for key, (what, unit) in rows.items():
        ours, theirs = (np.array([pair[side][key] for pair in found]) for side in sides)
        report.append(comparison(f"COCO file, {what}", ours, "pycocotools", theirs, unit=unit))
    return report


def _probe(library: str, file: Path) -> dict[str, float]:
    run = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"  # this folder stays off the path
    command = [sys.executable, "-c", run, opening.__file__, library, str(file)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def _opened_here(file: Path, boxes: int, repeats: int) -> Comparison:
    def by_pycocotools() -> None:
        with redirect_stdout(StringIO()):
            COCO(file)

    return compare(
        f"{boxes:,} boxes, opened", lambda: read_coco(file, "."), "pycocotools", by_pycocotools, repeats=repeats
    )


def _samples(large: Path, small: Path, repeats: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        picture = photograph(*_PICTURE, np.random.default_rng(0))
        cv2.imwrite(f"{folder}/picture.jpg", picture)
        data = [_of_one_picture(file, Path(folder)) for file in (large, small)]
        return [
            _each("target", _TARGETS, DetectionDataset.target_of, data, repeats),
            _each("sample, decoded", _SAMPLES, DetectionDataset.__getitem__, data, repeats),
        ]


def _of_one_picture(file: Path, folder: Path) -> DetectionDataset:
    """A data set whose images are all the same file."""
    found, name = read_coco(file, folder), b"picture.jpg"
    names, offsets = np.frombuffer(name * len(found), np.uint8), np.arange(len(found) + 1) * len(name)
    return DetectionDataset(replace(found, file_names=names, name_offsets=offsets))


def _each(
    what: str, count: int, get: Callable[[DetectionDataset, int], Any], data: list[DetectionDataset], repeats: int
) -> Comparison:
    rng = random.Random(0)

    def several(dataset: DetectionDataset) -> None:
        for _ in range(count):
            get(dataset, rng.randrange(len(dataset)))

    large, small = data
    seconds = time_in_turn({"large": lambda: several(large), "small": lambda: several(small)}, repeats)
    times = {name: each / count * 1e6 for name, each in seconds.items()}
    against = f"{len(small):,} images"
    return comparison(f"{what}, {len(large):,} images", times["large"], against, times["small"], unit="µs")


def _voc(folder: Path, files: int, repeats: int) -> Comparison:
    with tempfile.TemporaryDirectory() as cache:
        fresh = (f"{cache}/{number}" for number in range(10 * repeats))
        read_voc(folder, cache_dir=f"{cache}/kept")
        return compare(
            f"VOC, {files:,} XML files, index",
            lambda: read_voc(folder, cache_dir=f"{cache}/kept"),
            "no index yet",
            lambda: read_voc(folder, cache_dir=next(fresh)),
            repeats=repeats,
        )
