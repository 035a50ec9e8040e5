"""Takes the lines and items of a language model's answer apart: marks, labels, quotes, emphasis."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from pasta_gym.prompt_books import normalise

_ARROWS = "\u2192\u21d2\u2794\u279c\u279e\u27a1\u27a4\u25b6\u25ba"
_MARK = re.compile(
    r"(?P<hash>#{1,6})\s+"
    rf"|(?P<bullet>[*+\u2022\u25e6\u25aa\u25cf\u2023\u00b7\u2013\u2014{_ARROWS}])\ufe0f?\s+"
    rf"|(?P<glued>[\u2022\u25cf{_ARROWS}]|->|-(?!-))\ufe0f?\s*"
    r"|(?P<nested>\d{1,2}(?:\.\d{1,2})+)[.):]?\s+"
    r"|[(\uff08]?(?P<number>\d{1,3})[.):\]\uff0e\uff09\u3001](?!\d)\s*"
    r"|[(\uff08]?(?P<letter>[A-Za-z])[.)]\s+"
    r"|(?P<quote>(?=\"))"
)
_CATEGORY = re.compile(
    r"(?:category|categor[i\u00ed]a|cat[e\u00e9]gorie|kategorie|\u043a\u0430\u0442\u0435\u0433\u043e\u0440\u0438\u044f"
    r"|\u7c7b\u522b|\u7c7b|\u30ab\u30c6\u30b4\u30ea\u30fc?|theme|group)"
    r"\s*#?(?:\d{1,2}|[a-h]\b|[ivx]{1,4}\b|one\b|two\b|three\b|four\b|five\b)?\s*(?:[:.)\u2013\u2014\uff1a-]\s*|$)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:new[_ ])?(?:prompt|candidate|option|variation|variant|idea)(?:[_ ]candidate)?[_ ]?#?\d{0,2}"
    r"\s*(?:[:.)]|\s[\u2013\u2014-])\s*",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"[<\[](?P<closing>/)?think(?:ing)?[>\]]", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"(?:(?:a |your |the |new[_ ]|next[_ ])?(?:prompt|candidate|prompt[_ ]candidate)[_ ]?\d*|title of category.*"
    r"|n/?a|none|same as above|etc|placeholder)",
    re.IGNORECASE,
)
_CHAT_MARK = re.compile(r"<[^<>\n]{0,40}>|\[/?[A-Z_]{2,20}\]")
_WORD_NOTE = re.compile(r"\s*[(\[]\s*~?\d+\s*words?\s*[)\]]\s*$", re.IGNORECASE)
_QUOTES = (
    '""',
    "''",
    "\u201c\u201d",
    "\u2018\u2019",
    "\u00ab\u00bb",
    "\u300c\u300d",
    "\u300e\u300f",
    "\u201e\u201c",
    "``",
)
_BOLD = re.compile(r"(\*\*|__)(?P<bold>(?:(?!\1).)+)\1\s*(?P<rest>.*)")
_NOTE = re.compile(r"(\*{1,3}|_{1,3})[^*_]+\1[.]?")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_KEY_OF_PROMPTS = re.compile(
    r"[\"']?(?:new_)?(?:prompts|candidates|prompt_candidates|items)[\"']?:[ \[|]*", re.IGNORECASE
)
_KEY_OF_TITLE = re.compile(r"[\"']?(?:category_)?(?:title|name)[\"']?: ", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,2}[.)]\s+")
_MAX_TITLE = 80


@dataclass(frozen=True)
class Line:
    """One line of an answer that is not empty.

    Attributes:
        indent: Spaces before it.
        kind: What marks it: ``hash``, a bullet itself, ``number``, ``nested``, ``letter``, ``quote``, "" for nothing.
        text: What follows the mark.
        after_gap: Whether an empty line comes before it.
    """

    indent: int
    kind: str
    text: str
    after_gap: bool

    @property
    def shape(self) -> tuple[str, int]:
        """What lines of the same level have in common."""
        return self.kind, self.indent

    @property
    def is_bold(self) -> bool:
        """Whether all of it is emphasised."""
        match = _BOLD.fullmatch(self.text)
        return bool(match) and match["rest"] in {"", ":"} if match else False

    @property
    def is_note(self) -> bool:
        """Whether it has no mark and all of it is emphasised, as commentary under an item is."""
        return not self.kind and bool(_NOTE.fullmatch(self.text))

    @property
    def is_named_category(self) -> bool:
        """Whether it says that it is a category."""
        return self.kind == "hash" or bool(_CATEGORY.match(_without_emphasis(self.text)))

    @property
    def ends_like_title(self) -> bool:
        """Whether it is short and ends with a colon."""
        text = _without_emphasis(self.text)
        return text.endswith((":", "\uff1a", ": [", ":[")) and len(text.split()) <= 10


def without_thoughts(text: str) -> str:
    """Leave a model's private thoughts out of its answer: ``<think>...</think>``, also with square brackets.

    Some chat templates write the opening mark themselves. The reply then has the closing one alone, and all before it
    is thought. Thoughts without an end go on to the answer's.
    """
    kept: list[str] = []
    begin, is_thought = 0, False
    for mark in _THOUGHT.finditer(text):
        if mark["closing"]:
            kept = kept if is_thought else []
            begin = mark.end()
        elif not is_thought:
            kept.append(text[begin : mark.start()])
        is_thought = not mark["closing"]
    return "".join(kept if is_thought else [*kept, text[begin:]])


def read_lines(text: str) -> list[Line]:
    """Take an answer apart into lines that are not empty; fences, rules and YAML's keys of lists go."""
    lines: list[Line] = []
    gap = False
    for raw in _written_lines(text):
        written = raw.expandtabs(4)
        body = written.strip()
        if not body or body.startswith(("```", "~~~")) or set(body) <= set("-*_=~") or _KEY_OF_PROMPTS.fullmatch(body):
            gap = gap or not body
            continue
        lines.append(_line(body, len(written) - len(written.lstrip()), gap))
        gap = False
    return lines


