"""The optimisers of a slate's expected value against enumeration, under both action rules."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from agents.mixture_slate import mixture_slate
from agents.slate_enumeration import best_slates, expected_chosen_values, slate_table
from agents.slate_search import (
    choice_weights,
    exchanged_slate,
    greedy_slate,
    ratio_extension,
    slate_extension,
    slate_values,
)
from agents.slate_selection import (
    choice_weighted_value,
    coordinate_slate,
    exact_choice_slate,
    top_slate,
    topk_choice_slate,
)


def legal_slates(categories, slate_size):
    """Every slate of one row, written as its definition."""
    slates = itertools.combinations(range(len(categories)), slate_size)
    return np.array([s for s in slates if len({int(categories[i]) for i in s}) == slate_size])


@st.composite
def problems(draw):
    """Utilities in [0, 1] from a coarse grid, so that many tie; a temperature, a rule and a slate size."""
    n = draw(st.integers(2, 8))
    utilities = np.array(draw(st.lists(st.integers(0, 6), min_size=2 * n, max_size=2 * n))).reshape(2, n) / 6
    is_free = draw(st.booleans())
    categories = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    labels = None if is_free else np.tile(categories, (2, 1))
    most = n if is_free else len(np.unique(categories))
    return utilities, draw(st.sampled_from([0.0, 1.0, 7.0, 200.0])), labels, draw(st.integers(1, most))


def greedy(utilities, logits, labels, slate_size):
    """The greedy slate of one choice model, as a mixture of one."""
    extend = ratio_extension(utilities[..., None], choice_weights(logits)[..., None], np.ones((len(utilities), 1)))
    return greedy_slate(extend, labels, utilities.shape[1], len(utilities), slate_size)


def distinct(labels, n):
    return np.arange(n) if labels is None else labels[0]


@given(problems())
@settings(max_examples=40, deadline=None)
def test_fractional_programming_is_enumeration_and_no_heuristic_is_better(problem):
    utilities, temperature, labels, slate_size = problem
    logits = temperature * utilities
    legal = legal_slates(distinct(labels, utilities.shape[1]), slate_size)
    shown = utilities[:, legal]
    odds = np.exp(temperature * (shown - shown.max(axis=2, keepdims=True)))
    best = ((odds * shown).sum(axis=2) / odds.sum(axis=2)).max(axis=1)

    enumerated = best_slates(
        utilities[:, None],
        np.ones(1),
        labels,
        slate_size,
        choice_logits=lambda u: temperature * u,
        has_constant_temperature=True,
    )
    exact = exact_choice_slate(utilities, logits, labels, slate_size)
    assert_allclose(choice_weighted_value(exact, utilities, logits), best, atol=1e-9)
    assert_allclose(choice_weighted_value(enumerated, utilities, logits), best, atol=1e-6)
    for heuristic in (topk_choice_slate, greedy, coordinate_slate):
        slates = heuristic(utilities, logits, labels, slate_size)
        names = distinct(labels, utilities.shape[1])
        assert all(len({int(names[i]) for i in slate}) == slate_size for slate in slates)
        assert (choice_weighted_value(slates, utilities, logits) <= best + 1e-9).all()


def test_greedy_can_end_beside_the_optimum():
    # 0 is the best alone and takes the place of 1 of its category, which everybody would choose beside the dull 2.
    problem = np.array([[1.0, 0.99, 0.1]]), np.array([[0.0, 9.0, 0.0]]), np.array([[0, 0, 1]]), 2
    assert greedy(*problem)[0].tolist() == [0, 2]
    assert sorted(exact_choice_slate(*problem)[0]) == [1, 2]


def slate_logits(utilities):
    """Logits that no table of candidates holds: the temperature grows with the slate's best column."""
    return 2.0 * np.exp(3.0 * utilities.max(axis=-1, keepdims=True)) * utilities


