import contextlib
import csv
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import OmegaConf

from agents.foreign_past import ForeignPast
from benchmarks import diffusion_scores, html_report, report, runs
from benchmarks import run as run_module
from benchmarks.evaluate import EpisodeScores, EvaluationConfig, evaluate
from benchmarks.run import run
from benchmarks.settings import CONFIG_FOLDER, config_hash, read_settings, user_model_folder
from pasta_gym.candidates.llm import LLMCandidatesStats
from pasta_gym.trajectories import EnvironmentConfig


def rows_of(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_says_how_often_candidates_were_not_the_models(configure, monkeypatch):
    made = run_module.make_environment

    def counting(settings):
        envs = made(settings)
        envs._conversations.parts.candidates.stats = LLMCandidatesStats(proposals=7, fallback_prompts=3)
        return envs

    monkeypatch.setattr(run_module, "make_environment", counting)
    folder = run(read_settings(configure("seed=3")))
    stats = json.loads((folder / "metadata.json").read_text())["candidate_stats"]
    assert {name: count for name, count in stats.items() if count} == {"proposals": 7, "fallback_prompts": 3}


def test_a_run_directory_holds_what_the_contract_says(configure, tmp_path):
    folder = run(read_settings(configure("seed=2")))
    assert folder == tmp_path / "runs/default/own/sparse/simulated/tiny/surrogate/seed_2"
    rows = rows_of(folder)
    assert list(rows[0]) == [
        *("experiment", "config_hash", "agent", "reward", "data", "world", "images", "split", "seed", "episode"),
        *("prompt", "user_type", "episode_return", "final_utility"),
        *("utility_1", "utility_2", "utility_3", "utility_4"),
    ]
    assert [row["episode"] for row in rows] == [str(i) for i in range(10)]
    assert {row["split"] for row in rows} == {"test"}
    for row in rows:
        assert_allclose(float(row["episode_return"]), 10 * float(row["final_utility"]), rtol=1e-5)
        assert row["final_utility"] == row["utility_4"]
        assert 700 <= int(row["prompt"].split()[1]) < 1000  # the test split alone
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["dataset_id"]
    assert {"git_revision", "packages", "wall_seconds", "model_hashes"} <= set(metadata)
    assert "candidate_stats" not in metadata  # this world's candidates are no language model's
    saved = OmegaConf.load(folder / "config.yaml")
    assert saved.agent._target_ == "own_agent.OwnAgent"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 1.0, "training/loss": 2.5}
    mean = np.mean([float(r["episode_return"]) for r in rows])
    assert_allclose(lines[-1]["evaluation/episode_return"], mean, rtol=1e-4)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["config.yaml", "scores.csv", "metrics.jsonl", "metrics.csv", "metadata.json", "started.json", "checkpoint"]
    )


def test_dense_returns_are_the_sum_of_all_turns(configure):
    folder = run(read_settings(configure("reward=dense")))
    for row in rows_of(folder):
        utilities = [float(row[f"utility_{t}"]) for t in range(1, 5)]
        assert_allclose(float(row["episode_return"]), 10 * sum(utilities), rtol=1e-5)


def test_a_finished_run_is_left_alone_and_another_configuration_is_refused(configure):
    folder = run(read_settings(configure()))
    before = (folder / "scores.csv").stat().st_mtime_ns
    assert run(read_settings(configure())) == folder
    assert (folder / "scores.csv").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"another configuration .* set experiment_name or agent.name"):
        run(read_settings(configure("evaluation.seed=7")))


def test_new_weights_make_a_finished_run_stale(configure, monkeypatch):
    folder = run(read_settings(configure()))
    before = (folder / "scores.csv").stat().st_mtime_ns
    monkeypatch.setattr(run_module.provenance, "folder_hashes", lambda path: {"new": "weights"})
    run(read_settings(configure()))
    assert (folder / "scores.csv").stat().st_mtime_ns > before


