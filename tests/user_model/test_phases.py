"""What the phases hand on to each other."""

import dataclasses

import numpy as np
import pytest

from pasta_gym.user_model import phases
from pasta_gym.user_model.phases import PhasesConfig, fit_in_phases, untrained, with_fitted_choices
from pasta_gym.user_model.user_model import ChoiceNumbers, UserModel
from tests.user_model.test_checkpoint import CONFIG, with_other_labels
from tests.user_model.test_sequential import make_data, plant


def test_phase_1_of_other_labels_is_not_read_back(tmp_path, monkeypatch):
    fitted = []
    real = phases.fit_phase1
    monkeypatch.setattr(phases, "fit_phase1", lambda *a, **k: (fitted.append(1), real(*a, **k))[1])
    for _ in range(2):
        fit_in_phases(make_data(), CONFIG, tmp_path, key="k")
    assert len(fitted) == 1
    fit_in_phases(with_other_labels(make_data()), CONFIG, tmp_path, key="k")
    assert len(fitted) == 2
    fit_in_phases(make_data(), dataclasses.replace(CONFIG, aggregator="max"), tmp_path, key="k")
    assert len(fitted) == 3


@pytest.mark.parametrize("tau", [2.0, 20.0])
def test_choice_numbers_of_untrained_scores_are_fitted_where_the_scores_say_something(tau):
    data, _, truth, _ = plant(numbers=ChoiceNumbers(tau, 20.0))
    start = UserModel(truth, np.array([0.7, 0.3]), {"softmax": ChoiceNumbers(5.0, 10.0)}, "softmax")
    found = with_fitted_choices(start, data, PhasesConfig())
    # The types are not told apart yet, which costs much of tau; a smaller one than the start's is not taken.
    assert 5.5 < found.temperature < tau if tau > 5.0 else found is start
    assert start.temperature == 5.0


def test_without_phase_1_phase_2_starts_from_fitted_choice_numbers(monkeypatch):
    data, config = plant(numbers=ChoiceNumbers(20.0, 20.0))[0], dataclasses.replace(CONFIG, phase1=False)
    begun = []
    monkeypatch.setattr(phases, "fit_phase2", lambda start, *a, **k: begun.append(start) or start)
    fit_in_phases(data, config)
    expected = with_fitted_choices(untrained(data, config), data, config)
    assert begun[0].temperature == expected.temperature
    assert begun[0].sharpness == expected.sharpness
