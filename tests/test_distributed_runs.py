"""Trainings of two processes, started as docs/distributed.md says: to the end, until one dies or all are told to stop,
and on from there."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import lightning as L
import pytest

from detmix.training import cli_main
from detmix.training.checkpoints import read_checkpoint
from detmix.training.resume import LastCheckpoint

from .conftest import undrawn_report
from .processes import end_of, start_apart
from .test_training_resume import differences, outcome
from .trainings import TINY, losses_in, mean_losses, predictions_in

if sys.platform != "linux":
    pytest.skip("processes keep to cores of their own, as on Linux", allow_module_level=True)

ROOT = Path(__file__).parent.parent
CORES = sorted(os.sched_getaffinity(0))
SETTINGS = [
    *TINY,
    "--data.shapes.train=24",  # three steps an epoch for each process
    "--data.shapes.val=5",  # an odd number: one process gets an image more
    "--data.mixup.no_mixup_epochs=0",
    "--model.manifold.layers=[input, roi]",
    "--trainer.callbacks+={class_path: detmix.training.MixBatches}",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.num_sanity_val_steps=0",
    "--checkpoint_every=1",
]

# what the batch system tells each task of two on two hosts
SLURM = {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_ID": "1234"}
SLURM |= {"SLURM_JOB_NAME": "bccd", "SLURM_NODELIST": "localhost"}

# what is written to a file and run in the place of SLURM's command: one task on each of two hosts
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
command = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
tasks = []
for host, core in enumerate({[CORES[0], CORES[-1]]}):
    own = {{"SLURM_PROCID": str(host), "SLURM_NODEID": str(host), "SLURM_LOCALID": "0"}}
    pin = lambda core=core: os.sched_setaffinity(0, [core])
    tasks.append(subprocess.Popen(command, env={{**os.environ, **own}}, preexec_fn=pin))
sys.exit(max(abs(task.wait()) for task in tasks))
"""


class Dies(L.Callback):
    """Ends one of the processes at once, as the kernel does when memory runs out."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


class Terminates(L.Callback):
    """Has processes send SIGTERM to themselves after a step, or the first to what started it, and wait for it.

    After step 0 means in the validation before the first step.
    """

    def __init__(self, step: int, ranks: list[int], launcher: bool = False) -> None:
        self.step, self.ranks, self.launcher = step, ranks, launcher

    def on_train_batch_end(self, trainer, *_):
        self.send(trainer)

    def on_validation_batch_end(self, trainer, *_):
        if trainer.sanity_checking:
            self.send(trainer)

    def send(self, trainer):
        if trainer.global_step == self.step and trainer.global_rank in self.ranks:
            os.kill(os.getppid() if self.launcher and trainer.is_global_zero else os.getpid(), signal.SIGTERM)
            [last] = [callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]
            while last._requests.received is None:
                time.sleep(0.01)


def recipe(first_word, **changes):
    """The block of the docs that begins with a word, with some of its words changed, and the settings behind it."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "distributed.md").read_text(), re.DOTALL)
    [text] = [block for block in blocks if block.startswith(first_word)]
    changes |= {"configs/bccd.yaml": "configs/quickstart.yaml", ".venv/bin/python": sys.executable}
    for old, new in changes.items():
        assert old in text or old.startswith("."), f"{old} is not in the command of docs/distributed.md"
        text = text.replace(old, new)
    return f"{text.rstrip()} {shlex.join(SETTINGS)}"


def free_port():
    """A port that nobody has, below those that the system gives away; at random: there may be tests beside this one."""
    for port in random.SystemRandom().sample(range(10_000, 32_768), 1000):
        with socket.socket() as found, suppress(OSError):
            found.bind(("localhost", port))
            return port
    raise AssertionError("no port is free")


