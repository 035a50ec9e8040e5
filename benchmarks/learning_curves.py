"""Draws what agents logged while they learned: ``python -m benchmarks.learning_curves RUNS``.

One row an agent, one panel a metric, one thin line a training seed, and their mean with a 95% interval over seeds by
Student's t: the interval for the mean of all seeds that could have been drawn, and wide where there are few.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import runs
from benchmarks.pages import REPOSITORY
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import whole_file
from pasta_gym.types import FloatArray, IntArray

PREFIX = "training/"
SHOWN: dict[str, tuple[str, ...]] = {
    "iql": ("loss/q", "loss/v", "value/q", "value/q_spread"),
    "slateq": ("loss/td", "value/slate", "value/target", "value/item"),
}
"""Metrics of an agent that are drawn unless others are asked for; of another agent, its first four."""


@dataclass(frozen=True)
class Curve:
    """One metric of one agent over training.

    Attributes:
        steps: ``(T,)`` gradient steps, those that every seed logged.
        values: ``(S, T)`` one row a training seed.
    """

    steps: IntArray
    values: FloatArray

    @property
    def mean(self) -> FloatArray:
        """``(T,)`` mean over seeds."""
        mean: FloatArray = self.values.mean(axis=0)
        return mean

    def interval(self, confidence: float = 0.95) -> tuple[FloatArray, FloatArray] | None:
        """Bounds ``(T,)`` each of Student's interval for the mean over seeds; None for a single seed."""
        from scipy.stats import t

        n = len(self.values)
        if n < 2:
            return None
        half = t.ppf((1 + confidence) / 2, n - 1) * self.values.std(axis=0, ddof=1) / math.sqrt(n)
        return self.mean - half, self.mean + half


def logged(folder: pathlib.Path) -> dict[str, dict[int, float]]:
    """Read the training metrics of a run directory: by name, without the prefix, values by step.

    Raises:
        ValueError: If a line is no JSON object.
    """
    path = folder / runs.METRICS
    found: dict[str, dict[int, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row: dict[str, Any] = dict(json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}, is no JSON object ({error}); delete the run and repeat it"
            ) from error
        if "step" not in row:
            continue
        for name, value in row.items():
            if name.startswith(PREFIX):
                found.setdefault(name.removeprefix(PREFIX), {})[int(row["step"])] = float(value)
    return found


def curves(by_seed: Sequence[Mapping[str, Mapping[int, float]]]) -> dict[str, Curve]:
    """Put the seeds of one agent together.

    Args:
        by_seed: What ``logged`` read, one entry a seed.

    Returns:
        Metrics that every seed logged at two common steps or more, in the order of their first appearance.
    """
    made: dict[str, Curve] = {}
    for name in by_seed[0] if by_seed else ():
        common = set.intersection(*(set(seed.get(name, {})) for seed in by_seed))
        if len(common) > 1:
            steps = sorted(common)
            made[name] = Curve(np.array(steps), np.array([[seed[name][step] for step in steps] for seed in by_seed]))
    return made


def of_runs(root: pathlib.Path, *, reward: str) -> dict[str, dict[str, Curve]]:
    """Read the curves of all agents under a folder that have learned with one reward mode.

    Returns:
        By agent; where the folder's agents learned from several datasets or in several worlds, by agent, data and
        world, because only training seeds are put together.

    Raises:
        ValueError: If there is no finished run that logged while it trained.
    """
    finished, _, _ = runs.find_runs(root)
    learned: dict[tuple[str, str, str], list[dict[str, dict[int, float]]]] = {}
    for run in sorted(finished, key=lambda run: run.key.seed):
        metrics = logged(run.folder) if run.key.reward == reward else {}
        if metrics:
            learned.setdefault((run.key.agent, run.key.data, run.key.world), []).append(metrics)
    several = len({key[1:] for key in learned}) > 1
    made = {", ".join(key) if several else key[0]: curves(by_seed) for key, by_seed in sorted(learned.items())}
    if not any(made.values()):
        raise ValueError(
            f"{root} holds no finished run with reward={reward} that logged while it trained; run a learner"
        )
    return made


def draw(made: Mapping[str, Mapping[str, Curve]], path: pathlib.Path, command: str) -> list[str]:
    """Draw the panels.

    Args:
        made: Curves by agent and metric.
        path: Where to write the PNG.
        command: Stored inside the file.

    Returns:
        The panels' titles, row by row.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = {
        agent: [name for name in SHOWN.get(agent, ()) if name in of] or list(of)[:4] for agent, of in made.items()
    }
    chosen = {agent: names for agent, names in chosen.items() if names}
    width = max(map(len, chosen.values()))
    figure, axes = pyplot.subplots(len(chosen), width, figsize=(3.1 * width, 2.5 * len(chosen)), squeeze=False)
    titles: list[str] = []
    for row, (agent, names) in zip(axes, chosen.items(), strict=True):
        for axis in row[len(names) :]:
            axis.axis("off")
        for axis, name in zip(row, names, strict=False):
            curve = made[agent][name]
            for values in curve.values:
                axis.plot(curve.steps, values, color="#8a8a8a", linewidth=0.7)
            axis.plot(curve.steps, curve.mean, color="#d1495b", linewidth=1.8)
            if (bounds := curve.interval()) is not None:
                axis.fill_between(curve.steps, *bounds, color="#d1495b", alpha=0.18, linewidth=0)
                # The interval of a few seeds can be many times wider than all of them: let it run off the panel.
                low, high = curve.values.min(), curve.values.max()
                axis.set_ylim(low - (high - low), high + (high - low))
            axis.set_title(f"{agent}: {name}, {len(curve.values)} seeds", fontsize=9)
            axis.set_xlabel("gradient steps", fontsize=8)
            axis.tick_params(labelsize=7)
            titles.append(axis.get_title())
    figure.tight_layout()
    facts = {"command": command, "panels": "; ".join(titles)}
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format="png", metadata=facts)
    pyplot.close(figure)
    return titles


@errors_in_one_line()
def main(given: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning_curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=pathlib.Path, help="folder of finished runs")
    parser.add_argument("--reward", default="sparse", choices=("sparse", "dense"))
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "docs" / "images" / "learning_curves.png")
    options = parser.parse_args(given)
    words = shlex.join(sys.argv[1:] if given is None else given)
    titles = draw(
        of_runs(options.runs, reward=options.reward), options.out, f"python -m benchmarks.learning_curves {words}"
    )
    sys.stdout.write(f"wrote {options.out}: {'; '.join(titles)}\n")


if __name__ == "__main__":
    main()
