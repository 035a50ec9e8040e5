"""What a training step of the agent with a language model costs: seconds and memory of its real update.

python -m benchmarks.token_update_cost                            Gemma 2B's shape, random weights, no download
python -m benchmarks.token_update_cost --tuning lora              adapters on it
python -m benchmarks.token_update_cost --shape tiny --device cpu  any CPU, seconds: does it work?

Weights and words do not change the cost, so random ones of the right shapes will do. The default batch is the paper's:
26 conversations of five turns are 130 histories. One line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from agents.token_config import TokenIQLConfig
from agents.token_iql import TokenIQLAgent, template_words
from agents.token_loading import SCRATCH_VALUE_TOKEN, add_lora, scratch_tokenizer
from agents.token_reading import check_reading
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.encoders.clip_encoder import DEVICES, find_device
from pasta_gym.torchvision_ops import ensure_importable
from pasta_gym.trajectories import TrajectoryDataset

_N_PROMPTS, _N_WORDS = 1000, 200
_KIBIBYTE = 1024  # what the operating system counts resident memory in


@dataclass(frozen=True)
class Shape:
    """Sizes of a Gemma.

    Attributes:
        width: Of the residual stream.
        n_layers: Transformer blocks.
        n_heads: Attention heads, which share one key and value head.
        head_width: Of one head.
        feed_forward: Width of the blocks' hidden layer.
        vocabulary: Tokens.
    """

    width: int
    n_layers: int
    n_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {"gemma-2b": Shape(2048, 18, 8, 256, 16_384, 256_000), "tiny": Shape(16, 1, 2, 8, 32, 512)}
)


@dataclass(frozen=True)
class UpdateCost:
    """What was measured.

    Attributes:
        shape: Of the language model.
        device: The GPU's name, or ``cpu``.
        tuning: Whether all weights are trained, or adapters.
        precision: Of the arithmetic.
        weights: Of the language model and its adapters.
        trained_weights: Those that are trained.
        batch_size: Conversations in a step.
        micro_batch_size: Conversations in memory together.
        histories: In a step: a conversation has one for each turn.
        prompt_words: Words of each prompt; a word is a token.
        seconds_per_step: Fastest of the repeats, after one step that warms up.
        hours_per_training: As many steps as the agent's settings have.
        peak_gigabytes: Most memory in use, in 10^9 bytes: of the GPU, or resident of the whole process on a CPU.
    """

    shape: str
    device: str
    tuning: str
    precision: str
    weights: int
    trained_weights: int
    batch_size: int
    micro_batch_size: int
    histories: int
    prompt_words: int
    seconds_per_step: float
    hours_per_training: float
    peak_gigabytes: float


class RandomGemma(TokenIQLAgent):
    """The agent around a language model with random weights; everything else is the agent's own."""

    def __init__(self, shape: Shape, config: TokenIQLConfig) -> None:
        super().__init__(config)
        self._shape = shape

    def _begin(self, dataset: TrajectoryDataset, seed: int) -> None:
        """Make the language model where it will work, held as the agent holds a loaded one."""
        config, shape = self.config, self._shape
        ensure_importable()
        from transformers import GemmaConfig, GemmaForCausalLM

        with torch.random.fork_rng(), torch.device(find_device(config.device)):
            torch.manual_seed(seed)
            model = GemmaForCausalLM(
                GemmaConfig(
                    vocab_size=shape.vocabulary,
                    hidden_size=shape.width,
                    intermediate_size=shape.feed_forward,
                    num_hidden_layers=shape.n_layers,
                    num_attention_heads=shape.n_heads,
                    num_key_value_heads=1,
                    head_dim=shape.head_width,
                )
            )
        if config.tuning == "lora":
            if config.precision == "bfloat16":
                model = model.to(torch.bfloat16)
            add_lora(model, rank=config.lora_rank, seed=seed)
        texts = [] if dataset.prompt_texts is None else dataset.prompt_texts.tolist()
        self._wrap(model, scratch_tokenizer([*template_words(dataset.slate_size), *texts]))
        check_reading(self._trained()[0])


