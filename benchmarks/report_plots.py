"""The interactive plots of the report: pure functions from finished runs to figures in Plotly's JSON format.

A figure is plain data, so it is made and tested without Plotly. One with several choices has a menu; the first choice
is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import stats
from benchmarks.stats import Interval

if TYPE_CHECKING:
    from benchmarks.cells import Cell
    from benchmarks.comparisons import Comparison
    from benchmarks.profiles import Profile
    from benchmarks.report import Report
    from benchmarks.runs import Run

Figure = dict[str, Any]
"""``data`` (traces) and ``layout``."""
Trace = dict[str, Any]

COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#b8860b", "#1b9e9e", "#aa3377", "#777777"),
    *("#e07b39", "#7a5195", "#003f5c", "#8fb339", "#a0522d"),
)
LAPS = (("solid", "circle", ""), ("dash", "diamond", "/"), ("dot", "square", "x"))
"""Dash of lines, symbol of points, pattern of bars: first of all, then of agents whose colour others have already."""
_REPLICATES = 1000  # of the intervals by user type
_SEED = 20_260_104  # of the same


def colours(agents: Iterable[str]) -> dict[str, str]:
    """Give each agent the colour that it has in every plot of a page; see :func:`styles` for those that share one."""
    return {agent: COLOURS[number % len(COLOURS)] for number, agent in enumerate(agents)}


def styles(agents: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Give each agent the dash, symbol and pattern of ``LAPS`` that tell it from others of its colour."""
    return {agent: LAPS[number // len(COLOURS) % len(LAPS)] for number, agent in enumerate(agents)}


def with_menu(choices: Mapping[str, Sequence[Trace]], axes: Mapping[str, tuple[str, str]], **layout: Any) -> Figure:
    """Lay traces out as one figure with a menu.

    Args:
        choices: Traces of each choice, in the order of the menu.
        axes: Titles of the x- and y-axis under each choice.
        layout: Further settings of the layout.
    """
    first = next(iter(choices))
    owners = [name for name, traces in choices.items() for _ in traces]
    data = [{**trace, "visible": name == first} for name, traces in choices.items() for trace in traces]
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"visible": [owner == name for owner in owners]},
                {"xaxis.title.text": axes[name][0], "yaxis.title.text": axes[name][1]},
            ],
        }
        for name in choices
    ]
    made: dict[str, Any] = {
        "template": "none",
        "height": 460,
        "margin": {"l": 150, "r": 20, "t": 60, "b": 60},
        "hovermode": "closest",
        **layout,
    }
    made["xaxis"] = {
        "automargin": True,
        "gridcolor": "#eee",
        **made.get("xaxis", {}),
        "title": {"text": axes[first][0]},
    }
    made["yaxis"] = {
        "automargin": True,
        "gridcolor": "#eee",
        **made.get("yaxis", {}),
        "title": {"text": axes[first][1]},
    }
    if len(choices) > 1:
        made["updatemenus"] = [
            {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "direction": "down"}
        ]
    return {"data": data, "layout": made}


def _numbers(values: Iterable[Any]) -> list[float | None]:
    # A metric may be infinite or no number, JSON has neither, and a gap in a line is what it is.
    return [round(number, 6) if math.isfinite(number) else None for number in map(float, values)]


def _reach(intervals: Sequence[Interval]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": _numbers(made.high - made.estimate for made in intervals),
        "arrayminus": _numbers(made.estimate - made.low for made in intervals),
    }


def _name(reward: str, images: str) -> str:
    return reward if images == "surrogate" else f"{reward}, {images}"


def scores(report: Report) -> Figure:
    """Draw mean returns of each reward and image model, and the normalised scores, with 95% intervals."""
    colour, style = colours(report.agents), styles(report.agents)
    choices: dict[str, list[Trace]] = {}
    axes: dict[str, tuple[str, str]] = {}
    for (reward, images), cell in report.cells.items():
        for what, shown in (("episode return", cell.mean), ("normalised score", cell.normalised)):
            agents = [agent for agent in report.agents if agent in shown]
            if not agents:
                continue
            name = f"{what}, {_name(reward, images)}"
            intervals = [shown[agent] for agent in agents]
            choices[name] = [
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": _numbers(made.estimate for made in intervals),
                    "y": agents,
                    "error_x": {**_reach(intervals), "color": "#999"},
                    "marker": {
                        "size": 11,
                        "color": [colour[agent] for agent in agents],
                        "symbol": [style[agent][1] for agent in agents],
                    },
                    "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
                    "showlegend": False,
                }
            ]
            unit = "0 = random, 1 = clairvoyant" if what == "normalised score" else "10 x utility"
            axes[name] = (f"{what} ({unit}), {cell.episodes} conversations, 95% interval", "")
    return with_menu(
        choices,
        axes,
        height=140 + 34 * len(report.agents),
        yaxis={"autorange": "reversed", "categoryorder": "array", "categoryarray": list(report.agents)},
    )


def utilities(report: Report) -> Figure:
    """Draw the chosen column's mean utility turn by turn."""
    colour, style = colours(report.agents), styles(report.agents)
    choices = {
        _name(reward, images): [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(1, len(cell.utilities[agent]) + 1)),
                "y": _numbers(cell.utilities[agent]),
                "name": agent,
                "line": {"color": colour[agent], "dash": style[agent][0]},
                "marker": {"symbol": style[agent][1]},
                "hovertemplate": "turn %{x}: %{y:.3f}",
            }
            for agent in report.agents
            if agent in cell.utilities
        ]
        for (reward, images), cell in report.cells.items()
    }
    axes = dict.fromkeys(choices, ("turn", "utility of the chosen column, 0 to 1"))
    return with_menu(choices, axes, xaxis={"dtick": 1})


