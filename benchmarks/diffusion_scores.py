"""Score the agents of finished runs on the diffusion pipeline: hours on a CPU, so it is made once and shipped.

Run ``python -m benchmarks.diffusion_scores runs/small``. It goes on where it was killed, batch by batch, and
joins everything into one CSV, from which it goes on as well: what the CSV holds of the same configuration and
weights is not played again. ``--collect`` writes what there is so far and plays nothing.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from benchmarks import run, runs, stats
from benchmarks.evaluate import EpisodeScores, concatenate
from benchmarks.pages import fill_block
from benchmarks.settings import run_identity
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import write_json, write_text
from pasta_gym.types import BoolArray

FOLDER = pathlib.Path(__file__).parent / "results"
RESULTS = FOLDER / "diffusion_scores.csv"
SURROGATE = FOLDER / "small_scores.csv"
"""Scores of the same agents and conversations under the surrogate."""

_PARENTS = 6
"""From a run directory up to the folder of all runs: see ``runs.RunKey.folder``."""


def diffusion_settings(
    source: pathlib.Path, *, agents: Sequence[str], rewards: Sequence[str], seeds: Sequence[int], n_episodes: int
) -> list[run.Settings]:
    """List the runs to make: one for each finished surrogate run under a folder.

    Args:
        source: Folder that ``benchmarks.run`` wrote to.
        agents: Their names.
        rewards: Which of ``"sparse"`` and ``"dense"``.
        seeds: Which training seeds.
        n_episodes: Episodes of each; the first ones of the evaluation's stream.

    Raises:
        ValueError: If an agent has no such run.
    """
    finished, _, _ = runs.find_runs(source)
    chosen = [
        r
        for r in finished
        if r.key.images == "surrogate"
        and r.key.agent in agents
        and r.key.reward in rewards
        and r.key.seed in set(seeds)
    ]
    missing = sorted(set(agents) - {r.key.agent for r in chosen})
    if missing:
        raise ValueError(
            f"{source} has no finished surrogate run of {missing} with reward in {rewards} and seed in {seeds}; train "
            "them with `make benchmark`"
        )
    return [_moved(found, n_episodes) for found in chosen]


def _moved(found: runs.Run, n_episodes: int) -> run.Settings:
    saved = runs.saved_config(found.folder)
    has_checkpoint = (found.folder / runs.CHECKPOINT).is_dir()
    changes = {
        # Beside the run, wherever that lies now, and not where it was made.
        "runs": str(found.folder.resolve().parents[_PARENTS]),
        "images": "diffusion",
        "experiment_name": f"{found.key.experiment}_diffusion",
        "checkpoint": str(found.folder) if has_checkpoint else None,
        "evaluation": {**saved["evaluation"], "n_episodes": n_episodes},
    }
    return run.read_settings(OmegaConf.create({**saved, **changes}))


def parts_of(settings: run.Settings) -> EpisodeScores | None:
    """Read what a run has scored so far: all of it, or the batches of one under way; None if there is nothing."""
    folder = settings.folder
    if runs.is_finished(folder, run_identity(settings)):
        return runs.read_scores(folder / runs.SCORES)[0][1]
    if runs.read_json(folder / "started.json") != run_identity(settings):
        return None
    parts = [runs.read_scores(path)[0][1] for path in sorted((folder / runs.PARTS).glob("*.csv"))]
    return concatenate(parts) if parts else None


def collect(wanted: Sequence[run.Settings], target: pathlib.Path) -> pathlib.Path:
    """Join what was scored so far into one CSV; a JSON file beside it says which weights each run is of.

    Args:
        wanted: The runs; those without any score are left out.
        target: The CSV. What it holds of other agents, rewards and seeds stays.

    Raises:
        ValueError: If nothing was scored.
    """
    found = {settings.key: (scores, run_identity(settings)) for settings in wanted if (scores := parts_of(settings))}
    if not found:
        raise ValueError("no conversation has been scored yet; leave out --collect to play some")
    made_with: dict[str, Any] = runs.read_json(target.with_suffix(".json")) or {}
    joined = dict(runs.read_scores(target)) if target.is_file() else {}
    of_run = {(key.agent, key.reward, key.seed): key for key in joined}
    for key, (scores, identity) in found.items():
        before = of_run.get((key.agent, key.reward, key.seed))
        if before is not None:
            del joined[before]
            made_with.pop(before.config_hash, None)
        joined[key] = scores
        made_with[key.config_hash] = {"models": identity["models"], "episodes": len(scores)}
    keys = sorted(joined, key=lambda k: (k.agent, k.reward, k.seed))
    write_text(target, runs.joined(runs.scores_text(key, joined[key]) for key in keys))
    write_json(target.with_suffix(".json"), made_with)
    return target


def restore(settings: run.Settings, kept: pathlib.Path) -> int:
    """Put a kept CSV's scores of a run where that run looks for its batches, unless it has some of its own.

    Args:
        settings: The run.
        kept: What :func:`collect` wrote, maybe on another machine.

    Returns:
        How many conversations need not be played.
    """
    identity = run_identity(settings)
    made_with = (runs.read_json(kept.with_suffix(".json")) or {}).get(identity["config_hash"])
    if made_with is None or made_with.get("models") != identity["models"] or parts_of(settings) is not None:
        return 0
    scores = dict(runs.read_scores(kept)).get(settings.key)
    if scores is None:
        return 0
    runs.prepare(settings.folder, identity)
    restored = 0
    for first, n_episodes in run.batches(settings):
        rows = (scores.episodes >= first) & (scores.episodes < first + n_episodes)
        if rows.sum() == n_episodes:
            path = run.part_path(settings.folder, first, n_episodes)
            runs.write_scores(path, settings.key, _rows(scores, rows))
            restored += n_episodes
    return restored


def _rows(scores: EpisodeScores, rows: BoolArray) -> EpisodeScores:
    return EpisodeScores(
        episodes=scores.episodes[rows],
        prompts=[scores.prompts[i] for i in np.flatnonzero(rows)],
        user_types=scores.user_types[rows],
        returns=scores.returns[rows],
        chosen_utilities=scores.chosen_utilities[rows],
        unseen=None if scores.unseen is None else scores.unseen[rows],
    )


def as_table(diffusion: pathlib.Path, surrogate: pathlib.Path) -> str:
    """Lay out returns with painted pictures beside those of the same agents and conversations under the surrogate.

    Intervals are over conversations; differences are paired.

    Args:
        diffusion: What :func:`collect` wrote.
        surrogate: Scores of the same agents under the surrogate.

    Raises:
        ValueError: If a file is broken.
    """
    moved, home = _by_agent(diffusion, "diffusion"), _by_agent(surrogate, "surrogate")
    lines = [
        "| agent | reward | conversations | return on diffusion | above random | under the surrogate | change |",
        "|" + "---|" * 7,
    ]
    rng = np.random.default_rng(0)
    for (agent, reward, seed), scores in moved.items():
        own = stats.mean_intervals({"own": scores.returns[None]}, rng)["own"]
        zero, before = moved.get(("random", reward, seed)), home.get((agent, reward, seed))
        cells = [agent, reward, f"{len(scores):,}", own.text()]
        cells.append("" if zero is None or agent == "random" else _paired(scores, zero, rng).text())
        if before is None:
            cells += ["", ""]
        else:
            shared = np.isin(before.episodes, scores.episodes)
            cells += [f"{before.returns[shared].mean():.2f}", _paired(scores, before, rng).text()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_agent(path: pathlib.Path, images: str) -> dict[tuple[str, str, int], EpisodeScores]:
    return {(key.agent, key.reward, key.seed): own for key, own in runs.read_scores(path) if key.images == images}


def _paired(better: EpisodeScores, worse: EpisodeScores, rng: np.random.Generator) -> stats.Interval:
    """Mean difference of returns over the conversations that both have, with its 95% interval."""
    _, ours, theirs = np.intersect1d(better.episodes, worse.episodes, return_indices=True)
    pair = {"better": better.returns[ours][None], "worse": worse.returns[theirs][None]}
    return stats.difference_interval(pair, "better", "worse", rng)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Score every agent found, then write the joined CSV and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusion_scores", description=__doc__)
    parser.add_argument("source", type=pathlib.Path, help="folder of finished runs, such as runs/small")
    parser.add_argument("--agents", nargs="*", default=["random", "iql", "slateq"])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--rewards", nargs="*", default=["sparse"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--collect", action="store_true", help="write what there is so far, and play nothing")
    parser.add_argument("--page", type=pathlib.Path, help="put the table into a page's block diffusion_scores")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    wanted = diffusion_settings(
        given.source, agents=given.agents, rewards=given.rewards, seeds=given.seeds, n_episodes=given.episodes
    )
    if not given.collect:
        for settings in wanted:
            restored = restore(settings, given.out)
            logging.info("%s: %d conversations are in %s", settings.key.agent, restored, given.out)
            run.run(settings)
    collect(wanted, given.out)
    table = as_table(given.out, SURROGATE)
    if given.page:
        fill_block(given.page, "diffusion_scores", table)
    sys.stdout.write(f"{table}\n\nwrote {given.out}\n")


if __name__ == "__main__":
    main()
