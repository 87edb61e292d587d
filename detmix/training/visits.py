"""What the images of a validation or test set gave, one by one, and how the processes put it together."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..detectors import losses_and_detections
from ..evaluation import coco_results
from ..targets import Target
from .logged_values import total_and_terms


class Visit(NamedTuple):
    """What one image of a validation or test set gave."""

    predictions: list[dict[str, Any]]  # COCO results
    losses: dict[str, float]  # of the image by itself: ``loss``, and its terms ``loss_...``


def visit_images(
    detector: nn.Module, images: Sequence[Tensor], targets: Sequence[Target], category_ids: Sequence[int]
) -> dict[int, Visit]:
    """Detect on each image of a batch, and measure its losses by itself.

    Args:
        detector: one whose losses are weighted.
        images: (3, H, W) float, in [0, 1].
        targets: one for each image, with its ``image_id``.
        category_ids: COCO's ids of the classes, in the order of their labels.

    Returns:
        What each image gave, by its id.
    """
    losses, detections = losses_and_detections(detector, images, targets, per_image=True)
    terms = total_and_terms(losses)
    rows = torch.stack(list(terms.values()), dim=1).tolist()  # (B, terms)
    visits = {}
    for target, detection, row in zip(targets, detections, rows, strict=True):
        image_id = int(target["image_id"])
        found = coco_results([image_id], [detection], category_ids)
        visits[image_id] = Visit(found, dict(zip(terms, row, strict=True)))
    return visits


def gather(visits: dict[int, Visit]) -> dict[int, Visit]:
    """The visits of all processes by image id, each image once whatever the sampler's padding."""
    parts: list[Any] = [visits]
    if torch.distributed.is_initialized():
        parts *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, visits)
    merged = {image_id: visit for part in parts for image_id, visit in part.items()}
    return dict(sorted(merged.items()))  # in one order, since the rules of VOC rank equal scores by theirs


def mean_losses(visits: Sequence[Visit]) -> dict[str, float]:
    """Means over the images, which all have the same terms."""
    return {name: fmean(visit.losses[name] for visit in visits) for name in visits[0].losses}
