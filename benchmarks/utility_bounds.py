"""Why a fitted user model stays below the ceiling: what types alone allow, and what its embeddings allow.

Run ``python -m benchmarks.utility_bounds --worlds 0 1 2``. Between even odds and the ceiling stand, in mini worlds:

- ``types alone``: the planted archetypes, with their utilities of pixels, but without what is special to a rater.
- ``heads without noise``: a user model's heads on the frozen embeddings, fitted to the archetypes' utilities of all
  training pictures instead of to labels. No fit to labels can be expected to know more.
- ``model``: the fitted user model.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks.evaluate_user_model import CEILING, MODEL, UNIFORM, folders_of_world, matrices
from benchmarks.pages import fill_block, printed_by
from benchmarks.rater_scores import N_LABELS, Raters, Scored, load_raters, score_ceiling, score_predictor, score_uniform
from benchmarks.stats import Interval, NoScaleError, normalised_intervals
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import grammar, raters
from pasta_gym.mini.rater_data import Truth, load_truth, pool_of_labels
from pasta_gym.settings import check_counts, check_not_negative, check_positive
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model import UserModel
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.em import root_mean_square
from pasta_gym.user_model.fit_world import labels_folder
from pasta_gym.user_model.network import ScoreModel
from pasta_gym.user_model.predictors import ModelPredictor

TYPES, HEADS = "types alone", "heads without noise"
METRICS = tuple(f"{kind}_log_likelihood@{n}" for n in N_LABELS for kind in ("pair", "choice"))
_ROWS = 512  # slates scored at once
_SEED = 0xB0D5

ImageUtilities = Callable[[IntArray, IntArray], FloatArray]
"""Utilities by type of images ``(n, m)`` for initial prompts ``(n,)``, rows of a dataset's tables: ``(n, K, m)``."""


@dataclass(frozen=True)
class HeadsConfig:
    """How heads are fitted to utilities that are known.

    Attributes:
        steps: Gradient steps.
        batch_images: Pictures in a batch.
        learning_rate: First value of one cosine.
        weight_decay: AdamW's.
        seed: Of the first weights and of the batches.
    """

    steps: int = 2000
    batch_images: int = 2000
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "batch_images")
        check_positive(self, "learning_rate")
        check_not_negative(self, "weight_decay")


class TypedUtilities:
    """Predicts as raters judge, with their temperature and their way to judge columns, from utilities by type.

    Args:
        utilities: Of images by type; types are the planted archetypes.
        truth: What was planted. Who a rater is, is not looked at.
    """

    def __init__(self, utilities: ImageUtilities, truth: Truth) -> None:
        self.prior: FloatArray = truth.archetypes.shares
        self.comparison_temperature = truth.raters.temperature
        self._sharpness = truth.raters.config.best_image_sharpness
        self._of_images = utilities

    def scores(self, prompts: IntArray, images: IntArray) -> FloatArray:
        """Utilities of images ``(n, m)`` for prompts ``(n,)``: ``(n, K, m)``."""
        return self._of_images(prompts, images)

    def utilities(self, prompts: IntArray, slates: IntArray) -> FloatArray:
        """Return the utilities of the columns of slates ``(n, L, M)``: ``(n, K, L)``."""
        parts: list[FloatArray] = [np.zeros((0, len(self.prior), slates.shape[1]))]
        for start in range(0, len(slates), _ROWS):
            some = slates[start : start + _ROWS]
            flat = self._of_images(prompts[start : start + _ROWS], some.reshape(len(some), -1))
            parts.append(raters.column_utilities(flat.reshape(*flat.shape[:2], *some.shape[1:]), self._sharpness))
        return np.concatenate(parts)

    def log_choice_probabilities(self, utilities: FloatArray) -> FloatArray:
        """Return the log-probability of choosing each column ``(..., L)``."""
        log_p: FloatArray = np.log(raters.choice_probabilities(utilities, self.comparison_temperature))
        return log_p


