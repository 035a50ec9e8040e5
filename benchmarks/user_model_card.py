"""The card of a user model: what it was fitted on, what it predicts, what it is good for and what not."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta_gym.files import whole_file, write_text
from pasta_gym.user_model.user_model import CHOICE_IS_FITTED, UserModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scores = dict[str, Any]
"""What ``held_out_scores`` returns."""

CARD = "card.md"
FIGURE = "card.png"
RELIABILITY = "reliability.png"
CLIP_SCORE = "CLIP score"
TYPES, ONE = OWN_ROWS = ("types", "one type")
FEW_RATERS, POOR_CALIBRATION, SMALL_GAIN, ROUGH_SHARE = 30, 0.05, 0.005, 0.02


def _most(scores: Scores) -> str:
    """The largest number of labels that there are figures for."""
    return str(max(int(n) for n in scores if n.isdigit()))


def findings(
    model: UserModel, scores: Scores, one_type: Scores | None, baselines: Mapping[str, Scores] | None = None
) -> tuple[list[str], list[str]]:
    """Say what measured figures support and what they do not.

    Args:
        model: The user model.
        scores: ``held_out_scores`` of it on test raters.
        one_type: The same of one type, None if there is none.
        baselines: The same of scores that know no raters, by name.

    Returns:
        What it is good for, and what it is not good for; a sentence each.
    """
    good, bad, n = [], [], _most(scores)
    top = scores[n]
    if top.get("pairs"):
        accuracy = top["pair_accuracy"]
        said = f"Pairs of test raters after {n} labels of theirs: {accuracy:.3f} right, a coin 0.5."
        (good if accuracy > 0.5 + SMALL_GAIN else bad).append(said)
    if top.get("choices"):
        gain = top["choice_log_likelihood"] - scores["uniform_choice_log_likelihood"]
        said = f"Choices of test raters: {gain:+.3f} nats each over a uniform guess."
        (good if gain > SMALL_GAIN else bad).append(said)
        if not top.get("choice_ece", 0) <= POOR_CALIBRATION:
            bad.append(f"Choice probabilities taken at face value: they are off by {top['choice_ece']:.3f} on average.")
    else:
        bad.append("Choices: no test rater made any, so nothing is known of the temperature on new people.")
    for kind in ("pair", "choice"):
        name = f"{kind}_log_likelihood"
        if one_type is not None and name in top and name in one_type[n]:
            gain = top[name] - one_type[n][name]
            said = f"Differences between people: {gain:+.3f} nats a {kind} over one type for all, after {n} labels."
            (good if gain > SMALL_GAIN else bad).append(said)
        for other, figures in (baselines or {}).items():
            if name in top and name in figures[n]:
                gain = top[name] - figures[n][name]
                said = f"More than {other} knows: {gain:+.3f} nats a {kind}, after {n} labels."
                (good if gain > SMALL_GAIN else bad).append(said)
    if scores["raters"] < FEW_RATERS:
        bad.append(f"Fine comparisons: only {scores['raters']} test raters stand behind the figures.")
    rare = int((model.prior < ROUGH_SHARE).sum())
    if rare:
        bad.append(f"Studies of rare tastes: {rare} of {model.n_types} types have a share under {ROUGH_SHARE:.0%}.")
    return good, bad


def cautions(metadata: dict[str, Any]) -> list[str]:
    """Say what follows from the data and not from any figure."""
    data = metadata.get("data", {})
    notes = []
    if not metadata.get(CHOICE_IS_FITTED, True):
        notes.append(
            "How decidedly people choose: there were no sessions, so temperature and sharpness are configured numbers "
            "and not fitted ones."
        )
    if any(source.get("kind") == "mini_raters" for source in data.get("sources", [])):
        notes.append("Statements about people: its raters are synthetic and their tastes were made up.")
    if not data.get("counts", {}).get("ratings"):
        notes.append("Absolute utilities: there were no ratings, so only differences of utilities mean something.")
    encoder = str(metadata.get("encoder", {}).get("sha256"))[:16]
    notes.append(f"Embeddings of another encoder than {encoder}.")
    return notes


def about_prompts(scores: Scores) -> str:
    """Say which of the held-out labels are on prompts that training raters judged too; nothing if there are none."""
    shares = scores.get("on_seen_prompts", {})
    if not shares:
        return ""
    said = " and ".join(f"{share:.0%} of their {kind}" for kind, share in shares.items())
    said = f"On prompts that training raters judged as well: {said}."
    if any(shares.values()):
        said += (
            " There the figures are about new people, not about new prompts; +splits.by=both keeps prompts apart too."
        )
    return said


def write_card(
    folder: pathlib.Path,
    model: UserModel,
    scores: Scores,
    one_type: Scores | None,
    baselines: Mapping[str, Scores] | None = None,
) -> None:
    """Write ``card.md`` and its figures into a user model's folder, each whole or not at all.

    Args:
        folder: The folder.
        model: The user model, with its metadata.
        scores: ``held_out_scores`` of it.
        one_type: The same of one type, None if there is none.
        baselines: The same of scores that know no raters, by name.
    """
    rows = {TYPES: scores, **({} if one_type is None else {ONE: one_type}), **(baselines or {})}
    draw(folder / FIGURE, model, scores, one_type)
    is_drawn = draw_reliability(folder / RELIABILITY, rows)
    good, bad = findings(model, scores, one_type, baselines)
    bad += cautions(model.metadata)
    data, prior = model.metadata.get("data", {}), np.sort(model.prior)[::-1]
    lines = [
        f"# User model: {data.get('name', 'unnamed')}, {model.n_types} types",
        "",
        f"![Predictions, shares and training]({FIGURE})",
        "",
        "## Good for",
        *([f"- {said}" for said in good] or ["- Nothing that was measured."]),
        "",
        "## Not good for",
        *[f"- {said}" for said in bad],
        "",
        "## Figures",
        f"Test raters, after n labels of theirs. The fit never saw them. {about_prompts(scores)}".rstrip(),
        "",
        *_table(rows),
        "",
        *_whole_table(rows),
        *_left_out(scores),
        *([f"![Predicted and observed frequencies]({RELIABILITY})", ""] if is_drawn else []),
        f"Shares of the types: {', '.join(f'{p:.3f}' for p in prior)}. "
        f"Temperature {model.temperature:.3g}"
        + ("" if model.has_constant_temperature else f", slopes {_numbers(model.slopes)}")
        + f"; sharpness {model.sharpness:.3g}"
        + ("" if model.has_fitted_choices else ", both as configured")
        + f"; tau_s {model.comparison_temperature:.3g}.",
        "",
        "## Fitted on",
        *[_source_line(source) for source in data.get("sources", [])],
        f"- {', '.join(f'{n} {name}' for name, n in data.get('counts', {}).items())}",
        f"- encoder {model.metadata.get('encoder', {})}",
        f"- phases {', '.join(sorted(model.metadata.get('phases', {})))}; code {model.metadata.get('git', 'unknown')}",
        "",
        "## Use",
        "```python",
        f'env = gym.make("PastaT2I-v0", user_model="{folder}")',
        "```",
    ]
    write_text(folder / CARD, "\n".join(lines) + "\n")


def _source_line(source: Mapping[str, Any]) -> str:
    """A dataset, and the split that all of its raters are in if it was put into one."""
    put = f", {source['as_split']} alone" if source.get("as_split") else ""
    return f"- {source.get('kind')}: {source.get('name', '')}{put}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:.2f}" for v in values)


def _table(rows: Mapping[str, Scores]) -> list[str]:
    """The figures by number of labels; what knows no raters has one row."""
    names = [f"{kind}_{what}" for kind in ("pair", "choice") for what in ("accuracy", "log_likelihood", "ece")]
    names.append("cross_turn_accuracy")
    lines = ["| | " + " | ".join(n.replace("_", " ") for n in names) + " |", "|---|" + "---|" * len(names)]
    for title, figures in rows.items():
        for n in [n for n in figures if n.isdigit()] if title in OWN_ROWS else [_most(figures)]:
            cells = " | ".join(f"{figures[n][m]:.3f}" if m in figures[n] else "-" for m in names)
            lines.append(f"| {title}{f', n = {n}' if title in OWN_ROWS else ''} | {cells} |")
    return lines


def _whole_table(rows: Mapping[str, Scores]) -> list[str]:
    """The figures whose posterior comes about in a way of their own, by dataset if there are several; and counts."""
    figures = next(iter(rows.values()))
    # The labels are the same in all rows, and so are the datasets. Of one alone the name is not said.
    parts: dict[str, dict[str, Scores]] = {"": dict(rows)}
    for name in figures.get("by_source", {}):
        parts[f", {name}"] = {title: f["by_source"][name] for title, f in rows.items()}
    columns: dict[str, dict[str, str]] = {}
    counts = []
    for name, part in parts.items():
        of_part = next(iter(part.values()))
        if "pickapic_pairs" in of_part:
            columns[f"Pick-a-Pic, the paper's{name}"] = {t: f"{f['pickapic_paper']:.3f}" for t, f in part.items()}
            columns[f"Pick-a-Pic, the script's{name}"] = {
                t: f"{f['pickapic_script']:.3f} (t = {f['pickapic_threshold']:g})" for t, f in part.items()
            }
            pairs = f"{of_part['pickapic_pairs']:,.0f} pairs"
            counts.append(f"Pick-a-Pic{name}: {pairs}, after the other half of a rater's")
        if "hps_lists" in of_part:
            columns[f"HPS Spearman{name}"] = {t: f"{f['hps_spearman']:.3f}" for t, f in part.items()}
            lengths = sorted({of_part["hps_fewest_images"], of_part["hps_images"]})
            images = " to ".join(f"{length:.0f}" for length in lengths)
            counts.append(f"HPS{name}: {of_part['hps_lists']:,.0f} lists of {images} images, after three")
    answers = figures[_most(figures)].get("cross_turns")
    if answers:
        counts.append(f"cross-turn: {answers:,.0f} answers")
    lines = []
    if columns:
        lines += ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        lines += [f"| {title} | " + " | ".join(c[title] for c in columns.values()) + " |" for title in rows]
        lines.append("")
    return [*lines, "; ".join(counts) + ".", ""] if counts else lines


def _left_out(scores: Scores) -> list[str]:
    """What the labels did not allow, and why."""
    found = scores.get("left_out", {})
    return ["Left out:", *[f"- {name}: {why}" for name, why in found.items()], ""] if found else []


def draw(path: pathlib.Path, model: UserModel, scores: Scores, one_type: Scores | None) -> None:
    """Draw log-likelihoods by number of labels, the types' shares, and the loss by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    for axis, kind in zip(axes, ("pair", "choice"), strict=False):
        for title, figures in (("types", scores), ("one type", one_type)):
            points = [
                (int(n), f[f"{kind}_log_likelihood"])
                for n, f in (figures or {}).items()
                if n.isdigit() and f"{kind}_log_likelihood" in f
            ]
            axis.plot([n for n, _ in points], [y for _, y in points], marker="o", label=title)
        axis.set(xlabel="labels seen", title=f"log-likelihood of a {kind}")
        axis.legend(loc="upper right")
    axes[2].bar(range(model.n_types), np.sort(model.prior)[::-1])
    axes[2].set(xlabel="type", title="shares")
    for phase in (1.0, 2.0):
        rows = [row for row in model.metadata.get("history", []) if row["phase"] == phase]
        axes[3].plot([row["step"] for row in rows], [row["loss"] for row in rows], label=f"phase {phase:.0f}")
    axes[3].set(xlabel="step", title="loss of the last batch")
    axes[3].legend(loc="upper right")
    _save(figure, path)


