"""Datasets open by name, and importing the package stays light."""

import builtins
import subprocess
import sys

import pytest

from pasta_gym.datasets import PreferenceDataset, open_dataset
from pasta_gym.datasets.registry import KINDS
from tests.datasets.formats import pickapic_row, write_hpdv2, write_labels, write_pickapic, write_simulacra
from tests.datasets.pasta_files import rows_of, write_rows


def arguments(kind, folder):
    if kind == "hpdv2":
        return {"folder": write_hpdv2(folder), "split": "test"}
    if kind == "mini_raters":
        return {"folder": write_labels(folder)}
    if kind == "pasta_sessions":
        return {"path": write_rows(folder / "a.parquet", rows_of("turns"), "parquet")}
    if kind == "pickapic":
        return {"path": write_pickapic(folder, [[pickapic_row(0)]])}
    file, images = write_simulacra(folder)
    return {"file": file, "images": images}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_opens_by_name_and_is_a_dataset(tmp_path, kind):
    dataset = open_dataset(kind, **arguments(kind, tmp_path), name="mine")
    assert isinstance(dataset, PreferenceDataset)
    assert dataset.name == "mine"
    assert any(True for stream in (dataset.comparisons(), dataset.ratings(), dataset.sessions()) for _ in stream)


def test_names_and_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"kind must be one of hpdv2, mini_raters, .*got 'laion'"):
        open_dataset("laion")
    with pytest.raises(ValueError, match=r"hpdv2 cannot be opened \(.*'fold'\); its options are folder, split, images"):
        open_dataset("hpdv2", folder=tmp_path, fold=1)
    with pytest.raises(ValueError, match="missing a required argument: 'folder'"):
        open_dataset("hpdv2")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *rest)

    for module in [m for m in sys.modules if m.startswith("pasta_gym.datasets.p")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pickapic needs pyarrow; install it with: pip install 'pasta-gym"):
        open_dataset("pickapic", path=tmp_path)


def test_records_and_splits_need_no_pyarrow_and_no_torch():
    code = "import pasta_gym.datasets, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyarrow", "torch", "PIL"} & set(done.stdout.split())
