"""One run: data (cached), training, evaluation. Or a sweep of runs.

python -m benchmarks.run agent=iql reward=sparse data=simulated seed=0
python -m benchmarks.run --multirun experiment=main_table
python -m benchmarks.run --multirun experiment=transfer             finished agents on four image models
python -m benchmarks.run checkpoint=RUN_DIR images=diffusion        or images=painter, images=diffusion_8
"""

from __future__ import annotations

import functools
import logging
import pathlib
import shutil
import sys
import time
import traceback
from dataclasses import asdict, replace
from typing import Any, cast

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from agents import Agent, LearningAgent
from benchmarks import revision, runs
from benchmarks.allocator import keep_freed_memory
from benchmarks.evaluate import EpisodeScores, concatenate, evaluate
from benchmarks.settings import CONFIG_FOLDER, Settings, read_settings, run_identity
from benchmarks.stopwatch import Stopwatch
from benchmarks.tracking import Artifact, Tracker, make_tracker
from pasta_gym.envs.rewards import Reward
from pasta_gym.files import whole_folder, write_json, write_text
from pasta_gym.mini.training_data import cache_directory
from pasta_gym.trajectories import TrajectoryDataset, provenance
from pasta_gym.trajectories.regimes import dataset_of

logger = logging.getLogger(__name__)
DIFFUSION_BATCH = 16
# What of metadata.json a dashboard's table of runs shows.
OF_OUTCOME = ("privileged", "dataset_id", "git_revision", "wall_seconds")


