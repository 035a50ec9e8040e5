"""Tunes a learner with Optuna: the same number of trials for each, on validation prompts and seeds of their own.

python -m benchmarks.tune agent=iql reward=sparse data=simulated
python -m benchmarks.tune --trials 2 --episodes 50 agent=d3rlpy_bc data=simulated_small     a try in minutes
python -m benchmarks.run --config-dir runs/tuning/sparse/simulated agent=iql_best           the result, measured
python -m benchmarks.tuning_results runs/tuning/sparse/simulated     keeps results in the repository, docs/tuning.md

A killed command goes on where it was: trials that were finished are kept, the one that was not is done again.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from agents import LearningAgent
from benchmarks import revision
from benchmarks.evaluate import EvaluationConfig, evaluate
from benchmarks.run import build_agent, make_environment, training_data
from benchmarks.settings import CONFIG_FOLDER, Settings, config_hash, models_digest, read_settings, with_values
from pasta_gym import seeding
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import digest, write_text
from pasta_gym.trajectories import TrajectoryDataset, provenance
from pasta_gym.types import FloatArray

SPLIT = "validation"
FIRST_TRAINING_SEED = 1000
"""Training seeds below are those of reported runs; no trial uses one."""

Space = dict[str, BaseDistribution]


@dataclass(frozen=True)
class Budget:
    """What every learner gets; search spaces cannot change it.

    Attributes:
        n_trials: Trials, the first with the defaults. Ones that fail count.
        n_episodes: Validation conversations that a trained agent plays.
        evaluation_seed: Which conversations; not those of the reported evaluation.
        training_seeds: Each trial trains once with each of them.
        sampler_seed: Fixes what is tried.
    """

    n_trials: int = 20
    n_episodes: int = 500
    evaluation_seed: int = 1
    training_seeds: tuple[int, ...] = (FIRST_TRAINING_SEED,)
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        """Keep tuning apart from what is reported.

        Raises:
            ValueError: If a number is too small, or a seed is one that reported runs use.
        """
        for name in ("n_trials", "n_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.training_seeds or min(self.training_seeds) < FIRST_TRAINING_SEED:
            raise ValueError(
                f"training_seeds must be {FIRST_TRAINING_SEED} or more, got {self.training_seeds}; smaller ones are "
                "those of reported runs"
            )
        if self.evaluation_seed == EvaluationConfig.seed:
            raise ValueError(f"evaluation_seed must not be {EvaluationConfig.seed}, which reported runs use; take 1")

    def overrides(self) -> list[str]:
        """What it says about the evaluation, for Hydra."""
        return [
            f"evaluation.split={SPLIT}",
            f"evaluation.seed={self.evaluation_seed}",
            f"evaluation.n_episodes={self.n_episodes}",
            f"seed={min(self.training_seeds)}",
        ]


def read_space(path: pathlib.Path) -> Space:
    """Read a search space: one entry a setting, with ``choices``, or ``low`` and ``high`` and, if wanted, ``log``.

    Raises:
        ValueError: If the file is missing, says anything else, or names a setting that is not the agent's.
    """
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ValueError(f"{path} does not exist; write a search space there, or name one of {known} with --space")
    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict) or set(content) != {"space"} or not content["space"]:
        raise ValueError(f"{path} must hold a list `space` and nothing else: the budget is the same for every learner")
    space: Space = {}
    for entry in content["space"]:
        key = str(entry.get("key"))
        if not key.startswith("agent.") or key in space:
            raise ValueError(f"{path}: key must be a setting of the agent, agent.config.NAME, each once, got {key!r}")
        space[key] = _distribution(entry, f"{path}: {key}")
    return space


def _distribution(entry: Mapping[str, Any], where: str) -> BaseDistribution:
    if set(entry) == {"key", "choices"}:
        return CategoricalDistribution(entry["choices"])
    if not {"key", "low", "high"} <= set(entry) <= {"key", "low", "high", "log"}:
        raise ValueError(f"{where} must have choices, or low and high and perhaps log, got {sorted(set(entry))}")
    low, high, log = entry["low"], entry["high"], bool(entry.get("log", False))
    whole = isinstance(low, int) and isinstance(high, int)
    return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)


def defaults_of(agent: Any, space: Iterable[str]) -> dict[str, Any]:
    """Look up what an agent has for the settings of a space.

    Raises:
        ValueError: If it has no such setting.
    """
    found = {}
    for key in space:
        value = agent
        for name in key.split(".")[1:]:
            inner = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
            if inner is None:
                raise ValueError(f"agent {agent.name!r} has no setting {key}; name it in conf/agent or choose --space")
            value = inner
        found[key] = value
    return found


def returns_of(settings: Settings, dataset: TrajectoryDataset, envs: Any, training_seed: int) -> FloatArray:
    """Train an agent and return what its users got, ``(n_episodes,)``."""
    agent = build_agent(settings.resolved["agent"], envs)
    assert isinstance(agent, LearningAgent)
    agent.train(dataset, seed=training_seed, log=lambda metrics: None)
    return evaluate(agent, envs, settings.evaluation, agent_seed=training_seed).returns


def tune(
    overrides: Sequence[str],
    *,
    out: pathlib.Path,
    budget: Budget | None = None,
    space_file: pathlib.Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> pathlib.Path:
    """Do what is left of a study and write its results.

    Args:
        overrides: As for ``benchmarks.run``: agent, reward, data.
        out: Folder of all studies.
        budget: Trials and seeds; the defaults of :class:`Budget` if None.
        space_file: The search space; ``conf/tune/AGENT.yaml`` if None.
        report: Called with a line for each trial.

    Returns:
        The study's folder, with ``study.journal``, ``trials.csv`` and ``best.yaml``; beside it
        ``agent/NAME_best.yaml``, the configuration of the best trial.

    Raises:
        ValueError: If the agent learns nothing, the split is not ``validation``, the folder holds another study, or
            the defaults fail.
    """
    budget = budget or Budget()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("run", [*overrides, *budget.overrides()])
    settings = _checked(config)
    agent = instantiate(settings.resolved["agent"])
    if not isinstance(agent, LearningAgent):
        raise ValueError(f"agent {settings.key.agent!r} learns nothing, so there is nothing to tune")
    space = read_space(space_file or CONFIG_FOLDER / "tune" / f"{settings.key.agent}.yaml")
    defaults = defaults_of(agent, space)
    _check_defaults(defaults, space)
    place = out / settings.key.reward / settings.key.data
    folder = place / settings.key.agent
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(folder, _identity(settings, space, budget))
    _do_trials(study, config, space, defaults, budget, report, settings.key.agent)
    write_text(folder / "trials.csv", _table(study, space))
    best = study.best_trial
    facts = _facts(study, settings, space, budget, overrides)
    write_text(folder / "best.yaml", OmegaConf.to_yaml(OmegaConf.create(facts)))
    # Not `_tuned`: Hydra takes an agent of conf/agent for one of the same name in --config-dir, and says nothing.
    tuned = with_values(config, {**best.params, "agent.name": f"{settings.key.agent}_best"}).agent
    head = f"# The best of {facts['trials']} trials on validation prompts; {settings.key.agent}/best.yaml says how.\n"
    write_text(place / "agent" / f"{settings.key.agent}_best.yaml", head + OmegaConf.to_yaml(tuned, resolve=False))
    return folder


def _checked(config: DictConfig) -> Settings:
    """Read the settings of a trial; whatever is asked for, it is measured on validation prompts."""
    settings = read_settings(config)
    if settings.environment.split != SPLIT or settings.evaluation.split != SPLIT:
        raise ValueError(f"tuning is measured on {SPLIT} prompts alone, got {settings.evaluation.split!r}")
    if settings.resolved["checkpoint"] is not None:
        raise ValueError("tuning trains agents, so it takes no checkpoint; drop checkpoint=")
    return settings


def _check_defaults(defaults: Mapping[str, Any], space: Space) -> None:
    for key, value in defaults.items():
        distribution = space[key]
        if not distribution._contains(distribution.to_internal_repr(value)):
            raise ValueError(f"the space of {key} must hold its default {value!r}, got {distribution}; widen it")


def _identity(settings: Settings, space: Space, budget: Budget) -> str:
    """Hash what a trial's score depends on; more trials of the same study may be asked for later."""
    fixed = {name: value for name, value in asdict(budget).items() if name != "n_trials"}
    return digest(
        {
            "config": config_hash(settings.resolved),
            "models": models_digest(settings.environment),
            "space": {key: str(distribution) for key, distribution in space.items()},
            "budget": {name: list(value) if isinstance(value, tuple) else value for name, value in fixed.items()},
        }
    )


