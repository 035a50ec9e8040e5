import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.user_model.choice import ChoiceConfig, fit_choice_model, log_choice_probabilities
from pasta_gym.user_model.temperature import (
    CONSTANT,
    MAX_SLOPE,
    Slopes,
    bounded_slopes,
    check_slopes,
    free_slopes,
    slate_temperature,
)
from pasta_gym.user_model.utility import aggregate

# A grid makes ties and crossings of the order common.
utility = st.one_of(st.floats(0, 1), st.integers(0, 4).map(lambda i: i / 4))
slates = st.lists(utility, min_size=2, max_size=6)
bases = st.floats(0.05, 60)
slopes = st.one_of(
    st.builds(Slopes, st.floats(-MAX_SLOPE, 1), st.floats(-1, 1), st.floats(-1, MAX_SLOPE)),
    # The corners, where the law holds with nothing to spare.
    st.builds(Slopes, st.sampled_from([-MAX_SLOPE, 1.0]), st.sampled_from([-1.0, 1.0]), st.sampled_from([-1.0, 8.0])),
)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_temperature_of_a_slate_by_hand():
    # Sorted 0.1, 0.2, 0.4, 0.5: 3 exp(0.5 * 0.1 - 0.25 * (0.2 + 0.4) + 2 * 0.5) = 3 exp(0.9).
    u = tensor([0.4, 0.1, 0.5, 0.2])
    assert float(slate_temperature(u, 3.0, Slopes(0.5, -0.25, 2.0))) == pytest.approx(3 * math.exp(0.9))
    # Two columns: no inner one. 3 exp(0.5 * 0.1 + 2 * 0.4).
    assert float(slate_temperature(u[:2], 3.0, Slopes(0.5, -0.25, 2.0))) == pytest.approx(3 * math.exp(0.85))


def test_choice_probabilities_by_hand():
    # tau = ln(3) exp(ln(2) * 1) = 2 ln 3; exp(2 ln 3 * 1/2) = 3, exp(2 ln 3) = 9, 1.
    p = log_choice_probabilities(tensor([0.5, 1.0, 0.0]), math.log(3), Slopes(0.0, 0.0, math.log(2))).exp()
    assert p.tolist() == pytest.approx([3 / 13, 9 / 13, 1 / 13])


@given(slates, bases, slopes, st.integers(0, 5), st.floats(0, 1))
def test_raising_a_columns_utility_never_lowers_its_probability(slate, base, slope, column, share):
    column %= len(slate)
    before = tensor(slate)
    after = before.clone()
    after[column] += share * (1 - after[column])  # however far: past any number of other columns
    p, q = (log_choice_probabilities(u, base, slope)[column] for u in (before, after))
    assert q >= p - 1e-9


@given(slates, bases, slopes)
def test_the_order_of_choices_is_that_of_utilities(slate, base, slope):
    u = tensor(slate)
    p = log_choice_probabilities(u, base, slope)
    higher = u[:, None] > u[None, :]
    assert (p[:, None] - p[None, :])[higher].ge(0).all()
    equal = u[:, None] == u[None, :]
    assert (p[:, None] - p[None, :])[equal].abs().max() < 1e-12


@given(slates, bases, slopes, st.randoms(use_true_random=False))
def test_a_slate_is_a_set(slate, base, slope, random):
    order = list(range(len(slate)))
    random.shuffle(order)
    u = tensor(slate)
    assert torch.allclose(
        log_choice_probabilities(u[order], base, slope), log_choice_probabilities(u, base, slope)[order]
    )


@settings(max_examples=15)
@given(slates, bases, slopes)
def test_the_derivative_is_the_one_on_paper(slate, base, slope):
    u = tensor(slate)
    if len(set(slate)) < len(slate):
        u = u * 0.9 + torch.linspace(0, 0.1, len(slate), dtype=torch.float64)
    u = u.requires_grad_()
    log_p = log_choice_probabilities(u, base, slope)
    p, tau = log_p.detach().exp(), slate_temperature(u.detach(), base, slope)
    place = u.detach().argsort().argsort()
    for i in range(len(slate)):
        (gradient,) = torch.autograd.grad(log_p[i], u, retain_graph=True)
        a = slope.bottom if place[i] == 0 else slope.top if place[i] == len(slate) - 1 else slope.inner
        others = 1 - p[i]
        mean = ((p * u.detach()).sum() - p[i] * u[i].detach()) / others if others > 1e-9 else u[i].detach()
        assert float(gradient[i]) == pytest.approx(float(tau * others * (1 + a * (u[i].detach() - mean))), abs=1e-4)


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (Slopes(1.01, 0, 0), r"slope bottom must be in \[-8, 1\].*got 1.01"),
        (Slopes(0, -1.2, 0), r"slope inner must be in \[-1, 1\].*got -1.2"),
        (Slopes(0, 0, -1.5), r"slope top must be in \[-1, 8\].*got -1.5"),
        (Slopes(0, float("nan"), 0), r"slope inner must be in \[-1, 1\].*got nan"),
    ],
)
def test_slopes_that_would_break_the_law_are_refused(slope, words):
    with pytest.raises(ValueError, match=words):
        check_slopes(slope)


@pytest.mark.parametrize(
    ("slope", "slate", "step"),
    [
        (Slopes(0, 0, -1.5), [0.99, 0.0, 0.0], [1.0, 0.0, 0.0]),
        (Slopes(1.5, 0, 0), [0.0, 1.0], [0.01, 1.0]),
        (Slopes(0, 1.5, 0), [0.0, 0.01, 1.0], [0.0, 0.02, 1.0]),
    ],
)
def test_the_bounds_are_not_too_strict(slope, slate, step):
    # Just outside of them, a better column is chosen less often.
    moved = next(i for i, (a, b) in enumerate(zip(slate, step, strict=True)) if a != b)
    p, q = (log_choice_probabilities(tensor(u), 30.0, slope)[moved] for u in (slate, step))
    assert q < p


@given(st.lists(st.floats(-200, 200), min_size=3, max_size=3))
def test_gradient_steps_cannot_leave_the_bounds(free):
    check_slopes(Slopes(*bounded_slopes(tensor(free)).tolist()))


def test_bounded_and_free_slopes_are_inverses():
    given_slopes = Slopes(-2.0, 0.25, 3.0)
    assert bounded_slopes(free_slopes(given_slopes)).tolist() == pytest.approx(given_slopes, abs=1e-4)
    assert bounded_slopes(free_slopes(CONSTANT)).tolist() == pytest.approx(CONSTANT, abs=1e-6)


def test_the_fit_recovers_planted_slopes():
    rng = np.random.default_rng(8)
    n, planted = 8_000, Slopes(-3.0, 0.5, 2.0)
    scores = torch.from_numpy(rng.random((n, 1, 4, 1)))
    u = aggregate(scores, "max")[:, 0]
    logits = slate_temperature(u, 2.5, planted)[:, None] * u
    choices = (logits + torch.from_numpy(rng.gumbel(size=(n, 4)))).argmax(dim=-1)
    posterior = torch.ones(n, 1, dtype=torch.float64)
    found = fit_choice_model(scores, choices, posterior, "max", ChoiceConfig(slate_dependent=True))
    constant = fit_choice_model(scores, choices, posterior, "max")
    assert found.slopes == pytest.approx(planted, abs=0.45)
    assert found.temperature == pytest.approx(2.5, rel=0.25)
    assert constant.slopes == CONSTANT
    assert found.log_likelihood > constant.log_likelihood + 0.002
