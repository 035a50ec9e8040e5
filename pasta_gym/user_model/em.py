"""Mini-batch expectation-maximisation over user types (Algorithm 1 of the paper's D.1).

All labels of one rater share one latent type, so a batch holds whole raters. The posterior comes from a target
network, the prior is a moving average of posteriors, and the score model takes one gradient step a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from pasta_gym.settings import check_counts, check_not_negative, check_positive, part_of
from pasta_gym.user_model.checkpoint import Checkpoints, RunParts, State
from pasta_gym.user_model.labels import Batches, Labels, images_at_once
from pasta_gym.user_model.network import ScoreModel
from pasta_gym.user_model.posterior import log_evidence, log_posterior, rows_by_rater
from pasta_gym.user_model.session_losses import bradley_terry
from pasta_gym.user_model.sorting import SortingConfig, sort_raters

FIGURES_EVERY = 50  # steps
_OWN_TENSORS = ("prior", "sorted", "posterior")  # of a run, beside its parts'
_ROWS_AT_ONCE = 16_384  # of a table that may be a memory map larger than the memory


@dataclass(frozen=True)
class EMConfig:
    """How the score model is fitted.

    Attributes:
        n_types: K.
        steps: Gradient steps of the chosen start, its trial included.
        restarts: Starts that are tried; the best by training likelihood goes on.
        trial_steps: Gradient steps of each trial.
        batch_labels: Labels in a batch, reached with whole raters.
        learning_rate: Peak of the cosine schedule with warm restarts.
        restart_period: Steps of one cosine; 0 means all steps in one.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        target_every: Steps between copies to the target network (n of Algorithm 1).
        prior_memory: alpha of the prior's moving average.
        rating_deviation: nu, the standard deviation of a rating around the score, on the [0, 1] scale.
        rating_weight: kappa_1.
        comparison_temperature: First value of tau_s.
        noise: Size of the heads' first last-layer weights.
        sorting: How raters are sorted by linear tastes before each start; None leaves the start to the noise.
        sorted_steps: Steps that take the posterior from the sorting, until the heads have learned the types.
        e_step_every: Steps between E-steps over all raters; batches are then single labels drawn from everybody, so
            that their mix of types does not depend on how many labels a rater gives. 0 is Algorithm 1: whole raters
            in a batch, and an E-step on each batch.
        seed: Seed of weights and batches.
    """

    n_types: int = 8
    steps: int = 1100
    restarts: int = 2
    trial_steps: int = 250
    batch_labels: int = 2000
    learning_rate: float = 2e-3
    restart_period: int = 0
    weight_decay: float = 0.1
    clip: float = 1.0
    target_every: int = 8
    prior_memory: float = 0.97
    rating_deviation: float = 0.2
    rating_weight: float = 1.0
    comparison_temperature: float = 8.0
    noise: float = 0.05
    sorting: SortingConfig | None = field(default_factory=SortingConfig)
    sorted_steps: int = 150
    e_step_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sorting is not None:
            object.__setattr__(self, "sorting", part_of(SortingConfig, self.sorting, "sorting"))
        check_counts(self, "n_types", "steps", "restarts", "trial_steps", "batch_labels", "target_every")
        check_counts(self, "restart_period", least=0, note="0 is one cosine over all steps")
        check_counts(self, "sorted_steps", least=0, note="0 takes no posterior from the sorting")
        check_counts(self, "e_step_every", least=0, note="0 is an E-step on each batch")
        check_positive(self, "learning_rate", "clip", "rating_deviation", "comparison_temperature")
        check_not_negative(self, "weight_decay", "rating_weight", "noise")
        if self.trial_steps > self.steps:
            raise ValueError(f"trial_steps must be at most steps ({self.steps}), got {self.trial_steps}")
        if not 0 <= self.prior_memory < 1:
            raise ValueError(f"prior_memory must be in [0, 1), got {self.prior_memory}; 0 keeps the last batch alone")

    @classmethod
    def of_steps(cls, steps: int, **settings: Any) -> EMConfig:
        """Return a fit of so many steps, with the defaults' trial and sorting, which are no longer than the fit."""
        trial_steps, sorted_steps = min(cls.trial_steps, steps), min(cls.sorted_steps, steps)
        return cls(steps=steps, trial_steps=trial_steps, sorted_steps=sorted_steps, **settings)


