import csv
import dataclasses
import html
import html.parser
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import comparisons, html_report, report, report_plots, runs, shards, stats
from benchmarks.evaluate import EpisodeScores
from pasta_gym.files import write_json

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AGENTS = {"random": 3.0, "blind_slate_aware": 4.0, "clairvoyant": 5.0, "iql": 4.4}


def plant(root, agent, mean, seed=0):
    """A finished run with a chosen mean; three user types; learners logged a curve and kept a slate."""
    n = 40
    luck = np.random.default_rng(5).normal(0, 1, size=n)
    types = np.arange(n) % 3
    finals = mean + luck + types + 0.1 * seed
    utilities = np.clip(finals[:, None] / 10 + np.array([-0.1, -0.05, 0]), 0, 1)
    scores = EpisodeScores(np.arange(n), [f"prompt </script> {i}" for i in range(n)], types, finals, utilities, None)
    key = runs.RunKey("small", "abc", agent, "sparse", "simulated", "mini", "surrogate", "test", seed)
    folder = key.folder(root)
    runs.prepare(folder, {"config_hash": "abc", "models": "m"})
    runs.write_scores(folder / runs.SCORES, key, scores)
    privileged = agent in ("blind_slate_aware", "clairvoyant")
    metadata = {"models": "m", "privileged": privileged, "git_revision": "f" * 40, "wall_seconds": 2.5}
    write_json(folder / runs.METADATA, metadata)
    (folder / runs.CONFIG).write_text(f"seed: {seed}\nagent: <{agent}>\n")
    lines = [{"evaluation/episode_return": mean}]
    if agent == "iql":
        lines = [{"step": step, "training/loss/q": 1 / step + seed, "training/a": 1.0} for step in (10, 20, 30)] + lines
        lines.insert(0, {"step": 10, "training/once": 1.0})
        from PIL import Image

        (folder / "pictures").mkdir()
        for turn in (2, 10):
            Image.fromarray(np.full((8, 8, 3), turn, np.uint8)).save(folder / "pictures" / f"slates-turn_{turn}.png")
    (folder / runs.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted") / "runs"
    for agent, mean in AGENTS.items():
        for seed in range(3 if agent == "iql" else 1):
            plant(root, agent, mean, seed)
    report.write_report(root, n_replicates=50)
    return root


@pytest.fixture(scope="module")
def made(root):
    [made] = report.make_reports(root, n_replicates=50)
    return made


@pytest.fixture(scope="module")
def finished(root):
    return runs.find_runs(root)[0]


def table_of_scores(root):
    with (root / "report" / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def mean_in(rows, **wanted):
    chosen = [row for row in rows if all(row[name] == str(value) for name, value in wanted.items())]
    return np.mean([float(row["episode_return"]) for row in chosen])


class Reader(html.parser.HTMLParser):
    """Headings, tables and what stands in ``pre``, as a browser shows them."""

    def __init__(self):
        super().__init__()
        self.tables, self.headings, self.code, self._into = [], [], [], None
        self.images, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._into = self.tables[-1][-1]
        elif tag in ("h1", "h2", "h3", "pre"):
            self._into = self.code if tag == "pre" else self.headings
            self._into.append("")
        elif tag == "img":
            self.attributes.append(dict(attributes))
            self.images.append(dict(attributes)["src"])

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data

    def handle_endtag(self, tag):
        if tag in ("td", "th", "h1", "h2", "h3", "pre"):
            self._into = None


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def markdown_tables(text):
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [
        [[cell.strip().replace("\\*", "*") for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        for block in blocks
    ]


def test_the_page_has_every_table_of_the_markdown(root):
    page = read((root / "report" / "report.html").read_text())
    wanted = markdown_tables((root / "report" / "table.md").read_text())
    assert len(wanted) == 4  # scores, aggregates, improvement, differences
    assert page.tables[:4] == [[table[0], *table[2:]] for table in wanted]


def test_the_table_of_runs_has_the_numbers_of_the_scores(root):
    rows = table_of_scores(root)
    shown = read((root / "report" / "report.html").read_text()).tables[4]
    assert len(shown) == 1 + 6
    for row in (dict(zip(shown[0], line, strict=True)) for line in shown[1:]):
        assert row["return"] == f"{mean_in(rows, agent=row['agent'], seed=row['seed']):.3f}"
        assert row["episodes"] == "40"
        assert (row["seconds"], row["revision"]) == ("2.5", "f" * 12)


def test_the_page_holds_all_that_it_shows(root):
    text = (root / "report" / "report.html").read_text()
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=(?!['\"]?data:)[^>]*>", text)
    page = read(text)
    assert len(page.images) == 6
    assert all(image.startswith("data:image/png;base64,") for image in page.images)
    # Turns in their order, ten after two.
    assert re.findall(r"turn \d+(?=</figcaption>)", text)[:2] == ["turn 2", "turn 10"]
    assert text.count("<script>") == text.count("</script>") == 2 + 5  # Plotly, five plots, sorting
    again = root.parent / "again.html"
    [made] = report.make_reports(root, n_replicates=50)
    compared = comparisons.compare([made], n_replicates=50)
    statistics = (root / "report" / "table.md").read_text().removeprefix(report.markdown(made))
    named = {"rest": statistics, "comparisons": compared, "drawn": []}
    named["command"] = ["python", "-m", "benchmarks.report", str(root)]
    html_report.write(again, [made], [report.markdown(made)], runs.find_runs(root)[0], **named)
    assert again.read_text() == text  # nothing in it is of the day or of chance


def test_a_command_of_the_page_names_a_configuration_that_hydra_reads(root, finished):
    commands = read((root / "report" / "report.html").read_text()).code[0].splitlines()
    assert commands[0] == "git checkout " + "f" * 40
    assert commands[-1] == f"python -m benchmarks.report {root}"
    of_runs = [shlex.split(line) for line in commands if "benchmarks.run " in line]
    folders = [line[line.index("--config-dir") + 1] for line in of_runs]
    assert folders == [str(run.folder) for run in finished]
    configurations = read((root / "report" / "report.html").read_text()).code[1:]
    assert configurations[0] == (finished[0].folder / "config.yaml").read_text()


def of_revisions(finished, *revisions):
    return [
        dataclasses.replace(run, metadata={**run.metadata, "git_revision": revision})
        for run, revision in zip(finished, revisions, strict=False)
    ]


def steps_and_words(finished):
    made = html_report.commands(finished, ["python"])
    return read(made).code[0].splitlines(), html.unescape(made.split("<pre>")[0])


def test_the_revision_to_check_out_is_that_of_most_runs_and_one_that_git_knows(finished):
    old, new = "1" * 40, "9" * 40
    steps, words = steps_and_words(of_revisions(finished, old, new, f"{new}+changes", "unknown", None, "unknown"))
    assert steps[0] == f"git checkout {new}"
    assert "The runs are of 2 revisions;" in words
    assert "1 of 6 runs are of files that had changes not in their revision." in words
    assert "The revision of 3 of 6 runs is not known." in words
    steps, words = steps_and_words(of_revisions(finished, *[f"{new}+changes"] * 6))
    assert steps[0] == f"git checkout {new}"
    assert "6 of 6 runs are of files" in words
    assert "revisions;" not in words
    steps, _ = steps_and_words(of_revisions(finished, *["unknown"] * 6))
    assert steps[0].startswith("python -m pip")
    _, words = steps_and_words(finished)
    assert words.endswith("<code>runs=ELSEWHERE</code>.</p>")
    table = html_report.runs_table(of_revisions(finished, f"{new}+changes"))
    assert read(table).tables[0][1][-1] == "999999999999+changes"


def test_a_name_of_a_picture_is_text_and_not_markup(root, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(root, copy)
    [run] = [run for run in runs.find_runs(copy)[0] if run.key.agent == "iql" and run.key.seed == 0]
    name = 'slates-<img src=x onerror=alert(1)> "y" onload=z'
    for path in list((run.folder / "pictures").iterdir()):
        path.rename(path.with_name(f"{name}{path.name[-5:]}"))
    page = read(html_report.pictures([run]))
    # A file's name is the whole of the alternative text, and no element or attribute comes of it.
    assert len(page.images) == 2
    assert {tuple(attributes) for attributes in page.attributes} == {("alt", "src")}
    assert all(attributes["alt"].startswith(name) for attributes in page.attributes)
    assert all(image.startswith("data:image/png;base64,") for image in page.images)


def test_scores_in_shards_alone_make_the_whole_page(root, tmp_path):
    shards.collect(root, tmp_path / "shards")
    _, written = report.write_report(tmp_path / "nothing", n_replicates=50, shards_folder=tmp_path / "shards")
    assert (tmp_path / "nothing" / "report" / "report.html") in written
    page = read((tmp_path / "nothing" / "report" / "report.html").read_text())
    of_runs = read((root / "report" / "report.html").read_text())
    assert sorted(page.tables[0]) == sorted(of_runs.tables[0])
    columns = slice(0, 10)  # without seconds and revision, which not every shard has
    assert sorted(row[columns] for row in page.tables[4]) == sorted(row[columns] for row in of_runs.tables[4])
    commands = page.code[0].splitlines()
    assert commands[-2] == "python -m benchmarks.run --multirun experiment=small"
    assert commands[-1] == f"python -m benchmarks.report {tmp_path / 'nothing'} --shards {tmp_path / 'shards'}"
    # Some here and some in shards: every run is on the page.
    some = tmp_path / "some"
    shutil.copytree(root, some)
    shutil.rmtree(runs.find_runs(some)[0][0].folder)
    report.write_report(some, n_replicates=50, shards_folder=tmp_path / "shards")
    assert len(read((some / "report" / "report.html").read_text()).tables[4]) == 1 + 6


def test_a_metric_that_is_no_number_is_a_gap_in_its_line(root, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(root, copy)
    file = next(copy.glob("small/iql/**/seed_0")) / runs.METRICS
    lines = file.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if '"training/loss/q"' in line)
    lines[first + 1] = json.dumps({"step": 20, "training/loss/q": float("nan"), "training/a": float("inf")})
    file.write_text("\n".join(lines) + "\n")
    report.write_report(copy, n_replicates=50)
    text = (copy / "report" / "report.html").read_text()
    assert "NaN" not in text.split("<script>")[-3]
    [made] = report.make_reports(copy, n_replicates=50)
    curves = [(run, html_report.read_metrics(run.folder)) for run in runs.find_runs(copy)[0] if run.key.agent == "iql"]
    drawn = report_plots.learning_curves(made, curves)["data"]
    assert [1 / 10, None, 1 / 30] in [[y if y is None else pytest.approx(y, abs=1e-5) for y in t["y"]] for t in drawn]


def test_without_plotly_the_page_has_the_drawn_figures_and_one_line_says_so(root, tmp_path, monkeypatch, caplog):
    copy = tmp_path / "runs"
    shutil.copytree(root, copy)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    report.write_report(copy, n_replicates=50)
    [line] = [record.getMessage() for record in caplog.records if record.name == "benchmarks.html_report"]
    assert line.startswith("report.html: plotly is not installed, so its plots are pictures; python -m pip install")
    page = read((copy / "report" / "report.html").read_text())
    assert len(page.images) == 2 + 6
    assert page.tables[0] == read((root / "report" / "report.html").read_text()).tables[0]
    assert (copy / "report" / "report.html").stat().st_size < 1_000_000


def visible(figure):
    return [trace for trace in figure["data"] if trace["visible"]]


def test_scores_are_drawn_with_their_intervals(root, made):
    figure = report_plots.scores(made)
    [trace] = visible(figure)
    rows = table_of_scores(root)
    np.testing.assert_allclose(trace["x"], [mean_in(rows, agent=agent) for agent in trace["y"]], atol=1e-5)
    low, high = (
        [getattr(made.cells["sparse", "surrogate"].mean[agent], end) for agent in trace["y"]] for end in ("low", "high")
    )
    np.testing.assert_allclose(np.array(trace["x"]) - trace["error_x"]["arrayminus"], low, atol=1e-5)
    np.testing.assert_allclose(np.array(trace["x"]) + trace["error_x"]["array"], high, atol=1e-5)
    [menu] = figure["layout"]["updatemenus"]
    assert [button["label"] for button in menu["buttons"]] == ["episode return, sparse", "normalised score, sparse"]
    assert menu["buttons"][1]["args"][0] == {"visible": [False, True]}


def test_returns_by_user_type_are_the_means_of_their_conversations(root, made, finished):
    figure = report_plots.by_user_type(made, finished)
    rows = table_of_scores(root)
    assert [trace["name"] for trace in figure["data"]] == made.agents
    for trace in figure["data"]:
        wanted = [mean_in(rows, agent=trace["name"], user_type=user_type) for user_type in trace["x"]]
        np.testing.assert_allclose(trace["y"], wanted, atol=1e-5)
        assert trace["x"] == ["0", "1", "2"]
        assert all(reach >= 0 for reach in trace["error_y"]["array"])


def test_learning_curves_have_one_line_a_seed_and_leave_out_single_numbers(made, finished):
    from benchmarks.tracking import read_metrics

    figure = report_plots.learning_curves(made, [(run, read_metrics(run.folder)) for run in finished])
    labels = [button["label"] for button in figure["layout"]["updatemenus"][0]["buttons"]]
    assert labels == ["a", "loss/q"]
    curves = [trace for trace in figure["data"] if not trace["visible"]]
    assert [trace["y"][0] for trace in curves] == [0.1, 1.1, 2.1]
    assert [trace["showlegend"] for trace in curves] == [True, False, False]
    assert curves[0]["x"] == [10.0, 20.0, 30.0]
    assert report_plots.learning_curves(made, []) is None


def test_profiles_fall_from_one_to_nothing_inside_their_bands(root, made):
    [compared] = comparisons.compare([made], n_replicates=50)
    band, line = visible(report_plots.performance_profiles(compared))[:2]
    n = len(line["y"])
    assert all(later <= earlier for earlier, later in zip(line["y"], line["y"][1:], strict=False))
    assert all(
        low <= share <= high
        for low, share, high in zip(band["y"][:n], line["y"], band["y"][: -n - 1 : -1], strict=True)
    )


def many_agents(n):
    """A report and a comparison of more agents than there are colours, and a curve of each."""
    from benchmarks.profiles import Profile
    from tests.benchmarks.test_comparisons import cell

    agents = ["random", *(f"agent_{number}" for number in range(n - 2)), "clairvoyant"]
    returns = {agent: np.arange(6.0)[None] + place for place, agent in enumerate(agents)}
    own = dataclasses.replace(
        cell(returns),
        utilities={agent: np.array([0.1, 0.2]) for agent in agents},
        mean=stats.mean_intervals(returns, np.random.default_rng(0), 20),
    )
    made = report.Report(("small", "simulated", "mini", "test"), "", agents, set(), {("sparse", "surrogate"): own})
    scores = EpisodeScores(np.arange(6), ["p"] * 6, np.arange(6) % 2, np.arange(6.0), np.zeros((6, 2)), None)
    keys = [runs.RunKey("small", "", agent, "sparse", "simulated", "mini", "surrogate", "test", 0) for agent in agents]
    curves = [
        (runs.Run(key, None, {}, scores), [{"step": step, "training/loss": 1.0} for step in (1, 2)]) for key in keys
    ]
    flat = Profile(np.zeros(2), np.zeros(2), np.zeros(2))
    profiles = dict.fromkeys(agents, flat)
    compared = comparisons.Comparison(
        "",
        [],
        dict(zip(agents, agents, strict=True)),
        [],
        {},
        {},
        {},
        [],
        profiles,
        profiles,
        np.arange(2),
        np.arange(2),
    )
    return made, curves, compared


def test_no_two_of_27_agents_look_alike():
    made, curves, compared = many_agents(27)
    assert len(set(report_plots.colours(made.agents).values())) == 12

    def looks(traces, *parts):
        return {tuple(str(trace[part][name]) for part, name in parts) for trace in traces}

    line, points = (("line", "color"), ("line", "dash")), (("marker", "color"), ("marker", "symbol"))
    assert len(looks(report_plots.utilities(made)["data"], *line)) == 27
    [dots] = report_plots.scores(made)["data"]
    assert len(set(zip(dots["marker"]["color"], dots["marker"]["symbol"], strict=True))) == 27
    bars = report_plots.by_user_type(made, [run for run, _ in curves])["data"]
    assert len(looks(bars, points[0], ("marker", "pattern"))) == 27
    drawn = report_plots.learning_curves(made, curves)["data"]
    assert len(looks(drawn, line[0], points[1])) == 27
    # A reward has its own dash there, so symbols tell agents of one colour apart, and are drawn.
    assert looks(drawn, line[1]) == {("solid",)}
    assert [trace["mode"] for trace in drawn[11:13]] == ["lines", "lines+markers"]
    lines = [trace for trace in visible(report_plots.performance_profiles(compared)) if "fill" not in trace]
    assert len(looks(lines, *line)) == 27


def test_every_figure_is_one_that_plotly_takes(made, finished, root):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    [compared] = comparisons.compare([made], n_replicates=50)
    figures = [figure for _, figure in html_report.plots(made, finished).values()]
    more, curves, _ = many_agents(15)
    figures += [report_plots.utilities(more), report_plots.scores(more), report_plots.learning_curves(more, curves)]
    figures.append(report_plots.by_user_type(more, [run for run, _ in curves]))
    for figure in [*figures, report_plots.performance_profiles(compared)]:
        graph_objects.Figure(figure)  # raises at a property that it does not know


def test_markdown_becomes_headings_tables_lists_and_paragraphs():
    text = (
        "## A & B\n\nOne `x`.\ntwo\n\n- yes: fine\n- NO: bad\n\n### Failed runs\n\n- run: why\n\n"
        "| a | b |\n|---|---|\n| 1 \\* | |\n"
    )
    assert html_report.from_markdown(text) == (
        "<h2>A &amp; B</h2><p>One <code>x</code>.<br>two</p>"
        "<ul><li>yes: fine</li><li class=no>NO: bad</li></ul>"
        "<h3>Failed runs</h3><ul><li class=no>run: why</li></ul>"
        "<div class=scroll><table><tr><th>a</th><th>b</th></tr><tr><td>1 *</td><td></td></tr></table></div>"
    )


def test_pictures_beyond_a_limit_stay_where_they_are(finished, monkeypatch):
    size = max(path.stat().st_size for run in finished for path in (run.folder / "pictures").glob("*.png"))
    monkeypatch.setattr(html_report, "MAX_PICTURE_BYTES", size)
    made = html_report.pictures(finished)
    assert made.count("<img") == 1
    assert "5 more pictures are in the run directories" in made


NO_BROWSER = "no Chromium to open the page in: apt-get install --no-install-recommends chromium"


@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_a_browser_without_a_network_draws_the_page(root, tmp_path):
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    switches += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--dump-dom"]
    page = (root / "report" / "report.html").resolve().as_uri()
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    opened = subprocess.run([BROWSER, *switches, profile, page], capture_output=True, text=True, check=True)
    assert "CONSOLE" not in opened.stderr  # no error of a program
    # The tables are those of the CSV after all scripts have run.
    shown = read(opened.stdout)
    scores = {row[0]: row for row in shown.tables[0][1:]}
    rows = table_of_scores(root)
    assert set(scores) == {"random", "blind_slate_aware *", "iql", "clairvoyant *"}
    for name, row in scores.items():
        assert row[2].startswith(f"{mean_in(rows, agent=name.removesuffix(' *')):.2f} [")
    # Every plot has its points, bars or lines; a line's path goes through more than one place.
    body = opened.stdout[opened.stdout.rindex("<body") :]
    drawn = {}
    for name in ("0-scores", "0-turns", "0-types", "0-curves", "profiles-0"):
        inside = body.split(f'id="plot-{name}"')[1].split("<script>")[0]
        assert 'class="main-svg"' in inside
        plotted = inside.split('class="legend"')[0]
        lines = re.findall(r'<path class="js-line"[^>]* d="M[^"]*[LHVCQ][^"]*"', plotted)
        drawn[name] = (plotted.count('class="point"'), len(lines))
    assert drawn["0-scores"] == (4, 0)
    assert drawn["0-turns"] == (4 * 3, 4)
    assert drawn["0-types"] == (4 * 3, 0)
    assert drawn["0-curves"] == (0, 3)
    assert drawn["profiles-0"] == (0, 8)
    assert "Share chart" not in body
    assert all(f">{agent}</text>" in body for agent in AGENTS)
