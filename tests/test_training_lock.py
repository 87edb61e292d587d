"""One process at a time trains a run; one that is gone, however it went, holds it no more."""

import fcntl
import os
import signal
import time

import pytest

from detmix.training.lock import hold, let_go

from .processes import end_of, start_apart
from .test_training_resume import train


def hold_and_wait(run_dir, child):
    """As a training does whose data-loading worker outlives it."""
    held = hold(run_dir)
    if os.fork() == 0:
        child.write_text(str(os.getpid()))
        time.sleep(300)
    print(held.name, flush=True)
    time.sleep(300)


def test_a_run_that_another_process_trains_is_left_alone_until_that_is_gone(tmp_path, in_repository, capsys):
    output, child, runs = tmp_path / "said.txt", tmp_path / "child.txt", tmp_path / "runs"
    first = train(runs, "--trainer.max_epochs=1")
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    other = start_apart(hold_and_wait, first, child, output=output)
    try:
        while not (output.exists() and output.read_text() and child.exists() and child.read_text()):
            assert other.is_alive()
            time.sleep(0.01)
        for more in ([], ["--resume"]):
            with pytest.raises(SystemExit) as ended:
                train(runs, *more)
            assert ended.value.code == 2
            assert f"{first} is being written to by process {other.pid} on " in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.name != ".run.lock"} == {
            path: at for path, at in before.items() if path.name != ".run.lock"
        }
        os.kill(other.pid, signal.SIGKILL)
        end_of(other)
        os.kill(int(child.read_text()), 0)  # it lives on
        train(runs, "--resume")
        assert [path.name for path in runs.iterdir()] == ["run"]
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        end_of(other)


def test_links_to_one_folder_have_one_lock(tmp_path):
    for name in ("big", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs/link").symlink_to(tmp_path / "big/run")
    with hold(tmp_path / "runs/link") as first, hold(tmp_path / "big/run") as second:
        assert first.name == second.name


def test_a_process_may_train_one_run_after_another(tmp_path):
    hold(tmp_path / "a").close()
    with hold(tmp_path / "a") as first, hold(tmp_path / "b") as second:
        assert first.name != second.name


def test_a_lock_that_was_let_go_between_opening_and_locking_is_taken_anew(tmp_path, monkeypatch):
    first = hold(tmp_path / "a")
    wait = fcntl.lockf

    def let_go_first(file, how):
        if not first.closed:
            let_go(first)
        wait(file, how)

    monkeypatch.setattr("fcntl.lockf", let_go_first)
    with hold(tmp_path / "a") as second:
        assert os.path.samestat(os.fstat(second.fileno()), (tmp_path / ".a.lock").stat())


def test_where_the_file_system_has_no_locks_a_run_is_trained_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with hold(tmp_path / "a") as held:
        assert not held.closed
