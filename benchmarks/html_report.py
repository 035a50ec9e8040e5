"""One page, ``report.html``, from a folder of finished runs: tables, interactive plots, pictures, commands.

The page holds all that it shows, Plotly's program included, and asks no other machine for anything. Without Plotly it
has the drawn figures in place of the plots. The same runs give the same page.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import pathlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks import report_plots, runs
from benchmarks.tracking import read_metrics
from pasta_gym.files import write_text

if TYPE_CHECKING:
    from benchmarks.comparisons import Comparison
    from benchmarks.report import Report
    from benchmarks.runs import Run

logger = logging.getLogger(__name__)
MAX_PICTURE_BYTES = 20_000_000
"""Slates beyond this are left where they are and the page says so."""
PLOT_SETTINGS = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"]}
"""Of every plot; Plotly's button that uploads a chart is left out."""
UNKNOWN, CHANGES = "unknown", "+changes"
"""What a run says in place of its revision outside of git, and behind it where files differed from it."""
_BAD = ("Failed runs", "Unfinished runs")

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0}td,th{border-bottom:1px solid #ccc;padding:.3rem .7rem;text-align:left}
th{cursor:pointer}td+td{font-variant-numeric:tabular-nums}.no{color:#a00;font-weight:bold}img{max-width:100%}
pre{background:#f5f5f5;padding:.7rem;overflow-x:auto}figure{display:inline-block;margin:.4rem}
figcaption,.note{color:#555;font-size:.9em}summary{cursor:pointer}.scroll{overflow-x:auto}
"""
SORT = """
document.querySelectorAll("th").forEach(head => head.addEventListener("click", () => {
  const table = head.closest("table"), place = [...head.parentNode.children].indexOf(head);
  const down = head.dataset.down !== "yes";
  const value = row => row.children[place].textContent;
  const compare = (a, b) => {
    const x = parseFloat(value(a)), y = parseFloat(value(b));
    return isNaN(x) || isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
  };
  const rows = [...table.querySelectorAll("tr")].slice(1).sort((a, b) => down ? compare(b, a) : compare(a, b));
  rows.forEach(row => row.parentNode.append(row));
  head.dataset.down = down ? "yes" : "no";
}));
"""


def write(
    path: pathlib.Path,
    reports: Sequence[Report],
    texts: Sequence[str],
    finished: Sequence[Run],
    *,
    rest: str,
    comparisons: Sequence[Comparison],
    drawn: Sequence[pathlib.Path],
    command: Sequence[str],
) -> None:
    """Write the page.

    Args:
        path: Where.
        reports: One an experiment.
        texts: Each report as Markdown.
        finished: All their runs, from run directories and from shards.
        rest: The tables and statistics that follow them, as Markdown.
        comparisons: What the statistics were made of.
        drawn: Figures as PNG files, for a page without Plotly.
        command: Words of the command that makes the page.
    """
    program = plotly_program()
    if program is None:
        logger.warning(
            "report.html: plotly is not installed, so its plots are pictures; "
            "python -m pip install -c constraints.txt plotly"
        )
    write_text(path, page(reports, texts, finished, rest, comparisons, drawn, command, program))


def plotly_program() -> str | None:
    """Read Plotly's JavaScript from its package, or None if that is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    return str(get_plotlyjs())


def page(
    reports: Sequence[Report],
    texts: Sequence[str],
    finished: Sequence[Run],
    rest: str,
    comparisons: Sequence[Comparison],
    drawn: Sequence[pathlib.Path],
    command: Sequence[str],
    program: str | None,
) -> str:
    """Compose the page; see :func:`write` for the arguments."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>PASTA Gym benchmark</title>",
        f"<style>{STYLE}</style>",
        f"<script>{program}</script>" if program is not None else "",
        "</head><body><h1>PASTA Gym benchmark</h1><p class=note>A click on a column's head sorts its table.</p>",
    ]
    for number, (report, text) in enumerate(zip(reports, texts, strict=True)):
        table_part, heading, others = text.partition("\n### ")
        parts.append(from_markdown(table_part))
        if program is not None:
            parts += [plot(f"plot-{number}-{name}", *shown) for name, shown in plots(report, finished).items()]
        parts.append(from_markdown(heading + others))
    if program is not None:
        parts += [
            plot(f"plot-profiles-{number}", f"Performance profiles of {c.title}", report_plots.performance_profiles(c))
            for number, c in enumerate(comparisons)
        ]
    else:
        parts += [f"<p>{_image(file)}</p>" for file in drawn]
    parts += [from_markdown(rest), runs_table(finished), pictures(finished), commands(finished, command)]
    return "".join(parts) + f"<script>{SORT}</script></body></html>\n"


def plots(report: Report, finished: Sequence[Run]) -> dict[str, tuple[str, report_plots.Figure]]:
    """Make the plots of one experiment: heading and figure by a short name."""
    own = [run for run in finished if (run.key.experiment, run.key.data, run.key.world, run.key.split) == report.name]
    curves = [(run, read_metrics(run.folder)) for run in own if (run.folder / runs.METRICS).exists()]
    made = {
        "scores": ("Scores", report_plots.scores(report)),
        "turns": ("Turn by turn", report_plots.utilities(report)),
        "types": ("Return by user type", report_plots.by_user_type(report, own)),
        "curves": ("Learning curves", report_plots.learning_curves(report, curves)),
    }
    return {name: (heading, figure) for name, (heading, figure) in made.items() if figure is not None}


def plot(name: str, heading: str, figure: report_plots.Figure) -> str:
    """Write one plot: a box and the line of program that draws into it."""
    # A text in the data may not end the script.
    drawn = json.dumps([figure["data"], figure["layout"], PLOT_SETTINGS], allow_nan=False).replace("</", "<\\/")
    height = figure["layout"]["height"]
    return (
        f'<h3>{html.escape(heading)}</h3><div id="{name}" class=plot style="height:{height}px"></div>'
        f'<script>Plotly.newPlot("{name}", ...{drawn})</script>'
    )


def from_markdown(text: str) -> str:
    """Write the report's Markdown as HTML: headings, tables, lists and paragraphs, which is all that it has."""
    return "".join(_blocks(text.splitlines()))


def _blocks(lines: Sequence[str]) -> Iterator[str]:
    heading, at = "", 0
    while at < len(lines):
        kind = _kind(lines[at])
        end = at + 1
        while end < len(lines) and _kind(lines[end]) == kind and kind != "heading":
            end += 1
        block, at = lines[at:end], end
        if kind == "heading":
            marks, _, heading = block[0].partition(" ")
            yield f"<h{len(marks)}>{_words(heading)}</h{len(marks)}>"
        elif kind == "table":
            rows = [row for row in block if not re.fullmatch(r"[|\-]+", row)]
            cells = [[cell.strip() for cell in row.strip().strip("|").split(" | ")] for row in rows]
            yield table(cells[0], cells[1:])
        elif kind == "list":
            items = [(item[2:], heading in _BAD or item.startswith("- NO:")) for item in block]
            yield "<ul>" + "".join(f"<li{' class=no' * bad}>{_words(item)}</li>" for item, bad in items) + "</ul>"
        elif kind == "text":
            yield f"<p>{'<br>'.join(_words(line) for line in block)}</p>"


def _kind(line: str) -> str:
    if not line.strip():
        return "space"
    if re.match(r"#+ ", line):
        return "heading"
    return "table" if line.startswith("|") else "list" if line.startswith("- ") else "text"


def _words(text: str) -> str:
    plain = html.escape(re.sub(r"\\([*_|])", r"\1", text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", plain)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of text."""
    head = "".join(f"<th>{_words(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_words(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def runs_table(finished: Sequence[Run]) -> str:
    """Write one row a run."""
    header = ["experiment", "agent", "reward", "data", "world", "images", "seed", "episodes", "return", "final utility"]
    rows = [
        [
            *(run.key.experiment, run.key.agent, run.key.reward, run.key.data, run.key.world, run.key.images),
            *(str(run.key.seed), str(len(run.scores)), f"{run.scores.returns.mean():.3f}"),
            f"{run.scores.chosen_utilities[:, -1].mean():.4f}",
            str(run.metadata.get("wall_seconds", "")),
            str(run.metadata.get("dataset_id") or ""),
            _short(str(run.metadata.get("git_revision") or "")),
        ]
        for run in finished
    ]
    return "<h2>Runs</h2>" + table([*header, "seconds", "dataset", "revision"], rows)


def _short(revision: str) -> str:
    return revision.removesuffix(CHANGES)[:12] + CHANGES * revision.endswith(CHANGES)


def pictures(finished: Sequence[Run]) -> str:
    """Show the slates that runs kept (``++tracking.pictures=true``)."""
    parts, left, n_left_out = [], MAX_PICTURE_BYTES, 0
    for run in finished:
        shown = []
        for file in sorted((run.folder / "pictures").glob("*.png"), key=_by_number):
            left -= file.stat().st_size
            if left < 0:
                n_left_out += 1
                continue
            caption = file.stem.removeprefix("slates-").replace("_", " ")
            shown.append(f"<figure>{_image(file)}<figcaption>{html.escape(caption)}</figcaption></figure>")
        if shown:
            parts.append(f"<h3>{html.escape(_title(run))}</h3>" + "".join(shown))
    if n_left_out:
        parts.append(f"<p>{n_left_out} more pictures are in the run directories.</p>")
    return "<h2>Slates of one conversation</h2>" + "".join(parts) if parts else ""


def _by_number(path: pathlib.Path) -> tuple[int, str]:
    digits = re.search(r"\d+", path.stem)
    return (int(digits.group()) if digits else 0, path.stem)


def _image(path: pathlib.Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}">'


def _title(run: Run) -> str:
    key = run.key
    parts = (key.experiment, key.agent, key.reward, key.data, key.world, key.images, f"seed {key.seed}")
    return ", ".join(parts)


def commands(finished: Sequence[Run], last: Sequence[str]) -> str:
    """Write the commands that make the runs and, ``last``, this page again, with each run's configuration.

    Runs that only a shard holds have no configuration here; the experiment's sweep makes those that are missing. The
    revision is that of most runs.
    """
    said = [str(run.metadata.get("git_revision") or UNKNOWN) for run in finished]
    revisions = Counter(sorted(text.removesuffix(CHANGES) for text in said if text != UNKNOWN))
    checkout = [f"git checkout {shlex.quote(revision)}" for revision, _ in revisions.most_common(1)]
    steps = [*checkout, "python -m pip install -c constraints.txt -e '.[all]'"]
    steps += dict.fromkeys(command(run) for run in finished)
    steps.append(shlex.join(last))
    notes = []
    if len(revisions) > 1:
        notes.append(f"The runs are of {len(revisions)} revisions; the table of runs says which is of which.")
    if n_changed := sum(text.endswith(CHANGES) for text in said):
        notes.append(f"{n_changed} of {len(said)} runs are of files that had changes not in their revision.")
    if n_unknown := said.count(UNKNOWN):
        notes.append(f"The revision of {n_unknown} of {len(said)} runs is not known.")
    note = f"<p>{' '.join(notes)}</p>" if notes else ""
    configurations = "".join(
        f"<details><summary>{html.escape(_title(run))}</summary><pre>{html.escape(text)}</pre></details>"
        for run in finished
        if (text := _read(run.folder / runs.CONFIG))
    )
    return (
        "<h2>To make it again</h2><p>From a checkout. A finished run is skipped: delete its directory first, or add "
        f"<code>runs=ELSEWHERE</code>.</p>{note}<pre>{html.escape(chr(10).join(steps))}</pre>"
        f"<h3>Configurations</h3>{configurations}"
    )


def command(run: Run) -> str:
    """Write the command that makes a run again: from the configuration in its directory, or else its whole sweep."""
    if not (run.folder / runs.CONFIG).exists():
        return shlex.join(["python", "-m", "benchmarks.run", "--multirun", f"experiment={run.key.experiment}"])
    return shlex.join(
        [
            *("python", "-m", "benchmarks.run", "--config-dir", str(run.folder), "--config-name", "config"),
            *("hydra/job_logging=stdout", "hydra.run.dir=.", "hydra.output_subdir=null"),
        ]
    )


def _read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
