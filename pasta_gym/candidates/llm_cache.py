"""Keeps a language model's replies on disk, so that a run can be repeated, for nothing and word for word."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pasta_gym.candidates.llm_chat import ChatModel, ChatModelError, ChatReply, ChatRequest, Sampling, request_digest
from pasta_gym.files import whole_file

FORMAT = 1


class CachedChat:
    """A chat model that asks another one only what it was never asked before.

    A reply is kept under a digest of everything it depends on: the model's identity, how it samples, the messages with
    their pictures, the seed. Failed requests are not kept. Any number of processes may share a folder.

    Args:
        model: Who is asked.
        folder: Where replies are kept, one file each; made if it is not there.

    Attributes:
        n_hits: Replies that came from the folder.
        n_misses: Replies that the model was asked for.
    """

    def __init__(self, model: ChatModel, folder: str | os.PathLike[str]) -> None:
        self.model = model
        self.folder = pathlib.Path(folder)
        self.n_hits = 0
        self.n_misses = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's own."""
        return self.model.identity

    def complete(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        """Reply to each request; equal requests get equal replies.

        Raises:
            ChatModelError: If no request can succeed. What the model replied before is kept.
        """
        digests = [request_digest(request, sampling, self.identity) for request in requests]
        wanted = dict(zip(digests, requests, strict=True))
        replies = {digest: reply for digest in wanted if (reply := self._kept(digest)) is not None}
        missing = [digest for digest in wanted if digest not in replies]
        self.n_hits += len(replies)
        self.n_misses += len(missing)
        if missing:
            try:
                fresh = self.model.complete([wanted[digest] for digest in missing], sampling)
            except ChatModelError as error:
                self._keep_good(missing, error.replies)
                raise
            replies |= zip(missing, fresh, strict=True)
            self._keep_good(missing, fresh)
        return [replies[digest] for digest in digests]

    def _keep_good(self, digests: Sequence[str], replies: Sequence[ChatReply | None]) -> None:
        """Keep the replies that are any; behind an error there may be fewer of them than digests."""
        for digest, reply in zip(digests, replies, strict=False):
            if reply is not None and not reply.error:
                self._keep(digest, reply)

    def _file(self, digest: str) -> pathlib.Path:
        return self.folder / digest[:2] / f"{digest}.json"

    def _kept(self, digest: str) -> ChatReply | None:
        """Read a reply; a file that is cut short or of another format is as good as none."""
        try:
            kept = json.loads(self._file(digest).read_text(encoding="utf-8"))
            if kept["format"] == FORMAT and isinstance(kept["text"], str):
                return ChatReply(kept["text"], bool(kept["is_truncated"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def _keep(self, digest: str, reply: ChatReply) -> None:
        told = {"format": FORMAT, "text": reply.text, "is_truncated": reply.is_truncated}
        with whole_file(self._file(digest)) as partial:
            partial.write_text(json.dumps(told), encoding="utf-8")
