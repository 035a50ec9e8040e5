"""Log-likelihoods of what a rater says in a session, by type: choice, in-turn and cross-turn (paper, D.3).

Everything is about the columns' utilities, the aggregate of the scores of their pictures ("the best images for each
prompt"). Functions give one row a label and one column a type, as the single-turn ones do.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from pasta_gym.user_model.choice import log_choice_probabilities
from pasta_gym.user_model.temperature import CONSTANT, Slopes


def bradley_terry(difference: torch.Tensor, wins: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """Log-likelihood of comparisons (equation 5) in which the first wins, loses or ties.

    Args:
        difference: ``(n, K)`` utility of the first less that of the second.
        wins: ``(n,)`` 1, 0 or 0.5; a tie is half a win for each.
        temperature: tau_s, the factor on the difference.

    Returns:
        ``(n, K)``.
    """
    logits, y = temperature * difference, wins[:, None]
    return y * nn.functional.logsigmoid(logits) + (1.0 - y) * nn.functional.logsigmoid(-logits)


def choice_terms(
    utilities: torch.Tensor,
    choices: torch.Tensor,
    temperature: torch.Tensor | float,
    slopes: torch.Tensor | Slopes = CONSTANT,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood of every choice (equation 4).

    Args:
        utilities: ``(S, H, K, L)``.
        choices: ``(S, H)``; -1 where there is none.
        temperature: tau.
        slopes: Its slopes in the slate's utilities.

    Returns:
        ``(n, K)`` of the n choices that there are, and each one's session ``(n,)``.
    """
    session, turn = torch.nonzero(choices >= 0, as_tuple=True)
    log_p = log_choice_probabilities(utilities[session, turn], temperature, slopes)
    index = choices[session, turn][:, None, None].expand(-1, log_p.shape[1], 1)
    return log_p.gather(-1, index)[..., 0], session


def in_turn_terms(
    utilities: torch.Tensor, satisfactions: torch.Tensor, temperature: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood of all comparisons between two columns of one slate: ``L (L - 1) / 2`` a turn.

    Args:
        utilities: ``(S, H, K, L)``.
        satisfactions: ``(S, H, L)`` with each column; NaN where nobody was asked. Equal ones are a tie.
        temperature: tau_s.

    Returns:
        ``(n, K)`` of the n comparisons of two columns with a satisfaction each, and each one's session ``(n,)``.
    """
    pairs = torch.tensor(list(itertools.combinations(range(satisfactions.shape[-1]), 2)), dtype=torch.int64)
    pairs = pairs.reshape(-1, 2).to(satisfactions.device)
    gap = satisfactions[..., pairs[:, 0]] - satisfactions[..., pairs[:, 1]]
    session, turn, pair = torch.nonzero(~gap.isnan(), as_tuple=True)
    wins = 0.5 + 0.5 * gap[session, turn, pair].sign()
    shown = utilities[session, turn]
    first, second = (_columns(shown, pairs[pair, side]) for side in (0, 1))
    return bradley_terry(first - second, wins.to(first.dtype), temperature), session


def cross_turn_terms(
    utilities: torch.Tensor, choices: torch.Tensor, verdicts: torch.Tensor, temperature: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood of each turn's verdict: its chosen column against the chosen column of the turn before.

    Args:
        utilities: ``(S, H, K, L)``.
        choices: ``(S, H)``; -1 where there is none.
        verdicts: ``(S, H)`` 1 better than the turn before, 0 the same, -1 worse; NaN where nobody was asked. What
            the first turn holds is not looked at.
        temperature: tau_s.

    Returns:
        ``(n, K)`` of the n verdicts between two turns with a choice, and each one's session ``(n,)``.
    """
    both = (choices[:, 1:] >= 0) & (choices[:, :-1] >= 0)
    session, before = torch.nonzero(both & ~verdicts[:, 1:].isnan(), as_tuple=True)
    now = before + 1
    wins = 0.5 + 0.5 * verdicts[session, now].sign()
    later = _columns(utilities[session, now], choices[session, now])
    earlier = _columns(utilities[session, before], choices[session, before])
    return bradley_terry(later - earlier, wins.to(later.dtype), temperature), session


def _columns(utilities: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Pick one column of each slate: ``(n, K, L)`` and ``(n,)`` to ``(n, K)``."""
    return utilities.gather(-1, columns[:, None, None].expand(-1, utilities.shape[1], 1))[..., 0]


def expected_mean(terms: torch.Tensor, owners: torch.Tensor, posterior: torch.Tensor) -> torch.Tensor:
    """Mean over labels of the negative log-likelihood, expected under each owner's posterior.

    Args:
        terms: ``(n, K)`` log-likelihoods.
        owners: ``(n,)`` rater of each label.
        posterior: ``(R, K)`` of the raters.

    Returns:
        A scalar; 0 where there is no label.
    """
    if not len(terms):
        return terms.new_zeros(())
    return -(posterior[owners] * terms).sum(dim=-1).mean()
