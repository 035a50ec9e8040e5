"""SlateQ: item values, weighted by a learned choice model (Ie et al., 2019); see docs/agents/slateq.md."""

from __future__ import annotations

import copy
from collections.abc import Callable
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
    FittedBelief,
    belief_notes,
    belief_tensors,
    check_belief_settings,
    learn_belief,
    restore_belief,
)
from agents.checkpoint import config_from_card, load_weights, read_checkpoint, write_checkpoint
from agents.diagnostics import context_effect
from agents.history import LoggedHistories, check_dataset, histories_from_observations
from agents.losses import bootstrapped_target, mixture_choice_cross_entropy, slateq_component_values, slateq_td_loss
from agents.mixture_fit import MixtureConfig, logged_rewards
from agents.mixture_slate import mixture_slate
from agents.networks import start_at, update_target
from agents.prompt_taste import TasteConfig, fit_prompt_taste
from agents.slate_selection import coordinate_slate, exact_choice_slate, rounded, topk_choice_slate, value_unit
from agents.slateq_network import ItemScores, MixtureSlateQNetwork, SlateQNetwork
from pasta_gym.settings import check_counts, check_not_negative, check_positive, part_of
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray, UInt64Array

Optimiser = Literal["coordinate", "exact", "topk"]
_OPTIMISERS: dict[str, Callable[[FloatArray, FloatArray, IntArray | None, int], IntArray]] = {
    "coordinate": coordinate_slate,
    "exact": exact_choice_slate,
    "topk": topk_choice_slate,
}


