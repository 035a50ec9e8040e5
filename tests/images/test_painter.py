import itertools

import numpy as np

from pasta_gym.images.painter import PainterImages
from pasta_gym.mini import grammar
from pasta_gym.seeding import mix
from pasta_gym.types import ImageGenerator
from pasta_gym.worlds import make_world

PROMPTS = grammar.initial_prompt_ids("test")[:3]
KEYS = mix(np.arange(3)[:, None], np.arange(4))


def mean_color(pixels):
    return pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32)


def test_a_painting_depends_on_its_own_prompt_and_key():
    images = PainterImages(mean_color, 3)
    assert isinstance(images, ImageGenerator)
    whole = images.generate(PROMPTS, KEYS)
    assert whole.pixels.shape == (3, 4, 64, 64, 3)
    np.testing.assert_allclose(whole.embeddings[2, 1], whole.pixels[2, 1].mean(axis=(0, 1)), rtol=1e-5)
    alone = images.generate(PROMPTS[1:2], KEYS[1:2, 2:3])
    np.testing.assert_array_equal(alone.pixels[0, 0], whole.pixels[1, 2])
    assert (whole.pixels[1, 0] != whole.pixels[1, 1]).any()


def test_what_a_prompt_says_is_painted():
    values = np.ones((1, 6), dtype=np.int64)
    night = values.copy()
    night[0, grammar.SLOT_NAMES.index("light")] = 4
    prompts = grammar.prompt_ids(np.concatenate([values, night]), np.zeros(2, dtype=np.int64))
    day, dark = PainterImages(mean_color, 3).generate(prompts, KEYS[:2]).pixels.mean(axis=(1, 2, 3, 4))
    assert dark < 0.8 * day


def test_the_mini_world_has_other_hands_for_transfer():
    world = make_world("mini")
    assert tuple(world.image_generators) == ("surrogate", "diffusion", "diffusion_8", "painter")
    four, eight = world.image_generator("diffusion"), world.image_generator("diffusion_8")
    assert (four.steps, eight.steps) == (4, 8)
    painter = world.image_generator("painter")
    assert painter.embedding_dim == four.embedding_dim == eight.embedding_dim == 64
    assert painter.encoder_sha256 == four.encoder_sha256 == eight.encoder_sha256
    one = [images.generate(PROMPTS[:1], KEYS[:1, :1]).pixels[0, 0] for images in (four, eight, painter)]
    assert all(np.abs(a.astype(int) - b).mean() > 2 for a, b in itertools.pairwise(one))
