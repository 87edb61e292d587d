"""Detection rate against visibility: the accuracy on mixed samples of mixup, brought to detection.

Letters: V visibilities, N objects and D detections of one image, K classes with background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import box_iou

from ..arguments import check_iou
from ..detectors.modes import evaluating
from ..draws import ANALYSIS, generator_at
from ..mixing import mix_pair
from ..targets import Target
from .inference import OnStep, as_input, as_json, classes_of, device_of, names_of

VISIBILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, eq=False)
class DetectionRates:
    """How many objects a detector finds at each visibility.

    Attributes:
        visibilities: (V,) float64 in (0, 1]: share of the blend that the objects' image has.
        class_names: K - 1 names; label l is ``class_names[l - 1]``.
        counts: (K - 1,) int64, objects by class: the same ones at every visibility.
        found: (V, K - 1) int64, how many of them were found.
        iou_threshold: the least IoU of a match.
        score_threshold: the least score of a detection.
        num_pairs: number of pairs of images.
    """

    visibilities: NDArray[np.float64]
    class_names: tuple[str, ...]
    counts: NDArray[np.int64]
    found: NDArray[np.int64]
    iou_threshold: float
    score_threshold: float
    num_pairs: int

    @property
    def rates(self) -> NDArray[np.float64]:
        """(V,) recall over the objects of all classes; NaN if there are none."""
        return _ratio(self.found.sum(1), self.counts.sum())

    @property
    def rates_by_class(self) -> NDArray[np.float64]:
        """(V, K - 1) recall of each class; NaN for a class without objects."""
        return _ratio(self.found, self.counts)

    def to_json(self) -> dict[str, Any]:
        """All numbers as lists, ready for ``json.dump``; NaN becomes None."""
        numbers = asdict(self) | {"rates": self.rates, "rates_by_class": self.rates_by_class}
        return {name: as_json(value) for name, value in numbers.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> DetectionRates:
        """What ``to_json`` gave.

        Raises:
            ValueError: the content is another.
        """
        try:
            rates = cls(
                visibilities=np.array(content["visibilities"], np.float64),
                class_names=tuple(map(str, content["class_names"])),
                counts=np.array(content["counts"], np.int64),
                found=np.array(content["found"], np.int64),
                iou_threshold=float(content["iou_threshold"]),
                score_threshold=float(content["score_threshold"]),
                num_pairs=int(content["num_pairs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not detection rates, as tools/analyze.py writes them: {error!r}") from error
        shapes = rates.visibilities.shape, rates.found.shape, rates.counts.shape
        points, classes = rates.visibilities.size, len(rates.class_names)
        if not points or shapes != ((points,), (points, classes), (classes,)):
            raise ValueError(f"not detection rates: visibilities, found and counts have the shapes {shapes}")
        return rates


def detection_rates(
    model: nn.Module,
    dataset: Any,
    *,
    visibilities: Sequence[float] = VISIBILITIES,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.05,
    num_pairs: int | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> DetectionRates:
    """Blend validation images at each visibility and count which of their objects a detector finds.

    Image A of a pair is blended with a partner B as ``detmix.mix_pair`` does, with A's share ``lam`` the
    visibility; at visibility 1 the detector sees A alone, and the rate is its plain recall. The objects of
    A are counted. Those of B, whose visibility is the rest, are not: so every visibility is measured on the
    same objects of the same pairs, each image being A once, and curves of several models compare point by
    point. B's objects do take part in the matching: who finds B's dog has not found A's that stands there too.

    Matching is COCO's: a detection, the highest score first, gets the object of its class that it overlaps
    most and that no better one has, if their IoU is ``iou_threshold`` or more. Objects that their target
    marks as ``difficult`` or ``iscrowd`` do not count, and take no detection from one that does.

    Args:
        model: a detector with torchvision's interface: images in, dicts of boxes, labels and scores out.
        dataset: map-style, of two (image, target) samples or more, not mixed; images of any kind that
            ``mix_pair`` takes, and targets with ``boxes`` and ``labels``.
        visibilities: V shares of image A, in (0, 1].
        iou_threshold: in (0, 1].
        score_threshold: detections that score less do not count. The rate is a recall: false detections cost
            nothing, so compare models at one threshold.
        num_pairs: how many images are taken as A, drawn at random; all of them unless given.
        class_names: names of the labels 1 ... K-1; the data set's own ``class_names`` unless given.
        batch_size: pairs in one call of the model, V images each.
        num_workers: processes that load and blend; 0 does it here.
        device: where the model is; where its parameters are unless given.
        seed: of the pairs, which depend on it and the length of the data set alone.
        on_step: called with the pairs done and their number, after each call of the model.

    Raises:
        ValueError: a number is out of its range, a label has no name, or there are fewer than two images.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412, whose accuracy on a
    mixed sample weighs both labels; here each object is found or not, by the visibility that it has.
    """
    _check(visibilities, iou_threshold, score_threshold)
    names = names_of(dataset, class_names)
    pairs = draw_pairs(len(dataset), num_pairs, seed)
    place = device_of(model) if device is None else torch.device(device)
    blends = _Blends(dataset, pairs, tuple(visibilities))
    own_draws = torch.Generator()  # or the loader would draw from the caller's random state
    loader = DataLoader(blends, batch_size, num_workers=num_workers, collate_fn=_joined, generator=own_draws)
    found = np.zeros((len(visibilities), len(names)), np.int64)
    totals = np.zeros_like(found)
    with torch.no_grad(), evaluating(model):
        for step, batch in enumerate(loader, start=1):
            detections = model([as_input(blend.image, place) for blend in batch])
            for blend, detection in zip(batch, detections, strict=True):
                hits = match(detection, blend.target, iou_threshold=iou_threshold, score_threshold=score_threshold)
                counted, classes = _counted(blend, names)
                np.add.at(totals[blend.row], classes, 1)
                np.add.at(found[blend.row], classes[hits[counted]], 1)
            if on_step is not None:
                on_step(min(step * batch_size, len(pairs)), len(pairs))
    shares = np.array(visibilities, np.float64)
    return DetectionRates(shares, names, totals[0], found, iou_threshold, score_threshold, len(pairs))


def draw_pairs(count: int, num_pairs: int | None, seed: int) -> NDArray[np.int64]:
    """Images A in order, each with a partner B that is another image, (P, 2) int64.

    Args:
        count: number of images.
        num_pairs: P; each image is A once if None. An image keeps its partner whatever P is.
        seed: of the draws.

    Raises:
        ValueError: there are fewer than two images, or P does not lie in 1 ... count.
    """
    if count < 2:
        raise ValueError(f"a pair needs two images, the data set has {count}")
    if num_pairs is not None and not 1 <= num_pairs <= count:
        raise ValueError(f"num_pairs must lie in [1, {count}], the number of images, got {num_pairs}")
    generator = generator_at(seed, 0, 0, ANALYSIS)
    partners = generator.integers(count - 1, size=count)
    partners += partners >= np.arange(count)
    firsts = np.sort(generator.permutation(count)[:num_pairs])
    return np.stack([firsts, partners[firsts]], axis=1)


def match(
    detection: dict[str, Tensor], target: Target, *, iou_threshold: float, score_threshold: float
) -> NDArray[np.bool_]:
    """Which objects of an image are found, by COCO's rules.

    COCO gives a detection to an ignored object only where no counted one is left for it: so what is found of the
    counted ones is what is found without the others.

    Args:
        detection: boxes (D, 4) xyxy, labels (D,) and scores (D,) of one image.
        target: boxes (N, 4) and labels (N,), and difficult and iscrowd (N,) or not; D and N may be 0.
        iou_threshold: the least IoU of a match.
        score_threshold: the least score of a detection.

    Returns:
        (N,) bool; False where an object is difficult or a crowd.
    """
    boxes, labels, scores = (detection[key].cpu() for key in ("boxes", "labels", "scores"))
    overlaps = box_iou(boxes.double(), target["boxes"].as_subclass(Tensor).cpu().double())  # (D, N)
    overlaps[labels[:, None] != target["labels"].cpu()] = 0.0
    overlaps[scores < score_threshold] = 0.0
    overlaps[:, _ignored(target)] = 0.0
    ranked = overlaps[scores.argsort(descending=True, stable=True)].numpy()
    taken = np.zeros(ranked.shape[1], bool)
    for row in ranked[(ranked >= iou_threshold).any(1)]:
        free = np.where(taken, 0.0, row)
        best = len(free) - 1 - int(free[::-1].argmax())  # of equals the last, as pycocotools has it
        taken[best] |= free[best] >= iou_threshold
    return taken


class _Blend(NamedTuple):
    image: Any
    target: Target
    row: int  # of the visibilities
    own: int  # the first so many objects are image A's


class _Blends(Dataset[list[_Blend]]):
    """Each pair at all visibilities, read once."""

    def __init__(self, dataset: Any, pairs: NDArray[np.int64], visibilities: tuple[float, ...]) -> None:
        self.dataset = dataset
        self.pairs = pairs
        self.visibilities = visibilities

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> list[_Blend]:
        a, b = (self.dataset[int(place)] for place in self.pairs[index])
        samples = [a if lam == 1 else mix_pair(*a, *b, lam=lam) for lam in self.visibilities]
        own = len(a[1]["boxes"])
        return [_Blend(image, target, row, own) for row, (image, target) in enumerate(samples)]


def _joined(pairs: list[list[_Blend]]) -> list[_Blend]:
    return [blend for blends in pairs for blend in blends]


def _ignored(target: Target) -> Tensor:
    """Objects that are difficult or crowds, (N,) bool on the CPU."""
    ignored = torch.zeros(len(target["boxes"]), dtype=torch.bool)
    for key in ("difficult", "iscrowd"):
        if key in target:
            ignored |= target[key].cpu().bool()
    return ignored


def _counted(blend: _Blend, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Image A's objects that count: their rows in the target, and their classes."""
    rows = np.flatnonzero(~_ignored(blend.target)[: blend.own].numpy())
    return rows, classes_of(blend.target["labels"][: blend.own], names)[rows]


def _ratio(found: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shape = np.broadcast_shapes(found.shape, counts.shape)
    return np.divide(found, counts, out=np.full(shape, np.nan), where=np.broadcast_to(counts > 0, shape))


def _check(visibilities: Sequence[float], iou_threshold: float, score_threshold: float) -> None:
    outside = [share for share in visibilities if not 0 < share <= 1]
    if outside or not len(visibilities):
        raise ValueError(f"visibilities must be one or more numbers in (0, 1], got {list(visibilities)}")
    check_iou("iou_threshold", iou_threshold)
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
