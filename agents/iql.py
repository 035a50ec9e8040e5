"""IQL for slates, PASTA's value-based candidate selector (sections 3.2 and 3.3, appendix E); see docs/agents/iql.md."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from agents import Log, Observations, check_observations
from agents.belief import (
    Belief,
    BeliefKind,
    belief_notes,
    belief_tensors,
    check_belief_settings,
    learn_belief,
    restore_belief,
)
from agents.checkpoint import config_from_card, load_weights, read_checkpoint, write_checkpoint
from agents.diagnostics import context_effect
from agents.history import Histories, LoggedHistories, StateEncoder, check_dataset, histories_from_observations
from agents.losses import IQLForm, bootstrapped_target, iql_loss
from agents.mixture_fit import MixtureConfig
from agents.networks import PromptNetwork, ValueNetwork, start_at, update_target
from agents.slate_selection import slate_by_value
from pasta_gym.settings import check_counts, check_not_negative, check_positive, part_of
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray, UInt64Array


@dataclass(frozen=True)
class IQLConfig:
    """Settings of :class:`IQLAgent`.

    Attributes:
        loss: ``slate_mean`` (section 3.3) or ``per_prompt`` (appendix E.1); see :func:`agents.losses.iql_loss`.
        selection: ``greedy`` shows the best slate, ``sample`` draws one by its values (appendix G).
        belief: ``none``; ``fitted``, the agent's own mixture over logged choices; or ``privileged``, the posterior of
            the user model in ``posterior_from``.
        history: ``encoder`` reads all past turns; ``none`` only the initial and the current prompt.
        posterior_from: Folder of the environment's user model, for a privileged belief.
        one_per_category: Show at most one prompt of each category.
        expectile: In [0.5, 1); 0.5 is the value of the logging policy, towards 1 that of the best logged slates.
        temperature: Of ``sample``, in standard deviations of the candidates' values.
        steps: Gradient steps.
        batch_size: Turns in a step.
        learning_rate: Adam's first step size, which falls to 0 along a cosine.
        weight_decay: Decoupled.
        gradient_norm: Largest norm of the gradient.
        target_rate: How far the target network moves at an update, in (0, 1].
        target_period: Steps between updates. The paper's schedule is a rate of 1 every 256 steps.
        width: Hidden width of the networks.
        n_layers: Hidden layers; 0 makes values linear.
        n_encoder_outputs: Size of the encoder's context.
        reward_scale: Rewards are multiplied by it; 0.1 takes a turn's reward to [0, 1].
        log_every: Steps between metrics.
        mixture: How a fitted belief is fitted.
    """

    loss: IQLForm = "slate_mean"
    selection: Literal["greedy", "sample"] = "greedy"
    belief: BeliefKind = "fitted"
    history: Literal["none", "encoder"] = "encoder"
    posterior_from: str = ""
    one_per_category: bool = True
    expectile: float = 0.7
    temperature: float = 0.5
    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    target_rate: float = 0.01
    target_period: int = 1
    width: int = 128
    n_layers: int = 2
    n_encoder_outputs: int = 8
    reward_scale: float = 0.1
    log_every: int = 100
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work; a stored card gives ``mixture`` as plain values.

        Raises:
            ValueError: Naming the setting, its value and the range.
        """
        object.__setattr__(self, "mixture", part_of(MixtureConfig, self.mixture, "mixture"))
        for name, allowed in (
            ("loss", ("slate_mean", "per_prompt")),
            ("selection", ("greedy", "sample")),
            ("history", ("none", "encoder")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        check_belief_settings(self.belief, self.posterior_from)
        if not 0.5 <= self.expectile < 1:
            raise ValueError(f"expectile must lie in [0.5, 1), got {self.expectile}; the paper uses 0.7")
        if not 0 < self.target_rate <= 1:
            raise ValueError(f"target_rate must lie in (0, 1], got {self.target_rate}; 1 copies the online network")
        check_counts(self, "steps", "batch_size", "target_period", "width", "n_encoder_outputs", "log_every")
        check_counts(self, "n_layers", least=0, note="0 makes values linear")
        check_not_negative(self, "weight_decay")
        check_positive(self, "temperature", "learning_rate", "gradient_norm", "reward_scale")


class IQLNetwork(nn.Module):
    """The prompt value f(h, p) and the history value v(h), on one encoding of the history."""

    def __init__(
        self, config: IQLConfig, *, embedding_dim: int, horizon: int, n_components: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        n_encoder_outputs = config.n_encoder_outputs if config.history == "encoder" else 0
        self.encoder = StateEncoder(
            embedding_dim=embedding_dim,
            horizon=horizon,
            n_encoder_outputs=n_encoder_outputs,
            width=config.width,
            generator=generator,
        )
        state_dim, context_dim = self.encoder.state_dim, n_components + n_encoder_outputs
        self.prompt_value = PromptNetwork(
            state_dim, context_dim, embedding_dim, width=config.width, n_layers=config.n_layers, generator=generator
        )
        self.history_value = ValueNetwork(
            state_dim, context_dim, width=config.width, n_layers=config.n_layers, generator=generator
        )

    def forward(self, histories: Histories, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Values of prompts ``(B, n)`` and of histories ``(B,)``, which are encoded once for both."""
        state, context = self.encoder(histories)
        return self.prompt_value(state, context, self.encoder.prompts(prompts)), self.history_value(state, context)

    def f(self, histories: Histories, prompts: Tensor) -> Tensor:
        """Values of prompts ``(B, n, d)``: ``(B, n)``."""
        state, context = self.encoder(histories)
        values: Tensor = self.prompt_value(state, context, self.encoder.prompts(prompts))
        return values

    def v(self, histories: Histories) -> Tensor:
        """Values of histories: ``(B,)``."""
        values: Tensor = self.history_value(*self.encoder(histories))
        return values


class IQLAgent:
    """Learns f(h, p) by implicit Q-learning and shows the slate with the largest mean."""

    def __init__(self, config: IQLConfig | None = None, *, name: str = "iql") -> None:
        """Make an agent that is yet to be trained.

        Args:
            config: Settings; the defaults of :class:`IQLConfig` if none are given.
            name: Short name for tables and files.
        """
        self.name = name
        self.config = config or IQLConfig()
        self.privileged = self.config.belief == "privileged"
        self._network: IQLNetwork | None = None
        self._belief: Belief | None = None
        self._sizes: dict[str, int] = {}

    def train(self, dataset: TrajectoryDataset, *, seed: int, log: Log) -> None:
        """Learn from logged conversations; earlier learning is forgotten.

        Args:
            dataset: Logged conversations.
            seed: Fixes initial weights, batches and the belief's fit.
            log: Called every ``log_every`` steps; docs/agents/iql.md explains the metrics.

        Raises:
            ValueError: If the dataset is malformed.
        """
        check_dataset(dataset)
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        belief = learn_belief(dataset, config.belief, config.posterior_from, config.mixture, seed=seed, log=log)
        logged = LoggedHistories(dataset, belief.of_dataset(dataset), reads_past=config.history == "encoder")
        self._build(dataset.prompt_embeddings.shape[1], logged.horizon, belief, generator)
        network = self._trained()
        network.encoder.fit_statistics(logged)
        start_at(network.prompt_value, config.reward_scale * logged.mean_return())
        start_at(network.history_value, config.reward_scale * logged.mean_return())
        target = copy.deepcopy(network).requires_grad_(False)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        for step in range(1, config.steps + 1):
            metrics = self._step(network, target, logged, optimiser, generator)
            schedule.step()
            if step % config.target_period == 0:
                update_target(target, network, config.target_rate)
            if step % config.log_every == 0 or step == config.steps:
                log({"step": float(step), **{name: float(value) for name, value in metrics.items()}})
        log({"step": float(config.steps), "context_effect": context_effect(network.f, logged)})

    def _step(
        self,
        network: IQLNetwork,
        target: IQLNetwork,
        logged: LoggedHistories,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """One gradient step on a batch of logged turns; returns its metrics."""
        config = self.config
        episodes, turns = logged.sample(config.batch_size, generator)
        histories, prompts = logged.histories(episodes, turns), logged.slate_prompts(episodes, turns)
        with torch.no_grad():
            next_values = network.v(logged.histories(episodes, turns + 1))
            target_prompt_values = target.f(histories, prompts)
        targets = bootstrapped_target(
            config.reward_scale * logged.rewards[episodes, turns], next_values, turns + 1 == logged.horizon
        )
        prompt_values, values = network(histories, prompts)
        loss = iql_loss(
            prompt_values, target_prompt_values, values, targets, expectile=config.expectile, form=config.loss
        )
        optimiser.zero_grad()
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
        optimiser.step()
        return {
            "loss/q": loss.q.detach(),
            "loss/v": loss.v.detach(),
            "value/q": prompt_values.detach().mean(),
            "value/q_spread": prompt_values.detach().std(1).mean(),
            "value/v": values.detach().mean(),
            "value/target": targets.mean(),
            "gradient_norm": norm,
        }

    def prompt_values(self, observations: Observations) -> FloatArray:
        """Value every candidate, f(h, p).

        Args:
            observations: The environment's observations with a leading batch axis B.

        Returns:
            ``(B, n_candidates)`` float32, in units of return times ``reward_scale``.

        Raises:
            ValueError: If the agent is not trained or the observations are malformed.
        """
        network = self._trained()
        check_observations(observations)
        belief = self._belief
        assert belief is not None
        histories = histories_from_observations(observations, belief.of_observations(observations))
        prompts = torch.from_numpy(np.asarray(observations["candidates"], dtype=np.float32))
        with torch.no_grad():
            return np.asarray(network.f(histories, prompts).numpy())

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose a slate for each conversation.

        Args:
            observations: The environment's observations with a leading batch axis B.
            seeds: ``(B,)`` key of each decision, read with ``selection="sample"`` only.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates, best or first drawn first.

        Raises:
            ValueError: If the agent is not trained, the observations are malformed or no slate is legal.
        """
        values = self.prompt_values(observations)
        _, slate_size = check_observations(observations)
        categories = np.asarray(observations["categories"]) if self.config.one_per_category else None
        return slate_by_value(
            values,
            categories,
            slate_size,
            selection=self.config.selection,
            temperature=self.config.temperature,
            reward_scale=self.config.reward_scale,
            seeds=seeds,
        )

    def save(self, folder: Path) -> None:
        """Write ``agent.safetensors`` and ``agent.json`` into ``folder``.

        Raises:
            ValueError: If the agent is not trained.
        """
        network, belief = self._trained(), self._belief
        assert belief is not None
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()} | belief_tensors(belief)
        write_checkpoint(
            folder,
            kind="iql",
            name=self.name,
            config=self.config,
            sizes=self._sizes,
            tensors=tensors,
            notes=belief_notes(belief),
        )

    @classmethod
    def load(cls, folder: Path, *, posterior_from: str = "") -> Self:
        """Read an agent that :meth:`save` wrote.

        Args:
            folder: Its folder.
            posterior_from: Folder of the user model of a privileged belief, where that is not where it was in training.

        Returns:
            An agent that chooses the same slates.

        Raises:
            ValueError: If a file is missing, broken or of another kind, naming it.
        """
        stored = read_checkpoint(folder, kind="iql")
        elsewhere = {"posterior_from": posterior_from} if posterior_from else {}
        agent = cls(config_from_card(IQLConfig, stored.config | elsewhere, folder), name=stored.name)
        tensors = dict(stored.tensors)
        belief = restore_belief(agent.config.belief, agent.config.posterior_from, tensors, folder, stored.notes)
        agent._build(stored.size("embedding_dim"), stored.size("horizon"), belief, torch.Generator())
        load_weights(agent._trained(), tensors, folder)
        return agent

    def _build(self, embedding_dim: int, horizon: int, belief: Belief, generator: torch.Generator) -> None:
        self._belief = belief
        self._sizes = {"embedding_dim": embedding_dim, "horizon": horizon}
        self._network = IQLNetwork(
            self.config,
            embedding_dim=embedding_dim,
            horizon=horizon,
            n_components=belief.n_components,
            generator=generator,
        )

    def _trained(self) -> IQLNetwork:
        if self._network is None:
            raise ValueError(
                f"agent {self.name!r} is not trained; call train(dataset, ...) or {type(self).__name__}.load"
            )
        return self._network
