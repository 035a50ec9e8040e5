"""What it costs to value the candidates of a turn with a language model, with and without the history's cache.

Run ``python -m benchmarks.token_value_cost``. Conversations with random slates are valued both ways at every turn:
tokens that pass through the network, seconds, and the largest difference of a value. ``--model`` takes a language model
of your own with its tokeniser; without it a small one with random weights and one token a word is made, whose token
counts are those of a trained one. ``--device`` and ``--precision`` say where and how the model is read.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents import Observations
from agents.token_iql import template_words, tokens_of
from agents.token_loading import (
    SCRATCH_VALUE_TOKEN,
    ScratchConfig,
    load_language_model,
    scratch_model,
    scratch_tokenizer,
)
from agents.token_model import ValueModel
from agents.token_reading import cached_values, check_reading, plain_values
from agents.token_template import Reader
from benchmarks.evaluate import text_record
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.encoders.clip_encoder import DEVICES, find_device
from pasta_gym.trajectories.collection import decision_keys
from pasta_gym.trajectories.environment import EnvironmentConfig
from pasta_gym.trajectories.random_policy import random_slates


@dataclass(frozen=True)
class Cost:
    """One turn of all conversations, valued both ways.

    Attributes:
        turn: Slates seen before.
        plain_tokens: Tokens read when every [h, p] is read from its start.
        cached_tokens: Tokens read when a history is read once.
        plain_seconds: Time of the first.
        cached_seconds: Time of the second.
        difference: Largest absolute difference between the values.
    """

    turn: int
    plain_tokens: int
    cached_tokens: int
    plain_seconds: float
    cached_seconds: float
    difference: float


def played(envs: Any, horizon: int, slate_size: int) -> list[Observations]:
    """Play one conversation in each environment with random slates; what agents that read text see at each turn."""
    observations, info = envs.reset(seed=0)
    record = text_record(envs, observations, info)
    seen: list[Observations] = []
    for turn in range(horizon):
        seen.append(observations | record.texts())
        keys = decision_keys(np.arange(envs.num_envs), turn)
        slates, _ = random_slates(observations["categories"], keys, slate_size)
        observations, _, _, _, info = envs.step(slates)
        record.add(info, turn)
    return seen


def measure(model: ValueModel, reader: Reader, turns: Sequence[Observations]) -> list[Cost]:
    """Value the candidates of each turn both ways, one conversation at a time, as when serving one person."""
    costs = []
    for turn, observations in enumerate(turns):
        histories, candidates = tokens_of(reader, observations)
        n_tokens, seconds, difference = [0, 0], [0.0, 0.0], 0.0
        for history, prompts in zip(histories, candidates, strict=True):
            values = []
            for way, read in enumerate((plain_values, cached_values)):
                began = time.perf_counter()
                reading = read(model, [history], [prompts])
                values.append(reading.values.cpu())
                seconds[way] += time.perf_counter() - began
                n_tokens[way] += reading.n_tokens
            difference = max(difference, float((values[0] - values[1]).abs().max()))
        costs.append(Cost(turn, *n_tokens, *seconds, difference))
    return costs


def table(costs: Sequence[Cost], n_conversations: int) -> str:
    """Write costs as a Markdown table, per conversation, with their sum."""
    lines = [
        "| turn | tokens, plain | tokens, cached | fewer by | ms, plain | ms, cached | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    total = Cost(
        -1,
        sum(c.plain_tokens for c in costs),
        sum(c.cached_tokens for c in costs),
        sum(c.plain_seconds for c in costs),
        sum(c.cached_seconds for c in costs),
        max(c.difference for c in costs),
    )
    for cost in (*costs, total):
        name = "all" if cost is total else str(cost.turn + 1)
        lines.append(
            f"| {name} | {cost.plain_tokens / n_conversations:.0f} | {cost.cached_tokens / n_conversations:.0f} "
            f"| {cost.plain_tokens / cost.cached_tokens:.1f}x | {1000 * cost.plain_seconds / n_conversations:.0f} "
            f"| {1000 * cost.cached_seconds / n_conversations:.0f} | {cost.difference:.0e} |"
        )
    return "\n".join(lines)


@errors_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_value_cost", description=__doc__)
    parser.add_argument("--conversations", type=int, default=8)
    parser.add_argument("--world", default="mini")
    parser.add_argument("--model", help="a language model's folder or its name on the hub (in its local cache)")
    parser.add_argument("--q-token", type=int, default=651, help="the value logit of --model")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="weights and arithmetic"
    )
    options = parser.parse_args(arguments)
    if options.conversations < 1:
        raise ValueError(f"conversations must be at least 1, got {options.conversations}")
    device, dtype = find_device(options.device), getattr(torch, options.precision)
    config = EnvironmentConfig(world=options.world, split="validation")
    envs = config.make(options.conversations)
    try:
        turns = played(envs, config.horizon, config.slate_size)
    finally:
        envs.close()
    token = options.q_token
    if options.model:
        language_model, tokenizer = load_language_model(options.model, revision=None, allow_download=False, dtype=dtype)
    else:
        texts = [text for observations in turns for text in observations["candidate_texts"].reshape(-1)]
        texts += [*turns[0]["initial_prompt_text"], *template_words(config.slate_size)]
        tokenizer, token = scratch_tokenizer(texts), SCRATCH_VALUE_TOKEN
        language_model = scratch_model(ScratchConfig(), len(tokenizer), seed=0).to(dtype)
    model = ValueModel(language_model, q_token=token, v_token=token, precision=options.precision).to(device).eval()
    check_reading(model)
    sys.stdout.write(table(measure(model, Reader(tokenizer), turns), options.conversations) + "\n")


if __name__ == "__main__":
    main()
