"""Performance profiles: which share of runs, and of conversations, does better than a score, for every score."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.aggregates import Draw, Stratum, as_played, normalised_runs, pooled
from benchmarks.stats import Scores


@dataclass(frozen=True)
class Profile:
    """Shares above each score with pointwise 95% intervals.

    Attributes:
        share: ``(scores,)`` in [0, 1], falling.
        low: ``(scores,)``.
        high: ``(scores,)``.
    """

    share: Scores
    low: Scores
    high: Scores


def share_above(values: Scores, scores: Scores) -> Scores:
    """Share of values that are above each score.

    Args:
        values: ``(..., n)``.
        scores: ``(scores,)``.

    Returns:
        ``(..., scores)`` in [0, 1]; a value equal to a score is not above it.
    """
    share: Scores = (values[..., :, None] > scores).mean(axis=-2)
    return share


def profile_of(estimate: Scores, replicates: Scores, confidence: float = 0.95) -> Profile:
    """Add pointwise percentile intervals to a profile.

    Args:
        estimate: ``(scores,)``.
        replicates: ``(R, scores)``.
        confidence: Of the interval at each score by itself, not of the whole band.
    """
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Profile(estimate, low, high)


def run_profiles(
    now: Mapping[str, Sequence[Scores]], drawn: Mapping[str, Sequence[Scores]], scores: Scores
) -> dict[str, Profile]:
    """Profile the runs of each agent: a run is a training seed in a stratum, its value the mean of its conversations.

    Args:
        now: Normalised runs as played (see ``aggregates.normalised_runs``).
        drawn: The same of resamples.
        scores: ``(scores,)``, ascending.
    """
    return {
        agent: profile_of(share_above(pooled(runs), scores)[0], share_above(pooled(drawn[agent]), scores))
        for agent, runs in now.items()
    }


def conversation_profiles(
    strata: Sequence[Stratum],
    draws: Sequence[Draw],
    scores: Scores,
    *,
    zero: str = "random",
    one: str = "clairvoyant",
) -> dict[str, Profile]:
    """Profile the conversations of each agent that is in all strata.

    A conversation's value is its return on the scale where the mean return of ``zero`` is 0 and that of ``one`` is 1.
    The scale stays as played in every resample.

    Args:
        strata: Worlds and reward modes.
        draws: Resamples of them, in their order.
        scores: ``(scores,)``, ascending.
        zero: The agent that scores 0 on average.
        one: The agent that scores 1 on average.

    Raises:
        ValueError: If ``one`` is not above ``zero`` in a stratum.
    """
    agents = normalised_runs(strata, as_played(strata), zero=zero, one=one)
    return {
        agent: profile_of(
            _above(strata, as_played(strata), agent, scores, zero, one)[0],
            _above(strata, draws, agent, scores, zero, one),
        )
        for agent in agents
    }


def _above(strata: Sequence[Stratum], draws: Sequence[Draw], agent: str, scores: Scores, zero: str, one: str) -> Scores:
    """Share of an agent's conversations above each score in each draw, ``(R, scores)``; every run counts once."""
    runs = []
    for stratum, draw in zip(strata, draws, strict=True):
        bottom, top = stratum.scores[zero].mean(), stratum.scores[one].mean()
        above = (stratum.scores[agent] - bottom) / (top - bottom)
        indicator = (above[:, :, None] > scores).transpose(1, 0, 2)  # (episodes, seeds, scores)
        of_seed = draw.times @ indicator.reshape(stratum.n_episodes, -1).astype(np.float64) / stratum.n_episodes
        of_seed = of_seed.reshape(len(draw.times), -1, len(scores))
        runs.append(np.take_along_axis(of_seed, draw.rows[agent][:, :, None], axis=1))
    share: Scores = np.concatenate(runs, axis=1).mean(axis=1)
    return share


def score_axis(values: Sequence[Scores], n_scores: int) -> Scores:
    """Lay scores over the central 98% of all values, at least from 0 to 1, with a margin at both ends.

    Args:
        values: Arrays of any shape.
        n_scores: How many scores.

    Returns:
        ``(n_scores,)`` ascending.
    """
    joined = np.concatenate([np.ravel(part) for part in values])
    low, high = np.quantile(joined, [0.01, 0.99])
    low, high = min(0.0, float(low)), max(1.0, float(high))
    margin = 0.05 * (high - low)
    return np.linspace(low - margin, high + margin, n_scores)


def draw_profiles(
    of_runs: Mapping[str, Profile],
    of_conversations: Mapping[str, Profile],
    run_scores: Scores,
    conversation_scores: Scores,
    path: pathlib.Path,
) -> None:
    """Draw both profiles of each agent side by side with their bands."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, 20))
    for panel, what, profiles, scores in (
        (panels[0], "runs", of_runs, run_scores),
        (panels[1], "conversations", of_conversations, conversation_scores),
    ):
        for number, (agent, profile) in enumerate(profiles.items()):
            colour = colours[2 * number % 20 + (number // 10) % 2]
            line = "--" if number // 20 % 2 else "-"  # the colours are used up
            panel.plot(scores, profile.share, line, color=colour, label=agent)
            panel.fill_between(scores, profile.low, profile.high, color=colour, alpha=0.15, linewidth=0)
        panel.set_xlabel("normalised score (0 = random, 1 = clairvoyant)")
        panel.set_ylabel(f"share of {what} above")
        panel.set_title(f"{what}, pointwise 95% intervals", fontsize="medium")
    panels[1].legend(loc="upper right", fontsize="x-small")
    figure.savefig(path, dpi=140)
