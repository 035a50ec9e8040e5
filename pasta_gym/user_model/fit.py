"""Fits a user model on preference data and writes it to a folder.

EM on pairs, rankings and ratings gives the scores and the prior; sessions then give the choice temperature and
the aggregator's sharpness (section 5.3, D.1 to D.3).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.types import IntArray
from pasta_gym.user_model.checkpoint import Checkpoints
from pasta_gym.user_model.choice import ChoiceConfig, ChoiceFit, fit_choice_model
from pasta_gym.user_model.data import PreferenceData, load_preferences
from pasta_gym.user_model.em import EMConfig, fit_score_model
from pasta_gym.user_model.labels import labels_of
from pasta_gym.user_model.network import ScoreModel, score
from pasta_gym.user_model.user_model import CHOICE_IS_FITTED, ChoiceNumbers, UserModel
from pasta_gym.user_model.utility import AGGREGATORS

logger = logging.getLogger(__name__)
ONE_TYPE = "one_type"
_SESSIONS_AT_ONCE = 32


@torch.no_grad()
def session_scores(
    model: ScoreModel, data: PreferenceData, sessions: IntArray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score the slates of some sessions by every type.

    Args:
        model: The score model.
        data: All data.
        sessions: ``(s,)`` rows of the sessions.

    Returns:
        Scores ``(n, K, L, M)`` of the turns that have a choice, the choices ``(n,)``, and each turn's row in
        ``sessions``, ``(n,)``.
    """
    _, h, n_columns, m = data.session_images.shape
    parts = [torch.zeros(0, h, n_columns, m, model.n_types)]
    # The embeddings may be a memory map larger than the memory, and K unit vectors an image are larger still.
    for first in range(0, len(sessions), _SESSIONS_AT_ONCE):
        chunk = sessions[first : first + _SESSIONS_AT_ONCE]
        prompts = np.asarray(data.prompt_embeddings[data.session_prompts[chunk]], dtype=np.float32)
        images = np.asarray(data.image_embeddings[data.session_images[chunk].reshape(-1)], dtype=np.float32)
        text = model.text_heads(torch.from_numpy(prompts))
        unit = model.image_heads(torch.from_numpy(images)).view(len(chunk), h, n_columns, m, model.n_types, -1)
        parts.append(score(text[:, None, None, None], unit))
    scores = torch.cat(parts).permute(0, 1, 4, 2, 3)
    choices = torch.from_numpy(data.session_choices[sessions])
    rows, turns = torch.nonzero(choices >= 0, as_tuple=True)
    return scores[rows, turns].contiguous(), choices[rows, turns], rows


def has_single_turn_labels(data: PreferenceData) -> NDArray[np.bool_]:
    """Which raters ``(R,)`` gave a pair, a rating or a ranking."""
    who = np.concatenate([data.pair_raters, data.rating_raters, data.ranking_raters])
    counts: NDArray[np.bool_] = np.bincount(who, minlength=data.n_raters) > 0
    return counts


def train_sessions(data: PreferenceData) -> IntArray:
    """Rows of the training raters' sessions, ``(s,)``: what the choice temperature is fitted on.

    Raises:
        ValueError: If there are none.
    """
    sessions = np.flatnonzero(np.isin(data.session_raters, data.raters_of("train"))).astype(np.int64)
    if not len(sessions):
        raise ValueError(
            f"the train split holds no sessions (all splits hold {len(data.session_raters)}), so the choice "
            "temperature cannot be fitted; add a dataset that has them, such as PASTA's (data=preferences/paper fits "
            "it together with Pick-a-Pic, HPD v2 and SAC), or more raters"
        )
    return sessions


def configured_choices(config: ChoiceConfig | None = None) -> dict[str, ChoiceNumbers]:
    """Choice numbers of every aggregator as they are configured, for a fit that has no sessions to fit them on."""
    config = config or ChoiceConfig()
    sharpness = {"softmax": config.sharpness}
    return {name: ChoiceNumbers(config.temperature, sharpness.get(name, 0.0)) for name in AGGREGATORS}


def fit_choice_models(
    model: ScoreModel, posterior: torch.Tensor, data: PreferenceData, config: ChoiceConfig | None = None
) -> dict[str, ChoiceFit]:
    """Fit temperature and sharpness for every aggregator on the training raters' sessions, the scores at rest.

    Args:
        model: The score model.
        posterior: ``(R, K)`` over the type of every rater of the data; the prior for those nothing is known of.
        data: All labels.
        config: How to fit.

    Returns:
        One fit an aggregator.

    Raises:
        ValueError: If the train split has no sessions.
    """
    sessions = train_sessions(data)
    scores, choices, rows = session_scores(model, data, sessions)
    who = torch.from_numpy(data.session_raters[sessions])[rows]
    return {name: fit_choice_model(scores, choices, posterior[who], name, config) for name in AGGREGATORS}


