import dataclasses

import numpy as np
import pytest

from pasta_gym.candidates import EditCandidates
from pasta_gym.envs.assembly import PastaConfig, assemble
from pasta_gym.envs.core import Conversations
from pasta_gym.types import Images
from pasta_gym.worlds import make_world


class Painter:
    """Every picture is its key: four bytes of it in one pixel."""

    embedding_dim = 64

    def generate(self, prompts, keys):
        pixels = (keys[..., None] >> np.arange(0, 24, 8, dtype=np.uint64)).astype(np.uint8)
        return Images(np.full((*keys.shape, 64), 0.1, np.float32), pixels[:, :, None, None, :])


class Onlooker(EditCandidates):
    """Keeps the histories it was given, and what it saw in them."""

    def __init__(self, wants_pixels):
        super().__init__()
        self.wants_pixels = wants_pixels
        self.histories = []
        self.seen = []

    def propose(self, history):
        self.histories.append(history)
        if history.pixels is not None:
            self.seen.append([[history.pixels(row, t) for t in range(7)] for row in range(len(history.turns))])
        return super().propose(history)


def played(onlooker):
    world = dataclasses.replace(
        make_world("mini"),
        name="onlooker",
        image_generators={"dots": Painter},
        candidate_generator=lambda *_: onlooker,
    )
    conversations = Conversations(assemble(PastaConfig(images="dots"), world), 2)
    actions = np.array([[0, 5, 10, 15]])
    conversations.begin(np.arange(2), np.array([1, 2], dtype=np.uint64), np.zeros(2, dtype=np.int64))
    conversations.advance(np.arange(2), np.repeat(actions, 2, axis=0))
    conversations.advance(np.array([1]), actions)
    return conversations


def test_a_generator_that_wants_pixels_sees_what_the_users_saw():
    onlooker = Onlooker(True)
    conversations = played(onlooker)
    at_reset, after_one, of_the_second = onlooker.seen
    assert [p is None for p in at_reset[0]] == [False] + [True] * 6
    assert [p is None for p in after_one[1]] == [False, False] + [True] * 5
    ((first, turn_1, turn_2, *later),) = of_the_second
    assert first.shape == (4, 1, 1, 3)
    assert turn_2.shape == (4, 4, 1, 1, 3)
    assert later == [None] * 4
    for turn, pictures in ((1, turn_1), (2, turn_2)):
        slates = conversations.slates[1:, turn - 1]
        keys = conversations.image_keys(np.array([1]), slates, np.array([turn]))
        np.testing.assert_array_equal(pictures[..., 0, 0, 0], (keys[0] & np.uint64(255)).astype(np.uint8))
    np.testing.assert_array_equal(turn_1, after_one[1][1])


def test_a_new_episode_forgets_the_pictures_of_the_last():
    onlooker = Onlooker(True)
    conversations = played(onlooker)
    conversations.begin(np.array([1]), np.array([2], dtype=np.uint64), np.ones(1, dtype=np.int64))
    assert [p is None for p in onlooker.seen[-1][0]] == [False] + [True] * 6
    assert len(conversations.past_pixels[0]) == 1


@pytest.mark.parametrize("wants", [False, 0])
def test_pictures_are_not_kept_for_generators_that_do_not_look(wants):
    onlooker = Onlooker(wants)
    conversations = played(onlooker)
    assert [h.pixels for h in onlooker.histories] == [None] * 3
    assert not conversations.past_pixels
