"""Weights of boxes whose corners lie between pixels, past the image, or within a rounding error of a cut."""

from fractions import Fraction
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detmix.cutmix import cutmix_pair, cutout
from detmix.mixing import mix_pair
from detmix.targets import SLIVER

from .test_cutmix import SIZE, region_on

EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def common(boxes):
    """Width and height of what all boxes have in common, in exact fractions."""
    x1, y1 = (max(Fraction(box[i]) for box in boxes) for i in (0, 1))
    x2, y2 = (min(Fraction(box[i]) for box in boxes) for i in (2, 3))
    return max(x2 - x1, 0), max(y2 - y1, 0)


def overlap(boxes):
    width, height = common(boxes)
    return width * height


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_boxes_between_and_past_pixels_weigh_what_inclusion_and_exclusion_gives(seed, cuts):
    rng = np.random.default_rng(seed)
    box = np.sort(rng.uniform(-1, SIZE + 1, (2, 2)), axis=0).astype(np.float32).ravel().tolist()
    canvas, *regions = (0, 0, SIZE, SIZE), *(region_on((SIZE, SIZE), rng.random(4)) for _ in range(cuts))
    sample = torch.ones(1, SIZE, SIZE), {"boxes": torch.tensor([box]), "labels": torch.tensor([1])}
    for region in regions:
        sample = cutout(*sample, region=region)
    some = chain.from_iterable(combinations(regions, count) for count in range(cuts + 1))
    visible = sum((-1) ** len(chosen) * overlap([box, canvas, *chosen]) for chosen in some)
    share = [float(visible / overlap([box, canvas]))] if visible else []
    assert sample[1]["weights"].tolist() == pytest.approx(share, rel=1e-5)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_piece_of_b_weighs_its_share_of_what_its_image_holds_unless_it_is_a_sliver(seed, thin):
    rng = np.random.default_rng(seed)
    region = region_on((SIZE, SIZE), rng.random(4))
    corners = np.sort(rng.uniform(-1, SIZE + 1, (2, 2)), axis=0)
    if thin:
        axis = rng.integers(2)
        corners[:, axis] = -1, region[axis] + rng.uniform(0, 2 * SLIVER)
    box, canvas = corners.astype(np.float32).ravel().tolist(), (0, 0, SIZE, SIZE)
    b = {"boxes": torch.tensor([box]), "labels": torch.tensor([1])}
    black = torch.zeros(1, SIZE, SIZE)
    _, target = cutmix_pair(black, EMPTY, black, b, region=region)
    seen = min(common([box, canvas, region])) >= SLIVER
    share = overlap([box, canvas, region]) / overlap([box, canvas]) if seen else 0
    assert target["weights"].tolist() == pytest.approx([float(share)] if seen else [], rel=1e-5)


@settings(max_examples=30, deadline=None)
@example(edge=61, axis=0, steps=1)
@given(st.integers(1, 478), st.integers(0, 1), st.integers(1, 400))
def test_torchvision_can_resize_whatever_pieces_are_left(edge, axis, steps):
    image, box = torch.zeros(1, 480, 640), torch.tensor([[0.0, 0, 640, 480]])
    box[0, 2 + axis] = edge + steps * float(np.spacing(np.float32(edge)))
    region = (edge, 0, 640, 480) if axis == 0 else (0, edge, 640, 480)
    _, target = cutmix_pair(image, EMPTY, image, {"boxes": box, "labels": torch.tensor([1])}, region=region)
    resize = GeneralizedRCNNTransform(min_size=800, max_size=1333, image_mean=[0.0], image_std=[1.0])
    boxes = resize.resize(image, target)[1]["boxes"]
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_what_lies_past_its_image_takes_no_share_of_an_object():
    image, target = torch.ones(1, 10, 10), {"boxes": torch.tensor([[-1.0, 0, 1, 10]]), "labels": torch.tensor([1])}
    assert cutout(image, target, region=(0, 0, 10, 5))[1]["weights"].tolist() == [0.5]
    assert cutout(image, target, region=(0, 0, 10, 10))[1]["weights"].tolist() == []
    _, shown = cutmix_pair(image, EMPTY, image, target, region=(0, 0, 10, 10))
    assert (shown["weights"].tolist(), shown["boxes"].tolist()) == ([1], [[0, 0, 1, 10]])
    target["boxes"] = torch.tensor([[-1.0, 0, 0, 10]])
    assert cutout(image, target, region=(0, 0, 0, 0))[1]["weights"].tolist() == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_boxes_of_low_precision_are_cut_at_the_very_pixel(dtype):
    image, target = torch.zeros(1, 4, 4096), {"labels": torch.tensor([1])}
    target["boxes"] = torch.tensor([[2048, 0, 2064, 4]], dtype=dtype)
    _, twice = cutout(*cutout(image, target, region=(0, 0, 2051, 4)), region=(2049, 0, 2053, 4))
    assert (twice["boxes"].dtype, twice["weights"].tolist()) == (dtype, [11 / 16])
    _, shown = cutmix_pair(image, EMPTY, image, target, region=(2051, 0, 4096, 4))
    assert shown["weights"].tolist() == [13 / 16]
    _, blended = mix_pair(image, target, image, twice, lam=0.5)
    assert blended["covers"][1].tolist() == twice["covers"][0].tolist()
