"""A world without weights that planted raters can live in: pictures carry their slot values in six red pixels."""

import numpy as np

from pasta_gym.mini import grammar, raters
from pasta_gym.seeding import integers, mix, uniforms
from pasta_gym.types import Images
from pasta_gym.worlds import GrammarPromptBook, World

N_CANDIDATES, N_CATEGORIES = 10, 5
SIZES = {"n_candidates": N_CANDIDATES, "n_categories": N_CATEGORIES, "images_per_prompt": 2, "horizon": 4}
CARDINALITIES = np.array(grammar.CARDINALITIES) - 1


def eye(pixels):
    return raters.exact_reads(pixels[..., 0, :6, 0].astype(np.int64))


class Candidates:
    """Category c sets attribute slot c + 1: once to its first value, once to a random one."""

    category_titles = ("palette", "light", "style", "setting", "composition")
    n_candidates = N_CANDIDATES

    def propose(self, history):
        values = np.repeat(grammar.slot_values(history.chosen_prompts)[:, None], N_CANDIDATES, axis=1)
        for c in range(N_CANDIDATES):
            slot = 1 + c % 5
            drawn = 1 + integers(mix(history.keys, c), int(CARDINALITIES[slot]))
            values[:, c, slot] = 1 if c < 5 else drawn
        return grammar.prompt_ids(values), np.tile(np.arange(N_CANDIDATES) % 5, (len(values), 1))


class Texts:
    embedding_dim = raters.READ_SIZE

    def embed(self, ids):
        return raters.exact_reads(grammar.slot_values(np.asarray(ids))).astype(np.float32)


class Pictures:
    """What the prompt leaves unsaid is drawn by the picture's key; embeddings are reads of what is shown."""

    embedding_dim = raters.READ_SIZE

    def __init__(self, has_pixels=True):
        self.has_pixels = has_pixels

    def generate(self, prompts, keys):
        values = np.repeat(grammar.slot_values(prompts)[:, None], keys.shape[1], axis=1)
        luck = np.stack([uniforms(mix(keys, slot)) for slot in range(6)], axis=-1)
        values = np.where(values == 0, 1 + (luck * CARDINALITIES).astype(np.int64), values)
        pixels = np.zeros((*keys.shape, 8, 8, 3), dtype=np.uint8)
        pixels[..., 0, :6, 0] = values
        return Images(raters.exact_reads(values).astype(np.float32), pixels if self.has_pixels else None)


class LinearUsers:
    """Type k likes a picture by ``sigmoid(embedding . tastes[k])`` and a column by its best one."""

    aggregator = "max"

    def __init__(self, tastes, temperature=4.0):
        self.tastes = np.asarray(tastes, dtype=np.float64)
        self.temperature = temperature
        self.n_types = len(self.tastes)
        self.prior = np.full(self.n_types, 1 / self.n_types)

    def with_aggregator(self, aggregator):
        raise ValueError(f"aggregator must be 'max', got {aggregator!r}")

    def prompt_features(self, prompt_embeddings):
        return np.repeat(prompt_embeddings[:, None], self.n_types, axis=1)

    def all_utilities(self, prompt_features, image_embeddings):
        return raters.sigmoid(np.einsum("blmd,kd->bklm", image_embeddings, self.tastes)).max(axis=-1)

    def utilities(self, user_types, prompt_features, image_embeddings):
        return self.all_utilities(prompt_features, image_embeddings)[np.arange(len(user_types)), user_types]

    def choice_logits(self, utilities):
        return self.temperature * utilities

    def posterior(self, prompt_embeddings, slate_images, choices):
        features = self.prompt_features(prompt_embeddings)
        log_belief = np.log(np.tile(self.prior, (len(choices), 1)))
        for turn in range(choices.shape[1]):
            logits = self.choice_logits(self.all_utilities(features, slate_images[:, turn].astype(np.float64)))
            logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            log_belief += np.take_along_axis(logits, choices[:, turn, None, None], axis=2)[..., 0]
        belief = np.exp(log_belief)
        return belief / belief.sum(axis=1, keepdims=True)


def taste(likes=(), dislikes=(), size=4.0):
    """Weights ``(38,)`` over reads: ``(slot, value)`` pairs with values from 1."""
    weights = np.zeros((1, raters.READ_SIZE))
    for sign, pairs in ((1, likes), (-1, dislikes)):
        for slot, value in pairs:
            values = np.zeros((1, 6), dtype=np.int64)
            values[0, slot] = value
            weights += sign * size * raters.exact_reads(values)
    return weights[0]


def rater_world(users):
    prompts = {split: grammar.initial_prompt_ids(split) for split in grammar.SPLITS}
    return World(
        name="rater_toy",
        prompt_book=GrammarPromptBook(),
        initial_prompts=prompts,
        text_encoder=Texts(),
        image_generators={"painter": Pictures, "surrogate": lambda: Pictures(has_pixels=False)},
        candidate_generator=lambda split, n_candidates, n_categories: Candidates(),
        user_model=users,
        picture_size=8,
        fingerprint=lambda: {"toy": "1"},
    )
