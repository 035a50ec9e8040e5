"""How far from the best slate do quick optimisers end? The gap of each to enumeration, in per cent of the best value.

python -m benchmarks.slate_gap                          slates of the mini world and of random problems
python -m benchmarks.slate_gap --problems 50 --rules free
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from agents.slate_enumeration import best_slates
from agents.slate_search import ChoiceLogits, exchanged_slate, greedy_slate, slate_extension, slate_values
from agents.slate_selection import exact_choice_slate, top_slate
from benchmarks.pages import fill_block
from benchmarks.stats import interval
from pasta_gym import seeding
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.types import NOT_YET, FloatArray, History, IntArray
from pasta_gym.user_model.choice import choice_logits
from pasta_gym.user_model.temperature import CONSTANT, Slopes, slate_temperature
from pasta_gym.worlds import World, make_world

RULES = ("one_per_category", "free")
N_CANDIDATES, N_CATEGORIES, N_RANDOM_TYPES = 25, 5, 8
RANDOM_TEMPERATURE = 20.0
SLOPES = Slopes(bottom=-1.0, inner=-0.5, top=3.0)
"""The temperature that depends on the slate, for user models that do not have one."""
EXACT = 1e-6  # relative; enumeration adds in float32
_AT_ONCE = 25  # problems whose slates are enumerated together
_REPLICATES = 2000


@dataclass(frozen=True)
class Problems:
    """A batch of slates to choose.

    Attributes:
        source: Where the utilities come from.
        utilities: ``(B, S, C)`` of candidates to each of S types.
        belief: ``(B, S)`` probability of each type.
        categories: ``(B, C)``, or None for free slates.
        slate_size: The paper's ``L``.
        n_images: The paper's ``M``.
        choice_logits: The choice model.
        is_constant: Whether its temperature is one number.
    """

    source: str
    utilities: FloatArray
    belief: FloatArray
    categories: IntArray | None
    slate_size: int
    n_images: int
    choice_logits: ChoiceLogits
    is_constant: bool

    def values(self, slates: IntArray) -> FloatArray:
        """Expected utility of the chosen column of slates ``(B, L)``, ``(B,)``."""
        by_type = np.moveaxis(self.utilities, 1, 2)
        return slate_values(slates[:, None], by_type, by_type, self.choice_logits, self.belief)[:, 0]


Optimiser = Callable[[Problems], "IntArray | None"]


def exact(problems: Problems) -> IntArray:
    """Enumerate all slates."""
    parts = []
    for rows in np.array_split(np.arange(len(problems.utilities)), -(-len(problems.utilities) // _AT_ONCE)):
        parts.append(
            best_slates(
                problems.utilities[rows],
                problems.belief[rows],
                None if problems.categories is None else problems.categories[rows],
                problems.slate_size,
                choice_logits=problems.choice_logits,
                has_constant_temperature=problems.is_constant,
            )
        )
    return np.concatenate(parts)


def top(problems: Problems) -> IntArray:
    """Take the candidates with the largest expected utilities."""
    mean = np.einsum("bs,bsc->bc", problems.belief, problems.utilities)
    return top_slate(mean, problems.categories, problems.slate_size)


def greedy(problems: Problems) -> IntArray:
    """Add the best candidate to the slate so far."""
    n_problems, _, n_candidates = problems.utilities.shape
    return greedy_slate(_extension(problems), problems.categories, n_candidates, n_problems, problems.slate_size)


def coordinate(problems: Problems) -> IntArray:
    """Exchange one candidate at a time, starting from :func:`top`."""
    n_candidates = problems.utilities.shape[2]
    return exchanged_slate(top(problems), _extension(problems), problems.categories, n_candidates)


def fractional(problems: Problems) -> IntArray | None:
    """Solve the ratio by Dinkelbach's method, where there is one: a known type and one temperature."""
    if not problems.is_constant or problems.utilities.shape[1] > 1:
        return None
    utilities = problems.utilities[:, 0].astype(np.float64)
    logits = np.asarray(problems.choice_logits(utilities), dtype=np.float64)
    return exact_choice_slate(utilities, logits, problems.categories, problems.slate_size)


OPTIMISERS: dict[str, Optimiser] = {
    "top L": top,
    "greedy": greedy,
    "coordinate ascent": coordinate,
    "fractional programming": fractional,
}


