"""How well raters are predicted with K user types, K = 1 to 64 (figure 3): ``python -m benchmarks.k_study``.

Seeds are fits of one world's labels (``--vary fit``) or worlds with a fit each (``--vary world``). Every fit leaves one
file in the output folder and is not made again, so a study that was stopped goes on where it was. The table and the
figure are drawn from all files that are there. The fits are shorter than a user model's own (``StudyConfig``).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import multiprocessing
import pathlib
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.pages import fill_block, printed_by
from benchmarks.rater_scores import Raters, load_raters, recovery, score_ceiling, score_predictor
from benchmarks.stats import Interval, Scores, difference_interval, mean_intervals
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import whole_file, write_text
from pasta_gym.mini import rater_data
from pasta_gym.mini.rater_sessions import load_pool
from pasta_gym.types import IntArray
from pasta_gym.user_model.em import EM, EMConfig
from pasta_gym.user_model.fit import fit_user_model
from pasta_gym.user_model.labels import labels_of
from pasta_gym.user_model.metrics import stability
from pasta_gym.user_model.predictors import ModelPredictor
from pasta_gym.user_model.sorting import SortingConfig

TYPES = (1, 2, 4, 8, 16, 32, 64)
METRICS: dict[str, str] = {
    "pickapic_paper": "Pick-a-Pic accuracy, the paper's",
    "hps_spearman": "Spearman on ranked lists",
    "pair_accuracy@20": "pair accuracy, n = 20",
    "choice_log_likelihood@20": "choice log-likelihood, n = 20",
}
"""What is drawn; the paper's figure 3 has the first two."""

FIGURE = "k_study.png"
FORMAT = 2
_SORTED_AT_ONCE = 48  # linear tastes of all starts together: sorting takes about equally long for every K


