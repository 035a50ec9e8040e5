"""Which environment data were collected in, or an agent is evaluated in: plain values that can be hashed."""

from __future__ import annotations

import pathlib
from dataclasses import asdict, dataclass, fields
from typing import Any

from pasta_gym.trajectories import provenance
from pasta_gym.worlds import WorldRecipe

SEED_STRIDE = 1 << 20
"""Episodes of one numbered stream of environment seeds; streams of different numbers never share an episode."""


@dataclass(frozen=True)
class EnvironmentConfig:
    """Arguments of ``PastaT2I-v0``.

    Attributes:
        id: The registered environment.
        world: Name of a world, or the recipe of one.
        split: Initial prompts of ``"train"``, ``"validation"`` or ``"test"``.
        images: Name of one of the world's image generators: ``"surrogate"``, ``"diffusion"``.
        reward: ``"sparse"`` or ``"dense"``.
        user_model: Folder of a user model, or None for the world's own.
        n_candidates: The paper's ``L_C``.
        n_categories: Categories the candidates fall in.
        slate_size: The paper's ``L``.
        images_per_prompt: The paper's ``M``.
        horizon: The paper's ``H``.
        aggregator: How a column's scores become its utility, or None for the user model's own.
    """

    id: str = "PastaT2I-v0"
    world: str | WorldRecipe = "mini"
    split: str = "train"
    images: str = "surrogate"
    reward: str = "dense"
    user_model: str | None = None
    n_candidates: int = 25
    n_categories: int = 5
    slate_size: int = 4
    images_per_prompt: int = 4
    horizon: int = 5
    aggregator: str | None = None

    @property
    def world_name(self) -> str:
        """What results call the world: with another user model than its own, the folder's name is part of it."""
        name = self.world if isinstance(self.world, str) else self.world.name
        return name if self.user_model is None else f"{name}-{pathlib.Path(self.user_model).name}"

    def identity(self) -> dict[str, Any]:
        """Everything that its conversations depend on beside the models' weights, as plain data."""
        told = provenance.recipe_identity(self.world)
        return asdict(self) if told is None else {**asdict(self), "world": told}

    def make(self, n_envs: int, *, reveal: bool = False, render_mode: str | None = None) -> Any:
        """Make the vector environment.

        Args:
            n_envs: Conversations side by side.
            reveal: Put the hidden state into ``info``, for evaluation.
            render_mode: None or ``"rgb_array"``.

        Returns:
            The unwrapped vector environment.
        """
        import gymnasium

        import pasta_gym  # noqa: F401  registers the ids

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        arguments = {name: value for name, value in given.items() if name != "id" and value is not None}
        if render_mode is not None:
            arguments["render_mode"] = render_mode
        envs = gymnasium.make_vec(
            self.id, num_envs=n_envs, vectorization_mode="vector_entry_point", reveal=reveal, **arguments
        )
        return envs.unwrapped


def first_environment_seed(seed: int, *, stream: int) -> int:
    """Where a numbered stream of environment seeds begins.

    Collection is stream 0 and evaluation stream 1, so that no evaluation replays a logged conversation.

    Raises:
        ValueError: If the seed is negative or the stream is neither 0 nor 1.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if stream not in (0, 1):
        raise ValueError(f"stream must be 0 (collection) or 1 (evaluation), got {stream}")
    return (2 * seed + stream) * SEED_STRIDE
