"""How true the surrogate is to the diffusion pipeline, per user type: ``python -m benchmarks.surrogate_fidelity``.

Slates are of test prompts and their expansions. The rows "unseen" show held-out (subject, style, setting) triples
only, which neither the pipeline nor the surrogate was trained on. Three figures a type, as the user model sees them:
the rank correlation of columns' expected utilities, the total variation between choice probabilities, and the ratio
of the variances of a column's utility from draw to draw (surrogate over diffusion).
"""

from __future__ import annotations

import argparse
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import grammar
from pasta_gym.seeding import IMAGE, mix
from pasta_gym.types import FloatArray, ImageGenerator, IntArray
from pasta_gym.user_model import UserModel
from pasta_gym.worlds import World, make_world

SLATE_SIZE, IMAGES_PER_PROMPT = 4, 4


@dataclass(frozen=True)
class Columns:
    """Column utilities ``(repeats, n_slates, K, L)`` of the same slates, drawn again and again."""

    utilities: FloatArray
    choice_probabilities: FloatArray


def slates_to_compare(n_slates: int, *, unseen: bool, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Draw test prompts and slates of their expansions.

    Args:
        n_slates: Number of slates.
        unseen: Whether every expansion shows a held-out triple; otherwise none does.
        rng: Source of randomness.

    Returns:
        Initial prompts ``(n_slates,)`` and slates ``(n_slates, 4)``, as prompt ids.
    """
    initial = grammar.initial_prompt_ids("test")
    initial = initial[grammar.slot_values(initial)[:, grammar.SUBJECT] > 0]
    prompts: list[int] = []
    slates: list[IntArray] = []
    while len(prompts) < n_slates:
        prompt = int(rng.choice(initial))
        values = np.repeat(grammar.slot_values(np.array([prompt])), 400, axis=0)
        drawn = np.stack([rng.integers(0, c, 400) for c in grammar.CARDINALITIES], axis=1)
        values = np.where(values > 0, values, drawn)
        wanted = np.unique(values[grammar.is_held_out(values) == unseen], axis=0)
        if len(wanted) < SLATE_SIZE:
            continue
        rows = rng.permutation(len(wanted))[:SLATE_SIZE]
        prompts.append(prompt)
        slates.append(grammar.prompt_ids(wanted[rows], rng.integers(0, grammar.N_PHRASINGS, SLATE_SIZE)))
    return np.array(prompts, dtype=np.int64), np.stack(slates)


def draw_columns(
    world: World,
    generator: ImageGenerator,
    user_model: UserModel,
    prompts: IntArray,
    slates: IntArray,
    *,
    repeats: int,
    seed: int,
    title: str,
) -> Columns:
    """Generate every slate ``repeats`` times and let every type look at it."""
    features = user_model.prompt_features(world.text_encoder.embed(prompts))
    utilities, probabilities = [], []
    for repeat in tqdm(range(repeats), desc=title, mininterval=5):
        keys = mix(seed, repeat, np.arange(slates.size)[:, None], np.arange(IMAGES_PER_PROMPT), IMAGE)
        embeddings = generator.generate(slates.reshape(-1), keys).embeddings
        u = user_model.all_utilities(features, embeddings.reshape(*slates.shape, *embeddings.shape[1:]))
        utilities.append(u)
        probabilities.append(np.exp(user_model.log_choice_probabilities(u)))
    return Columns(np.stack(utilities), np.stack(probabilities))


def compare(diffusion: Columns, surrogate: Columns) -> dict[str, FloatArray]:
    """Compare two sets of draws of the same slates, type by type.

    Returns:
        ``spearman``, ``total_variation`` and ``variance_ratio``, each ``(K,)``.
    """
    n_types = diffusion.utilities.shape[2]
    expected = [d.utilities.mean(axis=0) for d in (diffusion, surrogate)]
    rank = [spearmanr(expected[0][:, k].ravel(), expected[1][:, k].ravel()).statistic for k in range(n_types)]
    chosen = [d.choice_probabilities.mean(axis=0) for d in (diffusion, surrogate)]
    variation: NDArray[np.float64] = 0.5 * np.abs(chosen[0] - chosen[1]).sum(axis=-1).mean(axis=0)
    variance = [d.utilities.var(axis=0, ddof=1).mean(axis=(0, 2)) for d in (diffusion, surrogate)]
    return {"spearman": np.array(rank), "total_variation": variation, "variance_ratio": variance[1] / variance[0]}


def fidelity(*, n_slates: int, repeats: int, seed: int, user_model: UserModel | None = None) -> dict[str, Any]:
    """Compute all figures.

    Args:
        n_slates: Slates of each kind.
        repeats: Draws of each slate by the diffusion pipeline; the surrogate draws eight times as many.
        seed: Seed of slates and images.
        user_model: Who looks; the world's own if None.
    """
    world = make_world("mini")
    model = user_model or world.users()
    assert isinstance(model, UserModel)
    result: dict[str, Any] = {"n_slates": n_slates, "repeats": repeats, "seed": seed, "prior": model.prior.tolist()}
    for name, unseen in (("unseen", True), ("seen", False)):
        prompts, slates = slates_to_compare(n_slates, unseen=unseen, rng=np.random.default_rng([seed, unseen]))
        drawn = [
            draw_columns(
                world,
                world.image_generator(images),
                model,
                prompts,
                slates,
                repeats=n,
                seed=seed,
                title=f"{name}, {images}",
            )
            for images, n in (("diffusion", repeats), ("surrogate", 8 * repeats))
        ]
        result[name] = {k: v.tolist() for k, v in compare(*drawn).items()}
        # What two halves of the diffusion's own draws differ by: the noise floor of the comparison.
        halves = [Columns(drawn[0].utilities[i::2], drawn[0].choice_probabilities[i::2]) for i in (0, 1)]
        result[f"{name}_noise"] = {k: v.tolist() for k, v in compare(*halves).items()}
    return result


def table(result: dict[str, Any]) -> str:
    """Format the figures as a Markdown table: aims are .9, .05 and within .8 to 1.2."""
    lines = [
        f"| {result['n_slates']} slates x {result['repeats']} draws | Spearman (aim .9) | total variation (aim .05) "
        "| variance ratio (aim .8-1.2) |",
        "|---|---|---|---|",
    ]
    for name, label in (
        ("unseen", "held-out triples"),
        ("unseen_noise", "the same, diffusion against itself (half the draws each)"),
        ("seen", "seen triples"),
        ("seen_noise", "the same, diffusion against itself (half the draws each)"),
    ):
        cells = []
        for key in ("spearman", "total_variation", "variance_ratio"):
            values = np.array(result[name][key])
            cells.append(
                f"{np.average(values, weights=result['prior']):.3f} ({values.min():.3f} to {values.max():.3f})"
            )
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Mean over types by the prior, and the smallest and largest type."])


@errors_in_one_line()
def main() -> None:
    """Print the figures, and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slates", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = fidelity(n_slates=arguments.slates, repeats=arguments.repeats, seed=arguments.seed)
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
