"""What a sweep trains: arms, each a training config with some settings changed, and how many seeds of each."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from ..training.accuracies import is_accuracy
from ..training.cli import check_fits
from ..training.configs import load_config, require_single_keys

Settings: TypeAlias = dict[str, str]  # key to value, both as on the trainer's command line
Pair: TypeAlias = tuple[str, int]  # name of an arm, seed

_OWN = ("config", "name", "runs", "resume", "seed_everything", "ckpt_path")  # what the sweep says itself
MEASURES = ("AP50", "AP")  # that arms are compared by unless others are asked for, the first before all
CONFIG = "config.yaml"  # in the folder of a sweep: the config as it was at the start
_BRACKETS = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}


@dataclass(frozen=True)
class Plan:
    """A sweep: each arm is trained with each seed.

    Attributes:
        config: config file of ``tools/train.py``.
        arms: the settings of each by its name, at least one.
        seeds: how many; they are 0, 1, 2 ...
        baseline: name of the arm that the others are compared with.
        factors: of a grid: the values of each key, in order; empty for named arms.
        common: settings of all arms, as on the command line: ``["--data.root=data/voc"]``.
        text: of the config file when the sweep was put together.
        measures: accuracies in ``metrics.json`` that the arms are compared by, the first before all.
    """

    config: Path
    arms: dict[str, Settings]
    seeds: int
    baseline: str
    factors: dict[str, tuple[str, ...]]
    common: tuple[str, ...] = ()
    text: str = ""
    measures: tuple[str, ...] = MEASURES

    @property
    def pairs(self) -> list[Pair]:
        """All runs, seed by seed, so that an unfinished sweep has as many of each arm, give or take one."""
        return [(arm, seed) for seed in range(self.seeds) for arm in self.arms]

    def arguments(self, arm: str, config: Path | None = None) -> list[str]:
        """The trainer's arguments of an arm; with a copy of the config in its place if one is given."""
        return [
            f"--config={config or self.config}",
            *self.common,
            *(f"--{key}={text}" for key, text in self.arms[arm].items()),
        ]

    def folder(self, arm: str, seed: int) -> str:
        """Name of the folder of a run."""
        words = re.sub(r"[^\w.=-]+", "_", arm).strip("_")[:60]
        return f"{list(self.arms).index(arm):02}-{words}-seed{seed}"

    def definition(self) -> dict[str, Any]:
        """What the runs follow from, and so must be equal in all processes that share the sweep, as JSON.

        The number of seeds, the baseline and the measures are not in it: more seeds add to a sweep, any arm can be
        compared with, and by any number of the runs.
        """
        content = load_config(self.text)
        return json.loads(
            json.dumps({"config": content, "settings of all arms": self.common, "arms": self.arms}, default=str)
        )


def make_plan(
    config: Path,
    *,
    grid: Sequence[str] = (),
    arms_file: Path | None = None,
    seeds: int = 3,
    baseline: str | None = None,
    common: Sequence[str] = (),
    measures: Sequence[str] = MEASURES,
) -> Plan:
    """Put a sweep together, and check the settings of every arm with the trainer's own parser.

    Args:
        config: config file of ``tools/train.py``.
        grid: ``["data.mixup.alpha=0,0.2,1.5", "model.objective=weighted,pair"]``: every combination is an arm.
        arms_file: instead of a grid, a YAML file as ``read_arms`` takes it.
        seeds: how many runs of each arm.
        baseline: name of the arm that the others are compared with; the first unless given.
        common: settings of all arms, as on the command line.
        measures: accuracies in ``metrics.json`` that the arms are compared by, the first before all.

    Raises:
        ValueError: a key does not exist, a value is of the wrong type, an argument is wrong, there is a single arm, or
            a measure is no accuracy.
        FileNotFoundError: a file is missing.
    """
    text = _text_of(config, "config file")
    if bool(grid) == (arms_file is not None):
        raise ValueError("a sweep needs either --set KEY=VALUE,VALUE,... (again for each key) or --arms FILE")
    if seeds < 1:
        raise ValueError(f"seeds must be 1 or more, got {seeds}")
    _check_measures(measures)
    factors = parse_grid(grid)
    arms = grid_arms(factors) if arms_file is None else read_arms(arms_file)
    if len(arms) == 1:
        raise ValueError(f"a sweep compares arms, and {next(iter(arms))} is the only one: add a value or an arm")
    chosen = next(iter(arms)) if baseline is None else baseline
    if chosen not in arms:
        raise ValueError(f"the baseline must be one of the arms, {', '.join(arms)}; got {chosen}")
    plan = Plan(config, arms, seeds, chosen, factors, tuple(common), text, tuple(measures))
    _check(plan)
    return plan


