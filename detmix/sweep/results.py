"""What a sweep leaves: ``sweep.csv``, a row for each run; ``sweep.json``; and ``sweep.html`` to read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..figures.encode import data_url
from ..figures.sweep import sweep_figure
from ..files import write_text, write_whole
from ..machine import machine
from ..page import page_of
from .markdown import picture_alt
from .outcome import Outcome, States
from .plan import Plan
from .statistics import LevelComparison, compare_arms, luck
from .tables import columns, duration, level_rows, pair_table


def write_results(folder: Path, plan: Plan, states: States, command: str) -> list[LevelComparison]:
    """Write the three files as far as the sweep has come.

    Args:
        folder: of the sweep.
        plan: what is run.
        states: of its runs.
        command: that does this sweep.

    Returns:
        The comparisons that are in them.
    """
    comparisons = compare_arms(plan, states)
    content = json.dumps(_content(plan, states, comparisons, command), indent=2) + "\n"
    write_whole(folder / "sweep.csv", lambda path: _write_rows(path, plan, states))
    write_text(folder / "sweep.json", content)
    page = page_of("sweep/sweep.html.jinja", _shown(plan, states, comparisons, command))
    write_whole(folder / "sweep.html", lambda path: path.write_bytes(page))
    return comparisons


def _content(plan: Plan, states: States, comparisons: Sequence[LevelComparison], command: str) -> dict[str, Any]:
    runs = [{"arm": arm, "seed": seed, **_run(state)} for (arm, seed), state in states.items()]
    return {
        "command": command,
        "machine": machine(),  # that writes; each run has its own
        "definition": {**plan.definition(), "baseline": plan.baseline, "measures": plan.measures},
        "comparisons": [
            {
                **asdict(comparison),
                "in_words": comparison.in_words(),
                "levels": _levels(comparison),
                "pairs": _pairs(comparison),
            }
            for comparison in comparisons
        ],
        "runs": runs,
    }


def _levels(comparison: LevelComparison) -> list[dict[str, Any]]:
    return [{**asdict(level), "mean": level.mean if level.values else None} for level in comparison.levels]


def _pairs(comparison: LevelComparison) -> list[dict[str, Any]]:
    return [
        {"name": name, "minus": other, "gain": gain and asdict(gain)}
        for (name, other), gain in comparison.pairs.items()
    ]


def _run(state: str | Outcome) -> dict[str, Any]:
    return asdict(state) if isinstance(state, Outcome) else {"kind": state}


def _write_rows(path: Path, plan: Plan, states: States) -> None:
    """Arm, seed, settings, state and all numbers of each run."""
    keys = dict.fromkeys(key for settings in plan.arms.values() for key in settings)
    names = dict.fromkeys(name for state in states.values() if isinstance(state, Outcome) for name in state.metrics)
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, ["arm", "seed", *keys, "state", "seconds", "host", *names])
        writer.writeheader()
        for (arm, seed), state in states.items():
            row: dict[str, Any] = {"arm": arm, "seed": seed, **plan.arms[arm], "state": state}
            if isinstance(state, Outcome):
                row |= {"state": state.kind, "seconds": round(state.seconds, 1), "host": state.host, **state.metrics}
            writer.writerow(row)


def _shown(plan: Plan, states: States, comparisons: Sequence[LevelComparison], command: str) -> dict[str, Any]:
    """What the page's template names."""
    outcomes = {pair: state for pair, state in states.items() if isinstance(state, Outcome)}
    finished = sum(outcome.finished for outcome in outcomes.values())
    facts = {
        "Command": command,
        "Config": plan.config,
        "Settings of all arms": " ".join(plan.common) or "those of the config",
        "Baseline": plan.baseline,
        "Compared by": ", ".join(plan.measures),
        "Runs": f"{finished} of {len(states)} finished, {len(outcomes) - finished} failed",
        "Time of all runs": duration(sum(outcome.seconds for outcome in outcomes.values())),
        "Machine": "; ".join(dict.fromkeys(one.machine for one in outcomes.values() if one.machine)) or "none yet",
    }
    return {
        "title": f"Sweep of {plan.config.stem}",
        "complete": len(outcomes) == len(states),
        "facts": facts,
        "comparisons": [(one, _picture(one), picture_alt(one)) for one in comparisons],
        "columns": columns,
        "level_rows": level_rows,
        "pair_table": pair_table,
        "luck": luck(comparisons),
        "arms": plan.arms,
        "measures": plan.measures,
        "outcomes": outcomes,
        "duration": duration,
    }


def _picture(comparison: LevelComparison) -> str:
    """The drawing as a link that holds it; empty where no level has numbers to draw."""
    drawn = any(level.values for level in comparison.levels)
    return data_url(draw_comparison(comparison)) if drawn else ""


def draw_comparison(comparison: LevelComparison) -> Figure:
    """Every run as a point, and each level's difference to the baseline with its interval by Student's t."""
    gains = {level.name: level.gain for level in comparison.levels if level.gain is not None}
    return sweep_figure(
        comparison.measure,
        comparison.baseline,
        {level.name: _percent(level.values.values()) for level in comparison.levels},
        {name: _percent(gain.differences.values()) for name, gain in gains.items()},
        {name: (100 * gain.t[0], 100 * gain.t[1]) for name, gain in gains.items() if gain.t},
    )


def _percent(shares: Iterable[float]) -> list[float]:
    return [100 * share for share in shares]
