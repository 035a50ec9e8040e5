"""What is inside an archive whose layout nobody published: kinds of members by their first bytes, schemas of tables.

``python -m pasta_gym.datasets.pasta_probe PATH --out schema.json`` prints and keeps it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.datasets.archive import Archive
from pasta_gym.datasets.json_rows import LARGEST_ENTRY
from pasta_gym.datasets.records import DatasetError
from pasta_gym.datasets.rows import shown
from pasta_gym.datasets.tables import FORMATS, Table, open_table
from pasta_gym.files import write_text

IMAGES: tuple[str, ...] = ("jpeg", "png", "webp")

_HEAD_BYTES = 4096
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"\x89HDF", "hdf5"),
    (b"\x93NUMPY", "npy"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG", "png"),
    (b"SQLite format 3\0", "sqlite"),
    (b"ARROW1", "arrow"),
    (b"\x80", "pickle"),
)
_TABLE_SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_IMAGES_LOOKED_AT = 100
ONE_OBJECT = "one JSON object, not rows"
PLAIN_VALUES = "a list of plain values, not rows"
_UNREADABLE = "not read by this loader; convert it to Parquet, CSV or JSON, or unpack it first"


@dataclass(frozen=True)
class Probe:
    """What is in an archive.

    Attributes:
        archive: The archive.
        kinds: Kind of each member by name: a format of ``pasta_gym.datasets.tables``, one of ``IMAGES``, another
            known format, ``"text"``, ``"empty"`` or ``"unknown"``. Members whose names end like an image's are all
            taken for images once the first hundred are.
        tables: Tables that can be opened.
        problems: Why other tables cannot, by name. Files that are called tables and are empty are among them, and JSON
            files that hold one object and no rows.
    """

    archive: Archive
    kinds: dict[str, str]
    tables: tuple[Table, ...]
    problems: dict[str, str]

    def schema(self) -> dict[str, Any]:
        """Return everything as plain data: counts of kinds, each table's columns and first row, other members."""
        sizes = self.archive.sizes()
        others = [name for name, kind in self.kinds.items() if kind not in (*FORMATS, *IMAGES)]
        return {
            "path": self.archive.path.name,
            "bytes": sum(sizes.values()),
            "members": dict(sorted(Counter(self.kinds.values()).items())),
            "tables": {table.member: _table_schema(table) for table in self.tables},
            "problems": self.problems,
            "first_images": [name for name, kind in self.kinds.items() if kind in IMAGES][:20],
            "others": {name: f"{self.kinds[name]}, {sizes[name]} bytes" for name in others[:200]},
        }

    def __str__(self) -> str:
        lines = [f"{count} members are {kind}" for kind, count in sorted(Counter(self.kinds.values()).items())]
        lines += [f"{table.member} ({table.kind}): {', '.join(table.columns)}" for table in self.tables]
        lines += [f"{member}: {problem}" for member, problem in self.problems.items()]
        return "\n".join(lines) or "nothing there"


def called_table(member: str) -> bool:
    """Whether a member's name says that it is a table. Hidden files, which some systems put beside each, are not."""
    parts = member.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and pathlib.PurePosixPath(member).suffix.lower() in _TABLE_SUFFIXES


def probe(path: str | pathlib.Path) -> Probe:
    """Look at every member of a folder, a zip file or a single file.

    Raises:
        DatasetError: If there is nothing at the path or the zip file is broken.
    """
    archive = Archive(path)
    kinds = _kinds(archive)
    tables, problems = [], {}
    for member, kind in kinds.items():
        if kind in FORMATS:
            try:
                tables.append(open_table(archive, member, kind))
            except DatasetError as error:
                problems[member] = _what_else(archive, member) or error.problem
        elif kind in ("hdf5", "npy", "gzip", "zip", "sqlite", "arrow", "pickle", "tar", "tfrecord"):
            problems[member] = f"{kind}: {_UNREADABLE}"
        elif called_table(member):
            problems[member] = _why_no_table(archive, member, kind)
    return Probe(archive, kinds, tuple(tables), problems)


