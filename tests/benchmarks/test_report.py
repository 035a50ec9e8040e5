import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import held_out, report, runs, score_table, stats, transfer
from benchmarks.evaluate import EpisodeScores
from pasta_gym.files import write_json


def plant(
    root,
    agent,
    mean,
    *,
    reward="sparse",
    images="surrogate",
    seed=0,
    n=60,
    privileged=False,
    spread=1.0,
    unseen=None,
    world="mini",
):
    """A finished run with a chosen mean; luck is shared by all agents."""
    luck = np.random.default_rng(5).normal(0, spread, size=n)
    utilities = np.clip((mean + luck)[:, None] / 10 + np.array([-0.1, -0.05, 0]), 0, 1)
    scores = EpisodeScores(
        np.arange(n), [f"prompt, with a comma {i}" for i in range(n)], np.arange(n) % 3, mean + luck, utilities, unseen
    )
    key = runs.RunKey("small", "abc", agent, reward, "simulated", world, images, "test", seed)
    folder = key.folder(root)
    runs.prepare(folder, {"config_hash": "abc", "models": "m"})
    runs.write_scores(folder / "scores.csv", key, scores)
    write_json(folder / "metadata.json", {"config_hash": "abc", "models": "m", "privileged": privileged})
    return folder


@pytest.fixture
def planted(tmp_path):
    for agent, mean, privileged in (
        ("random", 3.0, False),
        ("blind_slate_aware", 4.0, True),
        ("clairvoyant", 5.0, True),
    ):
        plant(tmp_path, agent, mean, privileged=privileged)
    for seed, mean in enumerate((4.2, 4.4, 4.3)):
        plant(tmp_path, "iql", mean, seed=seed)
    return tmp_path


def test_scores_survive_the_disk(tmp_path):
    folder = plant(tmp_path, "iql", 4.0, n=7)
    [(key, scores)] = runs.read_scores(folder / "scores.csv")
    assert key.folder(tmp_path) == folder
    assert scores.prompts[3] == "prompt, with a comma 3"
    assert_allclose(scores.returns, 4.0 + np.random.default_rng(5).normal(0, 1, size=7), atol=1e-6)
    assert scores.chosen_utilities.shape == (7, 3)


def test_held_out_combinations_are_told_apart(tmp_path):
    unseen = np.arange(60) % 4 == 0
    plant(tmp_path, "iql", 4.0, unseen=unseen)
    plant(tmp_path, "iql", 5.0, seed=1, unseen=~unseen)
    plant(tmp_path, "slateq", 4.0)  # of an older version, which did not say
    [made] = report.make_reports(tmp_path, n_replicates=50)
    cell = made.cells["sparse", "surrogate"]
    np.testing.assert_array_equal(cell.unseen["iql"], np.stack([unseen, ~unseen]))
    first, second = (10 * final for final in cell.final["iql"])
    # The seeds end there in 15 and in 45 conversations, and count alike.
    there = np.mean([first[unseen].mean(), second[~unseen].mean()])
    elsewhere = np.mean([first[~unseen].mean(), second[unseen].mean()])
    assert abs(there - np.concatenate([first[unseen], second[~unseen]]).mean()) > 0.05
    [[agent, reward, share, *means]] = held_out.rows(made)
    assert (agent, reward) == ("iql", "sparse")
    assert share.startswith("50.0% [")
    for text, mean in zip(means, (there, elsewhere), strict=True):
        low, high = map(float, text.split("[")[1].rstrip("]").split(", "))
        assert text.startswith(f"{mean:.2f} [")
        assert low < mean < high < low + 3
    assert f"| iql | sparse | {share} | {' | '.join(means)} |" in report.markdown(made)


def test_a_mean_that_some_resamples_lack_is_not_given(tmp_path):
    plant(tmp_path, "iql", 4.0, unseen=np.arange(60) == 3)
    plant(tmp_path, "slateq", 4.0, unseen=np.ones(60, dtype=bool))
    [made] = report.make_reports(tmp_path, n_replicates=50)
    iql, slateq = held_out.rows(made)
    assert iql[2].startswith("1.7% [0.0%, ")
    assert iql[3] == "too few"
    assert " [" in iql[4]
    assert (slateq[2], slateq[4]) == ("100.0% [100.0%, 100.0%]", "")


