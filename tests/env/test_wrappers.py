import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

import pasta_gym  # noqa: F401  registers the ids
from pasta_gym import wrappers
from tests.env.tiny_world import TINY, TinyUsers, tiny_world

CATEGORIES = np.repeat(np.arange(5), 5)


def make(**changes):
    return gym.make("PastaT2I-v0", **{"world": tiny_world(), "images": "surrogate", **TINY, **changes})


def make_vec(n, **changes):
    arguments = {"world": tiny_world(), "images": "surrogate", **TINY, **changes}
    return gym.make_vec("PastaT2I-v0", num_envs=n, vectorization_mode="vector_entry_point", **arguments)


@pytest.mark.parametrize("slate_size", [2, 3])
def test_every_slate_with_one_per_category_has_one_index(slate_size):
    env = wrappers.SlateIndex(make(slate_size=slate_size))
    env.reset(seed=0)
    slates = {tuple(sorted(env.slate(i).tolist())) for i in range(int(env.action_space.n))}
    groups = np.arange(9).reshape(3, 3)
    expected = {
        tuple(sorted(pick))
        for chosen in itertools.combinations(range(3), slate_size)
        for pick in itertools.product(*groups[list(chosen)].tolist())
    }
    assert slates == expected
    assert len(expected) == env.action_space.n == 27
    for i in range(27):
        slate = env.slate(i)
        assert env.index(slate[::-1]) == i


def test_any_slate_has_one_index_without_the_rule():
    env = wrappers.SlateIndex(make(), one_per_category=False)
    env.reset(seed=0)
    slates = {tuple(env.slate(np.int64(i)).tolist()) for i in range(84)}
    assert env.action_space.n == 84 == len(slates)  # 9 choose 3
    assert env.index(np.array([8, 0, 4])) in range(84)
    np.testing.assert_array_equal(env.slate(env.index(np.array([8, 0, 4]))), [0, 4, 8])


def test_the_index_steps_like_the_slate():
    env, plain = wrappers.SlateIndex(make()), make()
    env.reset(seed=3)
    plain.reset(seed=3)
    slate = env.slate(20)
    assert data_equivalence(env.step(20), plain.step(slate))


@pytest.mark.parametrize("index", [27, -1, 1.0, np.nan, True, np.array([1]), "a"])
def test_indices_out_of_range(index):
    env = wrappers.SlateIndex(make())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"integer in 0\.\.26"):
        env.step(index)


