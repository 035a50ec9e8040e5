"""What a learner sees of a conversation: arrays from observations or from logged data, and their encoder.

The *base* state is the initial prompt, the prompt chosen last with its images, and the turn: what a candidate, which
changes the prompt chosen last, is compared with. The *past* is every column chosen and the slate it was chosen from:
what tells one person from another. Only the encoder (``history="encoder"``) and a belief read the past.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from agents import Observations
from agents.choice_mixture import in_precision
from agents.networks import hidden_layers, linear
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray


@dataclass(frozen=True)
class Histories:
    """B histories as tensors; float32 unless said otherwise, d the embedding size, H the horizon.

    Attributes:
        turns: ``(B,)`` int64 slates seen so far.
        initial_prompts: ``(B, d)``.
        current_prompts: ``(B, d)`` the prompt chosen last, the initial prompt before the first slate.
        current_images: ``(B, d)`` mean embedding of the images of that prompt.
        past: ``(B, H, 3, d)`` for each turn: chosen prompt, chosen column's mean image, slate's mean image. Turns to
            come hold zeros. Empty, ``(B, 0, 3, d)``, if nobody reads it.
        seen: ``(B, H)`` bool, whether the turn has been played.
        belief: ``(B, K)`` probabilities of the components of a belief; K = 0 without one.
    """

    turns: Tensor
    initial_prompts: Tensor
    current_prompts: Tensor
    current_images: Tensor
    past: Tensor
    seen: Tensor
    belief: Tensor


def _as_float(array: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def histories_from_observations(observations: Observations, belief: FloatArray) -> Histories:
    """Read histories out of a batch of observations.

    Args:
        observations: The environment's arrays with a leading batch axis.
        belief: ``(B, K)``.

    Returns:
        The histories.
    """
    choices = np.asarray(observations["choices"])
    batch, horizon = choices.shape
    turns = np.asarray(observations["turn"])
    seen = np.arange(horizon) < turns[:, None]
    column = np.where(seen, choices, 0)
    prompts = np.asarray(observations["slate_prompts"], dtype=np.float32)
    images = np.asarray(observations["slate_images"], dtype=np.float32).mean(axis=3)
    chosen_prompts = np.take_along_axis(prompts, column[:, :, None, None], axis=2)[:, :, 0]
    chosen_images = np.take_along_axis(images, column[:, :, None, None], axis=2)[:, :, 0]
    past = np.stack([chosen_prompts, chosen_images, images.mean(axis=2)], axis=2) * seen[:, :, None, None]
    rows, last = np.arange(batch), np.maximum(turns - 1, 0)
    at_start = (turns == 0)[:, None]
    initial_prompts = np.asarray(observations["initial_prompt"], dtype=np.float32)
    initial_images = np.asarray(observations["initial_images"], dtype=np.float32).mean(axis=1)
    return Histories(
        turns=torch.from_numpy(turns.astype(np.int64)),
        initial_prompts=_as_float(initial_prompts),
        current_prompts=_as_float(np.where(at_start, initial_prompts, chosen_prompts[rows, last])),
        current_images=_as_float(np.where(at_start, initial_images, chosen_images[rows, last])),
        past=_as_float(past),
        seen=torch.from_numpy(seen),
        belief=_as_float(belief),
    )


def check_dataset(dataset: TrajectoryDataset) -> None:
    """Check what training relies on.

    Args:
        dataset: Logged conversations.

    Raises:
        ValueError: If it is empty, or choices, rewards, actions or prompts are out of range.
    """
    n_episodes, horizon, slate_size = dataset.actions.shape
    if not n_episodes:
        raise ValueError("the dataset has 0 episodes; collect at least one before training")
    bounds = (
        ("choices", dataset.choices, slate_size),
        ("actions", dataset.actions, dataset.candidates.shape[2]),
        ("candidates", dataset.candidates, len(dataset.prompt_embeddings)),
        ("initial_prompts", dataset.initial_prompts, len(dataset.prompt_embeddings)),
    )
    for name, values, bound in bounds:
        if values.min() < 0 or values.max() >= bound:
            raise ValueError(
                f"the dataset's {name} must lie in 0..{bound - 1}, got {values.min()}..{values.max()}; collect it again"
            )
    if dataset.rewards.shape != (n_episodes, horizon) or not np.isfinite(dataset.rewards).all():
        raise ValueError(
            f"the dataset's rewards must be finite and of shape {(n_episodes, horizon)}, got "
            f"{dataset.rewards.shape}; collect it again"
        )


class LoggedHistories:
    """The whole dataset as tensors, from which batches of turns are gathered.

    The image means are made once, so a batch costs a few look-ups.
    """

    def __init__(self, dataset: TrajectoryDataset, belief: FloatArray, *, reads_past: bool = True) -> None:
        """Prepare the tables.

        Args:
            dataset: N logged conversations.
            belief: ``(N, H + 1, K)`` belief before each turn and after the last.
            reads_past: Whether histories hold the past, which takes most of the time that gathering them takes.

        Raises:
            ValueError: If the dataset is malformed; see :func:`check_dataset`.
        """
        check_dataset(dataset)
        n_episodes, self.horizon, self.slate_size = dataset.actions.shape
        column_images = np.empty((*dataset.actions.shape, dataset.prompt_embeddings.shape[1]), dtype=np.float32)
        for start in range(0, n_episodes, 2000):
            part = slice(start, start + 2000)
            column_images[part] = in_precision(dataset.slate_images[part], torch.float32).mean(axis=3)
        column = dataset.choices[:, :, None]
        self.n_episodes = n_episodes
        self.reads_past = reads_past
        self.prompt_embeddings = _as_float(dataset.prompt_embeddings)
        self.initial_prompts = torch.from_numpy(np.asarray(dataset.initial_prompts, dtype=np.int64))
        self.initial_images = _as_float(np.asarray(dataset.initial_images, dtype=np.float32).mean(axis=1))
        self.candidates = torch.from_numpy(np.asarray(dataset.candidates, dtype=np.int64))
        self.categories = torch.from_numpy(np.asarray(dataset.categories, dtype=np.int64))
        self.slates = self.candidates.gather(2, torch.from_numpy(np.asarray(dataset.actions, dtype=np.int64)))
        self.choices = torch.from_numpy(np.asarray(dataset.choices, dtype=np.int64))
        self.chosen_prompts = self.slates.gather(2, self.choices[:, :, None]).squeeze(2)
        self.chosen_images = _as_float(np.take_along_axis(column_images, column[..., None], axis=2)[:, :, 0])
        self.slate_means = _as_float(column_images.mean(axis=2))
        self.rewards = _as_float(dataset.rewards)
        self.belief = _as_float(belief)

    def histories(self, episodes: Tensor, turns: Tensor) -> Histories:
        """Gather the histories in which ``turns`` slates have been seen.

        Args:
            episodes: ``(B,)`` int64 in 0..N-1.
            turns: ``(B,)`` int64 in 0..H.

        Returns:
            What :func:`histories_from_observations` makes of the same conversations.
        """
        seen = torch.arange(self.horizon) < turns[:, None]
        initial_prompts = self.prompt_embeddings[self.initial_prompts[episodes]]
        last = (turns - 1).clamp(min=0)
        at_start = (turns == 0)[:, None]
        return Histories(
            turns=turns,
            initial_prompts=initial_prompts,
            current_prompts=torch.where(
                at_start, initial_prompts, self.prompt_embeddings[self.chosen_prompts[episodes, last]]
            ),
            current_images=torch.where(at_start, self.initial_images[episodes], self.chosen_images[episodes, last]),
            past=self._past(episodes, seen),
            seen=seen,
            belief=self.belief[episodes, turns],
        )

    def _past(self, episodes: Tensor, seen: Tensor) -> Tensor:
        if not self.reads_past:
            return self.prompt_embeddings.new_zeros(len(episodes), 0, 3, self.prompt_embeddings.shape[1])
        past = torch.stack(
            [
                self.prompt_embeddings[self.chosen_prompts[episodes]],
                self.chosen_images[episodes],
                self.slate_means[episodes],
            ],
            dim=2,
        )
        return past * seen[:, :, None, None]

    def slate_prompts(self, episodes: Tensor, turns: Tensor) -> Tensor:
        """Embeddings of the prompts shown at ``turns`` (0..H-1), ``(B, L, d)``."""
        return self.prompt_embeddings[self.slates[episodes, turns]]

    def candidate_prompts(self, episodes: Tensor, turns: Tensor) -> Tensor:
        """Embeddings of the candidates at ``turns`` (0..H-1), ``(B, C, d)``."""
        return self.prompt_embeddings[self.candidates[episodes, turns]]

    def mean_return(self) -> float:
        """Mean over all turns of the rewards from that turn on."""
        to_go = self.rewards.flip(1).cumsum(1)
        return float(to_go.mean())

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw turns uniformly with replacement: episodes ``(B,)`` and turns ``(B,)`` in 0..H-1."""
        episodes = torch.randint(self.n_episodes, (batch_size,), generator=generator)
        turns = torch.randint(self.horizon, (batch_size,), generator=generator)
        return episodes, turns


