"""Mixing of samples: pure functions, the random draw passed in by the caller.

Letters: H, W height and width in pixels; C channels; N objects of one image. ``lam`` is the weight
of image A; image B has ``1 - lam``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, overload

import numpy as np
from torch import Tensor

from .arguments import check_alpha, check_share, require_generator
from .canvas import Image, blend, enclosing, image_size, require_same_kind
from .pipelines import apply
from .target_checks import check_target, require_aligned
from .targets import OBJECT_KEYS, Target, concatenate, per_object_keys, select_objects

Sample = tuple[Any, Target]


class Draw(NamedTuple):
    """What is drawn for a sample of a data set, or for an image of a batch.

    Attributes:
        partner: index of the sample, or row of the image, that it is mixed with; its own under cutout, which takes
            no other.
        lam: weight of its own image; under CutMix and cutout the share of the canvas that the region is
            drawn to leave, before it is clipped.
        centre: (x, y) of the region as fractions of the canvas; None, or of no meaning, under mixup.
    """

    partner: int
    lam: float
    centre: tuple[float, float] | None = None


@overload
def sample_lambda(alpha: float, generator: np.random.Generator, size: None = None) -> float: ...


@overload
def sample_lambda(alpha: float, generator: np.random.Generator, size: int) -> np.ndarray: ...


def sample_lambda(alpha: float, generator: np.random.Generator, size: int | None = None) -> float | np.ndarray:
    """Draw mixing ratios from Beta(alpha, alpha).

    Args:
        alpha: shape of the distribution, 0 or more. Large values mix most pairs half and half, values
            near 0 leave most images almost alone, and 0 means no mixing at all.
        generator: where the randomness comes from; the caller owns it.
        size: None for one ratio, or how many.

    Returns:
        One float in [0, 1], or (size,) float64. Ones where alpha is 0.

    Raises:
        ValueError: alpha is negative or not finite.
        TypeError: alpha is no number, or the generator is not numpy's.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412.
    """
    alpha = check_alpha(alpha)
    require_generator(generator)
    if alpha == 0:
        return 1.0 if size is None else np.ones(size)
    return generator.beta(alpha, alpha, size)


def require_sample(given: Any, describe: Callable[[], str]) -> Sample:
    """What a data set gave, as (image, target); ``describe`` names it in the TypeError for what is no such pair."""
    if not _is_pair(given):
        kind = f"{len(given)} values" if isinstance(given, (tuple, list)) else type(given).__name__
        raise TypeError(f"a data set must give (image, target), got {kind} for {describe()}")
    image, target = given
    return image, target


def _is_pair(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2


def transformed(transform: Callable[[Any, Target], Sample] | None, image: Any, target: Target) -> Sample:
    """A mixed sample after the transform of its data set.

    Raises:
        TypeError: the transform gave nothing, or no target, or would move pixels and not boxes.
        ValueError: per-object keys fell out of step with the boxes.
    """
    if transform is None:
        return image, target
    keys = (*OBJECT_KEYS, *per_object_keys(target))  # a key of one's own is known by its rows, and only until then
    sample = apply(transform, image, target)
    if sample is None or (_is_pair(sample) and sample[1] is None):
        raise TypeError(f"transform must return (image, target), and it returned {'(image, None)' if sample else None}")
    result = sample[-1] if isinstance(sample, (tuple, list)) else None  # what comes last may be of another format
    if isinstance(result, dict) and isinstance(result.get("boxes"), Tensor):
        require_aligned(result, keys)
    return sample


def raise_named(error: Exception, names: str, wrong: str | None = None) -> NoReturn:
    """Raise the error of two samples that could not be mixed, so that it names them.

    Args:
        error: what loading the second or mixing them raised.
        names: of both samples.
        wrong: name of the one whose target is at fault, if it is one of them.

    Raises:
        MemoryError: it was one; it comes as it is, with the names in a note.
        RuntimeError: it was anything else, which becomes the cause.
    """
    failed = f"mixing {names} failed" + (f" for {wrong}" if wrong else "")
    if isinstance(error, MemoryError):
        error.add_note(failed)
        raise error
    raise RuntimeError(f"{failed}: {error}") from error


def mix_pair(
    image_a: Image,
    target_a: Target,
    image_b: Image,
    target_b: Target,
    *,
    lam: float,
    min_weight: float = 0.0,
) -> tuple[Any, Target]:
    """Blend two images and keep every box, weighted by the share of its image.

    Both images sit at the top left of a zero canvas that holds them, so no box moves.

    Args:
        image_a: (C, Ha, Wa) tensor, uint8, float16, bfloat16, float32 or float64, plain or ``tv_tensors.Image``;
            (Ha, Wa, C) or (Ha, Wa) numpy array, uint8, float32 or float64; or PIL image.
        target_a: boxes (Na, 4) xyxy in pixels of image A; labels (Na,). Na may be 0.
        image_b: as image_a: same kind, dtype, device and C; any size.
        target_b: as target_a, with Nb boxes.
        lam: weight of image A, in [0, 1].
        min_weight: objects whose weight comes out below this are left out, with all their keys.

    Returns:
        The canvas, max(Ha, Hb) by max(Wa, Wb), of the kind and dtype given, and a new target: A's
        objects, then B's, their weights times lam, then 1 - lam; ``sources`` says which image each
        came from, and ``lam``, a float, repeats the ratio. Keys that belong to the image, such as image_id,
        are A's. uint8 is rounded to nearest, once; within about 1.5e-5 of a half it may go either way. Half
        precisions are blended in float32, and then rounded. A tensor lies in memory as A does, pixel by pixel or
        colour by colour. Inputs are left untouched.

    Raises:
        ValueError: lam or min_weight outside [0, 1]; channel counts differ; a target is malformed.
        TypeError: lam or min_weight is no number; the images differ in kind or dtype, or are of a kind that is not
            supported.

    Source: Zhang et al., Bag of Freebies for Training Object Detection Neural Networks, arXiv:1902.04103.
    """
    lam, min_weight = check_share("lam", lam), check_share("min_weight", min_weight)
    require_same_kind(image_a, image_b)
    size_a, size_b = image_size(image_a), image_size(image_b)
    check_target(target_a, size=size_a)
    check_target(target_b, size=size_b)
    target = mix_targets(target_a, target_b, lam, enclosing(size_a, size_b), min_weight)
    return blend(image_a, image_b, lam), target


def mix_targets(first: Target, second: Target, lam: float, size: tuple[int, int], min_weight: float = 0.0) -> Target:
    """The target of ``mix_pair``, on a canvas of (H, W) pixels; nothing is checked."""
    target = concatenate(first, second, size=size, shares=(lam, 1.0 - lam))
    target["lam"] = float(lam)
    return select_objects(target, target["weights"] >= min_weight) if min_weight > 0 else target
