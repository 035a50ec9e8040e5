"""What wrappers ask of the environment inside, with an error that says how to put them together."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from pasta_gym.envs.assembly import PastaConfig


def config_inside(env: gymnasium.Env[Any, Any], wrapper: str) -> PastaConfig:
    """The arguments of the environment inside, whose observations a wrapper of actions reads.

    Args:
        env: What is wrapped.
        wrapper: Name of the wrapper's class.

    Raises:
        ValueError: If it is no PASTA environment, or a wrapper inside has flattened the observation.
    """
    config = getattr(env.unwrapped, "config", None)
    if not isinstance(config, PastaConfig):
        raise ValueError(f"{wrapper} wraps a PASTA environment, got {env.unwrapped}; make one of PastaT2I-v0")
    if not isinstance(env.observation_space, spaces.Dict) or "categories" not in env.observation_space.spaces:
        raise ValueError(
            f"{wrapper} reads the categories in the observation, which a wrapper inside has taken away; put it inside "
            f"those that flatten: FlatObservation({wrapper}(env))"
        )
    return config


def batches_inside(env: VectorEnv[Any, Any, Any], name: str) -> Any:
    """An attribute of PASTA's own vector environment inside.

    Args:
        env: What is wrapped.
        name: Which attribute.

    Raises:
        ValueError: If the vector is another one.
    """
    found = getattr(env.unwrapped, name, None)
    if found is None:
        raise ValueError(
            f"{type(env.unwrapped).__name__} has no {name}: this wrapper takes PASTA's own vector environment, "
            'gym.make_vec(..., vectorization_mode="vector_entry_point"); for another one wrap each environment, as '
            "gym.make_vec(..., wrappers=[BelievedUserType]) does"
        )
    return found
