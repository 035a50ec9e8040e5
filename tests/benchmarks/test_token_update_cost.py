from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from agents.token_iql import TokenIQLAgent
from benchmarks import token_update_cost
from pasta_gym.torchvision_ops import ensure_importable

TINY = ["--shape", "tiny", "--device", "cpu", "--batch-size", "3", "--micro-batch-size", "2", "--words", "2"]


def measured(capsys, *options):
    token_update_cost.main([*TINY, "--repeats", "2", *options])
    return json.loads(capsys.readouterr().out)


def test_the_agents_own_steps_are_timed(capsys, monkeypatch):
    sizes, own = [], TokenIQLAgent._step

    def step(agent, model, target, logged, episodes, optimiser):
        sizes.append((len(episodes), agent.config.micro_batch_size))
        return own(agent, model, target, logged, episodes, optimiser)

    monkeypatch.setattr(TokenIQLAgent, "_step", step)
    cost = measured(capsys)
    assert sizes == [(3, 2)] * 3  # the first warms up
    assert (cost["device"], cost["precision"], cost["tuning"], cost["histories"]) == ("cpu", "bfloat16", "full", 15)
    # Embeddings, tied to the output; q, k, v and o of one layer; its three feed-forward matrices; three norms.
    attention = 16 * 16 + 2 * 16 * 8 + 16 * 16
    assert cost["weights"] == cost["trained_weights"] == 512 * 16 + attention + 3 * 16 * 32 + 3 * 16
    assert cost["seconds_per_step"] > 0
    assert cost["hours_per_training"] == pytest.approx(cost["seconds_per_step"] * 10_000 / 3600, abs=0.15)
    assert 0.05 < cost["peak_gigabytes"] < 64  # of this process, which has loaded torch


def test_adapters_are_timed_too(capsys):
    ensure_importable()  # peft imports transformers, which would look for torchvision
    pytest.importorskip("peft")
    cost = measured(capsys, "--tuning", "lora")
    assert cost["tuning"] == "lora"
    assert 0 < cost["trained_weights"] < cost["weights"]


def test_the_full_shape_is_gemmas():
    from transformers import GemmaConfig

    own, shape = GemmaConfig(), token_update_cost.SHAPES["gemma-2b"]
    # transformers' defaults are those of 7B; 2B has these in its file on the hub.
    assert (own.vocab_size, own.head_dim) == (shape.vocabulary, shape.head_width)
    attention = 2 * shape.width * shape.head_width * (shape.n_heads + 1)
    layer = attention + 3 * shape.width * shape.feed_forward + 2 * shape.width
    weights = shape.vocabulary * shape.width + shape.n_layers * layer + shape.width
    assert weights == 2_506_172_416  # its published number of weights


def test_conversations_have_the_sizes_asked_for():
    drawn = token_update_cost.random_conversations(6, horizon=5, slate_size=4, n_candidates=25, words=7, seed=1)
    assert drawn.actions.shape == (6, 5, 4)
    assert all(len(text.split()) == 7 for text in drawn.prompt_texts)
    assert all(len(set(slate)) == 4 for slate in drawn.actions.reshape(-1, 4).tolist())
    assert np.unique(drawn.choices).size > 1


@pytest.mark.parametrize("name", ["batch-size", "micro-batch-size", "words", "repeats"])
def test_counts_are_positive(name):
    with pytest.raises(SystemExit, match=f"{name.replace('-', '_')} must be at least 1, got 0"):
        token_update_cost.main([*TINY, f"--{name}", "0"])


def test_the_full_shape_asks_for_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        token_update_cost.main([])
    assert "Gemma 2B's shape needs a GPU; try --shape tiny" in capsys.readouterr().err
