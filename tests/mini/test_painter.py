"""The painter: every value is visible, no two paintings of a prompt are equal, and a seed repeats them."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pasta_gym.mini import grammar, painter

CONTEXTS = np.array([[2, 1, 2, 1, 6, 1], [8, 6, 4, 5, 3, 2], [12, 3, 3, 3, 1, 4]])


def generator(seed):
    return np.random.default_rng(seed)


def with_value(context, slot, value):
    changed = np.array(context)
    changed[slot] = value
    return changed


def test_paintings_are_square_rgb_bytes():
    image = painter.paint(CONTEXTS[0], generator(0))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    images = painter.paint_many(CONTEXTS, generator(0))
    assert images.shape == (3, 64, 64, 3)
    assert images.dtype == np.uint8


def test_a_seed_repeats_a_painting_and_another_does_not():
    for context in CONTEXTS:
        assert_array_equal(painter.paint(context, generator(4)), painter.paint(context, generator(4)))
        assert (painter.paint(context, generator(4)) != painter.paint(context, generator(5))).mean() > 0.05


def test_two_paintings_of_one_prompt_differ():
    images = painter.paint_many(np.repeat(CONTEXTS[1:2], 8, axis=0), generator(1))
    assert len({image.tobytes() for image in images}) == 8


def test_the_batch_is_the_single_paintings_in_order():
    one_by_one = generator(9)
    expected = [painter.paint(values, one_by_one) for values in CONTEXTS]
    assert_array_equal(painter.paint_many(CONTEXTS, generator(9)), np.stack(expected))


@pytest.mark.parametrize("slot", range(grammar.N_SLOTS), ids=grammar.SLOT_NAMES)
def test_every_value_is_visible_through_the_jitter(slot):
    """The nearest mean painting names the value, in plain pixels and without any learning."""
    correct = []
    for context in CONTEXTS:
        rows = [with_value(context, slot, value) for value in range(1, grammar.CARDINALITIES[slot])]
        images = np.stack([painter.paint_many(np.tile(row, (24, 1)), generator([slot, *row])) for row in rows])
        pixels = images.reshape(len(rows), 24, -1).astype(np.float32)
        means, unseen = pixels[:, :16].mean(axis=1), pixels[:, 16:]
        distances = np.stack([np.abs(unseen - mean).mean(axis=-1) for mean in means], axis=-1)
        correct.append((distances.argmin(axis=-1) == np.arange(len(rows))[:, None]).mean())
    # The worst case by far, settings behind a pale engraved close-up, still stands at three times chance.
    assert min(correct) > 2.5 / (grammar.CARDINALITIES[slot] - 1), correct
    assert np.mean(correct) > 0.8, correct


@pytest.mark.parametrize("slot", range(grammar.N_SLOTS), ids=grammar.SLOT_NAMES)
def test_changing_one_slot_under_the_same_luck_changes_many_pixels(slot):
    for context in CONTEXTS:
        images = [
            painter.paint(with_value(context, slot, value), generator(6)).astype(np.int64)
            for value in range(1, grammar.CARDINALITIES[slot])
        ]
        changed = [(np.abs(a - b).max(axis=-1) > 24).mean() for i, a in enumerate(images) for b in images[:i]]
        assert min(changed) > 0.03, (grammar.SLOT_NAMES[slot], context, min(changed))


def test_night_is_darker_than_noon_and_monochrome_has_less_colour():
    def mean_image(names):
        values = grammar.slot_values(np.array(grammar.prompt_ids_of(*names)))
        return painter.paint_many(np.repeat(values[None], 8, axis=0), generator(2)).astype(np.float64).mean(axis=0)

    scene = ("car", "vector", "meadow", "centered")
    assert mean_image((*scene, "cool", "night")).mean() < 0.7 * mean_image((*scene, "cool", "noon")).mean()

    def colour(image):
        middle = image[24:52, 20:44]
        return (middle.max(axis=-1) - middle.min(axis=-1)).mean()

    assert colour(mean_image((*scene, "monochrome", "noon"))) < 0.5 * colour(mean_image((*scene, "neon", "noon")))


@pytest.mark.parametrize("slot", range(grammar.N_SLOTS), ids=grammar.SLOT_NAMES)
def test_an_unset_slot_is_refused(slot):
    with pytest.raises(ValueError, match=r"every slot must be set to paint, got .*see unsaid\.fill_unset"):
        painter.paint(with_value(CONTEXTS[2], slot, 0), generator(0))
