"""What a full-size world is made of, as plain values for configuration files."""

from __future__ import annotations

import hashlib
import pathlib
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pasta_gym.candidates.llm import LLMCandidatesConfig
from pasta_gym.candidates.llm_openai import OpenAIConfig
from pasta_gym.images.model_config import PRESETS as IMAGE_PRESETS
from pasta_gym.images.model_config import DiffusionModelConfig, whole_path

if TYPE_CHECKING:
    from pasta_gym.worlds import World

BACKENDS = ("transformers", "openai", "rules")


@dataclass(frozen=True)
class ClipConfig:
    """The encoder of prompts and pictures: the one that the user model was fitted with.

    Attributes:
        model: A name of open_clip's, or without a tag a folder in open_clip's layout.
        tag: The name of the weights.
        revision: Commit of the hub's repository; None means ``main``.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        dtype: ``float32`` or ``bfloat16``.
        batch_size: Pictures or texts embedded at once.
        allow_download: Whether missing files may be fetched.
    """

    model: str = "ViT-L-14-quickgelu"
    tag: str | None = "openai"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 64
    allow_download: bool = False

    def identity(self) -> dict[str, Any]:
        """Everything that embeddings depend on, as plain data; a local folder by its whole path."""
        model = self.model if self.tag else whole_path(self.model)
        return {"model": model, "tag": self.tag, "revision": self.revision, "dtype": self.dtype}


@dataclass(frozen=True)
class ChatConfig:
    """The multimodal language model that writes candidates.

    Attributes:
        backend: ``transformers`` runs it in this process, ``openai`` asks a server that speaks OpenAI's protocol.
            ``rules`` needs no model: word lists, to try everything else out.
        model: A folder or a name on the hub; the server's name of it.
        base_url: Of the server; None for ``OPENAI_BASE_URL``. It is written to the files of runs and datasets, so it
            holds no key.
        api_key_env: Name of the environment variable that holds the server's key. With None, ``OPENAI_API_KEY`` is
            sent to OpenAI's own servers and to the address in ``OPENAI_BASE_URL``, and no key to any other.
        server: How the server is asked. It is logged as well, with all of ``extra_body``.
        revision: Commit of the hub's repository.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        allow_download: Whether missing files may be fetched.

    Raises:
        ValueError: If the back end is unknown, it needs a model and none is named, ``base_url`` is no address or holds
            a user name, a password or a query, or ``api_key_env`` cannot name a variable.
    """

    backend: str = "openai"
    model: str = ""
    base_url: str | None = None
    api_key_env: str | None = None
    server: OpenAIConfig = field(default_factory=OpenAIConfig)
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    allow_download: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {self.backend!r}")
        if self.backend != "rules" and not self.model:
            raise ValueError(f"backend {self.backend!r} needs the name of a model, got ''; 'rules' needs none")
        if self.base_url is not None:
            _check_address(self.base_url)
        if self.api_key_env is not None and not self.api_key_env.isidentifier():
            raise ValueError(
                f"api_key_env must be the name of an environment variable, such as OPENAI_API_KEY, and not the key "
                f"itself, got {len(self.api_key_env)} characters that are no name"
            )

    def identity(self) -> dict[str, Any]:
        """Everything that candidates depend on beside what is asked, as plain data; a local folder by its whole path.

        Not where the model runs: a server moves and a GPU is replaced while data are collected.
        """
        return {
            "backend": self.backend,
            "model": whole_path(self.model) if self.backend == "transformers" else self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "server": self.server.identity(),
        }