def test_nothing_is_said_where_nothing_was_held_out(planted):
    [made] = report.make_reports(planted, n_replicates=50)
    assert held_out.rows(made) == []
    assert "Held-out" not in report.markdown(made)


def test_the_table_has_the_numbers_that_were_planted(planted):
    [made] = report.make_reports(planted, n_replicates=200)
    cell = made.cells["sparse", "surrogate"]
    assert made.agents == ["random", "blind_slate_aware", "iql", "clairvoyant"]
    assert_allclose(cell.normalised["iql"].estimate, 0.65, atol=1e-5)
    assert_allclose(cell.normalised["blind_slate_aware"].estimate, 0.5, atol=1e-5)
    assert_allclose(cell.mean["iql"].estimate - cell.mean["random"].estimate, 1.3, atol=1e-5)
    text = report.markdown(made)
    assert "| clairvoyant \\*" in text
    assert "| iql  " in text
    assert "0.65 [0.6" in text


def seeds_column(made):
    header, rows = score_table.table_rows(made)
    assert header[:2] == ["agent", "seeds"]
    return {row[0]: row[1] for row in rows}


def test_seeds_are_said_of_each_column_where_they_differ(planted):
    [made] = report.make_reports(planted, n_replicates=50)
    assert seeds_column(made) == {"random": "1", "blind_slate_aware \\*": "1", "iql": "3", "clairvoyant \\*": "1"}
    assert "Seeds, where" not in report.markdown(made)
    for reward, images in (("dense", "surrogate"), ("sparse", "diffusion")):
        plant(planted, "iql", 4.2, reward=reward, images=images)
        plant(planted, "random", 3.0, reward=reward, images=images)
    [made] = report.make_reports(planted, n_replicates=50)
    assert list(made.cells) == [("sparse", "surrogate"), ("sparse", "diffusion"), ("dense", "surrogate")]
    # The two ends of the scale have one seed in each column that they are in.
    assert seeds_column(made) == {
        **{"random": "1", "iql": "3 / 1 / 1"},
        **{"blind_slate_aware \\*": "1", "clairvoyant \\*": "1"},
    }
    assert "\nSeeds, where columns differ: sparse / sparse on diffusion / dense.\n" in report.markdown(made)
    plant(planted, "slateq", 4.2, reward="dense")
    plant(planted, "slateq", 4.2, seed=1)
    plant(planted, "slateq", 4.2)
    [made] = report.make_reports(planted, n_replicates=50)
    assert seeds_column(made)["slateq"] == "2 / 0 / 1"


def verdicts(root):
    [made] = report.make_reports(root, n_replicates=200)
    return {check.claim: check.passed for check in made.checks}


def test_every_check_passes_on_a_good_benchmark(planted):
    plant(planted, "random", 3.0, images="diffusion", n=20)
    plant(planted, "iql", 4.0, images="diffusion", n=20)
    found = verdicts(planted)
    assert len(found) == 4
    assert all(found.values())


@pytest.mark.parametrize(
    ("agent", "mean", "words"),
    [
        ("iql", 2.9, "iql above random"),  # seed 0 falls under random
        ("blind_slate_aware", 4.9, "personalisation is worth"),
        ("clairvoyant", 3.4, "clairvoyant minus random"),
    ],
)
def test_each_check_can_fail_alone(planted, agent, mean, words):
    plant(planted, agent, mean, privileged=agent != "iql")
    failed = [claim for claim, passed in verdicts(planted).items() if not passed]
    assert any(claim.startswith(words) for claim in failed)


HEADROOM = "personalisation is worth at least 20% of the gap from random to clairvoyant, sparse"


def found_of(root, start):
    [made] = report.make_reports(root, n_replicates=200)
    return [check for check in made.checks if check.claim.startswith(start)]


