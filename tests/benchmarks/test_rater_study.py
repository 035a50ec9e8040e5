"""Evaluation by planted raters: hand-computed answers, planted favourites, an agent that fools the learned model."""

import csv
import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import rater_study, rater_tables, rater_verdicts
from benchmarks.evaluate import EvaluationConfig
from benchmarks.rater_study import Study, StudyConfig, ask, heard_of
from benchmarks.rater_verdicts import Heard, answer_shares, cluster_means, compare_orders, promised_and_felt, sentence
from benchmarks.runs import RunKey
from pasta_gym import worlds
from pasta_gym.mini import rater_users, raters
from pasta_gym.mini.rater_users import Crowd
from pasta_gym.trajectories import EnvironmentConfig, rater_environment
from pasta_gym.trajectories.rater_environment import RaterEnvironment
from tests.trajectories.rater_world import SIZES, LinearUsers, eye, rater_world, taste

LIKED, FAKED = (3, 1), (1, 1)  # category 2 offers the first style at place 2, category 0 the first palette at place 0
CALM = raters.RaterConfig(improvement_noise=0.0, satisfaction_noise=0.0, intent_penalty=0.0, subject_penalty=0.0)
CROWD = Crowd(size=6, end=6, temperature=8.0, judging=CALM)


class Shows:
    """Shows one place of the candidates in every column."""

    privileged = False

    def __init__(self, place, name="shows"):
        self.place, self.name = place, name

    def act(self, observations, seeds):
        return np.full((len(seeds), 4), self.place)


@pytest.fixture
def study(monkeypatch):
    """Raters who love one style and hate one palette; a learned model that has it the other way round."""
    likes = taste([LIKED], [FAKED], size=4.0)[raters.N_SUBJECTS :]
    people = raters.Raters(np.zeros(6, dtype=np.int64), np.tile(likes, (6, 1)), 8.0, CALM)
    monkeypatch.setattr(Crowd, "people", lambda self: people)
    world = rater_world(LinearUsers([taste([FAKED])]))
    monkeypatch.setitem(worlds.WORLDS, "rater_toy", lambda: world)
    monkeypatch.setattr(rater_environment, "read_by_eye", eye)
    worlds.make_world.cache_clear()
    environment = EnvironmentConfig(world="rater_toy", images="painter", split="test", **SIZES)
    envs = RaterEnvironment.like(environment, CROWD).make(6, reveal=True)
    config = StudyConfig(environment, None, EvaluationConfig(12, batch_size=6))
    yield Study(config, envs, np.zeros(6, dtype=np.int64))
    worlds.make_world.cache_clear()


def asked(study, agent, n=12):
    parts = [ask(study, agent, agent_seed=0, first_episode=first, n_episodes=6) for first in range(0, n, 6)]
    return rater_study.join_answers(parts)


def test_raters_become_satisfied_by_an_agent_that_always_shows_their_favourite(study):
    pleased, annoyed = asked(study, Shows(2)), asked(study, Shows(0))
    # Style 1 is worth 4 - 2 in logits, unless the picture happens to show the hated palette too.
    assert pleased.planted[:, -1].max() == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    assert np.median(pleased.satisfaction) == 5
    assert set(annoyed.satisfaction.tolist()) <= {1, 2}
    assert pleased.satisfaction.mean() > annoyed.satisfaction.mean() + 2
    assert_array_equal(pleased.raters, annoyed.raters)
    assert pleased.prompts == annoyed.prompts


def test_answers_follow_from_planted_utilities_of_the_same_conversations(study):
    answers = asked(study, Shows(7))
    change = np.diff(answers.planted, axis=1)
    assert_array_equal(answers.verdicts, np.where(np.abs(change) < CALM.same_band, 0, np.sign(change)))
    assert_array_equal(answers.satisfaction, np.rint(1 + 4 * answers.planted[:, -1]))
    assert len(set(answers.verdicts.reshape(-1).tolist())) == 3
    alone = ask(study, Shows(7), agent_seed=0, first_episode=6, n_episodes=2)
    assert_array_equal(alone.planted, answers.planted[6:8])
    assert_array_equal(alone.learned, answers.learned[6:8])


def test_an_agent_that_hacks_the_learned_model_is_seen_to(study):
    heard = {
        "untrained_generator": heard_of([asked(study, Shows(9))]),
        "honest": heard_of([asked(study, Shows(2))]),
        "hacker": heard_of([asked(study, Shows(0))]),
    }
    who = asked(study, Shows(9)).raters
    final = {kind: {n: getattr(h, kind)[:, :, -1] for n, h in heard.items()} for kind in ("planted", "learned")}
    orders = compare_orders(final["planted"], final["learned"], who, n_replicates=300)
    assert orders.by_raters[0] == "honest"
    assert orders.by_learned[0] == "hacker"
    assert ("hacker", "honest") in [(p.favourite, p.other) for p in orders.reversed_pairs if p.is_beyond_noise]
    said = sentence(orders, "The learned model")
    assert "The learned model is misled beyond noise: it puts " in said
    assert "hacker above honest by 0." in said
    gains = promised_and_felt(heard, "untrained_generator", who, n_replicates=300)
    promised, felt, excess = gains["hacker"]
    assert promised.low > 0 > felt.high
    assert excess.estimate == pytest.approx(promised.estimate - felt.estimate)
    assert gains["honest"][2].high < 0
    with pytest.raises(ValueError, match="'nobody' is not among"):
        promised_and_felt(heard, "nobody", who)


