"""The whole fit: main training on single-turn labels, then fine-tuning on sessions (paper, D.1).

Each phase gives a user model that can be used as it is, so a phase that was finished before a kill is read back, and
leaving one out is an ablation.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pasta_gym.user_model.checkpoint import Checkpoints, phase_key
from pasta_gym.user_model.choice import ChoiceConfig, fit_choice_model
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.em import EMConfig, root_mean_square
from pasta_gym.user_model.encoder_identity import module_hash
from pasta_gym.user_model.features import EncodedFeatures, FrozenFeatures, shown_to
from pasta_gym.user_model.fit import fit_choice_models, fit_user_model, session_scores, train_sessions
from pasta_gym.user_model.network import ScoreModel
from pasta_gym.user_model.sequential import SequentialConfig, fit_sessions
from pasta_gym.user_model.user_model import ChoiceNumbers, UserModel
from pasta_gym.user_model.utility import check_aggregator

Log = Callable[[dict[str, float]], None]
CHECKPOINT_EVERY = 500
_SAMPLE = 100_000  # embeddings whose size stands for the whole table's


@dataclass(frozen=True)
class PhasesConfig:
    """How a user model is fitted from end to end.

    Attributes:
        em: Phase 1, mini-batch EM on pairs, rankings and ratings with CLIP frozen.
        choice: The fit of the choice numbers between the phases, and after them for the other aggregators.
        sequential: Phase 2, mini-batch EM on sessions.
        aggregator: How the scores of a column's images become its utility.
        phase1: Whether there is a phase 1. Without it phase 2 starts from untrained heads, and from choice numbers that
            are fitted to them.
        phase2: Whether there is a phase 2. Without it only the choice numbers are fitted on sessions, and data without
            any leave them as ``choice`` has them.
        train_encoder: Whether phase 2 trains the encoder as well.
    """

    em: EMConfig = field(default_factory=EMConfig)
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    sequential: SequentialConfig = field(default_factory=SequentialConfig)
    aggregator: str = "softmax"
    phase1: bool = True
    phase2: bool = True
    train_encoder: bool = False

    def __post_init__(self) -> None:
        check_aggregator(self.aggregator)
        if not (self.phase1 or self.phase2):
            raise ValueError("phase1 and phase2 are both false, so there is nothing to fit; leave one of them true")
        if self.train_encoder and not self.phase2:
            raise ValueError("train_encoder is true, and phase2, which would train it, is false; make it false as well")

    def with_types(self, n_types: int) -> PhasesConfig:
        """Return the same fit for another K."""
        return dataclasses.replace(self, em=dataclasses.replace(self.em, n_types=n_types))


class History:
    """The figures that a phase logs now and then, in order.

    Attributes:
        rows: One a logged step: ``phase``, ``step``, ``loss``, ``largest_type``.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def of_phase(self, phase: int) -> Log:
        """Return what a phase calls with its figures."""
        return lambda figures: self.rows.append({"phase": float(phase), **figures})


def untrained(data: PreferenceData, config: PhasesConfig) -> UserModel:
    """Make the user model that phase 2 starts from if there is no phase 1: heads of small noise, an even prior."""
    k = config.em.n_types

    def size(table: np.ndarray) -> float:
        return root_mean_square(torch.from_numpy(np.asarray(table[:_SAMPLE], dtype=np.float32)))

    scores = ScoreModel(
        data.embedding_dim,
        k,
        image_scale=size(data.image_embeddings),
        text_scale=size(data.prompt_embeddings),
        noise=config.em.noise,
        comparison_temperature=config.em.comparison_temperature,
        generator=torch.Generator().manual_seed(config.em.seed),
    )
    numbers = ChoiceNumbers(config.choice.temperature, config.choice.sharpness)
    return UserModel(scores, np.full(k, 1.0 / k), {config.aggregator: numbers}, config.aggregator)


