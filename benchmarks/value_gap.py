"""What each learner's form costs where everything is known: ``python -m benchmarks.value_gap``.

Small worlds of two turns are drawn at random and solved exactly: people of K kinds choose from slates of L items by a
softmax, and what an item is worth at the second turn depends on the one chosen at the first. Each learner is taken at
the fixed point of its own loss under uniformly logged slates, with a value for every history, so nothing is lost to
networks, samples or optimisers: what its greedy policy misses of the best one is the price of its decomposition.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import sys
from dataclasses import dataclass

import numpy as np

from benchmarks.pages import fill_block, printed_by
from benchmarks.stats import Interval, mean_intervals
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray

EXPECTILE = 0.7
LEARNERS = ("IQL, slate mean", "IQL, per prompt", "SlateQ, one softmax", "SlateQ, one softmax, max", "SlateQ, mixture")


@dataclass(frozen=True)
class SmallWorld:
    """Two turns with known people.

    Attributes:
        shares: ``(K,)`` of the kinds.
        first: ``(K, n)`` utility of each item at the first turn.
        last: ``(K, n, n)`` utility at the second, after each item was chosen at the first.
        temperature: Factor on utilities in choices.
        slate_size: L.
        is_sparse: Whether the last turn alone is rewarded.
    """

    shares: FloatArray
    first: FloatArray
    last: FloatArray
    temperature: float
    slate_size: int
    is_sparse: bool

    @property
    def slates(self) -> IntArray:
        """All slates ``(S, L)``."""
        return np.array(list(itertools.combinations(range(self.first.shape[1]), self.slate_size)), dtype=np.int64)


def draw_world(
    rng: np.random.Generator, *, n_kinds: int, n_items: int, slate_size: int, is_sparse: bool, temperature: float = 5.0
) -> SmallWorld:
    """Draw shares and utilities uniformly."""
    return SmallWorld(
        rng.dirichlet(np.full(n_kinds, 3.0)),
        rng.random((n_kinds, n_items)),
        rng.random((n_kinds, n_items, n_items)),
        temperature,
        slate_size,
        is_sparse,
    )


@dataclass(frozen=True)
class Tables:
    """A world laid out by state: the start, then what follows each slate and choice, ``1 + S x L`` states.

    Attributes:
        chances: ``(states, S, L)`` probability of each choice from each slate.
        rewards: ``(states, S, L)`` expected reward of that choice.
        following: ``(S, L)`` state after a choice at the start.
        belief: ``(states, K)`` posterior over the kinds.
        chances_by_kind: ``(states, K, S, L)``.
        rewards_by_kind: ``(states, K, n)`` of each item.
    """

    slates: IntArray
    chances: FloatArray
    rewards: FloatArray
    following: IntArray
    belief: FloatArray
    chances_by_kind: FloatArray
    rewards_by_kind: FloatArray


def lay_out(world: SmallWorld) -> Tables:
    """Work out choices, rewards and posteriors of every state by Bayes' rule."""
    slates = world.slates
    n_slates, size = slates.shape
    following = 1 + np.arange(n_slates * size).reshape(n_slates, size)
    chosen = slates.reshape(-1)  # the item behind each later state
    utilities = np.concatenate([world.first[None], np.moveaxis(world.last, 1, 0)[chosen]])  # (states, K, n)
    logits = world.temperature * utilities[:, :, slates]  # (states, K, S, L)
    by_kind = softmax(logits)
    seen = world.shares[:, None] * by_kind[0].reshape(len(world.shares), -1)  # (K, S x L)
    belief = np.concatenate([world.shares[None], (seen / seen.sum(axis=0)).T])
    joint = belief[:, :, None, None] * by_kind
    chances = joint.sum(axis=1)
    is_paid = np.ones(len(utilities))
    is_paid[0] = 0.0 if world.is_sparse else 1.0
    paid = utilities * is_paid[:, None, None]
    rewards = (joint * paid[:, :, slates]).sum(axis=1) / chances
    return Tables(slates, chances, rewards, following, belief, by_kind, paid)


