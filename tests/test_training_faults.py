"""What is left on disk, and what is said, when a training meets a fault, in a process of its own."""

import multiprocessing
import os
import re
import resource
import secrets
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from detmix.training.checkpoints import read_checkpoint
from detmix.training.faults import FiniteLoss
from detmix.training.loader import TrainingLoader

from .conftest import needs_linux
from .processes import run_apart
from .test_training_resume import callback, train

ONE_EPOCH = "--trainer.max_epochs=1"


class Does(L.Callback):
    """Does one thing after a step."""

    def __init__(self, what: str, step: int) -> None:
        self.what, self.step = what, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            globals()[self.what](trainer)


def ask_for_memory(trainer):
    """More than a process can address: no allocator has it, whatever the system promises."""
    torch.empty(1 << 50, dtype=torch.uint8, device=trainer.strategy.root_device)


def kill_worker(trainer):
    multiprocessing.active_children()[0].kill()


def kill_in_the_next_write(trainer):
    def write_half(checkpoint, file):
        file.write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = write_half


def fill_disk(trainer):
    """The next checkpoint gets to a device that is always full."""
    folder = Path(trainer.default_root_dir) / "checkpoints"
    (folder / ".next.ckpt.full.tmp").symlink_to("/dev/full")
    secrets.token_hex = lambda count: "full"


def fill_events(trainer):
    """What goes to TensorBoard gets to a device that is always full."""
    [events] = (Path(trainer.default_root_dir) / "tensorboard" / "version_0").glob("events*")
    events.unlink()
    events.symlink_to("/dev/full")


