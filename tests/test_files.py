import os
import subprocess
import sys

import pytest

from detmix import files
from detmix.files import NotWritten, whole_folder, write_text, write_whole


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "metrics.json"
    write_whole(file, lambda path: path.write_text("old"))

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(NotWritten, match=r"metrics\.json: could not be written, \d+ MiB are free there: disk full"):
        write_whole(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_flushed_to_the_disk_is_open_for_writing(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.write(number, b"")))  # EBADF, as on Windows
    write_text(tmp_path / "metrics.json", "new")
    assert (tmp_path / "metrics.json").read_text() == "new"
    assert flushed == [0]


def test_a_file_whose_folder_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(NotWritten, match=r"runs/plots/confusion\.png: could not be written: \[Errno \d+\] Not a dir"):
        write_text(tmp_path / "runs" / "plots" / "confusion.png", "")


def test_text_is_utf_8_whatever_the_locale(tmp_path):
    call = "import pathlib, runpy, sys; runpy.run_path(sys.argv[1])['write_text'](pathlib.Path('out'), '\\xf6')"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", call, files.__file__], cwd=tmp_path, env=ascii_only, check=True)
    assert (tmp_path / "out").read_bytes() == "ö".encode()


def test_hosts_with_the_same_pid_write_a_file_at_the_same_time(tmp_path):
    file = tmp_path / "sweep.json"

    def write(path):
        path.write_text("one")
        write_whole(file, lambda other: other.write_text("another"))

    write_whole(file, write)
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_gets_into_place_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "out", "file"]


def test_a_folder_that_fails_is_gone(tmp_path):
    def fail():
        with whole_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []
