import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.slate_enumeration import slate_table
from agents.untrained_generator import UntrainedGenerator
from benchmarks import reference, reference_belief
from benchmarks.reference_lookahead import ClairvoyantLookahead, continued_line


@pytest.mark.parametrize("constant", [True, False])
def test_planners_ask_the_user_model_whether_candidates_can_be_worked_out_one_by_one(constant):
    seen = []

    class Users:
        has_constant_temperature = constant

        def choice_logits(self, utilities):
            seen.append(utilities.shape[-1])
            return 8.0 * utilities

    agent = reference.Clairvoyant(world=PlantedWorld(TASTES), user_model=Users(), n_samples=3)
    observations = {"categories": np.array([[0, 0, 1, 1, 2, 2]]), "slate_prompts": np.zeros((1, 5, 2, 4))}
    agent._best_for_type(observations, np.random.default_rng(0).random((1, 3, 6)))
    assert set(seen) == {6 if constant else 2}


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

    def posterior(self, prompt_embeddings, slate_images, choices):
        """Bayes' rule, a turn at a time."""
        belief = np.tile(self.prior, (len(choices), 1))
        for turn in range(choices.shape[1]):
            odds = np.exp(self.choice_logits(self.all_utilities(None, slate_images[:, turn])))  # (B, K, L)
            chances = odds / odds.sum(axis=2, keepdims=True)
            picked = np.take_along_axis(chances, np.maximum(choices[:, turn], 0)[:, None, None], axis=2)[..., 0]
            belief = belief * np.where(choices[:, turn, None] >= 0, picked, 1.0)
        return belief / belief.sum(axis=1, keepdims=True)


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
        "initial_prompt_id": np.zeros(n, int),
        "turn": np.zeros(n, int),
        "choices": np.full((n, 5), -1),
        "slate_images": np.zeros((n, 5, slate_size, 3, 2), np.float32),
    }


# Category 0: something for type 0, something for type 1, something for both; category 1: two dull ones; 2: for type 1.
TASTES = np.array([[0.9, 0.1], [0.1, 0.95], [0.6, 0.6], [0.2, 0.2], [0.3, 0.1], [0.0, 0.9]])
CATEGORIES = np.array([0, 0, 0, 1, 1, 2])


def agent_of(kind, spread=0.0, n_samples=3, **settings):
    return kind(world=PlantedWorld(TASTES, spread), user_model=PlantedUsers(), n_samples=n_samples, **settings)


def act(agent, user_type=0, n=4):
    return agent.act(observation(n, CATEGORIES, user_type=user_type), np.arange(n).astype(np.uint64))


BELIEF_AGENTS = (
    reference_belief.BeliefMarginal,
    reference_belief.BeliefSlateAware,
    reference_belief.BeliefVOI,
    reference_belief.PosteriorSampling,
)


def after_a_choice(chosen, n=4):
    """One slate seen: pictures (0.9, 0.2) and (0.1, 0.7); somebody chose one of the two."""
    seen = observation(n, CATEGORIES)
    seen["turn"][:] = 1
    seen["slate_images"][:, 0] = np.array([[0.9, 0.2], [0.1, 0.7]])[:, None]
    seen["choices"][:, 0] = chosen
    return seen


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
    table, _ = slate_table(tuple(CATEGORIES.tolist()), 2)
    for slate in table:
        u = TASTES[slate].T
        p = np.exp(8 * u) / np.exp(8 * u).sum(axis=1, keepdims=True)
        best[tuple(sorted(slate.tolist()))] = float(users.prior @ (p * u).sum(axis=1))
    assert tuple(chosen) == max(best, key=best.get)
    assert chosen == [0, 5]


def test_blind_agents_do_not_read_the_type():
    blind = (reference.BlindSlateAware, reference.BlindMarginal)
    for kind in (*blind, *BELIEF_AGENTS):
        agent = agent_of(kind, spread=0.3)
        assert_array_equal(act(agent, user_type=0), act(agent, user_type=1))
        changed = agent.act(after_a_choice(1, n=20), np.arange(20).astype(np.uint64)) != act(agent, n=20)
        assert changed.any() == (kind in BELIEF_AGENTS), "belief agents read the choices, blind ones do not"


