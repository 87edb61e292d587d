import json
import logging
import sys
import tempfile
import weakref
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detmix.benchmark import (
    measure_blend,
    measure_dataset,
    measure_evaluate,
    measure_loader,
    measure_sample,
    measure_train,
)
from detmix.benchmark.blend import _peak_memory
from detmix.benchmark.comparison import BenchmarkReport, compare, comparison, time_in_turn
from detmix.benchmark.made_up import coco_file, coco_results, voc_folder
from detmix.benchmark.photographs import jpeg, write_coco
from detmix.benchmark.train import Clock, Run, Speeds, _measure
from detmix.data import DetectionDataset, read_coco, read_voc
from detmix.evaluation import evaluate_coco
from detmix.machine import machine


def test_sides_are_timed_in_turn():
    calls = []
    seconds = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 5  # two pairs warm up
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_of_the_pairwise_ratios_with_its_quartiles():
    row = comparison("ours", np.array([1.0, 4.0, 9.0]), "theirs", np.array([1.0, 2.0, 3.0]), unit="ms")
    assert row.ratio == (1.5, 2.0, 2.5)
    assert (row.value, row.reference, row.repeats) == (4.0, 2.0, 3)


def test_compare_waits_before_each_clock_is_read():
    waits = []
    compare("a", lambda: None, "b", lambda: None, repeats=1, wait=lambda: waits.append(1))
    assert len(waits) == 2 * 2 * 3


def test_work_of_four_times_the_time_has_the_ratio_four(monkeypatch):
    now = [0.0]

    def work(seconds):
        now[0] += seconds

    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("detmix.benchmark.comparison.time", clock)
    row = compare("slow", lambda: work(0.02), "fast", lambda: work(0.005), repeats=3)
    assert row.ratio == pytest.approx((4, 4, 4))
    assert (row.value, row.reference) == pytest.approx((20, 5))  # ms


def test_table_shows_rows_notes_and_machine():
    report = BenchmarkReport("title", [comparison("ours", 6.0, "theirs", 3.0, unit="MiB")], ["a note"])
    table = report.table()
    assert [next(column.cells) for column in table.columns][4:] == ["2", "", "1"]  # one pair has no quartiles
    assert "a note" in str(table.caption)
    assert machine()["torch"] in str(table.caption)


def test_training_loops_are_compared_and_profiled():
    level = logging.getLogger("lightning.pytorch").level
    settings = {"size": 48, "steps": 1, "rounds": 2, "portraits": 0.5, "compile": "eager", "profile": True}
    report = measure_train("ssdlite320_mobilenet_v3_large", **settings)
    assert [(row.what, row.against, row.repeats) for row in report.rows] == [
        ("trainer, mixup", "trainer, no mixing", 2),
        ("trainer, mixup", "torchvision's loop, fp32", 2),
        ("trainer, mixup, same orientation", "trainer, no mixing", 2),
        ("trainer, mixup, same orientation", "trainer, mixup", 2),
        ("trainer, no mixing", "trainer, no mixing, not grouped", 2),
        ("trainer, mixup, compiled", "trainer, mixup", 2),
    ]
    assert all(row.value > 0 and row.reference > 0 for row in report.rows)
    shares = [float(line.partition("%")[0]) for line in report.notes[-1].splitlines()]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 100
    assert logging.getLogger("lightning.pytorch").level == level


def test_a_training_begins_without_what_is_left_of_the_last_one():
    run, left = Run(Path(), "", "cpu", 1, 1, 0, 1), []

    def loop(clock):
        assert not any(reference() for reference in left)
        module = torch.nn.Linear(1, 1)
        module.holds_itself = [module]
        left.append(weakref.ref(module))
        for _ in range(run.warm_up + run.steps):
            clock.tick()

    for _ in range(2):
        _measure(run, loop, Speeds())
    assert len(left) == 2