def start(command, folder, cores, **variables):
    """Run a command of the shell on some of the cores, from the repository, with its output in a file."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), str(folder), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", **variables}
    with (folder / f"{len(list(folder.iterdir()))}.txt").open("w") as output:
        return subprocess.Popen(
            ["bash", "-c", f"{command} --runs {shlex.quote(str(folder))}"],
            env=environment,
            cwd=ROOT,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ), Path(output.name)


def ends(started):
    process, output = started
    try:
        return process.wait(timeout=400), output.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started, too


def on_two_hosts(folder, *more):
    """torchrun on two hosts of one core each; what both end with."""
    changes = {
        "host0:29500": f"localhost:{free_port()} --local_addr localhost",
        "nproc_per_node 4": "nproc_per_node 1",
        "devices 4": "devices 1",
    }
    command = " ".join([recipe("torchrun", **changes), *more])
    hosts = [start(command, folder, [core]) for core in (CORES[0], CORES[-1])]
    return [ends(host) for host in hosts]


def under_slurm(folder, *more):
    """The batch script on two hosts of one core each."""
    (folder / "srun").write_text(SRUN)
    (folder / "srun").chmod(0o755)
    command = " ".join([recipe("#!/bin/bash"), *more])
    return ends(start(command, folder, CORES, **SLURM, MASTER_PORT=str(free_port())))


def on_one_host(folder, *more):
    """torchrun with two processes on one host."""
    changes = {
        "host0:29500": f"localhost:{free_port()} --local_addr localhost",
        "nnodes 2": "nnodes 1",
        "nproc_per_node 4": "nproc_per_node 2",
        "num_nodes 2": "num_nodes 1",
        "devices 4": "devices 2",
    }
    patient = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300"}  # a busy machine may take longer than half a minute
    command = " ".join([recipe("torchrun", **changes), *map(shlex.quote, more)])
    return ends(start(command, folder, CORES, **patient))


def take_part(variables, arguments):
    """One process of a training, with the variables that its launcher would set."""
    os.environ.update(variables, GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="localhost")
    os.chdir(ROOT)
    os.sched_setaffinity(0, [CORES[0], CORES[-1]])  # as many threads, and so the same sums, on any machine
    with undrawn_report():
        cli_main(["fit", "--config", "configs/quickstart.yaml", *SETTINGS, "--trainer.strategy=ddp", *arguments])


def as_by_torchrun(rank):
    """Variables and settings of one of two processes on one host."""
    count, rank = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    return {**count, **rank, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "1"}, ["--trainer.devices=2"]


def as_by_slurm(rank):
    """Variables and settings of one of two processes on two hosts."""
    own = {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"}
    return {**SLURM, **own}, ["--trainer.devices=1", "--trainer.num_nodes=2"]


def two_processes(started, folders, *more):
    """Two processes without their launcher, which is cheaper; what each ends with."""
    port, running = str(free_port()), []
    for rank, folder in enumerate(folders):
        variables, settings = started(rank)
        arguments, output = [*settings, f"--runs={folder}", *more], folder / f"said{rank}.txt"
        process = start_apart(take_part, {**variables, "MASTER_PORT": port}, arguments, output=output)
        running.append((process, output))
    return [(end_of(process), output.read_text()) for process, output in running]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run of two processes that the trainer started itself."""
    folder = tmp_path_factory.mktemp("runs")
    command = recipe("python", **{"devices 4": "devices 2"})
    code, said = ends(start(command, folder, [CORES[0], CORES[-1]]))
    assert code == 0, said
    return folder / "quickstart"


def test_evaluation_counts_each_image_once_and_equals_that_of_one_process(uninterrupted, in_repository):
    folder, settings = uninterrupted, [word for word in SETTINGS if "callbacks" not in word]
    assert json.loads((folder / "metrics.json").read_text())["step"] == 6
    cli_main(["validate", "--config", "configs/quickstart.yaml", "--runs", str(folder.parent), *settings])
    alone, together = (json.loads((folder / name / "metrics.json").read_text()) for name in ("validate", "."))
    assert alone.pop("checkpoint") == str(folder / "checkpoints" / "last.ckpt")
    assert alone == pytest.approx(together, rel=1e-5, abs=1e-6)
    assert losses_in(folder) == pytest.approx(mean_losses(folder, 5), rel=1e-5)
    (rows, numbers), (rows_alone, numbers_alone) = predictions_in(folder), predictions_in(folder / "validate")
    assert rows == rows_alone
    assert numbers == pytest.approx(numbers_alone, rel=1e-4, abs=1e-4)


