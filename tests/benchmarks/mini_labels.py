"""A small painted pool and its labels, for commands that read a world's folder."""

import dataclasses

from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.mini import rater_data
from pasta_gym.mini.rater_sessions import paint_sessions
from pasta_gym.types import Images
from pasta_gym.worlds import make_world
from tests.raters.test_rater_data import CONFIG, Toy, studio


class Embedded(Toy):
    """Toy pictures for the raters' eyes, with the embeddings that the mini world's surrogate has of their prompts."""

    def __init__(self):
        super().__init__()
        self._surrogate = make_world("mini").image_generator("surrogate")
        self.embedding_dim = self._surrogate.embedding_dim
        self.encoder_sha256 = self._surrogate.encoder_sha256

    def generate(self, prompts, keys):
        return Images(self._surrogate.generate(prompts, keys).embeddings, super().generate(prompts, keys).pixels)


def label_small_world(folder, *, embedded=False):
    """Sixteen raters in front of toy pictures, with as many pairs each as the figures need; returns the labels.

    ``embedded`` takes embeddings of the mini world's encoder, for user models that are to be played with there. Others
    are of no encoder at all.
    """
    drawn = studio()
    if embedded:
        drawn = dataclasses.replace(studio(Embedded()), encode_texts=ClipEncoder.mini(device="cpu").encode_texts)
    paint_sessions(drawn, folder / "pool", CONFIG)
    rater_data.label(folder / "pool", folder / "labels", 0, rater_data.LabelConfig(train_pairs=20, ratings=4))
    return folder / "labels"
