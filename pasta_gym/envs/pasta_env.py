"""``PastaT2I-v0``: one conversation with one user."""

from __future__ import annotations

import pathlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from pasta_gym.envs.arguments import checked_actions, checked_options
from pasta_gym.envs.assembly import PastaConfig, assemble, single_action_space, single_observation_space
from pasta_gym.envs.core import Conversations
from pasta_gym.envs.rendering import frame, render_size
from pasta_gym.types import ImageArray, IntArray, UserModelProtocol
from pasta_gym.worlds import World

Observation = dict[str, Any]
_DEFAULTS = PastaConfig()
_ROW = np.zeros(1, dtype=np.int64)


class PastaEnv(gymnasium.Env[Observation, IntArray]):
    r"""A user asks for pictures, and the agent finds out what they like over a few turns.

    ## Description

    The sequential text-to-image problem of PASTA (Nabati et al.). A user of a hidden type begins with a short
    prompt. At every turn a candidate generator proposes expansions of the last chosen prompt; the agent picks a
    slate of them; a text-to-image model paints each a few times; the user chooses the column they like best. The
    user judges pictures against the *initial* prompt, by a model learned from preference data.

    ## Action space

    ``MultiDiscrete([n_candidates] * slate_size)``: indices into the current candidates. The slate is a set: its
    order has no influence. A repeated index is legal and shows its prompt twice, with pictures of its own.

    ## Observation space

    A ``Dict``. H turns, L columns, M pictures a column, d the width of an embedding.

    | key | shape | dtype | |
    |---|---|---|---|
    | ``turn`` | () | int64 | slates seen so far, 0..H |
    | ``initial_prompt`` | (d,) | float32 | its text embedding |
    | ``initial_images`` | (M, d) | float32 | embeddings of its pictures |
    | ``candidates`` | (n_candidates, d) | float32 | text embeddings |
    | ``categories`` | (n_candidates,) | int64 | category of each candidate |
    | ``slate_prompts`` | (H, L, d) | float32 | text embeddings, zeros for turns to come |
    | ``slate_images`` | (H, L, M, d) | float32 | picture embeddings, zeros for turns to come |
    | ``choices`` | (H,) | int64 | chosen columns, -1 for turns to come |

    ``info`` holds the words: ``initial_prompt, candidates, category_titles, slate, chosen_prompt``, and the ids
    of the prompts. The user's type, utilities and choice probabilities are in neither, unless ``reveal=True``.

    ## Rewards

    Ten times the utility of the chosen column, which lies in [0, 10]: at the last turn alone
    (``reward="sparse"``, as in the paper), or at every turn (``reward="dense"``).

    ## Starting state

    The user type is drawn from the user model's prior, the initial prompt from the split, both by the seed. All
    randomness is a function of the seed and of what it is for, so two agents that act differently under one
    seed meet the same luck.

    ## Episode end

    ``terminated`` is true at turn H. The horizon is part of the problem (the turn is observed and nothing is
    worth anything after it), so it is no truncation.

    ## Arguments

    Args:
        reward: ``"sparse"`` or ``"dense"``.
        images: ``"diffusion"`` paints pictures, ``"diffusion_8"`` in twice the steps, ``"painter"`` by rule;
            ``"surrogate"`` draws their embeddings only, much faster. A world of your own has its own names.
        world: A shipped world's name, or a :class:`pasta_gym.worlds.World` of your own.
        split: Initial prompts of ``"train"``, ``"validation"`` or ``"test"``.
        user_model: A user model or the folder of one; the world's by default.
        n_candidates: L_C, candidates of a turn.
        n_categories: Categories they fall in.
        slate_size: L, prompts that are shown.
        images_per_prompt: M, pictures of each.
        horizon: H, turns of an episode.
        aggregator: ``"mean"``, ``"max"`` or ``"softmax"``: how a column's scores become its utility; the user
            model's own by default.
        reveal: Add ``user_type``, ``utilities`` and ``choice_probabilities`` to ``info``.
        render_mode: None or ``"rgb_array"``.

    ``reset(options={"prompt": text, "user_type": k})`` fixes either.

    ## Version history

    * v0: first release.

    Raises:
        ValueError: If an argument is out of range or a part cannot be loaded.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}

    def __init__(
        self,
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
        self.render_mode = checked_render_mode(render_mode)
        self._conversations = Conversations(assemble(self.config, world, user_model), 1)
        self.observation_space = single_observation_space(self._conversations.parts)
        self.action_space = single_action_space(self.config)
        self._seed: int | None = None
        self._episode = -1

    @property
    def world(self) -> World:
        """The assembly of parts."""
        return self._conversations.parts.world

    @property
    def user_model(self) -> UserModelProtocol:
        """The model of the users."""
        return self._conversations.parts.public_user_model

    def hidden_user_types(self) -> IntArray:
        """Return the hidden type of each conversation, ``(1,)``: for oracles and upper bounds alone."""
        return self._conversations.user_types.copy()

    def texts(self, ids: IntArray) -> list[str]:
        """Write prompt ids ``(n,)`` out in words."""
        return self.world.prompt_book.texts(np.asarray(ids, dtype=np.int64))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a conversation.

        Args:
            seed: Fixes everything; later calls without one give the seed's next episodes.
            options: ``prompt``, text of the initial prompt, and ``user_type``.

        Returns:
            The observation and ``info``.

        Raises:
            ValueError: If an option is unknown or cannot be read.
        """
        prompts, user_types = checked_options(options, self._conversations.parts, 1, is_vector=False)
        super().reset(seed=seed)
        if seed is not None or self._seed is None:
            self._seed = self.np_random_seed if seed is None else int(seed)
            self._episode = -1
        seeds = np.array([self._seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
        episodes = np.array([self._episode + 1], dtype=np.int64)
        self._conversations.begin(_ROW, seeds, episodes, prompts=prompts, user_types=user_types)
        self._episode += 1  # not before: an episode that could not begin is tried again
        return self._observation(), self._info()

    def step(self, action: IntArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Show a slate and let the user choose.

        Args:
            action: ``(slate_size,)`` indices into the candidates.

        Returns:
            Observation, reward, whether this was the last turn, False, and ``info``.

        Raises:
            ValueError: If the action's shape, type or range is wrong.
            ResetNeeded: If no conversation is going on.
        """
        slate = checked_actions(action, (self.config.slate_size,), self.config.n_candidates)
        if self._episode < 0:
            raise ResetNeeded("no conversation has begun; call reset() before step()")
        if self._conversations.is_over()[0]:
            raise ResetNeeded(f"the conversation ended at turn {self.config.horizon}; call reset() before step()")
        rewards = self._conversations.advance(_ROW, slate[None])
        terminated = bool(self._conversations.is_over()[0])
        return self._observation(), float(rewards[0]), terminated, False, self._info()

    def render(self) -> ImageArray | None:
        """Draw the last slate: prompts, pictures and the chosen column.

        Returns:
            ``(height, width, 3)`` uint8, or None without a render mode.

        Raises:
            ResetNeeded: If no conversation has begun.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('nothing to render without a render mode; pass render_mode="rgb_array" to make')
            return None
        if self._episode < 0:
            raise ResetNeeded("no conversation has begun; call reset() before render()")
        return frame(self._conversations, 0)

    @property
    def render_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return render_size(self.config)

    def _observation(self) -> Observation:
        rows = {name: batch[0] for name, batch in self._conversations.observations().items()}
        return rows | {"turn": np.int64(rows["turn"])}

    def _info(self) -> dict[str, Any]:
        ids = {name: batch[0] for name, batch in self._conversations.info().items()}
        slate = ids["slate_ids"][: self.config.slate_size if self._conversations.turns[0] else 0]
        texts = self.texts(np.concatenate([[ids["initial_prompt_id"], ids["chosen_prompt_id"]], ids["candidate_ids"]]))
        words: dict[str, Any] = {
            "initial_prompt": texts[0],
            "candidates": tuple(texts[2:]),
            "category_titles": tuple(self._conversations.parts.candidates.category_titles),
            "slate": tuple(self.texts(slate)),
            "chosen_prompt": texts[1],
        }
        return words | {name: value.item() if value.ndim == 0 else value for name, value in ids.items()}


def checked_render_mode(render_mode: str | None) -> str | None:
    """Return the render mode.

    Raises:
        ValueError: If it is unknown.
    """
    if render_mode not in (None, *PastaEnv.metadata["render_modes"]):
        raise ValueError(f"render_mode must be None or one of {PastaEnv.metadata['render_modes']}, got {render_mode!r}")
    return render_mode
