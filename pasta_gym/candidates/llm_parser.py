"""Reads the candidates out of whatever a language model answered. Pure, and never an exception for any text.

Models write the same lists in many ways: with numbers, bold titles, "Category 1:", fences, JSON, talk before and after.
So an answer is read in several ways, and the reading that fills most of the wanted grid counts; where nothing
tells titles from prompts, a list is taken in the order that was asked for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pasta_gym.candidates.llm_lines import Line, clean_prompt, clean_title, read_lines, without_thoughts
from pasta_gym.candidates.llm_values import UnfinishedObject, UnfinishedValueError, read_value
from pasta_gym.candidates.llm_words import count_words, cut_at_clause

MAX_CHARACTERS = 100_000
"""What follows is not read: some two hundred times a good answer's length is a model that does not stop."""

_MAX_TITLE_WORDS = 8
_MAX_ITEMS = 2000
_BETWEEN_ITEMS = " - "
_MAX_DEPTH = 6
_TITLE_KEYS = ("title", "category", "name", "category_title", "category_name")
_CATEGORY_KEYS = ("category", "category_title", "category_name")
_SURE_PROMPT_KEYS = ("prompt", "candidate", "new_prompt")
_PROMPT_KEYS = ("prompt", "text", "candidate", "new_prompt", "description", "content")
_NUMBERED_KEY = re.compile(r"(?:(?:prompt|candidate)[ _-]?)?\d{1,2}", re.IGNORECASE)
_PROMPT_COLUMN = re.compile(
    r"(?:(?:new|next|expanded|revised|rewritten) )?(?:prompt|candidate|expansion)s?(?: (?:candidate|expansion|text)s?)?"
    r"(?: ?#?\d{1,2})?",
    re.IGNORECASE,
)
_BETWEEN_JSON = re.compile(r"(?:[\s,;]|```(?:jsonl?\b)?)*+", re.IGNORECASE)
_SEMICOLON = re.compile("[;\uff1b]")
_TITLE_COLUMN = re.compile(r"(?:category|theme|group|title)(?: (?:title|name))?", re.IGNORECASE)

# A reading before cleaning: titles and items as they were written.
_Reading: TypeAlias = list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Category:
    """A title and the prompts under it, clean and within the budget."""

    title: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Parsed:
    """What an answer holds.

    Attributes:
        categories: In the answer's order, none of them empty; as many and as long as the model made them.
        problems: What had to be left out or mended, for the log.
    """

    categories: tuple[Category, ...]
    problems: tuple[str, ...] = ()


def parse(text: str, n_categories: int, n_per_category: int, max_words: int, *, is_truncated: bool = False) -> Parsed:
    """Read an answer.

    A prompt over the budget is cut where a clause ends if at least half of the budget is left, and dropped
    otherwise: cut in the middle of a phrase it would say something else.

    Args:
        text: The answer, any text at all.
        n_categories: How many categories were asked for.
        n_per_category: How many prompts in each.
        max_words: Most words of a prompt.
        is_truncated: Whether the answer stops in the middle; the prompt it stops in is then dropped.
    """
    text = without_thoughts(text[:MAX_CHARACTERS])
    lines = read_lines(text)
    readings = [_json(text), _table(lines), *_line_readings(lines, n_per_category)]
    counts = [min(sum(len(items) for _, items in r), n_categories * n_per_category) for r in readings]
    if 2 * counts[0] < max(counts):
        readings[0] = []  # something small in brackets beside a list
    # Titles first: a reading that takes them for prompts fills one place more for each.
    reading = max(readings, key=lambda r: (any(t for t, _ in r), _filled(r, n_categories, n_per_category)))
    is_of_lines = all(reading is not other for other in readings[:2])
    has_ends = reading is readings[0]  # what is read of JSON had ended, so no prompt of it is half a one
    if n_categories > 1 and sum(bool(items) for _, items in reading) < 2:
        shared_out = _ungrouped(reading, lines, n_categories, n_per_category)
        has_ends &= {item for _, items in shared_out for item in items} <= {i for _, items in reading for i in items}
        reading = max([reading, shared_out], key=lambda r: _filled(r, n_categories, n_per_category))
    on_lines = _lists_on_lines(lines, n_per_category)
    if _filled(on_lines, n_categories, n_per_category) > _filled(reading, n_categories, n_per_category):
        reading, is_of_lines, has_ends = on_lines, True, False
    if is_truncated and not has_ends and reading and reading[-1][1]:
        reading = [*reading[:-1], (reading[-1][0], reading[-1][1][:-1])]
    return _cleaned(reading, max_words, whole=n_per_category if is_of_lines else 0)


def _filled(reading: _Reading, n_categories: int, n_per_category: int) -> int:
    """How many places of the grid a reading fills."""
    counts = sorted((min(len(items), n_per_category) for _, items in reading), reverse=True)
    return sum(counts[:n_categories])


