from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.slate_selection import (
    choice_weighted_value,
    coordinate_slate,
    exact_choice_slate,
    rounded,
    sampled_slate,
    slate_sampled_by_value,
    top_slate,
    topk_choice_slate,
)


def legal_slates(categories, slate_size):
    """Every slate of one row, by enumeration."""
    for slate in itertools.combinations(range(len(categories)), slate_size):
        if len({int(categories[i]) for i in slate}) == slate_size:
            yield np.array(slate)


@st.composite
def problems(draw):
    """Values, logits, categories (or all different) and a slate size that has a legal slate."""
    n = draw(st.integers(2, 8))
    number = st.floats(-4, 4, width=32)
    values = np.array([draw(st.lists(number, min_size=n, max_size=n)) for _ in range(2)])
    logits = np.array([draw(st.lists(number, min_size=n, max_size=n)) for _ in range(2)])
    categories = np.array([draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)) for _ in range(2)])
    most = min(len(np.unique(row)) for row in categories)
    return values, logits, categories, draw(st.integers(1, most))


def test_top_slate_takes_the_best_of_the_best_categories():
    scores = np.array([[0.1, 0.9, 0.8, 0.2, 0.7, 0.3]])
    categories = np.array([[0, 0, 0, 1, 2, 3]])
    # Category 0 gives 1 (.9); then 4 (.7) of category 2 and 5 (.3) of category 3: 2 (.8) shares a category with 1.
    assert top_slate(scores, categories, 3).tolist() == [[1, 4, 5]]
    assert top_slate(scores, None, 3).tolist() == [[1, 2, 4]]


def test_equal_scores_go_to_the_lower_index():
    assert top_slate(np.zeros((1, 5)), np.array([[7, 7, 3, 3, 5]]), 3).tolist() == [[0, 2, 4]]


@given(problems())
@settings(max_examples=40, deadline=None)
def test_top_slate_equals_brute_force(problem):
    scores, _, categories, slate_size = problem
    slates = top_slate(scores, categories, slate_size)
    for row, slate in enumerate(slates):
        best = max(scores[row, s].sum() for s in legal_slates(categories[row], slate_size))
        assert scores[row, slate].sum() == pytest.approx(best)
        assert len(set(categories[row, slate])) == slate_size


@given(problems())
@settings(max_examples=60, deadline=None)
def test_exact_is_brute_force_and_no_worse_than_coordinate_and_that_than_topk(problem):
    values, logits, categories, slate_size = problem
    found = {}
    for name, optimise in (("exact", exact_choice_slate), ("coordinate", coordinate_slate), ("top", topk_choice_slate)):
        slates = optimise(values, logits, categories, slate_size)
        assert all(len(set(categories[r, s])) == slate_size for r, s in enumerate(slates))
        found[name] = choice_weighted_value(slates, values, logits)
    assert (found["exact"] >= found["coordinate"] - 1e-9).all()
    assert (found["coordinate"] >= found["top"] - 1e-9).all()
    for row in range(2):
        slates = np.array(list(legal_slates(categories[row], slate_size)))
        tile = np.broadcast_to
        every = choice_weighted_value(
            slates, tile(values[row], (len(slates), values.shape[1])), tile(logits[row], (len(slates), values.shape[1]))
        )
        assert found["exact"][row] == pytest.approx(every.max(), abs=1e-9)


def test_the_optimisers_differ_where_they_should():
    # Showing the second best item costs value: it is often chosen instead of the best one. The optimum pairs the best
    # item with one that nobody chooses.
    values = np.array([[1.0, 0.9, 0.0]])
    logits = np.array([[0.0, 0.0, -9.0]])
    assert sorted(topk_choice_slate(values, logits, None, 2)[0]) == [0, 1]
    assert sorted(exact_choice_slate(values, logits, None, 2)[0]) == [0, 2]
    assert sorted(coordinate_slate(values, logits, None, 2)[0]) == [0, 2]


