import importlib.util
import pathlib
import sys

import pytest
from hydra import compose, initialize_config_dir

HERE = pathlib.Path(__file__).parent


def module_at(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The tiny world under the name "tiny", an agent of one's own, and a cache that is thrown away."""
    from pasta_gym import worlds

    module = module_at(HERE.parent / "env" / "tiny_world.py", "tiny_world_of_benchmarks")
    world = module.tiny_world()
    monkeypatch.setitem(worlds.WORLDS, "tiny", lambda: world)
    monkeypatch.setitem(sys.modules, "own_agent", module_at(HERE / "own_agent.py", "own_agent"))
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path / "cache"))
    worlds.make_world.cache_clear()
    yield world
    worlds.make_world.cache_clear()


TINY_OVERRIDES = [
    "env.world=tiny",
    "+env.n_candidates=9",
    "+env.n_categories=3",
    "+env.slate_size=3",
    "+env.images_per_prompt=2",
    "+env.horizon=4",
    "+data.n_episodes=12",
    "+data.shard_size=5",
    "evaluation.n_episodes=10",
    "evaluation.batch_size=4",
]


@pytest.fixture
def configure(tiny, tmp_path):
    """Compose a configuration on the tiny world."""
    from benchmarks.run import CONFIG_FOLDER

    def make(*overrides, agent="own_agent.OwnAgent", name="own"):
        chosen = [*TINY_OVERRIDES, f"runs={tmp_path / 'runs'}", *overrides]
        if agent is not None:
            chosen += ["agent=random", f"agent._target_={agent}", f"agent.name={name}" if name else "~agent.name"]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose("run", chosen)

    return make