def _extension(problems: Problems) -> Callable[[IntArray], FloatArray]:
    by_type = np.moveaxis(problems.utilities, 1, 2).astype(np.float64)
    return slate_extension(by_type, by_type, problems.choice_logits, problems.belief)


def world_problems(
    world: World,
    n: int,
    n_images: int,
    seed: int,
    *,
    n_candidates: int = N_CANDIDATES,
    n_categories: int = N_CATEGORIES,
) -> Problems:
    """First turns of a world's test prompts: its candidates, surrogate pictures, users and their prior."""
    users: Any = world.users()
    keys = seeding.mix(seed, np.arange(n))
    pool = world.split("test")
    prompts = pool[seeding.integers(seeding.mix(keys, 0), len(pool))]
    history = History(
        initial_prompts=prompts,
        slates=np.full((n, 1, 1), NOT_YET),
        choices=np.full((n, 1), NOT_YET),
        chosen_prompts=prompts,
        turns=np.zeros(n, dtype=np.int64),
        keys=seeding.mix(keys, 1),
        horizon=5,
    )
    ids, categories = world.candidate_generator("test", n_candidates, n_categories).propose(history)
    image_keys = seeding.mix(keys[:, None, None], 2, np.arange(n_candidates)[:, None], np.arange(n_images))
    images = world.image_generator("surrogate").generate(ids.reshape(-1), image_keys.reshape(-1, n_images))
    columns = images.embeddings.reshape(n, n_candidates, n_images, -1)
    utilities = users.all_utilities(users.prompt_features(world.text_encoder.embed(prompts)), columns)
    belief = np.tile(users.prior, (n, 1))
    slopes = getattr(users, "slopes", CONSTANT)
    temperature = float(slate_temperature(_some_slates(utilities), users.temperature, slopes).log().mean().exp())
    logits = _logits(temperature, CONSTANT)
    return Problems(f"{world.name} world", utilities, belief, categories, 4, n_images, logits, is_constant=True)


