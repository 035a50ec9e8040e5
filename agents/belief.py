"""Which kind of person is this? Beliefs over components, from the choices made so far.

The agent's own belief is a mixture of K multinomial logits, fitted by expectation maximisation to the logged choices
alone: under component k a column's utility is ``w_k . phi(column's images, initial prompt)``, the probability of a
choice is the softmax of the utilities over the slate, and all choices of a conversation share one component. The
posterior over components after some choices is then a closed form. Nothing of the environment's user model is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from agents import Log, Observations
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray

_CHUNK = 1000  # episodes whose images are held in float32 at a time


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
    steps: int = 500
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
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return ChoiceMixture(prior=prior.double().numpy(), weights=(weights.detach() / problem.scale).numpy())


class Belief(Protocol):
    """A source of beliefs over K components of people."""

    n_components: int

    def of_observations(self, observations: Observations) -> FloatArray:
        """Belief of each conversation so far, ``(B, K)``."""
        ...

    def of_dataset(self, dataset: TrajectoryDataset) -> FloatArray:
        """Belief before each turn and after the last, ``(N, H + 1, K)`` float32."""
        ...


class NoBelief:
    """Knows nothing: K = 0."""

    n_components = 0

    def of_observations(self, observations: Observations) -> FloatArray:
        """``(B, 0)``."""
        return np.zeros((len(observations["turn"]), 0), dtype=np.float32)

    def of_dataset(self, dataset: TrajectoryDataset) -> FloatArray:
        """``(N, H + 1, 0)``."""
        n_episodes, horizon = dataset.choices.shape
        return np.zeros((n_episodes, horizon + 1, 0), dtype=np.float32)


class FittedBelief:
    """The posterior of a mixture fitted to logged choices."""

    def __init__(self, mixture: ChoiceMixture) -> None:
        self.mixture = mixture
        self.n_components = len(mixture.prior)

    def of_observations(self, observations: Observations) -> FloatArray:
        """Posterior of each conversation so far, ``(B, K)``."""
        return self.mixture.posterior(
            np.asarray(observations["slate_images"]),
            np.asarray(observations["initial_prompt"]),
            seen_choices(observations),
        )

    def of_dataset(self, dataset: TrajectoryDataset) -> FloatArray:
        """Posterior before each turn and after the last, ``(N, H + 1, K)`` float32."""
        parts = [
            self.mixture.log_likelihoods(
                dataset.slate_images[rows],
                dataset.prompt_embeddings[dataset.initial_prompts[rows]],
                dataset.choices[rows],
            )
            for rows in _chunks(len(dataset.choices))
        ]
        return running_posteriors(self.mixture.prior, np.concatenate(parts))


class TypePosterior(Protocol):
    """The part of the environment's user model that a privileged agent uses."""

    prior: FloatArray

    def posterior(self, prompt_embeddings: FloatArray, slate_images: FloatArray, choices: IntArray) -> FloatArray:
        """Posterior over user types, ``(B, K)``; a choice of -1 is no evidence."""
        ...


class PrivilegedBelief:
    """The posterior over types of the environment's own user model: an upper bound, not something a system has."""

    def __init__(self, user_model: TypePosterior) -> None:
        self.user_model = user_model
        self.n_components = len(user_model.prior)

    def of_observations(self, observations: Observations) -> FloatArray:
        """Posterior of each conversation so far, ``(B, K)``."""
        return np.asarray(
            self.user_model.posterior(
                np.asarray(observations["initial_prompt"], dtype=np.float32),
                np.asarray(observations["slate_images"], dtype=np.float32),
                seen_choices(observations),
            ),
            dtype=np.float32,
        )

    def of_dataset(self, dataset: TrajectoryDataset) -> FloatArray:
        """Posterior before each turn and after the last, ``(N, H + 1, K)`` float32.

        The choices are independent given the type, so the posterior of one turn alone over the prior is that turn's
        likelihood: every slate is scored once instead of once for each later turn.
        """
        horizon = dataset.choices.shape[1]
        prior = np.maximum(np.asarray(self.user_model.prior, dtype=np.float64), 1e-12)
        parts = []
        for rows in _chunks(len(dataset.choices)):
            prompts = np.asarray(dataset.prompt_embeddings[dataset.initial_prompts[rows]], dtype=np.float32)
            turns = [
                self.user_model.posterior(
                    prompts, dataset.slate_images[rows, t : t + 1].astype(np.float32), dataset.choices[rows, t : t + 1]
                )
                for t in range(horizon)
            ]
            single = np.stack(turns, axis=1).astype(np.float64)  # (B, H, K)
            parts.append(np.log(np.maximum(single, 1e-30)) - np.log(prior))
        return running_posteriors(prior, np.concatenate(parts))


def seen_choices(observations: Observations) -> IntArray:
    """Choices of the turns played, -1 for turns to come, ``(B, H)``."""
    choices = np.asarray(observations["choices"], dtype=np.int64)
    seen = np.arange(choices.shape[1]) < np.asarray(observations["turn"])[:, None]
    return np.where(seen, choices, -1)


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


