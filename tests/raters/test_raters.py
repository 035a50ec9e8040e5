import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.mini import grammar
from pasta_gym.mini.grammar import prompt_ids_of, slot_values
from pasta_gym.mini.raters import (
    MIN_DISTANCE,
    TASTE_SIZE,
    RaterConfig,
    calibrate_temperature,
    choice_probabilities,
    column_utilities,
    comparison_probabilities,
    critique,
    draw_archetypes,
    draw_raters,
    exact_reads,
    image_utilities,
    jaccard_distances,
    pack_reads,
    prompt_penalty,
    sample_choices,
    sample_comparisons,
    sample_improvements,
    sample_rankings,
    sample_ratings,
    taste_logits,
)

CONFIG = RaterConfig(base=-1.0, subject_penalty=2.0, intent_penalty=0.5)
NAMES = [name for slot in grammar.ATTRIBUTES for name in grammar.SLOTS[slot].values]


def picture(*names):
    """The read of a picture that surely shows these values; other slots read as nothing."""
    return exact_reads(slot_values(np.array(prompt_ids_of(*names))))


def weights(**liked):
    return np.array([liked.get(name, 0.0) for name in NAMES])


@pytest.mark.parametrize("seed", range(6))
def test_every_two_archetypes_are_far_apart(seed):
    archetypes = draw_archetypes(seed)
    distances = jaccard_distances(archetypes.signs)
    assert distances[~np.eye(8, dtype=bool)].min() >= MIN_DISTANCE
    assert len(archetypes.shares) == 8
    assert archetypes.shares.sum() == pytest.approx(1.0)
    assert (np.diff(archetypes.shares) < 0).all()
    said = (archetypes.signs != 0).sum(axis=1)
    assert set(said) <= {9, 10}
    assert ((archetypes.signs > 0).sum(axis=1) == 5).all()
    assert (np.sign(archetypes.weights) == archetypes.signs).all()


def test_worlds_differ_and_repeat():
    first, again, other = draw_archetypes(3), draw_archetypes(3), draw_archetypes(4)
    assert np.array_equal(first.weights, again.weights)
    assert not np.array_equal(first.signs, other.signs)


def test_there_is_little_that_everybody_likes():
    for seed in range(4):
        a = draw_archetypes(seed)
        common = np.square(a.shares @ a.weights).sum()
        own = (a.shares * np.square(a.weights).sum(axis=1)).sum()
        assert common / own < 0.25


def test_the_jaccard_distance_counts_value_and_sign():
    # Three elements each, one in common: 1 - 1/5. The same value with the other sign is another element.
    signs = np.array([[1, -1, 1, 0, 0], [1, 1, 0, -1, 0]])
    assert jaccard_distances(signs)[0, 1] == pytest.approx(0.8)
    assert jaccard_distances(signs)[0, 0] == 0.0


def test_too_many_archetypes_are_refused():
    with pytest.raises(ValueError, match=r"no 60 archetypes at least 0\.8 apart"):
        draw_archetypes(0, RaterConfig(n_archetypes=60))


def test_raters_vary_around_their_archetype():
    archetypes = draw_archetypes(1)
    crowd = draw_raters(archetypes, 4000, 3.0, np.random.default_rng(0), config=RaterConfig(variation=0.4))
    shares = np.bincount(crowd.archetypes, minlength=8) / 4000
    assert shares == pytest.approx(archetypes.shares, abs=0.025)
    own = crowd.weights - archetypes.weights[crowd.archetypes]
    assert own.std() == pytest.approx(0.4, rel=0.03)
    assert abs(own.mean()) < 0.01
    assert len(crowd) == 4000


def test_taste_by_hand():
    # Base -1, liked night 2, disliked pixel -1.5; the prompt's cat is there: no penalty.
    read, w = picture("cat", "night", "pixel"), weights(night=2.0, pixel=-1.5, beach=9.0)
    prompt = slot_values(np.array(prompt_ids_of("cat")))
    assert taste_logits(read, prompt, w, CONFIG) == pytest.approx(-0.5)
    assert image_utilities(read, prompt, w, CONFIG) == pytest.approx(1 / (1 + math.exp(0.5)))


def test_doubt_is_an_expected_weight():
    half = 0.5 * (picture("cat", "night") + picture("cat", "noon"))
    prompt = slot_values(np.array(prompt_ids_of("cat")))
    assert taste_logits(half, prompt, weights(night=2.0, noon=-1.0), CONFIG) == pytest.approx(-1 + 0.5)


def test_what_the_prompt_names_is_missed_by_hand():
    prompt = slot_values(np.array(prompt_ids_of("cat", "beach", "night")))
    read = 0.25 * picture("cat", "beach") + 0.75 * picture("boat", "beach")
    # Subject: 2 * 0.75; beach is there; night is not: 0.5.
    assert prompt_penalty(read, prompt, CONFIG) == pytest.approx(2.0)
    nothing = slot_values(np.array(prompt_ids_of()))
    assert prompt_penalty(read, nothing, CONFIG) == 0.0


def test_shapes_broadcast():
    rng = np.random.default_rng(0)
    reads = rng.random((3, 4, 2, 38))
    prompts = slot_values(rng.integers(grammar.N_PROMPTS, size=3))
    w = rng.standard_normal((3, TASTE_SIZE))
    together = taste_logits(reads, prompts[:, None, None], w[:, None, None])
    assert together.shape == (3, 4, 2)
    assert together[1, 2, 1] == pytest.approx(float(taste_logits(reads[1, 2, 1], prompts[1], w[1])))


