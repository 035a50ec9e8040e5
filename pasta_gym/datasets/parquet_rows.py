"""Parquet files as streams of rows. Whatever a broken file makes the reader say becomes a ``DatasetError``."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from pasta_gym.datasets.archive import BROKEN_FILE
from pasta_gym.datasets.records import DatasetError
from pasta_gym.datasets.rows import Row, require_columns

Source: TypeAlias = pathlib.Path | BinaryIO

_BROKEN = (*BROKEN_FILE, TypeError, KeyError, OverflowError, MemoryError, pa.ArrowException)
# Arrow's defaults read ahead: first all row groups, and without a buffer a row group's whole column, which may be
# hundreds of megabytes of pixels.
_STREAMING = {"pre_buffer": False, "buffer_size": 1 << 20}


@contextmanager
def reading_parquet(name: str) -> Iterator[None]:
    """Turn whatever Arrow says about a broken file inside the block into an error that names the file.

    Raises:
        DatasetError: In place of Arrow's own.
    """
    try:
        yield
    except DatasetError:
        raise
    except _BROKEN as error:
        reason = str(error).strip().splitlines()
        raise DatasetError(
            f"cannot be read as Parquet ({reason[0] if reason else type(error).__name__}); "
            "it may be cut short: compare its size with the publisher's and fetch it again",
            file=name,
        ) from error


@contextmanager
def open_parquet(source: Source, name: str | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file and close it after the block.

    Args:
        source: A path or an open binary file, which stays open.
        name: What messages call it; the path if left out.

    Raises:
        DatasetError: If the file is missing or broken, also inside the block.
    """
    called = name or str(source)
    with reading_parquet(called), pq.ParquetFile(source, **_STREAMING) as file:
        yield file


def column_names(source: Source, name: str | None = None) -> list[str]:
    """Return the columns of a Parquet file.

    Raises:
        DatasetError: If the file is missing or broken.
    """
    with open_parquet(source, name) as file:
        return list(file.schema_arrow.names)


def parquet_rows(
    source: Source, columns: Sequence[str], *, name: str | None = None, batch_rows: int = 4096
) -> Iterator[Row]:
    """Stream the rows of a Parquet file, a batch in memory at a time, only the columns asked for.

    Args:
        source: A path or an open binary file.
        columns: Columns to read; all must be there.
        name: What messages call the file; the path if left out.
        batch_rows: Rows in memory at once.

    Raises:
        DatasetError: If the file is missing, broken or lacks a column.
    """
    called = name or str(source)
    start = 0
    with open_parquet(source, called) as file:
        require_columns(columns, file.schema_arrow.names, called)
        for batch in file.iter_batches(batch_size=batch_rows, columns=list(columns), use_threads=False):
            values: list[dict[str, Any]] = batch.to_pylist()
            for offset, row in enumerate(values):
                yield Row(called, start + offset, row)
            start += len(values)
