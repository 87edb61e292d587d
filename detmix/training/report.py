"""A training run as one page of HTML: no network, no scripts, readable on a phone and on paper.

Every text that comes from data passes through ``_element``, which escapes it.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..evaluation.coco import METRICS
from ..evaluation.curves import NO_OBJECTS
from ..figures import history_figure, history_series
from ..files import write_whole

Picture: TypeAlias = Image.Image | Figure

_MEANINGS = {
    **METRICS,
    "voc/AP50": "average precision at IoU 0.50 by the rules of VOC, area below the curve (2010 and later)",
    "voc/AP50_11point": "the same by the rules of VOC 2007, mean at eleven recalls",
}
_UNMEASURED = "–"
_EMPTY_ELEMENTS = ("meta", "img")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #565656; --line: #c9c9c9; --paper: #ffffff; --band: #f3f3f3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #b4b4b4; --line: #4a4a4a; --paper: #161616; --band: #222222; }
}
* { box-sizing: border-box; }
body { max-width: 64rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif;
       color: var(--ink); background: var(--paper); }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p, figcaption { color: var(--soft); }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible { outline: 3px solid currentColor; outline-offset: 2px; }
table { border-collapse: collapse; }
th, td { padding: 0.3rem 0.75rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
         overflow-wrap: anywhere; min-width: 4rem; }
thead th { background: var(--band); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; }
pre { padding: 0.75rem; background: var(--band); font-size: 0.85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 0.5rem 0; }
@media print {
  :root { --ink: #000000; --soft: #333333; --line: #999999; --paper: #ffffff; --band: #ffffff; }
  body { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""


class _Html(str):
    """Text that is HTML already and must not be escaped again."""


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, Any],
    metrics: Mapping[str, float],
    per_class: Mapping[str, Mapping[str, float]],
    history: Sequence[Mapping[str, Any]],
    config_text: str,
    figures: Sequence[tuple[str, str, str, Picture]],
    environment: Mapping[str, Any],
) -> None:
    """Write a training run as one HTML file that needs nothing beside it.

    It is written to a temporary name and moved into place, so a reader never meets half a page.
    A number that is -1 or NaN is shown as "–", with a note that there are no such objects.

    Args:
        path: where to; its folder is made if need be.
        title: heading of the page.
        summary: what was trained, by name: command, seed, duration.
        metrics: the results, by name. COCO's 12 (``AP`` ... ``ARl``), ``voc/AP50`` and
            ``voc/AP50_11point`` are explained in words.
        per_class: by class name, numbers by name: ``{"RBC": {"AP": 0.61, "objects": 120}}``.
        history: rows as ``detmix.figures.history_series`` reads them; drawn as curves.
        config_text: the resolved config.
        figures: (title, text for those who cannot see it, caption, picture) of each picture.
        environment: versions and hardware, by name.

    Raises:
        ValueError: a picture has no text for those who cannot see it.
    """
    sections = [
        _section("What was trained", _pairs(summary)),
        _section("Results", _metrics_table(metrics)),
        _section("Results by class", _class_table(per_class)),
        _section("Training curves", *_curves(history)),
        _section("Pictures", *[_figure(*figure) for figure in figures]),
        _section("Configuration", _details("The resolved configuration", _element("pre", config_text))),
        _section("Environment", _pairs(environment)),
    ]
    page = _page(title, sections).encode("utf-8", errors="replace")  # a command may hold bytes that are no text
    write_whole(Path(path), lambda temporary: temporary.write_bytes(page))


def _page(title: str, sections: list[_Html]) -> str:
    head = _element(
        "head",
        _element("meta", charset="utf-8"),
        _element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _element("title", title),
        _element("style", _Html(_STYLE)),
    )
    body = _element("body", _element("main", _element("h1", title), *sections))
    return f"<!DOCTYPE html>\n{_element('html', head, body, lang='en')}\n"


def _section(heading: str, *content: str) -> _Html:
    """A part of the page, or nothing where it has no content."""
    filled = [c for c in content if c]
    return _element("section", _element("h2", heading), *filled) if filled else _Html()


def _pairs(values: Mapping[str, Any]) -> _Html:
    return _table((), [[_header(k), _element("td", str(v))] for k, v in values.items()], "Names and values")


def _metrics_table(metrics: Mapping[str, float]) -> _Html:
    rows = [[_header(k), _number(v), _element("td", _MEANINGS.get(k, ""))] for k, v in metrics.items()]
    columns = [_column("number"), _column("value", class_="number"), _column("meaning")]
    return _table(columns, rows, "Results", metrics.values())


def _class_table(per_class: Mapping[str, Mapping[str, float]]) -> _Html:
    names = list(dict.fromkeys(k for numbers in per_class.values() for k in numbers))
    values = {name: [numbers.get(k, math.nan) for k in names] for name, numbers in per_class.items()}
    columns = [_column("class"), *[_column(name, class_="number") for name in names]]
    rows = [[_header(name), *map(_number, numbers)] for name, numbers in values.items()]
    return _table(columns, rows, "Results by class", itertools.chain(*values.values()))


def _curves(history: Sequence[Mapping[str, Any]]) -> list[_Html]:
    axis, series = history_series(history)
    if not series:
        return []
    rows = [[_header(name), *_summed_up(points[:, 1])] for name, points in series.items()]
    columns = [_column("quantity"), *[_column(n, class_="number") for n in ("first", "lowest", "highest", "last")]]
    table = _table(columns, rows, "The curves in numbers")
    figure = history_figure(history)
    plots = ", ".join(plot.get_title() for plot in figure.axes)
    alt = f"Training curves by {axis}: {plots}. The table that follows has them in numbers."
    return [_figure("", alt, "", figure), _details("The curves in numbers", table)]


def _summed_up(values: np.ndarray) -> list[_Html]:
    return [_element("td", f"{v:.4g}", class_="number") for v in (values[0], values.min(), values.max(), values[-1])]


def _figure(title: str, alt: str, caption: str, picture: Picture) -> _Html:
    if not alt.strip():
        raise ValueError(f"the figure {title!r} needs a text for those who cannot see it, got {alt!r}")
    source = f"data:image/png;base64,{base64.b64encode(_png(picture)).decode('ascii')}"
    parts = [_element("h3", title)] if title else []
    captions = [_element("figcaption", caption)] if caption else []
    return _element("div", *parts, _element("figure", _element("img", src=source, alt=alt), *captions))


def _details(summary: str, content: str) -> _Html:
    return _element("details", _element("summary", summary), content)


def _table(columns: Sequence[_Html], rows: list[list[_Html]], name: str, shown: Iterable[float] = ()) -> _Html:
    """A table that scrolls sideways on a narrow screen, with the note if one of its numbers is missing."""
    if not rows:
        return _Html()
    head = [_element("thead", _element("tr", *columns))] if columns else []
    body = _element("tbody", *[_element("tr", *row) for row in rows])
    # a region that scrolls must be reachable by the keyboard, and so needs a name
    scroll = _element(
        "div", _element("table", *head, body), class_="scroll", role="region", aria_label=name, tabindex="0"
    )
    note = _element("p", f"{_UNMEASURED} means: no such objects") if any(map(_is_unmeasured, shown)) else ""
    return _Html(scroll + note)


def _column(text: str, **attributes: str) -> _Html:
    return _element("th", text, scope="col", **attributes)


def _header(text: str) -> _Html:
    return _element("th", text, scope="row")


def _number(value: float) -> _Html:
    text = _UNMEASURED if _is_unmeasured(value) else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    return _element("td", text, class_="number")


def _is_unmeasured(value: float) -> bool:
    return math.isnan(value) or value == NO_OBJECTS


def _element(tag: str, /, *content: str, **attributes: str) -> _Html:
    """One HTML element. Text is escaped unless it is HTML already; ``class_`` is class, ``aria_label`` aria-label."""
    pairs = ((k.rstrip("_").replace("_", "-"), html.escape(v)) for k, v in attributes.items())
    start = "".join([f"<{tag}", *[f' {key}="{value}"' for key, value in pairs], ">"])
    if tag in _EMPTY_ELEMENTS:
        return _Html(start)
    inside = "".join(c if isinstance(c, _Html) else html.escape(c) for c in content)
    return _Html(f"{start}{inside}</{tag}>")


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", dpi=150)
    else:
        picture.save(buffer, format="PNG")
    return buffer.getvalue()