def test_agents_with_insides_of_the_environment_are_refused(study):
    agent = Shows(0)
    agent.privileged = True
    with pytest.raises(ValueError, match="which raters do not have"):
        ask(study, agent, agent_seed=0, first_episode=0, n_episodes=2)


def test_shares_by_hand():
    verdicts = np.array([[[1, 1], [1, 0], [-1, 0], [1, -1]]])
    zero = np.zeros((1, 4))
    heard = {"a": Heard(verdicts, zero, np.zeros((1, 4, 3)), np.zeros((1, 4, 3)))}
    shares = answer_shares(heard, np.arange(4), n_replicates=50)
    assert {key[1:]: i.estimate for key, i in shares.items()} == {
        **{(2, "better"): 0.75, (2, "same"): 0.0, (2, "worse"): 0.25},
        **{(3, "better"): 0.25, (3, "same"): 0.5, (3, "worse"): 0.25},
        **{(0, "better"): 0.5, (0, "same"): 0.25, (0, "worse"): 0.25},
    }
    assert shares["a", 2, "same"].low == shares["a", 2, "same"].high == 0


def test_raters_are_drawn_whole_with_their_conversations():
    rng = np.random.default_rng(0)
    # Two raters who are opposites, five conversations each: means are 0, 1/2 or 1 and nothing between.
    scores = {"a": np.repeat([[0.0, 1.0]], 5, axis=1)}
    drawn = cluster_means(scores, np.repeat([7, 3], 5), rng, 4000)["a"]
    values, counts = np.unique(drawn.round(9), return_counts=True)
    assert_allclose(values, [0, 0.5, 1], atol=1e-12)
    assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)
    # Agents share the draw, so that a constant difference has no noise.
    both = {"a": scores["a"], "b": scores["a"] + 0.2}
    drawn = cluster_means(both, np.repeat([7, 3], 5), rng, 100)
    assert_allclose(drawn["b"] - drawn["a"], 0.2)
    made = rater_verdicts.intervals({"a": scores["a"]}, np.repeat([7, 3], 5))["a"]
    assert (made.low, made.estimate, made.high) == pytest.approx((0.0, 0.5, 1.0))
    with pytest.raises(ValueError, match=r"must be finite and \(seeds, 3\)"):
        cluster_means(scores, np.arange(3), rng)


def test_orders_that_agree_and_orders_that_differ_within_noise():
    who = np.arange(4)
    planted = {"a": np.array([[0.1, 0.2, 0.1, 0.2]]), "b": np.array([[0.6, 0.7, 0.6, 0.7]])}
    same = compare_orders(planted, {"b": planted["b"], "a": planted["a"]}, who, n_replicates=100)
    assert same.by_raters == same.by_learned == ["b", "a"]
    assert "agree on the order of all 1 pairs" in sentence(same, "Judge")
    learned = {"a": np.array([[0.9, 0.1, 0.9, 0.2]]), "b": np.array([[0.1, 0.9, 0.1, 0.9]])}
    close = compare_orders(planted, learned, who, n_replicates=200)
    assert [(p.favourite, p.other, p.is_beyond_noise) for p in close.reversed_pairs] == [("a", "b", False)]
    assert "Within noise they differ on a and b." in sentence(close, "Judge")
    with pytest.raises(ValueError, match="both judges must have the same agents"):
        compare_orders(planted, {"a": learned["a"]}, who)


@pytest.fixture
def trained(configure, study, monkeypatch, tmp_path):
    """Runs of two agents on the toy world: one trained, one that learns nothing."""
    from benchmarks.run import read_settings, run

    toy = {f"env.{name}" if name == "world" else f"++env.{name}": value for name, value in SIZES.items()}
    overrides = ["env.world=rater_toy", "++env.slate_size=4", *(f"{name}={value}" for name, value in toy.items())]
    run(read_settings(configure(*overrides, "experiment_name=e")))
    run(
        read_settings(
            configure(*overrides, "experiment_name=e", agent="agents.random_slate.RandomAgent", name="random")
        )
    )
    monkeypatch.setattr(rater_study, "crowd_of", lambda labels, split: CROWD)
    monkeypatch.setattr(rater_study, "types_of_raters", lambda users, crowd, labels: np.zeros(6, dtype=np.int64))
    real = EnvironmentConfig
    monkeypatch.setattr(rater_study, "EnvironmentConfig", lambda **named: real(**named, **SIZES))
    return tmp_path / "runs" / "e"


