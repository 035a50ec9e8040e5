"""Chat models behind a server that speaks OpenAI's protocol: vLLM, llama.cpp, hosted models."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import math
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import PIL.Image

from pasta_gym.candidates.llm_chat import ChatModelError, ChatReply, ChatRequest, Message, Sampling
from pasta_gym.seeding import mix, uniforms
from pasta_gym.settings import check_counts, check_not_negative, check_positive
from pasta_gym.types import ImageArray

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OF_THE_REQUEST = frozenset({400, 413, 422})  # a content filter, too long: other requests may do
_OPENAI = "https://api.openai.com/v1"
_MAX_BODY = 10_000_000


@dataclass(frozen=True)
class OpenAIConfig:
    """How a server is asked.

    Attributes:
        concurrency: Most requests at once.
        timeout: Seconds that one request may take, however slowly its bytes come.
        n_retries: How often a request is sent again after a failure that may pass.
        first_wait: Seconds before the first retry, about doubled each time; a server's Retry-After counts instead.
        max_wait: Longest wait before a retry in seconds.
        requests_per_minute: Rate limit, None for none. Retries count.
        stream: Whether the reply is asked for as a stream. Some proxies close a connection that is silent for long.
        send_seed: Whether the seed is sent along. Some hosted models refuse it.
        length_field: What the server calls the longest reply: ``max_tokens``, or ``max_completion_tokens``.
        extra_body: More fields of the request, such as ``{"chat_template_kwargs": {"enable_thinking": False}}``; None
            is none. Hydra adds a mapping to the one that is there, so there ``null`` empties it and ``{}`` does not.

    Raises:
        ValueError: If a value is out of range.
    """

    concurrency: int = 8
    timeout: float = 120.0
    n_retries: int = 5
    first_wait: float = 1.0
    max_wait: float = 60.0
    requests_per_minute: float | None = None
    stream: bool = False
    send_seed: bool = True
    length_field: str = "max_tokens"
    extra_body: Mapping[str, Any] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_counts(self, "concurrency")
        check_counts(self, "n_retries", least=0)
        check_not_negative(self, "first_wait", "max_wait")
        check_positive(self, *(name for name in ("timeout", "requests_per_minute") if getattr(self, name) is not None))
        object.__setattr__(self, "extra_body", _plain(self.extra_body or {}))

    def identity(self) -> dict[str, Any]:
        """What of it a reply depends on, as plain data: not how fast and how patiently a server is asked."""
        return {"sends_seed": self.send_seed, "extra_body": _plain(self.extra_body)}


class RateLimiter:
    """Spaces calls evenly: each takes the next free moment, at most so many a minute.

    Args:
        per_minute: Calls a minute, None for no limit.
        clock: Seconds that only grow.
        sleep: Waits seconds.
    """

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = clock()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the caller may go on."""
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            mine = max(now, self._next)
            self._next = mine + self._gap
        if mine > now:
            self._sleep(mine - now)


