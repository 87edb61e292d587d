"""Processes that share a sweep, and those that are killed or told to stop within one."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from detmix.sweep import look_into, make_plan
from detmix.sweep.outcome import Outcome
from detmix.sweep.queue import Queue

from .stand_in import GRID, begun, rows, wait_until

SWEEP = """
import sys
from pathlib import Path
from detmix.sweep import make_plan, run_sweep, workers
workers._MOMENT = 300  # it ends when the sweep is told to stop, however busy the machine is
plan = make_plan(Path("configs/quickstart.yaml"), grid=["model.objective=weighted,pair,unweighted"], seeds=2)
run_sweep(plan, Path(sys.argv[1]), train=[sys.executable, "-S", sys.argv[2]], command="this")
"""


def in_the_background(tmp_path):
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "sweep"), str(tmp_path / "stand_in.py")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_relative_folder_on_a_file_system_without_links_will_do(sweep, tmp_path, monkeypatch):
    plan = make_plan((Path("configs") / "quickstart.yaml").resolve(), grid=GRID, seeds=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "symlink", partial(refuse, errno.EPERM))
    queue = Queue(Path("sweep"), plan)
    queue.take().let_go()
    assert Queue(Path("sweep"), plan).states() == queue.states()
    assert len(queue.states()) == 3


def test_a_file_system_without_locks_is_refused_by_name(sweep, tmp_path, monkeypatch):
    plan = make_plan(Path("configs") / "quickstart.yaml", grid=GRID, seeds=1)
    queue = Queue(tmp_path / "sweep", plan)
    monkeypatch.setattr("fcntl.flock", partial(refuse, errno.ENOSYS))
    with pytest.raises(OSError, match=r"needs a file system with locks .* on another one: '.*/sweep/running/0'"):
        queue.take()


def refuse(number, *arguments):
    raise OSError(number, os.strerror(number))


def test_two_processes_share_a_sweep(sweep, tmp_path):
    (tmp_path / "hold").touch()
    others = [in_the_background(tmp_path) for _ in range(2)]
    wait_until(lambda: len(begun(tmp_path / "sweep")) == 2)  # each has one
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
    wait_until(lambda: begun(tmp_path / "sweep"))
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
    wait_until(lambda: begun(tmp_path / "sweep"))
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
