"""Analysis of trained models: data and detector are built from a training config, and nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor, nn

from ..analysis import DetectionRates, Entanglement, detection_rates, entanglement
from ..figures.analysis import entanglement_figure, visibility_figure
from ..files import write_text, write_whole
from ..terminal import as_text, bar_of, progress_bars, table_of
from .checkpoints import require_same_classes
from .data import DetectionData, Evaluated
from .trained import classes_of_weights, device_named, open_run
from .weights import read_weights

_CLASSES_SHOWN = 6  # columns of a table that a terminal holds


def analyze_visibility(
    config: Path,
    models: Mapping[str, Path],
    *,
    split: Evaluated = "val",
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
    states = {name: _weights_of(path, data, detector) for name, path in models.items()}
    detector.to(device_named(device))
    results: dict[str, DetectionRates] = {}
    with progress_bars() as bars:
        for name, state in states.items():
            detector.load_state_dict(state)
            results[name] = detection_rates(
                detector, data.evaluated_set(split), on_step=bar_of(bars, name, "pairs"), **options
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
    split: Evaluated = "val",
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
    detector.load_state_dict(_weights_of(model, data, detector))
    detector.to(device_named(device))
    with progress_bars() as bars:
        result = entanglement(
            detector, data.evaluated_set(split), layers, on_step=bar_of(bars, str(model), "objects"), **options
        )
    _write_json(json_file, result.to_json())
    if plot is not None:
        _write_plot(plot, entanglement_figure(result))
    return _losses_table(result)


def _weights_of(path: Path, data: DetectionData, detector: nn.Module) -> dict[str, Tensor]:
    """Trained weights, whose labels mean what they mean in the data, as far as the run near them says so."""
    state = read_weights(path, detector, len(data.class_names) + 1)
    require_same_classes(path, classes_of_weights(path), data.class_names)
    return state


def _check_plot(plot: Path | None) -> None:
    """Long work comes first, so a suffix that cannot be drawn is refused before it."""
    known = Figure().canvas.get_supported_filetypes()
    if plot is not None and plot.suffix[1:] not in known:
        raise ValueError(f"the plot's file name must end in one of {', '.join(sorted(known))}, got {plot}")


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        write_text(path, json.dumps(content, indent=2) + "\n")


def _write_plot(path: Path, figure: Figure) -> None:
    write_whole(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=150))


def _rates_table(results: Mapping[str, DetectionRates]) -> Table:
    first = next(iter(results.values()))
    table = table_of(
        f"Detection rate in percent by visibility, at IoU {first.iou_threshold:g}, score {first.score_threshold:g}",
        ["model", "class", "objects"],
        [f"{share:g}" for share in first.visibilities],
    )
    for name, result in results.items():
        totals = ["all", *map(as_text, result.class_names)]
        counts = [result.counts.sum(), *result.counts]
        rates = np.column_stack([result.rates, result.rates_by_class]).T
        for row, (label, count, values) in enumerate(zip(totals, counts, rates, strict=True)):
            table.add_row("" if row else as_text(name), label, str(count), *_cells(100 * values, ".0f"))
        table.add_section()
    return table


def _losses_table(result: Entanglement) -> Table:
    shown = range(len(result.class_names) if len(result.class_names) <= _CLASSES_SHOWN else 0)
    table = table_of(
        "Soft nearest neighbour loss in nats: low where classes are well apart",
        ["layer"],
        ["all", *(as_text(result.class_names[row]) for row in shown), "T"],
    )
    table.add_row("objects", str(result.counts.sum()), *(str(result.counts[row]) for row in shown), "")
    uninformed = [result.uninformed, *result.uninformed_by_class[list(shown)]]
    table.add_row("if all were equally far apart", *_cells(uninformed, ".3f"), "", end_section=True)
    for row, layer in enumerate(result.layers):
        losses = [result.losses[row], *result.losses_by_class[row, list(shown)]]
        table.add_row(layer, *_cells(losses, ".3f"), f"{result.temperatures[row]:.3g}")
    if result.left_out:
        table.caption = f"{result.left_out} objects are the only one of their class and have no loss"
    return table


def _cells(values: Any, form: str) -> list[str]:
    return ["-" if np.isnan(value) else f"{value:{form}}" for value in values]
