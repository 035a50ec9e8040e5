"""Human evaluation by planted raters: the paper's figure 5 for the agents of a folder of runs.

python -m benchmarks.rater_study runs/regimes                       500 conversations of each agent with held-out raters
python -m benchmarks.rater_study runs/regimes --images diffusion --episodes 60

Held-out raters, on whose labels no user model was fitted, take the place of the learned users. They look at pixels,
choose by their planted tastes, and say whether each turn is better, the same or worse than the one before, and how
satisfied they are at the end. All agents meet the same raters, prompts and luck.
"""

from __future__ import annotations

import argparse
import csv
import io
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from hydra.utils import instantiate

from agents import Agent, LearningAgent
from benchmarks import rater_tables, runs
from benchmarks.allocator import keep_freed_memory
from benchmarks.comparisons import HOME
from benchmarks.evaluate import EvaluationConfig, evaluate
from benchmarks.pages import fill_block
from benchmarks.rater_tables import UNTRAINED
from benchmarks.rater_verdicts import Heard
from benchmarks.runs import Run
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import digest, write_text
from pasta_gym.mini.rater_users import Crowd, crowd_of, final_satisfaction, verdicts
from pasta_gym.trajectories import EnvironmentConfig, provenance
from pasta_gym.trajectories.environment import first_environment_seed
from pasta_gym.trajectories.rater_environment import RaterEnvironment, RaterVectorEnv
from pasta_gym.trajectories.rater_rewards import chosen_utilities_of_types, labels_by_type, require_same_people
from pasta_gym.trajectories.rater_sessions import LABELS, learned_users
from pasta_gym.types import FloatArray, IntArray, UserModelProtocol

PARTS = "parts"


@dataclass(frozen=True)
class StudyConfig:
    """Who judges which conversations.

    Attributes:
        environment: Where they happen; ``images`` has to paint. ``split`` names prompts and raters.
        labels: Folder of the raters' labels, which tell the learned model of which type a rater most likely is.
        evaluation: How many conversations, side by side and which.
    """

    environment: EnvironmentConfig
    labels: pathlib.Path
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class Study:
    """What is played once for all agents.

    Attributes:
        config: The configuration.
        envs: Raters as users.
        rater_types: ``(len(crowd),)`` the learned type that explains each rater's own labels best.
    """

    config: StudyConfig
    envs: RaterVectorEnv
    rater_types: IntArray

    @classmethod
    def open(cls, config: StudyConfig) -> Study:
        """Load the raters, their eye and the learned model.

        Raises:
            ValueError: If labels or models are missing, the user model was fitted to other people than these raters,
                or nothing is painted.
        """
        crowd = crowd_of(config.labels, config.environment.split)
        users = learned_users(config.environment)
        require_same_people(users, crowd)
        n_envs = min(config.evaluation.batch_size, config.evaluation.n_episodes)
        envs = RaterEnvironment.like(config.environment, crowd).make(n_envs, reveal=True)
        return cls(config, envs, types_of_raters(users, crowd, config.labels))

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on beside the agent."""
        given = asdict(self.config.evaluation)
        return {
            "environment": self.config.environment.identity(),
            "crowd": asdict(self.envs.crowd),
            "evaluation": {name: given[name] for name in ("seed", "split")},
            "models": provenance.model_hashes(self.envs),
            "types": self.rater_types.tolist(),
        }


def types_of_raters(users: UserModelProtocol, crowd: Crowd, labels: pathlib.Path) -> IntArray:
    """Return the learned type of each rater of a crowd that is most likely given all of the rater's own labels."""
    likelihood = labels_by_type(users, labels, np.arange(crowd.first, crowd.end))
    types: IntArray = (np.log(users.prior) + likelihood).argmax(axis=1)
    return types


@dataclass(frozen=True)
class Answers:
    """What raters said of one agent in some conversations.

    Attributes:
        episodes: ``(n,)`` numbers of the conversations.
        raters: ``(n,)`` who talked.
        prompts: What they began with.
        planted: ``(n, H)`` the rater's utility of what was chosen.
        learned: ``(n, H)`` the same for the rater's most likely learned type.
        verdicts: ``(n, H - 1)``.
        satisfaction: ``(n,)`` on 1-5.
    """

    episodes: IntArray
    raters: IntArray
    prompts: list[str]
    planted: FloatArray
    learned: FloatArray
    verdicts: IntArray
    satisfaction: IntArray


class _Watched:
    """The same environment; it keeps what was observed last, which is the whole conversation."""

    def __init__(self, envs: RaterVectorEnv) -> None:
        self._envs = envs
        self.observations: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)

    def step(self, slates: IntArray) -> Any:
        result = self._envs.step(slates)
        self.observations = result[0]
        return result