@pytest.mark.parametrize("categories", [np.array([0, 0, 1, 1, 2, 2]), None])
def test_enumeration_is_exact_where_the_temperature_depends_on_the_slate_and_weights_on_the_conversation(categories):
    rng = np.random.default_rng(4)
    utilities, weights = rng.random((20, 3, 6)), rng.dirichlet(np.ones(3), size=20)
    labels = None if categories is None else np.tile(categories, (20, 1))
    options = {"choice_logits": slate_logits, "has_constant_temperature": False}
    found = best_slates(utilities, weights, labels, 2, **options)
    legal = legal_slates(distinct(labels, 6), 2)
    for b in range(20):
        values = {}
        for slate in map(tuple, legal):
            u = utilities[b][:, list(slate)]
            odds = np.exp(slate_logits(u))
            values[slate] = float(weights[b] @ ((odds * u).sum(axis=1) / odds.sum(axis=1)))
        assert tuple(sorted(found[b].tolist())) == max(values, key=values.get)
    by_type = np.moveaxis(utilities, 1, 2)
    extend = slate_extension(by_type, by_type, slate_logits, weights)
    greedy = greedy_slate(extend, labels, 6, 20, 2)
    climbed = exchanged_slate(greedy, extend, labels, 6)
    best, low, middle = (
        slate_values(s[:, None], by_type, by_type, slate_logits, weights)[:, 0] for s in (found, greedy, climbed)
    )
    assert (middle <= best + 1e-9).all()
    assert (low <= middle + 1e-9).all()
    assert (low < best - 1e-6).any(), "greedy is not exact"


def test_item_values_other_than_the_utilities_decide_when_given():
    # Utilities choose, values pay: of 0 and 1, which are chosen alike, 1 leads to a better place.
    utilities, values = np.array([[[0.9, 0.9, 0.0]]]), np.array([[[0.1, 0.8, 0.9]]])
    for constant in (True, False):
        options = {"choice_logits": lambda u: 50.0 * u, "has_constant_temperature": constant}
        slates = best_slates(utilities, np.ones(1), None, 2, item_values=values, **options)
        assert sorted(slates[0]) == [1, 2]


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=10, deadline=None)
def test_the_two_extensions_agree_where_the_temperature_is_constant(seed, is_free):
    rng = np.random.default_rng(seed)
    utilities, belief = rng.random((3, 7, 2)), rng.dirichlet(np.ones(2), size=3)
    labels = None if is_free else np.tile(np.arange(7) % 4, (3, 1))
    slates = np.array([[0, 1], [2, 5], [6, 3]])
    by_slate = slate_extension(utilities, utilities, lambda u: 5.0 * u, belief)(slates)
    by_ratio = ratio_extension(utilities, np.exp(5.0 * utilities), belief)(slates)
    others = np.array([[c not in slate for c in range(7)] for slate in slates])
    assert_allclose(by_slate[others], by_ratio[others])
    # No slate of a mixture is better than the best of all.
    found = mixture_slate(utilities, 5.0 * utilities, belief, labels, 3)
    best = best_slates(
        np.moveaxis(utilities, 2, 1),
        belief,
        labels,
        3,
        choice_logits=lambda u: 5.0 * u,
        has_constant_temperature=True,
    )
    value = [slate_values(s[:, None], utilities, utilities, lambda u: 5.0 * u, belief) for s in (found, best)]
    assert (value[0] <= value[1] + 1e-6).all()


def test_the_papers_sizes_have_3125_and_12650_slates():
    table, members = slate_table(tuple(np.repeat(range(5), 5)), 4)
    assert table.shape == (3125, 4)
    assert members.sum() == 3125 * 4
    assert len({tuple(row) for row in table.tolist()}) == 3125
    assert slate_table(tuple(range(25)), 4)[0].shape == (12650, 4)


def test_unequal_categories_are_enumerated():
    table, _ = slate_table((2, 0, 2, 1), 2)
    assert {tuple(sorted(row)) for row in table.tolist()} == {(0, 1), (1, 2), (1, 3), (0, 3), (2, 3)}
    with pytest.raises(ValueError, match=r"1\.\.3.*got 4"):
        slate_table((2, 0, 2, 1), 4)


def test_the_expected_value_of_a_choice_by_hand():
    # Utilities 0 and 1, logits 0 and ln 3: 3/4. In a second sample both pay 1/2.
    utilities = np.array([[[0.0, 1.0], [0.5, 0.5]]])
    odds = np.exp(np.log(3) * utilities)
    values = expected_chosen_values(utilities, odds, np.array([[0.8, 0.2]]), np.ones((2, 1), np.float32))
    assert_allclose(values, [[0.8 * 0.75 + 0.2 * 0.5]], rtol=1e-6)


@pytest.mark.parametrize("n_categories", [2, 4])
def test_top_slates_are_those_with_the_largest_sum(n_categories):
    rng = np.random.default_rng(n_categories)
    scores, categories = rng.random((30, 8)), np.tile(np.arange(8) % n_categories, (30, 1))
    legal = legal_slates(categories[0], 2)
    best = scores[:, legal].sum(axis=2).max(axis=1)
    assert_allclose(np.take_along_axis(scores, top_slate(scores, categories, 2), axis=1).sum(axis=1), best)
