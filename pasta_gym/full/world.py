"""Puts a full-size world together: every model is loaded when it is first needed, and once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import PIL.Image

from pasta_gym.candidates.llm import LLMCandidates, LLMCandidatesConfig
from pasta_gym.candidates.llm_chat import ChatModel, ChatReply, ChatRequest, Sampling
from pasta_gym.encoders import InternedTextEncoder
from pasta_gym.full.config import ChatConfig, ClipConfig, FullWorldConfig
from pasta_gym.full.initial_prompts import read_initial_prompts, split_initial_prompts
from pasta_gym.images import CachedImages, DiffusionImages, ImageCache
from pasta_gym.mini.training_data import cache_directory
from pasta_gym.prompt_books import InternedPromptBook
from pasta_gym.types import FloatArray, ImageArray, ImageGenerator, IntArray
from pasta_gym.worlds import World

if TYPE_CHECKING:
    from pasta_gym.encoders.clip_encoder import ClipEncoder


def make_full_world(config: FullWorldConfig) -> World:
    """Make a world from its configuration.

    Raises:
        ValueError: If the initial prompts are missing, or one is too long. A user model that is missing is an error
            where users are made without another.
    """
    user_model = pathlib.Path(config.user_model or _home(config) / "user_model")
    book = InternedPromptBook()
    splits = split_initial_prompts(read_initial_prompts(_prompts_file(config)))
    encoder = functools.cache(functools.partial(load_encoder, config.clip))
    chat = functools.cache(functools.partial(load_chat, config))

    def text_encoder() -> InternedTextEncoder:
        return InternedTextEncoder(book, encoder().encode_texts, encoder().embedding_dim)

    def candidates(split: str, n_candidates: int, n_categories: int) -> LLMCandidates:
        asked = dataclasses.replace(config.candidates, n_candidates=n_candidates, n_categories=n_categories)
        return LLMCandidates(chat(), book, _without_model(asked) if config.chat.backend == "rules" else asked)

    return World(
        name=config.name,
        prompt_book=book,
        initial_prompts={split: book.add(prompts) for split, prompts in splits.items()},
        text_encoder=_LazyTextEncoder(text_encoder),
        image_generators={"diffusion": lambda: _images(config, book, encoder())},
        candidate_generator=candidates,
        user_model=user_model,
        picture_size=config.image_model.height,
        fingerprint=lambda: _fingerprint(config, encoder(), splits),
        user_model_help=(
            f"the world {config.name!r} needs a user model, and there is none in {user_model}; fit one on embeddings "
            f"of {config.clip.model} with `python -m benchmarks.fit_user_model data=preferences/paper user_model=paper "
            f"out={user_model}`, or name the folder of another: in gym.make(user_model=...), or in "
            "FullWorldConfig(user_model=...), which is env.world.user_model of the benchmark"
        ),
        recipe=config,
    )


def load_encoder(config: ClipConfig) -> ClipEncoder:
    """Load the encoder.

    Raises:
        ValueError: If files are missing; the message has the command that fetches them.
    """
    from pasta_gym.encoders.clip_encoder import ClipEncoder

    options: dict[str, Any] = {"device": config.device, "dtype": config.dtype, "batch_size": config.batch_size}
    if config.tag is None:
        return ClipEncoder.from_files(config.model, **options)
    return ClipEncoder.pretrained(
        config.model, config.tag, revision=config.revision, allow_download=config.allow_download, **options
    )


def load_chat(config: FullWorldConfig) -> ChatModel:
    """Load the language model, with its replies kept on disk.

    Raises:
        ImportError: If a server is to be asked and the ``openai`` package is missing.
        ValueError: If files or the server's key are missing.
    """
    chat = config.chat
    if chat.backend == "rules":
        return NoChat()
    model = _openai(chat) if chat.backend == "openai" else _transformers(chat)
    folder = _cache_folder(config.reply_cache, "replies")
    if folder is None:
        return model
    from pasta_gym.candidates.llm_cache import CachedChat

    return CachedChat(model, folder)


class NoChat:
    """Stands where a language model would and answers nothing, so that rules write all candidates."""

    identity: Mapping[str, Any] = {"backend": "rules"}

    def complete(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        """Answer nothing."""
        return [ChatReply("", error="there is no language model in this world") for _ in requests]


class _LazyTextEncoder:
    """``InternedTextEncoder`` whose model is loaded when its width or an embedding is first asked for."""

    def __init__(self, load: Callable[[], InternedTextEncoder]) -> None:
        self._load = functools.cache(load)

    @property
    def embedding_dim(self) -> int:
        """Width d of an embedding."""
        return self._load().embedding_dim

    @embedding_dim.setter
    def embedding_dim(self, width: int) -> None:
        raise AttributeError(f"the width is the model's, it cannot be set to {width}")

    def embed(self, ids: IntArray) -> FloatArray:
        """Return float32 embeddings ``(..., d)`` of prompt ids ``(...)``."""
        return self._load().embed(ids)


def _images(config: FullWorldConfig, book: InternedPromptBook, encoder: ClipEncoder) -> ImageGenerator:
    from pasta_gym.images.pipelines import model_identity

    def encode(pixels: ImageArray) -> FloatArray:
        return encoder.encode_images([PIL.Image.fromarray(picture) for picture in pixels])

    images = DiffusionImages.load(config.image_model, book, encode, encoder.embedding_dim)
    images.encoder_sha256 = encoder.identity["weights_sha256"]
    folder = _cache_folder(config.image_cache, "images")
    if folder is None:
        return images
    return CachedImages(
        images,
        ImageCache(folder, max_bytes=int(config.image_cache_gigabytes * 1e9)),
        model=model_identity(config.image_model),
        encoder_fingerprint=encoder.fingerprint,
    )


def _fingerprint(config: FullWorldConfig, encoder: ClipEncoder, prompts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name the models and what users begin with; what is collected in this world is filed under them."""
    from pasta_gym.images.pipelines import model_identity

    painter = config.image_model
    settings = {n: getattr(painter, n) for n in ("steps", "guidance", "height", "scheduler", "max_sequence_length")}
    return {
        "candidates": _digest({**_chat_version(config.chat), **dataclasses.asdict(config.candidates)}),
        "encoder": encoder.fingerprint,
        "images": _digest({**model_identity(painter), **settings}),
        "initial prompts": _digest({split: list(texts) for split, texts in prompts.items()}),
    }


