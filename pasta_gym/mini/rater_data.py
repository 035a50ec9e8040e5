"""Preference data of the raters: sessions are painted once (slow), labels are made from them for any world (fast).

Stage A, ``paint_sessions``, runs five-turn sessions under the untrained generator (the paper's baseline: the
first candidate of each of four categories drawn at random) and keeps what was painted: the pool. Stage B,
``label``, lets the raters of a world compare, rank, rate and choose among the pool's pictures. The planted truth
lies beside the labels in a file of its own, which the fit never reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pasta_gym.mini import grammar, raters
from pasta_gym.seeding import CANDIDATES, CHOICE, IMAGE, gumbels, mix, uniforms
from pasta_gym.types import CandidateGenerator, FloatArray, History, ImageArray, ImageGenerator, IntArray

FORMAT = 1
RATING_LEVELS = 10
SATISFACTION_LEVELS = 5
TRUTH = "truth.npz"
_CATEGORY_DRAW = 101
_PILOT = "pilot"


@dataclass(frozen=True)
class PoolConfig:
    """How many sessions of which size are painted.

    Attributes:
        world_seed: The world whose raters choose on the way.
        train_raters: Raters with train prompts; none of their sessions may show a held-out triple.
        validation_raters: Raters with validation prompts.
        test_raters: Raters with test prompts.
        sessions_per_rater: Five-turn sessions of each.
        horizon: H, turns a session.
        slate_size: L, columns a turn.
        images_per_prompt: M, images a column.
        batch: Sessions that are painted together and kept in one file.
        pilot_sessions: Sessions that are painted first to calibrate the temperature, then dropped.
        pilot_temperature: Temperature of the pilot's choices.
        seed: Seed of prompts, candidates, images and choices.
    """

    world_seed: int = 0
    train_raters: int = 660
    validation_raters: int = 60
    test_raters: int = 120
    sessions_per_rater: int = 2
    horizon: int = 5
    slate_size: int = 4
    images_per_prompt: int = 4
    batch: int = 240
    pilot_sessions: int = 48
    pilot_temperature: float = 4.0
    seed: int = 0

    @property
    def split_sizes(self) -> tuple[int, int, int]:
        """Raters of the three splits; ids follow each other in this order."""
        return self.train_raters, self.validation_raters, self.test_raters

    @property
    def n_raters(self) -> int:
        """Raters of all splits."""
        return sum(self.split_sizes)

    @property
    def n_images(self) -> int:
        """Images of one session: those of the initial prompt, then turn by turn, column by column."""
        return self.images_per_prompt * (1 + self.horizon * self.slate_size)

    def rater_splits(self) -> IntArray:
        """Return the split of each rater, an index into ``grammar.SPLITS``, ``(n_raters,)``."""
        return np.repeat(np.arange(3), self.split_sizes).astype(np.int64)


@dataclass(frozen=True)
class Studio:
    """The parts that paint, embed and read.

    Attributes:
        candidates: A candidate generator for each split; the one of ``"train"`` must avoid held-out triples.
        images: Paints prompts; must return pixels.
        encode_texts: CLIP embeddings ``(n, d)`` of texts.
        eye: Reads ``(n, 38)`` of pictures ``(n, height, width, 3)``: what raters see.
        judge: The same by the other reader, for figures.
    """

    candidates: Mapping[str, CandidateGenerator]
    images: ImageGenerator
    encode_texts: Callable[[list[str]], FloatArray]
    eye: Callable[[ImageArray], FloatArray]
    judge: Callable[[ImageArray], FloatArray]


@dataclass(frozen=True)
class Pool:
    """Painted sessions, one row a session, in the order of their ids.

    Attributes:
        raters: ``(S,)`` who chose on the way.
        initial_prompts: ``(S,)`` prompt ids.
        prompt_embeddings: ``(S, d)`` of the initial prompts.
        slates: ``(S, H, L)`` prompt ids.
        image_embeddings: ``(S, n_images, d)`` float16.
        eye: ``(S, n_images, 38)`` float16 reads of the raters' eye.
        judge: ``(S, n_images, 38)`` float16 reads of the judge.
        choices: ``(S, H)`` columns chosen on the way.
    """

    raters: IntArray
    initial_prompts: IntArray
    prompt_embeddings: FloatArray
    slates: IntArray
    image_embeddings: FloatArray
    eye: FloatArray
    judge: FloatArray
    choices: IntArray


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

    train_pairs: int = 32
    held_out_pairs: int = 80
    ratings: int = 8
    rankings: int = 2
    ranked: int = 4
    critique_share: float = 0.2


def crowd(
    world_seed: int, n: int, temperature: float, config: raters.RaterConfig = raters.DEFAULT_CONFIG
) -> tuple[raters.Archetypes, raters.Raters]:
    """Draw the archetypes and raters of a world; rater i is the same person whatever the temperature."""
    archetypes = raters.draw_archetypes(world_seed, config)
    rng = np.random.default_rng([world_seed, 0xC0FFEE])
    return archetypes, raters.draw_raters(archetypes, n, temperature, rng, config=config)


def baseline_slates(candidates: IntArray, categories: IntArray, slate_size: int, keys: NDArray[np.uint64]) -> IntArray:
    """The untrained generator's slates: the first candidate of each of ``slate_size`` categories drawn at random.

    Args:
        candidates: ``(B, C)`` prompt ids.
        categories: ``(B, C)`` categories in 0..
        slate_size: L.
        keys: ``(B,)`` random keys.

    Returns:
        ``(B, L)`` prompt ids.

    Raises:
        ValueError: If a row has fewer categories than columns.
    """
    present = np.stack([(categories == c).any(axis=1) for c in range(int(categories.max()) + 1)], axis=1)
    if present.sum(axis=1).min() < slate_size:
        raise ValueError(f"a slate of {slate_size} needs as many categories, got {present.sum(axis=1).min()}")
    first = np.stack([(categories == c).argmax(axis=1) for c in range(present.shape[1])], axis=1)
    draw = np.where(present, uniforms(mix(keys[:, None], np.arange(present.shape[1]))), 2.0)
    drawn = draw.argsort(axis=1)[:, :slate_size]
    slates: IntArray = np.take_along_axis(candidates, np.take_along_axis(first, drawn, axis=1), axis=1)
    return slates


class _Session:
    """A batch of sessions being painted: who, from what, with which keys."""

    def __init__(self, studio: Studio, split: str, ids: IntArray, prompts: IntArray, config: PoolConfig) -> None:
        self.studio, self.split, self.ids, self.prompts, self.config = studio, split, ids, prompts, config
        b, h, n_columns = len(ids), config.horizon, config.slate_size
        self.slates = np.full((b, h, n_columns), -1, dtype=np.int64)
        self.choices = np.full((b, h), -1, dtype=np.int64)
        self.chosen = prompts.copy()
        self.embeddings: list[FloatArray] = []
        self.eye: list[FloatArray] = []
        self.judge: list[FloatArray] = []

    def paint(self, prompts: IntArray, turn: int) -> FloatArray:
        """Paint prompts ``(B, columns)``, keep embeddings and reads, return the eye's ``(B, columns, M, 38)``."""
        b, columns = prompts.shape
        m = self.config.images_per_prompt
        keys = mix(self.config.seed, self.ids[:, None, None], turn, np.arange(columns)[:, None], np.arange(m), IMAGE)
        images = self.studio.images.generate(prompts.reshape(-1), keys.reshape(b * columns, m))
        if images.pixels is None:
            raise ValueError("raters judge pixels, but the image generator returned none; use a painting one")
        pixels = images.pixels.reshape(b * columns * m, *images.pixels.shape[2:])
        eye = self.studio.eye(pixels)
        self.embeddings.append(images.embeddings.reshape(b, columns * m, -1).astype(np.float16))
        self.eye.append(eye.reshape(b, columns * m, -1).astype(np.float16))
        self.judge.append(self.studio.judge(pixels).reshape(b, columns * m, -1).astype(np.float16))
        return self.eye[-1].astype(np.float32).reshape(b, columns, m, -1)

    def turn(self, turn: int, people: raters.Raters, who: IntArray) -> FloatArray:
        """Play one turn (1..H) and return the columns' utilities ``(B, L)``."""
        config, key = self.config, mix(self.config.seed, self.ids, turn)
        history = History(
            initial_prompts=self.prompts,
            slates=self.slates.copy(),
            choices=self.choices.copy(),
            chosen_prompts=self.chosen.copy(),
            turns=np.full(len(self.ids), turn - 1, dtype=np.int64),
            keys=mix(key, CANDIDATES),
            horizon=config.horizon,
        )
        candidates, categories = self.studio.candidates[self.split].propose(history)
        slates = baseline_slates(candidates, categories, config.slate_size, mix(key, _CATEGORY_DRAW))
        reads = self.paint(slates, turn)
        values = grammar.slot_values(self.prompts)[:, None, None]
        pictures = raters.image_utilities(reads, values, people.weights[who][:, None, None], people.config)
        utilities = raters.column_utilities(pictures, people.config.best_image_sharpness)
        noise = gumbels(mix(key[:, None], np.arange(config.slate_size), CHOICE))
        choice = (people.temperature * utilities + noise).argmax(axis=1)
        self.slates[:, turn - 1], self.choices[:, turn - 1] = slates, choice
        self.chosen = np.take_along_axis(slates, choice[:, None], axis=1)[:, 0]
        return utilities


