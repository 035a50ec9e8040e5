"""What predicts a rater's labels, behind one interface: a user model of K types, or a score that knows no raters.

A score without types is a model of one type, so every figure is computed by the same code for all of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pasta_gym.softmax import log_softmax
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.encoder_identity import require_encoder_of_data
from pasta_gym.user_model.metrics import log_sigmoid
from pasta_gym.user_model.user_model import UserModel

logger = logging.getLogger(__name__)
ScoreFunction = Callable[[IntArray, IntArray], FloatArray]
"""Scores images ``(n, m)`` for prompts ``(n,)``, both rows of a dataset's tables: ``(n, m)``, more is better."""

_ROWS = 512  # scored at once
_MOST_FITTED = 20_000  # labels a temperature is fitted on: one number needs no more
_SEED = 0xCA11


class Predictor(Protocol):
    """Scores, utilities and choices by type, of rows of one dataset's tables."""

    prior: FloatArray
    comparison_temperature: float

    def scores(self, prompts: IntArray, images: IntArray) -> FloatArray:
        """Score images ``(n, m)`` for prompts ``(n,)`` by type: ``(n, K, m)``."""
        ...

    def utilities(self, prompts: IntArray, slates: IntArray) -> FloatArray:
        """Return the utilities of the columns of slates ``(n, L, M)``: ``(n, K, L)``."""
        ...

    def log_choice_probabilities(self, utilities: FloatArray) -> FloatArray:
        """Return the log-probability of choosing each column ``(..., L)``."""
        ...


class ModelPredictor:
    """A user model in front of a dataset.

    Args:
        model: The user model.
        data: The dataset whose rows are asked for.

    Raises:
        ValueError: If the user model reads another encoder's embeddings than the dataset's.
    """

    def __init__(self, model: UserModel, data: PreferenceData) -> None:
        require_encoder_of_data(model.metadata, data.encoder_sha256)
        self.model = model
        self.prior: FloatArray = model.prior
        self.comparison_temperature = model.comparison_temperature
        self._data = data

    def scores(self, prompts: IntArray, images: IntArray) -> FloatArray:
        """Score images ``(n, m)`` for prompts ``(n,)`` by type: ``(n, K, m)`` in [0, 1]."""
        result = np.zeros((len(images), self.model.n_types, images.shape[1]))
        for start in range(0, len(images), _ROWS):
            rows = slice(start, start + _ROWS)
            features = self.model.prompt_features(self._data.prompt_embeddings[prompts[rows]])
            result[rows] = self.model.scores(features, self._images(images[rows]))
        return result

    def utilities(self, prompts: IntArray, slates: IntArray) -> FloatArray:
        """Return the utilities of the columns of slates ``(n, L, M)``: ``(n, K, L)`` in [0, 1]."""
        result = np.zeros((len(slates), self.model.n_types, slates.shape[1]))
        for start in range(0, len(slates), _ROWS):
            rows = slice(start, start + _ROWS)
            features = self.model.prompt_features(self._data.prompt_embeddings[prompts[rows]])
            result[rows] = self.model.all_utilities(features, self._images(slates[rows]))
        return result

    def log_choice_probabilities(self, utilities: FloatArray) -> FloatArray:
        """Return the log-probability of choosing each column ``(..., L)``."""
        log_p: FloatArray = self.model.log_choice_probabilities(utilities).astype(np.float64)
        return log_p

    def _images(self, rows: IntArray) -> FloatArray:
        return np.asarray(self._data.image_embeddings[rows], dtype=np.float32)


