"""The token-level IQL loss (last display of appendix E.1), on tensors alone."""

from __future__ import annotations

from torch import Tensor

from agents.losses import IQLLoss, expectile_loss


def token_iql_loss(
    token_values: Tensor,
    target_token_values: Tensor,
    is_token: Tensor,
    values: Tensor,
    targets: Tensor,
    *,
    expectile: float,
) -> IQLLoss:
    r"""Every beginning of every prompt shown is taught the same target.

    ``sum_p sum_t' [(f(h, p^{1:t'}) - y)^2 + E(f_target(h, p^{1:t'}) - v(h))]`` with ``y = r + v(h')`` and E the squared
    expectile loss; the mean over decisions. With one token a prompt it is ``per_prompt`` of
    :func:`agents.losses.iql_loss`.

    Args:
        token_values: ``(B, L, T)`` f of the beginnings of the prompts shown.
        target_token_values: ``(B, L, T)`` from the target network; no gradient flows through them.
        is_token: ``(B, L, T)`` bool, which of them exist; what stands elsewhere has no effect.
        values: ``(B,)`` v of the history before the turn.
        targets: ``(B,)`` from :func:`agents.losses.bootstrapped_target`; no gradient flows through them.
        expectile: In (0, 1).

    Returns:
        Both terms.

    Raises:
        ValueError: If ``expectile`` is outside (0, 1) or the shapes differ.
    """
    if not token_values.shape == target_token_values.shape == is_token.shape:
        raise ValueError(
            "token_values, target_token_values and is_token must have one shape (B, L, T), got "
            f"{tuple(token_values.shape)}, {tuple(target_token_values.shape)} and {tuple(is_token.shape)}"
        )
    # Filled in before any arithmetic: a number that overflows outside must not reach the gradient.
    f = token_values.masked_fill(~is_token, 0.0)
    target_f = target_token_values.detach().masked_fill(~is_token, 0.0)
    q_term = (f - targets.detach()[:, None, None]).square() * is_token
    v_term = expectile_loss(target_f - values[:, None, None], expectile) * is_token
    return IQLLoss(q=q_term.sum((1, 2)).mean(), v=v_term.sum((1, 2)).mean())
