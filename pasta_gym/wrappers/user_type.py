"""Adds to the observation what is believed about the user's type, or the type itself."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorObservationWrapper
from gymnasium.vector.utils import batch_space

from pasta_gym.types import FloatArray, UserModelProtocol
from pasta_gym.wrappers.inside import batches_inside

Observation = dict[str, Any]


def believed(user_model: UserModelProtocol, observations: Observation) -> FloatArray:
    """Return the posterior over types ``(B, K)`` float32 given batched observations."""
    posterior = user_model.posterior(
        observations["initial_prompt"], observations["slate_images"], observations["choices"]
    )
    return np.asarray(posterior, dtype=np.float32)


def _with(space: spaces.Space[Any], name: str, added: spaces.Space[Any]) -> spaces.Dict:
    """The space of an observation that has one key more."""
    if not isinstance(space, spaces.Dict):
        raise ValueError(
            f"{name} is added to observations with named keys, got {type(space).__name__}; put this wrapper inside "
            "those that flatten: FlatObservation(BelievedUserType(env))"
        )
    return spaces.Dict({**space.spaces, name: added})


class BelievedUserType(
    gymnasium.ObservationWrapper[Observation, Any, Observation],
    RecordConstructorArgs,
):
    """Adds ``belief (K,)``: the environment's own user model's posterior over types given the choices so far.

    It looks inside the environment, so agents that use it are privileged.

    Args:
        env: A single environment.

    Raises:
        ValueError: If a wrapper inside has flattened the observation.
    """

    def __init__(self, env: gymnasium.Env[Observation, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        self._user_model: UserModelProtocol = env.get_wrapper_attr("user_model")
        belief = spaces.Box(0.0, 1.0, (self._user_model.n_types,), np.float32)
        self.observation_space = _with(env.observation_space, "belief", belief)

    def observation(self, observation: Observation) -> Observation:
        """Add the belief."""
        batch = {name: np.asarray(value)[None] for name, value in observation.items()}
        return observation | {"belief": believed(self._user_model, batch)[0]}


class VectorBelievedUserType(VectorObservationWrapper):
    """Adds ``belief (num_envs, K)``; see :class:`BelievedUserType`.

    Args:
        env: A PASTA vector environment.

    Raises:
        ValueError: If a wrapper inside has flattened the observation, or the vector is not PASTA's own.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._user_model: UserModelProtocol = batches_inside(env, "user_model")
        belief = spaces.Box(0.0, 1.0, (self._user_model.n_types,), np.float32)
        self.single_observation_space = _with(env.single_observation_space, "belief", belief)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Observation) -> Observation:
        """Add the beliefs."""
        return observations | {"belief": believed(self._user_model, observations)}


class RevealedUserType(
    gymnasium.ObservationWrapper[Observation, Any, Observation],
    RecordConstructorArgs,
):
    """Adds ``user_type``, the hidden type itself: for upper bounds.

    Args:
        env: A single environment.

    Raises:
        ValueError: If a wrapper inside has flattened the observation.
    """

    def __init__(self, env: gymnasium.Env[Observation, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        n_types = env.get_wrapper_attr("user_model").n_types
        self.observation_space = _with(env.observation_space, "user_type", spaces.Discrete(n_types))

    def observation(self, observation: Observation) -> Observation:
        """Add the type."""
        return observation | {"user_type": self.env.get_wrapper_attr("hidden_user_types")()[0]}


class VectorRevealedUserType(VectorObservationWrapper):
    """Adds ``user_type (num_envs,)``; see :class:`RevealedUserType`.

    Args:
        env: A PASTA vector environment.

    Raises:
        ValueError: If a wrapper inside has flattened the observation, or the vector is not PASTA's own.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        n_types = batches_inside(env, "user_model").n_types
        self.single_observation_space = _with(env.single_observation_space, "user_type", spaces.Discrete(n_types))
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Observation) -> Observation:
        """Add the types."""
        return observations | {"user_type": self.env.unwrapped.hidden_user_types()}  # type: ignore[attr-defined]