@dataclass(frozen=True)
class ScorePredictor:
    """A score that is the same for everybody: CLIP score, PickScore and the like.

    A column's utility is its best image's score, because raters judge a column by its best image. The two
    temperatures make probabilities of scores; accuracies do not depend on them.

    Attributes:
        score: The score.
        comparison_temperature: Factor on a difference of scores in comparisons.
        choice_temperature: Factor on utilities in choices.
    """

    score: ScoreFunction
    comparison_temperature: float = 1.0
    choice_temperature: float = 1.0

    @property
    def prior(self) -> FloatArray:
        """One type, whose share is 1."""
        return np.ones(1)

    def scores(self, prompts: IntArray, images: IntArray) -> FloatArray:
        """Score images ``(n, m)`` for prompts ``(n,)``: ``(n, 1, m)``."""
        result = np.zeros((len(images), 1, images.shape[1]))
        for start in range(0, len(images), _ROWS):
            rows = slice(start, start + _ROWS)
            result[rows, 0] = self.score(prompts[rows], images[rows])
        return result

    def utilities(self, prompts: IntArray, slates: IntArray) -> FloatArray:
        """Return the score of each column's best image, slates ``(n, L, M)``: ``(n, 1, L)``."""
        n, n_columns, m = slates.shape
        flat = self.scores(prompts, slates.reshape(n, n_columns * m))
        best: FloatArray = flat.reshape(n, 1, n_columns, m).max(axis=-1)
        return best

    def log_choice_probabilities(self, utilities: FloatArray) -> FloatArray:
        """Return the log-probability of choosing each column ``(..., L)``."""
        return log_softmax(self.choice_temperature * utilities)


def clip_score(data: PreferenceData) -> ScoreFunction:
    """``(1 + cos) / 2`` of the frozen CLIP embeddings of prompt and image, from the dataset's own tables.

    On the scale of the user model's scores, so that the paper's tie of 0.1 means the same for both.
    """

    def score(prompts: IntArray, images: IntArray) -> FloatArray:
        text = np.asarray(data.prompt_embeddings[prompts], dtype=np.float64)
        picture = np.asarray(data.image_embeddings[images], dtype=np.float64)
        products = np.einsum("bd,bmd->bm", text, picture)
        norms = np.linalg.norm(text, axis=-1)[:, None] * np.linalg.norm(picture, axis=-1)
        cosines: FloatArray = products / np.maximum(norms, 1e-12)
        return 0.5 * (1.0 + cosines)

    return score


def table_score(table: FloatArray) -> ScoreFunction:
    """Scores that were computed beforehand, one for each image with the prompt it was made for: ``(I,)``.

    Args:
        table: ``(I,)``, a row for each of the dataset's images, as ``read_scores`` reads it.

    Returns:
        The score; it raises ``ValueError`` for an image whose number is not finite.
    """

    def score(prompts: IntArray, images: IntArray) -> FloatArray:
        found: FloatArray = table[images]
        if not np.isfinite(found).all():
            row = int(images[~np.isfinite(found)][0])
            raise ValueError(f"image {row} has no score, got {table[row]}; score the images of this very dataset")
        return found

    return score


def scored_path(path: str | pathlib.Path) -> pathlib.Path:
    """Name the file beside scores that says which images they are of: ``pickscore.npy.json``."""
    return pathlib.Path(f"{path}.json")


def scored_record(images_sha256: str | None, scores: bytes) -> dict[str, str | None]:
    """Say which images scores are of, and which scores: the content of the file beside theirs.

    Args:
        images_sha256: ``PreferenceData.images_sha256``.
        scores: Bytes of the ``.npy`` file.
    """
    return {"images_sha256": images_sha256, "scores_sha256": hashlib.sha256(scores).hexdigest()}


def read_scores(path: str | pathlib.Path, n_images: int, images_sha256: str | None = None) -> FloatArray:
    """Read scores that ``python -m benchmarks.score_images`` wrote, or anything else of that shape.

    The command leaves a file beside them that says which image is in which row. Without one the rows are taken as they
    are, and a warning says so: of scores in another order nothing else can tell.

    Args:
        path: A ``.npy`` file.
        n_images: Images of the dataset.
        images_sha256: The dataset's ``images_sha256``.

    Returns:
        ``(n_images,)``, NaN for images that no label is about.

    Raises:
        ValueError: If a file is missing or broken, not of one number an image, or of other images or another order.
    """
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"cannot read {path} ({error}); write it with: python -m benchmarks.score_images --out {path}"
        ) from error
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu" or table.shape != (n_images,):
        raise ValueError(
            f"{path} must hold one score for each of {n_images} images, got {getattr(table, 'shape', 'an archive')}; "
            "score the images of this very dataset, with the same limits and splits"
        )
    _require_images_of(pathlib.Path(path), images_sha256)
    scores: FloatArray = table.astype(np.float64)
    return scores