def test_slates_do_not_depend_on_the_batch_and_are_drawn_from_the_key():
    agent = agent_of(reference.Clairvoyant, spread=1.0, n_samples=1)
    many = agent.act(observation(120, CATEGORIES), np.arange(120).astype(np.uint64))
    alone = agent.act(observation(1, CATEGORIES), np.array([77], dtype=np.uint64))
    assert_array_equal(many[77], alone[0])
    assert len({tuple(s) for s in many.tolist()}) > 1


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="n_samples must be 1 or more, got 0"):
        agent_of(reference.Clairvoyant, n_samples=0)


def test_the_belief_is_the_posterior_of_two_types_by_hand():
    agent = agent_of(reference_belief.BeliefSlateAware)
    # Logits 8 u: type 0 chooses the first column with 1 / (1 + exp(-6.4)), type 1 with 1 / (1 + exp(4)).
    first = np.array([1 / (1 + np.exp(-6.4)), 1 / (1 + np.exp(4.0))])
    for chosen, likelihood in ((0, first), (1, 1 - first)):
        joint = np.array([0.7, 0.3]) * likelihood
        belief = agent.belief(after_a_choice(chosen))
        assert_allclose(belief, np.tile(joint / joint.sum(), (4, 1)), rtol=1e-5)
    assert_allclose(agent.belief(observation(2, CATEGORIES)), [[0.7, 0.3]] * 2, rtol=1e-6)
    # A choice of a turn to come is no evidence.
    early = after_a_choice(1)
    early["turn"][:] = 0
    assert_allclose(agent.belief(early), [[0.7, 0.3]] * 4, rtol=1e-6)


def test_belief_agents_show_what_the_choices_speak_for():
    seeds = np.arange(4).astype(np.uint64)
    for kind in (reference_belief.BeliefMarginal, reference_belief.BeliefSlateAware):
        for chosen in (0, 1):
            slates = agent_of(kind).act(after_a_choice(chosen), seeds)
            # 99.9% are then of type 0, or 99.6% of type 1.
            assert (0 if chosen == 0 else 1) in slates[0]
    # A free slate may hold two of one category.
    free = agent_of(reference_belief.BeliefMarginal, one_per_category=False).act(after_a_choice(0), seeds)
    assert sorted(free[0]) == [0, 2]


def test_posterior_sampling_shows_each_type_as_often_as_it_is_believed():
    n = 3000
    agent = agent_of(reference_belief.PosteriorSampling, n_samples=1)
    slates = np.sort(agent.act(observation(n, CATEGORIES), np.arange(n).astype(np.uint64)), axis=1)
    of_type = [np.sort(act(agent_of(reference.Clairvoyant), user_type=k)[0]) for k in (0, 1)]
    shares = [(slates == s).all(axis=1).mean() for s in of_type]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / n))


def test_types_are_drawn_by_their_belief():
    drawn = reference_belief.drawn_types(np.array([[0.2, 0.0, 0.8]] * 3), np.array([0.19, 0.21, 0.999999]))
    assert drawn.tolist() == [0, 2, 2]


def test_the_value_of_information_by_hand():
    # Two slates to show later, one for each type. The first one shown tells the types apart, the second tells nothing.
    belief, values = np.array([0.6, 0.4]), np.array([[1.0, 0.0], [0.0, 1.0]])
    chances = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])  # (K, N, L)
    assert_allclose(reference_belief.values_of_information(belief, values, chances), [1.0 - 0.6, 0.0], atol=1e-6)


def test_information_is_never_worth_less_than_nothing():
    rng = np.random.default_rng(0)
    for _ in range(50):
        belief, values = rng.dirichlet(np.ones(3)), rng.random((3, 20))
        chances = rng.dirichlet(np.ones(4), size=(3, 7))
        assert (reference_belief.values_of_information(belief, values, chances) >= -1e-6).all()


# Two candidates that everybody likes a little, and two that one type loves. The former pay most now, the latter tell.
TELLING = np.array([[0.68, 0.68], [0.68, 0.68], [0.9, 0.1], [0.1, 0.9]])


def telling_slates(turn, kind=reference_belief.BeliefVOI):
    class Users(PlantedUsers):
        prior = np.array([0.5, 0.5])

        def choice_logits(self, utilities):
            return 1.0 * utilities  # near a coin's choice: the slate of both tastes pays .652

    agent = kind(world=PlantedWorld(TELLING), user_model=Users(), n_samples=1)
    seen = observation(1, np.arange(4))
    seen["turn"][:] = turn
    return sorted(agent.act(seen, np.zeros(1, np.uint64))[0].tolist())