@pytest.mark.parametrize("categories", [None, np.array([0, 0, 1, 1, 2, 2, 3, 3])])
def test_coordinate_ascent_ends_at_an_optimum(categories):
    """Slates are the bases of a matroid, on which a linear function has no merely local maximum."""
    rng = np.random.default_rng(0)
    values, logits = rng.normal(size=(4000, 8)), 3 * rng.normal(size=(4000, 8))
    labels = None if categories is None else np.tile(categories, (4000, 1))
    exact = choice_weighted_value(exact_choice_slate(values, logits, labels, 3), values, logits)
    climbed = choice_weighted_value(coordinate_slate(values, logits, labels, 3), values, logits)
    start = choice_weighted_value(topk_choice_slate(values, logits, labels, 3), values, logits)
    assert climbed == pytest.approx(exact, abs=1e-9)
    assert (climbed > start + 1e-3).mean() > 0.3
    one_sweep = coordinate_slate(values, logits, labels, 3, max_sweeps=1)
    assert (choice_weighted_value(one_sweep, values, logits) < exact - 1e-6).any()


def test_choice_weighted_value_by_hand():
    # exp(0) and exp(log 3): probabilities 1/4 and 3/4 of values 2 and 10.
    value = choice_weighted_value(np.array([[0, 2]]), np.array([[2.0, 5.0, 10.0]]), np.array([[0.0, 9.0, np.log(3)]]))
    assert value == pytest.approx([8.0])


def test_extreme_logits_are_safe():
    values, logits = np.array([[1.0, 2.0, 3.0]]), np.array([[2000.0, -2000.0, 0.0]])
    for optimise in (exact_choice_slate, coordinate_slate, topk_choice_slate):
        slate = optimise(values, logits, None, 2)
        assert np.isfinite(choice_weighted_value(slate, values, logits)).all()


def test_sampling_follows_the_softmax_without_replacement():
    scores, n = np.array([0.0, 1.0, 2.0, 0.5]), 40_000
    categories = np.array([0, 0, 1, 2])
    noise = np.random.default_rng(1).gumbel(size=(n, 4))
    slates = sampled_slate(np.tile(scores, (n, 1)), np.tile(categories, (n, 1)), 2, temperature=0.5, gumbel_noise=noise)
    weights = np.exp(scores / 0.5)
    for first, second in itertools.permutations(range(4), 2):
        left = weights[categories != categories[first]].sum()
        legal = categories[first] != categories[second]
        expected = weights[first] / weights.sum() * weights[second] / left if legal else 0.0
        seen = ((slates[:, 0] == first) & (slates[:, 1] == second)).mean()
        assert seen == pytest.approx(expected, abs=4 * np.sqrt(0.25 / n))


@pytest.mark.parametrize(
    ("scores", "categories", "slate_size", "message"),
    [
        (np.zeros(3), None, 1, r"\(batch, n_candidates\), got \(3,\)"),
        (np.zeros((1, 3)), None, 4, r"1\.\.3 .*got 4"),
        (np.zeros((1, 3)), None, 0, r"1\.\.3 .*got 0"),
        (np.array([[0.0, np.nan, 1.0]]), None, 1, "finite, row 0 is not"),
        (np.zeros((2, 3)), np.zeros((1, 3), int), 1, r"shape of scores \(2, 3\), got \(1, 3\)"),
        (np.zeros((2, 3)), np.array([[0, 1, 2], [0, 1, 1]]), 3, "row 1 has 2.*smaller slate"),
    ],
)
def test_bad_problems_are_named(scores, categories, slate_size, message):
    with pytest.raises(ValueError, match=message):
        top_slate(scores, categories, slate_size)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"above 0, got 0\.0.*top_slate"):
        sampled_slate(np.zeros((1, 2)), None, 1, temperature=0.0, gumbel_noise=np.zeros((1, 2)))


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e4])
def test_rounding_knows_the_size_of_what_it_rounds(unit):
    values = np.array([[0.123456, 0.123454, 0.123451, -0.5]])
    np.testing.assert_allclose(rounded(unit * values, unit), unit * np.array([[0.12346, 0.12345, 0.12345, -0.5]]))
    seeds = np.arange(200, dtype=np.uint64)
    drawn = [
        slate_sampled_by_value(
            np.repeat(scale * values, 200, axis=0), None, 2, temperature=0.5, seeds=seeds, unit=scale
        )
        for scale in (1.0, unit)
    ]
    np.testing.assert_array_equal(*drawn)