def test_headroom_has_an_interval_and_says_when_it_was_not_checked(planted):
    [check] = found_of(planted, HEADROOM)
    assert check.found == "50% [50%, 50%] of the gap above the best slate that ignores the user"  # luck is shared
    shutil.rmtree(plant(planted, "blind_slate_aware", 4.0))
    [check] = found_of(planted, HEADROOM)
    assert check.passed is None
    assert "no run of blind_slate_aware" in check.found
    [made] = report.make_reports(planted, n_replicates=50)
    assert f"- not run: {HEADROOM}: there is no run of blind_slate_aware" in report.markdown(made)


def test_headroom_without_a_gap_fails(planted):
    plant(planted, "clairvoyant", 2.9, privileged=True)
    [check] = found_of(planted, HEADROOM)
    assert (check.passed, check.found) == (
        False,
        "clairvoyant is not above random in every resample: no gap to be a share of",
    )


@pytest.mark.parametrize(
    ("mean", "where"),
    [
        (5.5, "normalised 1.25 [1.25, 1.25], beyond the myopic clairvoyant"),
        (2.5, "normalised -0.25 [-0.25, -0.25], below"),
    ],
)
def test_a_learner_outside_the_scale_has_a_line_of_its_own(planted, mean, where):
    assert found_of(planted, "iql lies between") == found_of(planted, "slateq lies between") == []
    plant(planted, "slateq", mean)
    [check] = found_of(planted, "slateq lies between random and clairvoyant, sparse")
    assert check.passed is False
    assert check.found.startswith(where)
    assert found_of(planted, "iql lies between") == []
    plant(planted, "slateq", 4.0)
    plant(planted, "oracle", mean, privileged=True)  # the bounds themselves are no learners
    assert found_of(planted, "oracle lies between") == []


def test_a_learner_outside_the_scale_within_noise_is_said_to_be(planted):
    plant(planted, "slateq", 4.7)
    plant(planted, "slateq", 5.4, seed=1)
    [check] = found_of(planted, "slateq lies between")
    assert check.found.endswith("beyond the myopic clairvoyant, within noise")


def test_one_seed_under_random_is_enough_to_fail(planted):
    plant(planted, "random", 3.0)
    plant(planted, "iql", 2.95, seed=0, spread=1.0)
    plant(planted, "iql", 5.9, seed=1)
    plant(planted, "iql", 5.9, seed=2)
    assert not verdicts(planted)["iql above random, sparse: intervals apart and in every seed"]


def test_rows_of_other_weights_are_no_rows_of_one_table(planted):
    claim = "all rows were scored with the same weights of the world"
    assert claim not in verdicts(planted)
    folder = plant(planted, "iql", 4.2)
    write_json(folder / "metadata.json", {"config_hash": "abc", "models": "newer"})
    assert verdicts(planted)[claim] is False


def test_an_order_that_turns_round_on_diffusion_is_named(planted):
    plant(planted, "random", 5.0, images="diffusion", n=20)
    plant(planted, "iql", 3.0, images="diffusion", n=20)
    [made] = report.make_reports(planted, n_replicates=200)
    [check] = [c for c in made.checks if "change places" in c.claim]
    assert check.passed is False
    assert "reversed beyond noise: iql and random" in check.found
    assert "0 of 1 pairs" in check.found


def test_transfer_is_scored_on_the_scale_of_each_image_model(planted):
    plant(planted, "random", 2.0, images="painter", n=20)
    plant(planted, "iql", 5.0, images="painter", n=20, seed=1, spread=2.0)
    plant(planted, "clairvoyant", 6.0, images="painter", n=20, privileged=True)
    [made] = report.make_reports(planted, n_replicates=200)
    # Luck is the same for all but iql on the painter, which has twice as much.
    luck = np.random.default_rng(5).normal(0, 1.0, size=20).mean()
    there = (5.0 + luck - 2.0) / 4.0
    found = transfer.changes(made.cells["sparse", "surrogate"], made.cells["sparse", "painter"], n_replicates=200)
    assert_allclose(found["iql"].estimate, there - 0.7, atol=1e-5)  # against seed 1, (4.4 - 3) / 2, not all three
    assert found["iql"].low < found["iql"].estimate < found["iql"].high
    lines = transfer.section(made)
    assert "| agent | surrogate (60 episodes) | painter (20 episodes) |" in lines
    home, away = (made.cells["sparse", images].mean["random"].estimate for images in ("surrogate", "painter"))
    assert f"| random | 0 (return {home:.2f}) | 0 (return {away:.2f}) |" in lines
    assert away < home - 0.5
    (own, change) = (line for line in lines if line.startswith("| iql |"))
    assert own.startswith("| iql | 0.65 [")
    assert f"| {there:.2f} [" in own
    assert change.startswith(f"| iql | {there - 0.7:.2f} [")
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == [
        *("| agent", "| random", "| iql", "| clairvoyant \\*"),
        *("| agent", "| iql"),
    ]
    assert "\n".join(lines) in report.markdown(made)


