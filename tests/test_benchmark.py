import time

import numpy as np
import pytest

from detmix.benchmark import measure_train
from detmix.benchmark.comparison import Report, compare, comparison, machine, time_in_turn


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


def test_longer_work_has_the_larger_ratio():
    row = compare("slow", lambda: time.sleep(0.02), "fast", lambda: time.sleep(0.005), repeats=3)
    assert row.ratio[1] > 1.5
    assert row.value == pytest.approx(20, rel=0.9)


def test_table_shows_rows_notes_and_machine():
    report = Report("title", [comparison("ours", 6.0, "theirs", 3.0, unit="MiB")], ["a note"])
    table = report.table()
    assert [list(column.cells) for column in table.columns][4] == ["2"]
    assert "a note" in str(table.caption)
    assert machine()["torch"] in str(table.caption)


def test_training_loops_are_compared_and_profiled():
    report = measure_train("ssdlite320_mobilenet_v3_large", size=48, steps=1, rounds=2, profile=True)
    assert [(row.what, row.against, row.repeats) for row in report.rows] == [
        ("trainer, mixup", "trainer, no mixing", 2),
        ("trainer, mixup", "torchvision's loop, fp32", 2),
    ]
    assert all(row.value > 0 and row.reference > 0 for row in report.rows)
    shares = [float(line.partition("%")[0]) for line in report.notes[-1].splitlines()]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 100
