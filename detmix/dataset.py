"""Data sets that mix: any map-style data set of (image, target) in, blended samples out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sized
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from .arguments import check_alpha, check_choice, check_count, check_index, check_integer, check_share
from .cache import Loaded, PartnerCache
from .canvas import canvas_size, compiled_blend, image_size, require_same_kind, require_supported
from .cutmix import cutmix_pair, cutout, region_around
from .draws import MIXING, generator_at
from .mixing import Draw, Sample, mix_pair, raise_named, require_sample, sample_lambda, transformed
from .partners import PartnerPolicy, Partners, index_partners
from .pipelines import check_transform
from .switch import Switched, depth_within
from .target_checks import check_target
from .targets import Target

Mix = Literal["mixup", "cutmix", "cutout"]


class MapDataset(Protocol):
    """What can be mixed: ``dataset[index]`` gives (image, target), ``len(dataset)`` how many there are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class MixupDataset(Switched, Dataset[Sample]):
    """Mixes each sample of a data set with another one, every box weighted by the share of it that is visible.

    What is drawn for a sample is a function of (seed, epoch, index) alone: the number of workers, the
    order of visits and restarts do not matter. A partner is never the sample itself. Where the choice of
    partners leaves a sample none while it leaves others some, that sample stays as it is.

    With ``cache=n`` that is true of whether a sample is mixed, how much and where, but not of its partner: that is one
    of the last n samples that the process loaded, each eligible one equally likely, so that mixing needs no second
    decode. It is a function of (seed, epoch, index) and of what the process was asked for before, in order, since
    ``set_epoch`` or ``enable`` was last called. A process is a worker of the data loader, or the one that loads
    without workers. So the same samples come from the same number of workers, batch size and order, and others from
    another, or if an epoch is taken up in its middle, or left there with persistent workers. A sample that is loaded
    takes the place of the oldest one held, or of its own older copy: none is held twice. Where none that is held may
    be the partner, as at the start of each epoch, the one that ``draw`` tells is loaded, and held too. Samples are
    held as the wrapped data set gave them, its random transforms included.

    Data sets of this class can be nested: what is mixed is mixed again, and shares multiply. Each level draws
    for itself, and ``set_epoch`` and ``enable`` reach all levels, through wrappers that keep what they wrap in an
    attribute, or in a list, tuple or dict of data sets, such as torch's ``Subset`` and ``ConcatDataset``. Within a
    wrapper that hides it elsewhere, as in a closure or a slot, an inner one needs a ``seed`` of its own, and to be told
    the epoch and the switch itself.

    Split data first, and mix the training part: a ``Subset`` of this would take partners from all of the data. Parts
    that are joined afterwards need a ``seed`` each, or they draw alike.

    Call ``set_epoch`` before each epoch, as for a ``DistributedSampler``, or every epoch draws the same
    partners. ``set_epoch`` and ``enable`` live in shared memory: worker processes that are already
    running see them with the next sample they load (samples they have loaded ahead stay as they are). The
    epoch is handed on to whatever within has ``set_epoch``: wrapped data sets, their transforms, and ``transform``.
    What keeps it in memory of its own, as such a transform may, shows it in workers that start later only.
    """

    def __init__(
        self,
        dataset: MapDataset,
        *,
        alpha: float = 1.5,
        p: float = 1.0,
        mix: Mix = "mixup",
        partner: PartnerPolicy = "any",
        cache: int = 0,
        min_weight: float = 0.0,
        transform: Callable[[Any, Target], Sample] | None = None,
        seed: int = 0,
    ) -> None:
        """Wrap a data set.

        Args:
            dataset: map-style data set of (image, target); see ``detmix.mix_pair`` for both. Choices of partners
                other than "any" also need its method ``labels_of(index)``, which returns the (N,) integer labels of
                a sample without reading the image, or, for "same_orientation", ``get_height_and_width(index)``, as in
                torchvision's reference scripts; it is called once per sample, here. torch's ``Subset`` and
                ``ConcatDataset`` of such data sets will do.
            alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. 1.5 is the value of
                the Bag of Freebies; RESULTS.md compares others with it.
            p: probability that a sample is mixed at all. 1 is the value of the Bag of Freebies too.
            mix: ``"mixup"`` blends the two images; ``"cutmix"`` replaces a region of the one by the other's, and
                ``"cutout"`` by nothing: see ``mix_pair``, ``cutmix_pair`` and ``cutout``. The region is
                drawn as by ``sample_region``, for the ratio drawn from Beta(alpha, alpha).
            partner: ``"any"`` other sample; ``"with_boxes"``, one that has an object; ``"background"``, one that has
                none; ``"other_class"``, one without a class of the sample; ``"same_orientation"``, one that is wider
                than high if the sample is, and not if it is not, so that the canvas of a pair keeps the shape of its
                images: see docs/speed.md. All eligible ones are equally likely.
                A draw takes O(1); of another class, where such samples are rare, O(distinct sets of classes).
                RESULTS.md compares mix, partner and cache on made-up scenes.
            cache: how many samples each process holds to take partners from, instead of loading a second sample; 0
                loads it. Each worker needs the memory: 64 images of 640x480, uint8, take 59 MB, and 64 of 1333x800,
                205 MB; ``cache_bytes`` tells what a process holds. It holds no more samples than there are.
            min_weight: objects fainter than this are left out of a mixed sample; by RESULTS.md 0.3 is no better than 0
                on blood cells.
            transform: ``image, target -> image, target``, applied to every sample after mixing. For
                torchvision's v2 transforms pass ``detmix.data.Augment([...])``: on plain tensors they
                would move the pixels and leave the boxes. It is a ValueError if the keys of :mod:`detmix.targets`
                that belong to the objects do not have a row for each box afterwards.
            seed: of the draws; an integer.

        Raises:
            TypeError: the data set is a stream; alpha, p or min_weight is no number; the seed or cache is not an
                integer; the transform cannot be called with image and target; or the choice of partners needs labels or
                sizes that the data set cannot tell; one that mixes cannot, since its own depend on the epoch.
            ValueError: alpha is negative or not finite, p or min_weight outside [0, 1], mix or partner unknown, a
                choice of partners or a cache given for cutout, cache negative, the data set is empty, or no sample of
                it has a partner.

        Loading a sample raises ValueError where the caches of all workers of this loader would not fit in memory: at
        the second sample that a process holds, if ``cache`` samples of its size would not, or later, once those held
        take more than the process's part. Other loaders, ranks and nested mixers are not counted.
        """
        super().__init__()
        alpha = check_alpha(alpha)
        p = check_share("p", p)
        min_weight = check_share("min_weight", min_weight)
        cache = check_count("cache", cache)
        _check_choices(mix, partner, cache)
        pairing = alpha > 0 and p > 0 and mix != "cutout"
        _check_length(dataset, pairing=pairing)
        self._partners = _index(dataset, partner) if pairing else None
        self.dataset = dataset
        self.alpha = alpha
        self.p = p
        self.mix: Mix = mix
        self.partner: PartnerPolicy = partner
        self.cache = cache
        self.min_weight = min_weight
        self.transform = check_transform(transform)
        self.seed = check_integer("seed", seed)
        self._depth = depth_within(self)
        self._stream = MIXING + self._depth
        self._held = PartnerCache(min(self.cache, len(dataset)) if pairing else 0)
        if pairing and mix == "mixup":
            compiled_blend()

    @property
    def cache_bytes(self) -> int:
        """Bytes that this process holds in its cache; each worker has one of its own."""
        return self._held.nbytes

    def draw(self, index: int) -> Draw | None:
        """What is drawn for sample 0 ... len - 1 in this epoch; None if it stays as it is.

        With a cache the partner is that which is loaded if the cache holds none.

        Raises:
            IndexError: there is no such sample.
        """
        index = check_index(index, len(self.dataset))
        setting = self._setting
        return self._draw(index, setting, self._generator(index, setting))

    def _generator(self, index: int, setting: list[int]) -> np.random.Generator:
        return generator_at(self.seed, setting[0], index, self._stream)

    def _draw(self, index: int, setting: list[int], generator: np.random.Generator) -> Draw | None:
        if not setting[1] or self.alpha == 0 or generator.random() >= self.p:
            return None
        lam = sample_lambda(self.alpha, generator)
        partner = index if self._partners is None else self._partners.draw(index, generator)
        if partner is None:
            return None
        if self.mix == "mixup":
            return Draw(partner, lam)
        centre_x, centre_y = generator.random(2).tolist()
        return Draw(partner, lam, (centre_x, centre_y))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The mixed sample; the data set's own where nothing is mixed.

        What the wrapped data set raises for the sample itself comes as it is.

        Raises:
            IndexError: there is no such sample.
            RuntimeError: the partner could not be loaded, or the two could not be mixed, whatever was raised for it,
                which is the cause; both are named by index and, if the data set has ``image_path``, by file.
            MemoryError: there was no memory for that; it comes as it is, with the names in a note.
            TypeError: the data set gives something else than (image, target) for the sample; a target that is mixed
                with no other has a value of the wrong type; or ``transform`` returns no sample.
            ValueError: such a target is malformed; ``transform`` left the keys out of step; or the cache does not fit
                in memory.
        """
        index = check_index(index, len(self.dataset))
        setting = self._setting
        generator = self._generator(index, setting)
        draw = self._draw(index, setting, generator)
        image, target = self._plain(index, setting) if draw is None else self._mix(index, draw, setting, generator)
        return transformed(self.transform, image, target)

    def _load(self, index: int) -> Sample:
        return require_sample(self.dataset[index], partial(self._describe, index))

    def _plain(self, index: int, setting: list[int]) -> Sample:
        image, target = self._load(index)
        check_target(target, size=image_size(image))
        if not self._held.capacity:
            return image, target
        if not setting[1]:
            self._held.clear()
            return image, target
        self._held.add(setting, Loaded(index, (image, target)))
        return copy.deepcopy((image, target))  # whoever gets it may write to it

    def _mix(self, index: int, draw: Draw, setting: list[int], generator: np.random.Generator) -> Sample:
        own = Loaded(index, self._load(index))
        if self.mix == "cutout":
            return self._cut_out(own.sample, draw)
        held = partner = self._partner_held(index, setting, generator) if self._held.capacity else None
        try:
            partner = held or Loaded(draw.partner, self._load(draw.partner))
            mixed = self._join(own.sample, partner.sample, draw)
        except Exception as error:
            names = f"{self._describe(index)} with its partner {self._describe(held.index if held else draw.partner)}"
            pair = (own, partner) if partner else ()  # or it is the partner that could not be loaded
            wrong = [self._describe(loaded.index) for loaded in pair if _is_wrong(loaded.sample)]
            raise_named(error, names, wrong[0] if wrong else None)
        if self._held.capacity:
            self._held.add(setting, *((own,) if held else (partner, own)))
        return mixed

    def _partner_held(self, index: int, setting: list[int], generator: np.random.Generator) -> Loaded | None:
        assert self._partners is not None
        return self._held.draw(setting, partial(self._partners.fits, index), generator)

    def _join(self, sample: Sample, partner: Sample, draw: Draw) -> Sample:
        if draw.centre is None:
            return mix_pair(*sample, *partner, lam=draw.lam, min_weight=self.min_weight)
        require_same_kind(sample[0], partner[0])
        region = region_around(draw.centre, draw.lam, canvas_size(sample[0], partner[0]))
        return cutmix_pair(*sample, *partner, region=region, min_weight=self.min_weight)

    def _cut_out(self, sample: Sample, draw: Draw) -> Sample:
        assert draw.centre is not None
        region = region_around(draw.centre, draw.lam, image_size(sample[0]))
        return cutout(*sample, region=region, min_weight=self.min_weight)

    def _describe(self, index: int) -> str:
        image_path = getattr(self.dataset, "image_path", None)
        return f"sample {index} ({image_path(index)})" if callable(image_path) else f"sample {index}"


def _is_wrong(sample: Sample) -> bool:
    """Whether a sample cannot be mixed with any."""
    image, target = sample
    try:
        require_supported(image)
        check_target(target, size=image_size(image))
    except (TypeError, ValueError):
        return True
    return False


def _check_choices(mix: str, partner: str, cache: int) -> None:
    check_choice("mix", mix, Mix)
    check_choice("partner", partner, PartnerPolicy)
    if mix == "cutout" and partner != "any":
        raise ValueError(f"cutout takes no partner, got partner={partner!r}")
    if mix == "cutout" and cache:
        raise ValueError(f"cutout takes no partner that could be held, got cache={cache}")


def _index(dataset: Sized, partner: PartnerPolicy) -> Partners:
    if partner != "any" and isinstance(dataset, MixupDataset):
        raise TypeError(
            f"partner={partner!r} needs labels and sizes that stay, and a MixupDataset's change with what is drawn: "
            "choose partners in the inner data set, or pass partner='any'"
        )
    return index_partners(partner, dataset)


def _check_length(dataset: Sized, *, pairing: bool) -> None:
    if isinstance(dataset, type):
        raise TypeError(f"a data set is wanted, and {dataset.__name__} is a class: make one, {dataset.__name__}(...)")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        name = type(dataset).__name__
        raise TypeError(f"a data set must have a length and samples by index, and {name} has not: see MixupIterable")
    if len(dataset) == 0:
        raise ValueError("the data set is empty: there is nothing to mix")
    if pairing and len(dataset) == 1:
        raise ValueError("the data set has a single image: mixing needs a partner. Pass alpha=0 to train without")