def parse_grid(grid: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of each key from ``KEY=VALUE,VALUE,...``; commas inside brackets do not separate.

    Raises:
        ValueError: an entry has another form, or a key or value is there twice.
    """
    factors: dict[str, tuple[str, ...]] = {}
    for entry in grid:
        key, sign, text = entry.removeprefix("--").partition("=")
        values = tuple(_split(text))
        if not (key and sign and all(values)):
            raise ValueError(f"--set must be KEY=VALUE,VALUE,..., got {entry}")
        if key in factors or len(set(values)) < len(values):
            raise ValueError(f"--set {entry}: a key and each of its values can be there once only")
        factors[key] = values
    return factors


def grid_arms(factors: Mapping[str, Sequence[str]]) -> dict[str, Settings]:
    """Every combination of the values, named after them: ``alpha=0.2, objective=pair``."""
    short = short_names(factors)
    combinations = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    return {", ".join(f"{short[key]}={text}" for key, text in arm.items()): arm for arm in combinations}


def short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """The last part of each dotted key; the whole key where two would be called alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def read_arms(file: Path) -> dict[str, Settings]:
    """Named arms from a YAML file: ``arms: {plain: {data.mixup: null}, weighted: {model.objective: weighted}}``.

    Raises:
        ValueError: it is of another form; the arm is named.
        FileNotFoundError: there is no such file.
    """
    text = _text_of(file, "file of arms")
    try:
        content = load_config(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {error}") from error
    try:
        require_single_keys(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: {error}") from error
    arms = content.get("arms") if isinstance(content, dict) and len(content) == 1 else None
    if not isinstance(arms, dict) or not arms:
        raise ValueError(f"{file}: wanted one key, arms, with a mapping of names to settings, got {content!r}")
    return {_name(file, name): _settings(file, name, settings) for name, settings in arms.items()}


def _check_measures(measures: Sequence[str]) -> None:
    others = [name for name in measures if not is_accuracy(name)]
    if others or not measures:
        raise ValueError(
            "measures must be accuracies in metrics.json, of which more is better, such as AP50, voc/AP50, segm/AP or "
            f"AP/<class>; got {', '.join(others) or 'none'}"
        )
    if len(set(measures)) < len(measures):
        raise ValueError(f"each measure can be there once only, got {', '.join(measures)}")


def _text_of(file: Path, what: str) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such {what}")
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not text in UTF-8: {error}") from error


def _name(file: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(
            f"{file}: the name of an arm must be text, got {name!r}; YAML takes on, off, yes and no for true and "
            "false: put quotes around such a name"
        )
    return name


def _settings(file: Path, name: str, settings: Any) -> Settings:
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{file}: arm {name}: wanted settings such as {{model.objective: pair}}, got {settings!r}")
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}


def _keys(arguments: Sequence[str]) -> list[str]:
    """The keys among arguments: ``a.b`` of ``--a.b=1``, and ``c`` of ``-cFILE``."""
    found = [re.match(r"--([^=]+)|-([a-z])", argument) for argument in arguments]
    return [one[1] or one[2] for one in found if one]


def _split(text: str) -> list[str]:
    """Text at its commas, but for those inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += _BRACKETS.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _check(plan: Plan) -> None:
    for key in itertools.chain(_keys(plan.common), *plan.arms.values()):
        name = key.partition(".")[0]
        own = [option for option in _OWN if option.startswith(name)]  # the trainer takes abbreviations
        if own:
            told = "" if name in _OWN else f", which the trainer takes for {' or '.join(own)},"
            raise ValueError(f"{key}{told} is set by the sweep itself")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / CONFIG
        copy.write_text(plan.text, "utf-8")
        fits = {f"{plan.config}, arm {arm}": plan.arguments(arm) for arm in plan.arms}
        elsewhere = f"{plan.config}, from a copy in another folder, as the runs are trained"
        check_fits({**fits, elsewhere: plan.arguments(plan.baseline, copy)})
