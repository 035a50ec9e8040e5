"""The temperature of choices as a function of the slate: h(R_1, ..., R_L) of equation 4.

Scores enter through the sorted utilities ``u_(1) <= ... <= u_(L)`` alone, so the order of the columns is forgotten:

    log tau(u) = log base + bottom u_(1) + inner (u_(2) + ... + u_(L-1)) + top u_(L)

Three slopes serve slates of any size. A positive factor keeps the order of the choices that of the utilities, but
raising a column's utility moves tau as well, which may cost the column some of its probability. With ``a`` the slope
at the column's place and ``m`` the mean of the other columns, weighted by their choice probabilities,

    d log p_i / d u_i = tau (1 - p_i) (1 + a (u_i - m)).

Utilities lie in [0, 1], so ``u_i - m`` is in [-1, 1], for the top column in [0, 1] and for the bottom one in [-1, 0].
The derivative is never negative if ``bottom <= 1``, ``-1 <= inner <= 1`` and ``top >= -1``. Slopes are kept there, and
below ``MAX_SLOPE`` in size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MAX_SLOPE = 8.0
"""Size of ``bottom`` and ``top`` past which a slate of distinct utilities has only one temperature of interest."""


class Slopes(NamedTuple):
    """Slopes of log tau in the sorted utilities of a slate; all zero is a constant temperature.

    Attributes:
        bottom: Of the smallest utility, in [-8, 1].
        inner: Of each utility between, in [-1, 1].
        top: Of the largest one, in [-1, 8].
    """

    bottom: float = 0.0
    inner: float = 0.0
    top: float = 0.0


CONSTANT = Slopes()
_LOWEST, _HIGHEST = Slopes(-MAX_SLOPE, -1.0, -1.0), Slopes(1.0, 1.0, MAX_SLOPE)


def check_slopes(slopes: Slopes) -> Slopes:
    """Return the slopes if raising a utility never lowers its own choice probability under them.

    Raises:
        ValueError: If one is outside its range.
    """
    for name, value, low, high in zip(Slopes._fields, slopes, _LOWEST, _HIGHEST, strict=True):
        if not low <= value <= high:
            raise ValueError(
                f"slope {name} must be in [{low:g}, {high:g}], or a better column may be chosen less often; got {value}"
            )
    return slopes


def slate_temperature(
    utilities: torch.Tensor, base: torch.Tensor | float, slopes: torch.Tensor | Slopes
) -> torch.Tensor:
    """Temperature of each slate.

    Args:
        utilities: ``(..., L)`` in [0, 1].
        base: tau of a slate whose utilities are all zero, positive.
        slopes: Three, in the order of ``Slopes``.

    Returns:
        ``(...)`` positive.
    """
    ordered = utilities.sort(dim=-1).values
    exponent = slopes[0] * ordered[..., 0] + slopes[1] * ordered[..., 1:-1].sum(dim=-1) + slopes[2] * ordered[..., -1]
    return base * torch.exp(exponent)


def bounded_slopes(free: torch.Tensor) -> torch.Tensor:
    """Map three free numbers to slopes in their ranges, so that gradient steps cannot leave them."""
    low, high = torch.tensor(_LOWEST).to(free), torch.tensor(_HIGHEST).to(free)
    return low + (high - low) * torch.sigmoid(free)


def free_slopes(slopes: Slopes) -> torch.Tensor:
    """Invert ``bounded_slopes``, up to a thousandth of the range at its ends: ``(3,)``."""
    low, high = torch.tensor(_LOWEST), torch.tensor(_HIGHEST)
    return torch.logit((torch.tensor(check_slopes(slopes)) - low) / (high - low), eps=1e-3)
