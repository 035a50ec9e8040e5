import json
import pathlib
import struct
import time

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


def test_auto_is_offline_without_an_account(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tracking.wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert tracking.wandb_mode("auto") == "online"
    assert tracking.wandb_mode("offline") == "offline"


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match=r"tracking\.wandb must be one of .* got 'sometimes'"):
        tracking.TrackingConfig(wandb="sometimes")


def records_of(content):
    """Split an offline run's file: LevelDB's log format (blocks of 32 kB) behind a header of 7 bytes."""
    assert content[:4] == b":W&B"
    at, record = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_two_offline_runs_in_one_process_are_two_folders_that_parse(tmp_path):
    import wandb
    from wandb.proto import wandb_internal_pb2

    for number in (1, 2):
        folder = tmp_path / f"run{number}"
        tracker = tracking.make_tracker(
            tracking.TrackingConfig(wandb="offline"),
            folder,
            run_id=f"hash{number}",
            name=f"run {number}",
            settings={"seed": number},
        )
        tracker.log({"step": 1, "evaluation/episode_return": 5.5 + number})
        tracker.finish()
        [log] = pathlib.Path(folder).glob("wandb/offline-run-*/*.wandb")
        assert log.stem == f"run-hash{number}"
        logged, is_whole, deadline = {}, False, time.monotonic() + 60
        while not is_whole and time.monotonic() < deadline:  # W&B's own process writes the end of the file
            time.sleep(0.05)
            for data in records_of(log.read_bytes()):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                is_whole |= record.WhichOneof("record_type") == "exit"
                for item in record.history.item:
                    logged[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        assert is_whole
        assert logged["evaluation/episode_return"] == 5.5 + number
    assert wandb.run is None
