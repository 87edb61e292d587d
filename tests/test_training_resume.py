"""A run that is killed and taken up again gives what it would have given: parameters, numbers, log, best checkpoint.

One uninterrupted run copies its folder at many moments: each copy is what SIGKILL would have left just then.
"""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.swa_utils import SWALR

from detmix.training import cli_main
from detmix.training.files import read_history
from detmix.training.random_state import random_state, set_random_state
from detmix.training.resume import LastCheckpoint
from detmix.training.signals import StopRequests

from .conftest import undrawn_report

SCENES = ["train=13", "val=3", "size=32", "min_extent=8", "max_extent=16", "max_objects=3"]
SMALL = [
    *(f"--data.shapes.{setting}" for setting in SCENES),
    "--data.batch_size=2",
    "--data.mixup.no_mixup_epochs=0",
    "--model.options={min_size: 32, max_size: 32}",
    "--model.warmup_steps=3",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.max_epochs=2",
    "--checkpoint_every=2",
]
STEPS = 6  # in an epoch


def copy_or_link(source, target):
    """Copy a file; link a checkpoint, which is large and never written to, only replaced."""
    if source.endswith(".ckpt"):
        Path(target).unlink(missing_ok=True)
        os.link(source, target)
    else:
        shutil.copy2(source, target)


class Copies(L.Callback):
    """Copies the folder of the run at the hooks of a training, in front of the checkpoint's own."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def copy(self, trainer, name):
        shutil.copytree(
            trainer.default_root_dir, f"{self.folder}/{name}", dirs_exist_ok=True, copy_function=copy_or_link
        )

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.copy(trainer, f"start{trainer.global_step}")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.copy(trainer, f"end{trainer.global_step}")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.copy(trainer, f"validation{trainer.global_step}-{batch_idx}")

    def on_validation_end(self, trainer, pl_module):
        self.copy(trainer, f"validated{trainer.global_step}")

    def on_train_epoch_end(self, trainer, pl_module):
        self.copy(trainer, f"epoch{trainer.current_epoch}")

    def on_train_end(self, trainer, pl_module):
        self.copy(trainer, "trained")

    def on_fit_end(self, trainer, pl_module):
        self.copy(trainer, "fitted")


def train(folder, *arguments, config="configs/quickstart.yaml", report=False):
    with nullcontext() if report else undrawn_report():
        cli_main(["fit", "--config", config, "--runs", str(folder), "--name=run", *SMALL, *arguments])
    return folder / "run"


def outcome(run):
    """All that a run leaves, but for times."""
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    rows = read_history(run)
    for row in rows:
        row.pop("images_per_s", None)
    [best_state] = [state for name, state in last["callbacks"].items() if "val/AP" in name]
    return {
        "model": torch.load(run / "model.pt", weights_only=True),
        "optimizer": last["optimizer_states"],
        "schedule": last["lr_schedulers"],
        "random": last["detmix"],
        "loops": last["loops"],
        "callbacks": {n: state for n, state in last["callbacks"].items() if n != "RunFiles" and "val/AP" not in n},
        "best": best["state_dict"],
        "best_step": best["global_step"],
        "best_score": float(best_state["best_model_score"]),
        "rows": rows,
        "metrics": json.loads((run / "metrics.json").read_text()),
        "predictions": json.loads((run / "predictions.json").read_text()),
        "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
    }


def differences(first, second, name=""):
    """Names of what differs between two nests of plain values and tensors, bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    if isinstance(first, dict) and first.keys() == second.keys():
        return [n for key in first for n in differences(first[key], second[key], f"{name}/{key}")]
    if isinstance(first, (list, tuple)) and len(first) == len(second):
        return [n for i, pair in enumerate(zip(first, second, strict=True)) for n in differences(*pair, f"{name}/{i}")]
    return [] if first == second else [name]


def callback(name, **arguments):
    return f"--trainer.callbacks+={json.dumps({'class_path': name, 'init_args': arguments})}"


def interrupt(folder, *arguments):
    """What an uninterrupted run leaves, and the folder with its copies."""
    copies = folder / "copies"
    run = train(folder, callback("tests.test_training_resume.Copies", folder=str(copies)), *arguments)
    return outcome(run), copies