def ask(study: Study, agent: Agent, *, agent_seed: int, first_episode: int, n_episodes: int) -> Answers:
    """Let raters talk with an agent, at most as many as there are environments.

    Raises:
        ValueError: If the agent uses insides of the environment, which are the learned users'.
    """
    if getattr(agent, "privileged", False):
        raise ValueError(f"{agent.name} uses insides of the environment, which raters do not have; leave it out")
    envs, evaluation = study.envs, study.config.evaluation
    watched = _Watched(envs)
    wanted = EvaluationConfig(n_episodes, evaluation.seed, evaluation.split, evaluation.batch_size)
    scores = evaluate(agent, watched, wanted, agent_seed=agent_seed, first_episode=first_episode)
    seen = {name: values[:n_episodes] for name, values in watched.observations.items()}
    keys = first_environment_seed(evaluation.seed, stream=1) + scores.episodes
    judging = envs.crowd.judging
    return Answers(
        episodes=scores.episodes,
        raters=envs.crowd.first + scores.user_types,
        prompts=scores.prompts,
        planted=scores.chosen_utilities,
        learned=chosen_utilities_of_types(
            envs.learned_users,
            study.rater_types[scores.user_types],
            seen["initial_prompt"],
            seen["slate_images"],
            seen["choices"],
        ),
        verdicts=verdicts(scores.chosen_utilities, keys, judging),
        satisfaction=final_satisfaction(scores.chosen_utilities, keys, judging),
    )


def answers_of(study: Study, run: Run, folder: pathlib.Path) -> Answers:
    """Play what is missing of one run's agent, batch by batch; whole batches are kept in ``folder``.

    Args:
        study: Raters and conversations.
        run: A finished run; its stored agent is asked, or its agent as configured if that learns nothing.
        folder: Where batches lie, filed by agent and study.
    """
    config = runs.saved_config(run.folder)
    agent = instantiate(config["agent"])
    checkpoint = run.folder / runs.CHECKPOINT
    weights: dict[str, str] = {}
    if isinstance(agent, LearningAgent):
        agent = type(agent).load(checkpoint)
        weights = provenance.folder_hashes(checkpoint)
    mine = digest({**study.identity(), "agent": config["agent"], "weights": weights, "seed": run.key.seed})
    wanted, parts = study.config.evaluation, []
    for first in range(0, wanted.n_episodes, study.envs.num_envs):
        n = min(study.envs.num_envs, wanted.n_episodes - first)
        path = folder / mine / f"{first:07d}-{n}.csv"
        if not path.exists():
            write_answers(path, ask(study, agent, agent_seed=run.key.seed, first_episode=first, n_episodes=n))
            sys.stderr.write(f"{rater_tables.arm(run.key)}, seed {run.key.seed}: {first + n} of {wanted.n_episodes}\n")
        parts.append(read_answers(path))
    return join_answers(parts)


def join_answers(parts: Sequence[Answers]) -> Answers:
    """Put batches one behind the other."""
    return Answers(
        prompts=[prompt for part in parts for prompt in part.prompts],
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("episodes", "raters", "planted", "learned", "verdicts", "satisfaction")
        },
    )


def write_answers(path: pathlib.Path, answers: Answers) -> None:
    """Write answers as CSV atomically, one row a conversation, numbers in full precision."""
    horizon = answers.planted.shape[1]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    turns = range(1, horizon + 1)
    writer.writerow(
        [
            *("episode", "rater", "prompt", "satisfaction"),
            *(f"verdict_{t}" for t in turns[1:]),
            *(f"{kind}_{t}" for kind in ("planted", "learned") for t in turns),
        ]
    )
    for i, prompt in enumerate(answers.prompts):
        numbers = [repr(round(float(u), 7)) for u in (*answers.planted[i], *answers.learned[i])]
        said = [int(v) for v in answers.verdicts[i]]
        writer.writerow(
            [int(answers.episodes[i]), int(answers.raters[i]), prompt, int(answers.satisfaction[i]), *said, *numbers]
        )
    write_text(path, buffer.getvalue())