def limit_files(trainer):
    """Of the next checkpoint one megabyte can be written, and no more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def break_parameter(trainer):
    with torch.no_grad():
        next(trainer.lightning_module.detector.parameters())[0] = float("nan")


def does(what, step):
    return callback("tests.test_training_faults.Does", what=what, step=step)


def fail(folder, *arguments):
    """Train in a process of its own, which fails; what it said."""
    output = folder / "said.txt"
    assert run_apart(train, folder, *arguments, output=output) == 1, output.read_text()
    return output.read_text()


def require_way_on(folder, text, *steps):
    """The last checkpoint, of one of the steps, is whole and of numbers; nothing half-written is there; and the text
    says how to go on."""
    folder = folder / "run" / "checkpoints"
    checkpoint = read_checkpoint(folder / "last.ckpt")
    step = checkpoint["global_step"]
    assert step in steps
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert {path.name for path in folder.iterdir()} <= {"last.ckpt", "best.ckpt"}
    assert f"{folder / 'last.ckpt'} holds the run up to step {step}. Go on from there with\n  python tools/" in text
    assert text.rstrip().endswith("--resume")


FULL = r"next\.ckpt: could not be written, \d+ MiB are free there: "


@pytest.mark.parametrize(
    ("what", "step", "error", "said"),
    [
        ("ask_for_memory", 3, "RuntimeError: ", "lower --data.batch_size"),
        pytest.param("fill_disk", 3, "NotWritten: ", FULL, marks=needs_linux),
        ("limit_files", 3, "NotWritten: ", FULL),
        ("break_parameter", 4, "FloatingPointError: ", "no checkpoint is written of them"),
    ],
)
def test_a_fault_leaves_the_last_checkpoint_and_the_command_that_goes_on(tmp_path, what, step, error, said):
    text = fail(tmp_path, does(what, step), ONE_EPOCH)
    assert error in text
    assert re.search(said, text)
    require_way_on(tmp_path, text, 2)


@needs_linux
def test_a_disk_that_is_full_for_a_logger_is_named_and_how_to_go_on_is_said(tmp_path):
    text = fail(tmp_path, does("fill_events", 3), ONE_EPOCH)
    said = r"\S*NotWritten: \S*tensorboard/version_0: could not be written, \d+ MiB are free there: "
    assert re.search(said, text)
    # TensorBoard's own thread prints what it met whenever it gets to it, before that or after it
    assert re.search(
        r"last\.ckpt holds the run up to step 2\. Go on from there with\n  python tools/.* --resume\n", text
    )


def test_a_worker_that_is_killed_leaves_them_after_the_batches_that_it_had_sent(tmp_path):
    longer = "--data.shapes.train=41"  # steps enough that those batches are not all
    text = fail(tmp_path, does("kill_worker", 3), ONE_EPOCH, "--data.num_workers=1", longer)
    assert "RuntimeError: " in text
    assert "lower --data.num_workers" in text
    require_way_on(tmp_path, text, 2, 4, 6)


def test_what_a_kill_within_a_write_has_left_is_removed_when_the_run_goes_on(tmp_path, in_repository):
    output = tmp_path / "said.txt"
    code = run_apart(train, tmp_path, does("kill_in_the_next_write", 3), ONE_EPOCH, output=output)
    assert code == -signal.SIGKILL, output.read_text()
    run = tmp_path / "run"
    [left] = run.rglob(".*")
    assert left.parent == run / "checkpoints"
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 2
    train(tmp_path, "--resume", ONE_EPOCH)
    assert not list(run.rglob(".*"))
    assert {path.name for path in left.parent.iterdir()} == {"last.ckpt", "best.ckpt"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_out_of_memory_on_a_gpu_leaves_them_too(tmp_path):
    text = fail(tmp_path, does("ask_for_memory", 3), ONE_EPOCH, "--trainer.accelerator=gpu")
    assert "OutOfMemoryError: " in text
    assert "lower --data.batch_size" in text
    require_way_on(tmp_path, text, 2)


def test_a_loss_that_is_no_number_ends_the_run_before_its_step(tmp_path):
    text = fail(tmp_path, "--model.lr=1e30", "--checkpoint_every=1", ONE_EPOCH)
    assert re.search(r"FloatingPointError: .*step 1: .*train/loss.* nan.*images \[.*Try a lower --model.lr", text)
    require_way_on(tmp_path, text, 1)


def test_no_checkpoint_is_written_of_a_loss_that_nobody_has_looked_at_or_of_broken_statistics():
    trainer = SimpleNamespace(callback_metrics={}, current_epoch=0, global_step=3)
    norm = torch.nn.BatchNorm2d(2)
    watch = FiniteLoss()
    watch.on_save_checkpoint(trainer, norm, {})
    watch._finite = torch.tensor(False)  # as on a GPU between two rows of the log
    with pytest.raises(FloatingPointError, match="the loss is not finite at epoch 0, step 3"):
        watch.on_save_checkpoint(trainer, norm, {})
    norm.running_var[1] = torch.inf
    with pytest.raises(FloatingPointError, match="running_var holds values that are not finite"):
        FiniteLoss().on_save_checkpoint(trainer, norm, {})


READER = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); sys.stdin.read()"


def interrupt_all(trainer):
    """As Ctrl-C does; who reads the output is gone before anything more is printed."""
    os.killpg(os.getpgrp(), signal.SIGINT)
    reader = select.poll()
    reader.register(1, 0)
    assert reader.poll(60_000)


def train_into_a_pipe(folder, streams):
    reader = subprocess.Popen([sys.executable, "-ISc", READER], stdin=subprocess.PIPE)
    for stream in streams:
        os.dup2(reader.stdin.fileno(), stream)
    train(folder, does("interrupt_all", 3), ONE_EPOCH, "--trainer.enable_progress_bar=true")


@pytest.mark.parametrize("streams", [(1,), (1, 2)], ids=["train.py | tee", "train.py 2>&1 | tee"])
def test_a_signal_that_also_ends_who_reads_the_output_is_heeded(tmp_path, streams):
    output = tmp_path / "said.txt"
    code = run_apart(train_into_a_pipe, tmp_path, streams, output=output)
    text = output.read_text()
    assert code == 128 + signal.SIGINT, text
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3
    if 2 not in streams:
        require_way_on(tmp_path, text, 3)


class Unreachable(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ConnectionError("no route to the images")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_loses_its_connection_says_so_itself(workers):
    with pytest.raises(ConnectionError, match="no route to the images"):
        next(iter(TrainingLoader(Unreachable(), num_workers=workers)))
