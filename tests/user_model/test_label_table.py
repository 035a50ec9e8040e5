"""Labels that cannot be are refused by file, row and column; what raters did not say is not scored."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.trajectories.rater_sessions import LABELS
from pasta_gym.user_model.data import load_preferences

LABELS_0 = pathlib.Path(__file__).parents[2] / LABELS


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    for name, n in (("pairs", 60), ("ratings", 30), ("rankings", 10), ("turns", 20), ("raters", 10_000)):
        pq.write_table(pq.read_table(LABELS_0 / f"{name}.parquet").slice(0, n), folder / f"{name}.parquet")
    metadata = json.loads((LABELS_0 / "metadata.json").read_text())
    metadata["pool"] = str((LABELS_0 / metadata["pool"]).resolve())
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def changed(labels, folder, name, column, row, value):
    shutil.copytree(labels, folder)
    rows = pq.read_table(folder / f"{name}.parquet").to_pydict()
    rows[column][row] = value
    pq.write_table(pa.table(rows), folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize(
    ("name", "column", "value", "problem"),
    [
        ("raters", "split", "dev", "expected one of train, validation, test, got 'dev'"),
        ("raters", "rater", 750, "expected a whole number from 0 to 749, got 750"),
        ("raters", "rater", 9, "rater 9 is here a second time"),
        ("pairs", "rater", 99_999, "expected a whole number from 0 to 749, got 99999"),
        ("pairs", "session", -1, "expected a whole number from 0 to 1499, got -1"),
        ("pairs", "first", 87, "expected a whole number from 0 to 83, got 87"),
        ("pairs", "second", 84, "expected a whole number from 0 to 83, got 84"),
        ("pairs", "label", 7.0, "expected one of 0, 0.5, 1, got 7.0"),
        ("pairs", "label", None, "expected one of 0, 0.5, 1, got nothing"),
        ("ratings", "image", 84, "expected a whole number from 0 to 83, got 84"),
        ("ratings", "rating", 77, "expected a number from 1 to 10, got 77"),
        ("ratings", "rating", None, "expected a number from 1 to 10, got nothing"),
        ("rankings", "images", [1, 2, 3, 84], "expected a whole number from 0 to 83, got 84"),
        ("turns", "choice", 9, "expected a whole number from -1 to 3, got 9"),
        ("turns", "choice", None, "expected a whole number from -1 to 3, got nothing"),
        ("turns", "turn", 9, "expected a whole number from 0 to 4, got 9"),
        ("turns", "turn", 0, r"expected turns 0\.\.4 in order, got \[0, 1, 0, 3, 4\]"),
        ("turns", "than_before", "nicer", "expected one of better, same, worse or nothing, got 'nicer'"),
        ("turns", "column_satisfaction", [1, 2, 3], r"expected a list of 4, got 3"),
        ("turns", "column_satisfaction", [1.5, 2, 3, 4], r"expected a whole number from 1 to 5, got 1\.5"),
        ("rankings", "images", [1, 2, 3], "expected a list of 4, got 3"),
        ("turns", "rater", 700, "is of rater [0-9]+ in another row"),
        ("turns", "column_satisfaction", [1, 2, 6, 3], "expected a whole number from 1 to 5, got 6"),
    ],
)
def test_values_out_of_range_name_file_row_and_column(labels, tmp_path, name, column, value, problem):
    folder = changed(labels, tmp_path / "labels", name, column, 7, value)
    with pytest.raises(DatasetError, match=problem) as caught:
        load_preferences(folder)
    assert caught.value.file == str(folder / f"{name}.parquet")
    assert caught.value.column == column
    assert caught.value.row == (9 if problem.startswith("rater 9") else 7)


def test_sessions_larger_than_the_pools_are_refused(labels, tmp_path):
    folder = shutil.copytree(labels, tmp_path / "labels")
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | {"horizon": 6}))
    with pytest.raises(DatasetError, match=r"image_embeddings \(S, 100, d\), got .*, 84, 64\); name the pool that"):
        load_preferences(folder)


def test_what_was_not_asked_is_no_error(labels, tmp_path):
    folder = changed(labels, tmp_path / "labels", "turns", "column_satisfaction", 7, [1, None, 5, 3])
    found, whole = load_preferences(folder), load_preferences(labels)
    assert np.array_equal(found.session_satisfactions[1, 2], [0, np.nan, 1, 0.5], equal_nan=True)
    assert np.array_equal(found.session_choices, whole.session_choices)
    folder = changed(labels, tmp_path / "more", "turns", "choice", 7, -1)
    assert load_preferences(folder).session_choices[1, 2] == -1
