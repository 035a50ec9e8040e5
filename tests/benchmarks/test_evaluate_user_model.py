import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from benchmarks import evaluate_user_model as command
from benchmarks import rater_scores
from benchmarks.rater_scores import Scored
from pasta_gym.mini import raters
from pasta_gym.mini.pool_pictures import PoolPictures
from pasta_gym.mini.rater_sessions import paint_sessions
from pasta_gym.trajectories.rater_rewards import labels_by_type
from pasta_gym.user_model import fit
from pasta_gym.user_model.evaluation import Predictions
from pasta_gym.user_model.predictors import ScorePredictor, clip_score
from pasta_gym.user_model.user_model import UserModel
from tests.benchmarks.mini_labels import label_small_world
from tests.raters.test_rater_data import CONFIG, PROJECTION, studio, values_in


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    labels = label_small_world(folder)
    for seed in (0, 1):
        config = fit.EMConfig(n_types=2, steps=4, trial_steps=2, restarts=1, sorted_steps=2, seed=seed)
        data = fit.load_preferences(labels)
        fit.fit_user_model(data, config).save(folder / f"model-{seed}")
        one = fit.EMConfig(n_types=1, steps=4, trial_steps=2, restarts=1)
        fit.fit_user_model(data, one).save(folder / f"model-{seed}" / fit.ONE_TYPE)
    return folder