def _require_images_of(path: pathlib.Path, images_sha256: str | None) -> None:
    beside = scored_path(path)
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        logger.warning("%s is not there, so nobody checks that row i of %s is the dataset's image i", beside, path)
        return
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {beside} ({error}); score the images again") from error
    if not isinstance(said, dict) or scored_record(None, path.read_bytes())["scores_sha256"] != said.get(
        "scores_sha256"
    ):
        raise ValueError(f"{beside} is not about these scores of {path}; score the images again")
    if None not in (images_sha256, said.get("images_sha256")) and images_sha256 != said["images_sha256"]:
        raise ValueError(
            f"{path} holds scores of other images, or in another order, than those of this dataset: score the images "
            "of this very dataset, with the same limits and splits (python -m benchmarks.score_images). Rows of a "
            "fit's data are not those of a folder of labels"
        )


def calibrated(score: ScoreFunction, data: PreferenceData, split: str = "train") -> ScorePredictor:
    """Give a score the two temperatures with the highest likelihood on a split's labels.

    Args:
        score: The score.
        data: All labels. Neighbours in rankings are taken for pairs where there are no pairs without a tie.
        split: Whose labels; never those that are predicted later.

    Returns:
        The predictor; a temperature stays 1 where the split has no such labels. Of very many labels some are drawn, the
        same ones every time.
    """
    raters = data.raters_of(split)
    who, prompts, images, labels = data.pair_raters, data.pair_prompts, data.pair_images, data.pair_labels
    rows = _some(np.flatnonzero(np.isin(who, raters) & (labels != 0.5)))
    if not len(rows):
        who, prompts, images, labels = data.all_pairs()
        rows = _some(np.flatnonzero(np.isin(who, raters) & (labels != 0.5)))
    plain = ScorePredictor(score)
    pairs = plain.scores(prompts[rows], images[rows])[:, 0]
    gaps = (pairs[:, 0] - pairs[:, 1]) * np.where(labels[rows] == 1, 1.0, -1.0)
    comparison = _best_scale(lambda tau: float(log_sigmoid(tau * gaps).mean())) if len(rows) else 1.0
    sessions, turns = np.nonzero((data.session_choices >= 0) & np.isin(data.session_raters, raters)[:, None])
    drawn = _some(np.arange(len(sessions)))
    sessions, turns = sessions[drawn], turns[drawn]
    if not len(sessions):
        return ScorePredictor(score, comparison)
    columns = plain.utilities(data.session_prompts[sessions], data.session_images[sessions, turns])[:, 0]
    chosen = data.session_choices[sessions, turns][:, None]

    def likelihood(tau: float) -> float:
        return float(np.take_along_axis(log_softmax(tau * columns), chosen, axis=1).mean())

    return ScorePredictor(score, comparison, _best_scale(likelihood))


def _some(rows: IntArray) -> IntArray:
    """Draw as many rows as a temperature needs, in order: the first ones may all be of one dataset or a few raters."""
    if len(rows) <= _MOST_FITTED:
        return rows
    return np.sort(np.random.default_rng(_SEED).choice(rows, _MOST_FITTED, replace=False))


def _best_scale(likelihood: Callable[[float], float], low: float = 1e-4, high: float = 1e4) -> float:
    """Maximise a unimodal function of a positive factor by golden sections of its logarithm."""
    a, b = math.log(low), math.log(high)
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(60):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        if likelihood(math.exp(c)) >= likelihood(math.exp(d)):
            b = d
        else:
            a = c
    return math.exp((a + b) / 2.0)
