"""Checks what the parts answer, so that a mistake in one of your own is named and never becomes a number.

A broadcast, a cast or a NaN would otherwise go on quietly: a NaN chooses column 0 and pays NaN, and a float id is
cut to another prompt. Every check is one pass over an array; text and pictures of a turn are read once more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pasta_gym.types import FloatArray, Images, IntArray

CANDIDATE_GENERATOR, IMAGE_GENERATOR = "the candidate generator", "the image generator"
TEXT_ENCODER, USER_MODEL = "the text encoder", "the user model"
# Scores of half precision may pass 0 and 1 by a rounding.
_ROUNDING = 1e-3


def checked_proposal(proposal: Any, n: int, n_candidates: int, n_categories: int) -> tuple[IntArray, IntArray]:
    """Return the ids and categories of a candidate generator.

    Args:
        proposal: What ``propose`` returned.
        n: Conversations that it was asked about.
        n_candidates: L_C.
        n_categories: Number of categories.

    Raises:
        ValueError: If they are not two integer arrays ``(n, n_candidates)``, or a category does not exist.
    """
    if not isinstance(proposal, tuple | list) or len(proposal) != 2:
        raise ValueError(
            f"{CANDIDATE_GENERATOR} must return ids and categories, two arrays, got {type(proposal).__name__}"
        )
    expected = (n, n_candidates)
    ids, categories = _integers(proposal[0], "ids", expected), _integers(proposal[1], "categories", expected)
    if categories.min() < 0 or categories.max() >= n_categories:
        raise ValueError(
            f"{CANDIDATE_GENERATOR} must return categories in 0..{n_categories - 1}, got "
            f"{categories.min()}..{categories.max()}; they are places in its category_titles"
        )
    return ids, categories


def checked_images(images: Any, n: int, n_images: int, dim: int) -> Images:
    """Return the pictures of an image generator.

    Args:
        images: What ``generate`` returned.
        n: Prompts that it was asked for.
        n_images: M, pictures of each.
        dim: d, its ``embedding_dim``.

    Raises:
        ValueError: If they are no ``Images`` with finite embeddings ``(n, M, d)`` and, if any, uint8 pixels
            ``(n, M, height, width, 3)``.
    """
    if not isinstance(images, Images):
        raise ValueError(f"{IMAGE_GENERATOR} must return pasta_gym.types.Images, got {type(images).__name__}")
    embeddings = checked_numbers(images.embeddings, (n, n_images, dim), IMAGE_GENERATOR, "embeddings")
    pixels = images.pixels
    if pixels is not None:
        found = (np.shape(pixels)[:2], np.shape(pixels)[4:], np.ndim(pixels), getattr(pixels, "dtype", None))
        if found != ((n, n_images), (3,), 5, np.uint8):
            raise ValueError(
                f"{IMAGE_GENERATOR} must return pixels of shape {(n, n_images)} + (height, width, 3) and type uint8, "
                f"got shape {np.shape(pixels)} and type {found[-1]}"
            )
    return images if embeddings is images.embeddings else Images(embeddings, pixels)


def checked_numbers(numbers: Any, shape: tuple[int | None, ...], part: str, what: str) -> FloatArray:
    """Return embeddings, features or logits of a part.

    Args:
        numbers: What the part returned.
        shape: The expected shape, None where any size will do.
        part: Who returned it.
        what: What it is.

    Raises:
        ValueError: If it is no array of finite floating-point numbers of that shape.
    """
    array = np.asarray(numbers)
    if array.ndim != len(shape) or any(s not in (None, d) for s, d in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"{part} must return {what} of shape ({wanted}), got {array.shape}")
    if array.dtype.kind != "f":
        raise ValueError(f"{part} must return {what} as floating-point numbers, got {array.dtype}; use float32")
    if not _is_finite(array):
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise ValueError(f"{part} must return finite {what}, got {count} of {array.size} that are NaN or infinite")
    return array


def checked_utilities(utilities: Any, shape: tuple[int, int]) -> FloatArray:
    """Return the utilities ``(n, L)`` of a user model.

    Raises:
        ValueError: If they are no finite floating-point numbers of that shape in [0, 1].
    """
    found = checked_numbers(utilities, shape, USER_MODEL, "utilities")
    low, high = found.min(), found.max()
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"{USER_MODEL} must return utilities in [0, 1], got {low:.3g}..{high:.3g}; a reward is ten times a utility"
        )
    return found


def _integers(values: Any, what: str, shape: tuple[int, int]) -> IntArray:
    array = np.asarray(values)
    if array.shape != shape:
        raise ValueError(f"{CANDIDATE_GENERATOR} must return {what} of shape {shape}, got {array.shape}")
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:
        raise ValueError(f"{CANDIDATE_GENERATOR} must return {what} as int64, got {array.dtype}")
    return array


def _is_finite(array: FloatArray) -> bool:
    """Whether all numbers are finite; a sum of squares is one pass, and is finite only if they are."""
    flat = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(flat, flat)
    return bool(np.isfinite(squares)) or bool(np.isfinite(array).all())
