import json
import logging
import pathlib
import struct
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

from benchmarks import run as run_module
from benchmarks import runs, tracking, wandb_tracking
from benchmarks.evaluate import EpisodeScores
from benchmarks.settings import read_settings

KEY = runs.RunKey("small", "hash1", "iql", "sparse", "simulated", "mini", "surrogate", "test", 0)
SCORES = EpisodeScores(
    np.arange(3), ["a, b", "c", "d"], np.array([1, 0, 1]), np.array([5.0, 6.0, 7.0]), np.full((3, 2), 0.5)
)


class FakeRun:
    def __init__(self, wandb, named):
        self.wandb, self.named, self.url = wandb, named, "https://somewhere/run"
        self.defined, self.logged, self.artifacts, self.used, self.summary = {}, [], [], [], {}
        self.is_finished = False

    def define_metric(self, name, **options):
        self.defined[name] = options

    def log(self, values):
        if self.wandb.breaks_after is not None and len(self.logged) >= self.wandb.breaks_after:
            raise BrokenPipeError("the line\nis dead")
        self.logged.append(values)

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def use_artifact(self, artifact):
        self.used.append(artifact)

    def finish(self, *, exit_code):
        self.is_finished, self.exit_code = True, exit_code
        if self.wandb.upload_hangs:
            raise TimeoutError("finish_timeout expired")


class FakeArtifact:
    def __init__(self, name, kind, metadata):
        self.name, self.kind, self.metadata, self.files = name, kind, metadata, {}

    def add_file(self, path, *, name, policy):
        self.files[name] = (path, policy)


class FakeWandb(types.ModuleType):
    """Stands for the package and remembers what it was told."""

    Artifact = FakeArtifact

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.torn_down, self.refuses, self.breaks_after, self.upload_hangs = [], 0, None, None, False

    class Settings(types.SimpleNamespace):
        base_url = "https://api.example.org"

    class Table(types.SimpleNamespace):
        pass

    class Image(types.SimpleNamespace):
        def __init__(self, pixels):
            super().__init__(shape=pixels.shape)

    def init(self, **named):
        if self.refuses is not None and named["mode"] in self.refuses:
            folder = pathlib.Path(named["dir"]) / "wandb" / f"run-now-{named['id']}"
            folder.mkdir(parents=True)
            raise RuntimeError("401: this key\nis unknown")
        self.runs.append(FakeRun(self, named))
        return self.runs[-1]

    def teardown(self):
        self.torn_down += 1


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return fake


@pytest.fixture
def account(wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)


