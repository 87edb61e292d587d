"""A training run as one page of HTML: no network, no scripts, readable on a phone and on paper.

The page is the template ``report.html.jinja``, which escapes every text that comes from data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..analysis import DetectionRates
from ..evaluation import Confusion, Curve, Mistakes
from ..evaluation.coco import KEYPOINT_METRICS, METRICS
from ..figures import history_figures, precision_recall_figure, visibility_figure
from ..figures.encode import Picture, data_url
from ..figures.style import PALETTE
from ..files import write_whole
from ..page import page_of
from ..reporting.tables import number_text, unmeasured
from .evaluation import PARTS

_HEADLINE = {"AP": "AP (COCO)", "AP50": "AP50 (COCO)", "voc/AP50": "AP50 (VOC)"}
_HEADLINE |= {f"{part}/AP": f"AP ({what})" for part, what in PARTS.items()}
_MEANINGS = {
    **METRICS,
    **{f"segm/{name}": f"{name} of masks in the place of boxes, as it is explained there" for name in METRICS},
    **{f"keypoints/{name}": f"of keypoints: {words}" for name, words in KEYPOINT_METRICS.items()},
    "voc/AP50": "average precision at IoU 0.50 by the rules of VOC, area below the curve (2010 and later)",
    "voc/AP50_11point": "the same by the rules of VOC 2007, mean at eleven recalls",
}
_CLASSES_IN_TABLE = 12  # of the confusion; beyond, the largest confusions are listed
_CLASSES_DRAWN = 80  # curves of precision and recall, at most
_CONFUSIONS = 20


class Illustration(NamedTuple):
    """A picture with the text for those who cannot see it."""

    picture: Picture
    alt: str
    caption: str = ""


class ImageResult(NamedTuple):
    """An image as it is annotated, and what was detected in it."""

    title: str
    caption: str
    truth: Illustration
    found: Illustration


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page says; parts without content are left out.

    Attributes:
        title: heading of the page.
        summary: what was trained, by name: command, seed, duration.
        metrics: the results, by name. COCO's 12 (``AP`` ... ``ARl``), ``voc/AP50`` and ``voc/AP50_11point`` are
            explained in words. A number that is -1 or NaN is shown as "–": there are no such objects.
        per_class: by class name, numbers by name: ``{"RBC": {"AP": 0.61, "objects": 120}}``.
        curves: precision against recall at IoU 0.5 by class name.
        mistakes: what was taken for what.
        worst: the images with the most mistakes.
        best: those with the fewest.
        history: as ``detmix.figures.history_series`` gives it; drawn as curves.
        samples: training images as the detector got them.
        visibility: detection rates by the name of the model.
        config_text: the resolved config.
        environment: versions and hardware, by name.
    """

    title: str
    summary: Mapping[str, Any]
    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, Curve]
    mistakes: Mistakes | None
    worst: Sequence[ImageResult]
    best: Sequence[ImageResult]
    history: tuple[str, Mapping[str, np.ndarray]]
    samples: Sequence[Illustration]
    visibility: Mapping[str, DetectionRates]
    config_text: str
    environment: Mapping[str, Any]


def write_report(path: Path, report: Report) -> None:
    """Write a training run as one HTML file that needs nothing beside it.

    It is written to a temporary name and moved into place, so a reader never meets half a page.

    Raises:
        ValueError: a picture has no text for those who cannot see it.
    """
    content = {
        "report": report,
        "title": report.title,
        "headline": [(name, report.metrics[key]) for key, name in _HEADLINE.items() if key in report.metrics],
        "meanings": _MEANINGS,
        "columns": list(dict.fromkeys(name for numbers in report.per_class.values() for name in numbers)),
        "unmeasured": unmeasured,
        "curves": _precision_recall(report.curves),
        "confusion": _confusion(report.mistakes),
        "confusions": _confusions(report.mistakes),
        "history": _history(*report.history),
        "numbers": {name: _summed_up(points[:, 1]) for name, points in report.history[1].items()},
        "visibility": _visibility(report.visibility),
    }
    page = page_of("training/report.html.jinja", content, {"number": number_text, "picture": _source})
    write_whole(path, lambda temporary: temporary.write_bytes(page))


def _source(illustration: Illustration) -> str:
    if not illustration.alt.strip():
        raise ValueError(f"a picture needs a text for those who cannot see it, got {illustration.alt!r}")
    return data_url(illustration.picture)


def _precision_recall(curves: Mapping[str, Curve]) -> list[Illustration]:
    """As many classes in a plot as can be told apart: a picture for each took most of the page and of its time."""
    shown = list(curves.items())[:_CLASSES_DRAWN]
    pictures = []
    for start in range(0, len(shown), len(PALETTE)):
        group = dict(shown[start : start + len(PALETTE)])
        told = "; ".join(_told(name, curve) for name, curve in group.items())
        pictures.append(Illustration(precision_recall_figure(group), f"Precision against recall of {told}."))
    return pictures


def _told(name: str, curve: Curve) -> str:
    """The area below a curve, and where it ends, in words."""
    reached = curve.recall[curve.precision > 0]
    recall = reached.max() if len(reached) else 0.0
    return f"{name}: average precision {curve.precision.mean():.2f}, at most {recall:.0%} of the objects found"


def _confusion(mistakes: Mistakes | None) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows of the table: objects of a class, how many and what share were taken for each; none if too many.

    Classes without objects and detections are left out.
    """
    if mistakes is None or _are_many(mistakes):
        return []
    classes, counts = mistakes.occurring()
    shares = counts / counts.sum(1).clip(min=1)[:, None]
    pairs = zip((*classes, "nothing there"), counts.tolist(), shares.tolist(), strict=True)
    return [(name, list(zip(cells, row, strict=True))) for name, cells, row in pairs]


def _confusions(mistakes: Mistakes | None) -> list[Confusion]:
    """The classes that are taken for another most often, where there are too many for a table."""
    if mistakes is None or not _are_many(mistakes):
        return []
    return mistakes.most_confused(_CONFUSIONS)


def _are_many(mistakes: Mistakes) -> bool:
    return len(mistakes.occurring()[0]) > _CLASSES_IN_TABLE


def _history(axis: str, series: Mapping[str, np.ndarray]) -> list[Illustration]:
    pictures = []
    for title, figure in history_figures(axis, series).items():
        lines = [str(line.get_label()) for plot in figure.axes for line in plot.get_lines()]
        told = "; ".join(f"{name} from {series[name][0, 1]:.4g} to {series[name][-1, 1]:.4g}" for name in lines)
        pictures.append(Illustration(figure, f"Curves of {title} by {axis}: {told}."))
    return pictures


def _summed_up(values: np.ndarray) -> list[str]:
    return [f"{value:.4g}" for value in (values[0], values.min(), values.max(), values[-1])]


def _visibility(rates: Mapping[str, DetectionRates]) -> list[Illustration]:
    told = []
    for name, result in rates.items():
        ends = np.argsort(result.visibilities)[[0, -1]]
        (low, high), (first, last) = result.visibilities[ends], result.rates[ends]
        told.append(f"{name} finds {first:.0%} of the objects at a visibility of {low:.0%}, {last:.0%} at {high:.0%}")
    alt = f"Detection rate against visibility: {'; '.join(told)}."
    return [Illustration(visibility_figure(rates), alt)] if rates else []