def test_what_is_around_the_steps_that_count_takes_none_of_their_time(monkeypatch):
    now = [0.0]

    @contextmanager
    def slow():
        now[0] += 100
        yield
        now[0] += 100

    monkeypatch.setattr("detmix.benchmark.train.time", SimpleNamespace(perf_counter=lambda: now[0]))
    run = Run(Path(), "", "cpu", 1, 1, workers=0, steps=2)
    clock = Clock(run, slow())
    for _ in range(run.warm_up + run.steps):
        now[0] += 1
        clock.tick()
    assert clock.seconds == 2


def test_batches_that_wait_for_a_slow_first_step_do_not_count():
    run = Run(Path(), "", "cpu", 1, 1, workers=4, steps=10)
    assert run.warm_up >= 1 + 4 * 2  # torch's loader has two batches of each worker ahead


def test_loaders_are_compared_with_and_without_mixing():
    report = measure_loader(workers=1, images=4, batch_size=2, height=32, width=48, repeats=1)
    assert [(row.what, row.against) for row in report.rows] == [
        ("cache", "no mixing"),
        ("two decodes", "no mixing"),
        ("cache", "no mixing, torchvision's collate_fn"),
    ]
    assert all(row.value > 0 and row.reference > 0 for row in report.rows)


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("polygons", [True, False])
def test_made_up_files_are_what_they_are_said_to_be(polygons, temporary_folder):
    file = coco_file(30, 400, polygons=polygons)
    found = read_coco(file, temporary_folder, masks=polygons, on_invalid="raise")
    assert (len(found), len(found.boxes), len(found.class_names)) == (30, 400, 80)
    assert 0 < found.iscrowd.sum() < 20
    content = file.read_bytes()
    assert coco_file(30, 400, polygons=polygons) == file  # written once
    file.unlink()
    assert coco_file(30, 400, polygons=polygons).read_bytes() == content