def test_information_is_paid_for_while_there_are_turns_to_use_it():
    assert telling_slates(0, reference_belief.BeliefSlateAware) == [0, 1]
    assert telling_slates(0) == [2, 3]
    assert telling_slates(3) == [0, 1], "one turn to come is not enough"
    assert telling_slates(4) == [0, 1]


class SteeredWorld(PlantedWorld):
    """Prompt p leads to candidates p + 10, once: 0 pays most now, 2 leads to the best place, 1 pays most in all."""

    def __init__(self):
        tastes = np.full((40, 2), 0.1)
        tastes[:4] = [[0.5, 0.0], [0.45, 0.0], [0.3, 0.0], [0.2, 0.0]]
        tastes[10:14] = 0.2
        tastes[11], tastes[12] = 0.9, 0.95
        super().__init__(tastes)

    def candidate_generator(self, split, n_candidates, n_categories):
        assert (split, n_candidates, n_categories) == ("test", 4, 4)
        return self

    def propose(self, history):
        assert (history.turns > 0).all()
        assert (history.initial_prompts == 0).all()
        ids = np.stack([history.chosen_prompts % 10 + 10, *np.full((3, len(history.turns)), 30)], axis=1)
        return ids, np.tile(np.arange(4), (len(ids), 1))


@pytest.mark.parametrize(
    ("reward", "turn", "best"), [("sparse", 0, 2), ("dense", 0, 1), ("sparse", 4, 0), ("dense", 4, 0)]
)
@pytest.mark.parametrize("constant", [True, False])
def test_looking_ahead_gives_up_a_little_now_for_a_better_place(reward, turn, best, constant):
    class Users(PlantedUsers):
        has_constant_temperature = constant

        def choice_logits(self, utilities):
            return 100.0 * utilities

    seen = observation(2, np.arange(4))
    seen["turn"][:] = turn
    settings = {"world": SteeredWorld(), "user_model": Users(), "n_samples": 1}
    slates = ClairvoyantLookahead(**settings, reward=reward, n_followed=3).act(seen, np.arange(2).astype(np.uint64))
    # With 0 in the slate the user would choose 0.
    assert (0 in slates[0]) == (best == 0)
    assert best in slates[0]
    assert 0 in reference.Clairvoyant(**settings).act(seen, np.arange(2).astype(np.uint64))[0]


def test_candidates_that_are_not_followed_lie_on_the_line():
    values = continued_line(np.array([[1.0, 2.0, 3.0, 5.0]]), np.array([[2, 1]]), np.array([[7.0, 5.0]]))
    assert_allclose(values, [[3.0, 5.0, 7.0, 11.0]])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_turns": 0}, "n_turns must be 1 or more, got 0"),
        ({"n_followed": 1}, "n_followed must be 2 or more, got 1"),
        ({"reward": "often"}, "reward must be one of .*'often'"),
    ],
)
def test_bad_settings_of_the_lookahead_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        ClairvoyantLookahead(world=SteeredWorld(), user_model=PlantedUsers(), **setting)


def test_no_slates_to_value_is_an_error():
    with pytest.raises(ValueError, match="n_slates must be 1 or more, got 0"):
        agent_of(reference_belief.BeliefVOI, n_slates=0)


def test_the_untrained_generator_shows_first_thoughts_and_reads_nothing_hidden():
    from pasta_gym.types import OBSERVATION_KEYS

    n = 400
    categories = np.array([2, 0, 0, 1, 2, 1, 3])
    public = observation(n, categories) | {
        "candidates": np.zeros((n, 7, 2), np.float32),
        "initial_images": np.zeros((n, 3, 2), np.float32),
    }
    public = {key: public[key] for key in OBSERVATION_KEYS}
    agent = UntrainedGenerator()
    assert not agent.privileged
    slates = agent.act(public, np.arange(n).astype(np.uint64))
    assert set(slates.reshape(-1).tolist()) == {0, 1, 3, 6}, "the first of each category"
    pairs, counts = np.unique(np.sort(slates, axis=1), axis=0, return_counts=True)
    assert len(pairs) == 6
    assert counts.min() > n / 6 - 4 * np.sqrt(n / 6)
    with pytest.raises(ValueError, match="lack"):
        agent.act({"categories": public["categories"]}, np.arange(n).astype(np.uint64))
