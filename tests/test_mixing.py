import copy
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from detmix import mix_pair, sample_lambda
from detmix.cutmix import cutout
from detmix.draws import MIXING, generator_at
from detmix.mixing import transformed

from .factories import make_sample

SIZES = st.tuples(st.integers(8, 24), st.integers(8, 24))
RATIOS = st.floats(0, 1)


def naive_blend(image_a, image_b, lam):
    """The blend as a float64 loop-free textbook formula on (C, H, W) arrays."""
    a, b = (np.asarray(x, np.float64) for x in (image_a, image_b))
    canvas = np.zeros((a.shape[0], max(a.shape[1], b.shape[1]), max(a.shape[2], b.shape[2])))
    canvas[:, : a.shape[1], : a.shape[2]] += lam * a
    canvas[:, : b.shape[1], : b.shape[2]] += (1 - lam) * b
    return canvas


@given(SIZES, SIZES, RATIOS)
def test_uint8_is_the_float64_blend_rounded_to_nearest(size_a, size_b, lam):
    a, b = make_sample(1, seed=0, size=size_a), make_sample(2, seed=1, size=size_b)
    mixed, _ = mix_pair(*a, *b, lam=lam)
    assert mixed.dtype == torch.uint8
    assert np.abs(mixed.numpy() - naive_blend(a[0], b[0], lam)).max() <= 0.5 + 1e-4


@given(SIZES, SIZES, RATIOS)
def test_floats_are_the_float64_blend(size_a, size_b, lam):
    a, b = (make_sample(1, seed=s, size=z, dtype=torch.float64) for s, z in enumerate((size_a, size_b)))
    mixed, _ = mix_pair(*a, *b, lam=lam)
    assert mixed.dtype == torch.float64
    np.testing.assert_allclose(mixed, naive_blend(a[0], b[0], lam), rtol=1e-12, atol=1e-15)


def test_rounding_is_unbiased_over_all_pairs_of_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    a = levels.repeat(256, 1)[None]
    b = levels[:, None].repeat(1, 256)[None]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for lam in (0.1, 0.25, 1 / 3, 0.5, 0.9):
        mixed, _ = mix_pair(a, empty, b, empty, lam=lam)
        error = mixed.double() - torch.from_numpy(naive_blend(a, b, lam))
        assert error.abs().max() <= 0.5 + 1e-4
        assert abs(error.mean()) < 0.05  # truncation would give almost half a level


def as_kind(sample, kind):
    image, target = sample
    if kind == "tv_tensor":
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image.shape[-2:])
        return tv_tensors.Image(image), {**target, "boxes": boxes}
    array = image.permute(1, 2, 0).numpy()
    images = {
        "tensor": image,
        "strided tensor": image.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "float tensor": image.float() / 255,
        "half tensor": image.half() / 255,
        "array": array,
        "grey array": np.ascontiguousarray(array[..., 0]),
        "reversed array": array[:, ::-1],
        "float array": array.astype(np.float32) / 255,
        "PIL": Image.fromarray(np.ascontiguousarray(array)),
        "grey PIL": Image.fromarray(np.ascontiguousarray(array[..., 0])),
        "CMYK PIL": Image.fromarray(np.ascontiguousarray(array)).convert("CMYK"),
    }
    return images[kind], target


def planar(image):
    if isinstance(image, torch.Tensor):
        return np.asarray(image.double())
    array = np.asarray(image, np.float64)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


