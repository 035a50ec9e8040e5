"""Results of tuning in the repository: each learner's trials, and what was best of them as an agent's configuration.

Run ``python -m benchmarks.tuning_results runs/tuning/sparse/simulated`` once ``benchmarks.tune`` is done with the
learners; studies under way are left out, and the same command again adds what was finished since. ``trials.csv`` and
``best.yaml`` of every learner go to ``benchmarks/results/tuning/REWARD/DATA/LEARNER``, its tuned agent to
``conf/agent/LEARNER_tuned.yaml``, so that ``agent=LEARNER_tuned`` and ``experiment=tuned`` need no other folder.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import sys
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmarks.settings import CONFIG_FOLDER, with_values
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import write_text

FOLDER = pathlib.Path("benchmarks/results/tuning")
TRIALS, BEST = "trials.csv", "best.yaml"
SHARED = ("budget", "reward", "data", "world", "split")
"""What all learners of one table must have in common."""
_COLUMNS = ("trial", "state", "return", "standard_error", "seconds")


@dataclass(frozen=True)
class Trial:
    """One setting of a learner, tried.

    Attributes:
        number: Place among the trials that count, from 1.
        value: Mean return over validation conversations; None if the trial failed.
        standard_error: Of that mean, over conversations; None if the trial failed.
        seconds: That training and playing took.
        settings: As the table has them, by their keys.
    """

    number: int
    value: float | None
    standard_error: float | None
    seconds: float
    settings: dict[str, str]


@dataclass(frozen=True)
class Study:
    """All trials of a learner.

    Attributes:
        folder: Where its files lie.
        facts: What ``best.yaml`` says.
        trials: In their order, failed ones too; the first has the defaults.
    """

    folder: pathlib.Path
    facts: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def agent(self) -> str:
        """The learner's name."""
        return str(self.facts["agent"])

    @property
    def finished(self) -> list[Trial]:
        """Trials that did not fail."""
        return [trial for trial in self.trials if trial.value is not None]

    @property
    def defaults(self) -> Trial:
        """The trial with the learner's defaults."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """The trial with the largest return, the earliest of several."""
        return self.trials[int(self.facts["best_trial"]) - 1]


def read_study(folder: pathlib.Path) -> Study:
    """Read what ``benchmarks.tune`` wrote of one learner.

    Args:
        folder: Holds ``trials.csv`` and ``best.yaml``.

    Raises:
        ValueError: If a file is missing or broken, or the two do not belong together.
    """
    again = "copy both files from the folder that benchmarks.tune wrote, or tune again"
    try:
        facts: Any = OmegaConf.to_container(OmegaConf.load(folder / BEST))
        with (folder / TRIALS).open(encoding="utf-8", newline="") as file:
            trials = tuple(_trial(row) for row in csv.DictReader(file))
        named = {
            name: facts[name] for name in (*SHARED, "agent", "trials", "best_trial", "return", "values", "overrides")
        }
    except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{folder} holds no whole study ({type(error).__name__}: {error}); {again}") from error
    study = Study(folder, facts, trials)
    if [trial.number for trial in trials] != list(range(1, named["trials"] + 1)):
        said = f"the {named['trials']} trials of {BEST}, numbered from 1"
        raise ValueError(f"{folder / TRIALS} must hold {said}, got {len(trials)}; {again}")
    if not trials or trials[0].value is None:
        raise ValueError(f"{folder / TRIALS} must begin with the defaults and their return, got {trials[:1]}; {again}")
    largest = max(study.finished, key=lambda trial: (trial.value or 0.0, -trial.number))
    if (largest.number, largest.value) != (named["best_trial"], named["return"]):
        raise ValueError(
            f"{folder / BEST} must name the best trial, {largest.number} with {largest.value}, got "
            f"{named['best_trial']} with {named['return']}; {again}"
        )
    return study


def _trial(row: dict[str, str]) -> Trial:
    is_complete = row["state"] == "complete"
    return Trial(
        number=int(row["trial"]),
        value=float(row["return"]) if is_complete else None,
        standard_error=float(row["standard_error"]) if is_complete else None,
        seconds=float(row["seconds"]),
        settings={key: value for key, value in row.items() if key not in (*_COLUMNS, "error")},
    )


def read_studies(place: pathlib.Path) -> list[Study]:
    """Read the studies of all learners in a folder, by name; one without ``best.yaml`` is under way and left out.

    Args:
        place: Holds a folder for each learner, as ``runs/tuning/sparse/simulated`` does.

    Raises:
        ValueError: If there is none, one is broken, or they differ in what all must have in common.
    """
    studies = [read_study(path.parent) for path in sorted(place.glob(f"*/{BEST}"))]
    if not studies:
        raise ValueError(
            f"{place} holds no finished study; pass a folder like runs/tuning/sparse/simulated, after "
            "python -m benchmarks.tune agent=iql reward=sparse data=simulated"
        )
    check_alike(studies)
    return studies


def check_alike(studies: list[Study]) -> None:
    """Check that all learners had the same budget and were tuned on the same.

    Raises:
        ValueError: Naming two that differ.
    """
    for study in studies[1:]:
        for name in (*SHARED, "trials"):
            here, there = study.facts[name], studies[0].facts[name]
            if here != there:
                raise ValueError(
                    f"{name} must be the same for every learner, got {there} of {studies[0].agent} "
                    f"({studies[0].folder}) and {here} of {study.agent} ({study.folder}); tune one of them again as "
                    "the other was"
                )


def keep(
    place: pathlib.Path,
    *,
    out: pathlib.Path = FOLDER,
    agents: pathlib.Path = CONFIG_FOLDER / "agent",
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Copy the results of finished studies; what is there already is not written again.

    Args:
        place: Folder of studies, ``runs/tuning/REWARD/DATA``.
        out: Folder of all results.
        agents: Folder of agents' configurations.
        overwrite: Replace results and agents of other studies.

    Returns:
        The files that changed.

    Raises:
        ValueError: If a study is broken or had another budget than the others, here or in ``out``; or if a file would
            change without ``overwrite``. Nothing is written then.
    """
    wanted: dict[pathlib.Path, str] = {}
    studies = read_studies(place)
    results = out / studies[0].facts["reward"] / studies[0].facts["data"]
    for study in studies:
        own = results / study.agent
        for name in (TRIALS, BEST):
            wanted[own / name] = (study.folder / name).read_text(encoding="utf-8")
        wanted[agents / f"{study.agent}_tuned.yaml"] = _configuration(study, own)
    new = {study.agent for study in studies}
    kept = [read_study(path.parent) for path in sorted(results.glob(f"*/{BEST}")) if path.parent.name not in new]
    check_alike([*kept, *studies])
    changed = {path: text for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text}
    others = [str(path) for path in changed if path.is_file()]
    if others and not overwrite:
        raise ValueError(f"{', '.join(others)} came of another study; pass --overwrite to replace what is there")
    for path, text in changed.items():
        write_text(path, text)
    return list(changed)


