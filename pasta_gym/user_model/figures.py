"""All figures of the raters, their data and the user model, as a table.

This is the only place where the planted truth meets the fitted model.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import ceilings, grammar, raters
from pasta_gym.mini.rater_data import Truth, load_truth, pool_of_labels
from pasta_gym.mini.rater_sessions import Pool
from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData, load_preferences
from pasta_gym.user_model.em import rater_log_likelihoods
from pasta_gym.user_model.encoder_identity import require_encoder_of_data, require_frozen_encoder
from pasta_gym.user_model.evaluation import (
    N_LABELS,
    HeldOut,
    Predictions,
    evaluate,
    held_out,
    type_posteriors,
)
from pasta_gym.user_model.evidence import rating_deviation
from pasta_gym.user_model.fit import ONE_TYPE
from pasta_gym.user_model.labels import labels_of
from pasta_gym.user_model.metrics import adjusted_rand_index, score_choices, score_pairs, spearman
from pasta_gym.user_model.rankings import ranking_correlation
from pasta_gym.user_model.user_model import UserModel

N_DRAWS = 4000
N_FIDELITY_IMAGES = 3000


def _eye_reads(pool: Pool) -> FloatArray:
    """Reads of all images of a pool, ``(I, 38)``, in the order of the data's image table."""
    return pool.eye.reshape(-1, pool.eye.shape[-1])


def ceiling_predictions(
    data: PreferenceData,
    pool: Pool,
    truth: Truth,
    tasks: HeldOut,
    n_labels: tuple[int, ...] = N_LABELS,
    n_draws: int = N_DRAWS,
) -> tuple[dict[int, Predictions], dict[int, float]]:
    """What the Bayes predictor says of held-out raters after the same labels as ``evaluation.predict``.

    Args:
        data: All labels.
        pool: The pictures' reads by the raters' eye.
        truth: Archetypes, variation and noise; who the raters are is not looked at.
        tasks: What to learn from and what to predict.
        n_labels: Numbers of pairs that the predictor has seen.
        n_draws: Draws of (archetype, own weights) that are averaged over.

    Returns:
        The predictions and the median number of effective draws, both by n.
    """
    crowd = ceilings.draw_crowd(
        truth.archetypes, n_draws, truth.raters.temperature, np.random.default_rng([7, 0xCE11]), truth.raters.config
    )
    reads = _eye_reads(pool)
    seen = []
    for learn, test, sessions in zip(tasks.learn, tasks.test, tasks.sessions, strict=True):
        rows = np.concatenate([learn, test])
        images = data.session_images[sessions]
        h = images.shape[1]
        task = ceilings.RaterTask(
            prompt_values=grammar.slot_values(pool.initial_prompts[data.pair_prompts[rows]]),
            reads=reads[data.pair_images[rows]].astype(np.float32),
            labels=data.pair_labels[rows],
            slate_prompt_values=np.repeat(
                grammar.slot_values(pool.initial_prompts[data.session_prompts[sessions]]), h, axis=0
            ),
            slate_reads=reads[images.reshape(-1, *images.shape[2:])].astype(np.float32),
            choices=data.session_choices[sessions].reshape(-1),
            n_learn=len(learn),
        )
        seen.append(ceilings.predict(crowd, task, n_labels))
    labels = data.pair_labels[tasks.test]
    choices = data.session_choices[tasks.sessions].reshape(len(tasks.raters), -1)
    made = {
        n: Predictions(
            np.stack([p[i].preferences for p in seen]), labels, np.stack([p[i].choices for p in seen]), choices
        )
        for i, n in enumerate(n_labels)
    }
    return made, {n: float(np.median([p[i].effective_draws for p in seen])) for i, n in enumerate(n_labels)}


def ceiling_figures(
    data: PreferenceData,
    pool: Pool,
    truth: Truth,
    split: str = "test",
    n_labels: tuple[int, ...] = N_LABELS,
    n_draws: int = N_DRAWS,
) -> dict[str, Any]:
    """What the Bayes predictor reaches on the same labels as ``evaluation.evaluate``.

    Args:
        data: All labels.
        pool: The pictures' reads by the raters' eye.
        truth: Archetypes, variation and noise; who the raters are is not looked at.
        split: Which raters.
        n_labels: Numbers of pairs that the predictor has seen.
        n_draws: Draws of (archetype, own weights) that are averaged over.

    Returns:
        By n, as text: the accuracies and log-likelihoods, and the median number of effective draws.
    """
    made, draws = ceiling_predictions(data, pool, truth, held_out(data, split, max(n_labels)), n_labels, n_draws)
    figures: dict[str, Any] = {}
    for n, said in made.items():
        n_columns = said.choice_probabilities.shape[-1]
        pair_accuracy, pair_likelihood = score_pairs(said.preferences, said.labels)
        choice_accuracy, choice_likelihood = score_choices(
            said.choice_probabilities.reshape(-1, n_columns), said.choices.reshape(-1)
        )
        figures[str(n)] = {
            "pair_accuracy": pair_accuracy,
            "pair_log_likelihood": pair_likelihood,
            "choice_accuracy": choice_accuracy,
            "choice_log_likelihood": choice_likelihood,
            "effective_draws": draws[n],
        }
    return figures


