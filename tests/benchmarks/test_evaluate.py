"""What the evaluation asks of agents."""

import numpy as np
import pytest

from benchmarks.evaluate import EvaluationConfig, evaluate
from pasta_gym.trajectories import EnvironmentConfig


class Answers:
    """Answers what a function makes of the shape ``(B, L)``."""

    name, privileged = "mine", False

    def __init__(self, answer):
        self.answer = answer

    def act(self, observations, seeds):
        return self.answer((len(seeds), observations["slate_prompts"].shape[2]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda shape: np.full(shape, 25), r"indices in 0\.\.24, got 25\.\.25"),
        (lambda shape: np.full(shape, -1), r"indices in 0\.\.24, got -1\.\.-1"),
        (lambda shape: np.zeros(shape), "integers, got float64"),
        (lambda shape: np.zeros((*shape, 1), np.int64), r"shape \(3, 4\).*got shape \(3, 4, 1\)"),
        (lambda shape: np.zeros(shape[0], np.int64), r"shape \(3, 4\).*got shape \(3,\)"),
        (lambda shape: None, r"shape \(3, 4\)"),
    ],
)
def test_an_agent_that_answers_wrongly_is_named(answer, message):
    envs = EnvironmentConfig().make(3, reveal=True)
    with pytest.raises(ValueError, match=rf"act of the agent 'mine' \(Answers\): an action .*{message}"):
        evaluate(Answers(answer), envs, EvaluationConfig(n_episodes=3), agent_seed=0)