def test_the_command_judges_finished_runs_and_goes_on_where_it_stopped(trained, monkeypatch, tmp_path, capsys):
    folder = trained
    command = [str(folder), "--world", "rater_toy", "--episodes", "8", "--batch", "3", "--baseline", "random"]
    asked_of = []
    real = rater_study.ask

    def dying(study, agent, **named):
        asked_of.append((agent.name, named["first_episode"]))
        if len(asked_of) == 5:
            raise KeyboardInterrupt
        return real(study, agent, **named)

    monkeypatch.setattr(rater_study, "ask", dying)
    with pytest.raises(KeyboardInterrupt):
        rater_study.main(command)
    page = tmp_path / "page.md"
    page.write_text("<!-- raters:begin -->\n<!-- raters:end -->\n")
    rater_study.main([*command, "--page", str(page), "--figure", str(tmp_path / "figure.png")])
    assert asked_of == [*(("random", i) for i in (0, 3, 6)), *(("own", i) for i in (0, 3, 3, 6))]
    rater_study.main(command)
    assert len(asked_of) == 7
    out = folder / "rater_study"
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    with (out / "turns.csv").open() as file:
        turns = list(csv.DictReader(file))
    assert {row["agent"] for row in turns} == {"random", "own/simulated"}
    assert {row["turn"] for row in turns} == {"2", "3", "4"}
    answers = rater_study.read_answers(out / "answers" / "own_simulated_seed_0.csv")
    assert_array_equal(answers.episodes, np.arange(8))
    for row in turns:
        if row["agent"] == "own/simulated":
            said = answers.verdicts[:, int(row["turn"]) - 2] == rater_verdicts.ANSWERS[row["answer"]]
            assert float(row["share"]) == pytest.approx(said.mean())
            assert float(row["low_99"]) <= float(row["share"]) <= float(row["high_99"])
    with (out / "agents.csv").open() as file:
        means = {(row["agent"], row["measure"]): float(row["mean"]) for row in csv.DictReader(file)}
    assert means["own/simulated", "satisfaction"] == pytest.approx(answers.satisfaction.mean(), abs=1e-6)
    assert means["own/simulated", "utility_raters"] == pytest.approx(answers.planted[:, -1].mean(), abs=1e-6)
    text = page.read_text()
    assert "8 conversations of each agent and seed with" in text
    assert "Raters: " in text
    assert "- Raters" in text.split("| excess |")[1]
    (out / "parts" / next((out / "parts").iterdir()).name / "0000000-3.csv").write_text("episode\n1\n")
    with pytest.raises(SystemExit, match="delete it and run again"):
        rater_study.main(command)


def test_the_runs_to_judge(trained):
    from benchmarks import runs

    folder = trained
    finished = runs.find_runs(folder)[0]
    arms = rater_study.arms_of(finished, "sparse", "rater_toy")
    assert list(arms) == ["random", "own/simulated"]
    more = [dataclasses.replace(r, key=dataclasses.replace(r.key, data="human", seed=4)) for r in finished]
    arms = rater_study.arms_of([*finished, *more], "sparse", "rater_toy")
    assert {name: len(own) for name, own in arms.items()} == {"random": 1, "own/human": 1, "own/simulated": 1}
    with pytest.raises(ValueError, match="with seed 0 is there twice"):
        rater_study.arms_of([*finished, *finished], "sparse", "rater_toy")
    with pytest.raises(ValueError, match="no finished run with reward 'dense'"):
        rater_study.arms_of(finished, "dense", "rater_toy")
    elsewhere = [dataclasses.replace(r, key=dataclasses.replace(r.key, world="mini_1")) for r in finished]
    # The same seed in another world is not the same arm twice.
    assert list(rater_study.arms_of([*finished, *elsewhere], "sparse", "rater_toy")) == ["random", "own/simulated"]
    with pytest.raises(ValueError, match=r"in world 'mini' of an agent without .*there are runs in mini_1, rater_toy"):
        rater_study.arms_of([*finished, *elsewhere], "sparse", "mini")
    episodes, scores = rater_tables.benchmark_scores([finished[0], finished[0]])
    assert scores.shape == (2, len(episodes))
    assert rater_tables.arm(RunKey("e", "", "iql", "sparse", "mixed", "mini", "surrogate", "test", 0)) == "iql/mixed"


def test_the_shipped_raters_who_were_held_out_are_found():
    import pathlib

    root = pathlib.Path(__file__).parents[2]
    crowd = rater_users.crowd_of(root / "data" / "labels_world_0", "test")
    assert (crowd.first, crowd.end, crowd.size) == (650, 750, 750)
