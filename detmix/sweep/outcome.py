"""What came of a run: its numbers, or why there are none."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from ..evaluation import NO_OBJECTS
from ..training.accuracies import listed
from .plan import Pair

FINISHED = "finished"
_NO_NUMBERS = "nothing to measure"

_LINES = 20  # of a log that are kept
_BYTES = 16_384  # of a log that are read for them at most
_CAUSES = {
    "diverged": ("the loss is not finite", "holds values that are not finite", "FloatingPointError"),
    "out of memory": ("Out of memory on the device", "OutOfMemoryError", "MemoryError", "Cannot allocate memory"),
    "disk full": ("No space left on device", "Disk quota exceeded"),
}

_ERROR = re.compile(r"^\s*(?:[\w.]*(?:Error|Exception)|error): ")  # as Python and the trainer begin the line that tells

_HANDLED = ("During handling of the above", "The above exception was")

_SIGNALS = (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
KILLED = {code for number in _SIGNALS for code in (-number, 128 + number)}  # the second by the trainer itself

_KILLED_OUTRIGHT = (-signal.SIGKILL, 128 + signal.SIGKILL)


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        kind: ``finished``, ``nothing to measure`` (it ended well, and its validation images have no such objects),
            ``diverged``, ``out of memory``, ``disk full``, ``killed`` or ``crashed``.
        seconds: how long it took, all attempts together.
        metrics: the numbers in its ``metrics.json``; empty unless it finished.
        host: where it ran.
        lines: the last of its log; empty if it finished.
        machine: that one and its packages, in a line; empty until it is told.
    """

    kind: str
    seconds: float
    metrics: dict[str, float]
    host: str
    lines: list[str]
    machine: str = ""

    @property
    def finished(self) -> bool:
        """Whether there are numbers of it."""
        return self.kind == FINISHED

    @property
    def cause(self) -> str:
        """The line that tells why it failed: the last error of its log, or its last line where there is none."""
        signs = [sign for of_kind in _CAUSES.values() for sign in of_kind]
        last = self.lines[-1] if self.lines else "no output"
        for line, after in zip(reversed(self.lines), [None, *reversed(self.lines)], strict=False):
            if line.startswith(_HANDLED):  # what stands before it was an error that the last one followed upon
                return last
            if _ERROR.match(line) or any(sign in line for sign in signs):
                return f"{line} {after.strip()}" if after and line.endswith(":") else line
        return last


States: TypeAlias = dict[Pair, str | Outcome]  # of each run: "waiting", "running" or what came of it


def outcome_of(code: int, runs: Path, name: str, lines: list[str], seconds: float, host: str) -> Outcome:
    """What came of a training process that has ended.

    Args:
        code: its exit code; minus the signal that ended it.
        runs: folder of all runs.
        name: of the run; where nothing is mixed, the trainer adds ``_nomix``.
        lines: the last that it printed.
        seconds: how long it took.
        host: where it ran.
    """
    if code == 0:
        metrics = _metrics(runs, name)
        if metrics is not None and math.isfinite(metrics["AP"]):
            return Outcome(FINISHED, seconds, metrics, host, [])
        lines = [*lines, f"It ended without a metrics.json with AP and AP50 in {runs / name}."]
    if code in _KILLED_OUTRIGHT:
        lines = [*lines, "It was killed outright (SIGKILL), as systems do when memory runs out."]
    return Outcome(_kind(code, lines), seconds, {}, host, lines)


def judged(states: States, measures: Sequence[str]) -> States:
    """The states by some of the numbers: a run that has COCO's mark for no objects in one had nothing to measure.

    Args:
        states: of the runs, as they have ended; all that they measured is kept there, whatever is asked for now.
        measures: names of the numbers.

    Raises:
        ValueError: a run has finished and has no such number; it is named, and those that it has are told.
    """
    return {pair: _judged(pair, state, measures) for pair, state in states.items()}


def _judged(pair: Pair, state: str | Outcome, measures: Sequence[str]) -> str | Outcome:
    if isinstance(state, str) or not state.finished:
        return state
    for measure in measures:
        if measure not in state.metrics:
            raise ValueError(
                f"{pair[0]} with seed {pair[1]} has finished and has no {measure}: its metrics.json has "
                f"{listed(state.metrics)}. The same command with other --measures goes on, and trains nothing again"
            )
    unmeasured = [measure for measure in measures if state.metrics[measure] == NO_OBJECTS]
    if not unmeasured:
        return state
    told = f"No object is annotated in the validation images by which to measure {', '.join(unmeasured)}: choose "
    return replace(state, kind=_NO_NUMBERS, metrics={}, lines=[told + "another data.val, or other --measures."])


def last_lines(log: Path, begin: int = 0) -> list[str]:
    """The last lines of a log that have anything in them, from a byte on: that where an attempt began."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, 2) - _BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-_LINES:]


def _kind(code: int, lines: list[str]) -> str:
    text = "\n".join(lines)
    causes = (kind for kind, signs in _CAUSES.items() if any(sign in text for sign in signs))
    killed = "killed" if code in KILLED else "crashed"
    return next(causes, killed)


def _metrics(runs: Path, name: str) -> dict[str, float] | None:
    for folder in (runs / name, runs / f"{name}_nomix"):
        try:
            content = json.loads((folder / "metrics.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and {"AP", "AP50"} <= content.keys():
            return content
    return None
