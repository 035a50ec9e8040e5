"""The environment's arguments, and the parts they stand for."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from pasta_gym.envs.eyes import Eyes, HiddenReading, eyes_of
from pasta_gym.envs.rewards import REWARDS
from pasta_gym.forks import use_one_thread_in_forks
from pasta_gym.types import CandidateGenerator, ImageGenerator, IntArray, UserModelProtocol
from pasta_gym.worlds import World, WorldRecipe, make_world

UserModelArgument = UserModelProtocol | str | pathlib.Path | None


@dataclass(frozen=True)
class PastaConfig:
    """Arguments of ``PastaT2I-v0`` that are plain values.

    Attributes:
        reward: ``"sparse"`` pays at the last turn alone, ``"dense"`` at every turn.
        images: Name of the world's image generator; ``"diffusion"``, ``"diffusion_8"`` and ``"painter"`` paint,
            ``"surrogate"`` draws embeddings.
        split: Initial prompts of ``"train"``, ``"validation"`` or ``"test"``.
        n_candidates: L_C, candidates of a turn.
        n_categories: Categories they fall in.
        slate_size: L, prompts that are shown.
        images_per_prompt: M, pictures of each.
        horizon: H, turns of an episode.
        aggregator: How the scores of a column's images become its utility; None for the user model's own.
        reveal: Put the user type, utilities and choice probabilities into ``info``.

    Raises:
        ValueError: If a value is out of range.
    """

    reward: str = "sparse"
    images: str = "diffusion"
    split: str = "train"
    n_candidates: int = 25
    n_categories: int = 5
    slate_size: int = 4
    images_per_prompt: int = 4
    horizon: int = 5
    aggregator: str | None = None
    reveal: bool = False

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ValueError(f"reward must be one of {REWARDS}, got {self.reward!r}")
        for name, least in (
            ("n_candidates", 1),
            ("n_categories", 1),
            ("slate_size", 2),
            ("images_per_prompt", 1),
            ("horizon", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if not isinstance(self.reveal, bool):
            raise ValueError(f"reveal must be True or False, got {self.reveal!r}")


@dataclass(frozen=True)
class Parts:
    """What an environment is made of. Shared by copies; a pickle holds the recipe alone.

    Attributes:
        config: The plain arguments.
        world: The assembly.
        user_model_argument: The user model as it was given.
        initial_prompts: ``(n,)`` ids of the split.
        candidates: Proposes prompts.
        images: Paints them.
        user_model: Judges and chooses.
        eyes: How the users see, where they do not read the image generator's embeddings.
    """

    config: PastaConfig
    world: World
    user_model_argument: UserModelArgument
    initial_prompts: IntArray
    candidates: CandidateGenerator
    images: ImageGenerator
    user_model: UserModelProtocol
    eyes: Eyes | None = None

    @property
    def public_user_model(self) -> UserModelProtocol:
        """The user model for whoever has the observations alone."""
        return self.user_model if self.eyes is None else HiddenReading(self.user_model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parts:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return assemble, (self.config, self.world, self.user_model_argument)


def assemble(config: PastaConfig, world: World | WorldRecipe | str, user_model: UserModelArgument = None) -> Parts:
    """Load the parts of an environment and check that they fit.

    Args:
        config: The plain arguments.
        world: A world's name or recipe, or a world of your own.
        user_model: A user model or the folder of one, or None for the world's.

    Raises:
        ValueError: If a name is unknown, a file cannot be loaded, or two parts do not fit each other.
    """
    use_one_thread_in_forks()
    if isinstance(world, str | WorldRecipe):
        world = make_world(world)
    elif not isinstance(world, World):
        raise ValueError(f"world must be the name of a world, a recipe of one or a World, got {type(world).__name__}")
    initial_prompts = world.split(config.split)
    users = world.users(user_model, config.aggregator)  # before images, which take minutes to load at full size
    users = users.users if isinstance(users, HiddenReading) else users
    candidates = world.candidate_generator(config.split, config.n_candidates, config.n_categories)
    found = (candidates.n_candidates, len(candidates.category_titles))
    if found != (config.n_candidates, config.n_categories):
        raise ValueError(
            f"world {world.name!r} proposes {found[0]} candidates in {found[1]} categories, but n_candidates is "
            f"{config.n_candidates} and n_categories {config.n_categories}; pass the world's numbers"
        )
    images = world.image_generator(config.images)
    eyes = eyes_of(users, images, config.images, world.prompt_book)
    return Parts(config, world, user_model, initial_prompts, candidates, images, users, eyes)


def single_action_space(config: PastaConfig) -> spaces.MultiDiscrete:
    """The slate: L indices into the current candidates. A repeated index is legal."""
    return spaces.MultiDiscrete([config.n_candidates] * config.slate_size)


def single_observation_space(parts: Parts) -> spaces.Dict:
    """The observation of one conversation; every key in the paper's words."""
    config, bound = parts.config, np.float32(parts.world.embedding_bound)
    d_text, d_image = parts.world.text_encoder.embedding_dim, parts.images.embedding_dim
    horizon, slate_size, n_images = config.horizon, config.slate_size, config.images_per_prompt

    def embeddings(*shape: int) -> spaces.Box:
        return spaces.Box(-bound, bound, shape, np.float32)

    return spaces.Dict(
        {
            "turn": spaces.Discrete(horizon + 1),
            "initial_prompt": embeddings(d_text),
            "initial_images": embeddings(n_images, d_image),
            "candidates": embeddings(config.n_candidates, d_text),
            "categories": spaces.MultiDiscrete([config.n_categories] * config.n_candidates),
            "slate_prompts": embeddings(horizon, slate_size, d_text),
            "slate_images": embeddings(horizon, slate_size, n_images, d_image),
            "choices": spaces.Box(-1, config.slate_size - 1, (horizon,), np.int64),
        }
    )
