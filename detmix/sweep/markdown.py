"""Finished sweeps as Markdown: a section for each, and one table over several."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ..machine import describe
from .outcome import FINISHED
from .plan import MEASURES
from .statistics import ARMS, LevelComparison, compare_levels, luck
from .tables import columns, duration, level_cells, level_rows, pair_table

Content = Mapping[str, Any]  # of a sweep.json


def measures_of(content: Content) -> tuple[str, ...]:
    """What the arms of a ``sweep.json`` were compared by; one of before there was a choice does not tell."""
    return tuple(content["definition"].get("measures", MEASURES))


def arms_compared(content: Content, measure: str) -> LevelComparison:
    """The arms of a ``sweep.json`` against its baseline, from the numbers of its runs."""
    definition = content["definition"]
    values: dict[str, dict[int, float]] = {arm: {} for arm in definition["arms"]}
    failed: dict[str, dict[int, str]] = {arm: {} for arm in definition["arms"]}
    for run in content["runs"]:
        if run["kind"] == FINISHED:
            values[run["arm"]][run["seed"]] = run["metrics"][measure]
        elif has_ended(run):
            failed[run["arm"]][run["seed"]] = run["kind"]
    return compare_levels(ARMS, measure, values, definition["baseline"], failed)


def has_ended(run: Mapping[str, Any]) -> bool:
    """Whether a run of a ``sweep.json`` has ended, well or badly."""
    return run["kind"] not in ("waiting", "running")


def sweep_section(content: Content, picture: str) -> str:
    """What a sweep found: its command, tables and a sentence for each measure, its plot, and what it took.

    Args:
        content: of its ``sweep.json``.
        picture: path of its plot, as the page is to link it.
    """
    comparisons = [arms_compared(content, measure) for measure in measures_of(content)]
    tables = [part for comparison in comparisons for part in _tables(comparison)]
    drawn = f"![{picture_alt(comparisons[0])}]({picture})"
    parts = [f"    {content['command']}", *tables, luck(comparisons), drawn, _cost(content)]
    return "\n\n".join(part for part in parts if part)


def summary_table(contents: Mapping[str, Content], measure: str) -> str:
    """One row for each arm, two columns for each sweep: mean and spread, and difference to the baseline.

    Args:
        contents: of each ``sweep.json`` by the heading of its columns; arms of the same name share a row.
        measure: name of the accuracy.
    """
    comparisons = {heading: arms_compared(content, measure) for heading, content in contents.items()}
    arms = dict.fromkeys(level.name for comparison in comparisons.values() for level in comparison.levels)
    headings = [part for heading in comparisons for part in (f"{measure}, {heading}", "difference")]
    rows = [[arm, *(cell for one in comparisons.values() for cell in _summary_cells(one, arm))] for arm in arms]
    return _lines(["arm", *headings], rows)


def picture_alt(comparison: LevelComparison) -> str:
    """What a plot of the comparison shows, in words."""
    told = "; ".join(f"{level.name} {100 * level.mean:.1f}" for level in comparison.levels if level.values)
    return f"{comparison.measure} by {comparison.factor}, means in percent: {told or 'nothing has finished'}."


def fill(text: str, name: str, block: str) -> str:
    """Put a block between its marks, ``<!-- name -->`` and ``<!-- end of name -->``, in place of what is there.

    Raises:
        ValueError: the text has no such marks, or several.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    filled, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n\n{block}\n\n{end}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"wanted the marks {begin} and {end} once, found them {count} times")
    return filled


def _tables(comparison: LevelComparison) -> list[str]:
    parts = [_lines([comparison.measure, *columns(comparison)], level_rows(comparison)), comparison.in_words()]
    if comparison.pairs:
        headings, rows = pair_table(comparison)
        parts.append(_lines([f"{comparison.measure}, row minus column", *headings], rows))
    return parts


def _summary_cells(comparison: LevelComparison, arm: str) -> list[str]:
    level = next((level for level in comparison.levels if level.name == arm), None)
    if level is None:
        return ["", ""]
    _, mean, spread, difference, interval, _ = level_cells(level, comparison.resampled)
    losses = f" ({level.losses})" if level.losses else ""
    return [f"{mean} ± {spread}{losses}", "" if level.gain is None else f"{difference} ({interval})"]


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in every)


def _cost(content: Content) -> str:
    seconds = [run["seconds"] for run in content["runs"] if run["kind"] == FINISHED]
    runs = f"{len(seconds)} of {len(content['runs'])} runs finished"
    if not seconds:
        return f"{runs}."
    took = f"{duration(median(seconds))} each (median), {duration(sum(seconds))} in all"
    ended = filter(has_ended, content["runs"])
    machines = dict.fromkeys(run.get("machine") or describe(content["machine"]) for run in ended)
    return f"{runs}, {took}. {'; '.join(machines)}."
