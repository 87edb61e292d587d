"""torchvision's v2 transforms on detection samples, every per-object key in step with the boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image as PILImage
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..batch import BatchMix, MixupBatch, Pairing
from ..canvas import image_size
from ..pipelines import parts_of
from ..target_checks import require_aligned, require_xyxy
from ..targets import SLIVER, Target, per_object_keys, plain, select_objects, without_covers
from .pixel_points import moved_points, pixel_points, require_support
from .points import check_keypoints, exchanged, joined
from .skeleton import check_mirrored

_VISIBILITY = "visibility of keypoints"  # the third column while the others are moved
_UNFIT = tuple(getattr(v2, name) for name in ("ClampKeyPoints", "SanitizeKeyPoints") if hasattr(v2, name))


def to_tv_tensors(image: Tensor | PILImage.Image, target: Target) -> tuple[tv_tensors.Image | PILImage.Image, Target]:
    """Wrap a sample so that torchvision's v2 transforms know what is what.

    Args:
        image: (C, H, W) tensor or PIL image.
        target: the dict described in :mod:`detmix.targets`.

    Returns:
        The image as ``tv_tensors.Image`` (a PIL image as it is) and a target with ``boxes`` as
        ``tv_tensors.BoundingBoxes``, and ``masks``, if any, as ``tv_tensors.Mask``; the other keys as they are. Memory
        is shared.

    Raises:
        TypeError: the image is neither a tensor nor a PIL image.
        ValueError: the target has keypoints, whose visibility v2 knows nothing of: ``Augment`` moves them; or boxes
            that are not in xyxy.
    """
    if "keypoints" in target:
        raise ValueError(
            "v2 transforms do not move keypoints of shape (N, P, 3): run them by detmix.data.Augment, which does"
        )
    return _wrapped(image, target)


def _wrapped(image: Tensor | PILImage.Image, target: Target) -> tuple[tv_tensors.Image | PILImage.Image, Target]:
    """Image, boxes and masks of a sample as ``tv_tensors``."""
    require_xyxy(target)
    if not isinstance(image, (Tensor, PILImage.Image)):
        raise TypeError(
            f"v2 transforms take (C, H, W) tensors and PIL images, got {type(image).__name__}: convert it first, say "
            "by torchvision.transforms.v2.functional.to_image, or use detmix.data.transforms.Albumentations for arrays"
        )
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image_size(image))
    wrapped = {**target, "boxes": boxes}
    if "masks" in target:
        wrapped["masks"] = tv_tensors.Mask(target["masks"])
    return tv_tensors.Image(image) if isinstance(image, Tensor) else image, wrapped


class Augment:
    """Runs torchvision v2 transforms on (image, target), and clears objects whose boxes were cut away.

    That is where a side is below a thousandth of a pixel. torchvision's own ``SanitizeBoundingBoxes`` would clear
    everything below a pixel. Keypoints move with the pixels that they lie in, for which torchvision 0.24 or newer is
    needed. One that ends outside of the image gets visibility 0, and so does one that was outside before a later
    transform, such as a padding behind a crop; the place of the latter is -1, -1.
    """

    def __init__(
        self, transforms: v2.Transform | Iterable[nn.Module] | None = None, *, mirrored: Sequence[int] | None = None
    ) -> None:
        """Compose the transforms.

        Args:
            transforms: v2 transforms, applied in order, or one, such as a ``v2.Compose``; a horizontal flip half of
                the time unless given.
            mirrored: P places, which keypoint each one becomes in a mirror image, such as the right eye for the left
                one: ``mirrored`` of a ``Skeleton``. Where the transforms make a mirror image, by an odd number of
                flips of either axis, keypoints are exchanged so; never unless given.

        Raises:
            TypeError: a transform is none.
            ValueError: mirrored does not exchange pairs of 0 ... P-1, or is given and ``ClampKeyPoints`` or
                ``SanitizeKeyPoints`` are among the transforms.
            RuntimeError: mirrored is given, and torchvision is older than 0.24.
        """
        if mirrored is not None:
            require_support()
        if transforms is None:
            transforms = v2.RandomHorizontalFlip()
        chosen = list(transforms) if isinstance(transforms, Iterable) else [transforms]
        if not all(map(callable, chosen)):
            raise TypeError(f"transforms must be v2 transforms, or one, got {transforms!r}")
        self.compose = v2.Compose([*chosen, v2.ClampBoundingBoxes()])
        self.mirrored = None if mirrored is None else check_mirrored(mirrored)
        if mirrored is not None:
            _refuse_unfit(self.compose)

    def __call__(self, image: Tensor | PILImage.Image, target: Target) -> tuple[Tensor | PILImage.Image, Target]:
        """Transform one sample.

        Args:
            image: (C, H, W) tensor or PIL image.
            target: the dict described in :mod:`detmix.targets`; masks (N, H, W), keypoints (N, P, 3).

        Returns:
            The same kinds: plain tensors, or ``tv_tensors`` where those came; a PIL image unless a transform, such as
            ``v2.ToImage()``, makes a tensor of it. The target without ``covers``.

        Raises:
            TypeError: the image is neither a tensor nor a PIL image; keypoints are no tensor; or a transform of your
                own leaves them another kind than the ``tv_tensors.KeyPoints`` that it gets.
            ValueError: boxes are not in xyxy; keypoints are of another shape, or not as many as ``mirrored`` has
                places; they meet ``ClampKeyPoints`` or ``SanitizeKeyPoints``; or a transform has left out boxes, and
                not what belongs to them.
            RuntimeError: there are keypoints, and torchvision is older than 0.24.
        """
        given = without_covers(target)
        picture, wrapped = _wrapped(image, given)
        if "keypoints" in given:
            wrapped |= self._split(given, image_size(image))
        moved, result = self.compose(picture, wrapped)
        require_xyxy(result)
        require_aligned(result, per_object_keys(wrapped))
        if "keypoints" in given:
            result = self._join(result, image_size(moved))
        sides = plain(result["boxes"])[:, 2:] - plain(result["boxes"])[:, :2]
        kept = select_objects(result, (sides >= SLIVER).all(dim=1))
        return _as(moved, image), {key: _as(value, given.get(key)) for key, value in kept.items()}

    def _split(self, target: Target, size: tuple[int, int]) -> Target:
        """Keypoints as what v2 moves, with their visibility beside."""
        keypoints = target["keypoints"]
        check_keypoints(keypoints, len(target["boxes"]), self.mirrored)
        _refuse_unfit(self.compose)
        return {"keypoints": pixel_points(keypoints[..., :2], size), _VISIBILITY: keypoints[..., 2]}

    def _join(self, target: Target, size: tuple[int, int]) -> Target:
        places, mirror_image = moved_points(target.get("keypoints"))
        rest = {key: value for key, value in target.items() if key != _VISIBILITY}
        keypoints = joined(places, target[_VISIBILITY], size)
        if mirror_image and self.mirrored is not None:
            keypoints = exchanged(keypoints, self.mirrored)
        return {**rest, "keypoints": keypoints}


def _refuse_unfit(transform: Any) -> None:
    """Raise ValueError if keypoints would meet a transform that moves or drops single ones."""
    for part in parts_of(transform):
        if isinstance(part, _UNFIT):
            raise ValueError(
                f"leave v2.{type(part).__name__} out: Augment clears the visibility of keypoints that leave the "
                "image, and keeps those of an object together"
            )


def _as(value: Any, like: Any) -> Any:
    """A tensor of ``tv_tensors`` as a plain one, unless the one that came was of them."""
    return value if isinstance(like, tv_tensors.TVTensor) or not isinstance(value, Tensor) else plain(value)


class MixupBatchTransform(v2.Transform):
    """``detmix.MixupBatch`` as a torchvision v2 transform of batches.

    ``v2.Compose([..., MixupBatchTransform(alpha=1.5)])(images, targets)``, with the images as a list or stacked,
    plain or ``tv_tensors``: the kinds that come are the kinds that leave. The arguments are those of
    ``MixupBatch``, and so are the draws of its training step; none is taken from torch's global generator.

    Attributes:
        mixer: the ``MixupBatch`` that does the work: its ``enable``, ``step`` and ``state_dict`` are there.
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
        """Set what is drawn; see ``MixupBatch`` for the arguments and what they raise."""
        super().__init__()
        self.mixer = MixupBatch(
            alpha=alpha, p=p, mix=mix, pairing=pairing, per_sample=per_sample, min_weight=min_weight, seed=seed
        )

    def forward(self, *inputs: Any) -> tuple[Any, Sequence[Target]]:
        """Mix a batch; counts one step.

        Args:
            inputs: B images and their B targets, as two arguments or as one pair.

        Returns:
            Images and targets; see ``MixupBatch.__call__``, also for what is raised.

        Raises:
            TypeError: not images and targets came.
        """
        pair = inputs[0] if len(inputs) == 1 else inputs
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"expected images and targets, got {[type(value).__name__ for value in inputs]}")
        images, targets = pair
        return self.mixer(images, targets)

    def extra_repr(self) -> str:
        """The arguments, as ``repr`` shows them."""
        names = ("alpha", "p", "mix", "pairing", "per_sample", "min_weight", "seed")
        return ", ".join(f"{name}={getattr(self.mixer, name)!r}" for name in names)