def value_of(tables: Tables, policy: IntArray) -> float:
    """Expected return of a policy ``(states,)``, the index of a slate in each state."""
    later = (tables.chances * tables.rewards).sum(axis=-1)
    later = later[np.arange(len(later)), policy]
    first = tables.rewards[0] + later[tables.following]
    return float((tables.chances[0] * first).sum(axis=-1)[policy[0]])


def uniform_value(tables: Tables) -> float:
    """Expected return of slates at random."""
    later = (tables.chances * tables.rewards).sum(axis=-1).mean(axis=-1)
    return float((tables.chances[0] * (tables.rewards[0] + later[tables.following])).sum(axis=-1).mean())


def best_policy(tables: Tables) -> IntArray:
    """Solve the world by dynamic programming over histories: the policy that knows everything but the kind."""
    by_slate = (tables.chances * tables.rewards).sum(axis=-1)
    policy: IntArray = by_slate.argmax(axis=-1)
    first = tables.rewards[0] + by_slate.max(axis=-1)[tables.following]
    policy[0] = (tables.chances[0] * first).sum(axis=-1).argmax()
    return policy


def expectile(values: FloatArray, level: float) -> FloatArray:
    """Expectile of equally likely values ``(..., n)``: the minimiser of the squared asymmetric loss."""
    low, high = values.min(axis=-1), values.max(axis=-1)
    for _ in range(60):
        middle = (low + high) / 2
        above = np.clip(values - middle[..., None], 0, None).mean(axis=-1)
        below = np.clip(middle[..., None] - values, 0, None).mean(axis=-1)
        is_low = level * above > (1 - level) * below
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    found: FloatArray = (low + high) / 2
    return found


