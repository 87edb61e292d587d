"""What is wrong with ids, scores and boxes, in which row, and what the likely cause is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.bounds import EXACT
from ..data.box_format import wrong_format

_SHOWN = 5  # of the known ids, in a message


def check_ids(ids: NDArray[np.int64], known: NDArray[np.int64], name: str, place: str) -> NDArray[np.int64]:
    """Where each id stands among the known ones.

    Args:
        ids: (M,) of images or categories.
        known: (N,) rising.
        name: the file.
        place: where in it, with ``{}`` for the number of the row; its last word is the key.

    Raises:
        ValueError: an id is not known.
    """
    places = np.searchsorted(known, ids)
    unknown = known[places.clip(max=len(known) - 1)] != ids if len(known) else np.ones(len(ids), dtype=np.bool_)
    if unknown.any():
        row, key = int(unknown.argmax()), place.rpartition(".")[2]
        share = f"; {unknown.sum()} of {len(ids)} rows are of unknown ones"
        raise ValueError(
            f"{name}: unknown {key} {ids[row]} - at `{place.format(row)}`{share}{_id_cause(ids, known, key)}"
        )
    return places


def _id_cause(ids: NDArray[np.int64], known: NDArray[np.int64], key: str) -> str:
    """What the ids may be instead, and which ones are known."""
    count = len(known)
    if not count:
        return ", and none is known"
    shown = ", ".join(map(str, known[:_SHOWN])) + (" ..." if count > _SHOWN else "")
    from_zero = np.array_equal(known, np.arange(count))
    if from_zero and ids.min() >= 1 and ids.max() == count:
        if key == "category_id":
            return f": they look like labels, 1 ... {count}, and known are {shown}; pass them through category_ids"
        return f", and known are {shown}: are they numbered from 1?"
    if not from_zero and ids.min() in (0, 1) and ids.max() <= count:
        return f": are they numbered 0, 1, 2 ... rather than by the ids of the ground truth, {shown}?"
    if not np.isin(ids, known).any():
        return f", and none of a known one: is this file of another data set? Known are {shown}"
    return f", and known are {shown}"


def check_scores(scores: NDArray[np.float64], name: str, place: str) -> None:
    """Refuse a score that is not in [0, 1].

    Raises:
        ValueError: with the row, and what such scores usually are.
    """
    check_finite(scores, name, "score", place, "; did the training diverge?")
    wrong = (scores < 0) | (scores > 1)
    if wrong.any():
        cause = "logits, which a sigmoid or softmax turns into scores" if scores.min() < 0 else "percentages"
        row = int(wrong.argmax())
        wanted = f"score must lie in [0, 1], got {scores[row]}"
        raise ValueError(f"{name}: {wanted} - at `{place.format(row)}`; are they {cause}?")


def check_finite(values: NDArray[np.float64], name: str, key: str, place: str, cause: str = "") -> None:
    """Refuse NaN and infinity in (M, ...) values; the cause ends the message.

    Raises:
        ValueError: with the row.
    """
    finite: Any = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    _refuse(~finite, values, f"{name}: {key} must be finite", place, cause)


def check_areas(areas: NDArray[np.float64], name: str, place: str) -> None:
    """Refuse (M,) areas that are infinite or below 0; NaN stands for one that is not given.

    Raises:
        ValueError: with the row.
    """
    _refuse((areas < 0) | np.isinf(areas), areas, f"{name}: area must be finite and 0 or more", place)


def check_keypoints(keypoints: NDArray[np.float64], name: str, place: str) -> None:
    """Refuse (M, P, 3) keypoints that are not finite, or beyond 2**53.

    Raises:
        ValueError: with the row.
    """
    check_finite(keypoints, name, "keypoints", place)
    far = (np.abs(keypoints) > EXACT).any(axis=(1, 2))
    _refuse(far, keypoints, f"{name}: keypoints must be in pixels, of 2**53 at most", place)


def check_boxes(xywh: NDArray[np.float64], name: str, place: str) -> None:
    """Refuse (M, 4) boxes that are not finite, beyond 2**53, or of negative size.

    Raises:
        ValueError: with the row.
    """
    check_finite(xywh, name, "bbox", place)
    _refuse((np.abs(xywh) > EXACT).any(axis=1), xywh, f"{name}: bbox must be in pixels, of 2**53 at most", place)
    negative = (xywh[:, 2:] < 0).any(axis=1)
    _refuse(negative, xywh, f"{name}: bbox must have a width and height of 0 or more", place)


def check_format(
    xywh: NDArray[np.float64], images: NDArray[np.int64], sizes: NDArray[np.int64], name: str, place: str
) -> None:
    """Refuse boxes that are not xywh in pixels to all appearance.

    Args:
        xywh: (M, 4) boxes.
        images: (M,) which image, 0 ... I-1.
        sizes: (I, 2), height and width of the images, 0 where not known.
        name: the file.
        place: where in it, with ``{}`` for the number of the row.

    Raises:
        ValueError: with the row, and the likely cause.
    """
    found = wrong_format(xywh, images, sizes)
    if found is not None:
        row, wrong = found
        raise ValueError(f"{name}: {wrong} - at `{place.format(row)}`")


def _refuse(wrong: Any, values: NDArray[np.float64], wanted: str, place: str, cause: str = "") -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{wanted}, got {values[row].tolist()} - at `{place.format(row)}`{cause}")
