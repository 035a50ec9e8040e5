from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.mixture_slate import mixture_slate, mixture_slate_value
from agents.slate_selection import choice_weighted_value, exact_choice_slate, top_slate


def random_problem(seed, batch=40, n=9, n_components=3, sharpness=3.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(batch, n, n_components))
    # As in a user model: what is liked is chosen.
    logits = sharpness * (values + 0.3 * rng.normal(size=values.shape))
    return values, logits, rng.dirichlet(np.ones(n_components), size=batch)


def test_value_by_hand():
    # Two items, two components: chosen with 1/4 and 3/4 by the first (values 2, 10), evenly by the second (0, 6).
    values = np.array([[[2.0, 0.0], [10.0, 6.0]]])
    logits = np.array([[[0.0, 5.0], [np.log(3), 5.0]]])
    value = mixture_slate_value(np.array([[1, 0]]), values, logits, np.array([[0.25, 0.75]]))
    assert value == pytest.approx([0.25 * 8 + 0.75 * 3])


def test_a_slate_for_two_kinds_of_people_covers_both():
    # Items 0 and 1 delight one kind each, 2 and 3 are better on average: for two places the first two win.
    values = np.array([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.6], [0.6, 0.6]]])
    belief = np.array([[0.5, 0.5]])
    assert sorted(mixture_slate(values, 50 * values, belief, None, 2)[0]) == [0, 1]
    assert sorted(top_slate((belief[:, None] * values).sum(2), None, 2)[0]) == [2, 3]
    # Who is surely of the first kind is shown what that kind likes.
    assert sorted(mixture_slate(values, 50 * values, np.array([[1.0, 0.0]]), None, 2)[0])[0] == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_with_one_component_it_is_the_exact_slate_of_one_softmax(seed, slate_size):
    values, logits, _ = random_problem(seed, n_components=1)
    categories = np.tile(np.arange(9) % 4, (40, 1))
    found = mixture_slate(values, logits, np.ones((40, 1)), categories, slate_size)
    exact = exact_choice_slate(values[..., 0], logits[..., 0], categories, slate_size)
    best = choice_weighted_value(exact, values[..., 0], logits[..., 0])
    assert choice_weighted_value(found, values[..., 0], logits[..., 0]) == pytest.approx(best, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_slates_are_legal_and_components_may_be_numbered_in_any_way(seed):
    values, logits, belief = random_problem(seed)
    categories = np.tile(np.arange(9) % 3, (40, 1))
    slates = mixture_slate(values, logits, belief, categories, 3)
    assert (np.sort(np.take_along_axis(categories, slates, 1), axis=1) == np.arange(3)).all()
    order = [2, 0, 1]
    again = mixture_slate(values[..., order], logits[..., order], belief[:, order], categories, 3)
    assert mixture_slate_value(again, values, logits, belief) == pytest.approx(
        mixture_slate_value(slates, values, logits, belief), abs=1e-6
    )


@pytest.mark.parametrize("categories", [None, np.arange(9) % 4])
def test_it_ends_where_no_exchange_helps_and_close_to_the_best_slate(categories):
    values, logits, belief = random_problem(1, batch=300)
    labels = None if categories is None else np.tile(categories, (300, 1))
    slates = mixture_slate(values, logits, belief, labels, 3)
    found = mixture_slate_value(slates, values, logits, belief)
    distinct = np.arange(9) if categories is None else categories
    legal = [s for s in itertools.combinations(range(9), 3) if len(set(distinct[list(s)])) == 3]
    every = np.stack([mixture_slate_value(np.tile(s, (300, 1)), values, logits, belief) for s in legal])
    start = mixture_slate_value(top_slate((belief[:, None] * values).sum(2), labels, 3), values, logits, belief)
    best = every.max(axis=0)
    assert (found <= best + 1e-9).all()
    assert (best - found).mean() < 0.05 * (best - start).mean()
    for row in range(300):
        neighbours = [i for i, s in enumerate(legal) if len(set(s) & set(slates[row])) == 2]
        assert every[neighbours, row].max() <= found[row] + 1e-9


def test_extreme_logits_are_safe_and_a_problem_without_a_slate_is_named():
    values = np.array([[[1.0, 2.0], [3.0, 0.0], [2.0, 2.0]]])
    slates = mixture_slate(values, 2000 * (values - 1), np.array([[0.5, 0.5]]), None, 2)
    assert len(set(slates[0])) == 2
    with pytest.raises(ValueError, match="row 0 has 1"):
        mixture_slate(values, values, np.array([[0.5, 0.5]]), np.zeros((1, 3), int), 2)
