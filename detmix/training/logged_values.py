"""What is logged: the losses of a step or of a validated image, and how a batch was mixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..manifold import ManifoldMixup
from ..targets import Target


def total_and_terms(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sum of a detector's losses, ``loss``, and each by the name under which it is logged, ``loss_...``."""
    terms = {f"loss_{name.removeprefix('loss_')}": loss for name, loss in losses.items()}
    return {"loss": torch.stack(list(losses.values())).sum(0), **terms}


def mixing_numbers(targets: Sequence[Target]) -> dict[str, float]:
    """Mean weight of the first image over the blended ones of a batch, and the share of it that is mixed.

    An image with a part cut out counts as mixed, and has no such weight.
    """
    ratios = [target["lam"] for target in targets if "lam" in target]
    mixed = sum("lam" in target or "covers" in target for target in targets)
    numbers = {"train/mixed_fraction": mixed / len(targets)}
    return numbers | ({"train/lambda": sum(ratios) / len(ratios)} if ratios else {})


def feature_numbers(mixer: ManifoldMixup | None) -> dict[str, float]:
    """What a batch's features were mixed by, and at which layer; nothing where they were not."""
    if mixer is None or mixer.layer is None or not mixer.mixed:
        return {}
    layer = mixer.layers.index(mixer.layer)
    return {"train/mixed_fraction": 1.0, "train/lambda": mixer.lam, "train/layer": float(layer)}
