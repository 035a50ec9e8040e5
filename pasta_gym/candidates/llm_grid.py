"""The grid that answers fill: so many categories of so many prompts, all distinct. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pasta_gym.candidates.llm_parser import Category, Parsed

_REPHRASES = re.compile(
    r"re-?(?:phras|word|imagine|imagining|interpret|stat|think)|paraphras|anew|very different|alternative", re.I
)


def sameness(prompt: str) -> str:
    """Return what is the same for two prompts that differ in case, spaces and punctuation only."""
    return " ".join(re.sub(r"[\W_]+", " ", prompt.casefold()).split())


@dataclass(frozen=True)
class Grid:
    """Accepted candidates.

    Attributes:
        titles: A title for each category, "" while it has none.
        prompts: Its prompts, at most ``n_per_category``.
        n_per_category: How many it must have.
    """

    titles: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    n_per_category: int

    @classmethod
    def empty(cls, n_categories: int, n_per_category: int) -> Grid:
        """Return a grid without prompts."""
        return cls(("",) * n_categories, ((),) * n_categories, n_per_category)

    @property
    def n_prompts(self) -> int:
        """How many places are filled."""
        return sum(map(len, self.prompts))

    @property
    def is_full(self) -> bool:
        """Whether nothing is missing."""
        return self.n_prompts == len(self.prompts) * self.n_per_category

    def filled(self, parsed: Parsed, *, exclude: Iterable[str] = ()) -> Grid:
        """Take what an answer adds.

        A category goes to the row of its title, else to the first row that is empty, else to the first that lacks
        prompts; one that says it rephrases goes to the last row. Of surplus categories the fullest stay; surplus
        prompts and prompts that are like an accepted one are dropped.

        Args:
            parsed: The answer.
            exclude: Prompts that are no candidates, such as the chosen one.
        """
        taken = {sameness(prompt) for prompt in [*exclude, *(p for row in self.prompts for p in row)]}
        categories = _distinct(parsed.categories, taken)
        titles, rows = list(self.titles), [list(row) for row in self.prompts]
        for category, row in _placed(categories, titles, rows, self.n_per_category):
            titles[row] = titles[row] or category.title
            rows[row].extend(category.prompts[: self.n_per_category - len(rows[row])])
        return Grid(tuple(titles), tuple(map(tuple, rows)), self.n_per_category)

    def with_prompt(self, row: int, prompt: str, title: str) -> Grid:
        """Return the grid with one more prompt in a row; the title is used if the row has none."""
        titles, rows = list(self.titles), list(self.prompts)
        titles[row] = titles[row] or title
        rows[row] = (*rows[row], prompt)
        return Grid(tuple(titles), tuple(rows), self.n_per_category)


def _distinct(categories: Iterable[Category], taken: set[str]) -> list[Category]:
    """Drop prompts that are like earlier ones, and categories that are left empty."""
    kept = []
    for category in categories:
        prompts = []
        for prompt in category.prompts:
            same = sameness(prompt)
            if same and same not in taken:
                taken.add(same)
                prompts.append(prompt)
        if prompts:
            kept.append(Category(category.title, tuple(prompts)))
    return kept


def _placed(
    categories: Sequence[Category], titles: Sequence[str], rows: Sequence[Sequence[str]], n_per_category: int
) -> list[tuple[Category, int]]:
    """Give each category a row that lacks prompts; those without a row are dropped."""
    free = [r for r, row in enumerate(rows) if len(row) < n_per_category]
    by_title = {sameness(titles[r]): r for r in reversed(free) if titles[r]}
    placed: list[tuple[Category, int]] = []
    rest: list[Category] = []
    for category in categories:
        row = by_title.get(sameness(category.title)) if category.title else None
        if row in free:
            placed.append((category, row))
            free.remove(row)
        else:
            rest.append(category)
    by_size = sorted(range(len(rest)), key=lambda i: -min(len(rest[i].prompts), n_per_category))
    rest = [rest[i] for i in sorted(by_size[: len(free)])]
    last = len(rows) - 1
    if last in free and not rows[last] and len(rows) > 1:
        anew = next((c for c in rest if _REPHRASES.search(c.title)), None)
        if anew is not None:
            placed.append((anew, last))
            rest.remove(anew)
            free.remove(last)
    free.sort(key=lambda r: (bool(rows[r]), r))
    return placed + list(zip(rest, free, strict=False))
