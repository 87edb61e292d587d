import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Subset

from detmix.draws import MIXING, generator_at
from detmix.lookups import read_labels, read_landscape
from detmix.partners import index_partners

POLICIES = ("any", "with_boxes", "background", "other_class", "same_orientation")


class Labelled:
    """A data set that knows labels, and sizes, which go by their number."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def labels_of(self, index):
        return torch.tensor(self.labels[index], dtype=torch.int64)

    def get_height_and_width(self, index):
        return [(480, 480), (427, 640), (640, 480), (500, 501)][len(self.labels[index]) % 4]


def eligible(policy, labels, index):
    """The partners a sample may have, from the definition."""
    fits = {
        "any": lambda other: True,
        "with_boxes": lambda other: len(other) > 0,
        "background": lambda other: len(other) == 0,
        "other_class": lambda other: not set(other) & set(labels[index]),
        "same_orientation": lambda other: len(other) % 2 == len(labels[index]) % 2,
    }[policy]
    return [i for i, other in enumerate(labels) if i != index and fits(other)]


def draws(partners, index, count, seed=0):
    return [partners.draw(index, generator_at(seed, 0, i, MIXING)) for i in range(count)]


def assert_uniform(found, expected):
    """A chi-square test at about one in ten thousand (Wilson and Hilferty's approximation)."""
    values, counts = np.unique(found, return_counts=True)
    assert set(values) <= set(expected)
    mean = len(found) / len(expected)
    statistic = (counts**2).sum() / mean - len(found)
    freedom = len(expected) - 1
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + 3.8 * spread**0.5) ** 3


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), max_size=4), min_size=2, max_size=8), st.sampled_from(POLICIES))
def test_partners_are_those_of_the_definition(labels, policy):
    fitting = [eligible(policy, labels, index) for index in range(len(labels))]
    if not any(fitting):
        with pytest.raises(ValueError, match=f"partner='{policy}' finds no partner for any of {len(labels)} samples"):
            index_partners(policy, Labelled(labels))
        return
    partners = index_partners(policy, Labelled(labels))
    for index, expected in enumerate(fitting):
        assert set(draws(partners, index, 20)) <= set(expected or [None])
        assert [other for other in range(len(labels)) if partners.fits(index, other)] == expected


LABELS = [[1], [1, 2], [], [2, 2], [3], [1, 3], [], [4, 4, 1], [2, 3], []]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("index", [0, 2, 5, 8])
def test_eligible_partners_are_equally_likely(policy, index):
    found = draws(index_partners(policy, Labelled(LABELS)), index, 4000)
    assert_uniform(found, eligible(policy, LABELS, index))


@pytest.mark.parametrize("policy", ["with_boxes", "background"])
@pytest.mark.parametrize("labels", [[[1], [1], [1], [], [], []], [[], [], [], [1], [1], [1]]])
def test_the_last_of_a_kind_is_as_likely_as_the_others(policy, labels):
    partners = index_partners(policy, Labelled(labels))
    for index in range(6):
        assert_uniform(draws(partners, index, 2000), eligible(policy, labels, index))


def test_rare_partners_are_found_and_equally_likely():
    labels = [[1, 2]] * 2000 + [[3], [1, 3], [4], [3]]  # three in two thousand will do
    partners = index_partners("other_class", Labelled(labels))
    assert_uniform(draws(partners, 7, 3000), [2000, 2002, 2003])
    assert_uniform(draws(partners, 2000, 4000), [*range(2000), 2002])


def test_an_image_that_alone_has_its_orientation_has_no_partner():
    partners = index_partners("same_orientation", Labelled([[1], [], [1, 2]]))
    assert draws(partners, 0, 50) == [None] * 50
    assert [set(draws(partners, index, 50)) for index in (1, 2)] == [{2}, {1}]


@pytest.mark.parametrize("size", [None, 3, (1, 2, 3), ("a", "b"), ("480", "640")])
def test_sizes_that_are_no_pair_of_numbers_are_refused(size):
    dataset = Labelled([[1], [1]])
    dataset.get_height_and_width = lambda index: size
    with pytest.raises(TypeError, match=r"get_height_and_width\(0\) must give two numbers, got"):
        index_partners("same_orientation", dataset)


def test_orientations_are_asked_of_parts_of_a_data_set():
    joined = ConcatDataset([Labelled([[1], []]), Subset(Labelled([[1], [1, 2], [1]]), [1, 2])])
    assert read_landscape(joined).tolist() == [True, False, False, True]


def test_a_sample_without_a_partner_has_none():
    labels = [[1, 2], [1], [2]]
    partners = index_partners("other_class", Labelled(labels))
    assert draws(partners, 0, 50) == [None] * 50
    assert set(draws(partners, 1, 50)) == {2}
    partners = index_partners("background", Labelled([[1], []]))
    assert draws(partners, 0, 5) == [1] * 5
    assert draws(partners, 1, 5) == [None] * 5