KINDS = ("tensor", "strided tensor", "tv_tensor", "float tensor", "half tensor") + (
    "array",
    "grey array",
    "reversed array",
    "float array",
    "PIL",
    "grey PIL",
    "CMYK PIL",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_b", [(20, 30), (30, 20), (20, 20), (40, 44)])
def test_every_kind_of_image_comes_back_as_it_came(kind, size_b):
    a = as_kind(make_sample(2, seed=0, size=(20, 30)), kind)
    b = as_kind(make_sample(3, seed=1, size=size_b), kind)
    before = copy.deepcopy((a, b))
    mixed, target = mix_pair(*a, *b, lam=0.3)
    assert type(mixed) is type(a[0])
    assert getattr(mixed, "dtype", None) == getattr(a[0], "dtype", None)
    if isinstance(mixed, Image.Image):
        assert mixed.mode == a[0].mode
    exact = naive_blend(planar(a[0]), planar(b[0]), 0.3)
    tolerance = 1e-3 if "float" in kind or "half" in kind else 0.5001
    np.testing.assert_allclose(planar(mixed), exact, rtol=0, atol=tolerance)
    assert type(target["boxes"]) is type(a[1]["boxes"])
    if kind == "tv_tensor":
        assert target["boxes"].canvas_size == exact.shape[1:]
    for (image, labelled), (image_before, labelled_before) in zip((a, b), before, strict=True):
        np.testing.assert_array_equal(planar(image), planar(image_before))
        assert labelled.keys() == labelled_before.keys()
        assert torch.equal(labelled["boxes"], labelled_before["boxes"])


@pytest.mark.parametrize("num_boxes", [(2, 3), (0, 2), (2, 0), (0, 0)])
def test_boxes_are_joined_and_weigh_what_is_visible_of_their_image(num_boxes):
    (image_a, a), (image_b, b) = make_sample(num_boxes[0], seed=0), make_sample(num_boxes[1], seed=1, size=(30, 80))
    _, target = mix_pair(image_a, a, image_b, b, lam=0.3)
    assert torch.equal(target["boxes"], torch.cat([a["boxes"], b["boxes"]]))
    assert torch.equal(target["labels"], torch.cat([a["labels"], b["labels"]]))
    torch.testing.assert_close(target["weights"], torch.tensor([0.3] * num_boxes[0] + [0.7] * num_boxes[1]))
    assert target["sources"].tolist() == [0] * num_boxes[0] + [1] * num_boxes[1]
    assert (target["image_id"], target["lam"]) == (0, 0.3)


def test_mixing_what_is_mixed_multiplies_shares_and_keeps_sources_apart():
    a, b, c = (make_sample(1, seed=seed) for seed in range(3))
    _, left = mix_pair(*mix_pair(*a, *b, lam=0.5), *c, lam=0.6)
    _, right = mix_pair(*c, *mix_pair(*a, *b, lam=0.5), lam=0.6)
    torch.testing.assert_close(left["weights"], torch.tensor([0.3, 0.3, 0.4]))
    torch.testing.assert_close(right["weights"], torch.tensor([0.6, 0.2, 0.2]))
    assert left["sources"].tolist() == right["sources"].tolist() == [0, 1, 2]


def test_objects_fainter_than_min_weight_leave_with_all_their_keys():
    a, b = make_sample(2, seed=0), make_sample(3, seed=1)
    for sample in (a, b):
        sample[1]["area"] = sample[1]["boxes"].prod(1)
    _, target = mix_pair(*a, *b, lam=0.8, min_weight=0.5)
    assert {key: len(target[key]) for key in ("boxes", "labels", "weights", "sources", "area")} == dict.fromkeys(
        ("boxes", "labels", "weights", "sources", "area"), 2
    )
    assert torch.equal(target["area"], a[1]["area"])


def test_objects_as_faint_as_min_weight_stay():
    _, target = mix_pair(*make_sample(2, seed=0), *make_sample(3, seed=1), lam=0.5, min_weight=0.5)
    assert target["weights"].tolist() == [0.5] * 5


def test_masks_grow_with_the_canvas_and_every_other_key_is_carried():
    samples = [make_sample(2, seed=0, size=(20, 30)), make_sample(1, seed=1, size=(30, 20))]
    for image, target in samples:
        count = len(target["boxes"])
        target["masks"] = torch.ones(count, *image.shape[1:], dtype=torch.uint8)
        target["keypoints"] = torch.rand(count, 5, 3)
        target["my_own"] = torch.arange(count) + 10 * target["image_id"]
        target["size"] = torch.tensor(image.shape[1:])
    _, target = mix_pair(*samples[0], *samples[1], lam=0.5)
    assert target["masks"].shape == (3, 30, 30)
    assert target["masks"].sum((1, 2)).tolist() == [600, 600, 600]
    assert torch.equal(target["keypoints"], torch.cat([t["keypoints"] for _, t in samples]))
    assert target["my_own"].tolist() == [0, 1, 10]
    assert target["size"].tolist() == [20, 30]


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"lam": 1.1}, ValueError, r"lam must lie in \[0, 1\], got 1.1"),
        ({"lam": float("nan")}, ValueError, "lam must lie"),
        ({"min_weight": -1}, ValueError, "min_weight must lie"),
        ({"image_b": torch.zeros(3, 48, 64)}, TypeError, "uint8 on cpu and Tensor of torch.float32"),
        ({"image_b": torch.zeros(1, 48, 64, dtype=torch.uint8)}, ValueError, "got 3 and 1"),
        ({"image_b": torch.zeros(48, 64, dtype=torch.uint8)}, ValueError, r"shape \(C, H, W\)"),
        (
            {"image_b": torch.zeros(3, 48, 64, dtype=torch.int64)},
            TypeError,
            "float32 or float64, got torch.int64",
        ),
        ({"image_b": Image.new("P", (64, 48))}, TypeError, "got P: convert it first"),
        ({"image_a": np.zeros((8, 8), np.uint8), "image_b": np.zeros((8, 8, 1), np.uint8)}, TypeError, "2 dim.* 3 dim"),
        ({"image_b": "cat.jpg"}, TypeError, "got str"),
    ],
)
def test_bad_arguments_are_refused(change, error, wanted):
    (image_a, a), (image_b, b) = make_sample(1, seed=0), make_sample(1, seed=1)
    arguments = {"image_a": image_a, "target_a": a, "image_b": image_b, "target_b": b, "lam": 0.5} | change
    with pytest.raises(error, match=wanted):
        mix_pair(**arguments)


