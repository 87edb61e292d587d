import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from detmix.cutmix import _widest, cutmix_pair, cutout, region_around, sample_region
from detmix.draws import MIXING, generator_at
from detmix.mixing import mix_pair
from detmix.target_checks import check_target

from .factories import make_sample, make_target
from .test_mixing import KINDS, as_kind, planar

SIZE = 24  # the largest canvas of these tests, in pixels
SIDES = st.tuples(st.integers(6, SIZE), st.integers(6, SIZE))
FRACTIONS = st.tuples(*[st.floats(0, 1)] * 4)


def integer_sample(size, seed, count=4):
    """An image of noise and boxes of whole pixels, each with a label of its own."""
    rng = np.random.default_rng(seed)
    corners = np.array([[sorted(rng.choice(side + 1, 2, replace=False)) for side in size[::-1]] for _ in range(count)])
    boxes = torch.from_numpy(corners.reshape(-1, 2, 2).transpose(0, 2, 1).reshape(-1, 4)).float()
    labels = torch.arange(count) + 1 + 100 * seed
    image = torch.from_numpy(rng.integers(1, 256, (1, *size), dtype=np.uint8))
    return image, {"boxes": boxes, "labels": labels, "image_id": seed, "area": (boxes[:, 2:] - boxes[:, :2]).prod(1)}


def overhanging(sample):
    """The sample, with boxes at its left or upper side that reach a pixel past it."""
    boxes = sample[1]["boxes"]
    boxes[:, :2] -= (boxes[:, :2] == 0).float()
    return sample


def region_on(size, fractions):
    """Integer corners on a canvas of (H, W) pixels."""
    (x1, x2), (y1, y2) = (sorted(round(f * side) for f in fractions[i::2]) for i, side in enumerate(size[::-1]))
    return x1, y1, x2, y2


def raster(box):
    """The pixels of a box, (SIZE, SIZE) float64."""
    x1, y1, x2, y2 = (max(int(side), 0) for side in box)
    pixels = np.zeros((SIZE, SIZE))
    pixels[y1:y2, x1:x2] = 1
    return pixels


def opacities(target):
    """By label: how opaque each pixel of an object is, before anything is mixed."""
    return {int(label): raster(box) for box, label in zip(target["boxes"], target["labels"], strict=True)}


def canvas_of(*images):
    return max(i.shape[1] for i in images), max(i.shape[2] for i in images)


def mix(kind, ratio, fractions, mixed, other):
    """One more step: a sample and the opacities of its objects, before and after."""
    (sample, seen), (new, new_seen) = mixed, other
    if kind.startswith("onto"):
        (sample, seen), (new, new_seen) = other, mixed
    if "mixup" in kind:
        faded = {label: ratio * s for label, s in seen.items()} | {k: (1 - ratio) * s for k, s in new_seen.items()}
        return mix_pair(*sample, *new, lam=ratio), faded
    if kind == "cutout":
        region = region_on(canvas_of(sample[0]), fractions)
        return cutout(*sample, region=region), {label: s * (1 - raster(region)) for label, s in seen.items()}
    region = region_on(canvas_of(sample[0], new[0]), fractions)
    cut = {label: s * (1 - raster(region)) for label, s in seen.items()}
    cut |= {label: s * raster(region) for label, s in new_seen.items()}
    return cutmix_pair(*sample, *new, region=region), cut