def test_the_transfer_tables_show_no_negative_zero(planted):
    for agent, mean in (("random", 3.0), ("iql", 2.996), ("clairvoyant", 5.0)):
        plant(planted, agent, mean, images="painter", n=20)
    [made] = report.make_reports(planted, n_replicates=50)
    assert made.cells["sparse", "painter"].normalised["iql"].estimate < 0
    [own, _] = (line for line in transfer.section(made) if line.startswith("| iql |"))
    assert own.endswith("| 0.00 [0.00, 0.00] |")


def test_a_change_is_taken_over_the_conversations_that_both_image_models_have(planted):
    for agent, mean, spread in (("random", 3.0, 1.0), ("iql", 4.0, 2.0), ("clairvoyant", 5.0, 1.0)):
        plant(planted, agent, mean, spread=spread, privileged=agent == "clairvoyant")
        plant(planted, agent, mean, images="painter", n=20, spread=spread, privileged=agent == "clairvoyant")
    [made] = report.make_reports(planted, n_replicates=50)
    home, away = made.cells["sparse", "surrogate"], made.cells["sparse", "painter"]
    assert abs(home.returns["iql"][0].mean() - away.returns["iql"][0].mean()) > 0.03
    found = transfer.changes(home, away, n_replicates=50)["iql"]
    assert_allclose([found.estimate, found.low, found.high], 0, atol=1e-12)


def test_transfer_needs_a_second_image_model_with_both_ends_of_the_scale(planted):
    [made] = report.make_reports(planted, n_replicates=50)
    assert transfer.section(made) == []
    plant(planted, "random", 2.0, images="painter")
    plant(planted, "iql", 5.0, images="painter")
    [made] = report.make_reports(planted, n_replicates=50)
    assert transfer.section(made) == []
    assert transfer.changes(made.cells["sparse", "surrogate"], made.cells["sparse", "painter"]) == {}
    [check] = [c for c in made.checks if "change places" in c.claim]
    assert (check.passed, "surrogate to painter" in check.claim) == (True, True)


def test_the_transfer_tables_can_go_to_a_page_of_their_own(planted, tmp_path, capsys):
    for agent, mean in (("random", 2.0), ("iql", 5.0), ("clairvoyant", 6.0)):
        plant(planted, agent, mean, images="painter", n=20)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- transfer:begin -->\nold\n<!-- transfer:end -->\nafter\n")
    wanted = ["--page", str(page), "--block", "transfer", "--command", "this", "--replicates", "50"]
    report.main([str(planted), *wanted])
    text = page.read_text()
    assert text.startswith("before\n<!-- transfer:begin -->\nPrinted by `this` on ")
    assert "| iql | 0.65 [" in text
    assert "### Checks" not in text
    assert "old" not in text
    assert str(page) in capsys.readouterr().out


