"""A trained agent that is scored elsewhere: what its run brings along, and what may not be changed any more."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate

from benchmarks import runs
from pasta_gym.trajectories import provenance
from pasta_gym.worlds import WorldRecipe, make_world

OF_TRAINING = ("agent", "reward", "data", "data_name", "seed")
"""What a trained agent was made with."""
MOVED = "moved"
"""The key that lists the settings of ``env`` in which a run differs from the one that trained its agent."""
USERS = "agent.config.posterior_from"
"""The folder of a privileged agent's user model: the one thing of a trained agent that may lie elsewhere."""
_MISSING = object()


def keys_of(overrides: Sequence[str]) -> set[str]:
    """Read the keys that overrides name: ``{"env.slate_size"}`` of ``["+env.slate_size=3"]``."""
    return {str(override.key_or_group) for override in OverridesParser.create().parse_overrides(list(overrides))}


def world_identity(given: Any) -> Any:
    """Replace a recipe's configuration by what the recipe says of itself: a larger batch or a cache is no other world.

    Args:
        given: ``env.world``: a world's name, a recipe, or the configuration of one.
    """
    recipe = instantiate(given) if isinstance(given, dict) else given
    told = provenance.recipe_identity(recipe) if isinstance(recipe, WorldRecipe) else None
    return given if told is None else told


def with_checkpoint(
    resolved: dict[str, Any], *, usual: Mapping[str, Any], overrides: Sequence[str] | None
) -> dict[str, Any]:
    """Take agent, reward, data and seed from the run that made the checkpoint, and of its environment what is not said.

    Args:
        resolved: The configuration of the evaluation; its ``checkpoint`` is a run directory.
        usual: Agent, reward, seed, ``data_name`` and ``env`` of a configuration in which nothing is said.
        overrides: What was said, as Hydra lists it, or None if nobody knows. Then what is not as usual was said.

    Returns:
        The configuration. In another world than the agent's, ``data_name`` tells which world the data are of, so that
        the agent has other run directories than those that learned in that world.

    Raises:
        ValueError: If the folder holds no finished training, or what was said contradicts it.
    """
    source = pathlib.Path(resolved["checkpoint"]).resolve()
    saved = runs.config_of_trained(source, f"checkpoint={resolved['checkpoint']}")
    if overrides is None:
        named = {name for name in ("agent", "reward", "data_name", "seed") if resolved[name] != usual[name]}
    else:
        named = keys_of(overrides)
    merged = {**resolved, **{name: saved[name] for name in OF_TRAINING}, "checkpoint": str(source)}
    merged["env"] = _environment(resolved, saved["env"], usual["env"], named)
    moved = sorted(name for name in {*merged["env"], *saved["env"]} if not _alike(name, merged["env"], saved["env"]))
    merged.pop(MOVED, None)
    if moved:
        merged[MOVED] = moved
        here, there = (instantiate(env).world_name for env in (merged["env"], saved["env"]))
        if here != there:
            merged["data_name"] = f"{saved['data_name']}_{there}"
    if _at(saved, USERS) not in (_MISSING, ""):
        said = _at(resolved, USERS) if USERS in named else None
        merged["agent"] = _with_users(saved, merged["env"], said)
        named -= {USERS}
    for key in sorted(named):
        _check(key, resolved, saved, merged)
    if resolved["experiment_name"] == "default" and "experiment_name" not in named:
        merged["experiment_name"] = saved["experiment_name"]
    return merged


def _environment(
    resolved: Mapping[str, Any], trained: Mapping[str, Any], usual: Mapping[str, Any], named: Collection[str]
) -> dict[str, Any]:
    """Take what is said of the environment, on the command line or in an experiment's file, and the rest as trained."""
    given: dict[str, Any] = resolved["env"]
    if "env" in named:
        return given
    said = {key.split(".")[1] for key in named if key.startswith("env.")} | ({"world"} & set(named))
    said |= {name for name, value in given.items() if value != usual.get(name)} | set(resolved.get(MOVED, ()))
    if "world" in said and not _alike("world", given, trained):
        said.add("user_model")  # the users of one world are not those of another
    kept = {name: value for name, value in trained.items() if name not in said}
    return {**kept, **{name: value for name, value in given.items() if name in said}}


def _alike(name: str, env: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations of an environment mean the same by one of their settings."""
    found, expected = (given.get(name, _MISSING) for given in (env, other))
    return found == expected or (name == "world" and world_identity(found) == world_identity(expected))


def _with_users(saved: Mapping[str, Any], env: Mapping[str, Any], said: str | None) -> dict[str, Any]:
    """Find the user model of a privileged agent: where it is said, or was, or where its world's users are here.

    Whether it is the one that the agent learned with is seen by its weights when the agent is read.
    """
    trained = instantiate(saved["env"])
    # The world's own users are those of the training only if that had no others.
    own = make_world(trained.world).user_model if trained.user_model is None else None
    places = [said] if said else [_at(saved, USERS), trained.user_model, env.get("user_model"), own]
    here = [pathlib.Path(p) for p in places if isinstance(p, str | pathlib.Path) and pathlib.Path(p).is_dir()]
    found = str(here[0].resolve()) if here else places[0]
    return {**saved["agent"], "config": {**saved["agent"]["config"], "posterior_from": found}}


def _check(key: str, resolved: Mapping[str, Any], saved: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Refuse what was said of a training that is over, unless the training was just so."""
    if key.split(".")[0] not in OF_TRAINING:
        return
    # A file of a group is known by its name: what else it holds may have been changed for the training.
    paths = {"agent": ("agent.name", "agent._target_"), "data": ("data_name",)}.get(key, (key,))
    for path in paths:
        given, trained = _at(resolved, path), _at(saved, path)
        if given == trained or (path == "data_name" and given == merged["data_name"]):
            continue
        raise ValueError(
            f"{path} is {_text(given)}, but the agent of checkpoint={resolved['checkpoint']} was trained with "
            f"{_text(trained)}; leave out {key}=..., as a trained agent brings it along, or checkpoint=... to "
            "train another agent"
        )


def _at(config: Mapping[str, Any], path: str) -> Any:
    found: Any = config
    for part in path.split("."):
        found = found.get(part, _MISSING) if isinstance(found, Mapping) else _MISSING
    return found


def _text(value: Any) -> str:
    return "its default" if value is _MISSING else repr(value)