@pytest.fixture(scope="module")
def repository():
    before = Path.cwd()
    os.chdir(Path(__file__).parent.parent)  # configs are named from there
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, repository):
    return interrupt(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("killed", "step", "more"),
    [
        ("start0", None, []),  # before anything was written: the run begins again
        ("end3", 2, []),
        ("start5", 4, ["--data.num_workers=2"]),
        ("end5", 4, []),  # the next checkpoint is written, but not the row of the log that belongs to it
        ("end6", 5, []),  # the last step of the epoch
        ("validation6-1", 5, []),
        ("start6", 6, []),  # between two epochs
        ("trained", 11, []),  # before model.pt and the report are written
    ],
)
def test_a_run_that_was_killed_gives_what_it_would_have_given(uninterrupted, tmp_path, killed, step, more):
    wanted, copies = uninterrupted
    run = tmp_path / "run"  # in another place: folders may be moved
    shutil.copytree(copies / killed, run)
    if step is not None:
        assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    train(tmp_path, "--resume", *more)
    assert differences(wanted, outcome(run)) == []


STOPS_EARLY = callback(
    "lightning.pytorch.callbacks.EarlyStopping", monitor="val/AP", mode="max", stopping_threshold=-1.0
)


@pytest.mark.parametrize(("arguments", "more"), [(["--trainer.max_epochs=1"], 2), ([STOPS_EARLY], 3)])
def test_a_run_that_is_finished_is_left_alone_until_it_may_do_more(tmp_path, in_repository, capsys, arguments, more):
    run = train(tmp_path, *arguments)
    names = ("config.yaml", "model.pt", "report.html", "metrics.json", "checkpoints/last.ckpt")
    files = [run / name for name in names]
    before = [file.read_bytes() for file in files]
    train(tmp_path, *arguments, "--resume", "--model.lr=0.5")
    assert [file.read_bytes() for file in files] == before
    assert "finished run goes on with a higher --trainer.max_epochs" in capsys.readouterr().out
    assert not (tmp_path / "run-1").exists()
    train(tmp_path, *arguments, "--resume", f"--trainer.max_epochs={more}")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2 * STEPS


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--trainer.max_steps=4"], ["--trainer.max_steps=-1"]),
        ([STOPS_EARLY, "--trainer.val_check_interval=4"], ["--trainer.max_epochs=3"]),
    ],
)
def test_what_is_left_out_of_an_epoch_by_a_limit_is_told(tmp_path, in_repository, arguments, more):
    train(tmp_path, *arguments)
    with pytest.warns(UserWarning, match="ended within epoch 0, after 4 of its batches"):
        train(tmp_path, *arguments, *more, "--resume")


def test_a_number_of_steps_that_the_epochs_do_not_reach_is_told(tmp_path, in_repository):
    with pytest.warns(UserWarning, match="ends this run after 6 steps, before max_steps=7: its last checkpoint"):
        train(tmp_path, "--trainer.max_epochs=1", "--trainer.max_steps=7")
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == STEPS - 1


