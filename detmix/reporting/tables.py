"""What was measured, as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Group
from rich.table import Table

from ..evaluation import NO_OBJECTS, Difference, Mistakes
from ..evaluation.coco import limits_of, metrics_of
from ..terminal import as_text, table_of
from .measured import Measured, Options

_SHOWN = 10  # confusions and images
_UNMEASURED = "–"
_ENOUGH = 100  # images with objects, from which on intervals hold their 95 %


def metrics_table(measured: Measured, options: Options) -> Group:
    """The overall numbers, each with its meaning."""
    table = table_of(_title(options), [], ["", "value"])
    table.add_column("meaning", overflow="fold")
    for name, value in measured.metrics.items():
        table.add_row(name, number_text(value), _meaning(name, options))
    return _noted(table, unmeasured(measured.metrics.values()))


def class_table(measured: Measured) -> Group:
    """The numbers of each class that has objects."""
    counted = {name: row for name, row in measured.by_class.items() if row["objects"]}
    without = len(measured.by_class) - len(counted)
    columns = list(dict.fromkeys(key for row in measured.by_class.values() for key in row))
    table = table_of("By class", ["class"], columns)
    for name, row in counted.items():
        table.add_row(as_text(name), *map(number_text, row.values()))
    dashes = unmeasured(value for row in counted.values() for value in row.values())
    return _noted(table, dashes, f"Classes without objects, which do not count: {without}." if without else "")


def confusion_table(mistakes: Mistakes) -> Group:
    """The most frequent confusions of two classes, and what became of all objects below."""
    counts, confusions = mistakes.confusion, mistakes.most_confused(_SHOWN)
    table = table_of("Confused most often", ["objects of", "taken for"], ["times", "of all"])
    for one in confusions:
        table.add_row(as_text(one.of), as_text(one.taken_for), str(one.times), f"{one.share:.0%}")
    right, objects, missed = np.trace(counts), counts[:-1].sum(), counts[:-1, -1].sum()
    return _noted(
        table if confusions else " No object was taken for another class.\n",
        f"Of {objects} objects {right} found, {mistakes.confused.sum()} confused, {missed} missed; {counts[-1].sum()} "
        f"false detections (score {mistakes.min_score:g} or more, IoU {mistakes.iou:g} or more).",
    )


def images_table(mistakes: Mistakes) -> Table | str:
    """The images with the most mistakes, or that there are none."""
    if not mistakes.worst(1):
        return " No image has a mistake.\n"
    table = table_of("Images with the most mistakes", ["image"], ["found", "confused", "missed", "false"])
    for image in mistakes.worst(_SHOWN):
        numbers = (image.found, image.confused, image.missed, image.false)
        table.add_row(as_text(image.file_name or f"id {image.image_id}"), *map(str, numbers))
    return table


def comparison_table(differences: Mapping[str, Difference], names: tuple[str, str], images: int) -> Group:
    """Two sets of predictions side by side.

    Args:
        differences: of each measure.
        names: of the two.
        images: how many there are.
    """
    title = f"A: {as_text(names[0])}\nB: {as_text(names[1])}"
    table = table_of(title, ["measure"], ["A", "B", "B - A", "95 % interval"])
    table.add_column("B is")
    for name, of in differences.items():
        interval = "too few images" if math.isnan(of.low) else f"{of.low:+.3f} to {of.high:+.3f}"
        numbers = (f"{of.first:.3f}", f"{of.second:.3f}", f"{of.value:+.3f}", interval)
        table.add_row(as_text(name), *numbers, verdict(of), style="bold" if of.clear else None)
    draws = max((of.draws for of in differences.values()), default=0)
    few = [name for name, of in differences.items() if of.images < _ENOUGH]
    return _noted(
        table,
        f"Intervals from {draws} draws of the {images} images. A difference whose interval holds 0 may be chance; of "
        "twenty measures without a difference one looks clear by chance.",
        _narrow(few),
    )


def verdict(difference: Difference) -> str:
    """In a word, what the second set is; nothing where there is no interval."""
    if math.isnan(difference.low):
        return ""
    if not difference.clear:
        return "not clear"
    return "better" if difference.value > 0 else "worse"


def number_text(value: float) -> str:
    """A number as tables and pages show it: a dash for one that there is not."""
    return _UNMEASURED if _is_unmeasured(value) else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def unmeasured(values: Iterable[float]) -> str:
    """What the dash means, where one of these is shown so; else nothing."""
    return f"{_UNMEASURED} means: no such objects." if any(map(_is_unmeasured, values)) else ""


def _is_unmeasured(value: float) -> bool:
    return math.isnan(value) or value == NO_OBJECTS


def _narrow(few: Sequence[str]) -> str:
    """What intervals of few images are worth."""
    if not few:
        return ""
    names = ", ".join(few[:_SHOWN]) + (f" and {len(few) - _SHOWN} more" if len(few) > _SHOWN else "")
    return (
        f"Fewer than {_ENOUGH} images have objects that bear on {as_text(names)}. Intervals are too narrow there: "
        "they show a difference where there is none more often than 5 times in 100."
    )


def _title(options: Options) -> str:
    if options.rules == "voc":
        return "By the rules of the VOC development kit"
    return f"By the rules of COCO, {options.measured}" + (
        ", all classes taken for one" if options.class_agnostic else ""
    )


def _meaning(name: str, options: Options) -> str:
    if options.rules == "voc":
        area = (
            "mean precision at eleven recalls (2007)" if options.use_07_metric else "area below the curve (from 2010)"
        )
        return f"average precision at IoU {options.match_iou:g}, {area}, mean over the classes"
    most = limits_of(options.iou_type or "bbox", options.max_detections)[-1]
    if options.keypoints:
        return metrics_of("keypoints")[name].replace("20 detections", f"{most} detection{'' if most == 1 else 's'}")
    return _coco_meaning(name, most, options.class_agnostic)


def _coco_meaning(name: str, most: int, class_agnostic: bool) -> str:
    if name[2:].isdigit() and name.startswith("AR"):
        many = f"{name[2:]} detection{'' if name == 'AR1' else 's'} per image{'' if class_agnostic else ' and class'}"
        return f"share of the objects found, mean over the IoUs, with {many}"
    words = metrics_of("bbox")[name].replace("AR100", f"AR{most}")
    return words.replace(" and classes", "") if class_agnostic else words


def _noted(table: Table | str, *notes: str) -> Group:
    """A table with notes below it, as wide as the terminal."""
    return Group(table, *(f" {note}\n" for note in notes if note))