def test_one_command_fills_a_page_with_the_table_and_with_the_statistics(planted, tmp_path, capsys):
    page = tmp_path / "page.md"
    blocks = {name: f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n" for name in ("table", "statistics")}
    page.write_text("head\n" + blocks["table"] + "between\n" + blocks["statistics"] + "tail\n")
    report.main([str(planted), "--page", str(page), "--replicates", "50"])
    table, statistics = page.read_text().split("between\n")
    by = f"Printed by `python -m benchmarks.report {planted} --replicates 50` on "
    assert table.startswith(f"head\n<!-- table:begin -->\n{by}")
    assert "| iql " in table
    assert "Statistics of" not in table
    assert statistics.startswith(f"<!-- statistics:begin -->\n{by}")
    assert "### Paired differences" in statistics
    assert statistics.endswith("<!-- statistics:end -->\ntail\n")
    assert "old" not in table + statistics
    # Together they are what the report has.
    whole = (planted / "report" / "table.md").read_text().splitlines()
    assert set(whole) <= set(page.read_text().splitlines())
    page.write_text(blocks["table"])  # statistics are long, and a page may do without
    report.main([str(planted), "--page", str(page), "--replicates", "50", "--command", "this"])
    assert page.read_text().startswith("<!-- table:begin -->\nPrinted by `this` on ")
    assert "Statistics of" not in page.read_text()
    page.write_text(blocks["table"] + "<!-- statistics:begin -->\n")
    with pytest.raises(SystemExit, match="must hold <!-- statistics:begin --> and <!-- statistics:end --> once each"):
        report.main([str(planted), "--page", str(page), "--replicates", "50"])


def test_a_page_without_anything_to_compare_says_so(planted, tmp_path):
    for seed in (1, 2):
        shutil.rmtree(plant(planted, "iql", 4.0, seed=seed))
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("table", "statistics")))
    report.main([str(planted), "--page", str(page), "--replicates", "50"])
    assert "Nothing to compare: statistics need" in page.read_text()


def test_all_files_are_written_and_the_page_needs_nothing_else(planted):
    text, written = report.write_report(planted, n_replicates=50)
    tables, figures = {"table.md", "scores.csv", "summary.json", "statistics.json"}, {"figure.png", "profiles.png"}
    assert {p.name for p in written} == tables | figures | {"report.html"}
    assert all(p.stat().st_size > 100 for p in written)
    page = (planted / "report" / "report.html").read_text()
    assert 'Plotly.newPlot("plot-0-scores", ' in page
    assert 'src="http' not in page
    assert len((planted / "report" / "scores.csv").read_text().splitlines()) == 1 + 6 * 60
    [summary] = json.loads((planted / "report" / "summary.json").read_text())
    improvement = summary["cells"]["sparse/surrogate"]["probability_of_improvement_over_random"]
    assert_allclose([improvement[agent]["estimate"] for agent in ("random", "clairvoyant")], [0.5, 1.0])
    assert set(improvement["iql"]) == {"estimate", "low", "high"}
    # The interquartile mean is one of runs, and stands in statistics.json: the same words are not for two things.
    assert not any("interquartile" in name for name in summary["cells"]["sparse/surrogate"])
    # The table is what it was; the statistics follow it, in the file and on the page.
    table = (planted / "report" / "table.md").read_text()
    assert table.startswith(text + "\n## Statistics of small: simulated data, mini world, test prompts\n")
    assert "Statistics" not in text
    assert "<h2>Statistics of small" in page
    assert 'Plotly.newPlot("plot-profiles-0", ' in page
    assert page.endswith("</html>\n")


def test_runs_of_one_seed_have_no_statistics(planted):
    for seed in (1, 2):
        shutil.rmtree(plant(planted, "iql", 4.0, seed=seed))
    text, written = report.write_report(planted, n_replicates=50)
    assert not {p.name for p in written} & {"statistics.json", "profiles.png"}
    assert (planted / "report" / "table.md").read_text() == text


def test_runs_without_the_ends_of_the_scale_still_make_a_table(tmp_path):
    plant(tmp_path, "iql", 4.0)
    [made] = report.make_reports(tmp_path, n_replicates=50)
    assert made.cells["sparse", "surrogate"].normalised == {}
    assert "4." in report.markdown(made)


def test_a_scale_that_some_resamples_turn_round_is_none(tmp_path):
    """Dividing by a width that goes through zero made intervals of any size."""
    for agent, mean, spread in (("random", 3.0, 1.0), ("iql", 3.2, 1.0), ("clairvoyant", 3.6, 3.0)):
        plant(tmp_path, agent, mean, spread=spread)
    [made] = report.make_reports(tmp_path, n_replicates=200)
    cell = made.cells["sparse", "surrogate"]
    assert cell.mean["clairvoyant"].estimate > cell.mean["random"].estimate
    assert cell.normalised == {}
    with pytest.raises(stats.NoScaleError, match=r"in every resample, got \d+ of 200 where it is not; score both on"):
        stats.normalised_intervals(cell.returns, np.random.default_rng(0), n_replicates=200)


