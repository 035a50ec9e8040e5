"""Hand logged conversations to other libraries: d3rlpy wants flat observations and continuous actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.trajectories.dataset import TrajectoryDataset
from pasta_gym.types import OBSERVATION_KEYS, IntArray


def encode_slates(actions: IntArray, n_candidates: int, categories: IntArray | None = None) -> NDArray[np.float32]:
    """Write slates as candidate scores: +1 for a prompt that was shown, -1 for one that was not.

    Args:
        actions: ``(..., L)`` places in the candidates.
        n_candidates: The paper's ``L_C``.
        categories: ``(..., n_candidates)``, if the scores will be read by category, as the wrapper does.

    Returns:
        ``(..., n_candidates)`` float32.

    Raises:
        ValueError: If a place is out of range, or repeats in its slate (a set of scores cannot say that), or two of a
            slate are of one category.
    """
    actions = np.asarray(actions, dtype=np.int64)
    if actions.size and (actions.min() < 0 or actions.max() >= n_candidates):
        raise ValueError(f"slates must hold places in 0..{n_candidates - 1}, got {actions.min()}..{actions.max()}")
    ordered = np.sort(actions, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise ValueError("a slate shows one candidate twice, which scores cannot say; drop such episodes first")
    if categories is not None:
        shown = np.sort(np.take_along_axis(np.asarray(categories), actions, axis=-1), axis=-1)
        if (shown[..., 1:] == shown[..., :-1]).any():
            raise ValueError(
                "a slate shows two candidates of one category, which scores that are read by category cannot say; "
                "drop such episodes first"
            )
    scores = np.full((*actions.shape[:-1], n_candidates), -1.0, dtype=np.float32)
    np.put_along_axis(scores, actions, np.float32(1.0), axis=-1)
    return scores


def decode_slates(scores: NDArray[Any], categories: IntArray, slate_size: int) -> IntArray:
    """Read candidate scores as slates: the best candidate of each category, then the best categories.

    It undoes :func:`encode_slates` for slates with one prompt a category, up to the order, which carries no
    meaning.

    Args:
        scores: ``(B, C)`` finite numbers.
        categories: ``(B, C)``.
        slate_size: The paper's ``L``.

    Returns:
        ``(B, L)`` places, best first; among equal scores the earlier candidate is better.

    Raises:
        ValueError: If scores are not finite or a row has fewer categories than ``slate_size``.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite, got NaN or infinity; check the policy's output")
    n_categories = int(categories.max()) + 1
    best = np.full((len(scores), n_categories), -np.inf)
    places = np.zeros((len(scores), n_categories), dtype=np.int64)
    for category in range(n_categories):
        of_category = np.where(categories == category, scores, -np.inf)
        places[:, category] = of_category.argmax(axis=1)
        best[:, category] = of_category.max(axis=1)
    if np.isfinite(best).sum(axis=1).min() < slate_size:
        raise ValueError(f"slate_size {slate_size} is more than the categories of a row; use a smaller slate")
    order = np.argsort(-best, axis=1, kind="stable")[:, :slate_size]
    slates: IntArray = np.take_along_axis(places, order, axis=1)
    return slates


def flatten_observations(observations: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Lay a batch of observations out in rows, key after key in the order of ``OBSERVATION_KEYS``.

    Args:
        observations: The environment's keys, first axis ``B``.

    Returns:
        ``(B, D)`` float32.
    """
    parts = [np.asarray(observations[key], dtype=np.float32) for key in OBSERVATION_KEYS]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def to_d3rlpy(dataset: TrajectoryDataset, *, n_episodes: int | None = None) -> Any:
    """Make a ``d3rlpy.dataset.MDPDataset`` of flat observations and slates written as candidate scores.

    A policy learned from it acts in the environment through the flat-observation and candidate-score wrappers.
    Flat observations hold the whole history at every turn: about 33 kB a turn at the default sizes.

    Args:
        dataset: Logged conversations.
        n_episodes: Take the first ones alone; all by default.

    Raises:
        ValueError: If ``n_episodes`` is not in 1..N, or a slate cannot be written as scores.
    """
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import MDPDataset

    n = len(dataset) if n_episodes is None else n_episodes
    if not 1 <= n <= len(dataset):
        raise ValueError(f"n_episodes must be in 1..{len(dataset)}, got {n}")
    horizon, n_candidates = dataset.horizon, dataset.candidates.shape[2]
    episodes, turns = np.repeat(np.arange(n), horizon), np.tile(np.arange(horizon), n)
    rows = [
        flatten_observations(dataset.observations(episodes[part], turns[part]))
        for part in np.array_split(np.arange(n * horizon), max(1, n * horizon // 1024))
    ]
    return MDPDataset(
        observations=np.concatenate(rows),
        actions=encode_slates(dataset.actions[:n], n_candidates, dataset.categories[:n]).reshape(
            n * horizon, n_candidates
        ),
        rewards=dataset.rewards[:n].reshape(-1).astype(np.float32),
        terminals=(turns == horizon - 1).astype(np.float32),
        action_space=ActionSpace.CONTINUOUS,
    )
