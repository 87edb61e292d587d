"""Arms against the baseline, seed by seed: what helped, by how much, how sure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from statistics import fmean, stdev
from typing import TypeAlias

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from .outcome import Outcome, States
from .plan import Plan, short_names

Interval: TypeAlias = tuple[float, float]
Values: TypeAlias = dict[str, dict[int, float]]  # by level, then by seed
Failures: TypeAlias = dict[str, dict[int, str]]  # by level, then by seed: the kind of outcome

CONFIDENCE = 0.95
ARMS = "arm"  # the factor of a comparison of arms
_RESAMPLES = 10_000
_FEWEST = 6  # seeds; the means of fewer, resampled, have little but the range of what was seen
_MOST = 8  # levels of which every pair is compared


@dataclass(frozen=True)
class Gain:
    """A level's difference to the baseline on the seeds that both have, in the unit of the measure.

    Attributes:
        differences: level minus baseline, by seed.
        mean: of the differences.
        t: 95 % interval of the mean by Student's t, which takes the differences as normal; None for one seed.
        bootstrap: 95 % percentile interval of the mean of resampled differences, which assumes less; None for fewer
            than six seeds, of which it is little but the range.
    """

    differences: dict[int, float]
    mean: float
    t: Interval | None
    bootstrap: Interval | None

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the t interval."""
        return self.t is not None and (self.t[0] > 0 or self.t[1] < 0)

    @property
    def range(self) -> Interval | None:
        """The least and the greatest difference; None for one seed."""
        seen = self.differences.values()
        return (min(seen), max(seen)) if len(seen) > 1 else None


@dataclass(frozen=True)
class Level:
    """An arm, or a value of a factor.

    Attributes:
        name: what it is called.
        values: the measure by seed; of a factor's value the mean over the other factors.
        gain: against the baseline; None for that itself, and where they share no seed.
        failed: what became of runs that failed, by seed; of a factor's value, one for each seed.
    """

    name: str
    values: dict[int, float]
    gain: Gain | None
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over the seeds, NaN where there is none."""
        return fmean(self.values.values()) if self.values else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds, NaN below two."""
        return stdev(self.values.values()) if len(self.values) > 1 else float("nan")

    @property
    def counted(self) -> str:
        """How many seeds there are numbers of: ``3``, or ``2 of 3`` where others failed."""
        count = len(self.values)
        return f"{count} of {count + len(self.failed)}" if self.failed else str(count)

    @property
    def losses(self) -> str:
        """How many seeds are left and what became of the others: ``2 of 3 seeds, 1 diverged``; empty if none failed."""
        if not self.failed:
            return ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(self.failed.values()).items())
        return f"{self.counted} seeds, {kinds}"


@dataclass(frozen=True)
class LevelComparison:
    """The levels of a factor, or all arms, by one measure.

    Attributes:
        factor: key of the setting, or ``arm``.
        measure: name of the accuracy.
        baseline: name of the level that the others are compared with.
        levels: in the order of the plan.
    """

    factor: str
    measure: str
    baseline: str
    levels: tuple[Level, ...]

    @cached_property
    def pairs(self) -> dict[tuple[str, str], Gain | None]:
        """The others among themselves: each against each before it, by the names of both.

        None where two share no seed; nothing where there are more than eight.
        """
        others = [level for level in self.levels if level.name != self.baseline]
        if len(others) > _MOST:
            return {}
        return {
            (later.name, earlier.name): _gain_over(later.values, earlier.values)
            for earlier, later in combinations(others, 2)
        }

    @property
    def resampled(self) -> bool:
        """Whether all differences to the baseline have seeds enough for an interval by bootstrap."""
        gains = [level.gain for level in self.levels if level.gain is not None]
        return bool(gains) and all(gain.bootstrap is not None for gain in gains)

    def in_words(self) -> str:
        """What helped, by how much, how sure, and whose runs have failed."""
        losses = [f"{level.name} has {level.losses}" for level in self.levels if level.losses]
        return self._found() + (f" What failed is not in these numbers: {'; '.join(losses)}." if losses else "")

    def _found(self) -> str:
        gains = {level.name: level.gain for level in self.levels if level.gain is not None}
        if len(self.levels) == 1:
            return f"{self.baseline} is alone: there is nothing to compare."
        if not gains and self.factor == ARMS:
            return f"No arm has finished a seed that {self.baseline} has finished too."
        if not gains:
            return (
                f"{self.baseline} and no other value share a seed: one counts for a value that has finished it with "
                "every value of the other settings."
            )
        clear = {name: gain for name, gain in gains.items() if gain.clear}
        if clear:
            told = "; ".join(
                f"{name} {'helped' if gain.mean > 0 else 'hurt'}: {_told(gain)}" for name, gain in clear.items()
            )
            text = f"Against {self.baseline}, in {self.measure}, {told}."
            rest = "" if len(clear) == len(gains) else " Nothing else differs clearly."
        else:
            name, gain = max(gains.items(), key=lambda item: abs(item[1].mean))
            text = f"Nothing differs clearly from {self.baseline} in {self.measure}: the most is {name}, {_told(gain)}."
            rest = ""
        return text + rest


