"""Play held-out conversations with an agent and write down what its user got."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Agent
from agents.token_texts import TextRecord
from pasta_gym import seeding
from pasta_gym.envs.arguments import checked_actions
from pasta_gym.settings import check_whole
from pasta_gym.trajectories.environment import SEED_STRIDE, first_environment_seed
from pasta_gym.types import FloatArray, IntArray, UInt64Array

_DECISION = 0xDEC151  # salt of the agents' own keys


@dataclass(frozen=True)
class EvaluationConfig:
    """Which conversations an agent is measured on.

    Attributes:
        n_episodes: Conversations.
        seed: Numbers a stream of conversations. Every agent meets the same ones in the same order.
        split: Initial prompts; agents train on ``"train"``.
        batch_size: Conversations side by side. It changes no number, but of agents whose conversations take something
            from each other (:class:`agents.foreign_past.ForeignPast`).
    """

    n_episodes: int = 1000
    seed: int = 0
    split: str = "test"
    batch_size: int = 250

    def __post_init__(self) -> None:
        check_whole(self, "n_episodes", 1, SEED_STRIDE)
        check_whole(self, "batch_size", 1)
        check_whole(self, "seed", 0)


@dataclass(frozen=True)
class EpisodeScores:
    """What users got in ``n`` conversations.

    Attributes:
        episodes: ``(n,)`` numbers of the conversations; equal numbers meet equal luck under any agent.
        prompts: The initial prompts.
        user_types: ``(n,)``.
        returns: ``(n,)`` sum of rewards.
        chosen_utilities: ``(n, H)`` utility in [0, 1] of the column chosen at each turn.
        unseen: ``(n,)`` whether the last chosen prompt shows a combination that nothing was trained on; None in a
            world that holds none out.
    """

    episodes: IntArray
    prompts: list[str]
    user_types: IntArray
    returns: FloatArray
    chosen_utilities: FloatArray
    unseen: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.episodes)


def evaluate(
    agent: Agent,
    envs: Any,
    config: EvaluationConfig,
    *,
    agent_seed: int,
    first_episode: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> EpisodeScores:
    """Play ``config.n_episodes`` conversations from ``first_episode`` on.

    Args:
        agent: Acts on observations alone. One with ``reads_text = True`` is shown the prompts' words as well
            (``agents.token_texts``). A privileged one also reads ``user_type``, ``prompt_ids`` and
            ``initial_prompt_id``.
        envs: Vector environment made with ``reveal=True``.
        config: How many and which.
        agent_seed: Fixes what a random agent draws.
        first_episode: Number of the first conversation.
        progress: Called after each batch with the conversations done and in all.

    Returns:
        One row a conversation. Episode ``e`` has the same user, prompt and luck for every agent and batch size.
    """
    begin = first_environment_seed(config.seed, stream=1) + first_episode
    parts: list[EpisodeScores] = []
    for first in range(0, config.n_episodes, envs.num_envs):
        n_wanted = min(envs.num_envs, config.n_episodes - first)
        parts.append(_play(agent, envs, begin + first, first_episode + first, n_wanted, agent_seed))
        if progress is not None:
            progress(first + n_wanted, config.n_episodes)
    return concatenate(parts)


def concatenate(parts: list[EpisodeScores]) -> EpisodeScores:
    """Join batches of conversations in their order."""
    known = [p.unseen for p in parts if p.unseen is not None]
    flags = known if len(known) == len(parts) else None
    return EpisodeScores(
        episodes=np.concatenate([p.episodes for p in parts]),
        prompts=[prompt for p in parts for prompt in p.prompts],
        user_types=np.concatenate([p.user_types for p in parts]),
        returns=np.concatenate([p.returns for p in parts]),
        chosen_utilities=np.concatenate([p.chosen_utilities for p in parts]),
        unseen=None if flags is None else np.concatenate(flags),
    )


def _play(agent: Agent, envs: Any, env_seed: int, first: int, n_wanted: int, agent_seed: int) -> EpisodeScores:
    seeds = env_seed + np.arange(envs.num_envs)
    observations, info = envs.reset(seed=int(env_seed))
    prompts = envs.texts(np.asarray(info["initial_prompt_id"])[:n_wanted])
    user_types = np.asarray(info["user_type"])[:n_wanted].astype(np.int64)
    returns, utilities = np.zeros(envs.num_envs), []
    record = text_record(envs, observations, info) if getattr(agent, "reads_text", False) else None
    for turn in turns_of(observations):
        shown = dict(observations)
        if getattr(agent, "privileged", False):
            shown |= {
                "user_type": np.asarray(info["user_type"]),
                "prompt_ids": np.asarray(info["candidate_ids"]),
                "initial_prompt_id": np.asarray(info["initial_prompt_id"]),
            }
        if record is not None:
            shown |= record.texts()
        slates = slates_of(agent, shown, decision_keys(agent_seed, seeds, turn))
        observations, rewards, _, _, info = envs.step(slates)
        returns += rewards
        if record is not None:
            record.add(info, turn)
        choice = np.asarray(observations["choices"])[:, turn]
        utilities.append(np.take_along_axis(np.asarray(info["utilities"]), choice[:, None], axis=1)[:, 0])
    held_out = envs.world.held_out
    return EpisodeScores(
        episodes=first + np.arange(n_wanted),
        prompts=list(prompts),
        user_types=user_types,
        returns=returns[:n_wanted],
        chosen_utilities=np.stack(utilities, axis=1)[:n_wanted].astype(np.float64),
        unseen=None if held_out is None else held_out(np.asarray(info["chosen_prompt_id"])[:n_wanted]),
    )


def slates_of(agent: Agent, observations: dict[str, Any], keys: UInt64Array) -> IntArray:
    """Ask an agent for its slates.

    Args:
        agent: Whom to ask.
        observations: What it is shown, B conversations.
        keys: ``(B,)`` for its random draws.

    Returns:
        ``(B, L)`` candidates.

    Raises:
        ValueError: If they are no such slates; the message names the agent.
    """
    n_candidates = observations["categories"].shape[1]
    slate_size = observations["slate_prompts"].shape[2]
    answer = agent.act(observations, keys)
    try:
        return checked_actions(answer, (len(keys), slate_size), n_candidates)
    except ValueError as error:
        raise ValueError(f"act of the agent {agent.name!r} ({type(agent).__name__}): {error}") from error


def text_record(envs: Any, observations: dict[str, Any], info: dict[str, Any]) -> TextRecord:
    """Begin to write down what the conversations of ``envs`` show, after a reset."""
    _, horizon, slate_size, _ = observations["slate_prompts"].shape
    return TextRecord(envs.texts, info, horizon=horizon, slate_size=slate_size)


def turns_of(observations: dict[str, Any]) -> Iterator[int]:
    """Count the turns of a conversation from the shape of its history."""
    yield from range(observations["choices"].shape[1])


def decision_keys(agent_seed: int, environment_seeds: IntArray, turn: int) -> UInt64Array:
    """Keys ``(B,)`` for agents that draw at random: a function of their seed, the conversation and the turn."""
    return seeding.mix(agent_seed, environment_seeds.astype(np.uint64), turn, _DECISION)
