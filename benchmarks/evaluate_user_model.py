"""How well a user model predicts raters it has not seen, beside baselines.

Run ``python -m benchmarks.evaluate_user_model --model MODEL --data DATA``, or ``--worlds 0 1 2`` for mini worlds that
``pasta_gym.user_model.fit_world`` has fitted. The columns of the table are even odds,
scores computed beforehand, CLIP score, one type (K = 1), the model, and in the mini world the Bayes predictor's
ceiling. Several models (restarts, or worlds with a dataset each) are one column, with intervals over both models and
raters. What each figure means is in docs/user_model_evaluation.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.pages import fill_block, printed_by
from benchmarks.rater_scores import (
    N_LABELS,
    Raters,
    Scored,
    ece,
    load_raters,
    recovery,
    score_ceiling,
    score_predictor,
    score_uniform,
    seen_through,
)
from benchmarks.stats import Interval, NoScaleError, difference_interval, interval, mean_intervals, normalised_intervals
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import whole_file, write_text
from pasta_gym.mini.pool_pictures import PoolPictures
from pasta_gym.mini.weights import weights_directory
from pasta_gym.trajectories.rater_sessions import LABELS
from pasta_gym.user_model import UserModel
from pasta_gym.user_model.encoder_identity import has_own_encoder, require_frozen_encoder
from pasta_gym.user_model.fit import ONE_TYPE
from pasta_gym.user_model.fit_world import N_TYPES, find_model, is_fitted, labels_folder
from pasta_gym.user_model.metrics import reliability_curve, stability
from pasta_gym.user_model.own_encoder import own_encoder
from pasta_gym.user_model.predictors import ModelPredictor, calibrated, clip_score, read_scores, table_score

MODEL, ONE, CLIP, CEILING, UNIFORM = "model", "one type", "CLIP score", "ceiling", "uniform"
_SEED = 0xE7A1


def score_all(
    models: list[pathlib.Path],
    folders: list[pathlib.Path],
    tables: Mapping[str, pathlib.Path],
    n_draws: int,
    baselines: Sequence[pathlib.Path] | None = None,
    pictures: PoolPictures | None = None,
) -> tuple[dict[str, list[Scored]], list[dict[str, Any]]]:
    """Score every predictor on every model's raters.

    Args:
        models: Folders of user models.
        folders: A dataset for each model.
        tables: Scores computed beforehand, ``.npy`` of one number an image in the pool's order, by name.
        n_draws: Draws of the ceiling; 0 leaves it out.
        baselines: Folders of user models of one type; ``one_type`` inside each model's by default.
        pictures: Pictures of the datasets' pool, for user models with an encoder of their own.

    Returns:
        Figures by predictor, one entry a model, and what was recovered of the planted types (mini world only).
    """
    scored: dict[str, list[Scored]] = {}
    recovered = []
    read: dict[pathlib.Path, Raters] = {}
    shared: dict[pathlib.Path, dict[str, Scored]] = {}
    baselines = [folder / ONE_TYPE for folder in models] if baselines is None else baselines
    for folder, data_folder, baseline in zip(models, folders, baselines, strict=True):
        if data_folder not in read:
            read[data_folder] = load_raters(data_folder)
        raters = read[data_folder]
        if data_folder not in shared:
            shared[data_folder] = _without_types(raters, tables, n_draws)
        model = UserModel.load(folder)
        seen = _seen_by(model, raters, pictures)
        found = {**shared[data_folder], MODEL: score_predictor(ModelPredictor(model, seen.data), seen)}
        if baseline.is_dir():
            one = UserModel.load(baseline)
            seen_by_one = _seen_by(one, raters, pictures)
            found[ONE] = score_predictor(ModelPredictor(one, seen_by_one.data), seen_by_one)
        for name, figures in found.items():
            scored.setdefault(name, []).append(figures)
        if raters.is_planted:
            recovered.append({"model": str(folder), "data": str(data_folder), **recovery(model, seen)})
    order = [UNIFORM, *tables, CLIP, ONE, MODEL, CEILING]
    return {name: scored[name] for name in order if name in scored}, recovered


def _seen_by(model: UserModel, raters: Raters, pictures: PoolPictures | None) -> Raters:
    """The raters' pictures as a user model's encoder embeds them."""
    if pictures is None:
        require_frozen_encoder(model.metadata, "this evaluation without --pictures")
    if pictures is None or not has_own_encoder(model.metadata):
        return raters
    return seen_through(raters, own_encoder(model.metadata, model.encoder_folder), pictures)


def _without_types(raters: Raters, tables: Mapping[str, pathlib.Path], n_draws: int) -> dict[str, Scored]:
    """Figures that depend on the dataset alone."""
    found = {UNIFORM: score_uniform(raters)}
    found[CLIP] = score_predictor(calibrated(clip_score(raters.data), raters.data), raters)
    for name, path in tables.items():
        table = read_scores(path, len(raters.data.image_embeddings), raters.data.images_sha256)
        found[name] = score_predictor(calibrated(table_score(table), raters.data), raters)
    if raters.is_planted and n_draws:
        found[CEILING] = score_ceiling(raters, n_draws=n_draws)
    return found


def folders_of_world(number: int) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Name the folders of a mini world's user model, labels and user model of one type (K = 1).

    Raises:
        ValueError: If the world is not fitted, with the command that does it.
    """
    if number == 0:
        model = weights_directory() / "user_model"
        return model, pathlib.Path(LABELS), model / ONE_TYPE
    model, labels, one = find_model(number, N_TYPES), labels_folder(number), find_model(number, 1)
    if not (is_fitted(model) and is_fitted(one) and is_fitted(labels)):
        raise ValueError(
            f"mini world {number} lacks labels, or a user model of {N_TYPES} types or of one; make them with "
            f"`python -m pasta_gym.user_model.fit_world {number} --types {N_TYPES} 1`"
        )
    return model, labels, one


