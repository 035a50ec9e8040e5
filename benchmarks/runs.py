"""Run directories: what one holds, when it is finished, and how scores are read back."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pathlib
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf

from benchmarks.evaluate import EpisodeScores
from pasta_gym.files import write_json, write_text

CONFIG, SCORES, METRICS, METADATA, FAILURE = (
    "config.yaml",
    "scores.csv",
    "metrics.jsonl",
    "metadata.json",
    "failure.json",
)
CHECKPOINT, PARTS, SECONDS = "checkpoint", "parts", "seconds.json"
KEY_COLUMNS = ("experiment", "config_hash", "agent", "reward", "data", "world", "images", "split", "seed")
STARTED = "started.json"
OWN_FILES = (CONFIG, SCORES, METRICS, METADATA, FAILURE, SECONDS, "metrics.csv", STARTED)


@dataclass(frozen=True)
class RunKey:
    """What a run is of. The columns that are equal in all rows of its ``scores.csv``."""

    experiment: str
    config_hash: str
    agent: str
    reward: str
    data: str
    world: str
    images: str
    split: str
    seed: int

    def folder(self, root: pathlib.Path) -> pathlib.Path:
        """Name the run directory, the same for the same key whoever runs it and when."""
        parts = (self.experiment, self.agent, self.reward, self.data, self.world, self.images)
        return root.joinpath(*(_as_name(part) for part in parts), f"seed_{self.seed}")


def place_of(folder: pathlib.Path) -> tuple[str, str, str] | None:
    """Read experiment, data and world off the path of a run directory, as :meth:`RunKey.folder` makes it.

    Returns:
        None of a folder that lies less deep.
    """
    parts = folder.resolve().parts[-7:]
    return (parts[0], parts[3], parts[4]) if len(parts) == 7 else None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        key: What it is of.
        folder: Where it was read from.
        metadata: Provenance, seconds, and whether the agent is privileged.
        scores: One row a conversation.
    """

    key: RunKey
    folder: pathlib.Path
    metadata: dict[str, Any]
    scores: EpisodeScores


def write_scores(path: pathlib.Path, key: RunKey, scores: EpisodeScores) -> None:
    """Write ``scores.csv`` atomically, one row a conversation, numbers in full precision."""
    write_text(path, scores_text(key, scores))


def scores_text(key: RunKey, scores: EpisodeScores) -> str:
    """Lay out scores as ``scores.csv`` has them, with its header."""
    horizon = scores.chosen_utilities.shape[1]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            *KEY_COLUMNS,
            "episode",
            "prompt",
            "user_type",
            "episode_return",
            "final_utility",
            *(["unseen"] if scores.unseen is not None else []),
            *(f"utility_{turn}" for turn in range(1, horizon + 1)),
        ]
    )
    shared = [getattr(key, name) for name in KEY_COLUMNS]
    for i in range(len(scores)):
        utilities = [repr(round(float(u), 7)) for u in scores.chosen_utilities[i]]
        writer.writerow(
            [
                *shared,
                int(scores.episodes[i]),
                scores.prompts[i],
                int(scores.user_types[i]),
                repr(round(float(scores.returns[i]), 6)),
                utilities[-1],
                *([int(scores.unseen[i])] if scores.unseen is not None else []),
                *utilities,
            ]
        )
    return buffer.getvalue()


def read_scores(path: pathlib.Path) -> list[tuple[RunKey, EpisodeScores]]:
    """Read a ``scores.csv`` of one run or of many, or a shard of them, ``.csv.gz``.

    Returns:
        One entry a run, in the order of the file.

    Raises:
        ValueError: If the file is missing, lacks a column or holds something that is not a number.
    """
    try:
        open_text = gzip.open if path.suffix == ".gz" else open
        with open_text(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); run the benchmark again") from error
    if not rows:
        raise ValueError(f"{path} holds no episode; delete the run directory and run again")
    turns = sorted((c for c in rows[0] if c.startswith("utility_")), key=lambda c: int(c.split("_")[1]))
    grouped: dict[RunKey, list[dict[str, str]]] = {}
    try:
        for row in rows:
            texts = {name: row[name] for name in KEY_COLUMNS if name != "seed"}
            grouped.setdefault(RunKey(**texts, seed=int(row["seed"])), []).append(row)
        return [(key, _scores_of(own, turns)) for key, own in grouped.items()]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is broken ({error!r}); delete the run directory and run again") from error


