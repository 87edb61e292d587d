"""Names of the accuracies among the numbers in ``metrics.json``: what a training measures, and how they are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..evaluation.numbering import categories
from ..evaluation.reading import read_ground_truth
from .evaluation import evaluate

# AP, AR100, segm/AP50, voc/AP50_11point; of one class AP/<class>, and a class may be called anything
_NAME = re.compile(r"(?P<whole>(?:[a-z]+/)?A[PR]\w*)(?:/(?P<of_class>.+))?", re.DOTALL)

# what a ground truth needs to be read with masks and keypoints; no number depends on it
_IMAGE = {"id": 1, "height": 1, "width": 1}
_OBJECT = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
_OBJECT |= {"keypoints": [0, 0, 0], "segmentation": {"size": [1, 1], "counts": [0, 1]}}


def is_accuracy(name: str) -> bool:
    """Whether a number of that name is an accuracy, of which more is better."""
    return _NAME.fullmatch(name) is not None


def accuracies(class_names: Sequence[str], *, masks: bool = False, keypoints: bool = False) -> list[str]:
    """The names of all that a validation measures, whatever it detects.

    Args:
        class_names: those of the data, without background.
        masks: whether masks are measured beside boxes.
        keypoints: whether keypoints are.
    """
    ids = range(1, len(class_names) + 1)
    some = {"images": [_IMAGE], "annotations": [_OBJECT], "categories": categories(class_names, ids)}
    truth = read_ground_truth(some, masks=masks, keypoints=keypoints)
    return [*evaluate(truth, [], (), {}, masks=masks, keypoints=keypoints).metrics()]


def listed(names: Iterable[str]) -> str:
    """The accuracies among names, in words: those of single classes once for all classes."""
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    whole = [match["whole"] for match in found if match["of_class"] is None]
    of_class = dict.fromkeys(f"{match['whole']}/<class>" for match in found if match["of_class"] is not None)
    classes = dict.fromkeys(match["of_class"] for match in found if match["of_class"] is not None)
    return ", ".join([*whole, *of_class]) + (f" of the classes {', '.join(classes)}" if classes else "")
