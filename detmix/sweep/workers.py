"""The runs of a sweep, each a process of the trainer, several at a time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..machine import describe, machine
from ..training.signals import StopRequests
from .outcome import KILLED, last_lines, outcome_of
from .plan import CONFIG, Plan
from .queue import Queue, Taken

_LEAST_FREE = 256 * 2**20  # bytes on the disk, below which no run is begun
_TOUCH = 30.0  # seconds between two signs of life
_MOMENT = 5.0  # seconds in which a signal to all processes reaches the last of them


@dataclass
class Workers:
    """Threads that take runs and train them one after the other, until none is left or they are stopped.

    Attributes:
        queue: the runs.
        plan: what they are.
        folder: of the sweep; runs go to ``runs``, what they print to ``logs``.
        train: the command of the trainer, ``[python, tools/train.py]``.
        jobs: how many runs at a time; they share the cores.
        requests: to stop; heeded also before :meth:`stop` is called.
        wait: seconds between two looks for a run that another process gave up.
        errors: what ended a worker early, such as a full disk.
    """

    queue: Queue
    plan: Plan
    folder: Path
    train: Sequence[str]
    jobs: int
    requests: StopRequests
    wait: float = 1.0
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._held: dict[Taken, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(self.jobs)
        ]
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether a worker is still at it."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End the trainings with a checkpoint each; their runs are left for whoever takes them up again."""
        if self._stop.is_set():
            return
        self._stop.set()
        for training in list(self._held.values()):
            training.terminate()

    def join(self) -> None:
        """Wait until all workers have ended."""
        for thread in self._threads:
            thread.join()

    @property
    def _stopping(self) -> bool:
        return self._stop.is_set() or self.requests.received is not None

    def _work(self, number: int) -> None:
        try:
            _take_share(number, self.jobs)
            while not self._stopping and self.queue.unfinished:
                self._require_space()
                taken = self.queue.take()
                if taken is None:  # all are running; one may be given up
                    self._stop.wait(self.wait)
                else:
                    self._train(taken)
        except BaseException as error:
            self.errors.append(error)
            self.stop()

    def _train(self, taken: Taken) -> None:
        name, runs = self.plan.folder(taken.arm, taken.seed), self.folder / "runs"
        log = self.folder / "logs" / f"{name}.txt"
        command = [
            *self.train,
            "fit",
            *self.plan.arguments(taken.arm, self.folder / CONFIG),
            f"--seed_everything={taken.seed}",
            f"--name={name}",
        ]
        command += [f"--runs={runs}", "--resume", "--trainer.enable_progress_bar=false"]
        begin, start = log.stat().st_size if log.exists() else 0, time.monotonic()
        try:
            code = self._run(taken, command, log)
            seconds = taken.before + time.monotonic() - start
            if code in KILLED:
                self._stop.wait(_MOMENT)  # the signal may be for this process too
            if code == 0 or not self._stopping:
                lines = last_lines(log, begin)
                outcome = outcome_of(code, runs, name, lines, seconds, socket.gethostname())
                self.queue.tell(taken, replace(outcome, machine=describe(machine())))
        finally:
            taken.let_go()

    def _run(self, taken: Taken, command: Sequence[str], log: Path) -> int:
        with log.open("ab") as output:
            training = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[taken.lock.fileno()],
                start_new_session=True,  # Ctrl-C reaches the sweep, which stops its trainings in good order
            )
            self._held[taken] = training
            try:
                if self._stop.is_set():
                    training.terminate()
                while True:
                    try:
                        return training.wait(_TOUCH)
                    except subprocess.TimeoutExpired:
                        taken.touch()
            finally:
                taken.touch()
                del self._held[taken]

    def _require_space(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < _LEAST_FREE:
            least = _LEAST_FREE // 2**20
            raise OSError(f"{self.folder}: the disk is full: a run needs {least} MiB, {free // 2**20} MiB are free")


def _take_share(number: int, jobs: int) -> None:
    """Bind this thread, and so the trainings that it starts, to its share of the cores.

    The trainer takes as many threads as it may use cores. Where the system cannot bind, as on macOS, each takes all.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number::jobs] or [cores[number % len(cores)]])
