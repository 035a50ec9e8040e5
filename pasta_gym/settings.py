"""Refuses settings that cannot work, with their name, their value and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

C = TypeVar("C")


def check_counts(config: Any, *names: str, least: int = 1, note: str = "") -> None:
    """Check settings that count something.

    Args:
        config: Whose attributes they are.
        names: Which.
        least: Smallest that works.
        note: What to say of the smallest.

    Raises:
        ValueError: If one is no integer, or too small.
    """
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}" + (f"; {note}" if note else ""))


def check_whole(config: Any, name: str, least: int, most: int | None = None) -> None:
    """Check a setting that is a whole number in a range.

    Args:
        config: Whose attribute it is.
        name: Which.
        least: Smallest that works.
        most: Largest that works; None is no bound.

    Raises:
        ValueError: If it is no integer or out of range.
    """
    value = getattr(config, name)
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        accepted = f"of {least} or more" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} must be a whole number {accepted}, got {value!r}")


def check_positive(config: Any, *names: str) -> None:
    """Check settings that are finite numbers above 0.

    Raises:
        ValueError: If one is not.
    """
    for name in names:
        if not _number(config, name, "above 0") > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")


def check_not_negative(config: Any, *names: str) -> None:
    """Check settings that are finite numbers of at least 0.

    Raises:
        ValueError: If one is not.
    """
    for name in names:
        if _number(config, name, "of at least 0") < 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(config, name)}")


def part_of(kind: type[C], value: Any, name: str) -> C:
    """Return settings within settings, which a stored card gives as plain values.

    Args:
        kind: Their class.
        value: One of it, or its fields by name.
        name: What the setting is called.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be {kind.__name__} or its fields by name, got {value!r}")
    return kind(**value)


def _number(config: Any, name: str, accepted: str) -> float:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number {accepted}, got {value!r}")
    return float(value)
