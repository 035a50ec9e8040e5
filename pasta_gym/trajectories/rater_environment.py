"""An environment whose users are planted raters: agents see what they always see, raters see pixels.

It serves collection of raters' sessions and evaluation by raters. It pays no reward: what a rater feels is in
``info["utilities"]`` where ``reveal=True`` asks for it, so that no learner is fed a planted utility by accident.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pasta_gym.envs.core import Conversations, sample_user_types
from pasta_gym.envs.eyes import Eyes
from pasta_gym.envs.pasta_env import Observation
from pasta_gym.envs.vector import PastaVectorEnv
from pasta_gym.mini import raters
from pasta_gym.mini.rater_users import Crowd, Eye, RaterUsers, slot_values_of
from pasta_gym.seeding import EPISODE, USER, mix, uniforms
from pasta_gym.trajectories.environment import EnvironmentConfig
from pasta_gym.types import BoolArray, FloatArray, ImageArray, Images, IntArray, UserModelProtocol


def read_by_eye(pixels: ImageArray) -> FloatArray:
    """Read pictures ``(n, 64, 64, 3)`` by the shipped raters' eye, ``(n, 38)``."""
    from pasta_gym.mini.reader import load_reader, read_images

    return raters.pack_reads(list(read_images(load_reader("eye"), pixels)))


class RaterEyes(Eyes):
    """Lets raters see: slot values of prompts, reads of pictures.

    Args:
        eye: Reads pictures.
    """

    def __init__(self, eye: Eye) -> None:
        self._eye = eye

    def prompts(self, ids: IntArray) -> FloatArray:
        """Slot values ``(n, 6)`` of initial prompts ``(n,)``."""
        return slot_values_of(ids)

    def images(self, images: Images) -> FloatArray:
        """Read the pixels: ``(N, M, 38)``.

        Raises:
            ValueError: If there are none.
        """
        if images.pixels is None:
            raise ValueError(
                "raters judge pixels, but this image generator gives embeddings alone; use one that paints: "
                'images="painter" or images="diffusion"'
            )
        shape = images.pixels.shape
        reads: FloatArray = self._eye(images.pixels.reshape(-1, *shape[2:])).reshape(*shape[:2], -1)
        return reads


class RaterVectorEnv(PastaVectorEnv):
    """``PastaT2I-v0`` with planted raters in the place of the learned users. Rewards are zero.

    Args:
        num_envs: Conversations side by side.
        crowd: Who the users are drawn from; ``user_type`` k is rater ``crowd.first + k``.
        eye: How they see.
        arguments: Those of ``PastaVectorEnv``. ``user_model`` is the learned model, kept in ``learned_users``.
    """

    def __init__(self, num_envs: int, *, crowd: Crowd, eye: Eye = read_by_eye, **arguments: Any) -> None:
        super().__init__(num_envs, **arguments)
        parts = self._conversations.parts
        self.crowd = crowd
        self.learned_users: UserModelProtocol = parts.public_user_model
        planted = dataclasses.replace(parts, user_model=RaterUsers(crowd), eyes=RaterEyes(eye))
        self._conversations = Conversations(planted, self.num_envs)

    def step(  # type: ignore[override]
        self, actions: IntArray
    ) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Play a turn; as in ``PastaVectorEnv``, with rewards ``(num_envs,)`` of zero."""
        observations, rewards, terminated, truncated, info = super().step(actions)
        return observations, np.zeros_like(rewards), terminated, truncated, info


@dataclass(frozen=True)
class RaterEnvironment(EnvironmentConfig):
    """Arguments of an environment of planted raters.

    Attributes:
        images: Has to paint: ``"painter"``, ``"diffusion"``.
        crowd: Who the users are.
    """

    images: str = "painter"
    crowd: Crowd = field(default_factory=Crowd)

    def make(self, n_envs: int, *, reveal: bool = False, render_mode: str | None = None) -> RaterVectorEnv:
        """Make the vector environment; arguments as in ``EnvironmentConfig.make``."""
        given = {f.name: getattr(self, f.name) for f in fields(EnvironmentConfig) if f.name != "id"}
        arguments = {name: value for name, value in given.items() if value is not None}
        return RaterVectorEnv(
            n_envs, crowd=self.crowd, eye=read_by_eye, reveal=reveal, render_mode=render_mode, **arguments
        )

    @classmethod
    def like(cls, environment: EnvironmentConfig, crowd: Crowd) -> RaterEnvironment:
        """Return the same environment with raters for users."""
        shared = {f.name: getattr(environment, f.name) for f in fields(EnvironmentConfig)}
        return cls(**shared, crowd=crowd)


def raters_of_episodes(environment_seeds: IntArray, crowd: Crowd) -> IntArray:
    """Tell which rater ``(n,)`` each logged conversation was with, from the seeds it was logged under."""
    keys = mix(np.asarray(environment_seeds).astype(np.uint64), 0, EPISODE)
    prior = np.full(len(crowd), 1.0 / len(crowd))
    drawn: IntArray = crowd.first + sample_user_types(prior, uniforms(mix(keys, USER)))
    return drawn
