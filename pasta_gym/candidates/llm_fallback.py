"""Prompts by rule, for what a language model failed to write: always enough, distinct, and within the budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from pasta_gym.candidates.llm_grid import Grid, sameness
from pasta_gym.candidates.llm_prompt import ConversationText
from pasta_gym.candidates.llm_words import count_words, cut_words
from pasta_gym.prompt_books import normalise
from pasta_gym.seeding import mix, uniforms
from pasta_gym.types import CandidateGenerator, History, IntArray, PromptBook

Preferred: TypeAlias = Callable[[ConversationText, int], list[tuple[str, str]]]
"""Titles and prompts, one pair a candidate, of a generator that comes with a world, for a conversation and a key."""

_THEMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Light", ("golden hour", "moonlight", "candlelight", "overcast", "backlit", "neon", "sunrise", "dusk", "shadowy")),
    ("Color", ("pastel", "monochrome", "vivid", "muted", "sepia", "jewel tones", "turquoise", "crimson", "earthy")),
    ("Setting", ("seaside", "forest", "rooftop", "desert", "snowfield", "garden", "meadow", "harbor", "mountains")),
    ("Composition", ("close-up", "wide shot", "bird's-eye view", "silhouette", "centered", "symmetrical", "panorama",
                     "low angle", "minimalist")),
    ("Style", ("watercolor", "oil painting", "photograph", "woodcut", "charcoal", "art deco", "mosaic", "sculpture",
               "collage")),
    ("Mood", ("serene", "dramatic", "playful", "mysterious", "melancholic", "festive", "epic", "cozy", "eerie")),
    ("Texture", ("misty", "glossy", "weathered", "velvety", "grainy", "crystalline", "feathery", "rusted", "woven")),
)  # fmt: skip
_REPHRASING = ("imagined as {}", "a dream of {}", "in the spirit of {}", "a study of {}", "a scene of {}",
               "a vision of {}", "the essence of {}", "a tale of {}", "an echo of {}")  # fmt: skip

MAX_PROMPTS = 60
"""Most candidates of a proposal: there are 63 modifiers, and a budget of one word takes one for each of them."""


def embedded_candidates(generator: CandidateGenerator, book: PromptBook) -> Preferred:
    """Make a world's own generator a fallback, for prompts that the world's own book can read.

    Args:
        generator: Such as ``EditCandidates``.
        book: The book of its ids; ``parse`` raises ValueError for prompts of other words, which the rules then treat.
    """

    def propose(conversation: ConversationText, key: int) -> list[tuple[str, str]]:
        try:
            chosen = book.parse(conversation.chosen_prompt)
        except ValueError:
            return []
        try:
            initial = book.parse(conversation.initial_prompt)
        except ValueError:
            initial = chosen
        ids, categories = generator.propose(_alone(initial, chosen, len(conversation.turns), conversation.horizon, key))
        titles = [generator.category_titles[c] for c in categories[0]]
        return list(zip(titles, book.texts(ids[0]), strict=True))

    return propose


def _alone(initial: int, chosen: int, turns: int, horizon: int, key: int) -> History:
    """A history of one conversation, for generators that look at its last prompt; its slates are not known."""
    unknown: IntArray = np.full((1, horizon, 1), -1, dtype=np.int64)
    return History(
        initial_prompts=np.array([initial]),
        slates=unknown,
        choices=unknown[..., 0],
        chosen_prompts=np.array([chosen]),
        turns=np.array([turns]),
        keys=np.array([key], dtype=np.uint64),
        horizon=horizon,
    )


def completed(grid: Grid, conversation: ConversationText, key: int, preferred: Preferred | None = None) -> Grid:
    """Fill the places of a grid that are still empty.

    Args:
        grid: At most ``MAX_PROMPTS`` places.
        conversation: Whose candidates they are.
        key: Random key: equal arguments, equal prompts.
        preferred: Asked first; rules do the rest.

    Returns:
        A full grid of distinct prompts within the budget, none of them the chosen one.
    """
    taken = {sameness(p) for p in [conversation.chosen_prompt, *itertools.chain(*grid.prompts)]}
    offered = preferred(conversation, key) if preferred is not None and not grid.is_full else []
    offers = [(title, p) for title, p in offered if count_words(p) <= conversation.max_words]
    for row in range(len(grid.prompts)):
        is_last = row == len(grid.prompts) - 1 > 0
        titles = list(dict.fromkeys(title for title, _ in offers))
        # The world's categories in their order, the last of them, which rephrases, for the last row.
        own = titles[-1 if is_last else row : None if is_last else row + 1]
        rules = _by_rule(conversation, key, row, is_last)
        source = itertools.chain((o for o in offers if o[0] in own), rules)
        while len(grid.prompts[row]) < grid.n_per_category:
            title, prompt = next(source)
            if sameness(prompt) not in taken:
                taken.add(sameness(prompt))
                grid = grid.with_prompt(row, prompt, title)
    return grid


def _by_rule(conversation: ConversationText, key: int, row: int, is_last: bool) -> Iterator[tuple[str, str]]:
    """Titles and prompts without end, as far as the budget leaves room for distinct ones."""
    prompt, budget = normalise(conversation.chosen_prompt), conversation.max_words
    if is_last:
        for frame in _shuffled(_REPHRASING, key, row):
            room = budget - count_words(frame.format("").strip())
            if room >= 1 and count_words(prompt) <= room:
                yield "Rephrasing", frame.format(prompt)
    own, words = _THEMES[row % len(_THEMES)]
    title = "Rephrasing" if is_last else own
    others = [word for _, theme in _THEMES for word in theme]
    singles = list(dict.fromkeys([*_shuffled(words, key, row), *_shuffled(others, key, row)]))
    for modifier in singles:
        if count_words(modifier) <= budget:
            yield title, _with_modifier(prompt, modifier, budget)
    # Two-word modifiers do not fit a budget of one word; their first word does.
    for modifier in singles:
        yield title, _with_modifier(prompt, cut_words(modifier, budget), budget)
    for first, second in itertools.permutations(singles, 2):
        yield title, _with_modifier(prompt, cut_words(f"{first}, {second}", budget), budget)


def _with_modifier(prompt: str, modifier: str, budget: int) -> str:
    """Put a modifier after a prompt, of which as many words go as the budget does not hold."""
    for room in range(budget - count_words(modifier), 0, -1):
        begin = cut_words(prompt, room).rstrip(" ,.;:")
        whole = f"{begin}, {modifier}" if begin else modifier
        if count_words(whole) <= budget:  # the comma can make two words of a very long one
            return whole
    return modifier


def _shuffled(words: tuple[str, ...] | list[str], key: int, row: int) -> list[str]:
    luck = uniforms(mix(key, row, np.arange(len(words))))
    return [words[i] for i in np.argsort(luck)]