def read_answers(path: pathlib.Path) -> Answers:
    """Read what ``write_answers`` wrote.

    Raises:
        ValueError: If a column is missing or holds something that is not a number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        names = {kind: [c for c in rows[0] if c.startswith(f"{kind}_")] for kind in ("verdict", "planted", "learned")}
        found = {kind: [[float(row[c]) for c in columns] for row in rows] for kind, columns in names.items()}
        return Answers(
            episodes=np.array([int(row["episode"]) for row in rows]),
            raters=np.array([int(row["rater"]) for row in rows]),
            prompts=[row["prompt"] for row in rows],
            planted=np.array(found["planted"]),
            learned=np.array(found["learned"]),
            verdicts=np.array(found["verdict"]).astype(np.int64),
            satisfaction=np.array([int(row["satisfaction"]) for row in rows]),
        )
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is broken ({error!r}); delete it and run again, which plays it anew") from error


def arms_of(finished: Sequence[Run], reward: str, world: str) -> dict[str, list[Run]]:
    """Group the runs of one world to judge by agent and data; agents that learn nothing are one arm, with one seed.

    Runs that score an agent with other pictures than it learned with are left out: the agent is there already.

    Raises:
        ValueError: If none can be judged, or one is there twice.
    """
    arms: dict[str, list[Run]] = {}
    for run in sorted(finished, key=lambda r: (r.key.agent not in UNTRAINED, r.key.agent, r.key.data, r.key.seed)):
        if (
            (run.key.reward, run.key.world) != (reward, world)
            or run.key.images != HOME
            or run.metadata.get("privileged")
        ):
            continue
        name = rater_tables.arm(run.key)
        own = arms.setdefault(name, [])
        if run.key.agent in UNTRAINED and own:
            continue
        if run.key.seed in {other.key.seed for other in own}:
            raise ValueError(f"{name} with seed {run.key.seed} is there twice; name the folder of one experiment")
        own.append(run)
    if not arms:
        raise ValueError(
            f"no finished run with reward {reward!r} in world {world!r} of an agent without privileges (there are runs "
            f"in {', '.join(sorted({run.key.world for run in finished})) or 'none'}); train one first: "
            "python -m benchmarks.run --multirun experiment=regimes"
        )
    return arms


def heard_of(answers: Sequence[Answers]) -> Heard:
    """Stack the answers about the seeds of one agent."""
    return Heard(
        verdicts=np.stack([a.verdicts for a in answers]),
        satisfaction=np.stack([a.satisfaction for a in answers]).astype(np.float64),
        planted=np.stack([a.planted for a in answers]),
        learned=np.stack([a.learned for a in answers]),
    )


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Ask the raters, and write CSV files, a figure and the page's block."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rater_study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=pathlib.Path, help="folder of finished runs, or one run directory")
    parser.add_argument("--out", type=pathlib.Path, help="where to write; RUNS/rater_study by default")
    parser.add_argument("--labels", type=pathlib.Path, default=pathlib.Path(LABELS), help="a world's labels")
    parser.add_argument("--reward", default="sparse", help="agents trained with which reward")
    parser.add_argument("--images", default="painter", help="what paints: painter, diffusion")
    parser.add_argument("--episodes", type=int, default=500, help="conversations of each agent and seed")
    parser.add_argument("--batch", type=int, default=50, help="side by side, and saved together")
    parser.add_argument("--world", default="mini")
    parser.add_argument("--baseline", default="untrained_generator", help="whom gains are counted from")
    parser.add_argument("--figure", type=pathlib.Path, help="also write the figure here")
    parser.add_argument("--page", type=pathlib.Path, help="also put the tables into this page's block `raters`")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    out = given.out or given.runs / "rater_study"
    finished, _, _ = runs.find_runs(given.runs)
    environment = EnvironmentConfig(world=given.world, images=given.images, split="test", reward="sparse")
    arms = arms_of(finished, given.reward, environment.world_name)
    evaluation = EvaluationConfig(given.episodes, split="test", batch_size=given.batch)
    study = Study.open(StudyConfig(environment, given.labels, evaluation))
    told = {name: [answers_of(study, run, out / PARTS) for run in own] for name, own in arms.items()}
    made = rater_tables.tables(
        {name: heard_of(own) for name, own in told.items()},
        told[next(iter(told))][0].raters,
        {name: rater_tables.benchmark_scores(own) for name, own in arms.items()},
        baseline=given.baseline,
    )
    written = rater_tables.write(made, out)
    for name, own in told.items():
        for run, answers in zip(arms[name], own, strict=True):
            path = out / "answers" / f"{name.replace('/', '_')}_seed_{run.key.seed}.csv"
            write_answers(path, answers)
            written.append(path)
    if given.figure:
        given.figure.write_bytes((out / "figure.png").read_bytes())
    command = f"python -m benchmarks.rater_study {given.runs} --images {given.images} --episodes {given.episodes}"
    if given.page:
        fill_block(given.page, "raters", rater_tables.block(made, command))
    sys.stdout.write(made.text + "\nwrote\n" + "".join(f"  {path}\n" for path in written))


if __name__ == "__main__":
    main()
