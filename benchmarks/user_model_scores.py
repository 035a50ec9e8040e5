"""How well raters that nothing was fitted on are predicted, whatever labels they gave and however many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.rater_scores import SEED
from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import SPLITS, PreferenceData, Source
from pasta_gym.user_model.evaluation import pickapic_credits, rows_by_rater, turn_comparisons
from pasta_gym.user_model.features import Shown, shown_to
from pasta_gym.user_model.metrics import calibration_error, log_sigmoid, reliability_curve
from pasta_gym.user_model.predictors import Predictor
from pasta_gym.user_model.rankings import FEWEST, N_SEEN, list_correlations, lists_to_rank

N_LABELS = (0, 5, 20, 50)
PICKAPIC, HPS, CROSS_TURN = "Pick-a-Pic accuracy", "HPS Spearman", "cross-turn accuracy"


@dataclass(frozen=True)
class Labels:
    """What held-out raters said, each label with its log-likelihood by type.

    Attributes:
        raters: ``(n,)``.
        log_likelihoods: ``(n, K)`` of what was said.
        opposites: ``(n, K, L)`` log-probabilities of all that could have been said.
        said: ``(n,)`` which of these it was; -1 for a tie.
    """

    raters: IntArray
    log_likelihoods: FloatArray
    opposites: FloatArray
    said: IntArray


def pair_labels(predictor: Predictor, data: PreferenceData, raters: IntArray) -> Labels:
    """Collect the pairs and rankings' neighbours of some raters."""
    who, prompts, images, labels = data.all_pairs()
    rows = np.flatnonzero(np.isin(who, raters))
    scores = predictor.scores(prompts[rows], images[rows])
    logits, y = predictor.comparison_temperature * (scores[:, :, 0] - scores[:, :, 1]), labels[rows]
    both = np.stack([log_sigmoid(logits), log_sigmoid(-logits)], axis=-1)
    likelihoods = y[:, None] * both[..., 0] + (1 - y[:, None]) * both[..., 1]
    return Labels(who[rows], likelihoods, both, np.where(y == 0.5, -1, (y == 0).astype(np.int64)))


def choice_places(data: PreferenceData, raters: IntArray) -> tuple[IntArray, IntArray]:
    """Find the choices of some raters: rows of sessions, and turns, ``(n,)`` each."""
    return np.nonzero((data.session_choices >= 0) & np.isin(data.session_raters, raters)[:, None])


def choice_labels(predictor: Predictor, data: PreferenceData, raters: IntArray) -> Labels:
    """Collect the choices of some raters."""
    sessions, turns = choice_places(data, raters)
    utilities = predictor.utilities(data.session_prompts[sessions], data.session_images[sessions, turns])
    log_p, said = predictor.log_choice_probabilities(utilities), data.session_choices[sessions, turns]
    chosen = np.take_along_axis(log_p, said[:, None, None], axis=2)[..., 0]
    return Labels(data.session_raters[sessions], chosen, log_p, said)


def posteriors(predictor: Predictor, evidence: Labels, rows: list[IntArray]) -> FloatArray:
    """Posterior over types from the labels in each rater's ``rows``: ``(R, K)``."""
    sums = np.array([evidence.log_likelihoods[r].sum(axis=0) for r in rows]).reshape(len(rows), len(predictor.prior))
    return softmax(np.log(np.maximum(predictor.prior, 1e-300)) + sums)


def predict(labels: Labels, rows: list[IntArray], posterior: FloatArray) -> tuple[FloatArray, IntArray]:
    """Predict the labels in each rater's ``rows``: probabilities ``(n, L)`` and what was said ``(n,)``, no ties."""
    counts = [len(r) for r in rows]
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    mixed = np.einsum("nkl,nk->nl", np.exp(labels.opposites[flat]), np.repeat(posterior, counts, axis=0))
    kept = labels.said[flat] >= 0
    return mixed[kept], labels.said[flat][kept]


def outcomes_of(probabilities: FloatArray, said: IntArray) -> tuple[FloatArray, FloatArray]:
    """Lay predictions out for calibration: the probability of every answer, and whether it was given, ``(n L,)``."""
    hits = np.arange(probabilities.shape[1]) == said[:, None]
    return probabilities.reshape(-1), hits.reshape(-1).astype(np.float64)


