"""Offline learners of d3rlpy (IQL, CQL, TD3+BC, BC, discrete CQL) as agents; see docs/agents/d3rlpy.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch

from agents import Log, Observations
from agents.checkpoint import config_from_card, load_weights, read_checkpoint, write_checkpoint
from agents.history import check_dataset
from agents.observation_rows import LoggedRows, RowForm, Rows, Standard, check_row_form, checked_rows
from agents.slate_actions import NumberActions, ScoreActions
from agents.slate_selection import rounded, value_unit
from pasta_gym.settings import check_counts, check_positive
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray, UInt64Array

Algorithm = Literal["iql", "cql", "td3bc", "bc", "dcql"]
_CLASSES = {"iql": "IQL", "cql": "CQL", "td3bc": "TD3PlusBC", "bc": "BC", "dcql": "DiscreteCQL"}


@dataclass(frozen=True)
class D3RLPyConfig:
    """Settings of :class:`D3RLPyAgent`.

    Attributes:
        algorithm: ``iql``, ``cql``, ``td3bc`` and ``bc`` give every candidate a score; ``dcql`` numbers the slates.
        observation: ``summary`` or ``flat``; see :func:`agents.observation_rows.rows_of_observations`.
        steps: Gradient steps.
        batch_size: Turns in a step.
        learning_rate: Of every network.
        width: Units of a hidden layer.
        n_layers: Hidden layers.
        discount: Of a later turn's reward, in (0, 1].
        reward_scale: Rewards are multiplied by it; 0.1 takes a turn's reward to [0, 1].
        log_every: Steps between metrics.
        settings: Further settings of the algorithm, by d3rlpy's names: ``{expectile: 0.8}``.
    """

    algorithm: Algorithm = "iql"
    observation: RowForm = "summary"
    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 3e-4
    width: int = 256
    n_layers: int = 2
    discount: float = 1.0
    reward_scale: float = 0.1
    log_every: int = 200
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: Naming the setting, its value and the range.
        """
        object.__setattr__(self, "settings", {str(name): value for name, value in self.settings.items()})
        if self.algorithm not in get_args(Algorithm):
            raise ValueError(f"algorithm must be one of {get_args(Algorithm)}, got {self.algorithm!r}")
        check_row_form(self.observation)
        check_counts(self, "steps", "batch_size", "width", "n_layers", "log_every")
        check_positive(self, "learning_rate", "reward_scale")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount must lie in (0, 1], got {self.discount}; returns are undiscounted sums")


