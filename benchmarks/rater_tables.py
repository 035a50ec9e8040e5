"""Tables, CSV files and the figure of what held-out raters say of agents."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import rater_verdicts
from benchmarks.pages import printed
from benchmarks.rater_verdicts import ANSWERS, Heard, Orders
from benchmarks.runs import Run, RunKey
from benchmarks.stats import Interval, Scores
from pasta_gym.files import write_text
from pasta_gym.types import IntArray

UNTRAINED = ("random", "untrained_generator")
SAME_PICTURES, BENCHMARK = "The learned model, of the same pictures", "The benchmark, with learned users"


def arm(key: RunKey) -> str:
    """Name what is judged: an agent and the data it learned from, or the agent alone if it learns nothing."""
    return key.agent if key.agent in UNTRAINED else f"{key.agent}/{key.data}"


def benchmark_scores(own: Sequence[Run]) -> tuple[IntArray, Scores]:
    """Final utility of learned users in the runs of one agent: the episodes they share, and ``(seeds, E)``.

    Raises:
        ValueError: If two runs share no episode.
    """
    shared = sorted(set.intersection(*(set(run.scores.episodes.tolist()) for run in own)))
    if not shared:
        raise ValueError(f"the runs of {arm(own[0].key)} share no episode; evaluate them with one evaluation.seed")
    rows = [run.scores.chosen_utilities[np.searchsorted(run.scores.episodes, shared), -1] for run in own]
    return np.array(shared), np.stack(rows)


@dataclass(frozen=True)
class Tables:
    """What the study found.

    Attributes:
        heard: What raters said of each agent.
        raters: ``(E,)`` who talked.
        shares: By agent, turn (0: the mean over turns) and answer.
        satisfaction: Mean on 1-5.
        planted: Mean final utility for the raters.
        learned: The same for their most likely learned types, of the same pictures.
        benchmark: The same of learned users in the agents' own runs.
        gains: Promised, felt and excess over the baseline.
        orders: The raters' order beside each of the two learned ones, by the name of the judge.
        baseline: Whom gains are counted from.
        text: Everything as Markdown.
    """

    heard: dict[str, Heard]
    raters: IntArray
    shares: dict[tuple[str, int, str], Interval]
    satisfaction: dict[str, Interval]
    planted: dict[str, Interval]
    learned: dict[str, Interval]
    benchmark: dict[str, Interval]
    gains: dict[str, tuple[Interval, Interval, Interval]]
    orders: dict[str, Orders]
    baseline: str
    text: str


def tables(
    heard: Mapping[str, Heard],
    raters: IntArray,
    benchmark: Mapping[str, tuple[IntArray, Scores]],
    *,
    baseline: str,
    n_replicates: int = 2000,
) -> Tables:
    """Compute every interval and both comparisons of orders.

    Args:
        heard: What raters said of each agent, all in the same conversations.
        raters: ``(E,)`` who talked.
        benchmark: Of each agent the episodes of its own runs and the final utilities there.
        baseline: Whom gains are counted from; no gains if it is missing.
        n_replicates: Bootstrap replicates.
    """
    last = {kind: {n: getattr(h, kind)[:, :, -1] for n, h in heard.items()} for kind in ("planted", "learned")}
    shared = sorted(set.intersection(*(set(episodes.tolist()) for episodes, _ in benchmark.values())))
    simulated = {name: scores[:, np.isin(episodes, shared)] for name, (episodes, scores) in benchmark.items()}
    orders = {
        SAME_PICTURES: rater_verdicts.compare_orders(
            last["planted"], last["learned"], raters, n_replicates=n_replicates
        ),
        BENCHMARK: rater_verdicts.compare_orders(
            last["planted"], simulated, raters, np.array(shared), n_replicates=n_replicates
        ),
    }
    made = Tables(
        heard=dict(heard),
        raters=raters,
        shares=rater_verdicts.answer_shares(heard, raters, n_replicates),
        satisfaction=rater_verdicts.intervals({n: h.satisfaction for n, h in heard.items()}, raters, n_replicates),
        planted=rater_verdicts.intervals(last["planted"], raters, n_replicates),
        learned=rater_verdicts.intervals(last["learned"], raters, n_replicates),
        benchmark=rater_verdicts.intervals(simulated, np.array(shared), n_replicates),
        gains=rater_verdicts.promised_and_felt(heard, baseline, raters, n_replicates) if baseline in heard else {},
        orders=orders,
        baseline=baseline,
        text="",
    )
    return Tables(**{**vars(made), "text": markdown(made)})


def markdown(made: Tables) -> str:
    """Write the study as Markdown: answers, satisfaction, both kinds of utility, and where the orders differ."""
    n_turns = next(iter(made.heard.values())).verdicts.shape[2] + 1
    n_raters, n_talks = len(np.unique(made.raters)), len(made.raters)
    lines = [
        f"{n_talks} conversations of each agent and seed with {n_raters} held-out raters. Answers are shares over "
        f"turns 2 to {n_turns} [99% interval]; utilities are of the column chosen last.",
        "",
        "| agent | seeds | better | same | worse | satisfaction, 1-5 | utility, raters | utility, learned model, same "
        "pictures | utility, learned users of the benchmark |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, heard in made.heard.items():
        said = [made.shares[name, 0, answer].text(0, percent=True) for answer in ANSWERS]
        utilities = [column[name].text(3) for column in (made.planted, made.learned, made.benchmark)]
        cells = [name, str(len(heard.verdicts)), *said, made.satisfaction[name].text(), *utilities]
        lines.append(f"| {' | '.join(cells)} |")
    for answer in ANSWERS:
        lines += ["", f"Share of *{answer}*, turn by turn:", ""]
        lines += ["| agent | " + " | ".join(f"turn {t}" for t in range(2, n_turns + 1)) + " |", "|---" * n_turns + "|"]
        for name in made.heard:
            cells = [made.shares[name, turn, answer].text(0, percent=True) for turn in range(2, n_turns + 1)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if made.gains:
        lines += [
            "",
            f"Gain in the utility of the last column over {made.baseline}: what the learned model promises, what "
            "raters feel, and the excess. An excess above zero pleases the learned model and not the rater.",
            "",
            "| agent | promised | felt | excess |",
            "|---|---|---|---|",
            *(f"| {name} | {' | '.join(i.text(3) for i in gain)} |" for name, gain in made.gains.items()),
        ]
    if len(made.heard) > 1:
        lines += ["", *(f"- {rater_verdicts.sentence(orders, judge)}" for judge, orders in made.orders.items())]
    return "\n".join(lines) + "\n"


def block(made: Tables, command: str) -> str:
    """Write what goes between a page's markers."""
    return f"{printed(command)}\n\n{made.text}"


