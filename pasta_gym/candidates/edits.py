"""Proposes edits of the last chosen prompt: the mini world's stand-in for a language model (section 3.1).

A candidate sets or replaces one or two slots of the prompt, in one of five named categories; rephrasings use
other words as well. Which slots a category may touch is chosen so that no two candidates of a proposal can be
the same: only setting edits touch the setting, only style edits the style, only composition edits the
composition, and only rephrasings change the wording.
"""

from __future__ import annotations

import numpy as np

from pasta_gym.candidates.word_budget import word_budget
from pasta_gym.mini import grammar
from pasta_gym.mini.grammar import COMPOSITION, LIGHT, PALETTE, SETTING, STYLE, SUBJECT
from pasta_gym.seeding import integers, mix, uniforms
from pasta_gym.types import BoolArray, History, IntArray, UInt64Array

CATEGORY_TITLES = ("Light and color", "Setting", "Style", "Composition", "Rephrasing")
MAX_PER_CATEGORY = 5

_CARDINALITIES = np.array(grammar.CARDINALITIES, dtype=np.int64)
_N_VALUES = int(_CARDINALITIES.max()) - 1
_ATTRIBUTES = np.array(grammar.ATTRIBUTES, dtype=np.int64)
_MAIN_SLOTS = (LIGHT, SETTING, STYLE, COMPOSITION)
# What a random number of a proposal is for.
_ORDER, _COMPANION, _REDRAW, _PHRASING, _REPAIR, _SWAP = range(6)

# Sets of a slot's values are bit masks, bit v - 1 for value v: what may be drawn is then looked up in small tables.
_BITS = 1 << np.arange(_N_VALUES, dtype=np.int64)
_MEMBERS: BoolArray = (np.arange(1 << _N_VALUES)[:, None] & _BITS) > 0  # (4096, 12): which values a mask holds
_SIZES: IntArray = _MEMBERS.sum(axis=-1)
# (4096, 12): a mask's values in order, then those it does not hold. The empty mask starts with 1.
_RANKED: IntArray = np.argsort(~_MEMBERS, axis=-1, kind="stable") + 1


def _masks(members: BoolArray) -> IntArray:
    """Write sets ``(..., n)`` of the values 1..n as masks, ``(...)``."""
    masks: IntArray = members @ _BITS[: members.shape[-1]]
    return masks


def _other_values() -> IntArray:
    """Masks of the values that a slot may take and does not have, ``(6, 13)`` by slot and value."""
    values = np.arange(1, _N_VALUES + 1)
    exists = values < _CARDINALITIES[:, None]
    return _masks(exists[:, None] & (values != np.arange(_N_VALUES + 1)[:, None]))


def _held_out_values() -> IntArray:
    """Masks of the values that would bring about a held-out triple.

    Returns:
        ``(6, 13, 7, 7)`` by slot, subject, style and setting; a slot's own entry does not matter.
    """
    shape = (_CARDINALITIES[SUBJECT], _CARDINALITIES[STYLE], _CARDINALITIES[SETTING])
    values = np.zeros((*shape, grammar.N_SLOTS), dtype=np.int64)
    values[..., SUBJECT], values[..., STYLE], values[..., SETTING] = np.indices(shape)
    held_out = grammar.is_held_out(values)
    masks = np.zeros((grammar.N_SLOTS, *shape), dtype=np.int64)
    for axis, slot in enumerate((SUBJECT, STYLE, SETTING)):
        masks[slot] = np.expand_dims(_masks(np.moveaxis(held_out, axis, -1)[..., 1:]), axis)
    return masks


_OTHERS = _other_values()
_HELD_OUT = _held_out_values()


