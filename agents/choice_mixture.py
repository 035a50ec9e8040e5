"""A mixture of choice models, fitted to logged choices: which kinds of people are there, and which one is this?

An agent's own belief rests on a mixture of K multinomial logits, fitted by expectation maximisation to the logged
choices alone: under component k a column's utility is ``w_k . phi(column's images, initial prompt)``, the probability
of a choice is the softmax of the utilities over the slate, and all choices of a conversation share one component. The
posterior over components after some choices is then a closed form. Nothing of the environment's user model is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray

CHUNK = 1000  # episodes whose images are held in float32 at a time


def column_features(slate_images: FloatArray, initial_prompts: FloatArray) -> FloatArray:
    """Describe the columns of a slate by their images and the initial prompt.

    All embeddings are l2-normalised first. The features are the mean image, the elementwise largest image, the mean
    image times the initial prompt (elementwise, so that a component can weigh parts of the match), and the mean and
    largest cosine between images and initial prompt.

    Args:
        slate_images: ``(..., L, M, d)`` image embeddings.
        initial_prompts: ``(..., d)`` embedding of the initial prompt, with the same leading axes.

    Returns:
        ``(..., L, 3 d + 2)`` float32. Columns of zeros (turns to come) give finite features.
    """
    images = _normalised(np.asarray(slate_images, dtype=np.float32))
    prompts = _normalised(np.asarray(initial_prompts, dtype=np.float32))
    mean = images.mean(axis=-2)
    cosines = np.einsum("...lmd,...d->...lm", images, prompts)
    return np.concatenate(
        [
            mean,
            images.max(axis=-2),
            mean * prompts[..., None, :],
            cosines.mean(axis=-1, keepdims=True),
            cosines.max(axis=-1, keepdims=True),
        ],
        axis=-1,
    )


def _normalised(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-8))


def choice_log_likelihoods(features: FloatArray, choices: IntArray, weights: FloatArray) -> FloatArray:
    """Log-probability of each choice under each component.

    Args:
        features: ``(..., L, F)`` columns of the slates.
        choices: ``(...)`` column chosen; -1 means no evidence and gives 0.
        weights: ``(K, F)``.

    Returns:
        ``(..., K)`` float64.
    """
    utilities = (features @ weights.T).astype(np.float64)  # (..., L, K)
    utilities -= utilities.max(axis=-2, keepdims=True)
    log_probabilities = utilities - np.log(np.exp(utilities).sum(axis=-2, keepdims=True))
    column = np.maximum(choices, 0)[..., None, None]
    chosen = np.take_along_axis(log_probabilities, column, axis=-2)[..., 0, :]
    return np.where((choices >= 0)[..., None], chosen, 0.0)


def posterior(prior: FloatArray, log_likelihoods: FloatArray) -> FloatArray:
    """Bayes' rule in closed form: prior times the likelihood of the choices, normalised.

    Args:
        prior: ``(K,)`` probabilities above 0.
        log_likelihoods: ``(..., K)`` summed over the choices.

    Returns:
        ``(..., K)`` float64 probabilities.
    """
    logits = np.log(np.asarray(prior, dtype=np.float64)) + log_likelihoods
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class MixtureConfig:
    """How the mixture of choice models is fitted.

    Attributes:
        n_components: K. More cost little; components that are not needed end with alike weights or a small share.
        steps: Gradient steps of mini-batch EM for each restart.
        batch_size: Conversations in a step.
        learning_rate: Adam's first step size, which falls to 0 along a cosine.
        ridge: Penalty on the squared weights, which are in units of the features' spread within a slate.
        prior_rate: Rate of the moving average that estimates the components' shares.
        start_noise: Standard deviation of the differences between components at the start. Equal components would
            never separate.
        restarts: Number of starts; the one with the best likelihood of held-out conversations is kept.
        held_out: Share of the conversations that only choose between restarts.
    """

    n_components: int = 8
    steps: int = 300
    batch_size: int = 512
    learning_rate: float = 0.05
    ridge: float = 1e-4
    prior_rate: float = 0.05
    start_noise: float = 0.1
    restarts: int = 3
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: Naming the setting and its range.
        """
        for name in ("n_components", "steps", "batch_size", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie strictly between 0 and 1, got {self.held_out}; the default is 0.1")
        if not 0 < self.prior_rate <= 1:
            raise ValueError(f"prior_rate must lie in (0, 1], got {self.prior_rate}; the default is 0.05")


@dataclass(frozen=True)
class ChoiceMixture:
    """A mixture of K multinomial-logit choice models.

    Attributes:
        prior: ``(K,)`` shares.
        weights: ``(K, F)`` taste of each component over :func:`column_features`.
    """

    prior: FloatArray
    weights: FloatArray

    def log_likelihoods(self, slate_images: FloatArray, initial_prompts: FloatArray, choices: IntArray) -> FloatArray:
        """Log-probability of the choice of each turn under each component.

        Args:
            slate_images: ``(B, T, L, M, d)``.
            initial_prompts: ``(B, d)``.
            choices: ``(B, T)``, -1 for turns without a choice.

        Returns:
            ``(B, T, K)``, 0 where there is no choice.
        """
        prompts = np.broadcast_to(initial_prompts[:, None], (*choices.shape, initial_prompts.shape[-1]))
        return choice_log_likelihoods(column_features(slate_images, prompts), choices, self.weights)

    def posterior(self, slate_images: FloatArray, initial_prompts: FloatArray, choices: IntArray) -> FloatArray:
        """Posterior over components given conversations so far; the prior when there is no choice yet.

        Args:
            slate_images: ``(B, T, L, M, d)``.
            initial_prompts: ``(B, d)``.
            choices: ``(B, T)``, -1 for turns without a choice.

        Returns:
            ``(B, K)``.
        """
        return posterior(self.prior, self.log_likelihoods(slate_images, initial_prompts, choices).sum(axis=1))


@dataclass(frozen=True)
class MixtureFit:
    """A fitted mixture and how well it predicts conversations that it was not fitted on.

    Attributes:
        mixture: The best restart.
        held_out_log_likelihood: Mean log-probability of a held-out choice, in nats, all choices of a conversation
            sharing one unknown component.
        pooled_log_likelihood: The same for one component fitted to everybody.
        uniform_log_likelihood: The same for guessing, ``-log L``.
    """

    mixture: ChoiceMixture
    held_out_log_likelihood: float
    pooled_log_likelihood: float
    uniform_log_likelihood: float


def fit_choice_mixture(features: FloatArray, choices: IntArray, config: MixtureConfig, *, seed: int) -> MixtureFit:
    """Fit the mixture by mini-batch expectation maximisation.

    E-step: responsibilities of the components for whole conversations. M-step: one Adam step on the expected
    log-likelihood, and the shares move towards the mean responsibilities. Each start is the pooled solution plus
    noise.

    Args:
        features: ``(N, T, L, F)`` from :func:`column_features`.
        choices: ``(N, T)``, -1 for turns without a choice.
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
    order = torch.randperm(n_episodes, generator=generator).numpy()
    n_held_out = max(1, round(config.held_out * n_episodes))
    held_out, kept = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
    scale = _within_slate_spread(features)
    problem = _EMProblem(
        features=torch.from_numpy(features), scale=torch.from_numpy(scale), choices=torch.from_numpy(choices), rows=kept
    )

    def held_out_score(mixture: ChoiceMixture) -> float:
        part = choice_log_likelihoods(features[held_out].astype(np.float32), choices[held_out], mixture.weights)
        joint = np.log(mixture.prior) + part.sum(axis=1)
        top = joint.max(axis=1)
        total = (top + np.log(np.exp(joint - top[:, None]).sum(axis=1))).sum()
        return float(total / max(1, (choices[held_out] >= 0).sum()))

    nowhere = torch.zeros(1, features.shape[-1])
    pooled = _run_em(problem, nowhere, config, generator)
    fits = [pooled]
    for _ in range(config.restarts if config.n_components > 1 else 0):
        noise = torch.randn(config.n_components, features.shape[-1], generator=generator) * config.start_noise
        fits.append(_run_em(problem, torch.from_numpy(pooled.weights * scale) + noise, config, generator))
    scores = [held_out_score(fit) for fit in fits]
    best = max(range(min(1, len(fits) - 1), len(fits)), key=scores.__getitem__)
    return MixtureFit(fits[best], scores[best], scores[0], -float(np.log(slate_size)))


@dataclass(frozen=True)
class _EMProblem:
    features: torch.Tensor  # (N, T, L, F), any float type
    scale: torch.Tensor  # (F,)
    choices: torch.Tensor  # (N, T)
    rows: IntArray  # conversations to fit on


def _within_slate_spread(features: FloatArray) -> FloatArray:
    """Standard deviation of each feature between the columns of one slate, ``(F,)``: what choices can depend on."""
    part = features[:: max(1, len(features) // 2000)].astype(np.float32)
    spread = (part - part.mean(axis=2, keepdims=True)).std(axis=(0, 1, 2))
    return np.where(spread > 1e-6, spread, 1.0).astype(np.float32)


def _run_em(
    problem: _EMProblem, start: torch.Tensor, config: MixtureConfig, generator: torch.Generator
) -> ChoiceMixture:
    """One start of mini-batch EM from ``start`` ``(K, F)``, in units of the features' spread."""
    n_components = len(start)
    weights = start.clone().requires_grad_()
    prior = torch.full((n_components,), 1 / n_components)
    optimiser = torch.optim.Adam([weights], lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    rows = torch.from_numpy(problem.rows)
    for _ in range(config.steps):
        batch = rows[torch.randint(len(rows), (config.batch_size,), generator=generator)]
        columns = problem.features[batch].float() / problem.scale
        choices = problem.choices[batch]
        log_probabilities = torch.log_softmax(columns @ weights.T, dim=2)  # (B, T, L, K)
        index = choices.clamp(min=0)[:, :, None, None].expand(-1, -1, 1, n_components)
        chosen = log_probabilities.gather(2, index).squeeze(2)
        log_likelihood = torch.where(choices[:, :, None] >= 0, chosen, 0.0).sum(1)  # (B, K)
        with torch.no_grad():
            responsibilities = torch.softmax(torch.log(prior) + log_likelihood, dim=1)
            prior = prior.lerp(responsibilities.mean(0), config.prior_rate).clamp(min=1e-4)
            prior = prior / prior.sum()
        expected = (responsibilities * log_likelihood).sum(1).mean()
        loss = config.ridge * weights.square().sum() - expected
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return ChoiceMixture(prior=prior.double().numpy(), weights=(weights.detach() / problem.scale).numpy())


def fit_to_dataset(dataset: TrajectoryDataset, config: MixtureConfig, *, seed: int) -> MixtureFit:
    """Fit a :class:`ChoiceMixture` to the choices of a dataset.

    Args:
        dataset: Logged conversations; only images, initial prompts and choices are read.
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
        features[rows] = column_features(dataset.slate_images[rows], prompts)
    return fit_choice_mixture(features, np.asarray(dataset.choices, dtype=np.int64), config, seed=seed)


def running_posteriors(prior: FloatArray, log_likelihoods: FloatArray) -> FloatArray:
    """Posterior before each turn and after the last.

    Args:
        prior: ``(K,)``.
        log_likelihoods: ``(N, H, K)`` of each turn's choice.

    Returns:
        ``(N, H + 1, K)`` float32.
    """
    evidence = np.concatenate([np.zeros_like(log_likelihoods[:, :1]), np.cumsum(log_likelihoods, axis=1)], axis=1)
    return posterior(prior, evidence).astype(np.float32)


def chunks(n_episodes: int) -> list[slice]:
    """Slices of at most ``CHUNK`` episodes that cover all of them."""
    return [slice(start, min(start + CHUNK, n_episodes)) for start in range(0, n_episodes, CHUNK)]
