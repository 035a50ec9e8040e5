"""How many turns a second, and where the time goes.

Run ``python -m benchmarks.throughput``. Every timing uses random slates and leaves the first conversation out, in
which models are loaded. A row begins new conversations until its time is up, and plays one turn at least. The world's
prompts are embedded beforehand, which is done once in the life of a machine: the embeddings are kept. With
``--new-prompts`` they are embedded as they come up, as in the first minutes of use.

Machines differ by several times, so the first line says how fast this one multiplies matrices.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import gymnasium
import numpy as np

from benchmarks.allocator import keep_freed_memory
from benchmarks.user_model_throughput import matrix_peak
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.encoders import TableTextEncoder
from pasta_gym.trajectories.collection import decision_keys
from pasta_gym.trajectories.environment import EnvironmentConfig
from pasta_gym.trajectories.random_policy import random_slates
from pasta_gym.worlds import make_world

PARTS = ("candidates", "text encoder", "images", "user model", "observation")


@dataclass(frozen=True)
class Timing:
    """One row of the table.

    Attributes:
        images: What paints.
        environment: ``"single"`` or ``"vector"``.
        n_envs: Conversations side by side.
        turns: Turns timed.
        turns_per_second: Turns of all conversations together.
        shares: Share of the time in each part; the rest is the environment's own.
    """

    images: str
    environment: str
    n_envs: int
    turns: int
    turns_per_second: float
    shares: dict[str, float]


class _Clock:
    """Adds up the time spent in wrapped functions; time inside a nested one counts for the inner alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inner = [0.0]

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a watch on it."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent = time.perf_counter() - began
                self.seconds[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def embed_all_prompts(world: str, *, progress: bool) -> str:
    """Embed every prompt of a world that can list them, and say how long it took.

    Args:
        world: Name of the world.
        progress: Whether to show a progress bar.

    Returns:
        A line to print; empty where a world's prompts cannot be listed.
    """
    encoder = make_world(world).text_encoder
    if not isinstance(encoder, TableTextEncoder):
        return ""
    n_new, began = encoder.n_prompts - encoder.n_filled, time.perf_counter()
    encoder.fill(progress=progress)
    seconds = time.perf_counter() - began
    return f"{n_new:,} prompts embedded for the first time in {seconds:.0f} s\n"


def time_vector(images: str, n_envs: int, *, seconds: float, world: str = "mini") -> Timing:
    """Time the vector environment for at least ``seconds`` and at least one turn."""
    envs = EnvironmentConfig(world=world, images=images, split="train").make(n_envs)
    try:
        turns, spent, clock = _timed_episodes(envs, n_envs, seconds)
    finally:
        envs.close()
    return _row(images, "vector", n_envs, turns, spent, clock)


def time_single(images: str, *, seconds: float, world: str = "mini") -> Timing:
    """Time the single environment, as a loop over ``step`` sees it."""
    import pasta_gym  # noqa: F401  registers the ids

    env = gymnasium.make("PastaT2I-v0", world=world, images=images, split="train").unwrapped
    try:
        turns, spent, clock = _timed_episodes(_AsVector(env), 1, seconds)
    finally:
        env.close()
    return _row(images, "single", 1, turns, spent, clock)


class _AsVector:
    """A single environment with a batch axis of one."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, *, seed: int) -> tuple[dict[str, Any], Any]:
        observation, info = self.env.reset(seed=seed)
        return {"categories": observation["categories"][None]}, info

    def step(self, slates: Any) -> tuple[Any, ...]:
        observation, *rest = self.env.step(slates[0])
        return ({"categories": observation["categories"][None]}, *rest)


def _timed_episodes(envs: Any, n_envs: int, seconds: float) -> tuple[int, float, _Clock]:
    slate_size, horizon = envs.config.slate_size, envs.config.horizon
    clock = _Clock()
    spent, turns, seed = 0.0, 0, 0
    with ExitStack() as stack:
        for part, owner, name in watched_parts(envs):
            stack.enter_context(mock.patch.object(owner, name, clock.wrapped(part, getattr(owner, name))))
        while turns == 0 or spent < seconds:
            seed += n_envs
            played, own = _play(envs, n_envs, seed, horizon, slate_size, seconds - spent)
            spent, turns = spent + own, turns + played * n_envs
    return turns, spent, clock


def _play(envs: Any, n_envs: int, seed: int, horizon: int, slate_size: int, seconds: float) -> tuple[int, float]:
    """Begin conversations and play turns of all of them until they end or the time is up, one turn at least.

    Returns:
        Turns played, and the environment's own time for them, the reset included.
    """
    seeds = seed + np.arange(n_envs)
    began = time.perf_counter()
    observation, _ = envs.reset(seed=seed)
    spent = time.perf_counter() - began
    turn = 0
    while turn < horizon and (turn == 0 or spent < seconds):
        slates, _ = random_slates(observation["categories"], decision_keys(seeds, turn), slate_size)
        began = time.perf_counter()
        observation = envs.step(slates)[0]
        spent += time.perf_counter() - began
        turn += 1
    return turn, spent


def watched_parts(envs: Any) -> list[tuple[str, Any, str]]:
    """Name what is timed: part, object, method."""
    conversations = envs._conversations
    parts = conversations.parts
    users = [("user model", parts.user_model, n) for n in ("prompt_features", "utilities", "choice_logits")]
    return [
        ("candidates", parts.candidates, "propose"),
        ("text encoder", parts.world.text_encoder, "embed"),
        ("images", parts.images, "generate"),
        *users,
        ("observation", conversations, "observations"),
    ]


def _row(images: str, kind: str, n_envs: int, turns: int, spent: float, clock: _Clock) -> Timing:
    shares = {part: clock.seconds[part] / spent for part in PARTS}
    return Timing(images, kind, n_envs, turns, turns / spent, shares)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Time the sizes asked for and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each row")
    parser.add_argument("--surrogate", type=int, nargs="*", default=[1, 8, 64, 256], help="vector sizes")
    parser.add_argument("--diffusion", type=int, nargs="*", default=[1, 8, 64, 256], help="vector sizes")
    parser.add_argument("--world", default="mini")
    parser.add_argument("--new-prompts", action="store_true", help="do not embed the world's prompts beforehand")
    parser.add_argument("--json", action="store_true", help="one JSON object a row in place of the table")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    embedded = "" if given.new_prompts else embed_all_prompts(given.world, progress=not given.json)
    if not given.json:
        import torch

        speed = matrix_peak(torch.device("cpu")) / 1e9
        sys.stdout.write(
            f"{os.cpu_count()} cores; {torch.get_num_threads()} threads multiply matrices at {speed:.0f} GFLOP/s\n"
            f"{embedded}\n"
        )
        sys.stdout.write(f"| images | environment | conversations | turns/s | {' | '.join(PARTS)} | rest |\n")
        sys.stdout.write("|" + "---|" * (len(PARTS) + 5) + "\n")
    for images, sizes in (("surrogate", given.surrogate), ("diffusion", given.diffusion)):
        if not sizes:
            continue
        time_single(images, seconds=0.1, world=given.world)  # loads the models, which the rows below share
        _write(time_single(images, seconds=given.seconds, world=given.world), as_json=given.json)
        for n_envs in sizes:
            _write(time_vector(images, n_envs, seconds=given.seconds, world=given.world), as_json=given.json)


def _write(timing: Timing, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(asdict(timing)) + "\n")
        return
    shares = [*timing.shares.values(), 1 - sum(timing.shares.values())]
    numbers = " | ".join(f"{share:.0%}" for share in shares)
    sys.stdout.write(
        f"| {timing.images} | {timing.environment} | {timing.n_envs} | {timing.turns_per_second:,.1f} | {numbers} |\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
