"""A world of one's own: the smallest honest parts, in numpy. It is also the contract test of the protocols."""

import numpy as np

from pasta_gym.seeding import integers, mix, normals
from pasta_gym.types import Images
from pasta_gym.worlds import World

N_PROMPTS = 1000
TEXT_DIM, IMAGE_DIM, N_TYPES, SIZE = 5, 6, 3, 8
PRIOR = np.array([0.5, 0.3, 0.2])
TITLES = ("Near", "Far", "Anywhere")


class TinyBook:
    def texts(self, ids):
        return [f"prompt {i}" for i in ids]

    def keys(self, ids):
        return mix(ids, 99)

    def parse(self, text):
        word, _, number = text.partition(" ")
        if word != "prompt" or not number.isdigit() or int(number) >= N_PROMPTS:
            raise ValueError(f"the tiny world's prompts are 'prompt 0' to 'prompt {N_PROMPTS - 1}', got {text!r}")
        return int(number)


class TinyEncoder:
    embedding_dim = TEXT_DIM

    def embed(self, ids):
        return normals(mix(ids, 7), TEXT_DIM)


class TinyCandidates:
    """Prompts at a random distance; proposals depend on the history's key alone."""

    category_titles = TITLES

    def __init__(self, split="train", n_candidates=9, n_categories=3):
        self.n_candidates = 9

    def propose(self, history):
        steps = integers(mix(history.keys[:, None], np.arange(9)), 40)
        ids = (history.chosen_prompts[:, None] + 1 + np.arange(9) * 40 + steps) % N_PROMPTS
        return ids, np.tile(np.repeat(np.arange(3), 3), (len(ids), 1))


class TinyImages:
    """Noise around the prompt's own direction; with or without pixels."""

    embedding_dim = IMAGE_DIM

    def __init__(self, has_pixels=False):
        self.has_pixels = has_pixels

    def generate(self, prompts, keys):
        embeddings = 2 * normals(mix(prompts, 8), IMAGE_DIM)[:, None] + normals(keys, IMAGE_DIM)
        if not self.has_pixels:
            return Images(embeddings)
        pixels = integers(mix(keys[..., None], np.arange(SIZE * SIZE * 3)), 256).astype(np.uint8)
        return Images(embeddings, pixels.reshape(*keys.shape, SIZE, SIZE, 3))


class PaintedImages(TinyImages):
    def __init__(self):
        super().__init__(has_pixels=True)


class TinyUsers:
    """Type k likes axis k of the images, and a prompt's first axis a little."""

    n_types = N_TYPES
    prior = PRIOR

    def __init__(self, aggregator="mean", temperature=6.0):
        self.aggregator = aggregator
        self.temperature = temperature

    def with_aggregator(self, aggregator):
        if aggregator not in ("mean", "max"):
            raise ValueError(f"aggregator must be 'mean' or 'max', got {aggregator!r}")
        return TinyUsers(aggregator, self.temperature)

    def prompt_features(self, prompt_embeddings):
        return np.repeat(0.1 * prompt_embeddings[:, None, :1], N_TYPES, axis=1)

    def all_utilities(self, prompt_features, image_embeddings):
        liked = np.moveaxis(image_embeddings[..., :N_TYPES], -1, 1)  # (B, K, L, M)
        scores = 1 / (1 + np.exp(-liked - prompt_features[:, :, None]))
        return scores.mean(axis=-1) if self.aggregator == "mean" else scores.max(axis=-1)

    def utilities(self, user_types, prompt_features, image_embeddings):
        return self.all_utilities(prompt_features, image_embeddings)[np.arange(len(user_types)), user_types]

    def choice_logits(self, utilities):
        return self.temperature * utilities

    def posterior(self, prompt_embeddings, slate_images, choices):
        features = self.prompt_features(prompt_embeddings)
        log_belief = np.tile(np.log(PRIOR), (len(choices), 1))
        for t in range(choices.shape[1]):
            logits = self.choice_logits(self.all_utilities(features, slate_images[:, t]))
            logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            picked = np.take_along_axis(logits, np.maximum(choices[:, t], 0)[:, None, None], axis=2)[..., 0]
            log_belief += np.where(choices[:, t, None] >= 0, picked, 0)
        belief = np.exp(log_belief)
        return belief / belief.sum(axis=1, keepdims=True)


def tiny_world(user_model=None):
    return World(
        name="tiny",
        prompt_book=TinyBook(),
        initial_prompts={"train": np.arange(0, 500), "validation": np.arange(500, 700), "test": np.arange(700, 1000)},
        text_encoder=TinyEncoder(),
        image_generators={"surrogate": TinyImages, "diffusion": PaintedImages},
        candidate_generator=TinyCandidates,
        user_model=TinyUsers() if user_model is None else user_model,
        picture_size=SIZE,
        embedding_bound=50.0,
    )


TINY = {"n_candidates": 9, "n_categories": 3, "slate_size": 3, "images_per_prompt": 2, "horizon": 4}
