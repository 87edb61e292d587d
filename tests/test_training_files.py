import errno
import os
import signal
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detmix.files import NotWritten, write_whole
from detmix.training import log
from detmix.training.files import forget_from, read_history, set_aside

from .processes import run_apart


def test_earlier_runs_are_numbered_and_none_is_lost(tmp_path):
    run = tmp_path / "bccd"
    assert set_aside(run) is None
    for number in (1, 2, 3):
        write_whole(run / "metrics.json", lambda path, text=str(number): path.write_text(text))
        assert set_aside(run) == tmp_path / f"bccd-{number}"
    assert [(tmp_path / f"bccd-{n}" / "metrics.json").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]


def test_a_part_of_the_log_beside_it_is_named(tmp_path):
    assert read_history(tmp_path) == []
    for name in ("version_old", "version_0", "version_0_old", "version_1_old"):
        write_whole(tmp_path / "csv" / name / "metrics.csv", lambda path: path.write_text("step\n1\n"))
    assert read_history(tmp_path) == [{"step": "1"}]
    (tmp_path / "csv" / "version_10").mkdir()
    with pytest.raises(ValueError, match=r"csv/version_10: a part of the log, which is to be all in .*version_0/metr"):
        read_history(tmp_path)


def test_a_run_that_goes_on_adds_to_its_log(tmp_path):
    for step, metrics in enumerate([{"loss": 0.5, "lr": 1.0}, {"loss": 0.4, "val/AP": 0.1}]):
        logger = log.RowLogger(tmp_path, name="csv", version=0)
        logger.log_metrics(metrics, step=step)
        logger.save()
    assert read_history(tmp_path) == [
        {"loss": "0.5", "lr": "1.0", "step": "0"},
        {"loss": "0.4", "step": "1", "val/AP": "0.1"},
    ]


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


@pytest.mark.parametrize(("failing", "metrics"), [("fsync", {"loss": 0.4}), ("replace", {"loss": 0.4, "val/AP": 0.1})])
def test_rows_that_did_not_fit_on_the_disk_come_whole_when_there_is_space_again(
    tmp_path, monkeypatch, failing, metrics
):
    logger = log.RowLogger(tmp_path, name="csv")
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.save()
    logger.log_metrics(metrics, step=2)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        for _ in range(2):
            with pytest.raises(NotWritten, match=r"metrics\.csv: could not be written, .*: \[Errno 28\] No space left"):
                logger.save()
            assert [row["step"] for row in read_history(tmp_path)] == ["1"]
        logger.finalize("failed")  # what has failed was said
    logger.finalize("success")
    assert read_history(tmp_path) == [
        {"loss": "0.5", "step": "1"},
        {name: str(value) for name, value in metrics.items()} | {"step": "2"},
    ]


def test_a_picture_is_logged_as_it_is_and_a_disk_that_is_full_for_it_is_named(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    logger = log.EventLogger(tmp_path, name="tensorboard")
    log.log_picture(logger, "detections", Image.fromarray(pixels), 3)
    logger.save()
    [event] = EventAccumulator(logger.log_dir).Reload().Images("detections")
    assert event.step == 3
    assert np.array_equal(np.asarray(Image.open(BytesIO(event.encoded_image_string))), pixels)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logger.experiment, "add_image", full)
    with pytest.raises(
        NotWritten, match=r"tensorboard.version_0: could not be written, .*: \[Errno 28\] No space left"
    ):
        log.log_picture(logger, "detections", Image.fromarray(pixels), 4)
    logger.finalize("success")
    log.log_picture(log.RowLogger(tmp_path, name="csv"), "detections", Image.fromarray(pixels), 3)  # takes none


def test_a_run_that_goes_on_forgets_the_rows_that_come_again_and_a_line_that_was_cut_off(tmp_path):
    write_log(tmp_path, b"step,loss\n1,a\n2,a\n3,a\n3,b\n4,b\n5")
    assert [row["step"] + row["loss"] for row in read_history(tmp_path)] == ["1a", "2a", "3a", "3b", "4b"]
    forget_from(tmp_path, 4)
    assert [row["step"] + row["loss"] for row in read_history(tmp_path)] == ["1a", "2a", "3a", "3b"]
    forget_from(tmp_path, 3)
    assert [row["step"] + row["loss"] for row in read_history(tmp_path)] == ["1a", "2a"]
    forget_from(tmp_path / "nothing", 0)


