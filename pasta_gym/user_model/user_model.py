"""The user model as the environment uses it: a bundle of the score model, the prior and the choice model."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import pathlib
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pasta_gym.files import whole_file, write_json
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.choice import choice_logits, log_choice_probabilities
from pasta_gym.user_model.encoder_identity import ENCODER_FOLDER, has_own_encoder
from pasta_gym.user_model.network import ScoreModel, score
from pasta_gym.user_model.posterior import choice_log_likelihood, log_posterior
from pasta_gym.user_model.temperature import CONSTANT, Slopes, check_slopes
from pasta_gym.user_model.utility import AGGREGATORS, aggregate, check_aggregator

logger = logging.getLogger(__name__)
FORMAT = 1
WEIGHTS = "user_model.safetensors"
METADATA = "metadata.json"
CHOICE_IS_FITTED = "choice_is_fitted"
"""Of the metadata; false where there were no sessions to fit the choice numbers on, missing where there were."""
_KINDS: tuple[tuple[str, type, str], ...] = (
    ("n_types", int, "a whole number of at least 1"),
    ("embedding_dim", int, "a whole number of at least 1"),
    ("aggregator", str, "a name"),
    ("sha256", str, "the hash of the weights"),
    ("encoder", dict, "an object with the encoder's hashes"),
    ("config", dict, "an object with the fit's settings"),
)
_MEND = "fit it again with: python -m pasta_gym.user_model.fit"


@dataclass(frozen=True)
class ChoiceNumbers:
    """The choice model of one aggregator.

    Attributes:
        temperature: tau of equation 4, at utilities of zero where the slopes are not.
        sharpness: beta of the softmax aggregator; unused by the others.
        slopes: How log tau grows with the slate's sorted utilities.
    """

    temperature: float
    sharpness: float = 0.0
    slopes: Slopes = CONSTANT

    def tensor(self) -> torch.Tensor:
        """The numbers in a row, ``(2,)`` for a constant temperature and ``(5,)`` else."""
        numbers = [self.temperature, self.sharpness, *(self.slopes if self.slopes != CONSTANT else ())]
        return torch.tensor(numbers, dtype=torch.float64)

    @classmethod
    def of_tensor(cls, numbers: torch.Tensor) -> ChoiceNumbers:
        """Read what ``tensor`` wrote.

        Raises:
            ValueError: If a slope is out of range.
        """
        temperature, sharpness, *slopes = numbers.tolist()
        return cls(temperature, sharpness, check_slopes(Slopes(*slopes)))


class UserModel:
    """K user types with scores, utilities, choices and a posterior. Torch inside, numpy outside.

    Args:
        model: The score model; it is put in evaluation mode and its weights are frozen.
        prior: ``(K,)`` shares of the types, positive, summing to 1.
        choice: Fitted choice numbers of each aggregator that may be used.
        aggregator: The aggregator in use.
        metadata: Provenance: data, configuration, figures.

    Attributes:
        encoder_folder: The encoder that its embeddings have to come from, if that was trained with it and is at hand.

    Raises:
        ValueError: If the prior does not fit the model or the aggregator has no fitted numbers.
    """

    def __init__(
        self,
        model: ScoreModel,
        prior: FloatArray,
        choice: dict[str, ChoiceNumbers],
        aggregator: str = "softmax",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        prior = np.asarray(prior, dtype=np.float64)
        if prior.shape != (model.n_types,) or (prior < 0).any() or abs(prior.sum() - 1) > 1e-4:
            raise ValueError(
                f"prior must be {model.n_types} shares that sum to 1, got shape {prior.shape}, sum {prior.sum():.4g}"
            )
        check_aggregator(aggregator)
        if aggregator not in choice:
            raise ValueError(f"no choice model is fitted for aggregator {aggregator!r}; fitted: {sorted(choice)}")
        self.aggregator = aggregator
        self.prior: FloatArray = prior / prior.sum()
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.encoder_folder: pathlib.Path | None = None
        self._model = model.eval().requires_grad_(False)
        self._choice = dict(choice)

    @property
    def n_types(self) -> int:
        """K, the number of user types."""
        return self._model.n_types

    @property
    def embedding_dim(self) -> int:
        """d, the embeddings' dimension."""
        return self._model.embedding_dim

    @property
    def score_model(self) -> ScoreModel:
        """The frozen score model, for evaluation in torch."""
        return self._model

    @property
    def temperature(self) -> float:
        """tau, the factor on utilities in choices, for the aggregator in use; with ``slopes``, that at zero."""
        return self._choice[self.aggregator].temperature

    @property
    def slopes(self) -> Slopes:
        """How log tau grows with the slate's sorted utilities, for the aggregator in use."""
        return self._choice[self.aggregator].slopes

    @property
    def has_constant_temperature(self) -> bool:
        """Whether a column's choice logit depends on its own utility alone, not on the slate around it."""
        return self.slopes == CONSTANT

    @property
    def sharpness(self) -> float:
        """Sharpness beta of the softmax aggregator."""
        return self._choice[self.aggregator].sharpness

    @property
    def has_fitted_choices(self) -> bool:
        """Whether temperature and sharpness were fitted on sessions; else they are what the fit was configured with."""
        return bool(self.metadata.get(CHOICE_IS_FITTED, True))

    @property
    def comparison_temperature(self) -> float:
        """tau_s, the factor on a difference of scores in pairwise comparisons."""
        return float(self._model.log_comparison_temperature.exp())

    def with_aggregator(self, aggregator: str) -> UserModel:
        """Return the same users with another aggregator and the choice numbers fitted for it.

        Raises:
            ValueError: If the aggregator is unknown or has no fitted numbers.
        """
        other = UserModel(self._model, self.prior, self._choice, aggregator, self.metadata)
        other.encoder_folder = self.encoder_folder
        return other

    def with_scores(self, model: ScoreModel, prior: FloatArray) -> UserModel:
        """Return users of other types, ``prior`` ``(K,)``, with the same choice numbers, metadata and encoder."""
        other = UserModel(model, prior, self._choice, self.aggregator, self.metadata)
        other.encoder_folder = self.encoder_folder
        return other

    @torch.inference_mode()
    def prompt_features(self, prompt_embeddings: FloatArray) -> FloatArray:
        """Return each type's reading of initial prompts: ``(B, d)`` to unit vectors ``(B, K, d)`` float32."""
        self._check_last(prompt_embeddings, "prompt_embeddings")
        features: FloatArray = self._model.text_heads(_tensor(prompt_embeddings)).numpy()
        return features

    @torch.inference_mode()
    def scores(self, prompt_features: FloatArray, image_embeddings: FloatArray) -> FloatArray:
        """Score images by every type: features ``(B, K, d)``, images ``(B, N, d)`` to ``(B, K, N)`` in [0, 1]."""
        self._check_last(image_embeddings, "image_embeddings")
        b, n, d = image_embeddings.shape
        images = self._model.image_heads(_tensor(image_embeddings).reshape(b * n, d)).view(b, n, self.n_types, d)
        scores: FloatArray = score(_tensor(prompt_features)[:, None], images).transpose(1, 2).contiguous().numpy()
        return scores

    @torch.inference_mode()
    def utilities(self, user_types: IntArray, prompt_features: FloatArray, image_embeddings: FloatArray) -> FloatArray:
        """Return the utilities of columns for users of known types.

        Only the heads of the types that occur are computed, each on its own rows.

        Args:
            user_types: ``(B,)`` in ``0..K - 1``.
            prompt_features: ``(B, K, d)`` of the initial prompts.
            image_embeddings: ``(B, L, M, d)`` before l2-normalisation.

        Returns:
            ``(B, L)`` float32 in [0, 1].

        Raises:
            ValueError: If a type does not exist or the embeddings have another dimension.
        """
        self._check_last(image_embeddings, "image_embeddings")
        types = np.asarray(user_types)
        if len(types) and not (types.min() >= 0 and types.max() < self.n_types):
            raise ValueError(f"user types must be in 0..{self.n_types - 1}, got {types.min()}..{types.max()}")
        b, n_columns, m, d = image_embeddings.shape
        order = np.argsort(types, kind="stable")
        counts = np.bincount(types, minlength=self.n_types)
        heads = self._model.image_heads
        per_user = n_columns * m
        x = _tensor(image_embeddings)[torch.from_numpy(order)].reshape(b * per_user, d) / heads.scale
        hidden = heads.hidden(x)
        text = _tensor(prompt_features)[torch.from_numpy(order), torch.from_numpy(types[order])]
        cosines = torch.empty(b, per_user)
        first = 0
        for user_type, count in enumerate(counts.tolist()):
            if count:
                rows = slice(first * per_user, (first + count) * per_user)
                # The cosine is taken of the unnormalised sum, which saves a pass over the largest array.
                sums = x[rows] + nn.functional.linear(hidden[rows], heads.weight3[user_type], heads.bias3[user_type])
                sums = sums.view(count, per_user, d)
                products = torch.bmm(sums, text[first : first + count, :, None])[..., 0]
                norms = torch.linalg.vector_norm(sums, dim=-1).clamp(min=1e-12)
                cosines[first : first + count] = products / norms
                first += count
        columns = 0.5 * (1.0 + cosines.view(b, n_columns, m))
        utilities = np.empty((b, n_columns), dtype=np.float32)
        utilities[order] = aggregate(columns, self.aggregator, self.sharpness).numpy()
        return utilities

    @torch.inference_mode()
    def all_utilities(self, prompt_features: FloatArray, image_embeddings: FloatArray) -> FloatArray:
        """Return utilities for every type: ``(B, K, d)`` and ``(B, L, M, d)`` to ``(B, K, L)`` float32 in [0, 1]."""
        b, n_columns, m, d = image_embeddings.shape
        scores = self.scores(prompt_features, image_embeddings.reshape(b, n_columns * m, d))
        columns = torch.from_numpy(scores).view(b, self.n_types, n_columns, m)
        utilities: FloatArray = aggregate(columns, self.aggregator, self.sharpness).numpy()
        return utilities

    def choice_logits(self, utilities: FloatArray) -> FloatArray:
        """Return the logits of choosing each column of a slate, ``tau * utility``, ``(..., L)`` (equation 4)."""
        logits: FloatArray = choice_logits(_tensor(utilities), self.temperature, self.slopes).numpy()
        return logits

    def log_choice_probabilities(self, utilities: FloatArray) -> FloatArray:
        """Return the log-probability of choosing each column ``(..., L)``."""
        log_p: FloatArray = log_choice_probabilities(_tensor(utilities), self.temperature, self.slopes).numpy()
        return log_p

    @torch.inference_mode()
    def posterior(self, prompt_embeddings: FloatArray, slate_images: FloatArray, choices: IntArray) -> FloatArray:
        """Return the posterior over types after some choices, in closed form.

        Args:
            prompt_embeddings: ``(B, d)`` of the initial prompts.
            slate_images: ``(B, H, L, M, d)``; turns without a choice are not looked at.
            choices: ``(B, H)`` chosen columns, -1 where there is no evidence.

        Returns:
            ``(B, K)`` float64; the prior where there is no evidence.

        Raises:
            ValueError: If a choice is neither -1 nor a column.
        """
        choices = np.asarray(choices, dtype=np.int64)
        b, h, n_columns = slate_images.shape[:3]
        if choices.shape != (b, h):
            raise ValueError(f"choices must have shape {(b, h)} as the slates do, got {choices.shape}")
        if choices.size and not (choices.min() >= -1 and choices.max() < n_columns):
            raise ValueError(
                f"choices must be in -1..{n_columns - 1} (-1: no evidence), got {choices.min()}..{choices.max()}"
            )
        rows, turns = np.nonzero(choices >= 0)
        log_p = torch.zeros(b, h, self.n_types, n_columns, dtype=torch.float64)
        if len(rows):
            features = self.prompt_features(prompt_embeddings)[rows]
            utilities = torch.from_numpy(self.all_utilities(features, slate_images[rows, turns]))
            log_p[rows, turns] = log_choice_probabilities(utilities, self.temperature, self.slopes).double()
        likelihood = choice_log_likelihood(log_p, torch.from_numpy(choices))
        with np.errstate(divide="ignore"):
            log_prior = torch.from_numpy(np.log(self.prior))
        posterior: FloatArray = log_posterior(log_prior, likelihood).exp().numpy()
        return posterior

    def _check_last(self, array: FloatArray, name: str) -> None:
        if array.shape[-1] != self.embedding_dim:
            raise ValueError(
                f"{name} must end in the embeddings' dimension {self.embedding_dim}, got shape {array.shape}; "
                "this user model was fitted on another encoder's embeddings"
            )

    def save(self, path: str | pathlib.Path) -> None:
        """Write ``user_model.safetensors`` and ``metadata.json`` with its hash into a folder; atomic a file.

        An encoder of its own is copied along.

        Args:
            path: The folder; it is made if need be.
        """
        folder = pathlib.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / ENCODER_FOLDER
        if self.encoder_folder is not None and self.encoder_folder.resolve() != own.resolve():
            shutil.copytree(self.encoder_folder, own, dirs_exist_ok=True)
        tensors = {name: t.detach().contiguous() for name, t in self._model.state_dict().items()}
        tensors["prior"] = torch.from_numpy(self.prior.astype(np.float64))
        for name, numbers in self._choice.items():
            tensors[f"choice.{name}"] = numbers.tensor()
        with whole_file(folder / WEIGHTS) as partial:
            save_file(tensors, partial)
            sha256 = _sha256(partial)
        record = {
            **self.metadata,
            "format": FORMAT,
            "n_types": self.n_types,
            "embedding_dim": self.embedding_dim,
            "aggregator": self.aggregator,
            "sha256": sha256,
        }
        write_json(folder / METADATA, record)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> UserModel:
        """Read a folder that ``save`` wrote; one without fitted choice numbers is a warning, the first time.

        Args:
            path: The folder.

        Returns:
            The user model.

        Raises:
            ValueError: If a file is missing, broken, of another format, or not the one the metadata is about.
        """
        folder = pathlib.Path(path)
        metadata = _read_metadata(folder / METADATA)
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise ValueError(f"no {weights}; a user model is a folder of {WEIGHTS} and {METADATA}; {_MEND}")
        found = _sha256(weights)
        if found != metadata["sha256"]:
            raise ValueError(
                f"{weights} is not the file that {METADATA} describes (sha256 {found[:12]}, expected "
                f"{str(metadata['sha256'])[:12]}): it is truncated or from another fit; "
                f"copy both files again, or {_MEND}"
            )
        try:
            tensors = load_file(weights)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"cannot read {weights} as safetensors ({error}); copy it again, or {_MEND}") from error
        model = cls._assemble(tensors, metadata, weights)
        if has_own_encoder(metadata) and (folder / ENCODER_FOLDER).is_dir():
            model.encoder_folder = folder / ENCODER_FOLDER
        if not model.has_fitted_choices:
            _warn_of_configured_choices(folder.resolve(), model.temperature)
        return model

    @classmethod
    def _assemble(cls, tensors: dict[str, torch.Tensor], metadata: dict[str, Any], weights: pathlib.Path) -> UserModel:
        """Build the model from tensors by name, which must be exactly the expected ones."""
        k, d = int(metadata["n_types"]), int(metadata["embedding_dim"])
        model = ScoreModel(
            d, k, image_scale=1, text_scale=1, noise=0, comparison_temperature=1, generator=torch.Generator()
        )
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()} | {"prior": (k,)}
        choice_names = [name for name in AGGREGATORS if f"choice.{name}" in tensors]
        shapes |= {f"choice.{n}": (5,) if tensors[f"choice.{n}"].numel() == 5 else (2,) for n in choice_names}
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        wrong = sorted(
            f"{name} is {found.get(name, 'missing')}, expected {shapes.get(name, 'none')}"
            for name in shapes.keys() | found.keys()
            if found.get(name) != shapes.get(name)
        )
        if wrong:
            raise ValueError(
                f"{weights} does not hold a user model of {k} types and dimension {d}: {wrong[0]}; {_MEND}"
            )
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        choice = {name: ChoiceNumbers.of_tensor(tensors[f"choice.{name}"]) for name in choice_names}
        return cls(model, tensors["prior"].numpy(), choice, str(metadata["aggregator"]), metadata)


