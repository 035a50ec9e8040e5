"""Draws one conversation on the diffusion pipeline: ``python -m benchmarks.episode_picture``.

The frames are the environment's own ``rgb_array`` renderings, the first three and the last turn side by side.
"""

from __future__ import annotations

import argparse
import pathlib

import gymnasium as gym
import numpy as np
from hydra.utils import get_class, instantiate
from numpy.typing import NDArray
from PIL import Image

import pasta_gym  # noqa: F401  (registers the environment)
from agents import Agent
from agents.random_slate import RandomAgent
from benchmarks import runs
from benchmarks.evaluate import slates_of
from benchmarks.pages import REPOSITORY
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.seeding import mix
from pasta_gym.worlds import WorldRecipe

FRAMES_SHOWN = (0, 1, 2, 4)


def frames_of_an_episode(
    agent: Agent, *, seed: int, prompt: str, user_type: int, world: str | WorldRecipe = "mini"
) -> list[NDArray[np.uint8]]:
    """Play one episode and keep the rendering of every turn."""
    env = gym.make("PastaT2I-v0", world=world, images="diffusion", split="test", render_mode="rgb_array")
    observation, _ = env.reset(seed=seed, options={"prompt": prompt, "user_type": user_type})
    frames: list[NDArray[np.uint8]] = []
    terminated = False
    while not terminated:
        batch = {name: np.asarray(value)[None] for name, value in observation.items()}
        action = slates_of(agent, batch, mix(np.array([seed]), observation["turn"]))[0]
        observation, _, terminated, _, _ = env.step(action)
        frames.append(np.asarray(env.render()))
    env.close()
    return frames


def trained_agent(run: pathlib.Path) -> Agent:
    """Load the agent that a run directory holds.

    Args:
        run: A run directory of ``benchmarks.run``.

    Raises:
        ValueError: If the run trained nothing, or has not ended.
    """
    config = runs.config_of_trained(run, str(run))
    agent: Agent = get_class(config["agent"]["_target_"]).load(run / runs.CHECKPOINT)
    return agent


def world_of(run: pathlib.Path) -> str | WorldRecipe:
    """Return the world that a run's agent was scored in.

    Raises:
        ValueError: If its users were not that world's own, whom a picture would not show.
    """
    environment = runs.saved_config(run)["env"]
    if environment.get("user_model") is not None:
        raise ValueError(
            f"{run} has users of its own, {environment['user_model']}; pictures are made with a world's own users"
        )
    world = environment["world"]
    found: str | WorldRecipe = world if isinstance(world, str) else instantiate(world)
    return found


@errors_in_one_line()
def main(given: list[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "docs" / "images" / "episode.png")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--prompt", default="a castle")
    parser.add_argument("--user-type", type=int, default=0)
    parser.add_argument("--run", type=pathlib.Path, help="run directory of a trained agent; random without")
    arguments = parser.parse_args(given)
    agent: Agent = trained_agent(arguments.run) if arguments.run else RandomAgent()
    frames = frames_of_an_episode(
        agent,
        seed=arguments.seed,
        prompt=arguments.prompt,
        user_type=arguments.user_type,
        world=world_of(arguments.run) if arguments.run else "mini",
    )
    rows = [np.concatenate([frames[i] for i in pair], axis=1) for pair in (FRAMES_SHOWN[:2], FRAMES_SHOWN[2:])]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(arguments.out)
    print(f"wrote {arguments.out}: turns {', '.join(str(i + 1) for i in FRAMES_SHOWN)}")


if __name__ == "__main__":
    main()
