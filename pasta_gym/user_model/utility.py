"""The utility of a column of images: an aggregate of its scores (equation 3)."""

from __future__ import annotations

import torch

AGGREGATORS: tuple[str, ...] = ("mean", "max", "softmax")


def check_aggregator(name: str) -> str:
    """Return ``name`` if it is an aggregator.

    Raises:
        ValueError: If it is not.
    """
    if name not in AGGREGATORS:
        raise ValueError(f"aggregator must be one of {AGGREGATORS}, got {name!r}")
    return name


def aggregate(scores: torch.Tensor, aggregator: str, sharpness: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Aggregate the scores of a column's images (equation 3).

    Args:
        scores: ``(..., M)`` scores.
        aggregator: ``"mean"``, ``"max"`` or ``"softmax"``: weights ``softmax(sharpness * score)``, value the
            weighted mean. Softmax lies between mean (sharpness 0) and max (infinity).
        sharpness: beta of the softmax aggregator; unused by the others.

    Returns:
        ``(...)`` utilities, in the range of the scores.

    Raises:
        ValueError: If the aggregator is unknown.
    """
    check_aggregator(aggregator)
    if aggregator == "mean":
        return scores.mean(dim=-1)
    if aggregator == "max":
        return scores.amax(dim=-1)
    weights = torch.softmax(sharpness * scores, dim=-1)
    return (weights * scores).sum(dim=-1)
