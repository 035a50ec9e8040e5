"""What tuning came to: the budget, and of each learner its defaults beside its best trial.

python -m benchmarks.tuning_table benchmarks/results/tuning/sparse/simulated --page docs/tuning.md

It reads what ``benchmarks.tuning_results`` keeps in the repository, or a folder that ``benchmarks.tune`` writes to.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import statistics
import sys

from benchmarks.pages import fill_block, printed_by
from benchmarks.settings import CONFIG_FOLDER
from benchmarks.stats import Interval
from benchmarks.tuning_results import Study, Trial, read_studies
from pasta_gym.command_line import errors_in_one_line

BLOCK = "tuning"
_HEADER = ("learner", "trials", "defaults", "best trial", "luck", "what the best one changed", "minutes a trial")


def learners() -> list[str]:
    """Name the learners that have a search space."""
    return sorted(path.stem for path in (CONFIG_FOLDER / "tune").glob("*.yaml"))


def luck_of_the_best(n_trials: int, standard_error: float) -> float:
    """Reckon how far the best of equally good trials stands above their mean, by Blom's approximation.

    Args:
        n_trials: How many; errors are taken to be normal and independent.
        standard_error: Of each trial's mean return.
    """
    return statistics.NormalDist().inv_cdf((n_trials - 0.375) / (n_trials + 0.25)) * standard_error


def table(studies: list[Study]) -> str:
    """Write the budget, a row for each learner, what the columns mean and which learners are missing, as Markdown."""
    facts = studies[0].facts
    budget = facts["budget"]
    have = {study.agent for study in studies}
    missing = [name for name in learners() if name not in have]
    seeds = ", ".join(map(str, budget["training_seeds"]))
    lines = [
        f"Budget of every learner: {facts['trials']} trials, the first with its defaults, each trained with seed "
        f"{seeds} and measured on {budget['n_episodes']} conversations with {facts['split']} prompts (stream "
        f"{budget['evaluation_seed']}). Data: {facts['data']}; world: {facts['world']}; reward: {facts['reward']}.",
        "",
        f"| {' | '.join(_HEADER)} |",
        "|" + "---|" * len(_HEADER),
        *(f"| {' | '.join(_row(study))} |" for study in studies),
        "",
        "Mean validation return [95% interval over conversations], 10 x utility. Trials that failed count. Luck: by "
        "how much the best of as many equally good trials would stand above their mean, were their errors independent "
        "and as large as the conversations' alone.",
    ]
    if missing:
        lines += ["", f"No results of {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _row(study: Study) -> list[str]:
    finished, failed = study.finished, len(study.trials) - len(study.finished)
    error = statistics.fmean(trial.standard_error or 0.0 for trial in finished)
    return [
        study.agent,
        f"{len(study.trials)}, {failed} failed" if failed else str(len(study.trials)),
        _mean(study.defaults),
        f"{_mean(study.best)} (trial {study.best.number})",
        f"{luck_of_the_best(len(finished), error):.2f}",
        ", ".join(_changes(study)) or "nothing: the defaults were best",
        f"{statistics.fmean(trial.seconds for trial in study.trials) / 60:.1f}",
    ]


def _mean(trial: Trial) -> str:
    value, error = trial.value, trial.standard_error
    if value is None or error is None:
        raise ValueError(f"trial {trial.number} failed; the defaults and the best trial must have a return")
    half = statistics.NormalDist().inv_cdf(0.975) * error
    return Interval(value, value - half, value + half).text() if math.isfinite(half) else f"{value:.2f}"


def _changes(study: Study) -> list[str]:
    """Settings in which the best trial differs from the defaults, ``width 128 to 64``."""
    before, after = study.defaults.settings, study.best.settings
    return [
        f"`{key.removeprefix('agent.').removeprefix('config.')}` {_short(before[key])} to {_short(value)}"
        for key, value in after.items()
        if value != before[key]
    ]


def _short(value: str) -> str:
    """Write a number with three digits, anything else as it is."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Print the table, and put it into a page if one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning_table", description=__doc__)
    parser.add_argument("results", type=pathlib.Path, help="folder of one folder a learner, TUNING/REWARD/DATA")
    parser.add_argument("--page", type=pathlib.Path, help="also put the table into this page's block")
    given = parser.parse_args(arguments)
    text = table(read_studies(given.results))
    sys.stdout.write(text)
    if given.page:
        fill_block(given.page, BLOCK, f"{printed_by('tuning_table', arguments)}\n\n{text}")


if __name__ == "__main__":
    main()
