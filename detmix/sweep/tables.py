"""What the terminal shows of a sweep, before, during and after, and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from statistics import median

from rich.markup import escape
from rich.table import Table

from ..terminal import table_of
from .outcome import FINISHED, Outcome
from .plan import Pair, Plan
from .statistics import MEASURES, Comparison, Gain, Interval, Level, compare_arms

COLUMNS = ("seeds", "mean", "spread", "difference", "95 % interval", "by bootstrap")
"""Headings of ``level_cells``."""

_COUNTED = ("waiting", "running", FINISHED, "failed")


def plan_table(plan: Plan, states: Mapping[Pair, str | Outcome], jobs: int) -> Table:
    """What would be run: the settings of each arm, its runs by state, and the time that is left."""
    table = table_of(f"{plan.config}: {len(plan.arms)} arms, {plan.seeds} seeds", ["arm", "settings"], _COUNTED)
    for arm, settings in plan.arms.items():
        told = "\n".join(f"--{key}={text}" for key, text in settings.items()) or "those of the config"
        table.add_row(_name(plan, arm), escape(told), *map(str, _counts(states, arm).values()))
    table.caption = _time_left(plan, states, jobs)
    return table


def progress_table(plan: Plan, states: Mapping[Pair, str | Outcome], jobs: int) -> Table:
    """How far each arm is, and its numbers so far."""
    table = table_of(str(plan.config), ["arm"], [*_COUNTED, *MEASURES, f"{MEASURES[0]} gain"])
    comparisons = [comparison for comparison in compare_arms(plan, states) if comparison.factor == "arm"]
    for levels in zip(*(comparison.levels for comparison in comparisons), strict=True):
        numbers = [f"{100 * level.mean:.1f}" if level.values else "-" for level in levels]
        arm = levels[0].name
        table.add_row(_name(plan, arm), *map(str, _counts(states, arm).values()), *numbers, _signed(levels[0].gain))
    table.caption = _time_left(plan, states, jobs)
    return table


def result_table(comparison: Comparison) -> Table:
    """Means, spreads and differences to the baseline, in percent and points."""
    table = table_of(f"{comparison.measure} in percent, by {comparison.factor}", [comparison.factor], COLUMNS)
    for level in comparison.levels:
        table.add_row(escape(level.name), *level_cells(level))
    return table


def level_cells(level: Level) -> list[str]:
    """The numbers of a level as text: seeds, mean, spread, difference and its two intervals."""
    numbers = [f"{100 * number:.1f}" if number == number else "-" for number in (level.mean, level.spread)]
    intervals = (level.gain.t, level.gain.bootstrap) if level.gain else (None, None)
    return [str(len(level.values)), *numbers, _signed(level.gain), *map(_interval, intervals)]


def in_a_line(arm: str, seed: int, outcome: Outcome) -> str:
    """One run in a line."""
    numbers = ", ".join(f"{measure} {100 * outcome.metrics[measure]:.1f}" for measure in MEASURES if outcome.metrics)
    last = numbers or (outcome.lines[-1] if outcome.lines else "no output")
    return f"{arm}, seed {seed}: {outcome.kind} after {duration(outcome.seconds)}: {last}"


def seconds_left(plan: Plan, states: Mapping[Pair, str | Outcome], jobs: int) -> float | None:
    """How long the runs will take that have not finished, from those that have; None where none has."""
    known: dict[str, list[float]] = {arm: [] for arm in plan.arms}
    for (arm, _), state in states.items():
        if isinstance(state, Outcome) and state.kind == FINISHED:
            known[arm].append(state.seconds)
    every = [seconds for of_arm in known.values() for seconds in of_arm]
    if not every:
        return None
    return sum(median(known[arm] or every) for (arm, _), state in states.items() if isinstance(state, str)) / jobs


def _time_left(plan: Plan, states: Mapping[Pair, str | Outcome], jobs: int) -> str:
    seconds = seconds_left(plan, states, jobs)
    if all(not isinstance(state, str) for state in states.values()):
        return "All runs are done."
    at_once = f"with {jobs} at a time" if jobs > 1 else "one at a time"
    if seconds is None:
        return f"Time left is unknown until a run has finished ({at_once})."
    return f"About {duration(seconds)} left, {at_once}."


def _counts(states: Mapping[Pair, str | Outcome], arm: str) -> dict[str, int]:
    counts = dict.fromkeys(_COUNTED, 0)
    for (name, _), state in states.items():
        if name == arm:
            kind = state.kind if isinstance(state, Outcome) else state
            counts[kind if kind in counts else "failed"] += 1
    return counts


def _name(plan: Plan, arm: str) -> str:
    return escape(arm) + (" (baseline)" if arm == plan.baseline else "")


def _signed(gain: Gain | None) -> str:
    return "-" if gain is None else f"{100 * gain.mean:+.1f}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
