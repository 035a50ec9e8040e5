"""Whatever is done to a file, a stream is either clean or ends in a ``DatasetError``; nothing else escapes.

Each test below breaks one format in ways drawn by Hypothesis: bytes flipped, zeroed, cut or added; columns dropped,
renamed or of another type; values missing, absurd or out of range. ``test_how_many`` counts them.
"""

import copy
import io
import json
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.hpdv2 import HPDv2
from pasta_gym.datasets.mini_raters import MiniRaters
from pasta_gym.datasets.pasta_probe import probe
from pasta_gym.datasets.pasta_sessions import PastaSessions
from pasta_gym.datasets.pickapic import PickAPic
from pasta_gym.datasets.simulacra import Simulacra
from pasta_gym.user_model.data import load_preferences
from tests.datasets.formats import (
    HPD_TEST,
    HPD_TRAIN,
    LABELS,
    LABELS_METADATA,
    PICKAPIC,
    drain,
    pickapic_row,
    write_hpdv2,
    write_labels,
    write_pickapic,
    write_simulacra,
)
from tests.datasets.pasta_files import rows_of, write_images, write_rows, zipped

TRIED = Counter()
REFUSED = Counter()

ABSURD = st.sampled_from(
    [None, "", "x", -1, 0, 3, 99, 10**400, 1.5, float("nan"), float("inf"), True, [], [None], {}, [[]]]
)
some = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@st.composite
def damage(draw, data):
    """Bytes with a stretch flipped, zeroed, cut out or doubled, or the end missing."""
    at = draw(st.integers(0, len(data) - 1))
    size = draw(st.integers(1, 64))
    how = draw(st.sampled_from(["flip", "zero", "cut", "double", "truncate"]))
    piece = data[at : at + size]
    if how == "flip":
        mask = draw(st.integers(1, 255))
        piece = bytes(byte ^ mask for byte in piece)
    elif how == "zero":
        piece = bytes(len(piece))
    elif how == "cut":
        piece = b""
    elif how == "double":
        piece *= 2
    else:
        return data[:at]
    return data[:at] + piece + data[at + size :]