def iql_policy(tables: Tables, form: str, level: float = EXPECTILE) -> IntArray:
    """Greedy policy of IQL at the fixed point of its loss, ``slate_mean`` or ``per_prompt`` (docs/agents/iql.md)."""
    n_items = int(tables.slates.max()) + 1
    shows = (tables.slates[:, :, None] == np.arange(n_items)).any(axis=1).astype(np.float64)  # (S, n)
    size = tables.slates.shape[1]

    def of_targets(targets: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Prompt values ``(..., n)`` and history values ``(...)`` for a slate's expected targets ``(..., S)``."""
        if form == "slate_mean":
            values = targets @ np.linalg.pinv(shows / size).T
            return values, expectile(values @ (shows / size).T, level)
        values = targets @ shows / shows.sum(axis=0)
        return values, expectile(values[..., tables.slates].reshape(*values.shape[:-1], -1), level)

    values, history_values = of_targets((tables.chances * tables.rewards).sum(axis=-1))
    first = tables.rewards[0] + history_values[tables.following]
    values[0] = of_targets((tables.chances[0] * first).sum(axis=-1))[0]
    policy: IntArray = (values @ shows.T).argmax(axis=-1)
    return policy


def softmax_scores(chances: FloatArray, slates: IntArray, steps: int = 25) -> FloatArray:
    """Fit one softmax to choice probabilities ``(states, S, L)`` by cross-entropy over uniform slates.

    Returns:
        ``(states, n)`` scores of the items.
    """
    n_items = int(slates.max()) + 1
    shows = slates[:, :, None] == np.arange(n_items)  # (S, L, n)
    scores = np.zeros((len(chances), n_items))
    for _ in range(steps):
        model = softmax(scores[:, slates])
        gradient = np.einsum("bsl,sln->bn", model - chances, shows)
        mean = np.einsum("bsl,sln->bsn", model, shows)
        curvature = np.einsum("bsl,sln,slm->bnm", model, shows, shows) - np.einsum("bsn,bsm->bnm", mean, mean)
        scores -= np.linalg.solve(curvature + 1e-6 * np.eye(n_items), gradient[..., None])[..., 0]
    return scores


def slateq_policy(tables: Tables, next_slate: str) -> IntArray:
    """Greedy policy of SlateQ with one softmax for everybody, its target over the ``logged`` or the ``max`` slate."""
    n_items = int(tables.slates.max()) + 1
    shows = (tables.slates[:, :, None] == np.arange(n_items)).astype(np.float64)
    model = softmax(softmax_scores(tables.chances, tables.slates)[:, tables.slates])

    def item_values(targets: FloatArray, chances: FloatArray) -> FloatArray:
        """What is worth an item when it is chosen, over all slates that show it, ``(..., n)``."""
        counted = np.einsum("...sl,sln->...n", chances, shows)
        found: FloatArray = np.einsum("...sl,...sl,sln->...n", chances, targets, shows) / counted
        return found

    slate_values = (model * item_values(tables.rewards, tables.chances)[:, tables.slates]).sum(axis=-1)
    following = slate_values.max(axis=-1) if next_slate == "max" else slate_values.mean(axis=-1)
    first = item_values(tables.rewards[0] + following[tables.following], tables.chances[0])
    slate_values[0] = (model[0] * first[tables.slates]).sum(axis=-1)
    policy: IntArray = slate_values.argmax(axis=-1)
    return policy


def mixture_policy(tables: Tables) -> IntArray:
    """Greedy policy of SlateQ with one choice model a kind, its target over the logged slate."""
    # A kind's item values do not depend on the belief, and later states with the same chosen item are alike.
    by_slate = (tables.chances_by_kind * tables.rewards_by_kind[:, :, tables.slates]).sum(axis=-1)  # (states, K, S)
    following = by_slate.mean(axis=-1)[tables.following]  # (S, L, K)
    first = tables.rewards_by_kind[0][:, tables.slates] + np.moveaxis(following, -1, 0)
    by_slate[0] = (tables.chances_by_kind[0] * first).sum(axis=-1)
    policy: IntArray = (tables.belief[:, :, None] * by_slate).sum(axis=1).argmax(axis=-1)
    return policy


def gaps(world: SmallWorld) -> dict[str, float]:
    """Share of the way from random slates to the best policy that each learner's form leaves."""
    tables = lay_out(world)
    best, floor = value_of(tables, best_policy(tables)), uniform_value(tables)
    policies = (
        iql_policy(tables, "slate_mean"),
        iql_policy(tables, "per_prompt"),
        slateq_policy(tables, "logged"),
        slateq_policy(tables, "max"),
        mixture_policy(tables),
    )
    return {
        name: (best - value_of(tables, policy)) / (best - floor)
        for name, policy in zip(LEARNERS, policies, strict=True)
    }


def table(n_worlds: int, seed: int = 0) -> str:
    """Lay the gaps out as a Markdown table, one row a size and reward."""
    lines = [f"| kinds | L of 6 | reward | {' | '.join(LEARNERS)} |", "|" + "---|" * (3 + len(LEARNERS))]
    for n_kinds, slate_size, is_sparse in itertools.product((1, 2, 4), (2, 3), (True, False)):
        rng = np.random.default_rng([seed, n_kinds, slate_size, is_sparse])
        sizes = {"n_kinds": n_kinds, "n_items": 6, "slate_size": slate_size, "is_sparse": is_sparse}
        found = [gaps(draw_world(rng, **sizes)) for _ in range(n_worlds)]
        scores = {name: np.array([[row[name] for row in found]]) for name in LEARNERS}
        cells = [_cell(made) for made in mean_intervals(scores, rng).values()]
        reward = "sparse" if is_sparse else "dense"
        lines.append(f"| {n_kinds} | {slate_size} | {reward} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(made: Interval) -> str:
    return f"{made.estimate:.0%} [{made.low:.0%}, {made.high:.0%}]"


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.value_gap", description=__doc__)
    parser.add_argument("--worlds", type=int, default=200, help="random worlds a row")
    parser.add_argument("--page", type=pathlib.Path, help="put the table into a page's block value_gap")
    given = parser.parse_args(arguments)
    if given.worlds < 1:
        parser.error(f"--worlds must be at least 1, got {given.worlds}")
    text = table(given.worlds)
    if given.page:
        fill_block(given.page, "value_gap", f"{printed_by('value_gap', arguments)}\n\n{text}")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
