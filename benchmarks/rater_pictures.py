"""Which hand should paint the raters' sessions: what a picture costs, and what the learned model makes of it.

python -m benchmarks.rater_pictures                                 prints the table of docs/regimes.md
python -m benchmarks.rater_pictures --page docs/regimes.md          and puts it into the page

Pictures of slates from the held-out raters' painted pool, judged twice: by the planted tastes of the raters who saw
those slates, and by the learned model. A hand whose pictures the learned model misreads makes poor rewards.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.pages import fill_block, printed
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import grammar, raters
from pasta_gym.mini.rater_sessions import load_pool
from pasta_gym.mini.rater_users import crowd_of
from pasta_gym.seeding import mix
from pasta_gym.trajectories import EnvironmentConfig
from pasta_gym.trajectories.rater_environment import read_by_eye
from pasta_gym.trajectories.rater_rewards import labels_by_type
from pasta_gym.trajectories.rater_sessions import LABELS, RaterSessionsConfig, learned_users
from pasta_gym.types import FloatArray
from pasta_gym.user_model.metrics import spearman
from pasta_gym.worlds import make_world

POOL = "data/rater_pool"
_SEED = 0x9A17
_HORIZON, _COLUMNS, _PICTURES = 5, 4, 4


@dataclass(frozen=True)
class Hand:
    """What one image generator's pictures are like.

    Attributes:
        seconds: Of the processor for a picture: painted, embedded and read by the eye.
        agreement: Mean over raters of the rank correlation of learned and planted utility.
        gap: Mean distance of learned and planted utility.
    """

    seconds: float
    agreement: float
    gap: float


def compare(names: list[str], n_sessions: int, pool: pathlib.Path, labels: pathlib.Path) -> dict[str, Hand]:
    """Paint the same prompts by several hands and judge the pictures twice.

    Args:
        names: Image generators of the mini world that paint.
        n_sessions: Sessions of held-out raters; twenty prompts are painted of each, once.
        pool: Painted sessions.
        labels: Labels of their raters.

    Raises:
        ValueError: If a file is missing or a name unknown.
    """
    world, users = make_world("mini"), learned_users(EnvironmentConfig())
    painted = load_pool(pool)[0]
    crowd = crowd_of(labels, "test")
    people = crowd.people()
    own = np.arange(crowd.first, crowd.end)
    types = (np.log(users.prior) + labels_by_type(users, labels, own)).argmax(axis=1)
    of_held_out = np.flatnonzero(painted.raters >= crowd.first)
    sessions = np.random.default_rng(_SEED).permutation(of_held_out)[:n_sessions]
    who = painted.raters[sessions] - crowd.first
    prompts = painted.slates[sessions].reshape(len(sessions), -1)
    initial = painted.initial_prompts[sessions]
    features = users.prompt_features(world.text_encoder.embed(initial))
    hands = {}
    for name in names:
        images = world.image_generator(name)
        images.generate(prompts.reshape(-1)[:2], mix(np.arange(2))[:, None])  # loading is not painting
        began = time.process_time()
        made = images.generate(prompts.reshape(-1), mix(_SEED, np.arange(prompts.size))[:, None])
        if made.pixels is None:
            raise ValueError(f"images={name} paints nothing, so raters see nothing; name another")
        reads = read_by_eye(made.pixels[:, 0]).reshape(*prompts.shape, -1)
        seconds = (time.process_time() - began) / prompts.size
        embeddings = made.embeddings.reshape(*prompts.shape, -1)
        learned = users.utilities(types[who], features, embeddings[:, :, None])
        planted = raters.image_utilities(
            reads, grammar.slot_values(initial)[:, None], people.weights[who][:, None], people.config
        )
        hands[name] = Hand(seconds, _mean_correlation(learned, planted), float(np.abs(learned - planted).mean()))
    return hands


def _mean_correlation(first: FloatArray, second: FloatArray) -> float:
    """Mean over rows of the rank correlation."""
    return float(np.mean([spearman(one, two) for one, two in zip(first, second, strict=True)]))


def table(hands: dict[str, Hand], n_sessions: int, paper_sessions: int) -> str:
    """Write the comparison as Markdown, with the time of whole data sets."""
    pictures = _PICTURES * (1 + _HORIZON * _COLUMNS)
    lines = [
        f"Twenty slate prompts of each of {n_sessions} sessions of held-out raters, painted once by each hand. Learned "
        "and planted utility of single pictures, for the rater who met those slates and the rater's most likely "
        f"learned type. A session has {pictures} pictures.",
        "",
        f"| images | ms a picture, one core | {paper_sessions:,} sessions, core-hours | rank correlation of "
        "learned and planted utility | mean distance |",
        "|---|---|---|---|---|",
    ]
    for name, hand in hands.items():
        hours = hand.seconds * pictures * paper_sessions / 3600
        lines.append(f"| {name} | {1000 * hand.seconds:.1f} | {hours:.1f} | {hand.agreement:.3f} | {hand.gap:.3f} |")
    return "\n".join(lines) + "\n"


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Print the table and put it into a page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rater_pictures", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", default="painter,diffusion", help="hands, with commas between")
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--pool", type=pathlib.Path, default=pathlib.Path(POOL))
    parser.add_argument("--labels", type=pathlib.Path, default=pathlib.Path(LABELS))
    parser.add_argument("--page", type=pathlib.Path, help="also put the table into this page's block `pictures`")
    given = parser.parse_args(arguments)
    hands = compare(given.images.split(","), given.sessions, given.pool, given.labels)
    text = table(hands, given.sessions, RaterSessionsConfig.n_episodes)
    if given.page:
        command = f"python -m benchmarks.rater_pictures --images {given.images} --sessions {given.sessions}"
        fill_block(given.page, "pictures", f"{printed(command)}\n\n{text}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