@pytest.mark.parametrize("number", [torch.tensor, np.array, np.float32, torch.tensor(1.0, requires_grad=True).mul])
@pytest.mark.parametrize("kind", KINDS)
def test_a_ratio_may_be_a_number_of_any_kind(kind, number):
    a, b = as_kind(make_sample(2, seed=0), kind), as_kind(make_sample(3, seed=1), kind)
    wanted, target = mix_pair(*a, *b, lam=0.25)
    mixed, same = mix_pair(*a, *b, lam=number(0.25))
    np.testing.assert_array_equal(planar(mixed), planar(wanted))
    assert same["lam"] == target["lam"]
    assert type(same["lam"]) is float
    assert torch.equal(same["weights"], target["weights"])
    assert not same["weights"].requires_grad


@pytest.mark.parametrize("value", ["0.3", None, [0.3], torch.tensor([0.3, 0.4])])
def test_what_is_no_number_is_named(value):
    a, b = make_sample(2, seed=0), make_sample(3, seed=1)
    for name, options in (("lam", {"lam": value}), ("min_weight", {"lam": 0.3, "min_weight": value})):
        with pytest.raises(TypeError, match=f"{name} must be a number, got ('0.3'|NoneType|list|Tensor)"):
            mix_pair(*a, *b, **options)
    with pytest.raises(TypeError, match="alpha must be a number, got ('0.3'|NoneType|list|Tensor)"):
        sample_lambda(value, generator_at(0, 0, 0, MIXING))


@pytest.mark.parametrize("generator", [None, 0, torch.Generator()])
def test_a_generator_that_is_not_numpys_is_refused(generator):
    with pytest.raises(TypeError, match=r"numpy\.random\.Generator, .* got (NoneType|int|Generator)"):
        sample_lambda(1.0, generator)


@pytest.mark.parametrize(
    ("transform", "returned"),
    [
        (lambda image, target: None, "None"),
        (lambda image, target: (image, None), "(image, None)"),
    ],
)
def test_a_transform_that_forgets_to_return_is_refused(transform, returned):
    with pytest.raises(TypeError, match=rf"transform must return .* and it returned {re.escape(returned)}$"):
        transformed(transform, *make_sample(1, seed=0))


@pytest.mark.parametrize(
    "transform",
    [
        lambda image, target: {"pixel_values": image, "labels": target},
        lambda image, target: (image, target["boxes"]),
        lambda image, target: (image, target, "cat.jpg"),
    ],
)
def test_a_transform_may_end_in_another_format(transform):
    sample = make_sample(1, seed=0)
    given = transformed(transform, *sample)
    assert type(given) is type(transform(*sample))
    assert len(given) == len(transform(*sample))


def test_a_box_outside_the_image_is_refused():
    image, target = make_sample(2, seed=0)
    target["boxes"][1] = torch.tensor([10, 10, 99, 20])
    with pytest.raises(ValueError, match=r"image 0: boxes must lie in the image of 64x48 pixels .* in row 1"):
        mix_pair(image, target, *make_sample(1, seed=1), lam=0.5)


