"""What pictures show where their prompts say nothing: a subject's usual look, or anything."""

from __future__ import annotations

import numpy as np

from pasta_gym.mini.grammar import ATTRIBUTES, CARDINALITIES, N_SLOTS, SETTING, SUBJECT, hash01, is_held_out
from pasta_gym.types import IntArray


def default_values() -> IntArray:
    """The usual look of each subject: ``(13, 6)`` values that fill what a prompt leaves unsaid.

    Row 0, of abstract prompts, is unused for the subject and is filled at random by ``fill_unset``.
    """
    table = np.zeros((CARDINALITIES[SUBJECT], N_SLOTS), dtype=np.int64)
    for subject in range(CARDINALITIES[SUBJECT]):
        table[subject, SUBJECT] = subject
        for slot in ATTRIBUTES:
            n = CARDINALITIES[slot] - 1
            step = 0
            while True:
                draw = hash01(np.array(subject * 97 + slot * 13 + step * 1009), salt=37)
                table[subject, slot] = 1 + int(draw * n)
                # The defaults must not show what is held out.
                if slot != SETTING or not bool(is_held_out(table[subject])):
                    break
                step += 1
    return table


_DEFAULTS = default_values()
DEFAULT_SHARE = 0.5


def fill_unset(values: IntArray, rng: np.random.Generator, *, avoid_held_out: bool = True) -> IntArray:
    """Fill what prompts leave unsaid: the subject's usual look half of the time, else any value.

    Args:
        values: ``(n, 6)`` slot values, 0 where unset.
        rng: Source of randomness.
        avoid_held_out: Whether to redraw fillings that show a held-out triple which the prompt did not name.

    Returns:
        ``(n, 6)`` values without zeros.
    """
    filled = np.array(values, dtype=np.int64)
    todo = np.arange(len(filled))
    for _ in range(100):
        v = np.array(values[todo], dtype=np.int64)
        any_value = np.stack([rng.integers(1, c, size=len(v)) for c in CARDINALITIES], axis=1)
        v[:, SUBJECT] = np.where(v[:, SUBJECT] == 0, any_value[:, SUBJECT], v[:, SUBJECT])
        usual = np.where(rng.random(v.shape) < DEFAULT_SHARE, _DEFAULTS[v[:, SUBJECT]], any_value)
        v = np.where(v == 0, usual, v)
        filled[todo] = v
        if not avoid_held_out:
            break
        clash = is_held_out(v) & ~is_held_out(values[todo])
        todo = todo[clash]
        if not len(todo):
            break
    return filled
