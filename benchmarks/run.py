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
import time
import traceback
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import hydra
import numpy as np
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

import pasta_gym
from agents import Agent, LearningAgent
from benchmarks import runs
from benchmarks.evaluate import EpisodeScores, EvaluationConfig, concatenate, evaluate
from benchmarks.tracking import Tracker, TrackingConfig, make_tracker
from pasta_gym.trajectories import CollectionConfig, EnvironmentConfig, TrajectoryDataset, collect, load, provenance
from pasta_gym.trajectories.dataset import REWARDS, Reward
from pasta_gym.trajectories.files import digest, whole_folder, write_json, write_text
from pasta_gym.worlds import make_world

logger = logging.getLogger(__name__)
CONFIG_FOLDER = pathlib.Path(__file__).parent.parent / "conf"
KEYS = (
    "agent",
    "checkpoint",
    "data",
    "data_name",
    "env",
    "evaluation",
    "experiment_name",
    "images",
    "reward",
    "runs",
    "seed",
    "tracking",
)
# What a checkpoint brings along when it is evaluated elsewhere.
OF_CHECKPOINT = ("agent", "reward", "data", "data_name", "seed")
DIFFUSION_BATCH = 16


@dataclass(frozen=True)
class Settings:
    """A checked configuration.

    Attributes:
        resolved: All keys as plain data, as ``config.yaml`` holds them.
        environment: Where the agent is evaluated.
        data: What it learns from.
        evaluation: On which conversations.
        tracking: Where its metrics go.
        key: What the run is of.
    """

    resolved: dict[str, Any]
    environment: EnvironmentConfig
    data: CollectionConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    key: runs.RunKey

    @property
    def folder(self) -> pathlib.Path:
        """The run directory."""
        return self.key.folder(pathlib.Path(self.resolved["runs"]))


def read_settings(config: DictConfig) -> Settings:
    """Check a composed configuration and make it typed.

    Raises:
        ValueError: If a key is unknown or a value out of range. Nothing has been run then.
    """
    resolved = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    unknown = sorted(set(resolved) - set(KEYS))
    if unknown:
        raise ValueError(f"unknown keys {unknown}; known ones: {', '.join(KEYS)}")
    if resolved["checkpoint"] is not None:
        resolved = with_checkpoint(resolved)
    if resolved["reward"] not in REWARDS:
        raise ValueError(f"reward must be one of {REWARDS}, got {resolved['reward']!r}")
    if not isinstance(resolved["seed"], int) or resolved["seed"] < 0:
        raise ValueError(f"seed must be a whole number of 0 or more, got {resolved['seed']!r}")
    evaluation = instantiate(resolved["evaluation"])
    environment = replace(
        instantiate(resolved["env"]), images=resolved["images"], reward=resolved["reward"], split=evaluation.split
    )
    known = tuple(make_world(environment.world).image_generators)
    if environment.images not in known:
        raise ValueError(f"images must be one of {known}, got {environment.images!r}")
    data = instantiate(resolved["data"])
    data = replace(
        data, environment=replace(environment, images=data.environment.images, reward="dense", split="train")
    )
    key = runs.RunKey(
        experiment=str(resolved["experiment_name"]),
        config_hash=config_hash(resolved),
        agent=agent_name(resolved["agent"]),
        reward=resolved["reward"],
        data=str(resolved["data_name"]),
        world=environment.world_name,
        images=resolved["images"],
        split=evaluation.split,
        seed=resolved["seed"],
    )
    return Settings(resolved, environment, data, evaluation, instantiate(resolved["tracking"]), key)


def with_checkpoint(resolved: dict[str, Any]) -> dict[str, Any]:
    """Take agent, reward, data and seed from the run that made the checkpoint.

    Raises:
        ValueError: If the folder holds no finished training.
    """
    source = pathlib.Path(resolved["checkpoint"]).resolve()
    saved = runs.config_of_trained(source, f"checkpoint={resolved['checkpoint']}")
    merged = {**resolved, **{name: saved[name] for name in OF_CHECKPOINT}, "checkpoint": str(source)}
    if resolved["experiment_name"] == "default":
        merged["experiment_name"] = saved["experiment_name"]
    return merged


