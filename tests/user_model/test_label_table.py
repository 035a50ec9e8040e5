"""Labels that cannot be are refused by file, row and column; what raters did not say is not scored."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.mini_raters import MiniRaters
from pasta_gym.trajectories.rater_sessions import LABELS
from pasta_gym.user_model.data import NO_IMAGE, load_preferences
from pasta_gym.user_model.gather import gather

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
        ("rankings", "images", [1], "expected a list of 2 or more, got 1"),
        ("rankings", "images", [1, 2, -1], "expected a whole number from 0 to 83, got -1"),
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


def test_rankings_may_be_of_any_length(labels, tmp_path):
    folder = changed(changed(labels, tmp_path / "a", "rankings", "images", 7, [5, 2]), tmp_path / "b", "rankings",
                     "images", 8, [3, 0, 1, 83, 4, 7])  # fmt: skip
    found, whole = load_preferences(folder), load_preferences(labels)
    assert found.ranking_lengths.tolist() == [4] * 7 + [2, 6, 4]
    assert np.array_equal(found.rankings[:7, :4], whole.rankings[:7])
    in_session = found.rankings[7:9] - 84 * found.ranking_prompts[7:9, None]
    assert in_session[0, :2].tolist() == [5, 2]
    assert in_session[1].tolist() == [3, 0, 1, 83, 4, 7]
    assert (found.rankings[7, 2:] == NO_IMAGE).all()
    gathered = gather(MiniRaters(folder, name="b"))
    assert sorted(gathered.ranking_lengths.tolist()) == [4] * 8 + [6]  # of two it is a pair
    assert len(gathered.all_pairs()[0]) == len(found.all_pairs()[0])


def test_what_was_not_asked_is_no_error(labels, tmp_path):
    folder = changed(labels, tmp_path / "labels", "turns", "column_satisfaction", 7, [1, None, 5, 3])
    found, whole = load_preferences(folder), load_preferences(labels)
    assert np.array_equal(found.session_satisfactions[1, 2], [0, np.nan, 1, 0.5], equal_nan=True)
    assert np.array_equal(found.session_choices, whole.session_choices)
    folder = changed(labels, tmp_path / "more", "turns", "choice", 7, -1)
    assert load_preferences(folder).session_choices[1, 2] == -1
