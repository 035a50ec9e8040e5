from __future__ import annotations

import csv
import pathlib
import sys
import types

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

pytest.importorskip("optuna")

from benchmarks import tune as tune_module
from benchmarks.evaluate import EvaluationConfig
from benchmarks.settings import CONFIG_FOLDER, read_settings
from benchmarks.tune import Budget, _check_defaults, defaults_of, read_space, tune
from pasta_gym.trajectories import EnvironmentConfig
from tests.benchmarks.conftest import TINY_OVERRIDES

SPACES = sorted(pathlib.Path(CONFIG_FOLDER, "tune").glob("*.yaml"))
LEARNERS = ["d3rlpy_bc", "d3rlpy_cql", "d3rlpy_dcql", "d3rlpy_iql", "d3rlpy_td3bc", "iql", "sb3_ppo", "slateq"]
BUDGET = Budget(n_trials=6, n_episodes=8)


def test_every_learner_has_a_space_and_no_space_has_a_budget_of_its_own():
    assert [path.stem for path in SPACES] == LEARNERS
    assert {tuple(OmegaConf.load(path)) for path in SPACES} == {("space",)}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_space_names_settings_of_its_agent_and_holds_their_defaults(path):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        agent = instantiate(compose("run", [f"agent={path.stem}"]).agent)
    space = read_space(path)
    _check_defaults(defaults_of(agent, space), space)
    assert len(space) >= 3


@pytest.fixture
def study(tiny, tmp_path, monkeypatch):
    """Tunes an agent whose return is best where `shift` is 7, without playing: ``study(budget=..., ...)``."""
    base = sys.modules["own_agent"].OwnAgent
    module = types.ModuleType("tunable_agent")

    class Tunable(base):
        def __init__(self, name="tunable", shift=3.0, kind="a"):
            super().__init__(name)
            self.shift, self.kind = shift, kind

    module.Tunable = Tunable
    monkeypatch.setitem(sys.modules, "tunable_agent", module)
    space_file = tmp_path / "tunable.yaml"
    space_file.write_text(
        "space:\n  - {key: agent.shift, low: 0.0, high: 10.0}\n  - {key: agent.kind, choices: [a, b]}\n"
    )
    played = []

    def quick(settings, dataset, envs, training_seed):
        played.append((settings.resolved["agent"], training_seed))
        return -((settings.resolved["agent"]["shift"] - 7.0) ** 2) + np.arange(settings.evaluation.n_episodes)

    def run(*, quickly=True, out=tmp_path / "tuning", budget=BUDGET, extra=(), lines=None):
        with monkeypatch.context() as patch:
            if quickly:
                patch.setattr(tune_module, "returns_of", quick)
            own = ["agent=random", "agent._target_=tunable_agent.Tunable", "agent.name=tunable"]
            own += ["+agent.shift=3.0", "+agent.kind=a"]
            return tune(
                [*TINY_OVERRIDES, *own, *extra],
                out=out,
                budget=budget,
                space_file=space_file,
                report=[].append if lines is None else lines.append,
            )

    run.played, run.quick, run.space_file = played, quick, space_file
    return run


