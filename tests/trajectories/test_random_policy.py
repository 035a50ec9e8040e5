import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from pasta_gym import seeding
from pasta_gym.trajectories.random_policy import random_slates, slate_probabilities
from pasta_gym.trajectories.untrained_policy import untrained_slates

FIVE_BY_FIVE = np.repeat(np.arange(5), 5)


def keys(n: int, seed: int = 0) -> np.ndarray:
    return seeding.mix(seed, np.arange(n))


def test_the_papers_sizes_give_one_in_3125():
    slates, probabilities = random_slates(np.tile(FIVE_BY_FIVE, (7, 1)), keys(7), 4)
    assert_allclose(probabilities, 1 / 3125)
    assert slates.shape == (7, 4)


def test_unequal_categories_by_hand():
    # Sizes 1, 2, 3: slates of two are {0,1}: 1/3 * 1/2, {0,2}: 1/3 * 1/3, {1,2}: 1/3 * 1/6.
    categories = np.array([[0, 1, 1, 2, 2, 2]] * 4)
    slates = np.array([[0, 2], [5, 0], [1, 3], [1, 2]])
    assert_allclose(slate_probabilities(categories, slates), [1 / 6, 1 / 9, 1 / 18, 0])


def test_frequencies_match_the_stated_probabilities():
    categories = np.tile([0, 2, 2, 3, 3, 3], (60_000, 1))  # category 1 is empty
    slates, probabilities = random_slates(categories, keys(60_000, seed=3), 2)
    names = [tuple(sorted(s)) for s in slates.tolist()]
    stated = dict(zip(names, probabilities, strict=True))
    assert len(stated) == 2 + 3 + 6
    assert_allclose(sum(stated.values()), 1.0)
    for name, probability in stated.items():
        share = names.count(name) / len(names)
        assert abs(share - probability) < 5 * np.sqrt(probability / len(names))


def test_the_order_of_a_slate_carries_no_information():
    slates, _ = random_slates(np.tile(FIVE_BY_FIVE, (20_000, 1)), keys(20_000), 4)
    shares = np.stack([np.bincount(FIVE_BY_FIVE[slates[:, place]], minlength=5) for place in range(4)]) / 20_000
    assert np.abs(shares - 0.2).max() < 0.015


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.integers(0, 10_000), st.data())
def test_slates_hold_distinct_categories_and_do_not_depend_on_the_batch(sizes, seed, data):
    slate_size = data.draw(st.integers(1, len(sizes)))
    rng = np.random.default_rng(seed)
    row = np.repeat(np.arange(len(sizes)), sizes)
    categories = np.stack([rng.permutation(row) for _ in range(5)])
    slates, probabilities = random_slates(categories, keys(5, seed), slate_size)
    shown = np.take_along_axis(categories, slates, axis=1)
    assert all(len(set(s)) == slate_size for s in shown.tolist())
    assert (probabilities > 0).all()
    alone, probability = random_slates(categories[3:4], keys(5, seed)[3:4], slate_size)
    assert_array_equal(alone[0], slates[3])
    assert_allclose(probability[0], probabilities[3])


def test_too_few_categories_say_what_would_do():
    with pytest.raises(ValueError, match=r"slate_size must be in 1\.\.2 .* got 3"):
        random_slates(np.array([[0, 0, 4, 4]]), keys(1), 3)


def test_the_untrained_generator_shows_first_candidates_with_the_stated_probabilities():
    categories = np.tile([3, 0, 2, 2, 0, 3, 4], (30_000, 1))  # first of 3, 0, 2 and 4: places 0, 1, 2, 6
    slates, probabilities = untrained_slates(categories, keys(30_000, seed=2), 3)
    assert_allclose(probabilities, 1 / 4)
    names = [tuple(sorted(s)) for s in slates.tolist()]
    assert set(names) == {(0, 1, 2), (0, 1, 6), (0, 2, 6), (1, 2, 6)}
    for name in set(names):
        assert abs(names.count(name) / len(names) - 1 / 4) < 0.0125  # five standard deviations
    alone, _ = untrained_slates(categories[7:8], keys(30_000, seed=2)[7:8], 3)
    assert_array_equal(alone[0], slates[7])
    with pytest.raises(ValueError, match="as many categories, got 4"):
        untrained_slates(categories[:1], keys(1), 5)
