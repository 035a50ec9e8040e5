"""A JSON array read through a small window is the array."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.json_rows import array_rows, line_rows

VALUES = st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.lists(st.text('[]{}"\\'))
OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), VALUES | st.fixed_dictionaries({"a": VALUES}), max_size=2))


def read(text, **options):
    return [row.values for row in array_rows(io.BytesIO(text.encode()), name="a.json", **options)]


@settings(max_examples=50)
@given(objects=OBJECTS, window=st.integers(1, 50), indent=st.sampled_from([None, 0, 3]), ascii_only=st.booleans())
def test_any_array_comes_back_through_any_window(objects, window, indent, ascii_only):
    text = json.dumps(objects, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    try:
        text.decode()
    except UnicodeDecodeError:
        return  # half a surrogate pair cannot stand in a file
    assert read(text.decode(), window=window) == objects


@settings(max_examples=50)
@given(objects=OBJECTS.filter(bool), window=st.integers(1, 50), data=st.data())
def test_an_array_cut_anywhere_is_refused_after_its_whole_entries(objects, window, data):
    text = json.dumps(objects)
    cut = data.draw(st.integers(0, len(text) - 1))
    seen = []
    rows = array_rows(io.BytesIO(text[:cut].encode()), name="a.json", window=window)
    with pytest.raises(DatasetError, match=r"a\.json"):
        seen.extend(row.values for row in rows)
    assert seen == objects[: len(seen)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected an array of objects, got ''"),
        ('{"a": 1}', "expected an array of objects"),
        ("[1]", "row 0: expected an object, got '1]'"),
        ('[{"a": 1}, 2]', "row 1: expected an object"),
        ('[{"a": 1} {"b": 2}]', "row 1: expected a comma or the array's end, got '{'"),
        ('[{"a": 1},]', "row 1: expected an object, got ']'"),
        ('[{"a": 1}', "row 1: the file ends inside the array"),
        ('[{"a": 1},', "row 1: the file ends inside the array"),
        ('[{"a": 1', "row 0: broken or cut short"),
        ('[{"a": 1}] []', "row 1: expected nothing after the array's end, got '\\['"),
        ('[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "row 0: "),
        ('[{"a": ' + "9" * 5000 + "}]", "row 0: .*digits"),
    ],
)
def test_what_is_wrong_is_said_with_the_entry(text, message):
    with pytest.raises(DatasetError, match=message):
        read(text, window=7)


def test_a_byte_order_mark_is_dropped_and_other_encodings_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf[{"a": "\xc3\xa4"}]')
    assert [row.values for row in array_rows(path)] == [{"a": "ä"}]
    path.write_bytes('[{"a": "ä"}]'.encode("latin-1"))
    with pytest.raises(DatasetError, match="cannot be read as text"):
        list(array_rows(path))
    with pytest.raises(DatasetError, match="cannot be opened"):
        list(array_rows(tmp_path / "none.json"))


def test_a_broken_entry_is_found_without_reading_on_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("pasta_gym.datasets.json_rows.LARGEST_ENTRY", 1000)
    path = tmp_path / "a.json"
    path.write_text('[{"a": oops}' + ", {}" * 100_000 + "]")
    with pytest.raises(DatasetError, match="row 0: broken, or larger than"):
        list(array_rows(path, window=100))


def test_the_first_entry_needs_no_more_than_its_window():
    source = io.BytesIO(json.dumps([{"a": i} for i in range(20_000)]).encode())
    assert next(array_rows(source, name="a.json", window=1000)).values == {"a": 0}
    assert source.tell() < 20_000 < len(source.getvalue()) / 5


def test_lines():
    def lines(text):
        return [(row.number, row.values) for row in line_rows(io.BytesIO(text.encode()), name="a.jsonl")]

    assert lines('{"a": 1}\n\n{"b": 2}') == [(0, {"a": 1}), (1, {"b": 2})]
    with pytest.raises(DatasetError, match=r"a.jsonl, row 1: not a JSON object"):
        lines('{"a": 1}\n{"b": ')
    with pytest.raises(DatasetError, match=r"a.jsonl, row 0: expected an object, got \[\]"):
        lines("[]")