def test_a_made_up_voc_folder_is_indexed_at_once(temporary_folder):
    for _ in range(2):
        found = read_voc(voc_folder(8), cache_dir=temporary_folder / "index", on_invalid="raise")
        assert len(found) == 8
        assert set(np.diff(found.offsets)) <= {1, 2, 3, 4}
    assert len(list((temporary_folder / "index").iterdir())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_data_sets_are_opened_in_processes_of_their_own_and_compared(temporary_folder):
    report = measure_dataset(200, 1500, few=20, many=3000, xml_files=5, opens=1, repeats=2)
    assert [(row.what, row.against, row.repeats) for row in report.rows] == [
        ("COCO file, opened", "pycocotools", 1),
        ("COCO file, peak memory", "pycocotools", 1),
        ("COCO file, worker's growth", "pycocotools", 1),
        ("150 boxes, opened", "pycocotools", 2),
        ("target, 200 images", "20 images", 2),
        ("sample, decoded, 200 images", "20 images", 2),
        ("VOC, 5 XML files, index", "no index yet", 2),
        ("3,000 boxes, memory", "their arrays", 1),
    ]
    assert all(row.value > 0 and row.reference > 0 for row in report.rows)
    *_, huge = report.rows
    assert huge.reference == pytest.approx(3000 * 42 / 2**20, rel=0.1)  # bytes of the arrays of an object


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_blends_are_compared_with_a_copy_and_with_other_ways():
    report = measure_blend(objects=2, repeats=2)
    sizes = ("640x480 + 640x480", "640x480 + 427x640", "1333x800 + 1333x800")
    others = ("cv2.addWeighted, flat", "numpy, float", "torch, float", "torchvision v2, MixUp")
    assert [(row.what, row.against) for row in report.rows] == [
        *((size + fresh, "copy") for size in sizes for fresh in ("", ", fresh")),
        *(("640x480, pixels alone", other) for other in others),
        ("4000x3000 + 4000x3000, peak memory", "the canvas"),
    ]
    assert all(row.value > 0 and row.reference > 0 for row in report.rows)
    assert 0.9 <= report.rows[-1].ratio[1] <= 1.25  # a process may give back some pages of its own meanwhile


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_the_peak_of_a_blend_is_seen_where_memory_has_been_freed_before():
    def block():
        return torch.ones(2**24, dtype=torch.uint8)

    block()  # from now on the C library keeps blocks of that size for itself
    freed, last = [block() for _ in range(16)], block()
    del freed  # and cannot give them back, since they do not lie last
    peak = _peak_memory(objects=2)
    assert len(last) == 2**24
    assert 0.9 <= peak.ratio[1] <= 1.25


@pytest.mark.parametrize(
    ("ms", "shown"),
    [((0.5, 2.0), ["500 µs", "2000 µs"]), ((1.0, 2.0), ["1 ms", "2 ms"])],
)
def test_figures_below_a_millisecond_are_shown_in_microseconds(ms, shown):
    table = BenchmarkReport("title", [comparison("ours", ms[0], "theirs", ms[1], unit="ms")]).table()
    assert [next(table.columns[place].cells) for place in (1, 3)] == shown


def test_some_photographs_stand_on_end(tmp_path):
    annotations = read_coco(write_coco(tmp_path, 7, (24, 32), objects=1, portraits=0.4), tmp_path / "images")
    assert [tuple(size) for size in annotations.sizes.tolist()].count((32, 24)) == 2  # of 7 * 0.4
    for index in range(7):
        assert DetectionDataset(annotations)[index][0].shape == (3, *annotations.sizes[index])


def test_a_photograph_has_as_many_bytes_as_one_of_coco():
    sizes = [len(jpeg(480, 640, np.random.default_rng(seed))) for seed in range(3)]
    assert sizes == pytest.approx([19.3e9 / 118_287] * 3, rel=0.05)  # of train2017


def test_samples_are_compared_with_and_without_mixing():
    report = measure_sample(images=3, batch_size=2, objects=3, repeats=1)
    sizes = ("640x480", "1333x800")
    kinds = [
        ("two decodes", "sample alone"),
        ("cache", "sample alone"),
        ("two decodes", "torchvision, float blend"),
        ("cache", "torchvision, float blend"),
    ]
    assert [(row.what, row.against) for row in report.rows] == [
        *((f"{size}, {what}", against) for size in sizes for what, against in kinds),
        ("wrapper, 118,000 records", "1,000 records"),
        ("wrapper, cache, 118,000 records", "1,000 records"),
        ("wrapper without its blend", "wrapper"),
        ("draw alone, 118,000 records", "1,000 records"),
        *((f"{size}, decoded", name) for size in ("320x240", *sizes) for name in ("Pillow", "OpenCV", "torchvision")),
        ("1333x800, reduce_to=400", "the whole"),
    ]
    assert all(row.value > 0 and row.reference > 0 for row in report.rows)


def test_evaluations_are_compared_with_the_libraries_alone(temporary_folder):
    report = measure_evaluate(20, 120, 600, voc_detections=200, part=2, rounds=1, repeats=1)
    assert [(row.what, row.against, row.repeats) for row in report.rows] == [
        ("600 detections, faster-coco-eval", "pycocotools alone", 1),
        ("300, pycocotools", "pycocotools alone", 1),
        ("300, faster-coco-eval", "faster-coco-eval alone", 1),
        ("300, faster-coco-eval, tools/evaluate.py", "faster-coco-eval alone", 1),
        ("VOC, 200 detections, 20 classes", "reading the JSON alone", 1),
    ]
    assert all(row.value > 0 and row.reference > 0 for row in report.rows)
    assert report.notes == ["All 12 numbers are the same."]


def test_made_up_results_find_their_objects(temporary_folder):
    truth, results = coco_file(10, 40, polygons=False), coco_results(10, 40, 200)
    assert 0.3 < evaluate_coco(truth, results).metrics["AP50"] < 1
    rows = json.loads(results.read_bytes())
    assert Counter(row["image_id"] for row in rows) == dict.fromkeys(range(1, 11), 20)
