"""Trajectory datasets on disk: three Parquet tables and a JSON file that any tool reads.

``episodes.parquet`` has one row an episode, ``turns.parquet`` one row a turn, ``prompts.parquet`` one row a
prompt. Lists have a fixed length; ``metadata.json`` says how to fold the flat ones back (``shapes``).
"""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.files import write_json
from pasta_gym.trajectories.dataset import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray

FORMAT_VERSION = 1
_ARRAYS, _TEXTS, _STATS = "arrays.npz", "texts.json", "candidate_stats.json"
EPISODES, TURNS, PROMPTS, METADATA = "episodes.parquet", "turns.parquet", "prompts.parquet", "metadata.json"
_REMEDY = "delete the folder and collect the dataset again"
_COLUMNS = {
    EPISODES: ("episode", "environment_seed", "initial_prompt", "initial_images"),
    TURNS: (
        "episode",
        "turn",
        "candidates",
        "categories",
        "action",
        "behaviour_probability",
        "choice",
        "reward",
        "terminated",
        "slate_images",
    ),
    PROMPTS: ("prompt", "text", "embedding"),
}


@dataclass(frozen=True)
class Shard:
    """A run of whole episodes as the environment gave them; prompts are ids of the world's prompt book.

    Attributes:
        first_episode: Number of the first episode.
        environment_seeds: ``(n,)`` seed that replays each episode alone.
        initial_prompts: ``(n,)`` prompt ids.
        initial_images: ``(n, M, d)`` float16.
        candidates: ``(n, H, C)`` prompt ids.
        categories: ``(n, H, C)``.
        actions: ``(n, H, L)`` places in the candidates.
        behaviour_probabilities: ``(n, H)``.
        slate_images: ``(n, H, L, M, d)`` float16.
        choices: ``(n, H)``.
        rewards: ``(n, H)``.
        prompts: ``(P,)`` ids that occur, sorted.
        prompt_embeddings: ``(P, d)`` float32.
        prompt_texts: Their words; empty where an id is the prompt itself and any process can write it out.
        candidate_stats: What the candidate generator counted meanwhile, empty if it counts nothing.
    """

    first_episode: int
    environment_seeds: IntArray
    initial_prompts: IntArray
    initial_images: NDArray[np.float16]
    candidates: IntArray
    categories: IntArray
    actions: IntArray
    behaviour_probabilities: FloatArray
    slate_images: NDArray[np.float16]
    choices: IntArray
    rewards: FloatArray
    prompts: IntArray
    prompt_embeddings: FloatArray
    prompt_texts: tuple[str, ...] = ()
    candidate_stats: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.initial_prompts)


def save(
    folder: pathlib.Path,
    shards: Iterable[Shard],
    *,
    texts: Callable[[IntArray], list[str]],
    metadata: dict[str, Any],
) -> None:
    """Write a dataset from shards, one row group a shard, holding one shard in memory at a time.

    Args:
        folder: Existing folder to write into. Write to a temporary one and rename it to be atomic.
        shards: In the order of their episodes, at least one.
        texts: Writes prompt ids out in words, those of shards without texts of their own.
        metadata: Identity and provenance; counts, shapes and the format's version are added, and ``candidate_stats``
            over all shards where the candidate generator counts something.

    Raises:
        ValueError: If there is no shard.
    """
    import pyarrow.parquet as pq

    ids: list[IntArray] = []
    embeddings: list[FloatArray] = []
    known: dict[int, str] = {}
    stats: Counter[str] = Counter()
    writers: dict[str, Any] = {}
    n_episodes, shapes = 0, {}
    try:
        for shard in shards:
            for name, table in ((EPISODES, _episode_table(shard)), (TURNS, _turn_table(shard))):
                if name not in writers:
                    writers[name] = pq.ParquetWriter(folder / name, table.schema, **_writer_options(name))
                writers[name].write_table(table, row_group_size=len(table))
            n_episodes += len(shard)
            shapes = {
                "initial_images": list(shard.initial_images.shape[1:]),
                "slate_images": list(shard.slate_images.shape[2:]),
                "horizon": shard.actions.shape[1],
            }
            ids.append(shard.prompts)
            embeddings.append(shard.prompt_embeddings)
            stats.update(shard.candidate_stats)
            if shard.prompt_texts:
                known.update(zip(shard.prompts.tolist(), shard.prompt_texts, strict=True))
    finally:
        for writer in writers.values():
            writer.close()
    if not ids:
        raise ValueError("a dataset needs at least one shard, got none; ask for at least one episode")
    prompts, first = np.unique(np.concatenate(ids), return_index=True)
    table = _prompt_table(prompts, _words(prompts, known, texts), np.concatenate(embeddings)[first])
    pq.write_table(table, folder / PROMPTS, **_writer_options(PROMPTS))
    counts = {"n_episodes": n_episodes, "n_prompts": len(prompts), "shapes": shapes, "format_version": FORMAT_VERSION}
    counted = {"candidate_stats": dict(stats)} if stats else {}
    write_json(folder / METADATA, {**metadata, **counted, **counts})


