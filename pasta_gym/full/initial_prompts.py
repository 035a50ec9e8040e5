"""Initial prompts of full-size worlds: from a file, at most ten words each (appendix C.1), split by the prompt.

Take them from a preference dataset, whose options are given as KEY=VALUE, with
``python -m pasta_gym.full.initial_prompts --kind hpdv2 folder=FOLDER split=test --out prompts.txt``.
No picture is decoded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pasta_gym.candidates.llm_words import count_words
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.datasets.records import Comparison, Rating, Session
from pasta_gym.datasets.splits import normalised_prompt, split_of_prompt
from pasta_gym.files import write_text

MAX_WORDS = 10
"""Longest initial prompt; candidates have room to grow from there."""
SPLITS = ("train", "validation", "test")
_COLUMNS = ("prompt", "text", "caption")
_MAX_CHARACTERS = 300  # ten words of any script; a line of megabytes is no prompt


def read_initial_prompts(path: str | os.PathLike[str], *, column: str | None = None) -> list[str]:
    """Read initial prompts.

    Args:
        path: ``.txt`` with one prompt a line (empty lines and lines that begin with ``#`` are left out), ``.jsonl``
            with an object or a string a line, or ``.parquet``.
        column: Name of the field or column; by default the first of prompt, text and caption that is there.

    Returns:
        Distinct prompts in the file's order; case and white space make no difference.

    Raises:
        ValueError: If the file is missing, of another kind or holds no prompt, or a prompt has more than ten words;
            the message has the line's number.
    """
    file = pathlib.Path(path)
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".parquet": _parquet_rows}
    if file.suffix not in readers:
        raise ValueError(f"initial prompts are read from {', '.join(readers)}, got {file}")
    if not file.is_file():
        raise ValueError(f"there are no initial prompts in {file}: no such file")
    distinct: dict[str, str] = {}
    for line, given in readers[file.suffix](file, column):
        prompt = " ".join(given.split())
        n_words = count_words(prompt) if len(prompt) <= _MAX_CHARACTERS else len(prompt)
        if not 1 <= n_words <= MAX_WORDS:
            raise ValueError(
                f"line {line} of {file} has {n_words} words, an initial prompt has 1 to {MAX_WORDS}: {prompt[:80]!r}; "
                "shorten or remove it"
            )
        distinct.setdefault(normalised_prompt(prompt), prompt)
    if not distinct:
        raise ValueError(f"{file} holds no prompt; write one a line")
    return list(distinct.values())


def split_initial_prompts(prompts: Iterable[str], *, seed: int = 0) -> dict[str, list[str]]:
    """Split prompts by a hash of each: 80% train, 10% validation, 10% test.

    Which split a prompt is in depends on no other prompt, so a list may grow. A split may be empty if there are few.

    Args:
        prompts: Distinct prompts.
        seed: Another seed gives an independent assignment.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for prompt in prompts:
        splits[split_of_prompt(prompt, seed=seed)].append(prompt)
    return splits


def short_prompts(prompts: Iterable[str]) -> Iterator[str]:
    """Pass on the distinct prompts of at most ten words."""
    seen: set[str] = set()
    for given in prompts:
        prompt = " ".join(given.split())
        same = normalised_prompt(prompt)
        if same in seen or len(prompt) > _MAX_CHARACTERS or not 1 <= count_words(prompt) <= MAX_WORDS:
            continue
        if prompt.startswith("#"):  # would be a comment
            continue
        seen.add(same)
        yield prompt


def _text_lines(path: pathlib.Path, column: str | None) -> Iterator[tuple[int, str]]:
    for line, text in enumerate(_lines(path), start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text


def _json_lines(path: pathlib.Path, column: str | None) -> Iterator[tuple[int, str]]:
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {line} of {path} is no JSON ({error})") from error
        prompt = row.get(_column(list(row), column, path)) if isinstance(row, dict) else row
        if not isinstance(prompt, str):
            raise ValueError(f"line {line} of {path} has no prompt: {text[:80]!r}")
        yield line, prompt


def _parquet_rows(path: pathlib.Path, column: str | None) -> Iterator[tuple[int, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        values = pyarrow.parquet.read_table(path, columns=[_column(names, column, path)]).column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {path} ({error})") from error
    for line, prompt in enumerate(values, start=1):
        if not isinstance(prompt, str):
            raise ValueError(f"line {line} of {path} has no prompt: {prompt!r}")
        yield line, prompt


def _column(names: list[str], wanted: str | None, path: pathlib.Path) -> str:
    found = next((name for name in ((wanted,) if wanted else _COLUMNS) if name in names), None)
    if found is None:
        raise ValueError(f"{path} has no column {wanted or ' or '.join(_COLUMNS)}; it has {names}")
    return found


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error})") from error


def read_options(kind: str, given: Sequence[str]) -> dict[str, Any]:
    """Read options of a dataset as a command line has them; pictures are not decoded unless ``verify_images`` says so.

    Args:
        kind: Kind of the dataset.
        given: ``KEY=VALUE`` each. A value in JSON, such as ``1``, ``true`` or ``{"rater_id": "worker"}``, is what it
            says; any other is text. A folder called 1 is ``./1``.

    Returns:
        Arguments of ``open_dataset``.

    Raises:
        ValueError: If one is no ``KEY=VALUE``, or comes twice.
    """
    from pasta_gym.datasets.registry import options_of

    options: dict[str, Any] = {}
    for option in given:
        key, sign, value = option.partition("=")
        if not sign or not key:
            raise ValueError(f"options are KEY=VALUE, such as {options_of(kind)[0]}=FOLDER; got {option!r}")
        if key in options:
            raise ValueError(f"the option {key} is given twice, as {options[key]!r} and {value!r}; leave one out")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    if "verify_images" in options_of(kind):
        options.setdefault("verify_images", False)
    return options


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Write the short prompts of a preference dataset to a file."""
    from pasta_gym.datasets import open_dataset

    parser = argparse.ArgumentParser(prog="python -m pasta_gym.full.initial_prompts", description=__doc__)
    parser.add_argument("--kind", required=True, help="kind of the dataset, such as pickapic")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="options of the dataset, such as folder=HPDv2")
    parser.add_argument("--path", help="the same as path=...")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .txt file")
    parser.add_argument("--limit", type=int, default=None, help="most prompts to take")
    given = parser.parse_intermixed_args(arguments)
    options = [*given.options, *([f"path={given.path}"] if given.path is not None else [])]
    dataset = open_dataset(given.kind, **read_options(given.kind, options))
    records: Iterator[Comparison | Rating | Session] = itertools.chain(
        dataset.comparisons(), dataset.ratings(), dataset.sessions()
    )
    prompts = list(itertools.islice(short_prompts(record.prompt for record in records), given.limit))
    write_text(given.out, "".join(f"{prompt}\n" for prompt in prompts))
    sys.stdout.write(f"{len(prompts)} prompts in {given.out}\n")


if __name__ == "__main__":
    main()