def survive(kind, build):
    """Read all of a broken dataset, all pixels included."""
    TRIED[kind] += 1
    try:
        for record in drain(build()):
            for image in getattr(record, "images", ()):
                if kind != "mini_raters":
                    image.read()
    except DatasetError:
        REFUSED[kind] += 1


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Whole files of every format."""
    root = tmp_path_factory.mktemp("whole")
    write_pickapic(root / "pickapic", [[pickapic_row(i) for i in range(3)]], row_group_size=2)
    write_hpdv2(root / "hpdv2")
    write_simulacra(root / "simulacra")
    write_labels(root / "mini")
    for kind, storage in (("parquet", "bytes"), ("jsonl", "base64"), ("csv", "path")):
        write_rows(root / f"pasta_{kind}" / f"a.{kind}", rows_of("turns", storage), kind)
    write_images(root / "pasta_csv")
    write_rows(root / "unzipped" / "a.parquet", rows_of("turns"), "parquet")
    (root / "pasta_zip").mkdir()
    zipped(root / "unzipped", root / "pasta_zip" / "a.zip")
    return root


def pasta(folder):
    return PastaSessions(folder, max_bad_images=0.5)


BYTES = [
    ("pickapic", "pickapic/data/*.parquet", lambda root: PickAPic(root / "pickapic")),
    ("pickapic", "pickapic/data/*.parquet", lambda root: PickAPic(root / "pickapic", verify_images=False)),
    ("hpdv2", "hpdv2/train.json", lambda root: HPDv2(root / "hpdv2")),
    ("hpdv2", "hpdv2/test.json", lambda root: HPDv2(root / "hpdv2", "test", max_bad_images=1.0)),
    ("hpdv2", "hpdv2/train/00000001.jpg", lambda root: HPDv2(root / "hpdv2")),
    (
        *("simulacra", "simulacra/*.sqlite"),
        lambda root: Simulacra(root / "simulacra/sac_public_2022_06_29.sqlite", root / "simulacra/images"),
    ),
    ("mini_raters", "mini/labels/pairs.parquet", lambda root: MiniRaters(root / "mini/labels")),
    ("mini_raters", "mini/labels/turns.parquet", lambda root: MiniRaters(root / "mini/labels")),
    ("mini_raters", "mini/labels/metadata.json", lambda root: MiniRaters(root / "mini/labels")),
    ("mini_raters", "mini/pool/shard-000000.npz", lambda root: MiniRaters(root / "mini/labels")),
    ("pasta", "pasta_parquet/a.parquet", lambda root: pasta(root / "pasta_parquet")),
    ("pasta", "pasta_jsonl/a.jsonl", lambda root: pasta(root / "pasta_jsonl")),
    ("pasta", "pasta_csv/a.csv", lambda root: pasta(root / "pasta_csv")),
    ("pasta", "pasta_zip/a.zip", lambda root: pasta(root / "pasta_zip/a.zip")),
]


@some
@pytest.mark.parametrize(("kind", "name", "build"), BYTES, ids=[name for _, name, _ in BYTES])
@given(data=st.data())
def test_damaged_bytes(home, kind, name, build, data):
    (path,) = home.glob(name)
    whole = path.read_bytes()
    path.write_bytes(data.draw(damage(whole)))
    try:
        survive(kind, lambda: build(home))
    finally:
        path.write_bytes(whole)


@some
@given(data=st.data())
def test_damaged_archives_are_probed_all_the_same(home, data):
    name = data.draw(
        st.sampled_from(["pasta_parquet/a.parquet", "pasta_zip/a.zip", "simulacra/sac_public_2022_06_29.sqlite"])
    )
    path = home / name
    whole = path.read_bytes()
    path.write_bytes(data.draw(damage(whole)))
    try:
        json.dumps(probe(path.parent).schema())
    finally:
        path.write_bytes(whole)


def damaged_table(draw, rows, schema=None):
    """A table with a column dropped, renamed, doubled, emptied or of another type."""
    table = pa.Table.from_pylist(rows, schema=schema)
    index = draw(st.integers(0, table.num_columns - 1))
    name = table.column_names[index]
    how = draw(st.sampled_from(["drop", "rename", "null", "text", "number", "bytes", "list", "none"]))
    n = table.num_rows
    columns = {
        "null": pa.nulls(n),
        "text": pa.array(["x"] * n),
        "number": pa.array([draw(st.sampled_from([-1.0, 2.0, 0.5, float("nan")]))] * n),
        "bytes": pa.array([b"\xff\xfe"] * n),
        "list": pa.array([[[1]]] * n),
    }
    if how == "drop":
        return table.remove_column(index)
    if how == "rename":
        return table.rename_columns([f"{c}_" if c == name else c for c in table.column_names])
    if how == "none":
        return table.slice(0, 0)
    return table.set_column(index, name, columns[how])


def with_table(path, table, kind, build):
    whole = path.read_bytes()
    stream = io.BytesIO()
    pq.write_table(table, stream)
    path.write_bytes(stream.getvalue())
    try:
        survive(kind, build)
    finally:
        path.write_bytes(whole)


@some
@given(data=st.data())
def test_pickapic_columns(home, data):
    (path,) = home.glob("pickapic/data/*.parquet")
    table = damaged_table(data.draw, [pickapic_row(i) for i in range(3)], PICKAPIC)
    with_table(path, table, "pickapic", lambda: PickAPic(home / "pickapic"))


@some
@given(data=st.data())
def test_mini_rater_columns(home, data):
    name = data.draw(st.sampled_from(sorted(LABELS)))
    table = damaged_table(data.draw, LABELS[name])
    with_table(home / f"mini/labels/{name}.parquet", table, "mini_raters", lambda: MiniRaters(home / "mini/labels"))


READ_BY_BOTH = {
    "raters": ("rater", "split"),
    "pairs": ("rater", "session", "first", "second", "label"),
    "ratings": ("rater", "session", "image", "rating"),
    "rankings": ("rater", "session", "images"),
    "turns": ("rater", "session", "turn", "choice", "column_satisfaction", "than_before"),
}


def refused(read):
    try:
        read()
    except DatasetError:
        return True
    return False


@settings(some, max_examples=60)
@given(data=st.data())
def test_both_readers_of_labels_agree_on_what_is_valid(home, data):
    """One value of a column that both read is absurd, or a row is missing, twice or elsewhere."""
    name = data.draw(st.sampled_from(sorted(READ_BY_BOTH)))
    rows = copy.deepcopy(LABELS[name])
    at = data.draw(st.integers(0, len(rows) - 1))
    how = data.draw(
        st.sampled_from(["value", "value", "value", "drop", "twice", "move"] if name == "turns" else ["value"])
    )
    if how == "value":
        column = data.draw(st.sampled_from(READ_BY_BOTH[name]))
        kinds = {
            "column_satisfaction": [[None, 2], [6, 1], [1.5, 2], [1], [2, 5]],
            "images": [
                [None, 2],
                [1.5, 2],
                [1.0, 2],
                [-1, 2],
                [9, 10],
                [1],
                [],
                [4, 9],
                [3, 2, 1, 0],
                [True, 2],
                ["x", 2],
            ],
        }
        kind = kinds.get(column, ["worse", -1, -2, 0, 1, 9])
        rows[at][column] = data.draw(
            st.sampled_from([*kind, None, "", "x", 1.5, float("nan"), float("inf"), True, [[1]]])
        )
    else:
        row = rows.pop(at)
        rows = {"drop": rows, "twice": [*rows[:at], row, row, *rows[at:]], "move": [*rows, row]}[how]
    folder = home / "mini/labels"
    path = folder / f"{name}.parquet"
    whole = path.read_bytes()
    try:
        pq.write_table(pa.Table.from_pylist(rows), path)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # text among numbers is no table at all
        return
    try:
        assert refused(lambda: drain(MiniRaters(folder))) == refused(lambda: load_preferences(folder))
    finally:
        path.write_bytes(whole)


@some
@given(data=st.data())
def test_mini_labels_are_loaded_at_once_or_refused(home, data):
    name = data.draw(st.sampled_from(sorted(LABELS)))
    table = damaged_table(data.draw, LABELS[name])
    path = home / f"mini/labels/{name}.parquet"
    whole = path.read_bytes()
    try:
        pq.write_table(table, path)
        refused(lambda: load_preferences(home / "mini/labels"))
    finally:
        path.write_bytes(whole)


@some
@pytest.mark.parametrize("name", ["labels/pairs.parquet", "labels/metadata.json", "pool/shard-000000.npz"])
@given(data=st.data())
def test_damaged_bytes_of_mini_labels_are_loaded_or_refused(home, name, data):
    path = home / "mini" / name
    whole = path.read_bytes()
    path.write_bytes(data.draw(damage(whole)))
    try:
        refused(lambda: load_preferences(home / "mini/labels"))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("content", ["[1]", "{}", '{"format": 1}', "3", ""])
def test_metadata_of_labels_that_are_none(home, content):
    path = home / "mini/labels/metadata.json"
    whole = path.read_bytes()
    path.write_text(content)
    try:
        for read in (MiniRaters, load_preferences):
            with pytest.raises(DatasetError, match=r"metadata\.json"):
                read(home / "mini/labels")
    finally:
        path.write_bytes(whole)


@some
@given(data=st.data(), layout=st.sampled_from(["turns", "nested", "lists"]))
def test_pasta_columns(home, data, layout):
    table = damaged_table(data.draw, rows_of(layout))
    with_table(home / "pasta_parquet/a.parquet", table, "pasta", lambda: pasta(home / "pasta_parquet"))


def places(value, path=()):
    """All paths into nested lists and objects."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def damaged_json(draw, content):
    """Plain data with something inside dropped, renamed or absurd."""
    content = copy.deepcopy(content)
    path = draw(st.sampled_from([p for p in places(content) if p]))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    how = draw(st.sampled_from(["drop", "replace", "rename"]))
    if how == "replace" or not isinstance(parent, dict):
        parent[path[-1]] = draw(ABSURD)
    elif how == "drop":
        del parent[path[-1]]
    else:
        parent[f"{path[-1]}_"] = parent.pop(path[-1])
    return content


