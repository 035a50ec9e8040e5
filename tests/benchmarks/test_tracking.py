import numpy as np
import pytest

from benchmarks import tracking
from benchmarks.evaluate import EpisodeScores
from benchmarks.run import CONFIG_FOLDER, summary


def test_numbers_are_written_as_lines_and_as_a_table(tmp_path):
    tracker = tracking.make_tracker(tracking.TrackingConfig(), tmp_path, run_id="a", name="b", settings={})
    tracker.log({"step": 3, "training/loss": np.float32(0.5)})
    tracker.log({"evaluation/episode_return": 7.25})
    tracker.picture("slates/turn_1", np.zeros((4, 4, 3), np.uint8))
    tracker.finish()
    assert tracking.read_metrics(tmp_path) == [
        {"step": 3.0, "training/loss": 0.5},
        {"evaluation/episode_return": 7.25},
    ]
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "step,name,value",
        "3.0,training/loss,0.5",
        ",evaluation/episode_return,7.25",
    ]
    assert (tmp_path / "pictures" / "slates-turn_1.png").read_bytes()[1:4] == b"PNG"


def test_without_csv_there_is_the_contract_file_alone(tmp_path):
    tracker = tracking.make_tracker(tracking.TrackingConfig(csv=False), tmp_path, run_id="a", name="b", settings={})
    tracker.log({"x": 1})
    tracker.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_cut_short_by_a_kill_is_dropped_and_another_broken_one_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\n{"a": ')
    assert tracking.read_metrics(tmp_path) == [{"a": 1}]
    (tmp_path / "metrics.jsonl").write_text('{"a": \n{"a": 1}\n')
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        tracking.read_metrics(tmp_path)


def test_every_evaluation_metric_is_defined_once():
    scores = EpisodeScores(np.arange(2), ["a", "b"], np.zeros(2, int), np.ones(2), np.full((2, 5), 0.5))
    names = set(summary(scores)) | {"evaluation/seconds", "training/seconds"}
    assert names == set(tracking.METRICS)
    page = (CONFIG_FOLDER.parent / "docs" / "benchmarks.md").read_text()
    assert all(name in page for name in tracking.METRICS)
    assert {m.better for m in tracking.METRICS.values()} <= {"higher", "lower", "neither"}


def test_times_to_wait_are_above_zero():
    with pytest.raises(ValueError, match=r"tracking\.connect_seconds must be above 0 seconds, got 0"):
        tracking.TrackingConfig(connect_seconds=0)


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match=r"tracking\.wandb must be one of .* got 'sometimes'"):
        tracking.TrackingConfig(wandb="sometimes")


def test_a_run_that_is_taken_up_after_a_kill_drops_the_line_that_was_cut_short(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\n{"a": ')
    tracker = tracking.make_tracker(tracking.TrackingConfig(), tmp_path, run_id="a", name="b", settings={})
    tracker.log({"a": 2})
    tracker.finish()
    assert tracking.read_metrics(tmp_path) == [{"a": 1}, {"a": 2.0}]


def test_a_metric_that_is_no_number_is_named_and_a_loss_that_ran_away_is_valid_json(tmp_path):
    tracker = tracking.make_tracker(tracking.TrackingConfig(), tmp_path, run_id="a", name="b", settings={})
    for wrong in (None, "x"):
        with pytest.raises(ValueError, match=f"metric 'loss' must be a number, got {wrong!r}"):
            tracker.log({"loss": wrong})
    tracker.log({"loss": float("nan"), "other": float("inf"), "step": 2})
    tracker.finish()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"loss": null, "other": null, "step": 2.0}\n'
    (line,) = tracking.read_metrics(tmp_path)
    assert np.isnan(line["loss"])
    assert line["step"] == 2.0