def fit_belief(dataset: TrajectoryDataset, config: MixtureConfig, *, seed: int) -> MixtureFit:
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
    for rows in _chunks(n_episodes):
        prompts = dataset.prompt_embeddings[dataset.initial_prompts[rows]]
        prompts = np.broadcast_to(prompts[:, None], (len(prompts), horizon, dim))
        features[rows] = column_features(dataset.slate_images[rows], prompts)
    return fit_choice_mixture(features, np.asarray(dataset.choices, dtype=np.int64), config, seed=seed)


BeliefKind = Literal["none", "fitted", "privileged"]
BELIEF_KINDS: tuple[str, ...] = ("none", "fitted", "privileged")


def check_belief_settings(belief: str, posterior_from: str) -> None:
    """Check an agent's two belief settings.

    Args:
        belief: One of ``none``, ``fitted``, ``privileged``.
        posterior_from: Folder of a user model; needed by ``privileged`` alone.

    Raises:
        ValueError: If the kind is unknown, or the folder is missing or not used.
    """
    if belief not in BELIEF_KINDS:
        raise ValueError(f"belief must be one of {BELIEF_KINDS}, got {belief!r}")
    if belief == "privileged" and not posterior_from:
        raise ValueError("belief='privileged' needs posterior_from, the folder of the environment's user model")
    if belief != "privileged" and posterior_from:
        raise ValueError(
            f"posterior_from={posterior_from!r} is read with belief='privileged' only, got belief={belief!r}; "
            "remove one of the two"
        )


def learn_belief(
    dataset: TrajectoryDataset, kind: BeliefKind, posterior_from: str, config: MixtureConfig, *, seed: int, log: Log
) -> Belief:
    """Make the belief that an agent's settings ask for, fitting it to the data where it is the agent's own.

    Args:
        dataset: Logged conversations.
        kind: Which belief.
        posterior_from: Folder of a user model, for ``privileged``.
        config: Settings of the fit, for ``fitted``.
        seed: Fixes the fit.
        log: Receives the fit's likelihoods.

    Returns:
        The belief.
    """
    if kind == "fitted":
        fit = fit_belief(dataset, config, seed=seed)
        log(
            {
                "belief/held_out_log_likelihood": fit.held_out_log_likelihood,
                "belief/pooled_log_likelihood": fit.pooled_log_likelihood,
                "belief/uniform_log_likelihood": fit.uniform_log_likelihood,
                "belief/largest_share": float(fit.mixture.prior.max()),
            }
        )
        return FittedBelief(fit.mixture)
    return PrivilegedBelief(load_user_model(posterior_from)) if kind == "privileged" else NoBelief()


def belief_tensors(belief: Belief) -> dict[str, torch.Tensor]:
    """What has to be stored with an agent to get its belief back; empty unless the belief was fitted."""
    if not isinstance(belief, FittedBelief):
        return {}
    mixture = belief.mixture
    return {
        "belief.prior": torch.from_numpy(np.asarray(mixture.prior, dtype=np.float64)),
        "belief.weights": torch.from_numpy(np.asarray(mixture.weights, dtype=np.float32)),
    }


def restore_belief(kind: BeliefKind, posterior_from: str, tensors: dict[str, torch.Tensor], folder: Path) -> Belief:
    """Rebuild a stored agent's belief.

    Args:
        kind: Which belief.
        posterior_from: Folder of a user model, for ``privileged``.
        tensors: The agent's stored tensors; those of the belief are taken out.
        folder: Where they were read, for error messages.

    Returns:
        The belief.

    Raises:
        ValueError: If the fitted mixture is missing or broken.
    """
    prior, weights = tensors.pop("belief.prior", None), tensors.pop("belief.weights", None)
    if kind == "privileged":
        return PrivilegedBelief(load_user_model(posterior_from))
    if kind == "none":
        return NoBelief()
    if prior is None or weights is None or prior.ndim != 1 or weights.ndim != 2 or len(prior) != len(weights):
        raise ValueError(f"{folder} has no complete fitted belief in its weights; train and save the agent again")
    if not (torch.isfinite(weights).all() and (prior > 0).all() and torch.isfinite(prior).all()):
        raise ValueError(
            f"{folder} has a fitted belief with bad numbers in its weights; train and save the agent again"
        )
    return FittedBelief(ChoiceMixture(prior=prior.numpy().copy(), weights=weights.numpy().copy()))


def load_user_model(path: str) -> TypePosterior:
    """Load the environment's user model for a privileged belief.

    Args:
        path: Its folder.

    Returns:
        The user model.
    """
    from pasta_gym.user_model import UserModel

    model: TypePosterior = UserModel.load(Path(path))
    return model


def _chunks(n_episodes: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, n_episodes)) for start in range(0, n_episodes, _CHUNK)]
