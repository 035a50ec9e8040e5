"""The language of the mini world: which prompts exist, how they read, and which are held out.

A *canonical prompt* is one value (or none) for each slot: the subject and five attributes. A *prompt id* is
an integer that encodes a canonical prompt and one of four phrasings, so the batched path works on arrays of
integers and text is made only when somebody wants to read it.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

N_PHRASINGS = 4
MAX_INITIAL_WORDS = 10


@dataclass(frozen=True)
class Slot:
    """One dimension of a prompt. ``values[i]`` names value ``i + 1``; value 0 means "not said".

    Attributes:
        name: The dimension's name.
        values: Canonical names of the values.
        phrases: For each value, its two wordings.
    """

    name: str
    values: tuple[str, ...]
    phrases: tuple[tuple[str, str], ...]


def _slot(name: str, **phrases: tuple[str, str]) -> Slot:
    return Slot(name, tuple(phrases), tuple(phrases.values()))


SLOTS: tuple[Slot, ...] = (
    _slot(
        "subject",
        cat=("a cat", "a kitten"),
        fish=("a fish", "a goldfish"),
        butterfly=("a butterfly", "a moth"),
        tree=("a tree", "an oak"),
        flower=("a flower", "a blossom"),
        mushroom=("a mushroom", "a toadstool"),
        house=("a house", "a cottage"),
        castle=("a castle", "a fortress"),
        boat=("a boat", "a sailboat"),
        car=("a car", "an automobile"),
        rocket=("a rocket", "a spaceship"),
        robot=("a robot", "an android"),
    ),
    _slot(
        "palette",
        warm=("warm colors", "fiery reds"),
        cool=("cool colors", "icy blues"),
        pastel=("pastel colors", "soft tints"),
        neon=("neon colors", "electric hues"),
        earthy=("earthy colors", "muted browns"),
        monochrome=("monochrome", "shades of gray"),
    ),
    _slot(
        "light",
        morning=("in the morning", "at dawn"),
        noon=("at noon", "in bright daylight"),
        sunset=("at sunset", "in evening glow"),
        night=("at night", "under the moon"),
    ),
    _slot(
        "style",
        vector=("vector art", "flat illustration"),
        pixel=("pixel art", "retro sprite"),
        watercolor=("watercolor", "aquarelle painting"),
        glass=("stained glass", "leaded window"),
        engraving=("engraving", "line etching"),
        halftone=("halftone", "dotted print"),
    ),
    _slot(
        "setting",
        beach=("on the beach", "by the sea"),
        mountains=("in the mountains", "among snowy peaks"),
        forest=("in the forest", "among pines"),
        city=("in the city", "before a skyline"),
        desert=("in the desert", "between dunes"),
        meadow=("in a meadow", "on open grassland"),
    ),
    _slot(
        "composition",
        centered=("centered", "in the middle"),
        closeup=("close-up", "seen up close"),
        offset=("off to the side", "rule of thirds"),
        framed=("framed", "with a border"),
    ),
)
SLOT_NAMES: tuple[str, ...] = tuple(slot.name for slot in SLOTS)
N_SLOTS = len(SLOTS)
SUBJECT, PALETTE, LIGHT, STYLE, SETTING, COMPOSITION = range(N_SLOTS)
ATTRIBUTES = (PALETTE, LIGHT, STYLE, SETTING, COMPOSITION)
CARDINALITIES: tuple[int, ...] = tuple(len(slot.values) + 1 for slot in SLOTS)
N_CANONICAL = int(np.prod(CARDINALITIES))
N_PROMPTS = N_CANONICAL * N_PHRASINGS
ABSTRACT_CONCEPTS: tuple[str, ...] = ("love", "freedom", "memory", "joy")
_ABSTRACT_PREFIX = "an image of"

# The share of (subject, style, setting) triples that nothing in the mini world is trained on, and the shares
# of the three splits of initial prompts. Changing any of them makes another benchmark.
HELD_OUT_SHARE = 0.12
SPLITS: tuple[str, ...] = ("train", "validation", "test")
_SPLIT_EDGES = (0.70, 0.85)

_STRIDES = np.array([int(np.prod(CARDINALITIES[i + 1 :])) for i in range(N_SLOTS)], dtype=np.int64)


def canonical_ids(values: IntArray) -> IntArray:
    """Encode slot values ``(..., 6)`` as canonical ids ``(...)`` in ``0..N_CANONICAL - 1``."""
    encoded: IntArray = np.asarray(values, dtype=np.int64) @ _STRIDES
    return encoded


# Slot values of every canonical prompt, ``(N_CANONICAL, 6)``: integer division is slow, and looking up is not.
_VALUES = np.stack(np.unravel_index(np.arange(N_CANONICAL), CARDINALITIES), axis=1).astype(np.int8)


def slot_values(prompt_ids: IntArray) -> IntArray:
    """Decode prompt ids ``(...)`` to slot values ``(..., 6)``, 0 where a slot is not said."""
    values: IntArray = _VALUES[np.asarray(prompt_ids, dtype=np.int64) // N_PHRASINGS].astype(np.int64)
    return values


def slot_value(prompt_ids: IntArray, slots: IntArray | int) -> IntArray:
    """Decode one slot of each prompt, ``(...)``; ids and slots are broadcast."""
    value: IntArray = _VALUES[np.asarray(prompt_ids, dtype=np.int64) // N_PHRASINGS, slots].astype(np.int64)
    return value


def with_slot(prompt_ids: IntArray, slots: IntArray | int, values: IntArray | int) -> IntArray:
    """Set one slot of each prompt, ``(...)``; ids, slots and values are broadcast."""
    changes = np.asarray(values, dtype=np.int64) - slot_value(prompt_ids, slots)
    changed: IntArray = prompt_ids + changes * (_STRIDES[slots] * N_PHRASINGS)
    return changed


def with_phrasing(prompt_ids: IntArray, phrasing: IntArray | int) -> IntArray:
    """Set the wording of each prompt, ``(...)``; ids and phrasings are broadcast."""
    changed: IntArray = prompt_ids - phrasings(prompt_ids) + phrasing
    return changed


def phrasings(prompt_ids: IntArray) -> IntArray:
    """Return which of the four wordings each prompt id uses, ``(...)`` in 0..3."""
    result: IntArray = np.asarray(prompt_ids, dtype=np.int64) % N_PHRASINGS
    return result


def prompt_ids(values: IntArray, phrasing: IntArray | int = 0) -> IntArray:
    """Encode slot values ``(..., 6)`` and phrasings ``(...)`` as prompt ids; inverse of the two decoders."""
    encoded: IntArray = canonical_ids(values) * N_PHRASINGS + np.asarray(phrasing, dtype=np.int64)
    return encoded


def _wording(slot: int, phrasing: int) -> int:
    """Even slots follow the phrasing's low bit and odd ones its high bit, so four phrasings mix wordings."""
    return (phrasing >> (slot % 2)) & 1


