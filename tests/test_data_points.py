"""Keypoints through the transforms of torchvision and albumentations."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from detmix import MixupDataset, object_keys
from detmix.data import Augment, pixel_points, to_tv_tensors
from detmix.data.skeleton import Skeleton
from detmix.data.transforms import Albumentations

from .factories import make_boxes, make_parts

moved_by_v2 = pytest.mark.skipif(not hasattr(v2, "SanitizeKeyPoints"), reason="this torchvision is older than 0.24")
F = v2.functional
HEIGHT, WIDTH = 30, 44
MIRRORED = Skeleton(("nose", "left_eye", "right_eye", "left_ear", "right_ear")).mirrored
POINTS = len(MIRRORED)


def make_target(keypoints):
    """Objects whose boxes are the whole image."""
    boxes = torch.tensor([[0.0, 0, WIDTH, HEIGHT]]).repeat(len(keypoints), 1)
    return {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "keypoints": keypoints}


def make_dots(objects, seed):
    """An image that is black but for the pixel of each keypoint, whose value is its number; a third are not visible."""
    generator = torch.Generator().manual_seed(seed)
    count = objects * POINTS
    pixels = torch.randperm(HEIGHT * WIDTH, generator=generator)[:count]
    image = torch.zeros(HEIGHT * WIDTH)
    image[pixels] = torch.arange(1.0, count + 1)
    visible = torch.randint(0, 3, (count,), generator=generator)
    keypoints = torch.stack([pixels % WIDTH, pixels // WIDTH, visible], dim=1).float()
    return image.reshape(1, HEIGHT, WIDTH), make_target(keypoints.reshape(objects, POINTS, 3))


def assert_points_are_on_their_pixels(moved, result, target, *, mirror_image):
    """Each keypoint is where its pixel went, and not visible where that is gone."""
    objects = len(target["keypoints"])
    numbers = torch.arange(1, objects * POINTS + 1).reshape(objects, POINTS)
    seen = target["keypoints"][..., 2]
    if mirror_image:
        numbers, seen = numbers[:, list(MIRRORED)], seen[:, list(MIRRORED)]
    for number, visible, (x, y, now) in zip(
        numbers.flatten().tolist(), seen.flatten().tolist(), result["keypoints"].reshape(-1, 3).tolist(), strict=True
    ):
        places = (moved[0] == number).nonzero().tolist()
        assert now == (visible if places else 0)
        if places:
            assert [y, x] == pytest.approx(*places, abs=1e-4)  # the cosine of a right angle is not quite 0


def crop(left, top, right, bottom):
    """Takes so many pixels off each side, and leaves one at least."""

    def cut(image, target):
        height, width = image.shape[-2:]
        box = min(top, height - 1), min(left, width - 1)
        size = max(1, height - box[0] - bottom), max(1, width - box[1] - right)
        cuts = {
            key: F.crop(value, *box, *size) if isinstance(value, tv_tensors.TVTensor) else value
            for key, value in target.items()
        }
        return F.crop(image, *box, *size), cuts

    return cut


sides = st.tuples(*[st.integers(0, 8)] * 4)
FLIPS = (v2.RandomHorizontalFlip, v2.RandomVerticalFlip)
exact = st.one_of(
    st.sampled_from([flip(p=1.0) for flip in FLIPS]),
    st.sampled_from([v2.RandomRotation((turn, turn), expand=True) for turn in (90, 180, 270)]),
    sides.map(lambda border: v2.Pad(list(border))),
    sides.map(lambda border: crop(*border)),
    st.tuples(*[st.integers(44, 60)] * 2).map(v2.CenterCrop),
)


@moved_by_v2
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3), st.integers(0, 1000), st.lists(exact, max_size=6))
def test_keypoints_move_as_the_pixels_that_they_lie_in(objects, seed, transforms):
    image, target = make_dots(objects, seed)
    moved, result = Augment(transforms, mirrored=MIRRORED)(image, target)
    flips = sum(isinstance(transform, FLIPS) for transform in transforms)
    if len(result["keypoints"]) < objects:
        assert not moved.any()  # no pixel is left of the image that was given, which is the box of every object
        return
    assert_points_are_on_their_pixels(moved, result, target, mirror_image=flips % 2 == 1)


BLURRED = F.InterpolationMode.BILINEAR
CORNERS = [[0, 0], [WIDTH - 1, 0], [WIDTH - 1, HEIGHT - 1], [0, HEIGHT - 1]]
WAVES = torch.linspace(0, 3, WIDTH).sin() / 30
MOVES = {
    "horizontal flip": (F.horizontal_flip, {}),
    "vertical flip": (F.vertical_flip, {}),
    "affine": (F.affine, {"angle": 40, "translate": [2, 1], "scale": 0.9, "shear": [10, 5], "interpolation": BLURRED}),
    "affine off the middle": (
        F.affine,
        {"angle": 40, "translate": [0, 0], "scale": 1, "shear": [0, 0], "center": [20, 12], "interpolation": BLURRED},
    ),
    "perspective": (
        F.perspective,
        {
            "startpoints": CORNERS,
            "endpoints": [[-9, -7], [WIDTH + 7, -4], [WIDTH + 10, HEIGHT + 8], [-6, HEIGHT + 6]],
            "interpolation": BLURRED,
        },
    ),
    "resize": (F.resize, {"size": [49, 75]}),
    "resized crop": (F.resized_crop, {"top": 1, "left": 2, "height": 27, "width": 39, "size": [49, 75]}),
    "rotate": (F.rotate, {"angle": 40, "interpolation": BLURRED}),
    "rotate off the middle": (F.rotate, {"angle": 40, "center": [20, 12], "interpolation": BLURRED}),
    **{
        f"rotate by {angle} and expand": (F.rotate, {"angle": angle, "expand": True, "interpolation": BLURRED})
        for angle in (-77, 31.5, 45, 90, 122)
    },
    "elastic": (
        F.elastic,
        {
            "displacement": torch.stack([WAVES + 0.1, 0.05 - WAVES], -1).expand(1, HEIGHT, WIDTH, 2),
            "interpolation": BLURRED,
        },
    ),
    "crop": (F.crop, {"top": 3, "left": 5, "height": 24, "width": 36}),
    "pad": (F.pad, {"padding": [1, 2, 3, 4]}),
    "center crop": (F.center_crop, {"output_size": [23, 37]}),
    **{
        f"center crop to {size}": (F.center_crop, {"output_size": size})
        for size in (31, [33, 47], [23, 47], [33, 37], [37, 51])
    },
}


def make_blob(x, y):
    """An image that is black but for a square of three by three pixels around a point between them."""
    rows, columns = (
        (2 - (torch.arange(float(length)) - place).abs()).clamp(0, 1) for length, place in ((HEIGHT, y), (WIDTH, x))
    )
    return rows[:, None] * columns


def middle_of(image):
    """The mean place of what is bright: x and y."""
    y, x = torch.meshgrid(*map(torch.arange, image.shape), indexing="ij")
    return [float((image * axis).sum() / image.sum()) for axis in (x, y)]


@moved_by_v2
@pytest.mark.parametrize("as_pil", [False, True])
@pytest.mark.parametrize(("move", "arguments"), MOVES.values(), ids=MOVES)
def test_keypoints_are_in_the_middle_of_what_was_around_them(move, arguments, as_pil):
    places = [(16.4, 11.55), (24.0, 13.0), (26.45, 17.6)]
    image = torch.stack([make_blob(*place) for place in places])

    def moved(image, target):
        return move(image, **arguments), {**target, "keypoints": move(target["keypoints"], **arguments)}

    keypoints = torch.tensor([[[x, y, 2] for x, y in places]])
    given = F.to_pil_image(image) if as_pil else image
    result, target = Augment([moved])(given, make_target(keypoints))
    blobs = F.to_image(result) / 255 if as_pil else result
    assert target["keypoints"][..., 2].all()
    found = torch.tensor([middle_of(blob) for blob in blobs])
    torch.testing.assert_close(target["keypoints"][0, :, :2], found, atol=0.15, rtol=0)


@moved_by_v2
def test_every_function_that_moves_keypoints_is_in_the_table():
    assert {move for move, _ in MOVES.values()} == {move for moves in pixel_points._KERNELS.values() for move in moves}


@moved_by_v2
def test_an_image_that_was_turned_is_as_large_for_its_keypoints():
    image, target = make_dots(1, seed=0)
    for angle in range(-180, 180, 7):
        sizes = []

        def noted(image, target, sizes=sizes):
            sizes.extend([image.shape[-2:], target["keypoints"].canvas_size])
            return image, target

        Augment([v2.RandomRotation((angle, angle), expand=True), noted])(image, target)
        assert sizes[0] == sizes[1]


REFLECTIONS = (A.HorizontalFlip, A.VerticalFlip, A.Transpose)
exact_of_albumentations = st.one_of(
    st.sampled_from([flip(p=1) for flip in REFLECTIONS]),
    st.just(A.RandomRotate90(p=1)),
    st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(15, 25), st.integers(15, 25)).map(
        lambda box: A.Crop(*box, pad_if_needed=False)
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.integers(0, 1000), sides, st.lists(exact_of_albumentations, max_size=4))
def test_albumentations_moves_keypoints_as_the_pixels_that_they_lie_in(objects, seed, border, transforms):
    image, target = make_dots(objects, seed)
    crops = [one for one in transforms if isinstance(one, A.Crop)][:1]
    chosen = [A.Pad(padding=list(border)), *crops, *(one for one in transforms if not isinstance(one, A.Crop))]
    moved, result = Albumentations(chosen, mirrored=MIRRORED)(image / 255, target)
    flips = sum(isinstance(transform, REFLECTIONS) for transform in chosen)
    assert_points_are_on_their_pixels((moved * 255).round(), result, target, mirror_image=flips % 2 == 1)


FLIPPING = {
    "v2": pytest.param(lambda **keys: Augment(v2.RandomHorizontalFlip(1.0), **keys), marks=moved_by_v2),
    "v2, vertical": pytest.param(lambda **keys: Augment(v2.RandomVerticalFlip(1.0), **keys), marks=moved_by_v2),
    "albumentations": lambda **keys: Albumentations(A.HorizontalFlip(p=1), **keys),
    "albumentations, vertical": lambda **keys: Albumentations(A.VerticalFlip(p=1), **keys),
}


@pytest.mark.parametrize("flipping", FLIPPING.values(), ids=FLIPPING)
def test_a_flip_of_a_flip_is_what_was_there_bit_for_bit(flipping):
    image, target = make_dots(3, seed=0)
    target["keypoints"][..., :2] += torch.arange(5).reshape(1, 5, 1) / 16 - 0.125
    target["keypoints"][..., :2].clamp_(min=0).clamp_(max=torch.tensor([WIDTH - 1, HEIGHT - 1]))
    flip, plain = flipping(mirrored=MIRRORED), flipping()
    once = flip(image, target)
    assert torch.equal(once[1]["keypoints"], plain(image, target)[1]["keypoints"][:, [0, 2, 1, 4, 3]])
    assert torch.equal(flip(*once)[1]["keypoints"], target["keypoints"])


@moved_by_v2
def test_two_flips_in_one_pipeline_keep_every_fraction_of_a_pixel():
    keypoints = torch.rand(40, POINTS, 3, generator=torch.Generator().manual_seed(0))
    _, result = Augment([v2.RandomHorizontalFlip(1.0)] * 2, mirrored=MIRRORED)(
        torch.zeros(3, HEIGHT, WIDTH), make_target(keypoints)
    )
    assert torch.equal(result["keypoints"], keypoints)


blurred = st.one_of(
    st.sampled_from([flip(p=1.0) for flip in FLIPS]),
    st.sampled_from(
        [
            v2.RandomRotation(180),
            v2.RandomAffine(180, (0.3, 0.3), (0.3, 2.0), 30),
            v2.RandomPerspective(0.7, p=1.0),
            v2.ElasticTransform(sigma=2.0),
            v2.Resize((25, 61)),
            v2.ScaleJitter((40, 40), (0.5, 2.0)),
            v2.RandomShortestSize([20, 50]),
            v2.RandomResizedCrop((30, 30), (0.01, 0.2)),
            v2.RandomCrop((24, 24), pad_if_needed=True),
            v2.CenterCrop((20, 50)),
            v2.RandomZoomOut(p=1.0),
            v2.RandomIoUCrop(),
            v2.ColorJitter(0.3),
        ]
    ),
)


@moved_by_v2
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.lists(blurred, max_size=5))
def test_only_an_odd_number_of_flips_makes_a_mirror_image(seed, transforms):
    image, target = make_dots(2, seed=0)
    target["boxes"][1] = torch.tensor([2.0, 3, 12, 9])
    torch.manual_seed(seed)
    _, plain = Augment(transforms)(image, target)
    torch.manual_seed(seed)
    _, result = Augment(transforms, mirrored=MIRRORED)(image, target)
    flips = sum(isinstance(transform, FLIPS) for transform in transforms)
    expected = plain["keypoints"][:, list(MIRRORED)] if flips % 2 else plain["keypoints"]
    assert not torch.equal(target["keypoints"], target["keypoints"][:, list(MIRRORED)])
    assert torch.equal(result["keypoints"], expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(
        st.sampled_from(
            [
                *(flip(p=1) for flip in REFLECTIONS),
                A.Rotate(180, p=1),
                A.Affine(scale=(0.4, 2), rotate=(-180, 180), shear=(-20, 20), p=1),
                A.Perspective((0.05, 0.2), p=1),
                A.RandomResizedCrop((30, 30), scale=(0.1, 0.3), p=1),
                A.Resize(25, 61, p=1),
            ]
        ),
        max_size=4,
    ),
)
def test_albumentations_counts_flips_too(seed, transforms):
    image, target = make_dots(2, seed=0)
    target["image_id"] = 0
    _, plain = Albumentations(transforms, seed=seed)(image, target)
    _, result = Albumentations(transforms, seed=seed, mirrored=MIRRORED)(image, target)
    flips = sum(isinstance(transform, REFLECTIONS) for transform in transforms)
    expected = plain["keypoints"][:, list(MIRRORED)] if flips % 2 else plain["keypoints"]
    torch.testing.assert_close(result["keypoints"], expected)


class Losing(A.HorizontalFlip):
    """A flip that leaves out the last point, as distortions leave out those that they cannot find."""

    def apply_to_keypoints(self, keypoints, **params):
        return super().apply_to_keypoints(keypoints, **params)[:-1]


def test_where_nothing_tells_of_a_mirror_image_no_keypoint_is_visible():
    image, target = make_dots(2, seed=0)
    _, plain = Albumentations(A.HorizontalFlip(p=1))(image, target)
    _, result = Albumentations(Losing(p=1), mirrored=MIRRORED)(image, target)
    assert torch.equal(result["keypoints"][..., :2], plain["keypoints"][..., :2])
    assert plain["keypoints"][..., 2].any()
    assert not result["keypoints"][..., 2].any()


SHUFFLE = A.RandomGridShuffle((2, 2), p=1)


@pytest.mark.parametrize("transforms", [SHUFFLE, [A.OneOf([A.NoOp(), A.Sequential([SHUFFLE])])]])
def test_shuffled_tiles_tell_nothing_of_flips(transforms):
    with pytest.raises(ValueError, match=r"leave A\.RandomGridShuffle out, or mirrored"):
        Albumentations(transforms, mirrored=MIRRORED)
    moved, result = Albumentations(transforms)(*make_dots(1, seed=0))
    assert_points_are_on_their_pixels(moved, result, make_dots(1, seed=0)[1], mirror_image=False)


@pytest.mark.parametrize("mirrored", [None, MIRRORED])
@pytest.mark.parametrize(
    "make", [lambda mode: A.Pad(20, border_mode=mode), lambda mode: A.Rotate(border_mode=mode, p=1)]
)
def test_keypoints_of_which_a_reflection_makes_copies_are_refused(make, mirrored):
    image, target = make_dots(1, seed=0)
    with pytest.raises(ValueError, match="made copies of keypoints.*another border_mode"):
        Albumentations(make(cv2.BORDER_REFLECT_101), mirrored=mirrored)(image, target)
    Albumentations(make(cv2.BORDER_REPLICATE), mirrored=mirrored)(image, target)


@moved_by_v2
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sanitize", [False, True])
def test_keypoints_stay_with_their_objects_when_some_are_cut_away(seed, sanitize):
    rows = torch.arange(8)
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(8, 2, generator=generator) * torch.tensor([WIDTH - 6, HEIGHT - 6])
    target = make_target(torch.zeros(8, POINTS, 3))
    target["boxes"] = torch.cat([corners, corners + 5], dim=1)
    target["keypoints"][..., :2] = corners[:, None] + rows[:, None, None] / 8 * torch.arange(POINTS)[None, :, None]
    target["keypoints"][..., 2] = (rows % 3)[:, None]  # no point of rows 0, 3 and 6 is visible
    target |= {"row": rows, "weights": (rows + 1) / 8}
    torch.manual_seed(seed)
    clean = [v2.SanitizeBoundingBoxes(labels_getter=object_keys)] if sanitize else []
    cut = [v2.RandomIoUCrop(sampler_options=[0.1]), *clean, v2.RandomHorizontalFlip(1.0)]
    moved, result = Augment(cut)(torch.zeros(3, HEIGHT, WIDTH), target)
    left = result["row"]
    assert 0 < len(left) < 8
    assert torch.equal(result["weights"], target["weights"][left])
    x, y, seen = result["keypoints"].unbind(-1)
    inside = (x >= -0.5) & (x < moved.shape[2] - 0.5) & (y >= -0.5) & (y < moved.shape[1] - 0.5)
    assert torch.equal(seen, (left % 3)[:, None] * inside.float())
    steps = left[:, None] / 8 * torch.arange(POINTS)
    known = x[:, :1] >= 0
    torch.testing.assert_close((x[:, :1] - x)[known.expand_as(x) & (x >= 0)], steps[known.expand_as(x) & (x >= 0)])


@moved_by_v2
def test_what_a_crop_took_away_does_not_come_back_with_a_padding():
    keypoints = torch.tensor([[[2.0, 3, 2], [20, 15, 2]]])
    augment = Augment([crop(10, 10, 10, 10), v2.Pad(10)])
    _, result = augment(torch.zeros(3, HEIGHT, WIDTH), make_target(keypoints))
    assert result["keypoints"].tolist() == [[[-1, -1, 0], [20, 15, 2]]]


@moved_by_v2
def test_the_outermost_pixels_are_seen_at_half_the_size_too():
    keypoints = torch.tensor([[[0.0, 0, 2], [WIDTH - 1, HEIGHT - 1, 1]]])
    _, result = Augment(v2.Resize((HEIGHT // 2, WIDTH // 2)))(torch.zeros(3, HEIGHT, WIDTH), make_target(keypoints))
    assert result["keypoints"].tolist() == [[[-0.25, -0.25, 2], [WIDTH / 2 - 0.75, HEIGHT / 2 - 0.75, 1]]]


@moved_by_v2
def test_a_displacement_moves_keypoints_by_as_much_with_their_fractions():
    def displaced(image, target):
        field = torch.tensor([2 * 3 / WIDTH, 2 * 2 / HEIGHT]).expand(1, HEIGHT, WIDTH, 2)
        return F.elastic(image, field), {**target, "keypoints": F.elastic(target["keypoints"], field)}

    keypoints = torch.tensor([[[20.0, 15, 2], [20.25, 14.75, 2]]])
    image = torch.zeros(1, HEIGHT, WIDTH)
    image[0, 15, 20] = 1
    moved, result = Augment([displaced])(image, make_target(keypoints))
    assert moved[0].argmax() == 13 * WIDTH + 17
    torch.testing.assert_close(result["keypoints"], torch.tensor([[[17.0, 13, 2], [17.25, 12.75, 2]]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(0, POINTS, 3), (2, POINTS, 3), (2, 0, 3)])
@pytest.mark.parametrize("flipping", FLIPPING.values(), ids=FLIPPING)
def test_any_number_of_keypoints_comes_back_as_it_was_given(flipping, shape, dtype):
    target = make_target(torch.ones(shape, dtype=dtype))
    before = target["keypoints"].clone()
    mirrored = MIRRORED if shape[1] else ()
    image, result = flipping(mirrored=mirrored)(torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), target)
    assert result["keypoints"].shape == shape
    assert result["keypoints"].dtype == dtype
    assert type(result["keypoints"]) is type(image) is torch.Tensor
    assert result.keys() == target.keys()
    assert torch.equal(target["keypoints"], before)


@moved_by_v2
def test_whole_numbers_are_rounded():
    target = make_target(torch.tensor([[[21, 15, 2]]]))
    _, result = Augment(v2.Resize((45, 66)))(torch.zeros(3, HEIGHT, WIDTH), target)
    assert result["keypoints"].tolist() == [[[32, 23, 2]]]  # of 31.75 and 22.75


@moved_by_v2
def test_pictures_of_pil_and_wrapped_samples_carry_keypoints():
    image, target = make_dots(2, seed=0)
    augment = Augment(v2.RandomHorizontalFlip(1.0), mirrored=MIRRORED)
    expected = augment(image, target)[1]["keypoints"]
    assert torch.equal(augment(F.to_pil_image(image.to(torch.uint8)), target)[1]["keypoints"], expected)
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(HEIGHT, WIDTH))
    _, result = augment(tv_tensors.Image(image), target | {"boxes": boxes})
    assert isinstance(result["boxes"], tv_tensors.BoundingBoxes)
    assert torch.equal(result["keypoints"], expected)


@pytest.mark.parametrize("flipping", FLIPPING.values(), ids=FLIPPING)
def test_blended_samples_are_moved_with_the_keypoints_of_both(flipping):
    samples = []
    for seed in (0, 1):
        image, target = torch.full((3, 48, 64), seed * 9, dtype=torch.uint8), {"image_id": seed}
        target["boxes"] = make_boxes(2, (48, 64), np.random.default_rng(seed))
        target |= {"labels": torch.ones(2, dtype=torch.int64), **make_parts(target["boxes"], seed=seed)}
        samples.append((image, target))
    blended = MixupDataset(samples)[0]
    moved = MixupDataset(samples, transform=flipping(mirrored=range(17)))[0][1]["keypoints"]
    assert moved.shape == (4, 17, 3)
    assert torch.equal(moved, flipping()(*blended)[1]["keypoints"])
    assert not torch.equal(moved, blended[1]["keypoints"])


COPIES = {
    "clone": lambda points: points.clone(),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda points: pickle.loads(pickle.dumps(points)),
    "to": lambda points: points.to(torch.float32),
    "rows": lambda points: points[:],
    "wrap": lambda points: points.wrap(points + 0, like=points),
    "unbind": lambda points: unbound(points)[0][None],
}


def unbound(points):
    with tv_tensors.set_return_type("TVTensor"):
        return points.unbind()


@moved_by_v2
@pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("before", [0, 1, 2])
def test_copies_of_keypoints_know_of_the_flips_before_them(made, before):
    image, target = make_dots(1, seed=0)
    flips = [v2.RandomHorizontalFlip(1.0)] * before

    def copied(image, target):
        return image, {**target, "keypoints": made(target["keypoints"])}

    for transforms in ([*flips, copied], [*flips, copied, v2.Pad(3), v2.RandomVerticalFlip(1.0)]):
        expected = Augment([one for one in transforms if one is not copied], mirrored=MIRRORED)(image, target)
        assert torch.equal(
            Augment(transforms, mirrored=MIRRORED)(image, target)[1]["keypoints"], expected[1]["keypoints"]
        )


@moved_by_v2
def test_torchvision_wraps_tensors_as_keypoints_of_the_same_image():
    if not hasattr(tv_tensors.TVTensor, "wrap"):
        pytest.skip("this torchvision asks no class how it is wrapped")
    image, target = make_dots(1, seed=0)

    def shifted(image, target):
        image, points = F.pad(image, [2, 0, 0, 0]), target["keypoints"]
        moved = tv_tensors.wrap(points + torch.tensor([2, 0]), like=points, canvas_size=image.shape[-2:])
        return image, {**target, "keypoints": moved}

    flip = v2.RandomHorizontalFlip(1.0)
    own, expected = (
        Augment([flip, transform, flip], mirrored=MIRRORED)(image, target)
        for transform in (shifted, v2.Pad([2, 0, 0, 0]))
    )
    assert torch.equal(own[1]["keypoints"], expected[1]["keypoints"])


@moved_by_v2
def test_a_choice_among_flipped_copies_counts_the_flips_of_the_one_that_is_chosen():
    def either(image, target):
        samples = [flip(p=1.0)(copy.deepcopy(image), copy.deepcopy(target)) for flip in FLIPS]
        return samples[1]

    image, target = make_dots(2, seed=0)
    own, expected = (
        Augment([transform], mirrored=MIRRORED)(image, target) for transform in (either, v2.RandomVerticalFlip(1.0))
    )
    assert torch.equal(own[1]["keypoints"], expected[1]["keypoints"])


STRANGERS = {
    "Tensor": lambda points: points.as_subclass(torch.Tensor),
    "KeyPoints": lambda points: tv_tensors.KeyPoints(points, canvas_size=points.canvas_size),
    "list": lambda points: points.tolist(),
    "NoneType": lambda points: None,
}


@moved_by_v2
@pytest.mark.parametrize(("kind", "made"), STRANGERS.items(), ids=STRANGERS)
def test_keypoints_that_lost_count_of_flips_are_refused(kind, made):
    def replaced(image, target):
        return image, {**target, "keypoints": made(target["keypoints"])}

    for transforms in ([replaced], [v2.RandomHorizontalFlip(1.0), replaced]):
        with pytest.raises(
            TypeError, match=rf"leave keypoints what they are, got {kind}: .*keypoints\.wrap\(tensor, like"
        ):
            Augment(transforms)(*make_dots(2, seed=0))


UNFIT = {
    "alone": lambda: v2.ClampKeyPoints(),
    "in a list": lambda: [v2.RandomHorizontalFlip(), v2.SanitizeKeyPoints()],
    "in a container": lambda: v2.Compose([v2.RandomApply([v2.ClampKeyPoints()])]),
    "in a container of torch": lambda: nn.Sequential(nn.Sequential(v2.SanitizeKeyPoints())),
}


@moved_by_v2
@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
def test_transforms_that_would_move_or_remove_points_are_to_be_left_out(make):
    image, target = make_dots(2, seed=0)
    with pytest.raises(ValueError, match=r"leave v2\.(Clamp|Sanitize)KeyPoints out: Augment clears"):
        Augment(make())(image, target)


@moved_by_v2
def test_points_of_ones_own_may_still_be_clamped():
    image, target = make_dots(2, seed=0)
    del target["keypoints"]
    target["joints"] = tv_tensors.KeyPoints(torch.tensor([[-3.0, 4], [5, 6]]), canvas_size=(HEIGHT, WIDTH))
    _, result = Augment(v2.ClampKeyPoints())(image, target)
    assert result["joints"].tolist() == [[0, 4], [5, 6]]


@pytest.mark.parametrize("flipping", FLIPPING.values(), ids=FLIPPING)
def test_errors_say_what_was_wanted(flipping):
    image, target = make_dots(2, seed=0)
    for wrong in (torch.zeros(2, POINTS, 2), torch.zeros(3, POINTS, 3), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match=rf"shape \(2, P, 3\), one row for each box, got \({wrong.shape[0]}, "):
            flipping()(image, target | {"keypoints": wrong})
    with pytest.raises(TypeError, match=r"keypoints must be a tensor of shape \(2, P, 3\), got list"):
        flipping()(image, target | {"keypoints": target["keypoints"].tolist()})
    with pytest.raises(ValueError, match=r"mirrored has 3 places, and keypoints have the shape \(2, 5, 3\)"):
        flipping(mirrored=(0, 2, 1))(image, target)
    with pytest.raises(ValueError, match="mirrored must exchange pairs"):
        flipping(mirrored=(1, 2, 0))


def test_wrapping_alone_refuses_keypoints_and_names_what_moves_them():
    with pytest.raises(ValueError, match=r"keypoints of shape \(N, P, 3\): run them by detmix.data.Augment"):
        to_tv_tensors(*make_dots(1, seed=0))


OLDER = """
import sys, torch, torchvision
from torchvision import tv_tensors
from torchvision.transforms import v2
torchvision.__version__ = sys.argv[1]
vars(v2).pop("SanitizeKeyPoints", None)
if sys.argv[1] < "0.23":
    vars(tv_tensors).pop("KeyPoints", None)
