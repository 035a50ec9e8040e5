import dataclasses

import numpy as np
import pytest

from pasta_gym.user_model.em import EMConfig
from pasta_gym.user_model.evaluation import (
    adjusted_rand_index,
    calibration_error,
    evaluate,
    held_out,
    ranking_correlation,
    score_choices,
    score_pairs,
    spearman,
)
from pasta_gym.user_model.fit import fit_user_model
from pasta_gym.user_model.user_model import UserModel


def test_adjusted_rand_index_by_hand():
    # Table [[2, 1], [0, 3]]: 1 + 3 = 4 couples together; rows 3 + 3 = 6, columns 1 + 6 = 7, of 15 couples.
    # Expected 6 * 7 / 15 = 2.8, most 6.5: (4 - 2.8) / (6.5 - 2.8).
    first, second = np.array([0, 0, 0, 5, 5, 5]), np.array([1, 1, 0, 0, 0, 0])
    assert adjusted_rand_index(first, second) == pytest.approx(1.2 / 3.7)
    assert adjusted_rand_index(second, first) == pytest.approx(1.2 / 3.7)
    assert adjusted_rand_index(first, np.array([9, 9, 9, 2, 2, 2])) == 1.0
    with pytest.raises(ValueError, match="got 6 and 2"):
        adjusted_rand_index(first, second[:2])


def test_chance_has_an_adjusted_rand_index_of_nothing():
    rng = np.random.default_rng(0)
    values = [adjusted_rand_index(rng.integers(4, size=60), rng.integers(3, size=60)) for _ in range(200)]
    assert abs(np.mean(values)) < 0.01


def test_calibration_error_by_hand():
    # Bin .2-.3: predicted .25, came true 2 of 4: gap .25. Bin .9-1: predicted .95, came true 1 of 1: gap .05.
    p, y = np.array([0.25, 0.25, 0.25, 0.25, 0.95]), np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    assert calibration_error(p, y) == pytest.approx((4 * 0.25 + 0.05) / 5)
    assert calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0


def test_spearman_by_hand():
    assert spearman(np.array([1.0, 20.0, 3.0]), np.array([0.1, 0.3, 0.2])) == pytest.approx(1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert spearman(np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0, 9.0])) == pytest.approx(
        4.5 / np.sqrt(22.5)
    )
    assert spearman(np.ones(3), np.array([1.0, 2.0, 3.0])) == 0.0


def test_scores_by_hand():
    accuracy, likelihood = score_pairs(np.array([0.8, 0.3, 0.6]), np.array([1.0, 1.0, 0.5]))
    assert accuracy == 0.5
    assert likelihood == pytest.approx((np.log(0.8) + np.log(0.3)) / 2)
    accuracy, likelihood = score_choices(np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]]), np.array([1, 1, 0]))
    assert accuracy == pytest.approx(2 / 3)
    assert likelihood == pytest.approx(np.log([0.8, 0.4, 0.9]).mean())


@pytest.fixture(scope="module")
def fitted(planted):
    config = EMConfig(n_types=3, steps=200, restarts=1, trial_steps=100, batch_labels=800, learning_rate=5e-3, seed=2)
    return fit_user_model(planted.data, config)


def test_held_out_raters_are_predicted_better_the_more_they_said(planted, fitted):
    figures = evaluate(fitted, planted.data, n_labels=(0, 5, 50))
    accuracy = [figures[n]["pair_accuracy"] for n in ("0", "5", "50")]
    assert accuracy[0] < accuracy[1] + 0.01
    assert accuracy[2] > accuracy[0] + 0.05
    assert figures["50"]["choice_log_likelihood"] > figures["0"]["choice_log_likelihood"]
    assert figures["50"]["choice_log_likelihood"] > figures["uniform_choice_log_likelihood"] + 0.1
    assert figures["uniform_choice_log_likelihood"] == pytest.approx(np.log(1 / 4))
    assert figures["50"]["pair_ece"] < 0.15
    assert ranking_correlation(fitted, planted.data) > 0.5


def test_the_fit_prefers_a_sharp_aggregator_where_raters_judge_by_the_best_image(fitted):
    training = fitted.metadata["training"]["choice"]
    assert training["max"]["log_likelihood"] > training["mean"]["log_likelihood"]
    assert training["softmax"]["log_likelihood"] >= training["max"]["log_likelihood"] - 0.01
    assert fitted.with_aggregator("softmax").sharpness > 3
    assert fitted.temperature > 0


def test_a_fitted_model_survives_its_file(planted, fitted, tmp_path):
    fitted.save(tmp_path)
    read = UserModel.load(tmp_path)
    data = planted.data
    posterior = [
        m.posterior(
            data.prompt_embeddings[data.session_prompts[:5]],
            data.image_embeddings[data.session_images[:5]],
            data.session_choices[:5],
        )
        for m in (fitted, read)
    ]
    assert np.array_equal(*posterior)


def test_splits_without_enough_labels_are_refused(planted):
    with pytest.raises(ValueError, match="raters need more than 70 pairs, got 70"):
        held_out(planted.data, "test", 70)
    with pytest.raises(ValueError, match="split must be one of"):
        held_out(planted.data, "exam")
    with pytest.raises(ValueError, match="split 'validation' must have equal numbers"):
        held_out(planted.data, "validation")


def test_sessions_are_needed(planted):
    empty = np.zeros(0, dtype=np.int64)
    data = dataclasses.replace(
        planted.data, session_raters=empty, session_prompts=empty, session_images=np.zeros((0, 2, 4, 4), dtype=np.int64)
    )
    with pytest.raises(ValueError, match="holds no sessions"):
        fit_user_model(data, EMConfig(n_types=1, steps=2, trial_steps=1))