@dataclass(frozen=True)
class SlateQConfig:
    """Settings of :class:`SlateQAgent`.

    Attributes:
        slate_value: How choices are modelled: ``mixture``, one softmax for each component of the fitted belief, or
            ``softmax``, one for everybody that reads belief and history.
        next_slate: Whose value the target takes after a turn: the ``logged`` next slate (values of the logging policy)
            or the ``max``, the best slate of the next candidates (Q-learning).
        optimiser: How the slate is found under ``softmax``: ``exact`` (the best one), ``coordinate`` ascent, or
            ``topk`` by P times q. Under ``mixture`` it is ``coordinate`` ascent.
        belief: ``none``; ``fitted``, the agent's own mixture over logged choices; or ``privileged``, the posterior of
            the user model in ``posterior_from``.
        history: ``encoder`` reads all past turns; ``none`` only the initial and the current prompt. Under ``mixture``
            the belief alone reads the past.
        posterior_from: Folder of the environment's user model, for a privileged belief.
        one_per_category: Show at most one prompt of each category.
        steps: Gradient steps.
        batch_size: Turns in a step.
        learning_rate: Adam's first step size, which falls to 0 along a cosine.
        weight_decay: Decoupled.
        gradient_norm: Largest norm of the gradient.
        choice_weight: Weight of the choice head's cross-entropy beside the temporal difference, under ``softmax``.
        target_rate: How far the target network moves at an update, in (0, 1].
        target_period: Steps between updates.
        width: Hidden width of the networks.
        n_layers: Hidden layers; 0 makes values and choice scores linear.
        n_encoder_outputs: Size of the encoder's context.
        reward_scale: Rewards are multiplied by it; 0.1 takes a turn's reward to [0, 1].
        log_every: Steps between metrics.
        mixture: How a fitted belief is fitted.
        taste: How the mixture's utilities are carried over to prompts, under ``mixture``.
    """

    slate_value: Literal["mixture", "softmax"] = "mixture"
    next_slate: Literal["logged", "max"] = "logged"
    optimiser: Optimiser = "coordinate"
    belief: BeliefKind = "fitted"
    history: Literal["none", "encoder"] = "none"
    posterior_from: str = ""
    one_per_category: bool = True
    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    choice_weight: float = 0.1
    target_rate: float = 0.01
    target_period: int = 1
    width: int = 128
    n_layers: int = 2
    n_encoder_outputs: int = 8
    reward_scale: float = 0.1
    log_every: int = 100
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    taste: TasteConfig = field(default_factory=TasteConfig)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work; a stored card gives ``mixture`` and ``taste`` as plain values.

        Raises:
            ValueError: Naming the setting, its value and the range.
        """
        object.__setattr__(self, "mixture", part_of(MixtureConfig, self.mixture, "mixture"))
        object.__setattr__(self, "taste", part_of(TasteConfig, self.taste, "taste"))
        for name, allowed in (
            ("slate_value", ("mixture", "softmax")),
            ("next_slate", ("logged", "max")),
            ("optimiser", tuple(_OPTIMISERS)),
            ("history", ("none", "encoder")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        check_belief_settings(self.belief, self.posterior_from)
        if self.slate_value == "mixture":
            for name, needed in (("belief", "fitted"), ("history", "none"), ("optimiser", "coordinate")):
                if getattr(self, name) != needed:
                    raise ValueError(
                        f"slate_value='mixture' needs {name}={needed!r}, got {getattr(self, name)!r}; "
                        "change it, or use slate_value='softmax'"
                    )
        if not 0 < self.target_rate <= 1:
            raise ValueError(f"target_rate must lie in (0, 1], got {self.target_rate}; 1 copies the online network")
        check_counts(self, "steps", "batch_size", "target_period", "width", "n_encoder_outputs", "log_every")
        check_counts(self, "n_layers", least=0, note="0 makes values linear")
        check_not_negative(self, "weight_decay")
        check_positive(self, "learning_rate", "gradient_norm", "reward_scale", "choice_weight")


class SlateQAgent:
    """Learns item values and a choice head, and shows the slate with the best choice-weighted value."""

    def __init__(self, config: SlateQConfig | None = None, *, name: str = "slateq") -> None:
        """Make an agent that is yet to be trained.

        Args:
            config: Settings; the defaults of :class:`SlateQConfig` if none are given.
            name: Short name for tables and files.
        """
        self.name = name
        self.config = config or SlateQConfig()
        self.privileged = self.config.belief == "privileged"
        self._network: SlateQNetwork | MixtureSlateQNetwork | None = None
        self._belief: Belief | None = None
        self._sizes: dict[str, int] = {}

    def train(self, dataset: TrajectoryDataset, *, seed: int, log: Log) -> None:
        """Learn from logged conversations; earlier learning is forgotten.

        Args:
            dataset: Logged conversations.
            seed: Fixes initial weights, batches and the belief's fit.
            log: Called every ``log_every`` steps; docs/agents/slateq.md explains the metrics.

        Raises:
            ValueError: If the dataset is malformed.
        """
        check_dataset(dataset)
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        belief = learn_belief(dataset, config.belief, config.posterior_from, config.mixture, seed=seed, log=log)
        prepare = self._prepare_mixture if config.slate_value == "mixture" else self._prepare_softmax
        logged, responsibilities = prepare(dataset, belief, generator, log)
        network = self._trained()
        target = copy.deepcopy(network).requires_grad_(False)
        learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(learned, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        for step in range(1, config.steps + 1):
            metrics = self._step(network, target, logged, responsibilities, optimiser, generator)
            schedule.step()
            if step % config.target_period == 0:
                update_target(target, network, config.target_rate)
            if step % config.log_every == 0 or step == config.steps:
                log({"step": float(step), **{name: float(value) for name, value in metrics.items()}})
        log(
            {
                "step": float(config.steps),
                "context_effect": context_effect(lambda h, p: _for_this_person(network(h, p), "values"), logged),
                "context_effect/choice": context_effect(lambda h, p: _for_this_person(network(h, p), "logits"), logged),
            }
        )

    def _prepare_softmax(
        self, dataset: TrajectoryDataset, belief: Belief, generator: torch.Generator, log: Log
    ) -> tuple[LoggedHistories, Tensor]:
        """Make the data's tables and the network; everybody is of the one component, ``(N, 1)`` ones."""
        logged = LoggedHistories(dataset, belief.of_dataset(dataset), reads_past=self.config.history == "encoder")
        self._build(dataset.prompt_embeddings.shape[1], logged.horizon, belief, generator)
        network = self._trained()
        assert isinstance(network, SlateQNetwork)
        network.encoder.fit_statistics(logged)
        start_at(network.item_value, self.config.reward_scale * logged.mean_return())
        return logged, torch.ones(logged.n_episodes, 1)

    def _prepare_mixture(
        self, dataset: TrajectoryDataset, belief: Belief, generator: torch.Generator, log: Log
    ) -> tuple[LoggedHistories, Tensor]:
        """Make the data's tables, the network with its tastes, and whole conversations' responsibilities ``(N, K)``."""
        assert isinstance(belief, FittedBelief)
        mixture = belief.mixture
        utilities = mixture.dataset_utilities(dataset)
        logged = LoggedHistories(dataset, belief.of_utilities(utilities, dataset.choices), reads_past=False)
        self._build(dataset.prompt_embeddings.shape[1], logged.horizon, belief, generator)
        network = self._trained()
        assert isinstance(network, MixtureSlateQNetwork)
        network.encoder.fit_statistics(logged)
        network.temperature.fill_(mixture.temperature)
        explained = fit_prompt_taste(
            network.taste, network.encoder, logged, torch.from_numpy(utilities), self.config.taste, generator
        )
        network.taste.requires_grad_(False)
        log({"taste/explained_variance": explained})
        rewards = logged_rewards(dataset.rewards, self.config.mixture)
        responsibilities = mixture.responsibilities(utilities, dataset.choices, rewards)
        return logged, torch.from_numpy(responsibilities.astype(np.float32))

    def _step(
        self,
        network: SlateQNetwork | MixtureSlateQNetwork,
        target: SlateQNetwork | MixtureSlateQNetwork,
        logged: LoggedHistories,
        responsibilities: Tensor,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """One gradient step on a batch of logged turns; returns its metrics."""
        config = self.config
        episodes, turns = logged.sample(config.batch_size, generator)
        choices = logged.choices[episodes, turns]
        targets = bootstrapped_target(
            config.reward_scale * logged.rewards[episodes, turns][:, None],
            self._next_values(network, target, logged, episodes, turns),
            (turns + 1 == logged.horizon)[:, None],
        )
        scores = network(logged.histories(episodes, turns), logged.slate_prompts(episodes, turns))
        td_loss = slateq_td_loss(scores.values, choices, targets, responsibilities[episodes])
        choice_loss = mixture_choice_cross_entropy(scores.logits, choices, scores.weights)
        # The tastes of a mixture take no gradient: only the single softmax learns from its cross-entropy here.
        loss = td_loss + config.choice_weight * choice_loss if choice_loss.requires_grad else td_loss
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
        optimiser.step()
        probabilities = (torch.softmax(scores.logits, 1) * scores.weights[:, None]).sum(2).detach()
        slate_values = slateq_component_values(scores.values, scores.logits)
        return {
            "loss/td": td_loss.detach(),
            "loss/choice": choice_loss.detach(),
            "choice/accuracy": (probabilities.argmax(1) == choices).float().mean(),
            "value/item": _for_this_person(scores, "values").detach().mean(),
            "value/slate": (scores.weights * slate_values).sum(1).detach().mean(),
            "value/target": (scores.weights * targets).sum(1).mean(),
            "gradient_norm": norm,
        }

    @torch.no_grad()
    def _next_values(
        self,
        network: SlateQNetwork | MixtureSlateQNetwork,
        target: SlateQNetwork | MixtureSlateQNetwork,
        logged: LoggedHistories,
        episodes: Tensor,
        turns: Tensor,
    ) -> Tensor:
        """Target-network value ``(B, K)`` of a slate at the *next* history; anything after the last turn."""
        # The slate after the last turn does not exist: any turn stands in for it, the target leaves its value out.
        next_turns = (turns + 1).clamp(max=logged.horizon - 1)
        histories = logged.histories(episodes, turns + 1)
        prompts = (
            logged.slate_prompts(episodes, next_turns)
            if self.config.next_slate == "logged"
            else logged.candidate_prompts(episodes, next_turns)
        )
        online = network(histories, prompts)
        values, logits = target(histories, prompts).values, online.logits
        if self.config.next_slate == "max":
            categories = logged.categories[episodes, next_turns].numpy()
            scores = ItemScores(values, logits, online.weights)
            best = torch.from_numpy(self._best_slates(scores, categories, logged.slate_size))
            index = best[:, :, None].expand(-1, -1, values.shape[2])
            values, logits = values.gather(1, index), logits.gather(1, index)
        return slateq_component_values(values, logits)

    def _best_slates(self, scores: ItemScores, categories: IntArray, slate_size: int) -> IntArray:
        units = (value_unit(self.config.reward_scale), 1.0, 1.0)
        values, logits, weights = (rounded(part.numpy(), unit) for part, unit in zip(scores, units, strict=True))
        labels = categories if self.config.one_per_category else None
        if self.config.slate_value == "mixture":
            return mixture_slate(values, logits, weights, labels, slate_size)
        return _OPTIMISERS[self.config.optimiser](values[..., 0], logits[..., 0], labels, slate_size)

    def item_scores(self, observations: Observations) -> ItemScores:
        """Value every candidate, given that it is chosen, and score how likely it is to be chosen.

        Args:
            observations: The environment's observations with a leading batch axis B.

        Returns:
            For each of the n candidates and K components (one under ``softmax``): values in units of return times
            ``reward_scale``, choice scores, and the probability of each component.

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
            scores: ItemScores = network(histories, prompts)
        return scores

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose a slate for each conversation.

        Args:
            observations: The environment's observations with a leading batch axis B.
            seeds: ``(B,)`` key of each decision; not read, the choice is deterministic.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates.

        Raises:
            ValueError: If the agent is not trained, the observations are malformed or no slate is legal.
        """
        scores = self.item_scores(observations)
        _, slate_size = check_observations(observations)
        return self._best_slates(scores, np.asarray(observations["categories"]), slate_size)

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
            kind="slateq",
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
        stored = read_checkpoint(folder, kind="slateq")
        elsewhere = {"posterior_from": posterior_from} if posterior_from else {}
        agent = cls(config_from_card(SlateQConfig, stored.config | elsewhere, folder), name=stored.name)
        tensors = dict(stored.tensors)
        belief = restore_belief(agent.config.belief, agent.config.posterior_from, tensors, folder, stored.notes)
        agent._build(stored.size("embedding_dim"), stored.size("horizon"), belief, torch.Generator())
        load_weights(agent._trained(), tensors, folder)
        return agent

    def _build(self, embedding_dim: int, horizon: int, belief: Belief, generator: torch.Generator) -> None:
        self._belief = belief
        self._sizes = {"embedding_dim": embedding_dim, "horizon": horizon}
        config = self.config
        sizes = {"embedding_dim": embedding_dim, "horizon": horizon, "n_components": belief.n_components}
        if config.slate_value == "mixture":
            self._network = MixtureSlateQNetwork(
                **sizes,
                taste_width=config.taste.width,
                width=config.width,
                n_layers=config.n_layers,
                generator=generator,
            )
        else:
            self._network = SlateQNetwork(
                **sizes,
                n_encoder_outputs=config.n_encoder_outputs if config.history == "encoder" else 0,
                width=config.width,
                n_layers=config.n_layers,
                generator=generator,
            )

    def _trained(self) -> SlateQNetwork | MixtureSlateQNetwork:
        if self._network is None:
            raise ValueError(
                f"agent {self.name!r} is not trained; call train(dataset, ...) or {type(self).__name__}.load"
            )
        return self._network


def _for_this_person(scores: ItemScores, part: Literal["values", "logits"]) -> Tensor:
    """Average values or choice scores over the components: ``(B, n)``."""
    of_components: Tensor = getattr(scores, part)
    return (of_components * scores.weights[:, None]).sum(2)
