"""Logs without sessions: refused where they are needed, and else fitted, with choice numbers that say they are not."""

import json
import logging

import gymnasium as gym
import pytest

from benchmarks import fit_user_model as command
from benchmarks import score_images
from pasta_gym.user_model import user_model
from pasta_gym.user_model.user_model import UserModel
from tests.benchmarks.test_fit_user_model import Shop, settings  # noqa: F401

ALONE = "user_model.phase2=false"


class Votes(Shop):
    """The same raters, who chose nothing."""

    def sessions(self):
        return iter(())


class VotesOfTrain(Shop):
    """Raters of whom the held-out ones alone chose."""

    def sessions(self):
        return (made for made in super().sessions() if self.rater_split(made.rater) == "test")


def opened(monkeypatch, dataset):
    monkeypatch.setattr(command, "open_dataset", lambda kind, **options: dataset())


@pytest.mark.parametrize("override", ["user_model.phase1=true", "user_model.phase1=false"])
def test_phase_2_is_refused_before_anything_is_embedded(settings, monkeypatch, override):  # noqa: F811
    given, shop = settings(override), command.open_dataset
    monkeypatch.setattr(command, "gather", lambda *a, **k: pytest.fail("pictures were embedded"))
    opened(monkeypatch, Votes)
    with pytest.raises(ValueError, match=r"no sessions in mini_raters, .*preferences/paper.*user_model\.phase2=false"):
        command.run(given)
    # One dataset that has some is enough, wherever it stands.
    monkeypatch.setattr(command, "open_dataset", lambda kind, **options: Votes() if kind == "votes" else shop(kind))
    command.require_sessions([{"kind": "votes"}, {"kind": "shop"}], None)
    with pytest.raises(ValueError, match=r"limits\.max_sessions is 0.*user_model\.phase2=false"):
        command.require_sessions([{"kind": "shop"}], 0)


def test_phase_1_alone_is_fitted_and_its_choice_numbers_say_what_they_are(settings, monkeypatch, caplog):  # noqa: F811
    opened(monkeypatch, Votes)
    out = command.run(settings(ALONE, "++user_model.choice.temperature=3.5", "++user_model.choice.sharpness=7.0"))
    metadata = json.loads((out / "metadata.json").read_text())
    assert (metadata["choice_is_fitted"], set(metadata["phases"])) == (False, {"1"})
    assert json.loads((out / "one_type" / "metadata.json").read_text())["choice_is_fitted"] is False
    card = (out / "card.md").read_text()
    assert "How decidedly people choose: there were no sessions" in card
    assert "Temperature 3.5; sharpness 7, both as configured" in card
    assert "nats each over a uniform guess" not in card
    assert metadata["held_out"]["50"]["pairs"] > 0
    json.dumps(metadata, allow_nan=False)
    # Whoever loads it is told once, a folder.
    user_model._warn_of_configured_choices.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "pasta_gym"):
        for _ in range(2):
            with gym.make("PastaT2I-v0", images="painter", user_model=str(out)) as env:
                env.reset(seed=0)
        model = UserModel.load(out)
    assert [r.getMessage() for r in caplog.records].count(caplog.records[0].getMessage()) == len(caplog.records) == 1
    assert "fitted without sessions" in caplog.text
    assert "(3.5)" in caplog.text
    assert (model.temperature, model.sharpness, model.has_fitted_choices) == (3.5, 7.0, False)
    assert [(model.with_aggregator(a).temperature, model.with_aggregator(a).sharpness) for a in ("mean", "max")] == [
        (3.5, 0.0)
    ] * 2
    assert not model.with_aggregator("max").has_fitted_choices


def test_what_is_fitted_on_sessions_is_not_warned_of(settings, caplog):  # noqa: F811
    out = command.run(settings(ALONE, "one_type=false"))
    assert "choice_is_fitted" not in json.loads((out / "metadata.json").read_text())
    assert "as configured" not in (out / "card.md").read_text()
    assert UserModel.load(out).has_fitted_choices
    assert "without sessions" not in caplog.text


def test_sessions_of_held_out_raters_alone_fit_nothing_and_are_predicted(settings, monkeypatch, caplog):  # noqa: F811
    opened(monkeypatch, VotesOfTrain)
    with pytest.raises(ValueError, match=r"the train split holds no sessions \(all splits hold 3\)"):
        command.run(settings("one_type=false"))
    model = UserModel.load(command.run(settings(ALONE, "one_type=false")))
    assert not model.has_fitted_choices
    assert model.temperature == 5.0
    assert model.metadata["held_out"]["50"]["choices"] == 6
    assert "the choice numbers stay as configured" in caplog.text


def test_the_command_that_takes_scores_leaves_phase_2_out_where_there_are_no_sessions(settings, monkeypatch):  # noqa: F811
    words, row = ["data=preferences/pickapic"], "+scores.own=own.npy"

    def made(*overrides):
        return score_images.fit_command(settings(*overrides), [*words, *overrides], row)

    assert made() == f"python -m benchmarks.fit_user_model {words[0]} {row}"
    opened(monkeypatch, Votes)
    assert made() == f"python -m benchmarks.fit_user_model {words[0]} {ALONE} {row}"
    assert made(ALONE) == f"python -m benchmarks.fit_user_model {words[0]} {ALONE} {row}"
    trained = made("user_model=paper", "user_model.em.trial_steps=1")
    assert trained.endswith(f"{ALONE} user_model.train_encoder=false {row}")
