"""How well held-out raters are predicted, by a user model or by anything that scores images.

Every figure comes rater by rater, so that intervals can resample raters. What each means is in
``docs/user_model_evaluation.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.metrics import (
    calibration_error,
    choose_threshold,
    cross_turn_credit,
    log_sigmoid,
    pickapic_paper_credit,
    pickapic_script_credit,
    score_choices,
    score_pairs,
)
from pasta_gym.user_model.predictors import ModelPredictor, Predictor
from pasta_gym.user_model.user_model import UserModel

N_LABELS: tuple[int, ...] = (0, 5, 20, 50)


@dataclass(frozen=True)
class HeldOut:
    """Held-out raters' labels: pairs to learn from, pairs to predict, choices to predict.

    Attributes:
        raters: ``(R,)`` ids.
        learn: ``(R, n)`` rows of pairs to learn from, in the order they are seen.
        test: ``(R, t)`` rows of pairs to predict, ties included.
        sessions: ``(R, s)`` rows of sessions.
    """

    raters: IntArray
    learn: IntArray
    test: IntArray
    sessions: IntArray


def held_out(data: PreferenceData, split: str = "test", n_learn: int = max(N_LABELS)) -> HeldOut:
    """Split the labels of a split's raters.

    Args:
        data: All labels.
        split: Which split.
        n_learn: Pairs to learn from; what is left is to be predicted.

    Returns:
        The rows.

    Raises:
        ValueError: If the raters have too few pairs, or not all the same number of pairs and sessions.
    """
    raters = data.raters_of(split)
    pairs = [np.flatnonzero(data.pair_raters == r) for r in raters]
    sessions = [np.flatnonzero(data.session_raters == r) for r in raters]
    if not pairs or len({len(p) for p in pairs}) != 1 or len({len(s) for s in sessions}) != 1:
        raise ValueError(f"the raters of split {split!r} must have equal numbers of pairs and of sessions")
    if len(pairs[0]) <= n_learn:
        raise ValueError(f"raters need more than {n_learn} pairs, got {len(pairs[0])}; label more of split {split!r}")
    rows = np.stack(pairs).astype(np.int64)
    return HeldOut(raters, rows[:, :n_learn], rows[:, n_learn:], np.stack(sessions).astype(np.int64))


@dataclass(frozen=True)
class Predictions:
    """What is predicted of held-out raters, beside what they said.

    Attributes:
        preferences: ``(R, t)`` probability that the first image of a pair is preferred.
        labels: ``(R, t)`` 1, 0 or 0.5.
        choice_probabilities: ``(R, c, L)``.
        choices: ``(R, c)``, -1 where there is none.
    """

    preferences: FloatArray
    labels: FloatArray
    choice_probabilities: FloatArray
    choices: IntArray


def pair_logits(predictor: Predictor, data: PreferenceData, rows: IntArray) -> FloatArray:
    """Logit that the first image of each pair is preferred, by type: rows ``(...)`` to ``(..., K)``."""
    flat = rows.reshape(-1)
    scores = predictor.scores(data.pair_prompts[flat], data.pair_images[flat])
    logits: FloatArray = predictor.comparison_temperature * (scores[:, :, 0] - scores[:, :, 1])
    return logits.reshape(*rows.shape, logits.shape[-1])


def posterior_after(predictor: Predictor, data: PreferenceData, rows: IntArray, n: int) -> FloatArray:
    """Posterior over types after each rater's first n pairs: rows ``(R, m)`` to ``(R, K)``."""
    logits = pair_logits(predictor, data, rows[:, :n])
    labels = data.pair_labels[rows[:, :n]][..., None]
    likelihood = labels * log_sigmoid(logits) + (1 - labels) * log_sigmoid(-logits)
    return softmax(np.log(predictor.prior) + likelihood.sum(axis=1))


def type_posteriors(model: UserModel, data: PreferenceData, rows: IntArray, n: int) -> FloatArray:
    """``posterior_after`` of a user model."""
    return posterior_after(ModelPredictor(model, data), data, rows, n)