def random_problems(n: int, n_images: int, seed: int) -> Problems:
    """Candidates without structure: uniform tastes of eight types, pictures around them, beliefs of all shapes."""
    rng = np.random.default_rng([seed, n_images])
    shape = (n, N_RANDOM_TYPES, N_CANDIDATES)
    noise = rng.normal(scale=0.2, size=(*shape, n_images)).mean(axis=-1)
    utilities = np.clip(rng.random(shape) + noise, 0, 1)
    belief = rng.dirichlet(np.ones(N_RANDOM_TYPES), size=n)
    categories = np.tile(np.repeat(np.arange(N_CATEGORIES), N_CANDIDATES // N_CATEGORIES), (n, 1))
    logits = _logits(RANDOM_TEMPERATURE, CONSTANT)
    return Problems("random", utilities, belief, categories, 4, n_images, logits, is_constant=True)


def with_known_type(problems: Problems, seed: int) -> Problems:
    """The same, for somebody whose type, drawn from the belief, is known."""
    uniform = np.random.default_rng([seed, 1]).random(len(problems.belief))
    edges = np.cumsum(problems.belief, axis=1)
    types = (edges[:, :-1] <= uniform[:, None]).sum(axis=1)
    own = np.take_along_axis(problems.utilities, types[:, None, None], axis=1)
    return replace(problems, utilities=own, belief=np.ones((len(own), 1)))


def with_slate_temperature(problems: Problems, temperature: float, slopes: Slopes = SLOPES) -> Problems:
    """The same, with a temperature that depends on the slate and has the given geometric mean over some slates."""
    growth = slate_temperature(_some_slates(problems.utilities), 1.0, slopes).log().mean()
    base = temperature / float(growth.exp())
    return replace(problems, choice_logits=_logits(base, slopes), is_constant=False)


def _logits(temperature: float, slopes: Slopes) -> ChoiceLogits:
    def logits(utilities: FloatArray) -> FloatArray:
        values: FloatArray = choice_logits(
            torch.from_numpy(np.ascontiguousarray(utilities)), temperature, slopes
        ).numpy()
        return values

    return logits


def _some_slates(utilities: FloatArray) -> torch.Tensor:
    """Utilities ``(B, S, C // 4, 4)`` of slates of four; of five categories of five, one candidate a category."""
    quarter = utilities.shape[-1] // 4
    slates = utilities[..., : 4 * quarter].reshape(*utilities.shape[:2], 4, quarter)
    return torch.from_numpy(np.ascontiguousarray(slates)).swapaxes(2, 3)


def all_problems(
    worlds: Sequence[World], n: int, slate_sizes: Sequence[int], images: Sequence[int], rules: Sequence[str], seed: int
) -> Iterator[tuple[str, str, Problems]]:
    """Yield every batch of problems with what is known of the user and the rule of the slates."""
    for rule in rules:
        for n_images in images:
            for made in (*(world_problems(w, n, n_images, seed) for w in worlds), random_problems(n, n_images, seed)):
                free = replace(made, categories=None) if rule == "free" else made
                one = np.zeros((1, 1, 2), dtype=np.float64)
                one[..., 1] = 1.0
                temperature = float(made.choice_logits(one)[0, 0, 1])
                for slate_size in slate_sizes:
                    sized = replace(free, slate_size=slate_size)
                    for known, batch in (("type", with_known_type(sized, seed)), ("belief", sized)):
                        yield known, rule, batch
                        yield known, rule, with_slate_temperature(batch, temperature)


@dataclass(frozen=True)
class Gap:
    """Gaps of one optimiser in one batch of problems, in per cent of the best value."""

    percent: FloatArray

    def text(self, rng: np.random.Generator) -> str:
        """Mean [95% interval], worst, and the share of exact slates."""
        draws = rng.integers(0, len(self.percent), size=(_REPLICATES, len(self.percent)))
        mean = interval(float(self.percent.mean()), self.percent[draws].mean(axis=1))
        low, high = wilson_interval(int((self.percent <= 100 * EXACT).sum()), len(self.percent))
        hits = float((self.percent <= 100 * EXACT).mean())
        return f"{mean.text()}, {self.percent.max():.1f}, {hits:.0%} [{low:.0%}, {high:.0%}]"


def gaps(problems: Problems) -> dict[str, Gap]:
    """Measure every optimiser that has an answer against enumeration.

    Raises:
        ValueError: If one beats enumeration, which would then not be exact.
    """
    best = problems.values(exact(problems))
    found = {}
    for name, optimiser in OPTIMISERS.items():
        slates = optimiser(problems)
        if slates is None:
            continue
        percent = 100 * (best - problems.values(slates)) / best
        if percent.min() < -100 * EXACT:
            raise ValueError(f"{name} found a slate {-percent.min():.2g}% better than the best of all; report this")
        found[name] = Gap(np.maximum(percent, 0.0))
    return found


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95% interval of a share (Wilson), which has a width at 0 and 1 too."""
    z = 1.959964
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (successes * (n - successes) / n + z * z / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def table(rows: Iterator[tuple[str, str, Problems]], seed: int) -> str:
    """Print one line a batch of problems and one column an optimiser."""
    header = ["slates of", "rule", "knows", "temperature", "L", "M", *OPTIMISERS]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for known, rule, problems in rows:
        rng = np.random.default_rng([seed, 2])
        found = gaps(problems)
        cells = [
            problems.source,
            rule.replace("_", " "),
            known,
            "constant" if problems.is_constant else "of the slate",
            str(problems.slate_size),
            str(problems.n_images),
            *(found[name].text(rng) if name in found else "" for name in OPTIMISERS),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slate_gap", description=__doc__)
    parser.add_argument("--problems", type=int, default=200, help="problems of each kind")
    parser.add_argument("--slate-sizes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4], help="pictures of each prompt")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=pathlib.Path, help="also put the table into this page's block slate_gap")
    given = parser.parse_args(arguments)
    if given.problems < 1:
        raise ValueError(f"--problems must be 1 or more, got {given.problems}")
    worlds = [make_world("mini")]
    problems = all_problems(worlds, given.problems, given.slate_sizes, given.images, given.rules, given.seed)
    text = (
        table(problems, given.seed)
        + f"\nOver {given.problems} problems a row: mean gap in per cent of the best value [95% interval], worst gap, "
        "share of exact slates [95% interval].\n"
    )
    sys.stdout.write(text)
    if given.page:
        command = " ".join(["python -m benchmarks.slate_gap", *(sys.argv[1:] if arguments is None else arguments)])
        date = datetime.datetime.now(tz=datetime.UTC).date()
        fill_block(given.page, "slate_gap", f"Printed by `{command}` on {date}.\n\n{text}")


if __name__ == "__main__":
    main()
