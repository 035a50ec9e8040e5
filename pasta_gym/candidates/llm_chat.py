"""What candidate generators and language models say to each other: messages with pictures, requests, replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pasta_gym.settings import check_counts
from pasta_gym.types import ImageArray

Part: TypeAlias = "str | ImageArray"
"""Words, or a picture ``(height, width, 3)`` uint8."""


class ChatModelError(RuntimeError):
    """The model cannot be asked at all, and asking again would not help: a wrong key, no such model, no room.

    Args:
        message: What happened, and what to do.

    Attributes:
        replies: What came back before, in the requests' order, None where nothing did; empty if nobody counted.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.replies: tuple[ChatReply | None, ...] = ()


@dataclass(frozen=True)
class Message:
    """One message of a chat.

    Attributes:
        role: Who speaks. There is no ``system``: not every chat template has it.
        parts: Words and pictures in the order in which they are said.
    """

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The words alone."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[NDArray[np.uint8]]:
        """The pictures alone."""
        return [part for part in self.parts if not isinstance(part, str)]


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn.

    Attributes:
        top_p: Nucleus sampling: the smallest set of words with this probability, in (0, 1]; the paper's is 0.8. With
            None a server is not told, as some models refuse it, and a model in this process has no nucleus.
        temperature: Above 0; None as for ``top_p``.
        max_new_tokens: Longest reply.

    Raises:
        ValueError: If a value is out of range.
    """

    top_p: float | None = 0.8
    temperature: float | None = 1.0
    max_new_tokens: int = 3000

    def __post_init__(self) -> None:
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}; the paper samples with 0.8")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}; 1.0 leaves the model as it is")
        check_counts(self, "max_new_tokens")


@dataclass(frozen=True)
class ChatRequest:
    """One conversation that wants a reply.

    Attributes:
        messages: What was said; the last message is the user's.
        seed: Seeds the reply, 0..2**63 - 1.
    """

    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True)
class ChatReply:
    """What came back.

    Attributes:
        text: The reply, empty if there was none.
        is_truncated: Whether it stopped for its length, in the middle of something.
        error: Why there is no reply, "" if there is one.
        is_refused: Whether there is none because the model will not answer this request, however often it is asked.
    """

    text: str
    is_truncated: bool = False
    error: str = ""
    is_refused: bool = False


class ChatModel(Protocol):
    """A multimodal language model."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What replies depend on beside the request, as plain data without secrets."""
        ...

    def complete(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        """Reply to each request, in order; a request that failed for now has a reply with ``error``.

        Raises:
            ChatModelError: If no request can succeed.
        """
        ...


def request_digest(request: ChatRequest, sampling: Sampling, identity: Mapping[str, Any]) -> str:
    """Return 64 hex digits of everything that a reply depends on."""
    messages = [[m.role, [part if isinstance(part, str) else _picture_digest(part) for part in m.parts]]
                for m in request.messages]  # fmt: skip
    told = {"identity": dict(identity), "sampling": asdict(sampling), "messages": messages, "seed": request.seed}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _picture_digest(picture: ImageArray) -> dict[str, Any]:
    pixels = np.ascontiguousarray(picture)
    return {"shape": pixels.shape, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
