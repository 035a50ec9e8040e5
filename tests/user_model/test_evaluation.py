import dataclasses
import json

import numpy as np
import pytest

from pasta_gym.user_model import evaluation, fit, predictors
from pasta_gym.user_model.data import NO_IMAGE, PreferenceData
from pasta_gym.user_model.em import EMConfig
from pasta_gym.user_model.evaluation import HeldOut, evaluate, held_out
from pasta_gym.user_model.fit import fit_user_model
from pasta_gym.user_model.predictors import (
    ModelPredictor,
    ScorePredictor,
    calibrated,
    clip_score,
    read_scores,
    scored_path,
    scored_record,
    table_score,
)
from pasta_gym.user_model.rankings import ranking_correlation
from pasta_gym.user_model.user_model import UserModel


@pytest.fixture(scope="module")
def fitted(planted):
    config = EMConfig(n_types=3, steps=200, restarts=1, trial_steps=100, batch_labels=800, learning_rate=5e-3, seed=2)
    return fit_user_model(planted.data, config)


class TwoTastes:
    """Scores by hand: type 0 likes image i by i / 10, type 1 the other way round."""

    prior = np.array([0.5, 0.5])
    comparison_temperature = 10.0

    def scores(self, prompts, images):
        return np.stack([images / 10, 1 - images / 10], axis=1)

    def utilities(self, prompts, slates):
        return self.scores(prompts, slates.max(axis=-1))

    def log_choice_probabilities(self, utilities):
        return utilities - np.log(np.exp(utilities).sum(axis=-1, keepdims=True))


def small_data(pairs=(), labels=(), raters=(), splits=(2,), rankings=(), sessions=(), choices=(), verdicts=None):
    """A dataset of eleven images and one prompt."""
    n, s = len(pairs), len(sessions)
    longest = max(map(len, rankings), default=4)
    ranked = [[*images, *[NO_IMAGE] * (longest - len(images))] for images in rankings]
    nothing = np.zeros(0, dtype=np.int64)
    return PreferenceData(
        prompt_embeddings=np.ones((1, 2), dtype=np.float32),
        image_embeddings=np.stack([np.arange(11) / 10, np.ones(11)], axis=1),
        rater_splits=np.array(splits),
        pair_raters=np.array(raters, dtype=np.int64) if n else nothing,
        pair_prompts=np.zeros(n, dtype=np.int64),
        pair_images=np.array(pairs, dtype=np.int64).reshape(n, 2),
        pair_labels=np.array(labels, dtype=np.float64),
        rating_raters=nothing,
        rating_prompts=nothing,
        rating_images=nothing,
        ratings=np.zeros(0),
        ranking_raters=np.zeros(len(rankings), dtype=np.int64),
        ranking_prompts=np.zeros(len(rankings), dtype=np.int64),
        rankings=np.array(ranked, dtype=np.int64).reshape(len(rankings), longest),
        session_raters=np.zeros(s, dtype=np.int64),
        session_prompts=np.zeros(s, dtype=np.int64),
        session_images=np.array(sessions, dtype=np.int64).reshape(s, 3, 2, 1),
        session_choices=np.array(choices, dtype=np.int64).reshape(s, 3),
        session_versus_previous=verdicts,
    )


def test_predictions_by_hand():
    # One pair seen, 2 before 1, whose logit is 1 for type 0 and -1 for type 1.
    data = small_data([[2, 1], [3, 1]], [1.0, 1.0], [0, 0], sessions=[[[0, 1], [0, 1], [0, 1]]], choices=[[1, 0, 1]])
    tasks = HeldOut(np.array([0]), np.array([[0]]), np.array([[1]]), np.array([[0]]))
    made = evaluation.predict(TwoTastes(), data, tasks, (0, 1))
    share = 1 / (1 + np.exp(-1.0))
    assert evaluation.posterior_after(TwoTastes(), data, tasks.learn, 1) == pytest.approx(
        np.array([[share, 1 - share]])
    )
    sure = 1 / (1 + np.exp(-2.0))
    assert made[0].preferences == pytest.approx(np.array([[0.5]]))
    assert made[1].preferences == pytest.approx(np.array([[share * sure + (1 - share) * (1 - sure)]]))
    second = np.exp(0.1) / (1 + np.exp(0.1))
    assert made[1].choice_probabilities[0, :, 1] == pytest.approx([share * second + (1 - share) * (1 - second)] * 3)
    figures = evaluation.rater_figures(made[1])
    assert figures["pair_accuracy"].tolist() == [1.0]
    assert figures["choice_accuracy"] == pytest.approx([2 / 3])
    assert figures["pair_log_likelihood"] == pytest.approx(np.log(made[1].preferences[0]))
    chosen = made[1].choice_probabilities[0, [0, 1, 2], [1, 0, 1]]
    assert figures["choice_log_likelihood"] == pytest.approx([np.log(chosen).mean()])
    probabilities, hits = evaluation.choice_outcomes(made[1])
    assert hits.tolist() == [0, 1, 1, 0, 0, 1]
    assert probabilities.sum() == pytest.approx(3)


