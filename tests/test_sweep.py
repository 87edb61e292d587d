"""Whole sweeps, with a stand-in for the trainer that takes milliseconds, and one with the trainer itself."""

import csv
import io
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from detmix.sweep import look_into, make_plan, plan_table, run, run_sweep, workers
from detmix.sweep.markdown import arms_compared, sweep_section
from detmix.sweep.outcome import Outcome, outcome_of
from detmix.sweep.queue import Queue
from detmix.sweep.tables import seconds_left

from .browser import find_faults
from .conftest import ROOT
from .test_training_report import Page

STAND_IN = """
import json, os, pathlib, sys, time
options = dict(text[2:].partition("=")[::2] for text in sys.argv[2:])
folder, seed = pathlib.Path(options["runs"], options["name"]), int(options["seed_everything"])
place = pathlib.Path(os.environ["STAND_IN"])
with (place / "begun").open("a") as begun:
    begun.write(options["name"] + "\\n")
(place / "pid").write_text(str(os.getpid()))
while (place / "hold").exists():
    time.sleep(0.01)
objective = options.get("model.objective")
print("cores", len(os.sched_getaffinity(0)), "resume" if "resume" in options else "")
print("lr", pathlib.Path(options["config"]).read_text().partition("lr: ")[2][:5])
fault = {"unweighted": (place / "fault").read_text() if (place / "fault").exists() else ""}.get(objective, "")
if fault == "kill":
    os.kill(os.getpid(), 9)
if fault:
    sys.exit(fault)
ap = {"weighted": 0.50, "pair": 0.52 + 0.002 * seed, "unweighted": 0.48}[objective] + 0.01 * seed
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps({"AP": ap, "AP50": ap + 0.3}))
"""
GRID = ["model.objective=weighted,pair,unweighted"]
SWEEP = """
import sys
from pathlib import Path
from detmix.sweep import make_plan, run_sweep, workers
workers._MOMENT = 300  # it ends when the sweep is told to stop, however busy the machine is
plan = make_plan(Path("configs/quickstart.yaml"), grid=["model.objective=weighted,pair,unweighted"], seeds=2)
run_sweep(plan, Path(sys.argv[1]), train=[sys.executable, "-S", sys.argv[2]], command="this", jobs=int(sys.argv[3]))
"""


@pytest.fixture
def sweep(in_repository, tmp_path, monkeypatch):
    """Run a sweep of three arms with the stand-in; give its folder."""
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def run(seeds=2, **options):
        of_plan = {"grid": options.pop("grid", GRID), "baseline": options.pop("baseline", None)}
        plan = make_plan(Path("configs/quickstart.yaml"), seeds=seeds, **of_plan)
        train = [sys.executable, "-S", str(tmp_path / "stand_in.py")]
        run.shown = run_sweep(plan, tmp_path / "sweep", train=train, command="python tools/sweep.py", **options)
        return tmp_path / "sweep"

    return run


def begun(folder):
    return (folder.parent / "begun").read_text().split()


def rows(folder):
    with (folder / "sweep.csv").open() as lines:
        return list(csv.DictReader(lines))


def in_the_background(tmp_path, jobs=1):
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "sweep"), str(tmp_path / "stand_in.py"), str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


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


def test_the_page_is_whole_and_needs_nothing_beside_it(sweep):
    text = (sweep() / "sweep.html").read_text()
    page = Page(text)  # every element is closed where it was opened
    assert "objective=pair helped" in text
    assert "has not ended" not in text
    assert "The others among themselves, row minus column" in text
    assert "of the 6 that are shown" in text
    assert "range of seeds" in text
    assert [image["src"].partition(",")[0] for image in page.all("img")] == 2 * ["data:image/png;base64"]
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