class HistoryEncoder(nn.Module):
    """A learned context from the past: the softmax of evidence summed over the turns.

    Each turn's (chosen prompt, chosen images, chosen minus average images) passes through one network (DeepSets), the
    outputs are added to a learned start and normalised. That is the shape of a posterior over components: a prior
    times one factor a turn. The order of the turns does not matter.
    """

    def __init__(self, embedding_dim: int, n_outputs: int, *, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.turn = nn.Sequential(
            linear(3 * embedding_dim, width, generator),
            nn.ReLU(),
            hidden_layers(width, 2, generator),
            linear(width, n_outputs, generator, bias=False),
        )
        self.start = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, turns: Tensor, seen: Tensor) -> Tensor:
        """Encode.

        Args:
            turns: ``(n, 3, d)`` standardised entries of :class:`Histories`' past, of the n turns that have been seen.
            seen: ``(B, H)`` bool, true n times.

        Returns:
            ``(B, n_outputs)`` probabilities.
        """
        contrast = turns[:, 1] - turns[:, 2]
        evidence = self.turn(torch.cat([turns[:, 0], turns[:, 1], contrast], dim=1))
        summed = evidence.new_zeros(len(seen), evidence.shape[1]).index_add(0, seen.nonzero()[:, 0], evidence)
        return torch.softmax(self.start + summed, dim=1)


