"""What every agent must do, as functions to call from a test: hand them an agent of your own."""

from __future__ import annotations

import numpy as np

from agents import Agent, LearningAgent


def check_agent(agent: Agent, observations: dict, seeds: np.ndarray, *, one_per_category: bool = True) -> None:
    """Check an agent on a batch of observations ``(B, ...)`` with decision keys ``(B,)``, B at least 2."""
    assert isinstance(agent.name, str)
    assert agent.name, "an agent has a name"
    assert isinstance(agent.privileged, bool), "an agent says whether it is privileged"
    batch, n_candidates = observations["categories"].shape
    slate_size = observations["slate_prompts"].shape[2]
    before = {key: value.copy() for key, value in observations.items()}

    slates = agent.act(observations, seeds)
    assert slates.shape == (batch, slate_size)
    assert slates.dtype == np.int64
    assert slates.min() >= 0
    assert slates.max() < n_candidates
    for row, slate in enumerate(slates):
        assert len(set(slate)) == slate_size, "an index occurs once"
        if one_per_category:
            assert len(set(observations["categories"][row, slate])) == slate_size, "one candidate per category"

    assert np.array_equal(agent.act(observations, seeds), slates), "the same input gives the same slates"
    for key, value in observations.items():
        assert np.array_equal(value, before[key]), f"observations[{key!r}] was written to"
    for row in range(batch):
        alone = agent.act({key: value[row : row + 1] for key, value in observations.items()}, seeds[row : row + 1])
        assert np.array_equal(alone[0], slates[row]), "a row does not depend on the rest of the batch"
    backwards = agent.act({key: value[::-1].copy() for key, value in observations.items()}, seeds[::-1].copy())
    assert np.array_equal(backwards[::-1], slates), "rows may come in any order"


def check_learner(make, dataset, folder, observations: dict, seeds: np.ndarray, *, one_per_category=True) -> None:
    """Check a learning agent: ``make()`` gives an untrained one; it is trained twice on ``dataset``."""
    logs: list[dict[str, float]] = []
    agent: LearningAgent = make()
    agent.train(dataset, seed=3, log=logs.append)
    check_agent(agent, observations, seeds, one_per_category=one_per_category)
    assert logs, "training logs something"
    for metrics in logs:
        for name, value in metrics.items():
            assert isinstance(name, str)
            assert isinstance(value, float), name
            assert np.isfinite(value), name

    slates = agent.act(observations, seeds)
    again = make()
    again.train(dataset, seed=3, log=lambda metrics: None)
    assert np.array_equal(again.act(observations, seeds), slates), "the same seed gives the same agent"

    agent.save(folder)
    loaded = type(agent).load(folder)
    assert loaded.name == agent.name
    assert loaded.privileged == agent.privileged
    assert np.array_equal(loaded.act(observations, seeds), slates), "a stored agent shows the same slates"
