"""Bridges to augmentation libraries that keep every per-object key in step with its box.

:class:`Albumentations` runs albumentations transforms on a sample, and :class:`Mixup` is one of its own kind, for
pipelines that are written in albumentations. For torchvision's v2 transforms, wrap a
sample with :func:`detmix.data.to_tv_tensors` and let ``SanitizeBoundingBoxes`` know of all keys:

    pipeline = v2.Compose([
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(labels_getter=detmix.object_keys),
    ])
    image, target = pipeline(*to_tv_tensors(image, target))
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torchvision import tv_tensors

from ..arguments import check_alpha, check_count, check_share
from ..canvas import compiled_blend, image_size, require_supported, to_pil
from ..draws import AUGMENTATION, generator_at
from ..mixing import mix_pair, sample_lambda
from ..shared import Shared
from ..target_checks import require_xyxy
from ..targets import SLIVER, Target, select_objects, without_covers, wrap_like
from .points import PROBES, check_keypoints, exchanged, is_mirrored, joined, right_angle
from .rows import check_columns, encode, to_rows, to_sample
from .skeleton import check_mirrored

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # a look-up on the network at every import
import albumentations as A  # noqa: E402  it reads that variable when imported

_APART = 3  # pixels between two points, each of which albumentations draws three wide to follow it

_Transform: TypeAlias = A.BasicTransform | A.BaseCompose


class Albumentations:
    """Albumentations transforms as a callable on samples: ``image, target = augment(image, target)``.

    Boxes, masks and keypoints are transformed; all other per-object keys (labels, weights, sources, your
    own) follow their box, and leave with it when less than a thousandth of a pixel of its width or height
    is left. Boxes keep their fractions of a pixel. A keypoint that ends outside of the image, or that a transform
    leaves out, gets visibility 0. One that is outside in between keeps it: so pad before you crop. Where a border is
    filled by reflection, albumentations may make copies of keypoints, which is an error at such a sample.

    Args:
        transforms: albumentations transforms, in order, or one, such as an ``A.OneOf``.
        min_visibility: drops a box of which one transform leaves less than this share of its area.
        min_area: drops a box that a transform leaves smaller than this, in square pixels.
        mirrored: P places, which keypoint each one becomes in a mirror image, such as the right eye for the left one:
            ``mirrored`` of a ``Skeleton``. Where the transforms make a mirror image, by an odd number of flips of
            either axis, keypoints are exchanged so; never unless given. A distortion may lose the three points that
            tell, in the middle of the image: then all keypoints of the sample get visibility 0. One that is so strong
            that the image folds may count as a flip. ``A.RandomGridShuffle``, which scatters the three, is refused.
        seed: given, the draws depend on it, the epoch and the target's ``image_id`` alone, whatever the
            number of workers; call :meth:`set_epoch` before each epoch, or they repeat. Left out, they follow
            torch's global generator, as those of torchvision's v2 transforms do: every call draws anew, in every
            worker.

    Raises:
        TypeError: one is no transform of albumentations.
        ValueError: mirrored does not exchange pairs of 0 ... P-1; or it meets ``A.RandomGridShuffle``.
    """

    def __init__(
        self,
        transforms: Sequence[_Transform] | _Transform,
        *,
        min_visibility: float = 0.0,
        min_area: float = 0.0,
        mirrored: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> None:
        self.seed = seed
        self.mirrored = None if mirrored is None else check_mirrored(mirrored)
        self._epoch = Shared(torch.zeros((), dtype=torch.int64))  # workers that already run see it change
        boxes = A.BboxParams(
            format="albumentations",
            label_fields=["rows"],
            min_visibility=min_visibility,
            min_area=min_area,
            min_width=SLIVER,  # lest a box that left the image live on as a line, for a rotation to widen
            min_height=SLIVER,
            clip=True,
            filter_invalid_bboxes=True,
        )
        points = A.KeypointParams(format="xy", label_fields=["points"], remove_invisible=False)
        chosen = [transforms] if isinstance(transforms, _Transform) or not np.iterable(transforms) else list(transforms)
        if not all(isinstance(one, _Transform) for one in chosen):
            raise TypeError(f"transforms must be albumentations', or one of them, got {transforms!r}")
        if mirrored is not None and any(
            isinstance(part, A.RandomGridShuffle) for one in chosen for part in _parts(one)
        ):
            raise ValueError(
                "leave A.RandomGridShuffle out, or mirrored: where tiles are shuffled, nothing tells of flips"
            )
        # NoOp takes every kind of target, so boxes are filtered after a list that has only colour changes too
        self._compose = A.Compose([*chosen, A.NoOp()], bbox_params=boxes, keypoint_params=points)

    def set_epoch(self, epoch: int) -> None:
        """Move on to the draws of an epoch; seen by workers that already run."""
        self._epoch.values.fill_(check_count("epoch", epoch))

    def __call__(self, image: Any, target: Target) -> tuple[Any, Target]:
        """Augment a sample; the inputs are left untouched.

        Args:
            image: (C, H, W) tensor or (H, W, C) array, uint8, or float32 in [0, 1]; or PIL image.
            target: the dict described in :mod:`detmix.targets`; masks (N, H, W), keypoints (N, P, 3).

        Returns:
            An image of the kind given, and a new target, without ``covers``.

        Raises:
            TypeError: the image is neither a tensor nor an array nor a PIL image, of bfloat16, or of a mode that
                ``mix_pair`` does not take; or a transform makes it another kind. Keypoints are no tensor. Another key
                than boxes and masks is of ``tv_tensors``, and so says that it lies in the image: it would be left where
                it is.
            ValueError: there is a seed, and the target has no ``image_id``; boxes are not in xyxy; keypoints are of
                another shape, or not as many as ``mirrored`` has places; or a transform makes copies of them.
        """
        require_xyxy(target)
        _refuse_unmoved(target)
        if "keypoints" in target:
            check_keypoints(target["keypoints"], len(target["boxes"]), self.mirrored)
        pixels = _to_array(image)
        height, width = pixels.shape[:2]
        boxes = target["boxes"].as_subclass(Tensor).double().numpy()
        data: dict[str, Any] = {
            "image": pixels,
            "bboxes": boxes / [width, height, width, height],
            "rows": np.arange(len(boxes)),
            "points": np.arange(0),
        }
        if len(boxes):
            data.update(_masks_and_points(target, (height, width), with_probes=self.mirrored is not None))
        self._draw_from(self._generator(target))
        result = self._compose(**data)
        return _from_array(result["image"], image), _gather(target, result, self.mirrored)

    def _generator(self, target: Target) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        if "image_id" not in target:
            raise ValueError(f"a seed needs targets with an image_id to draw for, got the keys {sorted(target)}")
        return generator_at(self.seed, int(self._epoch.values), int(target["image_id"]), AUGMENTATION)

    def _draw_from(self, generator: np.random.Generator) -> None:
        self._compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))


def _parts(transform: _Transform) -> Iterator[_Transform]:
    """A transform and those within it."""
    yield transform
    for part in getattr(transform, "transforms", ()):
        yield from _parts(part)


def _refuse_unmoved(target: Target) -> None:
    """Raise TypeError if there is geometry of ``tv_tensors`` that albumentations is not told of."""
    for key, value in target.items():
        if isinstance(value, tv_tensors.TVTensor) and key not in ("boxes", "masks"):
            raise TypeError(
                "Albumentations moves boxes, masks and keypoints, the last of shape (N, P, 3) in a plain tensor, and "
                f"would leave {key!r}, a tv_tensors.{type(value).__name__}, where it is: take it out, or use "
                "detmix.data.Augment"
            )


def _to_array(image: Any) -> NDArray[Any]:
    """The image as an (H, W, C) array of its own memory."""
    if isinstance(image, PILImage.Image):
        require_supported(image)
    elif not isinstance(image, (Tensor, np.ndarray)):
        name = type(image).__name__
        raise TypeError(f"image must be a (C, H, W) tensor, an (H, W, C) array or a PIL image, got {name}")
    elif image.dtype == torch.bfloat16:
        raise TypeError("albumentations takes arrays, and numpy has no bfloat16: give it uint8 or float32")
    return image.as_subclass(Tensor).permute(1, 2, 0).numpy().copy() if isinstance(image, Tensor) else np.array(image)


def _from_array(pixels: Any, like: Any) -> Any:
    if not isinstance(pixels, np.ndarray):
        raise TypeError(
            f"the transforms must leave the image an array, got {type(pixels).__name__}: "
            "take ToTensorV2 out, the image comes back as the kind that it was"
        )
    if isinstance(like, np.ndarray):
        return pixels
    if isinstance(like, PILImage.Image):
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        if pixels.dtype != np.uint8 or channels != len(like.getbands()):
            raise TypeError(
                f"the transforms must leave a PIL image uint8 and of mode {like.mode}, got {pixels.dtype} in "
                f"{channels} channels: make the image a tensor before them"
            )
        return to_pil(pixels, like.mode)
    return wrap_like(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), like)


def _masks_and_points(target: Target, size: tuple[int, int], *, with_probes: bool) -> dict[str, NDArray[Any]]:
    data = {}
    if "masks" in target:
        masks = target["masks"].as_subclass(Tensor)
        data["masks"] = (masks if masks.is_floating_point() else masks.to(torch.uint8)).numpy()
    if "keypoints" in target:
        places = target["keypoints"].as_subclass(Tensor)[..., :2].reshape(-1, 2).numpy()
        data["keypoints"] = np.concatenate([places, _probes(places, size)]) if with_probes else places
        data["points"] = np.arange(len(data["keypoints"]))
    return data


def _probes(places: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """The right angle, moved aside where it would lie on a keypoint: distortions keep one point of those in a pixel."""
    probes = right_angle(size).numpy()
    for step in range(size[1] // 8):
        for shift in (step, -step):
            moved = probes + [shift, 0]
            if not (np.abs(moved[:, None] - places) < _APART).all(axis=2).any():
                return moved
    return probes


def _gather(target: Target, result: dict[str, Any], mirrored: Sequence[int] | None) -> Target:
    """The objects whose boxes came through, with what was transformed in place of what was given."""
    height, width = result["image"].shape[:2]
    corners = torch.from_numpy(np.asarray(result["bboxes"]) * [width, height, width, height])
    boxes = corners.to(target["boxes"].dtype)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a sliver may round to nothing
    rows = torch.as_tensor(result["rows"], dtype=torch.int64)[kept]
    gathered = select_objects(without_covers(target), rows)
    gathered["boxes"] = wrap_like(boxes[kept], target["boxes"], (height, width))
    if "masks" in target:
        masks = torch.from_numpy(result["masks"])[rows] if len(rows) else torch.zeros(0, height, width)
        gathered["masks"] = wrap_like(masks.to(target["masks"].dtype), target["masks"])
    if "keypoints" in result:
        gathered["keypoints"] = _keypoints(target["keypoints"], rows, result, mirrored)
    return gathered


def _keypoints(given: Tensor, rows: Tensor, result: dict[str, Any], mirrored: Sequence[int] | None) -> Tensor:
    """What the keypoints (N, P, 3) of some of the objects have become."""
    objects, points = given.shape[:2]
    numbers = np.asarray(result["points"], np.int64)
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError(
            "a transform has made copies of keypoints, as those do that reflect the image at its border: give it "
            "another border_mode, such as cv2.BORDER_CONSTANT"
        )
    places = np.full((objects * points + PROBES, 2), np.nan)  # of those that a transform left out
    places[numbers] = result["keypoints"]
    moved, probes = torch.from_numpy(places).split([objects * points, PROBES])
    keypoints = joined(moved.reshape(objects, points, 2)[rows], given[rows, :, 2], result["image"].shape[:2])
    if mirrored is None:
        return keypoints
    if probes.isnan().any():
        return torch.cat([keypoints[..., :2], torch.zeros_like(keypoints[..., 2:])], dim=-1)
    return exchanged(keypoints, mirrored) if is_mirrored(probes) else keypoints


class Mixup(A.DualTransform):
    """``detmix.mix_pair`` as an albumentations transform; partners come through the metadata of the call.

    In a Compose::

        params = A.BboxParams(format="pascal_voc", label_fields=["labels", "weights"])
        compose = A.Compose([A.HorizontalFlip(), Mixup(alpha=1.5, p=1.0)], bbox_params=params)
        mixed = compose(
            image=image, bboxes=boxes, labels=labels, weights=np.ones(len(boxes), np.float32),
            mixup_metadata=[{"image": other_image, "bboxes": other_boxes, "labels": other_labels}],
        )

    One of the partners is drawn, each as likely, and the ratio from Beta(alpha, alpha), by the random state of
    the transform, which a Compose with a ``seed`` sets. Partners are taken as they are: transforms before this one
    see the first image alone, those after it the mixed one. The canvas grows to hold both images; Compose
    compares shapes before the first transform only, and so does not object.

    The rows are those of ``mix_pair``: the image's objects, then the partner's, each with its label fields. Two
    of these have a meaning: ``weights``, which the ``label_fields`` must name, and ``sources``, which they may. A
    partner may leave these two out, for 1 and 0, and no other. Give arrays: from lists, albumentations makes lists
    of floats.

    Mixed are the image, (H, W, C) or (H, W), uint8 or float32; the boxes, in the format of Compose; and masks
    (N, H, W) of 0 and 1, if there are any, one for each box. Compose drops boxes without their masks, so this comes
    before anything that drops boxes. An image without objects has ``masks=[]``: albumentations' own transforms fail at
    an array of no masks. For their sake ``[]`` is also what comes back where no object is left.

    The ratio and the number of the partner are among the applied parameters (``get_applied_params``, or Compose's
    ``save_applied_params``) as ``lam`` and ``partner``. ``A.to_dict`` and ``A.from_dict`` work; for the latter,
    this module must have been imported.

    Args:
        alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. 1.5 as in ``MixupDataset``.
        min_weight: objects fainter than this are left out of a mixed image.
        metadata_key: the argument of the call that holds the partners: a dict with ``image``, ``bboxes``, the label
            fields and, if the image has them, ``masks``; or a sequence of such dicts, of which one is drawn.
        p: probability that an image is mixed; 0.5 as for albumentations' own transforms.

    Raises:
        ValueError: alpha is negative or not finite, p or min_weight outside [0, 1]. When called: a key or label field
            is missing, there is no partner, a target other than image, bboxes and masks came, or as ``mix_pair``.
        TypeError: alpha, p or min_weight is no number. When called: weights are not floats, sources not numbers, or as
            ``mix_pair``.

    Source: Zhang et al., Bag of Freebies for Training Object Detection Neural Networks, arXiv:1902.04103.
    """

    def __init__(
        self, alpha: float = 1.5, min_weight: float = 0.0, metadata_key: str = "mixup_metadata", p: float = 0.5
    ) -> None:
        alpha, min_weight = check_alpha(alpha), check_share("min_weight", min_weight)
        check_share("p", p)
        super().__init__(p=p)
        self.alpha = alpha
        self.min_weight = min_weight
        self.metadata_key = metadata_key
        if alpha > 0 and p > 0:
            compiled_blend()  # for workers that are forked later

    @property
    def targets_as_params(self) -> list[str]:
        """The arguments of the call that the transform cannot do without."""
        return ["image", "bboxes", self.metadata_key]

    def should_apply(self, force_apply: bool = False) -> bool:
        """Whether this image is mixed: never if alpha is 0."""
        return self.alpha > 0 and super().should_apply(force_apply)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw partner and ratio, and mix."""
        others = sorted(k for k in self.available_keys - {"image", "bboxes", "masks"} if data.get(k) is not None)
        if others:
            raise ValueError(f"Mixup mixes image, bboxes and masks, and would leave others behind: got {others}")
        partners = data[self.metadata_key]
        partners = [partners] if isinstance(partners, dict) else partners
        if not isinstance(partners, Sequence) or not partners:
            raise ValueError(f"{self.metadata_key} must be a dict or a sequence of one dict or more, got {partners!r}")
        number = int(self.random_generator.integers(len(partners)))
        lam = sample_lambda(self.alpha, self.random_generator)
        try:
            mixed = self._mix(data, partners[number], lam)
        except (TypeError, ValueError) as error:
            raise type(error)(f"mixing with {self.metadata_key}[{number}] failed: {error}") from error
        return {"lam": lam, "partner": number, "mixed": mixed}

    def apply_with_params(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the call got, with the mixed image, boxes and masks in the place of its own."""
        return {**kwargs, **params["mixed"]}  # albumentations' own leaves an empty list of masks as it is

    def _mix(self, data: dict[str, Any], partner: dict[str, Any], lam: float) -> dict[str, Any]:
        processor, fields = self._label_fields()
        with_masks = data.get("masks") is not None
        first = data["bboxes"] if len(data["bboxes"]) else np.zeros((0, 4 + len(fields)), np.float32)
        second = encode(partner, processor, given=data)
        check_columns(processor)
        samples = (
            to_sample(data, first, fields, masks=with_masks),
            to_sample(partner, second, fields, masks=with_masks),
        )
        samples[1][1]["labels"] += len(first)
        image, target = mix_pair(*samples[0], *samples[1], lam=lam, min_weight=self.min_weight)
        rows = np.concatenate([rows for rows in (first, second) if len(rows)] or [first])
        mixed = {"image": image, "bboxes": to_rows(target, rows, fields, image_size(image))}
        return {**mixed, "masks": target["masks"].numpy() if len(target["masks"]) else []} if with_masks else mixed

    def _label_fields(self) -> tuple[A.BboxProcessor, list[str]]:
        processor = self.get_processor("bboxes")
        fields = list(processor.params.label_fields or ()) if processor else []
        if "weights" not in fields:
            raise ValueError(f"Mixup needs a Compose with bbox_params whose label_fields name 'weights', got {fields}")
        return processor, fields
