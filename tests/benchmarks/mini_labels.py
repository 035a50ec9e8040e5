"""A small painted pool and its labels, for commands that read a world's folder."""

import dataclasses

import numpy as np

from pasta_gym.mini import rater_data
from pasta_gym.mini.rater_sessions import paint_sessions
from pasta_gym.types import Images
from tests.raters.test_rater_data import CONFIG, DIM, Toy, studio


class Wide(Toy):
    """Toy pictures whose embeddings are of another width."""

    def __init__(self, dim):
        super().__init__()
        self.embedding_dim = dim
        self._spread = np.random.default_rng(3).standard_normal((DIM, dim)).astype(np.float32) / DIM**0.5

    def generate(self, prompts, keys):
        made = super().generate(prompts, keys)
        return Images(made.embeddings @ self._spread, made.pixels)


def label_small_world(folder, dim=None):
    """Sixteen raters in front of toy pictures, with as many pairs each as the figures need; returns the labels.

    ``dim`` is the width of the embeddings, for user models that are to be played with in a world of that width.
    """
    drawn = studio()
    if dim is not None:
        texts = np.random.default_rng(4).standard_normal((64, dim)).astype(np.float32)
        drawn = dataclasses.replace(studio(Wide(dim)), encode_texts=lambda given: texts[[len(t) % 64 for t in given]])
    paint_sessions(drawn, folder / "pool", CONFIG)
    rater_data.label(folder / "pool", folder / "labels", 0, rater_data.LabelConfig(train_pairs=20, ratings=4))
    return folder / "labels"