KINDS_OF_STEPS = st.sampled_from(["cutmix", "onto cutmix", "cutout", "mixup", "onto mixup"])
STEPS = st.lists(st.tuples(KINDS_OF_STEPS, st.floats(0.1, 0.9), FRACTIONS, SIDES), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(SIDES, STEPS)
def test_weights_are_the_visible_pixels_of_a_box_after_any_number_of_cuts(size, steps):
    sample = overhanging(integer_sample(size, 0))
    areas = {label: pixels.sum() for label, pixels in opacities(sample[1]).items()}
    seen = opacities(sample[1])
    for number, (kind, ratio, fractions, other_size) in enumerate(steps, start=1):
        other = overhanging(integer_sample(other_size, number))
        areas |= {label: pixels.sum() for label, pixels in opacities(other[1]).items()}
        sample, seen = mix(kind, ratio, fractions, (sample, seen), (other, opacities(other[1])))
    expected = {label: pixels.sum() / areas[label] for label, pixels in seen.items() if pixels.any()}
    target = sample[1]
    check_target(target, size=tuple(sample[0].shape[1:]))
    assert set(target["labels"].tolist()) == set(expected)
    for label, weight in zip(target["labels"].tolist(), target["weights"].tolist(), strict=True):
        assert weight == pytest.approx(expected[label], rel=1e-5)


@settings(deadline=None)
@given(SIDES, SIDES, FRACTIONS)
def test_pixels_are_those_of_b_inside_the_region_and_of_a_outside(size_a, size_b, fractions):
    (image_a, a), (image_b, b) = integer_sample(size_a, 1), integer_sample(size_b, 2)
    x1, y1, x2, y2 = region = region_on(canvas_of(image_a, image_b), fractions)
    image, target = cutmix_pair(image_a, a, image_b, b, region=region)
    blank, _ = cutout(image_a, a, region=region_on(size_a, fractions))
    assert (image.dtype, blank.dtype) == (torch.uint8, torch.uint8)
    assert blank.shape == image_a.shape
    height, width = image.shape[1:]
    assert (height, width) == canvas_of(image_a, image_b)
    for y in range(height):
        for x in range(width):
            source = image_b if x1 <= x < x2 and y1 <= y < y2 else image_a
            assert image[0, y, x] == (source[0, y, x] if y < source.shape[1] and x < source.shape[2] else 0)
    own = image_a.clone()
    own_x1, own_y1, own_x2, own_y2 = region_on(size_a, fractions)
    own[:, own_y1:own_y2, own_x1:own_x2] = 0
    assert torch.equal(blank, own)
    assert target["lam"] == pytest.approx(1 - raster(region).sum() / (height * width))


@given(SIDES, FRACTIONS)
def test_cutout_is_cutmix_with_a_black_image_without_objects(size, fractions):
    image, target = integer_sample(size, 1)
    black = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "area": torch.zeros(0)}
    region = region_on(size, fractions)
    cut, left = cutout(image, target, region=region)
    mixed, joined = cutmix_pair(image, target, torch.zeros_like(image), black, region=region)
    assert torch.equal(cut, mixed)
    assert "lam" not in left
    assert "sources" not in left
    for key in ("boxes", "labels", "weights", "area", "covers"):
        assert torch.equal(left[key], joined[key])


@pytest.mark.parametrize("whole", [True, False])
def test_the_whole_canvas_gives_b_alone_and_an_empty_region_a_alone(whole):
    a, b = integer_sample((20, 24), 1), integer_sample((20, 24), 2)
    image, target = cutmix_pair(*a, *b, region=(0, 0, 24, 20) if whole else (7, 5, 7, 9))
    alone, objects = b if whole else a
    assert torch.equal(image, alone)
    for key in ("boxes", "labels", "area"):
        assert torch.equal(target[key], objects[key])
    assert target["weights"].tolist() == [1, 1, 1, 1]
    assert target["sources"].tolist() == [int(whole)] * 4
    assert target["lam"] == (0.0 if whole else 1.0)
    assert target["image_id"] == 1


def test_boxes_of_a_stay_and_boxes_of_b_are_clipped():
    image = torch.zeros(3, 20, 20)
    a = {"boxes": torch.tensor([[0, 0, 10, 10], [2.5, 2, 7.5, 12]]), "labels": torch.tensor([1, 2])}
    b = {"boxes": torch.tensor([[0.0, 0, 10, 10], [8, 8, 18, 18]]), "labels": torch.tensor([3, 4])}
    _, target = cutmix_pair(image, a, image, b, region=(5, 5, 20, 10))
    assert target["labels"].tolist() == [1, 2, 3, 4]
    assert target["boxes"].tolist() == [[0, 0, 10, 10], [2.5, 2, 7.5, 12], [5, 5, 10, 10], [8, 8, 18, 10]]
    torch.testing.assert_close(target["weights"], torch.tensor([0.75, 0.75, 0.25, 0.2]))
    assert target["sources"].tolist() == [0, 0, 1, 1]
    assert target["lam"] == 1 - 75 / 400