def prompt_text(prompt_id: int) -> str:
    """Write one prompt id out in words.

    Raises:
        ValueError: If the id is not in ``0..N_PROMPTS - 1``.
    """
    if not 0 <= prompt_id < N_PROMPTS:
        raise ValueError(f"prompt id must be in 0..{N_PROMPTS - 1}, got {prompt_id}")
    values = slot_values(np.array(prompt_id))
    phrasing = int(prompt_id) % N_PHRASINGS
    if values[SUBJECT] == 0:
        head = f"{_ABSTRACT_PREFIX} {ABSTRACT_CONCEPTS[phrasing]}"
    else:
        head = SLOTS[SUBJECT].phrases[values[SUBJECT] - 1][_wording(SUBJECT, phrasing)]

    def phrase(slot: int) -> str:
        return SLOTS[slot].phrases[values[slot] - 1][_wording(slot, phrasing)] if values[slot] else ""

    scene = " ".join(part for part in (head, phrase(SETTING), phrase(LIGHT)) if part)
    return ", ".join(part for part in (scene, phrase(STYLE), phrase(PALETTE), phrase(COMPOSITION)) if part)


def prompt_texts(ids: Sequence[int] | IntArray) -> list[str]:
    """Write prompt ids ``(n,)`` out in words."""
    return [prompt_text(int(i)) for i in ids]


@functools.cache
def _word_counts_of_all() -> NDArray[np.int8]:
    """Words of every prompt, ``(N_PROMPTS,)``."""
    counts = np.zeros((N_CANONICAL, N_PHRASINGS), dtype=np.int8)
    for index, slot in enumerate(SLOTS):
        unset = len(_ABSTRACT_PREFIX.split()) + 1 if index == SUBJECT else 0
        rows = [[unset] * N_PHRASINGS]
        rows += [[len(pair[_wording(index, p)].split()) for p in range(N_PHRASINGS)] for pair in slot.phrases]
        counts += np.array(rows, dtype=np.int8)[_VALUES[:, index]]
    return counts.reshape(-1)


