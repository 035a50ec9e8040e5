"""Labels of the raters of any world over a painted pool: pairs, ratings, rankings and sessions (fast).

The pool's pictures are painted once by ``pasta_gym.mini.rater_sessions``. The planted truth lies beside the
labels in a file of its own, which the fit never reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import whole_file, write_text
from pasta_gym.mini import grammar, raters
from pasta_gym.mini.rater_sessions import (
    ENCODER,
    Pool,
    PoolConfig,
    Studio,
    crowd,
    encoder_of_pool,
    load_pool,
    paint_sessions,
)
from pasta_gym.types import FloatArray, IntArray

FORMAT = 1
RATING_LEVELS = 10
SATISFACTION_LEVELS = 5
TRUTH = "truth.npz"


@dataclass(frozen=True)
class LabelConfig:
    """How many labels each rater gives.

    Attributes:
        train_pairs: Comparisons of each training rater.
        held_out_pairs: Comparisons of each validation and test rater: enough for 50 to learn from and some to test.
        ratings: Ratings on 1-10.
        rankings: Rankings.
        ranked: Images in a ranking.
        critique_share: Share of sessions with a critique.
    """

    train_pairs: int = 800
    held_out_pairs: int = 400
    ratings: int = 192
    rankings: int = 4
    ranked: int = 4
    critique_share: float = 0.2


@dataclass(frozen=True)
class _Labeller:
    """A world's raters in front of a pool."""

    pool: Pool
    config: PoolConfig
    people: raters.Raters

    def utilities(self, who: IntArray, sessions: IntArray, images: IntArray) -> FloatArray:
        """Utilities of images ``(n, ...)`` of sessions ``(n,)`` for raters ``(n,)``: same shape as images."""
        extra = (1,) * (images.ndim - 1)
        reads = self.pool.eye[sessions.reshape(-1, *extra), images].astype(np.float32)
        values = grammar.slot_values(self.pool.initial_prompts[sessions]).reshape(-1, *extra, grammar.N_SLOTS)
        weights = self.people.weights[who].reshape(-1, *extra, raters.TASTE_SIZE)
        return raters.image_utilities(reads, values, weights, self.people.config)

    def draw_sessions(self, who: IntArray, rng: np.random.Generator) -> IntArray:
        """Draw for each rater in ``who`` any session of the rater's split."""
        splits = self.config.rater_splits()
        of_session = splits[self.pool.raters]
        drawn = np.zeros(len(who), dtype=np.int64)
        for split in range(len(grammar.SPLITS)):
            rows = np.flatnonzero(splits[who] == split)
            if len(rows):
                drawn[rows] = rng.choice(np.flatnonzero(of_session == split), size=len(rows))
        return drawn

    def draw_images(self, n: int, each: int, rng: np.random.Generator) -> IntArray:
        """Draw ``each`` different images of a session, n times: ``(n, each)``."""
        order: IntArray = rng.random((n, self.config.n_images)).argsort(axis=1)[:, :each].astype(np.int64)
        return order

    def slate_images(self) -> IntArray:
        """Which images of a session each column shows: ``(H, L, M)``."""
        c = self.config
        n = c.horizon * c.slate_size * c.images_per_prompt
        return c.images_per_prompt + np.arange(n).reshape(c.horizon, c.slate_size, c.images_per_prompt)

    def session_utilities(self) -> FloatArray:
        """Column utilities of all sessions for their own raters, ``(S, H, L)``."""
        sessions = np.arange(len(self.pool.raters))
        images = np.broadcast_to(self.slate_images(), (len(sessions), *self.slate_images().shape))
        pictures = self.utilities(self.pool.raters, sessions, images)
        return raters.column_utilities(pictures, self.people.config.best_image_sharpness)