def with_text(path, text, kind, build):
    whole = path.read_bytes()
    path.write_text(text)
    try:
        survive(kind, build)
    finally:
        path.write_bytes(whole)


@some
@given(data=st.data(), split=st.sampled_from(["train", "test"]), averaged=st.booleans())
def test_hpdv2_values(home, data, split, averaged):
    content = damaged_json(data.draw, HPD_TRAIN if split == "train" else HPD_TEST)
    options = {"rankings": "averaged"} if averaged else {}
    build = lambda: HPDv2(home / "hpdv2", split, max_bad_images=1.0, verify_images=False, **options)  # noqa: E731
    with_text(home / f"hpdv2/{split}.json", json.dumps(content), "hpdv2", build)


@some
@given(data=st.data(), layout=st.sampled_from(["turns", "nested", "lists"]))
def test_pasta_values(home, data, layout):
    rows = damaged_json(data.draw, rows_of(layout, "base64"))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with_text(home / "pasta_jsonl/a.jsonl", text, "pasta", lambda: pasta(home / "pasta_jsonl"))


@some
@given(data=st.data())
def test_mini_rater_metadata(home, data):
    content = damaged_json(data.draw, LABELS_METADATA | {"rating_levels": 10})
    build = lambda: MiniRaters(home / "mini/labels")  # noqa: E731
    with_text(home / "mini/labels/metadata.json", json.dumps(content), "mini_raters", build)