def session_utilities(predictor: Predictor, data: PreferenceData, sessions: IntArray) -> FloatArray:
    """Utilities by type of all columns of sessions ``(R, s)``: ``(R, s, H, K, L)``."""
    flat = sessions.reshape(-1)
    images = data.session_images[flat]
    h = images.shape[1]
    utilities = predictor.utilities(np.repeat(data.session_prompts[flat], h), images.reshape(-1, *images.shape[2:]))
    return utilities.reshape(*sessions.shape, h, *utilities.shape[1:])


def predict(
    predictor: Predictor, data: PreferenceData, tasks: HeldOut, n_labels: tuple[int, ...]
) -> dict[int, Predictions]:
    """Predict held-out raters after n of their pairs, for each n.

    Args:
        predictor: What predicts.
        data: All labels.
        tasks: What to learn from and what to predict.
        n_labels: Numbers of pairs that the posterior has seen.

    Returns:
        The predictions by n.
    """
    first_wins = np.exp(log_sigmoid(pair_logits(predictor, data, tasks.test)))
    utilities = session_utilities(predictor, data, tasks.sessions)
    r, k, n_columns = len(tasks.raters), *utilities.shape[-2:]
    by_type = np.exp(predictor.log_choice_probabilities(utilities)).reshape(r, -1, k, n_columns)
    choices = data.session_choices[tasks.sessions].reshape(r, -1)
    made = {}
    for n in n_labels:
        posterior = posterior_after(predictor, data, tasks.learn, n)
        made[n] = Predictions(
            np.einsum("rtk,rk->rt", first_wins, posterior),
            data.pair_labels[tasks.test],
            np.einsum("rckl,rk->rcl", by_type, posterior),
            choices,
        )
    return made


def rater_figures(made: Predictions) -> dict[str, FloatArray]:
    """Accuracy and mean log-likelihood of pairs (ties left out) and choices, rater by rater.

    Args:
        made: The predictions.

    Returns:
        ``pair_accuracy, pair_log_likelihood, choice_accuracy, choice_log_likelihood``, each ``(R,)``.
    """
    pairs = [score_pairs(p, y) for p, y in zip(made.preferences, made.labels, strict=True)]
    choices = [score_choices(p, c) for p, c in zip(made.choice_probabilities, made.choices, strict=True)]
    columns = np.array([[*a, *b] for a, b in zip(pairs, choices, strict=True)]).T
    names = ("pair_accuracy", "pair_log_likelihood", "choice_accuracy", "choice_log_likelihood")
    return dict(zip(names, columns, strict=True))


def pair_outcomes(made: Predictions) -> tuple[FloatArray, FloatArray]:
    """Predicted probabilities and outcomes of all pairs that are no ties, for calibration: ``(n,)`` each."""
    kept = made.labels != 0.5
    return made.preferences[kept], made.labels[kept]


def choice_outcomes(made: Predictions) -> tuple[FloatArray, FloatArray]:
    """Predicted probability of every column and whether it was chosen, for calibration: ``(n,)`` each.

    Turns without a choice are left out.
    """
    said = made.choices >= 0
    probabilities, choices = made.choice_probabilities[said], made.choices[said]
    hits = np.arange(probabilities.shape[-1]) == choices[:, None]
    return probabilities.reshape(-1), hits.reshape(-1).astype(np.float64)


