"""A phase that is stopped at any step goes on and ends in the same user model, bit by bit."""

import dataclasses
import errno
import itertools
import json
import logging
import shutil

import numpy as np
import pytest
import torch

from pasta_gym import files
from pasta_gym.user_model import checkpoint, em, phases, sequential
from pasta_gym.user_model.checkpoint import Checkpoints, State, phase_key
from pasta_gym.user_model.choice import ChoiceConfig
from pasta_gym.user_model.data import Source
from pasta_gym.user_model.em import EMConfig, fit_score_model
from pasta_gym.user_model.labels import labels_of
from pasta_gym.user_model.phases import PhasesConfig, fit_in_phases
from pasta_gym.user_model.sequential import SequentialConfig, fit_sessions
from pasta_gym.user_model.sorting import SortingConfig
from tests.user_model.test_encoder import make_encoder
from tests.user_model.test_sequential import NUMBERS, make_data, make_scores

PHASE1 = EMConfig(
    n_types=2,
    steps=16,
    restarts=3,
    trial_steps=6,
    batch_labels=5,
    target_every=4,
    sorted_steps=5,
    restart_period=7,
    sorting=SortingConfig(starts=2, steps=3),
)
PHASE2 = SequentialConfig(steps=14, batch_sessions=3, batch_labels=2, learning_rate=0.01, target_every=4)
CONFIG = PhasesConfig(em=PHASE1, sequential=PHASE2, choice=ChoiceConfig(steps=2))


@pytest.fixture(autouse=True)
def figures_often(monkeypatch):
    for module in (em, sequential):
        monkeypatch.setattr(module, "FIGURES_EVERY", 5)


class Killed(BaseException):
    """Stands in for a signal: nothing catches it."""


def kill_at(monkeypatch, kind, step):
    """Let the ``step``-th call of a run's step stop everything."""
    calls, original = itertools.count(1), kind.step

    def step_or_die(self):
        if next(calls) == step:
            raise Killed
        return original(self)

    monkeypatch.setattr(kind, "step", step_or_die)


def killed(monkeypatch, kind, step, fit):
    with monkeypatch.context() as patch:
        kill_at(patch, kind, step)
        with pytest.raises(Killed):
            fit()


def calls_of(monkeypatch, kind, fit):
    """What a fit returns, and how many steps it took."""
    calls, original = itertools.count(), kind.step
    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", lambda self: (next(calls), original(self))[1])
        return fit(), next(calls)


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("seed", range(4))
def test_phase_1_goes_on_after_a_kill_at_a_random_step(seed, tmp_path, monkeypatch):
    # 3 trials of 6 steps and the 10 left of the best start: 28.
    step = int(np.random.default_rng(seed).integers(6, 28)) if seed else 11  # 11 is in the second trial
    labels, places = labels_of(make_data(), np.arange(4)), itertools.count()
    # Both kinds of batches; the E-step over everybody is not due when the fit goes on.
    config = dataclasses.replace(PHASE1, e_step_every=(7, 0)[seed % 2])

    def fit(kept=None):
        figures = []
        return fit_score_model(labels, config, figures.append, checkpoints=kept), figures

    whole, said = fit()
    assert [row["step"] for row in said] == [10, 15]
    kept = Checkpoints(tmp_path / str(next(places)), "key", 4)
    killed(monkeypatch, em.EM, step, lambda: fit(kept))
    (again, said_again), n = calls_of(monkeypatch, em.EM, lambda: fit(kept))
    assert n < min(28, 28 - (step - 1) + 6)
    assert_same(whole.model.state_dict(), again.model.state_dict())
    assert torch.equal(whole.posterior, again.posterior)
    assert (whole.trials, whole.log_likelihood, said) == (again.trials, again.log_likelihood, said_again)