def draw_reliability(path: pathlib.Path, rows: Mapping[str, Scores]) -> bool:
    """Draw predicted against observed frequencies of pairs and choices, after the most labels; a dot is a bin.

    Args:
        path: Where to.
        rows: ``held_out_scores`` by title.

    Returns:
        Whether there was anything to draw; without it a figure of an earlier card is removed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("pair", "choice") if any(kind in f.get("reliability", {}) for f in rows.values())]
    if not kinds:
        path.unlink(missing_ok=True)
        return False
    figure = Figure(figsize=(4.2 * len(kinds), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for title, figures in rows.items():
            curve = figures.get("reliability", {}).get(kind)
            if curve is not None:
                (line,) = axis.plot(curve["predicted"], curve["observed"], linewidth=1, label=title)
                sizes = 120.0 * np.array(curve["counts"]) / sum(curve["counts"])  # a bin of few is a small dot
                axis.scatter(curve["predicted"], curve["observed"], s=np.maximum(sizes, 2.0), color=line.get_color())
        axis.set(xlabel="predicted", ylabel="observed", title=f"{kind}s, n = {_most(next(iter(rows.values())))}")
        axis.legend(loc="upper left", frameon=False)
    _save(figure, path)
    return True


def _save(figure: Figure, path: pathlib.Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