def fit_user_model(
    data: PreferenceData,
    config: EMConfig | None = None,
    choice_config: ChoiceConfig | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    sessions_required: bool = True,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> UserModel:
    """Fit scores and prior on the training raters' labels, then the choice model on their sessions.

    Args:
        data: All labels; only the train split is used.
        config: How EM runs.
        choice_config: How the choice model is fitted.
        log: Called with figures now and then.
        checkpoints: Where EM is kept as it runs; one that was stopped goes on from there.
        sessions_required: Whether to refuse data without sessions. If not, such data leave the choice numbers as they
            are configured, and the metadata say so (``choice_is_fitted``).
        progress: Whether to show progress bars.
        device: Where the heads are fitted; the choice model is fitted on the CPU.

    Returns:
        The user model with the softmax aggregator; its metadata holds the configuration and the training figures.

    Raises:
        ValueError: If the train split has no labels, or no sessions that are required; nothing has been fitted then.
    """
    config = config or EMConfig()
    try:
        train_sessions(data)  # before EM, which may take days
        has_sessions = True
    except ValueError as error:
        if sessions_required:
            raise
        has_sessions = False
        logger.warning("the choice numbers stay as configured and are not fitted: %s", error)
    raters = data.raters_of("train")
    raters = raters[has_single_turn_labels(data)[raters]]
    labels = labels_of(data, raters)
    fitted = fit_score_model(labels, config, log, checkpoints=checkpoints, progress=progress, device=device)
    posterior = fitted.prior.repeat(data.n_raters, 1)
    posterior[torch.from_numpy(raters)] = fitted.posterior
    fits = fit_choice_models(fitted.model, posterior, data, choice_config) if has_sessions else {}
    choice = {name: ChoiceNumbers(f.temperature, f.sharpness, f.slopes) for name, f in fits.items()}
    # A share of zero would make a type impossible, whatever is seen.
    prior = fitted.prior.clamp(min=1e-4).double()
    return UserModel(
        fitted.model,
        (prior / prior.sum()).numpy(),
        choice or configured_choices(choice_config),
        "softmax",
        {
            **({} if has_sessions else {CHOICE_IS_FITTED: False}),
            "config": dataclasses.asdict(config),
            "training": {
                "raters": len(raters),
                "log_likelihood_per_rater": fitted.log_likelihood,
                "starts": [{"log_likelihood": a, "comparison_temperature": b} for a, b in fitted.trials],
                "choice": {name: dataclasses.asdict(f) for name, f in fits.items()},
            },
        },
    )


def fit_folder(
    labels: pathlib.Path, folder: pathlib.Path, *, n_types: int, steps: int = EMConfig.steps, seed: int = EMConfig.seed
) -> str:
    """Fit a user model to a world's labels and write it to a folder.

    Args:
        labels: What ``pasta_gym.mini.rater_data label`` wrote.
        folder: Of the user model.
        n_types: K.
        steps: Gradient steps.
        seed: Of the fit.

    Returns:
        One line about the fit.

    Raises:
        ValueError: If the labels are missing, broken or without sessions.
    """
    data = load_preferences(labels)
    source = json.loads((labels / "metadata.json").read_text())
    began = time.monotonic()
    config = EMConfig.of_steps(steps, n_types=n_types, seed=seed)
    model = fit_user_model(data, config, progress=True)
    model.metadata["data"] = {"world_seed": source.get("world_seed"), "counts": source.get("counts")}
    encoder = source.get("encoder_sha256")
    if encoder:
        model.metadata["encoder"] = {"frozen_sha256": encoder, "sha256": encoder}
    model.metadata["seconds"] = round(time.monotonic() - began, 1)
    model.save(folder)
    training = model.metadata["training"]
    return (
        f"{folder}: K = {n_types}, log-likelihood a rater {training['log_likelihood_per_rater']:.3f}, "
        f"prior {np.round(np.sort(model.prior)[::-1], 3).tolist()}, {model.metadata['seconds']} s"
    )


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line: fit K types, and one type for comparison, and save both."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.user_model.fit", description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a world's labels")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the user model")
    parser.add_argument("--types", type=int, default=EMConfig.n_types, help="K")
    parser.add_argument("--steps", type=int, default=EMConfig.steps, help="gradient steps")
    parser.add_argument("--seed", type=int, default=EMConfig.seed)
    options = parser.parse_args(arguments)
    for folder, types in ((options.out, options.types), (options.out / ONE_TYPE, 1)):
        print(fit_folder(options.data, folder, n_types=types, steps=options.steps, seed=options.seed))  # noqa: T201


if __name__ == "__main__":
    main()
