"""Nothing in a frame is written over anything else."""

import numpy as np
import pytest

from pasta_gym.envs import PastaConfig
from pasta_gym.envs.rendering import draw_slate

NOTE = "Illustration: the user judged embeddings drawn by the surrogate, not these pictures."


def footer(chosen, slate_size, n_images):
    """What stands under the pictures: where something red is written, and where something grey is."""
    config = PastaConfig(slate_size=slate_size, images_per_prompt=n_images)
    pictures = np.full((slate_size, n_images, 8, 8, 3), 128, dtype=np.uint8)
    frame = draw_slate(
        initial_prompt="a cat",
        initial_images=pictures[0],
        prompts=["a kitten by the sea"] * slate_size,
        images=pictures,
        chosen=chosen,
        turn=1,
        config=config,
        note=NOTE,
    )
    below = frame[78 + 104 + n_images * (128 + 4) + 2 :].astype(int)  # the frame of the chosen column ends here
    red = below[..., 0] - below[..., 1] > 8
    return red, (below.min(axis=-1) < 230) & ~red


@pytest.mark.parametrize(("slate_size", "n_images"), [(4, 4), (2, 1), (3, 2), (5, 4)])
def test_the_word_chosen_stands_above_the_note_and_the_note_ends_within_the_frame(slate_size, n_images):
    for chosen in range(slate_size):
        red, grey = footer(chosen, slate_size, n_images)
        rows_of_word, rows_of_note = np.flatnonzero(red.any(axis=1)), np.flatnonzero(grey.any(axis=1))
        assert len(rows_of_word)
        assert len(rows_of_note)
        assert rows_of_word.max() + 2 < rows_of_note.min()
        assert rows_of_note.max() < len(grey) - 1  # no letter is cut off below
        columns = np.flatnonzero(grey.any(axis=0))
        assert columns.min() >= 16
        assert columns.max() < grey.shape[1] - 16
        left = 16 + (chosen + 1) * (128 + 20)
        written = np.flatnonzero(red.any(axis=0))
        assert left <= written.min() < written.max() < left + 128


def test_without_a_choice_the_note_stands_where_it_always_does():
    _, grey = footer(0, 4, 2)
    red, alone = footer(None, 4, 2)
    assert not red.any()
    np.testing.assert_array_equal(np.flatnonzero(alone.any(axis=1)), np.flatnonzero(grey.any(axis=1)))
