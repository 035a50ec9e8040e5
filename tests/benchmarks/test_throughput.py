import json
import time
import types

import numpy as np
import pytest

from benchmarks import throughput
from pasta_gym.encoders import TableTextEncoder
from tests.env.tiny_world import TinyBook, TinyEncoder


@pytest.fixture
def sized(monkeypatch):
    """The tiny world's sizes in place of the defaults."""
    from pasta_gym.trajectories.environment import EnvironmentConfig

    sizes = {"n_candidates": 9, "n_categories": 3, "slate_size": 3, "images_per_prompt": 2, "horizon": 4}
    monkeypatch.setattr(throughput, "EnvironmentConfig", lambda **given: EnvironmentConfig(**sizes, **given))


def test_nested_time_counts_once():
    clock = throughput._Clock()
    inner = clock.wrapped("images", lambda: time.sleep(0.03))
    outer = clock.wrapped("candidates", lambda: (time.sleep(0.01), inner(), inner()))
    outer()
    assert clock.seconds["images"] >= 0.06
    assert 0.01 <= clock.seconds["candidates"] < 0.06


def test_shares_are_of_the_environments_time_and_parts_are_put_back(tiny, sized):
    before = tiny.text_encoder.embed
    made = throughput.time_vector("surrogate", 5, seconds=0.01, world="tiny")
    assert made.turns % 5 == 0
    assert made.turns_per_second > 0
    assert set(made.shares) == set(throughput.PARTS)
    assert all(share > 0 for share in made.shares.values())
    assert sum(made.shares.values()) < 1
    assert tiny.text_encoder.embed == before


def test_a_row_plays_one_turn_at_least_and_begins_again_until_its_time_is_up(tiny, sized):
    assert throughput.time_vector("surrogate", 5, seconds=0, world="tiny").turns == 5
    assert throughput.time_vector("surrogate", 5, seconds=0.2, world="tiny").turns > 4 * 5


def test_the_command_writes_one_row_a_size(tiny, sized, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "time_single", lambda images, seconds, world: single)
    single = throughput.time_vector("surrogate", 1, seconds=0, world="tiny")
    throughput.main(["--seconds", "0", "--surrogate", "2", "3", "--diffusion", "--world", "tiny", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["n_envs"] for row in rows] == [1, 2, 3]
    throughput.main(["--seconds", "0", "--surrogate", "2", "--diffusion", "--world", "tiny"])
    table = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| surrogate |") for line in table) == 2


def test_all_prompts_of_a_listed_world_are_embedded_beforehand(monkeypatch):
    world = types.SimpleNamespace(text_encoder=TableTextEncoder(TinyBook(), lambda t: np.ones((len(t), 3)), 3, 40))
    world.text_encoder.embed(np.array([4]))
    monkeypatch.setattr(throughput, "make_world", lambda name: world)
    assert throughput.embed_all_prompts("listed", progress=False).startswith("39 prompts")
    assert world.text_encoder.n_filled == 40
    world.text_encoder = TinyEncoder()
    assert throughput.embed_all_prompts("open-ended", progress=False) == ""


def test_a_slow_part_gets_the_largest_share(tiny, sized, monkeypatch):
    real = tiny.text_encoder.embed

    def slow(ids):
        time.sleep(0.05)
        return real(ids)

    monkeypatch.setattr(tiny.text_encoder, "embed", slow, raising=False)
    made = throughput.time_vector("surrogate", 2, seconds=0.01, world="tiny")
    assert max(made.shares, key=made.shares.get) == "text encoder"
    assert made.shares["text encoder"] > 0.5
