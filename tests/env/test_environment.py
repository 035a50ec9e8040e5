import copy
import functools
import hashlib
import pathlib
import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence

import pasta_gym  # noqa: F401  registers the ids
from pasta_gym import wrappers
from pasta_gym.envs.core import occurrences, sample_choices, sample_user_types
from pasta_gym.types import (
    CandidateGenerator,
    ImageGenerator,
    PromptBook,
    TextEncoder,
    UserModelProtocol,
)
from tests.env.tiny_world import N_TYPES, PRIOR, TINY, TITLES, PaintedImages, TinyUsers, tiny_world

ROOT = pathlib.Path(__file__).parents[2]
HORIZON, SLATE = TINY["horizon"], TINY["slate_size"]


def make(**changes):
    return gym.make("PastaT2I-v0", **{"world": tiny_world(), "images": "surrogate", **TINY, **changes})


def make_vec(n, **changes):
    arguments = {"world": tiny_world(), "images": "surrogate", **TINY, **changes}
    return gym.make_vec("PastaT2I-v0", num_envs=n, vectorization_mode="vector_entry_point", **arguments)


def actions_of(n_turns, seed=0):
    return np.random.default_rng(seed).integers(0, TINY["n_candidates"], (n_turns, SLATE))


def play(env, actions, seed=None, options=None):
    """Every observation, reward and info of an episode."""
    steps = [(*env.reset(seed=seed, options=options), 0.0)]
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        steps.append((obs, info, reward))
        assert not truncated
        assert terminated == (obs["turn"] == HORIZON)
    return steps


def test_the_tiny_parts_follow_the_protocols():
    world = tiny_world()
    assert isinstance(world.prompt_book, PromptBook)
    assert isinstance(world.text_encoder, TextEncoder)
    assert isinstance(world.image_generator("surrogate"), ImageGenerator)
    assert isinstance(world.candidate_generator("train", 9, 3), CandidateGenerator)
    assert isinstance(world.user_model, UserModelProtocol)


WRAPPED = {
    "plain": lambda env: env,
    "index": wrappers.SlateIndex,
    "free index": functools.partial(wrappers.SlateIndex, one_per_category=False),
    "scores": wrappers.CandidateScores,
    "belief": wrappers.BelievedUserType,
    "revealed": wrappers.RevealedUserType,
    "flat": wrappers.FlatObservation,
    "all": lambda env: wrappers.FlatObservation(
        wrappers.RevealedUserType(wrappers.BelievedUserType(wrappers.CandidateScores(env)))
    ),
}


@pytest.mark.parametrize("reward", ["sparse", "dense"])
@pytest.mark.parametrize("images", ["surrogate", "diffusion"])
def test_gymnasium_finds_nothing_to_complain_about(images, reward):
    check_env(make(images=images, reward=reward).unwrapped)


