"""Both phases of the fit on another device than the CPU: the same fit, and no tensor on the wrong side."""

import dataclasses

import numpy as np
import pytest
import torch

from pasta_gym.user_model.checkpoint import Checkpoints
from pasta_gym.user_model.em import EM, fit_score_model
from pasta_gym.user_model.labels import labels_of
from pasta_gym.user_model.phases import fit_in_phases
from pasta_gym.user_model.sequential import SequentialEM, fit_sessions
from tests.user_model.other_device import Elsewhere, MixedDevicesError, pretended
from tests.user_model.test_checkpoint import CONFIG, NUMBERS, PHASE1, PHASE2, killed
from tests.user_model.test_encoder import make_encoder
from tests.user_model.test_sequential import make_data, make_scores

# Torch takes the pretended device for one without numbers.
pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert type(second[name]) is torch.Tensor, name
        assert torch.allclose(first[name], second[name], atol=1e-6), name


def test_the_pretended_device_refuses_what_a_gpu_refuses():
    with pretended() as device:
        here, there = torch.arange(4.0), torch.arange(4.0).to(device)
        for mixed in (
            lambda: here + there,
            lambda: here[there.long()],
            lambda: there.index_add_(0, torch.arange(4), here),
            lambda: there.gather(0, torch.tensor([1])),
            lambda: torch.cat([here, there]),
        ):
            with pytest.raises(MixedDevicesError):
                mixed()
        assert there[torch.tensor([2, 1])].cpu().tolist() == [2.0, 1.0]
        assert float((there * torch.tensor(2.0)).sum()) == 12.0
        assert isinstance(there, Elsewhere)
        assert (there + 1).device == device


@pytest.mark.parametrize("e_step_every", [0, 7])
def test_phase_1_is_the_same_fit_on_another_device(e_step_every):
    labels = labels_of(make_data(), np.arange(4))
    config = dataclasses.replace(PHASE1, e_step_every=e_step_every)
    at_home = fit_score_model(labels, config)
    with pretended() as device:
        run = EM(labels, config, device=device)
        run.step()
        assert {p.device for p in [*run.model.parameters(), *run.target.parameters(), run.prior]} == {device}
        away = fit_score_model(labels, config, device=device)
    assert_same_weights(at_home.model.state_dict(), away.model.state_dict())
    assert type(away.posterior) is type(away.prior) is torch.Tensor
    assert torch.allclose(at_home.posterior, away.posterior, atol=1e-5)
    assert away.log_likelihood == pytest.approx(at_home.log_likelihood, rel=1e-5)


@pytest.mark.parametrize("slate_dependent", [False, True])
@pytest.mark.parametrize("is_encoded", [False, True])
def test_phase_2_is_the_same_fit_on_another_device(is_encoded, slate_dependent):
    data, config = make_data(), dataclasses.replace(PHASE2, slate_dependent=slate_dependent)
    even = torch.full((3,), 1 / 3)

    def fit(device="cpu"):
        features = make_encoder() if is_encoded else None
        given = (make_scores(), even, NUMBERS, "softmax", data, np.arange(4), config)
        return fit_sessions(*given, features=features, device=device)

    at_home = fit()
    with pretended() as device:
        away = fit(device)
        assert type(away.model.scores.log_comparison_temperature.data) is torch.Tensor
        if is_encoded:
            assert away.model.features.clip.vision.device == device
            assert torch.allclose(away.model.features.clip.vision.cpu(), at_home.model.features.clip.vision, atol=1e-6)
        numbers = away.model.choice_numbers()
    assert_same_weights(at_home.model.scores.state_dict(), away.model.scores.state_dict())
    assert numbers.temperature == pytest.approx(at_home.model.choice_numbers().temperature)
    assert torch.allclose(at_home.posterior, away.posterior, atol=1e-5)


@pytest.mark.parametrize(("kind", "step"), [(EM, 11), (SequentialEM, 5)])
def test_a_fit_on_another_device_goes_on_after_a_kill(kind, step, tmp_path, monkeypatch):
    data = make_data()
    whole = fit_in_phases(data, CONFIG)
    with pretended() as device:

        def fit():
            return fit_in_phases(data, CONFIG, tmp_path, key="k", checkpoint_every=3, device=device)

        killed(monkeypatch, kind, step, fit)
        assert any(path.name.endswith("running") for path in tmp_path.iterdir())
        again = fit()
    assert_same_weights(whole.score_model.state_dict(), again.score_model.state_dict())
    assert np.allclose(whole.prior, again.prior, atol=1e-6)


def test_a_checkpoint_of_one_device_is_gone_on_from_on_another(tmp_path, monkeypatch):
    labels = labels_of(make_data(), np.arange(4))
    whole, kept = fit_score_model(labels, PHASE1), Checkpoints(tmp_path, "key", 4)
    killed(monkeypatch, EM, 15, lambda: fit_score_model(labels, PHASE1, checkpoints=kept))
    with pretended() as device:
        again = fit_score_model(labels, PHASE1, checkpoints=kept, device=device)
    assert_same_weights(whole.model.state_dict(), again.model.state_dict())
