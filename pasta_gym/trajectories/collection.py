"""Collect an offline dataset with the random policy: cached by content, and continued where it was killed."""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata as package_metadata
from typing import Any, Protocol

import numpy as np

from pasta_gym import seeding
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.envs.rewards import REWARDS
from pasta_gym.files import digest, whole_folder
from pasta_gym.mini.training_data import cache_directory
from pasta_gym.settings import check_whole
from pasta_gym.trajectories import provenance, random_policy, storage, untrained_policy
from pasta_gym.trajectories.environment import SEED_STRIDE, EnvironmentConfig, first_environment_seed
from pasta_gym.types import FloatArray, IntArray, UInt64Array

_ACTION = 0xAC7104  # salt of the logging policy's keys
POLICIES = {
    random_policy.NAME: random_policy.random_slates,
    untrained_policy.NAME: untrained_policy.untrained_slates,
}
"""Logging policies by name: categories ``(B, C)``, keys ``(B,)`` and L to slates ``(B, L)`` and their probabilities."""


@dataclass(frozen=True)
class CollectionConfig:
    """What a dataset holds. Equal configurations on equal models give equal bytes of content.

    Attributes:
        environment: Where the conversations happen. Dense data can be read as sparse later.
        n_episodes: Conversations; the paper uses 30,000.
        seed: Numbers a stream of conversations; streams share none.
        policy: The logging policy: ``random_one_per_category``, or ``untrained_generator``, which shows the first
            candidate of each of L categories drawn at random and so a fifth of what the other one can show.
        shard_size: Episodes run side by side and saved together. It changes no content.
    """

    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    n_episodes: int = 30_000
    seed: int = 0
    policy: str = random_policy.NAME
    shard_size: int = 500

    def __post_init__(self) -> None:
        check_whole(self, "n_episodes", 1, SEED_STRIDE)
        check_whole(self, "shard_size", 1)
        check_whole(self, "seed", 0)
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {tuple(POLICIES)}, got {self.policy!r}")
        if self.environment.reward not in REWARDS:
            raise ValueError(f"reward must be one of {REWARDS}, got {self.environment.reward!r}")


Progress = Callable[[int, int], None]
"""Called with the episodes done and the episodes in all."""


class Judge(Protocol):
    """Says afterwards what conversations were worth, where the environment pays nothing."""

    def identity(self) -> dict[str, Any]:
        """Everything that its rewards depend on, as plain data."""
        ...

    def rewards(self, shard: storage.Shard) -> FloatArray:
        """Return dense rewards ``(n, H)`` of whole conversations."""
        ...


def collect(
    config: CollectionConfig,
    *,
    root: pathlib.Path | str | None = None,
    progress: Progress | None = None,
    judge: Judge | None = None,
) -> pathlib.Path:
    """Return the folder of the dataset, after making what is missing of it.

    A killed collection goes on at the first shard that is not whole. Two processes may collect the same dataset.

    Args:
        config: What to collect.
        root: Folder of all datasets; by default ``trajectories`` in the package's cache.
        progress: Called after each shard.
        judge: Replaces the environment's rewards; None keeps them.
    """
    root = cache_directory() / "trajectories" if root is None else pathlib.Path(root)
    envs = config.environment.make(min(config.shard_size, config.n_episodes))
    try:
        identity = dataset_identity(config, provenance.model_hashes(envs))
        if judge is not None:
            identity["rewards"] = judge.identity()
        dataset_id = digest(identity)
        folder = root / dataset_id
        if (folder / storage.METADATA).exists():
            return folder
        parts = root / f"{dataset_id}.parts"
        names = []
        for first in range(0, config.n_episodes, config.shard_size):
            if (folder / storage.METADATA).exists():  # another process has finished, and removed the parts
                return folder
            part = parts / f"{first:08d}-{min(config.shard_size, config.n_episodes - first)}"
            if not part.exists():
                n_wanted = min(config.shard_size, config.n_episodes - first)
                shard = run_shard(envs, config, first, n_wanted)
                if judge is not None:
                    shard = replace(shard, rewards=judge.rewards(shard))
                with whole_folder(part) as partial:
                    storage.save_shard(partial, shard)
            names.append(part)
            if progress is not None:
                progress(min(first + config.shard_size, config.n_episodes), config.n_episodes)
        metadata = {
            **identity,
            "dataset_id": dataset_id,
            "reward": config.environment.reward,
            "packages": provenance.package_versions(),
        }
        try:
            with whole_folder(folder) as partial:
                shards = (storage.load_shard(part) for part in names)
                storage.save(partial, shards, texts=envs.texts, metadata=metadata)
        except (OSError, ValueError):
            if not (folder / storage.METADATA).exists():  # else another process took the parts away, being done
                raise
        shutil.rmtree(parts, ignore_errors=True)
    finally:
        envs.close()
    return folder


def dataset_identity(config: CollectionConfig, model_hashes: dict[str, str]) -> dict[str, Any]:
    """List everything that the content of a dataset depends on; its hash is the dataset's id."""
    return {
        "environment": config.environment.identity(),
        "n_episodes": config.n_episodes,
        "seed": config.seed,
        "policy": config.policy,
        "models": model_hashes,
        "package_version": package_metadata.version("pasta-gym") if _installed() else "checkout",
        "storage_format": storage.FORMAT_VERSION,
    }


