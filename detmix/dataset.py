"""Data sets that mix: any map-style data set of (image, target) in, blended samples out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sized
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import Dataset

from .canvas import image_size
from .draws import MIXING, generator_at
from .mixing import check_alpha, check_share, mix_pair, sample_lambda
from .targets import Target, check_target

Sample = tuple[Any, Target]


class MapDataset(Protocol):
    """What can be mixed: ``dataset[index]`` gives (image, target), ``len(dataset)`` how many there are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Draw(NamedTuple):
    """What is drawn for one sample: the index of its partner and the weight of its own image."""

    partner: int
    lam: float


class MixupDataset(Dataset[Sample]):
    """Blends each sample of a data set with another one, every box weighted by the share of its image.

    What is drawn for a sample is a function of (seed, epoch, index) alone: the number of workers, the
    order of visits and restarts do not matter. A partner is never the sample itself.

    Call ``set_epoch`` before each epoch, as for a ``DistributedSampler``, or every epoch draws the same
    partners. ``set_epoch`` and ``enable`` live in shared memory: worker processes that are already
    running see them with the next sample they load (samples they have loaded ahead stay as they are).
    """

    def __init__(
        self,
        dataset: MapDataset,
        *,
        alpha: float = 1.5,
        p: float = 1.0,
        min_weight: float = 0.0,
        transform: Callable[[Any, Target], Sample] | None = None,
        seed: int = 0,
    ) -> None:
        """Wrap a data set.

        Args:
            dataset: map-style data set of (image, target); see ``detmix.mix_pair`` for both.
            alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. 1.5 is the value of
                the Bag of Freebies.
            p: probability that a sample is mixed at all.
            min_weight: objects fainter than this are left out of a blended sample.
            transform: ``image, target -> image, target``, applied to every sample after mixing. For
                torchvision's v2 transforms pass ``detmix.data.Augment([...])``: on plain tensors they
                would move the pixels and leave the boxes.
            seed: of the draws; an integer.

        Raises:
            TypeError: the seed is not an integer.
            ValueError: alpha is negative, p or min_weight outside [0, 1], the data set is empty, or it has
                a single image and so no partner.
        """
        check_alpha(alpha)
        check_share("p", p)
        check_share("min_weight", min_weight)
        _check_length(dataset, mixing=alpha > 0 and p > 0)
        self.dataset = dataset
        self.alpha = alpha
        self.p = p
        self.min_weight = min_weight
        self.transform = transform
        self.seed = operator.index(seed)
        self._stream: int = dataset._stream + 1 if isinstance(dataset, MixupDataset) else MIXING
        self._shared = torch.tensor([0, 1]).share_memory_()  # epoch, enabled

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the draws belong to, here and in running workers."""
        self._shared[0] = epoch

    def enable(self, flag: bool = True) -> None:
        """Switch mixing on or off, here and in running workers."""
        self._shared[1] = int(flag)

    @property
    def epoch(self) -> int:
        """The epoch that the draws belong to."""
        return int(self._shared[0])

    @property
    def enabled(self) -> bool:
        """Whether samples are mixed."""
        return bool(self._shared[1])

    def draw(self, index: int) -> Draw | None:
        """What is drawn for sample 0 ... len - 1 in this epoch; None if it stays as it is."""
        if not self.enabled or self.alpha == 0:
            return None
        generator = generator_at(self.seed, self.epoch, index, self._stream)
        if generator.random() >= self.p:
            return None
        lam = sample_lambda(self.alpha, generator)
        partner = int(generator.integers(len(self.dataset) - 1))
        return Draw(partner + (partner >= index), lam)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The blended sample; the data set's own where nothing is mixed."""
        index = _absolute(index, len(self.dataset))
        draw = self.draw(index)
        image, target = self._plain(index) if draw is None else self._mix(index, draw)
        return (image, target) if self.transform is None else self.transform(image, target)

    def _plain(self, index: int) -> Sample:
        image, target = self.dataset[index]
        check_target(target, size=image_size(image))
        return image, target

    def _mix(self, index: int, draw: Draw) -> Sample:
        image, target = self.dataset[index]
        try:
            partner_image, partner_target = self.dataset[draw.partner]
            return mix_pair(image, target, partner_image, partner_target, lam=draw.lam, min_weight=self.min_weight)
        except Exception as error:
            names = f"{self._describe(index)} with its partner {self._describe(draw.partner)}"
            raise RuntimeError(f"mixing {names} failed: {error}") from error

    def _describe(self, index: int) -> str:
        image_path = getattr(self.dataset, "image_path", None)
        return f"sample {index}" if image_path is None else f"sample {index} ({image_path(index)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # an ordinary copy or unpickling gives private memory


def _absolute(index: int, length: int) -> int:
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for a data set of {length}")
    return index % length


def _check_length(dataset: Sized, *, mixing: bool) -> None:
    if len(dataset) == 0:
        raise ValueError("the data set is empty: there is nothing to mix")
    if mixing and len(dataset) == 1:
        raise ValueError("the data set has a single image: mixing needs a partner. Pass alpha=0 to train without")
