"""The cells of a table: what every agent scored under one reward and one image model, in shared conversations."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import aggregates, alike, runs, stats
from benchmarks.comparisons import CLAIRVOYANT, RANDOM
from benchmarks.stats import Interval, Scores
from pasta_gym.types import IntArray

BOOTSTRAP_SEED = 20_260_101
NAMED = 3
"""Runs that shorten a table, of which no more are named."""


@dataclass(frozen=True)
class Cell:
    """One reward and one painter of pictures: the scores of every agent on the same conversations.

    Attributes:
        returns: ``(seeds, episodes)`` episode returns of each agent.
        utilities: ``(H,)`` mean utility of the chosen column at each turn.
        episodes: How many conversations all agents share.
        numbers: ``(episodes,)`` their numbers, ascending.
        seeds: Training seed of each row of ``returns``, of each agent.
        mean: Mean return with its interval.
        normalised: On the scale from random to the clairvoyant; empty if either is missing, or the second is not above
            the first in every resample.
        final: ``(seeds, episodes)`` utility of the column chosen last, of each agent.
        unseen: ``(seeds, episodes)`` whether that column shows a combination that nothing was trained on; without the
            agents of which it is not known.
        shortened: Why there are fewer conversations than some run has: runs that lack some, in words.
    """

    returns: dict[str, Scores]
    utilities: dict[str, Scores]
    episodes: int
    numbers: IntArray
    seeds: dict[str, list[int]]
    mean: dict[str, Interval]
    normalised: dict[str, Interval]
    final: dict[str, Scores]
    unseen: dict[str, NDArray[np.bool_]]
    shortened: str = ""


def cells_of(finished: list[runs.Run], n_replicates: int) -> dict[tuple[str, str], Cell]:
    """Sort the runs of one experiment, dataset and world into cells.

    Args:
        finished: The runs, of any rewards and image models.
        n_replicates: Bootstrap replicates of each interval.

    Returns:
        A cell for each reward and image model.

    Raises:
        ValueError: If conversations of one number are not the same, or agents of one cell share none.
    """
    grouped: dict[tuple[str, str], dict[str, list[runs.Run]]] = {}
    for run in finished:
        grouped.setdefault((run.key.reward, run.key.images), {}).setdefault(run.key.agent, []).append(run)
    for reward in {run.key.reward for run in finished}:
        # Agents are paired within a cell, image models within a reward.
        alike.check_conversations(run for run in finished if run.key.reward == reward)
    return {key: _cell(own, n_replicates) for key, own in sorted(grouped.items(), reverse=True)}


def _cell(by_agent: dict[str, list[runs.Run]], n_replicates: int) -> Cell:
    shared = set.intersection(*(set(run.scores.episodes.tolist()) for own in by_agent.values() for run in own))
    if not shared:
        raise ValueError(f"the agents {sorted(by_agent)} share no episode; evaluate them with the same evaluation.seed")
    returns, utilities, final, unseen = {}, {}, {}, {}
    for agent, own in by_agent.items():
        rows = [np.flatnonzero(np.isin(run.scores.episodes, sorted(shared))) for run in own]
        ordered = [r[np.argsort(run.scores.episodes[r])] for r, run in zip(rows, own, strict=True)]
        returns[agent] = np.stack([run.scores.returns[r] for run, r in zip(own, ordered, strict=True)])
        utilities[agent] = np.mean(
            [run.scores.chosen_utilities[r].mean(axis=0) for run, r in zip(own, ordered, strict=True)], axis=0
        )
        final[agent] = np.stack([run.scores.chosen_utilities[r, -1] for run, r in zip(own, ordered, strict=True)])
        flags = [run.scores.unseen[r] for run, r in zip(own, ordered, strict=True) if run.scores.unseen is not None]
        if len(flags) == len(own):
            unseen[agent] = np.stack(flags)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    mean = stats.mean_intervals(returns, rng, n_replicates)
    normalised = {}
    if RANDOM in mean and CLAIRVOYANT in mean:
        with contextlib.suppress(stats.NoScaleError):
            normalised = stats.normalised_intervals(returns, rng, n_replicates=n_replicates)
    seeds = {agent: [run.key.seed for run in own] for agent, own in by_agent.items()}
    numbers, why = np.array(sorted(shared)), _shortened([run for own in by_agent.values() for run in own], shared)
    return Cell(returns, utilities, len(shared), numbers, seeds, mean, normalised, final, unseen, why)


def _shortened(finished: Sequence[runs.Run], shared: set[int]) -> str:
    """Name the runs that lack conversations which others have, shortest first; nothing where all have the same."""
    every = set().union(*(run.scores.episodes.tolist() for run in finished))
    lacking = sorted((run for run in finished if len(run.scores) < len(every)), key=lambda run: len(run.scores))
    if not lacking or len(shared) == len(every):
        return ""
    named = [f"{run.key.agent} seed {run.key.seed} has {len(run.scores)} ({run.folder})" for run in lacking[:NAMED]]
    more = f", and {len(lacking) - NAMED} more runs lack some" if len(lacking) > NAMED else ""
    return f"{len(shared)} of {len(every)} conversations count, because {', '.join(named)}{more}; evaluate those again"


def improvement_over_random(cell: Cell, n_replicates: int) -> dict[str, dict[str, float]]:
    """Estimate how likely the same user does better than with random, with its interval, for each agent.

    Returns:
        The values of an ``Interval`` by agent; empty without a random agent.
    """
    if RANDOM not in cell.returns:
        return {}
    strata = [aggregates.Stratum("the cell", cell.returns, "its conversations")]
    drawn = aggregates.resample(strata, np.random.default_rng(BOOTSTRAP_SEED), n_replicates)
    found = {
        agent: [
            aggregates.improvement_in_conversations(strata, draws, agent, RANDOM)
            for draws in (aggregates.as_played(strata), drawn)
        ]
        for agent in cell.returns
    }
    return {agent: asdict(stats.interval(float(played[0]), many)) for agent, (played, many) in found.items()}