@given(st.tuples(st.integers(0, 3), st.integers(0, 3)), SIZES, SIZES, RATIOS)
def test_any_pair_swapped_with_the_complementary_ratio_is_the_same_mix(counts, size_a, size_b, lam):
    a, b = (make_sample(n, seed=s, size=z) for s, (n, z) in enumerate(zip(counts, (size_a, size_b), strict=True)))
    before = copy.deepcopy((a, b))
    mixed, target = mix_pair(*a, *b, lam=lam)
    swapped, swapped_target = mix_pair(*b, *a, lam=1 - lam)
    assert mixed.dtype == swapped.dtype == torch.uint8
    torch.testing.assert_close(mixed, swapped, rtol=0, atol=1)
    rows = torch.arange(sum(counts)).roll(counts[0])  # where A's objects, then B's, lie in the swapped target
    assert torch.equal(swapped_target["boxes"][rows], target["boxes"])
    assert torch.equal(swapped_target["labels"][rows], target["labels"])
    torch.testing.assert_close(swapped_target["weights"][rows], target["weights"])
    for (image, labelled), (image_before, labelled_before) in zip((a, b), before, strict=True):
        assert torch.equal(image, image_before)
        assert labelled.keys() == labelled_before.keys()
        assert torch.equal(labelled["boxes"], labelled_before["boxes"])


@given(SIZES, SIZES, st.sampled_from([0.0, 1.0]))
def test_a_ratio_of_one_or_zero_shows_one_image_alone(size_a, size_b, lam):
    samples = [make_sample(2, seed=s, size=z) for s, z in enumerate((size_a, size_b))]
    mixed, target = mix_pair(*samples[0], *samples[1], lam=lam)
    shown = samples[0 if lam == 1 else 1][0]
    height, width = shown.shape[1:]
    assert torch.equal(mixed[:, :height, :width], shown)
    assert not mixed[:, height:].any()
    assert not mixed[:, :, width:].any()
    assert target["weights"].tolist() == [lam] * 2 + [1 - lam] * 2


def beta_cdf(x, alpha):
    """The distribution function of Beta(alpha, alpha), integrated with t = u**alpha, which takes out the pole at 0."""
    t = np.linspace(0, 0.5**alpha, 200_001)
    integrand = (1 - t ** (1 / alpha)) ** (alpha - 1)
    lower = np.concatenate([[0], np.cumsum((integrand[1:] + integrand[:-1]) / 2)])
    below = np.interp(np.minimum(x, 1 - x) ** alpha, t, lower / (2 * lower[-1]))
    return np.where(x <= 0.5, below, 1 - below)


@pytest.mark.parametrize("alpha", [0.04, 0.2, 1.0, 1.5, 5.0])
def test_ratios_follow_the_beta_distribution(alpha):
    count = 20_000
    draws = np.sort([sample_lambda(alpha, generator_at(0, 0, index, MIXING)) for index in range(count)])
    resolved = draws < 1 - 1e-9  # next to 1, where alpha 0.04 puts many, floats are coarser than the distribution
    expected, ranks = beta_cdf(draws, alpha), np.arange(count)
    distance = np.maximum(expected - ranks / count, (ranks + 1) / count - expected)[resolved].max()
    assert distance < 1.95 / np.sqrt(count)  # Kolmogorov-Smirnov at one in a thousand


def test_the_distribution_function_is_right_where_it_is_known():
    x = np.linspace(0, 1, 11)
    np.testing.assert_allclose(beta_cdf(x, 1.0), x, atol=1e-9)
    np.testing.assert_allclose(beta_cdf(x, 2.0), 3 * x**2 - 2 * x**3, atol=1e-6)
    np.testing.assert_allclose(beta_cdf(x, 0.5), 2 / np.pi * np.arcsin(np.sqrt(x)), atol=1e-6)


def test_what_was_cut_keeps_its_record_when_it_is_blended():
    cut, plain = cutout(*make_sample(2, seed=0), region=(0, 0, 8, 8)), make_sample(3, seed=1)
    for pair in ((cut, plain), (plain, cut)):
        _, target = mix_pair(*pair[0], *pair[1], lam=0.3)
        assert torch.equal(target["covers"][:, 0], target["boxes"])
        regions = torch.cat([t.get("covers", torch.zeros(3, 2, 4))[:, 1:] for _, t in pair])
        assert torch.equal(target["covers"][:, 1:], regions)


@settings(max_examples=25)
@given(st.floats(0.01, 50))
def test_ratios_have_the_moments_of_the_beta_distribution(alpha):
    draws = sample_lambda(alpha, generator_at(0, 0, 0, MIXING), 20_000)
    assert ((draws >= 0) & (draws <= 1)).all()
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(draws.mean() - 0.5) < 6 * np.sqrt(variance / 20_000)
    assert abs(draws.var() - variance) < 0.1 * variance


def test_alpha_zero_means_no_mixing():
    assert sample_lambda(0, generator_at(0, 0, 0, MIXING)) == 1.0
    assert sample_lambda(0, generator_at(0, 0, 0, MIXING), 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_alpha_below_zero_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number of 0 or more"):
        sample_lambda(alpha, generator_at(0, 0, 0, MIXING))