@pytest.mark.parametrize("name", WRAPPED)
def test_gymnasium_finds_nothing_wrong_with_the_wrappers(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(WRAPPED[name](make(images="diffusion", reveal=True)))


@pytest.mark.parametrize("name", WRAPPED)
def test_sampled_actions_never_crash(name):
    env = WRAPPED[name](make())
    env.action_space.seed(3)
    for episode in range(3):
        obs, _ = env.reset(seed=episode)
        terminated = False
        while not terminated:
            assert obs in env.observation_space
            obs, _, terminated, _, _ = env.step(env.action_space.sample())


def test_shapes_and_types_are_the_contract():
    obs, _ = make().reset(seed=0)
    shapes = {name: (np.shape(value), np.asarray(value).dtype) for name, value in obs.items()}
    assert shapes == {
        "turn": ((), np.int64),
        "initial_prompt": ((5,), np.float32),
        "initial_images": ((2, 6), np.float32),
        "candidates": ((9, 5), np.float32),
        "categories": ((9,), np.int64),
        "slate_prompts": ((4, 3, 5), np.float32),
        "slate_images": ((4, 3, 2, 6), np.float32),
        "choices": ((4,), np.int64),
    }
    assert make(images="diffusion").spec.kwargs["images"] == "diffusion"
    assert gym.make("pasta_gym:PastaT2I-v0", world=tiny_world(), **TINY).unwrapped.config.images == "diffusion"


def test_the_history_is_what_was_shown():
    env = make(reveal=True)
    actions = actions_of(HORIZON, seed=5)
    steps = play(env, actions, seed=11)
    for t, action in enumerate(actions):
        (before, told, _), (after, info, _) = steps[t], steps[t + 1]
        np.testing.assert_array_equal(after["slate_prompts"][t], before["candidates"][action])
        np.testing.assert_array_equal(info["slate_ids"], told["candidate_ids"][action])
        assert info["slate"] == tuple(told["candidates"][i] for i in action)
        assert info["chosen_prompt"] == info["slate"][after["choices"][t]]
        assert after["turn"] == t + 1
        np.testing.assert_array_equal(after["choices"][t + 1 :], -1)
        assert not after["slate_images"][t + 1 :].any()
        assert not after["slate_prompts"][t + 1 :].any()
        np.testing.assert_array_equal(after["slate_images"][:t], before["slate_images"][:t])
        np.testing.assert_array_equal(after["initial_images"], before["initial_images"])
        assert after["slate_images"][t].std() > 0.1
        assert (np.abs(np.diff(after["slate_images"][t], axis=1)).max(axis=-1) > 0.01).all()  # M images differ
        users = TinyUsers()
        features = users.prompt_features(after["initial_prompt"][None])
        utilities = users.utilities(np.array([info["user_type"]]), features, after["slate_images"][t][None])
        np.testing.assert_allclose(info["utilities"], utilities[0], atol=1e-6)
    assert steps[0][1]["category_titles"] == TITLES
    assert steps[0][1]["slate"] == ()


def test_dense_pays_every_turn_and_sparse_the_last_of_the_same_luck():
    actions = actions_of(HORIZON, seed=2)
    dense = play(make(reward="dense", reveal=True), actions, seed=4)
    sparse = play(make(reveal=True), actions, seed=4)
    chosen = [10 * info["utilities"][obs["choices"][t]] for t, (obs, info, _) in enumerate(dense[1:])]
    np.testing.assert_allclose([reward for *_, reward in dense[1:]], chosen)
    assert [reward for *_, reward in sparse] == [0.0] * HORIZON + [pytest.approx(chosen[-1])]
    assert max(chosen) - min(chosen) > 0.1
    assert all(0 <= reward <= 10 for reward in chosen)


def test_the_hidden_state_stays_hidden():
    visible = {"initial_prompt", "candidates", "category_titles", "slate", "chosen_prompt"}
    ids = {"initial_prompt_id", "candidate_ids", "slate_ids", "chosen_prompt_id"}
    for obs, info, _ in play(make(), actions_of(HORIZON), seed=3):
        assert set(info) == visible | ids
        assert "user_type" not in obs
    for reveal, shown in ((False, ids), (True, ids | {"user_type", "utilities", "choice_probabilities"})):
        envs = make_vec(2, reveal=reveal)
        start, info = envs.reset(seed=3)
        assert set(info) == shown
        for action in actions_of(HORIZON + 1):  # over the end of the conversation, too
            obs, *_, info = envs.step(np.stack([action, action]))
            assert set(info) == shown
            assert set(obs) == set(start)


def test_one_turn_in_sparse_mode_tells_types_apart_by_the_choice_alone():
    action = np.array([0, 4, 8])
    results = []
    for user_type in range(N_TYPES):
        env = make()
        start, _ = env.reset(seed=8, options={"user_type": user_type})
        obs, reward, *_ = env.step(action)
        results.append((start, obs, reward))
    for start, obs, reward in results[1:]:
        assert data_equivalence(start, results[0][0])
        np.testing.assert_array_equal(obs["slate_images"], results[0][1]["slate_images"])
        assert reward == results[0][2] == 0


def test_a_seed_fixes_everything_and_later_episodes_differ():
    env, other = make(), make()
    actions = actions_of(HORIZON)
    first = play(env, actions, seed=21)
    second = play(env, actions)
    assert data_equivalence(first, play(other, actions, seed=21))
    assert not data_equivalence(first, second)
    assert data_equivalence(second, play(other, actions))
    assert not data_equivalence(first, play(other, actions, seed=22))


def test_without_a_seed_every_environment_is_its_own():
    actions = actions_of(HORIZON)
    assert not data_equivalence(play(make(), actions), play(make(), actions))


@pytest.mark.parametrize("images", ["surrogate", "diffusion"])
def test_a_vector_is_so_many_single_environments(images):
    n, turns = 5, 2 * HORIZON + 3
    actions = np.random.default_rng(1).integers(0, 9, (turns, n, SLATE))
    envs = make_vec(n, images=images, reward="dense", reveal=True)
    batch, batch_info = envs.reset(seed=70)
    singles = [make(images=images, reward="dense", reveal=True) for _ in range(n)]
    rows = [env.reset(seed=70 + i) for i, env in enumerate(singles)]
    over = np.zeros(n, dtype=bool)
    for t in range(turns):
        for i, (obs, info) in enumerate(rows):
            for name, value in obs.items():
                np.testing.assert_allclose(batch[name][i], value, atol=1e-5)
            for name in ("initial_prompt_id", "candidate_ids", "slate_ids", "user_type", "utilities"):
                np.testing.assert_allclose(batch_info[name][i], info[name], atol=1e-5)
        batch, rewards, terminated, truncated, batch_info = envs.step(actions[t])
        assert not truncated.any()
        for i, env in enumerate(singles):
            if over[i]:  # the next step begins anew, whatever the action
                rows[i], reward, ended = env.reset(), 0.0, False
            else:
                obs, reward, ended, _, info = env.step(actions[t, i])
                rows[i] = obs, info
            assert rewards[i] == pytest.approx(reward, abs=1e-5)
            assert terminated[i] == ended
        over = terminated
    assert envs.observation_space.contains(batch)


def test_conversations_out_of_step_restart_one_by_one():
    envs = make_vec(3)
    envs.reset(seed=0)
    core = envs.unwrapped._conversations
    for _ in range(HORIZON - 1):
        envs.step(envs.action_space.sample())
    core.begin(np.array([1]), np.array([50], dtype=np.uint64), np.array([0]))
    obs, _, terminated, _, _ = envs.step(envs.action_space.sample())
    assert terminated.tolist() == [True, False, True]
    running = obs["slate_images"][1, 0].copy()
    obs, rewards, terminated, _, _ = envs.step(envs.action_space.sample())
    assert obs["turn"].tolist() == [0, 2, 0]
    assert rewards.tolist() == [0, 0, 0]
    assert (obs["choices"][[0, 2]] == -1).all()
    assert not obs["slate_images"][[0, 2]].any()
    np.testing.assert_array_equal(obs["slate_images"][1, 0], running)
    assert not terminated.any()


def test_another_process_sees_the_same():
    code = "import numpy as np\nfrom tests.env.test_environment import fingerprint\nprint(fingerprint())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == fingerprint()


def fingerprint():
    """A hash of choices, ids and rounded rewards of two episodes of eight conversations."""
    envs = make_vec(8, reward="dense", reveal=True)
    _, info = envs.reset(seed=2024)
    actions = np.random.default_rng(0).integers(0, 9, (2 * HORIZON + 1, 8, SLATE))
    digest = hashlib.sha256(info["candidate_ids"].astype("<i8").tobytes())
    for action in actions:
        obs, rewards, _, _, info = envs.step(action)
        for part in (obs["choices"], info["candidate_ids"], info["user_type"], np.rint(rewards * 1000).astype(int)):
            digest.update(np.asarray(part).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def test_golden_rollout():
    # Another value is another version of the environment: register v1 instead of changing v0.
    assert fingerprint() == GOLDEN


GOLDEN = "a2e1c05c7d5f7a55"


def test_permuting_the_slate_permutes_images_and_choice():
    for seed in range(25):
        env = make(reveal=True)
        env.reset(seed=seed)
        action = np.random.default_rng(seed).permutation(9)[:SLATE]
        obs, _, _, _, info = env.step(action)
        order = np.array([2, 0, 1])
        env.reset(seed=seed)
        moved, _, _, _, moved_info = env.step(action[order])
        np.testing.assert_array_equal(moved["slate_images"][0], obs["slate_images"][0][order])
        np.testing.assert_allclose(moved_info["utilities"], info["utilities"][order], atol=1e-12)
        assert order[moved["choices"][0]] == obs["choices"][0]
        assert moved_info["chosen_prompt"] == info["chosen_prompt"]
        np.testing.assert_array_equal(moved["candidates"], obs["candidates"])


def test_a_repeated_index_is_legal_and_has_images_of_its_own():
    env = make()
    env.reset(seed=1)
    obs, *_ = env.step(np.array([4, 4, 2]))
    images = obs["slate_images"][0]
    assert (np.abs(images[0] - images[1]).max(axis=-1) > 0.01).all()
    env.reset(seed=1)
    alone, *_ = env.step(np.array([0, 2, 4]))
    np.testing.assert_array_equal(alone["slate_images"][0][2], images[0])  # the first 4 is the same either way
    chosen = set()
    for seed in range(60):
        env.reset(seed=seed)
        chosen.add(int(env.step(np.array([4, 4, 4]))[0]["choices"][0]))
    assert chosen == {0, 1, 2}


def test_images_do_not_depend_on_what_else_is_shown_and_do_on_the_turn():
    env = make()
    env.reset(seed=6)
    first, *_ = env.step(np.array([1, 3, 5]))
    env.reset(seed=6)
    second, *_ = env.step(np.array([5, 7, 8]))
    np.testing.assert_array_equal(first["slate_images"][0][2], second["slate_images"][0][0])
    core = env.unwrapped._conversations
    slate = np.array([[1, 2, 3]])
    now = core.image_keys(np.array([0]), slate, np.array([1]))
    later = core.image_keys(np.array([0]), slate, np.array([2]))
    assert len(np.unique([now, later])) == 2 * 3 * 2


def test_users_and_prompts_follow_their_distributions():
    envs = make_vec(4000, reveal=True, split="test")
    _, info = envs.reset(seed=0)
    shares = np.bincount(info["user_type"], minlength=N_TYPES) / 4000
    np.testing.assert_allclose(shares, PRIOR, atol=4 * np.sqrt(0.25 / 4000))
    assert info["initial_prompt_id"].min() >= 700
    assert len(np.unique(info["initial_prompt_id"])) == 300


def test_choices_follow_the_choice_model():
    envs = make_vec(6000, reveal=True)
    envs.reset(seed=9)
    obs, _, _, _, info = envs.step(np.tile([0, 4, 8], (6000, 1)))
    p, choice = info["choice_probabilities"], obs["choices"][:, 0]
    np.testing.assert_allclose(p.sum(axis=1), 1)
    logits = 6.0 * info["utilities"]
    np.testing.assert_allclose(p, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-6)
    expected = np.log(np.take_along_axis(p, choice[:, None], axis=1)).mean()
    assert expected == pytest.approx((p * np.log(p)).sum(axis=1).mean(), abs=0.03)
    best = p.argmax(axis=1) == choice
    assert best.mean() == pytest.approx(p.max(axis=1).mean(), abs=0.02)


def test_showing_what_the_user_likes_pays_more():
    users, returns = TinyUsers(), {}
    for sign in (1, -1):
        envs = make_vec(200, reward="dense", reveal=True)
        obs, info = envs.reset(seed=5)
        total = 0.0
        for _ in range(HORIZON):
            means = 2 * _directions(info["candidate_ids"])
            features = users.prompt_features(obs["initial_prompt"])
            liked = users.utilities(info["user_type"], features, means[:, :, None])
            obs, rewards, _, _, info = envs.step(np.argsort(-sign * liked, axis=1)[:, :SLATE])
            total += rewards.mean()
        returns[sign] = total
    assert returns[1] > returns[-1] + 4


def _directions(ids):
    from pasta_gym.seeding import mix, normals

    return normals(mix(ids, 8), 6)


def test_options_fix_the_prompt_and_the_user():
    env = make(reveal=True)
    _, info = env.reset(seed=0, options={"prompt": "prompt 777", "user_type": 2})
    assert (info["initial_prompt"], info["user_type"]) == ("prompt 777", 2)
    envs = make_vec(3, reveal=True)
    _, info = envs.reset(seed=0, options={"prompt": ["prompt 1", "prompt 2", "prompt 3"], "user_type": 1})
    assert info["initial_prompt_id"].tolist() == [1, 2, 3]
    assert info["user_type"].tolist() == [1, 1, 1]
    _, info = envs.reset(seed=0, options={"prompt": "prompt 5", "user_type": np.array([2, 1, 0])})
    assert info["initial_prompt_id"].tolist() == [5, 5, 5]
    assert info["user_type"].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"promt": "x"}, "takes the options"),
        ({"prompt": "a unicorn"}, "prompts are 'prompt 0'"),
        ({"prompt": 3}, "must be text, got 3"),
        ({"prompt": ["prompt 1"]}, "must be one value"),
        ({"user_type": 3}, r"integer in 0\.\.2, got 3"),
        ({"user_type": -1}, r"in 0\.\.2, got -1"),
        ({"user_type": 1.0}, r"got 1\.0"),
        ({"user_type": True}, "got True"),
        (["prompt"], r"options must be a dictionary with the keys \('prompt', 'user_type'\), got \['prompt'\]"),
        ("prompt", "options must be a dictionary"),
        ({1: 2, "a": 3}, r"takes the options \('prompt', 'user_type'\), got \['a', 1\]"),
    ],
)
def test_wrong_options_say_what_is_right(options, message):
    with pytest.raises(ValueError, match=message):
        make().reset(options=options)


