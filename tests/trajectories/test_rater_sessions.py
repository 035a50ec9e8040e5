"""Planted raters in the environment, what they say, and the rewards that the learned model gives their sessions."""

import dataclasses
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pasta_gym import worlds
from pasta_gym.mini import grammar, rater_data, rater_users, raters
from pasta_gym.mini.rater_sessions import paint_sessions
from pasta_gym.mini.rater_users import Crowd, RaterUsers, crowd_of
from pasta_gym.trajectories import CollectionConfig, EnvironmentConfig, load, rater_environment, regimes
from pasta_gym.trajectories.collection import collect
from pasta_gym.trajectories.rater_environment import RaterEnvironment, raters_of_episodes
from pasta_gym.trajectories.rater_rewards import MostLikelyType, labels_by_type, session_posteriors
from pasta_gym.trajectories.rater_sessions import RaterSessionsConfig
from tests.raters import test_rater_data
from tests.trajectories.rater_world import SIZES, LinearUsers, eye, rater_world, taste

WARM, NIGHT = (1, 1), (2, 2)  # some palette, some light
CROWD = Crowd(world_seed=3, size=20, first=4, end=12, temperature=6.0)


@pytest.fixture
def toy(monkeypatch):
    users = LinearUsers([taste([WARM]), taste([NIGHT])])
    world = rater_world(users)
    monkeypatch.setitem(worlds.WORLDS, "rater_toy", lambda: world)
    monkeypatch.setattr(rater_environment, "read_by_eye", eye)
    worlds.make_world.cache_clear()
    yield EnvironmentConfig(world="rater_toy", images="painter", **SIZES)
    worlds.make_world.cache_clear()


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raters")
    paint_sessions(test_rater_data.studio(), folder / "pool", test_rater_data.CONFIG, progress=False)
    rater_data.label(folder / "pool", folder / "labels", 0, test_rater_data.LABELS)
    return folder / "labels"


def play(environment, n=6, seed=11, crowd=CROWD, act=None):
    envs = RaterEnvironment.like(environment, crowd).make(n, reveal=True)
    observations, info = envs.reset(seed=seed)
    chosen, paid = [], []
    for _ in range(environment.horizon):
        slates = np.tile(np.arange(4), (n, 1)) if act is None else act(observations, info)
        observations, rewards, _, _, info = envs.step(slates)
        choice = observations["choices"][:, len(chosen)]
        chosen.append(info["utilities"][np.arange(n), choice])
        paid.append(rewards)
    return envs, observations, info, np.stack(chosen, axis=1), np.stack(paid, axis=1)


def test_raters_judge_the_pixels_by_their_own_tastes_and_pay_nothing(toy):
    envs, observations, info, _, paid = play(toy)
    who = info["user_type"]
    people = CROWD.people()
    assert len(people) == 8
    # The embeddings of the toy pictures are what the eye reads, so the last slate can be judged again from them.
    reads = observations["slate_images"][:, -1].astype(np.float64)
    values = grammar.slot_values(info["initial_prompt_id"])[:, None, None]
    pictures = raters.image_utilities(reads, values, people.weights[who][:, None, None], people.config)
    assert_allclose(info["utilities"], raters.column_utilities(pictures, people.config.best_image_sharpness), rtol=1e-6)
    assert_allclose(info["choice_probabilities"], raters.choice_probabilities(info["utilities"], 6.0), rtol=1e-6)
    assert (paid == 0).all()
    assert isinstance(envs.learned_users, LinearUsers)
    with pytest.raises(ValueError, match="reads embeddings of its own encoder"):
        envs.user_model.posterior(None, None, None)


def test_the_same_people_and_luck_meet_every_agent(toy):
    first, second = play(toy), play(toy, act=lambda o, i: np.tile(np.array([9, 8, 7, 6]), (6, 1)))
    assert_array_equal(first[2]["user_type"], second[2]["user_type"])
    assert_array_equal(first[2]["initial_prompt_id"], second[2]["initial_prompt_id"])
    assert not np.array_equal(first[3], second[3])
    assert_array_equal(CROWD.first + first[2]["user_type"], raters_of_episodes(11 + np.arange(6), CROWD))


def test_raters_need_pictures_and_a_crowd_that_exists(toy):
    with pytest.raises(ValueError, match='use one that paints: images="painter"'):
        play(dataclasses.replace(toy, images="surrogate"))
    with pytest.raises(ValueError, match="0 <= first < end <= size, got 5, 5, 20"):
        Crowd(size=20, first=5, end=5)
    with pytest.raises(ValueError, match="judge a column by its best picture"):
        RaterUsers(CROWD).with_aggregator("mean")


def test_raters_have_the_shapes_of_any_user_model():
    users, rng = RaterUsers(CROWD), np.random.default_rng(0)
    values = rater_users.slot_values_of(grammar.initial_prompt_ids("test")[:3])
    reads = rng.uniform(size=(3, 4, 2, raters.READ_SIZE))
    features = users.prompt_features(values)
    assert features.shape == (3, 8, 6)
    every = users.all_utilities(features, reads)
    assert every.shape == (3, 8, 4)
    types = np.array([7, 0, 3])
    # One rater's reading of the prompt counts, and the others' do not.
    features = np.array(features)
    for row, user_type in enumerate(types):
        features[row, np.arange(8) != user_type] = 0
    assert_allclose(users.utilities(types, features, reads), every[np.arange(3), types])