class OpenAIChat:
    """A model behind an OpenAI-compatible server.

    Failures that may pass (429, 5xx, broken connections and answers, timeouts) are retried, then reported in the
    reply's ``error``. What a server refuses one request for (400, 413, 422) is reported there at once. Others (a wrong
    key, no such model, a server that none of the requests reached) raise, because every request would fail.

    Args:
        model: The model's name on the server.
        base_url: Such as ``http://localhost:8000/v1``; None for ``OPENAI_BASE_URL`` or OpenAI's own server.
        api_key: None for ``OPENAI_API_KEY``, which is sent to OpenAI's own servers and to the address in
            ``OPENAI_BASE_URL`` alone. Others, and the latter where there is no such key, get the word "none", as local
            ones take any.
        config: Concurrency, timeouts, retries, rate.

    Raises:
        ImportError: If the ``openai`` package is missing.
        ValueError: If there is no key for OpenAI's own server.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        config: OpenAIConfig | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError("OpenAIChat needs the openai package: pip install openai") from error
        self.model = model
        self.config = config or OpenAIConfig()
        try:
            # Retries are ours: the client's own draw their jitter from the global generator.
            self._client = openai.OpenAI(
                base_url=base_url, api_key=_key(api_key, base_url), timeout=self.config.timeout, max_retries=0
            )
        except openai.OpenAIError as error:
            raise ValueError(
                "there is no API key for OpenAI's server; set OPENAI_API_KEY or pass api_key, or base_url for a "
                "server of your own"
            ) from error
        self._sleep = sleep
        self._limiter = RateLimiter(self.config.requests_per_minute, sleep=sleep)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model, the server's address without user names or keys in it, and extra fields."""
        return {
            "backend": "openai",
            "model": self.model,
            "server": self._server,
            **self.config.identity(),
        }

    @property
    def _server(self) -> str:
        """The address, to be shown."""
        url = urllib.parse.urlsplit(str(self._client.base_url))
        return f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"

    def close(self) -> None:
        """Close the connections to the server; the object is of no use afterwards."""
        self._client.close()

    def complete(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        """Reply to each request, several at once.

        Raises:
            ChatModelError: If the server refuses whatever it is asked; ``replies`` has those that came before.
        """
        if not requests:
            return []
        reached = threading.Event()
        with ThreadPoolExecutor(max_workers=min(self.config.concurrency, len(requests))) as pool:
            futures = [pool.submit(self._persist, request, sampling, reached) for request in requests]
            try:
                return [future.result() for future in futures]
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if isinstance(error, ChatModelError):
                    error.replies = tuple(
                        None if future.cancelled() or future.exception() else future.result() for future in futures
                    )
                raise

    def _persist(self, request: ChatRequest, sampling: Sampling, reached: threading.Event) -> ChatReply:
        """Ask until there is a reply or the retries are used up; ``reached`` is set by the first that gets through."""
        error = ""
        for attempt in range(self.config.n_retries + 1):
            self._limiter.wait()
            try:
                reply = self._ask(request, sampling)
                reached.set()
                return reply
            except _RefusedError as failure:
                reached.set()
                return ChatReply("", error=str(failure), is_refused=True)
            except _PassingError as failure:
                error = str(failure)
                if not isinstance(failure, _UnreachableError):
                    reached.set()
                elif attempt == self.config.n_retries and not reached.is_set():
                    raise ChatModelError(f"{error} ({attempt + 1} attempts); is the server running?") from failure
                if attempt < self.config.n_retries:
                    self._sleep(self._wait_seconds(failure.retry_after, request.seed, attempt))
        return ChatReply("", error=f"{error} ({self.config.n_retries + 1} attempts)")

    def _wait_seconds(self, retry_after: float | None, seed: int, attempt: int) -> float:
        """Half to all of a doubling wait: jitter keeps clients that failed together from coming back together."""
        jitter = float(uniforms(mix(seed, attempt)))
        if retry_after is not None:
            return min(retry_after * (1 + 0.1 * jitter), self.config.max_wait)
        return min(self.config.first_wait * 2.0**attempt, self.config.max_wait) * (0.5 + 0.5 * jitter)

    def _ask(self, request: ChatRequest, sampling: Sampling) -> ChatReply:
        """Send a request once and read the answer before its time is up."""
        body = _request_body(request, sampling, self.model, self.config)
        answer = within(self.config.timeout, lambda: self._send(body))
        return reply_from_stream(answer) if self.config.stream else reply_from_json(answer)

    def _send(self, body: dict[str, Any]) -> bytes:
        """Send a request's body and return its answer's."""
        import openai

        deadline = time.monotonic() + self.config.timeout
        try:
            with self._client.chat.completions.with_streaming_response.create(**body) as response:
                return _read(response.iter_bytes(), deadline)
        except openai.APIStatusError as error:
            told = f"the server answered {error.status_code}: {_short(error.message)}"
            if error.status_code in _RETRIED:
                raise _PassingError(told, retry_after_seconds(error.response.headers)) from error
            if error.status_code in _OF_THE_REQUEST:
                raise _RefusedError(told) from error
            raise ChatModelError(
                f"{told}; check the model {self.model!r}, base_url and the key (OPENAI_API_KEY is sent to OpenAI's own "
                "servers and the address in OPENAI_BASE_URL alone; for others pass api_key, in a world api_key_env)"
            ) from error
        except openai.APITimeoutError as error:
            raise _PassingError(f"no answer within {self.config.timeout} s") from error
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ == "ConnectError":  # by name: the library differs between its versions
                raise _UnreachableError(f"no connection to {self._server}: {_short(error.__cause__)}") from error
            raise _PassingError(f"the connection broke off ({_short(error.__cause__)})") from error
        except (
            _PassingError,
            openai.OpenAIError,
            TypeError,
            ValueError,
        ):  # the last two: a body that cannot be written
            raise
        except Exception as error:  # of the HTTP library: the client lets them through where it reads a refusal's body
            raise _PassingError(f"the connection broke off ({type(error).__name__})") from error


class _PassingError(Exception):
    """A failure after which the same request may succeed."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _RefusedError(Exception):
    """The server will not answer this request, however often it is asked."""


class _UnreachableError(_PassingError):
    """There is no connection to the server."""


def within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """Return what a call returns or raise what it raises; a call that takes too long is left to itself.

    The client's timeout is for each read alone, and it reads heads and refusals by itself: only who stands beside it
    can end them.
    """
    outcome: Future[bytes] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([outcome], seconds).done:
        raise _PassingError(f"no whole answer within {seconds} s")
    return outcome.result()


def reply_from_json(answer: bytes) -> ChatReply:
    """Read the body of a chat completion."""
    try:
        choice = json.loads(answer)["choices"][0]
        return ChatReply(_content(choice["message"].get("content")), choice.get("finish_reason") == "length")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _PassingError(f"the server's answer is no chat completion ({_short(answer)})") from error


def reply_from_stream(answer: bytes) -> ChatReply:
    """Put the body of a streamed chat completion together; one without its end is as good as none."""
    text, reason = "", None
    try:
        for line in answer.decode("utf-8").split("\n"):  # splitlines would also split at characters within the text
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:") or data == "[DONE]":
                continue
            for choice in json.loads(data)["choices"][:1]:
                text += _content(choice["delta"].get("content"))
                reason = choice.get("finish_reason") or reason
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _PassingError(f"the server's stream is broken ({_short(answer)})") from error
    if reason is None:
        raise _PassingError("the server's stream stopped before its end")
    return ChatReply(text, reason == "length")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return what a server says about when to come back: seconds or a date; None if it says nothing that counts."""
    told = headers.get("retry-after", "").strip()
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _key(api_key: str | None, base_url: str | None) -> str | None:
    """Find the key for a server; None if it is OpenAI's and there is none."""
    of_the_shell = os.environ.get("OPENAI_BASE_URL")
    server = base_url or of_the_shell or _OPENAI
    host = urllib.parse.urlsplit(server).hostname or ""
    is_openais = host == "openai.com" or host.endswith(".openai.com")
    if api_key:
        return api_key
    is_meant = is_openais or (of_the_shell is not None and server.rstrip("/") == of_the_shell.rstrip("/"))
    found = os.environ.get("OPENAI_API_KEY") if is_meant else None
    return found or (None if is_openais else "none")


def _request_body(request: ChatRequest, sampling: Sampling, model: str, config: OpenAIConfig) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        config.length_field: sampling.max_new_tokens,
        "stream": config.stream,
        "extra_body": dict(config.extra_body or {}) or None,
    }
    told = {"top_p": sampling.top_p, "temperature": sampling.temperature}
    body |= {name: value for name, value in told.items() if value is not None}
    if config.send_seed:
        body["seed"] = request.seed >> 32  # 31 bits: some servers read no more
    return body


