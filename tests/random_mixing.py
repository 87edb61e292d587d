"""Random settings of all that mixes samples, and what must hold whatever they are.

A number stands for a setting: kind and sizes of the images, keys of the targets, the mixer and its options, by which
samples are then mixed. ``check_setting`` raises where something does not hold.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from detmix import MixupBatch, MixupDataset, MixupIterable, check_target, cutmix_pair, cutout, mix_pair
from detmix.canvas import image_size
from detmix.cutmix import sample_region
from detmix.targets import per_object_keys

from .factories import ListDataset, make_boxes, make_parts
from .test_mixing import KINDS, as_kind, planar

Sample = tuple[Any, dict[str, Any]]
MIXERS = ("mix_pair", "cutmix_pair", "cutout", "dataset", "nested", "iterable", "batch", "collate")
OPTIONAL = ("weights", "sources", "masks", "keypoints", "area", "iscrowd", "difficult")


class Labelled(ListDataset):
    """Samples in memory whose labels can be asked for."""

    def labels_of(self, index: int) -> Tensor:
        return self.samples[index][1]["labels"]

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        return image_size(self.samples[index][0])


def check_setting(number: int) -> None:
    """Mix samples under the setting of a number, twice, and check everything that is promised of the result."""
    rng = np.random.default_rng(number)
    mixer = str(rng.choice(MIXERS))
    samples = make_samples(rng, alike=mixer in ("batch", "collate") and rng.random() < 0.3)
    before, state = copy.deepcopy(samples), rng.bit_generator.state
    found = mix(mixer, samples, rng)
    for sample, old in zip(samples, before, strict=True):
        require_equal(sample, old, "an input was written to")
    rng.bit_generator.state = state
    for sample, other in zip(found, mix(mixer, before, rng), strict=True):
        require_equal(sample, other, "the same setting drew something else")
    for sample in found:
        check_sample(sample, samples)


def make_samples(rng: np.random.Generator, *, alike: bool) -> list[Sample]:
    """Two to six samples of one kind of image, with the same keys; of one size if alike."""
    kind, keys = str(rng.choice(KINDS)), [key for key in OPTIONAL if rng.random() < 0.4]
    dtype = torch.float64 if rng.random() < 0.2 else torch.float32
    sizes = rng.integers(8, 48, (int(rng.integers(2, 7)), 2))
    sizes = sizes if not alike else np.broadcast_to(sizes[0], sizes.shape)
    objects = rng.integers(0, 5, len(sizes))
    objects[0] = max(objects[0], 1)
    made = []
    for place, (size, count) in enumerate(zip(sizes.tolist(), objects.tolist(), strict=True)):
        pixels = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
        target = make_target(rng, keys, count, size, place)
        made.append(as_kind((pixels, {**target, "boxes": target["boxes"].to(dtype)}), kind))
    return made


def make_target(rng: np.random.Generator, keys: list[str], count: int, size: Any, place: int) -> dict[str, Any]:
    """A target whose key ``track`` tells the image and the row of each object."""
    boxes = make_boxes(count, size, rng)
    everything = {
        "weights": torch.from_numpy(rng.random(count, np.float32)),
        "sources": torch.from_numpy(rng.integers(0, 2, count)),
        **make_parts(boxes, seed=place, size=size),
        "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        "iscrowd": torch.from_numpy(rng.integers(0, 2, count)),
        "difficult": torch.from_numpy(rng.integers(0, 2, count).astype(bool)),
    }
    track = torch.stack([torch.full((count,), place), torch.arange(count)], dim=1)
    labels = torch.from_numpy(rng.integers(1, 5, count))
    target = {"boxes": boxes, "labels": labels, "track": track, "image_id": place}
    return target | {key: everything[key] for key in keys}


def mix(mixer: str, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
    """Samples mixed by one of the mixers, with options that are drawn."""
    shares: dict[str, Any] = {"min_weight": float(rng.choice([0.0, 0.0, 0.1, 0.6]))}
    options = shares | {"alpha": float(rng.choice([0.0, 0.1, 1.0, 1.5, 8.0])), "p": float(rng.choice([1.0, 1.0, 0.5]))}
    options["seed"] = int(rng.integers(-(2**63), 2**63))
    if mixer.endswith("pair") or mixer == "cutout":
        return [mix_two(mixer, samples, rng, **shares)]
    if mixer == "iterable":
        return list(MixupIterable(samples, buffer_size=int(rng.integers(1, 8)), **options))
    if mixer in ("dataset", "nested"):
        return list_of(mix_dataset(Labelled(samples), rng, options, levels=1 + (mixer == "nested")), rng)
    batch = MixupBatch(
        mix=rng.choice(["mixup", "cutmix"]),
        pairing=rng.choice(["roll", "shuffle"]),
        per_sample=bool(rng.random() < 0.5),
        **options,
    )
    if mixer == "collate":
        return list(zip(*batch.collate(samples), strict=True))
    return list(zip(*batch([image for image, _ in samples], [target for _, target in samples]), strict=True))


def mix_two(mixer: str, samples: list[Sample], rng: np.random.Generator, **shares: float) -> Sample:
    lam = float(rng.choice([0.0, 1.0, rng.random()]))
    first, second = samples[0], samples[1]
    if mixer == "mix_pair":
        return mix_pair(*first, *second, lam=lam, **shares)
    sizes = [planar(image).shape[1:] for image, _ in samples[:2]]
    size = sizes[0] if mixer == "cutout" else tuple(map(max, *sizes))
    region = sample_region(lam, size, rng)
    if mixer == "cutout":
        return cutout(*first, region=region, **shares)
    return cutmix_pair(*first, *second, region=region, **shares)


def mix_dataset(dataset: Any, rng: np.random.Generator, options: dict[str, Any], *, levels: int) -> MixupDataset:
    how = str(rng.choice(["mixup", "cutmix", "cutout"]))
    if how != "cutout":
        choices = (
            ("any", "with_boxes", "other_class", "same_orientation") if isinstance(dataset, Labelled) else ("any",)
        )
        options = options | {"partner": str(rng.choice(choices)), "cache": int(rng.choice([0, 1, 4]))}
    try:
        mixed = MixupDataset(dataset, mix=how, **options)
    except ValueError as error:
        if "finds no partner for any of" not in str(error):
            raise
        mixed = MixupDataset(dataset, mix=how, **(options | {"partner": "any"}))
    if levels == 1:
        return mixed
    everything = range(len(dataset))
    options = {key: value for key, value in options.items() if key not in ("partner", "cache")}
    wrapped = [mixed, Subset(mixed, everything), ConcatDataset([mixed, mixed])][int(rng.integers(3))]
    return mix_dataset(wrapped, rng, options, levels=levels - 1)


def list_of(dataset: MixupDataset, rng: np.random.Generator) -> list[Sample]:
    dataset.set_epoch(int(rng.integers(0, 2**40)))
    return [dataset[int(index)] for index in rng.integers(0, len(dataset), 4)]


def check_sample(sample: Sample, samples: list[Sample]) -> None:
    """What is true of every sample that was mixed, or left as it was."""
    (image, target), (first, _) = sample, samples[0]
    assert type(image) is type(first), "the image is of another kind"
    assert getattr(image, "dtype", getattr(image, "mode", None)) == getattr(
        first, "dtype", getattr(first, "mode", None)
    )
    pixels = planar(image)
    assert len(pixels) == len(planar(first))
    assert np.isfinite(pixels).all()
    assert pixels.min() >= 0
    assert pixels.max() <= (255 if planar(first).max() > 1 else 1)
    size = pixels.shape[1:]
    check_target(target, size=size, num_classes=5)
    check_rows(target, samples, size)


def check_rows(target: dict[str, Any], samples: list[Sample], size: tuple[int, int]) -> None:
    """Every row of every key is that of the same object."""
    assert set(samples[0][1]) - {"weights", "sources"} <= set(target), "a key was lost"
    count = len(target["boxes"])
    for key in per_object_keys(target):
        assert len(target[key]) == count, f"{key} is misaligned"
    cut = "covers" in target
    for row, (place, number) in enumerate(target["track"].tolist()):
        image, source = samples[place]
        for key in ("labels", "iscrowd", "difficult"):
            assert key not in source or target[key][row] == source[key][number], f"{key} is another object's"
        box, old = target["boxes"][row].as_subclass(Tensor), source["boxes"][number].as_subclass(Tensor)
        assert torch.equal(box, old) or cut, "a box has moved"
        assert (box[:2] >= old[:2]).all()
        assert (box[2:] <= old[2:]).all()
        assert (box[2:] > box[:2]).all()
        if "weights" in target and "weights" in source:
            assert target["weights"][row] <= source["weights"][number] + 1e-6, "more is visible than there was"
        if "area" in source:
            assert target["area"][row] <= source["area"][number] + 1e-3
        if "masks" in source:
            check_mask(target["masks"][row], source["masks"][number], size, planar(image).shape[1:], cut=cut)
        if "keypoints" in source:
            points, others = target["keypoints"][row], source["keypoints"][number]
            assert torch.equal(points[:, :2], others[:, :2]), "a keypoint has moved"
            assert ((points[:, 2] == others[:, 2]) | ((points[:, 2] == 0) & cut)).all()


def check_mask(mask: Tensor, old: Tensor, size: Any, old_size: Any, *, cut: bool) -> None:
    assert tuple(mask.shape) == tuple(size), "a mask is of another size than the image"
    inner = mask[: old_size[0], : old_size[1]]
    assert int(mask.sum()) == int(inner.sum()), "a mask reaches out of its image"
    assert torch.equal(inner, old) or (cut and bool((inner <= old).all())), "a mask has changed"


def require_equal(sample: Sample, other: Sample, message: str) -> None:
    (image, target), (other_image, other_target) = sample, other
    assert np.array_equal(planar(image), planar(other_image)), message
    assert target.keys() == other_target.keys(), message
    for key, value in target.items():
        equal = torch.equal(value, other_target[key]) if isinstance(value, Tensor) else value == other_target[key]
        assert equal, f"{message}: {key}"
    assert not isinstance(image, Image.Image) or image.mode == other_image.mode, message