def _play(
    studio: Studio, split: str, ids: IntArray, who: IntArray, prompts: IntArray, people: raters.Raters, config: PoolConfig
) -> tuple[dict[str, NDArray[Any]], FloatArray]:
    session = _Session(studio, split, ids, prompts, config)
    session.paint(prompts[:, None], 0)
    turns = tqdm(range(1, config.horizon + 1), desc=f"sessions {ids[0]}..{ids[-1]}", leave=False, mininterval=5)
    utilities = np.concatenate([session.turn(t, people, who) for t in turns])
    record = {
        "sessions": ids,
        "raters": who,
        "initial_prompts": prompts,
        "prompt_embeddings": studio.encode_texts(grammar.prompt_texts(prompts)).astype(np.float32),
        "slates": session.slates,
        "image_embeddings": np.concatenate(session.embeddings, axis=1),
        "eye": np.concatenate(session.eye, axis=1),
        "judge": np.concatenate(session.judge, axis=1),
        "choices": session.choices,
    }
    return record, utilities


def session_plan(config: PoolConfig) -> tuple[IntArray, IntArray, IntArray]:
    """Decide who starts from which prompt: rater and split of each session, and its initial prompt id.

    Returns:
        Raters ``(S,)``, splits ``(S,)`` as indices into ``grammar.SPLITS``, and prompt ids ``(S,)``.
    """
    who = np.repeat(np.arange(config.n_raters), config.sessions_per_rater).astype(np.int64)
    splits = config.rater_splits()[who]
    prompts = np.zeros(len(who), dtype=np.int64)
    for index, split in enumerate(grammar.SPLITS):
        rows = np.flatnonzero(splits == index)
        rng = np.random.default_rng([config.seed, 0x9A11, index])
        prompts[rows] = rng.choice(grammar.initial_prompt_ids(split), size=len(rows))
    return who, splits, prompts


