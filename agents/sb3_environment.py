"""Training conversations as Stable-Baselines3 wants them: rows in, candidate scores out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnv

from agents.observation_rows import RowForm, Rows, Standard, rows_of_observations
from agents.slate_actions import ScoreActions
from pasta_gym.trajectories.environment import SEED_STRIDE

SCORE_BOUND = 10.0
"""Scores lie in -10..10: Stable-Baselines3 clips what it draws, and in [-1, 1] most candidates would tie."""


class TrainingConversations(VecEnv):
    """Conversations side by side, which end together and are followed by new ones.

    Args:
        envs: PASTA vector environment.
        first_seed: Environment seed of the first conversation; later ones count on.
        standard: Of the rows.
        form: Of the rows.
        reward_scale: Rewards are multiplied by it.
    """

    def __init__(self, envs: Any, *, first_seed: int, standard: Standard, form: RowForm, reward_scale: float) -> None:
        self._envs, self._standard, self._form, self._scale = envs, standard, form, reward_scale
        self._first_seed, self._begun = first_seed, 0
        n_candidates = envs.config.n_candidates
        self._scores = ScoreActions(n_candidates, envs.config.slate_size)
        self._slates: NDArray[np.int64] | None = None
        self._categories: NDArray[np.int64] = np.zeros((envs.num_envs, n_candidates), dtype=np.int64)
        self._returns = np.zeros(envs.num_envs)
        super().__init__(
            envs.num_envs,
            spaces.Box(-10.0, 10.0, (len(standard.mean),), np.float32),
            spaces.Box(-SCORE_BOUND, SCORE_BOUND, (n_candidates,), np.float32),
        )

    def reset(self) -> Rows:
        """Begin the next conversations: rows ``(B, D)``.

        Raises:
            ValueError: If more conversations are asked for than a stream of seeds holds.
        """
        if self._begun + self.num_envs > SEED_STRIDE:
            raise ValueError(f"one training has at most {SEED_STRIDE} conversations; lower n_turns")
        observations, _ = self._envs.reset(seed=self._first_seed + self._begun)
        self._begun += self.num_envs
        self._returns[:] = 0
        return self._seen(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take scores ``(B, C)`` for the next slates."""
        self._slates = self._scores.decode(actions, self._categories)

    def step_wait(self) -> tuple[Rows, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Show the slates; where conversations end, the rows are those of the next ones."""
        assert self._slates is not None
        observations, rewards, terminated, _, _ = self._envs.step(self._slates)
        rows = self._seen(observations)
        self._returns += rewards
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if terminated.any():
            if not terminated.all():
                raise RuntimeError("conversations must end together, but only some did")
            horizon = int(observations["choices"].shape[1])
            for info, row, value in zip(infos, rows, self._returns, strict=True):
                info |= {"terminal_observation": row, "episode": {"r": float(value), "l": horizon, "t": 0.0}}
            rows = self.reset()
        return rows, (self._scale * rewards).astype(np.float32), terminated, infos

    def _seen(self, observations: dict[str, Any]) -> Rows:
        self._categories = np.array(observations["categories"])
        return self._standard(rows_of_observations(observations, self._form))

    def close(self) -> None:
        """Close the environment."""
        self._envs.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Nothing is drawn: ``render_mode`` is None.

        Raises:
            AttributeError: For any other name.
        """
        if attr_name != "render_mode":
            raise AttributeError(f"training conversations have no attribute {attr_name!r}")
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Refuse; AttributeError."""
        raise AttributeError(f"training conversations have no attribute {attr_name!r}")

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse; AttributeError."""
        raise AttributeError(f"training conversations have no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: Any, indices: int | Iterable[int] | None = None) -> list[bool]:
        """They are not."""
        return [False] * self.num_envs

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Nothing is drawn."""
        return [None] * self.num_envs


class SeededRolloutBuffer(RolloutBuffer):
    """The rollout buffer, shuffled by a generator of its own: the base class draws from NumPy's global one.

    Args:
        shuffle_seed: Fixes the order of turns in every update.
        arguments: Of the base class.
    """

    def __init__(self, *arguments: Any, shuffle_seed: int, **named: Any) -> None:
        self._rng = np.random.default_rng(shuffle_seed)
        super().__init__(*arguments, **named)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Yield all turns once, in batches of ``batch_size``."""
        n = self.buffer_size * self.n_envs
        order = self._rng.permutation(n)
        if not self.generator_ready:
            for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
                setattr(self, name, self.swap_and_flatten(getattr(self, name)))
            self.generator_ready = True
        for start in range(0, n, batch_size or n):
            yield self._get_samples(order[start : start + (batch_size or n)])
