import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import k_study
from pasta_gym.user_model.metrics import adjusted_rand_index
from tests.benchmarks.mini_labels import label_small_world


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return label_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def study(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    k_study.main(arguments(labels, out))
    return out


def arguments(labels, out, *more):
    fits = ["--types", "1", "2", "--seeds", "0", "1", "--steps", "4", "--draws", "30"]
    return ["--data", str(labels), "--out", str(out), *fits, *more]


def test_every_fit_leaves_a_record_a_model_and_the_report_is_drawn(study):
    names = sorted(path.name for path in (study / "fits").iterdir())
    assert names == [f"types-0{k}-seed-{s}.json" for k in (1, 2) for s in (0, 1)]
    assert (study / "models" / "types-02-seed-1" / "user_model.safetensors").is_file()
    assert (study / "k_study.png").read_bytes().startswith(b"\x89PNG")
    table = (study / "table.md").read_text()
    assert "| 1 | " in table
    assert "| ceiling | - | - | " in table
    types = [json.loads((study / "fits" / f"types-02-seed-{s}.json").read_text())["recovery"]["types"] for s in (0, 1)]
    titles, row = ([cell.strip() for cell in table.splitlines()[i].split("|")] for i in (0, 3))
    expected = adjusted_rand_index(np.array(types[0]), np.array(types[1]))
    assert row[titles.index("stability")] == f"{expected:.3f}"
    assert "Smallest K not below the best beyond noise" in table
    rows = (study / "scores.csv").read_text().splitlines()
    record = json.loads((study / "fits" / "types-02-seed-0.json").read_text())
    assert len(rows) == 1 + 4 * sum(len(v) for v in record["by_rater"].values())
    assert set(k_study.METRICS) <= record["by_rater"].keys()
    assert record["recovery"]["types"]
    assert len(record["prior"]) == 2


def test_the_page_gets_table_figure_and_command(study, labels, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- k_study:begin -->\nold\n<!-- k_study:end -->\nafter\n")
    k_study.main(arguments(labels, study, "--page", str(page), "--threads", "1"))
    text = page.read_text()
    assert text.startswith("before\n<!-- k_study:begin -->\nPrinted by `python -m benchmarks.k_study --data ")
    assert "--types 1 2 --seeds 0 1 --steps 4 --draws 30` on 2" in text
    assert str(study) not in text
    assert (study / "table.md").read_text().strip() in text
    assert "](images/k_study.png)" in text
    assert (tmp_path / "images" / "k_study.png").read_bytes() == (study / "k_study.png").read_bytes()


def test_a_stopped_study_goes_on_where_it_was(study, labels, monkeypatch, capsys):
    gone = study / "fits" / "types-02-seed-1.json"
    before = gone.read_text()
    gone.unlink()
    made = []
    real = k_study.run_job
    monkeypatch.setattr(k_study, "run_job", lambda job: made.append((job.n_types, job.seed)) or real(job))
    k_study.main(arguments(labels, study))
    assert made == [(2, 1)]
    assert "1 of 4 fits to make, about" in capsys.readouterr().out
    again, earlier = json.loads(gone.read_text()), json.loads(before)
    assert again["by_rater"] == earlier["by_rater"]  # a fit is a function of its seed
    k_study.main(arguments(labels, study))
    assert made == [(2, 1)]


def test_fits_of_other_settings_are_not_mixed_in(study, labels):
    with pytest.raises(SystemExit, match=r"types-01-seed-0.json is of a study with other settings"):
        k_study.main([*arguments(labels, study), "--steps", "5"])


def test_fits_of_other_labels_of_the_same_world_are_not_mixed_in(study, labels, tmp_path):
    copy = shutil.copytree(labels, tmp_path / "labels")
    metadata = json.loads((copy / "metadata.json").read_text())
    metadata["pool"] = str((labels / metadata["pool"]).resolve())
    (copy / "metadata.json").write_text(json.dumps(metadata))
    out = shutil.copytree(study, tmp_path / "study")
    k_study.main(arguments(copy, out))  # moved, and the same labels
    pairs = pq.read_table(copy / "pairs.parquet").to_pydict()
    pairs["label"][0] = 1.0 - pairs["label"][0]
    pq.write_table(pa.table(pairs), copy / "pairs.parquet")
    with pytest.raises(SystemExit, match=r"types-01-seed-0\.json is of a study with other settings .*'labels': "):
        k_study.main(arguments(copy, out))
    # Seeds that are not there yet find nothing of their own to be compared with.
    with pytest.raises(SystemExit, match=r"types-01-seed-7\.json is of a study with other settings .*seed-0\.json"):
        k_study.main([*arguments(copy, out), "--seeds", "7", "--types", "1"])
    assert not (out / "fits" / "types-01-seed-7.json").exists()
    k_study.ceiling_of(out, copy, 30)
    assert len(list(out.glob("ceiling-world-*"))) == 2


def test_worlds_are_labelled_once(labels, tmp_path, capsys):
    more = ("--vary", "world", "--types", "1", "--seeds", "3", "--draws", "0")
    k_study.main(arguments(labels, tmp_path, *more))
    metadata = tmp_path / "worlds" / "3" / "metadata.json"
    assert json.loads(metadata.read_text())["world_seed"] == 3
    stamp = metadata.stat().st_mtime_ns
    k_study.main(arguments(labels, tmp_path, *more))
    assert metadata.stat().st_mtime_ns == stamp
    assert "ceiling" not in (tmp_path / "table.md").read_text()


def test_stability_is_that_of_fits_of_the_same_labels():
    def record(labels, types):
        return {"settings": {"labels": labels}, "recovery": {"types": types}}

    first, swapped, other = [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]
    assert k_study.stability_of({0: record("a", first), 1: record("a", swapped), 2: record("b", other)}) == 1.0
    # Half of the agreement of the split in two by the split across: (0 - 2/3) / (2 - 2/3) = -1/2.
    assert k_study.stability_of({0: record("a", first), 1: record("a", other)}) == pytest.approx(-0.5)
    assert k_study.stability_of({0: record("a", first), 1: record("b", other)}) is None  # one fit a world
    assert k_study.stability_of({0: {"settings": {}}, 1: {"settings": {}}}) is None  # nothing is planted


def records_of(**by_types):
    return {
        int(k[1:]): {s: {"by_rater": {"m": list(row)}} for s, row in enumerate(rows)} for k, rows in by_types.items()
    }


def test_metrics_are_compared_on_common_seeds_and_raters():
    records = records_of(k1=[[1, 2, 3], [4, 5, np.nan]], k2=[[np.nan, 7, 8], [9, 9, 9], [0, 0, 0]])
    found = k_study.score_matrices(records, "m")
    assert found["1"].tolist() == [[2], [5]]
    assert found["2"].tolist() == [[7], [9]]
    with pytest.raises(ValueError, match="no seed is done for every K"):
        k_study.score_matrices({1: {0: {}}, 2: {1: {}}}, "m")
    with pytest.raises(ValueError, match="no fits in"):
        k_study.read_records(k_study.pathlib.Path("nowhere"))


def test_a_plateau_begins_where_nothing_is_gained_beyond_noise():
    rng = np.random.default_rng(0)
    rater = rng.standard_normal((1, 60))
    matrices = {
        str(k): mean + rater + 0.05 * rng.standard_normal((3, 60)) for k, mean in ((1, 0.0), (4, 0.5), (16, 0.505))
    }
    matrices["16"] = matrices["16"] - matrices["16"].mean() + matrices["4"].mean() + 0.001
    assert k_study.plateau(matrices) == 4
    matrices["16"] = matrices["16"] + 0.2
    assert k_study.plateau(matrices) == 16


def test_larger_mixtures_get_fewer_starts_of_the_sorting():
    starts = {k: k_study.StudyConfig().em_config(k, 0).sorting.starts for k in k_study.TYPES}
    assert starts == {1: 6, 2: 6, 4: 6, 8: 6, 16: 3, 32: 1, 64: 1}