class EditCandidates:
    """The mini world's candidate generator.

    Args:
        n_candidates: L_C, how many candidates a proposal has.
        n_categories: How many of the five categories are used, the first ones. Each gets an equal share.
        avoid_held_out: Whether edits never bring about a (subject, style, setting) triple that nothing is
            trained on. Set in the training split. A prompt that already holds one keeps it.

    Raises:
        ValueError: If the candidates cannot be shared out.
    """

    def __init__(self, n_candidates: int = 25, n_categories: int = 5, *, avoid_held_out: bool = False) -> None:
        if not 1 <= n_categories <= len(CATEGORY_TITLES):
            raise ValueError(f"n_categories must be in 1..{len(CATEGORY_TITLES)}, got {n_categories}")
        share, rest = divmod(n_candidates, n_categories)
        if rest or not 1 <= share <= MAX_PER_CATEGORY:
            allowed = [n_categories * k for k in range(1, MAX_PER_CATEGORY + 1)]
            raise ValueError(f"n_candidates must be one of {allowed} for {n_categories} categories, got {n_candidates}")
        self.n_candidates = n_candidates
        self.n_categories = n_categories
        self.category_titles: tuple[str, ...] = CATEGORY_TITLES[:n_categories]
        self.avoid_held_out = avoid_held_out
        self._share = share

    def propose(self, history: History) -> tuple[IntArray, IntArray]:
        """Propose edits of the chosen prompts.

        Args:
            history: B conversations.

        Returns:
            Prompt ids and categories, ``(B, n_candidates)`` each. The ids of a row differ from each other and
            from the chosen prompt, as far as the word budget leaves enough prompts; each fits the budget.
        """
        prompts = np.asarray(history.chosen_prompts, dtype=np.int64)
        proposals = [
            self._slot_edits(prompts, category, history.keys)
            for category in range(min(self.n_categories, len(_MAIN_SLOTS)))
        ]
        if self.n_categories == len(CATEGORY_TITLES):
            proposals.append(self._rephrasings(prompts, history.keys))
        ids = np.concatenate(proposals, axis=1)
        budget = word_budget(
            grammar.word_counts(history.initial_prompts),
            np.minimum(history.turns + 1, history.horizon),
            history.horizon,
        )
        too_long = grammar.word_counts(ids) > budget[:, None]
        if too_long.any():
            self._repair(ids, too_long, history, budget)
        categories = np.repeat(np.arange(self.n_categories, dtype=np.int64), self._share)
        return ids, np.broadcast_to(categories, ids.shape).copy()

    def _allowed(self, prompts: IntArray, slots: IntArray | int) -> IntArray:
        """Mask of the values that a slot of each prompt may be changed to, ``(...)`` for both."""
        masks: IntArray = _OTHERS[slots, grammar.slot_value(prompts, slots)]
        if self.avoid_held_out:
            subject, style, setting = (grammar.slot_value(prompts, s) for s in (SUBJECT, STYLE, SETTING))
            masks = masks & ~_HELD_OUT[slots, subject, style, setting]
        return masks

    def _orders(self, prompts: IntArray, slots: IntArray | int, keys: UInt64Array) -> tuple[IntArray, IntArray]:
        """Values a slot may be changed to in random order, allowed ones first ``(..., 12)``, and their number."""
        masks = self._allowed(prompts, slots)
        luck = uniforms(mix(keys[..., None], _ORDER, np.arange(_N_VALUES)))
        order: IntArray = np.argsort(np.where(_MEMBERS[masks], luck, 2.0), axis=-1) + 1
        return order, _SIZES[masks]

    def _redraw(self, prompts: IntArray, slots: IntArray | int, keys: UInt64Array) -> IntArray:
        """Change one slot of each prompt ``(...)`` to a random other value."""
        masks = self._allowed(prompts, slots)
        # A slot has at least one other value that is not held out; a test holds the grammar to it.
        drawn = integers(mix(keys, _REDRAW), np.maximum(_SIZES[masks], 1))
        return grammar.with_slot(prompts, slots, _RANKED[masks, drawn])

    def _slot_edits(self, prompts: IntArray, category: int, keys: UInt64Array) -> IntArray:
        """Edits of one slot, half of them with a second one: ``(B,)`` to ``(B, share)``."""
        keys = mix(keys, category)
        if _MAIN_SLOTS[category] == LIGHT:
            return self._light_edits(prompts, keys)
        slot, j = _MAIN_SLOTS[category], np.arange(self._share)
        order, n = self._orders(prompts, slot, mix(keys, slot))
        n = np.maximum(n, 1)[:, None]
        edited = grammar.with_slot(prompts[:, None], slot, np.take_along_axis(order, j % n, axis=1))
        # Where values run out they come round again, each time with another companion value.
        round_ = j // n
        swap = (mix(keys, _SWAP)[:, None] >> np.uint64(63) == 1) & (round_[:, -1:] <= 3)
        first, second = np.where(swap, PALETTE, LIGHT), np.where(swap, LIGHT, PALETTE)
        item_keys = mix(keys[:, None], j)
        with_first = self._redraw(edited, first, item_keys)
        is_paired = uniforms(mix(item_keys, _COMPANION)) < 0.5
        edited = np.where(is_paired & (round_ == 0), with_first, edited)
        if (round_ > 0).any():
            companions, _ = self._orders(prompts, second[:, 0], mix(keys, _COMPANION))
            again = np.take_along_axis(companions, np.maximum(round_ - 1, 0), axis=1)
            edited = np.where(round_ > 0, grammar.with_slot(edited, second, again), edited)
        return edited

    def _light_edits(self, prompts: IntArray, keys: UInt64Array) -> IntArray:
        """Other lights, other palettes, or both: ``(B,)`` to ``(B, share)``."""
        n_lights = self._share * 2 // 5
        lights, _ = self._orders(prompts, LIGHT, mix(keys, LIGHT))
        palettes, _ = self._orders(prompts, PALETTE, mix(keys, PALETTE))
        lit = grammar.with_slot(prompts[:, None], LIGHT, lights[:, :n_lights])
        colored = grammar.with_slot(prompts[:, None], PALETTE, palettes[:, : self._share - n_lights])
        item_keys = mix(keys[:, None], np.arange(self._share - n_lights))
        both = self._redraw(colored, LIGHT, item_keys)
        is_paired = uniforms(mix(item_keys, _COMPANION)) < 0.5
        return np.concatenate([lit, np.where(is_paired, both, colored)], axis=1)

    def _rephrasings(self, prompts: IntArray, keys: UInt64Array) -> IntArray:
        """Other words for the prompt, alone or with one or two changes; for an abstract prompt a subject.

        Returns:
            ``(B, share)`` prompt ids.
        """
        keys = mix(keys, len(_MAIN_SLOTS))
        j = np.arange(self._share)
        item_keys = mix(keys[:, None], j)
        luck = uniforms(mix(keys[:, None], _ORDER, np.arange(len(_ATTRIBUTES))))
        slots = _ATTRIBUTES[np.argsort(luck, axis=1)]
        edited = np.repeat(prompts[:, None], self._share, axis=1)
        # The slots that change: none, the first, the second, the third and fourth, the fifth and first.
        for change, (item, slot) in enumerate([(1, 0), (2, 1), (3, 2), (3, 3), (4, 4), (4, 0)]):
            if item < self._share:
                edited[:, item] = self._redraw(edited[:, item], slots[:, slot], mix(item_keys[:, item], change))
        # Flipping the low bit always changes the subject's word, so the text is never one of another category.
        flips = 1 + 2 * integers(mix(item_keys, _PHRASING), 2)
        ids = grammar.with_phrasing(edited, grammar.phrasings(edited) ^ flips)
        abstract = np.flatnonzero(grammar.slot_value(prompts, SUBJECT) == 0)
        if len(abstract):
            ids[abstract] = self._concretions(prompts[abstract], keys[abstract])
        return ids

    def _concretions(self, prompts: IntArray, keys: UInt64Array) -> IntArray:
        """Rephrasings of abstract prompts: three subjects, and two larger changes under the same concept.

        Returns:
            ``(B, share)`` prompt ids.
        """
        item_keys = mix(keys[:, None], np.arange(self._share))
        n_subjects = min(self._share, 3)
        subjects, _ = self._orders(prompts, SUBJECT, mix(keys, SUBJECT))
        edited = np.repeat(prompts[:, None], self._share, axis=1)
        edited[:, :n_subjects] = grammar.with_slot(edited[:, :n_subjects], SUBJECT, subjects[:, :n_subjects])
        # Pairs of slots that no other category changes together. The third is left out in turn.
        pairs = np.array([[STYLE, SETTING], [SETTING, COMPOSITION], [COMPOSITION, STYLE]])
        start = integers(mix(keys, _SWAP), len(pairs))
        for item in range(n_subjects, self._share):
            pair = pairs[(start + item) % len(pairs)]
            for change in range(2):
                edited[:, item] = self._redraw(edited[:, item], pair[:, change], mix(item_keys[:, item], change))
        drawn = integers(mix(item_keys, _PHRASING), grammar.N_PHRASINGS)
        is_subject = np.arange(self._share) < n_subjects
        return np.where(is_subject, grammar.with_phrasing(edited, drawn), edited)

    def _repair(self, ids: IntArray, too_long: BoolArray, history: History, budget: np.ndarray) -> None:
        """Replace candidates over the word budget in place, by short edits of the same category.

        Where nothing of the category that fits is left, the chosen prompt itself stands in.
        """
        for category in range(self.n_categories):
            columns = slice(category * self._share, (category + 1) * self._share)
            rows = np.flatnonzero(too_long[:, columns].any(axis=1))
            if not len(rows):
                continue
            chosen = history.chosen_prompts[rows]
            pool, valid = self._pool(category, chosen)
            valid &= grammar.word_counts(pool) <= budget[rows][:, None]
            valid &= ~(pool[:, :, None] == np.where(too_long[rows], -1, ids[rows])[:, None, :]).any(axis=-1)
            luck = uniforms(mix(history.keys[rows][:, None], _REPAIR, category, np.arange(pool.shape[1])))
            best = np.argsort(np.where(valid, luck, 2.0), axis=1)[:, : self._share]
            fits = np.take_along_axis(valid, best, axis=1)
            spare = np.where(fits, np.take_along_axis(pool, best, axis=1), chosen[:, None])
            gaps = too_long[rows][:, columns]
            rank = np.maximum(gaps.cumsum(axis=1) - 1, 0)
            ids[rows, columns] = np.where(gaps, np.take_along_axis(spare, rank, axis=1), ids[rows, columns])

    def _pool(self, category: int, chosen: IntArray) -> tuple[IntArray, BoolArray]:
        """List every change of one slot of a category, in the order of the slots.

        Returns:
            ``(B, n)`` prompt ids and whether each is an edit.
        """
        is_rephrasing = category == len(_MAIN_SLOTS)
        if is_rephrasing:
            # The wording alone, then one slot as well. An abstract prompt's concept is its wording.
            flips = np.array([1, 3])
            slots = list(grammar.ATTRIBUTES)
            abstract = grammar.slot_value(chosen, SUBJECT) == 0
        else:
            flips = np.array([0])
            slots = [LIGHT, PALETTE] if category == 0 else [_MAIN_SLOTS[category]]
            abstract = np.zeros(len(chosen), dtype=bool)
        edits = [(chosen[:, None], np.full((len(chosen), 1), is_rephrasing))]
        for slot in slots:
            options = np.arange(1, _CARDINALITIES[slot])
            allowed = _MEMBERS[self._allowed(chosen, slot)][:, : len(options)]
            edits.append((grammar.with_slot(chosen[:, None], slot, options), allowed))
        edited = np.concatenate([e for e, _ in edits], axis=1)[:, :, None]
        valid = np.concatenate([a for _, a in edits], axis=1)
        ids = grammar.with_phrasing(edited, grammar.phrasings(edited) ^ flips).reshape(len(chosen), -1)
        return ids, np.repeat(valid & ~abstract[:, None], len(flips), axis=1)
