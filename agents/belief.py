"""What an agent believes about the person it talks to: beliefs over components, from the choices made so far.

There are three sources: none, a mixture that the agent fitted to logged choices itself, and, as a privilege, the
posterior of the environment's own user model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from agents import Log, Observations
from agents.choice_mixture import (
    ChoiceMixture,
    TasteWeights,
    choice_log_likelihoods,
    chunks,
    running_posteriors,
)
from agents.mixture_fit import MixtureConfig, fit_to_dataset
from pasta_gym.files import file_digest
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray


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
        return self.of_utilities(self.mixture.dataset_utilities(dataset), dataset.choices)

    def of_utilities(self, utilities: FloatArray, choices: IntArray) -> FloatArray:
        """The same from the utilities ``(N, H, L, K)`` of the columns shown and the choices ``(N, H)``."""
        evidence = choice_log_likelihoods(utilities, choices, self.mixture.temperature)
        return running_posteriors(self.mixture.prior, evidence)


class TypePosterior(Protocol):
    """The part of the environment's user model that a privileged agent uses."""

    prior: FloatArray

    def posterior(self, prompt_embeddings: FloatArray, slate_images: FloatArray, choices: IntArray) -> FloatArray:
        """Posterior over user types, ``(B, K)``; a choice of -1 is no evidence."""
        ...


class PrivilegedBelief:
    """The posterior over types of the environment's own user model: an upper bound, not something a system has."""

    def __init__(self, user_model: TypePosterior, sha256: str = "") -> None:
        """Take the user model.

        Args:
            user_model: It.
            sha256: Hash of its weights, to know it again elsewhere; empty if it was read from no file.
        """
        self.user_model = user_model
        self.sha256 = sha256
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
        for rows in chunks(len(dataset.choices)):
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
        fit = fit_to_dataset(dataset, config, seed=seed)
        log(
            {
                "belief/held_out_log_likelihood": fit.held_out_log_likelihood,
                "belief/memoryless_log_likelihood": fit.memoryless_log_likelihood,
                "belief/uniform_log_likelihood": fit.uniform_log_likelihood,
                "belief/largest_share": float(fit.mixture.prior.max()),
            }
        )
        return FittedBelief(fit.mixture)
    return privileged_belief(posterior_from) if kind == "privileged" else NoBelief()


def belief_tensors(belief: Belief) -> dict[str, torch.Tensor]:
    """What has to be stored with an agent to get its belief back; empty unless the belief was fitted."""
    if not isinstance(belief, FittedBelief):
        return {}
    mixture = belief.mixture
    numbers = np.array([mixture.temperature, mixture.reward_noise])
    tastes = {
        f"belief.{name}": torch.from_numpy(np.asarray(array, dtype=np.float32))
        for name, array in mixture.tastes._asdict().items()
    }
    return tastes | {
        "belief.prior": torch.from_numpy(np.asarray(mixture.prior, dtype=np.float64)),
        "belief.temperature_and_noise": torch.from_numpy(numbers),
    }


USER_MODEL_NOTE = "user_model_sha256"


def belief_notes(belief: Belief) -> dict[str, str]:
    """Say what an agent's card has to tell of its belief: the weights of a privileged one's user model."""
    return {USER_MODEL_NOTE: belief.sha256} if isinstance(belief, PrivilegedBelief) and belief.sha256 else {}


def restore_belief(
    kind: BeliefKind,
    posterior_from: str,
    tensors: dict[str, torch.Tensor],
    folder: Path,
    notes: Mapping[str, str] | None = None,
) -> Belief:
    """Rebuild a stored agent's belief.

    Args:
        kind: Which belief.
        posterior_from: Folder of a user model, for ``privileged``.
        tensors: The agent's stored tensors; those of the belief are taken out.
        folder: Where they were read, for error messages.
        notes: Those of the agent's card. Cards written before there were any do not tell the user model's weights.

    Returns:
        The belief.

    Raises:
        ValueError: If the fitted mixture is missing or broken, or the user model is not there or another one.
    """
    names = [name for name in tensors if name.startswith("belief.")]
    stored = {name.removeprefix("belief."): tensors.pop(name) for name in names}
    if kind == "privileged":
        return _same_users(posterior_from, folder, (notes or {}).get(USER_MODEL_NOTE, ""))
    if kind == "none":
        return NoBelief()
    if not _is_complete(stored):
        raise ValueError(f"{folder} has no complete fitted belief in its weights; train and save the agent again")
    if not all(torch.isfinite(tensor).all() for tensor in stored.values()) or not (stored["prior"] > 0).all():
        raise ValueError(
            f"{folder} has a fitted belief with bad numbers in its weights; train and save the agent again"
        )
    temperature, noise = stored["temperature_and_noise"].tolist()
    tastes = TasteWeights(*(stored[name].numpy().copy() for name in TasteWeights._fields))
    return FittedBelief(ChoiceMixture(stored["prior"].numpy().copy(), tastes, temperature, noise))


def _is_complete(stored: dict[str, torch.Tensor]) -> bool:
    """Whether the tensors of a mixture are all there and fit together."""
    if set(stored) != {*TasteWeights._fields, "prior", "temperature_and_noise"}:
        return False
    if stored["hidden_weights"].ndim != 2 or stored["prior"].ndim != 1:
        return False
    width, n_components = len(stored["hidden_weights"]), len(stored["prior"])
    shapes = [tuple(stored[name].shape) for name in ("hidden_biases", "weights", "biases", "temperature_and_noise")]
    return shapes == [(width,), (n_components, width), (n_components,), (2,)]


def _same_users(posterior_from: str, folder: Path, sha256: str) -> PrivilegedBelief:
    """Read the user model that a stored agent learned with, or say how to tell where it is."""
    cure = (
        "pass load(..., posterior_from=FOLDER), or ++agent.config.posterior_from=FOLDER to benchmarks.run, with the "
        "folder of the user model that it was trained with"
    )
    try:
        belief = privileged_belief(posterior_from)
    except ValueError as error:
        raise ValueError(f"the privileged agent in {folder} needs its user model: {error}; or {cure}") from error
    if sha256 and belief.sha256 and belief.sha256 != sha256:
        raise ValueError(
            f"the privileged agent in {folder} learned with a user model of weights {sha256}, but {posterior_from} has "
            f"{belief.sha256}; {cure}"
        )
    return belief


def privileged_belief(posterior_from: str) -> PrivilegedBelief:
    """Make the belief from the folder of a user model.

    Raises:
        ValueError: If there is no user model, or it does not read the embeddings that observations hold.
    """
    from pasta_gym.user_model.user_model import WEIGHTS

    user_model = load_user_model(posterior_from)
    weights = Path(posterior_from) / WEIGHTS
    return PrivilegedBelief(user_model, file_digest(weights) if weights.is_file() else "")


def load_user_model(path: str) -> TypePosterior:
    """Load the environment's user model for a privileged belief.

    Args:
        path: Its folder.

    Returns:
        The user model.

    Raises:
        ValueError: If it does not read the embeddings that observations hold.
    """
    from pasta_gym.user_model.encoder_identity import require_frozen_encoder
    from pasta_gym.user_model.user_model import UserModel

    model = UserModel.load(Path(path))
    require_frozen_encoder(model.metadata, "a privileged belief")
    found: TypePosterior = model
    return found
