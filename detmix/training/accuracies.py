"""Names of the accuracies among the numbers in ``metrics.json``: what a training measures, and how they are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..evaluation.numbering import categories
from ..evaluation.reading import read_ground_truth
from .evaluation import evaluate

# AP, AR100, segm/AP50, voc/AP50_11point; of one class AP/<class>, and a class may be called anything
_NAME = re.compile(r"(?P<whole>(?:[a-z]+/)?A[PR]\w*)(?:/(?P<of_class>.+))?", re.DOTALL)


def is_accuracy(name: str) -> bool:
    """Whether a number of that name is an accuracy, of which more is better."""
    return _NAME.fullmatch(name) is not None


def accuracies(class_names: Sequence[str], *, masks: bool) -> list[str]:
    """The names of all that a validation measures, whatever it detects.

    Args:
        class_names: those of the data, without background.
        masks: whether masks are measured beside boxes.
    """
    ids = range(1, len(class_names) + 1)
    nothing = {"images": [], "annotations": [], "categories": categories(class_names, ids)}
    return [*evaluate(read_ground_truth(nothing, masks=masks), [], (), {}, masks=masks).metrics()]


def listed(names: Iterable[str]) -> str:
    """The accuracies among names, in words: those of single classes once for all classes."""
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    whole = [match["whole"] for match in found if match["of_class"] is None]
    of_class = dict.fromkeys(f"{match['whole']}/<class>" for match in found if match["of_class"] is not None)
    classes = dict.fromkeys(match["of_class"] for match in found if match["of_class"] is not None)
    return ", ".join([*whole, *of_class]) + (f" of the classes {', '.join(classes)}" if classes else "")