def _message(message: Message) -> dict[str, Any]:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": _url(part)}}
        for part in message.parts
    ]
    # Plain text as a string: servers of models without eyes read nothing else.
    return {"role": message.role, "content": content if message.images else message.text}


def _url(picture: ImageArray) -> str:
    """Write a picture as a data URL: PNG, which loses nothing."""
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _read(chunks: Iterable[bytes], deadline: float) -> bytes:
    """Read an answer; one that nobody waits for any more stops at its next byte."""
    answer = b""
    try:
        for chunk in chunks:
            answer += chunk
            if time.monotonic() > deadline:
                raise _PassingError("the answer came too slowly")
            if len(answer) > _MAX_BODY:
                raise _PassingError(f"the answer is longer than {_MAX_BODY} bytes")
    except _PassingError:
        raise
    except Exception as error:  # the errors of the HTTP library under the client, which differs between its versions
        raise _PassingError(f"the connection broke off ({type(error).__name__})") from error
    return answer


def _content(content: Any) -> str:
    """The words of a message: a string, nothing (a refusal), or parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _plain(content: Any) -> Any:
    """Turn the mappings and sequences of a configuration file into dicts and lists, which JSON can be made of."""
    if isinstance(content, Mapping):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        return [_plain(value) for value in content]
    return content


def _short(told: object) -> str:
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
    return text if len(text) <= 200 else f"{text[:200]}..."
