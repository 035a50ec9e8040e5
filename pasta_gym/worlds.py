"""Worlds: which parts an environment is assembled from."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pasta_gym.candidates import EditCandidates
from pasta_gym.encoders import TableTextEncoder
from pasta_gym.images import DiffusionImages, SurrogateImages
from pasta_gym.mini import grammar
from pasta_gym.seeding import mix
from pasta_gym.types import (
    CandidateGenerator,
    FloatArray,
    ImageGenerator,
    IntArray,
    PromptBook,
    TextEncoder,
    UInt64Array,
    UserModelProtocol,
)

SPLITS = ("train", "validation", "test")


@runtime_checkable
class WorldRecipe(Protocol):
    """Plain values that a world is made from. Equal recipes make one world a process, so they can be hashed."""

    @property
    def name(self) -> str:
        """What results call the world."""
        ...

    def __hash__(self) -> int: ...

    def make(self) -> World:
        """Make the world; ValueError if a part is missing. Models are loaded later, when they are first needed."""
        ...


class CandidateGeneratorFactory(Protocol):
    """Makes the candidate generator of one environment."""

    def __call__(self, split: str, n_candidates: int, n_categories: int) -> CandidateGenerator:
        """Make a generator; ValueError for numbers it cannot do."""
        ...


@dataclass(frozen=True)
class World:
    """One assembly of parts. Subclass nothing: put your own parts into the fields.

    Attributes:
        name: What results call it.
        prompt_book: Ids to text and keys.
        initial_prompts: For each split, the ids that users begin with.
        text_encoder: Embeds prompts.
        image_generators: By name, what makes an image generator; called once, when first asked for.
        candidate_generator: Makes the candidate generator of an environment.
        user_model: A user model, or the folder of one.
        picture_size: Height and width in pixels of a picture.
        embedding_bound: No component of an embedding is larger than this; the observation space's limit.
        held_out: For prompt ids, whether they show a combination that nothing was trained on; None where there is
            no such thing. Results are reported apart for them.
        fingerprint: Names the models of a world whose files are not the package's own, one entry a model; what was
            collected or evaluated in the world is filed under it.
        user_model_help: Said where the user model's folder holds none: how to come by one.
        recipe: What the world was made from. Copies in other processes are made from it too.
    """

    name: str
    prompt_book: PromptBook
    initial_prompts: Mapping[str, IntArray]
    text_encoder: TextEncoder
    image_generators: Mapping[str, Callable[[], ImageGenerator]]
    candidate_generator: CandidateGeneratorFactory
    user_model: UserModelProtocol | str | pathlib.Path
    picture_size: int = 64
    embedding_bound: float = 1000.0
    held_out: Callable[[IntArray], NDArray[np.bool_]] | None = None
    fingerprint: Callable[[], dict[str, str]] | None = None
    user_model_help: str = ""
    recipe: WorldRecipe | None = None
    _made: dict[str, ImageGenerator] = field(default_factory=dict, init=False, repr=False, compare=False)

    def image_generator(self, name: str) -> ImageGenerator:
        """Return an image generator of this world, made on first use.

        Raises:
            ValueError: If the world has none of that name.
        """
        if name not in tuple(self.image_generators):  # a list has no hash
            raise ValueError(
                f"images must be one of {tuple(self.image_generators)} in world {self.name!r}, got {name!r}"
            )
        if name not in self._made:
            self._made[name] = self.image_generators[name]()
        return self._made[name]

    def split(self, name: str) -> IntArray:
        """Return the initial prompts ``(n,)`` of a split.

        Raises:
            ValueError: If the world has no such split, or it is empty.
        """
        if name not in tuple(self.initial_prompts) or not len(self.initial_prompts[name]):
            raise ValueError(f"split must be one of {tuple(self.initial_prompts)} in world {self.name!r}, got {name!r}")
        return self.initial_prompts[name]

    def users(
        self, given: UserModelProtocol | str | pathlib.Path | None = None, aggregator: str | None = None
    ) -> UserModelProtocol:
        """Return the user model that is given, or else this world's own.

        Args:
            given: A user model, or the folder of one. The world's own need not be there then.
            aggregator: In place of the user model's aggregator.

        Raises:
            ValueError: If it cannot be loaded, or the aggregator is unknown.
        """
        return _loaded(self.own_users() if given is None else given, aggregator)

    def own_users(self) -> UserModelProtocol | str | pathlib.Path:
        """Return ``user_model``, without loading it.

        Raises:
            ValueError: If it is a folder that holds none.
        """
        if isinstance(self.user_model, str | pathlib.Path) and self.user_model_help:
            from pasta_gym.user_model.user_model import METADATA

            if not (pathlib.Path(self.user_model) / METADATA).is_file():
                raise ValueError(self.user_model_help)
        return self.user_model

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        # Gymnasium copies the arguments of make; parts are shared, never changed.
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        source = self.name if self.recipe is None else self.recipe
        if (source in WORLDS or self.recipe is not None) and make_world(source) is self:
            return make_world, (source,)
        fields = (
            self.name,
            self.prompt_book,
            self.initial_prompts,
            self.text_encoder,
            self.image_generators,
            self.candidate_generator,
            self.user_model,
            self.picture_size,
            self.embedding_bound,
            self.held_out,
            self.fingerprint,
            self.user_model_help,
        )
        return type(self), fields


class GrammarPromptBook:
    """The mini world's prompt book: ids are the prompts of ``pasta_gym.mini.grammar``.

    Attributes:
        ids_are_prompts: So logged conversations need no texts beside their ids.
    """

    ids_are_prompts = True

    def texts(self, ids: IntArray) -> list[str]:
        """Write prompt ids ``(n,)`` out in words."""
        return grammar.prompt_texts(ids)

    def keys(self, ids: IntArray) -> UInt64Array:
        """Return a random key for each id, same shape."""
        return mix(ids)

    def parse(self, text: str) -> int:
        """Return the id of a prompt that a person wrote.

        Raises:
            ValueError: If a word is unknown; the message lists close ones.
        """
        return grammar.parse_prompt(text)


def _mini_candidates(split: str, n_candidates: int, n_categories: int) -> EditCandidates:
    return EditCandidates(n_candidates, n_categories, avoid_held_out=split == "train")


def _shows_held_out_triple(ids: IntArray) -> NDArray[np.bool_]:
    return grammar.is_held_out(grammar.slot_values(ids))


def _encode_mini_texts(texts: list[str]) -> FloatArray:
    from pasta_gym.mini.clip import load_clip

    return load_clip().encode_texts(texts)


_MINI_BATCH = 32  # small pictures: half of it paints a quarter slower


def _make_mini() -> World:
    from pasta_gym.mini.tokenizer import TOKENIZER_FILE
    from pasta_gym.mini.training_data import cache_directory
    from pasta_gym.mini.weights import file_hash, read_card, weights_directory

    folder = weights_directory()
    book = GrammarPromptBook()
    clip = folder / "clip" / "open_clip_model.safetensors"
    if not clip.is_file():
        raise ValueError(
            f"the weights {clip} are missing; reinstall pasta-gym, or train them with `python -m pasta_gym.mini.train`"
        )
    clip_hash = file_hash(clip)
    cache_file = cache_directory() / f"prompt-embeddings-{clip_hash}-{file_hash(TOKENIZER_FILE)}.npz"
    text_encoder = TableTextEncoder(book, _encode_mini_texts, 64, grammar.N_PROMPTS, cache_file=cache_file)

    def surrogate() -> ImageGenerator:
        from pasta_gym.mini.surrogate import load_surrogate

        drawn = SurrogateImages(load_surrogate(), text_encoder)
        drawn.encoder_sha256 = read_card(folder / "surrogate").get("fitted_to", {}).get("clip")
        return drawn

    def diffusion(steps: int | None = None) -> ImageGenerator:
        from pasta_gym.images.pipelines import channels_last
        from pasta_gym.mini import sdxl
        from pasta_gym.mini.clip import load_clip

        clip_model = load_clip()
        pipeline = sdxl.load_pipeline()
        channels_last(pipeline)
        painted = DiffusionImages(
            pipeline,
            book,
            clip_model.encode_images,
            clip_model.embedding_dim,
            size=sdxl.IMAGE_SIZE,
            steps=steps or sdxl.DEFAULT_STEPS,
            guidance=sdxl.DEFAULT_GUIDANCE,
            batch_size=_MINI_BATCH,
        )
        painted.encoder_sha256 = clip_hash
        return painted

    def painter() -> ImageGenerator:
        from pasta_gym.images.painter import PainterImages
        from pasta_gym.mini.clip import load_clip

        clip_model = load_clip()
        painted = PainterImages(clip_model.encode_images, clip_model.embedding_dim)
        painted.encoder_sha256 = clip_hash
        return painted

    return World(
        name="mini",
        prompt_book=book,
        initial_prompts={split: grammar.initial_prompt_ids(split) for split in SPLITS},
        text_encoder=text_encoder,
        image_generators={
            "surrogate": surrogate,
            "diffusion": diffusion,
            # Other hands for agents that learned on the first two: see the page on full-size models.
            "diffusion_8": functools.partial(diffusion, steps=8),
            "painter": painter,
        },
        candidate_generator=_mini_candidates,
        user_model=folder / "user_model",
        picture_size=64,
        held_out=_shows_held_out_triple,
    )


@dataclass(frozen=True)
class MiniWorld:
    """Recipe of a mini world with other users: painter, CLIP, diffusion and surrogate are the shipped ones.

    Users are planted by a seed, label the shipped pool of pictures, and a user model is fitted to their labels. The
    package has that of world 0 with eight types, a checkout those of worlds 1 and 2 as well;
    ``python -m pasta_gym.user_model.fit_world`` makes the others.

    Attributes:
        number: Seed of the planted users.
        n_types: Types of the fitted user model, the paper's ``K``.

    Raises:
        ValueError: If the world's number is negative or there is no type.
    """

    number: int = 0
    n_types: int = 8

    def __post_init__(self) -> None:
        for name, least in (("number", 0), ("n_types", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")

    @property
    def name(self) -> str:
        """``mini`` for the shipped world, else with what differs: ``mini_1``, ``mini_types_4``, ``mini_1_types_4``."""
        number = f"_{self.number}" if self.number else ""
        return f"mini{number}" + (f"_types_{self.n_types}" if self.n_types != MiniWorld.n_types else "")

    def make(self) -> World:
        """Make the world.

        Raises:
            ValueError: If its user model was not fitted on this machine; the message has the command.
        """
        if self == MiniWorld():
            return make_world("mini")
        from pasta_gym.user_model.fit_world import find_model, is_fitted

        folder = find_model(self.number, self.n_types)
        if not is_fitted(folder):
            raise ValueError(
                f"world {self.name} has no user model in {folder}; label and fit it, about five minutes, with "
                f"`python -m pasta_gym.user_model.fit_world {self.number} --types {self.n_types}`"
            )
        return replace(make_world("mini"), name=self.name, user_model=folder, recipe=self)


def _make_full(name: str) -> World:
    from pasta_gym.full import full_world_preset

    return make_world(full_world_preset(name))


WORLDS: Mapping[str, Callable[[], World]] = {
    "mini": _make_mini,
    "sdxl": functools.partial(_make_full, "sdxl"),
    "flux": functools.partial(_make_full, "flux"),
}


@functools.cache
def make_world(world: str | WorldRecipe) -> World:
    """Return a world by its name or recipe; one object a process.

    Args:
        world: ``"mini"``, which is shipped; ``"sdxl"`` or ``"flux"`` with files where the page on full-size models puts
            them; or a recipe, such as ``MiniWorld(number=1)`` or ``pasta_gym.full.FullWorldConfig``.

    Raises:
        ValueError: If there is no world of that name, or something that it needs is missing.
    """
    if isinstance(world, WorldRecipe):
        return world.make()
    if world not in WORLDS:
        raise ValueError(f"world must be one of {tuple(WORLDS)}, a recipe or a World of your own, got {world!r}")
    return WORLDS[world]()


def _loaded(given: UserModelProtocol | str | pathlib.Path, aggregator: str | None) -> UserModelProtocol:
    if isinstance(given, str | pathlib.Path):
        from pasta_gym.user_model import UserModel

        user_model: UserModelProtocol = UserModel.load(pathlib.Path(given))
    elif isinstance(given, UserModelProtocol):
        user_model = given
    else:
        raise ValueError(f"user_model must be a user model or the folder of one, got {type(given).__name__}")
    if not np.isclose(np.sum(user_model.prior), 1.0, atol=1e-4):
        raise ValueError(f"the user model's prior must sum to 1, got {float(np.sum(user_model.prior)):.4f}")
    if aggregator is None or aggregator == user_model.aggregator:
        return user_model
    return user_model.with_aggregator(aggregator)
