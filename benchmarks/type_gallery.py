"""Draws the pictures that each user type likes best (figure 4): ``python -m benchmarks.type_gallery``.

Test prompts are expanded at random and painted by the diffusion pipeline; every type ranks all pictures. A picture is
scored for its prompt's subject alone ("a castle"), so that taste decides and not what was asked for. The words beside
a row are the attributes of the prompts that are more common among the type's favourites than among all pictures.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import torch

from benchmarks.pages import REPOSITORY
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import whole_file
from pasta_gym.mini import grammar, unsaid
from pasta_gym.seeding import IMAGE, mix
from pasta_gym.types import FloatArray, ImageArray, IntArray
from pasta_gym.user_model import UserModel
from pasta_gym.user_model.encoder_identity import require_frozen_encoder, require_same_encoder
from pasta_gym.worlds import make_world

N_SHOWN = 5
FAVOURITES = 0.1
"""Share of all pictures that count as a type's favourites when its words are found."""


def prompts_to_paint(n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Draw test prompts, fill every attribute in at random, and keep the subject apart.

    Args:
        n: How many.
        rng: Source of prompts and attributes.

    Returns:
        Subjects alone and full prompts, ``(n,)`` prompt ids each.
    """
    test = grammar.initial_prompt_ids("test")
    test = test[grammar.slot_values(test)[:, grammar.SUBJECT] > 0]
    values = grammar.slot_values(rng.choice(test, size=n))
    full = unsaid.fill_unset(values, rng, avoid_held_out=False)
    subjects = np.zeros_like(full)
    subjects[:, grammar.SUBJECT] = full[:, grammar.SUBJECT]
    return grammar.prompt_ids(subjects), grammar.prompt_ids(full)


def favourite_words(scores: FloatArray, values: IntArray, n_words: int = 3) -> list[str]:
    """Attributes that are more common among the best-scored pictures than among all.

    Args:
        scores: ``(n,)`` one type's scores.
        values: ``(n, 6)`` slot values of the prompts.
        n_words: Most words.

    Returns:
        Names of values, the most over-represented first; only such as gain ten percent points or more.
    """
    best = np.argsort(-scores, kind="stable")[: max(1, round(FAVOURITES * len(scores)))]
    gains: list[tuple[float, str]] = []
    for slot in grammar.ATTRIBUTES:
        for value, name in enumerate(grammar.SLOTS[slot].values, start=1):
            said = values[:, slot] == value
            gains.append((float(said[best].mean() - said.mean()), name))
    gains.sort(key=lambda gain: -gain[0])
    return [name for gain, name in gains[:n_words] if gain >= 0.1]


def score_pictures(model: UserModel, subjects: IntArray, embeddings: FloatArray) -> FloatArray:
    """Score pictures for their subjects by every type: embeddings ``(n, d)`` to ``(n, K)``."""
    features = model.prompt_features(make_world("mini").text_encoder.embed(subjects))
    scores: FloatArray = model.scores(features, embeddings[:, None])[:, :, 0]
    return scores


def draw(model: UserModel, scores: FloatArray, values: IntArray, pixels: ImageArray, path: pathlib.Path) -> None:
    """Draw one row a type, the commonest first.

    Args:
        model: Whose types.
        scores: ``(n, K)``.
        values: ``(n, 6)`` slot values of the prompts.
        pixels: ``(n, h, w, 3)``.
        path: Where to write the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    k = model.n_types
    figure, axes = pyplot.subplots(k, N_SHOWN, figsize=(1.25 * N_SHOWN + 2, 1.3 * k), squeeze=False)
    for row, user_type in zip(axes, np.argsort(-model.prior, kind="stable"), strict=True):
        best = np.argsort(-scores[:, user_type], kind="stable")[:N_SHOWN]
        for axis, picture in zip(row, best, strict=True):
            axis.imshow(pixels[picture])
            axis.set(xticks=[], yticks=[])
        words = favourite_words(scores[:, user_type], values)
        title = f"type {user_type} ({model.prior[user_type]:.0%})\n" + "\n".join(words)
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(wspace=0.04, hspace=0.06)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=90, bbox_inches="tight", format="png")
    pyplot.close(figure)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.type_gallery", description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, help="folder of a user model; the mini world's own without")
    parser.add_argument("--n", type=int, default=240, help="pictures to paint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", default="diffusion", help="image generator that paints pixels")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "docs" / "images" / "types.png")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    world = make_world("mini")
    model = world.users(options.model)
    assert isinstance(model, UserModel)
    require_frozen_encoder(model.metadata, "this gallery")
    images = world.image_generator(options.images)
    require_same_encoder(model.metadata, getattr(images, "encoder_sha256", None), options.images)
    subjects, prompts = prompts_to_paint(options.n, np.random.default_rng([options.seed, 0x6A11]))
    painted = images.generate(prompts, mix(options.seed, np.arange(options.n), IMAGE)[:, None])
    if painted.pixels is None:
        parser.error(f"--images {options.images} paints no pixels; use diffusion")
    scores = score_pictures(model, subjects, painted.embeddings[:, 0])
    draw(model, scores, grammar.slot_values(prompts), painted.pixels[:, 0], options.out)
    print(f"wrote {options.out}: the {N_SHOWN} best of {options.n} pictures for each of {model.n_types} types")  # noqa: T201


if __name__ == "__main__":
    main()