def test_a_vector_wants_as_many_options_and_seeds_as_conversations():
    envs = make_vec(3)
    with pytest.raises(ValueError, match="or 3 of them"):
        envs.reset(options={"user_type": [1, 2]})
    with pytest.raises(ValueError, match="or 3 of them"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="0 or more"):
        envs.reset(seed=[1, 2, -3])
    for seed in (1.5, "123", [1, 2, 3.5], True, [True, 1, 2], np.array([1.0, 2.0, 3.0]), [[1], [2, 3], [4]]):
        with pytest.raises(ValueError, match="seed must be an integer or 3 of them, None for those"):
            envs.reset(seed=seed)
    a, _ = envs.reset(seed=[5, 6, 7])
    for seed in (5, np.int64(5), np.array(5), np.array([5, 6, 7]), range(5, 8)):
        b, _ = envs.reset(seed=seed)
        assert data_equivalence(a, b)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 1], r"shape \(3,\)"),
        ([0, 1, 2, 3], r"shape \(3,\)"),
        (3, r"shape \(3,\)"),
        ([[0, 1, 2]], r"shape \(3,\)"),
        ([0, 1, 9], r"0\.\.8, got 0\.\.9"),
        ([-1, 1, 2], r"0\.\.8, got -1"),
        ([0.0, 1.0, 2.0], "integers, got float64"),
        ([np.nan, 1.0, 2.0], "integers, got float64"),
        ([True, False, True], "integers, got bool"),
        (["a", "b", "c"], "integers, got <U1"),
        ([[0], [1, 2]], "integers"),
    ],
)
def test_malformed_actions_say_what_is_right(action, message):
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    obs, *_ = env.step([0, 1, 2])  # nothing has happened to the conversation
    assert obs["turn"] == 1
    envs = make_vec(2)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="must"):
        envs.step([action])