def test_turns_without_a_choice_are_not_scored():
    data = small_data([[2, 1], [3, 1]], [1.0, 1.0], [0, 0], sessions=[[[0, 1], [0, 1], [0, 1]]], choices=[[1, -1, 1]])
    tasks = HeldOut(np.array([0]), np.array([[0]]), np.array([[1]]), np.array([[0]]))
    made = evaluation.predict(TwoTastes(), data, tasks, (1,))[1]
    assert evaluation.rater_figures(made)["choice_accuracy"] == pytest.approx([1.0])
    probabilities, hits = evaluation.choice_outcomes(made)
    assert hits.tolist() == [0, 1, 0, 1]
    assert probabilities.tolist() == made.choice_probabilities[0, [0, 2]].reshape(-1).tolist()


def test_half_of_the_labels_decide_whose_taste_it_is():
    # Rater 0 always wants the larger, rater 1 the smaller; without the posterior nobody could be predicted.
    pairs = [[9, 1], [2, 8], [7, 0], [1, 6]] * 2
    labels = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    data = small_data(pairs, labels, [0] * 4 + [1] * 4, (2, 2))
    found = evaluation.pickapic(TwoTastes(), data, np.random.default_rng(0))
    assert found["pickapic_paper"].tolist() == [1, 1]
    assert found["pickapic_script"].tolist() == [1, 1]
    # Whoever says both gets the half that is learned from repeated, and the other, which alone is scored, wrong.
    both = small_data([[9, 1], [9, 1]], [1.0, 0.0], [0, 0])
    assert evaluation.pickapic(TwoTastes(), both, np.random.default_rng(0))["pickapic_paper"].tolist() == [0]
    # The half that is learned from is not scored: with nothing learned (one pair) nothing is known.
    lone = small_data([[9, 1]], [1.0], [0])
    assert evaluation.pickapic(TwoTastes(), lone, np.random.default_rng(0))["pickapic_paper"].tolist() == [0]
    # On ties alone validation chooses a threshold at which the script predicts them.
    ties = small_data([[5, 4]] * 8, [0.5] * 8, [0] * 4 + [1] * 4, (1, 2))
    assert evaluation.pickapic(TwoTastes(), ties, np.random.default_rng(0))["pickapic_script"].tolist() == [1]


def test_turns_are_compared_by_the_columns_chosen():
    # Type 0's utilities of the chosen columns: .2, .7, .4: better, then worse. Type 1 sees it the other way round.
    slates = [[[2, 9], [9, 7], [4, 9]]]
    verdicts = np.array([[np.nan, 1.0, -1.0]])
    learn = [[9, 1]] * 6
    tasks = HeldOut(np.array([0]), np.arange(6)[None], np.zeros((1, 0), dtype=np.int64), np.array([[0]]))
    data = small_data(learn, [1.0] * 6, [0] * 6, sessions=slates, choices=[[0, 1, 0]], verdicts=verdicts)
    assert evaluation.cross_turn(TwoTastes(), data, tasks, 6).tolist() == [1.0]
    other = small_data(learn, [0.0] * 6, [0] * 6, sessions=slates, choices=[[0, 1, 0]], verdicts=-verdicts)
    assert evaluation.cross_turn(TwoTastes(), other, tasks, 6).tolist() == [1.0]
    improving = dataclasses.replace(data, session_versus_previous=np.array([[np.nan, 1.0, 1.0]]))
    assert evaluation.cross_turn(TwoTastes(), improving, tasks, 6).tolist() == [0.5]
    gap = small_data(learn, [1.0] * 6, [0] * 6, sessions=slates, choices=[[0, -1, 0]], verdicts=verdicts)
    assert np.isnan(evaluation.cross_turn(TwoTastes(), gap, tasks, 6)).all()
    nobody = small_data(learn, [1.0] * 6, [0] * 6, sessions=slates, choices=[[0, 1, 0]])
    assert np.isnan(evaluation.cross_turn(TwoTastes(), nobody, tasks, 6)).all()