def matrices(scored: Mapping[str, list[Scored]], metric: str) -> dict[str, np.ndarray[Any, Any]]:
    """One metric as ``(models, raters)`` of each predictor that has it, over the raters for whom all do."""
    found = {
        name: np.stack([run.by_rater[metric] for run in runs])
        for name, runs in scored.items()
        if all(metric in run.by_rater for run in runs)
    }
    if not found or len({m.shape[1] for m in found.values()}) > 1:
        raise ValueError(f"{metric} is not there for equal numbers of raters; evaluate datasets of one size together")
    kept = np.all([np.isfinite(m).all(axis=0) for m in found.values()], axis=0)
    return {name: m[:, kept] for name, m in found.items() if kept.any()}


def summarise(scored: Mapping[str, list[Scored]]) -> dict[str, dict[str, Interval]]:
    """Every metric of every predictor with its 95% interval, and calibration errors.

    Returns:
        By metric, then by predictor.
    """
    metrics = list(dict.fromkeys(m for runs in scored.values() for m in runs[0].by_rater))
    rng = np.random.default_rng(_SEED)
    summary = {metric: mean_intervals(matrices(scored, metric), rng) for metric in metrics}
    for n in N_LABELS:
        for kind in ("pair", "choice"):
            summary[f"{kind}_ece@{n}"] = {
                name: _ece_interval([run.predictions[n] for run in runs], kind) for name, runs in scored.items()
            }
    return summary


def _ece_interval(made: list[Any], kind: str, n_replicates: int = 200) -> Interval:
    """Basic bootstrap interval: the percentiles reflected at the estimate.

    A calibration error is biased upwards, in resamples more than in the data, so plain percentiles may lie above the
    estimate altogether. Reflected ones may lie below it; the interval is then drawn up to the estimate, not beyond 0.
    """
    rng = np.random.default_rng(_SEED)
    n_raters = len(made[0].labels)
    replicates = []
    for _ in range(n_replicates):
        rows = rng.integers(n_raters, size=n_raters)
        drawn = rng.integers(len(made), size=len(made))
        replicates.append(np.mean([ece(made[i], kind, rows) for i in drawn]))
    estimate = float(np.mean([ece(m, kind) for m in made]))
    plain = interval(estimate, np.array(replicates))
    return Interval(estimate, max(0.0, 2 * estimate - plain.high), max(estimate, 2 * estimate - plain.low))


def shares_of_the_way(scored: Mapping[str, list[Scored]]) -> dict[str, Interval]:
    """How far the model gets from a floor to the ceiling: pairs from one type, choices from uniform.

    Returns:
        By metric; empty where there is no ceiling, and without a metric whose ends are not apart beyond noise.
    """
    ways = {}
    for n in N_LABELS:
        for metric, floor in ((f"pair_accuracy@{n}", ONE), (f"choice_log_likelihood@{n}", UNIFORM)):
            found = matrices(scored, metric)
            rng = np.random.default_rng(_SEED)
            if not {floor, MODEL, CEILING} <= found.keys():
                continue
            if difference_interval(found, CEILING, floor, rng).low <= 0:  # no way to go a share of
                continue
            three = {name: found[name] for name in (floor, MODEL, CEILING)}
            with contextlib.suppress(NoScaleError):
                ways[metric] = normalised_intervals(three, rng, zero=floor, one=CEILING)[MODEL]
    return ways


