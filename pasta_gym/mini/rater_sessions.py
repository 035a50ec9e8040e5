"""Five-turn sessions of the raters under the untrained generator, painted once and kept: the pool (slow).

The untrained generator is the paper's baseline: the first candidate of each of four categories drawn at random.
Labels are made from the pool by ``pasta_gym.mini.rater_data``.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pasta_gym.files import whole_file, write_text
from pasta_gym.mini import grammar, raters
from pasta_gym.mini.pool_pictures import image_keys, pictures_path, write_pictures
from pasta_gym.seeding import CANDIDATES, CHOICE, gumbels, mix, uniforms
from pasta_gym.types import CandidateGenerator, FloatArray, History, ImageArray, ImageGenerator, Images, IntArray

FORMAT = 1
_CATEGORY_DRAW = 101
_PILOT = "pilot"
_SAME_PICTURE = 0.98  # median cosine of embeddings; another processor's rounding moves a few pictures
ENCODER = "encoder_sha256"
"""Key of the hash of the encoder whose embeddings a pool holds, in its record and in the metadata of its labels."""


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
    train_raters: int = 600
    validation_raters: int = 50
    test_raters: int = 100
    sessions_per_rater: int = 2
    horizon: int = 5
    slate_size: int = 4
    images_per_prompt: int = 4
    batch: int = 60
    pilot_sessions: int = 24
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


def _painted(
    studio: Studio, ids: IntArray, prompts: IntArray, turn: int, config: PoolConfig
) -> tuple[Images, ImageArray]:
    """Paint prompts ``(B, columns)`` of one turn; also the pixels, one picture after another."""
    b, columns = prompts.shape
    keys = image_keys(config.seed, ids, turn, columns, config.images_per_prompt)
    images = studio.images.generate(prompts.reshape(-1), keys.reshape(b * columns, -1))
    if images.pixels is None:
        raise ValueError("raters judge pixels, but the image generator returned none; use a painting one")
    return images, images.pixels.reshape(-1, *images.pixels.shape[2:])


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
        self.pictures: list[ImageArray] = []

    def paint(self, prompts: IntArray, turn: int) -> FloatArray:
        """Paint prompts ``(B, columns)``, keep embeddings and reads, return the eye's ``(B, columns, M, 38)``."""
        b, columns = prompts.shape
        m = self.config.images_per_prompt
        images, pixels = _painted(self.studio, self.ids, prompts, turn, self.config)
        self.pictures.append(pixels.reshape(b, columns * m, *pixels.shape[1:]))
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
    studio: Studio,
    split: str,
    ids: IntArray,
    who: IntArray,
    prompts: IntArray,
    people: raters.Raters,
    config: PoolConfig,
    *,
    progress: bool,
) -> tuple[dict[str, NDArray[Any]], FloatArray, ImageArray]:
    session = _Session(studio, split, ids, prompts, config)
    session.paint(prompts[:, None], 0)
    turns = tqdm(range(1, config.horizon + 1), desc=f"sessions {ids[0]}..{ids[-1]}", leave=False, disable=not progress)
    utilities = np.concatenate([session.turn(t, people, who) for t in turns])
    record: dict[str, NDArray[Any]] = {
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
    return record, utilities, np.concatenate(session.pictures, axis=1)


def _repaint(studio: Studio, path: pathlib.Path, config: PoolConfig, *, progress: bool) -> ImageArray:
    """Paint a shard's pictures again, ``(B, n_images, height, width, 3)``, and check that they are the same."""
    shard = _read_shard(path)
    ids, slates, kept = shard["sessions"], shard["slates"], shard["image_embeddings"].astype(np.float32)
    pictures, embeddings = [], []
    for turn in tqdm(
        range(config.horizon + 1), desc=f"pictures {ids[0]}..{ids[-1]}", leave=False, disable=not progress
    ):
        prompts = slates[:, turn - 1] if turn else shard["initial_prompts"][:, None]
        images, pixels = _painted(studio, ids, prompts, turn, config)
        pictures.append(pixels.reshape(len(ids), -1, *pixels.shape[1:]))
        embeddings.append(images.embeddings.reshape(len(ids), -1, kept.shape[-1]))
    found = np.concatenate(embeddings, axis=1)
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(kept, axis=-1)
    alike = float(np.median((found * kept).sum(axis=-1) / lengths))
    if not alike >= _SAME_PICTURE:
        raise ValueError(
            f"pictures painted again do not match the embeddings in {path} (median cosine {alike:.3f}, expected at "
            f"least {_SAME_PICTURE}); use the studio and the weights that painted the pool"
        )
    return np.concatenate(pictures, axis=1)


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
    part: tuple[int, int] = (0, 1),
    pictures: pathlib.Path | None = None,
    progress: bool = True,
) -> None:
    """Stage A: paint all sessions that the folder does not hold yet.

    Args:
        studio: The parts.
        folder: The pool: ``pool.json`` and one ``shard-*.npz`` for each batch, written whole or not at all.
        config: Numbers and seeds.
        rater_config: How raters judge.
        part: ``(i, n)`` paints every n-th batch from the i-th on, so that n processes can share the work.
        pictures: Where to keep the pictures themselves (``PoolPictures``); those of sessions that the folder holds
            already are painted again. None keeps none.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the folder holds a pool of another configuration, ``part`` is not ``0 <= i < n``, or pictures
            that are painted again are not those whose embeddings the folder holds.
    """
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part must be (i, n) with 0 <= i < n, got {part}")
    config = config or PoolConfig()
    folder.mkdir(parents=True, exist_ok=True)
    who, splits, prompts = session_plan(config)
    record = _read_pool_record(folder)
    mine = {"format": FORMAT, "config": dataclasses.asdict(config), "raters": dataclasses.asdict(rater_config)}
    if record is None:
        pilot = np.arange(min(config.pilot_sessions, config.train_raters))
        _, people = crowd(config.world_seed, config.n_raters, config.pilot_temperature, rater_config)
        shifted = dataclasses.replace(config, seed=config.seed + 1_000_003)
        _, utilities, _ = _play(studio, "train", pilot, who[pilot], prompts[pilot], people, shifted, progress=progress)
        temperature = raters.calibrate_temperature(utilities, rater_config.best_share)
        # Labels, and users fitted to them, say which encoder's embeddings they are about.
        encoder = getattr(studio.images, "encoder_sha256", None)
        record = {**mine, "temperature": temperature, _PILOT: {"slates": len(utilities)}, ENCODER: encoder}
        write_text(folder / "pool.json", json.dumps(record, indent=2) + "\n")
    elif {k: record.get(k) for k in mine} != mine:
        raise ValueError(f"{folder} holds a pool of another configuration; give another folder or delete it")
    _, people = crowd(config.world_seed, config.n_raters, float(record["temperature"]), rater_config)
    batches = [
        rows[first : first + config.batch]
        for rows in (np.flatnonzero(splits == s) for s in range(len(grammar.SPLITS)))
        for first in range(0, len(rows), config.batch)
    ]
    for ids in tqdm(batches[part[0] :: part[1]], desc="painting", disable=not progress):
        path = folder / f"shard-{ids[0]:06d}.npz"
        keep = pictures is not None and not pictures_path(pictures, int(ids[0])).exists()
        if path.exists():
            if pictures is not None and keep:
                write_pictures(pictures, int(ids[0]), _repaint(studio, path, config, progress=progress))
            continue
        split = grammar.SPLITS[splits[ids[0]]]
        shard, _, painted = _play(studio, split, ids, who[ids], prompts[ids], people, config, progress=progress)
        if pictures is not None:
            write_pictures(pictures, int(ids[0]), painted)
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **shard)


def _read_pool_record(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / "pool.json"
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"cannot read {path} ({error}); delete the folder and paint again") from error


def encoder_of_pool(folder: pathlib.Path) -> str | None:
    """Hash of the encoder whose embeddings a pool holds; None if its record does not say."""
    found = (_read_pool_record(folder) or {}).get(ENCODER)
    return None if found is None else str(found)


def _read_shard(path: pathlib.Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as shard:
            return {name: shard[name] for name in shard.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read {path} ({error}); delete it and paint again, which redoes it alone") from error


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
        parts.append(_read_shard(path))
    expected = config.n_raters * config.sessions_per_rater
    sessions = np.concatenate([p["sessions"] for p in parts]) if parts else np.zeros(0, dtype=np.int64)
    if not np.array_equal(sessions, np.arange(expected)):
        raise ValueError(
            f"{folder} holds {len(sessions)} of {expected} sessions; paint again, which goes on from there"
        )
    names = [f.name for f in dataclasses.fields(Pool)]
    pool = Pool(**{name: np.concatenate([p[name] for p in parts]) for name in names})
    return pool, config, raters.RaterConfig(**record["raters"]), float(record["temperature"])