def test_the_tool_prints_what_came_out_and_fails_if_a_run_has(in_repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    (tmp_path / "fault").write_text("FloatingPointError")
    (tmp_path / "train.py").write_text(STAND_IN)
    tool = shutil.copy("tools/sweep.py", tmp_path)
    command = [tool, "--config=configs/quickstart.yaml", "--set", *GRID, "--seeds=1", f"--output={tmp_path / 'sweep'}"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(
        SystemExit, match=r"1 of 3 runs failed; .*sweep\.html has their last lines, --retry repeats them"
    ):
        runpy.run_path(tool, run_name="__main__")
    assert "objective=unweighted has 0 of 1 seeds, 1 diverged" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "fault").unlink()
    monkeypatch.setattr(sys, "argv", [*command, "--retry"])
    runpy.run_path(tool, run_name="__main__")


def test_a_run_that_leaves_no_numbers_has_crashed(tmp_path):
    outcome = outcome_of(0, tmp_path, "run", ["all is well"], 1.0, "host")
    assert outcome.kind == "crashed"
    assert "without a metrics.json" in outcome.lines[-1]
    (tmp_path / "run_nomix").mkdir()
    (tmp_path / "run_nomix/metrics.json").write_text('{"AP": 0.5, "AP50": 0.7}')
    assert outcome_of(0, tmp_path, "run", [], 1.0, "host").metrics["AP50"] == 0.7


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


def test_the_lock_of_a_killed_sweep_in_a_relative_folder_is_seen_and_taken_off(sweep, tmp_path, monkeypatch):
    """Optuna's lock is a link, waited for without end where it leads nowhere."""
    plan = make_plan((Path("configs") / "quickstart.yaml").resolve(), grid=GRID, seeds=1)
    monkeypatch.chdir(tmp_path)
    links, symlink = [], os.symlink

    def watched(target, link, *rest, **others):
        symlink(target, link, *rest, **others)
        links.append((str(link), os.path.exists(link)))

    monkeypatch.setattr(os, "symlink", watched)
    queue = Queue(Path("sweep"), plan)
    queue.take().let_go()
    assert {there for link, there in links if "sweep.journal.lock" in link} == {True}


def test_two_processes_share_a_sweep(sweep, tmp_path):
    (tmp_path / "hold").touch()
    others = [in_the_background(tmp_path) for _ in range(2)]
    wait_until(lambda: (tmp_path / "begun").exists() and len(begun(tmp_path / "sweep")) == 2)  # each has one
    (tmp_path / "hold").unlink()
    for other in others:
        output, _ = other.communicate(timeout=300)
        assert other.returncode == 0, output
    folder = tmp_path / "sweep"
    assert len(begun(folder)) == len(set(begun(folder))) == 6
    assert [row["state"] for row in rows(folder)] == ["finished"] * 6


def test_a_killed_sweep_is_taken_up_again_once_its_training_is_gone(sweep, tmp_path):
    (tmp_path / "hold").touch()
    killed = in_the_background(tmp_path)
    wait_until(lambda: (tmp_path / "begun").exists())
    killed.kill()
    killed.communicate()
    queue = Queue(tmp_path / "sweep", make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=2))
    taken = queue.take()
    assert (taken.arm, taken.seed) == ("objective=pair", 0)  # the training of the first is still there
    taken.let_go()
    (tmp_path / "hold").unlink()
    folder = sweep()
    assert [row["state"] for row in rows(folder)] == ["finished"] * 6
    again = begun(folder)
    assert again.count("00-objective=weighted-seed0") == 2
    assert len(again) == 7


def test_a_run_of_another_host_is_given_up_when_it_has_been_silent_for_long(sweep, tmp_path, monkeypatch):
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=1)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        Queue(tmp_path / "sweep", plan).take().let_go()
    queue = Queue(tmp_path / "sweep", plan)
    pair = queue.take()
    assert pair.arm == "objective=pair"
    long_ago = time.time() - 3600
    os.utime(tmp_path / "sweep/running/0", (long_ago, long_ago))
    taken = queue.take()
    assert taken.arm == "objective=weighted"
    queue.tell(taken, Outcome("crashed", 1.0, {}, "here", []))
    queue.tell(taken, Outcome("killed", 1.0, {}, "elsewhere", []))  # the other one wakes up: too late
    assert queue.states()["objective=weighted", 0].kind == "crashed"
    pair.let_go()


def test_a_sweep_that_is_told_to_stop_goes_on_where_it_was(sweep, tmp_path):
    (tmp_path / "hold").touch()
    stopped = in_the_background(tmp_path)
    wait_until(lambda: (tmp_path / "begun").exists())
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=300)
    assert "Interrupted: Stopped. The same command goes on" in output
    (tmp_path / "hold").unlink()
    folder = sweep()
    assert [row["state"] for row in rows(folder)] == ["finished"] * 6
    assert len(begun(folder)) == 7


def test_a_training_that_gets_the_signal_first_is_no_outcome(sweep, tmp_path):
    (tmp_path / "hold").touch()
    stopped = in_the_background(tmp_path)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    time.sleep(0.1)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=300)
    (tmp_path / "hold").unlink()
    assert [row["state"] for row in rows(sweep())] == ["finished"] * 6


def test_a_failure_is_told_by_what_the_last_attempt_printed(sweep, tmp_path):
    (tmp_path / "fault").write_text("torch.OutOfMemoryError: CUDA out of memory")
    sweep(seeds=1)
    (tmp_path / "fault").write_text("KeyError: 'boxes'")
    assert rows(sweep(seeds=1, retry=True))[2]["state"] == "crashed"