def posterior_from_all_labels(model: UserModel, data: PreferenceData, who: IntArray) -> FloatArray:
    """Posterior over types from all pairs, rankings and ratings of each rater ``(R,)``: ``(R, K)``."""
    nu = rating_deviation(model)
    likelihood = rater_log_likelihoods(model.score_model, labels_of(data, who), nu).numpy().astype(np.float64)
    return softmax(np.log(model.prior) + likelihood)


def taste_fidelity(
    model: UserModel, data: PreferenceData, pool: Pool, truth: Truth, posterior: FloatArray, who: IntArray
) -> list[dict[str, Any]]:
    """Rank correlation of the learned utility with the planted taste, per archetype, on held-out pictures.

    An archetype's learned utility is the types' utility averaged over its raters' posteriors: a type that mixes
    two tastes must show here.

    Args:
        model: The user model.
        data: All labels.
        pool: The pool.
        truth: What was planted.
        posterior: ``(R, K)`` of the raters in ``who``.
        who: ``(R,)`` rater ids.

    Returns:
        For each archetype its share, number of raters, commonest type and Spearman correlation, overall and on
        pictures whose prompt holds a held-out triple (None if there are none).
    """
    rng = np.random.default_rng([11, 0xF1DE])
    sessions = np.flatnonzero(np.isin(data.session_raters, data.raters_of("test")))
    rows = rng.choice(sessions, size=N_FIDELITY_IMAGES)
    images = data.session_images[rows].reshape(len(rows), -1)
    column = rng.integers(images.shape[1], size=len(rows))
    picked = images[np.arange(len(rows)), column]
    session = data.session_prompts[rows]
    per_column = data.session_images.shape[-1]
    prompts = pool.slates[session].reshape(len(rows), -1)[np.arange(len(rows)), column // per_column]
    unseen = grammar.is_held_out(grammar.slot_values(prompts))
    features = model.prompt_features(data.prompt_embeddings[session])
    scores = model.scores(features, data.image_embeddings[picked][:, None])[:, :, 0]
    reads = _eye_reads(pool)[picked].astype(np.float32)
    values = grammar.slot_values(pool.initial_prompts[session])
    kinds = truth.raters.archetypes[who]
    figures = []
    for archetype, share in enumerate(truth.archetypes.shares):
        mean = posterior[kinds == archetype].mean(axis=0) if (kinds == archetype).any() else model.prior
        learned = scores @ mean
        planted = raters.taste_logits(reads, values, truth.archetypes.weights[archetype], truth.raters.config)
        figures.append(
            {
                "archetype": archetype,
                "share": float(share),
                "raters": int((kinds == archetype).sum()),
                "type": int(mean.argmax()),
                "type_share": float(mean.max()),
                "spearman": spearman(learned, planted),
                "spearman_unseen": spearman(learned[unseen], planted[unseen]) if unseen.sum() > 2 else None,
                "taste": truth.archetypes.describe(archetype),
            }
        )
    return figures


def rater_figures(pool: Pool, truth: Truth, metadata: dict[str, Any]) -> dict[str, Any]:
    """Figures of the raters and their data: distances, counts, how often the best column is chosen, eye and judge."""
    distances = raters.jaccard_distances(truth.archetypes.signs)
    apart = distances[~np.eye(len(distances), dtype=bool)]
    blocks = np.split(np.arange(raters.READ_SIZE), np.cumsum(raters.N_VALUES)[:-1])
    agreement = {
        slot.name: float((pool.eye[..., b].argmax(axis=-1) == pool.judge[..., b].argmax(axis=-1)).mean())
        for slot, b in zip(grammar.SLOTS, blocks, strict=True)
    }
    return {
        "archetypes": len(distances),
        "smallest_distance": float(apart.min()),
        "shares": truth.archetypes.shares.round(4).tolist(),
        "counts": metadata["counts"],
        "sessions": len(pool.raters),
        "best_column_chosen": metadata["best_column_chosen"],
        "mean_column_utility": metadata["mean_column_utility"],
        "temperature_of_the_raters_choices": truth.raters.temperature,
        "eye_and_judge_agree": agreement,
    }


def all_figures(data_folder: pathlib.Path, model_folder: pathlib.Path) -> dict[str, Any]:
    """Compute everything for one world.

    Args:
        data_folder: The world's labels.
        model_folder: What ``python -m pasta_gym.user_model.fit`` wrote.

    Returns:
        Nested figures, ready for JSON.

    Raises:
        ValueError: If a file is missing or broken, or a user model's encoder was trained.
    """
    model, one_type = UserModel.load(model_folder), UserModel.load(model_folder / ONE_TYPE)
    for fitted in (model, one_type):
        require_frozen_encoder(fitted.metadata, "this command")
    data, truth = load_preferences(data_folder), load_truth(data_folder)
    for fitted in (model, one_type):
        require_encoder_of_data(fitted.metadata, data.encoder_sha256)
    metadata = json.loads((data_folder / "metadata.json").read_text())
    pool = pool_of_labels(data_folder)
    figures: dict[str, Any] = {
        "raters": rater_figures(pool, truth, metadata),
        "model": {
            "n_types": model.n_types,
            "prior": model.prior.round(4).tolist(),
            "temperature_of_the_models_choices": model.temperature,
            "sharpness": model.sharpness,
            "comparison_temperature": model.comparison_temperature,
            "comparison_temperature_of_each_start": [
                start["comparison_temperature"] for start in model.metadata.get("training", {}).get("starts", ())
            ],
            "ranking_correlation": ranking_correlation(model, data),
            "ranking_correlation_one_type": ranking_correlation(one_type, data),
        },
        "held_out": {
            "types": evaluate(model, data),
            "one_type": evaluate(one_type, data),
            "ceiling": ceiling_figures(data, pool, truth),
        },
    }
    for split in ("train", "test"):
        who = data.raters_of(split)
        posterior = posterior_from_all_labels(model, data, who)
        recovered = adjusted_rand_index(posterior.argmax(axis=1), truth.raters.archetypes[who])
        figures["model"][f"adjusted_rand_index_{split}"] = recovered
        if split == "test":
            figures["fidelity"] = taste_fidelity(model, data, pool, truth, posterior, who)
    learned = type_posteriors(model, data, held_out(data).learn, max(N_LABELS))
    figures["model"]["mean_largest_posterior"] = float(learned.max(axis=1).mean())
    return figures


def as_table(figures: dict[str, Any]) -> str:
    """Lay the figures out as Markdown tables."""
    held = figures["held_out"]
    names = ("pair_accuracy", "pair_log_likelihood", "choice_accuracy", "choice_log_likelihood")
    lines = ["| held-out raters, after n pairs | " + " | ".join(n.replace("_", " ") for n in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    titles = {"one_type": "one type", "types": f"{figures['model']['n_types']} types", "ceiling": "ceiling"}
    for n in N_LABELS:
        for key, title in titles.items():
            cells = " | ".join(f"{held[key][str(n)][name]:.3f}" for name in names)
            lines.append(f"| {title}, n = {n} | {cells} |")
    uniform = held["types"]["uniform_choice_log_likelihood"]
    lines += ["", f"Uniform choice log-likelihood {uniform:.3f}.", "", "| figure | value |", "|---|---|"]
    flat = {**figures["raters"], **figures["model"], **{f"ECE {k}": v for k, v in _errors(held["types"]).items()}}
    lines += [f"| {name.replace('_', ' ')} | {_short(value)} |" for name, value in flat.items()]
    lines += [
        "",
        "| archetype | share | raters | type | its share | Spearman | unseen triples |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figures["fidelity"]:
        keys = ("archetype", "share", "raters", "type", "type_share", "spearman", "spearman_unseen")
        lines.append("| " + " | ".join(_short(row[key]) for key in keys) + " |")
    return "\n".join(lines)


def _errors(held: dict[str, Any]) -> dict[str, float]:
    most = held[str(max(N_LABELS))]
    return {"of pairs": most["pair_ece"], "of choices": most["choice_ece"]}


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_short(v) for v in value)
    return "-" if value is None else str(value)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line: print the tables, and write the figures as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.user_model.figures", description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a world's labels")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="folder of the user model")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    figures = all_figures(options.data, options.model)
    print(as_table(figures))  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
