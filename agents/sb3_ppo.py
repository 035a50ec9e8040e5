"""PPO of Stable-Baselines3, which learns by talking to users of the environment; see docs/agents/sb3.md."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from agents import Log, Observations
from agents.checkpoint import config_from_card, load_weights, read_checkpoint, write_checkpoint
from agents.observation_rows import RowForm, Standard, check_row_form, checked_rows, rows_of_observations
from agents.random_slate import RandomAgent
from agents.slate_actions import ScoreActions
from agents.slate_selection import rounded
from pasta_gym import seeding
from pasta_gym.envs.rewards import REWARDS
from pasta_gym.settings import check_counts, check_positive, part_of
from pasta_gym.trajectories import EnvironmentConfig, TrajectoryDataset
from pasta_gym.trajectories.environment import first_environment_seed
from pasta_gym.types import FloatArray, IntArray, UInt64Array

_WARM_UP = 0x57A7  # salt of the random slates that statistics are taken from
# Metrics of Stable-Baselines3 that are a clock's, a constant or a count of what `step` says already.
_NOT_LOGGED = ("time/", "train/n_updates", "train/clip_range", "train/learning_rate", "rollout/ep_len_mean")


@dataclass(frozen=True)
class PPOConfig:
    """Settings of :class:`PPOAgent`.

    Attributes:
        environment: Where it learns. Its split must be ``train``; ``reward`` below goes before its own.
        reward: ``sparse`` or ``dense``.
        observation: ``summary`` or ``flat``; see :func:`agents.observation_rows.rows_of_observations`.
        n_turns: Turns played in all, rounded up to whole updates; 150,000 is what ``data=simulated`` holds.
        n_envs: Conversations side by side.
        conversations_per_update: Whole conversations that each of them plays between two updates.
        n_epochs: Passes over the turns of an update.
        batch_size: Turns in a gradient step.
        learning_rate: Adam's.
        width: Units of a hidden layer.
        n_layers: Hidden layers.
        discount: Of a later turn's reward, in (0, 1].
        gae_lambda: Of the advantage estimate, in [0, 1].
        clip_range: How far the probability ratio may move in an update.
        entropy_weight: Weight of the policy's entropy in the loss.
        initial_log_std: Logarithm of the scores' first standard deviation.
        reward_scale: Rewards are multiplied by it; 0.1 takes a turn's reward to [0, 1].
    """

    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    reward: str = "sparse"
    observation: RowForm = "summary"
    n_turns: int = 150_000
    n_envs: int = 64
    conversations_per_update: int = 4
    n_epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 3e-4
    width: int = 128
    n_layers: int = 2
    discount: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    entropy_weight: float = 0.0
    initial_log_std: float = 0.0
    reward_scale: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot work; a stored card gives ``environment`` as plain values.

        Raises:
            ValueError: Naming the setting, its value and the range.
        """
        object.__setattr__(self, "environment", part_of(EnvironmentConfig, self.environment, "environment"))
        if self.environment.split != "train":
            raise ValueError(f"environment.split must be 'train', got {self.environment.split!r}: others are held out")
        if self.reward not in REWARDS:
            raise ValueError(f"reward must be one of {REWARDS}, got {self.reward!r}")
        check_row_form(self.observation)
        check_counts(
            self, "n_turns", "n_envs", "conversations_per_update", "n_epochs", "batch_size", "width", "n_layers"
        )
        check_positive(self, "learning_rate", "clip_range", "reward_scale")
        if not 0 < self.discount <= 1 or not 0 <= self.gae_lambda <= 1:
            raise ValueError(
                f"discount must lie in (0, 1] and gae_lambda in [0, 1], got {self.discount} and {self.gae_lambda}"
            )


