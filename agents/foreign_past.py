"""A diagnostic: the same agent, but what it sees of the past is another person's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np

from agents import LearningAgent, Log, Observations
from agents.checkpoint import CARD_FILE
from agents.iql import IQLAgent
from agents.slateq import SlateQAgent
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import IntArray, UInt64Array

_KINDS: dict[str, type[IQLAgent] | type[SlateQAgent]] = {"iql": IQLAgent, "slateq": SlateQAgent}


def with_foreign_past(observations: Observations) -> dict[str, Any]:
    """Give every conversation of a batch the past of the one before it; the first gets that of the last.

    The past is every slate seen, with its images and the choice. What a conversation is *about* stays its own: the
    initial prompt, the prompt chosen last with its images, the candidates, and the turn.

    Args:
        observations: The environment's observations with a leading batch axis; all at the same turn, as in an
            evaluation.

    Returns:
        A copy in which the past is exchanged.

    Raises:
        ValueError: If there is but one conversation, whose own past it would be, or they are at different turns.
    """
    turns = np.asarray(observations["turn"])
    if len(turns) < 2:
        raise ValueError(
            f"conversations that exchange their pasts must be 2 or more side by side, got {len(turns)}; raise "
            "evaluation.batch_size and evaluation.n_episodes"
        )
    if len(np.unique(turns)) > 1:
        raise ValueError(
            f"conversations that exchange their pasts must be at one turn, got {turns.min()}..{turns.max()}"
        )
    changed = {name: np.asarray(values) for name, values in observations.items()}
    for name in ("slate_prompts", "slate_images", "choices"):
        changed[name] = np.roll(changed[name], 1, axis=0)
    if len(turns) and turns[0] > 0:
        rows, last = np.arange(len(turns)), int(turns[0]) - 1
        own, foreign = np.asarray(observations["choices"])[:, last], changed["choices"][:, last]
        for name in ("slate_prompts", "slate_images"):
            changed[name][rows, last, foreign] = np.asarray(observations[name])[rows, last, own]
    return changed


class ForeignPast:
    """Acts as ``inner`` would if the conversation so far had been held with somebody else.

    An agent that ignores the history scores the same with it and without. The slates depend on who else is in the
    batch: this measures an agent and is not one to use.
    """

    plays_alone = False  # no picture of one conversation can be sent

    def __init__(self, inner: LearningAgent, *, name: str | None = None) -> None:
        """Wrap an agent.

        Args:
            inner: The agent to measure; it is trained on the data as they are.
            name: Short name for tables and files; the inner agent's if none is given.
        """
        self.inner = inner
        self.name = name or inner.name
        self.privileged = inner.privileged

    def train(self, dataset: TrajectoryDataset, *, seed: int, log: Log) -> None:
        """Train the inner agent."""
        self.inner.train(dataset, seed=seed, log=log)

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose slates ``(B, L)``, ``B`` of 2 or more, with exchanged pasts; see :func:`with_foreign_past`."""
        return self.inner.act(with_foreign_past(observations), seeds)

    def save(self, folder: Path) -> None:
        """Write the inner agent into ``folder``."""
        self.inner.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an agent of this package and wrap it.

        Raises:
            ValueError: If the folder holds no agent of a known kind.
        """
        card = Path(folder) / CARD_FILE
        kind = json.loads(card.read_text()).get("kind") if card.is_file() else None
        if kind not in _KINDS:
            raise ValueError(f"{card} must be the card of one of {sorted(_KINDS)}, got {kind!r}; save the agent again")
        return cls(_KINDS[kind].load(folder))
