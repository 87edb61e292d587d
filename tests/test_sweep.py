"""Whole sweeps, with a stand-in for the trainer: what is trained, recorded, compared and shown."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from detmix.sweep import look_into, make_plan, plan_table, results, run, run_sweep, workers
from detmix.sweep.estimate import Estimate
from detmix.sweep.markdown import arms_compared, sweep_section
from detmix.sweep.outcome import Outcome, judged, outcome_of
from detmix.sweep.tables import progress_table, seconds_left

from .browser import find_faults
from .conftest import ROOT, needs_linux
from .stand_in import GRID, begun, rows, wait_until
from .test_training_report import Page


def test_every_arm_is_trained_with_every_seed_and_the_results_are_written(sweep):
    folder = sweep()
    assert begun(folder) == [f"0{arm}-objective={name}-seed{seed}" for seed in (0, 1) for arm, name in
                             enumerate(("weighted", "pair", "unweighted"))]  # fmt: skip
    table = rows(folder)
    assert [row["state"] for row in table] == ["finished"] * 6
    assert float(table[4]["AP"]) == pytest.approx(0.532)
    assert table[4]["model.objective"] == "pair"
    content = json.loads((folder / "sweep.json").read_text())
    [by_ap] = [one for one in content["comparisons"] if one["measure"] == "AP"]
    assert by_ap["baseline"] == "objective=weighted"
    gains = [level["gain"]["mean"] for level in by_ap["levels"][1:]]
    assert gains == pytest.approx([0.021, -0.02])
    assert "objective=pair helped: +2.1 points (2 seeds, 95 % interval +0.8 to +3.4)" in by_ap["in_words"]
    [pair] = by_ap["pairs"]
    assert (pair["name"], pair["minus"]) == ("objective=unweighted", "objective=pair")
    assert pair["gain"]["mean"] == pytest.approx(-0.041)
    assert {"processor", "torch"} <= content["machine"].keys()
    assert not list((folder / "running").iterdir())


def test_the_rows_are_in_utf8_under_any_locale(tmp_path, ascii_locale):
    file = tmp_path / "sweep.csv"
    results._write_rows(file, SimpleNamespace(arms={"é": {}}), {("é", 0): "waiting"})
    assert "é,0,waiting" in file.read_text("utf-8")


def test_the_page_is_whole_and_needs_nothing_beside_it(sweep):
    text = (sweep() / "sweep.html").read_text()
    page = Page(text)  # every element is closed where it was opened
    assert "objective=pair helped" in text
    assert "has not ended" not in text
    assert "The others among themselves, row minus column" in text
    assert "of the 6 that are shown" in text
    assert "range of seeds" in text
    assert [image["src"].partition(",")[0] for image in page.all("img")] == 2 * ["data:image/svg+xml;base64"]
    assert "http" not in text.replace("http-equiv", "")


def test_the_page_is_sound_in_a_browser(sweep, tmp_path, browser):
    (tmp_path / "fault").write_text("out of memory while training with a_very_long_name_that_does_not_end_soon")
    assert find_faults(browser, sweep() / "sweep.html") == set()


def test_what_is_finished_is_not_repeated_and_more_seeds_are_added(sweep):
    folder = sweep(seeds=1)
    sweep(seeds=1)
    assert len(begun(folder)) == 3
    sweep(seeds=3)
    assert len(begun(folder)) == len(set(begun(folder))) == 9


def test_each_run_has_the_machine_that_trained_it(sweep, monkeypatch):
    monkeypatch.setattr(workers, "machine", lambda: {"processor": "a server", "torch": "2.6"})
    sweep(seeds=1)
    monkeypatch.setattr(workers, "machine", lambda: {"processor": "a laptop", "torch": "2.7"})
    folder = sweep(seeds=2)
    content = json.loads((folder / "sweep.json").read_text())
    assert [run["machine"] for run in content["runs"]] == ["a server, torch 2.6"] * 3 + ["a laptop, torch 2.7"] * 3
    assert sweep_section(content, "plot.png").endswith(" in all. a server, torch 2.6; a laptop, torch 2.7.")
    assert "a server, torch 2.6; a laptop, torch 2.7" in (folder / "sweep.html").read_text()


def test_a_config_that_is_edited_during_a_sweep_changes_nothing(sweep, tmp_path):
    config = tmp_path / "quickstart.yaml"
    text = (ROOT / "configs/quickstart.yaml").read_text()
    config.write_text(text)
    plan = make_plan(config, grid=GRID, seeds=1)
    config.write_text(text.replace("lr: 0.002", "lr: 0.003"))
    train = [sys.executable, "-S", str(tmp_path / "stand_in.py")]
    run_sweep(plan, tmp_path / "sweep", train=train, command="python tools/sweep.py")
    assert (tmp_path / "sweep/config.yaml").read_text() == text
    assert all("lr 0.002" in log.read_text() for log in (tmp_path / "sweep/logs").iterdir())
    content = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert content["definition"]["config"]["model"]["lr"] == 0.002


def test_another_baseline_is_compared_with_the_same_runs(sweep):
    folder = sweep()
    sweep(baseline="objective=pair")
    assert len(begun(folder)) == 6
    content = json.loads((folder / "sweep.json").read_text())
    assert content["definition"]["baseline"] == "objective=pair"
    assert "Against objective=pair, in AP50, objective=weighted hurt: -2.1" in (folder / "sweep.html").read_text()
    assert arms_compared(content, "AP").levels[0].gain.mean == pytest.approx(-0.021)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("FloatingPointError: the loss is not finite at epoch 1, step 7", "diverged"),
        ("torch.OutOfMemoryError: CUDA out of memory", "out of memory"),
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("KeyError: 'boxes'", "crashed"),
        ("kill", "killed"),
    ],
)
def test_a_failed_run_is_recorded_with_its_last_lines_and_the_others_go_on(fault, kind, sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_MOMENT", 0.01)
    (tmp_path / "fault").write_text(fault)
    folder = sweep()
    assert [row["state"] for row in rows(folder)] == ["finished", "finished", kind] * 2
    failed = json.loads((folder / "sweep.json").read_text())["runs"][2]
    assert failed["lines"][0].startswith("cores")
    outright = "It was killed outright (SIGKILL), as systems do when memory runs out."
    assert failed["lines"][-1] == (outright if fault == "kill" else fault)
    assert "objective=unweighted" in (folder / "sweep.html").read_text()
    (tmp_path / "fault").unlink()
    sweep()
    assert len(begun(folder)) == 6  # a failure is not repeated unless asked for
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=2)
    states = look_into(folder, plan, retry=True)
    assert [pair for pair in plan.pairs if states[pair] == "waiting"] == [
        ("objective=unweighted", 0),
        ("objective=unweighted", 1),
    ]
    sweep(retry=True)
    assert len(begun(folder)) == 8
    assert {row["state"] for row in rows(folder)} == {"finished"}


def test_a_run_that_leaves_no_numbers_has_crashed(tmp_path):
    outcome = outcome_of(0, tmp_path, "run", ["all is well"], 1.0, "host")
    assert outcome.kind == "crashed"
    assert "without a metrics.json" in outcome.lines[-1]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.json").write_text('{"AP": NaN, "AP50": NaN}')
    assert outcome_of(0, tmp_path, "run", [], 1.0, "host").kind == "crashed"
    (tmp_path / "run/metrics.json").write_text('{"AP": -1.0, "AP50": -1.0}')  # COCO's mark
    pair = ("plain", 0)
    outcome = judged({pair: outcome_of(0, tmp_path, "run", ["AP – (COCO)"], 1.0, "host")}, ["AP50", "AP"])[pair]
    assert (outcome.kind, outcome.finished, outcome.metrics) == ("nothing to measure", False, {})
    assert outcome.cause.startswith("No object is annotated in the validation images")
    (tmp_path / "run/metrics.json").unlink()
    (tmp_path / "run_nomix").mkdir()
    (tmp_path / "run_nomix/metrics.json").write_text('{"AP": 0.5, "AP50": 0.7}')
    assert outcome_of(0, tmp_path, "run", [], 1.0, "host").metrics["AP50"] == 0.7


@needs_linux
def test_jobs_share_the_cores(sweep):
    cores = len(os.sched_getaffinity(0))
    folder = sweep(seeds=1, jobs=2)
    logs = [file.read_text().split()[1] for file in (folder / "logs").iterdir()]
    assert set(map(int, logs)) <= {max(1, cores // 2), max(1, -(-cores // 2))}
    assert len(os.sched_getaffinity(0)) == cores


def test_another_sweep_in_the_folder_is_refused_with_what_differs(sweep, tmp_path):
    folder = sweep(seeds=1)
    with pytest.raises(
        ValueError, match=r"sweep holds another sweep: arms: objective=weighted is .* there, and missing"
    ):
        sweep(seeds=1, grid=["model.objective=pair,unweighted"])
    with pytest.raises(ValueError, match="sweep holds another sweep: its arms come in another order"):
        sweep(seeds=1, grid=["model.objective=pair,weighted,unweighted"])
    config = tmp_path / "quickstart.yaml"
    config.write_text((ROOT / "configs/quickstart.yaml").read_text().replace("lr: 0.002", "lr: 0.003"))
    other = make_plan(config, grid=GRID)
    with pytest.raises(ValueError, match=r"config: model: lr is 0\.002 there, and 0\.003 here"):
        look_into(folder, other)
    assert len(begun(folder)) == 3


def test_a_dry_look_writes_nothing_and_estimates_from_what_has_finished(sweep, tmp_path):
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=3)
    states = look_into(tmp_path / "sweep", plan)
    assert set(states.values()) == {"waiting"}
    assert not (tmp_path / "sweep").exists()
    assert seconds_left(plan, states, 1) is None
    numbers = {"AP": 0.5, "AP50": 0.8}
    states["objective=pair", 0] = Outcome("finished", 60.0, numbers, "host", [])
    states["objective=weighted", 0] = Outcome("finished", 100.0, numbers, "host", [])
    states["objective=unweighted", 0] = Outcome("crashed", 1.0, {}, "host", [])
    assert seconds_left(plan, states, 2) == (2 * 60 + 2 * 100 + 2 * 80) / 2
    assert seconds_left(plan, states, 100) == 100  # as long as the longest run
    text = io.StringIO()
    Console(file=text, width=100).print(plan_table(plan, states, 2))
    assert "--model.objective=unweighted" in text.getvalue()
    assert "About 0:04:00 left, with 2 at a time." in text.getvalue()


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a title is broken where the path of the folder is long
    config = Path("exp[/x] [v2].yaml")
    config.parent.mkdir()
    config.write_text((ROOT / "configs/quickstart.yaml").read_text())
    plan = make_plan(config, grid=GRID)
    estimate = Estimate("train=[/b]", 60.0, [])
    text = io.StringIO()
    console = Console(file=text, width=200)
    console.print(plan_table(plan, look_into(tmp_path / "sweep", plan), 1, estimate))
    console.print(progress_table(plan, look_into(tmp_path / "sweep", plan), 1))
    assert text.getvalue().count("exp[/x] [v2].yaml") == 2
    assert "the first batches of train=[/b] were tried" in text.getvalue()


def test_arms_keep_their_names_in_a_narrow_terminal():
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID)
    text = io.StringIO()
    Console(file=text, width=60).print(progress_table(plan, look_into(Path("nowhere"), plan), 1))
    first_column = "".join(line[:9].strip() for line in text.getvalue().splitlines())
    assert "objective=unweighted" in first_column


def test_a_failure_is_told_by_what_the_last_attempt_printed(sweep, tmp_path):
    (tmp_path / "fault").write_text("torch.OutOfMemoryError: CUDA out of memory")
    sweep(seeds=1)
    (tmp_path / "fault").write_text("KeyError: 'boxes'")
    assert rows(sweep(seeds=1, retry=True))[2]["state"] == "crashed"


def test_results_that_cannot_be_written_stop_nothing_before_the_end(sweep, tmp_path, monkeypatch, capfd):
    write, failed = run.write_results, []

    def fail_first(*arguments):
        if not failed:
            failed.append(True)
            raise OSError("no space for a page")
        return write(*arguments)

    monkeypatch.setattr(run, "write_results", fail_first)
    is_busy = workers.Workers.busy.fget
    monkeypatch.setattr(workers.Workers, "busy", property(lambda self: not failed or is_busy(self)))
    assert [row["state"] for row in rows(sweep())] == ["finished"] * 6
    assert "Warning: the results were not written: OSError('no space for a page')" in capfd.readouterr().err


def test_no_training_outlives_a_sweep_that_fails(sweep, tmp_path, monkeypatch):
    (tmp_path / "hold").touch()

    def fail(*arguments):
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        raise RuntimeError("no table")

    monkeypatch.setattr(run, "progress_table", fail)
    with pytest.raises(RuntimeError, match="no table"):
        sweep()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_full_disk_is_told_and_no_run_is_begun(sweep, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
        with pytest.raises(OSError, match="the disk is full: a run needs 256 MiB, 1 MiB are free"):
            sweep()
    assert not (tmp_path / "begun").exists()
    sweep()
    assert len(begun(tmp_path / "sweep")) == 6