def _cleaned(reading: _Reading, max_words: int, *, whole: int) -> Parsed:
    """Clean every item. A group of fewer than ``whole`` may hold several on one line, whose separators tell."""
    categories: list[Category] = []
    problems: list[str] = []
    for title, items in reading:
        prompts: list[str] = []
        for item in items:
            if len(items) < whole and item.count(_BETWEEN_ITEMS) > 1:
                problems.append(f"several items on one line in {item[:60]!r}")
                continue
            prompt: str | None = clean_prompt(item)
            if not prompt:
                problems.append(f"no prompt in {item[:60]!r}")
                continue
            words = count_words(prompt)
            if words > max_words:
                cut = cut_at_clause(prompt, max_words)
                prompt = clean_prompt(cut) if cut else None
                problems.append(f"{'cut' if prompt else 'dropped'} a prompt of {words} words, {max_words} are allowed")
            if prompt:
                prompts.append(prompt)
        if prompts:
            categories.append(Category(clean_title(title), tuple(prompts)))
    if not categories:
        problems.append("no list of prompts in the answer")
    return Parsed(tuple(categories), tuple(problems))


# Readings of lines


def _line_readings(lines: Sequence[Line], n_per_category: int) -> list[_Reading]:
    """Every way in which lines may be told apart into titles and prompts."""
    marked = [line for line in lines if line.kind]
    bold_is_title = any(not line.is_bold for line in marked if line.kind != "hash")
    by_cues = {
        i
        for i, line in enumerate(lines)
        if line.is_named_category
        or line.ends_like_title
        or (bold_is_title and line.is_bold)
        or (i + 1 < len(lines) and _introduces(line, lines[i + 1]) and not (i and _goes_on(lines[i - 1], line)))
    }
    readings = [_grouped(lines, by_cues)]
    for shape in dict.fromkeys(line.shape for line in marked):
        is_title = [line.shape == shape for line in marked]
        in_a_row = any(a and b for a, b in itertools.pairwise(is_title))
        if not in_a_row and not is_title[-1]:
            readings.append(_grouped(lines, {i for i, line in enumerate(lines) if line.shape == shape}))
    if not marked:
        readings.append(_paragraphs(lines, n_per_category))
    return readings


def _introduces(line: Line, after: Line) -> bool:
    """Whether a line without a mark stands like a title over the list that follows."""
    return (
        not line.kind
        and bool(after.kind)
        and len(line.text.split()) <= _MAX_TITLE_WORDS
        and not line.text.endswith((".", "!", "?"))
    )


def _goes_on(before: Line, line: Line) -> bool:
    """Whether a line without a mark belongs to the item before it."""
    return not line.kind and bool(before.kind) and line.indent > before.indent and not line.after_gap


def _grouped(lines: Sequence[Line], titles: Collection[int]) -> _Reading:
    """Put items under the titles before them, which are given by their places among the lines.

    Lines without a mark go on with the item before if they are indented, unless they are wholly emphasised.
    """
    reading: _Reading = [("", [])]
    last: Line | None = None
    for i, line in enumerate(lines):
        if i in titles:
            reading.append((line.text, []))
            last = None
        elif line.kind and line.kind != "hash":
            reading[-1][1].append(line.text)
            last = line
        elif last is not None and line.is_note and not last.ends_like_title:
            continue  # what the model thinks of the item
        elif last is not None and line.indent > last.indent and not line.after_gap:
            reading[-1][1][-1] += f" {line.text}"
        else:
            last = None
    return [(title, items) for title, items in reading if items]


def _paragraphs(lines: Sequence[Line], n_per_category: int) -> _Reading:
    """Read paragraphs of bare lines, each a category; shorter ones are talk."""
    paragraphs: list[list[Line]] = []
    for line in (line for line in lines if not line.text.startswith("|")):
        if line.after_gap or not paragraphs:
            paragraphs.append([])
        paragraphs[-1].append(line)
    reading: _Reading = []
    for paragraph in paragraphs:
        texts = [line.text for line in paragraph]
        if len(texts) > n_per_category or paragraph[0].ends_like_title:
            reading.append((texts[0], texts[1:]))
        elif len(texts) == n_per_category > 1:
            reading.append(("", texts))
    return [(title, items) for title, items in reading if items]


def _lists_on_lines(lines: Sequence[Line], n_per_category: int) -> _Reading:
    """Read lines that each hold a whole category, with semicolons: "Light: one; two; three"."""
    reading: _Reading = []
    for line in lines:
        items = [item for item in map(str.strip, _SEMICOLON.split(line.text)) if item]
        if not len(items) >= n_per_category > 1:
            continue
        title, colon, first = items[0].replace("\uff1a", ":").partition(":")
        is_titled = bool(colon) and len(title.split()) <= _MAX_TITLE_WORDS
        reading.append((title, [first, *items[1:]]) if is_titled else ("", items))
    return reading


