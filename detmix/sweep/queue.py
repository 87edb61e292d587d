"""The runs of a sweep in a folder that processes and hosts share: an Optuna study in a journal file.

Every run is put in once, taken by one process at a time, and told once. A process holds a run by a lock on a file,
which its training inherits: the system lets go of it when both are gone, however they went. Locks of another host may
not be seen; its runs are given up when their files have not been touched for ten minutes.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages.journal import JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from .journal import look_at_study, mend, open_study
from .outcome import Outcome, States, judged
from .plan import Pair, Plan

_JOURNAL = "sweep.journal"
_GRACE = 600  # seconds after which a run of another host is given up
_STATES = {TrialState.WAITING: "waiting", TrialState.RUNNING: "running"}


@dataclass(eq=False)
class Taken:
    """A run that this process has taken.

    Attributes:
        arm: name of the arm.
        seed: of the run.
        before: seconds that earlier attempts took, as far as there were signs of life.
        lock: open as long as the run is held; the training inherits it.
    """

    arm: str
    seed: int
    before: float
    lock: IO[bytes]
    trial: Trial

    def touch(self) -> None:
        """Tell other hosts that the run is going on."""
        os.utime(self.lock.fileno())

    def let_go(self) -> None:
        """Leave the run as it is, for whoever takes it up again."""
        self.lock.close()


class Queue:
    """The runs of a sweep, and what came of them."""

    def __init__(self, folder: Path, plan: Plan, *, retry: bool = False) -> None:
        """Open the queue, and put in what is not there yet.

        Args:
            folder: of the sweep; it is made if need be.
            plan: the sweep.
            retry: put runs in again that have failed.

        Raises:
            ValueError: the folder holds another sweep; what differs is told. Or its journal is damaged, or a run that
                has finished lacks one of the plan's measures.
            OSError: the folder cannot be written.
        """
        self._folder, self._measures = folder, plan.measures
        (folder / "running").mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._study = open_study(folder / _JOURNAL)
            if "definition" not in self._study.user_attrs:
                self._study.set_user_attr("definition", plan.definition())
            _require_same(self._study, folder, plan)
            self._put_in(plan.pairs, retry)

    def states(self) -> States:
        """For each run ``waiting``, ``running``, or its outcome by the plan's measures.

        Raises:
            ValueError: a run has finished and lacks one of them.
        """
        return judged(_states(self._study), self._measures)

    @property
    def unfinished(self) -> bool:
        """Whether any run is waiting or running."""
        return bool(self._trials(*_STATES))

    def take(self) -> Taken | None:
        """The next run, one that was given up before one that nobody has begun; None if there is none to take."""
        with self._locked():
            for trial in self._trials(TrialState.RUNNING):
                held = self._hold(trial)
                if held is not None:
                    return self._taken(Trial(self._study, trial._trial_id), held)
            if not self._trials(TrialState.WAITING):
                return None
            begun = self._study.ask()
            held = self._hold(begun)
            assert held is not None
            return self._taken(begun, held)

    def tell(self, taken: Taken, outcome: Outcome) -> None:
        """Record what came of a run; nothing happens if another process, which thought it was given up, has done so."""
        with self._locked(), suppress(optuna.exceptions.UpdateFinishedTrialError):
            taken.trial.set_user_attr("outcome", asdict(outcome))
            value = outcome.metrics.get(self._measures[0])  # for Optuna's own tools: here the outcome is read
            state = TrialState.FAIL if value is None else None
            self._study.tell(taken.trial, value, state, skip_if_finished=True)
        taken.let_go()
        (self._folder / "running" / str(taken.trial.number)).unlink(missing_ok=True)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _taken(self, trial: Trial, held: IO[bytes]) -> Taken:
        given_up = os.fstat(held.fileno()).st_mtime
        last = max(0.0, given_up - trial.user_attrs.get("begun", given_up))
        before = trial.user_attrs.get("before", 0.0) + last
        here = {"host": socket.gethostname(), "pid": os.getpid(), "before": before, "begun": time.time()}
        for name, value in here.items():
            trial.set_user_attr(name, value)
        os.utime(held.fileno())
        return Taken(*_pair(trial), before, held, trial)

    def _hold(self, trial: FrozenTrial | Trial) -> IO[bytes] | None:
        """The open lock file of a run, or None if another process holds it."""
        file = (self._folder / "running" / str(trial.number)).open("ab")
        silent = time.time() - os.fstat(file.fileno()).st_mtime
        elsewhere = trial.user_attrs.get("host", socket.gethostname()) != socket.gethostname()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            said = f"{error.strerror}: a sweep needs a file system with locks (flock), give it --output on another one"
            raise OSError(error.errno, said, file.name) from error
        if elsewhere and silent < _GRACE:
            file.close()
            return None
        return file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process and thread at a time, on all hosts, writes to the journal, and behind whole lines only."""
        lock = JournalFileOpenLock(str(self._folder / "queue"))
        lock.acquire()
        try:
            mend(self._folder / _JOURNAL)
            yield
        finally:
            lock.release()

    def _put_in(self, pairs: Sequence[Pair], retry: bool) -> None:
        there = self.states()
        for arm, seed in pairs:
            state = there.get((arm, seed))
            if state is None or (retry and _failed(state)):
                before = state.seconds if isinstance(state, Outcome) else 0.0
                self._study.enqueue_trial({}, user_attrs={"arm": arm, "seed": seed, "before": before})