def _pairs(labeller: _Labeller, config: LabelConfig, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    splits = labeller.config.rater_splits()
    each = np.where(splits == 0, config.train_pairs, config.held_out_pairs)
    who = np.repeat(np.arange(len(splits)), each).astype(np.int64)
    sessions = labeller.draw_sessions(who, rng)
    images = labeller.draw_images(len(who), 2, rng)
    u = labeller.utilities(who, sessions, images)
    people = labeller.people
    labels = raters.sample_comparisons(u[:, 0], u[:, 1], people.temperature, people.config.tie, rng)
    return {
        "rater": who,
        "session": sessions,
        "prompt": labeller.pool.initial_prompts[sessions],
        "first": images[:, 0],
        "second": images[:, 1],
        "label": labels,
    }


def _ratings(labeller: _Labeller, config: LabelConfig, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    who = np.repeat(np.arange(len(labeller.people)), config.ratings).astype(np.int64)
    sessions = labeller.draw_sessions(who, rng)
    images = labeller.draw_images(len(who), 1, rng)
    u = labeller.utilities(who, sessions, images)[:, 0]
    rated = raters.sample_ratings(u, RATING_LEVELS, labeller.people.config.rating_noise, rng)
    prompts = labeller.pool.initial_prompts[sessions]
    return {"rater": who, "session": sessions, "prompt": prompts, "image": images[:, 0], "rating": rated}


def _rankings(labeller: _Labeller, config: LabelConfig, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    who = np.repeat(np.arange(len(labeller.people)), config.rankings).astype(np.int64)
    sessions = labeller.draw_sessions(who, rng)
    images = labeller.draw_images(len(who), config.ranked, rng)
    order = raters.sample_rankings(labeller.utilities(who, sessions, images), labeller.people.temperature, rng)
    prompts = labeller.pool.initial_prompts[sessions]
    return {"rater": who, "session": sessions, "prompt": prompts, "images": np.take_along_axis(images, order, axis=1)}


def _turns(
    labeller: _Labeller, config: LabelConfig, rng: np.random.Generator, *, on_the_way: bool
) -> dict[str, NDArray[Any] | list[Any]]:
    pool, people = labeller.pool, labeller.people
    utilities = labeller.session_utilities()
    s, h, n_columns = utilities.shape
    choices = pool.choices if on_the_way else raters.sample_choices(utilities, people.temperature, rng)
    chosen = np.take_along_axis(utilities, choices[..., None], axis=2)[..., 0]
    noise = people.config.satisfaction_noise
    satisfaction = raters.sample_ratings(utilities, SATISFACTION_LEVELS, noise, rng)
    overall = raters.sample_ratings(utilities.mean(axis=2), SATISFACTION_LEVELS, noise, rng)
    verdicts = np.zeros((s, h), dtype=np.int64)
    verdicts[:, 1:] = raters.sample_improvements(chosen[:, :-1], chosen[:, 1:], people.config, rng)
    words = [["worse", "same", "better"][v + 1] for v in verdicts.reshape(-1)]
    return {
        "rater": np.repeat(pool.raters, h),
        "session": np.repeat(np.arange(s), h),
        "turn": np.tile(np.arange(h), s),
        "prompt": np.repeat(pool.initial_prompts, h),
        "slate": pool.slates.reshape(s * h, n_columns),
        "choice": choices.reshape(-1),
        "column_satisfaction": satisfaction.reshape(s * h, n_columns),
        "turn_satisfaction": overall.reshape(-1),
        "than_before": [w if i % h else None for i, w in enumerate(words)],
        "critique": _critiques(labeller, choices, config.critique_share, rng),
    }


def _critiques(labeller: _Labeller, choices: IntArray, share: float, rng: np.random.Generator) -> list[str | None]:
    """A critique in one turn of about ``share`` of the sessions, None elsewhere; one entry a turn."""
    pool, people, layout = labeller.pool, labeller.people, labeller.slate_images()
    s, h = choices.shape
    said: list[str | None] = [None] * (s * h)
    values = grammar.slot_values(pool.initial_prompts)
    for session in np.flatnonzero(rng.random(s) < share):
        turn = int(rng.integers(h))
        images = layout[turn, choices[session, turn]]
        who = pool.raters[[session]]
        best = images[labeller.utilities(who, np.array([session]), images[None])[0].argmax()]
        read = pool.eye[session, best].astype(np.float32)
        said[session * h + turn] = raters.critique(read, values[session], people.weights[who[0]])
    return said


def label(
    pool_folder: pathlib.Path, folder: pathlib.Path, world_seed: int, config: LabelConfig | None = None
) -> dict[str, Any]:
    """Stage B: let the raters of a world label a pool.

    The raters of the pool's own world keep the choices they made on the way, which the sessions follow. Raters of
    another world choose among the same slates, which is as valid for a choice model.

    Args:
        pool_folder: What ``paint_sessions`` wrote.
        folder: Where to write ``pairs``, ``ratings``, ``rankings``, ``turns`` and ``raters`` (Parquet),
            ``metadata.json``, and the planted truth in ``truth.npz``.
        world_seed: Which world.
        config: How many labels.

    Returns:
        The metadata, with the counts.

    Raises:
        ValueError: If the pool is missing, broken or not finished.
    """
    config = config or LabelConfig()
    pool, pool_config, rater_config, temperature = load_pool(pool_folder)
    own = world_seed == pool_config.world_seed
    archetypes, people = crowd(world_seed, pool_config.n_raters, temperature, rater_config)
    labeller = _Labeller(pool, pool_config, people)
    if not own:
        train = pool_config.rater_splits()[pool.raters] == 0
        slates = labeller.session_utilities()[train].reshape(-1, pool_config.slate_size)
        temperature = raters.calibrate_temperature(slates, rater_config.best_share)
        people = dataclasses.replace(people, temperature=temperature)
        labeller = _Labeller(pool, pool_config, people)
    splits = pool_config.rater_splits()
    streams = np.random.default_rng([world_seed, 0x1ABE1]).spawn(4)
    tables: dict[str, Mapping[str, Any]] = {
        "raters": {"rater": np.arange(len(splits)), "split": [grammar.SPLITS[s] for s in splits]},
        "pairs": _pairs(labeller, config, streams[0]),
        "ratings": _ratings(labeller, config, streams[1]),
        "rankings": _rankings(labeller, config, streams[2]),
        "turns": _turns(labeller, config, streams[3], on_the_way=own),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        _write_table(folder / f"{name}.parquet", columns)
    _save_truth(folder / TRUTH, archetypes, people)
    utilities = labeller.session_utilities()
    metadata = {
        "format": FORMAT,
        "pool": os.path.relpath(pool_folder.resolve(), folder.resolve()),
        "world_seed": world_seed,
        "chosen_on_the_way": own,
        "horizon": pool_config.horizon,
        "slate_size": pool_config.slate_size,
        "images_per_prompt": pool_config.images_per_prompt,
        "rating_levels": RATING_LEVELS,
        ENCODER: encoder_of_pool(pool_folder),
        "counts": {name: len(next(iter(columns.values()))) for name, columns in tables.items()},
        "mean_column_utility": float(utilities.mean()),
        "best_column_chosen": float(raters.choice_probabilities(utilities, people.temperature).max(axis=-1).mean()),
    }
    write_text(folder / "metadata.json", json.dumps(metadata, indent=2) + "\n")
    return metadata


def pool_of_labels(folder: pathlib.Path) -> Pool:
    """Read the pool that a world's labels are about.

    Raises:
        ValueError: If it is missing, broken or not finished.
    """
    metadata = json.loads((folder / "metadata.json").read_text())
    return load_pool(folder / metadata["pool"])[0]


def _write_table(path: pathlib.Path, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {n: c.tolist() if isinstance(c, np.ndarray) and c.ndim > 1 else c for n, c in columns.items()}
    with whole_file(path) as partial:
        pq.write_table(pa.table(rows), partial, compression="zstd")


@dataclass(frozen=True)
class Truth:
    """What was planted.

    Attributes:
        archetypes: The world's archetypes.
        raters: Everybody, of all splits.
    """

    archetypes: raters.Archetypes
    raters: raters.Raters


def _save_truth(path: pathlib.Path, archetypes: raters.Archetypes, people: raters.Raters) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            seed=archetypes.seed,
            shares=archetypes.shares,
            signs=archetypes.signs,
            archetype_weights=archetypes.weights,
            archetypes=people.archetypes,
            weights=people.weights,
            temperature=people.temperature,
            config=json.dumps(dataclasses.asdict(people.config)),
        )


def load_truth(folder: pathlib.Path) -> Truth:
    """Read the planted truth beside a world's labels. For figures alone; the fit never calls this.

    Raises:
        ValueError: If the file is missing or broken.
    """
    path = folder / TRUTH
    try:
        with np.load(path, allow_pickle=False) as f:
            archetypes = raters.Archetypes(int(f["seed"]), f["shares"], f["signs"], f["archetype_weights"])
            config = raters.RaterConfig(**json.loads(str(f["config"])))
            return Truth(archetypes, raters.Raters(f["archetypes"], f["weights"], float(f["temperature"]), config))
    except (OSError, KeyError, ValueError, TypeError, EOFError) as error:
        raise ValueError(
            f"cannot read {path} ({error}); write it with: python -m pasta_gym.mini.rater_data label"
        ) from error


def _studio(name: str) -> Studio:
    """Build the studio that ``module:function`` makes; the function takes no arguments."""
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"--studio must read module:function, got {name!r}")
    studio = getattr(importlib.import_module(module), function)()
    if not isinstance(studio, Studio):
        raise ValueError(f"{name} returned {type(studio).__name__}, expected pasta_gym.mini.rater_sessions.Studio")
    return studio


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line: ``paint`` a pool, or ``label`` one for a world."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.mini.rater_data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    paint = commands.add_parser("paint", help="stage A: paint sessions; goes on where it stopped")
    paint.add_argument("--pool", type=pathlib.Path, required=True, help="folder of the pool")
    paint.add_argument("--studio", default="benchmarks.rater_studio:diffusion_studio", help="module:function")
    paint.add_argument("--batch", type=int, default=PoolConfig.batch, help="sessions painted together")
    paint.add_argument("--part", default="0/1", help="i/n: paint every n-th batch from the i-th on")
    paint.add_argument("--raters", type=int, nargs=3, metavar="N", help="raters with train, validation, test prompts")
    paint.add_argument("--sessions", type=int, default=PoolConfig.sessions_per_rater, help="sessions of each rater")
    paint.add_argument(
        "--pictures", type=pathlib.Path, help="keep the pictures in this folder; those of painted sessions, too"
    )
    labels = commands.add_parser("label", help="stage B: a world's raters label a pool")
    labels.add_argument("--pool", type=pathlib.Path, required=True, help="folder of the pool")
    labels.add_argument("--out", type=pathlib.Path, required=True, help="folder of the labels")
    labels.add_argument("--world", type=int, default=0, help="seed of the world")
    labels.add_argument("--pairs", type=int, default=LabelConfig.train_pairs, help="comparisons of a training rater")
    options = parser.parse_args(arguments)
    if options.command == "paint":
        i, n = (int(number) for number in options.part.split("/"))
        train, validation, test = options.raters or PoolConfig().split_sizes
        config = PoolConfig(
            train_raters=train,
            validation_raters=validation,
            test_raters=test,
            sessions_per_rater=options.sessions,
            batch=options.batch,
        )
        paint_sessions(_studio(options.studio), options.pool, config, part=(i, n), pictures=options.pictures)
    else:
        config_of_labels = LabelConfig(train_pairs=options.pairs)
        print(json.dumps(label(options.pool, options.out, options.world, config_of_labels), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
