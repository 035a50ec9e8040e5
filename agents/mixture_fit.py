"""Fitting a mixture of tastes to logged conversations, by maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from agents.choice_mixture import (
    ChoiceMixture,
    TasteWeights,
    choice_log_likelihoods,
    chunks,
    column_features,
    in_precision,
)
from agents.networks import linear
from pasta_gym.settings import check_counts, check_not_negative, check_positive
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray


@dataclass(frozen=True)
class MixtureConfig:
    """How the mixture of tastes is fitted.

    Attributes:
        n_components: K. More cost little; components that are not needed end with alike tastes or a small share.
        use_rewards: Whether logged rewards are evidence beside the choices while the mixture is fitted.
        reward_scale: Rewards are multiplied by it; 0.1 takes a turn's reward to [0, 1], the range of utilities.
        width: Hidden units, which all components share.
        steps: Gradient steps for each restart.
        batch_size: Conversations in a step.
        learning_rate: Adam's largest step size: it rises for a tenth of the steps and falls to 0 along a cosine.
        weight_decay: Decoupled.
        restarts: Number of starts; the one with the best likelihood of held-out conversations' choices is kept.
        held_out: Share of the conversations that only measure the fit and choose between restarts.
    """

    n_components: int = 8
    use_rewards: bool = True
    reward_scale: float = 0.1
    width: int = 64
    steps: int = 500
    batch_size: int = 256
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    restarts: int = 1
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: Naming the setting and its range.
        """
        check_counts(self, "n_components", "width", "steps", "batch_size", "restarts")
        check_positive(self, "reward_scale", "learning_rate")
        check_not_negative(self, "weight_decay")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie strictly between 0 and 1, got {self.held_out}; the default is 0.1")


@dataclass(frozen=True)
class MixtureFit:
    """A fitted mixture and how well it predicts conversations that it was not fitted on.

    Attributes:
        mixture: The best restart.
        held_out_log_likelihood: Mean log-probability of a held-out choice, in nats, given the conversation's earlier
            choices.
        memoryless_log_likelihood: The same without them: the history is worth the difference.
        uniform_log_likelihood: The same for guessing, ``-log L``.
    """

    mixture: ChoiceMixture
    held_out_log_likelihood: float
    memoryless_log_likelihood: float
    uniform_log_likelihood: float


def fit_choice_mixture(
    features: FloatArray, choices: IntArray, rewards: FloatArray, config: MixtureConfig, *, seed: int
) -> MixtureFit:
    """Fit the mixture by gradient ascent on the likelihood of whole conversations.

    The gradient of that likelihood is the gradient of expectation maximisation's expected log-likelihood at the
    current responsibilities, so this is EM with one gradient step for an M-step.

    Args:
        features: ``(N, T, L, F)`` from :func:`column_features`.
        choices: ``(N, T)``, -1 for turns without a choice.
        rewards: ``(N, T)`` in units of utility, NaN where none was logged.
        config: Settings.
        seed: Fixes the held-out conversations, batches and starts.

    Returns:
        The fit.

    Raises:
        ValueError: If there are fewer than 10 conversations.
    """
    n_episodes, _, slate_size, _ = features.shape
    if n_episodes < 10:
        raise ValueError(
            f"a mixture needs at least 10 conversations, got {n_episodes}; collect more or use belief=none"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n_episodes, generator=generator)
    n_held_out = max(1, round(config.held_out * n_episodes))
    held_out, kept = order[:n_held_out].sort().values, order[n_held_out:].sort().values
    problem = _Problem(
        features=torch.from_numpy(features),
        choices=torch.from_numpy(choices),
        rewards=torch.from_numpy(np.asarray(rewards, dtype=np.float32)),
        rows=kept,
    )
    fits = [_fit_once(problem, config, generator) for _ in range(config.restarts)]
    scores = [_choice_scores(fit, features[held_out.numpy()], choices[held_out.numpy()]) for fit in fits]
    best = max(range(len(fits)), key=lambda i: scores[i][0])
    return MixtureFit(fits[best], *scores[best], -float(np.log(slate_size)))


def _choice_scores(mixture: ChoiceMixture, features: FloatArray, choices: IntArray) -> tuple[float, float]:
    """Mean log-probability of a choice, given the earlier choices of its conversation and without them."""
    n_choices = max(1, int((choices >= 0).sum()))
    likelihoods = choice_log_likelihoods(mixture.utilities(features), choices, mixture.temperature)
    log_prior = np.log(mixture.prior)
    given_history = np.logaddexp.reduce(log_prior + likelihoods.sum(axis=1), axis=1).sum()
    alone = np.logaddexp.reduce(log_prior + likelihoods, axis=2).sum()
    return float(given_history / n_choices), float(alone / n_choices)


class _Problem(NamedTuple):
    features: torch.Tensor  # (N, T, L, F), any float type
    choices: torch.Tensor  # (N, T)
    rewards: torch.Tensor  # (N, T), NaN where none was logged
    rows: torch.Tensor  # conversations to fit on


