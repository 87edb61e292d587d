"""Whether results hold corners, [x1, y1, x2, y2], where COCO wants [x, y, width, height]: the ground truth tells.

Letter: S objects of a sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .overlaps import box_ious, pairs_of_images
from .records import GroundTruth, corners_of

_IMAGES = 200  # looked at, spread over the set
_PAIRS = 1_000_000  # of a detection and an object, looked at
_OBJECTS = 5  # the fewest that tell; one may be overlapped better by chance
_CLEARLY = 0.25  # of mean IoU


def check_not_corners(
    xywh: NDArray[np.float64], images: NDArray[np.int64], truth: GroundTruth, name: str, place: str
) -> None:
    """Refuse boxes that overlap the objects clearly better when read as corners.

    What counts is the mean, over the objects of a sample of images, of the best IoU with a detection: as corners it
    must not be higher by more than a quarter. Fewer than five objects tell nothing, and nor do detections of which more
    than one in a hundred would end before it begins.

    Args:
        xywh: (M, 4) boxes, finite.
        images: (M,) of them.
        truth: the ground truth.
        name: the file.
        place: where in it, with ``{}`` for the number of the row.

    Raises:
        ValueError: they are corners, to all appearance.
    """
    chosen = _sample(images, truth)
    rows, objects = np.flatnonzero(chosen[images]), np.flatnonzero(chosen[truth.objects.images])
    boxes = xywh[rows]
    sides = boxes[:, 2:] - boxes[:, :2]
    if len(objects) < _OBJECTS or (sides < 0).any(axis=1).mean() > 0.01:
        return
    targets, partners = pairs_of_images(truth.objects.images[objects], images[rows])
    wanted = truth.objects.corners[objects[targets]]
    as_sizes, as_corners = (
        _mean_best(box_ious(corners_of(read)[partners], wanted), targets)
        for read in (boxes, np.concatenate([boxes[:, :2], sides], axis=1))
    )
    if as_corners > as_sizes + _CLEARLY:
        raise ValueError(
            f"{name}: bbox must be [x, y, width, height], and these look like [x1, y1, x2, y2]: read as the former "
            f"they overlap the objects with a mean IoU of {as_sizes:.2f}, as the latter of {as_corners:.2f}; "
            f"got {boxes[0].tolist()} - at `{place.format(rows[0])}`"
        )


def _sample(images: NDArray[np.int64], truth: GroundTruth) -> NDArray[np.bool_]:
    """Which images are looked at, (I,): of some that have both objects and detections those with the fewest pairs."""
    count = len(truth.image_ids)
    pairs = np.bincount(images, minlength=count) * np.bincount(truth.objects.images, minlength=count)
    both = np.flatnonzero(pairs)
    some = both[:: 1 + len(both) // _IMAGES]
    some = some[np.argsort(pairs[some], kind="stable")]
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[some[pairs[some].cumsum() <= _PAIRS]] = True
    return chosen


def _mean_best(ious: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Mean over the objects of their best IoU; their pairs stand together, and each object has some."""
    return float(np.maximum.reduceat(ious, np.flatnonzero(np.diff(targets, prepend=-1))).mean())
