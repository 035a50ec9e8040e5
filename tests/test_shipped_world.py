"""The world that ships, through the front door: weights, environment, other libraries' learners."""

import pathlib
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_allclose, assert_array_equal

import pasta_gym  # noqa: F401  (registers the environment)
from pasta_gym.mini import clip, figures, grammar, reader, sdxl, weights
from pasta_gym.seeding import mix
from pasta_gym.user_model import UserModel
from pasta_gym.user_model.encoder_identity import encoder_hash, require_same_encoder
from pasta_gym.worlds import make_world
from pasta_gym.wrappers import CandidateScores, FlatObservation

PICTURES = 60


@pytest.fixture(scope="module")
def paintings():
    return figures.held_out_paintings(200, seed=4242)


@pytest.mark.parametrize("role", reader.ROLES)
def test_readers_read_held_out_paintings(role, paintings):
    accuracy = figures.accuracy(figures.read_values(role, paintings.images), paintings.shown)
    assert min(accuracy.values()) >= 0.95, accuracy


def test_clip_names_what_is_on_held_out_paintings(paintings):
    accuracy = figures.accuracy(clip.zero_shot(clip.load_clip(), paintings.images), paintings.shown)
    assert accuracy["mean"] >= 0.9, accuracy
    assert min(accuracy.values()) >= 0.8, accuracy


def test_diffusion_paints_what_unseen_prompts_say():
    values = figures.unseen_values(PICTURES, np.random.default_rng(7))
    images, _ = figures.generate(values, seed=7)
    accuracy = figures.accuracy(figures.read_values("judge", images), values)
    assert accuracy["mean"] >= 0.85, accuracy
    assert min(accuracy.values()) >= 0.7, accuracy


def test_the_pipeline_is_sdxls_own():
    pipeline = sdxl.load_pipeline()
    assert type(pipeline).__name__ == "StableDiffusionXLPipeline"
    assert pipeline.unet.dtype == torch.float32


def test_surrogate_and_user_model_were_fitted_to_the_shipped_clip():
    card = weights.read_card(weights.weights_directory() / "surrogate")
    shipped = weights.weights_directory() / "clip" / "open_clip_model.safetensors"
    assert card["fitted_to"]["clip"] == weights.file_hash(shipped)


def painted_conversation():
    """Choices, prompts and rewards in hundredths of two painted turns, as text."""
    env = gym.make("PastaT2I-v0", reward="dense").unwrapped
    env.reset(seed=5)
    said = []
    for slate in ([0, 6, 12, 18], [4, 9, 14, 24]):
        obs, reward, _, _, info = env.step(np.array(slate))
        said.append(f"{obs['choices'].tolist()} {info['chosen_prompt']} {round(100 * reward)}")
    env.close()
    return "; ".join(said)


def test_another_process_paints_the_same_conversation():
    code = "from tests.test_shipped_world import painted_conversation\nprint(painted_conversation())"
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == painted_conversation()


def test_a_picture_does_not_depend_on_its_batch():
    generator = make_world("mini").image_generator("diffusion")
    prompts = np.array([grammar.prompt_ids_of("cat", "night"), grammar.prompt_ids_of("boat", "pixel", "beach")])
    keys = mix(np.arange(2)[:, None], np.arange(3), 5)
    together = generator.generate(prompts, keys)
    alone = generator.generate(prompts[1:], keys[1:, 2:])
    assert_allclose(alone.embeddings[0, 0], together.embeddings[1, 2], atol=1e-4)
    assert np.abs(alone.pixels[0, 0].astype(int) - together.pixels[1, 2]).max() <= 1
    assert np.abs(together.pixels[0, 0].astype(int) - together.pixels[0, 1]).mean() > 1


def test_the_default_environment_passes_gymnasiums_checker():
    env = gym.make("PastaT2I-v0", horizon=1)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.unwrapped.config.images == "diffusion"
    env.close()


@pytest.mark.parametrize("name", ["PastaT2I-v0", "pasta_gym:PastaT2I-v0"])
def test_the_surrogate_environment_passes_gymnasiums_checker(name):
    env = gym.make(name, images="surrogate")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def _play(images, seed, n_turns):
    env = gym.make("PastaT2I-v0", images=images, reward="dense", render_mode="rgb_array")
    observation, _ = env.reset(seed=seed)
    rewards, choices = [], []
    for turn in range(n_turns):
        observation, reward, *_ = env.step(np.array([turn, 6, 12, 18]))
        rewards.append(reward)
        choices.append(int(observation["choices"][turn]))
    frame = env.render()
    env.close()
    return rewards, choices, frame


