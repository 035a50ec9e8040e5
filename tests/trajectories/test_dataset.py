import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pasta_gym.trajectories import export, storage


@pytest.fixture
def dataset(stored):
    return storage.load(stored)


def test_observations_show_the_past_and_nothing_of_the_turn_itself(dataset):
    obs = dataset.observations(np.array([5, 1, 1]), np.array([1, 0, 2]))
    assert_array_equal(obs["turn"], [1, 0, 2])
    assert_array_equal(obs["choices"], [[dataset.choices[5, 0], -1, -1], [-1, -1, -1], [*dataset.choices[1, :2], -1]])
    assert_array_equal(obs["slate_images"][2, 1], dataset.slate_images[1, 1].astype(np.float32))
    assert_array_equal(obs["slate_images"][2, 2], 0)
    assert_array_equal(obs["slate_images"][1], 0)
    shown = dataset.candidates[5, 0][dataset.actions[5, 0]]
    assert_array_equal(obs["slate_prompts"][0, 0], dataset.prompt_embeddings[shown])
    assert_array_equal(obs["slate_prompts"][0, 1:], 0)
    assert_array_equal(obs["candidates"][0], dataset.prompt_embeddings[dataset.candidates[5, 1]])
    assert_array_equal(obs["categories"][0], dataset.categories[5, 1])
    assert_array_equal(obs["initial_prompt"][1], dataset.prompt_embeddings[dataset.initial_prompts[1]])
    assert {k: v.dtype.name for k, v in obs.items() if v.dtype != np.float32} == {
        "turn": "int64",
        "categories": "int64",
        "choices": "int64",
    }


def test_observations_are_copies(dataset):
    before = dataset.slate_images.copy()
    dataset.observations(np.array([0]), np.array([2]))["slate_images"][:] = 7
    assert_array_equal(dataset.slate_images, before)


@pytest.mark.parametrize(
    ("episodes", "turns", "message"),
    [
        ([6], [0], r"episodes must be in 0\.\.5, got 6"),
        ([0], [3], r"turns must be in 0\.\.2, got 3"),
        ([-1], [0], r"got -1"),
        ([0, 1], [0], r"of one length"),
    ],
)
def test_bad_places_are_refused(dataset, episodes, turns, message):
    with pytest.raises(ValueError, match=message):
        dataset.observations(np.array(episodes), np.array(turns))


def test_sparse_keeps_the_last_reward_alone(dataset):
    sparse = dataset.with_reward("sparse")
    assert_array_equal(sparse.rewards[:, :2], 0)
    assert_array_equal(sparse.rewards[:, 2], dataset.rewards[:, 2])
    assert sparse.metadata["reward"] == "sparse"
    with pytest.raises(ValueError, match="cannot be made from sparse"):
        sparse.with_reward("dense")
    with pytest.raises(ValueError, match="got 'none'"):
        dataset.with_reward("none")


def test_take_reorders_every_array(dataset):
    some = dataset.take(np.array([4, 0]))
    assert len(some) == 2
    for name in ("candidates", "actions", "choices", "rewards", "slate_images", "initial_prompts", "categories"):
        assert_array_equal(getattr(some, name), getattr(dataset, name)[[4, 0]], err_msg=name)


def test_scores_say_which_prompts_were_shown():
    scores = export.encode_slates(np.array([[3, 0]]), 5)
    assert_array_equal(scores, [[1, -1, -1, 1, -1]])


def test_decoding_undoes_encoding_for_slates_of_any_categories():
    rng = np.random.default_rng(5)
    categories = np.stack([rng.permutation(np.repeat(np.arange(4), [1, 2, 3, 4])) for _ in range(50)])
    slates = np.stack([[rng.choice(np.flatnonzero(row == c)) for c in rng.permutation(4)[:3]] for row in categories])
    decoded = export.decode_slates(export.encode_slates(slates, 10), categories, 3)
    assert_array_equal(np.sort(decoded, axis=1), np.sort(slates, axis=1))


def test_decoding_fills_the_slate_best_first():
    scores = np.array([[0.1, 0.9, 0.8, 0.7, 0.2, 0.3]])
    assert_array_equal(export.decode_slates(scores, np.array([[0, 0, 0, 1, 2, 1]]), 2), [[1, 3]])


def test_bad_scores_and_slates_are_refused():
    with pytest.raises(ValueError, match="finite"):
        export.decode_slates(np.array([[np.nan, 0.0]]), np.array([[0, 1]]), 1)
    with pytest.raises(ValueError, match="more than the categories"):
        export.decode_slates(np.zeros((1, 3)), np.array([[0, 0, 2]]), 3)
    with pytest.raises(ValueError, match="twice"):
        export.encode_slates(np.array([[1, 1]]), 3)
    with pytest.raises(ValueError, match=r"0\.\.2, got 1\.\.3"):
        export.encode_slates(np.array([[1, 3]]), 3)
    categories = np.array([[0, 0, 1], [0, 1, 0]])
    assert_array_equal(export.encode_slates(np.array([[0, 2], [2, 1]]), 3, categories), [[1, -1, 1], [-1, 1, 1]])
    with pytest.raises(ValueError, match="two candidates of one category"):
        export.encode_slates(np.array([[0, 2], [2, 0]]), 3, categories)


def test_flat_observations_keep_every_number_in_the_stated_order(dataset):
    obs = dataset.observations(np.array([0, 3]), np.array([2, 1]))
    flat = export.flatten_observations(obs)
    assert flat.shape == (2, sum(v[0].size for v in obs.values()))
    assert_array_equal(flat[:, 0], [2, 1])
    assert_allclose(flat[1, -3:], obs["choices"][1])
    assert_array_equal(flat[1, 1:8], obs["initial_prompt"][1])


def test_a_mask_or_a_fraction_is_no_list_of_conversations(dataset):
    mask = np.zeros(len(dataset), dtype=bool)
    with pytest.raises(ValueError, match=r"episodes must be whole numbers, got bool; np\.flatnonzero\(mask\)"):
        dataset.take(mask)
    with pytest.raises(ValueError, match="episodes must be whole numbers, got float64"):
        dataset.take([1.7])
    with pytest.raises(ValueError, match="turns must be whole numbers, got float64"):
        dataset.observations(np.array([0]), np.array([1.0]))
    assert len(dataset.take([])) == 0
