"""How training is mixed: the options of samples and of features, and the mixers that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.data import ConcatDataset

from ..batch import Pairing
from ..dataset import Mix, MixupDataset
from ..manifold import ManifoldMixup
from ..partners import PartnerPolicy


@dataclass
class MixupOptions:
    """How training samples are mixed; see ``detmix.MixupDataset``.

    Attributes:
        alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. 1.5 is the value of the Bag of
            Freebies. RESULTS.md compares it with no mixing, on made-up scenes with 0.04, 0.2, 1 and 5, and on blood
            cells with 0.2.
        p: probability that a sample is mixed at all; RESULTS.md compares 1 and 0.5.
        mix: ``mixup`` blends two images, ``cutmix`` replaces a region of the one by the other's, ``cutout``
            by nothing. RESULTS.md compares the three on made-up scenes.
        partner: ``any`` other image; ``with_boxes``, one that has an object; ``background``, one that has none;
            ``other_class``, one without a class of the sample; ``same_orientation``, one that is wider than high if
            the image is, and not if it is not, which keeps the canvas, and so the batch, as small as the images. A
            sample that has no such partner stays as it is. RESULTS.md compares ``any`` and ``other_class`` on made-up
            scenes.
        cache: partners are taken from so many samples that each worker loaded last, which saves the second decode;
            0 loads the partner. With a cache samples depend on ``num_workers`` too, and a run that is resumed within
            an epoch ends that with other partners. RESULTS.md compares 64 and 0 on made-up scenes.
        min_weight: objects fainter than this are left out; RESULTS.md compares 0.3 and 0 on blood cells.
        no_mixup_epochs: epochs at the end that train without mixing, that of batches and features included; a number
            below 1 is a share of all epochs, rounded (a half up), so that 0.1 is the last tenth. At least one epoch
            must be left. RESULTS.md compares a plain ninth and a plain half on blood cells.
    """

    alpha: float = 1.5
    p: float = 1.0
    mix: Mix = "mixup"
    partner: PartnerPolicy = "any"
    cache: int = 0
    min_weight: float = 0.0
    no_mixup_epochs: int | float = 0

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed at all."""
        return self.alpha > 0 and self.p > 0

    def unmixed_epochs(self, max_epochs: int | None) -> int:
        """How many epochs at the end train without mixing, of so many in all; None where their number is unknown."""
        stated = self.no_mixup_epochs
        return int(stated * (max_epochs or 0) + 0.5) if stated < 1 else int(stated)

    def check_schedule(self, max_epochs: int | None) -> None:
        """Refuse a ``no_mixup_epochs`` under which nothing would be mixed; for runs that mix something.

        Raises:
            ValueError: it leaves no epoch, ``max_epochs`` is unknown, or it is neither a share nor a whole number.
        """
        stated = self.no_mixup_epochs
        if stated == 0:
            return
        if max_epochs is None or max_epochs < 0:
            raise ValueError("data.mixup.no_mixup_epochs counts from the last epoch: set trainer.max_epochs")
        whole = stated < 1 or stated % 1 == 0
        if not (0 <= stated < max_epochs and whole and self.unmixed_epochs(max_epochs) < max_epochs):
            raise ValueError(
                f"data.mixup.no_mixup_epochs must lie in 0 ... {max_epochs - 1}, below "
                f"trainer.max_epochs={max_epochs}, or be a share of them below 1 that leaves one at least, "
                f"got {stated}. To train without mixing pass --data.mixup null"
            )


@dataclass
class ManifoldOptions:
    """How features are mixed inside the detector; see ``detmix.ManifoldMixup``.

    Attributes:
        layers: the layers to draw from, anew in each step: ``input``; ``backbone`` or a module in it by its
            dotted name, such as ``backbone.body.layer1``, or some of what that returns, ``backbone.fpn:0`` or, in
            quotes, ``"backbone.fpn:0,1"``; ``roi``, the box head's features, in two-stage detectors. RESULTS.md
            compares some on made-up scenes, where only ``input`` and an early stage cost no AP.
        alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. 2 as in ``ManifoldMixup``.
        p: probability that a step is mixed.
        pairing: ``roll`` mixes each image with the one before it, the first with the last; ``shuffle`` with a
            random one.
    """

    layers: list[str] = field(default_factory=lambda: ["input"])
    alpha: float = 2.0
    p: float = 1.0
    pairing: Pairing = "roll"

    @property
    def mixes(self) -> bool:
        """Whether features are mixed at all."""
        return self.alpha > 0 and self.p > 0


def mix_samples(sources: Sequence[Any], options: MixupOptions, seed: int) -> MixupDataset:
    """Join data sets and mix their samples.

    Raises:
        ValueError: an option is wrong, or the data leaves nothing to mix.
        TypeError: an option is of the wrong kind, or the data does not tell what its partners are drawn by.
    """
    try:
        return MixupDataset(
            sources[0] if len(sources) == 1 else ConcatDataset(sources),
            alpha=options.alpha,
            p=options.p,
            mix=options.mix,
            partner=options.partner,
            cache=options.cache,
            min_weight=options.min_weight,
            seed=seed,
        )
    except (ValueError, TypeError) as error:
        raise type(error)(f"data.mixup: {error}") from error


def mix_features(detector: nn.Module, options: ManifoldOptions) -> ManifoldMixup:
    """Mix features within a detector.

    Raises:
        ValueError: an option is wrong, or the detector has no such layer.
        TypeError: an option is of the wrong kind.
    """
    try:
        return ManifoldMixup(detector, options.layers, options.alpha, p=options.p, pairing=options.pairing)
    except (ValueError, TypeError) as error:
        raise type(error)(f"model.manifold: {error}") from error
