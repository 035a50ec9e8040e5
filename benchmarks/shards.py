"""Score shards: what a sweep's finished runs scored, packed into small files that are kept in the repository.

Run ``python -m benchmarks.shards runs/main_table`` after a sweep or in the middle of one; runs that are in the shards
already are left as they are. ``python -m benchmarks.report RUNS_DIR --shards FOLDER`` reads them beside runs, so that a
table can be made on several machines and days.

A shard ``FOLDER/EXPERIMENT/AGENT-REWARD-DATA-WORLD-IMAGES.csv.gz`` has the columns of ``scores.csv`` for all training
seeds, conversation by conversation; a JSON file beside it says of each seed what the scores were made with.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import logging
import pathlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from benchmarks import alike, runs
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import whole_file, write_json

logger = logging.getLogger(__name__)
FOLDER = pathlib.Path("benchmarks/results")
SUFFIX = ".csv.gz"
RECORDED = ("config_hash", "models", "privileged", "dataset_id", "git_revision", "wall_seconds")


def shard_path(folder: pathlib.Path, key: runs.RunKey) -> pathlib.Path:
    """Name the shard of a run: one for all training seeds."""
    return folder / key.experiment / ("-".join((key.agent, key.reward, key.data, key.world, key.images)) + SUFFIX)


def sidecar(shard: pathlib.Path) -> pathlib.Path:
    """Name the file that says what a shard was made with."""
    return shard.with_name(shard.name.removesuffix(SUFFIX) + ".json")


def collect(root: pathlib.Path, folder: pathlib.Path, *, overwrite: bool = False) -> list[pathlib.Path]:
    """Pack the finished runs under a folder into shards; what the shards hold already is not written again.

    Args:
        root: Folder of run directories.
        folder: Folder of shards.
        overwrite: Put a run in place of one of the same seed that was made with another configuration or other weights.

    Returns:
        The shards that changed.

    Raises:
        ValueError: If there is no finished run, a file is broken, a shard holds a seed made otherwise, or seeds of one
            shard were made with different settings.
    """
    finished, _, _ = runs.find_runs(root)
    if not finished:
        raise ValueError(f"{root} holds no finished run; run python -m benchmarks.run --multirun first")
    by_shard: dict[pathlib.Path, list[runs.Run]] = defaultdict(list)
    for run in finished:
        by_shard[shard_path(folder, run.key)].append(run)
    return [path for path, own in sorted(by_shard.items()) if _add(path, own, overwrite=overwrite)]


def _add(path: pathlib.Path, finished: list[runs.Run], *, overwrite: bool) -> bool:
    records: dict[str, dict[str, Any]] = runs.read_json(sidecar(path)) or {}
    new = {}
    settings = {int(name): record.get(alike.SETTINGS_HASH) for name, record in records.items()}
    for run in finished:
        name, identity = str(run.key.seed), {n: run.metadata.get(n) for n in ("config_hash", "models")}
        held = records.get(name)
        settings[run.key.seed] = alike.settings_of(run)
        if held is not None and all(held.get(n) == value for n, value in identity.items()):
            continue
        if held is not None and not overwrite:
            raise ValueError(
                f"{path} holds seed {name} made with {held.get('config_hash')} on weights {held.get('models')}, now "
                f"{identity['config_hash']} on {identity['models']}; pass --overwrite to replace those scores"
            )
        new[name] = run
    if not new:
        return False
    _check_alike(path, finished, settings)
    header, rows = _read_rows(path) if records else (None, {})
    rows = {name: lines for name, lines in rows.items() if name in records and name not in new}
    for name, run in new.items():
        own_header, own = _split((run.folder / runs.SCORES).read_text(encoding="utf-8").splitlines())
        if header not in (None, own_header):
            raise ValueError(
                f"{run.folder} has other columns than {path}: {own_header}; delete the shard and collect again"
            )
        header, rows[name] = own_header, own[name]
        records[name] = {n: run.metadata.get(n) for n in RECORDED} | {alike.SETTINGS_HASH: settings[run.key.seed]}
    # Conversation by conversation: what seeds share, such as the prompt, then stands together and packs well.
    ordered = sorted((episode, int(name), line) for name, lines in rows.items() for episode, line in lines)
    text = "\n".join([str(header), *(line for _, _, line in ordered)]) + "\n"
    with whole_file(path) as partial:  # no time in it: equal content, equal bytes
        partial.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    write_json(sidecar(path), records)
    return True


def _check_alike(path: pathlib.Path, finished: list[runs.Run], settings: dict[int, str | None]) -> None:
    parts = alike.made_otherwise(settings)
    if parts is None:
        return
    places = {run.key.seed: run.folder for run in finished}
    most, others = (f"{alike.seeds_text(own)} ({places.get(own[0], path)})" for own in parts)
    raise ValueError(
        f"{path} is to hold one agent, but {most} and {others} were made with different settings (see their "
        "config.yaml); run some again with another agent.name, or delete run directories or shard of the old ones"
    )


Rows = dict[str, list[tuple[int, str]]]
"""For each training seed, the number of each episode and its line."""


def _split(lines: list[str]) -> tuple[str, Rows]:
    fields = next(csv.reader(lines[:1]))
    seed, episode = fields.index("seed"), fields.index("episode")
    rows: Rows = defaultdict(list)
    for line, values in zip(lines[1:], csv.reader(lines[1:]), strict=True):
        rows[values[seed]].append((int(values[episode]), line))
    return lines[0], dict(rows)


def _read_rows(path: pathlib.Path) -> tuple[str, Rows]:
    try:
        return _split(gzip.decompress(path.read_bytes()).decode().splitlines())
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is broken ({error!r}); delete it and its .json, and collect again") from error


def shards_under(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Find the shards under a folder.

    Raises:
        ValueError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; pass the folder that benchmarks.shards wrote to")
    return iter(sorted(folder.rglob(f"*{SUFFIX}")))


def read(folder: pathlib.Path) -> list[runs.Run]:
    """Read all runs in the shards under a folder.

    Raises:
        ValueError: If the folder does not exist, a shard is broken, or a run is in two of them.
    """
    found = []
    for path in shards_under(folder):
        records = runs.read_json(sidecar(path)) or {}
        for key, scores in runs.read_scores(path):
            if str(key.seed) in records:
                found.append(runs.Run(key, path, records[str(key.seed)], scores))
    runs.refuse_twice(found)
    return found


def finished_in(folder: pathlib.Path) -> set[tuple[Any, ...]]:
    """List configuration hash, weights and seed of all runs in the shards under a folder.

    Raises:
        ValueError: If the folder does not exist.
    """
    found: set[tuple[Any, ...]] = set()
    for path in shards_under(folder):
        records = runs.read_json(sidecar(path)) or {}
        found |= {(r["config_hash"], r["models"], int(seed)) for seed, r in records.items()}
    return found


def beside(finished: Iterable[runs.Run], folder: pathlib.Path) -> list[runs.Run]:
    """Return the runs in shards that are not among the finished runs of this machine."""
    have = {replace(run.key, config_hash="") for run in finished}
    return [run for run in read(folder) if replace(run.key, config_hash="") not in have]


Found = tuple[list[runs.Run], list[dict[str, Any]], list[pathlib.Path]]
"""Finished runs, what failed ones said, and folders of runs that neither finished nor failed."""


def find_all(root: pathlib.Path, folder: pathlib.Path | None) -> Found:
    """Find runs as ``runs.find_runs`` does, and among the finished ones those that only shards under a folder hold.

    With shards there need be no folder of runs; as its name may also be misspelt, the log says so.

    Raises:
        ValueError: If a folder does not exist, or holds something broken.
    """
    if folder is not None and not root.exists():
        of_shards = read(folder)
        logger.warning("%s does not exist, so all runs are those in the shards under %s", root, folder)
        return sorted(of_shards, key=_row), [], []
    finished, failed, open_runs = runs.find_runs(root)
    finished += beside(finished, folder) if folder is not None else []
    # Resamples follow the order of rows: a table must not depend on which of them are here and which in shards.
    return sorted(finished, key=_row), failed, open_runs


def _row(run: runs.Run) -> tuple[str | int, ...]:
    key = run.key
    return key.experiment, key.agent, key.reward, key.data, key.world, key.images, key.seed


def joined_scores(root: pathlib.Path, folder: pathlib.Path | None) -> str:
    """Join the scores of all finished runs under a folder, and of those that only shards hold, under one header."""
    texts = [runs.joined_scores(root)]
    wanted: dict[pathlib.Path, list[str]] = defaultdict(list)
    for run in beside(runs.find_runs(root)[0], folder) if folder is not None else ():
        wanted[run.folder].append(str(run.key.seed))
    for path, seeds in wanted.items():
        header, rows = _read_rows(path)
        texts.append("\n".join([header, *(line for seed in seeds for _, line in rows[seed])]) + "\n")
    return runs.joined(text for text in texts if text.strip())


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Pack runs into shards and name those that changed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("runs", type=pathlib.Path, help="folder that benchmarks.run wrote to")
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER, help="folder of shards, one folder an experiment")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace seeds made with another configuration or weights"
    )
    given = parser.parse_args(arguments)
    changed = collect(given.runs, given.out, overwrite=given.overwrite)
    for path in changed:
        sys.stdout.write(f"wrote {path}, {path.stat().st_size / 1000:.0f} kB\n")
    if not changed:
        sys.stdout.write(f"{given.out} holds all of {given.runs} already\n")


if __name__ == "__main__":
    main()