def test_a_process_that_dies_ends_the_run_and_the_other_launcher_goes_on_exactly(uninterrupted, tmp_path):
    dies = {"class_path": "tests.test_distributed_runs.Dies", "init_args": {"rank": 1, "step": 4}}
    code, said = under_slurm(tmp_path, shlex.quote(f"--trainer.callbacks+={json.dumps(dies)}"))
    assert code != 0
    assert "by peer" in said
    assert "Another process of this training has ended" in said
    last = tmp_path / "quickstart" / "checkpoints" / "last.ckpt"
    step = read_checkpoint(last)["global_step"]
    assert step in (3, 4)
    assert f"{last} holds the run up to step {step}. Go on from there with" in said
    for host in on_two_hosts(tmp_path):
        assert host[0] == 0, host[1]
    assert differences(outcome(uninterrupted), outcome(tmp_path / "quickstart")) == []


def terminates(**arguments):
    """Settings for SIGTERM at a step; otherwise no checkpoint is due there."""
    callback = {"class_path": "tests.test_distributed_runs.Terminates", "init_args": arguments}
    return f"--trainer.callbacks+={json.dumps(callback)}", "--checkpoint_every=100"


def require_stopped(folder, said, step):
    """The run says that it was told to stop, what is on disk, and how to go on; and that is on disk."""
    last = folder / "quickstart" / "checkpoints" / "last.ckpt"
    assert "SIGTERM: stopping after this step" in said
    assert f"{last} holds the run up to step {step}. Go on from there with" in said
    assert read_checkpoint(last)["global_step"] == step


def test_sigterm_to_one_process_to_the_launcher_or_to_all_ends_in_a_checkpoint_that_goes_on_exactly(
    uninterrupted, tmp_path
):
    folders = [tmp_path, tmp_path]
    (code, first), (_, second) = two_processes(as_by_torchrun, folders, *terminates(step=1, ranks=[1]))
    assert code == 128 + signal.SIGTERM, first
    require_stopped(tmp_path, first + second, 1)
    code, said = on_one_host(tmp_path, *terminates(step=2, ranks=[0, 1], launcher=True))  # the second gets it twice
    assert code != 0
    require_stopped(tmp_path, said, 2)
    (code, first), _ = two_processes(as_by_slurm, folders, "--resume", *terminates(step=4, ranks=[0, 1]))
    assert code == 128 + signal.SIGTERM, first
    require_stopped(tmp_path, first, 4)
    for code, said in two_processes(as_by_torchrun, folders, "--resume"):
        assert code == 0, said
    assert differences(outcome(uninterrupted), outcome(tmp_path / "quickstart")) == []


def test_sigterm_to_one_process_before_the_first_step_ends_them_all(tmp_path):
    settings = *terminates(step=0, ranks=[1]), "--trainer.num_sanity_val_steps=1"
    (code, first), (other, second) = two_processes(as_by_torchrun, [tmp_path, tmp_path], *settings)
    assert (code, other) == (128 + signal.SIGTERM, 0), first + second
    assert "No checkpoint was written yet. Begin again with\n  torchrun ... tools/train.py fit" in first
    assert not list(tmp_path.rglob("*.ckpt"))


def test_hosts_that_do_not_see_the_same_checkpoint_do_not_train_together(uninterrupted, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    shutil.copytree(uninterrupted, folders[0] / "quickstart")
    folders[1].mkdir()
    for folder, (code, said) in zip(
        folders, two_processes(as_by_slurm, folders, "--resume", "--trainer.max_epochs=3"), strict=True
    ):
        assert code == 1, said
        last = folder / "quickstart" / "checkpoints" / "last.ckpt"
        assert f"different steps, 6, 0 in the order of their ranks: all hosts must see {last}" in said