def as_table(summary: Mapping[str, Mapping[str, Interval]]) -> str:
    """Lay the figures out as a Markdown table: a row a metric, a column a predictor."""
    names = list(dict.fromkeys(name for row in summary.values() for name in row))
    lines = ["| figure | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for metric, row in summary.items():
        cells = [row[name].text(3) if name in row else "-" for name in names]
        lines.append(f"| {_title(metric)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _title(metric: str) -> str:
    name, _, n = metric.partition("@")
    return name.replace("_", " ") + (f", n = {n}" if n else "")


def recovery_table(recovered: list[dict[str, Any]]) -> str:
    """Lay out what was found again of the planted types."""
    lines = ["| model | adjusted Rand index | matched | Spearman of each archetype |", "|---|---|---|---|"]
    for row in recovered:
        planted = " ".join(f"{part['spearman']:.2f}" for part in row["fidelity"])
        lines.append(
            f"| {_short(row['model'])} | {row['adjusted_rand_index']:.3f} | {row['matched']:.3f} | {planted} |"
        )
    groups: dict[str, list[np.ndarray[Any, Any]]] = {}
    for row in recovered:
        groups.setdefault(row["data"], []).append(np.array(row["types"]))
    for data, types in groups.items():
        if len(types) > 1:
            lines += [
                "",
                f"Stability over {len(types)} fits of {_short(data)}: adjusted Rand index {stability(types):.3f}.",
            ]
    return "\n".join(lines)


def _short(folder: str) -> str:
    """A folder as the page shows it, whose reader has other folders: the last two names."""
    return "/".join(pathlib.Path(folder).parts[-2:])


def draw_reliability(scored: Mapping[str, list[Scored]], path: pathlib.Path, n: int = 20) -> None:
    """Draw predicted against observed frequency of pairs and choices after n labels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from pasta_gym.user_model.evaluation import choice_outcomes, pair_outcomes

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True)
    for axis, title, outcomes in zip(axes, ("pairs", "choices"), (pair_outcomes, choice_outcomes), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name in (CLIP, ONE, MODEL, CEILING):
            if name in scored:
                parts = [outcomes(run.predictions[n]) for run in scored[name]]
                curve = reliability_curve(np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts]))
                axis.plot(curve.predicted, curve.observed, marker="o", markersize=3, label=name)
        axis.set(title=f"{title}, n = {n}", xlabel="predicted")
    axes[0].set_ylabel("observed")
    axes[0].legend(frameon=False, loc="upper left")
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=150, bbox_inches="tight", format="png")
    pyplot.close(figure)


def write_csv(scored: Mapping[str, list[Scored]], path: pathlib.Path) -> None:
    """Write every rater's figures, one row each."""
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("predictor", "model", "metric", "rater", "value"))
        for name, runs in scored.items():
            for i, run in enumerate(runs):
                for metric, values in run.by_rater.items():
                    rows.writerows((name, i, metric, r, float(v)) for r, v in enumerate(values))


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate_user_model", description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, nargs="+", default=[], help="folders of user models")
    parser.add_argument("--data", type=pathlib.Path, nargs="+", default=[], help="one dataset, or one a model")
    parser.add_argument("--worlds", type=int, nargs="+", help="numbers of mini worlds, in place of folders")
    parser.add_argument("--scores", nargs="*", default=[], metavar="NAME=FILE", help="scores of all images, .npy")
    parser.add_argument("--pictures", type=pathlib.Path, help="the pool's pictures, for encoders trained with users")
    parser.add_argument("--draws", type=int, default=4000, help="draws of the ceiling; 0 leaves it out")
    parser.add_argument("--out", type=pathlib.Path, help="write table.md, scores.csv, recovery.json, reliability.png")
    parser.add_argument("--page", type=pathlib.Path, help="put the table into a page's block evaluation")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if bool(options.worlds) == bool(options.model):
        parser.error("say either --worlds or --model and --data")
    baselines = None
    if options.worlds:
        found = [folders_of_world(number) for number in options.worlds]
        options.model, folders, baselines = ([row[i] for row in found] for i in range(3))
    else:
        folders = options.data * len(options.model) if len(options.data) == 1 else options.data
    if len(folders) != len(options.model):
        parser.error(f"--data takes one folder or one for each of {len(options.model)} models, got {len(folders)}")
    tables = {name: pathlib.Path(path) for name, _, path in (text.partition("=") for text in options.scores)}
    pictures = None if options.pictures is None else PoolPictures(options.pictures)
    scored, recovered = score_all(options.model, folders, tables, options.draws, baselines, pictures)
    summary = summarise(scored)
    text = as_table(summary)
    ways = shares_of_the_way(scored)
    if ways:
        text += "\n\n| share of the way to the ceiling | model |\n|---|---|\n"
        text += "\n".join(f"| {_title(metric)} | {share.text(3)} |" for metric, share in ways.items())
    if recovered:
        text += "\n\n" + recovery_table(recovered)
    print(text)  # noqa: T201
    if options.page:
        fill_block(options.page, "evaluation", f"{printed_by('evaluate_user_model', arguments)}\n\n{text}")
    if options.out:
        write_text(options.out / "table.md", text + "\n")
        write_text(options.out / "recovery.json", json.dumps(recovered, indent=2))
        write_csv(scored, options.out / "scores.csv")
        draw_reliability(scored, options.out / "reliability.png")
        print(f"\nwrote {options.out}: table.md, scores.csv, recovery.json, reliability.png")  # noqa: T201


if __name__ == "__main__":
    main()
