"""Analysis of trained models: data and detector are built from a training config, and nothing is trained."""

from __future__ import annotations

import json
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from ..analysis import DetectionRates, Entanglement, detection_rates, entanglement
from ..analysis.inference import OnStep
from ..figures.analysis import entanglement_figure, visibility_figure
from ..files import write_whole
from .checkpoints import read_weights
from .data import DetectionData
from .module import DetectionModule

Split = Literal["val", "test"]

_OTHER_SECTIONS = (
    "seed_everything",
    "trainer",
    "name",
    "runs",
    "resume",
    "checkpoint_every",
    "ckpt_path",
    "weights_only",
    "verbose",
)

_CLASSES_SHOWN = 6  # columns of a table that a terminal holds


def analyze_visibility(
    config: Path,
    models: Mapping[str, Path],
    *,
    split: Split = "val",
    overrides: Sequence[str] = (),
    json_file: Path | None = None,
    plot: Path | None = None,
    device: str | None = None,
    **options: Any,
) -> Table:
    """Measure the detection rate of trained models on blended images, and write what was measured.

    Args:
        config: config file of ``tools/train.py``.
        models: by name, ``model.pt`` files of detectors that this config describes.
        split: which images are blended, ``val`` or ``test``.
        overrides: settings of the config to change, such as ``["--data.root=data/voc"]``.
        json_file: written if given: for each model's name its ``DetectionRates.to_json()``.
        plot: picture of the curves, written if given; its suffix is the format.
        device: where the detector runs; a GPU if there is one unless given.
        options: of ``detmix.analysis.detection_rates``: visibilities, num_pairs, score_threshold ...

    Returns:
        A table of the rates, for the terminal.

    Raises:
        ValueError: the config, a file of weights or an option is wrong.
        FileNotFoundError: a file is missing.
    """
    _check_plot(plot)
    data, detector = open_run(config, overrides)
    states = {name: read_weights(path, detector) for name, path in models.items()}
    detector.to(_device(device))
    results: dict[str, DetectionRates] = {}
    with _progress() as bars:
        for name, state in states.items():
            detector.load_state_dict(state)
            results[name] = detection_rates(
                detector, data.evaluated_set(split), on_step=_bar(bars, name, "pairs"), **options
            )
    _write_json(json_file, {name: result.to_json() for name, result in results.items()})
    if plot is not None:
        _write_plot(plot, visibility_figure(results))
    return _rates_table(results)


def analyze_entanglement(
    config: Path,
    model: Path,
    layers: Sequence[str],
    *,
    split: Split = "val",
    overrides: Sequence[str] = (),
    json_file: Path | None = None,
    plot: Path | None = None,
    device: str | None = None,
    **options: Any,
) -> Table:
    """Measure how entangled the classes are at layers of a trained model, and write what was measured.

    Args:
        config: config file of ``tools/train.py``.
        model: ``model.pt`` of the detector that this config describes.
        layers: as ``detmix.analysis.entanglement`` takes them.
        split: whose objects, ``val`` or ``test``.
        overrides: settings of the config to change, such as ``["--data.root=data/voc"]``.
        json_file: ``Entanglement.to_json()``, written if given.
        plot: picture of the layers, written if given; its suffix is the format.
        device: where the detector runs; a GPU if there is one unless given.
        options: of ``detmix.analysis.entanglement``: temperature, max_objects, grid ...

    Returns:
        A table of the losses, for the terminal.

    Raises:
        ValueError: the config, the file of weights, a layer or an option is wrong.
        FileNotFoundError: a file is missing.
    """
    _check_plot(plot)
    data, detector = open_run(config, overrides)
    detector.load_state_dict(read_weights(model, detector))
    detector.to(_device(device))
    with _progress() as bars:
        result = entanglement(
            detector, data.evaluated_set(split), layers, on_step=_bar(bars, str(model), "objects"), **options
        )
    _write_json(json_file, result.to_json())
    if plot is not None:
        _write_plot(plot, entanglement_figure(result))
    return _losses_table(result)


def open_run(config: Path, overrides: Sequence[str] = ()) -> tuple[DetectionData, nn.Module]:
    """The data and the untrained detector of a training config.

    Args:
        config: config file of ``tools/train.py``.
        overrides: settings to change, as on its command line.

    Raises:
        ValueError: a setting is wrong or unknown, or the data is.
        FileNotFoundError: a file is missing.
        RuntimeError: the detector's shape depends on weights that could not be downloaded.
    """
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such config file")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(DetectionData, "data")
    parser.add_class_arguments(DetectionModule, "model")
    for section in _OTHER_SECTIONS:
        parser.add_argument(f"--{section}", type=Any)
    try:
        run = parser.instantiate(parser.parse_args([f"--config={config}", *overrides]))
    except ArgumentError as error:
        raise ValueError(f"{config}: {error}") from error
    run.model.build("test", run.data.class_names)
    return run.data, run.model.detector


def _device(device: str | None) -> torch.device:
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _check_plot(plot: Path | None) -> None:
    """Long work comes first, so a suffix that cannot be drawn is refused before it."""
    known = Figure().canvas.get_supported_filetypes()
    if plot is not None and plot.suffix[1:] not in known:
        raise ValueError(f"the plot's file name must end in one of {', '.join(sorted(known))}, got {plot}")


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        write_whole(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def _write_plot(path: Path, figure: Figure) -> None:
    write_whole(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=150))


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield bars


def _bar(bars: Progress, name: str, unit: str) -> OnStep:
    task = bars.add_task(f"{name}: {unit}", total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


def _rates_table(results: Mapping[str, DetectionRates]) -> Table:
    first = next(iter(results.values()))
    table = _table(
        f"Detection rate in percent by visibility, at IoU {first.iou_threshold:g}, score {first.score_threshold:g}",
        ["model", "class", "objects"],
        [f"{share:g}" for share in first.visibilities],
    )
    for name, result in results.items():
        totals = ["all", *map(escape, result.class_names)]
        counts = [result.counts.sum(), *result.counts]
        rates = np.column_stack([result.rates, result.rates_by_class]).T
        for row, (label, count, values) in enumerate(zip(totals, counts, rates, strict=True)):
            table.add_row("" if row else escape(name), label, str(count), *_cells(100 * values, ".0f"))
        table.add_section()
    return table


def _losses_table(result: Entanglement) -> Table:
    shown = range(len(result.class_names) if len(result.class_names) <= _CLASSES_SHOWN else 0)
    table = _table(
        "Soft nearest neighbour loss in nats: low where classes are well apart, "
        f"{result.uninformed:.3f} where all objects are equally far from each other",
        ["layer"],
        ["all", *(escape(result.class_names[row]) for row in shown), "T"],
    )
    table.add_row(
        "objects", str(result.counts.sum()), *(str(result.counts[row]) for row in shown), "", end_section=True
    )
    for row, layer in enumerate(result.layers):
        losses = [result.losses[row], *result.losses_by_class[row, list(shown)]]
        table.add_row(layer, *_cells(losses, ".3f"), f"{result.temperatures[row]:.3g}")
    if result.left_out:
        table.caption = f"{result.left_out} objects are the only one of their class and have no loss"
    return table


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table whose numbers are never cut short; names break into lines where the terminal is narrow."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(values: Any, form: str) -> list[str]:
    return ["-" if np.isnan(value) else f"{value:{form}}" for value in values]
