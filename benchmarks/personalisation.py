"""What knowing the person is worth: agents beside the same agents without, in the same conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks import paired, stats
from benchmarks.comparison_pages import p_text
from benchmarks.comparisons import CLAIRVOYANT, RANDOM
from benchmarks.stats import Interval, Scores

if TYPE_CHECKING:
    from benchmarks.cells import Cell
    from benchmarks.report import Report

_SEED = 20_260_104  # of resamples and sign flips


class Contrast(NamedTuple):
    """Two agents that differ in what they know of the person, and in nothing else.

    Attributes:
        knowing: Name of the one that knows more.
        ignorant: Name of the other.
        difference: What they differ in.
        same_networks: Whether the two are the same trained networks at the same training seed, and differ in what they
            are shown alone; then their seeds are drawn together.
    """

    knowing: str
    ignorant: str
    difference: str
    same_networks: bool = False


CONTRASTS = (
    Contrast("belief_marginal", "blind_marginal", "exact posterior against prior, each candidate by itself"),
    Contrast("belief_slate_aware", "blind_slate_aware", "exact posterior against prior, whole slates"),
    Contrast("iql", "iql_history", "fitted belief beside the history's encoder, or the encoder alone"),
    Contrast("iql_belief", "iql_blind", "fitted belief, or nothing"),
    Contrast("iql_history", "iql_blind", "history's encoder, or nothing"),
    Contrast("iql_history", "iql_history_foreign", "own past, or another conversation's", same_networks=True),
    Contrast("slateq", "slateq_single", "mixture of tastes, or of one component"),
    Contrast("slateq", "slateq_foreign", "own past, or another conversation's", same_networks=True),
    Contrast("slateq_softmax", "slateq_history", "fitted belief beside the history's encoder, or the encoder alone"),
    Contrast("slateq_belief", "slateq_blind", "fitted belief, or nothing"),
    Contrast("slateq_history", "slateq_blind", "history's encoder, or nothing"),
)
"""Pairs of one form. ``slateq`` against ``slateq_history`` is none: the second has another form of slate value too."""


class Worth(NamedTuple):
    """What a contrast comes to under one reward mode.

    Attributes:
        contrast: Which.
        reward: Which mode.
        gap: Mean return of the knowing agent minus that of the other, with a 95% interval from paired conversations
            and the seeds of both.
        p: Two-sided, by sign flips of conversations: of these trained agents.
        share: The gap on the scale from random to the clairvoyant, whose ends are resampled too; None without the two.
        seeds: Of the knowing and of the other agent.
    """

    contrast: Contrast
    reward: str
    gap: Interval
    p: float
    share: Interval | None
    seeds: tuple[int, int]


def worths(report: Report, *, n_replicates: int = 2000) -> list[Worth]:
    """Compute every contrast whose agents were both scored on the image model that they learned with.

    Args:
        report: Of one experiment and world.
        n_replicates: Bootstrap replicates of each interval.
    """
    rng = np.random.default_rng(_SEED)
    cells = {reward: cell for (reward, images), cell in report.cells.items() if images == report.home}
    places = [
        (contrast, reward, cell, _pair(contrast, cell))
        for contrast in CONTRASTS
        for reward, cell in cells.items()
        if {contrast.knowing, contrast.ignorant} <= cell.returns.keys()
    ]
    tests = [paired.paired_differences(knowing, ignorant).mean(axis=0) for *_, (knowing, ignorant, _) in places]
    ps = paired.sign_flip_tests(tests, rng)
    return [
        Worth(contrast, reward, gap, p, share, (len(pair.knowing), len(pair.ignorant)))
        for (contrast, reward, cell, pair), p in zip(places, ps, strict=True)
        for gap, share in [_intervals(cell, pair, rng, n_replicates)]
    ]


class _Pair(NamedTuple):
    """Returns ``(seeds, episodes)`` of both agents, and whether row by row they are the same networks."""

    knowing: Scores
    ignorant: Scores
    by_seed: bool


def _pair(contrast: Contrast, cell: Cell) -> _Pair:
    """Take both agents' returns; of the same networks the training seeds that both have, if there are any."""
    knowing, ignorant = cell.returns[contrast.knowing], cell.returns[contrast.ignorant]
    own, other = cell.seeds[contrast.knowing], cell.seeds[contrast.ignorant]
    common = [seed for seed in own if seed in other] if contrast.same_networks else []
    if not common:
        return _Pair(knowing, ignorant, by_seed=False)
    rows = ([seeds.index(seed) for seed in common] for seeds in (own, other))
    return _Pair(knowing[next(rows)], ignorant[next(rows)], by_seed=True)


def _intervals(
    cell: Cell, pair: _Pair, rng: np.random.Generator, n_replicates: int
) -> tuple[Interval, Interval | None]:
    """Compute the gap, and its share of the scale from the same resamples."""
    ends = {name: cell.returns[name] for name in (RANDOM, CLAIRVOYANT) if name in cell.returns}
    if pair.by_seed:
        drawn = stats.bootstrap_means({**ends, "gap": pair.knowing - pair.ignorant}, rng, n_replicates)
        gaps = drawn["gap"]
    else:
        drawn = stats.bootstrap_means({**ends, "knowing": pair.knowing, "ignorant": pair.ignorant}, rng, n_replicates)
        gaps = drawn["knowing"] - drawn["ignorant"]
    estimate = float(pair.knowing.mean() - pair.ignorant.mean())
    gap = stats.interval(estimate, gaps)
    if not cell.normalised:
        return gap, None
    try:
        widths = stats.scale_width(drawn[RANDOM], drawn[CLAIRVOYANT])
    except stats.NoScaleError:
        return gap, None  # the scale held in the table's resamples and does not in these
    width = float(ends[CLAIRVOYANT].mean() - ends[RANDOM].mean())
    return gap, stats.interval(estimate / width, gaps / widths)


def section(report: Report, *, n_replicates: int = 2000) -> list[str]:
    """Write the contrasts as lines of Markdown; none where no pair of agents was scored."""
    found = worths(report, n_replicates=n_replicates)
    if not found:
        return []
    adjusted = paired.holm([worth.p for worth in found])
    return [
        "### What knowing the person is worth",
        "",
        "Mean return with minus mean return without, in the same conversations [95% interval of the paired bootstrap "
        "over conversations and training seeds]. Agents that differ in the past that they are shown alone are the same "
        "networks, and their seeds are drawn in pairs. p: sign flips of conversations, so of these trained agents, "
        "two-sided and adjusted by Holm's method over this table. Share: on the scale from random to the clairvoyant.",
        "",
        "| with | without | what differs | reward | seeds | difference | p | share |",
        "|" + "---|" * 8,
        *(_row(report, worth, p) for worth, p in zip(found, adjusted.tolist(), strict=True)),
        "",
    ]


def _row(report: Report, worth: Worth, p: float) -> str:
    contrast = worth.contrast
    cells = [
        *(report.label(contrast.knowing), report.label(contrast.ignorant), contrast.difference, worth.reward),
        f"{worth.seeds[0]} and {worth.seeds[1]}",
        worth.gap.text(),
        p_text(p),
        "" if worth.share is None else worth.share.text(),
    ]
    return f"| {' | '.join(cells)} |"
