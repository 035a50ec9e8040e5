"""The loss functions of the agents, one equation each, on tensors alone.

Shapes: ``B`` decisions, ``L`` candidates shown. All losses are means over the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

IQLForm = Literal["slate_mean", "per_prompt"]


@dataclass(frozen=True)
class IQLLoss:
    """The two terms of the IQL loss, scalars.

    Attributes:
        q: Squared temporal difference of the slate's or the prompts' values.
        v: Expectile regression of the history's value.
    """

    q: Tensor
    v: Tensor

    @property
    def total(self) -> Tensor:
        """The loss that is minimised, the sum of both terms."""
        return self.q + self.v


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    r"""Asymmetric squared error, ``|expectile - 1{error < 0}| * error**2`` (section 3.3; squared, as in IQL).

    Its minimiser over ``v`` with ``error = q - v`` is the expectile of q: the mean at 0.5, towards the largest
    q as ``expectile`` tends to 1.

    Args:
        error: Any shape.
        expectile: In (0, 1).

    Returns:
        The shape of ``error``.

    Raises:
        ValueError: If ``expectile`` is outside (0, 1).
    """
    if not 0 < expectile < 1:
        raise ValueError(f"expectile must lie strictly between 0 and 1, got {expectile}; the paper uses 0.7")
    return torch.where(error < 0, 1 - expectile, expectile) * error.square()


def bootstrapped_target(rewards: Tensor, next_values: Tensor, terminated: Tensor) -> Tensor:
    """Reward plus the value of the *next* history, which is 0 after the last turn. No discount.

    Args:
        rewards: ``(B,)`` reward of the turn played; here and below a last axis may be added and is broadcast.
        next_values: ``(B,)`` value of the history after that turn.
        terminated: ``(B,)`` whether the turn was the last.

    Returns:
        ``(B,)`` targets, through which no gradient flows.
    """
    return (rewards + torch.where(terminated, torch.zeros_like(next_values), next_values)).detach()


def iql_loss(
    prompt_values: Tensor,
    target_prompt_values: Tensor,
    values: Tensor,
    targets: Tensor,
    *,
    expectile: float,
    form: IQLForm,
) -> IQLLoss:
    r"""The IQL loss of section 3.3 and appendix E.1 for the decomposition ``q(h, P) = mean_p f(h, p)``.

    ``slate_mean`` is section 3.3: ``(mean_p f - y)^2 + E(mean_p f_target - v)``. ``per_prompt`` is the last display
    of E.1 with one token per prompt: ``sum_p [(f(p) - y)^2 + E(f_target(p) - v)]``. E is :func:`expectile_loss` and
    ``y = r + v(h')``. Their minimisers differ: the first makes the slate's mean right, the second makes every
    prompt's value the average outcome of the slates it was shown in.

    Args:
        prompt_values: ``(B, L)`` f of the prompts shown.
        target_prompt_values: ``(B, L)`` the same from the target network; no gradient flows through them.
        values: ``(B,)`` v of the history before the turn.
        targets: ``(B,)`` from :func:`bootstrapped_target`; no gradient flows through them.
        expectile: In (0, 1).
        form: Which of the two losses.

    Returns:
        Both terms.

    Raises:
        ValueError: If ``form`` is unknown or ``expectile`` is outside (0, 1).
    """
    target_q = target_prompt_values.detach()
    y = targets.detach()
    if form == "slate_mean":
        q_term = (prompt_values.mean(1) - y).square()
        v_term = expectile_loss(target_q.mean(1) - values, expectile)
    elif form == "per_prompt":
        q_term = (prompt_values - y[:, None]).square().sum(1)
        v_term = expectile_loss(target_q - values[:, None], expectile).sum(1)
    else:
        raise ValueError(f"form must be 'slate_mean' or 'per_prompt', got {form!r}")
    return IQLLoss(q=q_term.mean(), v=v_term.mean())


def slateq_component_values(item_values: Tensor, choice_logits: Tensor) -> Tensor:
    """``Q_k(h, P) = sum_i P_k(i | P) q_k(h, i)``, the decomposition of SlateQ for each component.

    Args:
        item_values: ``(B, L, K)`` value of each shown item, given that it is chosen.
        choice_logits: ``(B, L, K)``.

    Returns:
        ``(B, K)``.
    """
    return (torch.softmax(choice_logits, dim=1) * item_values).sum(1)


def slateq_td_loss(item_values: Tensor, choices: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Squared temporal difference of the *chosen* item's value, ``sum_k w_k (q_k(h, i_chosen) - y_k)^2``.

    Args:
        item_values: ``(B, L, K)``.
        choices: ``(B,)`` int64 column chosen, 0..L-1.
        targets: ``(B, K)`` from :func:`bootstrapped_target`; no gradient flows through them.
        weights: ``(B, K)`` probability that the conversation is one of component k.

    Returns:
        A scalar.
    """
    index = choices[:, None, None].expand(-1, 1, item_values.shape[2])
    chosen = item_values.gather(1, index).squeeze(1)
    return (weights * (chosen - targets.detach()).square()).sum(1).mean()


def mixture_choice_cross_entropy(choice_logits: Tensor, choices: Tensor, weights: Tensor) -> Tensor:
    """Negative log-likelihood of the logged choices, ``-log sum_k w_k P_k(i_chosen | P)``.

    Args:
        choice_logits: ``(B, L, K)``; each component's choice is the softmax over L.
        choices: ``(B,)`` int64 column chosen, 0..L-1.
        weights: ``(B, K)`` probability of each component.

    Returns:
        A scalar in nats; ``log L`` for uniform choices.
    """
    index = choices[:, None, None].expand(-1, 1, choice_logits.shape[2])
    chosen = torch.log_softmax(choice_logits, dim=1).gather(1, index).squeeze(1)
    return -torch.logsumexp(weights.clamp(min=1e-12).log() + chosen, dim=1).mean()
