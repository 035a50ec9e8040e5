from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.token_iql import template_words
from agents.token_loading import SCRATCH_VALUE_TOKEN, ScratchConfig, scratch_model, scratch_tokenizer
from agents.token_model import ValueModel
from agents.token_template import Reader
from benchmarks import token_value_cost
from pasta_gym.trajectories.environment import EnvironmentConfig


@pytest.fixture
def turns(tiny):
    config = EnvironmentConfig(
        world="tiny", n_candidates=9, n_categories=3, slate_size=3, images_per_prompt=2, horizon=4
    )
    envs = config.make(2)
    yield token_value_cost.played(envs, 4, 3)
    envs.close()


def test_tokens_of_both_ways_are_counted_and_the_values_agree(turns):
    tokenizer = scratch_tokenizer([*template_words(3), "prompt", *map(str, range(1000))])
    model = ValueModel(
        scratch_model(ScratchConfig(width=16, n_layers=1, n_heads=2), len(tokenizer), seed=0),
        q_token=SCRATCH_VALUE_TOKEN,
        v_token=SCRATCH_VALUE_TOKEN,
    ).eval()
    costs = token_value_cost.measure(model, Reader(tokenizer), turns)
    # A prompt is "prompt 12": 2 tokens; the opening 1 + 3 + 2, a turn 3 x (2 + 2) + 3 + 2; a candidate 2 + 2.
    for turn, cost in enumerate(costs):
        history = 6 + 17 * turn
        assert cost.cached_tokens == 2 * (history + 9 * 4)
        assert cost.plain_tokens == 2 * 9 * (history + 4)
        assert cost.difference < 1e-5
        assert min(cost.plain_seconds, cost.cached_seconds) > 0
    lines = token_value_cost.table(costs, 2).splitlines()
    assert len(lines) == 2 + 4 + 1
    total = sum(9 * (10 + 17 * turn) for turn in range(4)), sum(42 + 17 * turn for turn in range(4))
    assert lines[-1].startswith(f"| all | {total[0]} | {total[1]} | {total[0] / total[1]:.1f}x |")


def test_what_is_shown_at_each_turn_holds_the_past(turns):
    for turn, observations in enumerate(turns):
        assert (np.asarray(observations["turn"]) == turn).all()
        assert (observations["slate_texts"][:, :turn] != "").all()


def test_the_model_is_read_on_the_device_and_in_the_precision_asked_for(tiny, monkeypatch, capsys):
    read = []

    def measure(model, reader, turns):
        read.append((model.device.type, model.precision, {p.dtype for p in model.parameters()}))
        return [token_value_cost.Cost(0, 2, 1, 0.2, 0.1, 0.0)]

    monkeypatch.setattr(token_value_cost, "measure", measure)
    monkeypatch.setattr(token_value_cost, "find_device", lambda name: torch.device({"cpu": "cpu"}[name]))
    for precision in ("float32", "bfloat16"):
        token_value_cost.main(["--conversations", "1", "--device", "cpu", "--precision", precision])
    assert read == [("cpu", "float32", {torch.float32}), ("cpu", "bfloat16", {torch.bfloat16})]
    assert "2.0x" in capsys.readouterr().out


def test_a_bad_number_is_refused():
    with pytest.raises(SystemExit, match="conversations must be at least 1, got 0"):
        token_value_cost.main(["--conversations", "0"])