def test_a_run_that_dies_in_its_evaluation_goes_on_with_the_same_numbers(configure, monkeypatch):
    whole = run(read_settings(configure()))
    expected = (whole / "scores.csv").read_text()
    calls = []
    real = run_module.evaluate

    def dying(*arguments, **named):
        calls.append(named["first_episode"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    def never(*arguments, **named):
        raise AssertionError("trained again")

    other = configure("experiment_name=again")
    monkeypatch.setattr(run_module, "evaluate", dying)
    with pytest.raises(KeyboardInterrupt):
        run(read_settings(other))
    folder = read_settings(other).folder
    assert not (folder / "scores.csv").exists()
    assert not (folder / "metadata.json").exists()
    assert runs.find_runs(folder)[2] == [folder]
    monkeypatch.setattr("own_agent.OwnAgent.train", never)
    run(read_settings(other))
    assert calls == [0, 4, 4, 8]
    strip = [",".join(line.split(",")[2:]) for line in expected.splitlines()]  # experiment and hash differ
    assert [",".join(line.split(",")[2:]) for line in (folder / "scores.csv").read_text().splitlines()] == strip
    assert not (folder / "parts").exists()


def test_a_run_that_dies_in_its_training_starts_it_again(configure, monkeypatch):
    real = __import__("own_agent").OwnAgent.train
    settings = read_settings(configure())

    def dying(self, dataset, *, seed, log):
        log({"step": 1.0, "loss": 99.0})
        raise KeyboardInterrupt

    monkeypatch.setattr("own_agent.OwnAgent.train", dying)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert not (settings.folder / "checkpoint").exists()
    monkeypatch.setattr("own_agent.OwnAgent.train", real)
    folder = run(settings)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["training/loss"] for line in lines if "training/loss" in line] == [2.5]
    assert len(rows_of(folder)) == 10


def test_a_checkpoint_is_scored_elsewhere_without_training(configure, monkeypatch):
    trained = run(read_settings(configure("seed=1", "reward=dense")))

    def never(*arguments, **named):
        raise AssertionError("trained again")

    monkeypatch.setattr("own_agent.OwnAgent.train", never)
    moved = configure(f"checkpoint={trained}", "images=diffusion", agent=None)
    settings = read_settings(moved)
    assert (settings.key.agent, settings.key.seed, settings.key.reward) == ("own", 1, "dense")
    folder = run(settings)
    assert {row["images"] for row in rows_of(folder)} == {"diffusion"}
    metadata = [json.loads((f / "metadata.json").read_text()) for f in (trained, folder)]
    assert metadata[0]["dataset_id"] == metadata[1]["dataset_id"]
    with pytest.raises(ValueError, match="must be a run directory"):
        read_settings(configure("checkpoint=/nowhere"))


def test_transfer_scores_the_agents_of_another_experiment_and_trains_nothing(configure, monkeypatch, tmp_path):
    trained = run(read_settings(configure("experiment=small", "seed=1")))
    (tmp_path / "runs/small/own/sparse/simulated/tiny/surrogate/seed_2").mkdir(parents=True)  # began, not finished

    def never(*arguments, **named):
        raise AssertionError("trained again")

    monkeypatch.setattr("own_agent.OwnAgent.train", never)
    episodes = "evaluation.n_episodes='${episodes_on:${images},{surrogate:9,diffusion:3}}'"
    columns = [f"utility_{turn}" for turn in range(1, 5)]
    for images, n in (("surrogate", 9), ("diffusion", 3)):
        settings = read_settings(configure("experiment=transfer", episodes, f"images={images}", "seed=1"))
        assert settings.resolved["checkpoint"] == str(trained)
        folder = run(settings)
        assert folder == tmp_path / f"runs/transfer/own/sparse/simulated/tiny/{images}/seed_1"
        assert len(rows_of(folder)) == n
        if images == "surrogate":
            assert [[row[c] for c in columns] for row in rows_of(folder)] == [
                [row[c] for c in columns] for row in rows_of(trained)[:9]
            ]
    before = (folder / "scores.csv").stat().st_mtime_ns
    run(settings)
    assert (folder / "scores.csv").stat().st_mtime_ns == before
    random = {"agent": "agents.random_slate.RandomAgent", "name": "random"}
    assert read_settings(configure("experiment=transfer", **random)).resolved["checkpoint"] is None
    with pytest.raises(ValueError, match=r"no finished run .*seed_2; train the agent first .*agent=own .* seed=2"):
        read_settings(configure("experiment=transfer", "seed=2"))
    with pytest.raises(ValueError, match=r"no number of episodes for images='oil', only for \['surrogate', "):
        read_settings(configure("experiment=transfer", episodes, "images=oil", **random))


def test_the_transfer_sweep_has_a_number_of_episodes_for_each_of_its_image_models():
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        params = compose("run", ["experiment=transfer"], return_hydra_config=True).hydra.sweeper.params
        names = params.images.split(",")
        for images in names:
            settings = read_settings(compose("run", ["experiment=transfer", "agent=random", f"images={images}"]))
            assert settings.evaluation.n_episodes >= 32
    assert names == ["surrogate", "painter", "diffusion", "diffusion_8"]
    assert {"random", "clairvoyant"} < set(params.agent.split(","))


def test_scores_on_diffusion_are_joined_for_every_agent(configure, tmp_path):
    learned = run(read_settings(configure()))
    run(read_settings(configure(agent="agents.random_slate.RandomAgent", name="random")))
    moved = learned.parents[6].rename(tmp_path / "moved")
    source = moved / learned.parents[5].name
    chosen = {"seeds": [0], "n_episodes": 3}
    wanted = diffusion_scores.diffusion_settings(source, agents=["own", "random"], rewards=["sparse"], **chosen)
    assert all(settings.folder.is_relative_to(moved) for settings in wanted)
    alone = diffusion_scores.diffusion_settings(source, agents=["own"], rewards=["sparse"], **chosen)
    assert [s.key for s in alone] == [s.key for s in wanted if s.key.agent == "own"]
    assert sorted(s.key.agent for s in wanted) == ["own", "random"]
    with pytest.raises(ValueError, match=r"no conversation has been scored yet"):
        diffusion_scores.collect(wanted, tmp_path / "joined.csv")
    run(wanted[0])
    diffusion_scores.collect(wanted, tmp_path / "joined.csv")
    assert [len(scores) for _, scores in runs.read_scores(tmp_path / "joined.csv")] == [3]
    run(wanted[1])
    diffusion_scores.collect(wanted[1:], tmp_path / "joined.csv")  # the other agent's rows stay
    joined = runs.read_scores(tmp_path / "joined.csv")
    assert [len(scores) for _, scores in joined] == [3, 3]
    before = (tmp_path / "joined.csv").read_text()
    diffusion_scores.collect(wanted, tmp_path / "joined.csv")
    assert (tmp_path / "joined.csv").read_text() == before
    notes = json.loads((tmp_path / "joined.json").read_text())
    assert {hash_: note["episodes"] for hash_, note in notes.items()} == {s.key.config_hash: 3 for s in wanted}
    assert {key.images for key, _ in joined} == {"diffusion"}
    with pytest.raises(ValueError, match=r"no finished surrogate run of \['own'\]"):
        diffusion_scores.diffusion_settings(source, agents=["own"], rewards=["dense"], **chosen)
    with pytest.raises(ValueError, match=r"no finished surrogate run of \['iql'\]"):
        diffusion_scores.diffusion_settings(source, agents=["own", "iql"], rewards=["sparse"], **chosen)


def test_scores_on_diffusion_go_on_from_what_was_shipped(configure, tmp_path, monkeypatch):
    learned = run(read_settings(configure("evaluation.n_episodes=40", "evaluation.batch_size=20")))
    source = learned.parents[5]
    chosen = {"agents": ["own"], "rewards": ["sparse"], "seeds": [0], "n_episodes": 40}
    (settings,) = diffusion_scores.diffusion_settings(source, **chosen)
    assert run_module.batches(settings) == [(0, 16), (16, 16), (32, 8)]
    played = runs.read_scores(run(settings) / "scores.csv")[0][1]
    folder, shipped = settings.folder, tmp_path / "shipped.csv"

    def kill_after(n_batches):
        shutil.rmtree(folder)
        calls = []

        def dies(*given, **named):
            calls.append(named["first_episode"])
            if len(calls) > n_batches:
                raise KeyboardInterrupt
            return evaluate(*given, **named)

        monkeypatch.setattr(run_module, "evaluate", dies)
        with contextlib.suppress(KeyboardInterrupt):
            run(settings)
        return calls

    assert kill_after(2) == [0, 16, 32]
    assert len(diffusion_scores.parts_of(settings)) == 32
    diffusion_scores.collect([settings], shipped)
    assert diffusion_scores.restore(settings, shipped) == 0  # the run has batches of its own
    shutil.rmtree(folder)
    assert diffusion_scores.restore(settings, shipped) == 32
    with monkeypatch.context() as patched:
        starts = []
        patched.setattr(run_module, "evaluate", lambda *g, **n: starts.append(n["first_episode"]) or evaluate(*g, **n))
        again = runs.read_scores(run(settings) / "scores.csv")[0][1]
    assert starts == [32]
    assert_array_equal(again.episodes, played.episodes)
    assert_allclose(again.chosen_utilities, played.chosen_utilities, atol=1e-6)
    # Other weights: nothing of it may be used.
    shutil.rmtree(folder)
    notes = json.loads(shipped.with_suffix(".json").read_text())
    notes[settings.key.config_hash]["models"] = "others"
    shipped.with_suffix(".json").write_text(json.dumps(notes))
    assert diffusion_scores.restore(settings, shipped) == 0


def test_the_table_of_diffusion_scores_pairs_conversations(tmp_path):
    def scores(returns):
        returns = np.asarray(returns, dtype=np.float64)
        n = len(returns)
        return EpisodeScores(np.arange(n), ["p"] * n, np.zeros(n, np.int64), returns, returns[:, None] / 10)

    def key(agent, images):
        return runs.RunKey("e", agent + images, agent, "sparse", "simulated", "mini", images, "test", 0)

    def write(path, *found):
        texts = [runs.scores_text(key(agent, images), scores(own)).splitlines() for agent, images, own in found]
        path.write_text("\n".join([texts[0][0], *(line for text in texts for line in text[1:])]) + "\n")

    write(tmp_path / "d.csv", ("random", "diffusion", [1, 2, 3, 4]), ("iql", "diffusion", [3, 4, 5]))
    home = [("iql", "surrogate", [9, 2.5, 3.5, 4.5, 0]), ("other", "surrogate", [1]), ("iql", "diffusion", [0, 0])]
    write(tmp_path / "s.csv", *home)
    rows = diffusion_scores.as_table(tmp_path / "d.csv", tmp_path / "s.csv").splitlines()[2:]
    assert rows[0].startswith("| random | sparse | 4 | 2.50 [")
    assert rows[0].endswith("|  |  |  |")
    # Against random's first three conversations, and against the surrogate's same three: (9 + 2.5 + 3.5) / 3 = 5.
    assert "| iql | sparse | 3 | 4.00 [" in rows[1]
    assert "| 2.00 [2.00, 2.00] | 5.00 | -1.00 [" in rows[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward=medium"], "reward must be one of .* got 'medium'"),
        (["images=oil"], "images must be one of .* got 'oil'"),
        (["seed=-1"], "seed must be a whole number"),
        (["+evaluation.n_episode=3"], "n_episode"),
        (["+env.slate_sise=3"], "slate_sise"),
        (["+data.n_epsodes=3"], "n_epsodes"),
        (["+rewards=dense"], r"unknown keys \['rewards'\]"),
        (["+tracking.wandbb=off"], "wandbb"),
    ],
)
def test_misspelt_keys_and_values_fail_at_launch(configure, overrides, message):
    with pytest.raises(Exception, match=message):
        read_settings(configure(*overrides))