def test_a_column_is_judged_mostly_by_its_best_image():
    column = np.array([0.1, 0.2, 0.9])
    assert column_utilities(column, 20.0) == pytest.approx(0.9, abs=1e-3)
    assert column_utilities(column, 0.0) == pytest.approx(0.4)
    # Weights 1 and 2 at sharpness ln 2 / 0.5.
    assert column_utilities(np.array([0.0, 0.5]), math.log(2) / 0.5) == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 0.7))
def test_the_calibrated_temperature_gives_the_wanted_share(seed, share):
    slates = np.random.default_rng(seed).random((300, 4))
    temperature = calibrate_temperature(slates, share)
    assert choice_probabilities(slates, temperature).max(axis=1).mean() == pytest.approx(share, abs=1e-4)


def test_half_of_the_time_the_best_column_is_really_chosen():
    slates = np.random.default_rng(5).random((20_000, 4))
    choices = sample_choices(slates, calibrate_temperature(slates), np.random.default_rng(6))
    assert (choices == slates.argmax(axis=1)).mean() == pytest.approx(0.5, abs=0.015)


def test_equal_columns_cannot_be_calibrated():
    with pytest.raises(ValueError, match=r"best_share must lie between 0\.250 and 0\.250 .* got 0\.5"):
        calibrate_temperature(np.full((10, 4), 0.3))


def test_comparisons_by_hand():
    # Half difference 0.5 * 4 * 0.5 = 1 and tie weight 0.5.
    p = comparison_probabilities(np.array(0.75), np.array(0.25), 4.0, 0.5)
    z = math.exp(1) + math.exp(-1) + 0.5
    assert p == pytest.approx([math.exp(-1) / z, 0.5 / z, math.exp(1) / z])


def test_sampled_comparisons_follow_their_probabilities():
    first, second = np.full(40_000, 0.6), np.full(40_000, 0.3)
    labels = sample_comparisons(first, second, 3.0, 0.4, np.random.default_rng(0))
    expected = comparison_probabilities(0.6 * np.ones(()), 0.3 * np.ones(()), 3.0, 0.4)
    assert [(labels == y).mean() for y in (0, 0.5, 1)] == pytest.approx(expected, abs=0.01)


def test_rankings_follow_plackett_and_luce():
    order = sample_rankings(np.tile([0.0, 0.5, 1.0], (40_000, 1)), 2.0, np.random.default_rng(1))
    top = np.bincount(order[:, 0], minlength=3) / 40_000
    assert top == pytest.approx(choice_probabilities(np.array([0.0, 0.5, 1.0]), 2.0), abs=0.01)
    assert (np.sort(order, axis=1) == [0, 1, 2]).all()


def test_ratings_cover_their_scale():
    rng = np.random.default_rng(0)
    assert sample_ratings(np.array([0.0, 0.5, 1.0]), 10, 0.0, rng).tolist() == [1, 6, 10]
    noisy = sample_ratings(np.full(5000, 0.5), 5, 3.0, rng)
    assert set(noisy) == {1, 2, 3, 4, 5}


def test_better_same_and_worse():
    calm = dataclasses.replace(CONFIG, improvement_noise=0.0, same_band=0.1)
    before, after = np.array([0.2, 0.5, 0.9]), np.array([0.6, 0.55, 0.1])
    assert sample_improvements(before, after, calm, np.random.default_rng(0)).tolist() == [1, 0, -1]


def test_critiques_name_what_would_help_most():
    prompt = slot_values(np.array(prompt_ids_of("cat")))
    assert "a cat" in critique(picture("boat", "night"), prompt, weights(night=1.0))
    assert critique(picture("cat", "noon"), prompt, weights(night=2.0, noon=-1.0)) == "more like this: at night"
    assert "I do not like this: at noon" in critique(picture("cat", "noon"), prompt, weights(noon=-1.0))


@given(st.integers(0, 2**32 - 1))
def test_critiques_are_short(seed):
    rng = np.random.default_rng(seed)
    prompt = slot_values(np.array(rng.integers(grammar.N_PROMPTS)))
    said = critique(rng.random(38), prompt, rng.standard_normal(TASTE_SIZE))
    assert 0 < len(said.split()) <= 12


def test_reads_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"sizes \(12, 6, 4, 6, 6, 4\), got \(12, 6\)"):
        pack_reads([np.zeros((2, 12)), np.zeros((2, 6))])
    with pytest.raises(ValueError, match=r"reads must end in 38 probabilities, got shape \(5, 37\)"):
        taste_logits(np.zeros((5, 37)), np.zeros((5, 6), dtype=np.int64), np.zeros(26))
    packed = pack_reads([np.full((2, len(slot.values)), i) for i, slot in enumerate(grammar.SLOTS)])
    assert packed.shape == (2, 38)
    assert packed[0, [0, 11, 12, 18, 37]].tolist() == [0, 0, 1, 2, 5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_archetypes": 1}, "n_archetypes must be at least 2, got 1"),
        ({"share_ratio": 0.0}, r"share_ratio must be in \(0, 1\], got 0.0"),
        ({"importance_spread": 1.0}, r"importance_spread must be in \[0, 1\), got 1.0"),
        ({"variation": -0.1}, "variation must not be negative, got -0.1"),
    ],
)
def test_impossible_configurations_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        RaterConfig(**change)