class StateEncoder(nn.Module):
    """Turns histories into a network's inputs: standardised state and context.

    The statistics are fitted to the data once, and stored with the weights.
    """

    def __init__(
        self,
        *,
        embedding_dim: int,
        horizon: int,
        n_encoder_outputs: int,
        width: int,
        generator: torch.Generator,
    ) -> None:
        """Build the encoder.

        Args:
            embedding_dim: d.
            horizon: H.
            n_encoder_outputs: Size of the learned context; 0 for no history encoder.
            width: Hidden width of the history encoder.
            generator: Source of the initial weights.
        """
        super().__init__()
        self.horizon = horizon
        self.state_dim = 3 * embedding_dim + horizon
        self.history = (
            HistoryEncoder(embedding_dim, n_encoder_outputs, width=width, generator=generator)
            if n_encoder_outputs
            else None
        )
        self.prompt_mean: Tensor
        self.prompt_std: Tensor
        self.image_mean: Tensor
        self.image_std: Tensor
        for name in ("prompt", "image"):
            self.register_buffer(f"{name}_mean", torch.zeros(embedding_dim))
            self.register_buffer(f"{name}_std", torch.ones(embedding_dim))

    def fit_statistics(self, logged: LoggedHistories) -> None:
        """Take mean and spread of prompts shown and of columns' images from the data."""
        shown = logged.prompt_embeddings[logged.slates.flatten(0, 1)].flatten(0, 1)
        for name, values in (("prompt", shown), ("image", logged.chosen_images.flatten(0, 1))):
            spread = values.std(0, correction=0)
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            # A dimension that never varies carries nothing; dividing by almost 0 would blow up rounding.
            getattr(self, f"{name}_std").copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def prompts(self, embeddings: Tensor) -> Tensor:
        """Standardise prompt embeddings ``(..., d)``."""
        return (embeddings - self.prompt_mean) / self.prompt_std

    def images(self, embeddings: Tensor) -> Tensor:
        """Standardise mean image embeddings ``(..., d)``."""
        return (embeddings - self.image_mean) / self.image_std

    def forward(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Encode histories.

        Args:
            histories: B of them.

        Returns:
            State ``(B, state_dim)`` and context ``(B, K + n_encoder_outputs)``.
        """
        # After the last turn nothing is worth anything and the encoding is not used, so it may share a column.
        turn = nn.functional.one_hot(histories.turns.clamp(max=self.horizon - 1), self.horizon)
        state = torch.cat(
            [
                self.prompts(histories.initial_prompts),
                self.prompts(histories.current_prompts),
                self.images(histories.current_images),
                turn.to(torch.float32),
            ],
            dim=1,
        )
        if self.history is None:
            return state, histories.belief
        # Only turns that have been seen pass through the network: on average that is less than half of them.
        turns = histories.past[histories.seen]
        standardised = torch.stack(
            [self.prompts(turns[:, 0]), self.images(turns[:, 1]), self.images(turns[:, 2])], dim=1
        )
        return state, torch.cat([histories.belief, self.history(standardised, histories.seen)], dim=1)
