from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.losses import (
    bootstrapped_target,
    expectile_loss,
    iql_loss,
    mixture_choice_cross_entropy,
    slateq_component_values,
    slateq_td_loss,
)


def expectile(sample, level, weights=None):
    """The expectile of a sample by bisection on its first-order condition: a reference in other words."""
    sample = np.asarray(sample, dtype=float)
    weights = np.ones_like(sample) if weights is None else weights
    low, high = sample.min(), sample.max()
    for _ in range(80):
        middle = (low + high) / 2
        above = level * (weights * np.maximum(sample - middle, 0)).sum()
        below = (1 - level) * (weights * np.maximum(middle - sample, 0)).sum()
        low, high = (middle, high) if above > below else (low, middle)
    return low


def minimise(loss, parameters, steps=200):
    """Minimise a smooth convex loss of tensors to high precision."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=steps, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def test_expectile_loss_by_hand():
    # .7 * 2^2 = 2.8 above, (1 - .7) * 2^2 = 1.2 below.
    assert expectile_loss(torch.tensor([2.0, -2.0, 0.0]), 0.7).tolist() == pytest.approx([2.8, 1.2, 0.0])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_minimiser_of_the_expectile_loss_is_the_expectile(sample, level):
    q = torch.tensor(sample, dtype=torch.float64)
    at = expectile(sample, level)
    v = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    expectile_loss(q - v, level).mean().backward()
    assert abs(v.grad.item()) < 1e-6


def test_expectile_one_half_is_the_mean_and_near_one_the_largest():
    sample = [0.0, 1.0, 5.0]
    for level, expected, tolerance in ((0.5, 2.0, 1e-6), (0.9999, 5.0, 2e-3)):
        v = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        q = torch.tensor(sample, dtype=torch.float64)
        minimise(lambda v=v, q=q, level=level: expectile_loss(q - v, level).mean(), [v])
        assert v.item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.3, 1.2])
def test_expectiles_outside_the_open_interval_are_refused(level):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {level}"):
        expectile_loss(torch.zeros(1), level)


def test_targets_use_the_next_value_except_at_the_end():
    rewards, following = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0], requires_grad=True)
    targets = bootstrapped_target(rewards, following, torch.tensor([False, True]))
    assert targets.tolist() == [11.0, 2.0]
    assert not targets.requires_grad


def test_a_value_that_is_not_a_number_after_the_end_does_no_harm():
    targets = bootstrapped_target(torch.tensor([2.0]), torch.tensor([float("nan")]), torch.tensor([True]))
    assert targets.tolist() == [2.0]


def test_iql_loss_by_hand():
    f, f_target = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 4.0]])
    v, y = torch.tensor([1.0]), torch.tensor([5.0])
    mean = iql_loss(f, f_target, v, y, expectile=0.7, form="slate_mean")
    # (2 - 5)^2 = 9; target q 2 is 1 above v: .7.
    assert (mean.q.item(), mean.v.item(), mean.total.item()) == pytest.approx((9.0, 0.7, 9.7))
    each = iql_loss(f, f_target, v, y, expectile=0.7, form="per_prompt")
    # (1 - 5)^2 + (3 - 5)^2 = 20; 0 is 1 below v: .3; 4 is 3 above: .7 * 9 = 6.3.
    assert (each.q.item(), each.v.item()) == pytest.approx((20.0, 6.6))


@pytest.mark.parametrize("form", ["slate_mean", "per_prompt"])
def test_no_gradient_flows_through_target_q_or_targets(form):
    tensors = [torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2), torch.full((2,), 2.0)]
    f, f_target, v, y = (tensor.requires_grad_() for tensor in tensors)
    iql_loss(f, f_target, v, y, expectile=0.7, form=form).total.backward()
    assert f_target.grad is None
    assert y.grad is None
    assert (f.grad != 0).all()
    assert (v.grad != 0).all()


def test_an_unknown_form_is_refused():
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"'slate_mean' or 'per_prompt', got 'mean'"):
        iql_loss(zeros, zeros, zeros[:, 0], zeros[:, 0], expectile=0.7, form="mean")


def test_one_prompt_slates_make_the_two_forms_equal():
    f, f_target = torch.tensor([[1.0], [0.2]]), torch.tensor([[0.5], [2.0]])
    v, y = torch.tensor([0.1, 0.9]), torch.tensor([2.0, 3.0])
    losses = [iql_loss(f, f_target, v, y, expectile=0.8, form=form) for form in ("slate_mean", "per_prompt")]
    assert losses[0].total.item() == pytest.approx(losses[1].total.item())


class TwoTurnWorld:
    """Three prompts, slates of two, two states; state 1 is reached with the better first slates. Enumerable.

    Rewards are not additive in the prompts, so the two forms of the loss cannot agree.
    """

    slates = np.array(list(itertools.combinations(range(3), 2)))  # (01, 02, 12)
    rewards = np.array([[0.0, 1.0, 3.0], [5.0, 1.0, 2.0], [0.5, 2.5, 1.5]])  # state (start, a, b), slate
    next_state = np.array([1, 2, 2])

    def transitions(self):
        """All (state, slate, reward, next state or -1), each logged equally often."""
        rows = [(0, s, self.rewards[0, s], self.next_state[s]) for s in range(3)]
        # State 2 is reached twice as often as state 1.
        rows += [(1, s, self.rewards[1, s], -1) for s in range(3)]
        rows += 2 * [(2, s, self.rewards[2, s], -1) for s in range(3)]
        return rows

    def fixed_point(self, level, form):
        """Solve the loss's own fixed point backwards in time: least squares for f, expectile for v."""
        f, v = np.zeros((3, 3)), np.zeros(3)
        for state in (2, 1, 0):
            following = v[self.next_state] if state == 0 else np.zeros(3)
            y = self.rewards[state] + following
            if form == "slate_mean":
                design = np.zeros((3, 3))
                for row, slate in enumerate(self.slates):
                    design[row, slate] = 0.5
                f[state] = np.linalg.lstsq(design, y, rcond=None)[0]
                v[state] = expectile(f[state][self.slates].mean(1), level)
            else:
                f[state] = [y[(self.slates == p).any(1)].mean() for p in range(3)]
                v[state] = expectile(f[state][self.slates].ravel(), level)
        return f, v