def test_classes_beyond_one_word_of_bits_are_told_apart():
    labels = [[number, number + 1] for number in range(1, 400)] + [[10**12], [-5]]
    partners = index_partners("other_class", Labelled(labels))
    for index in (0, 62, 63, 64, 65, 128, 399, 400):
        found = draws(partners, index, 300)
        assert set(found) <= set(eligible("other_class", labels, index))
    assert partners._draw_from_all(partners._sets[partners._set_of[63]], generator_at(0, 0, 0, MIXING)) is not None


@pytest.mark.parametrize(
    ("policy", "labels", "wanted"),
    [
        ("background", [[1], [2]], "every image has an object"),
        ("with_boxes", [[], []], "no image has an object"),
        ("other_class", [[1], [1]], "any two images have a class in common, and none is without objects"),
        ("other_class", [[1, 2], [2, 3], [1, 3]], "any two images have a class in common"),
        ("same_orientation", [[1], []], "one image is wider than high, and the other is not"),
    ],
)
def test_a_data_set_without_any_partner_is_refused_with_the_reason(policy, labels, wanted):
    with pytest.raises(ValueError, match=f"partner='{policy}' finds no partner for any of .* samples: {wanted}"):
        index_partners(policy, Labelled(labels))


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_a_data_set_that_cannot_tell_what_is_needed_is_told_what_to_add(policy):
    method = "get_height_and_width" if policy == "same_orientation" else "labels_of"
    wanted = rf"partner='{policy}': list needs a method {method}\(index\) that returns .* Or pass partner='any'"
    with pytest.raises(TypeError, match=wanted):
        index_partners(policy, [1, 2, 3])


def test_any_partner_needs_no_labels():
    assert set(draws(index_partners("any", [1, 2, 3]), 1, 50)) == {0, 2}


@pytest.mark.parametrize("labels", [[1.5], [[1, 2]], 3, [True]])
def test_labels_that_are_no_row_of_integers_are_refused(labels):
    dataset = Labelled([[1], labels])
    dataset.labels_of = lambda index: dataset.labels[index]
    with pytest.raises(TypeError, match=r"labels_of\(1\) must give \(N,\) integers"):
        index_partners("with_boxes", dataset)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_may_be_of_any_kind(kind):
    dataset = Labelled([[1], [], [2]])
    dataset.labels_of = lambda index: kind(dataset.labels[index])
    assert set(draws(index_partners("other_class", dataset), 0, 50)) == {1, 2}


def test_a_subset_asks_the_data_set_it_is_of():
    subset = Subset(Subset(Labelled(LABELS), [0, 1, 2, 3, 4, 5]), [1, 4, 5])  # {1, 2}, {3}, {1, 3}
    partners = index_partners("other_class", subset)
    assert [draws(partners, index, 3) for index in range(3)] == [[1] * 3, [0] * 3, [None] * 3]


@given(st.lists(st.lists(st.lists(st.integers(1, 4), max_size=2), min_size=1, max_size=4), min_size=1, max_size=4))
@settings(deadline=None)
def test_data_sets_one_after_the_other_ask_each_of_them(parts):
    labels = [row for part in parts for row in part]
    joined = ConcatDataset([ConcatDataset([Subset(Labelled(part), range(len(part)))]) for part in parts])
    found, counts = read_labels(joined)
    assert counts.tolist() == [len(row) for row in labels]
    assert found.tolist() == [label for row in labels for label in row]


def test_a_subset_of_data_sets_one_after_the_other_may_count_from_the_end():
    joined = ConcatDataset([Labelled([[1], [2]]), Labelled([[3], [4]])])
    found, _ = read_labels(Subset(joined, [-1, 0, 1, -3, -4]))
    assert found.tolist() == [4, 1, 2, 2, 1]
    with pytest.raises(IndexError):
        read_labels(Subset(joined, [-5]))


def test_data_sets_one_after_the_other_must_all_tell_their_labels():
    with pytest.raises(TypeError, match="list needs a method labels_of"):
        index_partners("other_class", ConcatDataset([Labelled([[1]]), [2]]))


def test_a_part_of_a_data_set_may_tell_its_labels_itself():
    class Joined(ConcatDataset):
        def labels_of(self, index):
            return self[index]

    class Part(Subset):
        def labels_of(self, index):
            return self[index]

    for dataset in (Joined([[[1]], [[2]]]), Part([[3], [1], [2]], [1, 2])):
        assert index_partners("other_class", dataset).draw(0, generator_at(0, 0, 0, MIXING)) == 1


def test_the_index_of_118000_images_is_small_and_takes_little_to_build():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20, 118_000)
    labels = np.minimum(rng.geometric(0.06, counts.sum()), 80)
    dataset = Labelled(np.split(labels, counts.cumsum()[:-1]))
    dataset.labels_of = dataset.labels.__getitem__
    tracemalloc.start()
    try:
        partners = index_partners("other_class", dataset)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(partners._sets) > 50_000
    assert peak < 50e6
    for index in range(0, 118_000, 1000):
        partner = partners.draw(index, generator_at(0, 0, index, MIXING))
        assert not set(dataset.labels[index]) & set(dataset.labels[partner])