def write(made: Tables, out: pathlib.Path) -> list[pathlib.Path]:
    """Write ``table.md``, ``turns.csv``, ``agents.csv`` and ``figure.png``; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / name for name in ("table.md", "turns.csv", "agents.csv", "figure.png")]
    write_text(written[0], made.text)
    turns = [[name, turn, answer, *_numbers(share)] for (name, turn, answer), share in made.shares.items() if turn > 0]
    write_text(written[1], _csv(["agent", "turn", "answer", "share", "low_99", "high_99"], turns))
    measures = {
        "satisfaction": made.satisfaction,
        "utility_raters": made.planted,
        "utility_learned_same_pictures": made.learned,
        "utility_learned_users": made.benchmark,
        **{
            f"gain_{kind}": {name: gain[i] for name, gain in made.gains.items()}
            for i, kind in enumerate(("promised", "felt", "excess"))
        },
    }
    rows = [[name, measure, *_numbers(i)] for measure, column in measures.items() for name, i in column.items()]
    write_text(written[2], _csv(["agent", "measure", "mean", "low_99", "high_99"], rows))
    draw(made, written[3])
    return written


def draw(made: Tables, path: pathlib.Path) -> None:
    """Draw the answers turn by turn, as the paper's figure 5, and the satisfaction at the end."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(made.heard)
    n_turns = made.heard[names[0]].verdicts.shape[2] + 1
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    *panels, last = figure.subplots(1, len(ANSWERS) + 1)
    colours = mpl.colormaps["tab10"](np.arange(len(names)) % 10)
    shift = np.linspace(-0.2, 0.2, len(names)) if len(names) > 1 else np.zeros(1)
    turns = np.arange(2, n_turns + 1)
    for panel, answer in zip(panels, ANSWERS, strict=True):
        for i, name in enumerate(names):
            shares = [made.shares[name, int(turn), answer] for turn in turns]
            panel.errorbar(
                turns + shift[i], *_bars(shares), fmt="o", color=colours[i], label=name, markersize=4, capsize=2
            )
        panel.set_title(answer)
        panel.set_xlabel("turn, against the one before")
        panel.set_xticks(turns)
        panel.set_ylim(0, None)
    panels[0].set_ylabel("share of answers, 99% interval")
    for i, name in enumerate(names):
        last.errorbar([i], *_bars([made.satisfaction[name]]), fmt="o", color=colours[i], capsize=2)
    last.set_title("satisfaction at the end, 1-5")
    last.set_xticks(range(len(names)), names, rotation=40, ha="right")
    panels[-1].legend(loc="upper right", fontsize="x-small")
    figure.savefig(path, dpi=140)


def _bars(made: Sequence[Interval]) -> tuple[list[float], list[list[float]]]:
    """Heights, and lengths below and above them."""
    below = [max(i.estimate - i.low, 0.0) for i in made]
    above = [max(i.high - i.estimate, 0.0) for i in made]
    return [i.estimate for i in made], [below, above]


def _numbers(made: Interval) -> list[str]:
    return [repr(round(value, 7)) for value in (made.estimate, made.low, made.high)]


def _csv(header: list[str], rows: list[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([header, *rows])
    return buffer.getvalue()
