"""Runs of one row of a table: made alike but for their seeds, and scored in the same conversations."""

import copy
import json
import shutil

import pytest

from benchmarks import alike, report, runs, shards
from benchmarks.run import run
from benchmarks.settings import CONFIG_FOLDER, read_settings

CLAIM = "all training seeds of a row were made with the same settings"


def resolved_of(configure, *overrides):
    return copy.deepcopy(read_settings(configure(*overrides)).resolved)


def test_seeds_and_places_are_no_settings_and_all_else_is(configure, tmp_path):
    usual = alike.settings_hash(resolved_of(configure))
    same = (
        ("seed=3",),
        ("seed=3", "+data.seed=3"),
        ("evaluation.n_episodes=7", "evaluation.batch_size=2", "data.shard_size=3"),
        (f"runs={tmp_path / 'elsewhere'}", f"shards={tmp_path}", "tracking=none"),
    )
    for overrides in same:
        assert alike.settings_hash(resolved_of(configure, *overrides)) == usual, overrides
    other = ("evaluation.seed=7", "reward=dense", "+agent.fails=false", "data.n_episodes=11", "images=diffusion")
    assert len({usual, *(alike.settings_hash(resolved_of(configure, o)) for o in other)}) == 1 + len(other)


def test_folders_may_lie_elsewhere_and_a_mixed_dataset_has_seeds_of_its_parts(tmp_path):
    def made(folder, seed):
        data = {"human": {"seed": seed, "n_episodes": 5}, "simulated": {"seed": seed}, "human_repeats": 1}
        return {"agent": {"config": {"posterior_from": str(folder)}}, "data": data, "evaluation": {"seed": 0}}

    hashes = {alike.settings_hash(made(tmp_path / str(seed), seed)) for seed in range(3)}
    assert len(hashes) == 1
    assert alike.settings_hash(made("a/model/of/a/hub", 0)) not in hashes


def test_the_evaluation_of_a_trained_agent_says_the_same_of_every_seed(configure):
    trained = [run(read_settings(configure(f"seed={seed}"))) for seed in (0, 1)]
    moved = [
        run(read_settings(configure(f"checkpoint={folder}", "images=diffusion", agent=None))) for folder in trained
    ]
    found = runs.find_runs(trained[0].parents[5])[0]
    assert {one.folder for one in found} == {*trained, *moved}
    for images in ("surrogate", "diffusion"):
        assert len({alike.settings_of(one) for one in found if one.key.images == images}) == 1
    assert alike.unlike_rows(found) == []
    [made] = report.make_reports(trained[0].parents[5], n_replicates=20)
    assert CLAIM not in {check.claim for check in made.checks}


def test_a_row_of_two_configurations_fails_a_check_of_the_report(configure, tmp_path):
    run(read_settings(configure("seed=0")))
    run(read_settings(configure("seed=1", "+agent.dies_in=otherwise")))
    run(read_settings(configure("seed=2")))
    [made] = report.make_reports(tmp_path / "runs", n_replicates=20)
    [check] = [check for check in made.checks if check.claim == CLAIM]
    assert check.passed is False
    assert check.found.startswith("own, sparse, surrogate: seed 1 (")
    assert "seed_1) otherwise than seeds 0, 2 (" in check.found
    assert f"- NO: {CLAIM}" in report.markdown(made)


def test_shards_take_no_two_configurations_in_one_row(configure, tmp_path):
    folder = tmp_path / "shards"
    for name, seed, more in (("a", 0, ()), ("b", 1, ("+agent.dies_in=otherwise",)), ("c", 2, ())):
        run(read_settings(configure(f"runs={tmp_path / name}", f"seed={seed}", *more)))
    shards.collect(tmp_path / "a", folder)
    (shard,) = shards.shards_under(folder)
    record = json.loads(shards.sidecar(shard).read_text())
    assert record["0"]["settings_hash"] == alike.settings_of(runs.find_runs(tmp_path / "a")[0][0])
    said = rf"seed 0 \({shard}\) and seed 1 \({tmp_path / 'b'}/.*/seed_1\) were made with different .* agent.name"
    with pytest.raises(ValueError, match=said):
        shards.collect(tmp_path / "b", folder)
    with pytest.raises(ValueError, match=said):
        shards.collect(tmp_path / "b", folder, overwrite=True)
    assert len(shards.collect(tmp_path / "c", folder)) == 1
    # What this machine has and what a shard has are rows of one table as well.
    [made] = report.make_reports(tmp_path / "b", n_replicates=20, shards_folder=folder)
    assert [check.passed for check in made.checks if check.claim == CLAIM] == [False]
    # A shard of an older version does not say: nothing is known against it.
    older = {seed: {n: v for n, v in one.items() if n != "settings_hash"} for seed, one in record.items()}
    shards.sidecar(shard).write_text(json.dumps(older))
    assert len(shards.collect(tmp_path / "b", folder)) == 1


def test_shards_that_are_shipped_are_read_as_before():
    found = shards.read(CONFIG_FOLDER.parent / "benchmarks" / "results")
    assert len(found) > 9
    assert all(alike.settings_of(one) is None for one in found if "settings_hash" not in one.metadata)
    assert alike.unlike_rows(found) == []


def test_a_configuration_that_cannot_be_read_says_nothing(configure):
    folder = run(read_settings(configure()))
    [made] = runs.find_runs(folder)[0]
    assert alike.settings_of(made) is not None
    for text in ("agent: [", "agent: ${nowhere}", None):
        if text is None:
            (folder / runs.CONFIG).unlink()
        else:
            (folder / runs.CONFIG).write_text(text)
        assert alike.settings_of(made) is None, text


@pytest.mark.parametrize(("second", "name"), [("seed=0", "other"), ("seed=1", "own"), ("images=diffusion", "own")])
def test_conversations_of_another_evaluation_seed_are_not_paired(configure, tmp_path, second, name):
    first = run(read_settings(configure()))
    other = run(read_settings(configure("evaluation.seed=7", second, name=name)))
    with pytest.raises(ValueError, match=r"conversation 0 of .* their evaluation.seed differs") as raised:
        report.make_reports(tmp_path / "runs", n_replicates=20)
    assert str(first) in str(raised.value)
    assert str(other) in str(raised.value)


def test_a_run_that_lies_there_twice_is_refused(configure, tmp_path):
    folder = run(read_settings(configure()))
    copied = tmp_path / "runs" / "copy"
    shutil.copytree(folder, copied)
    named = (str(folder), str(copied))
    for read in (lambda root: report.make_reports(root), lambda root: shards.collect(root, tmp_path / "shards")):
        with pytest.raises(ValueError, match=r"are both own, sparse, .* seed 0 of default; move the copy") as raised:
            read(tmp_path / "runs")
        assert all(name in str(raised.value) for name in named)
    # Made with another configuration it is the same row and seed still.
    scores = (copied / runs.SCORES).read_text()
    (copied / runs.SCORES).write_text(scores.replace(read_settings(configure()).key.config_hash, "another"))
    with pytest.raises(ValueError, match="are both own"):
        runs.find_runs(tmp_path / "runs")
    shutil.rmtree(copied)
    shards.collect(tmp_path / "runs", tmp_path / "shards" / "one")
    shutil.copytree(tmp_path / "shards" / "one", tmp_path / "shards" / "two")
    with pytest.raises(ValueError, match="are both own"):
        shards.read(tmp_path / "shards")