def _scores_of(rows: list[dict[str, str]], turns: list[str]) -> EpisodeScores:
    # In a file of many runs a column that a run does not have is blank.
    turns = [t for t in turns if any(r[t] for r in rows)]
    return EpisodeScores(
        episodes=np.array([int(r["episode"]) for r in rows]),
        prompts=[r["prompt"] for r in rows],
        user_types=np.array([int(r["user_type"]) for r in rows]),
        returns=np.array([float(r["episode_return"]) for r in rows]),
        chosen_utilities=np.array([[float(r[t]) for t in turns] for r in rows]),
        unseen=np.array([int(r["unseen"]) == 1 for r in rows]) if any(r.get("unseen") for r in rows) else None,
    )


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """Read a JSON object, or None if the file is missing or cut short."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def is_finished(folder: pathlib.Path, identity: dict[str, str]) -> bool:
    """Whether a directory holds the finished run of this configuration on these models."""
    metadata = read_json(folder / METADATA)
    return metadata is not None and all(metadata.get(name) == value for name, value in identity.items())


def prepare(folder: pathlib.Path, identity: dict[str, str]) -> None:
    """Make a run directory ready: keep what this run began before, clear what older models left.

    A run that failed before it made anything, as a misspelt one does, leaves its directory to the corrected one. What
    was trained or played in a directory that does not say by which run is cleared.

    Args:
        folder: The run directory.
        identity: ``config_hash`` and ``models`` of the run that is about to begin.

    Raises:
        ValueError: If the directory belongs to a run of another configuration.
    """
    began = read_json(folder / STARTED)
    if began is not None and began.get("config_hash") != identity["config_hash"] and _failed_at_once(folder):
        clear(folder)
        began = None
    if began is not None and began.get("config_hash") != identity["config_hash"]:
        raise ValueError(
            f"{folder} holds a run of another configuration (hash {began.get('config_hash')}, now "
            f"{identity['config_hash']}); set experiment_name or agent.name to keep both, or delete it"
        )
    of_nobody = began is None and any((folder / name).exists() for name in (CHECKPOINT, PARTS))
    if of_nobody or (began is not None and began.get("models") != identity["models"]):
        clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STARTED, identity)


def _failed_at_once(folder: pathlib.Path) -> bool:
    """Whether a run failed and made nothing; one that still runs, or was killed, has no failure in its directory."""
    made = any((folder / name).exists() for name in (CHECKPOINT, PARTS, SCORES, METADATA))
    has_metrics = (folder / METRICS).exists() and (folder / METRICS).stat().st_size > 0
    return (folder / FAILURE).exists() and not made and not has_metrics


def clear(folder: pathlib.Path) -> None:
    """Remove a run's own files, and nothing else, from its directory.

    Whenever it is killed, what is left is no finished run, and says whose it is until all of it is gone.
    """
    (folder / METADATA).unlink(missing_ok=True)
    for name in (CHECKPOINT, PARTS):
        if (folder / name).exists():
            # Half a checkpoint must not lie under its name: the run of before might come back and go on from it.
            (folder / name).rename(folder / f".{name}.{uuid.uuid4().hex}")
        for left in folder.glob(f".{name}.*"):
            shutil.rmtree(left)
    for name in OWN_FILES:
        if name != STARTED:
            (folder / name).unlink(missing_ok=True)
    (folder / STARTED).unlink(missing_ok=True)


def saved_config(folder: pathlib.Path) -> dict[str, Any]:
    """Read the resolved configuration that a run directory holds."""
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True))


def config_of_trained(folder: pathlib.Path, what: str) -> dict[str, Any]:
    """Read the configuration of a run that trained an agent.

    Args:
        folder: A run directory.
        what: What names it, to begin the message with.

    Raises:
        ValueError: If the folder holds no finished training.
    """
    if not (folder / CONFIG).exists() or not (folder / CHECKPOINT).is_dir():
        raise ValueError(
            f"{what} must be a run directory with {CONFIG} and {CHECKPOINT}/; "
            "an agent that learns nothing has none: use agent=... instead"
        )
    return saved_config(folder)


def find_runs(root: pathlib.Path) -> tuple[list[Run], list[dict[str, Any]], list[pathlib.Path]]:
    """Read every run under a folder.

    Returns:
        Finished runs; what the failed ones said (``folder`` and ``error``); folders of runs that neither
        finished nor failed (killed, or still running).

    Raises:
        ValueError: If the folder does not exist, a finished run's scores are broken, or a run lies there twice.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; pass the folder that benchmarks.run wrote to (runs=...)")
    finished: list[Run] = []
    failed: list[dict[str, Any]] = []
    open_runs: list[pathlib.Path] = []
    for started in sorted(root.rglob(STARTED)):
        folder = started.parent
        metadata, failure = read_json(folder / METADATA), read_json(folder / FAILURE)
        if metadata is not None:
            for key, scores in read_scores(folder / SCORES):
                finished.append(Run(key, folder, metadata, scores))
        elif failure is not None:
            failed.append({"folder": str(folder), **failure})
        else:
            open_runs.append(folder)
    refuse_twice(finished)
    return finished, failed, open_runs


def refuse_twice(finished: Iterable[Run]) -> None:
    """Check that no run is there twice: a copy would count as one more training seed.

    Raises:
        ValueError: If two have the same key, whatever their configuration.
    """
    seen: dict[RunKey, pathlib.Path] = {}
    for run in finished:
        key = replace(run.key, config_hash="")
        if key in seen:
            raise ValueError(
                f"{seen[key]} and {run.folder} are both {key.agent}, {key.reward}, {key.data}, {key.world}, "
                f"{key.images}, seed {key.seed} of {key.experiment}; move the copy elsewhere or delete it, or set "
                "experiment_name or agent.name to keep both"
            )
        seen[key] = run.folder


def joined_scores(root: pathlib.Path) -> str:
    """Join the ``scores.csv`` of all finished runs under a folder into one, with one header."""
    finished = [s.parent for s in sorted(root.rglob(STARTED)) if (s.parent / METADATA).exists()]
    paths = [folder / SCORES for folder in finished if (folder / SCORES).exists()]
    return joined(path.read_text(encoding="utf-8") for path in paths)


def joined(texts: Iterable[str]) -> str:
    """Join contents of ``scores.csv`` into one, with one header; a column that some lack is blank in their rows."""
    lines = [text.splitlines() for text in texts]
    headers = list(dict.fromkeys(own[0] for own in lines if own))
    if len(headers) <= 1:
        return "\n".join([*headers, *(line for own in lines for line in own[1:])]) + "\n"
    columns: list[str] = []
    for header in headers:
        place = 0
        for name in next(csv.reader([header])):
            if name not in columns:
                columns.insert(place, name)
            place = columns.index(name) + 1
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for own in lines:
        writer.writerows(csv.DictReader(own))
    return buffer.getvalue()


def _as_name(part: str) -> str:
    if not part or "/" in part or part.startswith("."):
        raise ValueError(f"a name of a run may not be empty, start with a dot or hold a slash, got {part!r}")
    return part
