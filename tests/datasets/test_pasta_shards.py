"""A shard beside good ones is read or refused: what may be lost is never passed over in silence."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.pasta_probe import PLAIN_VALUES
from pasta_gym.datasets.pasta_sessions import PastaSessions
from tests.datasets.pasta_files import CHOICES, rows_of, write_rows, zipped
from tests.datasets.test_bad_inputs import damage, damaged_table

N_SHARDS = 3
some = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def shard(number, layout="turns", storage="bytes"):
    return [row | {"session_id": f"{row['session_id']}-{number}"} for row in rows_of(layout, storage)]


def write_shards(root, kind="parquet", layout="turns"):
    """Three shards, with sessions of their own; the paths."""
    storage = "path" if kind == "csv" else "bytes" if kind == "parquet" else "base64"
    return [write_rows(root / f"part-{i}.{kind}", shard(i, layout, storage), kind) for i in range(N_SHARDS)]


def read_or_refused(root, **options):
    """How many sessions were read, None if a shard was refused; to pass one over is neither."""
    try:
        dataset = PastaSessions(root, verify_images=False, **options)
        sessions = list(dataset.sessions())
    except DatasetError:
        return None
    passed_over = [name for name in dataset.report.decisions if name.startswith("not read: part-")]
    assert passed_over == []
    return len(sessions)


@pytest.mark.parametrize("tables", [("*",), ("part-*",)])
@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "jsonl"])
@pytest.mark.parametrize("archive", ["folder", "zip"])
def test_shards_are_read_together_and_an_empty_one_is_refused(tmp_path, kind, tables, archive):
    folder = tmp_path / "data"
    paths = write_shards(folder, kind)
    given = lambda: folder if archive == "folder" else zipped(folder, tmp_path / "data.zip")  # noqa: E731
    dataset = PastaSessions(given(), tables=tables, verify_images=False)
    assert len(list(dataset.sessions())) == N_SHARDS * len(CHOICES)
    for content in [b"", b"\n \n"] if kind == "csv" else [b"", b"[]"] if kind == "json" else [b""]:
        paths[1].write_bytes(content)
        with pytest.raises(DatasetError, match=rf"part-1\.{kind}: .*(empty|no rows|no csv file).* would be left out"):
            PastaSessions(given(), tables=tables)
    assert len(list(PastaSessions(given(), tables="part-[02]*", verify_images=False).sessions())) == 2 * len(CHOICES)


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
def test_a_truncated_shard_is_refused_by_name(tmp_path, keep):
    path = write_shards(tmp_path)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DatasetError, match=r"cut short.*left out, though it is called a table: mend it, or") as caught:
        PastaSessions(tmp_path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("content", [b"<html>busy, try again</html>", b"\x00\x01\x02", b"\x1f\x8b\x08 zipped"])
@pytest.mark.parametrize("name", ["part-9.parquet", "part-9.jsonl", "part-9.json"])
def test_what_is_called_a_table_and_is_none_is_refused(tmp_path, name, content):
    write_shards(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{name}: .*it is called a table"):
        PastaSessions(tmp_path)


@pytest.mark.parametrize(
    ("layout", "field"),
    [
        *(("turns", f) for f in ("session_id", "initial_prompt", "choice", "images", "turn")),
        *(("lists", f) for f in ("session_id", "initial_prompt", "choice", "images")),
        *(("nested", f) for f in ("session_id", "initial_prompt", "turns")),
    ],
)
def test_a_shard_that_misses_one_column_is_refused(tmp_path, layout, field):
    path = write_shards(tmp_path, layout=layout)[2]
    rows = [{(f"my {k}" if k == field else k): v for k, v in row.items()} for row in shard(2, layout)]
    write_rows(path, rows, "parquet")
    with pytest.raises(DatasetError, match=rf"{field}(.|\n)*would be left out, though it is much like part-0.parquet"):
        PastaSessions(tmp_path)


def test_tables_of_other_things_beside_shards_are_passed_over_and_listed(tmp_path):
    write_shards(tmp_path, layout="nested")
    (tmp_path / "prompts.csv").write_text("initial_prompt\na fox\na hare\n")
    (tmp_path / "categories.json").write_text('["animals", "landscapes"]')
    others = [{k: row[k] for k in ("session_id", "initial_prompt")} | {"category": "x"} for row in shard(2, "nested")]
    write_rows(tmp_path / "kinds.parquet", others, "parquet")
    dataset = PastaSessions(tmp_path, verify_images=False)
    assert len(list(dataset.sessions())) == N_SHARDS * len(CHOICES)
    listed = dataset.report.decisions
    assert listed["not read: prompts.csv"] == listed["not read: categories.json"] == PLAIN_VALUES
    assert "not read: kinds.parquet" in listed


def test_a_shard_whose_turns_miss_a_key_or_whose_column_is_not_certain_is_refused(tmp_path):
    path = write_shards(tmp_path, layout="nested")[2]
    rows = shard(2, "nested")
    for row in rows:
        row["turns"] = [{("best" if k == "choice" else k): v for k, v in turn.items()} for turn in row["turns"]]
    write_rows(path, rows, "parquet")
    with pytest.raises(DatasetError, match=r"no column known as choice.*much like part-0.parquet"):
        PastaSessions(tmp_path)
    write_rows(path, [row | {"user_id": 7} for row in shard(2, "nested")], "parquet")
    with pytest.raises(DatasetError, match=r"rater_id and user_id could both be rater_id.*much like part-0.parquet"):
        PastaSessions(tmp_path)


def test_other_tables_are_passed_over_and_listed(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "README.json").write_text(json.dumps({"licence": "CC BY 4.0", "files": ["part-0.parquet"]}, indent=2))
    (tmp_path / "card.json").write_text(json.dumps({"licence": "CC BY 4.0"}))
    write_rows(tmp_path / "users.csv", [{"user_id": 1, "age": 30}], "csv")
    (tmp_path / "README.md").write_text("Attribution, as the licence asks\n")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/._part-0.parquet").write_bytes(b"\x00\x05\x16\x07")
    dataset = PastaSessions(tmp_path, verify_images=False)
    assert len(list(dataset.sessions())) == N_SHARDS * len(CHOICES)
    listed = {name: said for name, said in dataset.report.decisions.items() if name.startswith("not read: ")}
    assert {"not read: README.json", "not read: card.json", "not read: users.csv"} <= set(listed)
    assert listed["not read: README.json"] == "one JSON object, not rows"


def test_a_table_that_tables_selects_must_hold_sessions(tmp_path):
    write_shards(tmp_path)
    write_rows(tmp_path / "users.csv", [{"user_id": 1, "age": 30}], "csv")
    with pytest.raises(DatasetError, match=r"users.csv: no column known as .*left out, though tables= selects it"):
        PastaSessions(tmp_path, tables=["part-*", "users.csv"])
    (tmp_path / "part-1.parquet").write_bytes(b"")
    # What is not selected may be broken.
    assert len(list(PastaSessions(tmp_path, tables="part-0*", verify_images=False).sessions())) == len(CHOICES)


def test_one_session_in_two_shards_is_refused(tmp_path):
    paths = write_shards(tmp_path)
    shutil.copy(paths[0], paths[2])
    with pytest.raises(DatasetError, match=r"session s0-0 is in .*part-0.parquet too. If the two are copies") as caught:
        next(PastaSessions(tmp_path).sessions())
    assert (caught.value.file, caught.value.column) == (str(paths[2]), "session_id")


@some
@given(data=st.data(), kind=st.sampled_from(["parquet", "jsonl"]), layout=st.sampled_from(["turns", "nested", "lists"]))
def test_a_shard_with_damaged_bytes_is_read_or_refused(tmp_path, data, kind, layout):
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    path = write_shards(tmp_path / "data", kind, layout)[data.draw(st.integers(0, N_SHARDS - 1))]
    path.write_bytes(data.draw(damage(path.read_bytes())))
    read_or_refused(tmp_path / "data")


@some
@given(data=st.data(), layout=st.sampled_from(["turns", "nested", "lists"]))
def test_a_shard_with_damaged_columns_is_read_whole_or_refused(tmp_path, data, layout):
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    number = data.draw(st.integers(0, N_SHARDS - 1))
    path = write_shards(tmp_path / "data", layout=layout)[number]
    table = damaged_table(data.draw, shard(number, layout))
    pq.write_table(table, path)
    assert read_or_refused(tmp_path / "data") in (None, N_SHARDS * len(CHOICES))