def random_conversations(
    n: int, *, horizon: int, slate_size: int, n_candidates: int, words: int, seed: int
) -> TrajectoryDataset:
    """Draw conversations of random words: what an update reads, in the sizes of the benchmark.

    Args:
        n: Conversations.
        horizon: Turns.
        slate_size: Prompts of a slate.
        n_candidates: Prompts of a turn.
        words: Of each prompt.
        seed: Fixes everything.
    """
    rng = np.random.default_rng(seed)
    spoken = rng.integers(_N_WORDS, size=(_N_PROMPTS, words))
    candidates = rng.integers(_N_PROMPTS, size=(n, horizon, n_candidates))
    no_pictures = np.zeros((n, horizon, slate_size, 1, 1), dtype=np.float16)
    return TrajectoryDataset(
        initial_prompts=rng.integers(_N_PROMPTS, size=n),
        initial_images=no_pictures[:, 0, 0],
        candidates=candidates,
        categories=np.zeros_like(candidates),
        actions=np.argsort(rng.random(candidates.shape), axis=2)[..., :slate_size],
        behaviour_probabilities=np.ones((n, horizon), dtype=np.float32),
        slate_images=no_pictures,
        choices=rng.integers(slate_size, size=(n, horizon)),
        rewards=rng.uniform(0, 10, size=(n, horizon)).astype(np.float32),
        prompt_embeddings=np.zeros((_N_PROMPTS, 1), dtype=np.float32),
        metadata={},
        prompt_texts=np.array([" ".join(f"w{i}" for i in row) for row in spoken], dtype=object),
    )


def measure(shape: str, config: TokenIQLConfig, dataset: TrajectoryDataset, *, words: int, repeats: int) -> UpdateCost:
    """Train for ``repeats`` steps after one that warms up.

    Args:
        shape: A key of ``SHAPES``.
        config: The agent's settings; its number of steps is that of ``hours_per_training`` alone.
        dataset: What is learned.
        words: Of each of its prompts.
        repeats: Steps that count.
    """
    has_gpu = find_device(config.device).type == "cuda"
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    short: dict[str, Any] = asdict(config) | {"steps": repeats + 1, "log_every": 1}
    agent = RandomGemma(SHAPES[shape], TokenIQLConfig(**short))
    ends: list[float] = []

    def end_of_step(metrics: Mapping[str, float]) -> None:
        if has_gpu:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    agent.train(dataset, seed=0, log=end_of_step)
    seconds = float(np.diff(ends).min())
    parameters = list(agent._trained()[0].parameters())
    peak = torch.cuda.max_memory_allocated() if has_gpu else _resident_peak()
    return UpdateCost(
        shape=shape,
        device=torch.cuda.get_device_name() if has_gpu else "cpu",
        tuning=config.tuning,
        precision=config.precision,
        weights=sum(p.numel() for p in parameters),
        trained_weights=sum(p.numel() for p in parameters if p.requires_grad),
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        histories=config.batch_size * dataset.horizon,
        prompt_words=words,
        seconds_per_step=round(seconds, 4),
        hours_per_training=round(seconds * config.steps / 3600, 2),
        peak_gigabytes=round(peak / 1e9, 2),
    )


def _resident_peak() -> int:
    """Bytes that the process had resident at most; macOS counts them one by one."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * _KIBIBYTE


@errors_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure from the command line."""
    own = TokenIQLConfig()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.token_update_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gemma-2b")
    parser.add_argument("--tuning", choices=("full", "lora"), default=own.tuning)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=own.precision)
    parser.add_argument("--device", choices=DEVICES, default=own.device)
    parser.add_argument("--batch-size", type=int, default=own.batch_size, help="conversations of five turns in a step")
    parser.add_argument("--micro-batch-size", type=int, default=own.micro_batch_size, help="in memory together")
    parser.add_argument("--words", type=int, default=20, help="of each prompt")
    parser.add_argument("--repeats", type=int, default=3, help="steps that count, after one that warms up")
    given = parser.parse_args(arguments)
    for name in ("batch_size", "micro_batch_size", "words", "repeats"):
        if getattr(given, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(given, name)}")
    if given.shape == "gemma-2b" and find_device(given.device).type == "cpu":
        parser.error("Gemma 2B's shape needs a GPU; try --shape tiny")
    token = own.q_token if given.shape == "gemma-2b" else SCRATCH_VALUE_TOKEN
    preset = TokenIQLConfig.lora if given.tuning == "lora" else TokenIQLConfig
    config = preset(
        precision=given.precision,
        device=given.device,
        batch_size=given.batch_size,
        micro_batch_size=given.micro_batch_size,
        q_token=token,
        v_token=token,
    )
    dataset = random_conversations(
        max(given.batch_size, 2), horizon=5, slate_size=4, n_candidates=25, words=given.words, seed=0
    )
    cost = measure(given.shape, config, dataset, words=given.words, repeats=given.repeats)
    sys.stdout.write(json.dumps(asdict(cost)) + "\n")


if __name__ == "__main__":
    main()