def _why_no_table(archive: Archive, member: str, kind: str) -> str:
    if kind == "empty":
        return "the file is empty; fetch it again"
    if kind == "text" and _is_one_column(archive.head(member, _HEAD_BYTES)):
        return PLAIN_VALUES
    expected = _TABLE_SUFFIXES[pathlib.PurePosixPath(member).suffix.lower()]
    return f"begins like no {expected} file, but like {'text' if kind == 'text' else 'nothing known'}; fetch it again"


def _what_else(archive: Archive, member: str) -> str:
    """What a whole JSON file is that holds no rows: a description of other files, or a list of names; else ``""``."""
    if not member.lower().endswith(".json") or archive.sizes()[member] > LARGEST_ENTRY:
        return ""
    try:
        value = json.loads(archive.read(member))
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, dict):
        return ONE_OBJECT
    plain = isinstance(value, list) and value and not any(isinstance(entry, dict | list) for entry in value)
    return PLAIN_VALUES if plain else ""


def write_schema(found: Probe, path: str | pathlib.Path) -> None:
    """Write ``found.schema()`` as JSON; the file is whole or not there."""
    write_text(pathlib.Path(path), json.dumps(found.schema(), indent=2) + "\n")


def sniff(head: bytes, size: int) -> str:
    """Tell the kind of a file.

    Args:
        head: Its first bytes, 512 at least where there are as many.
        size: Its size in bytes.
    """
    if not head:
        return "empty"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[257:262] == b"ustar":
        return "tar"
    # A record is its length in 8 bytes, a checksum of 4, the data, and another checksum.
    length = int.from_bytes(head[:8], "little")
    if len(head) > 12 and 0 < length <= size - 16:
        return "tfrecord"
    return _text_kind(head)


def _is_one_column(head: bytes) -> bool:
    """Whether text is a heading with lines under it, none of which could be told apart into columns."""
    text = head.decode("utf-8-sig", errors="ignore").strip()
    return "\n" in text and not any(sign in text for sign in ",;|\t")


def _text_kind(head: bytes) -> str:
    try:
        # The head may end inside a character.
        text = head.decode("utf-8-sig") if len(head) < _HEAD_BYTES else head.decode("utf-8-sig", errors="ignore")
    except UnicodeDecodeError:
        return "unknown"
    if "\0" in text:
        return "unknown"
    start = text.lstrip()
    if start.startswith("["):
        return "json"
    if start.startswith("{"):
        return "jsonl"
    first, *_ = text.splitlines() or [""]
    return "csv" if "," in first or "\t" in first else "text"


def _kinds(archive: Archive) -> dict[str, str]:
    kinds: dict[str, str] = {}
    looked_at = 0
    for member, size in archive.sizes().items():
        if member.lower().endswith(_IMAGE_SUFFIXES):
            looked_at += 1
            if looked_at > _IMAGES_LOOKED_AT:
                # Opening half a million pictures takes hours on a network disk; bad ones are found when read.
                kinds[member] = "jpeg" if member.lower().endswith(("jpg", "jpeg")) else member.lower()[-4:].lstrip(".")
                continue
        try:
            kinds[member] = sniff(archive.head(member, _HEAD_BYTES), size)
        except DatasetError:
            kinds[member] = "unknown"
    return kinds


def _table_schema(table: Table) -> dict[str, Any]:
    try:
        first = next(iter(table.rows()), None)
    except DatasetError as error:
        return {"kind": table.kind, "columns": list(table.columns), "problem": error.problem}
    values = {} if first is None else {column: shown(first.values.get(column)) for column in table.columns}
    types = {} if first is None else {column: type(first.values.get(column)).__name__ for column in table.columns}
    return {"kind": table.kind, "columns": list(table.columns), "types": types, "first_row": values}


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line: print what is in an archive, and write ``schema.json``."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.datasets.pasta_probe", description=__doc__)
    parser.add_argument("path", type=pathlib.Path, help="folder, zip file or single file")
    parser.add_argument("--out", type=pathlib.Path, help="where to write the schema as JSON")
    options = parser.parse_args(arguments)
    found = probe(options.path)
    print(found)  # noqa: T201
    if options.out:
        write_schema(found, options.out)


if __name__ == "__main__":
    main()
