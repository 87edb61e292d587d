"""Names of keypoints, their mirror images and lines."""

from __future__ import annotations

import pytest

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
    ],
)
def test_keypoints_of_left_and_right_are_mirror_images(names, mirrored):
    assert Skeleton(names).mirrored == mirrored
    assert check_mirrored(mirrored) == mirrored


def test_a_keypoint_needs_a_name_of_its_own():
    with pytest.raises(ValueError, match="each once"):
        Skeleton(("nose", "nose"))
    with pytest.raises(ValueError, match="one name or more"):
        Skeleton(())


def test_an_edge_joins_two_keypoints_that_exist():
    with pytest.raises(ValueError, match="two of 2 keypoints"):
        Skeleton(("head", "tail"), ((0, 2),))


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
