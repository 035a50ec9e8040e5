"""The environment: single, and many conversations in one."""

from pasta_gym.envs.assembly import PastaConfig
from pasta_gym.envs.pasta_env import PastaEnv
from pasta_gym.envs.vector import PastaVectorEnv

__all__ = ["PastaConfig", "PastaEnv", "PastaVectorEnv"]