def run(settings: Settings) -> pathlib.Path:
    """Do what is left of a run and return its directory.

    A finished run of the same configuration on the same models is left as it is. A killed one goes on after its
    training if that was done, and starts again otherwise.
    """
    folder = settings.folder
    identity = run_identity(settings)
    if runs.is_finished(folder, identity):
        # A run is known by its configuration and weights; an agent's code may have been edited since.
        logger.info("%s is finished, nothing to do; if the code changed, delete it or change agent.name", folder)
        return folder
    keep_freed_memory()
    runs.prepare(folder, identity)
    write_text(folder / runs.CONFIG, OmegaConf.to_yaml(OmegaConf.create(settings.resolved)))
    (folder / runs.FAILURE).unlink(missing_ok=True)
    try:
        _run(settings, folder, identity)
    except Exception as error:
        write_json(
            folder / runs.FAILURE, {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        )
        raise
    logger.info("wrote %s", folder)
    return folder


def _run(settings: Settings, folder: pathlib.Path, identity: dict[str, str]) -> None:
    watch = Stopwatch(folder)
    envs = make_environment(settings)
    try:
        agent = build_agent(settings.resolved["agent"], envs)
        require_whole_learner(agent)
        is_trained_here = isinstance(agent, LearningAgent) and settings.resolved["checkpoint"] is None
        if not (is_trained_here and (folder / runs.CHECKPOINT).is_dir()):
            (folder / runs.METRICS).unlink(missing_ok=True)
        tracker = make_tracker(
            settings.tracking,
            folder,
            run_id=settings.key.config_hash,
            name="-".join(folder.parts[-7:]),
            settings=settings.resolved,
            key=asdict(settings.key),
        )
        try:
            dataset_id = None
            if isinstance(agent, LearningAgent):
                agent, dataset_id = _learned(settings, agent, folder, tracker)
                watch.keep()
            watch.start_evaluation()
            scores = _scored(settings, agent, envs, folder, watch)
            tracker.log(summary(scores) | {"evaluation/seconds": watch.evaluation})
            if settings.tracking.pictures and getattr(agent, "plays_alone", True):
                _send_slates(settings, agent, tracker)
            runs.write_scores(folder / runs.SCORES, settings.key, scores)
            metadata = {
                **identity,
                "privileged": bool(getattr(agent, "privileged", False)),
                "dataset_id": dataset_id,
                "model_hashes": provenance.model_hashes(envs),
                "git_revision": revision.REVISION,
                "packages": provenance.package_versions(),
                "environment": asdict(settings.environment),
                **({"candidate_stats": envs.candidate_stats} if envs.candidate_stats else {}),
                "wall_seconds": round(watch.wall, 1),
            }
            _send_artifacts(settings, folder, tracker)
            tracker.outcome(folder / runs.SCORES, {name: metadata[name] for name in OF_OUTCOME})
        except BaseException:  # one that is interrupted is no finished run either
            tracker.finish(failed=True)
            raise
        tracker.finish()
        write_json(folder / runs.METADATA, metadata)
        shutil.rmtree(folder / runs.PARTS, ignore_errors=True)
        (folder / runs.SECONDS).unlink(missing_ok=True)
    finally:
        envs.close()


def require_whole_learner(agent: Any) -> None:
    """Refuse an agent that can be trained and not stored: it would be scored as it is, untrained.

    Raises:
        ValueError: If it has ``train`` and lacks ``save`` or ``load``.
    """
    lacks = [name for name in ("save", "load") if not callable(getattr(agent, name, None))]
    if callable(getattr(agent, "train", None)) and lacks:
        raise ValueError(
            f"agent {agent.name!r} has train and lacks {' and '.join(lacks)}, so it cannot be trained here; a learner "
            "has train, save and the class method load (agents.LearningAgent), another agent has no train"
        )


def make_environment(settings: Settings) -> Any:
    """Make the vector environment of an evaluation; pictures are painted for fewer conversations at a time."""
    return settings.environment.make(_side_by_side(settings), reveal=True)


def _side_by_side(settings: Settings) -> int:
    largest = DIFFUSION_BATCH if settings.environment.images != "surrogate" else settings.evaluation.batch_size
    return min(largest, settings.evaluation.batch_size, settings.evaluation.n_episodes)


def batches(settings: Settings) -> list[tuple[int, int]]:
    """List the batches that an evaluation is played in: first conversation and number of each."""
    size, n_episodes = _side_by_side(settings), settings.evaluation.n_episodes
    return [(first, min(size, n_episodes - first)) for first in range(0, n_episodes, size)]


def part_path(folder: pathlib.Path, first: int, n_episodes: int) -> pathlib.Path:
    """Name the file that keeps a batch until the whole evaluation is played."""
    return folder / runs.PARTS / f"{first:07d}-{n_episodes}.csv"


def build_agent(config: dict[str, Any], envs: Any) -> Agent:
    """Make an agent from its ``_target_``.

    A ``_partial_`` one is a reference agent: it is called with the environment's world and user model.

    Raises:
        ValueError: If what came out cannot act.
    """
    made = instantiate(config)
    if isinstance(made, functools.partial):
        made = made(world=envs.world, user_model=envs.user_model)
    if not isinstance(made, Agent):
        raise ValueError(
            f"agent {config['_target_']} made a {type(made).__name__} without name, privileged or act(...)"
        )
    return made


def training_data(settings: Settings) -> TrajectoryDataset:
    """Read the dataset of a run under its reward; it is collected first if the cache lacks it."""
    told = functools.partial(logger.info, "collected %d of %d episodes")
    return dataset_of(settings.data, progress=told).with_reward(cast("Reward", settings.resolved["reward"]))


def _learned(
    settings: Settings, agent: LearningAgent, folder: pathlib.Path, tracker: Tracker
) -> tuple[LearningAgent, str | None]:
    if settings.resolved["checkpoint"] is not None:
        source = pathlib.Path(settings.resolved["checkpoint"])
        metadata = runs.read_json(source / runs.METADATA) or {}
        return _stored(agent, source / runs.CHECKPOINT), metadata.get("dataset_id")
    checkpoint = folder / runs.CHECKPOINT
    if not checkpoint.is_dir():
        dataset = training_data(settings)
        began = time.monotonic()
        agent.train(dataset, seed=settings.resolved["seed"], log=lambda metrics: tracker.log(_prefixed(metrics)))
        tracker.log({"training/seconds": time.monotonic() - began})
        with whole_folder(checkpoint) as partial:
            agent.save(partial)
            parts = [part["dataset_id"] for part in dataset.metadata.get("parts", ())]
            dataset_id = dataset.metadata["dataset_id"]
            write_json(partial / "data.json", {"dataset_id": dataset_id, "parts": sorted(set(parts)) or [dataset_id]})
    dataset_id = (runs.read_json(checkpoint / "data.json") or {}).get("dataset_id")
    # The stored agent is the one that is scored, so that a checkpoint's scores are those of its run.
    return _stored(agent, checkpoint), dataset_id


def _stored(agent: LearningAgent, folder: pathlib.Path) -> LearningAgent:
    """Read a trained agent; a privileged one may have been trained where its user model lay in another folder."""
    posterior_from = getattr(getattr(agent, "config", None), "posterior_from", "")
    kind: Any = type(agent)
    made: LearningAgent = kind.load(folder, posterior_from=posterior_from) if posterior_from else kind.load(folder)
    return made


def _send_artifacts(settings: Settings, folder: pathlib.Path, tracker: Tracker) -> None:
    """Send what was trained here, and the cached datasets that it learned from."""
    learned_from = runs.read_json(folder / runs.CHECKPOINT / "data.json")
    if learned_from is None:
        return
    for dataset_id in learned_from.get("parts", [learned_from["dataset_id"]]):
        source = cache_directory() / "trajectories" / dataset_id
        facts = runs.read_json(source / "metadata.json")
        if facts is not None:
            tracker.artifact(Artifact(f"dataset-{dataset_id}", "dataset", source, facts))
    facts = {**asdict(settings.key), "dataset_id": learned_from["dataset_id"]}
    tracker.artifact(Artifact(f"checkpoint-{settings.key.config_hash}", "model", folder / runs.CHECKPOINT, facts))


def _prefixed(metrics: dict[str, float]) -> dict[str, float]:
    return {name if name == "step" else f"training/{name}": value for name, value in metrics.items()}


def _scored(settings: Settings, agent: Agent, envs: Any, folder: pathlib.Path, watch: Stopwatch) -> EpisodeScores:
    """Play what is missing, batch by batch; whole batches are kept on disk until all are there."""
    wanted, parts = settings.evaluation, []
    for first, n_episodes in batches(settings):
        path = part_path(folder, first, n_episodes)
        if not path.exists():
            batch = replace(wanted, n_episodes=n_episodes)
            played = evaluate(agent, envs, batch, agent_seed=settings.resolved["seed"], first_episode=first)
            runs.write_scores(path, settings.key, played)
            watch.keep()
        parts.append(runs.read_scores(path)[0][1])
        logger.info("%s: %d of %d episodes", settings.key.agent, first + n_episodes, wanted.n_episodes)
    return concatenate(parts)


def summary(scores: EpisodeScores) -> dict[str, float]:
    """Mean metrics of an evaluation, under the names of ``benchmarks.tracking.METRICS``."""
    return {
        "evaluation/episode_return": float(scores.returns.mean()),
        "evaluation/final_utility": float(scores.chosen_utilities[:, -1].mean()),
        "evaluation/mean_utility": float(scores.chosen_utilities.mean()),
    }


def _send_slates(settings: Settings, agent: Agent, tracker: Tracker) -> None:
    """Play the first conversation once more, alone, and send what its user saw."""
    envs = settings.environment.make(1, reveal=True, render_mode="rgb_array")

    class Watched:
        """The same environment; it sends a picture after each turn."""

        num_envs = 1
        world = envs.world
        texts = staticmethod(envs.texts)
        reset = staticmethod(envs.reset)

        def __init__(self) -> None:
            self.turn = 0

        def step(self, slates: Any) -> Any:
            self.turn += 1
            result = envs.step(slates)
            tracker.picture(f"slates/turn_{self.turn}", np.asarray(envs.render()[0]))
            return result

    try:
        evaluate(agent, Watched(), replace(settings.evaluation, n_episodes=1), agent_seed=settings.resolved["seed"])
    finally:
        envs.close()


# Hydra finds sweepers in a package named hydra_plugins, wherever it is importable from.
sys.path.append(str(pathlib.Path(__file__).parent / "plugins"))


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="run")
def main(config: DictConfig) -> str:
    """Run one configuration."""
    return str(run(read_settings(config, HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    main()
