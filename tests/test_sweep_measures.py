"""By which numbers of its runs the arms of a sweep are compared."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from detmix.sweep import look_into, make_plan, plan_table
from detmix.sweep.journal import look_at_study
from detmix.sweep.markdown import sweep_section
from detmix.sweep.outcome import Outcome
from detmix.sweep.results import write_results
from detmix.sweep.statistics import compare_arms
from detmix.sweep.tables import progress_table, result_tables

from .conftest import ROOT
from .stand_in import GRID, begun, rows
from .test_training_report import Page


def content_of(folder):
    return json.loads((folder / "sweep.json").read_text())


def headings(folder):
    return [text.strip() for text in Page((folder / "sweep.html").read_text()).text("th")]


def test_all_that_is_shown_goes_by_the_measures_the_first_before_all(sweep, capfd):
    folder = sweep(measures=["segm/AP", "AP"])
    content = content_of(folder)
    assert content["definition"]["measures"] == ["segm/AP", "AP"]
    assert [one["measure"] for one in content["comparisons"]] == ["segm/AP", "AP"]
    # AP of pair is 2.0 and 2.2 points higher, and of masks it is 1 - AP
    said = (
        "Against objective=weighted, in segm/AP, objective=pair hurt: -2.1 points (2 seeds, 95 % interval -3.4 to -0.8)"
    )
    assert content["comparisons"][0]["in_words"].startswith(said)
    assert said in (folder / "sweep.html").read_text()
    assert {"segm/AP", "AP"} <= set(headings(folder))
    assert "AP50" not in (folder / "sweep.html").read_text()
    assert "objective=weighted, seed 0: finished after 0:00:00: segm/AP 50.0, AP 50.0" in capfd.readouterr().err
    assert [trial.value for trial in look_at_study(folder / "sweep.journal").trials][:2] == [0.5, 0.48]
    section = sweep_section(content, "plot.png")
    assert section.index("| segm/AP | seeds |") < section.index("| AP | seeds |")
    assert "![segm/AP by arm, means in percent: objective=weighted 49.5;" in section


def test_other_measures_are_taken_from_what_has_finished(sweep):
    folder = sweep()
    assert "AP50" in headings(folder)
    sweep(measures=["segm/AP"])
    assert len(begun(folder)) == 6
    assert [one["measure"] for one in content_of(folder)["comparisons"]] == ["segm/AP"]
    assert "segm/AP" in headings(folder)
    assert "AP50" not in headings(folder)


def test_a_run_without_objects_for_a_measure_has_nothing_to_measure_by_that_one_alone(sweep):
    folder = sweep(measures=["AP", "APs"])
    assert {row["state"] for row in rows(folder)} == {"nothing to measure"}
    text = (folder / "sweep.html").read_text()
    assert "No object is annotated in the validation images by which to measure APs: choose another data.val" in text
    assert "No arm has finished a seed that objective=weighted has finished too." in text
    sweep(measures=["AP"])
    assert len(begun(folder)) == 6
    assert {row["state"] for row in rows(folder)} == {"finished"}


def test_a_measure_that_a_run_lacks_is_told_with_those_that_it_has_and_nothing_is_lost(sweep):
    wanted = (
        "objective=weighted with seed 0 has finished and has no AP/dog: its metrics.json has AP, AP50, segm/AP, APs."
    )
    with pytest.raises(ValueError, match=wanted):
        sweep(measures=["AP", "AP/dog"])
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=2, measures=["AP/dog"])
    folder = sweep()
    assert begun(folder).count("00-objective=weighted-seed0") == 1
    assert {row["state"] for row in rows(folder)} == {"finished"}
    with pytest.raises(ValueError, match=wanted):
        look_into(folder, plan)
    with pytest.raises(ValueError, match=wanted):
        sweep(measures=["AP/dog"], seeds=3)
    assert len(set(begun(folder))) == 6


def test_a_dry_run_shows_the_measures(in_repository, tmp_path):
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, measures=["segm/AP50", "AP/[/x]"])
    text = io.StringIO()
    Console(file=text, width=150).print(plan_table(plan, look_into(tmp_path, plan), 1))
    assert "3 arms, 3 seeds, compared by segm/AP50, AP/[/x]" in text.getvalue()


def test_the_name_of_a_class_is_shown_as_it_is(in_repository, tmp_path):
    """Nothing in it counts as markup of the terminal or as a formula of a plot."""
    measure = "AP/[/x]$\\no$"
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=1, measures=[measure])
    states = {pair: Outcome("finished", 1.0, {measure: 0.5}, "host", []) for pair in plan.pairs}
    write_results(tmp_path, plan, states, "python tools/sweep.py")
    assert "AP/[/x]$\\no$" in (tmp_path / "sweep.html").read_text()
    text = io.StringIO()
    Console(file=text, width=150).print(progress_table(plan, states, 1), *result_tables(compare_arms(plan, states)))
    assert text.getvalue().count(measure) >= 4


@pytest.mark.parametrize("measures", [["loss"], ["AP", "val/loss"], ["AP50,AP"], ["images"], [], ["AP", "AP"]])
def test_what_is_no_accuracy_or_there_twice_is_refused(measures):
    twice = len(set(measures)) < len(measures)
    wanted = "each measure can be there once only" if twice else "measures must be accuracies in metrics.json, of which"
    with pytest.raises(ValueError, match=wanted):
        make_plan(ROOT / "configs/quickstart.yaml", grid=GRID, measures=measures)
