"""Sessions of raters as tensors, and batches that hold whole raters: all their sessions and single-turn labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pasta_gym.types import IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.labels import Batches, Labels, kind_pieces, labels_of, rows_of


@dataclass(frozen=True)
class Sessions:
    """Sessions of some raters, who are numbered ``0..n_raters - 1``; rows are sorted by rater.

    Attributes:
        raters: ``(S,)``.
        prompts: ``(S,)`` initial prompt.
        images: ``(S, H, L, M)``.
        choices: ``(S, H)``; -1 where there is none.
        satisfactions: ``(S, H, L)`` in [0, 1]; NaN where nobody was asked.
        verdicts: ``(S, H)`` against the turn before, -1, 0 or 1; NaN where nobody was asked.
    """

    raters: torch.Tensor
    prompts: torch.Tensor
    images: torch.Tensor
    choices: torch.Tensor
    satisfactions: torch.Tensor
    verdicts: torch.Tensor

    def __len__(self) -> int:
        return len(self.raters)

    def on(self, device: torch.device) -> Sessions:
        """Move everything to a device."""
        return Sessions(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})

    def take(self, rows: torch.Tensor, raters: torch.Tensor) -> Sessions:
        """Take some rows and say whose they are."""
        return Sessions(
            raters,
            self.prompts[rows],
            self.images[rows],
            self.choices[rows],
            self.satisfactions[rows],
            self.verdicts[rows],
        )


def sessions_of(data: PreferenceData, raters: IntArray) -> Sessions:
    """Collect the sessions of distinct ``raters (n,)``, who are numbered in that order."""
    position = np.full(data.n_raters, -1, dtype=np.int64)
    position[raters] = np.arange(len(raters))
    rows = np.flatnonzero(position[data.session_raters] >= 0)
    rows = rows[np.argsort(position[data.session_raters[rows]], kind="stable")]
    shape = data.session_images.shape[:3]
    satisfactions, verdicts = data.session_satisfactions, data.session_versus_previous
    return Sessions(
        raters=torch.from_numpy(position[data.session_raters[rows]]),
        prompts=torch.from_numpy(data.session_prompts[rows]),
        images=torch.from_numpy(data.session_images[rows]),
        choices=torch.from_numpy(data.session_choices[rows]),
        satisfactions=_rows_or_nan(satisfactions, rows, shape),
        verdicts=_rows_or_nan(verdicts, rows, shape[:2]),
    )


def _rows_or_nan(table: np.ndarray | None, rows: IntArray, shape: tuple[int, ...]) -> torch.Tensor:
    if table is None:
        return torch.full((len(rows), *shape[1:]), torch.nan)
    return torch.from_numpy(np.asarray(table[rows], dtype=np.float32))


@dataclass(frozen=True)
class RaterBatch:
    """Everything that some raters said.

    Attributes:
        labels: Their pairs, rankings' neighbours and ratings.
        sessions: Their sessions.
        raters: ``(b,)`` who they are among the raters that batches are drawn from.
    """

    labels: Labels
    sessions: Sessions
    raters: torch.Tensor

    def on(self, device: torch.device) -> RaterBatch:
        """Move what was said, but not the tables of embeddings, to a device."""
        return RaterBatch(self.labels.on(device), self.sessions.on(device), self.raters.to(device))

    def pieces(self, n_images: int) -> list[RaterBatch]:
        """Cut what was said so that each piece is about ``n_images`` images at most, or about one session.

        What fits is one piece; others hold sessions or single-turn labels. Raters keep their numbers.
        """
        sessions = self.sessions
        if sessions.images.numel() + self.labels.n_images <= n_images:
            return [self]
        none = torch.arange(0)
        nothing, nowhere = self.labels.rows(none, none), sessions.take(none, sessions.raters[none])
        rows = kind_pieces(len(sessions), n_images // max(1, sessions.images[:1].numel()))
        singles = self.labels.pieces(n_images) if self.labels.n_images else []
        return [
            *(dataclasses.replace(self, labels=nothing, sessions=sessions.take(r, sessions.raters[r])) for r in rows),
            *(dataclasses.replace(self, labels=labels, sessions=nowhere) for labels, _ in singles),
        ]


class RaterBatches:
    """Draws raters with sessions until there are enough sessions, and with them raters who have none.

    Args:
        data: All labels.
        raters: ``(n,)`` distinct raters to draw from.
        batch_sessions: Sessions in a batch; the last rater may pass it.
        batch_labels: Single-turn labels of raters without a session in a batch; 0 leaves those raters out.
        generator: Source of the order.

    Raises:
        ValueError: If nobody has a session.
    """

    def __init__(
        self,
        data: PreferenceData,
        raters: IntArray,
        batch_sessions: int,
        batch_labels: int,
        generator: torch.Generator,
    ) -> None:
        labels = labels_of(data, raters)
        self.n_raters = len(raters)
        self._generator = generator
        self._sessions = sessions_of(data, raters)
        self._labels = Batches(labels, 1, generator)
        self._counts = torch.bincount(self._sessions.raters, minlength=self.n_raters)
        self._starts = self._counts.cumsum(0) - self._counts
        if not len(self._sessions):
            raise ValueError(
                "the raters have no sessions to fit on; add a dataset that has them, such as PASTA's "
                "(data=preferences/paper)"
            )
        said = torch.bincount(torch.cat([labels.pair_raters, labels.rating_raters]), minlength=self.n_raters)
        alone = (self._counts == 0) & (said > 0)
        self._queues = [_Queue(torch.nonzero(self._counts)[:, 0], self._counts, batch_sessions, generator)]
        if batch_labels and bool(alone.any()):
            self._queues.append(_Queue(torch.nonzero(alone)[:, 0], said, batch_labels, generator))

    def of(self, raters: torch.Tensor) -> RaterBatch:
        """Return all that chosen raters ``(b,)`` said; they are numbered ``0..b - 1``."""
        rows, owner = rows_of(raters, self._starts, self._counts)
        return RaterBatch(self._labels.of(raters), self._sessions.take(rows, owner), raters)

    def draw(self) -> RaterBatch:
        """Draw the next batch: raters in a random order, all of a kind before any of it comes again."""
        return self.of(torch.cat([queue.draw() for queue in self._queues]))

    def state(self) -> dict[str, torch.Tensor]:
        """Return who is still to come in this round, and the generator."""
        left = {f"queue{i}": queue.left for i, queue in enumerate(self._queues)}
        return {**left, "generator": self._generator.get_state()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to where ``state`` was called."""
        for i, queue in enumerate(self._queues):
            queue.left = state[f"queue{i}"]
        self._generator.set_state(state["generator"])

    def all(self, size: int = 32) -> list[RaterBatch]:
        """List what all raters said, in order, ``size`` raters at a time."""
        return [self.of(chunk) for chunk in torch.split(torch.arange(self.n_raters), size)]


class _Queue:
    """Raters in a random order, again and again, taken until their sizes reach a batch."""

    def __init__(self, raters: torch.Tensor, sizes: torch.Tensor, batch: int, generator: torch.Generator) -> None:
        self._raters, self._sizes, self._batch, self._generator = raters, sizes, batch, generator
        self.left = raters[:0]

    def draw(self) -> torch.Tensor:
        """Take the next raters."""
        if not len(self.left):
            self.left = self._raters[torch.randperm(len(self._raters), generator=self._generator)]
        reached = self._sizes[self.left].cumsum(0)
        take = int(torch.searchsorted(reached, self._batch).clamp(max=len(reached) - 1)) + 1
        taken, self.left = self.left[:take], self.left[take:]
        return taken
