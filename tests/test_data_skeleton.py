"""Names of keypoints, their mirror images and lines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detmix.data.skeleton import Skeleton, check_mirrored, mirrored_by


@pytest.mark.parametrize(
    ("names", "mirrored"),
    [
        (("nose", "left_eye", "right_eye"), (0, 2, 1)),
        (("LeftHand", "RightHand", "head"), (1, 0, 2)),
        (("ankle_L", "ankle_R"), (1, 0)),
        (("l-eye", "r-eye"), (1, 0)),
        (("left_eye", "right_ear"), (0, 1)),  # no counterparts
        (("tail", "collar"), (0, 1)),  # an l or r within a word is no side
        (("EYE_LEFT", "EYE_RIGHT"), (1, 0)),
        (("LShoulder", "RShoulder"), (1, 0)),
        (("eyeL", "eyeR", "eyeL2", "eyeR2"), (1, 0, 3, 2)),
        (("lEye", "rEye", "upperLLid", "upperRLid"), (1, 0, 3, 2)),
        (("left_eye", "Right_eye"), (1, 0)),
        (("lEye", "REye"), (1, 0)),
        (("Eye_L", "eye_l", "eye_r", "Eye_R"), (3, 2, 1, 0)),  # of two that would do, the one in the same case
        (("lEft", "Right", "Left"), (0, 2, 1)),
        (("Eye_L", "EYE_L", "eye_r"), (0, 1, 2)),  # nothing tells which of the two
        (("LEar", "Rear", "rear"), (0, 1, 2)),
        (("lshoulder", "rshoulder"), (0, 1)),  # a word of its own, as far as anyone can tell
        (("lower", "rower"), (0, 1)),
        (("LOWER", "ROWER"), (0, 1)),
        (("Lower", "Rower"), (0, 1)),
        (("LEG", "REG", "Leg", "Reg"), (0, 1, 2, 3)),
        (("tail", "tair", "Tail", "Tair", "TAIL", "TAIR"), (0, 1, 2, 3, 4, 5)),
        (("collarBone", "corralBone"), (0, 1)),
        (("color", "coror"), (0, 1)),
    ],
)
def test_keypoints_of_left_and_right_are_mirror_images(names, mirrored):
    assert Skeleton(names).mirrored == mirrored
    assert check_mirrored(mirrored) == mirrored


parts = st.sampled_from(
    [
        "l",
        "r",
        "L",
        "R",
        "left",
        "right",
        "Left",
        "Right",
        "LEFT",
        "lEft",
        "RIGHT",
        "_",
        "-",
        "1",
        "e",
        "E",
        "Eye",
        "eye",
    ]
)
names = st.lists(st.lists(parts, min_size=1, max_size=4).map("".join), min_size=1, max_size=12, unique=True)


@settings(max_examples=500, deadline=None)
@given(names)
def test_keypoints_become_each_other_or_nothing_else_whatever_they_are_called(names):
    mirrored = Skeleton(tuple(names)).mirrored
    assert check_mirrored(mirrored) == mirrored


def test_a_keypoint_needs_a_name_of_its_own():
    with pytest.raises(ValueError, match="each once"):
        Skeleton(("nose", "nose"))
    with pytest.raises(ValueError, match="one name or more"):
        Skeleton(())


def test_an_edge_joins_two_keypoints_that_exist():
    with pytest.raises(ValueError, match="two of 2 keypoints"):
        Skeleton(("head", "tail"), ((0, 2),))
    for edge in ((0, 1, 0), (0,), ()):
        with pytest.raises(ValueError, match="two of 2 keypoints"):
            Skeleton(("head", "tail"), (edge,))


@pytest.mark.parametrize("places", [(0, 0), (1, 2), (1, 2, 0)])
def test_mirroring_twice_must_change_nothing(places):
    with pytest.raises(ValueError, match="exchange pairs"):
        check_mirrored(places)


def test_pairs_may_be_named():
    names = ("nariz", "ojo_i", "ojo_d", "left_ear", "right_ear")
    assert mirrored_by(names, [("ojo_d", "ojo_i")]) == (0, 2, 1, 3, 4)
    assert mirrored_by(names, []) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("ojo_i", "ojo")], r"two of the keypoints nariz, ojo_i, ojo_d, got \['ojo_i', 'ojo'\]"),
        ([("ojo_i",)], "two of the keypoints"),
        ([("ojo_i", "ojo_d"), ("nariz", "ojo_d")], r"one pair at most, .* got \['nariz', 'ojo_d'\]"),
        ([("nariz", "nariz")], "not with itself"),
    ],
)
def test_pairs_that_are_none_are_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        mirrored_by(("nariz", "ojo_i", "ojo_d"), pairs)


@pytest.mark.parametrize("places", ["ab", (0, 1.0), (None,)])
def test_places_in_a_mirror_image_are_integers(places):
    with pytest.raises(TypeError, match="mirrored must be the places of keypoints, integers, got"):
        check_mirrored(places)
