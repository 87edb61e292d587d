"""Checkpoint files: written whole or named, and refused before anything is written where they are not the run's."""

import secrets
import shutil
from pathlib import Path

import pytest
import torch

from detmix.files import NotWritten
from detmix.training.checkpoints import CheckpointFiles, read_checkpoint, save_whole
from detmix.training.files import read_history

from .conftest import needs_linux
from .hostile import compress
from .test_training_faults import ONE_EPOCH, does, fail
from .test_training_resume import train


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    """The folder of a run that was interrupted after three steps."""
    folder = tmp_path_factory.mktemp("runs")
    fail(folder, does("ask_for_memory", 3), ONE_EPOCH)
    return folder / "run"


@needs_linux
def test_weights_that_do_not_fit_on_the_disk_are_named(tmp_path, monkeypatch):
    (tmp_path / ".model.pt.full.tmp").symlink_to("/dev/full")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "full")
    with pytest.raises(NotWritten, match=r"model\.pt: could not be written, \d+ MiB are free there: "):
        save_whole(tmp_path / "model.pt", {"weight": torch.zeros(1 << 18)})
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_while_a_checkpoint_is_written_is_no_full_disk(tmp_path, monkeypatch):
    """torch tells of its death wherever the main thread is just then."""

    def save(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid 7\) is killed"):
        CheckpointFiles().save_checkpoint({}, tmp_path / "last.ckpt")


def break_file(file):
    file.write_bytes(file.read_bytes()[:-1000])


def add_code(file):
    """A checkpoint that runs code when it is read by pickle alone."""
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, "hook": RunsCode()}, file)


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("hostile"),)


def keep_weights_alone(file):
    """As a callback of Lightning's writes it with save_weights_only."""
    checkpoint = torch.load(file, weights_only=True)
    for name in ("callbacks", "optimizer_states", "lr_schedulers"):
        del checkpoint[name]
    torch.save(checkpoint, file)


def list_no_weights(file):
    torch.save({**torch.load(file, weights_only=True), "state_dict": []}, file)


def reverse_classes(file):
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["class_names"].reverse()
    torch.save(checkpoint, file)


def leave_as_it_is(file):
    pass


def lose_header(file):
    log = file.parents[1] / "csv" / "version_0" / "metrics.csv"
    log.write_bytes(log.read_bytes().partition(b"\n")[2])


def empty(file):
    torch.save({"a": torch.zeros(1)}, file)


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (break_file, [], "last.ckpt: truncated, or no checkpoint: "),
        (empty, [], "last.ckpt: not a checkpoint of tools/train.py"),
        (add_code, [], "last.ckpt: holds more than tensors and plain values, and reading that could run code"),
        (compress, [], "claims to hold"),
        (list_no_weights, [], "last.ckpt: not a checkpoint of tools/train.py: its state_dict is none"),
        (
            keep_weights_alone,
            [],
            "last.ckpt: no checkpoint to go on from: optimizer_states is not as",
        ),
        (reverse_classes, [], "last.ckpt: trained on other classes: label 1 is 'triangle' there and 'circle' in this"),
        (Path.unlink, ["--ckpt_path={file}"], "last.ckpt: no such checkpoint"),
        (leave_as_it_is, ["--model.detector=ssdlite320_mobilenet_v3_large", "--model.options=null"], "tensors differ"),
        (lose_header, [], "metrics.csv: the log is damaged: its first line has no 'step'"),
        (leave_as_it_is, ["--model.optimizer=sgd"], "trained with --model.optimizer adamw"),
    ],
)
def test_a_checkpoint_that_is_not_this_runs_is_refused_before_anything_is_written(
    checkpointed, tmp_path, in_repository, capsys, change, more, said
):
    run = tmp_path / "run"
    shutil.copytree(checkpointed, run)
    file = run / "checkpoints" / "last.ckpt"
    change(file)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, "--resume", *(word.replace("{file}", str(file)) for word in more))
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not Path("hostile").exists()


def test_a_run_that_goes_on_with_a_lower_rate_trains_with_it(checkpointed, tmp_path, in_repository, caplog):
    """As the message on a loss that is no number advises."""
    shutil.copytree(checkpointed, tmp_path / "run")
    before = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["lr_schedulers"][0]
    with caplog.at_level("INFO"):
        run = train(tmp_path, "--resume", ONE_EPOCH, "--model.lr=1e-5")
    assert "--model.lr is 1e-05 from here on; in the checkpoint it is 0.002" in caplog.text
    rates = [float(row["lr-AdamW"]) for row in read_history(run) if "lr-AdamW" in row]
    assert before["last_epoch"] == 2
    assert [rate > 1e-5 for rate in rates] == [True] * 2 + [False] * 4
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["lr_schedulers"][0]["base_lrs"] == [1e-5]
