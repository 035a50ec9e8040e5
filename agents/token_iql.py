"""IQL whose value function is a language model that reads the conversation as text; see docs/agents/token_iql.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from agents import Log, Observations, check_observations
from agents.checkpoint import TENSOR_FILE, config_from_card, read_checkpoint, write_checkpoint
from agents.losses import bootstrapped_target
from agents.slate_selection import slate_by_value
from agents.token_config import TokenIQLConfig
from agents.token_data import LoggedTexts, TurnBatch
from agents.token_loading import (
    SCRATCH,
    add_lora,
    load_language_model,
    read_description,
    scratch_model,
    scratch_tokenizer,
    store_description,
)
from agents.token_loss import token_iql_loss
from agents.token_model import TargetWeights, ValueModel
from agents.token_reading import cached_values, check_reading, plain_values
from agents.token_template import LEAD, Reader, opening, turn
from agents.token_texts import check_texts
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray, UInt64Array

_LANGUAGE_MODEL = "language_model"
_OPTIMISERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adafactor": torch.optim.Adafactor,
    "adamw": torch.optim.AdamW,
}


class TokenIQLAgent:
    """Learns f(h, p) with a causal language model and shows the slate with the largest mean (appendix E)."""

    privileged = False
    reads_text = True

    def __init__(self, config: TokenIQLConfig | None = None, *, name: str = "token_iql") -> None:
        """Make an agent that is yet to be trained; the language model is loaded when training begins.

        Args:
            config: Settings; the defaults of :class:`TokenIQLConfig`, which need Gemma 2B, if none are given.
            name: Short name for tables and files.
        """
        self.name = name
        self.config = config or TokenIQLConfig()
        self._model: ValueModel | None = None
        self._reader: Reader | None = None

    def train(self, dataset: TrajectoryDataset, *, seed: int, log: Log) -> None:
        """Learn from logged conversations; earlier learning is forgotten.

        Args:
            dataset: Logged conversations with their texts.
            seed: Fixes batches and the weights that begin at random.
            log: Called every ``log_every`` steps; docs/agents/token_iql.md explains the metrics.

        Raises:
            ValueError: If the dataset is malformed or has no texts, or the language model cannot be used.
        """
        config = self.config
        self._begin(dataset, seed)
        model, reader = self._trained()
        logged = LoggedTexts(dataset, reader)
        if config.centred:
            model.offset.fill_(config.reward_scale * logged.mean_return_to_go())
        if config.gradient_checkpointing:
            model.recompute_activations()
        target = TargetWeights(model)
        optimiser = _OPTIMISERS[config.optimiser](
            [p for p in model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate_factor)
        generator = torch.Generator().manual_seed(seed)
        for step in range(1, config.steps + 1):
            episodes = torch.randint(len(logged), (config.batch_size,), generator=generator).numpy()
            metrics = self._step(model, target, logged, episodes, optimiser)
            schedule.step()
            if step % config.target_period == 0:
                target.update(config.target_rate)
            if step % config.log_every == 0 or step == config.steps:
                log({"step": float(step), **metrics})
        model.eval()

    def _rate_factor(self, step: int) -> float:
        return 1.0 if self.config.decay == "constant" else 0.5 * (1 + float(np.cos(np.pi * step / self.config.steps)))

    def _step(
        self,
        model: ValueModel,
        target: TargetWeights,
        logged: LoggedTexts,
        episodes: IntArray,
        optimiser: torch.optim.Optimizer,
    ) -> dict[str, float]:
        """One gradient step on whole conversations, in parts that fit into memory; returns its metrics."""
        optimiser.zero_grad()
        sums: dict[str, float] = {}
        for first in range(0, len(episodes), self.config.micro_batch_size):
            part = episodes[first : first + self.config.micro_batch_size]
            share = len(part) / len(episodes)
            loss, metrics = self._loss(model, target, logged.batch(part))
            (share * loss).backward()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + share * float(value)
        norm = nn.utils.clip_grad_norm_(model.parameters(), self.config.gradient_norm)
        optimiser.step()
        return sums | {"gradient_norm": float(norm)}

    def _loss(self, model: ValueModel, target: TargetWeights, batch: TurnBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all turns of a batch. One pass gives v of every history, so also of the next one."""
        read, target_read = model(batch.tree), target.values(batch.tree)
        f, target_f = batch.token_values(read), batch.token_values(target_read)
        values = batch.history_values(read)  # (B, H)
        is_token = batch.is_token.to(f.device)
        is_last = is_token & ~nn.functional.pad(is_token[..., 1:], (0, 1))
        is_terminal = torch.zeros_like(values, dtype=torch.bool)
        is_terminal[:, -1] = True
        rewards = self.config.reward_scale * batch.rewards.to(f.device)
        targets = bootstrapped_target(rewards, values.roll(-1, 1), is_terminal)
        loss = token_iql_loss(
            f.flatten(0, 1),
            target_f.flatten(0, 1),
            (is_token if self.config.sub_prompts else is_last).flatten(0, 1),
            values.flatten(),
            targets.flatten(),
            expectile=self.config.expectile,
        )
        whole = f.detach()[is_last].view(*is_last.shape[:3])
        return loss.total, {
            "loss/q": loss.q.detach(),
            "loss/v": loss.v.detach(),
            "loss/whole_prompt": (whole - targets[..., None]).square().mean(),
            "value/q": whole.mean(),
            "value/q_spread": whole.std(2).mean() if whole.shape[2] > 1 else torch.zeros(()),  # nothing to tell apart
            "value/v": values.detach().mean(),
            "value/target": targets.mean(),
        }

    def prompt_values(self, observations: Observations) -> FloatArray:
        """Value every candidate, f(h, p).

        Args:
            observations: The environment's observations with a leading batch axis B, and their texts
                (:mod:`agents.token_texts`).

        Returns:
            ``(B, n_candidates)`` float32, in units of return times ``reward_scale``.

        Raises:
            ValueError: If the agent is not trained, the observations are malformed, or texts are missing.
        """
        model, reader = self._trained()
        check_observations(observations)
        check_texts(observations)
        read = cached_values if self.config.history_cache else plain_values
        histories, candidates = tokens_of(reader, observations)
        parts = []
        for first in range(0, len(histories), self.config.read_size):
            rows = slice(first, first + self.config.read_size)
            parts.append(read(model, histories[rows], candidates[rows]).values.cpu())
        return np.asarray(torch.cat(parts).numpy())

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose a slate for each conversation.

        Args:
            observations: As for :meth:`prompt_values`.
            seeds: ``(B,)`` key of each decision, read with ``selection="sample"`` only.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates, best or first drawn first.

        Raises:
            ValueError: As for :meth:`prompt_values`, or if no slate is legal.
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
        """Write the agent into ``folder``: the trained weights and, unless they are adapters, the model's description.

        Raises:
            ValueError: If the agent is not trained.
        """
        model, reader = self._trained()
        folder = Path(folder)
        if self.config.tuning == "full":
            store_description(folder / _LANGUAGE_MODEL, model.language_model, reader.tokenizer)
        tensors = {f"network.{name}": tensor for name, tensor in _stored_tensors(model).items()}
        write_checkpoint(folder, kind="token_iql", name=self.name, config=self.config, sizes={}, tensors=tensors)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an agent that :meth:`save` wrote. Adapters are put on the model that the card names.

        Raises:
            ValueError: If a file is missing, broken or of another kind, naming it.
        """
        stored = read_checkpoint(folder, kind="token_iql")
        agent = cls(config_from_card(TokenIQLConfig, stored.config, folder), name=stored.name)
        if agent.config.tuning == "full":
            language_model, tokenizer = read_description(Path(folder) / _LANGUAGE_MODEL)
        else:
            language_model, tokenizer = agent._pretrained(seed=0)
        agent._wrap(language_model, tokenizer)
        _fill(agent._trained()[0], stored.tensors, Path(folder))
        return agent

    def _begin(self, dataset: TrajectoryDataset, seed: int) -> None:
        """Load or make the language model, untrained."""
        if self.config.model != SCRATCH:
            self._wrap(*self._pretrained(seed))
        else:
            texts = [] if dataset.prompt_texts is None else dataset.prompt_texts.tolist()
            tokenizer = scratch_tokenizer([*template_words(dataset.slate_size), *texts])
            self._wrap(scratch_model(self.config.scratch, len(tokenizer), seed=seed), tokenizer)
        check_reading(self._trained()[0])

    def _pretrained(self, seed: int) -> tuple[Any, Any]:
        config = self.config
        # Frozen weights may be held in bfloat16; weights that are trained move by less than it resolves.
        half = config.tuning == "lora" and config.precision == "bfloat16"
        language_model, tokenizer = load_language_model(
            config.model,
            revision=config.revision,
            allow_download=config.allow_download,
            dtype=torch.bfloat16 if half else torch.float32,
        )
        if config.tuning == "lora":
            add_lora(language_model, rank=config.lora_rank, seed=seed)
        return language_model, tokenizer

    def _wrap(self, language_model: Any, tokenizer: Any) -> None:
        model = ValueModel(
            language_model,
            q_token=self.config.q_token,
            v_token=self.config.v_token,
            precision=self.config.precision,
        )
        self._model = model.to(_device(self.config.device)).eval()
        self._reader = Reader(tokenizer)

    def _trained(self) -> tuple[ValueModel, Reader]:
        if self._model is None or self._reader is None:
            raise ValueError(
                f"agent {self.name!r} is not trained; call train(dataset, ...) or {type(self).__name__}.load"
            )
        return self._model, self._reader


def tokens_of(reader: Reader, observations: Observations) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Token ids of each history, and of each candidate with its lead, from observations with texts."""
    histories, candidates = [], []
    rows = zip(
        observations["turn"],
        observations["initial_prompt_text"],
        observations["slate_texts"],
        observations["choices"],
        observations["candidate_texts"],
        strict=True,
    )
    for n_turns, initial_prompt, slates, choices, texts in rows:
        histories.append(reader.history(str(initial_prompt), slates[:n_turns].tolist(), choices[:n_turns].tolist()))
        candidates.append([[*reader.lead, *reader.prompt(str(text))] for text in texts])
    return histories, candidates


