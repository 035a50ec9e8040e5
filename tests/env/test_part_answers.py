"""A part that answers with another shape, type or range is named, in a single environment and in a vector."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from pasta_gym.types import Images
from tests.env.tiny_world import TINY, PaintedImages, TinyCandidates, TinyEncoder, TinyImages, TinyUsers, tiny_world


def changed(part, method, change):
    """The part, with one method whose answer is changed."""

    class Changed(part):
        pass

    def answer(self, *args):
        return change(getattr(part, method)(self, *args))

    setattr(Changed, method, answer)
    return Changed


def broken_world(part, method, change):
    made = changed(part, method, change)
    if issubclass(part, TinyCandidates):
        return replace(tiny_world(), candidate_generator=made)
    if issubclass(part, TinyImages):
        return replace(tiny_world(), image_generators={"surrogate": made})
    return tiny_world(made()) if issubclass(part, TinyUsers) else replace(tiny_world(), text_encoder=made())


def play_a_turn(env, action):
    env.reset(seed=0)
    env.step(action)


def with_nan(numbers):
    numbers = np.array(numbers, dtype=np.float32)
    numbers.reshape(-1)[-1] = np.nan
    return numbers


def pictures(change):
    return lambda images: Images(change(images.embeddings), images.pixels)


def pixels(change):
    return lambda images: Images(images.embeddings, change(images.pixels))


GENERATOR, PAINTER, ENCODER, USERS = TinyCandidates, TinyImages, TinyEncoder, TinyUsers
CASES = {
    "ids are floats": (GENERATOR, "propose", lambda p: (p[0] + 0.5, p[1]), "candidate generator .* ids as int64, got"),
    "ids of 64 unsigned bits": (GENERATOR, "propose", lambda p: (p[0].astype(np.uint64), p[1]), "ids as int64"),
    "too few ids": (GENERATOR, "propose", lambda p: (p[0][:, 1:], p[1]), r"ids of shape \(1, 9\), got \(1, 8\)"),
    "a flat proposal": (GENERATOR, "propose", lambda p: (p[0], p[1][0]), r"categories of shape \(1, 9\), got \(9,\)"),
    "categories beyond": (GENERATOR, "propose", lambda p: (p[0], p[1] + 3), r"categories in 0\.\.2, got 3\.\.5"),
    "categories below": (GENERATOR, "propose", lambda p: (p[0], p[1] - 1), r"categories in 0\.\.2, got -1\.\.1"),
    "float categories": (GENERATOR, "propose", lambda p: (p[0], p[1] * 1.0), "categories as int64, got float64"),
    "ids alone": (GENERATOR, "propose", lambda p: p[0], "candidate generator must return ids and categories, two"),
    "an image is NaN": (PAINTER, "generate", pictures(with_nan), "image generator must return finite embeddings, got"),
    "other width": (PAINTER, "generate", pictures(lambda e: e[..., :-1]), r"of shape \(1, 2, 6\), got \(1, 2, 5\)"),
    "one width": (PAINTER, "generate", pictures(lambda e: e[..., :1]), r"of shape \(1, 2, 6\), got \(1, 2, 1\)"),
    "another M": (PAINTER, "generate", pictures(lambda e: e[:, :1]), r"of shape \(1, 2, 6\), got \(1, 1, 6\)"),
    "integers": (PAINTER, "generate", pictures(lambda e: e.astype(np.int64)), "as floating-point numbers, got int64"),
    "bare embeddings": (PAINTER, "generate", lambda i: i.embeddings, "must return pasta_gym.types.Images, got ndarray"),
    "float pixels": (PaintedImages, "generate", pixels(lambda p: p / 255), "pixels of shape .* and type uint8, got"),
    "no channels": (PaintedImages, "generate", pixels(lambda p: p[..., 0]), r"got shape \(1, 2, 8, 8\)"),
    "pixels of one": (PaintedImages, "generate", pixels(lambda p: p[:, :1]), r"got shape \(1, 1, 8, 8, 3\)"),
    "text is NaN": (ENCODER, "embed", with_nan, "text encoder must return finite embeddings, got 1 of 5"),
    "text of one": (ENCODER, "embed", lambda e: e[..., :1], r"text encoder must .* \(1, 5\), got \(1, 1\)"),
    "features": (USERS, "prompt_features", lambda f: f[:, 0], r"prompt features of shape \(1, any, any\), got"),
    "features NaN": (USERS, "prompt_features", with_nan, "user model must return finite prompt features"),
    "utility is NaN": (USERS, "utilities", with_nan, "user model must return finite utilities, got 1 of 3"),
    "utilities beyond": (USERS, "utilities", lambda u: u + 3, r"utilities in \[0, 1\], got 3\.[0-9]*\.\.3\."),
    "utilities below": (USERS, "utilities", lambda u: u - 1, r"utilities in \[0, 1\], got -0\.[0-9]*\.\.-0\."),
    "utilities of all": (USERS, "utilities", lambda u: u[:, :2], r"utilities of shape \(1, 3\), got \(1, 2\)"),
    "logits NaN": (USERS, "choice_logits", with_nan, "user model must return finite choice logits"),
    "one logit": (USERS, "choice_logits", lambda x: x[:, :1], r"choice logits of shape \(1, 3\), got \(1, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_answer_names_the_part_and_what_is_right(name):
    part, method, change, message = CASES[name]
    env = gym.make("PastaT2I-v0", world=broken_world(part, method, change), images="surrogate", **TINY).unwrapped
    with pytest.raises(ValueError, match=message):
        play_a_turn(env, np.array([0, 3, 6]))
    envs = gym.make_vec("PastaT2I-v0", num_envs=4, world=broken_world(part, method, change), images="surrogate", **TINY)
    with pytest.raises(ValueError, match="must return"):
        play_a_turn(envs, np.tile([0, 3, 6], (4, 1)))


@pytest.mark.parametrize(
    ("part", "method", "change"),
    [
        (USERS, "utilities", lambda u: u + np.float32(5e-4)),  # half a thousandth is a rounding
        (USERS, "utilities", lambda u: u.astype(np.float16)),
        (PAINTER, "generate", pictures(lambda e: e.astype(np.float64))),
        (PAINTER, "generate", pictures(lambda e: e.astype(np.float16))),
        (ENCODER, "embed", lambda e: e * np.float32(1e30)),  # their squares overflow, they do not
        (GENERATOR, "propose", lambda p: [p[0].astype(np.int32), p[1].tolist()]),
    ],
)
def test_what_is_merely_written_otherwise_is_taken(part, method, change):
    env = gym.make("PastaT2I-v0", world=broken_world(part, method, change), images="surrogate", **TINY).unwrapped
    play_a_turn(env, np.array([0, 3, 6]))