def _table(lines: Sequence[Line]) -> _Reading:
    """Read the rows of a Markdown table: prompts stand in the columns of that name, else in the longest cell.

    Their title stands in the column of that name, else in the first other cell in words.
    """
    reading: _Reading = []
    above: list[str] = []
    columns: list[int] = []
    title_columns: list[int] = []
    for line in lines:
        cells = [cell.strip() for cell in line.text.strip("|").split("|")]
        if not line.text.startswith("|") or len(cells) < 2:
            continue
        if all(set(cell) <= set("-: ") for cell in cells):
            reading = []  # what stands above this rule are the names of the columns
            columns = [i for i, name in enumerate(above) if _PROMPT_COLUMN.fullmatch(clean_title(name))]
            title_columns = [i for i, name in enumerate(above) if _TITLE_COLUMN.fullmatch(clean_title(name))]
            continue
        above = cells
        prompts = [cells[i] for i in columns if i < len(cells)] or [max(cells, key=len)]
        named = [cells[i] for i in title_columns if i < len(cells)]
        title = next((cell for cell in [*named, *cells] if cell not in prompts and any(map(str.isalpha, cell))), "")
        if not reading or reading[-1][0] != title:
            reading.append((title, []))
        reading[-1][1].extend(prompts)
    return reading


def _ungrouped(reading: _Reading, lines: Sequence[Line], n_categories: int, n_per_category: int) -> _Reading:
    """Share a list without titles out in its order, or one whose titles look just like its prompts."""
    marked = [line.text for line in lines if line.kind and line.kind != "hash"]
    block = n_per_category + 1
    if len(marked) == n_categories * block and n_per_category > 1:
        return [(marked[i], marked[i + 1 : i + block]) for i in range(0, len(marked), block)]
    items = reading[0][1] if reading else []
    starts = range(0, min(len(items), n_categories * n_per_category), n_per_category)
    return [("", items[i : i + n_per_category]) for i in starts]


# JSON, and what is meant to be


def _json(text: str) -> _Reading:
    """Read the first value that holds prompts, wherever it stands, and those that follow it at once."""
    start = -1
    for _ in range(20):
        start = min((i for i in (text.find("{", start + 1), text.find("[", start + 1)) if i >= 0), default=-1)
        if start < 0:
            return []
        try:
            value, end = _value_at(text, start)
        except ValueError:
            continue
        reading = _from_json(value)
        if reading:
            others = _json_values(text, end)
            return _from_json([value, *others]) if others else reading
    return []


def _json_values(text: str, begin: int) -> list[Any]:
    """Read the values that follow one another as in JSON Lines, with nothing but commas or fences between."""
    values: list[Any] = []
    while len(values) < _MAX_ITEMS:
        begin = _BETWEEN_JSON.match(text, begin).end()  # type: ignore[union-attr]
        if not text.startswith(("{", "["), begin):
            break
        try:
            value, begin = _value_at(text, begin)
        except ValueError:
            break
        values.append(value)
    return values


def _value_at(text: str, begin: int) -> tuple[Any, int]:
    """Read a value, or what there is of one that stops in the middle, and where it ends; ValueError without one."""
    try:
        return read_value(text, begin)
    except UnfinishedValueError as error:
        return error.so_far, error.end


def _from_json(value: Any) -> _Reading:
    reading: _Reading = []
    flat = list(_walk("", value, reading, 0))
    return reading + ([("", flat)] if flat else [])


def _walk(title: str, value: Any, reading: _Reading, depth: int) -> Iterable[str]:
    """Gather lists of prompts into the reading; yield the prompts that belong to the caller's list."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value[:_MAX_ITEMS]:
            if isinstance(item, list):
                nested = list(_walk(title, item, reading, depth + 1))
                if nested:
                    reading.append((title, nested))
            else:
                yield from _walk(title, item, reading, depth + 1)
    elif isinstance(value, dict):
        yield from _walk_object(title, value, reading, depth)


def _walk_object(title: str, value: dict[str, Any], reading: _Reading, depth: int) -> Iterable[str]:
    lists = {key: item for key, item in value.items() if isinstance(item, list | dict)}
    named = next((value[key] for key in _TITLE_KEYS if isinstance(value.get(key), str)), None)
    if not lists:
        # Of an object that stops in the middle, a description may be that of a list which was still to come, and so may
        # a row's category.
        is_whole = not isinstance(value, UnfinishedObject)
        prompt_keys = _PROMPT_KEYS if is_whole else _SURE_PROMPT_KEYS
        said = next((value[key] for key in prompt_keys if isinstance(value.get(key), str)), None)
        category = next((value[key] for key in _CATEGORY_KEYS if isinstance(value.get(key), str)), None)
        if said is not None and category is not None and not title:  # a row that names its category, as in a table
            if not reading or reading[-1][0] != category:
                reading.append((category, []))
            reading[-1][1].append(said)
        elif said is not None and reading and not is_whole and not title:
            reading[-1][1].append(said)
        elif said is not None:
            yield said
        elif named is None:
            strings = {key: item for key, item in value.items() if isinstance(item, str)}
            yield from (item for key, item in strings.items() if is_whole or _NUMBERED_KEY.fullmatch(key))
        return
    for key, item in lists.items():
        inner = named or (title if key in {"prompts", "candidates", "categories", "items"} else key)
        prompts = list(_walk(inner, item, reading, depth + 1))
        if prompts:
            reading.append((inner, prompts))
