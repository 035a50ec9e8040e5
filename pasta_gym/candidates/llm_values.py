"""Reads JSON, and what language models write in its place: Python's quotes, commas before brackets. Pure.

Nothing is run, and where a string ends is not guessed at: such text is no value. Of an answer that stops in the middle
of a value, what was whole by then is kept.
"""

from __future__ import annotations

import json
import re
from typing import Any

_DECODER = json.JSONDecoder()
_MAX_DEPTH = 12
_MAX_STRING = 5000  # characters of one with quotes in it, twice the longest prompt's: what is longer has lost its end
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_SPACE = re.compile(r"\s*+")
_UNTIL = {quote: re.compile(rf"[^{quote}\\\n]*+") for quote in "\"'"}
# An apostrophe ends nothing: what comes after a string is a comma, a colon, a bracket or the end of a fence.
_AFTER_STRING = re.compile(r"\s*+(?:[,:\]})]|```)")
_AT_THE_END = re.compile(r"\s*+\Z")
_AFTER_LOST_COMMA = re.compile(r"\s*+[\"']")
_HEX = "[0-9a-fA-F]"
_ESCAPE = re.compile(rf"\\(?:u({_HEX}{{4}})|x({_HEX}{{2}})|U(00(?:0{_HEX}|10){_HEX}{{4}})|([^\n]))")
_SPACES = {"n": " ", "r": " ", "t": " ", "b": " ", "f": " "}
_LITERAL = re.compile(r"(?:true|false|null|none|[-+]?\d++(?:\.\d++)?(?:e[-+]?\d++)?)(?![\w.])", re.IGNORECASE)
_BARE_KEY = re.compile(r"[^\W\d]\w*+(?=\s*+:)")
_NO_MORE = re.compile(r"```|\Z")


class UnfinishedObject(dict[str, Any]):
    """An object that had not ended: what its other keys would have said of it is not known."""


class UnfinishedValueError(ValueError):
    """The text, or its fence, ends before the value does.

    Attributes:
        end: Where.
        so_far: The value without what had not ended; its objects are ``UnfinishedObject`` where they had not.
    """

    def __init__(self, end: int, so_far: Any = None) -> None:
        super().__init__(f"a value does not end before {end}")
        self.end = end
        self.so_far = so_far


def read_value(text: str, begin: int) -> tuple[Any, int]:
    """Read the value that begins at a place of a text.

    What is no JSON may have strings in either quotes, quotes of its own kind inside them, tuples, keys without quotes
    and a comma after the last item. Numbers and the like are None then, as are ``true`` and ``null``.

    Args:
        text: Any text.
        begin: Where the value's bracket is.

    Returns:
        The value, of lists, objects and strings, and where it ends.

    Raises:
        UnfinishedValueError: If the text ends before the value.
        ValueError: If there is no value, one of its strings does not end, or it is nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return _value(text, begin, 0)


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    _require_more(text, at)
    bracket = text[at : at + 1]
    if depth > _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} brackets in brackets at {at}")
    if bracket == "{":
        return _object(text, at, depth)
    if bracket in _CLOSING:
        return _items(text, at, depth)
    if bracket in _UNTIL:
        return _string(text, at)
    literal = _LITERAL.match(text, at)
    if literal is None:
        raise ValueError(f"no value at {at}")
    return None, literal.end()


def _items(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    closing, at = _CLOSING[text[at]], _skip(text, at + 1)
    try:
        while not text.startswith(closing, at):
            item, at = _value(text, at, depth + 1)
            items.append(item)
            at = _next_item(text, at, closing)
    except UnfinishedValueError as error:
        raise UnfinishedValueError(error.end, items if error.so_far is None else [*items, error.so_far]) from None
    return items, at + 1


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    key, at = "", _skip(text, at + 1)
    try:
        while not text.startswith("}", at):
            _require_more(text, at)
            bare = _BARE_KEY.match(text, at)
            key, at = (bare[0], bare.end()) if bare else _string(text, at)
            at = _skip(text, at)
            _require_more(text, at)
            if not text.startswith(":", at):
                raise ValueError(f"no colon at {at}")
            found[key], at = _value(text, _skip(text, at + 1), depth + 1)
            at = _next_item(text, at, "}")
    except UnfinishedValueError as error:
        so_far = UnfinishedObject(found if error.so_far is None else found | {key: error.so_far})
        raise UnfinishedValueError(error.end, so_far) from None
    return found, at + 1


def _require_more(text: str, at: int) -> None:
    if _NO_MORE.match(text, at):
        raise UnfinishedValueError(at)


def _next_item(text: str, at: int, closing: str) -> int:
    """Go on to the next item or the bracket after the last one."""
    at = _skip(text, at)
    _require_more(text, at)
    if text.startswith(",", at):
        return _skip(text, at + 1)
    if not text.startswith(closing, at):
        raise ValueError(f"neither a comma nor {closing} at {at}")
    return at


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _string(text: str, at: int) -> tuple[str, int]:
    quote = text[at : at + 1]
    if quote not in _UNTIL:
        raise ValueError(f"no string at {at}")
    parts: list[str] = []
    n_inside = 0
    at += 1
    latest = at + _MAX_STRING
    while at < latest:
        part = _UNTIL[quote].match(text, at)
        parts.append(part[0])  # type: ignore[index]
        at = part.end()  # type: ignore[union-attr]
        escape = _ESCAPE.match(text, at)
        if escape:
            parts.append(_meant(escape))
            at = escape.end()
        elif text[at : at + 2] in ("", "\\"):  # nothing, or an escape without its character
            raise UnfinishedValueError(len(text))
        elif not text.startswith(quote, at):
            raise ValueError(f"a string does not end before {at}")
        elif _AFTER_STRING.match(text, at + 1):
            if quote == '"' and n_inside % 2:  # which of them ends it?
                raise ValueError(f"quotes that do not pair before {at}")
            # Two escapes may be one character: halves of a pair become one, and a half alone is replaced.
            return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace"), at + 1
        elif _AT_THE_END.match(text, at + 1):  # it may have been a quote inside the string
            raise UnfinishedValueError(len(text))
        elif _AFTER_LOST_COMMA.match(text, at + 1):
            raise ValueError(f"two strings, or one with quotes in it, at {at}")
        else:
            parts.append(quote)
            n_inside += 1
            at += 1
    raise ValueError(f"a string does not end before {at}")


def _meant(escape: re.Match[str]) -> str:
    code, character = escape[1] or escape[2] or escape[3], escape[4]
    return chr(int(code, 16)) if code else _SPACES.get(character, character)