def test_rows_are_grouped_by_rater():
    found = evaluation.rows_by_rater(np.array([4, 2, 4, 7]), np.array([2, 3, 4]))
    assert [rows.tolist() for rows in found] == [[1], [], [0, 2]]
    assert [rows.tolist() for rows in evaluation.rows_by_rater(np.zeros(0, dtype=np.int64), np.array([5]))] == [[]]


@pytest.mark.filterwarnings("error")
def test_raters_may_have_any_number_of_pairs():
    # Four pairs, one, none, and three ties that look like none.
    pairs = [[9, 1]] * 4 + [[1, 9]] + [[9, 1]] * 3
    data = small_data(pairs, [1.0] * 4 + [0.0] + [0.5] * 3, [0] * 4 + [1] + [3] * 3, (2, 2, 2, 2, 1))
    score = ScorePredictor(table_score(np.arange(11) / 10.0))
    found = evaluation.pickapic_credits(score, data, np.random.default_rng(0))
    assert [credits.tolist() for credits in found.paper] == [[1, 1], [1], [], [0, 0]]
    assert [credits.tolist() for credits in found.script] == [[1, 1], [1], [], [0.5, 0.5]]
    assert found.threshold == 0.0  # the validation rater has no pairs
    by_rater = evaluation.pickapic(score, data, np.random.default_rng(0))
    assert np.array_equal(by_rater["pickapic_paper"], [1, 1, np.nan, 0], equal_nan=True)


def test_raters_may_have_any_number_of_sessions():
    slates = [[[2, 9], [9, 7], [4, 9]], [[5, 0], [5, 0], [6, 0]], [[9, 0], [1, 0], [3, 0]], [[1, 0], [2, 0], [3, 0]]]
    choices = [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, -1, 0]]
    verdicts = np.array([[np.nan, 1, -1], [np.nan, 1, 1], [1, -1, 0], [np.nan, 1, 1]])
    data = small_data(splits=(2, 2, 2, 2), sessions=slates, choices=choices, verdicts=verdicts)
    data = dataclasses.replace(data, session_raters=np.array([0, 0, 1, 3]))
    found = evaluation.turn_comparisons(TwoTastes(), data, np.array([0, 1, 2, 3]))
    # "Same", a first turn and the neighbours of a turn without a choice are no comparisons.
    assert found.raters.tolist() == [0, 0, 0, 0, 1]
    assert (found.sessions.tolist(), found.turns.tolist()) == ([0, 0, 1, 1, 2], [1, 2, 1, 2, 1])
    assert found.differences[:, 0] == pytest.approx([0.5, -0.3, 0.0, 0.1, -0.8])
    assert found.differences[:, 1] == pytest.approx([-0.5, 0.3, 0.0, -0.1, 0.8])
    # Rater 0 is of type 0, where equal utilities are no "better"; rater 1 is of type 1.
    posterior = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]])
    assert found.credits(np.arange(4), posterior).tolist() == [1, 1, 0, 1, 0]
    none = evaluation.turn_comparisons(ScorePredictor(table_score(np.zeros(11))), data, np.zeros(0, dtype=np.int64))
    assert none.credits(np.arange(4), np.ones((4, 1))).tolist() == []


def test_a_score_without_types_is_a_model_of_one_type():
    data = small_data()
    plain = ScorePredictor(table_score(np.arange(11) / 10.0), 4.0, 5.0)
    prompts, slates = np.zeros(1, dtype=np.int64), np.array([[[0, 7], [3, 2]]])
    assert plain.scores(prompts, slates[:, 0]).tolist() == [[[0.0, 0.7]]]
    assert plain.utilities(prompts, slates).tolist() == [[[0.7, 0.3]]]
    p = np.exp(plain.log_choice_probabilities(plain.utilities(prompts, slates)))
    assert p[0, 0, 0] == pytest.approx(1 / (1 + np.exp(-2.0)))
    # cos of (1, 1) and (0.5, 1), whatever the lengths.
    cosines = np.array([[1.5 / np.sqrt(2 * 1.25), 1 / np.sqrt(2)]])
    assert clip_score(data)(prompts, np.array([[5, 0]])) == pytest.approx((1 + cosines) / 2)


