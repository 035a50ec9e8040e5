"""The claims that a table is meant to carry, and whether its rows are comparable at all: the report's checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import alike, runs, stats
from benchmarks.comparisons import BLIND, CLAIRVOYANT, RANDOM, REFERENCES

if TYPE_CHECKING:
    from benchmarks.cells import Cell
    from benchmarks.report import Report

MIN_HEADROOM = 0.20
_SEED = 20_260_101  # of the resamples


@dataclass(frozen=True)
class Check:
    """One claim and whether the runs bear it out; ``passed`` is None where runs for it are missing."""

    claim: str
    passed: bool | None
    found: str


def headline_checks(report: Report) -> list[Check]:
    """Test the claims that the table is meant to carry (see ``docs/benchmarks.md``)."""
    checks: list[Check] = []
    for (reward, images), cell in report.cells.items():
        if images != report.home or RANDOM not in cell.returns:
            continue
        learned = [a for a in report.agents if a in cell.returns and a not in REFERENCES and a not in report.privileged]
        checks += [_above_random(cell, agent, reward) for agent in learned]
        if CLAIRVOYANT in cell.returns:
            checks.append(_not_saturated(cell, reward))
            checks.append(_headroom(cell, reward))
            checks += _outside(cell, learned, reward)
        others = [(name, other) for (own, name), other in report.cells.items() if own == reward and name != images]
        checks += [_same_order(cell, other, reward, images, name) for name, other in others]
    return checks


def _above_random(cell: Cell, agent: str, reward: str) -> Check:
    ours, floor = cell.mean[agent], cell.mean[RANDOM]
    of_seed = cell.returns[agent].mean(axis=1)
    every = bool((of_seed > cell.returns[RANDOM].mean()).all())
    apart = ours.low > floor.high
    seeds = "in every seed" if len(of_seed) > 1 else "in its one seed"
    return Check(
        f"{agent} above random, {reward}: intervals apart and {seeds}",
        apart and every,
        f"{ours.text()} against {floor.text()}; seeds {', '.join(f'{s:.2f}' for s in of_seed)}",
    )


def _not_saturated(cell: Cell, reward: str) -> Check:
    gap = cell.mean[CLAIRVOYANT].estimate - cell.mean[RANDOM].estimate
    spread = float(cell.returns[RANDOM].std(axis=1, ddof=1).mean()) if cell.episodes > 1 else float("nan")
    return Check(
        f"clairvoyant minus random is at least one standard deviation of random's return, {reward}",
        bool(gap >= spread),
        f"{gap:.2f} against {spread:.2f}",
    )


def _headroom(cell: Cell, reward: str) -> Check:
    claim = f"personalisation is worth at least {MIN_HEADROOM:.0%} of the gap from random to clairvoyant, {reward}"
    if BLIND not in cell.mean:
        return Check(
            claim, None, f"there is no run of {BLIND}, the best slate that ignores the user; run agent={BLIND}"
        )
    if BLIND not in cell.normalised:
        return Check(claim, False, f"{CLAIRVOYANT} is not above {RANDOM} in every resample: no gap to be a share of")
    blind = cell.normalised[BLIND]
    left = stats.Interval(1 - blind.estimate, 1 - blind.high, 1 - blind.low)
    found = f"{left.text(0, percent=True)} of the gap above the best slate that ignores the user"
    return Check(claim, left.estimate >= MIN_HEADROOM, found)


def _outside(cell: Cell, learned: Sequence[str], reward: str) -> list[Check]:
    """A failed check for each learner below random or beyond the clairvoyant: possible, so it is said, not hidden.

    The clairvoyant is myopic, so an agent that plans ahead can pass it; one below random is broken or misled.
    """
    checks = []
    for agent in learned:
        score = cell.normalised.get(agent)
        if score is None or 0 <= score.estimate <= 1:
            continue
        end, beyond = (0, f"below {RANDOM}") if score.estimate < 0 else (1, f"beyond the myopic {CLAIRVOYANT}")
        noise = ", within noise" if score.low <= end <= score.high else ""
        found = f"normalised {score.text()}, {beyond}{noise}"
        checks.append(Check(f"{agent} lies between {RANDOM} and {CLAIRVOYANT}, {reward}", False, found))
    return checks


def _same_order(at_home: Cell, painted: Cell, reward: str, home: str, images: str) -> Check:
    """No pair of agents may be apart one way where they learned and apart the other way under another image model."""
    shared = sorted(set(at_home.returns) & set(painted.returns))
    rng = np.random.default_rng(_SEED)
    agreeing, reversed_pairs, n_pairs = 0, [], 0
    for i, first in enumerate(shared):
        for second in shared[i + 1 :]:
            here = stats.difference_interval(at_home.returns, first, second, rng, 1000)
            there = stats.difference_interval(painted.returns, first, second, rng, 1000)
            n_pairs += 1
            agreeing += here.estimate * there.estimate > 0
            if (here.low > 0 and there.high < 0) or (here.high < 0 and there.low > 0):
                reversed_pairs.append(f"{first} and {second}")
    found = f"{agreeing} of {n_pairs} pairs in the same order over {painted.episodes} episodes on {images}"
    if reversed_pairs:
        found += f"; reversed beyond noise: {', '.join(reversed_pairs)}"
    claim = f"no two agents change places beyond noise when moved from {home} to {images}, {reward}"
    return Check(claim, not reversed_pairs if n_pairs else None, found)


def of_other_weights(finished: Sequence[runs.Run]) -> list[Check]:
    """A failed check if rows were scored with different weights of the world, which makes them no rows of one table."""
    sets = {run.metadata.get("models") for run in finished}
    found = f"{len(sets)} sets of weights; the same command again replaces what is stale"
    return [Check("all rows were scored with the same weights of the world", False, found)] if len(sets) > 1 else []


def of_other_settings(finished: Sequence[runs.Run]) -> list[Check]:
    """A failed check if training seeds of one row were made with different settings, as those of two agents are."""
    rows = alike.unlike_rows(finished)
    found = "; ".join(rows) + "; set agent.name to tell them apart, or delete the old ones"
    return [Check("all training seeds of a row were made with the same settings", False, found)] if rows else []