def evaluate(
    model: UserModel, data: PreferenceData, split: str = "test", n_labels: tuple[int, ...] = N_LABELS
) -> dict[str, Any]:
    """Predict held-out raters' pairs and choices after n of their pairs, for each n.

    Args:
        model: The user model.
        data: All labels.
        split: Which split's raters.
        n_labels: Numbers of pairs that the posterior has seen.

    Returns:
        By n, as text: ``pair_accuracy, pair_log_likelihood, choice_accuracy, choice_log_likelihood``, with the
        calibration errors ``pair_ece, choice_ece``; and ``uniform_choice_log_likelihood``.
    """
    tasks = held_out(data, split, max(n_labels))
    figures: dict[str, Any] = {}
    for n, made in predict(ModelPredictor(model, data), data, tasks, n_labels).items():
        pair_accuracy, pair_likelihood = score_pairs(made.preferences, made.labels)
        n_columns = made.choice_probabilities.shape[-1]
        choice_accuracy, choice_likelihood = score_choices(
            made.choice_probabilities.reshape(-1, n_columns), made.choices.reshape(-1)
        )
        figures["uniform_choice_log_likelihood"] = float(-np.log(n_columns))
        figures[str(n)] = {
            "pair_accuracy": pair_accuracy,
            "pair_log_likelihood": pair_likelihood,
            "pair_ece": calibration_error(*pair_outcomes(made)),
            "choice_accuracy": choice_accuracy,
            "choice_log_likelihood": choice_likelihood,
            "choice_ece": calibration_error(*choice_outcomes(made)),
        }
    return figures


def rows_by_rater(who: IntArray, raters: IntArray) -> list[IntArray]:
    """Group the rows of ``who (n,)`` by rater: an ascending array for each of ``raters (R,)``, empty for some."""
    order = np.argsort(who, kind="stable").astype(np.int64)
    first, last = (np.searchsorted(who[order], raters, side) for side in ("left", "right"))
    return [order[i:j] for i, j in zip(first, last, strict=True)]


def means(rows: list[FloatArray]) -> FloatArray:
    """Mean of each row, NaN where it is empty."""
    return np.array([row.mean() if len(row) else np.nan for row in rows])


@dataclass(frozen=True)
class PickAPic:
    """Credits on the scored half of each rater's pairs, ties included.

    Attributes:
        paper: For each rater ``(t,)``, as the paper words it; empty for raters without pairs.
        script: The same by the rule of PickScore's script.
        threshold: The script's, chosen on the validation raters.
    """

    paper: list[FloatArray]
    script: list[FloatArray]
    threshold: float


def pickapic_credits(
    predictor: Predictor, data: PreferenceData, rng: np.random.Generator, split: str = "test"
) -> PickAPic:
    """Score pairs the two ways their accuracy is defined (section 6.2).

    Half of a rater's pairs, ties included, give the posterior; the rest are scored by the mean over types. Raters may
    have any number of pairs: of an odd number the larger half is scored, and a lone pair is, with the prior.

    Args:
        predictor: What predicts.
        data: All labels; the script's threshold is chosen on the validation raters, 0 if they have no pairs.
        rng: Source of the halves.
        split: Whose pairs are scored.

    Returns:
        The credits.
    """
    differences, preferences, labels = _scored_halves(predictor, data, split, rng)
    threshold = 0.0
    if split != "validation":
        _, chosen_on, truth = _scored_halves(predictor, data, "validation", rng)
        if sum(map(len, truth)):
            threshold = choose_threshold(np.concatenate(chosen_on), np.concatenate(truth))
    return PickAPic(
        [pickapic_paper_credit(d, y) for d, y in zip(differences, labels, strict=True)],
        [pickapic_script_credit(p, y, threshold) for p, y in zip(preferences, labels, strict=True)],
        threshold,
    )


def pickapic(
    predictor: Predictor, data: PreferenceData, rng: np.random.Generator, split: str = "test"
) -> dict[str, FloatArray]:
    """Accuracy of ``pickapic_credits``, rater by rater.

    Returns:
        ``pickapic_paper`` and ``pickapic_script``, each ``(R,)``, NaN for raters without pairs.
    """
    found = pickapic_credits(predictor, data, rng, split)
    return {"pickapic_paper": means(found.paper), "pickapic_script": means(found.script)}


