import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detmix.draws import AUGMENTATION, MIXING, SCENES, generator_at

NUMBERS = st.integers(0, 2**40)
IDS = st.integers(-(2**63), 2**63 - 1)  # of images: int64


@given(st.integers(-(2**63), 2**63), NUMBERS, NUMBERS)
def test_a_draw_is_a_function_of_seed_epoch_and_index(seed, epoch, index):
    assert generator_at(seed, epoch, index, MIXING).random() == generator_at(seed, epoch, index, MIXING).random()


def test_neighbouring_draws_differ_and_are_uniform():
    draws = np.array([generator_at(s, e, i, MIXING).random() for s in range(10) for e in range(10) for i in range(100)])
    assert len(np.unique(draws)) == len(draws)
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert abs(counts - 1000).max() < 5 * np.sqrt(900)  # five standard deviations of a binomial count


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor])
def test_integers_of_every_kind_draw_what_pythons_draw(integer):
    for index in (0, 1, 5):
        drawn = generator_at(integer(3), integer(2), integer(index), MIXING).random()
        assert drawn == generator_at(3, 2, index, MIXING).random()


def test_streams_of_one_key_differ():
    assert len({generator_at(1, 2, 3, stream).random() for stream in (MIXING, MIXING + 1, SCENES, AUGMENTATION)}) == 4


@pytest.mark.parametrize("key", [(None, 0, 0), (0, 1.5, 0), (0, 0, "1")])
def test_what_is_no_integer_is_refused(key):
    with pytest.raises(TypeError, match="integer"):
        generator_at(*key, MIXING)


@given(st.integers(-(2**63), 2**63), NUMBERS, IDS, st.sampled_from([MIXING, SCENES, AUGMENTATION]))
def test_draws_are_those_of_numpys_philox(seed, epoch, index, stream):
    word = 2**64
    plain = np.random.Philox(key=seed % word + epoch % word * word, counter=index % word * 2**192 + stream * 2**128)
    expected, drawn = np.random.Generator(plain), generator_at(seed, epoch, index, stream)
    assert drawn.random(9).tolist() == expected.random(9).tolist()
    assert (drawn.beta(1.5, 1.5), drawn.integers(1000)) == (expected.beta(1.5, 1.5), expected.integers(1000))
