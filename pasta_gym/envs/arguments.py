"""Checks what callers pass to ``step`` and ``reset``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pasta_gym.envs.assembly import Parts
from pasta_gym.types import IntArray

OPTIONS = ("prompt", "user_type")


def checked_actions(actions: Any, shape: tuple[int, ...], n_candidates: int) -> IntArray:
    """Return slates as int64.

    Args:
        actions: Indices into the candidates, of the given shape.
        shape: ``(L,)`` or ``(B, L)``.
        n_candidates: L_C.

    Raises:
        ValueError: If the shape, the type or the range is wrong.
    """
    try:
        slates = np.asarray(actions)
    except (TypeError, ValueError) as error:  # ragged
        raise ValueError(f"an action must be integers of shape {shape}, got {actions!r}") from error
    if slates.shape != shape:
        raise ValueError(f"an action must have shape {shape}: one candidate index a column; got shape {slates.shape}")
    if not np.issubdtype(slates.dtype, np.integer):
        raise ValueError(
            f"an action must hold integers, got {slates.dtype}; convert indices with .astype(np.int64) "
            f"(got {slates.reshape(-1)[:8].tolist()})"
        )
    if slates.size and (slates.min() < 0 or slates.max() >= n_candidates):
        raise ValueError(
            f"an action holds indices in 0..{n_candidates - 1}, got {slates.min()}..{slates.max()}; "
            "they point into the observation's candidates"
        )
    return slates.astype(np.int64)


def checked_options(
    options: Mapping[str, Any] | None, parts: Parts, n: int, *, is_vector: bool
) -> tuple[IntArray | None, IntArray | None]:
    """Read the options of ``reset``.

    Args:
        options: ``prompt``, text of the initial prompt, and ``user_type``; for a vector also a list of n each.
        parts: Reads the prompt and knows the types.
        n: Number of conversations.
        is_vector: Whether lists are legal.

    Returns:
        Prompt ids and user types, ``(n,)`` each, or None where nothing is asked for.

    Raises:
        ValueError: If the options are no dictionary, a key is unknown, a prompt cannot be read, a type does not exist
            or a list is too short.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"options must be a dictionary with the keys {OPTIONS}, got {options!r}")
    unknown = sorted(set(options) - set(OPTIONS), key=repr)
    if unknown:
        raise ValueError(f"reset takes the options {OPTIONS}, got {unknown}")
    prompts = user_types = None
    if options.get("prompt") is not None:
        texts = _repeated(options["prompt"], n, "prompt", is_vector=is_vector)
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"the option prompt must be text, got {text!r}")
        ids = {text: parts.world.prompt_book.parse(text) for text in set(texts)}
        prompts = np.array([ids[text] for text in texts], dtype=np.int64)
    if options.get("user_type") is not None:
        given = _repeated(options["user_type"], n, "user_type", is_vector=is_vector)
        n_types = parts.user_model.n_types
        for k in given:
            if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer) or not 0 <= k < n_types:
                raise ValueError(f"the option user_type must be an integer in 0..{n_types - 1}, got {k!r}")
        user_types = np.array(given, dtype=np.int64)
    return prompts, user_types


def _repeated(value: Any, n: int, name: str, *, is_vector: bool) -> list[Any]:
    """Return a list of n values from one value or from n of them."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        return [value] * n
    if not is_vector:
        raise ValueError(f"the option {name} must be one value, got {value!r}")
    values = list(value)
    if len(values) != n:
        raise ValueError(f"the option {name} must be one value or {n} of them, one an environment; got {len(values)}")
    return values
