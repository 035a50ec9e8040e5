"""Where the language model of a value function comes from: files in the format of ``transformers``, or scratch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pasta_gym.torchvision_ops import ensure_importable

SCRATCH = "scratch"
"""``model`` of a language model that is made, not loaded."""
Tuning = Literal["full", "lora"]
_SPECIAL = ("<pad>", "<bos>", "<unk>", "<value>")
SCRATCH_VALUE_TOKEN = _SPECIAL.index("<value>")
_PADDED_VOCABULARY = 8
_NEEDED = ("*.json", "*.safetensors", "tokenizer*")


@dataclass(frozen=True)
class ScratchConfig:
    """Shape of a language model that is trained from nothing: a Gemma with one token a word.

    Attributes:
        width: Of the residual stream.
        n_layers: Transformer blocks.
        n_heads: Attention heads; they share one key and value head, as in Gemma 2B.
        context: Longest sequence in tokens.
    """

    width: int = 64
    n_layers: int = 2
    n_heads: int = 4
    context: int = 2048

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"scratch.{name} must be an integer of at least 1, got {value!r}")
            if value < 1:
                raise ValueError(f"scratch.{name} must be at least 1, got {value}")
        if self.width % (2 * self.n_heads):
            raise ValueError(
                f"scratch.width must be a multiple of 2 x n_heads = {2 * self.n_heads}, got {self.width}; "
                "rotary positions turn pairs"
            )


def scratch_tokenizer(texts: Iterable[str]) -> Any:
    """Make a tokeniser with one token for every word and sign in ``texts``.

    Args:
        texts: All that it should know; other words become ``<unk>``.

    Returns:
        A fast tokeniser of ``transformers``, with ``<value>``, which no text holds, as token 3.
    """
    ensure_importable()
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)} - set(_SPECIAL))
    vocabulary = {word: i for i, word in enumerate((*_SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def scratch_model(config: ScratchConfig, vocabulary_size: int, *, seed: int) -> Any:
    """Make a small Gemma with random weights.

    Args:
        config: Its shape.
        vocabulary_size: Tokens it knows.
        seed: Fixes the weights.
    """
    ensure_importable()
    from transformers import GemmaConfig, GemmaForCausalLM

    # transformers draws weights from torch's global generator: it is borrowed and given back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GemmaForCausalLM(
            GemmaConfig(
                vocab_size=-(-vocabulary_size // _PADDED_VOCABULARY) * _PADDED_VOCABULARY,
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                num_key_value_heads=1,
                head_dim=config.width // config.n_heads,
                max_position_embeddings=config.context,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=None,
            )
        )


def load_language_model(
    name: str, *, revision: str | None, allow_download: bool, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """Load a causal language model and its tokeniser without running anything that comes with them.

    Args:
        name: A folder in the format of ``save_pretrained``, or a name on the hub that is in its local cache.
        revision: Commit of the hub's repository.
        allow_download: Whether missing files may be fetched. Without it no network is used.
        dtype: Of the weights.

    Returns:
        The model and the tokeniser.

    Raises:
        ValueError: If files are missing, broken or not safetensors; the message has the command that fetches them.
    """
    ensure_importable()
    import transformers

    local = {"local_files_only": not allow_download}
    options = {"revision": revision, "trust_remote_code": False, **local}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        config = without_dropout(transformers.AutoConfig.from_pretrained(name, **options))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            adapter_kwargs=local,  # else transformers asks the hub whether there is an adapter
            **options,
        )
    except Exception as error:  # transformers, safetensors and the hub each raise their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fetch = (
            f"fetch it with `{fetch_command(name, revision)}`, after `hf auth login` if its licence has to be accepted "
            "first, or pass allow_download=true"
        )
        cure = "check the folder" if Path(name).is_dir() else fetch
        raise ValueError(
            f"{name} cannot be loaded as a causal language model with its tokeniser ({first[:300]}); {cure}. It needs "
            "safetensors and a class that transformers itself has"
        ) from error
    return model, tokenizer


def fetch_command(name: str, revision: str | None) -> str:
    """Write the command that fetches what is loaded of a repository, and not the other formats of its weights."""
    command = ["hf", "download", name, *(["--revision", revision] if revision else [])]
    for pattern in _NEEDED:
        command += ["--include", pattern]
    return shlex.join(command)


def store_description(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write tokeniser and shape of a model into ``folder``; its weights are stored with the agent."""
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)


def read_description(folder: Path) -> tuple[Any, Any]:
    """Rebuild what :func:`store_description` wrote; the weights are yet to be filled in.

    Raises:
        ValueError: If the folder is missing or broken.
    """
    ensure_importable()
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            model = transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # as above
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} cannot be read ({first[:300]}); train and save the agent again") from error
    return model, tokenizer


def without_dropout(config: Any) -> Any:
    """Set every dropout of a model's configuration to 0: the value of a history is not a matter of luck."""
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("_pdrop")):
                setattr(part, name, 0.0)
    return config


def add_lora(model: nn.Module, *, rank: int, seed: int) -> None:
    """Freeze a model and add trainable low-rank adapters to every linear layer but the output's, in place.

    Args:
        model: A language model of ``transformers``.
        rank: Of the adapters; their scale is 2, whatever the rank.
        seed: Fixes their first weights.

    Raises:
        ValueError: If peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError("tuning='lora' needs peft; pip install 'pasta-gym[llm]', or use tuning='full'") from error
    model.requires_grad_(False)
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    # Small and in need of small steps, so kept in float32 whatever the frozen weights are in.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
