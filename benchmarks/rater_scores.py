"""Figures of predictors on held-out raters, rater by rater: what the tables and the K study are made of."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.mini import grammar, rater_data
from pasta_gym.mini.pool_pictures import PoolPictures
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model import UserModel
from pasta_gym.user_model.data import PreferenceData, load_preferences
from pasta_gym.user_model.evaluation import (
    HeldOut,
    Predictions,
    choice_outcomes,
    cross_turn,
    held_out,
    pair_outcomes,
    pickapic,
    predict,
    rater_figures,
)
from pasta_gym.user_model.figures import ceiling_predictions, posterior_from_all_labels, taste_fidelity
from pasta_gym.user_model.metrics import adjusted_rand_index, calibration_error, matched_recovery
from pasta_gym.user_model.predictors import ModelPredictor, Predictor
from pasta_gym.user_model.rankings import hps_correlations, lists_to_rank

N_LABELS = (5, 20, 50)
HPS_LIST = 9
"""Images of a ranked list on the HPS test set, and so of the lists made for the mini world."""

SEED = 0x5C0E
"""Of the halves of a rater's pairs (with 1) and of the three images of a list (with 2), the same for everybody."""


@dataclass(frozen=True)
class Raters:
    """Held-out raters of one dataset, loaded once.

    Attributes:
        folder: Where the labels are.
        data: All labels.
        lists: The same raters' ranked lists of nine images; None if their labels cannot be made again.
        tasks: What to learn from and what to predict.
        is_planted: Whether the truth lies beside the labels.
    """

    folder: pathlib.Path
    data: PreferenceData
    lists: PreferenceData | None
    tasks: HeldOut
    is_planted: bool


def load_raters(folder: pathlib.Path, split: str = "test") -> Raters:
    """Read a dataset's labels.

    Args:
        folder: A world's labels.
        split: Whose labels are predicted.

    Returns:
        The raters.

    Raises:
        ValueError: If a file is missing or broken.
    """
    data = load_preferences(folder)
    is_planted = (folder / rater_data.TRUTH).is_file()
    return Raters(
        folder, data, ranked_lists(folder) if is_planted else data, held_out(data, split, max(N_LABELS)), is_planted
    )


def seen_through(raters: Raters, encoder: ClipEncoder, pictures: PoolPictures) -> Raters:
    """Show the held-out raters' pictures and prompts to another encoder, for a user model that was trained with it.

    Args:
        raters: A mini world's raters.
        encoder: The user model's own.
        pictures: The pool's pictures.

    Returns:
        The same raters and labels. Pictures of training raters, which no figure is about, have NaN for embeddings.

    Raises:
        ValueError: If a session is not painted.
    """
    pool, data = rater_data.pool_of_labels(raters.folder), raters.data
    n_images = pool.image_embeddings.shape[1]
    images = np.full(data.image_embeddings.shape, np.nan, dtype=np.float32)
    for session in np.flatnonzero(data.rater_splits[pool.raters] != 0).tolist():
        shown = [PIL.Image.fromarray(picture) for picture in np.asarray(pictures.session(session))]
        images[session * n_images : (session + 1) * n_images] = encoder.encode_images(shown)
    prompts = encoder.encode_texts(grammar.prompt_texts(pool.initial_prompts))

    def through(labels: PreferenceData) -> PreferenceData:
        own = str(encoder.identity["weights_sha256"])
        return dataclasses.replace(labels, image_embeddings=images, prompt_embeddings=prompts, encoder_sha256=own)

    lists = None if raters.lists is None else through(raters.lists)
    return dataclasses.replace(raters, data=through(data), lists=lists)


def ranked_lists(folder: pathlib.Path, n_ranked: int = HPS_LIST) -> PreferenceData:
    """Let a mini world's raters rank lists as long as those of the HPS test set; takes seconds.

    Their own rankings, which the model is fitted on, are of four images: too short to put three into the posterior.
    """
    metadata = json.loads((folder / "metadata.json").read_text())
    pool = (folder / metadata["pool"]).resolve()
    with tempfile.TemporaryDirectory(prefix="pasta-lists-") as scratch:
        config = rater_data.LabelConfig(ranked=n_ranked)
        rater_data.label(pool, pathlib.Path(scratch), int(metadata["world_seed"]), config)
        return load_preferences(scratch)


@dataclass(frozen=True)
class Scored:
    """Figures of one predictor on one dataset.

    Attributes:
        by_rater: By metric, ``(R,)``; NaN where a rater has none.
        predictions: By number of labels seen.
    """

    by_rater: dict[str, FloatArray]
    predictions: dict[int, Predictions]


