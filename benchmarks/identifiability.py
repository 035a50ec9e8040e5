"""Which user types data can tell apart (appendix C.2): ``python -m benchmarks.identifiability``.

Prints, for each pair of types, how many slates of a dataset identify them, overlap, and do both; how far apart the
types' choices are; and which would be merged. With ``--second MODEL``, another fit of the same raters, it prints how
far the *same* type is from itself in two fits: a merging threshold above that would merge noise.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import torch

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.trajectories import TrajectoryDataset, load
from pasta_gym.trajectories.identifiability import Tolerances, identifiability
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model import UserModel
from pasta_gym.user_model.encoder_identity import require_frozen_encoder
from pasta_gym.user_model.metrics import best_matching
from pasta_gym.user_model.types import MERGE_THRESHOLD, behaviour, cross_divergences, groups_within, type_distances


def slates_of(dataset: TrajectoryDataset, n: int) -> tuple[FloatArray, FloatArray]:
    """Take slates of a dataset, one of each of ``n`` conversations, at turns in rotation.

    Returns:
        Embeddings of initial prompts ``(n, d)`` and of slates ``(n, L, M, d)``.
    """
    episodes = np.arange(min(n, len(dataset)))
    slates = dataset.slate_images[episodes, episodes % dataset.horizon].astype(np.float32)
    return dataset.prompt_embeddings[dataset.initial_prompts[episodes]], slates


def same_type_divergences(
    first: UserModel, second: UserModel, prompts: FloatArray, slates: FloatArray
) -> tuple[FloatArray, IntArray]:
    """Match the types of two fits one to one by their choices.

    Returns:
        Divergence in bits of each matched pair and the type of the second model for each of the first, ``(K,)``.
    """
    divergence = cross_divergences(behaviour(first, prompts, slates), behaviour(second, prompts, slates))
    rows, columns = best_matching(-divergence)
    return divergence[rows, columns], columns


def matrix_table(title: str, matrix: FloatArray | IntArray) -> str:
    """Lay a ``(K, K)`` matrix out as a Markdown table."""
    k = len(matrix)
    form = "{:d}" if np.issubdtype(matrix.dtype, np.integer) else "{:.3f}"
    lines = [f"| {title} | " + " | ".join(str(i) for i in range(k)) + " |", "|---|" + "---|" * k]
    lines += [f"| {i} | " + " | ".join(form.format(v) for v in row) + " |" for i, row in enumerate(matrix.tolist())]
    return "\n".join(lines)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.identifiability", description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a dataset of conversations")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the user model that made the choices")
    parser.add_argument("--second", type=pathlib.Path, help="another fit of the same raters")
    parser.add_argument(
        "--threshold", type=float, default=MERGE_THRESHOLD, help="divergence in bits within a merged group"
    )
    parser.add_argument("--slates", type=int, default=400, help="slates for the types' distances")
    parser.add_argument("--utility", type=float, default=Tolerances.utility, help="difference that identifies")
    parser.add_argument("--choice", type=float, default=Tolerances.choice, help="total variation that identifies")
    parser.add_argument("--overlap", type=float, default=Tolerances.overlap, help="ratio that overlaps")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    dataset, model = load(options.data), UserModel.load(options.model)
    second = UserModel.load(options.second) if options.second else None
    for users in (model, second):
        if users is not None:
            require_frozen_encoder(users.metadata, "this analysis")
    found = identifiability(dataset, model, Tolerances(options.utility, options.choice, options.overlap))
    prompts, slates = slates_of(dataset, options.slates)
    distances = type_distances(model, prompts, slates)
    parts = [
        f"{found.n_slates} slates of {len(dataset)} conversations.",
        matrix_table("identifying", found.identifying),
        matrix_table("overlapping", found.overlapping),
        matrix_table("both", found.both),
        "Identifiable: every pair of types has such a slate (proposition 1)."
        if found.is_identifiable
        else f"Not identifiable: no slate for {', '.join(f'{i} and {j}' for i, j in found.unidentified)}.",
        matrix_table("divergence in bits", distances.divergence),
        matrix_table("rank correlation of utilities", distances.rank_correlation),
        f"Groups at a threshold of {options.threshold:g}: {groups_within(distances.divergence, options.threshold)}",
    ]
    if second is not None:
        null, matched = same_type_divergences(model, second, prompts, slates)
        listed = ", ".join(f"{i} = {j}: {d:.4f}" for i, (j, d) in enumerate(zip(matched, null, strict=True)))
        parts.append(
            f"The same type in two fits, divergence in bits: {listed}; median {np.median(null):.4f}, "
            f"largest {null.max():.4f}."
        )
    print("\n\n".join(parts))  # noqa: T201


if __name__ == "__main__":
    main()
