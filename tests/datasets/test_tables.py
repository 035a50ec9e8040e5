"""Text tables are refused by row, and their cells are read as what they are asked for."""

import csv
import threading

import pytest

from pasta_gym.datasets import DatasetError, tables
from pasta_gym.datasets.archive import Archive
from pasta_gym.datasets.tables import CellRow, open_table


def rows(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    return [row.values for row in open_table(Archive(tmp_path), "a.csv", "csv").rows()]


def test_cells_quotes_tabs_and_empty_ones(tmp_path):
    assert rows(tmp_path, 'a,b\n1,"x, ""y""\nz"\n\n,2\n') == [{"a": "1", "b": 'x, "y"\nz'}, {"a": None, "b": "2"}]
    assert rows(tmp_path, "a\tb\tc,d\n1\t2\t3\n") == [{"a": "1", "b": "2", "c,d": "3"}]
    assert rows(tmp_path, "a,b\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"a\.csv, row 1: expected 2 cells, got 1"),
        ("a,b\n1,2,3\n", r"a\.csv, row 0: expected 2 cells, got 3"),
        ("a,a\n1,2\n", "two columns of one name in a, a"),
        ('a,b\n1,"2\n', r"row 0: cannot be read as CSV \(unexpected end of data\)"),
    ],
)
def test_broken_tables(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        rows(tmp_path, text)


def test_cells_may_hold_a_slate_of_pictures_and_other_readers_keep_their_limit(tmp_path, monkeypatch):
    before = csv.field_size_limit()
    cell = "/9j/" + "A" * 300_000
    assert rows(tmp_path, f"a,b\n1,{cell}\n2,{cell}\n") == [{"a": "1", "b": cell}, {"a": "2", "b": cell}]
    stream = open_table(Archive(tmp_path), "a.csv", "csv").rows()
    next(stream)
    assert csv.field_size_limit() == before  # between two rows as well
    with pytest.raises(csv.Error, match="field larger than field limit"):
        list(csv.reader([cell]))
    assert next(stream).values["b"] == cell
    monkeypatch.setattr(tables, "LARGEST_ENTRY", 200_000)
    with pytest.raises(DatasetError, match=r"row 0: cannot be read as CSV \(field larger than field limit \(200000\)"):
        rows(tmp_path, f"a,b\n1,{cell}\n")
    assert csv.field_size_limit() == before


def test_tables_are_read_side_by_side(tmp_path):
    cell = "A" * 200_000
    (tmp_path / "a.csv").write_text("a,b\n" + f"1,{cell}\n" * 30)
    table, read, before = open_table(Archive(tmp_path), "a.csv", "csv"), [], csv.field_size_limit()
    threads = [threading.Thread(target=lambda: read.append(len(list(table.rows())))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [30] * 4
    assert csv.field_size_limit() == before


def test_cells_are_read_as_what_they_are_asked_for():
    row = CellRow("a.csv", 0, {"i": "3", "f": "2.5", "b": "TRUE", "l": "[1, 2]", "t": "4", "x": "oops"})
    assert (row.integer("i"), row.number_in("f", 0, 9), row.boolean("b"), row.integers("l")) == (3, 2.5, True, [1, 2])
    assert row.text("t") == "4"
    for read in (row.integer, row.boolean, row.items, lambda column: row.number_in(column, 0, 9)):
        with pytest.raises(DatasetError, match=r"a\.csv, row 0, column x: expected .*, got 'oops'"):
            read("x")