def test_the_time_of_a_run_is_that_of_all_its_attempts(sweep, tmp_path):
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=1)
    queue = Queue(tmp_path / "sweep", plan)
    for attempt in range(3):
        taken = queue.take()
        assert taken.before == pytest.approx(100 * attempt)
        end = taken.trial.user_attrs["begun"] + 100
        os.utime(taken.lock.fileno(), (end, end))
        taken.let_go()
    taken = queue.take()
    queue.tell(taken, Outcome("crashed", taken.before + 7, {}, "here", []))
    again = Queue(tmp_path / "sweep", plan, retry=True)
    befores = {}
    for held in (again.take(), again.take(), again.take()):
        befores[held.arm] = held.before
        held.let_go()
    assert befores["objective=weighted"] == pytest.approx(307)
    assert befores["objective=pair"] == 0


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


HALF = b'{"op_code": 4, "worker'


def test_half_a_line_at_the_end_of_the_journal_is_overlooked_and_a_look_leaves_it(sweep, tmp_path):
    folder = sweep(seeds=1)
    journal = folder / "sweep.journal"
    with journal.open("ab") as file:
        file.write(HALF)
    content = journal.read_bytes()
    states = look_into(folder, make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=2))
    assert [getattr(state, "kind", state) for state in states.values()] == 3 * ["finished"] + 3 * ["waiting"]
    assert journal.read_bytes() == content
    sweep(seeds=2)
    assert [row["state"] for row in rows(folder)] == ["finished"] * 6


def test_half_a_line_of_another_process_is_taken_off_before_a_run_is_taken_or_told(sweep, tmp_path):
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=1)
    queue = Queue(tmp_path / "sweep", plan)
    with (tmp_path / "sweep/sweep.journal").open("ab", buffering=0) as file:
        file.write(HALF)
        taken = queue.take()
        file.write(HALF)
        queue.tell(taken, Outcome("crashed", 1.0, {}, "here", []))
    assert look_into(tmp_path / "sweep", plan)[taken.arm, 0].kind == "crashed"


def test_a_record_behind_half_a_one_counts_and_any_other_damage_is_told_with_its_place(sweep):
    folder = sweep(seeds=1)
    journal = folder / "sweep.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], HALF, *lines[4:]]))
    sweep(seeds=2)
    assert [row["state"] for row in rows(folder)] == ["finished"] * 6
    journal.write_bytes(b"".join([*lines[:4], HALF + b"\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"sweep\.journal: line 5 is damaged: "):
        sweep(seeds=2)
    assert len(begun(folder)) == 6


def test_a_run_that_is_told_while_another_process_takes_one_is_not_taken_again(sweep, tmp_path, monkeypatch):
    plan = make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=1)
    queue, other = Queue(tmp_path / "sweep", plan), Queue(tmp_path / "sweep", plan)
    told = threading.Thread(target=other.tell, args=(other.take(), Outcome("crashed", 1.0, {}, "here", [])))
    hold = queue._hold

    def hold_late(trial):
        if told.ident is None:
            told.start()
            told.join(1)
        return hold(trial)

    monkeypatch.setattr(queue, "_hold", hold_late)
    taken = queue.take()
    told.join()
    taken.let_go()
    assert taken.arm == "objective=pair"
    assert queue.states()["objective=weighted", 0].kind == "crashed"


def test_a_full_disk_is_told_and_no_run_is_begun(sweep, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
        with pytest.raises(OSError, match="the disk is full: a run needs 256 MiB, 1 MiB are free"):
            sweep()
    assert not (tmp_path / "begun").exists()
    sweep()
    assert len(begun(tmp_path / "sweep")) == 6


def test_the_tool_trains_shapes_and_says_what_came_out(in_repository, tmp_path):
    scenes = [
        f"--data.shapes.{setting}" for setting in ("train=4", "val=2", "size=32", "min_extent=8", "max_extent=16")
    ]
    fast = ["--data.batch_size=2", "--data.mixup.no_mixup_epochs=0", "--model.options={min_size: 32, max_size: 32}"]
    fast += ["--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0", "--trainer.check_val_every_n_epoch=1"]
    command = ["tools/sweep.py", "--config", "configs/quickstart.yaml", "--set", "data.mixup=null,{alpha: 1.5}"]
    command += ["--seeds=1", "--output", str(tmp_path / "sweep"), *scenes, *fast]
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    assert "on one seed, which says nothing" in " ".join(result.stdout.split())
    assert [row["state"] for row in rows(tmp_path / "sweep")] == ["finished", "finished"]
    runs = sorted(path.name for path in (tmp_path / "sweep/runs").iterdir())
    assert runs == ["00-mixup=null-seed0_nomix", "01-mixup=_alpha_1.5-seed0"]
    assert (tmp_path / "sweep/runs" / runs[1] / "report.html").exists()