def test_agents_scored_on_other_episodes_are_compared_on_the_shared_ones(planted):
    plant(planted, "random", 3.0, n=40)
    [made] = report.make_reports(planted, n_replicates=50)
    cell = made.cells["sparse", "surrogate"]
    assert cell.episodes == 40
    # One short run shortens the whole table, so it is named.
    folder = planted / "small" / "random" / "sparse" / "simulated" / "mini" / "surrogate" / "seed_0"
    why = f"40 of 60 conversations count, because random seed 0 has 40 ({folder}); evaluate those again"
    assert cell.shortened == why
    assert f"\nsparse, surrogate: {why}.\n" in report.markdown(made)


def test_many_short_runs_are_counted_and_equal_ones_are_not_named(planted):
    [made] = report.make_reports(planted, n_replicates=50)
    assert made.cells["sparse", "surrogate"].shortened == ""
    for seed, n in enumerate((50, 20, 50)):
        plant(planted, "iql", 4.2, seed=seed, n=n)
    plant(planted, "slateq", 4.2, n=30)
    [made] = report.make_reports(planted, n_replicates=50)
    words = made.cells["sparse", "surrogate"].shortened
    assert words.startswith("20 of 60 conversations count, because iql seed 1 has 20 (")
    assert words.index("iql seed 1") < words.index("slateq seed 0") < words.index("iql seed 0")
    assert "), and 1 more runs lack some; evaluate those again" in words


def test_a_failure_is_listed_once_in_the_report_of_its_world(planted):
    for world in ("mini_1", "mini_2"):
        plant(planted, "random", 3.0, world=world)
    failed = {
        world: runs.RunKey("small", "x", "slateq", "dense", "simulated", world, "surrogate", "test", 0).folder(planted)
        for world in ("mini_1", "mini_3")
    }
    killed = runs.RunKey("small", "x", "slateq", "dense", "simulated", "mini_2", "surrogate", "test", 1).folder(planted)
    for folder in (*failed.values(), killed):
        runs.prepare(folder, {"config_hash": "x", "models": "m"})
    for world, folder in failed.items():
        write_json(folder / "failure.json", {"error": f"RuntimeError: {world}"})
    by_world = {made.name[2]: made for made in report.make_reports(planted, n_replicates=50)}
    assert {world: [f["error"][-6:] for f in made.failed] for world, made in by_world.items()} == {
        "mini": ["mini_3"],  # no run of that world is finished, so it has no report
        "mini_1": ["mini_1"],
        "mini_2": [],
    }
    assert {world: made.open_runs for world, made in by_world.items()} == {"mini": [], "mini_1": [], "mini_2": [killed]}
    whole = "".join(map(report.markdown, by_world.values()))
    assert whole.count("RuntimeError: mini_1") == whole.count("RuntimeError: mini_3") == 1


def test_killed_runs_are_listed_and_broken_scores_are_named(planted):
    runs.prepare(planted / "killed", {"config_hash": "x", "models": "m"})
    [made] = report.make_reports(planted, n_replicates=50)
    assert made.open_runs == [planted / "killed"]
    assert "### Unfinished runs" in report.markdown(made)
    broken = plant(planted, "iql", 4.0) / "scores.csv"
    broken.write_text(broken.read_text().replace("surrogate,test,0", "surrogate,test,zero", 1))
    with pytest.raises(ValueError, match=r"scores.csv is broken .*zero"):
        report.make_reports(planted)


def test_empty_and_missing_folders_say_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        report.make_reports(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        report.make_reports(tmp_path / "nowhere")


def test_names_cannot_leave_the_folder(tmp_path):
    key = runs.RunKey("..", "abc", "iql", "sparse", "simulated", "mini", "surrogate", "test", 0)
    with pytest.raises(ValueError, match=r"got '\.\.'"):
        key.folder(tmp_path)