@functools.cache  # once for each folder, however many environments of it are made
def _warn_of_configured_choices(folder: pathlib.Path, temperature: float) -> None:
    logger.warning(
        "%s was fitted without sessions: types and scores are fitted, but choice temperature (%g) and sharpness are "
        "configured numbers, so how decidedly these users choose is an assumption; fit it with sessions to learn it",
        folder,
        temperature,
    )


def _read_metadata(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no {path}; a user model is a folder of {WEIGHTS} and {METADATA}; {_MEND}")
    try:
        metadata = json.loads(path.read_text())
        if not isinstance(metadata, dict):
            raise TypeError(f"expected an object, got {type(metadata).__name__}")
        missing = {"format", "n_types", "embedding_dim", "aggregator", "sha256"} - set(metadata)
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot read {path} as JSON ({error}); copy it again, or {_MEND}") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; copy it again, or {_MEND}")
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} has format {metadata['format']}, this version reads {FORMAT}; {_MEND}")
    for name, kind, said in _KINDS:
        value = metadata.get(name)
        is_good = isinstance(value, kind) and not isinstance(value, bool) and (kind is not int or metadata[name] >= 1)
        if name in metadata and not is_good:
            raise ValueError(f"{path} has {name} {value!r}, which must be {said}; copy it again, or {_MEND}")
    if wrong := [n for n, v in metadata.get("encoder", {}).items() if not isinstance(v, str | None)]:
        raise ValueError(f"{path} has an encoder whose {wrong[0]} is no text; copy it again, or {_MEND}")
    return dict(metadata)


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensor(array: FloatArray) -> torch.Tensor:
    """View or copy an array as float32; read-only arrays are copied, because torch cannot hold them."""
    floats: NDArray[np.float32] = np.ascontiguousarray(array, dtype=np.float32)
    return torch.from_numpy(floats if floats.flags.writeable else floats.copy())