def test_a_misspelt_top_level_key_does_not_compose(configure):
    with pytest.raises(Exception, match="rewardd"):
        configure("rewardd=dense")


def test_a_failing_run_says_so_in_its_directory_and_in_the_report(configure, tmp_path):
    run(read_settings(configure()))
    with pytest.raises(RuntimeError, match="cannot learn"):
        run(read_settings(configure("+agent.fails=true", name="broken")))
    reports = report.make_reports(tmp_path / "runs", n_replicates=50)
    assert [f["error"] for f in reports[0].failed] == ["RuntimeError: this agent cannot learn"]
    assert "cannot learn" in report.markdown(reports[0])


def test_the_readmes_command_for_an_agent_of_ones_own_runs(tmp_path, monkeypatch):
    page = (CONFIG_FOLDER.parent / "README.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class First" in block]
    (command,) = re.findall(r"`python -m benchmarks\.run ([^`]*my_agents\.First[^`]*)`", page)
    (tmp_path / "my_agents.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    small = [f"runs={tmp_path}", "evaluation.n_episodes=3", "tracking=none"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("run", [*shlex.split(command), *small])
    folder = run(read_settings(config))
    assert {row["agent"] for row in rows_of(folder)} == {"first"}
    assert len(rows_of(folder)) == 3


def test_an_agent_that_cannot_act_is_refused(configure):
    settings = read_settings(configure(agent="fractions.Fraction", name=None))
    with pytest.raises(ValueError, match=r"made a Fraction without name, privileged or act"):
        run(settings)


@pytest.mark.parametrize("path", sorted((CONFIG_FOLDER / "agent").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_agent_composes_and_its_name_is_its_file(path, monkeypatch):
    from hydra.utils import instantiate

    OmegaConf.register_new_resolver("user_model_folder", lambda world, *, _root_: f"folder of {world}", replace=True)
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("run", [f"agent={path.stem}"])
        settings = read_settings(config)
        assert settings.key.agent == path.stem
        made = instantiate(settings.resolved["agent"])
        assert callable(made) or made.name == path.stem
    finally:
        OmegaConf.register_new_resolver("user_model_folder", user_model_folder, replace=True)


def test_the_evaluation_written_out_in_conf_is_the_default():
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        settings = read_settings(compose("run"))
    assert settings.evaluation == EvaluationConfig()


@pytest.mark.parametrize("group", ["env", "data", "tracking", "experiment"])
def test_every_choice_of_every_group_composes(group):
    choices = sorted(p.stem for p in (CONFIG_FOLDER / group).glob("*.yaml"))
    assert choices
    for choice in choices:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            # Some experiments score agents of finished runs; one that learns nothing needs none.
            config = compose("run", [f"{group}={choice}", "agent=random"], return_hydra_config=True)
        params = config.hydra.sweeper.params or {}
        known = {p.stem for p in (CONFIG_FOLDER / "agent").glob("*.yaml")}
        assert set(str(params.get("agent", "random")).split(",")) <= known
        OmegaConf.set_struct(config, False)
        del config.hydra
        assert read_settings(config).key.experiment == ("default" if group != "experiment" else choice)


def test_the_same_episode_is_the_same_conversation_for_every_agent_and_batch(tiny):
    sizes = {"world": "tiny", "n_candidates": 9, "n_categories": 3, "slate_size": 3, "images_per_prompt": 2}
    environment = EnvironmentConfig(**sizes, horizon=4, split="test", reward="dense")
    own = __import__("own_agent").OwnAgent()
    made = []
    for offset, n_envs in ((0, 10), (0, 3), (1, 10)):
        own.offset = offset
        made.append(evaluate(own, environment.make(n_envs, reveal=True), EvaluationConfig(n_episodes=10), agent_seed=0))
    whole, batched, other = made
    assert_array_equal(whole.chosen_utilities, batched.chosen_utilities)
    assert whole.prompts == batched.prompts == other.prompts
    assert_array_equal(whole.user_types, other.user_types)
    assert (whole.chosen_utilities != other.chosen_utilities).any()
    later = evaluate(
        own, environment.make(3, reveal=True), EvaluationConfig(n_episodes=4), agent_seed=0, first_episode=6
    )
    assert_array_equal(later.chosen_utilities, other.chosen_utilities[6:])
    assert_array_equal(later.episodes, [6, 7, 8, 9])


@pytest.mark.parametrize("lacks", [("load",), ("save", "load")])
def test_a_learner_that_cannot_be_stored_is_not_scored_untrained(lacks):
    methods = {name: lambda self: None for name in ("act", "train", "save", "load") if name not in lacks}
    half = type("Half", (), {"name": "half", "privileged": False, **methods})()
    with pytest.raises(ValueError, match=f"agent 'half' has train and lacks {' and '.join(lacks)}"):
        run_module.require_whole_learner(half)
    del type(half).train
    run_module.require_whole_learner(half)


def test_agents_see_no_hidden_state_unless_they_are_privileged(tiny):
    sizes = {"world": "tiny", "n_candidates": 9, "n_categories": 3, "slate_size": 3, "images_per_prompt": 2}
    envs = EnvironmentConfig(**sizes, horizon=4, split="test").make(2, reveal=True)
    seen = {}

    class Spy(type(__import__("own_agent").OwnAgent())):
        offset = 0

        def __init__(self, privileged):
            super().__init__()
            self.offset, self.privileged = 0, privileged

        def act(self, observations, seeds):
            seen[self.privileged] = set(observations)
            return super().act(observations, seeds)

    for privileged in (False, True):
        evaluate(Spy(privileged), envs, EvaluationConfig(n_episodes=2), agent_seed=0)
    assert seen[False] == set(envs.single_observation_space.spaces)
    assert seen[True] - seen[False] == {"user_type", "prompt_ids", "initial_prompt_id"}


def test_a_folder_in_an_agents_configuration_counts_by_the_weights_in_it(tmp_path):
    def hash_with(folder, content):
        folder.mkdir(exist_ok=True)
        (folder / "weights.safetensors").write_bytes(content)
        resolved = {
            "agent": {"config": {"posterior_from": str(folder)}},
            "env": {},
            "evaluation": {},
            "data": {},
            "checkpoint": None,
        }
        return config_hash(resolved)

    assert hash_with(tmp_path / "here", b"1") == hash_with(tmp_path / "there", b"1")
    assert hash_with(tmp_path / "here", b"1") != hash_with(tmp_path / "there", b"2")


def test_a_privileged_belief_is_that_of_the_environments_users():
    def settings(*overrides):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return read_settings(compose("run", list(overrides)))

    assert settings("agent=iql", "++env.aggregator=max").environment.aggregator == "max"
    assert settings("agent=iql_privileged").environment.aggregator is None
    with pytest.raises(ValueError, match=r"env\.aggregator=max gives the users another aggregator"):
        settings("agent=iql_privileged", "++env.aggregator=max")


def test_a_dashboard_is_told_what_a_run_is_made_and_learned_from(configure, monkeypatch):
    class Listener:
        def __init__(self):
            self.artifacts, self.outcomes, self.calls = [], [], []

        def log(self, metrics):
            self.calls.append("log")

        def artifact(self, artifact):
            self.artifacts.append(artifact)

        def outcome(self, scores, facts):
            assert len(runs.read_scores(scores)[0][1]) == 10
            self.outcomes.append(facts)
            self.calls.append("outcome")

        def finish(self, *, failed=False):
            self.calls.append("failed" if failed else "finish")

    told, opened = [], []

    def make_tracker(config, folder, **named):
        opened.append(named)
        told.append(Listener())
        return told[-1]

    monkeypatch.setattr(run_module, "make_tracker", make_tracker)
    folder = run(read_settings(configure("seed=2")))
    metadata = json.loads((folder / "metadata.json").read_text())
    dataset, model = told[0].artifacts
    assert (dataset.name, dataset.kind) == (f"dataset-{metadata['dataset_id']}", "dataset")
    assert dataset.facts == json.loads((dataset.folder / "metadata.json").read_text())
    assert (model.kind, model.folder) == ("model", folder / "checkpoint")
    assert (model.facts["agent"], model.facts["dataset_id"]) == ("own", metadata["dataset_id"])
    assert told[0].outcomes == [
        {name: metadata[name] for name in ("privileged", "dataset_id", "git_revision", "wall_seconds")}
    ]
    assert told[0].calls[-2:] == ["outcome", "finish"]
    assert (opened[0]["key"]["experiment"], opened[0]["key"]["agent"]) == ("default", "own")
    run(read_settings(configure(f"checkpoint={folder}", "images=diffusion", agent=None)))
    assert told[1].artifacts == []  # nothing was trained there


def test_the_command_of_the_report_makes_the_same_run(configure, tmp_path):
    folder = run(read_settings(configure("seed=2")))
    [made], _, _ = runs.find_runs(folder)
    words = shlex.split(html_report.command(made))
    assert words[:3] == ["python", "-m", "benchmarks.run"]
    named = dict(zip(words[3::2], words[4::2], strict=False))
    with initialize_config_dir(named["--config-dir"], version_base="1.3"):
        # Of Hydra's own, compose takes no group of settings that is not beside the configuration.
        others = [word for word in words[7:] if not word.startswith("hydra")]
        again = read_settings(compose(named["--config-name"], [f"runs={tmp_path / 'again'}", *others]))
    assert again.key == made.key
    assert rows_of(run(again)) == rows_of(folder)


def test_no_slates_are_sent_of_an_agent_that_needs_two_conversations(configure, monkeypatch):
    monkeypatch.setattr("agents.random_slate.RandomAgent.plays_alone", False, raising=False)
    folder = run(read_settings(configure("+tracking.pictures=true", agent="agents.random_slate.RandomAgent")))
    assert not (folder / "pictures").exists()
    assert ForeignPast.plays_alone is False


def test_a_run_keeps_the_slates_of_one_conversation(configure):
    folder = run(read_settings(configure("+tracking.pictures=true", agent="agents.random_slate.RandomAgent")))
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    assert names == [f"slates-turn_{turn}.png" for turn in range(1, 5)]
    [made], _, _ = runs.find_runs(folder)
    assert html_report.pictures([made]).count("<img") == 4
