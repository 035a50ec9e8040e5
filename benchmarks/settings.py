"""What a run is: its configuration checked and made typed, its key, and the hash that tells whether it is finished."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

import pasta_gym
from benchmarks import checkpoints, runs
from benchmarks.evaluate import EvaluationConfig
from benchmarks.tracking import TrackingConfig
from pasta_gym.envs.rewards import REWARDS
from pasta_gym.files import digest
from pasta_gym.trajectories import CollectionConfig, EnvironmentConfig, provenance
from pasta_gym.trajectories.regimes import label_hashes
from pasta_gym.worlds import World, make_world

CONFIG_FOLDER = pathlib.Path(__file__).parent.parent / "conf"
PACKAGE = pathlib.Path(pasta_gym.__file__).parent
KEYS = (
    "agent",
    "checkpoint",
    "data",
    "data_name",
    "env",
    "evaluation",
    "experiment_name",
    "images",
    checkpoints.MOVED,
    "reward",
    "runs",
    "seed",
    "shards",
    "tracking",
)


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


def read_settings(config: DictConfig, overrides: Sequence[str] | None = None) -> Settings:
    """Check a composed configuration and make it typed.

    Args:
        config: The configuration.
        overrides: What was said on the command line, if that is known. With ``checkpoint=RUN_DIR`` it counts even
            where it is what the files say as well.

    Raises:
        ValueError: If a key is unknown, or a value out of range or at odds with the checkpoint. Nothing has run then.
    """
    resolved = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    unknown = sorted(set(resolved) - set(KEYS))
    if unknown:
        raise ValueError(f"unknown keys {unknown}; known ones: {', '.join(KEYS)}")
    if resolved["env"].get("user_model") is not None:
        resolved["env"]["user_model"] = str(pathlib.Path(resolved["env"]["user_model"]).resolve())
    if resolved["checkpoint"] is not None:
        resolved = checkpoints.with_checkpoint(resolved, usual=usual_settings(), overrides=overrides)
    if resolved["reward"] not in REWARDS:
        raise ValueError(f"reward must be one of {REWARDS}, got {resolved['reward']!r}")
    if not isinstance(resolved["seed"], int) or resolved["seed"] < 0:
        raise ValueError(f"seed must be a whole number of 0 or more, got {resolved['seed']!r}")
    if (resolved["agent"].get("config") or {}).get("posterior_from") and resolved["env"].get("aggregator") is not None:
        raise ValueError(
            f"env.aggregator={resolved['env']['aggregator']} gives the users another aggregator than the user model in "
            "agent.config.posterior_from, whose posterior would not be theirs; leave env.aggregator out, or take an "
            "agent without a privileged belief"
        )
    evaluation = _made(resolved, "evaluation")
    environment = replace(
        _made(resolved, "env"), images=resolved["images"], reward=resolved["reward"], split=evaluation.split
    )
    known = tuple(make_world(environment.world).image_generators)
    if environment.images not in known:
        raise ValueError(f"images must be one of {known}, got {environment.images!r}")
    data = _made(resolved, "data")
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
    return Settings(resolved, environment, data, evaluation, _made(resolved, "tracking"), key)


def _made(resolved: dict[str, Any], key: str) -> Any:
    """Make one part of a configuration typed.

    Raises:
        ValueError: If its class refuses a value, or a number is none.
    """
    given = resolved[key]
    try:
        made = instantiate(given)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):  # it knows the range
            said = str(error.__cause__)
            raise ValueError(f"{key}.{said}" if said.split(" ")[0] in given else said) from error
        check_numbers(key, given)  # a class that compares a text with a number says no more than that
        raise
    check_numbers(key, given)
    return made


def check_numbers(path: str, given: Mapping[str, Any]) -> None:
    """Check that a configuration gives numbers where the dataclass in its ``_target_`` has numbers.

    Args:
        path: The configuration's key, ``"data"`` or ``"env.world"``.
        given: The configuration, as plain data.

    Raises:
        ValueError: If a value is no number, or a fraction where a whole number belongs.
    """
    kind = get_object(given["_target_"]) if "_target_" in given else None
    wanted = {field.name: field for field in fields(kind)} if is_dataclass(kind) else {}
    for name, value in given.items():
        if isinstance(value, dict):
            check_numbers(f"{path}.{name}", value)
        elif name in wanted:
            annotated = str(wanted[name].type).removesuffix(" | None")
            accepted = {"int": (int, "a whole number"), "float": (int | float, "a number")}.get(annotated)
            is_missing = value is None and annotated != wanted[name].type
            if accepted and not is_missing and (isinstance(value, bool) or not isinstance(value, accepted[0])):
                raise ValueError(
                    f"{path}.{name} must be {accepted[1]}, as its default {wanted[name].default}, got {value!r}"
                )


def with_values(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Return the configuration with settings changed."""
    changed = copy.deepcopy(config)
    with open_dict(changed):
        for key, value in values.items():
            OmegaConf.update(changed, key, value, force_add=True)
    return changed


