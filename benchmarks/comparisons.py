"""What the report says beyond its table: aggregates, learners against references, profiles, and power.

An experiment has them if random and the clairvoyant span a scale in a stratum and a learner has two training seeds or
more in one. Its strata are worlds and reward modes under the image model that the agents learned with. What is missing
in one stratum leaves the others standing: aggregates are of the agents that are in every stratum with a scale,
differences of each stratum that has both agents, and notes name what was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import aggregates, paired, power, profiles, stats
from benchmarks.aggregates import Draw, Stratum
from benchmarks.stats import Interval, Scores

if TYPE_CHECKING:
    from benchmarks.report import Report

HOME = "surrogate"
RANDOM, BLIND, CLAIRVOYANT = "random", "blind_slate_aware", "clairvoyant"
REFERENCES = (
    RANDOM,
    "untrained_generator",
    "blind_marginal",
    BLIND,
    "belief_marginal",
    "belief_slate_aware",
    "belief_voi",
    "posterior_sampling",
    "clairvoyant_lookahead",
    CLAIRVOYANT,
)
"""Agents that learn nothing, in the order of their rows."""
_SEED = 20_260_103  # of resamples and sign flips
_PROFILE_REPLICATES = 500  # of conversations
_RUN_SCORES, _CONVERSATION_SCORES = 241, 61  # points of the two profiles; that of runs has steps


@dataclass(frozen=True)
class Difference:
    """A learner minus a reference in one stratum, in the stratum's returns, over paired conversations.

    Attributes:
        learner: Name of an agent that is no reference.
        reference: Random, or the best slate that ignores the user.
        stratum: World and reward mode.
        gap: Mean with the paired bootstrap's interval, over seeds and conversations.
        p_bootstrap: Of the same resamples.
        p_conversations: Sign flips of conversations: these trained agents.
        p_seeds: t-test over new seeds and conversations; None of one seed.
        p_seed_flips: Sign flips of the seeds' means, exact for few seeds.
        agreeing: Seeds whose own difference has the sign of the mean.
        seeds: Of the learner.
        episodes: Conversations.
        spread: Variances that power is reckoned from.
    """

    learner: str
    reference: str
    stratum: str
    gap: Interval
    p_bootstrap: float
    p_conversations: float
    p_seeds: float | None
    p_seed_flips: float
    agreeing: int
    seeds: int
    episodes: int
    spread: power.Spread

    @property
    def smallest(self) -> float:
        """Difference that these trained agents would show at 80% power."""
        return power.smallest_difference(self.spread, self.seeds, self.episodes)

    def needs(self) -> tuple[int | None, int | None]:
        """Episodes a seed for these trained agents, and seeds of as many episodes as now for the way of training.

        Either is None if no number is enough; both are if the difference is zero, the second is of one seed.
        """
        size = self.gap.estimate
        if size == 0:
            return None, None
        episodes = power.episodes_needed(size, self.spread, self.seeds)
        return episodes, power.seeds_needed(size, self.spread, self.episodes) if self.seeds > 1 else None


@dataclass
class Comparison:
    """What an experiment's runs say of its agents, over all strata.

    Attributes:
        title: Experiment, data and worlds.
        notes: What was left out and why, and whose seeds differ between strata; for the person who reads.
        labels: How each agent is written, in the order of rows; of all agents, also those left out of the aggregates.
        strata: Names of the worlds and reward modes that have a scale. All but the differences is over these.
        runs: Number of runs of each agent that is in all of them, in the order of rows.
        aggregates: Interquartile mean and optimality gap, by statistic and agent.
        improvement: By learner and reference: probability over runs and over conversations.
        differences: Paired, one a learner, reference and stratum that has both, with a scale or without.
        run_profiles: Over ``run_scores``.
        conversation_profiles: Over ``conversation_scores``.
    """

    title: str
    notes: list[str]
    labels: dict[str, str]
    strata: list[str]
    runs: dict[str, int]
    aggregates: dict[str, dict[str, Interval]]
    improvement: dict[tuple[str, str], tuple[Interval, Interval]]
    differences: list[Difference]
    run_profiles: dict[str, profiles.Profile]
    conversation_profiles: dict[str, profiles.Profile]
    run_scores: Scores = field(repr=False)
    conversation_scores: Scores = field(repr=False)


def compare(reports: Sequence[Report], *, n_replicates: int = 2000) -> list[Comparison]:
    """Compare the agents of each experiment, over its worlds and reward modes.

    Args:
        reports: Of one folder; those of one experiment, dataset and split are taken together.
        n_replicates: Bootstrap replicates of each interval.

    Returns:
        One entry an experiment that has what it takes.
    """
    groups: dict[tuple[str, str, str], list[Report]] = {}
    for report in reports:
        experiment, data, _, split = report.name
        groups.setdefault((experiment, data, split), []).append(report)
    made = []
    for (experiment, data, split), own in groups.items():
        worlds = ", ".join(report.name[2] for report in own)
        title = f"{experiment}: {data} data, {worlds} world{'s' * (len(own) > 1)}, {split} prompts"
        comparison = _compare(title, own, n_replicates)
        made += [comparison] if comparison is not None else []
    return made


def strata_of(reports: Sequence[Report]) -> list[Stratum]:
    """Make a stratum of each world and reward mode under the image model that the agents learned with."""
    return [
        Stratum(
            name=reward if len(reports) == 1 else f"{report.name[2]} {reward}",
            scores=cell.returns,
            conversations=(report.name[2], tuple(cell.numbers.tolist())),
        )
        for report in reports
        for (reward, images), cell in report.cells.items()
        if images == report.home
    ]


def _compare(title: str, reports: Sequence[Report], n_replicates: int) -> Comparison | None:
    strata = strata_of(reports)
    if not strata:
        return None
    rng = np.random.default_rng(_SEED)
    every_draw = aggregates.resample(strata, rng, n_replicates)
    known = {agent: report.label(agent) for report in reports for agent in report.agents}
    known = {agent: known[agent] for agent in known if any(agent in stratum.scores for stratum in strata)}
    learners = [agent for agent in known if agent not in REFERENCES]
    labels = {agent: known[agent] for agent in (*REFERENCES[:-1], *learners, CLAIRVOYANT) if agent in known}
    several = any(len(stratum.scores.get(agent, ())) > 1 for stratum in strata for agent in learners)
    scaled = [(s, d) for s, d in zip(strata, every_draw, strict=True) if aggregates.has_scale(s, d)]
    if not several or not scaled:
        return None
    kept, draws = [stratum for stratum, _ in scaled], [draw for _, draw in scaled]
    shared = [agent for agent in labels if all(agent in stratum.scores for stratum in kept)]
    now = aggregates.normalised_runs(kept, aggregates.as_played(kept))
    drawn = aggregates.normalised_runs(kept, draws)
    now, drawn = ({agent: runs[agent] for agent in shared} for runs in (now, drawn))
    pairs = [(learner, other) for learner in learners for other in (RANDOM, BLIND)]
    run_scores = profiles.score_axis([aggregates.pooled(runs) for runs in now.values()], _RUN_SCORES)
    conversation_scores = profiles.score_axis([_conversations(stratum) for stratum in kept], _CONVERSATION_SCORES)
    few = [draw.first(_PROFILE_REPLICATES) for draw in draws]
    of_conversations = profiles.conversation_profiles(kept, few, conversation_scores)
    return Comparison(
        title=title,
        notes=_notes(strata, kept, list(labels), shared),
        labels=labels,
        strata=[stratum.name for stratum in kept],
        runs={agent: aggregates.pooled(runs).shape[1] for agent, runs in now.items()},
        aggregates={
            name: aggregates.aggregate_intervals(now, drawn, statistic)
            for name, statistic in aggregates.AGGREGATES.items()
        },
        improvement={pair: _improvement(kept, draws, now, drawn, *pair) for pair in pairs if {*pair} <= {*shared}},
        differences=_differences(strata, every_draw, pairs, rng),
        run_profiles=profiles.run_profiles(now, drawn, run_scores),
        conversation_profiles={agent: of_conversations[agent] for agent in shared},
        run_scores=run_scores,
        conversation_scores=conversation_scores,
    )


def _notes(
    strata: Sequence[Stratum], kept: Sequence[Stratum], agents: Sequence[str], shared: Sequence[str]
) -> list[str]:
    """Say which strata and agents the aggregates are without, and whose runs are not as many in every stratum."""
    left_out = []
    for stratum in strata:
        if all(stratum is not other for other in kept):
            missing = [end for end in (RANDOM, CLAIRVOYANT) if end not in stratum.scores]
            why = (
                f"no run of {' and '.join(missing)}"
                if missing
                else f"{CLAIRVOYANT} not above {RANDOM} in every resample"
            )
            left_out.append(f"{stratum.name} ({why})")
    for agent in agents:
        without = [stratum.name for stratum in kept if agent not in stratum.scores]
        if without:
            left_out.append(f"{agent} (no run in {', '.join(without)})")
    notes = [f"Left out of aggregates, improvement and profiles: {'; '.join(left_out)}."] if left_out else []
    counts = {agent: [len(stratum.scores[agent]) for stratum in kept] for agent in shared}
    uneven = [f"{agent} {', '.join(map(str, own))}" for agent, own in counts.items() if len(set(own)) > 1]
    if uneven:
        notes.append(
            "Strata with more seeds weigh more in aggregates and profiles, where every run counts once. Seeds differ, "
            f"in the order {', '.join(stratum.name for stratum in kept)}: {'; '.join(uneven)}."
        )
    return notes


def _conversations(stratum: Stratum) -> Scores:
    bottom, top = stratum.scores[RANDOM].mean(), stratum.scores[CLAIRVOYANT].mean()
    return np.concatenate([np.ravel((values - bottom) / (top - bottom)) for values in stratum.scores.values()])


def _improvement(
    strata: Sequence[Stratum],
    draws: Sequence[Draw],
    now: dict[str, list[Scores]],
    drawn: dict[str, list[Scores]],
    learner: str,
    reference: str,
) -> tuple[Interval, Interval]:
    of_runs, of_drawn = (aggregates.improvement_of_runs(runs[learner], runs[reference]) for runs in (now, drawn))
    played, resampled = (
        aggregates.improvement_in_conversations(strata, some, learner, reference)
        for some in (aggregates.as_played(strata), draws)
    )
    return stats.interval(float(of_runs[0]), of_drawn), stats.interval(float(played[0]), resampled)


def _differences(
    strata: Sequence[Stratum], draws: Sequence[Draw], pairs: Sequence[tuple[str, str]], rng: np.random.Generator
) -> list[Difference]:
    """Compare each pair in each stratum that has both; their tests are adjusted together, so they are made together."""
    places = [
        (stratum, draw, learner, reference)
        for learner, reference in pairs
        for stratum, draw in zip(strata, draws, strict=True)
        if {learner, reference} <= {*stratum.scores}
    ]
    tables = [
        paired.paired_differences(stratum.scores[learner], stratum.scores[reference])
        for stratum, _, learner, reference in places
    ]
    of_conversations = paired.sign_flip_tests([differences.mean(axis=0) for differences in tables], rng)
    of_seeds = paired.sign_flip_tests([differences.mean(axis=1) for differences in tables], rng)
    return [
        _difference(*place, differences, p_conversations, p_seed_flips)
        for place, differences, p_conversations, p_seed_flips in zip(
            places, tables, of_conversations, of_seeds, strict=True
        )
    ]


def _difference(
    stratum: Stratum,
    draw: Draw,
    learner: str,
    reference: str,
    differences: Scores,
    p_conversations: float,
    p_seed_flips: float,
) -> Difference:
    better, worse = stratum.scores[learner], stratum.scores[reference]
    replicates = paired.drawn_differences(better, worse, draw, (learner, reference))
    return Difference(
        learner=learner,
        reference=reference,
        stratum=stratum.name,
        gap=stats.interval(float(differences.mean()), replicates),
        p_bootstrap=paired.bootstrap_p_value(replicates),
        p_conversations=p_conversations,
        p_seeds=power.seed_test(differences) if len(better) > 1 else None,
        p_seed_flips=p_seed_flips,
        agreeing=int((np.sign(differences.mean(axis=1)) == np.sign(differences.mean())).sum()),
        seeds=len(better),
        episodes=stratum.n_episodes,
        spread=power.spread_of(differences),
    )
