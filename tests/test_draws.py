import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detmix.draws import generator_at

NUMBERS = st.integers(0, 2**40)


@given(st.integers(-(2**63), 2**63), NUMBERS, NUMBERS)
def test_a_draw_is_a_function_of_seed_epoch_and_index(seed, epoch, index):
    assert generator_at(seed, epoch, index).random() == generator_at(seed, epoch, index).random()


def test_neighbouring_draws_differ_and_are_uniform():
    draws = np.array([generator_at(s, e, i).random() for s in range(10) for e in range(10) for i in range(100)])
    assert len(np.unique(draws)) == len(draws)
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert abs(counts - 1000).max() < 5 * np.sqrt(900)  # five standard deviations of a binomial count


def test_global_random_state_is_untouched():
    state = np.random.get_state()[1].copy()
    generator_at(0, 0, 0).random()
    assert np.array_equal(np.random.get_state()[1], state)
