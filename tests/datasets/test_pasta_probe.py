"""The probe tells files by their first bytes and never leaves half a schema behind."""

import json
import zipfile

import numpy as np
import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.archive import Archive
from pasta_gym.datasets.pasta_probe import main, probe, sniff, write_schema
from tests.datasets.formats import picture, write_simulacra, write_table
from tests.datasets.pasta_files import rows_of, write_rows, zipped


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "empty"),
        (b"PAR1\x15\x04", "parquet"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"\x93NUMPY\x01\x00", "npy"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"\x80\x04\x95", "pickle"),
        (picture(0, "JPEG"), "jpeg"),
        (picture(0, "PNG"), "png"),
        (picture(0, "WEBP"), "webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", "unknown"),
        (bytes(257) + b"ustar\x0000", "tar"),
        ((20).to_bytes(8, "little") + b"\x01\x02\x03\x04" + bytes(24), "tfrecord"),
        (b' \n[{"a": 1}]', "json"),
        (b'\xef\xbb\xbf{"a": 1}\n', "jsonl"),
        (b"a,b\n1,2\n", "csv"),
        (b"a\tb\n1\t2\n", "csv"),
        (b"just words\n", "text"),
        (b"\xff\xfe\x00\x01", "unknown"),
    ],
)
def test_kinds_by_first_bytes(head, kind):
    assert sniff(head, len(head)) == kind


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    write_rows(folder / "sessions.parquet", rows_of("turns"), "parquet")
    write_rows(folder / "b.jsonl", [{"x": "long " * 50, "y": None}], "jsonl")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    write_simulacra(folder / "sac")
    np.save(folder / "a.npy", np.zeros(3))
    return folder


def test_schema_of_a_folder_and_of_its_zip_file(folder, tmp_path):
    found = probe(folder)
    schema = found.schema()
    assert schema["members"] == {"jsonl": 1, "npy": 1, "parquet": 2, "png": 3, "sqlite": 1}
    table = schema["tables"]["sessions.parquet"]
    assert table["columns"] == list(rows_of("turns")[0])
    assert table["types"]["choice"] == "int"
    assert table["first_row"]["initial_prompt"] == "'a cat 0'"
    assert len(schema["tables"]["b.jsonl"]["first_row"]["x"]) < 70
    assert "cut short" in schema["problems"]["broken.parquet"]
    assert schema["problems"]["a.npy"].startswith("npy: not read by this loader")
    assert "sac/sac_public_2022_06_29.sqlite" in schema["others"]
    in_zip = probe(zipped(folder, tmp_path / "data.zip")).schema()
    assert in_zip["tables"] == schema["tables"]
    assert in_zip["members"] == schema["members"]
    assert "sessions.parquet (parquet): session_id, rater_id" in str(found)


def test_the_command_prints_and_writes_the_schema(folder, tmp_path, capsys):
    main([str(folder), "--out", str(tmp_path / "schema.json")])
    assert "3 members are png" in capsys.readouterr().out
    assert json.loads((tmp_path / "schema.json").read_text()) == probe(folder).schema()


def test_a_schema_is_written_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    out = tmp_path / "out" / "schema.json"
    out.parent.mkdir()
    write_schema(probe(folder), out)
    before = out.read_text()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_schema(probe(folder), out)
    assert out.read_text() == before
    assert list(out.parent.iterdir()) == [out]


def test_nothing_there_and_broken_zip_files(tmp_path, folder):
    with pytest.raises(DatasetError, match="nothing there"):
        probe(tmp_path / "none")
    path = zipped(folder, tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[:-30])
    assert probe(path).problems == {
        "a.zip": "zip: not read by this loader; convert it to Parquet, CSV or JSON, or unpack it first"
    }


def test_a_corrupt_member_is_named(folder, tmp_path):
    path = zipped(folder, tmp_path / "a.zip")
    archive = Archive(path)
    with zipfile.ZipFile(path) as opened:
        info = opened.getinfo("sessions.parquet")
    data = bytearray(path.read_bytes())
    at = info.header_offset + 200
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.zip/sessions\.parquet: cannot be read"):
        archive.read("sessions.parquet")


@pytest.mark.parametrize(
    ("name", "beside", "found"),
    [
        ("images/a.png", "", "images/a.png"),
        ("/images/a.png", "", "images/a.png"),
        ("images\\a.png", "", "images/a.png"),
        ("a.png", "images/table.csv", "images/a.png"),
        ("b.png", "", "images/b.png"),
        ("a.png", "", None),
        ("ages/b.png", "", None),
        ("../b.png", "", None),
        ("none.png", "", None),
    ],
)
def test_members_are_found_by_the_paths_in_a_table(tmp_path, name, beside, found):
    for path in ("images/a.png", "other/a.png", "images/b.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    assert Archive(tmp_path).find(name, beside) == found


def test_image_names_are_trusted_after_the_first_hundred(tmp_path):
    for i in range(103):
        (tmp_path / f"{i:03d}.png").write_bytes(b"no picture" if i in (0, 102) else picture(0, "PNG"))
    write_table(tmp_path / "t.parquet", [{"a": 1}])
    assert probe(tmp_path).schema()["members"] == {"parquet": 1, "png": 102, "text": 1}