def _check_address(address: str) -> None:
    """Refuse an address with a secret in it, without showing the secret."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = address.rpartition("@")[2].partition("?")[0]
        raise ValueError(f"base_url must be an address such as http://localhost:8000/v1, got {shown!r}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"base_url must hold no user name, password, query or fragment, as it is written to the files of runs and "
            f"datasets, got one for the server {parts.hostname}; put the key into the environment variable "
            "OPENAI_API_KEY with the plain address in OPENAI_BASE_URL, or into one that api_key_env names"
        )


@dataclass(frozen=True)
class FullWorldConfig:
    """A world of full-size models. Nothing is loaded before it is needed.

    Attributes:
        name: What results call it.
        image_model: What paints.
        chat: What writes candidates.
        candidates: How it is asked; the environment's own numbers of candidates and categories count.
        clip: What embeds.
        user_model: Folder of a user model that was fitted with this ``clip``; None for ``worlds/<name>/user_model`` in
            the package's cache.
        initial_prompts: File of initial prompts, see ``read_initial_prompts``; None for ``worlds/<name>/prompts.txt``
            in the package's cache.
        image_cache: Folder of painted pictures; None for ``images`` in the package's cache, "" to keep none.
        image_cache_gigabytes: Most that it holds, in 10^9 bytes.
        reply_cache: Folder of the language model's replies; None for ``replies`` in the package's cache, "" for none.

    Raises:
        ValueError: If the name cannot be a folder's, a picture would not be square, or the cache has no room.
    """

    name: str
    image_model: DiffusionModelConfig
    chat: ChatConfig = field(default_factory=lambda: ChatConfig("rules"))
    candidates: LLMCandidatesConfig = field(default_factory=LLMCandidatesConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    user_model: str | None = None
    initial_prompts: str | None = None
    image_cache: str | None = None
    image_cache_gigabytes: float = 50.0
    reply_cache: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "._-" for c in self.name) or self.name.startswith("."):
            raise ValueError(
                f"name must be letters, digits, '.', '_' and '-', as results are filed under it, got {self.name!r}"
            )
        if self.image_model.height != self.image_model.width:
            raise ValueError(
                f"a world shows square pictures, got {self.image_model.height} x {self.image_model.width} pixels"
            )
        if not self.image_cache_gigabytes > 0:
            raise ValueError(
                f"image_cache_gigabytes must be above 0, got {self.image_cache_gigabytes}; image_cache='' keeps none"
            )

    def __hash__(self) -> int:
        # Equal worlds have equal names. The extra fields of a server's requests are a dict and cannot be hashed.
        return hash(self.name)

    def identity(self) -> dict[str, Any]:
        """Everything that conversations depend on, as plain data: not where and how fast they are made, nor caches.

        Local folders are told by their whole paths, initial prompts by the content of their file. Models are loaded
        for none of it, so those of the hub are told by name and revision; ``World.fingerprint`` has their commits.
        """
        prompts = self.initial_prompts
        if prompts is not None and pathlib.Path(prompts).is_file():
            prompts = hashlib.sha256(pathlib.Path(prompts).read_bytes()).hexdigest()[:16]
        return {
            "name": self.name,
            "image_model": self.image_model.identity(),
            "chat": self.chat.identity(),
            "candidates": asdict(self.candidates),
            "clip": self.clip.identity(),
            "user_model": None if self.user_model is None else whole_path(self.user_model),
            "initial_prompts": prompts,
        }

    def make(self) -> World:
        """Make the world.

        Raises:
            ValueError: If the user model or the initial prompts are missing; the message says where to get them.
        """
        from pasta_gym.full.world import make_full_world

        return make_full_world(self)


PRESETS: Mapping[str, str] = MappingProxyType({"sdxl": "sdxl", "flux": "flux-schnell"})
"""Preset of the image model by the name of the world."""


def full_world_preset(name: str, **changes: Any) -> FullWorldConfig:
    """Return the configuration of a named world, with fields of your own in place of its.

    Args:
        name: ``sdxl``, the paper's image model, or ``flux``.
        **changes: Fields of ``FullWorldConfig``.

    Raises:
        ValueError: If there is no such preset or field.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {name!r}; FullWorldConfig describes any other")
    unknown = sorted(set(changes) - set(FullWorldConfig.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown fields {unknown}; FullWorldConfig has {tuple(FullWorldConfig.__dataclass_fields__)}")
    return replace(FullWorldConfig(name, IMAGE_PRESETS[PRESETS[name]]), **changes)