class D3RLPyAgent:
    """Fits one of d3rlpy's algorithms to logged slates, written as scores or numbers, and shows what it prefers.

    d3rlpy brings networks, losses and update; batches are drawn here, from the training seed, because d3rlpy's own
    replay buffer draws from NumPy's global generator and would hold every observation in memory.
    """

    privileged = False

    def __init__(self, config: D3RLPyConfig | None = None, *, name: str | None = None) -> None:
        """Make an agent that is yet to be trained.

        Args:
            config: Settings; the defaults of :class:`D3RLPyConfig` if none are given.
            name: Short name for tables and files; ``d3rlpy_`` and the algorithm if none is given.
        """
        self.config = config or D3RLPyConfig()
        self.name = name or f"d3rlpy_{self.config.algorithm}"
        self._algorithm: Any = None
        self._standard: Standard | None = None
        self._actions: ScoreActions | NumberActions | None = None
        self._sizes: dict[str, int] = {}

    def train(self, dataset: TrajectoryDataset, *, seed: int, log: Log) -> None:
        """Learn from logged conversations; earlier learning is forgotten.

        Args:
            dataset: Logged conversations with at most one prompt a category in a slate.
            seed: Fixes initial weights, batches and whatever the algorithm draws.
            log: Called every ``log_every`` steps; docs/agents/d3rlpy.md explains the metrics.

        Raises:
            ValueError: If the dataset is malformed, a slate has no encoding or a setting is unknown to d3rlpy.
            ImportError: If d3rlpy is not installed.
        """
        check_dataset(dataset)
        config = self.config
        logged = LoggedRows(dataset, config.observation)
        self._standard = logged.statistics()
        sizes = {
            "row": len(self._standard.mean),
            "n_candidates": dataset.candidates.shape[2],
            "n_categories": int(dataset.categories.max()) + 1,
            "slate_size": dataset.slate_size,
        }
        rng = np.random.default_rng(seed)
        sums: defaultdict[str, list[float]] = defaultdict(list)
        # d3rlpy draws from torch's global generator, which is given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(sizes)
            for step in range(1, config.steps + 1):
                episodes = rng.integers(len(dataset), size=config.batch_size)
                turns = rng.integers(dataset.horizon, size=config.batch_size)
                for name, value in self._algorithm.update(self._batch(dataset, logged, episodes, turns)).items():
                    sums[name].append(float(value))
                if step % config.log_every == 0 or step == config.steps:
                    overlap = self._overlap(dataset, logged, episodes, turns)
                    metrics = {f"d3rlpy/{name}": float(np.mean(values)) for name, values in sums.items()}
                    log({"step": float(step), **metrics, "slate/overlap_with_logged": overlap})
                    sums.clear()

    def _batch(self, dataset: TrajectoryDataset, logged: LoggedRows, episodes: IntArray, turns: IntArray) -> Any:
        """Logged turns ``(B,)`` as d3rlpy's batch."""
        from d3rlpy.dataset import TransitionMiniBatch

        assert self._standard is not None
        ends = turns == dataset.horizon - 1
        # What follows the last turn is not logged and counts for nothing: the turn itself stands in for it.
        following = np.where(ends, turns, turns + 1)
        rewards = self.config.reward_scale * dataset.rewards[episodes, turns]
        return TransitionMiniBatch(
            observations=self._standard(logged.rows(episodes, turns)),
            actions=self._encoded(dataset, episodes, turns),
            rewards=rewards[:, None].astype(np.float32),
            next_observations=self._standard(logged.rows(episodes, following)),
            next_actions=self._encoded(dataset, episodes, following),
            terminals=ends[:, None].astype(np.float32),
            intervals=np.ones((len(turns), 1), dtype=np.float32),
            transitions=[],
        )

    def _encoded(self, dataset: TrajectoryDataset, episodes: IntArray, turns: IntArray) -> Rows:
        assert self._actions is not None
        return self._actions.encode(dataset.actions[episodes, turns], dataset.categories[episodes, turns])

    def _overlap(self, dataset: TrajectoryDataset, logged: LoggedRows, episodes: IntArray, turns: IntArray) -> float:
        """Share of a logged slate that the agent would show as well, on average."""
        slates = self._slates(logged.rows(episodes, turns), dataset.categories[episodes, turns])
        shared = slates[:, :, None] == dataset.actions[episodes, turns][:, None, :]
        return float(shared.any(axis=2).mean())

    def preferences(self, rows: Rows) -> FloatArray:
        """The algorithm's scores of the candidates, ``(B, C)``, or values of the slates by number, for rows ``(B, D)``.

        Raises:
            ValueError: If the agent is not trained.
        """
        algorithm = self._trained()
        assert self._standard is not None
        standardised = self._standard(rows)
        if self.config.algorithm != "dcql":
            return rounded(algorithm.predict(standardised))
        algorithm.impl.modules.set_eval()
        with torch.no_grad():
            at = torch.from_numpy(standardised)
            values = torch.stack([q_function(at).q_value for q_function in algorithm.impl.q_function]).mean(dim=0)
        return rounded(values.numpy(), value_unit(self.config.reward_scale))

    def _slates(self, rows: Rows, categories: IntArray) -> IntArray:
        preferences = self.preferences(rows)
        if not np.isfinite(preferences).all():
            raise ValueError(
                f"{self.name} diverged: its preferences hold NaN or infinity; lower learning_rate or reward_scale"
            )
        if isinstance(self._actions, NumberActions):
            return self._actions.decode(preferences.argmax(axis=1), categories)
        assert self._actions is not None
        return self._actions.decode(preferences, categories)

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose a slate for each conversation.

        Args:
            observations: The environment's observations with a leading batch axis B.
            seeds: ``(B,)`` key of each decision; not read, the choice is deterministic.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates, one a category.

        Raises:
            ValueError: If the agent is not trained or has diverged, or the observations are malformed.
        """
        self._trained()
        rows = checked_rows(observations, self.config.observation, self._sizes, self.name)
        return self._slates(rows, np.asarray(observations["categories"]))

    def save(self, folder: Path) -> None:
        """Write ``agent.safetensors`` and ``agent.json`` into ``folder``: weights and statistics, no optimiser.

        Raises:
            ValueError: If the agent is not trained.
        """
        modules = self._modules()
        assert self._standard is not None
        tensors = self._standard.tensors_with(modules)
        write_checkpoint(folder, kind="d3rlpy", name=self.name, config=self.config, sizes=self._sizes, tensors=tensors)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an agent that :meth:`save` wrote.

        Args:
            folder: Its folder. Files of d3rlpy's own, which are pickles, are not read.

        Returns:
            An agent that chooses the same slates.

        Raises:
            ValueError: If a file is missing, broken or of another kind, naming it.
        """
        stored = read_checkpoint(folder, kind="d3rlpy")
        agent = cls(config_from_card(D3RLPyConfig, stored.config, folder), name=stored.name)
        sizes = {name: stored.size(name) for name in ("row", "n_candidates", "n_categories", "slate_size")}
        tensors = dict(stored.tensors)
        agent._standard = Standard.of_tensors(tensors, sizes["row"], folder)
        with torch.random.fork_rng(devices=[]):
            agent._build(sizes)
        load_weights(agent._modules(), tensors, folder)
        return agent

    def _build(self, sizes: Mapping[str, int]) -> None:
        """Make the actions, and networks with weights from torch's global generator."""
        config, self._sizes = self.config, dict(sizes)
        if config.algorithm == "dcql":
            self._actions = NumberActions(sizes["n_candidates"], sizes["n_categories"], sizes["slate_size"])
        else:
            self._actions = ScoreActions(sizes["n_candidates"], sizes["slate_size"])
        self._algorithm = d3rlpy_config(config).create(device="cpu")
        self._algorithm.create_impl((sizes["row"],), self._actions.size)

    def _modules(self) -> torch.nn.ModuleDict:
        """All networks of the algorithm by d3rlpy's names."""
        return torch.nn.ModuleDict(self._trained().impl.modules.get_torch_modules())

    def _trained(self) -> Any:
        if self._algorithm is None:
            raise ValueError(
                f"agent {self.name!r} is not trained; call train(dataset, ...) or {type(self).__name__}.load"
            )
        return self._algorithm