def _written_lines(text: str) -> Iterator[str]:
    """Lines as they end in the text or with HTML's break, which within a table's row is part of a cell."""
    for line in text.splitlines():
        first, *others = [line] if line.lstrip().startswith("|") else _BREAK.split(line)
        yield first
        if others and not others[-1].strip():
            others.pop()  # it ends twice
        yield from (other.removeprefix(" ") for other in others)


def _line(body: str, indent: int, gap: bool) -> Line:
    match = _MARK.match(body)
    if match is None or (body.startswith("- ") is False and match["glued"] and not body[match.end() :]):
        return Line(indent, "", body, gap)
    kind = match.lastgroup or ""
    if kind in {"bullet", "glued"}:
        kind = match[kind]
    return Line(indent, kind, body[match.end() :].strip(), gap)


def clean_title(text: str) -> str:
    """Return a category's title without marks, number and colon, at most 80 characters."""
    text = _without_emphasis(text).rstrip("[{ ").strip(":\uff1a <>")  # figure 11 itself writes <category_1>
    text = _KEY_OF_TITLE.sub("", text, count=1) if _KEY_OF_TITLE.match(text) else text
    text = _NUMBER.sub("", text, count=1) if _NUMBER.match(text) else text
    match = _CATEGORY.match(text)
    without = text[match.end() :] if match else text
    text = _one_line(without or text).strip("\"'*_:\uff1a- ")
    return text[:_MAX_TITLE].strip()


def clean_prompt(text: str) -> str:
    """Return the prompt that an item holds, on one line; "" if it holds none."""
    text = _one_line(text)
    for _ in range(3):  # "- 1. **Prompt 2:** "a cat"," wears three coats
        before = text
        match = _MARK.match(text)
        if match and match.lastgroup in {"bullet", "number", "nested"}:
            text = text[match.end() :]
        text = _LABEL.sub("", _strip_bold(text), count=1) if _LABEL.match(_strip_bold(text)) else _strip_bold(text)
        text = _unquoted(_WORD_NOTE.sub("", text.strip()))
        if text == before:
            break
    text = normalise(text)
    if _PLACEHOLDER.fullmatch(text.strip("<>[]{}. \u2026")) or not any(c.isalpha() for c in text):
        return ""
    return text


def _strip_bold(text: str) -> str:
    """Remove emphasis; a bold beginning with a colon is a label for the reader."""
    match = _BOLD.match(text)
    if match:
        bold, rest = match["bold"].strip(), match["rest"]
        if rest and (bold.endswith((":", "\uff1a")) or rest.startswith((":", "\uff1a"))):
            return rest.lstrip(":\uff1a ").strip()
    return _without_emphasis(text)


def _without_emphasis(text: str) -> str:
    text = text.replace("**", "").replace("__", "").strip()
    return text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] and text[0] in "*_" else text


def _unquoted(text: str) -> str:
    bare = text.rstrip(", ;")
    for opening, closing in map(tuple, _QUOTES):
        inner = bare[1:-1]
        if (
            len(bare) > 2
            and bare[0] == opening
            and bare[-1] == closing
            and opening not in inner.replace(f"\\{opening}", "")
        ):
            return inner.replace('\\"', '"').strip()
    return text.rstrip(" ,;")


def _one_line(text: str) -> str:
    """Compose characters, drop chat marks and what cannot be seen, and put single spaces."""
    text = _CHAT_MARK.sub(" ", unicodedata.normalize("NFC", text))
    # Zero-width joiners belong to the spelling of Persian and of Indian scripts, and to emoji.
    seen = (
        c if c in "\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"} else " " for c in text
    )
    return " ".join("".join(seen).split())
