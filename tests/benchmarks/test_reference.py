import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import reference


def test_the_papers_sizes_have_3125_slates():
    table, members = reference.slate_table(tuple(np.repeat(range(5), 5)), 4)
    assert table.shape == (3125, 4)
    assert members.sum() == 3125 * 4
    assert len({tuple(row) for row in table.tolist()}) == 3125


def test_unequal_categories_are_enumerated():
    table, _ = reference.slate_table((2, 0, 2, 1), 2)
    assert {tuple(sorted(row)) for row in table.tolist()} == {(0, 1), (1, 2), (1, 3), (0, 3), (2, 3)}
    with pytest.raises(ValueError, match=r"1\.\.3.*got 4"):
        reference.slate_table((2, 0, 2, 1), 4)


def test_the_expected_utility_of_a_choice_by_hand():
    # Utilities 0 and 1, logits 0 and ln 3: 3/4. In a second sample both pay 1/2.
    utilities = np.array([[[0.0, 1.0], [0.5, 0.5]]])
    weights = np.exp(np.log(3) * utilities)
    values = reference.expected_chosen_utilities(utilities, weights, np.array([0.8, 0.2]), np.ones((2, 1), np.float32))
    assert_allclose(values, [[0.8 * 0.75 + 0.2 * 0.5]], rtol=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 3), min_size=2, max_size=4), st.floats(0.5, 20))
def test_the_best_slate_is_that_of_brute_force(seed, sizes, temperature):
    rng = np.random.default_rng(seed)
    slate_size = int(rng.integers(1, len(sizes) + 1))
    categories = np.stack([rng.permutation(np.repeat(np.arange(len(sizes)), sizes)) for _ in range(3)])
    utilities = rng.random((3, 4, categories.shape[1]))
    weights = rng.dirichlet(np.ones(4))
    found = reference.best_slates(utilities, np.exp(temperature * utilities), weights, categories, slate_size)
    for b in range(3):
        values = {}
        for slate in itertools.combinations(range(categories.shape[1]), slate_size):
            if len(set(categories[b][list(slate)])) == slate_size:
                u = utilities[b][:, list(slate)]
                p = np.exp(temperature * u) / np.exp(temperature * u).sum(axis=1, keepdims=True)
                values[slate] = float(weights @ (p * u).sum(axis=1))
        assert values[tuple(sorted(found[b].tolist()))] >= max(values.values()) - 1e-5


def slate_logits(utilities):
    """Logits that no table of candidates holds: the temperature grows with the slate's best column."""
    return 2.0 * np.exp(3.0 * utilities.max(axis=-1, keepdims=True)) * utilities


def test_the_best_slate_of_a_temperature_of_the_slate_is_that_of_brute_force():
    rng = np.random.default_rng(4)
    utilities, weights = rng.random((20, 3, 6)), np.array([0.5, 0.3, 0.2])
    categories = np.tile([0, 0, 1, 1, 2, 2], (20, 1))
    found = reference.best_slates_by_slate(utilities, slate_logits, weights, categories, 2)
    for b in range(20):
        values = {}
        for slate in itertools.combinations(range(6), 2):
            if slate[0] // 2 != slate[1] // 2:
                u = utilities[b][:, list(slate)]
                odds = np.exp(slate_logits(u))
                values[slate] = float(weights @ ((odds * u).sum(axis=1) / odds.sum(axis=1)))
        assert tuple(sorted(found[b].tolist())) == max(values, key=values.get)


@pytest.mark.parametrize("constant", [True, False])
def test_planners_ask_the_user_model_whether_candidates_can_be_worked_out_one_by_one(constant):
    seen = []

    class Users:
        has_constant_temperature = constant

        def choice_logits(self, utilities):
            seen.append(utilities.shape[-1])
            return slate_logits(utilities)

    agent = reference.Clairvoyant.__new__(reference.Clairvoyant)
    agent._user_model = Users()
    observations = {"categories": np.array([[0, 0, 1, 1, 2, 2]]), "slate_prompts": np.zeros((1, 5, 2, 4))}
    agent._best_slates(observations, np.random.default_rng(0).random((1, 3, 6)), np.full(3, 1 / 3))
    assert set(seen) == {6 if constant else 2}


def test_marginal_slates_hold_the_best_of_the_best_categories():
    utilities = np.array([[0.9, 0.8, 0.1, 0.3, 0.2, 0.7]])
    assert sorted(reference.best_marginal_slates(utilities, np.array([[0, 0, 1, 1, 2, 2]]), 2)[0]) == [0, 5]


