"""Phase 2 of the fit: mini-batch EM on sessions (Algorithm 1 with the losses of the paper's D.3).

The loss is that of the choices, plus ``kappa_2`` times that of the in-turn comparisons, plus ``kappa_3`` times that of
the verdicts between turns; each is a mean over its own labels, expected under the posterior over the rater's type.
That posterior conditions on everything the rater said: the target network's likelihoods are multiplied over all the
labels, in-turn and cross-turn ones raised to the same kappas. Pairs and ratings of the raters can stay in the loss,
because choices and comparisons say nothing about where on [0, 1] utilities lie.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from pasta_gym.settings import check_counts, check_not_negative, check_positive
from pasta_gym.types import IntArray
from pasta_gym.user_model.checkpoint import Checkpoints, RunParts, State
from pasta_gym.user_model.choice import ChoiceConfig
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.em import FIGURES_EVERY, rating_log_likelihood, update_prior
from pasta_gym.user_model.features import Features, FrozenFeatures
from pasta_gym.user_model.labels import Labels, images_at_once
from pasta_gym.user_model.network import ScoreModel
from pasta_gym.user_model.posterior import log_evidence, log_posterior, rows_by_rater
from pasta_gym.user_model.session_losses import (
    bradley_terry,
    choice_terms,
    cross_turn_terms,
    expected_mean,
    in_turn_terms,
)
from pasta_gym.user_model.sessions import RaterBatch, RaterBatches, Sessions
from pasta_gym.user_model.temperature import CONSTANT, Slopes, bounded_slopes, free_slopes
from pasta_gym.user_model.user_model import ChoiceNumbers
from pasta_gym.user_model.utility import aggregate, check_aggregator

Terms = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""By kind of label: log-likelihoods ``(n, K)`` and the rater of each label in the batch ``(n,)``."""

SESSION_KINDS = ("choice", "in_turn", "cross_turn")
SINGLE_KINDS = ("pair", "rating")


@dataclass(frozen=True)
class SequentialConfig:
    """How sessions are fitted; the defaults suit the mini world, table 2 is ``conf/user_model/paper.yaml``.

    Attributes:
        steps: Gradient steps.
        batch_sessions: Sessions in a batch, reached with whole raters.
        batch_labels: Single-turn labels in a batch from raters who have no session; 0 leaves those raters out.
        learning_rate: Peak of the cosine schedule with warm restarts.
        choice_learning_rate: The same for tau, its slopes, the sharpness and tau_s, which have further to go than
            weights; None is ``learning_rate``.
        restart_period: Steps of one cosine; 0 means all steps in one.
        weight_decay: AdamW's, on the weights; the choice model's few numbers have none.
        clip: Largest gradient norm.
        target_every: Steps between copies to the target network.
        prior_memory: alpha of the prior's moving average.
        in_turn_weight: kappa_2.
        cross_turn_weight: kappa_3.
        pair_weight: Weight of the mean loss of single-turn pairs that stay in the mix.
        rating_weight: The same for ratings, which anchor the scale of utilities.
        rating_deviation: nu.
        slate_dependent: Whether the temperature of choices may depend on the slate.
        seed: Seed of the batches.
    """

    steps: int = 400
    batch_sessions: int = 16
    batch_labels: int = 512
    learning_rate: float = 3e-4
    choice_learning_rate: float | None = None
    restart_period: int = 0
    weight_decay: float = 1e-4
    clip: float = 0.5
    target_every: int = 8
    prior_memory: float = 0.97
    in_turn_weight: float = 0.01
    cross_turn_weight: float = 1.0
    pair_weight: float = 1.0
    rating_weight: float = 1.0
    rating_deviation: float = 0.2
    slate_dependent: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "batch_sessions", "target_every")
        check_counts(self, "batch_labels", least=0, note="0 leaves raters without a session out")
        check_counts(self, "restart_period", least=0, note="0 is one cosine over all steps")
        check_not_negative(self, "weight_decay", "in_turn_weight", "cross_turn_weight", "pair_weight", "rating_weight")
        check_positive(self, "learning_rate", "clip", "rating_deviation")
        if self.choice_learning_rate is not None:  # then it is learning_rate
            check_positive(self, "choice_learning_rate")
        if not 0 <= self.prior_memory < 1:
            raise ValueError(f"prior_memory must be in [0, 1), got {self.prior_memory}; 0 keeps the last batch alone")

    def weights(self) -> dict[str, float]:
        """Factor of each kind's mean in the loss."""
        single = {"pair": self.pair_weight, "rating": self.rating_weight}
        return {"choice": 1.0, "in_turn": self.in_turn_weight, "cross_turn": self.cross_turn_weight, **single}

    def powers(self) -> dict[str, float]:
        """Power of each kind's likelihoods in the posterior: single-turn labels count in full, as in phase 1."""
        return {**self.weights(), "pair": 1.0, "rating": 1.0}