@pytest.mark.parametrize("is_encoded", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_phase_2_goes_on_after_a_kill_at_a_random_step(seed, is_encoded, tmp_path, monkeypatch):
    step = int(np.random.default_rng(seed).integers(5, PHASE2.steps))
    data, kept = make_data(), Checkpoints(tmp_path, "key", 4)

    def fit(kept=None):
        figures = []
        fitted = fit_sessions(
            make_scores(),
            torch.full((3,), 1 / 3),
            NUMBERS,
            "softmax",
            data,
            np.arange(4),
            PHASE2,
            features=make_encoder() if is_encoded else None,
            log=figures.append,
            checkpoints=kept,
        )
        return fitted, figures

    whole, said = fit()
    killed(monkeypatch, sequential.SequentialEM, step, lambda: fit(kept))
    (again, said_again), n = calls_of(monkeypatch, sequential.SequentialEM, lambda: fit(kept))
    assert n == PHASE2.steps - (step - 1) // 4 * 4
    assert_same(whole.model.state_dict(), again.model.state_dict())
    assert ("features.clip.vision" in whole.model.state_dict()) is is_encoded
    assert torch.equal(whole.posterior, again.posterior)
    assert (whole.log_likelihood, said) == (again.log_likelihood, said_again)


def test_both_phases_go_on_and_leave_no_checkpoint(tmp_path, monkeypatch):
    data = make_data()
    whole = fit_in_phases(data, CONFIG)

    def fit():
        return fit_in_phases(data, CONFIG, tmp_path, key="k", checkpoint_every=3)

    killed(monkeypatch, em.EM, 17, fit)
    assert [path.name for path in tmp_path.iterdir()] == ["phase1-2-types-running"]
    killed(monkeypatch, em.EM, 5, fit)
    killed(monkeypatch, sequential.SequentialEM, 9, fit)
    assert {path.name for path in tmp_path.iterdir()} == {"phase1-2-types", "phase2-2-types-running"}
    with monkeypatch.context() as patch:
        patch.setattr(phases, "fit_phase1", lambda *a, **k: pytest.fail("phase 1 was done"))
        again, n = calls_of(patch, sequential.SequentialEM, fit)
    assert n == PHASE2.steps - 6
    assert [path.name for path in tmp_path.iterdir()] == ["phase1-2-types"]
    assert_same(whole.score_model.state_dict(), again.score_model.state_dict())
    assert np.array_equal(whole.prior, again.prior)
    assert (whole.temperature, whole.sharpness, whole.slopes) == (again.temperature, again.sharpness, again.slopes)
    assert whole.metadata["history"] == again.metadata["history"]


def test_a_user_model_is_saved_before_its_checkpoints_go(tmp_path, monkeypatch):
    def save(model):
        assert (tmp_path / "phase2-2-types-running" / checkpoint.RECORD).is_file()
        raise Killed

    with pytest.raises(Killed):
        fit_in_phases(make_data(), CONFIG, tmp_path, save=save, checkpoint_every=14)
    n = calls_of(monkeypatch, sequential.SequentialEM, lambda: fit_in_phases(make_data(), CONFIG, tmp_path))[1]
    assert n == 0


def with_other_labels(data):
    labels = data.pair_labels.copy()
    labels[0] = 0.25
    return dataclasses.replace(data, pair_labels=labels)


@pytest.mark.parametrize("change", ["configuration", "data"])
def test_a_checkpoint_of_something_else_is_passed_over_with_a_message(change, tmp_path, monkeypatch, caplog):
    data = make_data()
    killed(monkeypatch, em.EM, 10, lambda: fit_in_phases(data, CONFIG, tmp_path, checkpoint_every=3))
    other = dataclasses.replace(CONFIG, em=dataclasses.replace(PHASE1, learning_rate=1e-2))
    data, config = (data, other) if change == "configuration" else (with_other_labels(data), CONFIG)
    whole = fit_in_phases(data, config)
    with caplog.at_level(logging.WARNING):
        again = fit_in_phases(data, config, tmp_path, checkpoint_every=3)
    assert "is of another configuration or of other data; this phase begins anew" in caplog.text
    assert_same(whole.score_model.state_dict(), again.score_model.state_dict())


def test_a_phase_1_of_other_labels_is_not_read_back(tmp_path):
    data, changed = make_data(), with_other_labels(make_data())
    fit_in_phases(data, CONFIG, tmp_path, key="k")
    kept = fit_in_phases(data, CONFIG, tmp_path, key="k")
    again = fit_in_phases(changed, CONFIG, tmp_path, key="k")
    fresh = fit_in_phases(changed, CONFIG)
    assert_same(fresh.score_model.state_dict(), again.score_model.state_dict())
    before, after = (model.score_model.state_dict() for model in (kept, again))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_key_of_a_phase_depends_on_labels_embeddings_and_settings():
    data = make_data()
    moved = data.image_embeddings.copy()
    moved[17, 2] += 1e-3
    several = [
        phase_key(data, "a", {"b": 1}),
        phase_key(data, "a", {"b": 2}),
        phase_key(data, "c", {"b": 1}),
        phase_key(with_other_labels(data), "a", {"b": 1}),
        phase_key(dataclasses.replace(data, image_embeddings=moved), "a", {"b": 1}),
        phase_key(dataclasses.replace(data, session_satisfactions=None), "a", {"b": 1}),
    ]
    assert len(set(several)) == len(several)
    assert several[0] == phase_key(make_data(), "a", {"b": 1})
    named = dataclasses.replace(data, sources=(Source("shop", "people", np.arange(data.n_raters)),))
    assert several[0] == phase_key(named, "a", {"b": 1})  # whose labels they are changes no fit


def state_of(value):
    return {"run": State({"x": torch.full((3,), float(value))}, {"taken": value})}


def test_the_last_checkpoint_counts_and_is_all_there_is(tmp_path):
    kept = Checkpoints(tmp_path / "c", "key", 1)
    assert kept.load() is None
    for value in range(12):
        kept.save(state_of(value), {"n": [value, float("nan")]})
    runs, numbers = kept.load()
    assert runs["run"].tensors["x"].tolist() == [11.0] * 3
    assert (runs["run"].numbers, numbers["n"][0]) == ({"taken": 11}, 11)
    assert len(list((tmp_path / "c").iterdir())) == 2
    kept.remove()
    assert not (tmp_path / "c").exists()
    kept.remove()


@pytest.mark.parametrize("step", ["_sync", "write_text"])  # after the tensors, and before the record of them
def test_a_kill_while_writing_leaves_the_checkpoint_before(step, tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, "key", 1)
    kept.save(state_of(1), {})

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, step, die)
        with pytest.raises(Killed):
            kept.save(state_of(2), {})
    assert kept.load()[0]["run"].numbers == {"taken": 1}
    kept.save(state_of(3), {})
    assert kept.load()[0]["run"].numbers == {"taken": 3}
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    with pytest.raises(Killed), files.whole_file(tmp_path / checkpoint.RECORD) as partial:  # noqa: PT012
        partial.write_text("half")
        shutil.copy(partial, partial.with_name(f"{partial.name}0"))  # what a kill leaves
        raise Killed
    kept.remove()
    assert not tmp_path.exists()