def paint_sessions(
    studio: Studio,
    folder: pathlib.Path,
    config: PoolConfig | None = None,
    rater_config: raters.RaterConfig = raters.DEFAULT_CONFIG,
    *,
    progress: bool = True,
) -> None:
    """Stage A: paint all sessions that the folder does not hold yet.

    Args:
        studio: The parts.
        folder: The pool: ``pool.json`` and one ``shard-*.npz`` for each batch, written whole or not at all.
        config: Numbers and seeds.
        rater_config: How raters judge.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the folder holds a pool of another configuration.
    """
    config = config or PoolConfig()
    folder.mkdir(parents=True, exist_ok=True)
    who, splits, prompts = session_plan(config)
    record = _read_pool_record(folder)
    mine = {"format": FORMAT, "config": dataclasses.asdict(config), "raters": dataclasses.asdict(rater_config)}
    if record is None:
        pilot = np.arange(min(config.pilot_sessions, config.train_raters))
        _, people = crowd(config.world_seed, config.n_raters, config.pilot_temperature, rater_config)
        shifted = dataclasses.replace(config, seed=config.seed + 1_000_003)
        _, utilities = _play(studio, "train", pilot, who[pilot], prompts[pilot], people, shifted)
        temperature = raters.calibrate_temperature(utilities, rater_config.best_share)
        record = {**mine, "temperature": temperature, _PILOT: {"slates": len(utilities)}}
        _write_atomically(folder / "pool.json", json.dumps(record, indent=2) + "\n")
    elif {k: record.get(k) for k in mine} != mine:
        raise ValueError(f"{folder} holds a pool of another configuration; give another folder or delete it")
    _, people = crowd(config.world_seed, config.n_raters, float(record["temperature"]), rater_config)
    batches = [
        rows[first : first + config.batch]
        for rows in (np.flatnonzero(splits == s) for s in range(len(grammar.SPLITS)))
        for first in range(0, len(rows), config.batch)
    ]
    for ids in tqdm(batches, desc="painting", disable=not progress):
        path = folder / f"shard-{ids[0]:06d}.npz"
        if path.exists():
            continue
        split = grammar.SPLITS[splits[ids[0]]]
        shard, _ = _play(studio, split, ids, who[ids], prompts[ids], people, config)
        partial = folder / f"partial-{os.getpid()}.npz"
        np.savez_compressed(partial, **shard)
        partial.replace(path)