def test_temperatures_are_fitted_on_labels_from_all_over_the_data(monkeypatch):
    # The first raters say the opposite of what the score says, and many more later ones agree with it.
    monkeypatch.setattr(predictors, "_MOST_FITTED", 400)
    rng = np.random.default_rng(0)
    pairs = rng.integers(11, size=(4000, 2))
    agrees = np.arange(4000) >= 400
    labels = ((pairs[:, 0] > pairs[:, 1]) == agrees).astype(float)
    slates = rng.integers(11, size=(4000, 3, 2, 1))
    choices = np.where(agrees[:, None], slates[..., 0].argmax(axis=-1), slates[..., 0].argmin(axis=-1))
    data = small_data(pairs, labels, [0] * 4000, (0,), sessions=slates, choices=choices)
    score = table_score(np.arange(11) / 10.0)
    fitted = calibrated(score, data)
    assert fitted.comparison_temperature > 2
    assert fitted.choice_temperature > 2
    assert calibrated(score, data) == fitted


def test_temperatures_of_a_score_are_found_again():
    rng = np.random.default_rng(0)
    pairs = rng.integers(11, size=(6000, 2))
    labels = (rng.random(6000) < 1 / (1 + np.exp(-3.0 * (pairs[:, 0] - pairs[:, 1]) / 10))).astype(float)
    slates = rng.integers(11, size=(3000, 3, 2, 1))
    choices = (8.0 * slates[..., 0] / 10 + rng.gumbel(size=(3000, 3, 2))).argmax(axis=-1)
    data = small_data(pairs, labels, [0] * 6000, (0,), sessions=slates, choices=choices)
    fitted = calibrated(table_score(np.arange(11) / 10.0), data)
    assert fitted.comparison_temperature == pytest.approx(3.0, rel=0.1)
    assert fitted.choice_temperature == pytest.approx(8.0, rel=0.1)
    ranked = small_data(rankings=pairs[labels == 1].tolist(), splits=(0,))  # lists of two
    assert calibrated(table_score(np.arange(11) / 10.0), ranked).comparison_temperature == pytest.approx(3.0, rel=0.1)
    nothing_to_fit = calibrated(table_score(np.arange(11) / 10.0), small_data())
    assert (nothing_to_fit.comparison_temperature, nothing_to_fit.choice_temperature) == (1.0, 1.0)


