"""Pairs, rankings and ratings of raters as tensors, and batches that hold whole raters.

Tables of embeddings stay where they are, which may be a memory map; rows of labels may go to another device, and
embeddings follow a batch at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pasta_gym.types import IntArray
from pasta_gym.user_model.data import PreferenceData

VALUES_AT_ONCE = 2**28
"""Most numbers in the heads' vectors of the images that go through them together: 1 GiB, and a few times that with what
is kept for gradients. 2,730 pairs at K = 64 and d = 768."""


def images_at_once(n_types: int, dim: int) -> int:
    """Return how many images may go through the heads together, each with a vector of ``dim`` numbers a type."""
    return max(1, VALUES_AT_ONCE // (n_types * dim))


def kind_pieces(n: int, most: int) -> list[torch.Tensor]:
    """Cut rows ``0..n - 1`` into pieces of ``most``, one at least; none if there are none."""
    return [piece for piece in torch.arange(n).split(max(1, most)) if len(piece)]


@dataclass(frozen=True)
class Labels:
    """Labels of some raters as tensors; raters are numbered ``0..n_raters - 1`` and rows sorted by rater.

    Attributes:
        prompt_embeddings: ``(P, d)``.
        image_embeddings: ``(I, d)``.
        pair_raters: ``(n,)``.
        pair_prompts: ``(n,)``.
        pair_images: ``(n, 2)``.
        pair_labels: ``(n,)`` in [0, 1].
        rating_raters: ``(m,)``.
        rating_prompts: ``(m,)``.
        rating_images: ``(m,)``.
        ratings: ``(m,)`` in [0, 1].
        n_raters: Number of raters.
        raters: ``(n_raters,)`` who they are in the labels a batch was drawn from.
    """

    prompt_embeddings: torch.Tensor
    image_embeddings: torch.Tensor
    pair_raters: torch.Tensor
    pair_prompts: torch.Tensor
    pair_images: torch.Tensor
    pair_labels: torch.Tensor
    rating_raters: torch.Tensor
    rating_prompts: torch.Tensor
    rating_images: torch.Tensor
    ratings: torch.Tensor
    n_raters: int
    raters: torch.Tensor

    def on(self, device: torch.device) -> Labels:
        """Move the labels, but not the tables of embeddings, to a device."""
        tables = ("prompt_embeddings", "image_embeddings")
        names = [f.name for f in dataclasses.fields(self) if f.name not in (*tables, "n_raters")]
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return dataclasses.replace(self, **moved)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Read embeddings of images ``(n,)``: ``(n, d)`` float32, where the rows are."""
        return self.image_embeddings[rows.cpu()].float().to(rows.device)

    def prompts(self, rows: torch.Tensor) -> torch.Tensor:
        """Read embeddings of initial prompts ``(n,)``: ``(n, d)`` float32, where the rows are."""
        return self.prompt_embeddings[rows.cpu()].to(rows.device)

    def rows(self, pairs: torch.Tensor, rated: torch.Tensor) -> Labels:
        """Keep some pairs and some ratings: rows, or a mask, of each. Raters keep their numbers."""
        return dataclasses.replace(
            self,
            pair_raters=self.pair_raters[pairs],
            pair_prompts=self.pair_prompts[pairs],
            pair_images=self.pair_images[pairs],
            pair_labels=self.pair_labels[pairs],
            rating_raters=self.rating_raters[rated],
            rating_prompts=self.rating_prompts[rated],
            rating_images=self.rating_images[rated],
            ratings=self.ratings[rated],
        )

    @property
    def n_images(self) -> int:
        """Images that the labels are about, one as often as it was judged."""
        return 2 * len(self.pair_labels) + len(self.ratings)

    def pieces(self, n_images: int) -> list[tuple[Labels, float]]:
        """Cut the labels so that each piece is about at most ``n_images`` images; raters keep their numbers.

        A rater's labels come together, however many, and one rater may have more than fit the memory.

        Returns:
            The pieces, and each one's share of its kind's labels: the mean over all labels of a kind is the sum of
            the pieces' means times their shares. What fits is one piece, whose share is 1; others are of one kind.
        """
        if self.n_images <= n_images:
            return [(self, 1.0)]
        none, n, m = torch.arange(0), len(self.pair_labels), len(self.ratings)
        pairs = [(self.rows(rows, none), len(rows) / n) for rows in kind_pieces(n, n_images // 2)]
        return pairs + [(self.rows(none, rows), len(rows) / m) for rows in kind_pieces(m, n_images)]


def labels_of(data: PreferenceData, raters: IntArray) -> Labels:
    """Collect the pairs (rankings' neighbours included) and ratings of ``raters``, in that order.

    Args:
        data: All labels.
        raters: ``(n,)`` distinct rater ids.

    Returns:
        Their labels, renumbered.
    """
    position = np.full(data.n_raters, -1, dtype=np.int64)
    position[raters] = np.arange(len(raters))
    who, prompts, images, labels = data.all_pairs()
    pair_rows = np.flatnonzero(position[who] >= 0)
    pair_rows = pair_rows[np.argsort(position[who[pair_rows]], kind="stable")]
    rating_rows = np.flatnonzero(position[data.rating_raters] >= 0)
    rating_rows = rating_rows[np.argsort(position[data.rating_raters[rating_rows]], kind="stable")]
    return Labels(
        prompt_embeddings=torch.from_numpy(np.asarray(data.prompt_embeddings, dtype=np.float32)),
        image_embeddings=torch.from_numpy(np.asarray(data.image_embeddings)),
        pair_raters=torch.from_numpy(position[who[pair_rows]]),
        pair_prompts=torch.from_numpy(prompts[pair_rows]),
        pair_images=torch.from_numpy(images[pair_rows]),
        pair_labels=torch.from_numpy(labels[pair_rows].astype(np.float32)),
        rating_raters=torch.from_numpy(position[data.rating_raters[rating_rows]]),
        rating_prompts=torch.from_numpy(data.rating_prompts[rating_rows]),
        rating_images=torch.from_numpy(data.rating_images[rating_rows]),
        ratings=torch.from_numpy(data.ratings[rating_rows].astype(np.float32)),
        n_raters=len(raters),
        raters=torch.arange(len(raters)),
    )


def rows_of(raters: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the chosen raters in a table sorted by rater, and which chosen rater each row belongs to."""
    owner = torch.repeat_interleave(torch.arange(len(raters)), counts[raters])
    within = torch.arange(len(owner)) - torch.repeat_interleave(
        counts[raters].cumsum(0) - counts[raters], counts[raters]
    )
    return starts[raters][owner] + within, owner


class Batches:
    """Draws batches of whole raters, or of single labels.

    Args:
        labels: The labels.
        batch_labels: Labels in a batch; the last rater may pass it, by far if that one has many: see ``Labels.pieces``.
        generator: Source of the order.
    """

    def __init__(self, labels: Labels, batch_labels: int, generator: torch.Generator) -> None:
        self._labels = labels
        self._batch_labels = batch_labels
        self._generator = generator
        self._pair_counts = torch.bincount(labels.pair_raters, minlength=labels.n_raters)
        self._rating_counts = torch.bincount(labels.rating_raters, minlength=labels.n_raters)
        self._pair_starts = self._pair_counts.cumsum(0) - self._pair_counts
        self._rating_starts = self._rating_counts.cumsum(0) - self._rating_counts
        self._queue = torch.empty(0, dtype=torch.int64)
        self._row_queue = torch.empty(0, dtype=torch.int64)

    def of(self, raters: torch.Tensor) -> Labels:
        """Return the labels of chosen raters ``(b,)``, renumbered ``0..b - 1``."""
        pairs, pair_owner = rows_of(raters, self._pair_starts, self._pair_counts)
        rated, rating_owner = rows_of(raters, self._rating_starts, self._rating_counts)
        return dataclasses.replace(
            self._labels.rows(pairs, rated),
            pair_raters=pair_owner,
            rating_raters=rating_owner,
            n_raters=len(raters),
            raters=raters,
        )

    def draw(self) -> Labels:
        """Draw the next batch: raters in a random order, all of them before any comes again."""
        if not len(self._queue):
            self._queue = torch.randperm(self._labels.n_raters, generator=self._generator)
        sizes = (self._pair_counts + self._rating_counts)[self._queue].cumsum(0)
        take = int(torch.searchsorted(sizes, self._batch_labels).clamp(max=len(sizes) - 1)) + 1
        raters, self._queue = self._queue[:take], self._queue[take:]
        return self.of(raters)

    def draw_labels(self) -> Labels:
        """Draw the next batch of single labels: all in a random order before any comes again; raters keep numbers."""
        every = self._labels
        n_pairs = len(every.pair_labels)
        if not len(self._row_queue):
            self._row_queue = torch.randperm(n_pairs + len(every.ratings), generator=self._generator)
        rows, self._row_queue = self._row_queue[: self._batch_labels], self._row_queue[self._batch_labels :]
        return every.rows(rows[rows < n_pairs], rows[rows >= n_pairs] - n_pairs)

    def state(self) -> dict[str, torch.Tensor]:
        """Return who and what is still to come in this round, and the generator."""
        return {"queue": self._queue, "row_queue": self._row_queue, "generator": self._generator.get_state()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to where ``state`` was called."""
        self._queue, self._row_queue = state["queue"], state["row_queue"]
        self._generator.set_state(state["generator"])