def d3rlpy_config(config: D3RLPyConfig) -> Any:
    """Make d3rlpy's configuration of an algorithm.

    Raises:
        ValueError: If ``settings`` holds a name that d3rlpy's algorithm lacks or that has a setting of its own here.
        ImportError: If d3rlpy is not installed.
    """
    try:
        import d3rlpy
    except ImportError as error:
        raise ImportError(f"agent d3rlpy_{config.algorithm} needs d3rlpy: pip install 'pasta-gym[d3rlpy]'") from error
    kind = getattr(d3rlpy.algos, f"{_CLASSES[config.algorithm]}Config")
    defaults = {f.name: f.default for f in fields(kind)}
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=[config.width] * config.n_layers)
    given: dict[str, Any] = {"batch_size": config.batch_size, "gamma": config.discount}
    given |= dict.fromkeys(("learning_rate", "actor_learning_rate", "critic_learning_rate"), config.learning_rate)
    given |= dict.fromkeys((name for name in defaults if name.endswith("encoder_factory")), encoder)
    free = {name for name, default in defaults.items() if isinstance(default, float | int)} - set(given)
    unknown = sorted(set(config.settings) - free)
    if unknown:
        raise ValueError(f"settings of {config.algorithm} must be among {sorted(free)}, got {unknown}")
    return kind(**{name: value for name, value in given.items() if name in defaults}, **dict(config.settings))