def play(folder, mode, **options):
    """All that a run does with its tracker."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tracking.TrackingConfig(wandb=mode, **options)
    named = {"run_id": "hash1", "name": "a run", "settings": {"seed": 0}, "key": vars(KEY)}
    tracker = tracking.make_tracker(config, folder, **named)
    tracker.log({"step": 100, "training/loss": np.float32(0.5)})
    tracker.log({"evaluation/episode_return": 6.0, "evaluation/seconds": 2.0})
    tracker.picture("slates/turn_1", np.zeros((4, 4, 3), np.uint8))
    checkpoint = folder / "checkpoint"
    (checkpoint / "inner").mkdir(parents=True, exist_ok=True)
    (checkpoint / "inner" / "agent.json").write_text("{}")
    tracker.artifact(tracking.Artifact("dataset-d1", "dataset", checkpoint / "inner", {"dataset_id": "d1"}))
    tracker.artifact(tracking.Artifact("checkpoint-hash1", "model", checkpoint, {"agent": "iql"}))
    runs.write_scores(folder / runs.SCORES, KEY, SCORES)
    tracker.outcome(folder / runs.SCORES, {"privileged": False})
    tracker.finish()
    return tracking.read_metrics(folder)


WRITTEN = [{"step": 100.0, "training/loss": 0.5}, {"evaluation/episode_return": 6.0, "evaluation/seconds": 2.0}]


def lines_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "benchmarks.wandb_tracking"]


@pytest.mark.usefixtures("account")
def test_a_run_is_grouped_and_its_metrics_are_defined_once_with_unit_and_direction(wandb, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert play(tmp_path, "online") == WRITTEN
    [run] = wandb.runs
    assert (run.named["group"], run.named["job_type"]) == ("small", "iql")
    assert run.named["tags"] == ["reward: sparse", "data: simulated", "world: mini", "images: surrogate"]
    config = run.named["config"]
    assert (config["seed"], config["key"]["agent"]) == (0, "iql")
    assert set(config["metrics"]) == set(tracking.METRICS)
    assert config["metrics"]["evaluation/seconds"]["unit"] == "seconds"
    assert run.defined["training/*"] == {"step_metric": "step"}
    assert run.defined["evaluation/episode_return"] == {"summary": "max"}
    assert run.defined["evaluation/seconds"] == {"summary": "min"}
    assert set(run.defined) == {"training/*", *tracking.METRICS}
    assert lines_of(caplog) == ["W&B: online, https://somewhere/run"]


@pytest.mark.usefixtures("account")
def test_episodes_summary_and_artifacts_are_sent(wandb, tmp_path):
    play(tmp_path, "online")
    [run] = wandb.runs
    assert run.logged[:2] == WRITTEN
    assert run.logged[2]["slates/turn_1"].shape == (4, 4, 3)
    table = run.logged[3]["episodes"]
    columns = ["episode", "prompt", "user_type", "episode_return", "final_utility", "utility_1", "utility_2"]
    assert table.columns == columns
    assert table.data == [
        [0, "a, b", 1, 5.0, 0.5, 0.5, 0.5],
        [1, "c", 0, 6.0, 0.5, 0.5, 0.5],
        [2, "d", 1, 7.0, 0.5, 0.5, 0.5],
    ]
    assert run.summary == {
        "evaluation/episode_return": 6.0,
        "evaluation/seconds": 2.0,
        "episodes_played": 3,
        "privileged": False,
    }
    [dataset], [model] = run.used, run.artifacts
    assert (dataset.name, dataset.kind, dataset.metadata) == ("dataset-d1", "dataset", {"dataset_id": "d1"})
    assert (model.name, model.kind) == ("checkpoint-hash1", "model")
    assert model.files == {"inner/agent.json": (str(tmp_path / "checkpoint/inner/agent.json"), "immutable")}
    assert (run.is_finished, run.exit_code) == (True, 0)


@pytest.mark.usefixtures("account")
def test_artifacts_can_be_left_out(wandb, tmp_path):
    play(tmp_path, "online", artifacts=False)
    assert (wandb.runs[0].used, wandb.runs[0].artifacts) == ([], [])


@pytest.mark.usefixtures("account")
def test_a_key_that_is_refused_makes_the_run_offline_and_one_line_says_so(wandb, tmp_path, caplog):
    wandb.refuses = {"online"}
    assert play(tmp_path, "online") == WRITTEN
    [run] = wandb.runs
    assert run.named["mode"] == "offline"
    assert [artifact.kind for artifact in run.artifacts] == ["dataset", "model"]
    assert wandb.torn_down == 1
    assert not list(tmp_path.glob("wandb/run-now-*"))
    [line] = lines_of(caplog)
    assert line.startswith("W&B: offline (RuntimeError: 401: this key is unknown); `wandb sync`")


def test_online_without_an_account_asks_nobody_and_goes_on_offline(wandb, tmp_path, caplog):
    play(tmp_path, "online")
    assert [run.named["mode"] for run in wandb.runs] == ["offline"]
    assert [line[:24] for line in lines_of(caplog)] == ["W&B: offline (no account"]


def test_the_netrc_file_holds_an_account_of_the_server_in_use(wandb, tmp_path):
    (tmp_path / "netrc").write_text("machine api.example.org login user password secret\n")
    play(tmp_path, "auto")
    (tmp_path / "netrc").write_text("machine elsewhere.org login user password secret\n")
    play(tmp_path / "other", "auto")
    assert [run.named["mode"] for run in wandb.runs] == ["online", "offline"]


@pytest.mark.usefixtures("account")
def test_auto_does_what_the_environment_says(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    play(tmp_path, "auto")
    assert [run.named["mode"] for run in wandb.runs] == ["offline"]


def test_without_the_package_the_run_completes_and_says_so_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert play(tmp_path, "online") == WRITTEN
    [line] = lines_of(caplog)
    assert line.startswith("W&B: not installed")


def test_a_package_that_cannot_even_work_offline_is_left_out(wandb, tmp_path, caplog):
    wandb.refuses = {"offline"}
    assert play(tmp_path, "offline") == WRITTEN
    assert [line[:9] for line in lines_of(caplog)] == ["W&B: off "]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("breaks_after", [0, 1, 3])
def test_a_connection_that_breaks_later_is_said_once(wandb, tmp_path, caplog, breaks_after):
    wandb.breaks_after = breaks_after
    assert play(tmp_path, "online") == WRITTEN
    assert lines_of(caplog) == [f"W&B: stopped after BrokenPipeError: the line is dead; the numbers are in {tmp_path}"]
    assert wandb.runs[0].is_finished


@pytest.mark.usefixtures("account")
def test_an_upload_that_does_not_end_is_left_to_sync(wandb, tmp_path, caplog):
    wandb.upload_hangs = True
    assert play(tmp_path, "online") == WRITTEN
    assert wandb.runs[0].named["settings"].finish_timeout == 600.0
    [line] = lines_of(caplog)
    assert "`wandb sync --include-online`" in line


def test_an_offline_run_that_is_taken_up_is_told_what_it_had_logged(wandb, tmp_path):
    old = tmp_path / "wandb" / "offline-run-before-hash1"
    old.mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 50.0, "training/loss": 0.75}\n')
    play(tmp_path, "offline")
    assert not old.exists()
    assert wandb.runs[0].logged[:3] == [{"step": 50.0, "training/loss": 0.75}, *WRITTEN]


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


def items(pairs):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in pairs}


def parse(path):
    """History, summary, metric definitions, artifacts and configuration of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    found = {"history": [], "summary": {}, "metrics": {}, "artifacts": {}, "config": {}, "run": None, "exits": []}
    for data in records_of(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "exit":
            found["exits"].append(record.exit.exit_code)
        elif kind == "run":
            found["run"], found["config"] = record.run, items(record.run.config.update)
        elif kind == "history":
            values = {name: value for name, value in items(record.history.item).items() if name[0] != "_"}
            found["history"].append(values)
        elif kind == "summary":
            found["summary"] |= items(record.summary.update)
        elif kind == "metric":
            found["metrics"][record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            found["artifacts"][record.artifact.name] = record.artifact
    return found


A_SWEEP = """
    import logging, os, pathlib, sys
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    sys.path.insert(0, {tests!r})
    import test_wandb_tracking as here

    def play(part, mode):
        assert here.play(pathlib.Path({folder!r}) / part, mode, connect_seconds=1) == here.WRITTEN

    os.environ |= {{"WANDB_API_KEY": "short", "WANDB_BASE_URL": "http://127.0.0.1:9"}}
    play("broken key", "online")
    os.environ["WANDB_API_KEY"] = "x" * 40
    play("no network", "online")
    play("offline", "offline")
    import wandb
    assert wandb.run is None
"""


def test_the_real_package_writes_offline_runs_with_all_that_the_files_have(tmp_path, monkeypatch):
    for name in ("WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    program = textwrap.dedent(A_SWEEP.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path)))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Weave" not in ended.stderr
    said = [line[:27] for line in ended.stderr.splitlines() if line.startswith("W&B:")]
    assert said == ["W&B: offline (Authenticatio", "W&B: offline (CommError: Fa", "W&B: offline; `wandb sync` "]
    for part in ("broken key", "no network", "offline"):
        folder = tmp_path / part
        [log] = folder.glob("wandb/*run-*/*.wandb")
        assert (log.stem, log.parent.name[:12]) == ("run-hash1", "offline-run-")
        found = parse(log)
        assert found["exits"] == [0]
        assert found["run"].run_group == "small"
        assert found["run"].job_type == "iql"
        assert found["config"]["key"]["world"] == "mini"
        assert found["config"]["metrics"]["evaluation/episode_return"]["better"] == "higher"
        assert found["metrics"]["training/*"].step_metric == "step"
        assert found["metrics"]["evaluation/episode_return"].summary.max
        # The same numbers as metrics.jsonl and as the table of runs.
        assert found["history"][:2] == tracking.read_metrics(folder)
        assert found["summary"]["evaluation/episode_return"] == 6.0
        assert found["summary"]["episodes_played"] == 3
        # All that a later `wandb sync` reads is in the run directory.
        media = {path.name.split("_")[0] for path in log.parent.glob("files/media/*/**/*.*")}
        assert media == {"turn", "episodes"}
        assert {"dataset-d1", "checkpoint-hash1"} < set(found["artifacts"])
        for artifact in found["artifacts"].values():
            for entry in artifact.manifest.contents:
                assert pathlib.Path(entry.local_path).is_relative_to(folder)
                assert pathlib.Path(entry.local_path).stat().st_size == entry.size
        [table] = log.parent.glob("files/media/table/*.json")
        columns, rows = wandb_tracking.episode_table(folder / runs.SCORES)
        stored = json.loads(table.read_text())
        assert (stored["columns"], stored["data"]) == (columns, rows)


def test_a_run_that_fails_is_a_failed_one_to_the_real_package(configure, monkeypatch):
    import wandb

    def broken(*arguments, **named):
        raise RuntimeError("the painter is out of paint")

    monkeypatch.setattr(run_module, "evaluate", broken)
    settings = read_settings(configure("tracking=wandb_offline"))
    with pytest.raises(RuntimeError, match="out of paint"):
        run_module.run(settings)
    wandb.teardown()
    [log] = settings.folder.glob("wandb/offline-run-*/*.wandb")
    assert parse(log)["exits"] == [1]
