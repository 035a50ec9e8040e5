"""An observation as one standardised vector, for learners of other libraries, which read nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents import Observations, check_observations
from agents.history import Histories, LoggedHistories, histories_from_observations
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.trajectories.export import flatten_observations
from pasta_gym.types import IntArray

Rows = NDArray[np.float32]
RowForm = Literal["summary", "flat"]
N_STATISTICS = 2048  # turns that means and spreads are estimated from


def check_row_form(form: str) -> None:
    """Check the name of a form of rows.

    Raises:
        ValueError: If there is none of that name.
    """
    if form not in get_args(RowForm):
        raise ValueError(f"observation must be one of {get_args(RowForm)}, got {form!r}")


def rows_of_observations(observations: Observations, form: RowForm) -> Rows:
    """Write observations as rows ``(B, D)``, before they are standardised.

    Args:
        observations: The environment's observations with a leading batch axis B.
        form: ``flat`` is the vector of the flat-observation wrapper: every number as it is. ``summary`` holds the
            turn, the initial prompt, the prompt chosen last and its mean image, the candidates and their
            categories, and of every past turn the chosen prompt, the chosen column's mean image and the slate's.
    """
    if form == "flat":
        return flatten_observations({name: np.asarray(values) for name, values in observations.items()})
    nothing = np.zeros((len(observations["turn"]), 0), dtype=np.float32)
    histories = histories_from_observations(observations, nothing)
    candidates = np.asarray(observations["candidates"], dtype=np.float32)
    return _summary(histories, candidates, np.asarray(observations["categories"]))


def checked_rows(observations: Observations, form: RowForm, sizes: Mapping[str, int], name: str) -> Rows:
    """Write observations as rows for an agent that was trained for certain sizes.

    Args:
        observations: The environment's observations with a leading batch axis B.
        form: See :func:`rows_of_observations`.
        sizes: The agent's ``slate_size``, ``n_candidates`` and ``row``.
        name: The agent's name, for the message.

    Raises:
        ValueError: If the observations are malformed or of other sizes.
    """
    _, slate_size = check_observations(observations)
    n_candidates = np.asarray(observations["categories"]).shape[1]
    rows = rows_of_observations(observations, form)
    for size, found in (("slate_size", slate_size), ("n_candidates", n_candidates), ("row", rows.shape[1])):
        if found != sizes[size]:
            raise ValueError(f"{name} was trained with {size} {sizes[size]}, got {found}; train it for these sizes")
    return rows


def _summary(histories: Histories, candidates: Rows, categories: IntArray) -> Rows:
    parts = (
        histories.turns[:, None].numpy(),
        histories.initial_prompts.numpy(),
        histories.current_prompts.numpy(),
        histories.current_images.numpy(),
        histories.past.numpy(),
        candidates,
        categories,
    )
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1, dtype=np.float32)


class LoggedRows:
    """Rows of logged turns, made when they are asked for: all of them would not fit into memory.

    Args:
        dataset: N logged conversations of H turns.
        form: ``summary`` or ``flat``.

    Raises:
        ValueError: If the dataset is malformed.
    """

    def __init__(self, dataset: TrajectoryDataset, form: RowForm) -> None:
        check_row_form(form)
        self._dataset, self._form = dataset, form
        self._logged: LoggedHistories | None = None
        if form == "summary":
            nothing = np.zeros((len(dataset), dataset.horizon + 1, 0), dtype=np.float32)
            self._logged = LoggedHistories(dataset, nothing)

    def rows(self, episodes: IntArray, turns: IntArray) -> Rows:
        """Rows ``(B, D)`` of what was seen before acting at ``turns (B,)`` in 0..H-1 of ``episodes (B,)``."""
        if self._logged is None:
            return rows_of_observations(self._dataset.observations(episodes, turns), self._form)
        of, at = torch.from_numpy(episodes), torch.from_numpy(turns)
        candidates: Rows = self._logged.candidate_prompts(of, at).numpy()
        return _summary(self._logged.histories(of, at), candidates, self._dataset.categories[episodes, turns])

    def statistics(self) -> Standard:
        """Mean and spread of each number, from turns spread evenly over the data."""
        horizon = self._dataset.horizon
        n_turns = len(self._dataset) * horizon
        taken = np.linspace(0, n_turns - 1, min(n_turns, N_STATISTICS)).astype(np.int64)
        return Standard.of_rows(self.rows(taken // horizon, taken % horizon))


class Standard:
    """Takes numbers to mean 0 and standard deviation 1; those that never change become 0.

    Args:
        mean: ``(D,)``.
        scale: ``(D,)`` what differences from the mean are multiplied by.
    """

    def __init__(self, mean: Rows, scale: Rows) -> None:
        self.mean, self.scale = mean, scale

    @classmethod
    def of_rows(cls, rows: Rows) -> Standard:
        """Estimate it from rows ``(n, D)``."""
        mean, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def tensors_with(self, network: torch.nn.Module) -> dict[str, Tensor]:
        """A network's weights and the statistics, under the names that a checkpoint holds them by."""
        # Networks that share parameters (a module and its own list) would share memory, which safetensors refuses.
        weights = {f"network.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
        return weights | {
            "standard.mean": torch.from_numpy(self.mean),
            "standard.scale": torch.from_numpy(self.scale),
        }

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], size: int, folder: Path) -> Standard:
        """Take the statistics of rows of ``size`` numbers out of a checkpoint's tensors.

        Raises:
            ValueError: If they are missing, broken or of another size, naming the folder.
        """
        found = [tensors.pop(f"standard.{name}", None) for name in ("mean", "scale")]
        mean, scale = (None if t is None or t.shape != (size,) or not t.isfinite().all() else t for t in found)
        if mean is None or scale is None:
            raise ValueError(f"{folder} lacks the statistics of {size} numbers; train and save the agent again")
        return cls(mean.numpy(), scale.numpy())

    def __call__(self, rows: Rows) -> Rows:
        """Standardise rows ``(B, D)``; nothing is moved by more than ten standard deviations."""
        standardised: Rows = np.clip((rows - self.mean) * self.scale, -10.0, 10.0)
        return standardised
