"""What held-out raters say of agents, with intervals, and where the learned user model ranks the agents otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.stats import Interval, Scores, interval
from pasta_gym.mini.rater_users import BETTER, SAME, WORSE
from pasta_gym.types import FloatArray, IntArray

CONFIDENCE = 0.99
"""As in the paper's figure 5."""
ANSWERS = {"better": BETTER, "same": SAME, "worse": WORSE}
_SEED = 20_260_103  # of the resamples


@dataclass(frozen=True)
class Heard:
    """What the raters said of one agent. ``E`` conversations, which all agents share, with each of ``S`` seeds.

    Attributes:
        verdicts: ``(S, E, H - 1)`` of ``WORSE``, ``SAME``, ``BETTER``: each turn but the first against the one before.
        satisfaction: ``(S, E)`` on 1-5, with the column chosen last.
        planted: ``(S, E, H)`` utility in [0, 1] of the chosen column for the rater.
        learned: ``(S, E, H)`` what the learned model thinks that it is: the utility of the rater's most likely type.
    """

    verdicts: IntArray
    satisfaction: FloatArray
    planted: FloatArray
    learned: FloatArray


def cluster_means(
    scores: Mapping[str, Scores], clusters: IntArray, rng: np.random.Generator, n_replicates: int = 2000
) -> dict[str, Scores]:
    """Resample mean scores of all agents together, whole clusters of conversations at a time.

    A rater has several conversations, which are alike, so raters are drawn with replacement and bring all of theirs;
    they are shared by all agents. Training seeds are drawn with replacement for each agent by itself.

    Args:
        scores: ``(seeds, E)`` of each agent.
        clusters: ``(E,)`` the rater of each conversation.
        rng: Source of the resamples.
        n_replicates: How many.

    Returns:
        ``(n_replicates,)`` means of each agent; replicate ``r`` of two agents is paired.

    Raises:
        ValueError: If an agent has another number of conversations than ``clusters`` or a score is not finite.
    """
    for name, values in scores.items():
        if np.ndim(values) != 2 or np.shape(values)[1] != len(clusters) or not np.isfinite(values).all():
            raise ValueError(
                f"scores of {name} must be finite and (seeds, {len(clusters)}), got shape {np.shape(values)}; "
                "play the same conversations with every agent"
            )
    found, members = np.unique(clusters, return_inverse=True)
    times = rng.multinomial(len(found), np.full(len(found), 1 / len(found)), size=n_replicates)[:, members]
    weights = times / times.sum(axis=1, keepdims=True)
    means = {}
    for name, values in scores.items():
        of_seed = weights @ np.asarray(values, dtype=np.float64).T
        drawn = rng.integers(0, len(values), size=of_seed.shape)
        means[name] = np.take_along_axis(of_seed, drawn, axis=1).mean(axis=1)
    return means


def intervals(scores: Mapping[str, Scores], clusters: IntArray, n_replicates: int = 2000) -> dict[str, Interval]:
    """Mean of each agent with its 99% interval (see :func:`cluster_means`)."""
    drawn = cluster_means(scores, clusters, np.random.default_rng(_SEED), n_replicates)
    return {name: interval(float(np.mean(values)), drawn[name], CONFIDENCE) for name, values in scores.items()}


def answer_shares(
    heard: Mapping[str, Heard], raters: IntArray, n_replicates: int = 2000
) -> dict[tuple[str, int, str], Interval]:
    """Share of raters who say better, same or worse than the turn before, with 99% intervals.

    Args:
        heard: What was said of each agent.
        raters: ``(E,)`` who talked.
        n_replicates: Bootstrap replicates.

    Returns:
        By agent, turn (2..H; 0 is the mean over them) and answer.
    """
    n_turns = next(iter(heard.values())).verdicts.shape[2]
    shares = {}
    for turn in range(n_turns + 1):
        for answer, value in ANSWERS.items():
            said = {name: np.asarray(h.verdicts == value, dtype=np.float64) for name, h in heard.items()}
            of_turn = {name: s.mean(axis=2) if turn == n_turns else s[:, :, turn] for name, s in said.items()}
            for name, made in intervals(of_turn, raters, n_replicates).items():
                shares[name, 0 if turn == n_turns else turn + 2, answer] = made
    return shares


@dataclass(frozen=True)
class Pair:
    """Two agents whom one judge puts the other way round than another.

    Attributes:
        favourite: Whom the learned model puts higher.
        other: Whom the raters put higher.
        learned: ``favourite`` minus ``other`` for the learned model, at least 0.
        planted: The same for the raters, at most 0.
    """

    favourite: str
    other: str
    learned: Interval
    planted: Interval

    @property
    def is_beyond_noise(self) -> bool:
        """Whether both intervals leave out zero, on either side of it."""
        return self.learned.low > 0 > self.planted.high


