"""Keypoints of objects and detections, and the constants by which COCO compares them.

Letters as in ``records.py``; keypoints are x, y and visibility of each, in COCO's files 3P numbers in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

from .checks import check_keypoints
from .records import Detections, GroundTruth

COCO_SIGMAS: NDArray[np.float64] = Params("keypoints").kpt_oks_sigmas
"""(17,), those of COCO's persons: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles."""

DEFAULT_SIGMA = 0.05
"""Of keypoints other than those 17, where nothing is said: about the middle of COCO's, 0.025 ... 0.107."""

_EACH = "keypoints must be 3 numbers, x, y and visibility, for each"


def oks_sigmas(count: int, sigmas: Sequence[float] | None = None) -> NDArray[np.float64]:
    """The constants of object keypoint similarity (OKS), one for each keypoint.

    A detection whose keypoint lies d pixels from that of an object of area s squared gets exp(-d² / (2 s² k²)) for it,
    k being twice its sigma: the larger sigma is, the less exact the place need be. OKS is the mean over the keypoints
    that are visible in the object.

    Args:
        count: P, the number of keypoints.
        sigmas: P finite numbers above 0; left out, COCO's own where P is 17, and else 0.05 for each, which is a choice
            of this package, about the middle of COCO's.

    Returns:
        (P,) float64.

    Raises:
        ValueError: they are not P, or not finite numbers above 0.

    Source: Ronchi and Perona, Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation, arXiv:1707.05388,
    and pycocotools, where the area has 2.2e-16 added, and k is twice sigma.
    """
    if sigmas is None:
        return COCO_SIGMAS.copy() if count == len(COCO_SIGMAS) else np.full(count, DEFAULT_SIGMA)
    values = np.array(sigmas)
    if values.dtype.kind not in "iuf" or values.ndim != 1 or not np.all((values > 0) & np.isfinite(values)):
        raise ValueError(f"sigmas must be finite numbers above 0, one for each keypoint, got {sigmas}")
    if len(values) != count:
        raise ValueError(f"sigmas must be one for each of {count} keypoints, got {len(values)}")
    return values.astype(np.float64)


def with_keypoints(found: Detections, rows: Sequence[Mapping[str, Any]]) -> Detections:
    """The same detections with their keypoints.

    Box and area are still those of the ``bbox``, as in pycocotools where results have one beside the keypoints.

    Args:
        found: what ``read_predictions`` has made of the ``bbox`` of the rows.
        rows: COCO results, in the same order, each with ``keypoints``: 3P numbers.

    Raises:
        ValueError: keypoints are missing, not all of one length, or not finite (the row is named); or there are not as
            many rows as detections.
    """
    if len(rows) != len(found):
        raise ValueError(f"{found.source}: got {len(rows)} rows for {len(found)} detections")
    place = "$[{}].keypoints"
    try:
        lists = msgspec.convert([_numbers(row.get("keypoints")) for row in rows], list[list[float]])
    except msgspec.ValidationError as error:
        raise ValueError(f"{found.source}: keypoints: {error}") from None
    count = _count(lists[:1], found.source, place) if lists else 0
    return replace(found, keypoints=keypoint_array(lists, count, "of the first row", found.source, place))


def _numbers(values: Any) -> Any:
    """Keypoints of a row: none as an empty list, those in an array as one."""
    return values.tolist() if isinstance(values, np.ndarray) else values or []


def object_keypoints(rows: Sequence[Any], name: str, place: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The keypoints of annotations, (G, P, 3), and whether each has visible ones, (G,).

    Those of an annotation without any are zeros, and none is visible.

    Args:
        rows: with ``keypoints``, a list or None, and ``num_keypoints``, how many are visible, or None where the file
            does not say.
        name: the file.
        place: where in it, with ``{}`` for the number of the row.

    Raises:
        ValueError: no row has keypoints; some are not all of one length, or not finite.
    """
    lists = [row.keypoints or [] for row in rows]
    if not any(lists):
        raise ValueError(
            f"{name}: no annotation has `keypoints`; are they in another file, person_keypoints_val.json say?"
        )
    count = _count(lists, name, place)
    filled = [numbers or [0.0] * (3 * count) for numbers in lists]
    keypoints = keypoint_array(filled, count, "that the first annotation with any has", name, place)
    seen = np.count_nonzero(keypoints[:, :, 2] > 0, axis=1).tolist()
    stated = [own if row.num_keypoints is None else row.num_keypoints for row, own in zip(rows, seen, strict=True)]
    posed = [bool(numbers) and visible != 0 for numbers, visible in zip(lists, stated, strict=True)]
    return keypoints, np.array(posed, dtype=np.bool_)


def detected_keypoints(rows: Sequence[Any], truth: GroundTruth, name: str, place: str) -> NDArray[np.float64]:
    """The keypoints of predictions, as many as the ground truth's objects have, (D, P, 3).

    Args:
        rows: with ``keypoints``, a list.
        truth: read with keypoints.
        name: the file.
        place: where in it, with ``{}`` for the number of the row.

    Raises:
        ValueError: some are of another length, or not finite.
    """
    return keypoint_array([row.keypoints for row in rows], count_of(truth), "of the ground truth", name, place)


def count_of(truth: GroundTruth) -> int:
    """P of a ground truth.

    Raises:
        ValueError: it was read without keypoints.
    """
    if truth.objects.keypoints is None:
        raise ValueError(f"{truth.source}: keypoints are to be measured, and it was read without")
    return truth.objects.keypoints.shape[1]


def check_keypoint_count(found: Detections, truth: GroundTruth) -> None:
    """Refuse detections, read with keypoints, of another number of these than the ground truth's.

    Raises:
        ValueError: with both numbers.
    """
    wanted = count_of(truth)
    assert found.keypoints is not None
    given = found.keypoints.shape[1] if len(found) else wanted
    if given != wanted:
        raise ValueError(f"{found.source}: keypoints must be {wanted} as in {truth.source}, got {given}")


def _count(lists: Sequence[Sequence[float]], name: str, place: str) -> int:
    """P, by the first list that is not empty, if there is one."""
    row = next((row for row, numbers in enumerate(lists) if numbers), 0)
    if not lists[row] or len(lists[row]) % 3:
        raise ValueError(f"{name}: {_EACH}, got {len(lists[row])} - at `{place.format(row)}`")
    return len(lists[row]) // 3


def keypoint_array(
    lists: Sequence[Sequence[float]], count: int, whose: str, name: str, place: str
) -> NDArray[np.float64]:
    """M lists of 3P numbers as (M, P, 3).

    Args:
        lists: of the rows.
        count: P.
        whose: keypoints these are, for messages.
        name: the file.
        place: where in it, with ``{}`` for the number of the row.

    Raises:
        ValueError: a list has another length, or a number is not finite or beyond 2**53.
    """
    for row, numbers in enumerate(lists):
        if len(numbers) != 3 * count:
            raise ValueError(f"{name}: {_EACH} of the {count} {whose}, got {len(numbers)} - at `{place.format(row)}`")
    flat = np.fromiter(chain.from_iterable(lists), np.float64, 3 * count * len(lists))
    keypoints = flat.reshape(len(lists), count, 3)
    check_keypoints(keypoints, name, place)
    return keypoints


def keypoint_boxes(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """The box around all keypoints of each row, visible or not, (M, 4) xywh."""
    low, high = keypoints[:, :, :2].min(axis=1), keypoints[:, :, :2].max(axis=1)
    return np.concatenate([low, high - low], axis=1)