def figures_of(name: str, probabilities: FloatArray, said: IntArray) -> dict[str, float]:
    """Accuracy, mean log-likelihood and calibration error of predictions; a label that nobody gave has none."""
    if not len(said):
        return {f"{name}s": 0.0}
    given = probabilities[np.arange(len(said)), said]
    return {
        f"{name}s": float(len(said)),
        f"{name}_accuracy": float((probabilities.argmax(axis=1) == said).mean()),
        f"{name}_log_likelihood": float(np.log(np.maximum(given, 1e-12)).mean()),
        f"{name}_ece": calibration_error(*outcomes_of(probabilities, said)),
    }


def seen_prompt_shares(data: PreferenceData, split: str = "test") -> dict[str, float]:
    """How many of the labels of held-out raters are on prompts that training raters judged too, word for word.

    Args:
        data: All labels.
        split: Which split's raters.

    Returns:
        Shares in [0, 1] of the pairs, with rankings' neighbours, and of the choices; a kind that nobody gave has none.
    """
    raters, seen = data.raters_of(split), shown_to(data, data.raters_of("train")).prompts
    who, prompts, _, _ = data.all_pairs()
    sessions, _ = choice_places(data, raters)
    kinds = {"pairs": prompts[np.isin(who, raters)], "choices": data.session_prompts[sessions]}
    return {kind: float(np.isin(shown, seen).mean()) for kind, shown in kinds.items() if len(shown)}


