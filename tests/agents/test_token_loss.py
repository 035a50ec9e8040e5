from __future__ import annotations

import pytest
import torch

from agents.losses import iql_loss
from agents.token_loss import token_iql_loss


def slow_loss(f, target_f, lengths, values, targets, alpha):
    """The last display of appendix E.1, token by token; the expectile loss is squared."""
    q = v = 0.0
    for b in range(len(f)):
        for prompt in range(len(f[b])):
            for t in range(lengths[b][prompt]):
                q += (f[b][prompt][t] - targets[b]) ** 2
                x = target_f[b][prompt][t] - values[b]
                v += abs(alpha - (1.0 if x < 0 else 0.0)) * x**2
    return q / len(f), v / len(f)


def some_batch(shape=(5, 3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    f, target_f = (torch.randn(shape, generator=generator) for _ in range(2))
    lengths = torch.randint(1, shape[2] + 1, shape[:2], generator=generator)
    values, targets = (torch.randn(shape[0], generator=generator) for _ in range(2))
    return f, target_f, lengths, torch.arange(shape[2]) < lengths[..., None], values, targets


@pytest.mark.parametrize("alpha", [0.5, 0.7, 0.9])
def test_the_loss_is_that_of_a_loop_over_tokens(alpha):
    f, target_f, lengths, is_token, values, targets = some_batch()
    loss = token_iql_loss(f, target_f, is_token, values, targets, expectile=alpha)
    q, v = slow_loss(*(x.tolist() for x in (f, target_f, lengths, values, targets)), alpha)
    assert loss.q.item() == pytest.approx(q, rel=1e-5)
    assert loss.v.item() == pytest.approx(v, rel=1e-5)


def test_a_loss_worked_by_hand():
    """Two prompts of 2 and 1 tokens: q = 1 + 0 + 9; errors of v are 2, -1 and 0, so v = 0.7 x 4 + 0.3 x 1."""
    loss = token_iql_loss(
        torch.tensor([[[1.0, 2.0], [5.0, 99.0]]]),
        torch.tensor([[[3.0, 0.0], [1.0, 99.0]]]),
        torch.tensor([[[True, True], [True, False]]]),
        torch.tensor([1.0]),
        torch.tensor([2.0]),
        expectile=0.7,
    )
    assert loss.q.item() == pytest.approx(10.0)
    assert loss.v.item() == pytest.approx(3.1)
    assert loss.total.item() == pytest.approx(13.1)


def test_with_one_token_a_prompt_it_is_the_per_prompt_loss():
    f, target_f, _, _, values, targets = some_batch((6, 4, 1), seed=1)
    ours = token_iql_loss(f, target_f, torch.ones_like(f, dtype=torch.bool), values, targets, expectile=0.8)
    theirs = iql_loss(f[..., 0], target_f[..., 0], values, targets, expectile=0.8, form="per_prompt")
    assert ours.q.item() == pytest.approx(theirs.q.item(), rel=1e-6)
    assert ours.v.item() == pytest.approx(theirs.v.item(), rel=1e-6)


def test_no_gradient_flows_through_the_target_network_or_the_target():
    f, target_f, _, is_token, values, targets = (
        x.requires_grad_() if x.is_floating_point() else x for x in some_batch(seed=2)
    )
    token_iql_loss(f, target_f, is_token, values, targets, expectile=0.7).total.backward()
    assert f.grad.abs().sum() > 0
    assert values.grad.abs().sum() > 0
    assert target_f.grad is None
    assert targets.grad is None


def test_what_stands_where_there_is_no_token_has_no_effect():
    f, target_f, _, is_token, values, targets = some_batch(seed=3)
    expected = token_iql_loss(f, target_f, is_token, values, targets, expectile=0.7).total
    broken = f.masked_fill(~is_token, float("inf")).requires_grad_()
    found = token_iql_loss(
        broken, target_f.masked_fill(~is_token, float("nan")), is_token, values, targets, expectile=0.7
    ).total
    found.backward()
    assert found.item() == pytest.approx(expected.item())
    assert broken.grad.isfinite().all()
    assert (broken.grad[~is_token] == 0).all()


def test_shapes_must_agree():
    f, target_f, _, is_token, values, targets = some_batch()
    with pytest.raises(ValueError, match=r"one shape \(B, L, T\), got \(5, 3, 4\), \(5, 3, 3\) and \(5, 3, 4\)"):
        token_iql_loss(f, target_f[..., 1:], is_token, values, targets, expectile=0.7)