@dataclass(frozen=True)
class StudyConfig:
    """How each fit of the study is made.

    Attributes:
        steps: Gradient steps, the same for every K, and fewer than a user model's own.
        sorting_starts: Most random starts of the sorting; fewer for K above 8.
        ceiling_draws: Draws of the ceiling; 0 leaves it out.
    """

    steps: int = 600
    sorting_starts: int = 6
    ceiling_draws: int = 2000

    def em_config(self, n_types: int, seed: int) -> EMConfig:
        """Return the fit's configuration: one start, which the sorting has chosen among several."""
        starts = max(1, min(self.sorting_starts, _SORTED_AT_ONCE // n_types))
        return EMConfig.of_steps(
            self.steps, n_types=n_types, restarts=1, sorting=SortingConfig(starts=starts), seed=seed
        )


@dataclass(frozen=True)
class Job:
    """One fit.

    Attributes:
        n_types: K.
        seed: Of the fit, or of world and fit.
        data: The labels.
        out: The study's folder.
        config: How to fit.
        threads: Threads of the process.
    """

    n_types: int
    seed: int
    data: pathlib.Path
    out: pathlib.Path
    config: StudyConfig
    threads: int = 1

    @property
    def record(self) -> pathlib.Path:
        """The file this fit leaves."""
        return self.out / "fits" / f"types-{self.n_types:02d}-seed-{self.seed}.json"

    def is_done(self) -> bool:
        """Whether the file is there.

        Raises:
            ValueError: If it is of a study with other settings.
        """
        if not self.record.is_file():
            return False
        found = json.loads(self.record.read_text())
        settings = _settings(self)
        if found.get("settings") != settings:
            raise ValueError(
                f"{self.record} is of a study with other settings ({found.get('settings')}, now {settings}); "
                "take another --out, or delete the folder"
            )
        return True


def _settings(job: Job) -> dict[str, Any]:
    # Where the data lies may change; which world and which labels they are may not.
    world = _label_metadata(job.data).get("world_seed")
    config = {"steps": job.config.steps, "sorting_starts": job.config.sorting_starts}
    return {"format": FORMAT, **config, "world": world, "labels": labels_hash(job.data)}


def _label_metadata(data: pathlib.Path) -> dict[str, Any]:
    path = data / "metadata.json"
    if not path.is_file():
        raise ValueError(f"no labels in {data}: {path} is missing; --data takes a folder such as data/labels_world_0")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def labels_hash(data: pathlib.Path) -> str:
    """Hash the tables of a world's labels, without their names for the folder: 16 hex digits."""
    found = hashlib.sha256()
    for path in sorted(data.glob("*.parquet")):
        found.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def run_job(job: Job) -> pathlib.Path:
    """Fit, evaluate on the held-out raters and write the record; the model lies in ``models/`` beside it."""
    torch.set_num_threads(job.threads)
    raters = load_raters(job.data)
    began = time.monotonic()
    model = fit_user_model(raters.data, job.config.em_config(job.n_types, job.seed))
    seconds = time.monotonic() - began
    scored = score_predictor(ModelPredictor(model, raters.data), raters)
    record = {
        "settings": _settings(job),
        "n_types": job.n_types,
        "seed": job.seed,
        "seconds": round(seconds, 1),
        "prior": model.prior.tolist(),
        "by_rater": {name: [round(float(v), 6) for v in values] for name, values in scored.by_rater.items()},
    }
    if raters.is_planted:
        record["recovery"] = recovery(model, raters)
    model.save(job.out / "models" / job.record.stem)
    write_text(job.record, json.dumps(record) + "\n")
    return job.record


def project_seconds(raters: Raters, config: StudyConfig, n_types: int) -> float:
    """Time a few steps of sorting and of EM, and project a fit's seconds on this many threads."""
    labels = labels_of(raters.data, raters.data.raters_of("train"))
    whole = config.em_config(n_types, 0)
    assert whole.sorting is not None
    seconds = []
    for steps in (1, 4):  # the difference leaves out what is done once
        began = time.monotonic()
        run = EM(labels, dataclasses.replace(whole, sorting=dataclasses.replace(whole.sorting, steps=steps)))
        seconds.append(time.monotonic() - began)
    sorting = max(0.0, seconds[1] - seconds[0]) / 3
    run.step()
    began = time.monotonic()
    for _ in range(3):
        run.step()
    step = (time.monotonic() - began) / 3
    return seconds[0] + sorting * (whole.sorting.steps - 1) + step * config.steps


def read_records(out: pathlib.Path) -> dict[int, dict[int, dict[str, Any]]]:
    """Read all fits of a study: by K, then by seed.

    Raises:
        ValueError: If there are none, or one is of other settings or of other labels of the same world.
    """
    records: dict[int, dict[int, dict[str, Any]]] = {}
    settings: list[tuple[pathlib.Path, dict[str, Any]]] = []
    for path in sorted((out / "fits").glob("types-*.json")):
        record = json.loads(path.read_text())
        settings.append((path, record.get("settings", {})))
        records.setdefault(record["n_types"], {})[record["seed"]] = record
    require_one_study(settings)
    if not records:
        raise ValueError(f"no fits in {out / 'fits'}; run the study first")
    return dict(sorted(records.items()))


def require_one_study(found: Iterable[tuple[pathlib.Path, dict[str, Any]]]) -> None:
    """Check that fits have the same settings, and fits of one world the same labels.

    Args:
        found: File and settings of each.

    Raises:
        ValueError: If they do not.
    """
    first: dict[str, tuple[pathlib.Path, dict[str, Any]]] = {}
    for path, settings in found:
        common = {name: value for name, value in settings.items() if name not in ("world", "labels")}
        for group, what in (("study", common), (f"world {settings.get('world')}", settings)):
            begun, theirs = first.setdefault(group, (path, what))
            if what != theirs:
                raise ValueError(
                    f"{path} is of a study with other settings ({what}) than {begun.name} ({theirs}); "
                    "take another --out, or delete the one that is not wanted"
                )


def score_matrices(records: dict[int, dict[int, dict[str, Any]]], metric: str) -> dict[str, Scores]:
    """One metric as ``(seeds, raters)`` by K, over the seeds that every K has and the raters for whom all do."""
    seeds = sorted(set.intersection(*(set(of_seed) for of_seed in records.values())))
    if not seeds:
        raise ValueError("no seed is done for every K yet; let the study run on")
    found = {
        str(k): np.array([of_seed[s]["by_rater"][metric] for s in seeds], dtype=np.float64)
        for k, of_seed in records.items()
    }
    kept = np.all([np.isfinite(m).all(axis=0) for m in found.values()], axis=0)
    return {k: m[:, kept] for k, m in found.items()}


def plateau(matrices: dict[str, Scores]) -> int:
    """The smallest K that is not worse than the best one beyond noise (95% interval, raters paired)."""
    best = max(matrices, key=lambda k: float(matrices[k].mean()))
    for k in sorted(matrices, key=int):
        rng = np.random.default_rng(0)
        if k == best or difference_interval(matrices, best, k, rng).low <= 0:
            return int(k)
    return int(best)


def summarise(records: dict[int, dict[int, dict[str, Any]]]) -> dict[str, dict[int, Interval]]:
    """Each metric by K with its 95% interval over seeds and raters."""
    summary = {}
    for metric in METRICS:
        found = mean_intervals(score_matrices(records, metric), np.random.default_rng(0))
        summary[metric] = {int(k): value for k, value in found.items()}
    return summary


def stability_of(of_seed: Mapping[int, dict[str, Any]]) -> float | None:
    """Mean adjusted Rand index of the raters' types over pairs of fits of the same labels; None without such a pair."""
    groups: dict[str, list[IntArray]] = {}
    for record in of_seed.values():
        if "recovery" in record:
            same = json.dumps(record.get("settings"), sort_keys=True)
            groups.setdefault(same, []).append(np.array(record["recovery"]["types"]))
    found = [stability(types) for types in groups.values() if len(types) > 1]
    return float(np.mean(found)) if found else None


def as_table(records: dict[int, dict[int, dict[str, Any]]], ceiling: dict[str, float]) -> str:
    """Lay the study out as a Markdown table, with where each figure flattens."""
    summary = summarise(records)
    lines = [
        "| K | "
        + " | ".join(METRICS.values())
        + " | adjusted Rand index | stability | types above 1% | seconds a fit |"
    ]
    lines.append("|---|" + "---|" * (len(METRICS) + 4))
    for k, of_seed in records.items():
        cells = [v[k].text(3) for v in summary.values()]
        rand = [r["recovery"]["adjusted_rand_index"] for r in of_seed.values() if "recovery" in r]
        used = np.mean([(np.array(r["prior"]) > 0.01).sum() for r in of_seed.values()])
        seconds = np.mean([r["seconds"] for r in of_seed.values()])
        stable = stability_of(of_seed)
        cells += [f"{np.mean(rand):.3f}" if rand else "-", "-" if stable is None else f"{stable:.3f}"]
        cells += [f"{used:.1f}", f"{seconds:.0f}"]
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    if ceiling:
        cells = [f"{ceiling[m]:.3f}" if m in ceiling else "-" for m in METRICS]
        lines.append("| ceiling | " + " | ".join(cells) + " | - | - | - | - |")
    flat = [f"{title}: {plateau(score_matrices(records, metric))}" for metric, title in METRICS.items()]
    return "\n".join([*lines, "", f"Smallest K not below the best beyond noise: {'; '.join(flat)}."])


def draw(
    records: dict[int, dict[int, dict[str, Any]]], ceiling: dict[str, float], n_planted: int | None, path: pathlib.Path
) -> None:
    """Draw each metric over K with 95% intervals, the ceiling, and the number of planted archetypes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), sharex=True)
    for axis, (metric, values) in zip(axes.flat, summarise(records).items(), strict=True):
        ks = list(values)
        axis.plot(ks, [v.estimate for v in values.values()], marker="o", markersize=4)
        axis.fill_between(ks, [v.low for v in values.values()], [v.high for v in values.values()], alpha=0.2)
        if metric in ceiling:
            axis.axhline(ceiling[metric], color="0.4", linestyle="--", linewidth=1, label="ceiling")
        if n_planted:
            axis.axvline(n_planted, color="0.7", linestyle=":", linewidth=1, label="planted archetypes")
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_title(METRICS[metric])
    axes[0, 0].legend(loc="upper left", frameon=False)
    for axis in axes[1]:
        axis.set_xlabel("K")
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=150, bbox_inches="tight", format="png")
    pyplot.close(figure)


def write_report(out: pathlib.Path, ceiling: dict[str, float], n_planted: int | None) -> str:
    """Write ``table.md``, ``scores.csv`` and ``k_study.png`` from the fits that are there; returns the table."""
    records = read_records(out)
    text = as_table(records, ceiling)
    write_text(out / "table.md", text + "\n")
    with whole_file(out / "scores.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("n_types", "seed", "metric", "rater", "value"))
        for k, of_seed in records.items():
            for seed, record in of_seed.items():
                for metric, values in record["by_rater"].items():
                    writer.writerows((k, seed, metric, i, v) for i, v in enumerate(values))
    draw(records, ceiling, n_planted, out / FIGURE)
    return text


def ceiling_of(out: pathlib.Path, data: pathlib.Path, n_draws: int) -> dict[str, float]:
    """The ceiling of one world's raters, kept in the study's folder; empty without planted truth."""
    if not n_draws or not (data / rater_data.TRUTH).is_file():
        return {}
    world = _label_metadata(data)["world_seed"]
    path = out / f"ceiling-world-{world}-labels-{labels_hash(data)}-draws-{n_draws}.json"
    if not path.is_file():
        found = score_ceiling(load_raters(data), n_draws=n_draws).by_rater
        means = {metric: float(values.mean()) for metric, values in found.items()}
        write_text(path, json.dumps(means) + "\n")
    kept: dict[str, float] = json.loads(path.read_text())
    return kept


def world_folder(out: pathlib.Path, pool: pathlib.Path, world: int) -> pathlib.Path:
    """Label the pool for a world, unless it is done: seconds."""
    folder = out / "worlds" / str(world)
    if not (folder / "metadata.json").is_file():  # written last
        load_pool(pool)  # says what is wrong with a pool before a folder is made
        rater_data.label(pool, folder, world)
    return folder


def _number_planted(data: pathlib.Path) -> int | None:
    return len(rater_data.load_truth(data).archetypes.shares) if (data / rater_data.TRUTH).is_file() else None


def _run_all(jobs: list[Job], workers: int) -> None:
    done = 0
    if workers == 1:
        for job in jobs:
            run_job(job)
            done += 1
            print(f"{done} of {len(jobs)}: {job.record.name}", flush=True)  # noqa: T201
        return
    # Spawned, because torch's threads do not survive a fork.
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run_job, job) for job in jobs]):
            done += 1
            print(f"{done} of {len(jobs)}: {future.result().name}", flush=True)  # noqa: T201


def _put_on_page(page: pathlib.Path, text: str, figure: pathlib.Path, arguments: list[str] | None) -> None:
    """Fill the block ``k_study`` of a page with table and figure, which is copied to ``images`` beside the page."""
    target = page.parent / "images" / FIGURE
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(figure, target)
    shown = f"![The four figures over K with intervals, ceiling and planted archetypes](images/{FIGURE})"
    fill_block(page, "k_study", f"{printed_by('k_study', arguments)}\n\n{text}\n\n{shown}")


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.k_study", description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a world's labels; other worlds use its pool")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the study's folder")
    parser.add_argument("--types", type=int, nargs="+", default=list(TYPES), metavar="K")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--vary", choices=("fit", "world"), default="fit", help="what a seed is")
    parser.add_argument("--steps", type=int, default=StudyConfig.steps, help="gradient steps of a fit")
    parser.add_argument("--draws", type=int, default=StudyConfig.ceiling_draws, help="draws of the ceiling; 0: none")
    parser.add_argument("--page", type=pathlib.Path, help="put table and figure into a page's block k_study")
    parser.add_argument("--workers", type=int, default=1, help="fits at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each fit")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = StudyConfig(options.steps, ceiling_draws=options.draws)
    pool = (options.data / _label_metadata(options.data)["pool"]).resolve()
    folders = {
        seed: options.data if options.vary == "fit" else world_folder(options.out, pool, seed) for seed in options.seeds
    }
    jobs = [Job(k, s, folders[s], options.out, config, options.threads) for s in options.seeds for k in options.types]
    missing = [job for job in jobs if not job.is_done()]
    there = sorted((options.out / "fits").glob("types-*.json"))
    kept = [(path, json.loads(path.read_text()).get("settings", {})) for path in there]
    require_one_study([*kept, *((job.record, _settings(job)) for job in missing)])
    if missing:
        raters = load_raters(folders[options.seeds[0]])
        seconds = {k: project_seconds(raters, config, k) for k in {job.n_types for job in missing}}
        total = sum(seconds[job.n_types] for job in missing) / options.workers
        each = ", ".join(f"K = {k}: {seconds[k]:.0f} s" for k in sorted(seconds))
        print(f"{len(missing)} of {len(jobs)} fits to make, about {total / 60:.0f} min ({each})", flush=True)  # noqa: T201
        _run_all(missing, options.workers)
    ceilings = [ceiling_of(options.out, folder, options.draws) for folder in dict.fromkeys(folders.values())]
    shared = set.intersection(*(set(found) for found in ceilings))
    ceiling = {metric: float(np.mean([found[metric] for found in ceilings])) for metric in shared}
    text = write_report(options.out, ceiling, _number_planted(options.data))
    print(text)  # noqa: T201
    if options.page:
        _put_on_page(options.page, text, options.out / FIGURE, arguments)
    print(f"\nwrote {options.out}: table.md, scores.csv, k_study.png")  # noqa: T201


if __name__ == "__main__":
    main()