def cut_tensors(folder):
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-5])


def lose_tensors(folder):
    (path,) = folder.glob("*.safetensors")
    path.unlink()


@pytest.mark.parametrize(
    "breaks",
    [
        cut_tensors,
        lose_tensors,
        lambda folder: (folder / checkpoint.RECORD).write_text("{"),
        lambda folder: (folder / checkpoint.RECORD).write_text("[]"),
        lambda folder: (folder / checkpoint.RECORD).write_text(json.dumps({"format": 1, "key": "key"})),
    ],
)
def test_a_broken_checkpoint_is_passed_over_with_a_message(breaks, tmp_path, caplog):
    kept = Checkpoints(tmp_path, "key", 1)
    kept.save(state_of(1), {})
    breaks(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert kept.load() is None
    assert "cannot be read" in caplog.text


def test_a_full_disk_costs_a_warning_not_the_fit(tmp_path, monkeypatch, caplog):
    kept = Checkpoints(tmp_path, "key", 1)
    kept.save(state_of(1), {})

    def full(path):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(checkpoint, "_sync", full)
    with caplog.at_level(logging.WARNING):
        kept.save(state_of(2), {})
    assert "no space left" in caplog.text
    assert kept.load()[0]["run"].numbers == {"taken": 1}
    assert len(list(tmp_path.iterdir())) == 2


def test_tensors_that_share_memory_are_kept_too(tmp_path):
    kept, x = Checkpoints(tmp_path, "key", 1), torch.arange(4.0)
    kept.save({"run": State({"a": x, "b": x, "c": x[1:3]}, {})}, {})
    assert [t.tolist() for t in kept.load()[0]["run"].tensors.values()] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2]]


def test_no_step_is_no_distance():
    with pytest.raises(ValueError, match="between two checkpoints must be at least 1, got 0"):
        Checkpoints(None, "key", 0)


def test_phase_2_from_other_choice_numbers_begins_anew(tmp_path, monkeypatch, caplog):
    data, no_first = make_data(), dataclasses.replace(CONFIG, phase1=False)
    killed(
        monkeypatch, sequential.SequentialEM, 10, lambda: fit_in_phases(data, no_first, tmp_path, checkpoint_every=3)
    )
    other = dataclasses.replace(no_first, choice=dataclasses.replace(CONFIG.choice, temperature=7.0))
    with caplog.at_level(logging.WARNING):
        fit_in_phases(data, other, tmp_path, checkpoint_every=3)
    assert "begins anew" in caplog.text