def by_user_type(report: Report, finished: Sequence[Run]) -> Figure | None:
    """Draw the mean return of each agent with users of each type, with 95% intervals; None for users of one type."""
    colour, style = colours(report.agents), styles(report.agents)
    choices, axes = {}, {}
    for (reward, images), cell in report.cells.items():
        types = user_types(report, finished, reward, images, cell)
        if len(set(types)) < 2:
            continue
        rng = np.random.default_rng(_SEED)
        means: dict[str, list[Interval]] = {agent: [] for agent in cell.returns}
        present = sorted(set(types.tolist()))
        for user_type in present:
            own = {agent: values[:, types == user_type] for agent, values in cell.returns.items()}
            for agent, made in stats.mean_intervals(own, rng, _REPLICATES).items():
                means[agent].append(made)
        name = _name(reward, images)
        choices[name] = [
            {
                "type": "bar",
                "x": [str(user_type) for user_type in present],
                "y": _numbers(made.estimate for made in means[agent]),
                "error_y": {**_reach(means[agent]), "color": "#555", "thickness": 1, "width": 2},
                "name": agent,
                "marker": {"color": colour[agent], "pattern": {"shape": style[agent][2]}},
                "hovertemplate": "type %{x}: %{y:.2f}",
            }
            for agent in report.agents
            if agent in means
        ]
        axes[name] = ("user type", "episode return (10 x utility), 95% interval")
    return with_menu(choices, axes, barmode="group", xaxis={"type": "category"}) if choices else None


def user_types(report: Report, finished: Sequence[Run], reward: str, images: str, cell: Cell) -> np.ndarray[Any, Any]:
    """Look up the user type of each conversation of a cell.

    Args:
        report: Of the experiment.
        finished: Runs, of this experiment among others.
        reward: Of the cell.
        images: Of the cell.
        cell: Its conversations are those that all agents share.

    Returns:
        ``(episodes,)``, in the order of ``cell.numbers``. A conversation has the same user under every agent.
    """
    known: dict[int, int] = {}
    for run in finished:
        key = run.key
        if (key.experiment, key.data, key.world, key.split) == report.name and (key.reward, key.images) == (
            reward,
            images,
        ):
            known |= zip(run.scores.episodes.tolist(), run.scores.user_types.tolist(), strict=True)
    return np.array([known[number] for number in cell.numbers.tolist()])


def learning_curves(report: Report, curves: Sequence[tuple[Run, Sequence[Mapping[str, float]]]]) -> Figure | None:
    """Draw every metric that agents logged while they trained, one line a training seed.

    Args:
        report: Of the experiment; its agents give the colours.
        curves: Runs with the lines of their ``metrics.jsonl``.

    Returns:
        The metrics that most agents logged come first; None where nothing was trained.
    """
    colour, style = colours(report.agents), styles(report.agents)
    choices: dict[str, list[Trace]] = {}
    for run, lines in curves:
        key = run.key
        for name in dict.fromkeys(name for line in lines for name in line if name.startswith("training/")):
            points = [(line["step"], line[name]) for line in lines if name in line and "step" in line]
            if len(points) < 2:
                continue
            group = f"{key.agent}, {_name(key.reward, key.images)}"
            own = choices.setdefault(name.removeprefix("training/"), [])
            own.append(
                {
                    "type": "scatter",
                    "mode": "lines" if style[key.agent] == LAPS[0] else "lines+markers",
                    "x": _numbers(step for step, _ in points),
                    "y": _numbers(value for _, value in points),
                    "name": group,
                    "legendgroup": group,
                    "showlegend": all(trace["legendgroup"] != group for trace in own),
                    "opacity": 0.75,
                    "line": {"color": colour[key.agent], "dash": "solid" if key.reward == "sparse" else "dot"},
                    "marker": {"symbol": style[key.agent][1]},
                    "hovertemplate": f"seed {key.seed}, step %{{x}}: %{{y:.4g}}",
                }
            )
    groups = {name: len({trace["legendgroup"] for trace in traces}) for name, traces in choices.items()}
    choices = {name: choices[name] for name in sorted(choices, key=lambda name: (-groups[name], name))}
    axes = {name: ("gradient step", name) for name in choices}
    return with_menu(choices, axes) if choices else None


def performance_profiles(comparison: Comparison) -> Figure:
    """Draw the share of runs, and of conversations, above each normalised score, with pointwise 95% bands."""
    colour, style = colours(comparison.labels), styles(comparison.labels)
    kinds = (
        ("conversations", comparison.conversation_profiles, comparison.conversation_scores),
        ("runs", comparison.run_profiles, comparison.run_scores),
    )
    choices = {
        what: [
            trace
            for agent, profile in profiles.items()
            for trace in _profile(agent, profile, _numbers(at), colour[agent], style[agent][0])
        ]
        for what, profiles, at in kinds
    }
    axes = {what: ("normalised score (0 = random, 1 = clairvoyant)", f"share of {what} above") for what in choices}
    return with_menu(choices, axes, yaxis={"range": [0, 1.02]})


def _profile(agent: str, profile: Profile, at: list[float], colour: str, dash: str) -> list[Trace]:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    band = {
        "type": "scatter",
        "mode": "lines",
        "x": at + at[::-1],
        "y": _numbers([*profile.low, *profile.high[::-1]]),
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.15)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": agent,
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": at,
        "y": _numbers(profile.share),
        "name": agent,
        "legendgroup": agent,
        "line": {"color": colour, "dash": dash},
        "hovertemplate": "%{y:.0%} above %{x:.2f}",
    }
    return [band, line]