VARIANTS = {
    "averaged weights, mixed batches": (
        "validation6-0",
        5,
        [
            "--trainer.max_epochs=1",
            callback("lightning.pytorch.callbacks.EMAWeightAveraging", decay=0.5),
            callback("detmix.training.MixBatches", pairing="shuffle"),
        ],
    ),
    "several validations, accumulated gradients, mixed features": (
        "end5",
        4,
        [
            "--trainer.val_check_interval=4",
            callback("lightning.pytorch.callbacks.GradientAccumulationScheduler", scheduling={"0": 2}),
            "--model.optimizer=sgd",
            "--model.objective=pair",
            "--model.manifold={layers: [input, backbone.body.layer2, roi]}",
        ],
    ),
    "Lightning's averages of the last epochs": (
        "end9",
        8,
        [
            "--trainer.max_epochs=3",
            callback(
                "lightning.pytorch.callbacks.StochasticWeightAveraging",
                swa_lrs=0.003,
                swa_epoch_start=1,
                annealing_strategy="linear",
                device=None,  # its default, a torch.device, cannot be written into a config
            ),
        ],
    ),
    "a number of steps": ("validation8-0", 7, ["--trainer.max_steps=8", "--trainer.max_epochs=-1"]),
    "a last validation between two of them": (
        "validation12-1",
        11,
        ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"],
    ),
}


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch", "ignore:Detected call of `lr_sch")
@pytest.mark.parametrize("name", VARIANTS)
def test_so_does_one_that_trains_in_another_way(tmp_path, in_repository, name):
    if "last epochs" in name and "state_dict" not in vars(SWALR):
        pytest.skip("this torch keeps a function in the schedule of such averages, which is no plain value")
    killed, step, arguments = VARIANTS[name]
    wanted, copies = interrupt(tmp_path, *arguments)
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(copies / killed, tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    assert differences(wanted, outcome(train(tmp_path, "--resume", *arguments))) == []


def test_the_report_names_each_command_that_trained_the_run(uninterrupted, tmp_path):
    _, copies = uninterrupted
    shutil.copytree(copies / "fitted", tmp_path / "run")
    step = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    train(tmp_path, "--resume", "--trainer.max_epochs=3", "--model.lr=0.001")
    train(tmp_path, "--trainer.max_epochs=3", "--resume", "--model.lr=0.001")  # finished
    command = json.loads((tmp_path / "run" / "run.json").read_text())["summary"]["Command"]
    assert command.count("train.py fit") == 2
    assert f"; from step {step} on: python tools/train.py fit" in command
    assert command.endswith("--resume --trainer.max_epochs=3 --model.lr=0.001")


def test_the_log_has_each_row_once_and_tensorboard_each_number(uninterrupted, tmp_path):
    wanted, copies = uninterrupted
    run = tmp_path / "run"
    shutil.copytree(copies / "end9", run)
    train(tmp_path, "--resume")
    assert outcome(run)["rows"] == wanted["rows"]
    assert [file.name for file in (run / "csv").rglob("*")] == ["version_0", "metrics.csv"]
    [folder] = (run / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload().Scalars("train/loss")
    assert [event.step for event in events] == list(range(2 * STEPS))


class Signals(L.Callback):
    """Sends a signal to this process, twice as by a launcher that passes it on, at a hook behind some step."""

    def __init__(self, number: int, hook: str, step: int = 0) -> None:
        self.number, self.step = number, step
        setattr(self, hook, self.send)

    def send(self, trainer, *_, **__):
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)
            signal.raise_signal(self.number)


def stopped(folder, number, hook, step, capfd, *arguments):
    """What a run says that gets a signal, ends with its code, and gives the signals back."""
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        train(
            folder, callback("tests.test_training_resume.Signals", number=int(number), hook=hook, step=step), *arguments
        )
    assert ended.value.code == 128 + number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    said = capfd.readouterr().err
    assert f"{number.name}: stopping" in said
    return said


@pytest.mark.parametrize(
    ("number", "hook", "step", "left"),
    [
        (signal.SIGTERM, "on_train_batch_end", 3, 3),
        (signal.SIGINT, "on_train_batch_end", 6, 5),  # the last step of an epoch: a validation comes first
        (signal.SIGTERM, "on_validation_batch_end", 6, 5),
        (signal.SIGINT, "on_validation_epoch_end", 6, 5),  # what was detected is not measured yet
        (signal.SIGTERM, "on_validation_end", 6, 5),  # and what was measured not written
        (signal.SIGTERM, "on_train_end", 12, 11),
        (signal.SIGINT, "on_fit_end", 12, 11),  # the weights and the report are not written yet
    ],
)
def test_a_signal_ends_the_run_with_a_checkpoint_and_the_command_that_goes_on(
    uninterrupted, tmp_path, capfd, number, hook, step, left
):
    wanted, _ = uninterrupted
    said = stopped(tmp_path, number, hook, step, capfd)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"{last} holds the run up to step {left}. Go on from there with" in said
    assert torch.load(last, weights_only=True)["global_step"] == left
    [command] = [line.strip() for line in said.splitlines() if line.strip().startswith("python tools/train.py fit")]
    cli_main([word for word in shlex.split(command)[2:] if "Signals" not in word])
    assert differences(wanted, outcome(tmp_path / "run")) == []


def test_a_run_that_goes_back_to_an_earlier_checkpoint_of_its_own_has_no_later_one_any_more(
    uninterrupted, tmp_path, capfd
):
    wanted, copies = uninterrupted
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(copies / "fitted", tmp_path / "run")
    shutil.copy(copies / "start6" / "checkpoints" / "last.ckpt", folder / "earlier.ckpt")
    said = stopped(tmp_path, signal.SIGTERM, "setup", 0, capfd, f"--ckpt_path={folder / 'earlier.ckpt'}")
    assert f"Nothing was trained since {folder / 'last.ckpt'}. Go on from there with" in said
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 6
    (folder / "earlier.ckpt").unlink()
    assert differences(wanted, outcome(train(tmp_path, "--resume"))) == []


@pytest.mark.parametrize(("best", "stays"), [("start6", True), ("fitted", False)])
def test_the_best_checkpoint_of_a_run_that_goes_back_is_not_of_a_later_step(
    uninterrupted, tmp_path, capfd, best, stays
):
    _, copies = uninterrupted
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(copies / "fitted", tmp_path / "run")
    (folder / "best.ckpt").unlink()
    for name, source in (("earlier.ckpt", "start6"), ("best.ckpt", best)):
        shutil.copy(copies / source / "checkpoints" / "last.ckpt", folder / name)
    stopped(tmp_path, signal.SIGTERM, "setup", 0, capfd, f"--ckpt_path={folder / 'earlier.ckpt'}")
    assert (folder / "best.ckpt").exists() == stays


class Fails(L.Callback):
    """Ends the training with an error before its first step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        raise ValueError("stop here")


def test_the_checkpoint_of_another_run_is_not_said_to_be_ones_own(uninterrupted, tmp_path):
    _, copies = uninterrupted
    other = copies / "start6" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="stop here") as ended:
        train(tmp_path, callback("tests.test_training_resume.Fails"), f"--ckpt_path={other}")
    assert "No checkpoint was written yet. Begin again with" in ended.value.__notes__[0]


@pytest.mark.parametrize("command", ["validate", "test"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_measurement_with_its_code(uninterrupted, tmp_path, capfd, command, number):
    _, copies = uninterrupted
    shutil.copytree(copies / "fitted", tmp_path / "run")
    hook = {"validate": "on_validation_batch_end", "test": "on_test_batch_end"}[command]
    signals = callback("tests.test_training_resume.Signals", number=int(number), hook=hook, step=0)
    arguments = ["--config", "configs/quickstart.yaml", "--runs", str(tmp_path), "--name=run", *SMALL[:-1], signals]
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        cli_main([command, *arguments])
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == handler
    assert f"{number.name}: stopping" in capfd.readouterr().err
    assert not (tmp_path / "run" / command).exists()


@pytest.mark.parametrize(
    ("number", "hook"),
    [
        (signal.SIGINT, "on_fit_start"),
        (signal.SIGTERM, "on_validation_batch_end"),
        (signal.SIGINT, "on_sanity_check_end"),
    ],
)
def test_a_signal_before_the_first_step_ends_the_run_too(in_repository, tmp_path, capfd, number, hook):
    said = stopped(tmp_path, number, hook, 0, capfd, "--trainer.num_sanity_val_steps=1")
    assert "No checkpoint was written yet. Begin again with\n  python tools/train.py fit" in said
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("model.pt"))


@pytest.mark.parametrize(("processes", "at_once"), [(1, True), (2, False)])
def test_of_several_processes_none_ends_alone_while_detections_are_measured(tmp_path, processes, at_once):
    strategy = SimpleNamespace(reduce_boolean_decision=lambda asked, all: asked)
    trainer = SimpleNamespace(world_size=processes, strategy=strategy, received_sigterm=False)
    trainer.state = SimpleNamespace(fn="fit")
    requests = StopRequests()
    last = LastCheckpoint(tmp_path, every_n_steps=1, command="", requests=requests)
    last.on_validation_epoch_end(trainer, None)
    assert requests.at_once == at_once
    last.on_validation_end(trainer, None)
    assert not requests.at_once


def test_one_request_may_come_by_many_signals_and_a_later_ctrl_c_ends_at_once(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    requests = StopRequests()
    requests.listen()
    try:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        now = 3600.0
        signal.raise_signal(signal.SIGTERM)
        assert requests.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        requests.restore()


def begin(folder, *arguments):
    """A training in a process group of its own, as a shell or a cluster starts it, that has written a checkpoint."""
    command = [sys.executable, "tools/train.py", "fit", "--config=configs/quickstart.yaml", f"--runs={folder}"]
    process = subprocess.Popen(
        [*command, "--name=run", *SMALL, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(folder / "run" / "checkpoints" / "last.ckpt", process)
    return process


def wait_for(file, process, seconds=300):
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted_with_workers(tmp_path_factory, repository):
    """They take cores, so that the model has fewer threads than without, and rounds differently."""
    return outcome(train(tmp_path_factory.mktemp("runs"), "--data.num_workers=2"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signals_to_all_processes_of_a_run_with_workers(uninterrupted_with_workers, tmp_path, number, code):
    process = begin(tmp_path, "--data.num_workers=2")
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert ("holds the run up to step" in said) == (number == signal.SIGTERM)
    assert "Traceback" not in said
    train(tmp_path, "--resume")  # without workers
    assert differences(uninterrupted_with_workers, outcome(tmp_path / "run")) == []


def test_what_the_order_depends_on_may_change_with_a_warning(uninterrupted, tmp_path):
    _, copies = uninterrupted
    shutil.copytree(copies / "start5", tmp_path / "run")
    with pytest.warns(UserWarning, match="within epoch 0, .*: batch size was 2 and is 1. The rest of this epoch"):
        train(tmp_path, "--resume", "--data.batch_size=1", "--trainer.max_epochs=1")


def test_the_state_of_each_generator_is_kept(tmp_path):
    draw = {"torch": lambda: torch.rand(3).tolist(), "numpy": lambda: np.random.random(), "random": random.random}
    cpu = torch.device("cpu")
    np.random.normal()  # leaves a second number behind
    torch.save(random_state(cpu), tmp_path / "state.pt")
    wanted = {name: draw() for name, draw in draw.items()} | {"normal": np.random.normal()}
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True), cpu)
    assert {name: draw() for name, draw in draw.items()} | {"normal": np.random.normal()} == wanted
