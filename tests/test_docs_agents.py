"""A page for each agent: equations, differences, every metric that it logs, and the scores of the README."""

import re

import pytest

from agents.iql import IQLAgent, IQLConfig
from agents.mixture_fit import MixtureConfig
from agents.prompt_taste import TasteConfig
from agents.slateq import SlateQAgent, SlateQConfig
from benchmarks import agent_scores
from benchmarks.pages import REPOSITORY
from pasta_gym.trajectories import CollectionConfig, collect, load

PAGES = REPOSITORY / "docs" / "agents"
SHORT = {"steps": 2, "log_every": 1, "mixture": MixtureConfig(steps=2)}


@pytest.mark.parametrize("page", ["random", "iql", "slateq", "token_iql"])
def test_a_page_has_equations_differences_metrics_and_scores(page):
    headings = re.findall(r"^## (.*)$", (PAGES / f"{page}.md").read_text(), flags=re.MULTILINE)
    assert "Equations" in headings
    assert any(heading.startswith("Differences from the paper") for heading in headings)
    assert headings[-2:] == ["Metrics", "Scores"]


def documented(page):
    section = (PAGES / f"{page}.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    names = [
        name
        for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
        for name in re.findall(r"`(.*?)`", row)
    ]
    if "belief/..." in names:  # as on IQL's page
        names += [name for name in documented("iql") if name.startswith("belief/")]
    return set(names) - {"belief/..."}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load(collect(CollectionConfig(n_episodes=12, shard_size=12), root=tmp_path_factory.mktemp("data")))


def test_every_metric_of_iql_is_on_its_page_and_no_other(data):
    logged = set()
    IQLAgent(IQLConfig(**SHORT)).train(data, seed=0, log=logged.update)
    assert logged == documented("iql")


def test_every_metric_of_slateq_is_on_its_page_and_no_other(data):
    logged = set()
    for form in ("mixture", "softmax"):
        config = SlateQConfig(slate_value=form, taste=TasteConfig(steps=2), **SHORT)
        SlateQAgent(config).train(data, seed=0, log=logged.update)
    assert logged == documented("slateq")


def test_every_metric_of_token_iql_is_on_its_page():
    source = (REPOSITORY / "agents" / "token_iql.py").read_text()
    named = set(re.findall(r'"((?:loss|value|belief|taste|choice)/\w+|step|gradient_norm)":', source))
    assert len(named) > 5
    assert named == documented("token_iql")


TABLE = """Printed by `make benchmark` on 2030-01-01.

| agent | seeds | sparse |
|---|---|---|
| random | 3 | 1 |
| iql | 3 | 2 |
| ideal \\* | 1 | 9 |

| agent | other |
|---|---|
| iql | 7 |
"""


def test_rows_are_those_of_the_first_table_in_the_order_asked_for():
    assert agent_scores.rows_of(TABLE, ("ideal", "iql")).splitlines() == [
        "Printed by `make benchmark` on 2030-01-01. Rows of the table in the README.",
        "",
        "| agent | seeds | sparse |",
        "|---|---|---|",
        "| ideal \\* | 1 | 9 |",
        "| iql | 3 | 2 |",
    ]
    note = "Seeds, where columns differ: sparse / dense."
    noted = TABLE.replace("9 |\n", f"9 |\n\nMean.\n{note}\n")
    assert agent_scores.rows_of(noted, ("iql",)).endswith(f"| iql | 3 | 2 |\n\n{note}")
    of_another = f"{TABLE}\n{note}\n"
    assert agent_scores.rows_of(of_another, ("iql",)).endswith("| iql | 3 | 2 |")
    with pytest.raises(ValueError, match="no row of slateq; its rows are random, iql, ideal"):
        agent_scores.rows_of(TABLE, ("slateq",))
    with pytest.raises(ValueError, match="first column is agent"):
        agent_scores.rows_of("nothing", ("iql",))
    with pytest.raises(ValueError, match="print its table with make benchmark"):
        agent_scores.table_of("# no table")


def test_the_scores_on_the_pages_are_those_of_the_readme(tmp_path):
    for page in agent_scores.PAGES:
        (tmp_path / f"{page}.md").write_text(f"# {page}\n<!-- scores:begin -->\nold\n<!-- scores:end -->\n")
    agent_scores.main(["--pages", str(tmp_path)])
    for page in agent_scores.PAGES:
        made = (tmp_path / f"{page}.md").read_text().split("<!-- scores:begin -->")[1]
        block = made.split("<!-- scores:end -->")[0]
        assert f"| {page} " in block
        assert block in (PAGES / f"{page}.md").read_text(), "run python -m benchmarks.agent_scores"
