"""Multimodal chat models of ``transformers``, run in this process from local files."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import PIL.Image

from pasta_gym.candidates.llm_chat import ChatModelError, ChatReply, ChatRequest, Message, Sampling
from pasta_gym.torchvision_ops import ensure_importable

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_SHOWN = 5  # missing files in a message
_INDEX = "model.safetensors.index.json"
# Of each row one file is enough: models and versions of transformers differ in what they write.
_PARTS = (
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer_config.json", "tokenizer.json", "tokenizer.model"),
)
_INCLUDED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
_EXCLUDED = ("original/*", "consolidated*")  # the same weights again, in the format of their makers


class TransformersChat:
    """An image-text-to-text model with its processor's chat template.

    Conversations are replied to one at a time: transformers draws from torch's global generator, which is
    borrowed, seeded for the request and given back, so a reply depends on its request alone and never on the batch.
    For many conversations at once use a server (``OpenAIChat`` with vLLM).

    Args:
        model: A folder in the format of ``save_pretrained``, or a name on the hub that is in its local cache.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        dtype: Of the weights; ``auto`` takes the file's on a GPU and float32 on the CPU.
        revision: Commit of the hub's repository.
        allow_download: Whether missing files may be fetched. Without it no network is used.

    Raises:
        ValueError: If an argument is unknown, or files are missing, broken or not safetensors; the message names
            those that are missing and has the command that fetches them. Code that comes with a model is never run.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        allow_download: bool = False,
    ) -> None:
        for name, value, known in (("device", device, DEVICES), ("dtype", dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        ensure_importable()
        import torch

        self.name = os.fspath(model)
        self.device = _device(device)
        if dtype == "auto" and self.device.type == "cpu":
            dtype = "float32"
        self._processor, self._model = _load(self.name, dtype, revision, allow_download)
        self._model.to(self.device).eval()
        self._identity = {
            "backend": "transformers",
            **model_version(self.name, revision),
            "dtype": str(next(self._model.parameters()).dtype).removeprefix("torch."),
            "device": self.device.type,  # devices draw other numbers from the same seed
            "torch": torch.__version__.split(".")[0],
        }

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model (a folder's files by their digest), its revision, precision and kind of device."""
        return self._identity

    def complete(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        """Reply to each request, one after the other: each draws with its own seed, whatever it is asked beside.

        Raises:
            ChatModelError: If a conversation and its reply do not fit the model's context, or a GPU's memory.
        """
        import torch

        try:
            return [self._reply(request, sampling) for request in requests]
        except torch.OutOfMemoryError as error:
            raise ChatModelError(
                f"one conversation and its reply do not fit the memory of {self.device} beside {self.name}; show fewer "
                "pictures (images_per_prompt, image_turns), lower max_new_tokens, or ask a model on a server"
            ) from error

    def _reply(self, request: ChatRequest, sampling: Sampling) -> ChatReply:
        import torch

        inputs = self._processor.apply_chat_template(
            [_message(message) for message in request.messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device, dtype=self._model.dtype)
        n_read = int(inputs["input_ids"].shape[1])
        self._require_room(n_read, sampling.max_new_tokens)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(request.seed)
            # The nucleus alone (appendix E.2): the other filters that a model's own settings may hold are off.
            output = self._model.generate(
                **inputs,
                do_sample=True,
                top_p=1.0 if sampling.top_p is None else sampling.top_p,
                top_k=0,
                min_p=None,
                typical_p=1.0,
                repetition_penalty=1.0,
                num_beams=1,
                temperature=1.0 if sampling.temperature is None else sampling.temperature,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=self._padding(),
            )
        written = output[0, n_read:]
        text = self._processor.decode(written, skip_special_tokens=True)
        return ChatReply(text, is_truncated=not self._has_ended(written))

    def _require_room(self, n_read: int, n_new: int) -> None:
        config = self._model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and n_read + n_new > context:
            raise ChatModelError(
                f"{n_read} tokens of conversation and {n_new} of reply do not fit the {context} of {self.name}; lower "
                "max_new_tokens, or show fewer pictures (images_per_prompt, image_turns)"
            )

    def _ends(self) -> list[int]:
        ends = self._model.generation_config.eos_token_id
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    def _has_ended(self, written: torch.Tensor) -> bool:
        return len(written) > 0 and int(written[-1]) in self._ends()

    def _padding(self) -> int | None:
        """Nothing is padded, but transformers warns where a model names no token for it."""
        own = self._model.generation_config.pad_token_id
        return own if own is not None else next(iter(self._ends()), None)


def _message(message: Message) -> dict[str, Any]:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": PIL.Image.fromarray(part)}
        for part in message.parts
    ]
    return {"role": message.role, "content": content}


def _device(name: str) -> torch.device:
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("device is 'cuda', but torch sees no GPU; use 'cpu' or 'auto'")
    return torch.device("cuda", torch.cuda.current_device()) if has_gpu and name != "cpu" else torch.device("cpu")


def _load(name: str, dtype: str, revision: str | None, allow_download: bool) -> tuple[Any, Any]:
    """Load a processor and a model without running anything that comes with them."""
    import transformers

    local = {"local_files_only": not allow_download}
    options = {"revision": revision, "trust_remote_code": False, **local}
    try:
        processor = transformers.AutoProcessor.from_pretrained(name, **options)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            adapter_kwargs=local,  # else transformers asks the hub whether there is an adapter
            **options,
        )
    except Exception as error:  # transformers, safetensors and the hub each raise their own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        is_folder = pathlib.Path(name).is_dir()
        fetch = f"fetch it with `{fetch_command(name, revision)}`, after `hf auth login` if its licence asks for it"
        cure = "check the folder" if is_folder else fetch
        missing = missing_files(name, revision)
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            cure = f"it lacks {', '.join(missing[:_SHOWN])}{more}{'' if is_folder else ' on this machine'}; {cure}"
        raise ValueError(
            f"{name} cannot be loaded as an image-text-to-text model with its processor ({first[:300]}); {cure}. "
            "It needs safetensors and a class that transformers itself has"
        ) from error
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"the processor of {name} has no chat template; take an instruction-tuned model")
    return processor, model


def fetch_command(name: str, revision: str | None) -> str:
    """Write the command that fetches what a model of the hub needs, and not its weights in other formats."""
    command = ["hf", "download", name, *(["--revision", revision] if revision else [])]
    command += [word for pattern in _INCLUDED for word in ("--include", pattern)]
    return shlex.join(command + [word for pattern in _EXCLUDED for word in ("--exclude", pattern)])


def missing_files(name: str, revision: str | None) -> list[str]:
    """Name the files of a model that are neither in its folder nor in the hub's cache, as far as they are known.

    Without the index of its weights nobody knows into how many files they were split.
    """
    missing = [" or ".join(part) for part in _PARTS if not any(_find(name, revision, file) for file in part)]
    index = _find(name, revision, _INDEX)
    try:
        weights = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())) if index else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return [*missing, f"a readable {_INDEX}"]
    if not index and not _find(name, revision, "model.safetensors"):
        missing.append(f"model.safetensors or {_INDEX}")
    return missing + [file for file in weights if not _find(name, revision, file)]


def _find(name: str, revision: str | None, file: str) -> pathlib.Path | None:
    """Find a file in a model's folder, else in the hub's cache."""
    folder = pathlib.Path(name)
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
    except ValueError:  # no such name can exist
        return None
    return pathlib.Path(found) if isinstance(found, str) else None


def model_version(name: str, revision: str | None) -> dict[str, str | None]:
    """Say which model a name means on this machine, without loading it.

    Returns:
        ``model``, a folder's files by their digest; ``revision``, the commit in the hub's cache if the name is there.
    """
    own = _own_files(name)
    return {"model": own, "revision": None} if own else {"model": name, "revision": _commit(name, revision) or revision}


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision of a hub's repository is in the local cache; None if it is not there."""
    found = _find(name, revision, "config.json")
    return None if found is None else found.parent.name


def _own_files(name: str) -> str | None:
    """A digest of a folder's files, as a folder may be moved or trained on; None for a name on the hub."""
    folder = pathlib.Path(name)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in {".json", ".jinja", ".safetensors", ".model", ".txt"}
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"files {digest.hexdigest()[:16]}"