def load(folder: str | pathlib.Path) -> TrajectoryDataset:
    """Read a dataset.

    Args:
        folder: Holds the three tables and ``metadata.json``.

    Raises:
        ValueError: If a file is missing, broken or disagrees with another. The message names the file and
            says what to do.
    """
    folder = pathlib.Path(folder)
    metadata = read_metadata(folder)
    n, shapes = _expect(folder, metadata, "n_episodes"), _expect(folder, metadata, "shapes")
    try:
        horizon, initial_shape, slate_shape = (
            int(shapes["horizon"]),
            tuple(shapes["initial_images"]),
            tuple(shapes["slate_images"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(folder / METADATA, f"its shapes cannot be read ({error!r})") from error
    prompts = _read(folder / PROMPTS, _COLUMNS[PROMPTS], _expect(folder, metadata, "n_prompts"))
    episodes = _read(folder / EPISODES, ("episode", "initial_prompt", "initial_images"), n)
    turns = _read(folder / TURNS, _COLUMNS[TURNS], n * horizon)
    _require_order(folder, episodes["episode"], turns["episode"], turns["turn"], horizon)
    _require_values(folder / TURNS, turns, horizon, n_columns=slate_shape[0])

    def rows_of(ids: IntArray, name: str) -> IntArray:
        rows: IntArray = np.searchsorted(prompts["prompt"], ids)
        rows = np.minimum(rows, len(prompts["prompt"]) - 1)
        if not np.array_equal(prompts["prompt"][rows], ids):
            raise _broken(folder / PROMPTS, f"it lacks prompts that {name} mentions")
        return rows

    def by_turn(name: str, *shape: int) -> Any:
        return _fold(folder / TURNS, name, turns[name], (n, horizon, *shape))

    return TrajectoryDataset(
        initial_prompts=rows_of(episodes["initial_prompt"], EPISODES),
        initial_images=_fold(folder / EPISODES, "initial_images", episodes["initial_images"], (n, *initial_shape)),
        candidates=rows_of(by_turn("candidates", -1), TURNS),
        categories=by_turn("categories", -1),
        actions=by_turn("action", -1),
        behaviour_probabilities=by_turn("behaviour_probability"),
        slate_images=by_turn("slate_images", *slate_shape),
        choices=by_turn("choice"),
        rewards=by_turn("reward"),
        prompt_embeddings=prompts["embedding"],
        metadata=metadata,
        prompt_texts=prompts["text"],
    )


def read_metadata(folder: str | pathlib.Path) -> dict[str, Any]:
    """Read a dataset's identity and provenance without its arrays.

    Raises:
        ValueError: If the file is missing, is not JSON, or has another format version.
    """
    path = pathlib.Path(folder) / METADATA
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, so this is no whole dataset; {_REMEDY}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _broken(path, f"it is not JSON ({error})") from error
    if not isinstance(metadata, dict) or metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version") if isinstance(metadata, dict) else None
        raise ValueError(f"{path} has format version {found}, this release reads {FORMAT_VERSION}; {_REMEDY}")
    return metadata


def read_prompt_texts(folder: str | pathlib.Path) -> list[str]:
    """Read the words of the prompts, in the order of ``TrajectoryDataset.prompt_embeddings``."""
    path = pathlib.Path(folder) / PROMPTS
    return [str(text) for text in _read(path, ("text",), None)["text"]]


def save_shard(folder: pathlib.Path, shard: Shard) -> None:
    """Write one shard into an existing folder: scaffolding that is gone when a dataset is whole."""
    np.savez(folder / _ARRAYS, **{name: getattr(shard, name) for name in _array_names()})
    if shard.prompt_texts:
        write_json(folder / _TEXTS, list(shard.prompt_texts))
    if shard.candidate_stats:
        write_json(folder / _STATS, dict(shard.candidate_stats))


def load_shard(folder: pathlib.Path) -> Shard:
    """Read what ``save_shard`` wrote.

    Raises:
        ValueError: If a file is missing or broken.
    """
    path = folder / _ARRAYS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in _array_names()}
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete {folder} and collect again") from error
    except Exception as error:  # zipfile.BadZipFile and zlib.error share no base class
        raise ValueError(f"{path} is broken ({error}); delete {folder} and collect again") from error
    texts = _beside(folder, _TEXTS, default=[])
    if not isinstance(texts, list) or len(texts) not in (0, len(content["prompts"])):
        raise ValueError(f"{folder / _TEXTS} is broken: it lacks texts; delete {folder} and collect again")
    stats = _beside(folder, _STATS, default={})
    own = {"first_episode": int(content["first_episode"]), "prompt_texts": tuple(texts), "candidate_stats": stats}
    return Shard(**{**content, **own})


def _array_names() -> list[str]:
    return [name for name in Shard.__dataclass_fields__ if name not in ("prompt_texts", "candidate_stats")]


def _beside(folder: pathlib.Path, name: str, default: Any) -> Any:
    """Read a file of JSON beside a shard's arrays; shards of the mini world and of earlier versions have none."""
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is broken ({error}); delete {folder} and collect again") from error


def _words(prompts: IntArray, known: dict[int, str], texts: Callable[[IntArray], list[str]]) -> list[str]:
    """Write prompts out, those that no shard has words of with ``texts``."""
    ids = prompts.tolist()
    others = [i for i in ids if i not in known]
    if others:
        known |= zip(others, texts(np.array(others, dtype=np.int64)), strict=True)
    return [known[i] for i in ids]


def _episode_table(shard: Shard) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            "episode": shard.first_episode + np.arange(len(shard)),
            "environment_seed": shard.environment_seeds,
            "initial_prompt": shard.initial_prompts,
            "initial_images": _lists(shard.initial_images, 1),
        }
    )