def rating_log_likelihood(scores: torch.Tensor, ratings: torch.Tensor, deviation: float) -> torch.Tensor:
    """Log-likelihood of ratings, Gaussian around the score (equation 6), up to a constant.

    Args:
        scores: ``(m, K)``.
        ratings: ``(m,)`` in [0, 1].
        deviation: nu.

    Returns:
        ``(m, K)``: ``-(score - rating)^2 / (2 nu^2)``.
    """
    return -(scores - ratings[:, None]).square() / (2.0 * deviation**2)


def label_log_likelihoods(
    model: ScoreModel, labels: Labels, rating_deviation: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihoods of every pair ``(n, K)`` and every rating ``(m, K)`` of a batch under the model, where it is."""
    labels = labels.on(model.device)
    prompts = torch.cat([labels.pair_prompts, labels.pair_prompts, labels.rating_prompts])
    distinct, rows = torch.unique(prompts, return_inverse=True)
    images = torch.cat([labels.pair_images[:, 0], labels.pair_images[:, 1], labels.rating_images])
    scores = model(labels.prompts(distinct), rows, labels.images(images))
    n = len(labels.pair_labels)
    temperature = model.log_comparison_temperature.exp()
    pairs = bradley_terry(scores[:n] - scores[n : 2 * n], labels.pair_labels, temperature)
    return pairs, rating_log_likelihood(scores[2 * n :], labels.ratings, rating_deviation)


def rater_log_likelihoods(model: ScoreModel, labels: Labels, rating_deviation: float) -> torch.Tensor:
    """Log-likelihood of all labels of each rater by type, ``(n_raters, K)``, where the model is."""
    labels = labels.on(model.device)
    total = torch.zeros(labels.n_raters, model.n_types, device=model.device)
    for piece, _ in labels.pieces(images_at_once(model.n_types, model.embedding_dim)):
        pairs, ratings = label_log_likelihoods(model, piece, rating_deviation)
        of_pairs = rows_by_rater(pairs, piece.pair_raters, labels.n_raters)
        total = total + (of_pairs + rows_by_rater(ratings, piece.rating_raters, labels.n_raters))
    return total


@torch.no_grad()
def all_rater_log_likelihoods(
    model: ScoreModel, labels: Labels, rating_deviation: float, size: int = 4096
) -> torch.Tensor:
    """``rater_log_likelihoods`` of many labels: each picture is scored once, however often it was judged.

    Args:
        model: The score model.
        labels: The labels.
        rating_deviation: nu.
        size: Pictures scored at once.

    Returns:
        ``(n_raters, K)``, where the model is.
    """
    labels = labels.on(model.device)
    n, n_images = len(labels.pair_labels), len(labels.image_embeddings)
    prompts = torch.cat([labels.pair_prompts, labels.pair_prompts, labels.rating_prompts])
    images = torch.cat([labels.pair_images[:, 0], labels.pair_images[:, 1], labels.rating_images])
    shown, rows = torch.unique(prompts * n_images + images, return_inverse=True)
    scored = []
    for chunk in torch.split(shown, size):  # sorted by prompt: K vectors of every prompt would not fit the memory
        distinct, at = torch.unique(chunk // n_images, return_inverse=True)
        scored.append(model(labels.prompts(distinct), at, labels.images(chunk % n_images)))
    scores = torch.cat(scored)[rows]
    temperature = model.log_comparison_temperature.exp()
    pairs = bradley_terry(scores[:n] - scores[n : 2 * n], labels.pair_labels, temperature)
    ratings = rating_log_likelihood(scores[2 * n :], labels.ratings, rating_deviation)
    return rows_by_rater(pairs, labels.pair_raters, labels.n_raters) + rows_by_rater(
        ratings, labels.rating_raters, labels.n_raters
    )


def expected_loss(
    pairs: torch.Tensor, ratings: torch.Tensor, posterior: torch.Tensor, labels: Labels, rating_weight: float
) -> torch.Tensor:
    """The mixture loss of D.2 under the posterior: mean over pairs plus ``kappa_1`` times the mean over ratings.

    Args:
        pairs: ``(n, K)`` log-likelihoods.
        ratings: ``(m, K)`` log-likelihoods.
        posterior: ``(b, K)`` of each rater in the batch.
        labels: The batch.
        rating_weight: kappa_1.

    Returns:
        The loss, a scalar.
    """
    loss = pairs.new_zeros(())
    if len(pairs):
        loss = loss - (posterior[labels.pair_raters] * pairs).sum(dim=-1).mean()
    if len(ratings):
        loss = loss - rating_weight * (posterior[labels.rating_raters] * ratings).sum(dim=-1).mean()
    return loss


def update_prior(prior: torch.Tensor, posterior: torch.Tensor, memory: float) -> torch.Tensor:
    """Move the prior towards the batch's mean posterior: ``alpha eta + (1 - alpha) mean_i gamma_i``, ``(K,)``."""
    return memory * prior + (1.0 - memory) * posterior.mean(dim=0)


@dataclass(frozen=True)
class EMFit:
    """A fitted mixture.

    Attributes:
        model: The score model.
        prior: ``(K,)`` shares of the types.
        posterior: ``(n_raters, K)`` of the training raters, from all their labels.
        log_likelihood: Mean log evidence of a training rater's labels.
        trials: The same of each start after its trial, and the comparison temperature it reached.
    """

    model: ScoreModel
    prior: torch.Tensor
    posterior: torch.Tensor
    log_likelihood: float
    trials: tuple[tuple[float, float], ...]


class EM:
    """One run of Algorithm 1: the score model, its target network, the prior and the optimiser.

    Args:
        labels: Training raters' labels.
        config: How to fit.
        start: Which start this is; each has its own weights and batches.
        state: Of an equal run, to go on from there.
        device: Where the heads are; labels follow a batch at a time.
    """

    def __init__(
        self,
        labels: Labels,
        config: EMConfig,
        start: int = 0,
        state: State | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        generator = torch.Generator().manual_seed(config.seed * 1009 + start)
        self.config = config
        self.model = ScoreModel(
            labels.image_embeddings.shape[1],
            config.n_types,
            image_scale=root_mean_square(labels.image_embeddings),
            text_scale=root_mean_square(labels.prompt_embeddings),
            noise=config.noise,
            comparison_temperature=config.comparison_temperature,
            generator=generator,
        ).to(self.device)
        self.target = copy.deepcopy(self.model).requires_grad_(False)
        self.prior = torch.full((config.n_types,), 1.0 / config.n_types, device=self.device)
        self._labels = labels
        self.batches = Batches(labels, config.batch_labels, generator)
        self.taken = 0
        self.sorted: torch.Tensor | None = None
        self._posterior: torch.Tensor | None = None  # of all raters at the last E-step over everybody
        if config.sorting is not None and config.n_types > 1 and state is None:
            self.sorted = sort_raters(labels, config.n_types, generator, config.sorting).to(self.device)
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        period = config.restart_period or config.steps
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self._optimiser, T_0=period)
        self._parts = RunParts(self.model, self.target, self._optimiser, self._schedule, self.batches)
        if state is not None:
            self._parts.restore(state)
            kept = {name: state.tensors[name].to(self.device) for name in _OWN_TENSORS if name in state.tensors}
            self.prior, self.sorted, self._posterior = kept["prior"], kept.get("sorted"), kept.get("posterior")
            self.taken = int(state.numbers["taken"])

    def state(self) -> State:
        """Return all that it takes to go on from here; keep it before the next step."""
        parts = self._parts.state()
        own = dict(zip(_OWN_TENSORS, (self.prior, self.sorted, self._posterior), strict=True))
        own_tensors = {name: tensor for name, tensor in own.items() if tensor is not None}
        return State({**parts.tensors, **own_tensors}, {**parts.numbers, "taken": self.taken})

    def step(self) -> dict[str, float]:
        """Take one step: E-step with the target network, prior, one gradient step, now and then the target."""
        config = self.config
        batch = (self.batches.draw_labels() if config.e_step_every else self.batches.draw()).on(self.device)
        posterior = self._e_step(batch)
        self._optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        for piece, share in batch.pieces(images_at_once(self.model.n_types, self.model.embedding_dim)):
            pairs, ratings = label_log_likelihoods(self.model, piece, config.rating_deviation)
            part = share * expected_loss(pairs, ratings, posterior, piece, config.rating_weight)
            torch.autograd.backward(part)  # gradients add up over the pieces, and each piece's memory is freed
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
    def _e_step(self, batch: Labels) -> torch.Tensor:
        """Posterior of the batch's raters: the sorting's, or the target network's, of now or of the last E-step."""
        config = self.config
        if self.sorted is not None and self.taken < config.sorted_steps:
            return self.sorted[batch.raters]
        if not config.e_step_every:
            evidence = rater_log_likelihoods(self.target, batch, config.rating_deviation)
            return log_posterior(self.prior.log(), evidence).exp()
        if self._posterior is None or self.taken % config.e_step_every == 0:
            evidence = all_rater_log_likelihoods(self.target, self._labels, config.rating_deviation)
            self._posterior = log_posterior(self.prior.log(), evidence).exp()
        return self._posterior

    @torch.no_grad()
    def evaluate(self) -> tuple[torch.Tensor, float]:
        """Return the posterior of all training raters ``(n_raters, K)`` and their mean log evidence."""
        likelihoods = all_rater_log_likelihoods(self.model, self._labels, self.config.rating_deviation)
        log_prior = self.prior.log()
        return log_posterior(log_prior, likelihoods).exp(), float(log_evidence(log_prior, likelihoods).mean())


def root_mean_square(x: torch.Tensor) -> float:
    """Size of an embedding's entries: what heads divide embeddings ``(n, d)`` by; read a block of rows at a time."""
    blocks = (x[first : first + _ROWS_AT_ONCE].double() for first in range(0, len(x), _ROWS_AT_ONCE))
    total = sum(float(block.square().sum()) for block in blocks)
    return max(1e-6, math.sqrt(total / max(1, x.shape[0] * x.shape[1])))


def fit_score_model(
    labels: Labels,
    config: EMConfig | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> EMFit:
    """Fit the score model and the prior: several starts, the best by training likelihood goes on.

    Args:
        labels: Training raters' labels.
        config: How to fit.
        log: Called with the figures of every 50th step of the chosen start.
        checkpoints: Where the fit is kept as it runs; one that was stopped goes on from there.
        progress: Whether to show progress bars.
        device: Where the heads are fitted. The fit comes back on the CPU.

    Returns:
        The fit; its prior is the mean posterior of all training raters.

    Raises:
        ValueError: If there are no labels.
    """
    config = config or EMConfig()
    if not labels.n_raters or not len(labels.pair_labels) + len(labels.ratings):
        raise ValueError("there are no labels to fit on; check that the data's train split holds raters with pairs")
    kept, numbers = (checkpoints.load() if checkpoints is not None else None) or ({}, {"trials": [], "figures": []})
    trials: list[tuple[float, float]] = [(a, b) for a, b in numbers["trials"]]
    figures: list[dict[str, float]] = numbers["figures"]
    highest = max((likelihood for likelihood, _ in trials), default=-math.inf)
    best = EM(labels, config, state=kept["best"], device=device) if "best" in kept else None

    def keep(running: EM, **runs: EM | None) -> None:
        if checkpoints is not None and checkpoints.is_due(running.taken):
            states = {name: run.state() for name, run in runs.items() if run is not None}
            checkpoints.save(states, {"trials": trials, "figures": figures})

    for start in range(len(trials), config.restarts if config.n_types > 1 else 1):
        run = EM(labels, config, start, kept.pop("trial", None), device=device)
        rest = range(run.taken, config.trial_steps)
        for _ in tqdm(rest, desc=f"start {start + 1}", disable=not progress, mininterval=1):
            run.step()
            keep(run, best=best, trial=run)
        likelihood = run.evaluate()[1]
        trials.append((likelihood, float(run.model.log_comparison_temperature.detach().exp())))
        if likelihood > highest:
            best, highest = run, likelihood
    assert best is not None
    if log is not None:
        for row in figures:
            log(row)
    rest = range(best.taken, config.steps)
    for step in tqdm(rest, desc="best start", disable=not progress, mininterval=1):
        found = best.step()
        if (step + 1) % FIGURES_EVERY == 0:
            figures.append({"step": float(step + 1), **found})
            if log is not None:
                log(figures[-1])
        keep(best, best=best)
    posterior, likelihood = best.evaluate()
    posterior = posterior.cpu()
    return EMFit(best.model.cpu().eval(), posterior.mean(dim=0), posterior, likelihood, tuple(trials))