def with_fitted_choices(start: UserModel, data: PreferenceData, config: PhasesConfig) -> UserModel:
    """Fit the choice numbers of the aggregator in use on the train split's sessions, scores and prior at rest.

    Untrained scores may say next to nothing about choices, and their best temperature is near zero then, where phase 2
    has hardly a gradient left: the numbers stay as they are unless the temperature grows.

    Args:
        start: An untrained user model. It is not changed.
        data: All labels; only the train split is used.
        config: How to fit.

    Returns:
        The user model with these numbers.

    Raises:
        ValueError: If the train split has no sessions.
    """
    scores, choices, _ = session_scores(start.score_model, data, train_sessions(data))
    if not len(choices):
        return start
    posterior = torch.from_numpy(start.prior).float().expand(len(choices), -1)
    found = fit_choice_model(scores, choices, posterior, start.aggregator, config.choice)
    if not found.temperature > start.temperature:  # nor if it is not a number
        return start
    numbers = ChoiceNumbers(found.temperature, found.sharpness, found.slopes)
    return UserModel(start.score_model, start.prior, {start.aggregator: numbers}, start.aggregator, start.metadata)


def fit_phase1(
    data: PreferenceData,
    config: PhasesConfig,
    history: History | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> UserModel:
    """Fit scores and prior on single-turn labels, then the choice numbers on sessions.

    Args:
        data: All labels; only the train split is used.
        config: How to fit.
        history: Takes the figures.
        checkpoints: Where EM is kept as it runs; one that was stopped goes on from there.
        progress: Whether to show progress bars.
        device: Where the heads are fitted.

    Returns:
        The user model.

    Raises:
        ValueError: If the train split has no labels, or there is to be a phase 2 and it has no sessions.
    """
    history = history or History()
    log = history.of_phase(1)
    model = fit_user_model(
        data,
        config.em,
        config.choice,
        log,
        checkpoints=checkpoints,
        sessions_required=config.phase2,  # without a phase 2 the scores and types may be all that is wanted
        progress=progress,
        device=device,
    )
    model.metadata["phases"] = {"1": model.metadata.pop("training")}
    model.metadata["history"] = history.rows
    return model.with_aggregator(config.aggregator)


def fit_phase2(
    start: UserModel,
    data: PreferenceData,
    config: PhasesConfig,
    history: History | None = None,
    *,
    encoder: EncodedFeatures | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> UserModel:
    """Fine-tune a user model on sessions; its choice numbers of the aggregator in use are learned with the scores.

    Args:
        start: Phase 1's user model, or an untrained one. It is not changed.
        data: All labels; only the train split is used.
        config: How to fit.
        history: Takes the figures.
        encoder: Trained as well, in place, if it is given. The user model then reads its embeddings and no others.
        checkpoints: Where the fit is kept as it runs; one that was stopped goes on from there.
        progress: Whether to show progress bars.
        device: Where everything that is trained is.

    Returns:
        The user model.

    Raises:
        ValueError: If the train split has no sessions.
    """
    history = history or History()
    raters = data.raters_of("train")
    said = np.bincount(
        np.concatenate([data.pair_raters, data.rating_raters, data.ranking_raters, data.session_raters]),
        minlength=data.n_raters,
    )
    raters = raters[said[raters] > 0]
    aggregator = start.aggregator
    numbers = ChoiceNumbers(start.temperature, start.sharpness, start.slopes)
    fitted = fit_sessions(
        start.score_model,
        torch.from_numpy(start.prior),
        numbers,
        aggregator,
        data,
        raters,
        config.sequential,
        features=FrozenFeatures.of(data) if encoder is None else encoder,
        log=history.of_phase(2),
        checkpoints=checkpoints,
        max_sharpness=config.choice.max_sharpness,
        progress=progress,
        device=device,
    )
    scores = fitted.model.scores
    posterior = fitted.prior.repeat(data.n_raters, 1)
    posterior[torch.from_numpy(raters)] = fitted.posterior
    rest = data if encoder is None else encoder.encoded(data, shown_to(data, raters, sessions_only=True))
    fits = fit_choice_models(scores, posterior, rest, config.choice)
    choice = {name: ChoiceNumbers(f.temperature, f.sharpness, f.slopes) for name, f in fits.items()}
    choice[aggregator] = fitted.model.choice_numbers()
    prior = fitted.prior.clamp(min=1e-4).double()
    figures = {"raters": len(raters), "log_likelihood_per_rater": fitted.log_likelihood}
    metadata: dict[str, Any] = {
        "config": start.metadata.get("config", dataclasses.asdict(config.em)),
        "sequential": dataclasses.asdict(config.sequential),
        "phases": {**start.metadata.get("phases", {}), "2": figures},
        "history": [*start.metadata.get("history", []), *history.rows],
    }
    if encoder is not None:
        metadata["encoder"] = {**start.metadata.get("encoder", {}), "sha256": module_hash(encoder.clip)}
    return UserModel(scores, (prior / prior.sum()).numpy(), choice, aggregator, metadata)


def fit_in_phases(
    data: PreferenceData,
    config: PhasesConfig,
    folder: pathlib.Path | None = None,
    *,
    encoder: EncodedFeatures | None = None,
    key: str = "",
    save: Callable[[UserModel], None] | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> UserModel:
    """Run the phases that the configuration asks for.

    Args:
        data: All labels; only the train split is used.
        config: How to fit.
        folder: Where phase 1's user model and checkpoints of the running phase are kept, so that a fit that was killed
            goes on. None keeps nothing.
        encoder: What phase 2 trains in place, if the configuration says so.
        key: What stands behind the data, such as the encoder; what was kept of another key, of other labels or of
            another configuration is fitted again.
        save: Called with the user model before the checkpoints that led to it are removed.
        checkpoint_every: Steps between two checkpoints.
        progress: Whether to show progress bars.
        device: Where everything that is trained is. It is no part of the key: devices agree up to rounding.

    Returns:
        The user model. Its metadata holds ``config``, ``phases`` with each phase's figures, and ``history``.

    Raises:
        ValueError: If the train split lacks what a phase needs, or there is an encoder and it is not to be trained, or
            the other way round.
    """
    if config.train_encoder != (encoder is not None):
        raise ValueError(
            f"train_encoder is {config.train_encoder}, and an encoder to train was {'' if encoder else 'not '}given; "
            "give one, made by Originals.features, exactly if train_encoder is true"
        )

    def checkpoints(phase: int, *settings: Any) -> Checkpoints | None:
        if folder is None:
            return None
        place = folder / f"phase{phase}-{config.em.n_types}-types-running"
        return Checkpoints(place, phase_key(data, key, *settings), checkpoint_every)

    def finished(model: UserModel, kept: Checkpoints | None) -> UserModel:
        if save is not None:
            save(model)
        if kept is not None:
            kept.remove()
        return model

    def second(start: UserModel) -> UserModel:
        numbers = ChoiceNumbers(start.temperature, start.sharpness, start.slopes)
        begun = (module_hash(start.score_model), start.prior.tolist(), start.aggregator, dataclasses.asdict(numbers))
        own = None if encoder is None else module_hash(encoder.clip)
        kept = checkpoints(2, dataclasses.asdict(config.sequential), dataclasses.asdict(config.choice), *begun, own)
        if not config.phase1:  # after the key, which another machine's rounding must not change
            start = with_fitted_choices(start, data, config)
        fitted = fit_phase2(start, data, config, encoder=encoder, checkpoints=kept, progress=progress, device=device)
        return finished(fitted, kept)

    if not config.phase1:
        return second(untrained(data, config))
    place = folder / f"phase1-{config.em.n_types}-types" if folder is not None else None
    own_key = phase_key(data, key, dataclasses.asdict(config.em), dataclasses.asdict(config.choice), config.aggregator)
    first = _read_back(place, own_key)
    if first is None:
        kept = checkpoints(1, dataclasses.asdict(config.em))
        first = fit_phase1(data, config, checkpoints=kept, progress=progress, device=device)
        if place is not None:
            first.metadata["key"] = own_key
            first.save(place)
        if kept is not None:
            kept.remove()
    return second(first) if config.phase2 else finished(first, None)


def _read_back(folder: pathlib.Path | None, key: str) -> UserModel | None:
    """The kept user model, None if there is none of this key or the kill left it broken."""
    if folder is None or not folder.is_dir():
        return None
    try:
        model = UserModel.load(folder)
    except ValueError:
        return None
    return model if model.metadata.get("key") == key else None
