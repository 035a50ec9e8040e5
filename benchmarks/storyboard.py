"""Plays conversations that begin alike with several user types and keeps all that was shown, for pictures of them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents import Agent
from agents.random_slate import RandomAgent
from agents.token_texts import TextRecord
from benchmarks.episode_picture import trained_agent, world_of
from benchmarks.evaluate import decision_keys, slates_of
from pasta_gym.envs import PastaConfig
from pasta_gym.envs.assembly import assemble
from pasta_gym.envs.core import Conversations
from pasta_gym.types import FloatArray, ImageArray, IntArray
from pasta_gym.worlds import World, WorldRecipe, make_world


@dataclass(frozen=True)
class Scene:
    """One turn.

    Attributes:
        candidates: The C prompts that the agent could choose among.
        categories: ``(C,)`` their categories.
        slate: ``(L,)`` the agent's choice, indices into the candidates.
        pixels: ``(L, M, h, w, 3)`` the pictures that were shown.
        utilities: ``(L,)`` what each column is worth to the user, in [0, 1].
        choice_probabilities: ``(L,)`` how likely each column was to be chosen.
        choice: The column that was chosen.
    """

    candidates: tuple[str, ...]
    categories: IntArray
    slate: IntArray
    pixels: ImageArray
    utilities: FloatArray
    choice_probabilities: FloatArray
    choice: int

    @property
    def prompts(self) -> tuple[str, ...]:
        """The L prompts that were shown."""
        return tuple(self.candidates[i] for i in self.slate)

    @property
    def chosen_prompt(self) -> str:
        """The prompt of the chosen column."""
        return self.prompts[self.choice]

    @property
    def chosen_utility(self) -> float:
        """What the chosen column is worth to the user, in [0, 1]."""
        return float(self.utilities[self.choice])


@dataclass(frozen=True)
class Story:
    """One conversation.

    Attributes:
        agent: Name of the agent.
        initial_prompt: What the user said first.
        initial_pixels: ``(M, h, w, 3)`` its pictures.
        user_type: The hidden type.
        share: Share of users of this type.
        category_titles: Names of the categories.
        scenes: The turns.
    """

    agent: str
    initial_prompt: str
    initial_pixels: ImageArray
    user_type: int
    share: float
    category_titles: tuple[str, ...]
    scenes: list[Scene] = field(default_factory=list)


def play(
    agent: Agent,
    *,
    prompt: str,
    user_types: Sequence[int],
    seed: int = 0,
    world: str | World | WorldRecipe = "mini",
    config: PastaConfig | None = None,
) -> list[Story]:
    """Play one conversation with each user type, all from the same prompt, seed and first pictures.

    Args:
        agent: Chooses the slates. A privileged one is told what ``benchmarks.evaluate`` tells it.
        prompt: What the users say first.
        user_types: One conversation each, in this order.
        seed: Fixes all luck; equal actions of two conversations meet equal luck.
        world: The world.
        config: The environment's plain arguments; images must be painted. ``reveal`` is turned on.

    Returns:
        One story a type.

    Raises:
        ValueError: If there is no type, a type does not exist, the prompt cannot be read or no pixels are painted.
    """
    given = PastaConfig(images="diffusion", split="test") if config is None else config
    parts = assemble(PastaConfig(**{**vars(given), "reveal": True}), world)
    n_types = parts.user_model.n_types
    wrong = [k for k in user_types if not 0 <= k < n_types]
    if wrong or not user_types:
        raise ValueError(f"user_types must be one or more of 0..{n_types - 1}, got {list(user_types)}")
    rows, seeds = np.arange(len(user_types)), np.full(len(user_types), seed, dtype=np.uint64)
    conversations = Conversations(parts, len(rows))
    conversations.begin(
        rows,
        seeds,
        np.zeros(len(rows), dtype=np.int64),
        prompts=np.full(len(rows), parts.world.prompt_book.parse(prompt), dtype=np.int64),
        user_types=np.asarray(user_types, dtype=np.int64),
    )
    if not conversations.initial_pixels:
        raise ValueError(f"images={given.images!r} paints no pixels; use images='diffusion'")
    stories = [
        Story(
            agent=agent.name,
            initial_prompt=prompt,
            initial_pixels=conversations.initial_pixels[row],
            user_type=int(user_types[row]),
            share=float(parts.user_model.prior[user_types[row]]),
            category_titles=tuple(parts.candidates.category_titles),
        )
        for row in rows
    ]
    info = conversations.info()
    texts = parts.world.prompt_book.texts
    record = TextRecord(texts, info, horizon=given.horizon, slate_size=given.slate_size)
    for turn in range(given.horizon):
        observations = conversations.observations() | _extras(agent, info, record)
        slates = slates_of(agent, observations, decision_keys(seed, seeds.astype(np.int64), turn))
        candidates = info["candidate_ids"]
        conversations.advance(rows, slates)
        info = conversations.info()
        record.add(info, turn)
        for row, story in enumerate(stories):
            story.scenes.append(_scene(conversations, row, turn, observations, candidates, slates, info, texts))
    return stories


def _extras(agent: Agent, info: dict[str, Any], record: TextRecord) -> dict[str, Any]:
    """What ``benchmarks.evaluate`` adds to the observation for agents that say that they need it."""
    extras: dict[str, Any] = record.texts() if getattr(agent, "reads_text", False) else {}
    if getattr(agent, "privileged", False):
        extras |= {
            "user_type": info["user_type"],
            "prompt_ids": info["candidate_ids"],
            "initial_prompt_id": info["initial_prompt_id"],
        }
    return extras


def _scene(
    conversations: Conversations,
    row: int,
    turn: int,
    observations: dict[str, Any],
    candidates: IntArray,
    slates: IntArray,
    info: dict[str, Any],
    texts: Callable[[IntArray], list[str]],
) -> Scene:
    return Scene(
        candidates=tuple(texts(candidates[row])),
        categories=observations["categories"][row],
        slate=slates[row],
        pixels=conversations.slate_pixels[row],
        utilities=info["utilities"][row],
        choice_probabilities=info["choice_probabilities"][row],
        choice=int(conversations.choices[row, turn]),
    )


def agent_of(run: pathlib.Path | None) -> tuple[Agent, str | WorldRecipe]:
    """Load the agent of a run directory and the world that it was scored in; the random one in ``mini`` without."""
    return (RandomAgent(), "mini") if run is None else (trained_agent(run), world_of(run))


def commonest_types(n: int, world: str | WorldRecipe = "mini") -> list[int]:
    """The ``n`` types with the largest share of a world's users."""
    prior = make_world(world).users().prior
    return [int(k) for k in np.argsort(-np.asarray(prior), kind="stable")[:n]]