def test_verdicts_and_satisfaction_by_hand():
    still = raters.RaterConfig(improvement_noise=0.0, satisfaction_noise=0.0, same_band=0.05)
    chosen = np.array([[0.2, 0.3, 0.32, 0.1], [0.9, 0.9, 0.7, 0.74]])
    assert_array_equal(rater_users.verdicts(chosen, np.array([1, 2]), still), [[1, 0, -1], [0, -1, 0]])
    # 1 + 4 u: .1 is 1.4, .74 is 3.96.
    assert_array_equal(rater_users.final_satisfaction(chosen, np.array([1, 2]), still), [1, 4])
    noisy = raters.RaterConfig(improvement_noise=1.0)
    many = np.full((400, 2), 0.5)
    once, again = (rater_users.verdicts(many, np.arange(400), noisy) for _ in range(2))
    assert_array_equal(once, again)
    assert 0.4 < (once == 1).mean() < 0.6
    assert_array_equal(rater_users.verdicts(many[:3], np.array([7, 8, 9]), noisy), once[7:10])


def test_the_most_likely_type_by_hand():
    users = LinearUsers([taste([WARM]), taste([NIGHT])], temperature=2.0)
    images = np.zeros((1, 1, 2, 1, raters.READ_SIZE))
    images[0, 0, 0, 0] = taste([WARM], size=1.0)
    images[0, 0, 1, 0] = taste([NIGHT], size=1.0)
    prompts, choices = np.zeros((1, raters.READ_SIZE)), np.array([[0]])
    # Type 0 gives its column sigmoid(4) and the other .5; type 1 the other way round.
    best = 1 / (1 + np.exp(-4))
    odds = np.exp(2 * best) / np.exp(2 * 0.5)
    wanted = odds / (1 + odds)
    assert_allclose(session_posteriors(users, prompts, images, choices, np.zeros((1, 2)))[0, 0], wanted)
    # Other labels that are e^2 times as likely under type 1 outweigh odds of e^.96.
    both = session_posteriors(users, prompts, images, choices, np.array([[-5.0, -3.0]]))
    assert_allclose(both[0, 0], odds / (odds + np.exp(2)))
    assert both[0].argmax() == 1


def test_rewards_are_those_of_the_most_likely_type_for_every_turn(toy, tmp_path):
    users = worlds.make_world("rater_toy").user_model
    environment = RaterEnvironment.like(dataclasses.replace(toy, split="train"), CROWD)
    config = CollectionConfig(environment, 9, 1, shard_size=4)
    likely = np.zeros((8, 2))
    likely[:, 1] = 1000.0
    sure = load(collect(config, root=tmp_path, judge=MostLikelyType(users, CROWD, likely, {"labels": "a"})))
    rows = np.arange(9)
    for turn in range(4):
        shown = sure.slate_images[:, turn].astype(np.float64)[rows, sure.choices[:, turn]]
        assert_allclose(sure.rewards[:, turn], 10 * raters.sigmoid(shown @ users.tastes[1]).max(axis=-1), rtol=1e-6)
    free = load(collect(config, root=tmp_path, judge=MostLikelyType.of(users, CROWD, None)))
    assert free.metadata["dataset_id"] != sure.metadata["dataset_id"]
    assert free.metadata["rewards"]["posterior"] == "choices of the session"
    assert_array_equal(free.choices, sure.choices)
    assert (free.rewards != sure.rewards).any()
    plain = load(collect(dataclasses.replace(config, environment=toy), root=tmp_path))
    assert "rewards" not in plain.metadata


def test_users_of_another_world_say_nothing_about_these_raters():
    users = LinearUsers([taste([WARM])])
    users.metadata = {"data": {"world_seed": CROWD.world_seed}}
    assert MostLikelyType.of(users, CROWD, None).crowd == CROWD
    users.metadata = {"data": {"world_seed": CROWD.world_seed + 1}}
    with pytest.raises(ValueError, match=r"those of world 3, .* fitted to those of world 4.*--world 4"):
        MostLikelyType.of(users, CROWD, None)