class PlantedUsers:
    """Two types, unequal shares. Type 0 likes the first number of an image, type 1 the second."""

    n_types = 2
    prior = np.array([0.7, 0.3])
    aggregator = "mean"

    def prompt_features(self, prompt_embeddings):
        return np.zeros((len(prompt_embeddings), 2, 2))

    def all_utilities(self, prompt_features, image_embeddings):
        return np.stack([image_embeddings[..., k].mean(axis=2) for k in range(2)], axis=1)

    def utilities(self, user_types, prompt_features, image_embeddings):
        return np.take_along_axis(
            self.all_utilities(prompt_features, image_embeddings), user_types[:, None, None], axis=1
        )[:, 0]

    def choice_logits(self, utilities):
        return 8.0 * utilities


class PlantedWorld:
    """A prompt's pictures are its two numbers and keyed noise."""

    def __init__(self, tastes, spread=0.0):
        self.tastes, self.spread = tastes, spread

    def image_generator(self, name):
        assert name == "surrogate"
        return self

    def generate(self, prompts, keys):
        from pasta_gym import seeding
        from pasta_gym.types import Images

        noise = seeding.normals(keys, 2)
        return Images((self.tastes[prompts][:, None, :] + self.spread * noise).astype(np.float32))


def observation(n, categories, slate_size=2, user_type=0):
    return {
        "initial_prompt": np.zeros((n, 2), np.float32),
        "initial_images": np.zeros((n, 3, 2), np.float32),
        "slate_prompts": np.zeros((n, 5, slate_size, 2), np.float32),
        "categories": np.tile(categories, (n, 1)),
        "prompt_ids": np.tile(np.arange(len(categories)), (n, 1)),
        "user_type": np.full(n, user_type),
    }


# Category 0: something for type 0, something for type 1, something for both; category 1: two dull ones; 2: for type 1.
TASTES = np.array([[0.9, 0.1], [0.1, 0.95], [0.6, 0.6], [0.2, 0.2], [0.3, 0.1], [0.0, 0.9]])
CATEGORIES = np.array([0, 0, 0, 1, 1, 2])


def agent_of(kind, spread=0.0, n_samples=3):
    return kind(world=PlantedWorld(TASTES, spread), user_model=PlantedUsers(), n_samples=n_samples)


def act(agent, user_type=0, n=4):
    return agent.act(observation(n, CATEGORIES, user_type=user_type), np.arange(n).astype(np.uint64))


def test_the_clairvoyant_shows_each_type_its_own():
    assert 0 in act(agent_of(reference.Clairvoyant), user_type=0)[0]
    # Beside the favourite (.95) a rival (.9) would win some choices: a dull neighbour (.1) pays more.
    assert sorted(act(agent_of(reference.Clairvoyant), user_type=1)[0]) == [1, 4]


def test_the_marginal_agent_shows_the_best_on_average():
    # Prior means: .66, .355, .6 | .2, .24 | .27
    assert sorted(act(agent_of(reference.BlindMarginal))[0]) == [0, 5]


def test_the_slate_aware_agent_covers_both_types():
    chosen = sorted(act(agent_of(reference.BlindSlateAware))[0])
    users = PlantedUsers()
    best = {}
    table, _ = reference.slate_table(tuple(CATEGORIES.tolist()), 2)
    for slate in table:
        u = TASTES[slate].T
        p = np.exp(8 * u) / np.exp(8 * u).sum(axis=1, keepdims=True)
        best[tuple(sorted(slate.tolist()))] = float(users.prior @ (p * u).sum(axis=1))
    assert tuple(chosen) == max(best, key=best.get)
    assert chosen == [0, 5]


def test_blind_agents_do_not_read_the_type():
    for kind in (reference.BlindSlateAware, reference.BlindMarginal):
        agent = agent_of(kind, spread=0.3)
        assert_array_equal(act(agent, user_type=0), act(agent, user_type=1))


def test_slates_do_not_depend_on_the_batch_and_are_drawn_from_the_key():
    agent = agent_of(reference.Clairvoyant, spread=1.0, n_samples=1)
    many = agent.act(observation(120, CATEGORIES), np.arange(120).astype(np.uint64))
    alone = agent.act(observation(1, CATEGORIES), np.array([77], dtype=np.uint64))
    assert_array_equal(many[77], alone[0])
    assert len({tuple(s) for s in many.tolist()}) > 1


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="n_samples must be 1 or more, got 0"):
        agent_of(reference.Clairvoyant, n_samples=0)