class PPOAgent:
    """Scores every candidate with a Gaussian policy learned online; it acts with the mean.

    It is the one learner that needs an environment and not a dataset: it plays ``n_turns`` turns with training
    prompts, and the logged conversations that it is handed go unread.
    """

    privileged = False

    def __init__(self, config: PPOConfig | None = None, *, name: str = "sb3_ppo") -> None:
        """Make an agent that is yet to be trained.

        Args:
            config: Settings; the defaults of :class:`PPOConfig` if none are given.
            name: Short name for tables and files.
        """
        self.name = name
        self.config = config or PPOConfig()
        self._policy: Any = None
        self._standard: Standard | None = None
        self._sizes: dict[str, int] = {}

    def train(self, dataset: TrajectoryDataset, *, seed: int, log: Log) -> None:
        """Learn from conversations of its own; earlier learning is forgotten.

        Args:
            dataset: Not read: an online learner makes its own data.
            seed: Fixes initial weights, draws, and which conversations are played: those of the collection stream of
                this number, which no evaluation shares.
            log: Called at every update; docs/agents/sb3.md explains the metrics.

        Raises:
            ValueError: If the environment cannot be made.
            ImportError: If Stable-Baselines3 is not installed.
        """
        sb3 = _stable_baselines3()
        from agents.sb3_environment import SeededRolloutBuffer, TrainingConversations

        config = self.config
        environment = replace(config.environment, reward=config.reward)
        envs = environment.make(config.n_envs)
        try:
            first_seed = first_environment_seed(seed, stream=0)
            self._standard = _statistics(envs, first_seed, environment.horizon, config.observation)
            self._sizes = {
                "row": len(self._standard.mean),
                "n_candidates": environment.n_candidates,
                "slate_size": environment.slate_size,
            }
            conversations = TrainingConversations(
                envs,
                first_seed=first_seed,
                standard=self._standard,
                form=config.observation,
                reward_scale=config.reward_scale,
            )
            # Stable-Baselines3 draws from torch's global generator, which is given back as it was.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = sb3.PPO(
                    "MlpPolicy",
                    conversations,
                    learning_rate=config.learning_rate,
                    n_steps=config.conversations_per_update * environment.horizon,
                    batch_size=config.batch_size,
                    n_epochs=config.n_epochs,
                    gamma=config.discount,
                    gae_lambda=config.gae_lambda,
                    clip_range=config.clip_range,
                    ent_coef=config.entropy_weight,
                    rollout_buffer_class=SeededRolloutBuffer,
                    rollout_buffer_kwargs={"shuffle_seed": seed},
                    policy_kwargs=_policy_arguments(config),
                    device="cpu",
                )
                model.set_logger(_logger(log))
                model.learn(config.n_turns)
                model.dump_logs()  # what the last update did
        finally:
            envs.close()
        self._policy = model.policy

    def scores(self, observations: Observations) -> FloatArray:
        """Mean score of every candidate ``(B, C)``.

        Raises:
            ValueError: If the agent is not trained, or the observations are malformed or of other sizes.
        """
        policy = self._trained()
        assert self._standard is not None
        rows = checked_rows(observations, self.config.observation, self._sizes, self.name)
        policy.set_training_mode(False)
        with torch.no_grad():
            means = policy.get_distribution(torch.from_numpy(self._standard(rows))).mode()
        return rounded(means.numpy())

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose a slate for each conversation.

        Args:
            observations: The environment's observations with a leading batch axis B.
            seeds: ``(B,)`` key of each decision; not read, the choice is deterministic.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates, one a category.

        Raises:
            ValueError: As for :meth:`scores`.
        """
        actions = ScoreActions(self._sizes.get("n_candidates", 0), self._sizes.get("slate_size", 0))
        return actions.decode(self.scores(observations), np.asarray(observations["categories"]))

    def save(self, folder: Path) -> None:
        """Write ``agent.safetensors`` and ``agent.json`` into ``folder``: weights and statistics, no optimiser.

        Raises:
            ValueError: If the agent is not trained.
        """
        policy = self._trained()
        assert self._standard is not None
        tensors = self._standard.tensors_with(policy)
        write_checkpoint(folder, kind="sb3_ppo", name=self.name, config=self.config, sizes=self._sizes, tensors=tensors)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an agent that :meth:`save` wrote.

        Args:
            folder: Its folder. Archives of Stable-Baselines3's own, which hold pickles, are not read.

        Returns:
            An agent that chooses the same slates.

        Raises:
            ValueError: If a file is missing, broken or of another kind, naming it.
            ImportError: If Stable-Baselines3 is not installed.
        """
        _stable_baselines3()
        from gymnasium import spaces
        from stable_baselines3.common.policies import ActorCriticPolicy

        from agents.sb3_environment import SCORE_BOUND

        stored = read_checkpoint(folder, kind="sb3_ppo")
        agent = cls(config_from_card(PPOConfig, stored.config, folder), name=stored.name)
        agent._sizes = {name: stored.size(name) for name in ("row", "n_candidates", "slate_size")}
        tensors = dict(stored.tensors)
        agent._standard = Standard.of_tensors(tensors, agent._sizes["row"], folder)
        rate = agent.config.learning_rate
        with torch.random.fork_rng(devices=[]):
            agent._policy = ActorCriticPolicy(
                spaces.Box(-10.0, 10.0, (agent._sizes["row"],), np.float32),
                spaces.Box(-SCORE_BOUND, SCORE_BOUND, (agent._sizes["n_candidates"],), np.float32),
                lambda progress: rate,
                **_policy_arguments(agent.config),
            )
        load_weights(agent._policy, tensors, folder)
        return agent

    def _trained(self) -> Any:
        if self._policy is None:
            raise ValueError(
                f"agent {self.name!r} is not trained; call train(dataset, ...) or {type(self).__name__}.load"
            )
        return self._policy


def _stable_baselines3() -> Any:
    try:
        import stable_baselines3
    except ImportError as error:
        raise ImportError("agent sb3_ppo needs Stable-Baselines3: pip install 'pasta-gym[sb3]'") from error
    return stable_baselines3


def _policy_arguments(config: PPOConfig) -> dict[str, Any]:
    return {"net_arch": [config.width] * config.n_layers, "log_std_init": config.initial_log_std}


def _statistics(envs: Any, first_seed: int, horizon: int, form: RowForm) -> Standard:
    """Play the first conversations once with random slates, for means and spreads; they are met again in training."""
    agent, rows = RandomAgent(), []
    observations, _ = envs.reset(seed=first_seed)
    for turn in range(horizon):
        rows.append(rows_of_observations(observations, form))
        keys = seeding.mix(first_seed, np.arange(envs.num_envs), turn, _WARM_UP)
        observations, *_ = envs.step(agent.act(observations, keys))
    return Standard.of_rows(np.concatenate(rows))


def _logger(log: Log) -> Any:
    """A logger of Stable-Baselines3 that hands numbers on and writes nothing."""
    from stable_baselines3.common.logger import KVWriter, Logger

    class HandOn(KVWriter):
        def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
            kept = {name: value for name, value in key_values.items() if not name.startswith(_NOT_LOGGED)}
            log({"step": float(step), **{f"ppo/{name.split('/')[1]}": float(value) for name, value in kept.items()}})

    return Logger(folder=None, output_formats=[HandOn()])
