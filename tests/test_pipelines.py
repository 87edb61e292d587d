import functools

import albumentations as A
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import ToTensor, v2

from detmix import MixupDataset, MixupIterable
from detmix.benchmark.photographs import write_coco
from detmix.data import Augment, DetectionDataset, Shapes, WebDatasetStream, read_coco, to_tv_tensors
from detmix.pipelines import _MOVING, apply, check_transform

from .factories import ListDataset, make_sample

FLIP = v2.RandomHorizontalFlip(1.0)
PLAIN_BOXES = "RandomHorizontalFlip would move the pixels and leave the boxes.* pass detmix.data.Augment"


def test_without_a_transform_a_sample_stays_what_it_is():
    image, target = make_sample(2, seed=0)
    found = apply(None, image, target)
    assert found[0] is image
    assert found[1] is target


@pytest.mark.parametrize(
    "transform",
    [
        FLIP,
        v2.Compose([v2.ToDtype(torch.float32, scale=True), FLIP]),
        v2.Compose([v2.RandomApply([v2.RandomChoice([FLIP])])]),
        v2.RandomApply(torch.nn.ModuleList([FLIP])),
    ],
)
def test_a_transform_that_would_move_pixels_and_not_boxes_is_refused(transform):
    image, target = make_sample(2, seed=0)
    for picture in (image, tv_tensors.Image(image)):
        with pytest.raises(TypeError, match=PLAIN_BOXES):
            apply(transform, picture, target)
    moved, boxes = apply(transform, *to_tv_tensors(image, target))
    assert moved.shape == image.shape
    assert len(boxes["boxes"]) == 2


def test_what_the_caller_puts_first_may_wrap_the_boxes():
    image, target = make_sample(2, seed=0)
    pipeline = v2.Compose([v2.ToDtype(torch.uint8), to_tv_tensors, FLIP])
    _, found = apply(pipeline, image, target)
    assert torch.equal(found["boxes"][:, [0, 2]], image.shape[2] - target["boxes"][:, [2, 0]])


def test_each_of_torchvisions_that_moves_pixels_is_known():
    here = [kind for kind in vars(v2).values() if getattr(kind, "__module__", "").endswith("v2._geometry")]
    several = {v2.FiveCrop, v2.TenCrop}  # images out of one: torchvision refuses boxes itself
    assert set(here) - several == set(_MOVING)


@pytest.mark.parametrize("transform", [v2.ToDtype(torch.float32, scale=True), v2.Compose([v2.ColorJitter(0.5)])])
def test_one_that_moves_nothing_is_welcome(transform):
    image, target = make_sample(2, seed=0)
    assert apply(transform, image, target)[1]["boxes"] is target["boxes"]


class Called:
    """A transform of samples, in a class of its own."""

    def __call__(self, image, target):
        return image, target


def flip(image):
    return image.flip(-1)


@functools.wraps(flip)
def flip_both(image, target):
    return flip(image), target


TAKEN = [None, Called(), Called().__call__, FLIP, max, lambda image, target=None: image, flip_both]


@pytest.mark.parametrize("transform", TAKEN)
def test_what_takes_image_and_target_is_a_transform(transform):
    assert check_transform(transform) == transform


NO_TRANSFORMS = [
    (lambda image: image, "takes other arguments"),
    (ToTensor(), r"ToTensor\(\) takes other arguments"),
    (lambda image, target, depth: image, "takes other arguments"),
    (A.Compose([A.HorizontalFlip()]), r"pass detmix\.data\.transforms\.Albumentations"),
    (A.HorizontalFlip(), r"pass detmix\.data\.transforms\.Albumentations"),
    ("flip", "'flip' cannot be called"),
    ([FLIP], "cannot be called"),
]


@pytest.mark.parametrize(("transform", "told"), NO_TRANSFORMS)
def test_what_does_not_is_refused_by_all_data_sets_as_they_are_made(tmp_path, transform, told):
    samples = ListDataset([make_sample(2, seed=seed) for seed in range(3)])
    write_coco(tmp_path / "coco", 1, (32, 48))
    annotations = read_coco(tmp_path / "coco" / "annotations.json", tmp_path / "coco" / "images")
    shard = tmp_path / "a.tar"
    shard.touch()
    makers = [
        lambda: MixupDataset(samples, transform=transform),
        lambda: MixupIterable(samples.samples, transform=transform),
        lambda: DetectionDataset(annotations, transform=transform),
        lambda: Shapes(2, transform=transform),
        lambda: WebDatasetStream(shard, classes=["a"], box_format="xywh", transform=transform),
    ]
    for make in makers:
        with pytest.raises(TypeError, match=f"transform must be called with image and target, .*{told}"):
            make()


def test_all_data_sets_look(tmp_path):
    samples = ListDataset([make_sample(2, seed=seed) for seed in range(3)])
    with pytest.raises(TypeError, match=PLAIN_BOXES):
        MixupDataset(samples, transform=FLIP)[0]
    with pytest.raises(TypeError, match=PLAIN_BOXES):
        next(iter(MixupIterable(samples.samples, transform=FLIP)))
    write_coco(tmp_path / "coco", 1, (32, 48))
    annotations = read_coco(tmp_path / "coco" / "annotations.json", tmp_path / "coco" / "images")
    with pytest.raises(TypeError, match=PLAIN_BOXES):
        DetectionDataset(annotations, transform=FLIP)[0]
    with pytest.raises(TypeError, match=PLAIN_BOXES):
        Shapes(2, transform=FLIP)[0]
    image, target = Shapes(2, transform=Augment([FLIP]))[0]
    assert torch.equal(image.flip(-1), Shapes(2)[0][0])
