"""How comparisons of agents are written: Markdown for the report, a file of numbers, figures of profiles."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import paired, power, profiles
from benchmarks.comparisons import BLIND, RANDOM, Comparison, Difference, compare
from benchmarks.stats import Interval
from pasta_gym.files import write_json

if TYPE_CHECKING:
    from benchmarks.report import Report


@dataclass(frozen=True)
class Table:
    """A table of a page, with what its numbers mean."""

    heading: str
    meaning: str
    header: list[str]
    rows: list[list[str]]


def tables(comparison: Comparison) -> Iterator[Table]:
    """Lay a comparison out as tables of text."""
    over = f"{len(comparison.strata)} strata ({', '.join(comparison.strata)})"
    yield Table(
        "Aggregates",
        f"Normalised scores of runs, a run being one training seed in one of {over}. Interquartile mean: the middle "
        "half of the runs. Optimality gap: mean shortfall below 1, lower is better. [95% intervals] resample seeds and "
        "shared conversations within each stratum.",
        ["agent", "runs", "interquartile mean", "optimality gap"],
        [
            [comparison.labels[agent], str(n), *(of[agent].text() for of in comparison.aggregates.values())]
            for agent, n in comparison.runs.items()
        ],
    )
    yield Table(
        "Probability of improvement",
        "Over runs: that a run of the agent is above one of the reference in the same stratum. In a conversation: "
        "that the same user in the same conversation does better, ties counting half.",
        ["agent", "over", "runs", "conversations"],
        [
            [
                comparison.labels[learner],
                comparison.labels[reference],
                runs.text(),
                conversations.text(),
            ]
            for (learner, reference), (runs, conversations) in comparison.improvement.items()
        ],
    )
    yield Table(
        "Paired differences",
        "Mean return minus that of the reference in the same conversations [95% interval of the paired bootstrap over "
        "seeds and conversations]. p, these agents: sign flips of conversations. p, training: t-test over new seeds "
        "and conversations. Both two-sided and adjusted by Holm's method over the rows of this table. Smallest seen: "
        "the difference that these trained agents would show at 80% power with as many episodes.",
        [
            "agent",
            "over",
            "stratum",
            "difference",
            "p, these agents",
            "p, training",
            "seeds that agree",
            "smallest seen",
        ],
        _difference_rows(comparison),
    )


def _difference_rows(comparison: Comparison) -> list[list[str]]:
    found = comparison.differences
    these = paired.holm([made.p_conversations for made in found])
    trained = [number for number, made in enumerate(found) if made.p_seeds is not None]
    adjusted = paired.holm([found[number].p_seeds or 0.0 for number in trained])
    training = dict(zip(trained, adjusted, strict=True))
    return [
        [
            comparison.labels[made.learner],
            comparison.labels[made.reference],
            made.stratum,
            made.gap.text(),
            p_text(these[number]),
            p_text(training[number]) if number in training else "one seed",
            f"{made.agreeing} of {made.seeds}",
            f"{made.smallest:.2f}",
        ]
        for number, made in enumerate(found)
    ]


def power_lines(comparison: Comparison) -> list[str]:
    """Say for each learner what it takes to tell it from the best slate that ignores the user (else from random).

    Random stands in where a stratum has no other reference.
    """
    blind = {(made.learner, made.stratum) for made in comparison.differences if made.reference == BLIND}
    return [
        _power_line(made)
        for made in comparison.differences
        if made.reference == (BLIND if (made.learner, made.stratum) in blind else RANDOM)
    ]


def _power_line(made: Difference) -> str:
    episodes, seeds = made.needs()
    start = f"{made.stratum}: to tell {made.learner} from {made.reference} at {power.POWER:.0%} power "
    if made.gap.estimate == 0:
        return start + "cannot be planned from these runs, whose difference is zero"
    if episodes is None:
        line = start + f"needs more than {power.LARGEST:,} episodes a seed"
    else:
        line = start + f"needs about {_about(episodes):,} episodes a seed"
    line += f" if the difference is the {made.gap.estimate:+.2f} seen here ({made.seeds} trained as they are, "
    line += f"{made.episodes:,} episodes now)"
    if made.seeds == 1:
        return line + "; how many training seeds cannot be said of one"
    if seeds is None:
        return line + f"; for the way of training no number of seeds is enough with {made.episodes:,} episodes"
    return line + f"; for the way of training about {_about(seeds):,} seeds of {made.episodes:,} episodes"


def _about(count: int) -> int:
    """Round up to two digits that count."""
    step: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return -(-count // step) * step


def p_text(value: float) -> str:
    """Write a p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def section(comparison: Comparison) -> list[str]:
    """Write a comparison as lines of Markdown."""
    lines = [f"## Statistics of {comparison.title}", ""]
    lines += [line for note in comparison.notes for line in (note, "")]
    for table in tables(comparison):
        if not table.rows:
            continue
        lines += [
            f"### {table.heading}",
            "",
            table.meaning,
            "",
            f"| {' | '.join(table.header)} |",
            "|" + "---|" * len(table.header),
            *(f"| {' | '.join(row)} |" for row in table.rows),
            "",
        ]
    return [*lines, "### Power", "", *(f"- {line}" for line in power_lines(comparison)), ""]