def look_into(folder: Path, plan: Plan, *, retry: bool = False) -> States:
    """The states of a sweep's runs, without writing anything; all wait where the folder holds no sweep.

    Args:
        folder: of the sweep.
        plan: the sweep.
        retry: runs that have failed wait too.

    Raises:
        ValueError: the folder holds another sweep; what differs is told. Or its journal is damaged, or a run that has
            finished lacks one of the plan's measures.
    """
    there: States = {}
    study = look_at_study(folder / _JOURNAL)
    if "definition" in study.user_attrs:
        _require_same(study, folder, plan)
        states = judged(_states(study), plan.measures)
        there = {pair: state for pair, state in states.items() if not (retry and _failed(state))}
    return {pair: "waiting" for pair in plan.pairs} | there


def _require_same(study: optuna.Study, folder: Path, plan: Plan) -> None:
    kept, here = study.user_attrs.get("definition", {}), plan.definition()
    there = {key: kept[key] for key in here if key in kept}
    if there != here or list(there["arms"]) != list(here["arms"]):  # folders of runs hold the place of their arm
        raise ValueError(
            f"{folder} holds another sweep: {_difference(there, here)}. Pass another --output, or the same "
            "config and arms to go on"
        )


def _states(study: optuna.Study) -> States:
    return {_pair(trial): _state(trial) for trial in study.get_trials(deepcopy=False)}


def _pair(trial: FrozenTrial | Trial) -> Pair:
    return trial.user_attrs["arm"], trial.user_attrs["seed"]


def _failed(state: str | Outcome) -> bool:
    return isinstance(state, Outcome) and not state.finished


def _state(trial: FrozenTrial) -> str | Outcome:
    return _STATES.get(trial.state) or Outcome(**trial.user_attrs["outcome"])


def _difference(there: Mapping[str, Any], here: Mapping[str, Any], path: str = "") -> str:
    """The first setting that differs, with both values."""
    for key in {**there, **here}:
        one, other = there.get(key), here.get(key)
        name = f"{path}{key}"
        if isinstance(one, dict) and isinstance(other, dict) and one != other:
            return _difference(one, other, f"{name}: ")
        if one != other or (key in there) != (key in here):
            return f"{name} is {_told(there, key)} there, and {_told(here, key)} here"
    return "its arms come in another order"


def _told(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "missing"
