"""Processes share a cache, and each spreads its own rows over one file there."""

import pathlib

import numpy as np

from pasta_gym.user_model import embedding_table


def test_a_table_stays_its_own_when_another_process_takes_its_name(tmp_path, monkeypatch):
    every = np.arange(40, dtype=np.float32).reshape(10, 4)
    file, real = tmp_path / "gathered.npy", pathlib.Path.replace

    def replace_and_be_replaced(self, target):
        real(self, target)
        other = tmp_path / "other"
        with other.open("wb") as stream:
            np.save(stream, np.zeros((3, 4), dtype=np.float32))
        return real(other, target)

    monkeypatch.setattr(pathlib.Path, "replace", replace_and_be_replaced)
    found = embedding_table._spill(every, np.array([7, 1, 4]), file)
    assert isinstance(found, np.memmap)
    assert found.tolist() == every[[7, 1, 4]].tolist()
    assert np.load(file).tolist() == [[0.0] * 4] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["gathered.npy"]
