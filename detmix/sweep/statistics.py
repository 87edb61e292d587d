"""Arms against the baseline, seed by seed: what helped, by how much, how sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeAlias

import numpy as np
import scipy.stats

from .outcome import Outcome
from .plan import Plan, short_names

Interval: TypeAlias = tuple[float, float]
Values: TypeAlias = dict[str, dict[int, float]]  # by level, then by seed

MEASURES = ("AP50", "AP")
CONFIDENCE = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Gain:
    """A level's difference to the baseline on the seeds that both have, in the unit of the measure.

    Attributes:
        differences: level minus baseline, by seed.
        mean: of the differences.
        t: 95 % interval of the mean by Student's t, which takes the differences as normal; None for one seed.
        bootstrap: 95 % percentile interval of the mean of resampled differences, which assumes less, and with
            three seeds is too narrow; None for one seed.
    """

    differences: dict[int, float]
    mean: float
    t: Interval | None
    bootstrap: Interval | None

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the t interval."""
        return self.t is not None and (self.t[0] > 0 or self.t[1] < 0)


@dataclass(frozen=True)
class Level:
    """An arm, or a value of a factor.

    Attributes:
        name: what it is called.
        values: the measure by seed; of a factor's value the mean over the other factors.
        gain: against the baseline; None for that itself, and where they share no seed.
    """

    name: str
    values: dict[int, float]
    gain: Gain | None

    @property
    def mean(self) -> float:
        """Over the seeds, NaN where there is none."""
        return fmean(self.values.values()) if self.values else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds, NaN below two."""
        return stdev(self.values.values()) if len(self.values) > 1 else float("nan")


@dataclass(frozen=True)
class Comparison:
    """The levels of a factor, or all arms, by one measure.

    Attributes:
        factor: key of the setting, or ``arm``.
        measure: ``AP50`` or ``AP``.
        baseline: name of the level that the others are compared with.
        levels: in the order of the plan.
    """

    factor: str
    measure: str
    baseline: str
    levels: tuple[Level, ...]

    def in_words(self) -> str:
        """What helped, by how much, how sure."""
        gains = {level.name: level.gain for level in self.levels if level.gain is not None}
        if len(self.levels) == 1:
            return f"{self.baseline} is alone: there is nothing to compare."
        if not gains:
            return f"No arm has finished a seed that {self.baseline} has finished too."
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
        return text + rest + _chance(gains)


def compare_arms(plan: Plan, states: Mapping[tuple[str, int], str | Outcome]) -> list[Comparison]:
    """All arms against the baseline, and for a grid of several factors the values of each, by each measure."""
    comparisons = []
    for measure in MEASURES:
        values: Values = {arm: {} for arm in plan.arms}
        for (arm, seed), state in states.items():
            if isinstance(state, Outcome) and measure in state.metrics:
                values[arm][seed] = state.metrics[measure]
        comparisons.append(compare_levels("arm", measure, values, plan.baseline))
        if len(plan.factors) > 1:
            comparisons += [_factor(plan, key, measure, values) for key in plan.factors]
    return comparisons


def compare_levels(factor: str, measure: str, values: Values, baseline: str) -> Comparison:
    """Each level against the baseline.

    Args:
        factor: key of the setting, or ``arm``.
        measure: name of what the values are.
        values: by level, then by seed.
        baseline: name of a level.
    """
    levels = []
    for name, by_seed in values.items():
        of_baseline = {} if name == baseline else values[baseline]
        differences = {seed: value - of_baseline[seed] for seed, value in by_seed.items() if seed in of_baseline}
        levels.append(Level(name, by_seed, paired_gain(differences) if differences else None))
    return Comparison(factor, measure, baseline, tuple(levels))


def paired_gain(differences: Mapping[int, float]) -> Gain:
    """The mean of paired differences, at least one, by seed, with its intervals."""
    array = np.array(list(differences.values()), dtype=np.float64)
    count, mean = len(array), float(array.mean())
    if count == 1:
        return Gain(dict(differences), mean, None, None)
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * array.std(ddof=1) / np.sqrt(count))
    means = np.random.default_rng(0).choice(array, (_RESAMPLES, count)).mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Gain(dict(differences), mean, (mean - half, mean + half), (low, high))


def _factor(plan: Plan, key: str, measure: str, values: Values) -> Comparison:
    """The values of one factor; a seed counts where all other factors' combinations have finished it."""
    short, levels = short_names(plan.factors)[key], {}
    for text in plan.factors[key]:
        parts = [values[arm] for arm, settings in plan.arms.items() if settings[key] == text]
        shared = [seed for seed in parts[0] if all(seed in part for part in parts)]
        levels[f"{short}={text}"] = {seed: fmean(part[seed] for part in parts) for seed in shared}
    return compare_levels(key, measure, levels, f"{short}={plan.arms[plan.baseline][key]}")


def _told(gain: Gain) -> str:
    points = f"{100 * gain.mean:+.1f} points"
    if gain.t is None:
        return f"{points} on one seed, which says nothing about how sure that is"
    low, high = gain.t
    return f"{points} ({len(gain.differences)} seeds, 95 % interval {100 * low:+.1f} to {100 * high:+.1f})"


def _chance(gains: Mapping[str, Gain]) -> str:
    """How often luck alone makes one of several comparisons look clear."""
    count = sum(gain.t is not None for gain in gains.values())
    if count < 2:
        return ""
    chance = 1 - CONFIDENCE**count
    return (
        f" Each interval is for itself: with {count} comparisons, luck alone makes one look clear in up to "
        f"{chance:.0%} of such sweeps."
    )
