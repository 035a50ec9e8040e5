"""Score the agents of finished runs on the diffusion pipeline: hours on a CPU, so it is made once and shipped.

Run ``python -m benchmarks.diffusion_scores runs/small``. It goes on where it was killed, batch by batch, and
joins everything into one CSV.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from benchmarks import run, runs
from pasta_gym.trajectories.files import write_text

RESULTS = pathlib.Path(__file__).parent / "results" / "diffusion_scores.csv"

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


def join_scores(folders: Sequence[pathlib.Path], target: pathlib.Path) -> None:
    """Join the scores of finished runs into one CSV with one header."""
    lines: list[str] = []
    for folder in folders:
        own = (folder / runs.SCORES).read_text(encoding="utf-8").splitlines()
        lines += own if not lines else own[1:]
    write_text(target, "\n".join(lines) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Score every agent found, then write the joined CSV and name it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusion_scores", description=__doc__)
    parser.add_argument("source", type=pathlib.Path, help="folder of finished runs, such as runs/small")
    parser.add_argument("--agents", nargs="*", default=["random", "iql", "slateq"])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--rewards", nargs="*", default=["sparse"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    wanted = diffusion_settings(
        given.source, agents=given.agents, rewards=given.rewards, seeds=given.seeds, n_episodes=given.episodes
    )
    join_scores([run.run(settings) for settings in wanted], given.out)
    sys.stdout.write(f"wrote {given.out}\n")


if __name__ == "__main__":
    main()