def test_scores_from_a_file_are_of_all_images_that_count(tmp_path):
    np.save(tmp_path / "own.npy", np.array([1.0, np.nan, 3.0], dtype=np.float32))
    score = table_score(read_scores(tmp_path / "own.npy", 3))
    assert score(np.zeros(1, dtype=np.int64), np.array([[2, 0]])).tolist() == [[3.0, 1.0]]
    with pytest.raises(ValueError, match=r"image 1 has no score, got nan; score the images of this very dataset"):
        score(np.zeros(1, dtype=np.int64), np.array([[2, 1]]))
    with pytest.raises(ValueError, match=r"must hold one score for each of 4 images, got \(3,\)"):
        read_scores(tmp_path / "own.npy", 4)
    (tmp_path / "torn.npy").write_bytes((tmp_path / "own.npy").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot read .*torn\.npy .*benchmarks\.score_images"):
        read_scores(tmp_path / "torn.npy", 3)
    np.savez(tmp_path / "many.npz", np.zeros(3))
    with pytest.raises(ValueError, match="got an archive"):
        read_scores(tmp_path / "many.npz", 3)


def test_scores_say_which_images_they_are_of(tmp_path, caplog):
    path = tmp_path / "own.npy"
    np.save(path, np.arange(3.0))
    assert read_scores(path, 3, "aa").tolist() == [0, 1, 2]
    assert f"own.npy.json is not there, so nobody checks that row i of {path} is the dataset's image i" in caplog.text
    caplog.clear()
    scored_path(path).write_text(json.dumps(scored_record("aa", path.read_bytes())))
    assert read_scores(path, 3, "aa").tolist() == read_scores(path, 3).tolist() == [0, 1, 2]
    assert not caplog.text
    with pytest.raises(ValueError, match=r"own\.npy holds scores of other images, or in another order, than those of"):
        read_scores(path, 3, "bb")
    np.save(path, np.arange(3.0)[::-1])
    with pytest.raises(
        ValueError, match=r"own\.npy\.json is not about these scores of .*own\.npy; score the images ag"
    ):
        read_scores(path, 3, "aa")
    scored_path(path).write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*own\.npy\.json"):
        read_scores(path, 3, "aa")


def test_many_images_are_scored_a_few_at_a_time():
    asked = []

    def score(prompts, images):
        asked.append(len(images))
        return images / 10.0

    images = np.arange(2600).reshape(1300, 2)
    assert np.array_equal(ScorePredictor(score).scores(np.zeros(1300, dtype=np.int64), images)[:, 0], images / 10.0)
    assert asked == [512, 512, 276]


def test_a_model_predicts_what_it_says(planted, fitted):
    data = planted.data
    ours = ModelPredictor(fitted, data)
    rows = np.arange(700)  # more than are scored at once
    features = fitted.prompt_features(data.prompt_embeddings[data.pair_prompts[rows]])
    told = fitted.scores(features, data.image_embeddings[data.pair_images[rows]])
    assert ours.scores(data.pair_prompts[rows], data.pair_images[rows]) == pytest.approx(told, abs=1e-6)
    slates = data.session_images[:9, 0]
    features = fitted.prompt_features(data.prompt_embeddings[data.session_prompts[:9]])
    told = fitted.all_utilities(features, data.image_embeddings[slates])
    assert ours.utilities(data.session_prompts[:9], slates) == pytest.approx(told, abs=1e-6)


def test_held_out_raters_are_predicted_better_the_more_they_said(planted, fitted):
    figures = evaluate(fitted, planted.data, n_labels=(0, 5, 50))
    accuracy = [figures[n]["pair_accuracy"] for n in ("0", "5", "50")]
    assert accuracy[0] < accuracy[1] + 0.01
    assert accuracy[2] > accuracy[0] + 0.05
    assert figures["50"]["choice_log_likelihood"] > figures["0"]["choice_log_likelihood"]
    assert figures["50"]["choice_log_likelihood"] > figures["uniform_choice_log_likelihood"] + 0.1
    assert figures["uniform_choice_log_likelihood"] == pytest.approx(np.log(1 / 4))
    assert figures["50"]["pair_ece"] < 0.15
    whole = ranking_correlation(fitted, planted.data)
    assert whole > 0.5
    # Lists of several lengths are each as they are, and all count alike.
    mixed = planted.data.rankings.copy()
    mixed[::3, 3], mixed[1::3, 2:] = NO_IMAGE, NO_IMAGE
    several = [dataclasses.replace(planted.data, rankings=mixed)]
    for start, length in ((0, 3), (1, 2), (2, 4)):
        rows = np.arange(start, len(mixed), 3)
        part = {name: getattr(planted.data, name)[rows] for name in ("ranking_raters", "ranking_prompts")}
        several.append(dataclasses.replace(planted.data, rankings=mixed[rows, :length], **part))
    found = [ranking_correlation(fitted, data) for data in several]
    n_held_out = [np.isin(data.ranking_raters, data.raters_of("test")).sum() for data in several[1:]]
    assert found[0] == pytest.approx(np.average(found[1:], weights=n_held_out))
    assert found[0] != whole


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


def test_sessions_are_needed_before_em_runs(planted, monkeypatch):
    monkeypatch.setattr(fit, "fit_score_model", lambda *a, **k: pytest.fail("EM ran"))
    empty = np.zeros(0, dtype=np.int64)
    data = dataclasses.replace(
        planted.data, session_raters=empty, session_prompts=empty, session_images=np.zeros((0, 2, 4, 4), dtype=np.int64)
    )
    config = EMConfig(n_types=1, steps=2, trial_steps=1)
    with pytest.raises(ValueError, match=r"holds no sessions \(all splits hold 0\).*add a dataset.*preferences/paper"):
        fit_user_model(data, config)
    # Sessions of the other splits are not fitted on.
    held_out_only = ~np.isin(planted.data.session_raters, planted.data.raters_of("train"))
    rest = {
        name: getattr(planted.data, name)[held_out_only]
        for name in ("session_raters", "session_prompts", "session_images", "session_choices")
    }
    with pytest.raises(ValueError, match=r"train split holds no sessions \(all splits hold 60\)"):
        fit_user_model(dataclasses.replace(planted.data, **rest), config)
