from __future__ import annotations

import pathlib

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import tuning_results, tuning_table
from benchmarks.settings import CONFIG_FOLDER, read_settings
from benchmarks.tuning_results import keep, read_studies, read_study

SHIPPED = CONFIG_FOLDER.parent / tuning_results.FOLDER / "sparse" / "simulated"
LEARNERS = sorted(path.stem for path in (CONFIG_FOLDER / "tune").glob("*.yaml"))
BUDGET = {"n_trials": 4, "n_episodes": 50, "evaluation_seed": 1, "training_seeds": [1000], "sampler_seed": 0}
# Trial 3 failed; trial 4 is the best.
ROWS = (
    ("complete", 4.0, 0.2, 60.0, 0.001, 128, 8, ""),
    ("complete", 3.0, 0.2, 60.0, 0.002, 128, 9, ""),
    ("fail", "", "", 30.0, 0.5, 64, 9, "ValueError: the agent, diverged"),
    ("complete", 4.5, 0.1, 90.0, 0.0012345, 64, 8, ""),
)


def write_study(place, agent="iql", *, rows=ROWS, **facts):
    """Write by hand what ``benchmarks.tune`` leaves of a learner."""
    folder = place / agent
    folder.mkdir(parents=True)
    lines = [
        "trial,state,return,standard_error,seconds,agent.config.learning_rate,agent.config.width,agent.config.mixture.n_components,error"
    ]
    for number, row in enumerate(rows, start=1):
        lines.append(",".join([str(number), *(f'"{cell}"' if "," in str(cell) else str(cell) for cell in row)]))
    (folder / "trials.csv").write_text("\n".join(lines) + "\n")
    best = max((row[1], -number) for number, row in enumerate(rows) if row[0] == "complete")
    values = dict(zip(("learning_rate", "width", "mixture.n_components"), rows[-best[1]][4:7], strict=True))
    said = {
        "agent": agent,
        "values": {f"agent.config.{name}": value for name, value in values.items()},
        "return": best[0],
        "best_trial": 1 - best[1],
        "trials": len(rows),
        "split": "validation",
        "budget": BUDGET,
        "reward": "sparse",
        "data": "simulated",
        "world": "mini",
        "overrides": [f"agent={agent}", "reward=sparse", "data=simulated"],
    }
    (folder / "best.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({**said, **facts})))
    return folder


@pytest.fixture
def place(tmp_path):
    return tmp_path / "runs" / "sparse" / "simulated"


def kept(tmp_path, place, **named):
    return keep(place, out=tmp_path / "results", agents=tmp_path / "conf", **named)


def test_the_table_has_the_budget_and_what_each_learner_gained(place, capsys, tmp_path):
    write_study(place)
    flat = [("complete", 5.0, 0.1, 6.0, 0.001, 128, 8, ""), *ROWS[1:]]
    write_study(place, "slateq", rows=flat)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tuning:begin -->\nold\n<!-- tuning:end -->\nafter\n")
    tuning_table.main([str(place), "--page", str(page)])
    text = capsys.readouterr().out
    assert text.startswith(
        "Budget of every learner: 4 trials, the first with its defaults, each trained with seed 1000 and measured on "
        "50 conversations with validation prompts (stream 1). Data: simulated; world: mini; reward: sparse.\n"
    )
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    # 4.0 +- 1.96 x 0.2; three trials finished, whose best is by Blom's rule 0.869 errors of 0.167 above their mean;
    # four trials took 60, 60, 30 and 90 seconds.
    assert rows["iql"] == (
        "| iql | 4, 1 failed | 4.00 [3.61, 4.39] | 4.50 [4.30, 4.70] (trial 4) | 0.14 | "
        "`learning_rate` 0.001 to 0.00123, `width` 128 to 64 | 1.0 |"
    )
    assert rows["slateq"].endswith("| 5.00 [4.80, 5.20] (trial 1) | 0.12 | nothing: the defaults were best | 0.8 |")
    missing = ", ".join(name for name in LEARNERS if name not in ("iql", "slateq"))
    assert text.endswith(f"No results of {missing}.\n")
    assert len(missing.split(", ")) == len(LEARNERS) - 2
    filled = page.read_text()
    assert filled.startswith(
        f"before\n<!-- tuning:begin -->\nPrinted by `python -m benchmarks.tuning_table {place}` on "
    )
    assert text in filled


def test_a_table_of_all_learners_misses_none(place):
    for name in LEARNERS:
        write_study(place, name)
    text = tuning_table.table(read_studies(place))
    assert "No results" not in text
    assert [line.split(" | ")[0][2:] for line in text.splitlines() if line.startswith("| ")] == ["learner", *LEARNERS]


def test_the_best_of_equal_trials_is_lucky_and_one_alone_is_not():
    assert tuning_table.luck_of_the_best(1, 0.3) == pytest.approx(0.0)
    # The expected largest of 2, 10 and 20 draws from a standard normal: 0.564, 1.539, 1.867.
    for n, expected in ((2, 0.564), (10, 1.539), (20, 1.867)):
        assert tuning_table.luck_of_the_best(n, 2.0) == pytest.approx(2 * expected, rel=0.05)


def test_results_are_kept_once_and_the_tuned_agent_says_where_it_comes_from(place, tmp_path, capsys):
    folder = write_study(place)
    (place / "slateq").mkdir()  # under way: a journal and nothing else
    changed = kept(tmp_path, place)
    own = tmp_path / "results" / "sparse" / "simulated" / "iql"
    agent = tmp_path / "conf" / "iql_tuned.yaml"
    assert changed == [own / "trials.csv", own / "best.yaml", agent]
    assert (own / "trials.csv").read_bytes() == (folder / "trials.csv").read_bytes()
    head, body = agent.read_text().split("\n", 1)
    assert head == f"# The best of 4 trials on validation prompts (docs/tuning.md): {own / 'best.yaml'}"
    assert yaml.safe_load(body) == {
        "_target_": "agents.iql.IQLAgent",
        "name": "iql_tuned",
        "config": {
            "_target_": "agents.iql.IQLConfig",
            "learning_rate": 0.0012345,
            "width": 64,
            "mixture": {"n_components": 8},
        },
    }
    assert kept(tmp_path, place) == []
    write_study(place, "sb3_ppo")
    arguments = [str(place), "--out", str(tmp_path / "results"), "--agents", str(tmp_path / "conf")]
    tuning_results.main(arguments)
    assert capsys.readouterr().out.count("sb3_ppo") == 3
    online = yaml.safe_load((tmp_path / "conf" / "sb3_ppo_tuned.yaml").read_text())
    assert online["config"]["reward"] == "${reward}", "what belongs to the run stays open"
    tuning_results.main(arguments)
    assert "holds all of" in capsys.readouterr().out
    assert [study.agent for study in read_studies(own.parent)] == ["iql", "sb3_ppo"]


def test_results_of_another_study_are_replaced_only_when_that_is_said(place, tmp_path):
    write_study(place)
    kept(tmp_path, place)
    other = tmp_path / "other"
    write_study(other, rows=[*ROWS[:3], ("complete", 4.75, 0.1, 90.0, 0.003, 64, 8, "")])
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"iql_tuned\.yaml came of another study; pass --overwrite"):
        kept(tmp_path, other)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(kept(tmp_path, other, overwrite=True)) == 3
    assert "learning_rate: 0.003" in (tmp_path / "conf" / "iql_tuned.yaml").read_text()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"budget": {**BUDGET, "n_episodes": 51}}, "budget must be the same for every learner"),
        ({"world": "mini_1"}, "world must be the same for every learner, got mini of iql"),
        ({"data": "human"}, "data must be the same"),
    ],
)
def test_learners_with_unequal_budgets_share_no_table(place, tmp_path, facts, message):
    write_study(place)
    write_study(place, "slateq", **facts)
    with pytest.raises(ValueError, match=message):
        read_studies(place)
    with pytest.raises(ValueError, match=message):
        kept(tmp_path, place)
    assert not (tmp_path / "results").exists()