def agent_name(agent: dict[str, Any]) -> str:
    """Name an agent for tables: its configuration's ``name``, else the class in ``_target_``."""
    if "_target_" not in agent:
        raise ValueError(f"agent must have a _target_, the path of its class, got {agent}")
    return str(agent.get("name") or str(agent["_target_"]).rsplit(".", 1)[-1])


def config_hash(resolved: dict[str, Any]) -> str:
    """Hash everything that can move a score, and the experiment's name; not where results or weights lie."""
    content = {name: value for name, value in resolved.items() if name not in ("runs", "tracking")}
    content["agent"] = _by_content(resolved["agent"])
    content["evaluation"] = {k: v for k, v in resolved["evaluation"].items() if k != "batch_size"}
    content["data"] = {k: v for k, v in resolved["data"].items() if k != "shard_size"}
    if resolved["checkpoint"] is not None:
        content["checkpoint"] = provenance.folder_hashes(pathlib.Path(resolved["checkpoint"]) / runs.CHECKPOINT)
    return digest(content)


def _by_content(value: Any) -> Any:
    """Replace folders by the hashes of the weights in them: a checkout elsewhere makes the same run."""
    if isinstance(value, dict):
        return {name: _by_content(inner) for name, inner in value.items()}
    if isinstance(value, str) and pathlib.Path(value).is_absolute() and pathlib.Path(value).is_dir():
        return provenance.folder_hashes(pathlib.Path(value))
    return value


def run(settings: Settings) -> pathlib.Path:
    """Do what is left of a run and return its directory.

    A finished run of the same configuration on the same models is left as it is. A killed one goes on after its
    training if that was done, and starts again otherwise.
    """
    folder = settings.folder
    models = digest(provenance.folder_hashes(pathlib.Path(pasta_gym.__file__).parent))
    identity = {"config_hash": settings.key.config_hash, "models": models}
    if runs.is_finished(folder, identity):
        logger.info("%s is finished, nothing to do", folder)
        return folder
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
    began = time.monotonic()
    envs = make_environment(settings)
    try:
        agent = build_agent(settings.resolved["agent"], envs)
        is_trained_here = isinstance(agent, LearningAgent) and settings.resolved["checkpoint"] is None
        if not (is_trained_here and (folder / runs.CHECKPOINT).is_dir()):
            (folder / runs.METRICS).unlink(missing_ok=True)
        tracker = make_tracker(
            settings.tracking,
            folder,
            run_id=settings.key.config_hash,
            name="-".join(folder.parts[-7:]),
            settings=settings.resolved,
        )
        try:
            dataset_id = None
            if isinstance(agent, LearningAgent):
                agent, dataset_id = _learned(settings, agent, folder, tracker)
            scores, seconds = _scored(settings, agent, envs, folder)
            tracker.log(summary(scores) | {"evaluation/seconds": seconds})
            if settings.tracking.pictures:
                _send_slates(settings, agent, tracker)
        finally:
            tracker.finish()
        runs.write_scores(folder / runs.SCORES, settings.key, scores)
        write_json(
            folder / runs.METADATA,
            {
                **identity,
                "privileged": bool(getattr(agent, "privileged", False)),
                "dataset_id": dataset_id,
                "model_hashes": provenance.model_hashes(envs),
                "git_revision": provenance.git_revision(CONFIG_FOLDER.parent),
                "packages": provenance.package_versions(),
                "environment": asdict(settings.environment),
                "wall_seconds": round(time.monotonic() - began, 1),
            },
        )
        shutil.rmtree(folder / runs.PARTS, ignore_errors=True)
    finally:
        envs.close()


def make_environment(settings: Settings) -> Any:
    """Make the vector environment of an evaluation; pictures are painted for fewer conversations at a time."""
    largest = DIFFUSION_BATCH if settings.environment.images != "surrogate" else settings.evaluation.batch_size
    n_envs = min(largest, settings.evaluation.batch_size, settings.evaluation.n_episodes)
    return settings.environment.make(n_envs, reveal=True)


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
    folder = collect(settings.data, progress=lambda done, n: logger.info("collected %d of %d episodes", done, n))
    return load(folder).with_reward(cast("Reward", settings.resolved["reward"]))


