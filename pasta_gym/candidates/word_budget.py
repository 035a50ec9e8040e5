"""How many words a candidate may have at each turn (appendix E.2)."""

from __future__ import annotations

import numpy as np

from pasta_gym.types import FloatArray, IntArray

MAX_WORDS = 62


def word_budget(initial_words: IntArray, turns: IntArray, horizon: int, *, max_words: int = MAX_WORDS) -> FloatArray:
    r"""Words allowed at a turn: :math:`N^t = N^{t-1} + (N_{max} - N^{t-1}) \, t / H`.

    The printed formula has lost its plus sign; with it the budget ends at exactly ``max_words``, as the text
    says. The gap to the maximum shrinks by the factor :math:`1 - t / H` at turn t, which gives a closed form.

    Args:
        initial_words: ``(B,)`` words of the initial prompts, :math:`N^0`.
        turns: ``(B,)`` turns t in 0..horizon.
        horizon: H.
        max_words: :math:`N_{max}`.

    Returns:
        ``(B,)`` budgets, not rounded.

    Raises:
        ValueError: If the horizon is under 1 or a turn is out of range.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if np.min(turns) < 0 or np.max(turns) > horizon:
        raise ValueError(f"turns must be in 0..{horizon}, got {np.min(turns)}..{np.max(turns)}")
    gaps = np.concatenate([[1.0], np.cumprod(1 - np.arange(1, horizon + 1) / horizon)])
    budget: FloatArray = max_words - (max_words - np.asarray(initial_words)) * gaps[turns]
    return budget
