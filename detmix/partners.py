"""Which samples may be mixed with which: an index of flat arrays over labels or orientations, built once.

Letters: I images, S distinct sets of classes, W words of 64 bits that hold a set.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .lookups import read_labels, read_landscape

PartnerPolicy = Literal["any", "with_boxes", "background", "other_class", "same_orientation"]

_TRIES = 32  # candidates that are looked at before all sets of classes are


class Partners(Protocol):
    """Draws partners for the samples of one data set."""

    def draw(self, index: int, generator: np.random.Generator) -> int | None:
        """A partner of a sample, each eligible one equally likely, never itself; None if there is none."""
        ...

    def fits(self, index: int, other: int) -> bool:
        """Whether the other sample may be a partner of this one."""
        ...


def index_partners(policy: PartnerPolicy, dataset: Sized) -> Partners:
    """Build the index of a policy.

    Args:
        policy: ``"any"`` other sample; ``"with_boxes"``, one that has an object; ``"background"``, one that
            has none; ``"other_class"``, one that has no class in common with the sample (an image without
            objects has none in common with any); ``"same_orientation"``, one that is wider than high if the sample is,
            and not if it is not.
        dataset: of two samples or more. Once for every sample, ``"same_orientation"`` calls its
            ``get_height_and_width(index)``, which gives those of the image, and all others but ``"any"`` its
            ``labels_of(index)``, which gives the sample's labels, (N,) integers; neither should read the image. A
            ``Subset`` or ``ConcatDataset`` of ``torch.utils.data`` over such data sets will do.

    Raises:
        ValueError: no sample has a partner.
        TypeError: the data set has no such method, or that gives something else.
    """
    try:
        return _index(policy, dataset)
    except TypeError as error:
        raise TypeError(f"partner={policy!r}: {error}") from error


def _index(policy: PartnerPolicy, dataset: Sized) -> Partners:
    if policy == "any":
        return AnyOther(len(dataset))
    if policy == "same_orientation":
        return SameOrientation(read_landscape(dataset))
    labels, counts = read_labels(dataset)
    if policy == "other_class":
        return OtherClass(labels, counts)
    return OneOf(counts > 0 if policy == "with_boxes" else counts == 0, policy)


class AnyOther:
    """Every other sample."""

    def __init__(self, count: int) -> None:
        """Describe the samples.

        Args:
            count: how many there are, 2 or more.
        """
        self.count = count

    def draw(self, index: int, generator: np.random.Generator) -> int:
        """Any sample but this one."""
        partner = int(generator.integers(self.count - 1))
        return partner + (partner >= index)

    def fits(self, index: int, other: int) -> bool:
        """Whether it is another one."""
        return other != index


class OneOf:
    """The samples of one kind."""

    def __init__(self, eligible: NDArray[np.bool_], policy: str) -> None:
        """Index the samples that may be partners.

        Args:
            eligible: (I,), whether a sample is of that kind.
            policy: what the kind is called in errors.

        Raises:
            ValueError: no sample is.
        """
        self._eligible = eligible
        self._samples = np.flatnonzero(eligible)
        if not len(self._samples):
            lacking = "no image has an object" if policy == "with_boxes" else "every image has an object"
            raise ValueError(f"partner={policy!r} finds no partner for any of {len(eligible)} samples: {lacking}")

    def draw(self, index: int, generator: np.random.Generator) -> int | None:
        """One of the kind; None if the sample is itself the only one."""
        count = len(self._samples) - int(self._eligible[index])
        if count == 0:
            return None
        partner = int(self._samples[generator.integers(count)])
        return int(self._samples[count]) if partner == index else partner  # the last one stands in for itself

    def fits(self, index: int, other: int) -> bool:
        """Whether it is another one, of the kind."""
        return other != index and bool(self._eligible[other])


class SameOrientation:
    """The samples that are wider than high, for one that is; the others for one of those."""

    def __init__(self, landscape: NDArray[np.bool_]) -> None:
        """Index the samples by their orientation.

        Args:
            landscape: (I,), whether an image is wider than high.

        Raises:
            ValueError: no two have one orientation.
        """
        self._landscape = landscape
        self._groups = [np.flatnonzero(~landscape), np.flatnonzero(landscape)]
        self._places = np.where(landscape, np.cumsum(landscape), np.cumsum(~landscape)) - 1  # (I,), within the group
        if max(map(len, self._groups)) < 2:
            raise ValueError(
                f"partner='same_orientation' finds no partner for any of {len(landscape)} samples: "
                "one image is wider than high, and the other is not"
            )

    def draw(self, index: int, generator: np.random.Generator) -> int | None:
        """Another one of its orientation; None if it is the only one."""
        group = self._groups[int(self._landscape[index])]
        if len(group) == 1:
            return None
        place = int(generator.integers(len(group) - 1))
        return int(group[place + (place >= self._places[index])])

    def fits(self, index: int, other: int) -> bool:
        """Whether it is another one of its orientation."""
        return other != index and bool(self._landscape[other] == self._landscape[index])


class OtherClass:
    """The samples that have no class in common with a sample.

    A draw looks at a few candidates at random, which takes the same time however large the data set is. If
    none of them will do, because hardly any sample would, it goes through the S distinct sets of classes.
    """

    def __init__(self, labels: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Index the samples by their set of classes, in O(I log I).

        Args:
            labels: (M,) of all objects, image by image.
            counts: (I,), how many objects an image has.

        Raises:
            ValueError: any two images have a class in common.
        """
        sets = _class_sets(labels, counts)
        self._sets, set_of = np.unique(sets, axis=0, return_inverse=True)  # (S, W)
        self._set_of = set_of.reshape(-1).astype(np.int32)  # (I,)
        self._samples = np.argsort(self._set_of, kind="stable").astype(np.int32)  # (I,), set by set
        self._offsets = np.searchsorted(self._set_of[self._samples], np.arange(len(self._sets) + 1))
        if not _has_disjoint_pair(self._sets, single=len(counts) < 2):
            raise ValueError(
                f"partner='other_class' finds no partner for any of {len(counts)} samples: "
                "any two images have a class in common, and none is without objects"
            )

    def draw(self, index: int, generator: np.random.Generator) -> int | None:
        """A sample without a class of this one; None if there is none."""
        candidates = generator.integers(len(self._samples) - 1, size=_TRIES)
        candidates += candidates >= index
        own = self._sets[self._set_of[index]]
        fitting = candidates[_disjoint(self._sets[self._set_of[candidates]], own)]
        return int(fitting[0]) if len(fitting) else self._draw_from_all(own, generator)

    def fits(self, index: int, other: int) -> bool:
        """Whether it is another one, without a class of this one."""
        return other != index and bool(_disjoint(self._sets[self._set_of[[other]]], self._sets[self._set_of[index]])[0])

    def _draw_from_all(self, own: NDArray[np.uint64], generator: np.random.Generator) -> int | None:
        """The same over all sets; the sample has a class, or a candidate would have done, so is not among them."""
        sets = np.flatnonzero(_disjoint(self._sets, own))
        ends = np.cumsum(self._offsets[sets + 1] - self._offsets[sets])
        if not len(sets):
            return None
        place = int(generator.integers(ends[-1]))
        chosen = int(np.searchsorted(ends, place, side="right"))
        return int(self._samples[self._offsets[sets[chosen] + 1] - (ends[chosen] - place)])


def _class_sets(labels: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The classes of each image as bits, (I, W)."""
    classes = np.unique(labels)
    codes = np.searchsorted(classes, labels).astype(np.int32)
    words = max(1, -(-len(classes) // 64))
    sets = np.zeros(len(counts) * words, np.uint64)
    places = np.repeat(np.arange(len(counts)) * words, counts) + codes // 64
    np.bitwise_or.at(sets, places, np.uint64(1) << (codes % 64).astype(np.uint64))
    return sets.reshape(-1, words)


def _disjoint(sets: NDArray[np.uint64], own: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return np.logical_not(np.any(sets & own, axis=1))


def _has_disjoint_pair(sets: NDArray[np.uint64], *, single: bool) -> bool:
    """Whether two images share no class. Ends at the first such set; a class of every set settles it at once.

    Only where each two sets meet without one class in all of them does it compare all with all.
    """
    if single or np.bitwise_and.reduce(sets, axis=0).any():
        return False
    return any(_disjoint(sets, own).any() for own in sets)