def test_what_is_kept_of_a_log_stays_byte_for_byte(tmp_path):
    logger = log.RowLogger(tmp_path, name="csv")
    for step in range(6):
        logger.log_metrics({"loss": 1 / (step + 1)} if step % 2 else {"val/AP/a\r\nb": 0.5, 'a, "b"': step}, step=step)
    logger.save()
    file = tmp_path / "csv" / "version_0" / "metrics.csv"
    before = file.read_bytes()
    forget_from(tmp_path, 6)
    assert file.read_bytes() == before
    forget_from(tmp_path, 4)
    assert before.startswith(file.read_bytes())
    assert [row["step"] for row in read_history(tmp_path)] == ["0", "1", "2", "3"]


def test_cells_without_a_value_take_no_memory(tmp_path):
    """In a log of many classes far from each row is of a validation."""
    names = ["step", *(f"val/AP/{number}" for number in range(300))]
    rows = [{"step": step} for step in range(2000)]
    write_whole(tmp_path / "csv" / "version_0" / "metrics.csv", lambda path: log.write_rows(path, names, rows))
    tracemalloc.start()
    try:
        assert len(read_history(tmp_path)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 1000 * len(rows)  # bytes; a list of 301 cells takes 2,400
    finally:
        tracemalloc.stop()


def write_log(folder, data):
    file = folder / "csv" / "version_0" / "metrics.csv"
    write_whole(file, lambda path: path.write_bytes(data))
    return file


@pytest.mark.parametrize(
    "sign", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", ",", '"', "é"]
)
def test_a_class_may_have_any_name(tmp_path, sign):
    logger = log.RowLogger(tmp_path, name="csv")
    name = f"val/AP/a{sign}b"
    for step, metrics in enumerate([{name: 0.5}, {name: 0.25, f"other{sign}": 1}, {name: 0.75}]):
        logger.log_metrics(metrics, step=step)
        logger.save()
    rows = [{"0": "0.5"}, {"1": "0.25"}, {"2": "0.75"}]
    assert [{row["step"]: row[name]} for row in read_history(tmp_path)] == rows
    forget_from(tmp_path, 2)
    assert [{row["step"]: row[name]} for row in read_history(tmp_path)] == rows[:2]


@pytest.mark.parametrize(
    "end", [b"\0" * 300, b"\0" * 30 + b"\n", b"\xff\xfe\n", b"3\n", b",0.5\n", b"3,0.5,7\n", b"\n\n"]
)
def test_what_a_power_cut_leaves_at_the_end_is_left_out(tmp_path, end):
    file = write_log(tmp_path, b"step,loss\n1,0.5\n2,\n" + end)
    assert read_history(tmp_path) == [{"step": "1", "loss": "0.5"}, {"step": "2"}]
    forget_from(tmp_path, 2)
    assert file.read_bytes().split() == [b"step,loss", b"1,0.5"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"1,0.5\n2,0.4\n", "its first line has no 'step'"),
        (b"step,loss\n1,0.5\n2\n3,0.3\n", "row 2 of 3 is no row of numbers"),
        (b"step,loss\n1,0.5\n2,\xff\n3,0.3\n", "row 2 of 3 is no row of numbers"),
        (b'step,loss\n1,0.5\n"2,0.4\n3,0.3\n', "unexpected end of data"),
    ],
)
def test_a_log_that_is_damaged_is_named_and_left_as_it_is(tmp_path, data, said):
    file = write_log(tmp_path, data)
    for read in (read_history, lambda folder: forget_from(folder, 2)):
        with pytest.raises(ValueError, match=rf"metrics.csv: the log is damaged: {said}\. Mend it, or move it"):
            read(tmp_path)
    assert file.read_bytes() == data