def _summary(comparison: Comparison) -> dict[str, Any]:
    def triple(made: Interval) -> dict[str, float]:
        return {"estimate": made.estimate, "low": made.low, "high": made.high}

    return {
        "title": comparison.title,
        "notes": comparison.notes,
        "strata": comparison.strata,
        "runs": comparison.runs,
        **{name: {agent: triple(made) for agent, made in of.items()} for name, of in comparison.aggregates.items()},
        "probability_of_improvement": [
            {"learner": learner, "over": reference, "runs": triple(runs), "conversations": triple(conversations)}
            for (learner, reference), (runs, conversations) in comparison.improvement.items()
        ],
        "paired_differences": [
            {
                "learner": made.learner,
                "over": made.reference,
                "stratum": made.stratum,
                **triple(made.gap),
                "p_bootstrap": made.p_bootstrap,
                "p_conversations": made.p_conversations,
                "p_seeds": made.p_seeds,
                "p_seed_flips": made.p_seed_flips,
                "seeds_agreeing": made.agreeing,
                "seeds": made.seeds,
                "episodes": made.episodes,
                "variance_seed": made.spread.seed,
                "variance_conversation": made.spread.conversation,
                "variance_rest": made.spread.rest,
                "smallest_difference": made.smallest,
                **dict(zip(("episodes_needed", "seeds_needed"), made.needs(), strict=True)),
            }
            for made in comparison.differences
        ],
    }


def write(
    reports: Sequence[Report], folder: pathlib.Path, *, n_replicates: int = 2000
) -> tuple[str, list[Comparison], list[pathlib.Path]]:
    """Compare, and write ``statistics.json`` and one figure of profiles an experiment.

    Args:
        reports: Of one folder of runs.
        folder: Where files go; it exists.
        n_replicates: Bootstrap replicates of each interval.

    Returns:
        Markdown for the report, the comparisons, and the files written; all empty where there is nothing to compare.
    """
    comparisons = compare(reports, n_replicates=n_replicates)
    if not comparisons:
        return "", [], []
    written = [folder / "statistics.json"]
    write_json(written[0], {"experiments": [_summary(comparison) for comparison in comparisons]})
    for number, comparison in enumerate(comparisons):
        path = folder / ("profiles.png" if number == 0 else f"profiles_{number + 1}.png")
        profiles.draw_profiles(
            comparison.run_profiles,
            comparison.conversation_profiles,
            comparison.run_scores,
            comparison.conversation_scores,
            path,
        )
        written.append(path)
    text = "\n".join(line for comparison in comparisons for line in section(comparison))
    return f"\n{text}", comparisons, written
