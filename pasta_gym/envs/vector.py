"""``PastaT2I-v0`` for many conversations: one forward pass of each part for all of them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from pasta_gym.envs.arguments import checked_actions, checked_options
from pasta_gym.envs.assembly import PastaConfig, assemble, single_action_space, single_observation_space
from pasta_gym.envs.core import Conversations
from pasta_gym.envs.pasta_env import Observation, PastaEnv, checked_render_mode
from pasta_gym.envs.rendering import frame
from pasta_gym.types import BoolArray, FloatArray, ImageArray, IntArray, UInt64Array, UserModelProtocol
from pasta_gym.worlds import World

_DEFAULTS = PastaConfig()
_SEED_BITS = 0xFFFFFFFFFFFFFFFF


def _metadata() -> dict[str, Any]:
    """The single environment's metadata and, where Gymnasium has the word, how conversations restart."""
    metadata = dict(PastaEnv.metadata)
    modes = getattr(gymnasium.vector, "AutoresetMode", None)
    if modes is not None:
        metadata["autoreset_mode"] = modes.NEXT_STEP
    return metadata


class PastaVectorEnv(VectorEnv[Observation, IntArray, FloatArray]):
    """Many conversations, each exactly as :class:`pasta_gym.envs.PastaEnv` would have it alone.

    ``reset(seed=s)`` seeds conversation i with ``s + i``, and ``seed=[1, None, 2]`` leaves the second its own. A
    conversation that is over restarts at the next step, which ignores its action, pays nothing and returns the first
    observation of the seed's next episode.
    ``info`` holds prompt ids, arrays over the conversations: ``initial_prompt_id, candidate_ids, slate_ids``
    (-1 before the first slate) and ``chosen_prompt_id``; ``texts(ids)`` writes ids out.

    Args:
        num_envs: How many conversations.
        reward: ``"sparse"`` or ``"dense"``.
        images: ``"diffusion"``, ``"diffusion_8"``, ``"painter"`` or ``"surrogate"``, as in the single environment.
        world: A shipped world's name or a world of your own.
        split: Initial prompts of ``"train"``, ``"validation"`` or ``"test"``.
        user_model: A user model or the folder of one; the world's by default.
        n_candidates: L_C, candidates of a turn.
        n_categories: Categories they fall in.
        slate_size: L, prompts that are shown.
        images_per_prompt: M, pictures of each.
        horizon: H, turns of an episode.
        aggregator: How a column's scores become its utility; the user model's own by default.
        reveal: Add the hidden state to ``info``.
        render_mode: None or ``"rgb_array"``.

    Raises:
        ValueError: If an argument is out of range or a part cannot be loaded.
    """

    metadata: dict[str, Any] = _metadata()

    def __init__(
        self,
        num_envs: int = 1,
        *,
        reward: str = _DEFAULTS.reward,
        images: str = _DEFAULTS.images,
        world: World | str = "mini",
        split: str = _DEFAULTS.split,
        user_model: UserModelProtocol | str | pathlib.Path | None = None,
        n_candidates: int = _DEFAULTS.n_candidates,
        n_categories: int = _DEFAULTS.n_categories,
        slate_size: int = _DEFAULTS.slate_size,
        images_per_prompt: int = _DEFAULTS.images_per_prompt,
        horizon: int = _DEFAULTS.horizon,
        aggregator: str | None = _DEFAULTS.aggregator,
        reveal: bool = _DEFAULTS.reveal,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
        self.config = PastaConfig(
            reward=reward,
            images=images,
            split=split,
            n_candidates=n_candidates,
            n_categories=n_categories,
            slate_size=slate_size,
            images_per_prompt=images_per_prompt,
            horizon=horizon,
            aggregator=aggregator,
            reveal=reveal,
        )
        self.num_envs = int(num_envs)
        self.render_mode = checked_render_mode(render_mode)
        self._conversations = Conversations(assemble(self.config, world, user_model), self.num_envs)
        self.single_observation_space = single_observation_space(self._conversations.parts)
        self.single_action_space = single_action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rows: IntArray = np.arange(self.num_envs, dtype=np.int64)
        self._seeds: UInt64Array | None = None
        self._episodes: IntArray = np.zeros(self.num_envs, dtype=np.int64)

    @property
    def world(self) -> World:
        """The assembly of parts."""
        return self._conversations.parts.world

    @property
    def user_model(self) -> UserModelProtocol:
        """The model of the users."""
        return self._conversations.parts.public_user_model

    @property
    def category_titles(self) -> tuple[str, ...]:
        """What the categories of the candidates are called."""
        return tuple(self._conversations.parts.candidates.category_titles)

    @property
    def candidate_stats(self) -> dict[str, int]:
        """What the candidate generator has counted so far: replies, failures, fallbacks. Empty if it counts nothing."""
        count = getattr(getattr(self._conversations.parts.candidates, "stats", None), "as_dict", None)
        return {} if count is None else dict(count())

    def hidden_user_types(self) -> IntArray:
        """Return the hidden type of each conversation, ``(num_envs,)``: for oracles and upper bounds alone."""
        return self._conversations.user_types.copy()

    def texts(self, ids: IntArray) -> list[str]:
        """Write prompt ids ``(n,)`` out in words."""
        return self.world.prompt_book.texts(np.asarray(ids, dtype=np.int64))

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin every conversation.

        Args:
            seed: Seed of the first conversation, the others count on; or one for each, None for those that keep
                theirs. A conversation that keeps its seed begins the seed's next episode.
            options: ``prompt`` and ``user_type``, one value or a list with one for each.

        Returns:
            Observations and ``info``, arrays over the conversations.

        Raises:
            ValueError: If an option is unknown or cannot be read, or the seeds are not one for each.
        """
        prompts, user_types = checked_options(options, self._conversations.parts, self.num_envs, is_vector=True)
        given = [None] * self.num_envs if seed is None else self._given_seeds(seed)
        self._reseed(given)
        assert self._seeds is not None
        begun = self._episodes + 1
        self._conversations.begin(self._rows, self._seeds, begun, prompts=prompts, user_types=user_types)
        self._episodes = begun  # not before: an episode that could not begin is tried again
        return self._conversations.observations(), self._conversations.info()

    def step(  # type: ignore[override]
        self, actions: IntArray
    ) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Play a turn of every conversation; those that are over begin anew instead.

        Args:
            actions: ``(num_envs, slate_size)`` indices into each conversation's candidates.

        Returns:
            Observations, rewards ``(num_envs,)``, terminated, truncated, and ``info``.

        Raises:
            ValueError: If the actions' shape, type or range is wrong.
            ResetNeeded: If no conversation has begun.
        """
        slates = checked_actions(actions, (self.num_envs, self.config.slate_size), self.config.n_candidates)
        if self._seeds is None:
            raise ResetNeeded("no conversation has begun; call reset() before step()")
        over = self._conversations.is_over()
        ended, running = self._rows[over], self._rows[~over]
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        if len(ended):
            self._conversations.begin(ended, self._seeds[ended], self._episodes[ended] + 1)
        try:
            if len(running):
                rewards[running] = self._conversations.advance(running, slates[running])
        except BaseException:
            self._conversations.end(ended)  # a step that is tried again begins them again
            raise
        self._episodes[ended] += 1
        terminated = self._conversations.is_over()
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return self._conversations.observations(), rewards, terminated, truncated, self._conversations.info()

    def render(self) -> tuple[ImageArray, ...] | None:
        """Draw the last slate of every conversation.

        Returns:
            A frame ``(height, width, 3)`` uint8 for each, or None without a render mode.

        Raises:
            ResetNeeded: If no conversation has begun.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('nothing to render without a render mode; pass render_mode="rgb_array" to make_vec')
            return None
        if self._seeds is None:
            raise ResetNeeded("no conversation has begun; call reset() before render()")
        return tuple(frame(self._conversations, row) for row in range(self.num_envs))

    def _given_seeds(self, seed: Any) -> list[int | None]:
        """One seed for each conversation, None for those that keep theirs."""
        if isinstance(seed, np.ndarray):
            seed = seed.tolist()
        if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
            seed = [int(seed) + i for i in range(self.num_envs)]
        given = list(seed) if isinstance(seed, Sequence) else []
        wrong = [s for s in given if s is not None and (isinstance(s, bool) or not isinstance(s, int | np.integer))]
        if len(given) != self.num_envs or wrong:
            raise ValueError(
                f"seed must be an integer or {self.num_envs} of them, None for those that keep theirs, got {seed!r}"
            )
        seeds = [None if s is None else int(s) for s in given]
        least = min((s for s in seeds if s is not None), default=0)
        if least < 0:
            raise ValueError(f"seeds must be 0 or more, got {least}")
        return seeds

    def _reseed(self, given: Sequence[int | None]) -> None:
        """Take new seeds, whose next episode is the first; the others keep theirs."""
        if self._seeds is None:
            # Whoever was given none before begins with one by chance.
            first = (self.np_random_seed or 0) if None in given else 0
            self._seeds = np.array([(first + i) & _SEED_BITS for i in range(self.num_envs)], dtype=np.uint64)
            self._episodes[:] = -1
        for i, seed in enumerate(given):
            if seed is not None:
                self._seeds[i], self._episodes[i] = seed & _SEED_BITS, -1
        if given[0] is not None:
            self._np_random, self._np_random_seed = gymnasium.utils.seeding.np_random(given[0])