def test_slates_without_an_index():
    env = wrappers.SlateIndex(make())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="different categories"):
        env.index(np.array([0, 1, 8]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_decoding_undoes_encoding(data):
    ranks = data.draw(st.lists(st.integers(0, 4), min_size=5, max_size=5))
    chosen = data.draw(st.permutations(range(5)))[:4]
    order = data.draw(st.permutations(range(25)))
    slate = np.array([5 * c + ranks[c] for c in chosen])
    shuffled = CATEGORIES[list(order)]
    moved = np.array([order.index(i) for i in slate])
    scores = wrappers.encode_slate(moved, shuffled)
    assert sorted(np.unique(scores)) == [-1, 1]
    assert scores.sum() == 4 - 21
    np.testing.assert_array_equal(wrappers.decode_scores(scores, shuffled, 4), np.sort(moved))


def test_scores_by_hand():
    categories = np.array([0, 0, 1, 1, 2, 2])
    scores = np.array([[0.1, 0.9, 0.3, 0.2, -0.5, -0.6], [0.5, 0.1, -0.2, 0.0, 0.0, 0.4]])
    slates = wrappers.decode_scores(scores, np.tile(categories, (2, 1)), 2)
    np.testing.assert_array_equal(slates, [[1, 2], [0, 5]])


def test_the_scores_step_like_the_slate():
    env, plain = wrappers.CandidateScores(make()), make()
    env.reset(seed=3)
    plain.reset(seed=3)
    slate = np.array([1, 5, 6])
    scores = wrappers.encode_slate(slate, np.repeat(np.arange(3), 3))
    assert data_equivalence(env.step(scores), plain.step(slate))


@pytest.mark.parametrize("scores", [np.full(9, np.nan), np.zeros(8), np.array(["a"] * 9), np.full(9, np.inf)])
def test_malformed_scores(scores):
    env = wrappers.CandidateScores(make())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="scores must"):
        env.step(scores)


def test_slates_that_scores_cannot_say():
    with pytest.raises(ValueError, match="two candidates of one category"):
        wrappers.encode_slate(np.array([0, 1, 8]), np.repeat(np.arange(3), 3))
    with pytest.raises(ValueError, match="as many categories"):
        wrappers.decode_scores(np.zeros(4), np.array([0, 0, 1, 1]), 3)


@pytest.mark.parametrize("wrapper", [wrappers.SlateIndex, wrappers.CandidateScores])
def test_a_step_before_the_first_conversation_says_so(wrapper):
    env = wrapper(make())
    with pytest.raises(ResetNeeded, match=r"no conversation has begun.* call reset\(\)"):
        env.step(env.action_space.sample())
    if wrapper is wrappers.SlateIndex:
        with pytest.raises(ResetNeeded, match="call reset"):
            env.index(np.array([0, 4, 8]))


@pytest.mark.parametrize("one_per_category", [True, False])
@pytest.mark.parametrize(
    ("slate", "message"),
    [
        ([0, 4, 30], r"indices in 0\.\.8, got 0\.\.30"),
        ([-1, 4, 8], r"indices in 0\.\.8, got -1\.\.8"),
        ([0, 4], r"must have shape \(3,\)"),
        ([[0, 4, 8]], r"must have shape \(3,\)"),
        ([0.0, 4.0, 8.0], "integers, got float64"),
        ([0, 4, 4], "has no number: its columns must be of different"),
    ],
)
def test_what_is_no_slate_has_no_index(one_per_category, slate, message):
    env = wrappers.SlateIndex(make(), one_per_category=one_per_category)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.index(slate)


@pytest.mark.parametrize("name", ["BelievedUserType", "RevealedUserType"])
def test_types_are_added_before_observations_are_flattened(name):
    message = r"added to observations with named keys, got Box; .* FlatObservation\(BelievedUserType\(env\)\)"
    with pytest.raises(ValueError, match=message):
        getattr(wrappers, name)(wrappers.FlatObservation(make()))
    with pytest.raises(ValueError, match=message):
        getattr(wrappers, f"Vector{name}")(wrappers.VectorFlatObservation(make_vec(2)))


def test_more_columns_than_categories():
    with pytest.raises(ValueError, match="a slate of 4 needs as many categories, but there are 3"):
        wrappers.CandidateScores(make(slate_size=4))
    with pytest.raises(ValueError, match="a slate of 4 needs as many categories, but there are 3"):
        wrappers.SlateIndex(make(slate_size=4))


def test_the_belief_starts_at_the_prior_and_finds_the_type():
    envs = wrappers.VectorBelievedUserType(make_vec(300, user_model=TinyUsers(temperature=30.0), reveal=True))
    obs, info = envs.reset(seed=1)
    np.testing.assert_allclose(obs["belief"], np.tile([0.5, 0.3, 0.2], (300, 1)), atol=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(4):
        obs, _, _, _, info = envs.step(rng.integers(0, 9, (300, 3)))
    assert obs in envs.observation_space
    np.testing.assert_allclose(obs["belief"].sum(axis=1), 1, atol=1e-5)
    of_true = np.take_along_axis(obs["belief"], info["user_type"][:, None], axis=1).mean()
    assert of_true > 0.6
    single = wrappers.BelievedUserType(make(user_model=TinyUsers(temperature=30.0)))
    single.reset(seed=1 + 7)
    rng = np.random.default_rng(0)
    for _ in range(4):
        alone, *_ = single.step(rng.integers(0, 9, (300, 3))[7])
    np.testing.assert_allclose(alone["belief"], obs["belief"][7], atol=1e-6)


def test_the_type_is_revealed_on_request():
    env = wrappers.RevealedUserType(make(reveal=True))
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        assert obs["user_type"] == info["user_type"]
    envs = wrappers.VectorRevealedUserType(make_vec(6, reveal=True))
    obs, info = envs.reset(seed=0)
    np.testing.assert_array_equal(obs["user_type"], info["user_type"])
    assert obs in envs.observation_space


def test_the_flat_layout_by_hand():
    env = wrappers.FlatObservation(wrappers.RevealedUserType(wrappers.BelievedUserType(make(reveal=True))))
    plain = wrappers.BelievedUserType(make())
    for e in (env, plain):
        e.reset(seed=4)
    flat, _, _, _, info = env.step(np.array([2, 5, 7]))
    obs, *_ = plain.step(np.array([2, 5, 7]))
    sizes = [1, 5, 12, 45, 9, 60, 144, 4, 3, 3]
    assert list(env.layout.slices) == list(wrappers.flat.ORDER)
    assert [s.stop - s.start for s in env.layout.slices.values()] == sizes
    assert flat.shape == (sum(sizes),)
    for name, value in obs.items():
        np.testing.assert_array_equal(flat[env.layout.slices[name]], np.ravel(value).astype(np.float32))
    np.testing.assert_array_equal(flat[-3:], np.eye(3)[info["user_type"]])


def test_the_flat_layout_is_the_one_of_exported_data():
    from pasta_gym.trajectories.export import flatten_observations

    envs = make_vec(4)
    obs, _ = envs.reset(seed=0)
    flat, _ = wrappers.VectorFlatObservation(envs).reset(seed=0)
    np.testing.assert_array_equal(flat, flatten_observations(obs))
    assert wrappers.VectorFlatObservation(envs).observation_space.contains(flat)


def test_keys_without_a_place_are_refused():
    with pytest.raises(ValueError, match="made of the keys"):
        wrappers.flat.FlatLayout(gym.spaces.Dict({"turn": gym.spaces.Discrete(2), "mood": gym.spaces.Discrete(2)}))


@pytest.mark.parametrize("wrapper", [wrappers.SlateIndex, wrappers.CandidateScores])
def test_wrappers_of_actions_say_where_they_belong(wrapper):
    env = gym.make("PastaT2I-v0", world=tiny_world(), images="surrogate", **TINY)
    with pytest.raises(ValueError, match=rf"FlatObservation\({wrapper.__name__}\(env\)\)"):
        wrapper(wrappers.FlatObservation(env))
    with pytest.raises(ValueError, match=f"{wrapper.__name__} wraps a PASTA environment, got .*CartPole"):
        wrapper(gym.make("CartPole-v1"))


@pytest.mark.parametrize("wrapper", [wrappers.VectorBelievedUserType, wrappers.VectorRevealedUserType])
def test_wrappers_of_vectors_name_the_vector_that_they_take(wrapper):
    vector = gym.make_vec(
        "PastaT2I-v0", num_envs=2, vectorization_mode="sync", world=tiny_world(), images="surrogate", **TINY
    )
    with pytest.raises(ValueError, match=r'SyncVectorEnv has no user_model.*vectorization_mode="vector_entry_point"'):
        wrapper(vector)
    vector.close()
