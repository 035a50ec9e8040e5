"""Rewards of raters' sessions by the learned user model, as in appendix B.4 of the paper.

Nobody can read a person's utility, so each session is given the user type that explains its rater best, and each of
its turns what the learned model says that type thinks of the column that was chosen. The planted truth is not used.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pasta_gym.envs.rewards import REWARD_SCALE
from pasta_gym.files import digest, file_digest
from pasta_gym.mini.rater_users import Crowd
from pasta_gym.softmax import softmax
from pasta_gym.trajectories.rater_environment import raters_of_episodes
from pasta_gym.trajectories.storage import Shard
from pasta_gym.types import FloatArray, IntArray, UserModelProtocol

LABEL_FILES = ("pairs.parquet", "ratings.parquet", "rankings.parquet")


def session_posteriors(
    users: UserModelProtocol,
    prompt_embeddings: FloatArray,
    slate_images: FloatArray,
    choices: IntArray,
    label_log_likelihoods: FloatArray,
) -> FloatArray:
    """Posterior over types of each session: prior, times its choices, times its rater's other labels.

    Args:
        users: The learned user model.
        prompt_embeddings: ``(n, d)`` of the initial prompts.
        slate_images: ``(n, H, L, M, d)``.
        choices: ``(n, H)``.
        label_log_likelihoods: ``(n, K)`` of the other labels of each session's rater; zeros where there are none.

    Returns:
        ``(n, K)`` float64, rows sum to 1.
    """
    with np.errstate(divide="ignore"):
        return softmax(np.log(users.posterior(prompt_embeddings, slate_images, choices)) + label_log_likelihoods)


def chosen_utilities_of_types(
    users: UserModelProtocol,
    types: IntArray,
    prompt_embeddings: FloatArray,
    slate_images: FloatArray,
    choices: IntArray,
) -> FloatArray:
    """Utilities ``(n, H)`` in [0, 1] that users of ``types (n,)`` have of the columns chosen; shapes as above."""
    features = users.prompt_features(prompt_embeddings)
    rows = np.arange(len(types))
    turns = [
        users.utilities(types, features, np.asarray(slate_images[:, turn], dtype=np.float32))[rows, choices[:, turn]]
        for turn in range(choices.shape[1])
    ]
    return np.stack(turns, axis=1).astype(np.float64)


def labels_by_type(users: UserModelProtocol, labels: pathlib.Path, raters: IntArray) -> FloatArray:
    """Log-likelihood ``(n, K)`` of all pairs, rankings and ratings that each rater ``(n,)`` gave, by learned type.

    Raises:
        ValueError: If the labels are missing or about another encoder's embeddings, or the user model has no scores.
    """
    from pasta_gym.user_model import UserModel
    from pasta_gym.user_model.data import load_preferences
    from pasta_gym.user_model.em import all_rater_log_likelihoods
    from pasta_gym.user_model.encoder_identity import require_encoder_of_data
    from pasta_gym.user_model.evidence import rating_deviation
    from pasta_gym.user_model.labels import labels_of

    if not isinstance(users, UserModel):
        raise ValueError(
            f"other labels can be read by a fitted user model alone, got {type(users).__name__}; "
            "set use_labels=false to judge by the session's choices"
        )
    deviation = rating_deviation(users)
    data = load_preferences(labels)
    require_encoder_of_data(users.metadata, data.encoder_sha256)
    given = labels_of(data, raters)
    found: FloatArray = all_rater_log_likelihoods(users.score_model, given, deviation).numpy().astype(np.float64)
    return found


def require_same_people(users: UserModelProtocol, crowd: Crowd) -> None:
    """Check that a learned user model is about the people whose sessions it is asked about.

    Raises:
        ValueError: If it was fitted to the raters of another world.
    """
    fitted_to = getattr(users, "metadata", {}).get("data", {}).get("world_seed")
    if fitted_to is not None and fitted_to != crowd.world_seed:
        raise ValueError(
            f"the raters are those of world {crowd.world_seed}, and the user model was fitted to those of world "
            f"{fitted_to}: none of its types means anything about them. Name that world's labels "
            f"(data.labels=FOLDER, --labels FOLDER; `python -m pasta_gym.mini.rater_data label --pool data/rater_pool "
            f"--out FOLDER --world {fitted_to}` writes them), or another world"
        )


@dataclass(frozen=True)
class MostLikelyType:
    """Writes rewards into sessions.

    Attributes:
        users: The learned user model.
        crowd: Whose sessions they are.
        label_log_likelihoods: ``(len(crowd), K)`` of each rater's other labels; zeros where there are none.
        evidence: Hashes of the files of those labels, by name; empty if choices alone are looked at.
    """

    users: UserModelProtocol
    crowd: Crowd
    label_log_likelihoods: FloatArray
    evidence: dict[str, str]

    @classmethod
    def of(cls, users: UserModelProtocol, crowd: Crowd, labels: pathlib.Path | None) -> MostLikelyType:
        """Read the raters' other labels, or none.

        Args:
            users: The learned user model.
            crowd: Whose sessions.
            labels: A world's labels, or None to judge by a session's choices alone.

        Raises:
            ValueError: If the user model was fitted to other people, or the labels are missing or broken.
        """
        require_same_people(users, crowd)
        if labels is None:
            return cls(users, crowd, np.zeros((len(crowd), users.n_types)), {})
        likelihoods = labels_by_type(users, labels, np.arange(crowd.first, crowd.end))
        return cls(users, crowd, likelihoods, hashes_of_labels(labels))

    def identity(self) -> dict[str, Any]:
        """Everything that the rewards depend on, beside the sessions themselves."""
        return reward_identity(self.users, self.evidence)

    def rewards(self, shard: Shard) -> FloatArray:
        """Dense rewards ``(n, H)``: ten times what each session's most likely type thinks of what was chosen."""
        prompts = shard.prompt_embeddings[np.searchsorted(shard.prompts, shard.initial_prompts)]
        posteriors = self.posteriors(prompts, shard.slate_images, shard.choices, shard.environment_seeds)
        return REWARD_SCALE * chosen_utilities_of_types(
            self.users, posteriors.argmax(axis=1), prompts, shard.slate_images, shard.choices
        )

    def posteriors(self, prompts: FloatArray, images: FloatArray, choices: IntArray, seeds: IntArray) -> FloatArray:
        """Posterior over types ``(n, K)`` of sessions that were logged under ``seeds (n,)``."""
        who = raters_of_episodes(seeds, self.crowd) - self.crowd.first
        return session_posteriors(self.users, prompts, images, choices, self.label_log_likelihoods[who])


def reward_identity(users: UserModelProtocol, evidence: dict[str, str]) -> dict[str, Any]:
    """Name what rewards depend on: the learned model, and hashes of the labels that are looked at."""
    known = getattr(users, "metadata", None)
    return {
        "rule": "utility of the most likely learned type, appendix B.4",
        "posterior": "choices of the session, other labels of the rater" if evidence else "choices of the session",
        "labels": evidence,
        "learned user model": digest({k: str(v) for k, v in known.items()}) if known else type(users).__name__,
    }


def hashes_of_labels(labels: pathlib.Path, names: Sequence[str] = LABEL_FILES) -> dict[str, str]:
    """Hash files of a world's labels, by default those that posteriors read.

    Raises:
        ValueError: If one is missing.
    """
    missing = [name for name in names if not (labels / name).is_file()]
    if missing:
        raise ValueError(
            f"{labels} lacks {', '.join(missing)}; make labels with: python -m pasta_gym.mini.rater_data label"
        )
    return {name: file_digest(labels / name) for name in names}