def _turn_table(shard: Shard) -> Any:
    import pyarrow as pa

    n, horizon = shard.choices.shape
    turn = np.tile(np.arange(horizon), n)
    return pa.table(
        {
            "episode": shard.first_episode + np.repeat(np.arange(n), horizon),
            "turn": turn,
            "candidates": _lists(shard.candidates, 2),
            "categories": _lists(shard.categories, 2),
            "action": _lists(shard.actions, 2),
            "behaviour_probability": shard.behaviour_probabilities.reshape(-1).astype(np.float64),
            "choice": shard.choices.reshape(-1),
            "reward": shard.rewards.reshape(-1).astype(np.float64),
            "terminated": turn == horizon - 1,
            "slate_images": _lists(shard.slate_images, 2),
        }
    )


def _prompt_table(prompts: IntArray, texts: list[str], embeddings: FloatArray) -> Any:
    import pyarrow as pa

    return pa.table({"prompt": prompts, "text": texts, "embedding": _lists(embeddings.astype(np.float32), 1)})


def _lists(values: NDArray[Any], n_row_axes: int) -> Any:
    """One fixed-length list a row from an array whose first ``n_row_axes`` axes number the rows."""
    import pyarrow as pa

    length = int(np.prod(values.shape[n_row_axes:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), length)


def _writer_options(name: str) -> dict[str, Any]:
    noise = {
        EPISODES: "initial_images.list.element",
        TURNS: "slate_images.list.element",
        PROMPTS: "embedding.list.element",
    }[name]
    few = {EPISODES: [], TURNS: ["categories.list.element", "action.list.element", "choice", "turn"], PROMPTS: []}[name]
    return {
        "compression": {noise: "none"},  # noise does not compress
        "use_dictionary": few or False,
        "write_page_checksum": True,
        "write_statistics": False,
    }


def _read(path: pathlib.Path, columns: tuple[str, ...], n_rows: int | None) -> dict[str, NDArray[Any]]:
    """Read columns row group by row group into arrays made once; lists come back flat."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise ValueError(f"{path} is missing; {_REMEDY}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise _broken(path, f"it lacks the columns {sorted(missing)}")
            n = file.metadata.num_rows
            if n_rows is not None and n != n_rows:
                raise _broken(path, f"it has {n} rows where {METADATA} says {n_rows}")
            parts: dict[str, NDArray[Any]] = {}
            filled = 0
            for batch in range(file.num_row_groups):
                table = file.read_row_group(batch, columns=list(columns))
                for name in columns:
                    values = _values(table.column(name), pa)
                    width = len(values) // max(len(table), 1)
                    if name not in parts:
                        parts[name] = np.empty(n * width, dtype=values.dtype)
                    parts[name][filled * width : filled * width + len(values)] = values
                filled += len(table)
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, str(error).splitlines()[0]) from error
    widths = {name: len(values) // max(n, 1) for name, values in parts.items()}
    return {name: v.reshape(n, widths[name]) if widths[name] != 1 else v for name, v in parts.items()}


def _values(column: Any, pa: Any) -> NDArray[Any]:
    chunk = column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):
        chunk = chunk.chunk(0)
    if pa.types.is_fixed_size_list(chunk.type):
        chunk = chunk.flatten()
    values: NDArray[Any] = chunk.to_numpy(zero_copy_only=False)
    return values


def _fold(path: pathlib.Path, name: str, values: NDArray[Any], shape: tuple[int, ...]) -> Any:
    try:
        return values.reshape(shape)
    except ValueError as error:
        raise _broken(path, f"column {name!r} has {values.size} numbers, which do not fill {shape}") from error


def _require_order(folder: pathlib.Path, episodes: IntArray, of_turn: IntArray, turn: IntArray, horizon: int) -> None:
    n = len(episodes)
    if not np.array_equal(episodes, np.arange(n)):
        raise _broken(folder / EPISODES, "its episodes are not 0, 1, 2, ... in order")
    if not np.array_equal(of_turn, np.repeat(np.arange(n), horizon)) or not np.array_equal(
        turn, np.tile(np.arange(horizon), n)
    ):
        raise _broken(folder / TURNS, "its turns are not in order, episode by episode")


def _require_values(path: pathlib.Path, turns: dict[str, NDArray[Any]], horizon: int, n_columns: int) -> None:
    """Check what the learners index with and average, which a checksum of somebody's own file says nothing about."""
    n_candidates = turns["candidates"].shape[-1]
    for name, end in (("choice", n_columns), ("action", n_candidates), ("categories", n_candidates)):
        values = turns[name]
        if values.dtype.kind not in "iu":
            raise _broken(path, f"column {name!r} must hold whole numbers and no gaps, got {values.dtype}")
        if values.size and not 0 <= values.min() <= values.max() < end:
            raise _broken(path, f"column {name!r} must be in 0..{end - 1}, got {values.min()}..{values.max()}")
    for name in ("reward", "behaviour_probability"):
        values = turns[name]
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise _broken(path, f"column {name!r} must hold finite numbers and no gaps")
    if not (turns["behaviour_probability"] > 0).all():
        raise _broken(path, "column 'behaviour_probability' must be above 0: what was shown was possible")
    if not np.array_equal(turns["terminated"], turns["turn"] == horizon - 1):
        raise _broken(path, f"column 'terminated' must be true at turn {horizon - 1} and there alone")


def _expect(folder: pathlib.Path, metadata: dict[str, Any], key: str) -> Any:
    if key not in metadata:
        raise _broken(folder / METADATA, f"it lacks {key!r}")
    return metadata[key]


def _broken(path: pathlib.Path, why: str) -> ValueError:
    return ValueError(f"{path} is broken: {why}; {_REMEDY}")