def _write_atomically(path: pathlib.Path, text: str) -> None:
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _read_pool_record(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / "pool.json"
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"cannot read {path} ({error}); delete the folder and paint again") from error


def load_pool(folder: pathlib.Path) -> tuple[Pool, PoolConfig, raters.RaterConfig, float]:
    """Read a pool.

    Args:
        folder: What ``paint_sessions`` wrote.

    Returns:
        The pool, its configuration, how its raters judge, and the temperature of their choices.

    Raises:
        ValueError: If it is missing, broken or not finished.
    """
    record = _read_pool_record(folder)
    if record is None:
        raise ValueError(f"no pool.json in {folder}; paint one with: python -m pasta_gym.mini.rater_data paint")
    config = PoolConfig(**record["config"])
    parts: list[dict[str, NDArray[Any]]] = []
    for path in sorted(folder.glob("shard-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as shard:
                parts.append({name: shard[name] for name in shard.files})
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"cannot read {path} ({error}); delete it and paint again, which redoes it alone") from error
    expected = config.n_raters * config.sessions_per_rater
    sessions = np.concatenate([p["sessions"] for p in parts]) if parts else np.zeros(0, dtype=np.int64)
    if not np.array_equal(sessions, np.arange(expected)):
        raise ValueError(f"{folder} holds {len(sessions)} of {expected} sessions; paint again, which goes on from there")
    names = [f.name for f in dataclasses.fields(Pool)]
    pool = Pool(**{name: np.concatenate([p[name] for p in parts]) for name in names})
    return pool, config, raters.RaterConfig(**record["raters"]), float(record["temperature"])


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


def _critiques(
    labeller: _Labeller, choices: IntArray, share: float, rng: np.random.Generator
) -> list[str | None]:
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
        "counts": {name: len(next(iter(columns.values()))) for name, columns in tables.items()},
        "mean_column_utility": float(utilities.mean()),
        "best_column_chosen": float(
            raters.choice_probabilities(utilities, people.temperature).max(axis=-1).mean()
        ),
    }
    _write_atomically(folder / "metadata.json", json.dumps(metadata, indent=2) + "\n")
    return metadata


def _write_table(path: pathlib.Path, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial = path.with_suffix(f".{os.getpid()}")
    rows = {n: c.tolist() if isinstance(c, np.ndarray) and c.ndim > 1 else c for n, c in columns.items()}
    pq.write_table(pa.table(rows), partial, compression="zstd")
    partial.replace(path)


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
    partial = path.with_name(f"partial-{os.getpid()}.npz")
    np.savez_compressed(
        partial,
        seed=archetypes.seed,
        shares=archetypes.shares,
        signs=archetypes.signs,
        archetype_weights=archetypes.weights,
        archetypes=people.archetypes,
        weights=people.weights,
        temperature=people.temperature,
        config=json.dumps(dataclasses.asdict(people.config)),
    )
    partial.replace(path)


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
        raise ValueError(f"{name} returned {type(studio).__name__}, expected pasta_gym.mini.rater_data.Studio")
    return studio


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``paint`` a pool, or ``label`` one for a world."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.mini.rater_data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    paint = commands.add_parser("paint", help="stage A: paint sessions; goes on where it stopped")
    paint.add_argument("--pool", type=pathlib.Path, required=True, help="folder of the pool")
    paint.add_argument("--studio", default="pasta_gym.mini.studio:diffusion_studio", help="module:function")
    paint.add_argument("--batch", type=int, default=PoolConfig.batch, help="sessions painted together")
    labels = commands.add_parser("label", help="stage B: a world's raters label a pool")
    labels.add_argument("--pool", type=pathlib.Path, required=True, help="folder of the pool")
    labels.add_argument("--out", type=pathlib.Path, required=True, help="folder of the labels")
    labels.add_argument("--world", type=int, default=0, help="seed of the world")
    options = parser.parse_args(arguments)
    if options.command == "paint":
        paint_sessions(_studio(options.studio), options.pool, PoolConfig(batch=options.batch))
    else:
        print(json.dumps(label(options.pool, options.out, options.world), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
