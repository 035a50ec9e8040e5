"""Settings of the agent whose value function is a language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

from agents.token_loading import SCRATCH, SCRATCH_VALUE_TOKEN, ScratchConfig, Tuning
from agents.token_model import Precision
from pasta_gym.settings import check_counts, check_not_negative, check_positive, part_of

Optimiser = Literal["adafactor", "adamw"]


@dataclass(frozen=True)
class TokenIQLConfig:
    """Settings of :class:`agents.token_iql.TokenIQLAgent`; the defaults are table 3 of the paper.

    Attributes:
        model: A folder in the format of ``save_pretrained``, a name on the hub, or ``scratch`` for a small model with
            random weights and one token a word.
        revision: Commit of the hub's repository.
        allow_download: Whether missing files may be fetched.
        tuning: ``full`` trains all weights, ``lora`` low-rank adapters (needs peft).
        lora_rank: Rank of the adapters.
        q_token: Token id of the logit that is f, the paper's ``l_q``.
        v_token: Token id of the logit that is v, ``l_v``.
        centred: Add the data's mean return to the logits, so that training starts at the right level. The paper's
            value is the bare logit.
        sub_prompts: Teach every beginning of a prompt (appendix E.1), or the whole prompt alone.
        selection: ``greedy`` shows the best slate, ``sample`` draws one by its values (appendix G).
        temperature: Of ``sample``, in standard deviations of the candidates' values.
        one_per_category: Show at most one prompt of each category.
        expectile: In [0.5, 1).
        steps: Gradient steps.
        batch_size: Conversations in a step. Each gives its H turns: 26 of 5 are 130, the paper's batch is 128.
        micro_batch_size: Conversations that are in memory together; it changes no gradient but by rounding.
        optimiser: ``adafactor``, as the paper's, or ``adamw``. Adapters need the latter: half of them begin at 0, from
            where steps relative to a tensor's size lead nowhere.
        learning_rate: Largest step: of Adafactor relative to a weight tensor's size, of AdamW a weight's own.
        decay: Of the learning rate: ``constant``, or ``cosine`` to 0.
        weight_decay: Decoupled.
        gradient_norm: Largest norm of the gradient.
        target_rate: How far the target network moves at an update, in (0, 1].
        target_period: Steps between updates.
        reward_scale: Rewards are multiplied by it.
        precision: ``float32``, or ``bfloat16`` for mixed precision, in which padding, batch and cache move values by
            up to a tenth of their spread.
        gradient_checkpointing: Compute activations twice and keep few of them.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        history_cache: Read a history once for all its candidates; without, once for each. The values are the same up
            to rounding.
        read_size: Conversations that are valued together.
        scratch: Shape of the ``scratch`` model.
        log_every: Steps between metrics.
    """

    model: str = "google/gemma-2b"
    revision: str | None = None
    allow_download: bool = False
    tuning: Tuning = "full"
    lora_rank: int = 16
    q_token: int = 651
    v_token: int = 651
    centred: bool = False
    sub_prompts: bool = True
    selection: Literal["greedy", "sample"] = "greedy"
    temperature: float = 0.5
    one_per_category: bool = True
    expectile: float = 0.7
    steps: int = 10_000
    batch_size: int = 26
    micro_batch_size: int = 2
    optimiser: Optimiser = "adafactor"
    learning_rate: float = 1e-5
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    target_rate: float = 1.0
    target_period: int = 256
    reward_scale: float = 0.1
    precision: Precision = "bfloat16"
    gradient_checkpointing: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    history_cache: bool = True
    read_size: int = 16
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    log_every: int = 100

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """A model that learns the mini world from nothing in minutes on one CPU core.

        Args:
            **changes: Other settings.
        """
        settings: dict[str, Any] = {
            "model": SCRATCH,
            "q_token": SCRATCH_VALUE_TOKEN,
            "v_token": SCRATCH_VALUE_TOKEN,
            "centred": True,
            "steps": 1500,  # 24,000 conversations: with a quarter of them it was no better than random slates
            "batch_size": 16,
            "micro_batch_size": 16,
            "learning_rate": 1e-2,
            "decay": "cosine",
            "target_rate": 0.05,
            "target_period": 1,
            "precision": "float32",
            "gradient_checkpointing": False,
            "device": "cpu",
            "scratch": ScratchConfig(n_layers=1, n_heads=1),
            "log_every": 50,
        }
        return cls(**settings | changes)

    @classmethod
    def lora(cls, **changes: Any) -> Self:
        """Adapters with an optimiser and a rate that move them; the rest is table 3.

        Args:
            **changes: Other settings.
        """
        settings: dict[str, Any] = {"tuning": "lora", "optimiser": "adamw", "learning_rate": 1e-4}
        return cls(**settings | changes)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work; a stored card gives ``scratch`` as plain values.

        Raises:
            ValueError: Naming the setting, its value and the range.
        """
        object.__setattr__(self, "scratch", part_of(ScratchConfig, self.scratch, "scratch"))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not self.model:
            raise ValueError(f"model must be a folder, a name on the hub or {SCRATCH!r}, got {self.model!r}")
        if self.model == SCRATCH and self.tuning != "full":
            raise ValueError(f"model={SCRATCH!r} has random weights to train, got tuning={self.tuning!r}; use 'full'")
        if (self.tuning, self.optimiser) == ("lora", "adafactor"):
            raise ValueError(
                "tuning='lora' needs optimiser='adamw', got 'adafactor': its steps are relative to a tensor's size, "
                "and adapters begin at 0; TokenIQLConfig.lora() has a learning_rate for it too"
            )
        if not 0.5 <= self.expectile < 1:
            raise ValueError(f"expectile must lie in [0.5, 1), got {self.expectile}; the paper uses 0.7")
        if not 0 < self.target_rate <= 1:
            raise ValueError(f"target_rate must lie in (0, 1], got {self.target_rate}; 1 copies the online network")
        check_counts(self, *_COUNTS)
        check_counts(self, "q_token", "v_token", least=0)
        check_not_negative(self, "weight_decay")
        check_positive(self, "temperature", "learning_rate", "gradient_norm", "reward_scale")


_CHOICES = {
    "tuning": ("full", "lora"),
    "selection": ("greedy", "sample"),
    "optimiser": ("adafactor", "adamw"),
    "decay": ("constant", "cosine"),
    "precision": ("float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
}
_COUNTS = ("lora_rank", "steps", "batch_size", "micro_batch_size", "target_period", "read_size", "log_every")
