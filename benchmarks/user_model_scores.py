"""How well a user model predicts raters it was not fitted on, whatever labels they gave and however many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.features import shown_to
from pasta_gym.user_model.metrics import calibration_error, log_sigmoid
from pasta_gym.user_model.user_model import UserModel

N_LABELS = (0, 5, 20, 50)
_CHUNK = 2048


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


def pair_labels(model: UserModel, data: PreferenceData, raters: IntArray) -> Labels:
    """Collect the pairs and rankings' neighbours of some raters."""
    who, prompts, images, labels = data.all_pairs()
    rows = np.flatnonzero(np.isin(who, raters))
    parts = [np.zeros((0, model.n_types))]
    for chunk in np.array_split(rows, -(-len(rows) // _CHUNK)) if len(rows) else []:
        features = model.prompt_features(np.asarray(data.prompt_embeddings[prompts[chunk]]))
        scores = model.scores(features, np.asarray(data.image_embeddings[images[chunk]], dtype=np.float32))
        parts.append(model.comparison_temperature * (scores[:, :, 0] - scores[:, :, 1]).astype(np.float64))
    logits, y = np.concatenate(parts), labels[rows]
    both = np.stack([log_sigmoid(logits), log_sigmoid(-logits)], axis=-1)
    likelihoods = y[:, None] * both[..., 0] + (1 - y[:, None]) * both[..., 1]
    return Labels(who[rows], likelihoods, both, np.where(y == 0.5, -1, (y == 0).astype(np.int64)))


def choice_labels(model: UserModel, data: PreferenceData, raters: IntArray) -> Labels:
    """Collect the choices of some raters."""
    sessions, turns = np.nonzero((data.session_choices >= 0) & np.isin(data.session_raters, raters)[:, None])
    parts = [np.zeros((0, model.n_types, data.session_images.shape[2]))]
    for first in range(0, len(sessions), _CHUNK // 8):
        s, t = sessions[first : first + _CHUNK // 8], turns[first : first + _CHUNK // 8]
        features = model.prompt_features(np.asarray(data.prompt_embeddings[data.session_prompts[s]]))
        images = np.asarray(data.image_embeddings[data.session_images[s, t]], dtype=np.float32)
        parts.append(model.log_choice_probabilities(model.all_utilities(features, images)).astype(np.float64))
    log_p, said = np.concatenate(parts), data.session_choices[sessions, turns]
    chosen = np.take_along_axis(log_p, said[:, None, None], axis=2)[..., 0]
    return Labels(data.session_raters[sessions], chosen, log_p, said)


def posteriors(model: UserModel, evidence: Labels, rows: list[IntArray]) -> FloatArray:
    """Posterior over types from the labels in each rater's ``rows``: ``(R, K)``."""
    sums = np.array([evidence.log_likelihoods[r].sum(axis=0) for r in rows]).reshape(len(rows), model.n_types)
    joint = np.log(np.maximum(model.prior, 1e-300)) + sums
    weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    normalised: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def predict(labels: Labels, rows: list[IntArray], posterior: FloatArray) -> tuple[FloatArray, IntArray]:
    """Predict the labels in each rater's ``rows``: probabilities ``(n, L)`` and what was said ``(n,)``, no ties."""
    counts = [len(r) for r in rows]
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    mixed = np.einsum("nkl,nk->nl", np.exp(labels.opposites[flat]), np.repeat(posterior, counts, axis=0))
    kept = labels.said[flat] >= 0
    return mixed[kept], labels.said[flat][kept]


def figures_of(name: str, probabilities: FloatArray, said: IntArray) -> dict[str, float]:
    """Accuracy, mean log-likelihood and calibration error of predictions; a label that nobody gave has none."""
    if not len(said):
        return {f"{name}s": 0.0}
    hits = np.arange(probabilities.shape[1]) == said[:, None]
    return {
        f"{name}s": float(len(said)),
        f"{name}_accuracy": float((probabilities.argmax(axis=1) == said).mean()),
        f"{name}_log_likelihood": float(np.log(np.maximum(probabilities[hits], 1e-12)).mean()),
        f"{name}_ece": calibration_error(probabilities.reshape(-1), hits.reshape(-1).astype(np.float64)),
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
    sessions = np.nonzero((data.session_choices >= 0) & np.isin(data.session_raters, raters)[:, None])[0]
    kinds = {"pairs": prompts[np.isin(who, raters)], "choices": data.session_prompts[sessions]}
    return {kind: float(np.isin(shown, seen).mean()) for kind, shown in kinds.items() if len(shown)}


def held_out_scores(
    model: UserModel, data: PreferenceData, split: str = "test", n_labels: tuple[int, ...] = N_LABELS
) -> dict[str, Any]:
    """Predict held-out raters' pairs and choices after the first n labels of theirs, for each n.

    The first half of a rater's pairs is to learn from, the second to be predicted, and all choices are predicted. A
    rater without pairs is learned from by the first half of the choices instead, and the other half is predicted.

    Args:
        model: The user model.
        data: All labels.
        split: Which split's raters.
        n_labels: Numbers of labels that the posterior may have seen; a rater with fewer is judged on those.

    Returns:
        By n, as text: counts, accuracies, log-likelihoods and calibration errors of ``pair`` and ``choice``; and
        ``raters``, ``uniform_choice_log_likelihood``, ``on_seen_prompts`` of ``seen_prompt_shares``.
    """
    raters = data.raters_of(split)
    pairs, choices = pair_labels(model, data, raters), choice_labels(model, data, raters)
    of_pairs = [np.flatnonzero(pairs.raters == r) for r in raters]
    of_choices = [np.flatnonzero(choices.raters == r) for r in raters]
    halves = [len(p) // 2 for p in of_pairs]
    starts = [0 if len(p) else len(c) // 2 for p, c in zip(of_pairs, of_choices, strict=True)]
    figures: dict[str, Any] = {
        "raters": int(sum(len(p) + len(c) > 0 for p, c in zip(of_pairs, of_choices, strict=True))),
        "uniform_choice_log_likelihood": -float(np.log(choices.opposites.shape[-1])),
        "on_seen_prompts": seen_prompt_shares(data, split),
    }
    for n in n_labels:
        learned = posteriors(model, pairs, [p[: min(n, h)] for p, h in zip(of_pairs, halves, strict=True)])
        from_choices = posteriors(model, choices, [c[: min(n, s)] for c, s in zip(of_choices, starts, strict=True)])
        posterior = np.where(np.array([len(p) > 0 for p in of_pairs])[:, None], learned, from_choices)
        later_pairs = [p[h:] for p, h in zip(of_pairs, halves, strict=True)]
        later_choices = [c[s:] for c, s in zip(of_choices, starts, strict=True)]
        figures[str(n)] = {
            **figures_of("pair", *predict(pairs, later_pairs, posterior)),
            **figures_of("choice", *predict(choices, later_choices, posterior)),
            "largest_posterior": float(posterior.max(axis=1).mean()) if len(posterior) else 1.0,
        }
    return figures