def test_a_study_with_more_trials_does_not_join_those_that_are_kept(place, tmp_path):
    write_study(place)
    kept(tmp_path, place)
    write_study(tmp_path / "other", "slateq", rows=[*ROWS, ROWS[1]])
    with pytest.raises(ValueError, match=r"trials must be the same for every learner, got 4 of iql .* 5 of slateq"):
        kept(tmp_path, tmp_path / "other")
    assert not (tmp_path / "conf" / "slateq_tuned.yaml").exists()


@pytest.mark.parametrize(
    ("facts", "rows", "message"),
    [
        ({"trials": 5}, ROWS, r"must hold the 5 trials of best\.yaml, numbered from 1, got 4"),
        ({"best_trial": 1}, ROWS, r"must name the best trial, 4 with 4\.5, got 1 with 4\.5"),
        ({"return": 9.0}, ROWS, r"must name the best trial, 4 with 4\.5, got 4 with 9\.0"),
        ({}, (ROWS[2], *ROWS[1:]), "must begin with the defaults and their return"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(place, facts, rows, message):
    with pytest.raises(ValueError, match=message):
        read_study(write_study(place, rows=rows, **facts))


def test_what_is_missing_or_broken_is_named(place, tmp_path):
    with pytest.raises(ValueError, match="holds no finished study; pass a folder like"):
        read_studies(tmp_path)
    folder = write_study(place)
    (folder / "trials.csv").unlink()
    with pytest.raises(ValueError, match=r"iql holds no whole study .*trials\.csv"):
        read_studies(place)
    with pytest.raises(SystemExit, match=r"error: .* holds no finished study"):
        tuning_results.main([str(tmp_path)])


def test_every_learner_with_results_here_has_its_tuned_agent_and_no_other_has():
    studies = read_studies(SHIPPED)
    assert {study.agent for study in studies} <= set(LEARNERS)
    tuned = {path.stem for path in (CONFIG_FOLDER / "agent").glob("*_tuned.yaml")}
    assert tuned == {f"{study.agent}_tuned" for study in studies}
    for study in studies:
        path = CONFIG_FOLDER / "agent" / f"{study.agent}_tuned.yaml"
        config = OmegaConf.load(path)
        for key, value in study.facts["values"].items():
            assert OmegaConf.select(config, key.removeprefix("agent.")) == value
        named = path.read_text().split("\n")[0].split(": ")[1]
        assert pathlib.Path(CONFIG_FOLDER.parent, named) == study.folder / "best.yaml"
        assert study.facts["split"] == "validation"
        assert min(study.facts["budget"]["training_seeds"]) >= 1000


def test_the_sweep_has_every_tuned_learner_beside_its_defaults():
    grids = OmegaConf.load(CONFIG_FOLDER / "experiment" / "tuned.yaml").hydra.sweeper.grids
    assert [grid.agent.split(",") for grid in grids if grid.seed == 0] == [["clairvoyant", "blind_slate_aware"]]
    (learned,) = (grid.agent.split(",") for grid in grids if grid.seed != 0)
    tuned = sorted(name for name in learned if name.endswith("_tuned"))
    assert tuned == sorted(f"{study.agent}_tuned" for study in read_studies(SHIPPED))
    defaults = sorted(name for name in learned if not name.endswith("_tuned"))
    assert defaults == sorted(["random", *(name.removesuffix("_tuned") for name in tuned)])
    assert {grid.reward for grid in grids} == {"sparse"}


def test_where_a_tuned_agents_file_lies_moves_no_identity(tmp_path):
    shipped = CONFIG_FOLDER / "agent" / "iql_tuned.yaml"
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "elsewhere.yaml").write_text(shipped.read_text())
    hashes = set()
    for name in ("iql_tuned", "elsewhere"):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            chosen = [f"agent={name}", f"hydra.searchpath=[file://{tmp_path}]"]
            hashes.add(read_settings(compose("run", chosen)).key.config_hash)
    assert len(hashes) == 1
