"""The examples of ``docs/datasets.md`` run on small files under the names that the page gives."""

import pathlib
import re
import shutil

from tests.datasets.formats import pickapic_row, write_hpdv2, write_labels, write_pickapic, write_simulacra
from tests.datasets.pasta_files import rows_of, write_rows, zipped

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "datasets.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    write_pickapic(tmp_path / "pickapic_v2", [[pickapic_row(0)]])
    write_hpdv2(tmp_path / "HPDv2")
    write_simulacra(tmp_path / "sac")
    write_rows(tmp_path / "unzipped" / "sessions.parquet", rows_of("turns"), "parquet")
    zipped(tmp_path / "unzipped", tmp_path / "pasta-data.zip")
    shutil.move(write_labels(tmp_path / "mini"), tmp_path / "mini" / "labels_world_0")
    shutil.copytree(tmp_path / "mini", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    namespace = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "0 prompt 0 (0.0, 1.0)" in printed
    assert "f00d a lake (1.0, 0.0, 2.0)" in printed
    assert "8 dream 3 0.333" in printed
    assert "1 a cat 1 [2, 1]" in printed
