"""Batches of detection samples: put together, and mixed within themselves on whatever device they are.

Letters: B images; C, H, W channels, height and width in pixels; N objects of one image. ``lam`` is the
weight of an image, its partner has ``1 - lam``.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .arguments import check_alpha, check_choice, check_count, check_integer, check_share
from .canvas import blend, canvas_size, compiled_blend, image_size, require_same_kind
from .cutmix import cutmix_pair, region_around
from .draws import BATCHES, generator_at
from .mixing import Draw, mix_targets, require_sample, sample_lambda
from .readers import this_process
from .sending import sent_together
from .switch import Switched
from .target_checks import check_target, require_target_each
from .targets import OBJECT_KEYS, Target, plain, wrap_like

BatchMix = Literal["mixup", "cutmix"]
Pairing = Literal["roll", "shuffle"]

_COLLATED = BATCHES + 1  # what collate draws, apart from what a step draws


def collate(samples: Iterable[tuple[Any, Target]]) -> tuple[list[Any], list[Target]]:
    """Put samples into a batch, as torchvision's detectors take it: a ``collate_fn`` for ``DataLoader``.

    In a worker it sees to it that the batch is handed over fast: images share one piece of memory, which stays as long
    as one of them is kept, and the targets' small tensors travel in the message.

    Args:
        samples: (image, target) pairs; sizes may differ.

    Returns:
        The images and the targets, each as a list.

    Raises:
        TypeError: a sample is no such pair; its row in the batch is named.
    """
    pairs = [require_sample(given, partial("row {} of the batch".format, row)) for row, given in enumerate(samples)]
    return sent_together([image for image, _ in pairs], [target for _, target in pairs])


def draw_partners(count: int, pairing: Pairing, generator: np.random.Generator) -> np.ndarray:
    """Row of the partner of each image of a batch, (count,) int64: the one before it in a circle of all.

    Args:
        count: images in the batch; alone, an image is its own partner.
        pairing: ``roll`` takes the circle as the batch is ordered, ``shuffle`` at random.
        generator: where the randomness of ``shuffle`` comes from.
    """
    circle = generator.permutation(count) if pairing == "shuffle" else np.arange(count)
    partners = np.empty(count, np.int64)
    partners[circle] = np.roll(circle, 1)
    return partners


class MixupBatch(Switched):
    """Mixes the images of a batch with each other, every box weighted by its visible share.

    In the training step, on the device the batch is on::

        mixer = MixupBatch(alpha=1.5)
        images, targets = mixer(images, targets)

    or in the data loader's workers: ``DataLoader(..., collate_fn=mixer.collate)``. Neither decodes an
    image twice. They draw from two rules, since only one of them can be kept in workers, and only the
    other on a GPU without waiting for it:

    - in the step, from (seed, rank, ``step``), where ``step`` counts the calls of this object and goes on
      from ``load_state_dict``;
    - in ``collate``, from (seed, epoch, the batch's image ids in their order): the same batch is mixed the
      same way whatever the number of workers, processes or restarts. Call ``set_epoch`` before each epoch.

    ``set_epoch`` and ``enable`` live in shared memory: worker processes that are already running see them
    with the next batch they load. A batch of one image stays as it is. No row of a batch is its own partner; but
    a sampler with replacement may put an image into two rows of a batch, which may then be mixed with each other.

    Nothing is read back from an accelerator: targets that lie on one are checked for keys, shapes and dtypes
    and not for values. Two settings are exceptions, since what they return has as many rows as the values
    say: ``min_weight`` above 0, and ``mix="cutmix"``, which drops what is covered and checks values too. With
    them the host waits for the device at each mixed image, unless the targets are on the CPU.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412 (pairs within a
    batch); Zhang et al., Bag of Freebies for Training Object Detection Neural Networks, arXiv:1902.04103.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.5,
        p: float = 1.0,
        mix: BatchMix = "mixup",
        pairing: Pairing = "roll",
        per_sample: bool = False,
        min_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Set what is drawn.

        Args:
            alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. The defaults are those of
                ``MixupDataset``, for one rule in all; here they have not been measured.
            p: probability that the batch is mixed or, with per_sample, that an image is.
            mix: ``mixup`` blends as ``mix_pair``, ``cutmix`` replaces a region as ``cutmix_pair``.
            pairing: ``roll`` mixes each image with the one before it, the first with the last; ``shuffle``
                puts the images in a random circle first, so that every other one is equally likely.
            per_sample: one ratio (and one place of the region) for each image, instead of one for the batch.
            min_weight: objects fainter than this are left out.
            seed: of the draws; an integer.

        Raises:
            TypeError: alpha, p or min_weight is no number, or the seed is not an integer.
            ValueError: alpha is negative or not finite, p or min_weight outside [0, 1], or mix or pairing is unknown.
        """
        super().__init__()
        alpha = check_alpha(alpha)
        p = check_share("p", p)
        min_weight = check_share("min_weight", min_weight)
        check_choice("mix", mix, BatchMix)
        check_choice("pairing", pairing, Pairing)
        self.alpha = alpha
        self.p = p
        self.mix = mix
        self.pairing = pairing
        self.per_sample = per_sample
        self.min_weight = min_weight
        self.seed = check_integer("seed", seed)
        self.step = 0
        if alpha > 0 and p > 0 and mix == "mixup":
            compiled_blend()  # for workers that collate

    def __call__(self, images: Any, targets: Sequence[Target]) -> tuple[Any, Sequence[Target]]:
        """Mix a batch in the training step; counts one step, mixed or not.

        Args:
            images: B images of any size as a sequence, of one kind, dtype, device and number of channels
                (see ``detmix.mix_pair``), or a (B, C, H, W) tensor, uint8 or float.
            targets: their B targets.

        Returns:
            Images and targets, row by row those of ``mix_pair`` or ``cutmix_pair``: a list, or a stack if one
            came, in its memory format. Rows that are not mixed are the given ones; if none is, the batch itself is
            returned. Inputs are never written to.

        Raises:
            ValueError: shapes, lengths, devices or values do not fit; the row of the batch is named.
            TypeError: kinds or dtypes do not fit; likewise.
            RuntimeError: it is called in a worker of a data loader, whose count of steps is its own: each worker would
                draw the same.
        """
        if get_worker_info() is not None:
            raise RuntimeError(
                "in a data loader's worker the steps are not counted together, so pass the method collate of a "
                "MixupBatch as collate_fn, which draws by image ids, or mix in the training step"
            )
        _check_batch(images, targets)
        step, self.step = self.step, self.step + 1
        # steps count on from epoch to epoch, so the rank can take the epoch's place
        return self._mix(images, targets, generator_at(self.seed, this_process().number, step, BATCHES))

    def collate(self, samples: Iterable[tuple[Any, Target]]) -> tuple[Any, Sequence[Target]]:
        """Put samples into a batch and mix it: a ``collate_fn`` for ``DataLoader``.

        Args:
            samples: (image, target) pairs. Every target needs an integer ``image_id``, on the CPU.

        Returns:
            The images and the targets, each as a list; see ``__call__``.

        Raises:
            ValueError: as ``__call__``.
            TypeError: a sample is no pair, a target has no integer image_id, or as ``__call__``.
        """
        images, targets = collate(samples)
        _check_batch(images, targets)
        generator = generator_at(self.seed, self.epoch, _fingerprint(targets), _COLLATED)
        mixed, joined = self._mix(images, targets, generator)
        return sent_together(list(mixed), list(joined))

    def state_dict(self) -> dict[str, int]:
        """The step and the epoch that come next, for ``load_state_dict``."""
        return {"step": self.step, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on drawing where ``state_dict`` was taken.

        Raises:
            KeyError: the state lacks a number.
            TypeError: one is not an integer.
            ValueError: one is negative.
        """
        step, epoch = check_count("step", state["step"]), check_count("epoch", state["epoch"])
        self.step = step
        self.set_epoch(epoch)

    def _mix(
        self, images: Any, targets: Sequence[Target], generator: np.random.Generator
    ) -> tuple[Any, Sequence[Target]]:
        if not self.enabled or self.alpha == 0 or len(targets) < 2:
            return images, targets
        pairs = self._draw(len(targets), generator)
        if all(pair is None for pair in pairs):
            return images, targets
        return self._cut(images, targets, pairs) if self.mix == "cutmix" else self._blend(images, targets, pairs)

    def _draw(self, count: int, generator: np.random.Generator) -> list[Draw | None]:
        """What is drawn for each row; None for what stays as it is."""
        partners = draw_partners(count, self.pairing, generator)
        size = count if self.per_sample else 1
        mixed = np.broadcast_to(generator.random(size) < self.p, count)
        lams = np.broadcast_to(sample_lambda(self.alpha, generator, size), count).tolist()
        centres = np.broadcast_to(generator.random((size, 2)), (count, 2)).tolist()
        drawn = zip(mixed, partners.tolist(), lams, centres, strict=True)
        return [Draw(partner, lam, (x, y)) if chosen else None for chosen, partner, lam, (x, y) in drawn]

    def _blend(
        self, images: Any, targets: Sequence[Target], pairs: Sequence[Draw | None]
    ) -> tuple[Any, Sequence[Target]]:
        joined = []
        for row, (target, pair) in enumerate(zip(targets, pairs, strict=True)):
            if pair is not None:
                size = canvas_size(images[row], images[pair.partner])
                with _naming(f"rows {row} and {pair.partner}"):
                    target = mix_targets(target, targets[pair.partner], pair.lam, size, self.min_weight)
            joined.append(target)
        return _blend_stack(images, pairs) if isinstance(images, Tensor) else list(_blend_rows(images, pairs)), joined

    def _cut(
        self, images: Any, targets: Sequence[Target], pairs: Sequence[Draw | None]
    ) -> tuple[Any, Sequence[Target]]:
        samples = []
        for row, (image, target, pair) in enumerate(zip(images, targets, pairs, strict=True)):
            if pair is not None:
                assert pair.centre is not None
                other = images[pair.partner], targets[pair.partner]
                region = region_around(pair.centre, pair.lam, canvas_size(image, other[0]))
                with _naming(f"rows {row} and {pair.partner}"):
                    image, target = cutmix_pair(image, target, *other, region=region, min_weight=self.min_weight)
            samples.append((image, target))
        mixed, joined = collate(samples)
        return (_stacked(mixed, images) if isinstance(images, Tensor) else mixed), joined


def _blend_rows(images: Iterable[Any], pairs: Sequence[Draw | None]) -> Iterator[Any]:
    rows = list(images)
    for image, pair in zip(rows, pairs, strict=True):
        yield image if pair is None else blend(image, rows[pair.partner], pair.lam)


def _blend_stack(images: Tensor, pairs: Sequence[Draw | None]) -> Tensor:
    """(B, C, H, W) in, new (B, C, H, W) out."""
    pixels = plain(images)
    if pixels.dtype == torch.uint8:
        return _stacked(_blend_rows(pixels, pairs), images)
    stack = pixels.clone()
    for row, pair in enumerate(pairs):
        if pair is not None:
            stack[row].lerp_(pixels[pair.partner], 1.0 - pair.lam)  # as ``blend`` does, without a copy of the row
    return wrap_like(stack, images)


def _stacked(rows: Iterable[Tensor], like: Tensor) -> Tensor:
    """Images in a stack of the kind and the layout in memory that another has."""
    stack = torch.empty_like(plain(like))
    for row, image in enumerate(rows):
        stack[row] = image
    return wrap_like(stack, like)


def _fingerprint(targets: Sequence[Target]) -> int:
    """64 bits that stand for the image ids of a batch and their order."""
    ids = []
    for row, target in enumerate(targets):
        image_id: Any = target.get("image_id")
        try:
            ids.append(operator.index(image_id))
        except TypeError as error:
            raise TypeError(
                f"collate draws from integer image ids: row {row} of the batch has {image_id!r}. Give each target its "
                "index as image_id, or mix in the training step by mixer(images, targets)"
            ) from error
    return int.from_bytes(hashlib.blake2b(repr(ids).encode(), digest_size=8).digest(), "little")


def _check_batch(images: Any, targets: Sequence[Target]) -> None:
    require_target_each(len(images), targets)
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(f"stacked images must have shape (B, C, H, W), got {tuple(images.shape)}")
    for row, (image, target) in enumerate(zip(images, targets, strict=True)):
        with _naming(f"row {row}"):
            require_same_kind(images[0], image)
            _check_target(target, targets[0], image_size(image))


@contextmanager
def _naming(rows: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{rows} of the batch: {error}") from error


def _check_target(target: Target, first: Target, size: tuple[int, int]) -> None:
    boxes = target.get("boxes") if isinstance(target, dict) else None
    if isinstance(boxes, Tensor):
        _check_devices(target, first["boxes"].device)
    check_target(target, size=size, values=not isinstance(boxes, Tensor) or boxes.device.type == "cpu")


def _check_devices(target: Target, device: torch.device) -> None:
    for key in (k for k in OBJECT_KEYS if isinstance(target.get(k), Tensor)):
        if target[key].device != device:
            raise ValueError(f"targets must be on one device, got {key} on {target[key].device}, expected {device}")