SQL = ("NULL", "''", "'x'", "-1", "0", "11", "5.5", "x'ff00'", "9e999", "9223372036854775807", "CAST(x'ff' AS TEXT)")


@some
@given(
    column=st.sampled_from(
        ["ratings.sid", "ratings.iid", "ratings.rating", "images.gid", "images.idx", "generations.prompt", "paths.path"]
    ),
    value=st.sampled_from(SQL),
    how=st.sampled_from(["set", "drop", "rename", "drop table", "view"]),
)
def test_simulacra_values(tmp_path, column, value, how):
    table, name = column.split(".")
    statement = {
        "set": f"UPDATE {table} SET {name} = {value} WHERE rowid = 2",
        "drop": f"ALTER TABLE {table} DROP COLUMN {name}",
        "rename": f"ALTER TABLE {table} RENAME COLUMN {name} TO other",
        "drop table": f"DROP TABLE {table}",
        "view": f"ALTER TABLE {table} RENAME TO old; CREATE VIEW {table} AS SELECT * FROM old",
    }[how]
    folder = tmp_path / "sac"
    shutil.rmtree(folder, ignore_errors=True)
    file, images = write_simulacra(folder, statements=statement.split("; "))
    survive("simulacra", lambda: Simulacra(file, images, max_bad_images=0.5))


def test_how_many():
    """Runs last. At least 200 were tried, and every format refused many."""
    if len(TRIED) < 5:
        pytest.skip("counts what the other tests of this file did, and they were not run")
    assert sum(TRIED.values()) >= 200
    assert set(TRIED) == {"pickapic", "hpdv2", "simulacra", "mini_raters", "pasta"}
    assert all(REFUSED[kind] > 10 for kind in TRIED), REFUSED