def compare_arms(plan: Plan, states: States) -> list[LevelComparison]:
    """All arms against the baseline, and for a grid of several factors the values of each, by each measure."""
    comparisons = []
    for measure in plan.measures:
        values: Values = {arm: {} for arm in plan.arms}
        failed: Failures = {arm: {} for arm in plan.arms}
        for (arm, seed), state in states.items():
            if isinstance(state, Outcome) and state.finished:
                values[arm][seed] = state.metrics[measure]
            elif isinstance(state, Outcome):
                failed[arm][seed] = state.kind
        comparisons.append(compare_levels(ARMS, measure, values, plan.baseline, failed))
        if len(plan.factors) > 1:
            comparisons += [_factor(plan, key, measure, values, failed) for key in plan.factors]
    return comparisons


def compare_levels(
    factor: str, measure: str, values: Values, baseline: str, failed: Failures | None = None
) -> LevelComparison:
    """Each level against the baseline.

    Args:
        factor: key of the setting, or ``arm``.
        measure: name of what the values are.
        values: by level, then by seed.
        baseline: name of a level.
        failed: what became of runs that failed, by level, then by seed.
    """
    levels = []
    for name, by_seed in values.items():
        gain = None if name == baseline else _gain_over(by_seed, values[baseline])
        levels.append(Level(name, by_seed, gain, (failed or {}).get(name, {})))
    return LevelComparison(factor, measure, baseline, tuple(levels))


def paired_gain(differences: Mapping[int, float]) -> Gain:
    """The mean of paired differences, at least one, by seed, with its intervals."""
    array = np.array(list(differences.values()), dtype=np.float64)
    count, mean = len(array), float(array.mean())
    if count == 1:
        return Gain(dict(differences), mean, None, None)
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * array.std(ddof=1) / np.sqrt(count))
    return Gain(dict(differences), mean, (mean - half, mean + half), _bootstrap(array) if count >= _FEWEST else None)


def luck(comparisons: Iterable[LevelComparison]) -> str:
    """How often luck alone makes any of the differences in these comparisons look clear; empty if there is one."""
    gains = [gain for one in comparisons for gain in (*(level.gain for level in one.levels), *one.pairs.values())]
    count = sum(gain is not None and gain.t is not None for gain in gains)
    if count < 2:
        return ""
    return (
        f"Each 95 % interval is for itself: of the {count} that are shown, luck alone makes one or more exclude zero "
        f"in up to {1 - CONFIDENCE**count:.0%} of such sweeps."
    )


def _gain_over(values: Mapping[int, float], reference: Mapping[int, float]) -> Gain | None:
    """The gain on the seeds that both have; None where there is none."""
    differences = {seed: value - reference[seed] for seed, value in values.items() if seed in reference}
    return paired_gain(differences) if differences else None


def _bootstrap(differences: NDArray[np.float64]) -> Interval:
    means = np.random.default_rng(0).choice(differences, (_RESAMPLES, len(differences))).mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return low, high


def _factor(plan: Plan, key: str, measure: str, values: Values, failed: Failures) -> LevelComparison:
    """The values of one factor; a seed counts where all other factors' combinations have finished it."""
    short, levels, lost = short_names(plan.factors)[key], {}, {}
    for text in plan.factors[key]:
        arms = [arm for arm, settings in plan.arms.items() if settings[key] == text]
        parts = [values[arm] for arm in arms]
        shared = [seed for seed in parts[0] if all(seed in part for part in parts)]
        levels[f"{short}={text}"] = {seed: fmean(part[seed] for part in parts) for seed in shared}
        lost[f"{short}={text}"] = {seed: kind for arm in arms for seed, kind in failed[arm].items()}
    return compare_levels(key, measure, levels, f"{short}={plan.arms[plan.baseline][key]}", lost)


def _told(gain: Gain) -> str:
    points = f"{100 * gain.mean:+.1f} points"
    if gain.t is None:
        return f"{points} on one seed, which says nothing about how sure that is"
    low, high = gain.t
    return f"{points} ({len(gain.differences)} seeds, 95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