def test_sessions_are_logged_with_the_raters_of_the_labels_and_go_on_where_they_stopped(
    toy, labels, tmp_path, monkeypatch
):
    config = RaterSessionsConfig(
        dataclasses.replace(toy, split="train"), str(labels), use_labels=False, n_episodes=7, shard_size=3
    )
    folder = config.collect(root=tmp_path / "whole")
    told = []

    def dying(done, n):
        told.append(done)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        config.collect(root=tmp_path / "killed", progress=dying)
    assert not list((tmp_path / "killed").glob("*/metadata.json"))
    played = []
    real = rater_environment.RaterVectorEnv.reset

    def counted(self, **named):
        played.append(named)
        return real(self, **named)

    monkeypatch.setattr(rater_environment.RaterVectorEnv, "reset", counted)
    again = config.collect(root=tmp_path / "killed")
    assert len(played) == 1
    config.collect(root=tmp_path / "killed")
    assert len(played) == 1
    first, second = load(folder), load(again)
    assert folder.name == again.name
    assert_array_equal(first.rewards, second.rewards)
    assert_array_equal(first.slate_images, second.slate_images)
    crowd = first.metadata["environment"]["crowd"]
    assert (crowd["first"], crowd["end"], crowd["size"]) == (0, 10, 16)
    assert json.loads((folder / "metadata.json").read_text())["rewards"]["rule"].endswith("appendix B.4")
    assert first.rewards.min() > 0
    assert crowd_of(labels, "test") == dataclasses.replace(crowd_of(labels, "train"), first=12, end=16)


def test_labels_of_other_people_are_refused(labels, tmp_path, monkeypatch):
    real = rater_data.load_truth(labels)
    other = dataclasses.replace(real, raters=dataclasses.replace(real.raters, weights=real.raters.weights + 0.1))
    monkeypatch.setattr(rater_users, "load_truth", lambda folder: other)
    with pytest.raises(ValueError, match="not those of world 0 any more"):
        crowd_of(labels, "train")


def test_other_labels_are_read_as_the_fit_reads_them(labels):
    import torch

    from pasta_gym.user_model import UserModel
    from pasta_gym.user_model.data import load_preferences
    from pasta_gym.user_model.figures import posterior_from_all_labels
    from pasta_gym.user_model.network import ScoreModel
    from pasta_gym.user_model.user_model import ChoiceNumbers

    model = ScoreModel(
        test_rater_data.DIM,
        3,
        image_scale=1,
        text_scale=1,
        noise=0.5,
        comparison_temperature=4,
        generator=torch.Generator().manual_seed(1),
    )
    users = UserModel(model, np.array([0.2, 0.3, 0.5]), {"softmax": ChoiceNumbers(3.0, 5.0)})
    who = np.array([2, 5, 9])
    joint = np.log(users.prior) + labels_by_type(users, labels, who)
    posterior = np.exp(joint - joint.max(axis=1, keepdims=True))
    wanted = posterior_from_all_labels(users, load_preferences(labels), who)
    assert_allclose(posterior / posterior.sum(axis=1, keepdims=True), wanted, rtol=1e-4)
    with pytest.raises(ValueError, match="set use_labels=false"):
        labels_by_type(LinearUsers(np.zeros((2, 38))), labels, who)


def test_mixed_data_are_the_rows_of_both(toy, labels):
    human = RaterSessionsConfig(toy, str(labels), use_labels=False, n_episodes=3)
    simulated = CollectionConfig(toy, 5)
    mixed = regimes.MixedConfig(dataclasses.replace(toy, split="train"), human, simulated, human_repeats=2)
    parts = [regimes.dataset_of(part) for part in (human, simulated)]
    joined = regimes.dataset_of(mixed)
    assert len(joined) == 11
    assert [p["n_episodes"] for p in joined.metadata["parts"]] == [3, 3, 5]
    for rows, part in ((np.arange(3), parts[0]), (np.arange(3, 6), parts[0]), (np.arange(6, 11), parts[1])):
        for turn in (0, 3):
            ours = joined.observations(rows, np.full(len(rows), turn))
            theirs = part.observations(np.arange(len(rows)), np.full(len(rows), turn))
            for name, values in theirs.items():
                assert_array_equal(ours[name], values)
            words = joined.texts(rows, np.full(len(rows), turn))["candidate_texts"]
            assert_array_equal(words, part.texts(np.arange(len(rows)), np.full(len(rows), turn))["candidate_texts"])
        assert_array_equal(joined.rewards[rows], part.rewards)
    sparse = joined.with_reward("sparse")
    assert (sparse.rewards[:, :-1] == 0).all()
    with pytest.raises(ValueError, match="equal sizes and rewards"):
        regimes.join([parts[0], parts[1].with_reward("sparse")])
    with pytest.raises(ValueError, match="human_repeats must be 1 or more, got 0"):
        regimes.MixedConfig(human_repeats=0)


def test_the_configurations_of_all_three_regimes_can_be_read():
    from hydra import compose, initialize_config_dir

    from benchmarks.settings import CONFIG_FOLDER, read_settings

    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        made = {name: read_settings(compose("run", [f"data={name}"])) for name in ("human", "simulated", "mixed")}
    assert made["human"].data.environment.images == "painter"
    assert made["human"].data.environment.split == "train"
    assert made["human"].data.n_episodes == 7000
    mixed = made["mixed"].data
    assert dataclasses.replace(mixed.human, environment=made["human"].data.environment) == made["human"].data
    assert dataclasses.replace(mixed.simulated, environment=mixed.environment) == made["simulated"].data
    assert len({s.key.config_hash for s in made.values()}) == 3