def held_out_scores(
    predictor: Predictor, data: PreferenceData, split: str = "test", n_labels: tuple[int, ...] = N_LABELS
) -> dict[str, Any]:
    """Compute every figure that held-out raters' labels allow.

    The first half of a rater's pairs is to learn from, the second to be predicted, and all choices are predicted. A
    rater without pairs is learned from by the first half of the choices instead, and the other half is predicted,
    with what was said of those turns against the ones before. Figures are means over labels, not over raters.

    Args:
        predictor: What predicts: a user model, or a score.
        data: All labels.
        split: Which split's raters.
        n_labels: Numbers of labels that the posterior may have seen; a rater with fewer is judged on those.

    Returns:
        By n, as text: counts, accuracies, log-likelihoods and calibration errors of ``pair`` and ``choice``, and
        ``cross_turn_accuracy`` with its number of ``cross_turns``. Beside them ``raters``,
        ``uniform_choice_log_likelihood``; ``on_seen_prompts``, see ``seen_prompt_shares``; ``pickapic_paper`` and
        ``pickapic_script`` with ``pickapic_pairs`` and ``pickapic_threshold``; ``hps_spearman`` with ``hps_lists``,
        ``hps_images`` of the longest and ``hps_fewest_images`` of the shortest, and where the labels are of several
        datasets these by dataset in ``by_source`` instead; ``reliability``, the curves of ``pair`` and ``choice`` after
        the most labels; and ``left_out``, why any of these is missing.
    """
    raters = data.raters_of(split)
    pairs, choices = pair_labels(predictor, data, raters), choice_labels(predictor, data, raters)
    of_pairs, of_choices = rows_by_rater(pairs.raters, raters), rows_by_rater(choices.raters, raters)
    halves = [len(p) // 2 for p in of_pairs]
    starts = [0 if len(p) else len(c) // 2 for p, c in zip(of_pairs, of_choices, strict=True)]
    answers = turn_comparisons(predictor, data, np.flatnonzero(np.isin(data.session_raters, raters)))
    is_learned = np.zeros(data.session_choices.shape, dtype=bool)
    sessions, turns = choice_places(data, raters)
    for c, start in zip(of_choices, starts, strict=True):
        is_learned[sessions[c[:start]], turns[c[:start]]] = True
    is_predicted = ~is_learned[answers.sessions, answers.turns]
    figures: dict[str, Any] = {
        "raters": int(sum(len(p) + len(c) > 0 for p, c in zip(of_pairs, of_choices, strict=True))),
        "uniform_choice_log_likelihood": -float(np.log(choices.opposites.shape[-1])),
        "on_seen_prompts": seen_prompt_shares(data, split),
        "left_out": {},
    }
    later_pairs = [p[h:] for p, h in zip(of_pairs, halves, strict=True)]
    later_choices = [c[s:] for c, s in zip(of_choices, starts, strict=True)]
    made = {}
    for n in sorted(n_labels):
        learned = posteriors(predictor, pairs, [p[: min(n, h)] for p, h in zip(of_pairs, halves, strict=True)])
        from_choices = posteriors(predictor, choices, [c[: min(n, s)] for c, s in zip(of_choices, starts, strict=True)])
        posterior = np.where(np.array([len(p) > 0 for p in of_pairs], dtype=bool)[:, None], learned, from_choices)
        made = {
            "pair": predict(pairs, later_pairs, posterior),
            "choice": predict(choices, later_choices, posterior),
        }
        credits = answers.credits(raters, posterior)[is_predicted]
        figures[str(n)] = {
            **figures_of("pair", *made["pair"]),
            **figures_of("choice", *made["choice"]),
            "cross_turns": float(len(credits)),
            **({"cross_turn_accuracy": float(credits.mean())} if len(credits) else {}),
            "largest_posterior": float(posterior.max(axis=1).mean()) if len(posterior) else 1.0,
        }
    figures["reliability"] = {kind: _curve(*said) for kind, said in made.items() if len(said[1])}
    left_out = figures["left_out"]
    if not len(made["pair"][1]):
        left_out["figures of pairs"] = f"no {split} rater preferred one image of two, beyond what is learned from"
    if not len(made["choice"][1]):
        left_out["figures of choices"] = f"no {split} rater made a choice, beyond what is learned from"
    if not is_predicted.any():
        left_out[CROSS_TURN] = f'no {split} rater said "better" or "worse than the turn before" of a predicted choice'
    several = data.sources if len(data.sources) > 1 else ()
    by_source: dict[str, dict[str, float]] = {}
    for name, compute in ((PICKAPIC, _pickapic), (HPS, _hps)):
        parts = {source.name: compute(predictor, _of_source(data, source, split), split) for source in several}
        named = {source: found for source, found in parts.items() if not isinstance(found, str)}
        for source, found in named.items():
            by_source[source] = by_source.get(source, {}) | found
        whole = {} if named else compute(predictor, data, split)
        if isinstance(whole, str):
            left_out[name] = whole
        else:
            figures |= whole
    return {**figures, "by_source": by_source} if several else figures


def _of_source(data: PreferenceData, source: Source, split: str) -> PreferenceData:
    """Leave the raters of one source in a split, and in the validation split those of all files of its publication."""
    kin = [other.raters for other in data.sources if other.people == source.people]
    kept = {"validation": np.concatenate(kin), split: source.raters}  # of the source alone if these are asked for
    splits = np.full_like(data.rater_splits, -1)
    for name, raters in kept.items():
        theirs = raters[data.rater_splits[raters] == SPLITS.index(name)]
        splits[theirs] = SPLITS.index(name)
    return replace(data, rater_splits=splits)


def _curve(probabilities: FloatArray, said: IntArray) -> dict[str, list[float]]:
    """The reliability curve as plain data."""
    curve = reliability_curve(*outcomes_of(probabilities, said))
    return {name: getattr(curve, name).tolist() for name in ("predicted", "observed", "counts")}


def _pickapic(predictor: Predictor, data: PreferenceData, split: str) -> dict[str, float] | str:
    """Both accuracies, or why there are none."""
    found = pickapic_credits(predictor, data, np.random.default_rng([SEED, 1]), split)
    n = sum(map(len, found.paper))
    if not n:
        return f"no {split} rater compared two images"
    return {
        "pickapic_paper": float(np.concatenate(found.paper).mean()),
        "pickapic_script": float(np.concatenate(found.script).mean()),
        "pickapic_pairs": float(n),
        "pickapic_threshold": found.threshold,
    }


def _hps(predictor: Predictor, data: PreferenceData, split: str) -> dict[str, float] | str:
    """The rank correlation, or why there is none."""
    theirs = data.ranking_lengths[np.isin(data.ranking_raters, data.raters_of(split))]
    if not len(theirs):
        return f"no {split} rater ranked a list"
    counted = data.ranking_lengths[lists_to_rank(data, split)]
    if not len(counted):
        return (
            f"lists of {FEWEST} images or more are needed, because {N_SEEN} give the posterior; the longest has "
            f"{theirs.max()}"
        )
    _, correlations = list_correlations(predictor, data, np.random.default_rng([SEED, 2]), split)
    return {
        "hps_spearman": float(correlations.mean()),
        "hps_lists": float(len(correlations)),
        "hps_images": float(counted.max()),
        "hps_fewest_images": float(counted.min()),
    }


def shown_in_scores(data: PreferenceData, split: str = "test") -> Shown:
    """Collect what ``held_out_scores`` reads: all of the split, and the validation raters' pairs for the threshold."""
    shown = shown_to(data, data.raters_of(split))
    rows = np.isin(data.pair_raters, data.raters_of("validation"))
    return Shown(
        np.union1d(shown.images, data.pair_images[rows].reshape(-1)), np.union1d(shown.prompts, data.pair_prompts[rows])
    )