def test_the_command_writes_table_rows_and_figure(world, capsys):
    n_images = len(rater_scores.load_raters(world / "labels").data.image_embeddings)
    np.save(world / "own.npy", np.linspace(0, 1, n_images))
    models = [str(world / f"model-{seed}") for seed in (0, 1)]
    out = world / "out"
    given = ["--data", str(world / "labels"), "--draws", "20", "--scores", f"own={world / 'own.npy'}"]
    command.main(["--model", *models, *given, "--out", str(out)])
    table = (out / "table.md").read_text()
    assert table.startswith("| figure | uniform | own | CLIP score | one type | model | ceiling |")
    assert table.strip() in capsys.readouterr().out
    assert "Stability over 2 fits" in table
    # The shares of the way to the ceiling, where there are any, stand in a second table with the same names.
    figures = table.split("\n\n")[0].splitlines()
    (row,) = [line for line in figures if line.startswith("| pickapic paper |")]
    assert row.split("|")[2].strip() == row.split("|")[7].strip() == "-"
    (row,) = [line for line in figures if line.startswith("| choice log likelihood, n = 5 |")]
    assert "-1.386 [-1.386, -1.386]" in row
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [float(r["value"]) for r in rows if (r["predictor"], r["metric"]) == ("model", "pair_accuracy@20")]
    assert len(values) == 2 * 4  # two models, four held-out raters
    (row,) = [line for line in figures if line.startswith("| pair accuracy, n = 20 |")]
    assert f"{np.mean(values):.3f} [" in row.split("|")[6]
    assert len(json.loads((out / "recovery.json").read_text())) == 2
    assert (out / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_worlds_are_named_by_number_and_keep_one_type_beside_theirs(world, tmp_path, monkeypatch, capsys):
    models = tmp_path / "models"
    for name, source in (("types_8", "model-0"), ("types_1", f"model-0/{fit.ONE_TYPE}")):
        UserModel.load(world / source).save(models / f"mini_world_3_{name}")
    monkeypatch.setattr(command, "find_model", lambda number, k: models / f"mini_world_{number}_types_{k}")
    monkeypatch.setattr(command, "labels_folder", lambda number: world / "labels")
    page = tmp_path / "page.md"
    page.write_text("<!-- evaluation:begin -->\n<!-- evaluation:end -->\n")
    command.main(["--worlds", "3", "--draws", "20", "--page", str(page), "--out", str(tmp_path / "out")])
    by_number = capsys.readouterr().out.split("\nwrote")[0].strip()
    given = ["--model", str(world / "model-0"), "--data", str(world / "labels"), "--draws", "20"]
    command.main(given)
    by_folder = capsys.readouterr().out.strip()
    assert by_number == by_folder.replace(command._short(str(world / "model-0")), "models/mini_world_3_types_8")
    assert "| one type |" in by_number.splitlines()[0]
    assert page.read_text().startswith(
        "<!-- evaluation:begin -->\nPrinted by `python -m benchmarks.evaluate_user_model --worlds 3 --draws 20` on "
    )
    assert by_number in page.read_text()
    assert str(tmp_path) not in page.read_text()
    (models / "mini_world_3_types_1" / "metadata.json").unlink()
    with pytest.raises(ValueError, match=r"mini world 3 lacks .*fit_world 3 --types 8 1"):
        command.folders_of_world(3)


def test_the_shipped_world_needs_no_fit():
    model, labels, one = command.folders_of_world(0)
    assert one == model / fit.ONE_TYPE
    assert (one / "metadata.json").is_file()
    assert (labels / "metadata.json").is_file()


@pytest.mark.parametrize("given", [[], ["--worlds", "0", "--model", "m", "--data", "d"], ["--model", "a", "b"]])
def test_worlds_or_folders_must_be_named(given, capsys):
    with pytest.raises(SystemExit):
        command.main(given)
    assert "--data" in capsys.readouterr().err


def test_scores_must_be_of_all_images(world):
    np.save(world / "short.npy", np.zeros(3))
    with pytest.raises(SystemExit, match=r"must hold one score for each of \d+ images, got \(3,\)"):
        command.main(
            ["--model", str(world / "model-0"), "--data", str(world / "labels"), "--scores", f"a={world / 'short.npy'}"]
        )


def test_a_user_model_with_an_encoder_of_its_own_is_refused(world, tmp_path):
    model = UserModel.load(world / "model-0")
    model.metadata["encoder"] = {"frozen_sha256": "a" * 64, "sha256": "b" * 64}
    model.save(tmp_path)
    with pytest.raises(
        SystemExit, match="this evaluation without --pictures reads embeddings of the frozen encoder aaaaaaaaaaaaaaaa"
    ):
        command.main(["--model", str(tmp_path), "--data", str(world / "labels"), "--draws", "2"])


class Own:
    """Reads the toy pictures' slot values: the pool's own embeddings, or others where it is mirrored."""

    def __init__(self, step):
        self._step = step
        self.identity = {"weights_sha256": "b" * 64}

    def encode_images(self, shown):
        values = values_in(np.stack([np.asarray(picture) for picture in shown]))
        return (raters.exact_reads(values) @ PROJECTION).astype(np.float32)[:, :: self._step]

    def encode_texts(self, texts):
        return studio().encode_texts(texts)


def test_a_user_model_with_an_encoder_of_its_own_looks_at_the_pictures(world, tmp_path, monkeypatch):
    paint_sessions(studio(), world / "pool", CONFIG, pictures=tmp_path / "pictures", progress=False)
    model = UserModel.load(world / "model-0")
    model.metadata["encoder"] = {"frozen_sha256": "a" * 64, "sha256": "b" * 64}
    model.save(tmp_path / "own")
    pictures = PoolPictures(tmp_path / "pictures")
    found = {}
    for name, folder, encoder in (("frozen", world / "model-0", None), ("same", "own", 1), ("mirrored", "own", -1)):
        monkeypatch.setattr(command, "own_encoder", lambda metadata, where, encoder=encoder: Own(encoder))
        scored, recovered = command.score_all(
            [tmp_path / folder], [world / "labels"], {}, 2, baselines=[world / "model-1"], pictures=pictures
        )
        found[name] = scored[command.MODEL][0].by_rater, recovered[0]["fidelity"]
    for metric in ("pair_log_likelihood@20", "choice_log_likelihood@20", "hps_spearman", "pickapic_paper"):
        # The pool keeps embeddings in half precision.
        assert found["same"][0][metric] == pytest.approx(found["frozen"][0][metric], abs=2e-3), metric
    assert [a["spearman"] for a in found["same"][1]] == pytest.approx(
        [a["spearman"] for a in found["frozen"][1]], abs=0.01
    )
    different = found["mirrored"][0]["pair_log_likelihood@20"] - found["frozen"][0]["pair_log_likelihood@20"]
    assert np.abs(different).max() > 0.01


def test_lists_are_longer_rankings_of_the_same_raters(world):
    raters = rater_scores.load_raters(world / "labels")
    assert raters.lists.rankings.shape[1] == rater_scores.HPS_LIST
    assert np.array_equal(raters.lists.image_embeddings, raters.data.image_embeddings)
    assert np.array_equal(raters.lists.ranking_raters, raters.data.ranking_raters)
    score = ScorePredictor(clip_score(raters.data))
    assert "hps_spearman" in rater_scores.score_predictor(score, raters).by_rater
    own = dataclasses.replace(raters, lists=raters.data)  # of four images
    assert "hps_spearman" not in rater_scores.score_predictor(score, own).by_rater


def predictions(p, y):
    p, y = np.atleast_2d(p), np.atleast_2d(y)
    return Predictions(p, y, np.stack([p, 1 - p], axis=-1), (y != 1).astype(int))


def test_calibration_of_some_raters():
    made = predictions([[0.9, 0.9], [0.2, 0.2]], [[1.0, 1.0], [1.0, 0.5]])
    # All: .9 came true twice (gap .1), .2 once of once (gap .8), the tie is left out.
    assert rater_scores.ece(made, "pair") == pytest.approx((2 * 0.1 + 0.8) / 3)
    assert rater_scores.ece(made, "pair", np.array([0, 0])) == pytest.approx(0.1)
    # Columns: .9 hit, .1 not; a gap of .1 everywhere.
    assert rater_scores.ece(made, "choice", np.array([0])) == pytest.approx(0.1)


@pytest.mark.parametrize(("n_raters", "gap"), [(12, 0.0), (12, 0.3), (400, 0.0), (400, 0.3)])
def test_intervals_of_calibration_errors_hold_their_estimate(n_raters, gap):
    """Predictions all over [0, 1] that are right, or too high by the gap."""
    rng = np.random.default_rng(n_raters)
    p = rng.uniform(0.3, 1.0, size=(n_raters, 10))
    labels = (rng.random(p.shape) < p - gap).astype(float)
    made = Predictions(p, labels, np.zeros((n_raters, 0, 2)), np.zeros((n_raters, 0), dtype=np.int64))
    found = command._ece_interval([made], "pair")
    assert 0 <= found.low <= found.estimate <= found.high
    assert found.estimate == rater_scores.ece(made, "pair")
    assert found.low < gap + 0.02
    assert found.high > gap


def test_the_share_of_the_way_by_hand():
    def scored(value):
        rows = {f"{m}@{n}": np.full(5, value) for m in ("pair_accuracy", "choice_log_likelihood") for n in (5, 20, 50)}
        return [Scored(rows, {})]

    ways = command.shares_of_the_way(
        {"uniform": scored(0.2), "one type": scored(0.5), "model": scored(0.65), "ceiling": scored(0.7)}
    )
    assert ways["pair_accuracy@20"].estimate == pytest.approx(0.75)  # from one type
    assert ways["choice_log_likelihood@50"].estimate == pytest.approx(0.9)  # from uniform
    assert command.shares_of_the_way({"uniform": scored(0.2), "model": scored(0.65)}) == {}
    level = {"uniform": scored(0.2), "one type": scored(0.7), "model": scored(0.65), "ceiling": scored(0.7)}
    assert set(command.shares_of_the_way(level)) == {f"choice_log_likelihood@{n}" for n in (5, 20, 50)}


def test_metrics_are_over_raters_that_all_have():
    one, two = Scored({"m": np.array([1.0, np.nan, 3.0])}, {}), Scored({"m": np.array([1.0, 2.0, np.nan])}, {})
    found = command.matrices({"a": [one], "b": [two], "c": [Scored({}, {})]}, "m")
    assert {name: m.tolist() for name, m in found.items()} == {"a": [[1.0]], "b": [[1.0]]}
    with pytest.raises(ValueError, match="equal numbers of raters"):
        command.matrices({"a": [one], "b": [Scored({"m": np.ones(2)}, {})]}, "m")


def test_labels_about_another_encoders_embeddings_are_refused(world, tmp_path):
    for name, sha in (("model", "a" * 64), ("labels", "b" * 16)):
        source, key = ("model-0", "user_model") if name == "model" else ("labels", "labels")
        folder = shutil.copytree(world / source, tmp_path / key)
        metadata = json.loads((folder / "metadata.json").read_text())
        metadata |= {"encoder": {"sha256": sha}} if name == "model" else {"encoder_sha256": sha}
        if name == "labels":
            metadata["pool"] = str(world / "pool")
        (folder / "metadata.json").write_text(json.dumps(metadata))
    given = ["--data", str(tmp_path / "labels"), "--draws", "0"]
    with pytest.raises(SystemExit, match=r"reads embeddings of encoder a{16}, but the labels are about .* b{16}: its"):
        command.main(["--model", str(tmp_path / "user_model"), *given])
    with pytest.raises(ValueError, match=r"reads embeddings of encoder a{16}, but the labels are about .* b{16}: its"):
        labels_by_type(UserModel.load(tmp_path / "user_model"), tmp_path / "labels", np.arange(3))
    command.main(["--model", str(world / "model-0"), *given])  # whose nobody knows