def word_counts(ids: IntArray) -> IntArray:
    """Count the words of each prompt without writing it out, ``(...)``."""
    counts: IntArray = _word_counts_of_all()[np.asarray(ids, dtype=np.int64)].astype(np.int64)
    return counts


def vocabulary() -> tuple[str, ...]:
    """Every word a prompt can hold, sorted."""
    texts = [p for slot in SLOTS for pair in slot.phrases for p in pair]
    texts += [_ABSTRACT_PREFIX, *ABSTRACT_CONCEPTS]
    return tuple(sorted({word for text in texts for word in words(text)}))


def words(text: str) -> list[str]:
    """Split text into lower-case words; commas and full stops separate, hyphens stay."""
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def _typed_words(text: str) -> list[str]:
    """Split what a person typed: as ``words``, but digits and letters of other alphabets are words too."""
    return re.findall(r"[^\W_]+(?:-[^\W_]+)*", text.lower())


_FILLERS = frozenset({"a", "an", "the", "of", "with", "and", "in", "at", "image", "picture"})


def _phrase_index() -> dict[tuple[str, ...], list[tuple[int, int, int]]]:
    index: dict[tuple[str, ...], list[tuple[int, int, int]]] = {}
    for s, slot in enumerate(SLOTS):
        for v, pair in enumerate(slot.phrases):
            for wording, text in enumerate(pair):
                tokens = tuple(w for w in words(text) if w not in _FILLERS)
                index.setdefault(tokens, []).append((s, v + 1, wording))
    for phrasing, concept in enumerate(ABSTRACT_CONCEPTS):
        index[(concept,)] = [(-1, 0, phrasing)]
    return index


_PHRASES = _phrase_index()
_LONGEST_PHRASE = max(len(k) for k in _PHRASES)


def parse_prompt(text: str) -> int:
    """Read a prompt written by a person.

    Args:
        text: Words of the grammar in any order and either wording, with or without articles and commas.

    Returns:
        The prompt id; its phrasing is the one that agrees with most of the wordings used.

    Raises:
        ValueError: If a word is unknown (the message lists close ones) or only part of a phrase (it lists those
            phrases), two values of one dimension are named, or the text is empty.
    """
    tokens = [w for w in _typed_words(text) if w not in _FILLERS]
    if not tokens:
        raise ValueError(f"the prompt {text!r} says nothing; try {prompt_text(prompt_ids_of('cat'))!r}")
    values = np.zeros(N_SLOTS, dtype=np.int64)
    votes = np.zeros(N_PHRASINGS, dtype=np.int64)
    concept: int | None = None
    position = 0
    while position < len(tokens):
        for length in range(min(_LONGEST_PHRASE, len(tokens) - position), 0, -1):
            found = _PHRASES.get(tuple(tokens[position : position + length]))
            if found:
                break
        else:
            raise ValueError(_unknown_word(tokens[position], text))
        slot, value, wording = found[0]
        if slot < 0:
            if concept not in (None, wording):
                raise ValueError(
                    f"the prompt {text!r} names two abstract concepts: {ABSTRACT_CONCEPTS[concept]!r} and "
                    f"{ABSTRACT_CONCEPTS[wording]!r}; keep one"
                )
            concept = wording
        else:
            if values[slot] not in (0, value):
                was = SLOTS[slot].values[values[slot] - 1]
                raise ValueError(
                    f"the prompt {text!r} names two values of {SLOTS[slot].name}: {was!r} and "
                    f"{SLOTS[slot].values[value - 1]!r}; keep one"
                )
            values[slot] = value
            votes += [_wording(slot, p) == wording for p in range(N_PHRASINGS)]
        position += length
    if concept is not None and values[SUBJECT]:
        raise ValueError(f"the prompt {text!r} names both a subject and an abstract concept; keep one")
    phrasing = concept if concept is not None else int(votes.argmax())
    return int(prompt_ids(values, phrasing))


