"""Files and folders that are whole or not there."""

import pathlib
import subprocess
import sys

import pytest

from pasta_gym import files


def test_a_file_that_fails_half_way_leaves_what_was_there(tmp_path):
    target = tmp_path / "new" / "file.txt"
    for before in ([], ["file.txt"]):
        with pytest.raises(OSError, match="the disk is full"), files.whole_file(target) as partial:  # noqa: PT012
            partial.write_text("half")
            raise OSError("the disk is full")
        assert [path.name for path in target.parent.iterdir()] == before
        files.write_text(target, "whole \u2192\n")
        assert target.read_bytes() == "whole \u2192\n".encode()


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    with files.whole_file(tmp_path / "x") as slow:
        slow.write_text("slow, ")
        with files.whole_file(tmp_path / "x") as fast:
            fast.write_text("fast")
        assert (tmp_path / "x").read_text() == "fast"
        with slow.open("a") as file:
            file.write("and last")
    assert (tmp_path / "x").read_text() == "slow, and last"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    code = """
import os, pathlib, signal, sys
from pasta_gym.files import whole_file
with whole_file(pathlib.Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.json")], check=False)
    assert killed.returncode == -9
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    left = [path for path in tmp_path.iterdir() if path.name != "x.json"]
    assert len(left) == 1
    assert left[0].name.startswith(".x.json.")  # hidden, and no glob for *.json finds it
    assert pathlib.Path(left[0]).suffix != ".json"


def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half way"), files.whole_folder(tmp_path / "x") as partial:  # noqa: PT012
        (partial / "a").write_text("1")
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path):
    with files.whole_folder(tmp_path / "x") as slow:
        (slow / "who").write_text("slow")
        with files.whole_folder(tmp_path / "x") as fast:
            (fast / "who").write_text("fast")
    assert (tmp_path / "x" / "who").read_text() == "fast"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_digest_depends_on_content_and_not_on_order():
    assert files.digest({"a": 1, "b": [2, 3]}) == files.digest({"b": [2, 3], "a": 1})
    assert files.digest({"a": 1, "b": [2, 3]}) != files.digest({"a": 1, "b": [3, 2]})