def _study(folder: pathlib.Path, identity: str) -> optuna.Study:
    """Open a study, or go on with one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.create_study(study_name="tune", storage=storage, direction="maximize", load_if_exists=True)
    if study.user_attrs.get("identity", identity) != identity:
        raise ValueError(
            f"{folder} holds a study of another configuration, space or budget; move it away or name another --out"
        )
    study.set_user_attr("identity", identity)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # killed; done again with the same values
    return study


def _spent(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: finished ones and ones that failed by themselves."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state == TrialState.COMPLETE or "error" in t.user_attrs]


def _do_trials(
    study: optuna.Study,
    config: DictConfig,
    space: Space,
    defaults: Mapping[str, Any],
    budget: Budget,
    report: Callable[[str], None],
    name: str,
) -> None:
    n_done = len(_spent(study))
    if n_done >= budget.n_trials:
        return
    settings = _checked(config)
    dataset = training_data(settings)
    envs = make_environment(settings)
    try:
        for number in range(n_done, budget.n_trials):
            # A sampler of its own for each trial: what is tried depends on finished trials alone, killed or not.
            seed = int(seeding.mix(budget.sampler_seed, number)) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            if number == 0 and not study.get_trials(states=(TrialState.WAITING,)):
                study.enqueue_trial(dict(defaults))
            trial = study.ask(fixed_distributions=space)
            began = time.monotonic()
            error = ""
            try:
                returns = [
                    returns_of(_checked(with_values(config, {**trial.params, "seed": s})), dataset, envs, s)
                    for s in budget.training_seeds
                ]
                mean = np.mean(returns, axis=0)
                value = float(mean.mean())
            except (ValueError, RuntimeError, FloatingPointError) as failure:
                if number == 0:
                    raise  # the defaults must work
                error, value, mean = f"{type(failure).__name__}: {failure}", math.nan, np.zeros(1)
            seconds = time.monotonic() - began
            trial.set_user_attr("seconds", round(seconds, 1))
            if error or not math.isfinite(value):
                trial.set_user_attr("error", error or "the score is not finite")
                study.tell(trial, state=TrialState.FAIL)
            else:
                trial.set_user_attr("standard_error", float(mean.std(ddof=1) / math.sqrt(len(mean))))
                study.tell(trial, value)
            report(_line(study, name, number, value, budget.n_trials))
    finally:
        envs.close()


def _line(study: optuna.Study, name: str, number: int, value: float, n_trials: int) -> str:
    """Say what a trial came to and how long the rest takes at this pace."""
    spent = _spent(study)
    left = (n_trials - len(spent)) * float(np.mean([t.user_attrs["seconds"] for t in spent]))
    outcome = f"return {value:.3f}" if math.isfinite(value) else f"failed ({spent[-1].user_attrs['error']})"
    tried = ", ".join(
        f"{key.rsplit('.', 1)[-1]} {v:.4g}" if isinstance(v, float) else f"{key.rsplit('.', 1)[-1]} {v}"
        for key, v in spent[-1].params.items()
    )
    best = f"best {study.best_value:.3f} in trial {_place(study)}"
    return (
        f"{name}: trial {number + 1} of {n_trials}: {outcome} ({best}), {spent[-1].user_attrs['seconds']:.0f} s, "
        f"about {left / 60:.0f} min left; {tried}"
    )


def _place(study: optuna.Study) -> int:
    """Number of the best trial among those that count, from 1."""
    return 1 + [trial.number for trial in _spent(study)].index(study.best_trial.number)


def _table(study: optuna.Study, space: Space) -> str:
    """All trials that count as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "state", "return", "standard_error", "seconds", *space, "error"])
    for place, trial in enumerate(_spent(study), start=1):
        attributes = trial.user_attrs
        writer.writerow(
            [
                *(place, trial.state.name.lower(), "" if trial.value is None else trial.value),
                *(attributes.get("standard_error", ""), attributes["seconds"]),
                *(trial.params[key] for key in space),
                attributes.get("error", ""),
            ]
        )
    return buffer.getvalue()