@pytest.mark.parametrize("images", ["surrogate", "diffusion"])
def test_a_seed_fixes_the_trajectory(images):
    first, second, third = _play(images, 3, 2), _play(images, 3, 2), _play(images, 4, 2)
    assert_allclose(first[0], second[0], atol=1e-5)
    assert first[1] == second[1]
    assert_array_equal(first[2], second[2])
    assert first[0] != pytest.approx(third[0], abs=1e-5)


@pytest.mark.parametrize("images", ["surrogate", "diffusion"])
def test_the_vector_environment_is_many_single_ones(images):
    envs = gym.make_vec(
        "PastaT2I-v0", num_envs=2, vectorization_mode="vector_entry_point", images=images, reward="dense"
    )
    batched, _ = envs.reset(seed=11)
    action = np.array([1, 6, 11, 16])
    batched, rewards, *_ = envs.step(np.stack([action, action]))
    for i in range(2):
        env = gym.make("PastaT2I-v0", images=images, reward="dense")
        env.reset(seed=11 + i)
        single, reward, *_ = env.step(action)
        assert reward == pytest.approx(rewards[i], abs=1e-4)
        assert_array_equal(single["choices"], batched["choices"][i])
        # Another batch sums in another order, and a pixel on the edge of two values is rounded the other way: on some
        # processors that moves an embedding, whose entries are around 10 and up to 100, by a few thousandths.
        assert_allclose(
            single["slate_images"], batched["slate_images"][i], atol=1e-4 if images == "surrogate" else 0.02
        )
        env.close()
    envs.close()


# Choices and rounded utilities of a fixed conversation. Another number here is another environment: -v1.
GOLDEN_CHOICES = [0, 3, 1, 1, 2]
GOLDEN_REWARDS = [2.587, 7.908, 6.357, 2.629, 5.651]


def test_a_fixed_conversation_is_what_it_was():
    env = gym.make("PastaT2I-v0", images="surrogate", reward="dense")
    env.reset(seed=2026)
    for turn, (choice, wanted) in enumerate(zip(GOLDEN_CHOICES, GOLDEN_REWARDS, strict=True)):
        observation, reward, *_ = env.step(np.array([turn, 7, 12, 23]))
        assert int(observation["choices"][turn]) == choice
        assert reward == pytest.approx(wanted, abs=0.005)
    env.close()


def test_an_unknown_word_lists_close_ones():
    env = gym.make("PastaT2I-v0", images="surrogate")
    with pytest.raises(ValueError, match="castle"):
        env.reset(options={"prompt": "a castel at night"})
    env.close()


@pytest.mark.timeout(900)  # 2,000 single turns, one after another: half a minute on a fast machine
def test_stable_baselines3_learns_through_the_score_wrapper():
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    env = FlatObservation(CandidateScores(gym.make("PastaT2I-v0", images="surrogate", reward="dense")))
    model = stable_baselines3.PPO("MlpPolicy", env, n_steps=250, batch_size=125, n_epochs=2, seed=0, device="cpu")
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(2000)
    assert model.num_timesteps == 2000
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    env.close()


def test_d3rlpy_fits_the_exported_dataset_and_its_policy_acts(tmp_path):
    d3rlpy = pytest.importorskip("d3rlpy")
    from pasta_gym.trajectories import CollectionConfig, collect, load
    from pasta_gym.trajectories.export import to_d3rlpy

    dataset = to_d3rlpy(load(collect(CollectionConfig(n_episodes=40), root=tmp_path)))
    algorithm = d3rlpy.algos.BCConfig(batch_size=32).create(device="cpu")
    algorithm.fit(
        dataset,
        n_steps=20,
        n_steps_per_epoch=10,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    env = FlatObservation(CandidateScores(gym.make("PastaT2I-v0", images="surrogate")))
    observation, _ = env.reset(seed=0)
    scores = algorithm.predict(observation[None])[0]
    assert scores.shape == (25,)
    observation, *_ = env.step(scores)
    assert env.observation_space.contains(observation)
    env.close()


def test_the_shipped_users_name_the_encoder_that_observations_hold():
    world = make_world("mini")
    images = world.image_generator("surrogate")
    for folder in (world.user_model, pathlib.Path(world.user_model) / "one_type"):
        metadata = UserModel.load(folder).metadata
        assert encoder_hash(metadata) is not None
        require_same_encoder(metadata, images.encoder_sha256, "surrogate")
    with pytest.raises(ValueError, match="would mean nothing"):
        require_same_encoder(metadata, "0" * 16, "another")