def _learned(
    settings: Settings, agent: LearningAgent, folder: pathlib.Path, tracker: Tracker
) -> tuple[LearningAgent, str | None]:
    if settings.resolved["checkpoint"] is not None:
        source = pathlib.Path(settings.resolved["checkpoint"])
        metadata = runs.read_json(source / runs.METADATA) or {}
        return type(agent).load(source / runs.CHECKPOINT), metadata.get("dataset_id")
    checkpoint = folder / runs.CHECKPOINT
    if not checkpoint.is_dir():
        dataset = training_data(settings)
        began = time.monotonic()
        agent.train(dataset, seed=settings.resolved["seed"], log=lambda metrics: tracker.log(_prefixed(metrics)))
        tracker.log({"training/seconds": time.monotonic() - began})
        with whole_folder(checkpoint) as partial:
            agent.save(partial)
            write_json(partial / "data.json", {"dataset_id": dataset.metadata["dataset_id"]})
    dataset_id = (runs.read_json(checkpoint / "data.json") or {}).get("dataset_id")
    # The stored agent is the one that is scored, so that a checkpoint's scores are those of its run.
    return type(agent).load(checkpoint), dataset_id


def _prefixed(metrics: dict[str, float]) -> dict[str, float]:
    return {name if name == "step" else f"training/{name}": value for name, value in metrics.items()}


def _scored(settings: Settings, agent: Agent, envs: Any, folder: pathlib.Path) -> tuple[EpisodeScores, float]:
    """Play what is missing, batch by batch; whole batches are kept on disk until all are there."""
    began = time.monotonic()
    wanted, parts = settings.evaluation, []
    for first in range(0, wanted.n_episodes, envs.num_envs):
        n_episodes = min(envs.num_envs, wanted.n_episodes - first)
        path = folder / runs.PARTS / f"{first:07d}-{n_episodes}.csv"
        if not path.exists():
            batch = replace(wanted, n_episodes=n_episodes)
            played = evaluate(agent, envs, batch, agent_seed=settings.resolved["seed"], first_episode=first)
            runs.write_scores(path, settings.key, played)
        parts.append(runs.read_scores(path)[0][1])
        logger.info("%s: %d of %d episodes", settings.key.agent, first + n_episodes, wanted.n_episodes)
    return concatenate(parts), time.monotonic() - began


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


def user_model_folder(world: str) -> str:
    """Name the folder of a shipped world's user model, for agents that are given it (``${user_model_folder:mini}``)."""
    return str(make_world(world).user_model)


def trained_in(experiment: str, *, _root_: DictConfig) -> str | None:
    """Find the run that trained the configured agent in another experiment, for ``checkpoint: ${trained_in:small}``.

    Args:
        experiment: The other experiment's name.
        _root_: The whole configuration, which OmegaConf passes. Agent, reward, data, world, seed and the folder of
            runs count; ``images`` does not, because agents learn from the pictures of ``data.environment``.

    Returns:
        A run directory, or None for an agent that learns nothing.

    Raises:
        ValueError: If the agent learns and no finished run of that experiment has trained it.
    """
    if not hasattr(get_object(str(_root_.agent._target_)), "train"):
        return None
    key = runs.RunKey(
        experiment=experiment,
        config_hash="",
        agent=agent_name({"_target_": _root_.agent._target_, "name": _root_.agent.get("name")}),
        reward=_root_.reward,
        data=str(_root_.data_name),
        world=instantiate(_root_.env).world_name,
        images=instantiate(_root_.data).environment.images,
        split=EvaluationConfig.split,
        seed=_root_.seed,
    )
    folder = key.folder(pathlib.Path(_root_.runs))
    if not ((folder / runs.METADATA).is_file() and (folder / runs.CHECKPOINT).is_dir()):
        raise ValueError(
            f"experiment {experiment!r} has no finished run {folder}; train the agent first with `python -m "
            f"benchmarks.run experiment={experiment} agent={key.agent} reward={key.reward} seed={key.seed}`, or pass "
            "checkpoint=RUN_DIR"
        )
    return str(folder)


def episodes_on(images: str, episodes: DictConfig) -> int:
    """Look up how many conversations are played on an image model: those that paint slowly get fewer.

    Raises:
        ValueError: If the image model is not listed.
    """
    if images not in episodes:
        raise ValueError(
            f"no number of episodes for images={images!r}, only for {list(episodes)}; set evaluation.n_episodes"
        )
    return int(episodes[images])


for _resolver in (user_model_folder, trained_in, episodes_on):
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="run")
def main(config: DictConfig) -> str:
    """Run one configuration."""
    return str(run(read_settings(config)))


if __name__ == "__main__":
    main()
