"""A prompt book for free text: an id is a digest of the words, so any two processes give a prompt the same id."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

import numpy as np

from pasta_gym.seeding import mix
from pasta_gym.types import IntArray, UInt64Array

MAX_CHARACTERS = 2000
"""Longest prompt a book takes: several times what any text encoder reads."""


def normalise(text: str) -> str:
    """Return a prompt with composed characters (NFC), single spaces and nothing around it."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def prompt_id(text: str) -> int:
    """Return the id of a normalised prompt: 63 bits of its SHA-256, so never -1 (``NOT_YET``)."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little") >> 1


class InternedPromptBook:
    """Remembers every prompt it has met, under an id that depends on the words alone.

    Two spellings of the same spaces or accents are one prompt; upper and lower case are two.

    Args:
        texts: Prompts to begin with.

    Raises:
        ValueError: If a prompt is empty, too long or not text.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts: dict[int, str] = {}
        self.add(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, prompt: int) -> bool:
        return int(prompt) in self._texts

    def add(self, texts: Iterable[str]) -> IntArray:
        """Remember prompts and return their ids ``(n,)``; one that is known keeps its id.

        Raises:
            ValueError: If a prompt is empty, too long or not text, or two prompts share a digest.
        """
        return np.array([self.parse(text) for text in texts], dtype=np.int64)

    def parse(self, text: str) -> int:
        """Return the id of a prompt that a person wrote, and remember it.

        Raises:
            ValueError: If it is empty, longer than 2,000 characters or not text, or another prompt has its digest.
        """
        written = normalise(text)
        if not written:
            raise ValueError(f"a prompt needs at least one word, got {text!r}")
        if len(written) > MAX_CHARACTERS:
            raise ValueError(f"a prompt may have {MAX_CHARACTERS} characters, got {len(written)}; shorten it")
        try:
            found = prompt_id(written)
        except UnicodeEncodeError as error:
            raise ValueError(f"a prompt must be text, got {written!r} with half a character; remove it") from error
        known = self._texts.setdefault(found, written)
        if known != written:
            raise ValueError(f"{written!r} and {known!r} share the id {found}; change a word of one of them")
        return found

    def texts(self, ids: IntArray) -> list[str]:
        """Write prompt ids ``(n,)`` out in words.

        Raises:
            ValueError: If an id was never met.
        """
        wanted = np.asarray(ids, dtype=np.int64).reshape(-1).tolist()
        unknown = [i for i in wanted if i not in self._texts]
        if unknown:
            raise ValueError(f"this book of {len(self)} prompts does not know the id {unknown[0]}; add its text first")
        return [self._texts[i] for i in wanted]

    def keys(self, ids: IntArray) -> UInt64Array:
        """Return a random key for each id, same shape; it depends on the words alone."""
        return mix(ids)