@pytest.mark.parametrize("level", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("form", ["slate_mean", "per_prompt"])
def test_descending_the_iql_loss_finds_its_tabular_fixed_point(form, level):
    world = TwoTurnWorld()
    states, slates, rewards, following = (torch.tensor(column) for column in zip(*world.transitions(), strict=True))
    prompts, ended = torch.tensor(world.slates)[slates], following < 0
    f = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(4):  # each round makes one more turn right, as the target network does
        target_f, target_v = f.detach().clone(), v.detach().clone()

        def loss(target_f=target_f, target_v=target_v):
            y = bootstrapped_target(rewards, target_v[following.clamp(min=0)], ended)
            shown = f[states[:, None], prompts]
            lagging = target_f[states[:, None], prompts]
            return iql_loss(shown, lagging, v[states], y, expectile=level, form=form).total

        minimise(loss, [f, v])
    expected_f, expected_v = world.fixed_point(level, form)
    assert f.detach().numpy() == pytest.approx(expected_f, abs=1e-4)
    assert v.detach().numpy() == pytest.approx(expected_v, abs=1e-4)


def test_the_two_forms_have_different_minimisers_and_choose_different_slates():
    world = TwoTurnWorld()
    by_mean, _ = world.fixed_point(0.7, "slate_mean")
    by_prompt, _ = world.fixed_point(0.7, "per_prompt")
    assert np.abs(by_mean - by_prompt).max() > 0.5
    # In state 1 the slates earn 5, 1, 2. Least squares reproduces them; the averages shrink: (3, 3.5, 1.5).
    assert by_mean[1][world.slates].mean(1) == pytest.approx([5.0, 1.0, 2.0])
    assert by_prompt[1] == pytest.approx([3.0, 3.5, 1.5])


def test_slateq_losses_of_one_component_by_hand():
    values, logits, one = torch.tensor([[[2.0], [10.0]]]), torch.tensor([[[0.0], [np.log(3)]]]), torch.ones(1, 1)
    assert slateq_component_values(values, logits).item() == pytest.approx(8.0)  # 1/4 of 2 and 3/4 of 10
    for choice, loss in ((0, 9.0), (1, 25.0)):
        found = slateq_td_loss(values, torch.tensor([choice]), torch.tensor([[5.0]]), one)
        assert found.item() == pytest.approx(loss)
    assert mixture_choice_cross_entropy(logits, torch.tensor([1]), one).item() == pytest.approx(-np.log(0.75))


def test_slateq_losses_of_two_components_by_hand():
    values = torch.tensor([[[2.0, 0.0], [10.0, 6.0]]])
    logits = torch.tensor([[[0.0, 1.0], [np.log(3), 1.0]]])
    weights = torch.tensor([[0.25, 0.75]])
    assert slateq_component_values(values, logits).tolist()[0] == pytest.approx([8.0, 3.0])
    # The second item is chosen: (10 - 5)^2 weighs a quarter and (6 - 4)^2 three quarters.
    td = slateq_td_loss(values, torch.tensor([1]), torch.tensor([[5.0, 4.0]]), weights)
    assert td.item() == pytest.approx(0.25 * 25 + 0.75 * 4)
    entropy = mixture_choice_cross_entropy(logits, torch.tensor([1]), weights)
    assert entropy.item() == pytest.approx(-np.log(0.25 * 0.75 + 0.75 * 0.5))


def test_the_td_loss_moves_the_chosen_item_of_the_likely_components_only():
    values = torch.zeros(2, 3, 2, requires_grad=True)
    targets = torch.ones(2, 2, requires_grad=True)
    slateq_td_loss(values, torch.tensor([2, 0]), targets, torch.tensor([[1.0, 0.0], [0.5, 0.5]])).backward()
    assert (values.grad != 0).nonzero().tolist() == [[0, 2, 0], [1, 0, 0], [1, 0, 1]]
    assert targets.grad is None
