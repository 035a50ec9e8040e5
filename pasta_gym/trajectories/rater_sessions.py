"""Collects sessions of planted raters, what the benchmark calls human data: with the random policy if not told else.

Run ``python -m pasta_gym.trajectories.rater_sessions --help`` for the command.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from dataclasses import dataclass, field

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini.rater_users import CROWD_FILES, crowd_of
from pasta_gym.trajectories import random_policy
from pasta_gym.trajectories.collection import POLICIES, CollectionConfig, Progress, collect
from pasta_gym.trajectories.environment import EnvironmentConfig
from pasta_gym.trajectories.rater_environment import RaterEnvironment
from pasta_gym.trajectories.rater_rewards import LABEL_FILES, MostLikelyType, hashes_of_labels
from pasta_gym.types import UserModelProtocol
from pasta_gym.worlds import make_world

LABELS = "data/labels_world_0"


@dataclass(frozen=True)
class RaterSessionsConfig:
    """What a dataset of raters' sessions holds. Equal configurations on equal models and labels give equal content.

    Attributes:
        environment: Where they happen. ``images`` has to paint, because raters judge pixels.
        labels: Folder of a world's labels, which names its raters.
        use_labels: Whether the other labels of a session's rater count for its most likely type, beside its choices.
        n_episodes: Sessions; the paper has about 7,000.
        seed: Numbers a stream of conversations; another one than that of simulated data, so that no conversation has
            the prompt and the luck of one of those.
        shard_size: Sessions played side by side and saved together: what is lost when it is killed.
        policy: Who chooses what is shown, as in ``CollectionConfig``: the untrained generator in the paper's sessions.
    """

    environment: EnvironmentConfig = field(default_factory=lambda: EnvironmentConfig(images="painter"))
    labels: str = LABELS
    use_labels: bool = True
    n_episodes: int = 7000
    seed: int = 1
    shard_size: int = 50
    policy: str = random_policy.NAME

    def collect(self, *, root: pathlib.Path | None = None, progress: Progress | None = None) -> pathlib.Path:
        """Return the folder of the dataset, after making what is missing of it.

        Args:
            root: Folder of all datasets; by default ``trajectories`` in the package's cache.
            progress: Called with the sessions done and in all after each shard.

        Raises:
            ValueError: If the labels are missing or broken, or the image generator paints nothing.
        """
        labels = pathlib.Path(self.labels)
        crowd = crowd_of(labels, self.environment.split)
        judge = MostLikelyType.of(learned_users(self.environment), crowd, labels if self.use_labels else None)
        config = CollectionConfig(
            RaterEnvironment.like(self.environment, crowd),
            self.n_episodes,
            self.seed,
            self.policy,
            shard_size=self.shard_size,
        )
        return collect(config, root=root, progress=progress, judge=judge)

    def label_hashes(self) -> dict[str, str]:
        """Hash the files of labels that the sessions depend on: who the raters are and, if it counts, what they said.

        Raises:
            ValueError: If one is missing.
        """
        return hashes_of_labels(pathlib.Path(self.labels), CROWD_FILES + (LABEL_FILES if self.use_labels else ()))


def learned_users(environment: EnvironmentConfig) -> UserModelProtocol:
    """Load the learned user model of an environment.

    Raises:
        ValueError: If it cannot be loaded.
    """
    return make_world(environment.world).users(environment.user_model, environment.aggregator)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Collect sessions from the command line and print their folder."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.trajectories.rater_sessions", description=__doc__)
    defaults = RaterSessionsConfig()
    parser.add_argument("--labels", default=defaults.labels, help="folder of a world's labels")
    parser.add_argument("--sessions", type=int, default=defaults.n_episodes)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--images", default=defaults.environment.images, help="what paints: painter, diffusion")
    parser.add_argument("--policy", default=defaults.policy, choices=tuple(POLICIES), help="who chooses what is shown")
    parser.add_argument("--shard-size", type=int, default=defaults.shard_size)
    given = parser.parse_args(arguments)
    config = RaterSessionsConfig(
        EnvironmentConfig(images=given.images),
        given.labels,
        n_episodes=given.sessions,
        seed=given.seed,
        shard_size=given.shard_size,
        policy=given.policy,
    )
    from tqdm.auto import tqdm

    with tqdm(total=config.n_episodes, desc="sessions", file=sys.stderr) as bar:
        folder = config.collect(progress=lambda done, _: bar.update(done - bar.n))
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
