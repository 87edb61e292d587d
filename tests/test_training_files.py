import os
import signal

from detmix.files import write_whole
from detmix.training import log
from detmix.training.files import forget_from, newest_version, read_history, set_aside

from .processes import run_apart


def test_earlier_runs_are_numbered_and_none_is_lost(tmp_path):
    run = tmp_path / "bccd"
    assert set_aside(run) is None
    for number in (1, 2, 3):
        write_whole(run / "metrics.json", lambda path, text=str(number): path.write_text(text))
        assert set_aside(run) == tmp_path / f"bccd-{number}"
    assert [(tmp_path / f"bccd-{n}" / "metrics.json").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]


def test_history_joins_the_parts_of_an_interrupted_run_in_order(tmp_path):
    for version, step in ((10, 3), (0, 1), (2, 2)):
        write_whole(
            tmp_path / "csv" / f"version_{version}" / "metrics.csv", lambda p, s=step: p.write_text(f"step\n{s}\n")
        )
    assert read_history(tmp_path) == [{"step": "1"}, {"step": "2"}, {"step": "3"}]
    assert read_history(tmp_path / "nothing") == []


def lose_the_process(folder):
    """Log a name that is new, which writes the file anew, and be killed within that write."""
    logger = log.RowLogger(folder, name="csv")
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.save()
    write_whole_file = log.write_rows

    def write_half(path, names, rows):
        write_whole_file(path, names, rows[:0])
        os.kill(os.getpid(), signal.SIGKILL)

    log.write_rows = write_half
    logger.log_metrics({"loss": 0.4, "val/AP": 0.1}, step=2)
    logger.save()


def test_a_kill_while_the_log_gets_a_new_column_leaves_the_rows_before(tmp_path):
    assert run_apart(lose_the_process, tmp_path, output=tmp_path / "said.txt") == -signal.SIGKILL
    assert read_history(tmp_path) == [{"loss": "0.5", "step": "1"}]


def test_a_run_that_goes_on_forgets_the_rows_that_come_again_and_a_line_that_was_cut_off(tmp_path):
    for version, text in ((0, "step,loss\n1,a\n2,a\n3,a\n"), (1, "step,loss\n3,b\n4,b\n5")):
        write_whole(
            tmp_path / "csv" / f"version_{version}" / "metrics.csv", lambda path, text=text: path.write_text(text)
        )
    assert [row["step"] + row["loss"] for row in read_history(tmp_path)] == ["1a", "2a", "3a", "3b", "4b"]
    forget_from(tmp_path, 4)
    assert [row["step"] + row["loss"] for row in read_history(tmp_path)] == ["1a", "2a", "3a", "3b"]
    forget_from(tmp_path, 3)
    assert [row["step"] + row["loss"] for row in read_history(tmp_path)] == ["1a", "2a"]
    forget_from(tmp_path / "nothing", 0)


def test_the_newest_version_counts_by_number(tmp_path):
    assert newest_version(tmp_path) is None
    for number in (0, 2, 10):
        (tmp_path / f"version_{number}").mkdir()
    assert newest_version(tmp_path) == 10