def _configuration(study: Study, results: pathlib.Path) -> str:
    """Write a tuned agent's configuration, with a line that says where it comes from."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("run", list(study.facts["overrides"]))
    tuned = with_values(config, {**study.facts["values"], "agent.name": f"{study.agent}_tuned"}).agent
    said = f"# The best of {len(study.trials)} trials on validation prompts (docs/tuning.md)"
    return f"{said}: {(results / BEST).as_posix()}\n{OmegaConf.to_yaml(tuned, resolve=False)}"


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Keep the results of finished studies and name the files that changed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning_results", description=__doc__)
    parser.add_argument("studies", type=pathlib.Path, help="runs/tuning/REWARD/DATA, which benchmarks.tune wrote to")
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER, help="folder of all results")
    parser.add_argument("--agents", type=pathlib.Path, default=CONFIG_FOLDER / "agent", help="folder of tuned agents")
    parser.add_argument("--overwrite", action="store_true", help="replace results and agents of other studies")
    given = parser.parse_args(arguments)
    changed = keep(given.studies, out=given.out, agents=given.agents, overwrite=given.overwrite)
    sys.stdout.write("".join(f"wrote {path}\n" for path in changed))
    if not changed:
        sys.stdout.write(f"{given.out} holds all of {given.studies} already\n")


if __name__ == "__main__":
    main()
