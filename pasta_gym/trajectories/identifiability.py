"""Whether logged conversations can tell user types apart (appendix C.2).

Data is identifiable if for every pair of types some slate was seen that identifies them (definition 3) and overlaps
(definition 4); that is proposition 1. Two readings make the definitions countable on a finite dataset of floats:

* *Identifying*: utilities or choice probabilities differ. Learned ones always do in the last digit, so they must
  differ by more than a tolerance: a column's utility, or the choices' total variation.
* *Overlapping*: both types reach the slate with positive probability. The logging policy ignores the type, so the
  ratio of the two probabilities is that of the choices that led there. A softmax never gives zero; so a slate
  overlaps where the smaller probability is at least a given share of the larger one. First slates always overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pasta_gym.trajectories.dataset import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.types import behaviour
from pasta_gym.user_model.user_model import UserModel


@dataclass(frozen=True)
class Tolerances:
    """From where on a difference counts.

    Attributes:
        utility: Least difference of a column's utility, in [0, 1].
        choice: Least total variation of the choice probabilities, in [0, 1].
        overlap: Least ratio of the two types' probabilities of reaching the slate, in [0, 1]; 0 is the paper's
            definition to the letter, which a softmax always meets.
    """

    utility: float = 0.05
    choice: float = 0.05
    overlap: float = 0.05

    def __post_init__(self) -> None:
        for name in ("utility", "choice", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"the tolerance of {name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True)
class Identifiability:
    """Counts of slates for every pair of types, each ``(K, K)`` and symmetric, 0 on the diagonal.

    Attributes:
        identifying: Slates that tell the two apart.
        overlapping: Slates that both reach.
        both: Slates that do both; proposition 1 asks for one.
        n_slates: Slates seen in all.
    """

    identifying: IntArray
    overlapping: IntArray
    both: IntArray
    n_slates: int

    @property
    def is_identifiable(self) -> bool:
        """Whether every pair of types has a slate that identifies it and overlaps (proposition 1)."""
        return not self.unidentified

    @property
    def unidentified(self) -> list[tuple[int, int]]:
        """Pairs of types without such a slate."""
        k = len(self.both)
        return [(i, j) for i in range(k) for j in range(i + 1, k) if not self.both[i, j]]


def identifiability(
    dataset: TrajectoryDataset, model: UserModel, tolerances: Tolerances | None = None, *, block: int = 64
) -> Identifiability:
    """Count the slates of a dataset that identify and overlap, for each pair of types.

    Args:
        dataset: Conversations under a policy that ignores the user's type, such as the random one.
        model: The user model that made the choices.
        tolerances: What counts.
        block: Conversations looked at together.

    Returns:
        The counts.
    """
    tolerances = tolerances or Tolerances()
    k = model.n_types
    identifying, overlapping, both = (np.zeros((k, k), dtype=np.int64) for _ in range(3))
    for start in range(0, len(dataset), block):
        part = dataset.take(np.arange(start, min(start + block, len(dataset))))
        n, h, n_columns, m, d = part.slate_images.shape
        prompts = np.repeat(part.prompt_embeddings[part.initial_prompts], h, axis=0)
        seen = behaviour(model, prompts, part.slate_images.reshape(n * h, n_columns, m, d).astype(np.float32))
        p = seen.choice_probabilities.reshape(n, h, k, n_columns)
        reached = reach_log_probabilities(p, part.choices)
        u = seen.utilities.reshape(n, h, k, n_columns)
        for i in range(k):
            apart = np.abs(u[:, :, [i]] - u).max(axis=-1) > tolerances.utility
            apart |= 0.5 * np.abs(p[:, :, [i]] - p).sum(axis=-1) > tolerances.choice
            apart[:, :, i] = False
            ratio = np.exp(-np.abs(reached[:, :, [i]] - reached))
            shared = ratio >= tolerances.overlap
            shared[:, :, i] = False
            identifying[i] += apart.sum(axis=(0, 1))
            overlapping[i] += shared.sum(axis=(0, 1))
            both[i] += (apart & shared).sum(axis=(0, 1))
    return Identifiability(identifying, overlapping, both, len(dataset) * dataset.horizon)


def reach_log_probabilities(choice_probabilities: FloatArray, choices: IntArray) -> FloatArray:
    """Log-probability, by type, of the choices that led to each slate; the policy's part is common and left out.

    Args:
        choice_probabilities: ``(n, H, K, L)``.
        choices: ``(n, H)``.

    Returns:
        ``(n, H, K)``; 0 for first slates.
    """
    chosen = np.take_along_axis(choice_probabilities, choices[:, :, None, None], axis=3)[..., 0]
    total = np.zeros_like(chosen)
    total[:, 1:] = np.log(np.maximum(chosen[:, :-1], 1e-300)).cumsum(axis=1)
    return total