class SessionModel(nn.Module):
    """Scores, the encoder's features if they are trained, and the choice model: all that phase 2 trains.

    Args:
        scores: The score model.
        choice: The choice model to start from.
        aggregator: How the scores of a column's images become its utility.
        features: Where embeddings come from; trained as well if it is a module.
        rating_deviation: nu.
        slate_dependent: Whether the temperature has slopes.
        max_sharpness: Largest beta.
    """

    def __init__(
        self,
        scores: ScoreModel,
        choice: ChoiceNumbers,
        aggregator: str,
        features: Features,
        *,
        rating_deviation: float,
        slate_dependent: bool,
        max_sharpness: float = ChoiceConfig.max_sharpness,
    ) -> None:
        super().__init__()
        self.max_sharpness = max_sharpness
        self.scores, self.features = scores, features
        self.aggregator = check_aggregator(aggregator)
        self.rating_deviation, self.slate_dependent = rating_deviation, slate_dependent
        self.log_temperature = nn.Parameter(torch.tensor(math.log(choice.temperature)))
        start = min(max(choice.sharpness, 0.1), 0.99 * max_sharpness)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(start)), requires_grad=aggregator == "softmax")
        self.free_slopes = nn.Parameter(free_slopes(choice.slopes), requires_grad=slate_dependent)

    @property
    def sharpness(self) -> torch.Tensor:
        """Beta of the softmax aggregator."""
        return self.log_sharpness.clamp(max=math.log(self.max_sharpness)).exp()

    @property
    def slopes(self) -> torch.Tensor | Slopes:
        """Slopes of the temperature."""
        return bounded_slopes(self.free_slopes) if self.slate_dependent else CONSTANT

    def choice_parameters(self) -> list[nn.Parameter]:
        """The choice model's numbers and the comparisons' temperature, which no decay may pull towards 1."""
        return [self.log_temperature, self.log_sharpness, self.free_slopes, self.scores.log_comparison_temperature]

    def choice_numbers(self) -> ChoiceNumbers:
        """Return the choice model as numbers."""
        sharpness = float(self.sharpness.detach()) if self.aggregator == "softmax" else 0.0
        slopes = Slopes(*self.slopes.detach().tolist()) if isinstance(self.slopes, torch.Tensor) else CONSTANT
        return ChoiceNumbers(float(self.log_temperature.detach().exp()), sharpness, slopes)

    def image_scores(self, prompts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Score images ``(n,)`` for their initial prompts ``(n,)`` by every type: ``(n, K)``."""
        distinct, rows = torch.unique(prompts, return_inverse=True)
        scores: torch.Tensor = self.scores(self.features.prompts(distinct), rows, self.features.images(images))
        return scores

    def utilities(self, sessions: Sessions) -> torch.Tensor:
        """Utilities of all columns of some sessions by type, ``(S, H, K, L)``."""
        s, h, n_columns, m = sessions.images.shape
        prompts = sessions.prompts[:, None].expand(s, h * n_columns * m).reshape(-1)
        scores = self.image_scores(prompts, sessions.images.reshape(-1)).view(s, h, n_columns, m, -1)
        return aggregate(scores.permute(0, 1, 4, 2, 3), self.aggregator, self.sharpness)

    def session_terms(self, sessions: Sessions) -> Terms:
        """Log-likelihoods of all that is said in sessions."""
        utilities = self.utilities(sessions)
        scale = self.scores.log_comparison_temperature.exp()
        found = {
            "choice": choice_terms(utilities, sessions.choices, self.log_temperature.exp(), self.slopes),
            "in_turn": in_turn_terms(utilities, sessions.satisfactions, scale),
            "cross_turn": cross_turn_terms(utilities, sessions.choices, sessions.verdicts, scale),
        }
        return {kind: (terms, sessions.raters[session]) for kind, (terms, session) in found.items()}

    def single_terms(self, labels: Labels) -> Terms:
        """Log-likelihoods of pairs and ratings."""
        prompts = torch.cat([labels.pair_prompts, labels.pair_prompts, labels.rating_prompts])
        images = torch.cat([labels.pair_images[:, 0], labels.pair_images[:, 1], labels.rating_images])
        scores = self.image_scores(prompts, images)
        n, scale = len(labels.pair_labels), self.scores.log_comparison_temperature.exp()
        return {
            "pair": (
                bradley_terry(scores[:n] - scores[n : 2 * n], labels.pair_labels, scale),
                labels.pair_raters,
            ),
            "rating": (
                rating_log_likelihood(scores[2 * n :], labels.ratings, self.rating_deviation),
                labels.rating_raters,
            ),
        }

    def terms(self, batch: RaterBatch, *, single: bool = True) -> Terms:
        """Log-likelihoods of everything that some raters said; ``single=False`` leaves pairs and ratings out."""
        of_sessions = self.session_terms(batch.sessions) if len(batch.sessions) else {}
        has_single = len(batch.labels.pair_labels) + len(batch.labels.ratings) > 0
        return {**of_sessions, **(self.single_terms(batch.labels) if single and has_single else {})}


def rater_evidence(terms: Terms, powers: Mapping[str, float], n_raters: int, n_types: int) -> torch.Tensor:
    """Log-likelihood of all that each rater said by type, each kind of label with its power: ``(n_raters, K)``."""
    somewhere = next((rows.device for rows, _ in terms.values()), None)
    total = torch.zeros(n_raters, n_types, device=somewhere)
    for kind, (rows, owners) in terms.items():
        if powers[kind]:
            total = total + powers[kind] * rows_by_rater(rows, owners, n_raters)
    return total


def sequential_loss(
    terms: Terms, weights: Mapping[str, float], posterior: torch.Tensor, counts: Mapping[str, int] | None = None
) -> torch.Tensor:
    """The multi-turn loss of D.3: a weighted sum of the kinds' mean expected losses, a scalar.

    Args:
        terms: Log-likelihoods by kind.
        weights: Factor of each kind.
        posterior: ``(R, K)`` of the raters.
        counts: Labels of each kind in the whole batch if the terms are of a piece of it: the pieces' losses add up to
            the batch's.

    Returns:
        The loss.
    """
    loss = posterior.new_zeros(())
    for kind, (rows, owners) in terms.items():
        if weights[kind]:
            share = 1.0 if counts is None else len(rows) / max(1, counts[kind])
            loss = loss + weights[kind] * share * expected_mean(rows, owners, posterior)
    return loss


@dataclass(frozen=True)
class SequentialFit:
    """What phase 2 found.

    Attributes:
        model: Everything that was trained.
        prior: ``(K,)`` shares of the types: the mean posterior of all training raters.
        posterior: ``(n_raters, K)`` of the training raters, from all they said.
        log_likelihood: Mean log evidence of a training rater, with the kappas as powers.
    """

    model: SessionModel
    prior: torch.Tensor
    posterior: torch.Tensor
    log_likelihood: float


class SequentialEM:
    """One run of phase 2: the model, its target network, the prior and the optimiser.

    Args:
        model: Where to start; it is trained in place.
        prior: ``(K,)`` shares to start from.
        data: All labels.
        raters: ``(n,)`` training raters.
        config: How to fit.
        device: Where the model is trained; what raters said follows a batch at a time.
    """

    def __init__(
        self,
        model: SessionModel,
        prior: torch.Tensor,
        data: PreferenceData,
        raters: IntArray,
        config: SequentialConfig,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.config, self.model, self.prior = config, model.to(self.device), prior.float().to(self.device)
        self.target = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(config.seed)
        self.batches = RaterBatches(data, raters, config.batch_sessions, config.batch_labels, generator)
        self.taken = 0
        few = {id(p) for p in model.choice_parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.parameters() if id(p) not in few]},
            {
                "params": [p for p in model.choice_parameters() if p.requires_grad],
                "lr": config.choice_learning_rate or config.learning_rate,
                "weight_decay": 0.0,
            },
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        period = config.restart_period or config.steps
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self._optimiser, T_0=period)
        self._parts = RunParts(self.model, self.target, self._optimiser, self._schedule, self.batches)

    def state(self) -> State:
        """Return all that it takes to go on from here; keep it before the next step."""
        parts = self._parts.state()
        return State({**parts.tensors, "prior": self.prior}, {**parts.numbers, "taken": self.taken})

    def restore(self, state: State) -> None:
        """Go to where ``state`` was called of an equal run."""
        self._parts.restore(state)
        self.prior, self.taken = state.tensors["prior"].to(self.device), int(state.numbers["taken"])

    def posterior_of(
        self, model: SessionModel, batch: RaterBatch
    ) -> tuple[torch.Tensor, torch.Tensor, Mapping[str, int]]:
        """Posterior of a batch's raters ``(b, K)`` from all they said, its log evidence ``(b,)``, labels by kind."""
        counts: Counter[str] = Counter()
        evidence = torch.zeros(len(batch.raters), len(self.prior), device=self.device)
        for piece in self._pieces(batch):
            terms = model.terms(piece)
            counts.update({kind: len(rows) for kind, (rows, _) in terms.items()})
            evidence = evidence + rater_evidence(terms, self.config.powers(), *evidence.shape)
        return log_posterior(self.prior.log(), evidence).exp(), log_evidence(self.prior.log(), evidence), counts

    def _pieces(self, batch: RaterBatch) -> list[RaterBatch]:
        """One piece unless a rater, who is in a batch whole, said more than fits the memory."""
        return batch.pieces(images_at_once(self.model.scores.n_types, self.model.scores.embedding_dim))

    def step(self) -> dict[str, float]:
        """Take one step: E-step with the target network, prior, one gradient step, now and then the target."""
        config, batch = self.config, self.batches.draw().on(self.device)
        with torch.no_grad():
            posterior, _, counts = self.posterior_of(self.target, batch)
        single = config.pair_weight > 0 or config.rating_weight > 0
        self._optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        for piece in self._pieces(batch):
            part = sequential_loss(self.model.terms(piece, single=single), config.weights(), posterior, counts)
            if part.requires_grad:  # a piece of labels without a weight is there for the posterior alone
                torch.autograd.backward(part)
                loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self._optimiser.step()
        self._schedule.step()
        # A type that nobody has must be able to come back: the prior keeps away from zero.
        self.prior = update_prior(self.prior, posterior, config.prior_memory).clamp(min=1e-4)
        self.prior = self.prior / self.prior.sum()
        self.taken += 1
        if self.taken % config.target_every == 0:
            self.target.load_state_dict(self.model.state_dict())
        return {"loss": loss, "largest_type": float(self.prior.max())}

    @torch.no_grad()
    def evaluate(self) -> tuple[torch.Tensor, float]:
        """Return the posterior of all training raters ``(n_raters, K)`` and their mean log evidence."""
        parts = [self.posterior_of(self.model, batch.on(self.device)) for batch in self.batches.all()]
        return torch.cat([p for p, _, _ in parts]), float(torch.cat([e for _, e, _ in parts]).mean())


def fit_sessions(
    scores: ScoreModel,
    prior: torch.Tensor,
    choice: ChoiceNumbers,
    aggregator: str,
    data: PreferenceData,
    raters: IntArray,
    config: SequentialConfig | None = None,
    *,
    features: Features | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    checkpoints: Checkpoints | None = None,
    max_sharpness: float = ChoiceConfig.max_sharpness,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> SequentialFit:
    """Fit scores, prior and choice model on sessions.

    Args:
        scores: The score model to start from: phase 1's, or an untrained one. It is not changed.
        prior: ``(K,)`` shares to start from.
        choice: The choice model to start from.
        aggregator: How the scores of a column's images become its utility.
        data: All labels.
        raters: ``(n,)`` training raters; those with neither a session nor a label do nothing.
        config: How to fit.
        features: Where embeddings come from; None for the data's tables.
        log: Called with the figures of every 50th step.
        checkpoints: Where the fit is kept as it runs; one that was stopped goes on from there.
        max_sharpness: Largest beta of the softmax aggregator.
        progress: Whether to show a progress bar.
        device: Where everything that is trained is. The fit comes back on the CPU, an encoder in training stays there.

    Returns:
        The fit.

    Raises:
        ValueError: If the raters have no sessions.
    """
    config = config or SequentialConfig()
    model = SessionModel(
        copy.deepcopy(scores).requires_grad_(True),
        choice,
        aggregator,
        FrozenFeatures.of(data) if features is None else features,
        rating_deviation=config.rating_deviation,
        slate_dependent=config.slate_dependent,
        max_sharpness=max_sharpness,
    )
    run = SequentialEM(model, prior, data, raters, config, device=device)
    kept = checkpoints.load() if checkpoints is not None else None
    figures: list[dict[str, float]] = []
    if kept is not None:
        run.restore(kept[0]["run"])
        figures = kept[1]["figures"]
    if log is not None:
        for row in figures:
            log(row)
    for step in tqdm(range(run.taken, config.steps), desc="sessions", disable=not progress, mininterval=1):
        found = run.step()
        if (step + 1) % FIGURES_EVERY == 0:
            figures.append({"step": float(step + 1), **found})
            if log is not None:
                log(figures[-1])
        if checkpoints is not None and checkpoints.is_due(run.taken):
            checkpoints.save({"run": run.state()}, {"figures": figures})
    posterior, likelihood = run.evaluate()
    model.eval().requires_grad_(False).scores.cpu()
    posterior = posterior.cpu()
    return SequentialFit(model, posterior.mean(dim=0), posterior, likelihood)