def prompt_ids_of(*names: str, phrasing: int = 0) -> int:
    """Prompt id of value names, as in ``prompt_ids_of("cat", "night")``.

    Raises:
        ValueError: If a name is no slot's value, two names are values of one slot, or the phrasing is not in 0..3.
    """
    if not 0 <= phrasing < N_PHRASINGS:
        raise ValueError(f"phrasing must be in 0..{N_PHRASINGS - 1}, got {phrasing}")
    values = np.zeros(N_SLOTS, dtype=np.int64)
    for name in names:
        for s, slot in enumerate(SLOTS):
            if name in slot.values:
                if values[s]:
                    was = slot.values[values[s] - 1]
                    raise ValueError(f"{was!r} and {name!r} are both values of {slot.name}; keep one")
                values[s] = slot.values.index(name) + 1
                break
        else:
            known = sorted(v for slot in SLOTS for v in slot.values)
            raise ValueError(f"{name!r} is no value of the grammar; values: {', '.join(known)}")
    return int(prompt_ids(values, phrasing))


def _unknown_word(word: str, text: str) -> str:
    """Say what is wrong with a word that starts no phrase of the grammar."""
    known = vocabulary()
    if word in known:
        phrases = [p for slot in SLOTS for pair in slot.phrases for p in pair if word in words(p)]
        return (
            f"the word {word!r} in the prompt {text!r} stands in the mini world's grammar only within a phrase: write "
            f"{' or '.join(map(repr, phrases))}"
        )
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"known words: {', '.join(known)}"
    return f"the word {word!r} in the prompt {text!r} is not in the mini world's grammar; {hint}"


def hash01(numbers: IntArray, salt: int) -> NDArray[np.float64]:
    """Hash integers to [0, 1), the same on every machine (the splitmix64 finaliser)."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64(salt) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    result: NDArray[np.float64] = (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return result


def is_held_out(values: IntArray) -> NDArray[np.bool_]:
    """Whether prompts ``(..., 6)`` hold a (subject, style, setting) triple that nothing is trained on."""
    v = np.asarray(values, dtype=np.int64)
    triple = (v[..., SUBJECT] * CARDINALITIES[STYLE] + v[..., STYLE]) * CARDINALITIES[SETTING] + v[..., SETTING]
    complete = (v[..., SUBJECT] > 0) & (v[..., STYLE] > 0) & (v[..., SETTING] > 0)
    result: NDArray[np.bool_] = complete & (hash01(triple, salt=11) < HELD_OUT_SHARE)
    return result


def initial_prompt_ids(split: str) -> IntArray:
    """List the initial prompts of a split: a subject or a concept and at most two attributes.

    All phrasings of one canonical prompt are in the same split, except that the abstract prompts with
    nothing else said belong to every split.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Returns:
        ``(n,)`` prompt ids, sorted; each has at most ten words.

    Raises:
        ValueError: If the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    canonical = np.arange(N_CANONICAL, dtype=np.int64)
    values = slot_values(canonical * N_PHRASINGS)
    n_attributes = (values[:, 1:] > 0).sum(axis=1)
    wanted = n_attributes <= np.where(values[:, SUBJECT] > 0, 2, 1)
    draw = hash01(canonical, salt=23)
    of_split = np.digitize(draw, _SPLIT_EDGES) == SPLITS.index(split)
    nothing_said = canonical == 0
    wanted &= of_split | nothing_said
    if split == "train":
        wanted &= ~is_held_out(values)
    ids = (canonical[wanted][:, None] * N_PHRASINGS + np.arange(N_PHRASINGS)).reshape(-1)
    kept: IntArray = ids[word_counts(ids) <= MAX_INITIAL_WORDS]
    return kept


def sample_values(n: int, rng: np.random.Generator, *, set_probability: float = 0.6) -> IntArray:
    """Draw canonical prompts for training: every slot set independently, no held-out triple.

    Args:
        n: How many.
        rng: Source of randomness.
        set_probability: Chance that an attribute is said (a subject is said nine times in ten).

    Returns:
        ``(n, 6)`` slot values.
    """
    rows: list[IntArray] = []
    count = 0
    while count < n:
        v = np.stack([rng.integers(1, c, size=n) for c in CARDINALITIES], axis=1)
        keep = rng.random((n, N_SLOTS)) < set_probability
        keep[:, SUBJECT] = rng.random(n) < 0.9
        v = np.where(keep, v, 0)
        v = v[~is_held_out(v)]
        rows.append(v)
        count += len(v)
    sampled: IntArray = np.concatenate(rows)[:n]
    return sampled
