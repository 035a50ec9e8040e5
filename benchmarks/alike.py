"""Whether runs that stand in one row of a table were made alike, and met the same people in the same conversations."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmarks import checkpoints, runs
from pasta_gym.files import digest

SETTINGS_HASH = "settings_hash"
_OF_ONE_RUN = ("seed", "checkpoint", checkpoints.MOVED, "runs", "shards", "tracking", "hydra")
_OF_ONE_DRAW = {
    # The conversations of an evaluation are numbered: of two numbers of them, the shared ones count.
    "evaluation": ("batch_size", "n_episodes"),
    "data": ("shard_size", "seed"),
}


def settings_hash(resolved: Mapping[str, Any]) -> str:
    """Hash what the runs of one row have in common: their configuration less seeds of training and data, and places.

    Unlike ``settings.config_hash`` it is read from a saved configuration alone, on any machine: a folder counts as a
    folder, wherever it lies and whatever it holds.
    """
    content = {name: value for name, value in resolved.items() if name not in _OF_ONE_RUN}
    for name, left_out in _OF_ONE_DRAW.items():
        content[name] = _without(content.get(name), left_out)
    return digest(_without_places(content))


def settings_of(run: runs.Run) -> str | None:
    """Read the settings' hash of a finished run or of one in a shard; None where nobody wrote it down."""
    if not run.folder.is_dir():
        return run.metadata.get(SETTINGS_HASH)
    try:
        return settings_hash(runs.saved_config(run.folder))
    except (OSError, YAMLError, OmegaConfBaseException):
        return None


def made_otherwise(seeds: Mapping[int, str | None]) -> tuple[list[int], list[int]] | None:
    """Tell apart the training seeds of one row by the hashes of their settings.

    Returns:
        The largest group of seeds that were made alike, and the seeds of all other groups; None if there is but one.
        Seeds of unknown settings are in no group.
    """
    by_hash: dict[str, list[int]] = {}
    for seed, found in sorted(seeds.items()):
        if found is not None:
            by_hash.setdefault(found, []).append(seed)
    if len(by_hash) <= 1:
        return None
    most = max(by_hash.values(), key=len)
    return most, sorted(seed for own in by_hash.values() for seed in own if own is not most)


def unlike_rows(finished: Iterable[runs.Run]) -> list[str]:
    """Describe each row of a table whose training seeds were made with different settings."""
    rows: dict[runs.RunKey, list[runs.Run]] = {}
    for run in finished:
        rows.setdefault(replace(run.key, config_hash="", seed=0), []).append(run)
    found = []
    for key, own in sorted(rows.items(), key=lambda row: str(row[0])):
        # A row of one seed has nothing to differ from, and its configuration need not be read.
        parts = made_otherwise({run.key.seed: settings_of(run) for run in own}) if len(own) > 1 else None
        if parts is not None:
            folders = {run.key.seed: run.folder for run in own}
            found.append(
                f"{key.agent}, {key.reward}, {key.images}: {seeds_text(parts[1])} ({folders[parts[1][0]]}) otherwise "
                f"than {seeds_text(parts[0])} ({folders[parts[0][0]]})"
            )
    return found


def seeds_text(seeds: Iterable[int]) -> str:
    """Write seeds for a message: ``"seed 3"``, ``"seeds 0, 1"``."""
    listed = [str(seed) for seed in seeds]
    return f"seed{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


def check_conversations(finished: Iterable[runs.Run]) -> None:
    """Check that a conversation's number means the same prompt and user in all runs, as their scores are to be paired.

    Raises:
        ValueError: If it means another in one of them.
    """
    first: dict[int, tuple[str, int, runs.Run]] = {}
    for run in finished:
        scores = run.scores
        for number, prompt, user in zip(
            scores.episodes.tolist(), scores.prompts, scores.user_types.tolist(), strict=True
        ):
            before = first.setdefault(number, (prompt, user, run))
            if before[:2] != (prompt, user):
                raise ValueError(
                    f"conversation {number} of {_named(run)} is {prompt!r} with a user of type {user}, that of "
                    f"{_named(before[2])} is {before[0]!r} with type {before[1]}; their evaluation.seed differs, "
                    "or the users' weights: evaluate them with the same ones, or delete one of them"
                )


def _named(run: runs.Run) -> str:
    return f"{run.folder} ({run.key.agent}, {run.key.images}, seed {run.key.seed})"


def _without(value: Any, left_out: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {name: _without(inner, left_out) for name, inner in value.items() if name not in left_out}
    return value


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without_places(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(inner) for inner in value]
    if isinstance(value, str) and pathlib.Path(value).is_absolute():
        return "a place"
    return value