def usual_settings() -> dict[str, Any]:
    """Read the agent, reward, seed, name of the data and environment that a run has if nothing is said."""
    base = OmegaConf.load(CONFIG_FOLDER / "run.yaml")
    chosen = {name: part[name] for part in base.defaults if isinstance(part, DictConfig) for name in part}
    files = {name: OmegaConf.load(CONFIG_FOLDER / name / f"{chosen[name]}.yaml") for name in ("agent", "env", "data")}
    return {
        "agent": OmegaConf.to_container(files["agent"]),
        "env": OmegaConf.to_container(files["env"]),
        "data_name": files["data"].data_name,
        "reward": base.reward,
        "seed": base.seed,
    }


def agent_name(agent: dict[str, Any]) -> str:
    """Name an agent for tables: its configuration's ``name``, else the class in ``_target_``."""
    if "_target_" not in agent:
        raise ValueError(f"agent must have a _target_, the path of its class, got {agent}")
    return str(agent.get("name") or str(agent["_target_"]).rsplit(".", 1)[-1])


def _is_alone(agent: dict[str, Any]) -> bool:
    """Whether an agent's slates are the same whatever else is in its batch; see ``agents.foreign_past``."""
    return "_target_" not in agent or bool(getattr(get_object(str(agent["_target_"])), "plays_alone", True))


def config_hash(resolved: dict[str, Any]) -> str:
    """Hash everything that can move a score, and the experiment's name; not where results, weights or caches lie.

    Raises:
        ValueError: If the data are made from labels and one of their files is missing.
    """
    left_out = ("runs", "shards", "tracking", checkpoints.MOVED)
    content = {name: value for name, value in resolved.items() if name not in left_out}
    content["agent"] = provenance.by_content(resolved["agent"])
    content["env"] = {
        name: checkpoints.world_identity(value) if name == "world" else value for name, value in resolved["env"].items()
    }
    content["env"] = provenance.by_content(content["env"])
    content["evaluation"] = dict(resolved["evaluation"])
    if content["evaluation"].get("batch_size") == EvaluationConfig.batch_size or _is_alone(resolved["agent"]):
        content["evaluation"].pop("batch_size", None)
    content["data"] = {k: v for k, v in resolved["data"].items() if k != "shard_size"}
    if resolved["checkpoint"] is not None:
        content["checkpoint"] = provenance.folder_hashes(pathlib.Path(resolved["checkpoint"]) / runs.CHECKPOINT)
    elif labels := label_hashes(instantiate(resolved["data"])):
        content["labels"] = labels  # their folder's name stays the same when raters are labelled again
    return digest(content)


def run_identity(settings: Settings, models_of: Callable[[EnvironmentConfig], str] | None = None) -> dict[str, str]:
    """Say what a finished run must have been made with to count as this one.

    Args:
        settings: The run.
        models_of: ``models_digest``, or the same that remembers what it read.

    Returns:
        ``config_hash`` and ``models``.
    """
    return {"config_hash": settings.key.config_hash, "models": (models_of or models_digest)(settings.environment)}


def models_digest(environment: EnvironmentConfig) -> str:
    """Hash the weights that come with the package, the user model if it is none of them, and a full world's prompts."""
    hashes = provenance.folder_hashes(PACKAGE)
    world = make_world(environment.world)
    users = world.own_users() if environment.user_model is None else environment.user_model
    if world.fingerprint is not None:
        # Its other models are named in its runs' metadata: to ask for them here would load them.
        prompts = {split: world.prompt_book.texts(ids) for split, ids in world.initial_prompts.items()}
        hashes["initial prompts"] = digest(prompts)
    if isinstance(users, str | pathlib.Path):
        folder = pathlib.Path(users).resolve()
        if not folder.is_relative_to(PACKAGE.resolve()):
            hashes |= {f"user model/{name}": value for name, value in provenance.folder_hashes(folder).items()}
    return digest(hashes)


def user_model_folder(world: str | DictConfig, *, _root_: DictConfig) -> str:
    """Name the folder of the environment's user model, for agents that are given it.

    Args:
        world: A world's name, or the configuration of its recipe: ``${user_model_folder:${env.world}}``.
        _root_: The whole configuration, which OmegaConf passes; its ``env.user_model`` goes before the world's.
    """
    given = OmegaConf.select(_root_, "env.user_model")
    made: World = make_world(world if isinstance(world, str) else instantiate(world))
    return str(made.user_model if given is None else pathlib.Path(given).resolve())


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