def _scored_halves(
    predictor: Predictor, data: PreferenceData, split: str, rng: np.random.Generator
) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
    """Differences of scores, preferences and labels of the scored half of each rater's pairs."""
    by_rater = rows_by_rater(data.pair_raters, data.raters_of(split))
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *by_rater])
    logits, y = pair_logits(predictor, data, rows), data.pair_labels[rows]
    likelihoods = y[:, None] * log_sigmoid(logits) + (1 - y[:, None]) * log_sigmoid(-logits)
    differences, preferences, labels, end = [], [], [], 0
    for mine in by_rater:
        start, end = end, end + len(mine)
        learn, test = np.split(rng.permutation(np.arange(start, end)), [len(mine) // 2])
        posterior = softmax(np.log(predictor.prior) + likelihoods[learn].sum(axis=0))
        differences.append(logits[test] @ posterior / predictor.comparison_temperature)
        preferences.append(np.exp(log_sigmoid(logits[test])) @ posterior)
        labels.append(y[test])
    return differences, preferences, labels


@dataclass(frozen=True)
class TurnComparisons:
    """Answers "better" and "worse than the turn before" of some sessions, n in all.

    Attributes:
        raters: ``(n,)`` ids.
        sessions: ``(n,)`` rows of sessions.
        turns: ``(n,)`` the later of the two turns.
        differences: ``(n, K)`` by type, utility of the chosen column minus that of the column chosen a turn earlier.
        verdicts: ``(n,)`` 1 better, -1 worse.
    """

    raters: IntArray
    sessions: IntArray
    turns: IntArray
    differences: FloatArray
    verdicts: FloatArray

    def credits(self, raters: IntArray, posterior: FloatArray) -> FloatArray:
        """Return 1 where the sign of the expected difference is the answer, 0 elsewhere: ``(n,)``.

        Args:
            raters: ``(R,)`` ids, ascending, among them all who answered.
            posterior: ``(R, K)``.
        """
        of_each = posterior[np.searchsorted(raters, self.raters)]
        return cross_turn_credit((self.differences * of_each).sum(axis=1), self.verdicts)


def turn_comparisons(predictor: Predictor, data: PreferenceData, sessions: IntArray) -> TurnComparisons:
    """Collect what was said between turns of sessions ``(S,)``, of any raters in any number.

    "Same" is left out, and so is an answer where one of the two turns has no choice.
    """
    choices = data.session_choices[sessions]
    said = data.session_versus_previous
    verdicts = np.full(choices.shape, np.nan) if said is None else said[sessions]
    is_decided = np.isin(verdicts, (-1.0, 1.0)) & (choices >= 0)
    is_decided[:, 1:] &= choices[:, :-1] >= 0
    is_decided[:, :1] = False
    rows, turns = np.nonzero(is_decided)

    def chosen(at: IntArray) -> FloatArray:
        at_rows = sessions[rows]
        utilities = predictor.utilities(data.session_prompts[at_rows], data.session_images[at_rows, at])
        return np.take_along_axis(utilities, choices[rows, at][:, None, None], axis=2)[..., 0]

    return TurnComparisons(
        data.session_raters[sessions[rows]],
        sessions[rows],
        turns.astype(np.int64),
        chosen(turns) - chosen(turns - 1),
        verdicts[rows, turns],
    )


def cross_turn(predictor: Predictor, data: PreferenceData, tasks: HeldOut, n: int) -> FloatArray:
    """Accuracy of "better" and "worse than the turn before" after n pairs, rater by rater.

    Args:
        predictor: What predicts.
        data: All labels.
        tasks: The raters' sessions and the pairs to learn from.
        n: Pairs that the posterior has seen.

    Returns:
        ``(R,)``, NaN for raters who never said either.
    """
    found = turn_comparisons(predictor, data, tasks.sessions.reshape(-1))
    credits = found.credits(tasks.raters, posterior_after(predictor, data, tasks.learn, n))
    return means([credits[rows] for rows in rows_by_rater(found.raters, tasks.raters)])