def test_steps_need_a_conversation():
    env = make().unwrapped
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        env.step(np.zeros(SLATE, dtype=np.int64))
    play(env, actions_of(HORIZON), seed=0)
    with pytest.raises(ResetNeeded, match="ended at turn 4"):
        env.step(np.zeros(SLATE, dtype=np.int64))
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        make_vec(2).step(np.zeros((2, SLATE), dtype=np.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "dence"}, r"reward must be one of \('sparse', 'dense'\), got 'dence'"),
        ({"images": "photos"}, r"images must be one of \('surrogate', 'diffusion'\)"),
        ({"split": "tests"}, "split must be one of"),
        ({"world": "midi"}, r"one of \('mini', 'sdxl', 'flux'\)"),
        ({"world": 3}, "got int"),
        ({"user_model": 3}, "got int"),
        ({"horizon": 0}, "at least 1, got 0"),
        ({"horizon": 2.5}, r"got 2\.5"),
        ({"slate_size": 1}, "at least 2, got 1"),
        ({"images_per_prompt": 0}, "at least 1"),
        ({"n_candidates": 10}, "proposes 9 candidates in 3 categories, but n_candidates is 10"),
        ({"aggregator": "median"}, "'mean' or 'max', got 'median'"),
        ({"reveal": "yes"}, "True or False"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
    with pytest.raises(ValueError, match=message):
        make_vec(2, **arguments)


def test_the_render_mode_and_the_number_are_checked():
    with pytest.raises(ValueError, match="render_mode must be None or one of"):
        make().unwrapped.__class__(world=tiny_world(), **TINY, render_mode="human")
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got 0"):
        make_vec(0)


def test_the_aggregator_reaches_the_user_model():
    assert make(aggregator="max").unwrapped.user_model.aggregator == "max"
    a = play(make(reveal=True), actions_of(1), seed=3)[1][1]["utilities"]
    b = play(make(reveal=True, aggregator="max"), actions_of(1), seed=3)[1][1]["utilities"]
    assert (b > a + 0.001).all()


def test_a_users_own_user_model():
    env = make(user_model=TinyUsers(temperature=0.0), reveal=True)
    _, info, _ = play(env, actions_of(1), seed=3)[1]
    np.testing.assert_allclose(info["choice_probabilities"], 1 / 3)


def test_returned_arrays_are_the_callers():
    for env in (make().unwrapped, make_vec(3)):
        action = np.zeros(env.action_space.shape, dtype=np.int64) + np.arange(SLATE)
        first, _ = env.reset(seed=0)
        kept = copy.deepcopy(first)
        second = env.step(action)[0]
        assert data_equivalence(first, kept)
        for value in second.values():
            np.asarray(value)[...] = 0  # whoever writes into them changes nothing
        third = env.step(action)[0]
        env.reset(seed=0)
        env.step(action)
        assert data_equivalence(third, env.step(action)[0])


@pytest.mark.parametrize("duplicate", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_a_copy_goes_on_where_the_original_was(duplicate):
    env = make(images="diffusion", render_mode="rgb_array").unwrapped
    actions = actions_of(HORIZON)
    play(env, actions[:2], seed=4)
    twin = duplicate(env)
    np.testing.assert_array_equal(twin.render(), env.render())
    a, b = env.step(actions[2]), twin.step(actions[2])
    assert data_equivalence(a, b)
    env.step(actions[3])
    assert twin.unwrapped._conversations.turns[0] == 3


def test_the_vector_says_how_it_restarts():
    envs = make_vec(2)
    if hasattr(gym.vector, "AutoresetMode"):
        assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    assert envs.action_space.shape == (2, SLATE)
    assert envs.texts(np.array([3, 4])) == ["prompt 3", "prompt 4"]


@pytest.mark.parametrize("images", ["surrogate", "diffusion"])
def test_frames_show_pictures_prompts_and_the_choice(images):
    env = make(images=images, render_mode="rgb_array")
    env.reset(seed=2)
    start = env.render()
    obs, *_ = env.step(np.array([0, 3, 6]))
    shown = env.render()
    assert start.shape == shown.shape == (*env.unwrapped.render_size, 3)
    assert shown.dtype == np.uint8
    frame_color = (shown == np.array([0xD1, 0x49, 0x5B])).all(axis=-1).sum(axis=0)
    columns = np.flatnonzero(frame_color > 200)  # the upright sides of the frame
    left = 16 + (int(obs["choices"][0]) + 1) * (128 + 20)
    assert columns.min() == left - 6
    assert columns.max() <= left + 128 + 6
    assert not (start == np.array([0xD1, 0x49, 0x5B])).all(axis=-1).any()
    # The pictures are the generator's own, enlarged: every pixel of the first one is found.
    core = env.unwrapped._conversations
    keys = core.image_keys(np.array([0]), core.slates[:1, 0], np.array([1]))
    painted = PaintedImages().generate(core.slates[0, 0], keys[0]).pixels
    top, x = 78 + 104, 16 + 1 * (128 + 20)
    np.testing.assert_array_equal(shown[top + 8 : top + 128 : 16, x + 8 : x + 128 : 16], painted[0, 0])
    if images == "diffusion":
        np.testing.assert_array_equal(core.slate_pixels[0], painted)


def test_frames_say_when_pictures_are_illustrations():
    notes = {}
    for images in ("surrogate", "diffusion"):
        env = make(images=images, render_mode="rgb_array")
        env.reset(seed=2)
        notes[images] = (env.render()[-30:] < 128).any()
    assert notes == {"surrogate": True, "diffusion": False}


def test_a_vector_renders_every_conversation():
    envs = make_vec(2, render_mode="rgb_array")
    envs.reset(seed=2)
    frames = envs.render()
    single = make(render_mode="rgb_array")
    single.reset(seed=3)
    np.testing.assert_array_equal(frames[1], single.render())


def test_occurrences_by_hand():
    np.testing.assert_array_equal(occurrences(np.array([[7, 3, 7, 7], [1, 2, 2, 1]])), [[0, 0, 1, 2], [0, 0, 1, 1]])


def test_choices_and_types_by_hand():
    np.testing.assert_array_equal(sample_choices(np.array([[0.0, 1.0]]), np.array([[1.5, 0.0]])), [0])
    np.testing.assert_array_equal(sample_user_types(np.array([0.5, 0.3, 0.2]), np.array([0.49, 0.51, 0.81])), [0, 1, 2])
    np.testing.assert_array_equal(sample_user_types(np.array([0.0, 1.0]), np.array([1e-9, 0.5])), [1, 1])