from detmix.data import Augment
image = torch.zeros(3, 20, 30, dtype=torch.uint8)
target = {"boxes": torch.tensor([[1.0, 2, 9, 9]]), "labels": torch.tensor([1])}
flip = Augment([v2.RandomHorizontalFlip(1.0)])
assert flip(image, target)[1]["boxes"].tolist() == [[21, 2, 29, 9]]
target["keypoints"] = torch.tensor([[[3.0, 4, 2]]])
try:
    flip(image, target)
except RuntimeError as error:
    print(error)
try:
    Augment(mirrored=(0,))
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("version", ["0.22.1", "0.23.0"])
def test_an_older_torchvision_is_told_with_the_version_that_is_needed(version):
    found = subprocess.run([sys.executable, "-c", OLDER, version], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    told = found.stdout.splitlines()
    assert len(told) == 2  # at the first sample, or at once where the keypoints are known
    for line in told:
        assert line.startswith(f"v2 transforms move keypoints from torchvision 0.24 on, got {version}: ")


@pytest.mark.parametrize("distortion", [A.GridDistortion(p=1), A.ElasticTransform(p=1)], ids=["grid", "elastic"])
def test_a_keypoint_where_a_probe_would_be_is_not_lost(distortion):
    image = torch.zeros(3, 61, 81, dtype=torch.uint8)
    points = [[40.0, 30, 2], [60, 30, 2], [40, 45, 2], [41, 31, 2]]  # the right angle in the middle, and a neighbour
    target = {"boxes": torch.tensor([[5.0, 5, 75, 55]] * 2), "labels": torch.tensor([1, 1]), "image_id": 1}
    target["keypoints"] = torch.tensor([points[:2], points[2:3] * 2])
    augment = Albumentations([distortion], mirrored=(0, 1), seed=0)
    for epoch in range(5):
        augment.set_epoch(epoch)
        found = augment(image, target)[1]["keypoints"][..., 2]
        assert found[0].tolist() == [2, 2]
        assert found[1].max() == 2  # of two in one place albumentations keeps one


@moved_by_v2
def test_subclasses_of_what_does_not_fit_keypoints_are_refused_too():
    class Own(v2.ClampKeyPoints):
        pass

    with pytest.raises(ValueError, match="leave v2.Own out"):
        Augment([v2.RandomCrop(20), Own()], mirrored=(0,))


@moved_by_v2
def test_a_transform_may_keep_another_as_transforms():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.transforms = v2.Compose([v2.RandomHorizontalFlip(1.0)])

        def forward(self, image, target):
            return self.transforms(image, target)

    image, target = make_dots(2, seed=0)
    once = Augment([Own()])(image, target)[1]["keypoints"]
    assert torch.equal(once, Augment([v2.RandomHorizontalFlip(1.0)])(image, target)[1]["keypoints"])