def _chat_version(chat: ChatConfig) -> dict[str, str | None]:
    """Name the language model: one in this process by its files or commit, as a name alone would hide a new version."""
    version = {"model": chat.model, "revision": chat.revision}
    if chat.backend == "transformers":
        from pasta_gym.candidates.llm_transformers import model_version

        version = model_version(chat.model, chat.revision)
    return {"backend": chat.backend, **version}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _prompts_file(config: FullWorldConfig) -> pathlib.Path:
    path = pathlib.Path(config.initial_prompts or _home(config) / "prompts.txt")
    if not path.is_file():
        raise ValueError(
            f"the world {config.name!r} needs initial prompts, and there is no {path}; write one prompt a line there, "
            "name a file in initial_prompts, or take those of a dataset with `python -m pasta_gym.full.initial_prompts`"
        )
    return path


def _home(config: FullWorldConfig) -> pathlib.Path:
    return cache_directory() / "worlds" / config.name


def _cache_folder(given: str | None, name: str) -> pathlib.Path | None:
    if given is None:
        return cache_directory() / name
    return pathlib.Path(given) if given else None


def _without_model(config: LLMCandidatesConfig) -> LLMCandidatesConfig:
    return dataclasses.replace(config, n_attempts=1, images_per_prompt=0, on_failure="fallback")


def _openai(config: ChatConfig) -> ChatModel:
    from pasta_gym.candidates.llm_openai import OpenAIChat

    key = None
    if config.api_key_env is not None:
        key = os.environ.get(config.api_key_env)
        if not key:
            raise ValueError(
                f"api_key_env names the variable {config.api_key_env}, which is empty or not set; export the server's "
                "key in it, or leave api_key_env out for a server that takes any"
            )
    return OpenAIChat(config.model, base_url=config.base_url, api_key=key, config=config.server)


def _transformers(config: ChatConfig) -> ChatModel:
    from pasta_gym.candidates.llm_transformers import TransformersChat

    return TransformersChat(
        config.model,
        device=config.device,
        dtype=config.dtype,
        revision=config.revision,
        allow_download=config.allow_download,
    )