def template_words(slate_size: int) -> list[str]:
    """Everything that the template itself writes, for a tokeniser of our own."""
    return [*opening(""), *(piece for i in range(slate_size) for piece in turn([""] * slate_size, i)), LEAD]


def _device(name: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("device is 'cuda', but torch sees no GPU; use 'cpu' or 'auto'")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def _stored_tensors(model: ValueModel) -> dict[str, Tensor]:
    """What training changed. Tied weights occur once, under their first name."""
    return {"offset": model.offset} | {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def _fill(model: ValueModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill in stored tensors.

    Raises:
        ValueError: If names or shapes differ, or a tensor is not finite, naming the file.
    """
    path, remedy = folder / TENSOR_FILE, "train and save the agent again"
    stored = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    expected = _stored_tensors(model)
    if differing := sorted(set(stored) ^ set(expected)):
        raise ValueError(f"{path} does not fit its card: it lacks or has too many of {differing[:4]}; {remedy}")
    for name, tensor in expected.items():
        if stored[name].shape != tensor.shape:
            raise ValueError(
                f"{path} does not fit its card: {name} has shape {tuple(stored[name].shape)}, "
                f"expected {tuple(tensor.shape)}; {remedy}"
            )
        if not torch.isfinite(stored[name]).all():
            raise ValueError(f"{path} holds values that are not finite in {name}; {remedy}")
        with torch.no_grad():
            tensor.copy_(stored[name])
