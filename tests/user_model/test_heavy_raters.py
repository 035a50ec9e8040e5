"""A rater is in a batch whole, however many labels that are: memory stays bounded, and the step is the same."""

import dataclasses

import numpy as np
import pytest
import torch

from pasta_gym.user_model.em import EM, EMConfig, rater_log_likelihoods
from pasta_gym.user_model.features import FrozenFeatures
from pasta_gym.user_model.labels import images_at_once, labels_of
from pasta_gym.user_model.network import ScoreModel
from pasta_gym.user_model.sequential import SequentialConfig, SequentialEM, SessionModel
from pasta_gym.user_model.user_model import ChoiceNumbers

DIM, K, MOST = 12, 3, 200
VALUES = "pasta_gym.user_model.labels.VALUES_AT_ONCE"


@pytest.fixture
def heavy(planted):
    """The planted world with raters 0 to 59 as one person, who then gives more than half of all that is said."""
    data, rng = planted.data, np.random.default_rng(5)

    def joined(raters):
        return np.where(raters < 60, 0, raters - 59)

    names = ("pair_raters", "rating_raters", "ranking_raters", "session_raters")
    shape = data.session_images.shape[:3]
    return dataclasses.replace(
        data,
        rater_splits=data.rater_splits[59:],
        session_satisfactions=rng.integers(3, size=shape) / 2,
        session_versus_previous=rng.integers(-1, 2, size=shape[:2]).astype(float),
        **{name: joined(getattr(data, name)) for name in names},
    )


def watched(model, seen):
    """Note how many images go through the heads at a time."""
    model.image_heads.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_images_that_fit_together_by_hand():
    assert images_at_once(64, 768) == 5461  # 2,730 pairs, more than a batch of the paper's
    assert images_at_once(10**6, 10**6) == 1


def test_a_heavy_rater_takes_bounded_memory_in_phase_1_and_the_step_is_the_same(heavy, monkeypatch):
    labels = labels_of(heavy, heavy.raters_of("train"))
    config = EMConfig(n_types=K, steps=50, trial_steps=1, batch_labels=60, sorting=None, e_step_every=0, noise=0.3)
    runs, seen, largest = [EM(labels, config), EM(labels, config)], [], 0
    watched(runs[1].model, seen)
    watched(runs[1].target, seen)
    for _ in range(25):
        whole = runs[0].step()
        with monkeypatch.context() as patch:
            patch.setattr(VALUES, MOST * K * DIM)
            parts = runs[1].step()
        largest = max(largest, len(seen))
        assert max(seen) <= MOST
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        for name, gradient in gradients(runs[0].model).items():
            assert torch.allclose(gradients(runs[1].model)[name], gradient, atol=1e-5), name
        assert torch.allclose(runs[0].prior, runs[1].prior, atol=1e-6)
        seen.clear()
        runs[1].model.load_state_dict(runs[0].model.state_dict())  # Adam makes much of a gradient's last bits
        runs[1].target.load_state_dict(runs[0].target.state_dict())
    assert largest > 2 * 3000 / MOST


def test_raters_that_fit_are_one_piece_and_the_others_lose_no_label(heavy, monkeypatch):
    labels = labels_of(heavy, heavy.raters_of("train"))
    assert labels.pieces(labels.n_images)[0][0] is labels
    pieces = labels.pieces(MOST)
    assert max(piece.n_images for piece, _ in pieces) <= MOST
    for name in ("pair_images", "pair_labels", "pair_raters", "ratings", "rating_images", "rating_raters"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece, _ in pieces]), getattr(labels, name))
    assert sum(share for piece, share in pieces if len(piece.ratings)) == pytest.approx(1)
    assert sum(share for piece, share in pieces if len(piece.pair_labels)) == pytest.approx(1)
    model = EM(labels, EMConfig(n_types=K, sorting=None, noise=0.3)).model
    expected = rater_log_likelihoods(model, labels, 0.2)
    monkeypatch.setattr(VALUES, MOST * K * DIM)
    assert torch.allclose(rater_log_likelihoods(model, labels, 0.2), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
def test_a_heavy_rater_takes_bounded_memory_in_phase_2_and_the_step_is_the_same(heavy, monkeypatch, weights):
    config = SequentialConfig(
        batch_sessions=3, batch_labels=40, in_turn_weight=0.5, pair_weight=weights[0], rating_weight=weights[1]
    )

    def start():
        sizes = {"image_scale": 1, "text_scale": 1, "noise": 0.5, "comparison_temperature": 6}
        scores = ScoreModel(DIM, K, **sizes, generator=torch.Generator().manual_seed(0))
        numbers = ChoiceNumbers(5.0, 8.0)
        options = {"rating_deviation": 0.2, "slate_dependent": True}
        model = SessionModel(scores, numbers, "softmax", FrozenFeatures.of(heavy), **options)
        raters = heavy.raters_of("train")[
            [0, 3, 7]
        ]  # the heavy one and two others: a batch has three sessions, so it is soon in one
        return SequentialEM(model, torch.full((K,), 1 / K), heavy, raters, config)

    whole, parts, seen = start(), start(), []
    watched(parts.model.scores, seen)
    watched(parts.target.scores, seen)
    figures = [whole.step()]
    monkeypatch.setattr(VALUES, MOST * K * DIM)
    figures.append(parts.step())
    assert len(seen) > 2 * 100 * 32 / MOST
    assert max(seen) <= MOST
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)
    expected, got = gradients(whole.model), gradients(parts.model)
    assert expected.keys() == got.keys()
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, rtol=1e-3, atol=1e-5), name
    found, of_parts = whole.evaluate(), parts.evaluate()
    assert max(seen) <= MOST
    assert found[1] == pytest.approx(of_parts[1], rel=1e-2)