def rows(folder):
    with (folder / "trials.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_study_begins_with_the_defaults_and_writes_its_best(study, tmp_path):
    lines = []
    folder = study(lines=lines)
    assert folder == tmp_path / "tuning" / "sparse" / "simulated" / "tunable"
    table = rows(folder)
    assert [row["trial"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert (table[0]["agent.shift"], table[0]["agent.kind"]) == ("3.0", "a")
    best = OmegaConf.load(folder / "best.yaml")
    returns = [float(row["return"]) for row in table]
    assert best["return"] == max(returns) > returns[0] == best.return_of_defaults
    assert best.best_trial == 1 + int(np.argmax(returns))
    assert (best.split, best.trials, best.budget.n_trials) == ("validation", 6, 6)
    tuned = OmegaConf.load(folder.parent / "agent" / "tunable_best.yaml")
    assert tuned.name == "tunable_best"
    assert tuned.shift == best["values"]["agent.shift"] == study.played[best.best_trial - 1][0]["shift"]
    assert len(lines) == 6
    assert lines[0].startswith("tunable: trial 1 of 6: return -12.500 (best -12.500 in trial 1)")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [0, 3])
def test_a_killed_study_goes_on_as_if_nothing_had_been(study, tmp_path, monkeypatch, at):
    whole = rows(study(out=tmp_path / "whole"))
    study.played.clear()

    def dying(*arguments):
        if len(study.played) == at:
            raise Killed
        return study.quick(*arguments)

    monkeypatch.setattr(tune_module, "returns_of", dying)
    with pytest.raises(Killed):
        study(quickly=False)
    folder = study()
    assert rows(folder) == whole
    assert len(study.played) == 6, "no finished trial is done twice"
    assert rows(study()) == whole
    assert len(study.played) == 6
    more = rows(study(budget=Budget(n_trials=8, n_episodes=8)))
    assert more[:6] == whole
    assert len(more) == 8


def test_another_study_in_the_same_folder_is_refused(study):
    study()
    with pytest.raises(ValueError, match="study of another configuration, space or budget"):
        study(budget=Budget(n_trials=6, n_episodes=9))
    study.space_file.write_text("space:\n  - {key: agent.shift, low: 0.0, high: 20.0}\n")
    with pytest.raises(ValueError, match="study of another configuration"):
        study()


def test_a_trial_that_fails_counts_and_is_never_the_best(study, monkeypatch):
    def sometimes(*arguments):
        returns = study.quick(*arguments)
        if len(study.played) in (2, 4):
            raise ValueError("the agent diverged")
        return returns if len(study.played) != 3 else np.full(8, np.nan)

    monkeypatch.setattr(tune_module, "returns_of", sometimes)
    lines = []
    table = rows(study(quickly=False, lines=lines))
    assert [row["state"] for row in table] == ["complete", "fail", "fail", "fail", "complete", "complete"]
    assert table[1]["error"] == "ValueError: the agent diverged"
    assert "failed (the score is not finite)" in lines[2]


def test_defaults_that_fail_end_the_study(study, monkeypatch):
    def broken(*arguments):
        raise ValueError("no such thing")

    monkeypatch.setattr(tune_module, "returns_of", broken)
    with pytest.raises(ValueError, match="no such thing"):
        study(quickly=False)


def test_no_trial_sees_a_test_prompt_or_a_reported_seed(study, tiny, monkeypatch):
    made, scored, seeds = [], [], []
    make, evaluate = EnvironmentConfig.make, tune_module.evaluate

    def watched(self, *arguments, **named):
        made.append(self.split)
        return make(self, *arguments, **named)

    def kept(agent, envs, config, *, agent_seed):
        seeds.append((config.seed, agent_seed))
        scored.append(evaluate(agent, envs, config, agent_seed=agent_seed))
        return scored[-1]

    monkeypatch.setattr(EnvironmentConfig, "make", watched)
    monkeypatch.setattr(tune_module, "evaluate", kept)
    # Whatever the command line says about the evaluation.
    study(quickly=False, budget=Budget(n_trials=2, n_episodes=8), extra=("evaluation.split=test", "seed=0"))
    assert set(made) == {"train", "validation"}
    assert set(seeds) == {(1, 1000)}
    prompts = {int(prompt.split()[1]) for scores in scored for prompt in scores.prompts}
    assert prompts
    assert prompts <= set(tiny.split("validation").tolist())
    assert not prompts & set(tiny.split("test").tolist())


def test_a_split_other_than_validation_is_refused():
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("run", ["agent=random", "evaluation.split=test"])
    with pytest.raises(ValueError, match="measured on validation prompts alone, got 'test'"):
        tune_module._checked(config)
    assert read_settings(config).environment.split == "test"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"n_trials": 0}, "n_trials must be at least 1, got 0"),
        ({"training_seeds": (1000, 3)}, "training_seeds must be 1000 or more"),
        ({"training_seeds": ()}, "training_seeds must be 1000 or more"),
        ({"evaluation_seed": EvaluationConfig.seed}, "which reported runs use"),
    ],
)
def test_budgets_that_mix_with_reported_runs_are_refused(named, message):
    with pytest.raises(ValueError, match=message):
        Budget(**named)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: []\n", "must hold a list `space` and nothing else"),
        ("space: [{key: agent.x, low: 0, high: 1}]\nn_trials: 99\n", "the budget is the same for every learner"),
        ("space: [{key: evaluation.split, choices: [test]}]\n", "key must be a setting of the agent"),
        ("space: [{key: agent.x, low: 0}]\n", "must have choices, or low and high"),
    ],
)
def test_spaces_that_cannot_be_read_are_refused(tmp_path, text, message):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_space(path)
    with pytest.raises(ValueError, match="does not exist; write a search space there"):
        read_space(tmp_path / "none.yaml")


def test_an_agent_that_lacks_a_setting_or_learns_nothing_is_refused(study, tmp_path):
    study.space_file.write_text("space:\n  - {key: agent.colour, choices: [red]}\n")
    with pytest.raises(ValueError, match=r"agent .tunable. has no setting agent\.colour"):
        study()
    study.space_file.write_text("space:\n  - {key: agent.shift, low: 5.0, high: 6.0}\n")
    with pytest.raises(ValueError, match=r"space of agent.shift must hold its default 3.0"):
        study()
    with pytest.raises(ValueError, match="learns nothing"):
        tune([*TINY_OVERRIDES, "agent=random"], out=tmp_path)