class _Start(nn.Module):
    """What is learned: tastes over standardised features, shares, temperature and reward noise."""

    def __init__(self, n_features: int, problem: _Problem, config: MixtureConfig, generator: torch.Generator) -> None:
        super().__init__()
        known = problem.rewards[~problem.rewards.isnan()]
        self.hidden = linear(n_features, config.width, generator)
        self.out = linear(config.width, config.n_components, generator)
        self.shares = nn.Parameter(torch.zeros(config.n_components))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(5.0)))
        spread = float(known.std(correction=0)) if len(known) else 1.0
        self.log_noise = nn.Parameter(torch.tensor(math.log(max(spread, 1e-2))))
        with torch.no_grad():
            self.out.bias.add_(float(known.mean()) if len(known) else 0.0)

    def log_likelihoods(self, features: torch.Tensor, choices: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """Log-likelihood ``(B, K)`` of whole conversations, shares included."""
        utilities = self.out(nn.functional.silu(self.hidden(features)))  # (B, T, L, K)
        log_probabilities = torch.log_softmax(self.log_temperature.exp() * utilities, dim=2)
        column = choices.clamp(min=0)[:, :, None, None].expand(-1, -1, 1, utilities.shape[-1])
        happened = (choices >= 0)[:, :, None]
        evidence = log_probabilities.gather(2, column).squeeze(2).where(happened, torch.zeros(()))
        error = (rewards.nan_to_num()[:, :, None] - utilities.gather(2, column).squeeze(2)) / self.log_noise.exp()
        density = -0.5 * error.square() - self.log_noise
        evidence = evidence + density.where(happened & ~rewards.isnan()[:, :, None], torch.zeros(()))
        joint: torch.Tensor = torch.log_softmax(self.shares, 0) + evidence.sum(1)
        return joint


def _fit_once(problem: _Problem, config: MixtureConfig, generator: torch.Generator) -> ChoiceMixture:
    """One start."""
    mean, spread = _standardisation(problem.features)
    model = _Start(len(mean), problem, config, generator)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    warm_up = max(1, config.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / config.steps))),
    )
    for _ in range(config.steps):
        batch = problem.rows[torch.randint(len(problem.rows), (config.batch_size,), generator=generator)]
        features = (problem.features[batch].float() - mean) / spread
        joint = model.log_likelihoods(features, problem.choices[batch], problem.rewards[batch])
        optimiser.zero_grad()
        (-torch.logsumexp(joint, dim=1).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        hidden_weights = model.hidden.weight / spread
        return ChoiceMixture(
            prior=torch.softmax(model.shares.double(), 0).numpy(),
            tastes=TasteWeights(
                hidden_weights.numpy(),
                (model.hidden.bias - hidden_weights @ mean).numpy(),
                model.out.weight.numpy().copy(),
                model.out.bias.numpy().copy(),
            ),
            temperature=float(model.log_temperature.exp()),
            reward_noise=float(model.log_noise.exp()),
        )


def _standardisation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each feature, and its spread between the columns of one slate: what choices can depend on; ``(F,)``."""
    part = features[:: max(1, len(features) // 2000)].float()
    spread = (part - part.mean(dim=2, keepdim=True)).std(dim=(0, 1, 2), correction=0)
    return part.mean(dim=(0, 1, 2)), torch.where(spread > 1e-6, spread, torch.ones_like(spread))


def fit_to_dataset(dataset: TrajectoryDataset, config: MixtureConfig, *, seed: int) -> MixtureFit:
    """Fit a :class:`ChoiceMixture` to a dataset.

    Args:
        dataset: Logged conversations; images, initial prompts, choices and, if ``config`` says so, rewards are read.
        config: Settings.
        seed: Fixes everything random.

    Returns:
        The fit.
    """
    n_episodes, horizon, slate_size = dataset.actions.shape
    dim = dataset.prompt_embeddings.shape[1]
    # float16 keeps 30,000 conversations within a few hundred MB; the data's images are float16 already.
    features = np.empty((n_episodes, horizon, slate_size, 3 * dim + 2), dtype=np.float16)
    for rows in chunks(n_episodes):
        prompts = dataset.prompt_embeddings[dataset.initial_prompts[rows]]
        prompts = np.broadcast_to(prompts[:, None], (len(prompts), horizon, dim))
        features[rows] = in_precision(column_features(dataset.slate_images[rows], prompts), torch.float16)
    rewards = logged_rewards(dataset.rewards, config)
    return fit_choice_mixture(features, np.asarray(dataset.choices, dtype=np.int64), rewards, config, seed=seed)


def logged_rewards(rewards: FloatArray, config: MixtureConfig) -> FloatArray:
    """Rewards as evidence, in units of utility: NaN where they say nothing.

    A turn at which no conversation has a reward is one that is not rewarded, as all but the last are under the sparse
    reward.

    Args:
        rewards: ``(N, H)`` as logged.
        config: Says whether rewards are evidence, and their scale.

    Returns:
        ``(N, H)`` float32.
    """
    is_rewarded = (rewards != 0).any(axis=0) & config.use_rewards
    return np.where(is_rewarded, config.reward_scale * rewards, np.nan).astype(np.float32)