def _facts(
    study: optuna.Study, settings: Settings, space: Space, budget: Budget, overrides: Sequence[str]
) -> dict[str, Any]:
    spent, best = _spent(study), study.best_trial
    return {
        "agent": settings.key.agent,
        "values": dict(best.params),
        "return": best.value,
        "standard_error": best.user_attrs["standard_error"],
        "return_of_defaults": spent[0].value,
        "best_trial": _place(study),
        "trials": len(spent),
        "minutes": round(sum(t.user_attrs["seconds"] for t in spent) / 60, 2),
        "split": settings.evaluation.split,
        "budget": {**asdict(budget), "training_seeds": list(budget.training_seeds)},
        "space": {key: str(distribution) for key, distribution in space.items()},
        "reward": settings.key.reward,
        "data": settings.key.data,
        "world": settings.key.world,
        "overrides": list(overrides),
        "identity": study.user_attrs["identity"],
        "git_revision": revision.REVISION,
        "packages": {**provenance.package_versions(), "optuna": optuna.__version__},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@errors_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Tune one learner."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="as for benchmarks.run: agent=iql reward=sparse data=simulated")
    parser.add_argument("--trials", type=int, default=Budget.n_trials, help="in all; the same for every learner")
    parser.add_argument("--episodes", type=int, default=Budget.n_episodes, help="validation conversations a trial")
    parser.add_argument("--training-seeds", type=int, nargs="+", default=list(Budget.training_seeds))
    parser.add_argument("--space", default=None, help="a name in conf/tune; the agent's own by default")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/tuning"), help="folder of all studies")
    given = parser.parse_intermixed_args(arguments)

    def report(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    budget = Budget(n_trials=given.trials, n_episodes=given.episodes, training_seeds=tuple(given.training_seeds))
    space_file = None if given.space is None else CONFIG_FOLDER / "tune" / f"{given.space}.yaml"
    folder = tune(given.overrides, out=given.out, budget=budget, space_file=space_file, report=report)
    report(f"wrote {folder / 'best.yaml'} and {folder.parent / 'agent' / (folder.name + '_best.yaml')}")


if __name__ == "__main__":
    main()
