"""A small painted pool and its labels, for commands that read a world's folder."""

from pasta_gym.mini import rater_data
from pasta_gym.mini.rater_sessions import paint_sessions
from tests.raters.test_rater_data import CONFIG, studio


def label_small_world(folder):
    """Sixteen raters in front of toy pictures, with as many pairs each as the figures need; returns the labels."""
    paint_sessions(studio(), folder / "pool", CONFIG)
    rater_data.label(folder / "pool", folder / "labels", 0, rater_data.LabelConfig(train_pairs=20, ratings=4))
    return folder / "labels"
