"""What the pages say of the environment and its sweeps is what the code does."""

import pathlib

import gymnasium as gym
import numpy as np
import pytest
import yaml

from agents.iql import IQLConfig
from pasta_gym.envs import PastaConfig, PastaEnv, PastaVectorEnv
from pasta_gym.mini import grammar
from pasta_gym.worlds import make_world

ROOT = pathlib.Path(__file__).parents[1]


def page(name):
    return (ROOT / "docs" / name).read_text()


def row(text, name):
    (found,) = (line for line in text.split("\n") if line.startswith("|") and f"| {name} |" in line)
    return found


@pytest.mark.parametrize(
    "text", [row(page("environment.md"), "`images`"), PastaEnv.__doc__, PastaVectorEnv.__doc__, PastaConfig.__doc__]
)
def test_every_hand_of_the_mini_world_is_named(text):
    assert all(f'`"{name}"`' in text for name in make_world("mini").image_generators)


def test_paintings_are_shown_under_one_name():
    assert 'images="painter"' in row(page("glossary.md"), "painting")
    assert 'environment shows them under `images="painter"` alone' in page("mini_world.md")


def test_the_glossary_has_the_range_of_the_expectile():
    assert "in [0.5, 1)" in row(page("glossary.md"), "`expectile`")
    assert IQLConfig(expectile=0.5).expectile == 0.5
    for outside in (0.49, 1.0):
        with pytest.raises(ValueError, match=r"\[0\.5, 1\)"):
            IQLConfig(expectile=outside)


def test_candidates_of_the_train_split_keep_a_held_out_triple_and_bring_none_about():
    text = page("environment.md")
    assert 'after `reset(options={"prompt": "a cat on the beach, pixel art"})` most\ncandidates show it' in text
    envs = gym.make_vec("PastaT2I-v0", num_envs=64, images="surrogate")
    _, info = envs.reset(seed=0, options={"prompt": "a cat on the beach, pixel art"})
    assert grammar.is_held_out(grammar.slot_values(info["candidate_ids"])).mean() > 0.5
    _, info = envs.reset(seed=0)
    for _ in range(5):
        assert not grammar.is_held_out(grammar.slot_values(info["candidate_ids"])).any()
        *_, info = envs.step(np.tile([2, 7, 12, 22], (64, 1)))
    envs.close()


def test_the_sweep_says_what_its_pairs_of_agents_differ_in():
    def config(name):
        return yaml.safe_load((ROOT / "conf" / "agent" / f"{name}.yaml").read_text())["config"]

    def differs(a, b):
        return {key for key in config(a).keys() | config(b).keys() if config(a).get(key) != config(b).get(key)}

    assert differs("iql", "iql_history") == {"belief"}
    assert "slate_value" in differs("slateq", "slateq_history")
    for text in (page("benchmarks.md"), (ROOT / "conf" / "experiment" / "main_table.yaml").read_text()):
        assert "slate_value: softmax" in text
        assert "slateq_softmax" in text
    assert differs("slateq_softmax", "slateq_history") == {"belief"}
