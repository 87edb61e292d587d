"""A sweep from beginning to end, or from where it was left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from ..files import write_text
from ..training.signals import StopRequests
from .outcome import Outcome, States
from .plan import CONFIG, Plan
from .queue import Queue
from .results import write_results
from .tables import in_a_line, progress_table, result_tables
from .workers import Workers

_LOOK = 0.5  # seconds between two looks at the runs


class Interrupted(Exception):
    """The sweep was told to stop by a signal; its message says how to go on.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def run_sweep(
    plan: Plan, folder: Path, *, train: Sequence[str], command: str, jobs: int = 1, retry: bool = False
) -> tuple[Group, States]:
    """Train every arm with every seed that nobody has trained yet, and write what came out.

    Other processes may do the same in the same folder at the same time; they share the runs. A run that fails is
    recorded with its last lines, and the others go on.

    Args:
        plan: the sweep.
        folder: where everything is kept: ``sweep.journal`` (Optuna's), ``runs``, ``logs``, and the results
            ``sweep.csv``, ``sweep.json`` and ``sweep.html``.
        train: the command of the trainer, ``[python, tools/train.py]``.
        command: that does this sweep, for the page.
        jobs: how many runs at a time; they share the cores.
        retry: do failed runs again.

    Returns:
        Tables and sentences for the terminal, and how each run ended.

    Raises:
        ValueError: jobs is below 1, the folder holds another sweep, or a run that has finished lacks one of the
            measures.
        OSError: the disk is full or cannot be written.
        Interrupted: SIGINT or SIGTERM came; trainings have stopped with a checkpoint each.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    queue = Queue(folder, plan, retry=retry)
    write_text(folder / CONFIG, plan.text)
    requests = StopRequests()
    requests.listen()
    try:
        workers = Workers(queue, plan, folder, train, jobs, requests)
        try:
            _watch(workers, command)
        except Exception:
            workers.stop()
            workers.join()
            raise
    finally:
        requests.restore()
    states = queue.states()
    comparisons = write_results(folder, plan, states, command)
    if workers.errors:
        raise workers.errors[0]
    if requests.received is not None:
        raise Interrupted(f"Stopped. The same command goes on:\n{command}", requests.received)
    return Group(*result_tables(comparisons), escape(f"See {folder / 'sweep.html'}")), states


def _watch(workers: Workers, command: str) -> None:
    """Show how far the runs are until the workers have ended, and write the results whenever one has finished."""
    queue, plan = workers.queue, workers.plan
    done = {pair for pair, state in queue.states().items() if isinstance(state, Outcome)}
    busy = True
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        while busy:
            busy = workers.busy
            if workers.requests.received is not None:
                workers.stop()
            states = queue.states()
            new = {pair: state for pair, state in states.items() if isinstance(state, Outcome) and pair not in done}
            for pair, outcome in new.items():
                live.console.print(
                    in_a_line(*pair, outcome, plan.measures), markup=False, highlight=False, soft_wrap=True
                )
            live.update(progress_table(plan, states, workers.jobs), refresh=True)
            if new and busy:
                done |= new.keys()
                try:
                    write_results(workers.folder, plan, states, command)
                except Exception as error:  # there will be another page
                    live.console.print(f"Warning: the results were not written: {error!r}", markup=False)
            time.sleep(_LOOK if busy else 0)