def score_predictor(predictor: Predictor, raters: Raters, n_labels: tuple[int, ...] = N_LABELS) -> Scored:
    """Compute every figure of a predictor that is a mean over raters.

    Every predictor meets the same halves of labels and the same three images of a list.

    Args:
        predictor: What predicts ``raters.data``.
        raters: The held-out raters.
        n_labels: Numbers of pairs that the posterior has seen.

    Returns:
        Figures named ``<metric>@<n>`` where the posterior is of the first n pairs, plain where the paper says how the
        posterior comes about.
    """
    made = predict(predictor, raters.data, raters.tasks, n_labels)
    figures = _of_predictions(made)
    for n in n_labels:
        figures[f"cross_turn_accuracy@{n}"] = cross_turn(predictor, raters.data, raters.tasks, n)
    figures |= pickapic(predictor, raters.data, np.random.default_rng([SEED, 1]))
    if raters.lists is not None and len(lists_to_rank(raters.lists)):
        figures["hps_spearman"] = hps_correlations(
            _of_lists(predictor, raters.lists), raters.lists, np.random.default_rng([SEED, 2])
        )
    return Scored(figures, made)


def _of_lists(predictor: Predictor, lists: PreferenceData) -> Predictor:
    """Point a model at the lists' tables; other predictors' rows are the same pictures in both."""
    return ModelPredictor(predictor.model, lists) if isinstance(predictor, ModelPredictor) else predictor


def _of_predictions(made: dict[int, Predictions]) -> dict[str, FloatArray]:
    return {f"{name}@{n}": values for n, said in made.items() for name, values in rater_figures(said).items()}


def score_ceiling(raters: Raters, n_labels: tuple[int, ...] = N_LABELS, n_draws: int = 4000) -> Scored:
    """Figures of the Bayes predictor that knows how raters are made, after the same labels.

    Raises:
        ValueError: If the raters are not a mini world's.
    """
    if not raters.is_planted:
        raise ValueError(f"{raters.folder} holds no planted truth, so there is no known ceiling")
    pool, truth = rater_data.pool_of_labels(raters.folder), rater_data.load_truth(raters.folder)
    made, _ = ceiling_predictions(raters.data, pool, truth, raters.tasks, n_labels, n_draws)
    return Scored(_of_predictions(made), made)


def score_uniform(raters: Raters, n_labels: tuple[int, ...] = N_LABELS) -> Scored:
    """Log-likelihoods of somebody who knows nothing: even odds. Accuracies would be those of a coin."""
    data, tasks = raters.data, raters.tasks
    choices = data.session_choices[tasks.sessions].reshape(len(tasks.raters), -1)
    n_columns = data.session_images.shape[2]
    said = Predictions(
        np.full(tasks.test.shape, 0.5),
        data.pair_labels[tasks.test],
        np.full((*choices.shape, n_columns), 1.0 / n_columns),
        choices,
    )
    made = dict.fromkeys(n_labels, said)
    figures = {name: values for name, values in _of_predictions(made).items() if "likelihood" in name}
    return Scored(figures, made)


def ece(made: Predictions, kind: str, raters: IntArray | None = None) -> float:
    """Calibration error of pairs or choices of all raters together, or of some.

    Args:
        made: The predictions.
        kind: ``"pair"`` or ``"choice"``.
        raters: ``(n,)`` rows, repeats allowed; all if None.
    """
    rows = np.arange(len(made.labels)) if raters is None else raters
    part = Predictions(made.preferences[rows], made.labels[rows], made.choice_probabilities[rows], made.choices[rows])
    return calibration_error(*(pair_outcomes if kind == "pair" else choice_outcomes)(part))


def recovery(model: UserModel, raters: Raters, split: str = "test") -> dict[str, Any]:
    """How well planted archetypes are found again, from all labels of each rater.

    Args:
        model: The user model.
        raters: A mini world's raters.
        split: Whose labels.

    Returns:
        ``adjusted_rand_index``, ``matched`` (share of raters of the matched type), ``types`` ``(R,)``, and
        ``fidelity``: by archetype the rank correlation of learned utility and planted taste.
    """
    pool, truth = rater_data.pool_of_labels(raters.folder), rater_data.load_truth(raters.folder)
    who = raters.data.raters_of(split)
    posterior = posterior_from_all_labels(model, raters.data, who)
    types, planted = posterior.argmax(axis=1), truth.raters.archetypes[who]
    fidelity = taste_fidelity(model, raters.data, pool, truth, posterior, who)
    return {
        "adjusted_rand_index": adjusted_rand_index(types, planted),
        "matched": matched_recovery(types, planted),
        "types": types.tolist(),
        "fidelity": [{k: row[k] for k in ("archetype", "share", "raters", "type", "spearman")} for row in fidelity],
    }