@dataclass(frozen=True)
class Orders:
    """The same agents in two orders.

    Attributes:
        by_raters: Best first.
        by_learned: Best first.
        reversed_pairs: All pairs in which the two differ.
        n_pairs: Pairs in all.
    """

    by_raters: list[str]
    by_learned: list[str]
    reversed_pairs: list[Pair]
    n_pairs: int


def compare_orders(
    planted: Mapping[str, Scores],
    learned: Mapping[str, Scores],
    raters: IntArray,
    users: IntArray | None = None,
    n_replicates: int = 2000,
) -> Orders:
    """Order agents by what raters feel and by what the learned model says, and find the pairs that differ.

    Args:
        planted: ``(seeds, E)`` of each agent, for the raters.
        learned: ``(seeds, E')`` of the same agents, for the learned model.
        raters: ``(E,)`` who talked in the first.
        users: ``(E',)`` what conversations of the second are drawn together by; those of the first if None, which then
            are the same conversations, and are drawn alike.
        n_replicates: Bootstrap replicates.

    Returns:
        Both orders and their disagreements, with 99% intervals of paired differences.

    Raises:
        ValueError: If the two have other agents.
    """
    if set(planted) != set(learned):
        raise ValueError(f"both judges must have the same agents, got {sorted(planted)} and {sorted(learned)}")
    names = list(planted)
    learned = {name: learned[name] for name in names}
    felt = cluster_means(planted, raters, np.random.default_rng(_SEED), n_replicates)
    said = cluster_means(learned, raters if users is None else users, np.random.default_rng(_SEED), n_replicates)
    mean_felt, mean_said = ({name: float(np.mean(side[name])) for name in names} for side in (planted, learned))
    pairs = []
    for one, two in itertools.combinations(names, 2):
        first, second = (one, two) if mean_said[one] >= mean_said[two] else (two, one)
        if mean_felt[first] < mean_felt[second]:
            pairs.append(
                Pair(
                    first,
                    second,
                    interval(mean_said[first] - mean_said[second], said[first] - said[second], CONFIDENCE),
                    interval(mean_felt[first] - mean_felt[second], felt[first] - felt[second], CONFIDENCE),
                )
            )
    order = [sorted(names, key=lambda name: -side[name]) for side in (mean_felt, mean_said)]
    return Orders(order[0], order[1], pairs, len(names) * (len(names) - 1) // 2)


def sentence(orders: Orders, judge: str) -> str:
    """Say in words where the learned model and the raters disagree.

    Args:
        orders: What they say.
        judge: How to call the learned model, such as ``"The learned model"``.
    """
    apart = [pair for pair in orders.reversed_pairs if pair.is_beyond_noise]
    close = [pair for pair in orders.reversed_pairs if not pair.is_beyond_noise]
    said = f"Raters: {' > '.join(orders.by_raters)}. {judge}: {' > '.join(orders.by_learned)}. "
    if not orders.reversed_pairs:
        return said + f"The two agree on the order of all {orders.n_pairs} pairs."
    parts = [f"{_with_gaps(pair)}" for pair in apart]
    if parts:
        said += f"{judge} is misled beyond noise: it puts {'; '.join(parts)}."
    else:
        said += "No pair is apart one way for the one and the other way for the other beyond noise."
    if close:
        said += f" Within noise they differ on {', '.join(f'{p.favourite} and {p.other}' for p in close)}."
    return said


def _with_gaps(pair: Pair) -> str:
    learned, planted = pair.learned.text(3), pair.planted.text(3)
    return f"{pair.favourite} above {pair.other} by {learned}, where raters put it {planted} away"


def promised_and_felt(
    heard: Mapping[str, Heard], baseline: str, raters: IntArray, n_replicates: int = 2000
) -> dict[str, tuple[Interval, Interval, Interval]]:
    """How much an agent's last column gains over the baseline's: for the learned model, for the rater, and the excess.

    An excess above zero is what an agent gained by pleasing the learned model and not the rater.

    Returns:
        Of each agent but the baseline: promised, felt, and promised minus felt, with paired 99% intervals.

    Raises:
        ValueError: If the baseline is not among the agents.
    """
    if baseline not in heard:
        raise ValueError(f"the baseline {baseline!r} is not among {sorted(heard)}; run it too")
    sides = {kind: {name: getattr(h, kind)[:, :, -1] for name, h in heard.items()} for kind in ("learned", "planted")}
    drawn = {kind: cluster_means(s, raters, np.random.default_rng(_SEED), n_replicates) for kind, s in sides.items()}
    gains = {}
    for name in heard:
        if name == baseline:
            continue
        now = {kind: float(s[name].mean() - s[baseline].mean()) for kind, s in sides.items()}
        then: dict[str, NDArray[np.float64]] = {kind: d[name] - d[baseline] for kind, d in drawn.items()}
        gains[name] = (
            interval(now["learned"], then["learned"], CONFIDENCE),
            interval(now["planted"], then["planted"], CONFIDENCE),
            interval(now["learned"] - now["planted"], then["learned"] - then["planted"], CONFIDENCE),
        )
    return gains
