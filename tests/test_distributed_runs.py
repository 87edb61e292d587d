"""Trainings of two processes, started as docs/distributed.md says: to the end, until one dies, and on from there."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest

from detmix.training import cli_main
from detmix.training.checkpoints import read_checkpoint

from .test_training import TINY, losses_in, mean_losses, predictions_in
from .test_training_resume import differences, outcome

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
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


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
        ), Path(output.name)


def ends(started):
    process, output = started
    try:
        return process.wait(timeout=400), output.read_text()
    finally:
        process.kill()


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
    variables = {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_ID": "1234"}
    variables |= {"SLURM_JOB_NAME": "bccd", "SLURM_NODELIST": "localhost", "MASTER_PORT": str(free_port())}
    command = " ".join([recipe("#!/bin/bash"), *more])
    return ends(start(command, folder, CORES, **variables))


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
    assert {n: alone[n] for n in alone if n not in ("epoch", "step")} == pytest.approx(
        {n: together[n] for n in together if n not in ("epoch", "step")}, rel=1e-5, abs=1e-6
    )
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