def test_overlapping_regions_are_subtracted_once():
    image, target = torch.zeros(1, 10, 10), {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    for region, weight in (((0, 0, 5, 10), 0.5), ((0, 0, 6, 5), 0.45), ((1, 1, 4, 4), 0.45)):
        image, target = cutout(image, target, region=region)
        assert target["weights"].item() == pytest.approx(weight)
    assert cutout(image, target, region=(5, 0, 10, 10))[1]["boxes"].shape == (0, 4)


def test_apples_gpus_count_areas_in_float32(monkeypatch):
    """They have no float64; nothing that is left is still exactly nothing."""
    assert (_widest(torch.device("mps")), _widest(torch.device("cpu"))) == (torch.float32, torch.float64)
    boxes = torch.rand(50, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values.flatten(1) * 1333
    image, target = torch.zeros(3, 1333, 1333, dtype=torch.uint8), {"labels": torch.ones(50, dtype=torch.int64)}

    def weights():
        _, once = cutout(image, target | {"boxes": boxes.clone()}, region=(200, 300, 900, 1000))
        return cutout(image, once, region=(0, 0, 600, 1333))[1]["weights"]

    exact = weights()
    monkeypatch.setattr("detmix.cutmix._widest", lambda device: torch.float32)
    assert 5 < len(exact) < 50
    torch.testing.assert_close(weights(), exact, atol=1e-4, rtol=0)


def test_a_faint_object_is_cut_in_proportion():
    a, b = integer_sample((20, 20), 1, count=1), integer_sample((20, 20), 2, count=0)
    a[1]["boxes"] = torch.tensor([[0.0, 0, 10, 10]])
    _, target = cutout(*mix_pair(*a, *b, lam=0.4), region=(0, 0, 5, 20))
    assert target["weights"].tolist() == pytest.approx([0.2])
    assert target["lam"] == 0.4


def test_a_record_for_a_box_that_moved_counts_for_nothing():
    image, target = torch.zeros(1, 10, 14), {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    image, target = cutout(image, target, region=(0, 0, 5, 10))
    target["boxes"] = torch.tensor([[4.0, 0, 14, 10]])  # what a flip makes of it: the right half is hidden now
    _, again = cutout(image.flip(-1), target, region=(4, 0, 9, 10))
    assert again["weights"].tolist() == [0.25]  # the half that is left, taken to lie evenly over the box
    assert again["covers"].shape == (1, 3, 4)


@pytest.mark.parametrize(("pixels", "weight"), [(0.009, 0.5), (0.011, 0.25)])
def test_a_record_holds_for_a_box_that_moved_by_less_than_a_hundredth_of_a_pixel(pixels, weight):
    image, target = torch.zeros(1, 10, 20), {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    image, target = cutout(image, target, region=(0, 0, 5, 10))
    target["boxes"] = target["boxes"] + pixels
    assert cutout(image, target, region=(0, 0, 5, 10))[1]["weights"].tolist() == pytest.approx([weight], abs=1e-3)


def test_objects_as_faint_as_min_weight_stay():
    image = torch.zeros(1, 10, 10)
    a, b = ({"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([label])} for label in (1, 2))
    options = {"region": (0, 0, 5, 10), "min_weight": 0.5}
    assert cutout(image, a, **options)[1]["weights"].tolist() == [0.5]
    assert cutmix_pair(image, a, image, b, **options)[1]["weights"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_masks_keypoints_and_areas_show_what_remains(dtype):
    samples = [integer_sample(size, seed, count=1) for seed, size in enumerate([(10, 12), (12, 10)])]
    for image, target in samples:
        height, width = image.shape[1:]
        target["boxes"] = torch.tensor([[0.0, 0, 10, 10]])
        target["masks"] = tv_tensors.Mask(torch.ones(1, height, width, dtype=dtype))
        target["area"] = torch.tensor([60.0])
        target["keypoints"] = torch.tensor([[[4.4, 5.0, 2.0], [4.5, 5.0, 2.0], [7.5, 9.0, 1.0], [9.5, 3.0, 2.0]]])
    _, target = cutmix_pair(*samples[0], *samples[1], region=(5, 0, 10, 12))
    assert (type(target["masks"]), target["masks"].dtype) == (tv_tensors.Mask, dtype)
    hidden = torch.zeros(2, 12, 12, dtype=torch.bool)
    hidden[0, :10, :5] = hidden[0, :10, 10:] = hidden[1, :, 5:10] = True
    assert torch.equal(target["masks"], hidden.to(dtype))
    assert target["keypoints"][..., 2].tolist() == [[2, 0, 0, 2], [0, 2, 1, 0]]
    assert torch.equal(target["keypoints"][..., :2], torch.cat([t["keypoints"][..., :2] for _, t in samples]))
    assert target["area"].tolist() == [30, 30]


def scattered_masks(size, seed, dtype):
    """Four masks of no pixel, or of one to three anywhere on an image of (H, W)."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, size[0] * size[1]))
    for mask in masks:
        mask[rng.choice(len(mask), rng.integers(4), replace=False)] = 1
    return torch.from_numpy(masks.reshape(4, *size)).to(dtype)


MASK_DTYPES = st.sampled_from([torch.bool, torch.uint8, torch.float32])


@settings(deadline=None)
@given(SIDES, SIDES, FRACTIONS, MASK_DTYPES, st.sampled_from([cutout, cutmix_pair]), st.integers(0, 99))
def test_objects_go_with_the_last_pixel_of_their_mask_and_weigh_the_share_of_their_box(
    size_a, size_b, fractions, dtype, cut, seed
):
    sizes = [size_a, size_b] if cut is cutmix_pair else [size_a]
    samples = [integer_sample(size, number) for number, size in enumerate(sizes, start=1)]
    masks = [scattered_masks(size, seed, dtype) for size in sizes]
    region = x1, y1, x2, y2 = region_on(canvas_of(*(image for image, _ in samples)), fractions)
    _, boxed = cut(*(part for sample in samples for part in sample), region=region)
    for (_, target), rows in zip(samples, masks, strict=True):
        target["masks"] = rows
    _, masked = cut(*(part for sample in samples for part in sample), region=region)
    seen = set()
    for (_, target), shows_inside in zip(samples, [False, True], strict=False):
        for label, mask in zip(target["labels"].tolist(), target["masks"], strict=True):
            pixels = mask.nonzero().tolist()
            if not pixels or any((y1 <= y < y2 and x1 <= x < x2) == shows_inside for y, x in pixels):
                seen.add(label)
    kept = [row for row, label in enumerate(boxed["labels"].tolist()) if label in seen]
    assert len(masked["masks"]) == len(kept)
    for key in ("labels", "boxes", "weights", "area", "covers"):
        assert torch.equal(masked[key], boxed[key][kept]), key


def test_a_mask_may_lose_its_pixels_one_cut_after_the_other():
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    target["masks"] = torch.zeros(1, 10, 10, dtype=torch.uint8)
    target["masks"][0, 2, 2:4] = 1
    once = cutout(torch.zeros(1, 10, 10), target, region=(0, 0, 3, 10))
    assert once[1]["weights"].tolist() == pytest.approx([0.7])
    assert cutout(*once, region=(4, 0, 6, 10))[1]["weights"].tolist() == pytest.approx([0.5])
    assert cutout(*once, region=(3, 2, 4, 3))[1]["masks"].shape == (0, 10, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_b", [(20, 30), (40, 44)])
def test_every_kind_of_image_comes_back_as_it_came(kind, size_b):
    a = as_kind(make_sample(2, seed=0, size=(20, 30)), kind)
    b = as_kind(make_sample(3, seed=1, size=size_b), kind)
    before = copy.deepcopy((a, b))
    mixed, target = cutmix_pair(*a, *b, region=(10, 5, 30, 18))
    cut, _ = cutout(*a, region=(10, 5, 30, 18))
    for image in (mixed, cut):
        assert type(image) is type(a[0])
        assert getattr(image, "dtype", None) == getattr(a[0], "dtype", None)
        assert not isinstance(image, Image.Image) or image.mode == a[0].mode
    first, second = planar(a[0]), planar(b[0])
    expected = np.zeros((len(first), *np.maximum(first.shape[1:], second.shape[1:])))
    expected[:, :20, :30] = first
    expected[:, 5:18, 10:30] = 0
    np.testing.assert_array_equal(planar(cut), expected[:, :20, :30])
    expected[:, 5:18, 10:30] = second[:, 5:18, 10:30]
    np.testing.assert_array_equal(planar(mixed), expected)
    assert type(target["boxes"]) is type(a[1]["boxes"])
    if kind == "tv_tensor":
        assert target["boxes"].canvas_size == expected.shape[1:]
    for (image, labelled), (image_before, labelled_before) in zip((a, b), before, strict=True):
        np.testing.assert_array_equal(planar(image), planar(image_before))
        assert labelled.keys() == labelled_before.keys()
        assert torch.equal(labelled["boxes"], labelled_before["boxes"])


def test_inputs_with_every_key_are_never_written_to():
    samples = [integer_sample((16, 16), seed) for seed in (1, 2)]
    for number, (_, target) in enumerate(samples):
        target |= {"masks": torch.ones(4, 16, 16), "keypoints": torch.ones(4, 3, 3), "mine": torch.arange(4) + number}
    first = cutout(*samples[0], region=(0, 0, 1, 1))
    before = copy.deepcopy((first, samples))
    image, target = cutmix_pair(*first, *samples[1], region=(2, 2, 12, 12))
    image.zero_()
    for value in target.values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    for (_, now), (_, then) in zip((first, *samples), (before[0], *before[1]), strict=True):
        assert now.keys() == then.keys()
        assert all(torch.equal(torch.as_tensor(now[key]), torch.as_tensor(then[key])) for key in now)
    assert torch.equal(first[0], before[0][0])


def test_objects_fainter_than_min_weight_leave_with_all_their_keys():
    image, target = torch.zeros(1, 10, 30), {"labels": torch.tensor([1, 2, 3])}
    target["boxes"] = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10], [20, 0, 30, 10]])
    target["mine"] = torch.tensor([10, 20, 30])
    for min_weight, kept in ((0.0, [1, 2, 3]), (0.25, [2, 3]), (0.9, [3])):
        _, left = cutout(image, target, region=(0, 2, 10, 10), min_weight=min_weight)
        assert left["labels"].tolist() == kept
        assert left["mine"].tolist() == [10 * label for label in kept]
        assert len(left["covers"]) == len(kept)


@pytest.mark.parametrize("counts", [(0, 2), (2, 0), (0, 0)])
def test_images_without_objects_are_cut_too(counts):
    a, b = (integer_sample((16, 16), seed + 1, count) for seed, count in enumerate(counts))
    _, target = cutmix_pair(*a, *b, region=(0, 0, 8, 16))
    check_target(target, size=(16, 16))
    _, twice = cutmix_pair(*b, *cutmix_pair(*a, *b, region=(0, 0, 8, 16)), region=(4, 4, 12, 12))
    check_target(twice, size=(16, 16))


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"region": (0, 0, 65, 48)}, ValueError, r"on the canvas of 64x48 pixels, got \(0, 0, 65, 48\)"),
        ({"region": (-1, 0, 5, 5)}, ValueError, "must lie on the canvas"),
        ({"region": (0, 9, 5, 5)}, ValueError, "must lie on the canvas"),
        ({"region": (0, 0, 5)}, ValueError, r"must be \(x1, y1, x2, y2\)"),
        ({"region": 5}, TypeError, r"must be \(x1, y1, x2, y2\), made of integers, got 5"),
        ({"region": (0, 0, 5.5, 5)}, TypeError, r"made of integers, got \(0, 0, 5.5, 5\)"),
        ({"min_weight": 2}, ValueError, "min_weight must lie"),
        ({"image_a": "cat.jpg"}, TypeError, "got str"),
        ({"target_a": make_target(2, seed=0) | {"covers": torch.zeros(2, 1, 3)}}, ValueError, r"got \(2, 1, 3\)"),
    ],
)
@pytest.mark.parametrize("cut", [cutmix_pair, cutout])
def test_bad_arguments_are_refused(cut, change, error, wanted):
    (image_a, a), (image_b, b) = make_sample(1, seed=0), make_sample(1, seed=1)
    arguments = {"image_a": image_a, "target_a": a, "image_b": image_b, "target_b": b, "region": (0, 0, 5, 5)} | change
    if cut is cutout:
        arguments = {key.removesuffix("_a"): value for key, value in arguments.items() if not key.endswith("_b")}
    with pytest.raises(error, match=wanted):
        cut(**arguments)


def test_images_that_differ_in_kind_are_refused():
    a, b = make_sample(1, seed=0), make_sample(1, seed=1)
    with pytest.raises(TypeError, match="one kind and dtype"):
        cutmix_pair(*a, Image.new("RGB", (64, 48)), b[1], region=(0, 0, 5, 5))


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)), st.floats(0, 1), SIDES)
def test_regions_lie_on_the_canvas_and_take_their_share_of_it(centre, lam, size):
    x1, y1, x2, y2 = region_around(centre, lam, size)
    height, width = size
    assert 0 <= x1 <= x2 <= width
    assert 0 <= y1 <= y2 <= height
    side = (1 - lam) ** 0.5
    assert x2 - x1 <= side * width + 0.5
    assert y2 - y1 <= side * height + 0.5
    middle_x1, middle_y1, middle_x2, middle_y2 = region_around((0.5, 0.5), lam, size)
    assert abs(middle_x2 - middle_x1 - side * width) <= 1
    assert abs(middle_y2 - middle_y1 - side * height) <= 1


@pytest.mark.parametrize("lam", [0.0, 0.36, 0.75, 0.99])
def test_centres_are_uniform(lam):
    size, count = (400, 1000), 4000
    regions = np.array([sample_region(lam, size, generator_at(0, 0, i, MIXING)) for i in range(count)])
    lengths = (regions[:, 2:] - regions[:, :2]) / [1000, 400]
    side = (1 - lam) ** 0.5
    # a centre within half a side of an edge, which is so for a share `side` of them, loses a quarter on average
    spread = lengths.std(axis=0) / count**0.5
    assert (abs(lengths.mean(axis=0) - (side - side**2 / 4)) < 4 * spread + 1 / 400).all()
    assert abs(np.corrcoef(lengths.T)[0, 1]) < 4 / count**0.5
    covered = np.zeros(size)
    for x1, y1, x2, y2 in regions:
        covered[y1:y2, x1:x2] += 1 / count
    inside = covered[int(side * 200) + 1 : -int(side * 200) - 1, int(side * 500) + 1 : -int(side * 500) - 1]
    assert np.size(inside) == 0 or abs(inside - side**2).max() < 6 * (side**2 / count) ** 0.5 + 0.01


def test_a_ratio_of_one_gives_an_empty_region_and_one_above_is_refused():
    x1, y1, x2, y2 = sample_region(1.0, (48, 64), generator_at(0, 0, 0, MIXING))
    assert (x1, y1) == (x2, y2)
    with pytest.raises(ValueError, match="lam must lie"):
        sample_region(1.5, (48, 64), generator_at(0, 0, 0, MIXING))
    with pytest.raises(ValueError, match=r"size must be \(H, W\), got \(3, 48, 64\)"):
        sample_region(0.5, (3, 48, 64), generator_at(0, 0, 0, MIXING))
    with pytest.raises(ValueError, match="width must be 0 or more, got -64"):
        sample_region(0.5, (48, -64), generator_at(0, 0, 0, MIXING))
    with pytest.raises(TypeError, match="height must be an integer, got 48.5"):
        sample_region(0.5, (48.5, 64), generator_at(0, 0, 0, MIXING))
    with pytest.raises(TypeError, match=r"numpy\.random\.Generator"):
        sample_region(0.5, (48, 64), None)
