"""What the terminal shows of a sweep, before, during and after, and how long it may take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from statistics import median

from rich.markup import escape
from rich.table import Table

from ..terminal import table_of
from .estimate import Estimate
from .outcome import FINISHED, Outcome, States
from .plan import Plan
from .statistics import ARMS, Gain, Interval, Level, LevelComparison, compare_arms, luck

_COUNTED = ("waiting", "running", FINISHED, "failed")


def plan_table(plan: Plan, states: States, jobs: int, estimate: Estimate | None = None) -> Table:
    """What would be run: the settings of each arm, its runs by state, and the time that is left.

    Args:
        plan: the sweep.
        states: its runs.
        jobs: how many at a time.
        estimate: of a run, for the time where no run has finished.
    """
    title = f"{plan.config}: {len(plan.arms)} arms, {plan.seeds} seeds, compared by {', '.join(plan.measures)}"
    table = table_of(escape(title), ["arm", "settings"], _COUNTED)
    for arm, settings in plan.arms.items():
        told = "\n".join(f"--{key}={text}" for key, text in settings.items()) or "those of the config"
        table.add_row(escape(_name(arm, plan.baseline)), escape(told), *map(str, _counts(states, arm).values()))
    table.caption = _time_left(plan, states, jobs, estimate)
    return table


def progress_table(plan: Plan, states: States, jobs: int) -> Table:
    """How far each arm is, and its numbers so far."""
    measures = map(escape, (*plan.measures, f"{plan.measures[0]} gain"))
    table = table_of(escape(str(plan.config)), ["arm"], [*_COUNTED, *measures])
    comparisons = [comparison for comparison in compare_arms(plan, states) if comparison.factor == ARMS]
    for levels in zip(*(comparison.levels for comparison in comparisons), strict=True):
        numbers = [f"{100 * level.mean:.1f}" if level.values else "-" for level in levels]
        arm = levels[0].name
        name, counts = escape(_name(arm, plan.baseline)), map(str, _counts(states, arm).values())
        table.add_row(name, *counts, *numbers, _signed(levels[0].gain))
    table.caption = _time_left(plan, states, jobs)
    return table


def result_tables(comparisons: Sequence[LevelComparison]) -> list[Table | str]:
    """What came out: for each comparison its tables and its sentence, and last how much luck there may be in them."""
    shown: list[Table | str] = []
    for one in comparisons:
        title = escape(f"{one.measure} in percent, by {one.factor}")
        shown.append(_filled(table_of(title, [one.factor], columns(one)), level_rows(one)))
        shown.append(f"[bold]{escape(one.in_words())}[/bold]")
        if one.pairs:
            pairs = table_of(
                escape(f"{one.measure}, the others"), [one.factor, "minus"], ["difference", "95 % interval"]
            )
            shown.append(_filled(pairs, pair_rows(one)))
    return [*shown, luck(comparisons)]


def columns(comparison: LevelComparison) -> list[str]:
    """Headings of ``level_rows``, without that of the names."""
    last = "by bootstrap" if comparison.resampled else "range of seeds"
    return ["seeds", "mean", "spread", "difference", "95 % interval", last]


def level_rows(comparison: LevelComparison) -> list[list[str]]:
    """Each level: its name and ``level_cells``."""
    return [
        [_name(level.name, comparison.baseline), *level_cells(level, comparison.resampled)]
        for level in comparison.levels
    ]


def level_cells(level: Level, resampled: bool) -> list[str]:
    """The numbers of a level as text: seeds, mean, spread, difference, its interval by Student's t, and another.

    Args:
        level: whose numbers.
        resampled: whether the last is the interval by bootstrap, and not the range of the differences.
    """
    numbers = [f"{100 * number:.1f}" if number == number else "-" for number in (level.mean, level.spread)]
    gain = level.gain
    intervals = (gain.t, gain.bootstrap if resampled else gain.range) if gain else (None, None)
    return [level.counted, *numbers, _signed(level.gain), *map(_interval, intervals)]


def pair_rows(comparison: LevelComparison) -> list[list[str]]:
    """The others among themselves, a row for each pair, which fits a terminal: two names, difference and interval."""
    return [[*pair, _signed(gain), _interval(gain.t if gain else None)] for pair, gain in comparison.pairs.items()]


def pair_table(comparison: LevelComparison) -> tuple[list[str], list[list[str]]]:
    """The others among themselves, row minus column: headings without that of the names, and rows with theirs."""
    pairs = comparison.pairs
    headings = list(dict.fromkeys(earlier for _, earlier in pairs))
    names = dict.fromkeys(later for later, _ in pairs)
    cells = {pair: f"{_signed(gain)} ({_interval(gain.t)})" if gain else "-" for pair, gain in pairs.items()}
    return headings, [[name, *(cells.get((name, heading), "") for heading in headings)] for name in names]


def in_a_line(arm: str, seed: int, outcome: Outcome, measures: Sequence[str]) -> str:
    """One run in a line."""
    numbers = ", ".join(f"{measure} {100 * outcome.metrics[measure]:.1f}" for measure in measures if outcome.metrics)
    return f"{arm}, seed {seed}: {outcome.kind} after {duration(outcome.seconds)}: {numbers or outcome.cause}"


def seconds_left(plan: Plan, states: States, jobs: int) -> float | None:
    """How long the runs will take that have not finished, from those that have; None where none has."""
    known: dict[str, list[float]] = {arm: [] for arm in plan.arms}
    for (arm, _), state in states.items():
        if isinstance(state, Outcome) and state.finished:
            known[arm].append(state.seconds)
    every = [seconds for of_arm in known.values() for seconds in of_arm]
    if not every:
        return None
    left = [median(known[arm] or every) for (arm, _), state in states.items() if isinstance(state, str)]
    return max(sum(left) / jobs, max(left, default=0.0))


def _time_left(plan: Plan, states: States, jobs: int, estimate: Estimate | None = None) -> str:
    left = sum(isinstance(state, str) for state in states.values())
    if not left:
        return "All runs are done."
    at_once = f"with {jobs} at a time" if jobs > 1 else "one at a time"
    seconds = seconds_left(plan, states, jobs)
    if seconds is not None:
        return f"About {duration(seconds)} left, {at_once}."
    if estimate is None or estimate.seconds is None:
        return f"Time left is unknown until a run has finished ({at_once})."
    return (
        f"About {duration(left * estimate.seconds)} left, one at a time: the first batches of {escape(estimate.arm)} "
        f"were tried, and a run of it would take {duration(estimate.seconds)}. Several at a time share the cores."
    )


def _counts(states: States, arm: str) -> dict[str, int]:
    counts = dict.fromkeys(_COUNTED, 0)
    for (name, _), state in states.items():
        if name == arm:
            kind = state.kind if isinstance(state, Outcome) else state
            counts[kind if kind in counts else "failed"] += 1
    return counts


def _filled(table: Table, rows: Sequence[Sequence[str]]) -> Table:
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _name(level: str, baseline: str) -> str:
    return level + (" (baseline)" if level == baseline else "")


def _signed(gain: Gain | None) -> str:
    return "-" if gain is None else f"{100 * gain.mean:+.1f}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
