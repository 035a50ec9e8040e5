"""The posterior over a user's type, in closed form (the E-step of section 5.3)."""

from __future__ import annotations

import torch


def log_posterior(log_prior: torch.Tensor, log_likelihoods: torch.Tensor) -> torch.Tensor:
    """Normalise prior times likelihood: ``log gamma(k) = log eta_k + sum_j log p(y_j | k) - log Z``.

    Args:
        log_prior: ``(K,)`` log of the prior eta.
        log_likelihoods: ``(B, K)`` sum over all labels of one rater of the label's log-likelihood by type; zeros
            where there is no evidence.

    Returns:
        ``(B, K)`` log posterior.
    """
    return torch.log_softmax(log_prior + log_likelihoods, dim=-1)


def log_evidence(log_prior: torch.Tensor, log_likelihoods: torch.Tensor) -> torch.Tensor:
    """Marginal log-likelihood of each rater's labels, ``log sum_k eta_k prod_j p(y_j | k)``: ``(B,)``."""
    return torch.logsumexp(log_prior + log_likelihoods, dim=-1)


def choice_log_likelihood(log_probabilities: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of the choices by type, summed over turns.

    Args:
        log_probabilities: ``(B, H, K, L)`` of choosing each column, by type.
        choices: ``(B, H)`` chosen columns; -1 is a turn to come, which says nothing.

    Returns:
        ``(B, K)``.
    """
    k = log_probabilities.shape[2]
    index = choices.clamp(min=0)[:, :, None, None].expand(-1, -1, k, 1)
    chosen = log_probabilities.gather(-1, index)[..., 0]
    return (chosen * (choices >= 0)[..., None]).sum(dim=1)


def rows_by_rater(values: torch.Tensor, raters: torch.Tensor, n_raters: int) -> torch.Tensor:
    """Sum label rows ``(n, K)`` by rater ``(n,)`` in ``0..n_raters - 1``: ``(n_raters, K)``."""
    return values.new_zeros(n_raters, values.shape[-1]).index_add_(0, raters, values)
