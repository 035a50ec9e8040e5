"""Counts and cuts words in any language, for the word budget of a language model's prompts (appendix E.2).

A word is what stands between spaces. Scripts without spaces would pass any budget as one word, so there Chinese
characters and kana count one word each, and four letters of Thai, Lao, Khmer or Burmese count one. Something of
more than 30 characters counts as several words: no prompt within a budget is longer than 31 characters a word.
"""

from __future__ import annotations

import math
import re

LETTERS_PER_WORD = 4
CHARACTERS_PER_WORD = 30

_DENSE = re.compile(
    "[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
# Where a clause ends: "3.5" and "16:9" are no ends, and Chinese and Japanese marks need no space after them.
_CLAUSE_END = re.compile(r"[,;:.!?](?=\s)|\s[-\u2013\u2014](?=\s)|[\u2014\u3001\u3002\uff0c\uff1b\uff1a\uff01\uff1f]")


def count_words(text: str) -> int:
    """Count the words of a text in any script."""
    return sum(_weight(token) for token in text.split())


def _weight(token: str) -> int:
    dense, unspaced = len(_DENSE.findall(token)), len(_UNSPACED.findall(token))
    rest = len(token) - dense - unspaced
    if (dense or unspaced) and not any(c.isalnum() for c in _UNSPACED.sub("", _DENSE.sub("", token))):
        # A full stop after a Chinese sentence is no word of its own, unless it is a row of them.
        rest = max(0, rest - CHARACTERS_PER_WORD)
    return dense + math.ceil(unspaced / LETTERS_PER_WORD) + math.ceil(rest / CHARACTERS_PER_WORD)


def cut_words(text: str, n: int) -> str:
    """Return the longest beginning of a text that has at most ``n`` words, in whole words where there are any."""
    kept: list[str] = []
    for token in text.split():
        weight = _weight(token)
        if weight <= n:
            kept.append(token)
            n -= weight
            continue
        while token and _weight(token) > n:
            token = token[:-1]
        if token:
            kept.append(token)
        break
    return " ".join(kept)


def cut_at_clause(text: str, n: int) -> str | None:
    """Cut a text that is too long where a clause ends.

    Args:
        text: A prompt of more than ``n`` words.
        n: The budget.

    Returns:
        The longest beginning that ends with a clause and has ``n / 2`` to ``n`` words; None if there is none:
        less than half of a prompt says something else than the prompt did.
    """
    best = ""
    for match in _CLAUSE_END.finditer(text):
        clause = text[: match.start()]
        if count_words(clause) > n:
            break
        best = clause
    return best.rstrip(" ,;:.-\u2013\u2014") if best and count_words(best) >= n / 2 else None
