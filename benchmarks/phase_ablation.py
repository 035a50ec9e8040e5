"""What each phase of the user model's fit is worth: ``python -m benchmarks.phase_ablation --data DATA --out OUT``.

The paper's ablation leaves out the training on single-turn labels. Here three fits of the same labels are compared on
held-out raters: phase 1 alone, both phases, and phase 2 alone. A seed is a fit of each, and the first two share their
phase 1. Every fit stays in the output folder and is not made again, so a command that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.evaluate_user_model import matrices
from benchmarks.pages import fill_block, printed_by
from benchmarks.rater_scores import Raters, Scored, load_raters, score_predictor
from benchmarks.stats import Interval, difference_interval, mean_intervals
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.user_model import UserModel
from pasta_gym.user_model.checkpoint import phase_key
from pasta_gym.user_model.em import EMConfig
from pasta_gym.user_model.phases import PhasesConfig, fit_in_phases
from pasta_gym.user_model.predictors import ModelPredictor
from pasta_gym.user_model.sequential import SequentialConfig

FIRST, BOTH, SECOND = "phase 1, choice numbers on sessions", "phases 1 and 2", "phase 2 alone"
METRICS = {
    "pair_accuracy@20": "pair accuracy",
    "pair_log_likelihood@20": "pair log-likelihood",
    "choice_accuracy@20": "choice accuracy",
    "choice_log_likelihood@20": "choice log-likelihood",
    "cross_turn_accuracy@20": "cross-turn accuracy",
}
"""All after 20 pairs of a rater."""


@dataclass(frozen=True)
class AblationConfig:
    """How the fits are made.

    Attributes:
        em: Phase 1.
        sequential: Phase 2 after phase 1.
        alone_learning_rate: Learning rate of phase 2 alone, whose heads start from nothing.
    """

    em: EMConfig = field(default_factory=EMConfig)
    sequential: SequentialConfig = field(default_factory=SequentialConfig)
    alone_learning_rate: float = 2e-3

    def arms(self, seed: int) -> dict[str, PhasesConfig]:
        """Return the three fits of a seed, by name."""
        em = dataclasses.replace(self.em, seed=seed)
        sequential = dataclasses.replace(self.sequential, seed=seed)
        alone = dataclasses.replace(sequential, learning_rate=self.alone_learning_rate)
        return {
            FIRST: PhasesConfig(em=em, phase2=False),
            BOTH: PhasesConfig(em=em, sequential=sequential),
            SECOND: PhasesConfig(em=em, sequential=alone, phase1=False),
        }


def fit_arm(raters: Raters, name: str, config: PhasesConfig, folder: pathlib.Path) -> UserModel:
    """Make one fit, or read it back.

    Args:
        raters: The labels.
        name: Of the fit.
        config: Its phases.
        folder: Of the seed, where phase 1 is shared.

    Returns:
        The user model.
    """
    place = folder / name.replace(",", "").replace(" ", "-")
    key = phase_key(raters.data, dataclasses.asdict(config))
    if (place / "metadata.json").is_file():
        kept = UserModel.load(place)
        if kept.metadata.get("ablation_key") == key:
            return kept
    model = fit_in_phases(raters.data, config, folder, progress=True)
    model.metadata["ablation_key"] = key
    model.save(place)
    return model


def run(raters: Raters, seeds: list[int], out: pathlib.Path, config: AblationConfig) -> dict[str, list[Scored]]:
    """Make all fits and score them on the held-out raters: by name, one entry a seed."""
    scored: dict[str, list[Scored]] = {}
    for seed in seeds:
        for name, phases in config.arms(seed).items():
            model = fit_arm(raters, name, phases, out / f"seed-{seed}")
            scored.setdefault(name, []).append(score_predictor(ModelPredictor(model, raters.data), raters))
            print(f"seed {seed}, {name}: done", flush=True)  # noqa: T201
    return scored


def as_table(scored: dict[str, list[Scored]]) -> str:
    """Lay figures out as Markdown: means with 95% intervals, then differences from phase 1 alone, raters paired."""
    means: dict[str, dict[str, Interval]] = {}
    changes: dict[str, dict[str, Interval]] = {}
    for metric in METRICS:
        found = matrices(scored, metric)
        means[metric] = mean_intervals(found, np.random.default_rng(0))
        changes[metric] = {
            name: difference_interval(found, name, FIRST, np.random.default_rng(0)) for name in (BOTH, SECOND)
        }
    lines = ["| fit | " + " | ".join(METRICS.values()) + " |", "|---|" + "---|" * len(METRICS)]
    lines += [f"| {name} | " + " | ".join(means[m][name].text(3) for m in METRICS) + " |" for name in scored]
    lines += [
        f"| {name}, minus phase 1 | " + " | ".join(changes[m][name].text(4) for m in METRICS) + " |"
        for name in (BOTH, SECOND)
    ]
    return "\n".join(lines)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phase_ablation", description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a world's labels")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the fits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=EMConfig.steps, help="gradient steps of phase 1")
    parser.add_argument("--session-steps", type=int, default=SequentialConfig.steps, help="gradient steps of phase 2")
    parser.add_argument("--page", type=pathlib.Path, help="put the table into a page's block phases")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = AblationConfig(
        EMConfig.of_steps(options.steps),
        SequentialConfig(steps=options.session_steps),
    )
    raters = load_raters(options.data)
    text = as_table(run(raters, options.seeds, options.out, config))
    text += f"\n\n{len(options.seeds)} fits of each, {len(raters.tasks.raters)} held-out raters."
    print(text)  # noqa: T201
    if options.page:
        fill_block(options.page, "phases", f"{printed_by('phase_ablation', arguments)}\n\n{text}")


if __name__ == "__main__":
    main()