def planted_utilities(reads: FloatArray, prompt_values: IntArray, truth: Truth) -> ImageUtilities:
    """Utilities of each archetype's mean rater, who looks at pixels.

    Args:
        reads: ``(I, 38)`` of all images, by the raters' eye.
        prompt_values: ``(P, 6)`` of all initial prompts.
        truth: The archetypes.
    """
    weights, config = truth.archetypes.weights, truth.raters.config

    def utilities(prompts: IntArray, images: IntArray) -> FloatArray:
        shown = prompt_values[prompts][:, None, None]
        return raters.image_utilities(reads[images][:, None], shown, weights[:, None], config)

    return utilities


def fit_heads(data: PreferenceData, wanted: ImageUtilities, config: HeadsConfig | None = None) -> ScoreModel:
    """Fit a user model's heads to known utilities of the training raters' pictures, by least squares.

    Args:
        data: Embeddings and sessions.
        wanted: The utilities.
        config: How to fit.

    Returns:
        The score model.
    """
    config = config or HeadsConfig()
    generator, rng = torch.Generator().manual_seed(config.seed), np.random.default_rng([_SEED, config.seed])
    images, prompts = pictures_of(data, "train")
    model = ScoreModel(
        data.image_embeddings.shape[1],
        wanted(prompts[:1], images[:1, None]).shape[1],
        image_scale=root_mean_square(torch.from_numpy(np.asarray(data.image_embeddings, dtype=np.float32))),
        text_scale=root_mean_square(torch.from_numpy(np.asarray(data.prompt_embeddings, dtype=np.float32))),
        noise=0.05,
        comparison_temperature=1.0,  # no label is fitted
        generator=generator,
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for _ in tqdm(range(config.steps), desc="heads", mininterval=1):
        some = rng.choice(len(images), min(config.batch_images, len(images)), replace=False)
        aims = torch.from_numpy(wanted(prompts[some], images[some, None])[:, :, 0]).float()
        loss = (_scores(model, data, prompts[some], images[some]) - aims).square().mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return model.eval()


def pictures_of(data: PreferenceData, split: str) -> tuple[IntArray, IntArray]:
    """Collect the pictures in the slates of a split's raters, and the initial prompt of each: ``(n,)`` both."""
    sessions = np.isin(data.session_raters, data.raters_of(split))
    shown = data.session_images[sessions].reshape(int(sessions.sum()), -1)
    images, first = np.unique(shown, return_index=True)
    return images, np.repeat(data.session_prompts[sessions], shown.shape[1])[first]


def head_utilities(model: ScoreModel, data: PreferenceData) -> ImageUtilities:
    """Utilities that a score model gives to a dataset's images."""

    def utilities(prompts: IntArray, images: IntArray) -> FloatArray:
        n, m = images.shape
        with torch.no_grad():
            flat = _scores(model, data, np.repeat(prompts, m), images.reshape(-1))
        by_type: FloatArray = flat.reshape(n, m, -1).permute(0, 2, 1).double().numpy()
        return by_type

    return utilities


def _scores(model: ScoreModel, data: PreferenceData, prompts: IntArray, images: IntArray) -> torch.Tensor:
    distinct, rows = np.unique(prompts, return_inverse=True)
    texts, pictures = (
        torch.from_numpy(np.asarray(table, dtype=np.float32))
        for table in (data.prompt_embeddings[distinct], data.image_embeddings[images])
    )
    scores: torch.Tensor = model(texts, torch.from_numpy(rows), pictures)
    return scores


def explained(wanted: ImageUtilities, found: ImageUtilities, data: PreferenceData, split: str = "test") -> float:
    """Share of the variance of utilities that is explained on a split's pictures, the mean over types: at most 1."""
    images, prompts = pictures_of(data, split)
    aims, guesses = (f(prompts, images[:, None])[:, :, 0] for f in (wanted, found))
    return float((1.0 - np.square(guesses - aims).mean(axis=0) / aims.var(axis=0)).mean())


def score_bounds(
    folder: pathlib.Path, model: pathlib.Path | None, config: HeadsConfig | None = None, n_draws: int = 4000
) -> tuple[dict[str, Scored], float]:
    """Score even odds, both bounds, the ceiling and perhaps a fitted user model on one mini world's raters.

    Args:
        folder: The world's labels.
        model: Folder of its user model.
        config: How heads are fitted.
        n_draws: Draws of the ceiling.

    Returns:
        Figures by predictor, and the share of variance that the heads explain on held-out raters' pictures.

    Raises:
        ValueError: If the labels are not a mini world's, or the user model reads other embeddings.
    """
    people: Raters = load_raters(folder)
    found = {UNIFORM: score_uniform(people), CEILING: score_ceiling(people, n_draws=n_draws)}
    pool, truth = pool_of_labels(folder), load_truth(folder)
    reads = pool.eye.reshape(-1, pool.eye.shape[-1]).astype(np.float32)
    planted = planted_utilities(reads, grammar.slot_values(pool.initial_prompts), truth)
    heads = head_utilities(fit_heads(people.data, planted, config), people.data)
    found[TYPES] = score_predictor(TypedUtilities(planted, truth), people)
    found[HEADS] = score_predictor(TypedUtilities(heads, truth), people)
    if model is not None:
        found[MODEL] = score_predictor(ModelPredictor(UserModel.load(model), people.data), people)
    return found, explained(planted, heads, people.data)


def shares(scored: dict[str, list[Scored]]) -> dict[str, dict[str, Interval]]:
    """How far each predictor gets from even odds to the ceiling: by metric, then by predictor.

    Raises:
        ValueError: If the ceiling is not above even odds beyond noise: too few raters.
    """
    ways = {}
    for metric in METRICS:
        found = matrices(scored, metric)
        try:
            made = normalised_intervals(found, np.random.default_rng(_SEED), zero=UNIFORM, one=CEILING)
        except NoScaleError as error:
            raise ValueError(
                f"{metric} leaves no way to measure: {error}; take worlds with more test raters"
            ) from error
        ways[metric] = {name: made[name] for name in (TYPES, HEADS, MODEL) if name in made}
    return ways


def as_table(ways: dict[str, dict[str, Interval]]) -> str:
    """Lay the shares out as a Markdown table: a row a metric, a column a predictor."""
    names = list(next(iter(ways.values())))
    lines = ["| share of the way from even odds to the ceiling | " + " | ".join(names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for metric, row in ways.items():
        kind, n = metric.replace("_", " ").split("@")
        lines.append(f"| {kind}, n = {n} | " + " | ".join(row[name].text(3) for name in names) + " |")
    return "\n".join(lines)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.utility_bounds", description=__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0], help="numbers of mini worlds")
    parser.add_argument("--without-model", action="store_true", help="bounds alone; a world then needs labels only")
    parser.add_argument("--steps", type=int, default=HeadsConfig.steps, help="gradient steps of the heads")
    parser.add_argument("--draws", type=int, default=4000, help="draws of the ceiling")
    parser.add_argument("--page", type=pathlib.Path, help="put the table into a page's block bounds")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    scored: dict[str, list[Scored]] = {}
    variance = []
    for number in options.worlds:
        if options.without_model and number:
            model, labels = None, labels_folder(number)
        else:
            model, labels, _ = folders_of_world(number)
        model = None if options.without_model else model
        found, share = score_bounds(labels, model, HeadsConfig(steps=options.steps), options.draws)
        for name, figures in found.items():
            scored.setdefault(name, []).append(figures)
        variance.append(share)
    text = as_table(shares(scored))
    text += "\n\nVariance of the archetypes' utilities that heads without noise explain on held-out raters' pictures: "
    text += (
        ", ".join(f"{100 * share:.0f}%" for share in variance) + f" in worlds {', '.join(map(str, options.worlds))}."
    )
    print(text)  # noqa: T201
    if options.page:
        fill_block(options.page, "bounds", f"{printed_by('utility_bounds', arguments)}\n\n{text}")


if __name__ == "__main__":
    main()