def run_shard(envs: Any, config: CollectionConfig, first: int, n_wanted: int) -> storage.Shard:
    """Play episodes ``first..first + n_wanted - 1`` side by side and keep what was seen.

    Args:
        envs: Vector environment with at least ``n_wanted`` members; what the others play is dropped.
        config: Seed and sizes.
        first: Number of the first episode.
        n_wanted: Episodes to keep.
    """
    before = envs.candidate_stats
    begin = first_environment_seed(config.seed, stream=0) + first
    seeds = begin + np.arange(envs.num_envs)
    observation, info = envs.reset(seed=int(begin))
    horizon, slate_size = config.environment.horizon, config.environment.slate_size
    turns: list[dict[str, Any]] = []
    embedded = _PromptTable()
    embedded.add(info["initial_prompt_id"][:n_wanted], observation["initial_prompt"][:n_wanted])
    first_observation, first_info = observation, info
    for turn in range(horizon):
        ids, categories = info["candidate_ids"], observation["categories"]
        embedded.add(ids[:n_wanted], observation["candidates"][:n_wanted])
        actions, probabilities = POLICIES[config.policy](categories, decision_keys(seeds, turn), slate_size)
        observation, rewards, terminated, truncated, info = envs.step(actions)
        if bool(truncated.any()) or bool((terminated != (turn == horizon - 1)).any()):
            raise RuntimeError(f"episodes must end at turn {horizon} together, but one did not at turn {turn + 1}")
        turns.append(
            {
                "candidates": ids,
                "categories": categories,
                "actions": actions,
                "behaviour_probabilities": probabilities,
                "choices": observation["choices"][:, turn],
                "rewards": rewards,
            }
        )

    def stacked(name: str) -> Any:
        return np.stack([np.asarray(t[name])[:n_wanted] for t in turns], axis=1)

    prompts, embeddings = embedded.tables()
    ids_are_prompts = getattr(envs.world.prompt_book, "ids_are_prompts", False)
    return storage.Shard(
        first_episode=first,
        environment_seeds=seeds[:n_wanted].astype(np.int64),
        initial_prompts=np.asarray(first_info["initial_prompt_id"])[:n_wanted].astype(np.int64),
        initial_images=first_observation["initial_images"][:n_wanted].astype(np.float16),
        candidates=stacked("candidates").astype(np.int64),
        categories=stacked("categories").astype(np.int64),
        actions=stacked("actions"),
        behaviour_probabilities=stacked("behaviour_probabilities"),
        slate_images=observation["slate_images"][:n_wanted].astype(np.float16),
        choices=stacked("choices").astype(np.int64),
        rewards=stacked("rewards").astype(np.float64),
        prompts=prompts,
        prompt_embeddings=embeddings,
        # Another process that goes on with this collection has never met these ids.
        candidate_stats={name: count - before.get(name, 0) for name, count in envs.candidate_stats.items()},
        prompt_texts=() if ids_are_prompts else tuple(envs.texts(prompts)),
    )


def decision_keys(environment_seeds: IntArray, turn: int) -> UInt64Array:
    """Keys of the logging policy's decisions, one an episode: a function of its seed and the turn alone."""
    return seeding.mix(np.asarray(environment_seeds).astype(np.uint64), turn, _ACTION)


class _PromptTable:
    """Prompt ids met so far and their embeddings, each kept once."""

    def __init__(self) -> None:
        self._ids: list[IntArray] = []
        self._embeddings: list[FloatArray] = []

    def add(self, ids: IntArray, embeddings: FloatArray) -> None:
        flat, first = np.unique(np.asarray(ids).reshape(-1), return_index=True)
        self._ids.append(flat)
        self._embeddings.append(embeddings.reshape(-1, embeddings.shape[-1])[first])

    def tables(self) -> tuple[IntArray, FloatArray]:
        ids, first = np.unique(np.concatenate(self._ids), return_index=True)
        embeddings: FloatArray = np.concatenate(self._embeddings)[first]
        return ids.astype(np.int64), embeddings


def _installed() -> bool:
    try:
        package_metadata.version("pasta-gym")
    except package_metadata.PackageNotFoundError:
        return False
    return True


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Collect a dataset from the command line and print its folder."""
    parser = argparse.ArgumentParser(
        prog="python -m pasta_gym.trajectories.collect",
        description=(
            "Play conversations with simulated users, who are shown random slates unless --policy says otherwise, and "
            "write them as a dataset: the offline data that agents learn from. Prints its folder. The same command "
            "again finds it there, or goes on where it was stopped."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = CollectionConfig()
    environment = defaults.environment
    parser.add_argument("--episodes", type=int, default=defaults.n_episodes, help="conversations")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="another number, other conversations")
    parser.add_argument(
        "--images",
        default=environment.images,
        help="who makes the pictures: surrogate, diffusion or another of the world",
    )
    parser.add_argument("--policy", default=defaults.policy, choices=tuple(POLICIES), help="who chooses the slates")
    parser.add_argument(
        "--split", default=environment.split, choices=("train", "validation", "test"), help="of the initial prompts"
    )
    parser.add_argument("--world", default=environment.world, help="name of the world")
    parser.add_argument(
        "--shard-size", type=int, default=defaults.shard_size, help="conversations played and saved together"
    )
    parser.add_argument(
        "--root", type=pathlib.Path, default=None, help="folder of all datasets; that of the package's cache if None"
    )
    given = parser.parse_args(arguments)
    environment = EnvironmentConfig(world=given.world, split=given.split, images=given.images)
    config = CollectionConfig(environment, given.episodes, given.seed, given.policy, given.shard_size)
    from tqdm.auto import tqdm

    with tqdm(total=config.n_episodes, desc="episodes", file=sys.stderr) as bar:
        folder = collect(config, root=given.root, progress=lambda done, _: bar.update(done - bar.n))
    sys.stdout.write(f"{folder}\n")
