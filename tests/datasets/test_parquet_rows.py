"""Rows of a Parquet file keep their numbers, whatever the batches."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.parquet_rows import column_names, parquet_rows
from tests.datasets.formats import write_table


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
def test_rows_are_numbered_through_the_file(tmp_path, batch_rows):
    path = write_table(tmp_path / "a.parquet", [{"a": i, "b": -i} for i in range(7)], row_group_size=3)
    rows = list(parquet_rows(path, ["b"], batch_rows=batch_rows))
    assert [row.number for row in rows] == list(range(7))
    assert [row.values for row in rows] == [{"b": -i} for i in range(7)]
    assert {row.file for row in rows} == {str(path)}


def test_missing_files_and_columns(tmp_path):
    path = write_table(tmp_path / "a.parquet", [{"a": 1, "b": 2}])
    assert column_names(path) == ["a", "b"]
    with pytest.raises(DatasetError, match=r"no column c, d; found a, b"):
        list(parquet_rows(path, ["a", "c", "d"]))
    with pytest.raises(DatasetError, match=r"none\.parquet: cannot be read as Parquet"):
        column_names(tmp_path / "none.parquet")


@pytest.mark.parametrize("error", [pa.ArrowNotImplementedError("odd"), pa.ArrowKeyError("odd"), MemoryError()])
def test_whatever_arrow_says_names_the_file(tmp_path, monkeypatch, error):
    path = write_table(tmp_path / "a.parquet", [{"a": 1}])
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(DatasetError, match=r"a\.parquet: cannot be read as Parquet"):
        list(parquet_rows(path, ["a"]))
