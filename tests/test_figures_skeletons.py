"""Keypoints and the lines between them in pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageColor

from detmix.figures import draw_boxes
from detmix.figures.boxes import _place_captions
from detmix.figures.style import PALETTE

from .test_figures import GREY, make_target

EDGES = ((0, 1), (1, 2))
POINTS = [[30.0, 60, 2], [50, 60, 1], [70, 90, 1]]  # within the one box of make_target, off its lines
SCALE = 4  # so small a picture is drawn fourfold


def ink(points, *, image=GREY, edges=(), **keys):
    """How far each pixel of the drawing is from that without keypoints: (H, W) float."""
    target = make_target(**keys)
    without = draw_boxes(image, target)
    picture = draw_boxes(image, target | {"keypoints": torch.tensor([points])}, edges=edges)
    return np.asarray(ImageChops.difference(picture, without), float).sum(-1)


def place_of(x, y):
    """The middle of a pixel of the image, in indices of those of the picture."""
    return (x + 0.5) * SCALE - 0.5, (y + 0.5) * SCALE - 0.5


@pytest.mark.parametrize(("x", "y"), [(30, 60), (51, 77), (60.5, 70.25)])
def test_a_dot_lies_on_the_middle_of_its_pixel(x, y):
    ys, xs = np.nonzero(ink([[x, y, 1]]))
    assert (xs.mean(), ys.mean()) == pytest.approx(place_of(x, y), abs=0.15)
    assert 6 <= np.ptp(xs) + 1 == np.ptp(ys) + 1 <= 14


def test_a_line_joins_keypoints_that_are_both_visible_and_no_others():
    joined = ink(POINTS, edges=EDGES) > 0
    across = [round(side) for side in place_of(40, 60)]
    down = [round(side) for side in place_of(60, 75)]
    assert joined[across[1], across[0]]
    assert joined[down[1], down[0]]
    for hidden in range(3):
        points = [[x, y, seen * (number != hidden)] for number, (x, y, seen) in enumerate(POINTS)]
        found = ink(points, edges=EDGES) > 0
        assert found[across[1], across[0]] == (hidden == 2)
        assert found[down[1], down[0]] == (hidden == 0)
        x, y = (round(side) for side in place_of(*POINTS[hidden][:2]))
        assert not found[y, x]
    assert not (ink(POINTS) > 0)[across[1], across[0]]


@pytest.mark.parametrize(
    "keypoints", [torch.zeros(1, 3, 3), torch.zeros(1, 0, 3), torch.tensor([[[torch.nan, 60, 1]] * 3])]
)
def test_without_visible_keypoints_a_picture_is_what_it_was(keypoints):
    edges = EDGES if keypoints.shape[1] else ()
    expected = draw_boxes(GREY, make_target())
    assert draw_boxes(GREY, make_target(keypoints=keypoints), edges=edges).tobytes() == expected.tobytes()
    assert draw_boxes(GREY, make_target(), edges=EDGES).tobytes() == expected.tobytes()
    assert draw_boxes(GREY, make_target((), keypoints=torch.zeros(0, 3, 3)), edges=EDGES).size == expected.size


@pytest.mark.parametrize("label", range(1, len(PALETTE) + 1))
def test_lines_and_dots_have_the_colour_of_the_class_in_a_dark_rim(label):
    (x, y), dot = ([round(side) for side in place_of(*place)] for place in ((40, 60), POINTS[0][:2]))
    color = ImageColor.getrgb(PALETTE[label - 1])
    for level in (0, 255):
        image = torch.full((3, 128, 96), level, dtype=torch.uint8)
        target = make_target(keypoints=torch.tensor([POINTS])) | {"labels": torch.tensor([label])}
        picture = np.asarray(draw_boxes(image, target, edges=EDGES))
        assert tuple(picture[dot[1], dot[0]]) == color
        line = picture[y - 8 : y + 9, x]
        assert np.abs(line.astype(int) - color).sum(1).min() < 30
        assert line.sum(1).min() < 60  # the rim, which tells it from a white ground


def test_opacity_follows_the_weight_with_a_floor():
    strength = {
        weight: ink(POINTS, edges=EDGES, weights=torch.tensor([weight])).sum() for weight in (0.0, 0.15, 0.5, 1.0)
    }
    full = ink(POINTS, edges=EDGES).sum()
    assert strength[1.0] == full
    assert strength[0.5] == pytest.approx(full / 2, rel=0.03)
    assert strength[0.0] == strength[0.15] == pytest.approx(0.15 * full, rel=0.1)


def test_captions_lie_above_keypoints():
    places = []

    def placed(*arguments):
        places.append(_place_captions(*arguments))
        return places[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detmix.figures.boxes._place_captions", placed)
        draw_boxes(GREY, make_target(), ["platelets"])
    x1, y1, x2, y2 = places[0][0]
    points = torch.tensor([[[x1 / SCALE, (y1 + y2) / 2 / SCALE, 1], [x2 / SCALE, (y1 + y2) / 2 / SCALE, 1]]])
    pictures = [
        np.asarray(draw_boxes(GREY, make_target(**keys), ["platelets"], edges=[(0, 1)]))
        for keys in ({}, {"keypoints": points})
    ]
    white = (pictures[0] == 255).all(-1)
    assert white.sum() > 100
    assert (pictures[1][white] == 255).all()
    assert (pictures[0] != pictures[1]).any()


def test_marks_grow_with_the_picture():
    sizes = []
    for side in (500, 2000):
        target = make_target([[0.0, 0, side, side]], keypoints=torch.tensor([[[side / 2, side / 2, 1.0]]]))
        image = torch.full((3, side, side), 100, dtype=torch.uint8)
        pictures = draw_boxes(image, target), draw_boxes(image, make_target([[0.0, 0, side, side]]))
        x1, _, x2, _ = ImageChops.difference(*pictures).getbbox()
        sizes.append(x2 - x1)
    assert 2 * sizes[0] < sizes[1] < 4 * sizes[0]  # as the lettering does, from 18 to 56 pixels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(100, 140), (520, 610)])
def test_skeletons_drawn_where_they_have_ink_are_those_drawn_on_the_whole_picture(seed, size, monkeypatch):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    places = rng.uniform(-0.2, 1.2, (4, 5, 2)) * size[::-1]
    points = torch.from_numpy(np.concatenate([places, rng.integers(0, 3, (4, 5, 1))], axis=2))
    target = make_target([[5.0, 5, 60, 70]] * 4, keypoints=points, weights=torch.linspace(0, 1, 4))
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]
    pictures = [draw_boxes(image, target, edges=edges)]
    monkeypatch.setattr("detmix.figures.skeletons._region", lambda joints, reach, size: (0, 0, *size))
    pictures.append(draw_boxes(image, target, edges=edges))
    assert ImageChops.difference(*pictures).getbbox() is None


def test_keypoints_far_outside_and_in_other_dtypes_are_drawn_without_complaint():
    for points in ([[1e30, 5, 1], [-1e30, 5, 1]], [[-900.0, -900, 1], [990, 990, 1]]):
        ink(points, edges=[(0, 1)])
    whole = torch.tensor([POINTS]).to(torch.int64)
    pictures = [draw_boxes(GREY, make_target(keypoints=points)) for points in (whole, whole.float().requires_grad_())]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert isinstance(pictures[0], Image.Image)


@pytest.mark.parametrize("shape", [(2, 3, 3), (0, 3, 3), (1, 3, 2), (1, 3), (1, 1, 3, 3)])
def test_keypoints_are_a_row_of_three_numbers_each_for_each_box(shape):
    with pytest.raises(ValueError, match=r"shape \(1, P, 3\), one row for each box, got \("):
        draw_boxes(GREY, make_target(keypoints=torch.zeros(shape)))


@pytest.mark.parametrize("edge", [(0, 3), (-1, 0), (0,), (0, 1, 2)])
def test_an_edge_joins_two_of_the_keypoints(edge):
    with pytest.raises(ValueError, match="an edge must join two of 3 keypoints, got"):
        draw_boxes(GREY, make_target(keypoints=torch.tensor([POINTS])), edges=[edge])
