"""How often the report's intervals and tests hold the truth when there are few training seeds.

Run ``python -m benchmarks.interval_coverage``. It plants paired differences whose mean is known, asks the paired
bootstrap for a 95% interval and the t-test over seeds for a p-value, and prints how often each holds the planted mean.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from benchmarks.aggregates import Stratum, resample
from benchmarks.paired import drawn_differences
from benchmarks.power import LEVEL, Spread, seed_test
from pasta_gym.command_line import errors_in_one_line

SEEDS = (2, 3, 5, 10, 20)
N_EPISODES = 100
SPREADS = {
    "seeds are most of the noise": Spread(seed=0.2, conversation=1.0, rest=1.0),
    "half of it": Spread(seed=0.02, conversation=1.0, rest=1.0),
}


@dataclass(frozen=True)
class Coverage:
    """Share of trials, in [0, 1], in which the planted difference was held.

    Attributes:
        bootstrap: By the 95% interval of the paired bootstrap.
        t_test: By the t-test over seeds at 5%: it did not reject what was planted.
    """

    bootstrap: float
    t_test: float


def coverage(
    spread: Spread, n_seeds: int, rng: np.random.Generator, *, n_trials: int = 400, n_replicates: int = 500
) -> Coverage:
    """Plant differences, and count how often they are held.

    Args:
        spread: Variances of the differences.
        n_seeds: Training seeds of the learner, two or more.
        rng: Source of all draws.
        n_trials: Experiments planted.
        n_replicates: Bootstrap replicates of each.
    """
    by_bootstrap = by_t_test = 0
    reference = np.zeros((1, N_EPISODES))
    for _ in range(n_trials):
        differences = (
            rng.normal(0, np.sqrt(spread.seed), size=(n_seeds, 1))
            + rng.normal(0, np.sqrt(spread.conversation), size=(1, N_EPISODES))
            + rng.normal(0, np.sqrt(spread.rest), size=(n_seeds, N_EPISODES))
        )
        scores = {"learner": differences, "reference": reference}
        [draw] = resample([Stratum("planted", scores, "planted")], rng, n_replicates)
        replicates = drawn_differences(differences, reference, draw, ("learner", "reference"))
        low, high = np.quantile(replicates, [LEVEL / 2, 1 - LEVEL / 2])
        by_bootstrap += bool(low <= 0 <= high)
        by_t_test += seed_test(differences) > LEVEL
    return Coverage(by_bootstrap / n_trials, by_t_test / n_trials)


def table(*, n_trials: int = 400, n_replicates: int = 500) -> list[str]:
    """Write the coverage for each number of seeds as lines of Markdown."""
    header = ["seeds", *(f"{what}, {name}" for name in SPREADS for what in ("bootstrap", "t-test"))]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for n_seeds in SEEDS:
        found = [
            coverage(spread, n_seeds, np.random.default_rng(n_seeds), n_trials=n_trials, n_replicates=n_replicates)
            for spread in SPREADS.values()
        ]
        cells = [f"{share:.0%}" for made in found for share in (made.bootstrap, made.t_test)]
        lines.append(f"| {' | '.join([str(n_seeds), *cells])} |")
    return lines


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interval_coverage", description=__doc__)
    parser.add_argument("--trials", type=int, default=400, help="experiments planted for each number")
    parser.add_argument("--replicates", type=int, default=500, help="bootstrap replicates of each interval")
    given = parser.parse_args(arguments)
    sys.stdout.write("\n".join(table(n_trials=given.trials, n_replicates=given.replicates)) + "\n")


if __name__ == "__main__":
    main()
