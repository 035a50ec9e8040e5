"""Token sequences that share a beginning, laid side by side: a history and the prompts that may follow it.

A *segment* is a run of tokens. The trunk (branch 0) is the history. A branch leaves it after ``fork`` tokens, sees
those and itself, and nothing of the other branches or of the later trunk. Positions count along the path from the
start, so a token is given the same numbers as if its path were a sequence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

TRUNK, PADDING = 0, -1
PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Segment:
    """A run of tokens.

    Attributes:
        tokens: Token ids, at least one.
        branch: 0 for the trunk; branches of one row have different numbers of 1 or more.
        fork: Tokens of the trunk that a branch sees.
    """

    tokens: Sequence[int]
    branch: int = TRUNK
    fork: int = 0


@dataclass(frozen=True)
class TokenTree:
    """``B`` rows of ``n`` segments each, padded to ``S`` tokens.

    Attributes:
        tokens: ``(B, S)`` int64.
        positions: ``(B, S)`` tokens before this one on its path.
        branches: ``(B, S)`` branch of each token, -1 for padding.
        forks: ``(B, S)`` tokens of the trunk that a branch's token sees.
        starts: ``(B, n)`` column of each segment's first token.
    """

    tokens: Tensor
    positions: Tensor
    branches: Tensor
    forks: Tensor
    starts: Tensor

    def to(self, device: torch.device) -> TokenTree:
        """The same tree on a device."""
        return TokenTree(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @property
    def n_tokens(self) -> int:
        """Tokens without the padding."""
        return int((self.branches != PADDING).sum())


def token_tree(
    rows: Sequence[Sequence[Segment]], *, padding: int = 0, padding_side: PaddingSide = "right"
) -> TokenTree:
    """Lay out segments.

    Args:
        rows: The segments of each row, as many in all of them.
        padding: Token id to fill up with.
        padding_side: Where to fill up; it changes no value.

    Raises:
        ValueError: If there are no rows, their numbers of segments differ, a segment is empty, or the side is unknown.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
    counts = {len(row) for row in rows}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"rows must have the same number of segments, at least 1, got {sorted(counts)}")
    if any(len(segment.tokens) == 0 for row in rows for segment in row):
        raise ValueError("a segment must have at least one token; leave out empty ones")
    lengths = np.array([[len(segment.tokens) for segment in row] for row in rows])
    totals = lengths.sum(1)
    width = int(totals.max())
    offsets = (width - totals if padding_side == "left" else np.zeros_like(totals)).astype(np.int64)
    filled = {name: np.full((len(rows), width), fill, np.int64) for name, fill in _FILL.items()}
    filled["tokens"][:] = padding
    for b, row in enumerate(rows):
        span = slice(int(offsets[b]), int(offsets[b] + totals[b]))
        own = lengths[b]
        filled["tokens"][b, span] = np.concatenate([np.asarray(s.tokens, np.int64) for s in row])
        filled["positions"][b, span] = np.concatenate([s.fork + np.arange(len(s.tokens)) for s in row])
        filled["branches"][b, span] = np.repeat([s.branch for s in row], own)
        filled["forks"][b, span] = np.repeat([s.fork for s in row], own)
    starts = offsets[:, None] + np.cumsum(lengths, axis=1) - lengths
    return TokenTree(
        **{name: torch.from_numpy(array) for name, array in filled.items()}, starts=torch.from_numpy(starts)
    )


_FILL = {"tokens": 0, "positions": 0, "branches": PADDING, "forks": 0}


def visible(queries: TokenTree, keys: TokenTree) -> Tensor:
    """Which keys each query attends to, ``(B, 1, S_q, S_k)`` bool: the attention mask.

    A token sees the earlier tokens of its own branch, itself, and the trunk before its fork. Padding sees the first
    column, because a row of an attention mask may not be empty; nobody sees padding.
    """
    q_branch, k_branch = queries.branches[:, :, None], keys.branches[:, None, :]
    q_position, k_position = queries.positions[:, :, None], keys.positions[:, None, :]
    own = (q_branch == k_branch) & (k_position <= q_position)
    trunk = (k_branch == TRUNK) & (k_position < queries.forks[:, :, None])
    seen = (own | trunk) & (q_branch != PADDING)
    seen[:, :, 0] |= queries.branches == PADDING
    return seen[:, None]


def joined(first: TokenTree, second: TokenTree) -> TokenTree:
    """Two trees of the same rows, one after the other: what a cache holds and what is read next."""
    columns = {
        name: torch.cat([getattr(first, name), getattr(second, name)], dim=1)
        for name in ("tokens", "positions", "branches", "forks")
    }
    starts = torch.cat([first.starts, second.starts + first.tokens.shape[1]], dim=1)
    return TokenTree(**columns, starts=starts)
