from __future__ import annotations

import pathlib

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from agents import Agent, LearningAgent
from benchmarks.run import CONFIG_FOLDER

NAMES = sorted(path.stem for path in pathlib.Path(CONFIG_FOLDER, "agent").glob("*.yaml"))

SWEEPS = sorted({p.stem for p in pathlib.Path(CONFIG_FOLDER, "experiment").glob("*.yaml")} - {"default"})


def composed(*overrides):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("run", overrides=list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_configured_agent_is_called_like_its_file_and_can_be_built(name):
    config = composed(f"agent={name}").agent
    assert config.name == name
    if config.get("_partial_"):  # a reference agent needs a world as well
        return
    agent = instantiate(config)
    assert agent.name == name
    assert isinstance(agent, Agent)
    assert isinstance(agent, LearningAgent) == (name not in ("random", "untrained_generator"))
    assert agent.privileged == name.endswith("_privileged")


@pytest.mark.parametrize("experiment", SWEEPS)
def test_every_agent_of_a_sweep_is_configured(experiment):
    sweeper = composed(f"experiment={experiment}").hydra.sweeper
    agents = [grid.agent.split(",") for grid in (sweeper.params, *sweeper.get("grids", ())) if "agent" in grid]
    assert agents
    for listed in agents:
        assert set(listed) <= set(NAMES)
        assert len(set(listed)) == len(listed)
