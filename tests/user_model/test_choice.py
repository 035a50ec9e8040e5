import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pasta_gym.user_model.choice import ChoiceConfig, fit_choice_model, log_choice_probabilities
from pasta_gym.user_model.utility import aggregate

utilities = st.lists(st.floats(0, 1), min_size=2, max_size=6)
temperatures = st.floats(0.1, 200)


def test_a_hand_computed_slate():
    # exp(2 ln 3 * 1/2) = 3 against exp(0) = 1 and 1: 3/5, 1/5, 1/5.
    p = log_choice_probabilities(torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64), 2 * math.log(3)).exp()
    assert p.tolist() == pytest.approx([0.6, 0.2, 0.2])


@given(utilities, temperatures, st.integers(0, 5), st.floats(0, 1))
def test_raising_a_columns_utility_never_lowers_its_probability(slate, temperature, column, raise_by):
    column %= len(slate)
    before = torch.tensor(slate, dtype=torch.float64)
    after = before.clone()
    after[column] += raise_by
    p, q = (log_choice_probabilities(u, temperature)[column] for u in (before, after))
    assert q >= p - 1e-12


@given(utilities, temperatures, st.randoms(use_true_random=False))
def test_a_slate_is_a_set(slate, temperature, random):
    order = list(range(len(slate)))
    random.shuffle(order)
    u = torch.tensor(slate, dtype=torch.float64)
    p = log_choice_probabilities(u, temperature)
    assert torch.allclose(log_choice_probabilities(u[order], temperature), p[order])


@given(utilities, st.floats(-5, 5), temperatures)
def test_only_differences_matter(slate, shift, temperature):
    u = torch.tensor(slate, dtype=torch.float64)
    assert torch.allclose(
        log_choice_probabilities(u + shift, temperature), log_choice_probabilities(u, temperature), atol=1e-6
    )


def test_aggregates_of_a_hand_computed_column():
    column = torch.tensor([0.2, 0.8], dtype=torch.float64)
    assert float(aggregate(column, "mean")) == pytest.approx(0.5)
    assert float(aggregate(column, "max")) == pytest.approx(0.8)
    # Weights 1 : 3 at beta = ln 3 / 0.6: (0.2 + 3 * 0.8) / 4.
    assert float(aggregate(column, "softmax", math.log(3) / 0.6)) == pytest.approx(0.65)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0, 300), st.floats(0, 300))
def test_softmax_lies_between_mean_and_max_and_grows_with_sharpness(column, one, other):
    u = torch.tensor(column, dtype=torch.float64)
    low, high = (float(aggregate(u, "softmax", beta)) for beta in sorted((one, other)))
    assert float(u.mean()) - 1e-9 <= low <= high + 1e-9
    assert high <= float(u.max()) + 1e-9


def test_an_unknown_aggregator_is_named():
    with pytest.raises(ValueError, match=r"'median'.*|.*median"):
        aggregate(torch.zeros(2), "median")


@pytest.mark.parametrize("aggregator", ["mean", "max", "softmax"])
def test_the_fit_recovers_a_planted_choice_model(aggregator):
    rng = np.random.default_rng(3)
    n, k = 6000, 2
    scores = torch.from_numpy(rng.random((n, k, 4, 3)))
    types = rng.choice(2, size=n, p=[0.8, 0.2])
    planted = aggregate(scores, aggregator, 9.0)[torch.arange(n), torch.from_numpy(types)]
    noise = torch.from_numpy(rng.gumbel(size=(n, 4)))
    choices = (7.0 * planted + noise).argmax(dim=-1)
    posterior = torch.eye(2, dtype=torch.float64)[torch.from_numpy(types)]
    fit = fit_choice_model(scores, choices, posterior, aggregator, ChoiceConfig(temperature=2.0, sharpness=2.0))
    assert fit.temperature == pytest.approx(7.0, rel=0.1)
    if aggregator == "softmax":
        assert fit.sharpness == pytest.approx(9.0, rel=0.35)
    assert fit.log_likelihood > -math.log(4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": -1}, "temperature must be above 0, got -1"),
        ({"sharpness": 0}, "sharpness must be above 0, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sharpness": 300.0}, r"sharpness must be at most max_sharpness \(200\.0\), got 300\.0"),
    ],
)
def test_choice_numbers_that_cannot_be_fitted_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        ChoiceConfig(**change)
