import dataclasses

import numpy as np
import pytest

from pasta_gym.trajectories.dataset import TrajectoryDataset
from pasta_gym.trajectories.identifiability import Tolerances, identifiability, reach_log_probabilities


class ByHand:
    """Two types of plain taste and an indifferent pair: utilities are entries of the image embeddings."""

    n_types = 4

    def prompt_features(self, prompts):
        return prompts

    def all_utilities(self, features, images):
        columns = images.mean(axis=2)  # (n, L, d)
        twins = 0.5 * np.ones_like(columns[..., 0])
        return np.stack([columns[..., 0], columns[..., 1], twins, twins], axis=1).astype(np.float32)

    def log_choice_probabilities(self, utilities):
        logits = 10.0 * utilities
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def conversation(slates, choices):
    """One of two columns of one image; embeddings of two numbers."""
    images = np.asarray(slates, dtype=np.float16)[None, :, :, None, :]
    h = len(choices)
    zeros = np.zeros((1, h, 2), dtype=np.int64)
    return TrajectoryDataset(
        initial_prompts=np.zeros(1, dtype=np.int64),
        initial_images=np.zeros((1, 1, 2), dtype=np.float16),
        candidates=zeros,
        categories=zeros,
        actions=zeros,
        behaviour_probabilities=np.ones((1, h)),
        slate_images=images,
        choices=np.array([choices]),
        rewards=np.zeros((1, h)),
        prompt_embeddings=np.zeros((1, 2), dtype=np.float32),
        metadata={},
    )


# Turn 1: type 0 wants column 0, type 1 column 1, and column 0 is chosen. Turn 2: all alike.
APART, ALIKE = [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]


def test_counts_by_hand():
    found = identifiability(conversation([APART, ALIKE], [0, 0]), ByHand())
    assert found.n_slates == 2
    # Slate 1 tells 0 and 1 apart, and both from the indifferent; slate 2 tells nobody apart.
    assert found.identifying.tolist() == [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    # Type 1 chooses column 0 with probability e^-10: only type 0 and the indifferent (1/2) plausibly reach slate 2.
    assert found.overlapping.tolist() == [[0, 1, 2, 2], [1, 0, 1, 1], [2, 1, 0, 2], [2, 1, 2, 0]]
    assert found.both.tolist() == [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert found.unidentified == [(2, 3)]
    assert not found.is_identifiable


def test_a_slate_must_both_identify_and_overlap():
    # The second slate tells 0 from 1 too, but comes after a choice that type 1 all but never makes.
    found = identifiability(conversation([APART, APART], [0, 0]), ByHand())
    assert found.identifying[0, 1] == 2
    assert found.overlapping[0, 1] == 1
    assert found.both[0, 1] == 1


def test_tolerances_decide_what_counts():
    twice = conversation([APART, APART], [0, 0])
    to_the_letter = identifiability(twice, ByHand(), Tolerances(overlap=0))
    assert to_the_letter.overlapping[0, 1] == to_the_letter.both[0, 1] == 2
    assert identifiability(twice, ByHand(), Tolerances(utility=1, choice=1)).identifying.sum() == 0
    by_choice = identifiability(twice, ByHand(), Tolerances(utility=1, choice=0.6))
    # Choices of 0 and 1 are all but opposite; of 0 and the indifferent they differ by a half.
    assert by_choice.identifying[0].tolist() == [0, 2, 0, 0]


def test_blocks_do_not_matter():
    rng = np.random.default_rng(0)
    one = conversation([APART, ALIKE], [0, 1])
    many = dataclasses.replace(
        one,
        **{
            name: np.repeat(getattr(one, name), 7, axis=0)
            for name in ("initial_prompts", "initial_images", "candidates", "categories", "actions", "rewards")
        },
        behaviour_probabilities=np.ones((7, 2)),
        slate_images=rng.random((7, 2, 2, 1, 2)).astype(np.float16),
        choices=rng.integers(2, size=(7, 2)),
    )
    whole, parts = identifiability(many, ByHand()), identifiability(many, ByHand(), block=3)
    assert whole.n_slates == 14
    for name in ("identifying", "overlapping", "both"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
        assert np.array_equal(getattr(whole, name), getattr(whole, name).T)


def test_reaching_a_slate_takes_the_choices_before_it():
    p = np.array([[[[0.5, 0.5], [0.9, 0.1]], [[0.25, 0.75], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]]])
    reached = np.exp(reach_log_probabilities(p, np.array([[0, 1, 1]])))
    assert reached[0] == pytest.approx(np.array([[1, 1], [0.5, 0.9], [0.5 * 0.75, 0.9 * 0.8]]))


def test_tolerances_are_shares():
    with pytest.raises(ValueError, match=r"tolerance of overlap must be in \[0, 1\], got 2"):
        Tolerances(overlap=2)
