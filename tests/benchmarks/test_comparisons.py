import json
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import comparison_pages
from benchmarks.cells import Cell
from benchmarks.comparisons import Difference, compare, strata_of
from benchmarks.power import Spread, episodes_needed, seeds_needed, smallest_difference, spread_of
from benchmarks.report import Report
from benchmarks.stats import Interval

N = 40


def rng(seed=0):
    return np.random.default_rng(seed)


def cell(returns):
    n = next(iter(returns.values())).shape[1]
    seeds = {agent: list(range(len(values))) for agent, values in returns.items()}
    return Cell(returns, {}, n, np.arange(n), seeds, {}, {}, {}, {})


def planted(seed=0, *, scale=1.0, gain=1.0, n_seeds=3):
    """Luck that all share; a clairvoyant 4 above random, a blind slate 2 above it and a learner above that."""
    draws = rng(seed)
    luck = draws.normal(0, 2, size=(1, N))
    learner = luck + 2 + gain + draws.normal(0, 0.3, size=(n_seeds, 1)) + draws.normal(0, 1, size=(n_seeds, N))
    return {
        "random": scale * luck,
        "blind_slate_aware": scale * (luck + 2),
        "iql": scale * learner,
        "clairvoyant": scale * (luck + 4),
    }


def make_report(world="mini", experiment="small", privileged=("blind_slate_aware", "clairvoyant"), **by_reward):
    cells = {(reward, "surrogate"): cell(returns) for reward, returns in by_reward.items()}
    agents = ["random", "blind_slate_aware", "iql", "clairvoyant"]
    return Report((experiment, "simulated", world, "test"), "", agents, set(privileged), cells)


@pytest.fixture(scope="module")
def both_worlds():
    reports = [
        make_report(world, sparse=planted(seed), dense=planted(seed + 10, scale=5))
        for seed, world in enumerate(("mini", "mini_2"))
    ]
    return compare(reports, n_replicates=200)


def test_worlds_and_rewards_of_an_experiment_are_taken_together(both_worlds):
    [made] = both_worlds
    assert made.title == "small: simulated data, mini, mini_2 worlds, test prompts"
    assert made.strata == ["mini sparse", "mini dense", "mini_2 sparse", "mini_2 dense"]
    assert made.runs == {"random": 4, "blind_slate_aware": 4, "iql": 12, "clairvoyant": 4}
    assert list(made.labels) == list(made.run_profiles) == list(made.conversation_profiles)
    assert [made.labels[agent] for agent in ("iql", "clairvoyant")] == ["iql", "clairvoyant \\*"]


def test_aggregates_find_what_was_planted(both_worlds):
    [made] = both_worlds
    means, gaps = made.aggregates["interquartile_mean"], made.aggregates["optimality_gap"]
    assert_allclose([means[agent].estimate for agent in made.labels], [0, 0.5, 0.75, 1], atol=0.06)
    assert_allclose([gaps[agent].estimate for agent in made.labels], [1, 0.5, 0.25, 0], atol=0.06)
    # References shift with luck as random does, so their scores do not vary.
    assert_allclose([means["blind_slate_aware"].low, means["blind_slate_aware"].high], 0.5)
    assert means["iql"].low < 0.75 < means["iql"].high
    assert means["iql"].low > 0.5
    assert 0.01 < means["iql"].high - means["iql"].low < 0.2


def test_improvement_is_over_runs_and_in_conversations(both_worlds):
    [made] = both_worlds
    assert list(made.improvement) == [("iql", "random"), ("iql", "blind_slate_aware")]
    runs, conversations = made.improvement["iql", "blind_slate_aware"]
    assert (runs.estimate, runs.low) == (1.0, 1.0)
    # A normal gain of 1 with a standard deviation of about 1 in each conversation.
    assert_allclose(conversations.estimate, 0.84, atol=0.06)
    assert conversations.low < conversations.estimate < conversations.high < 0.95


def test_differences_are_in_the_returns_of_their_stratum(both_worlds):
    [made] = both_worlds
    assert [(d.reference, d.stratum) for d in made.differences[:5]] == [
        *(("random", stratum) for stratum in made.strata),
        ("blind_slate_aware", "mini sparse"),
    ]
    sparse, dense = made.differences[4:6]
    returns = planted(0)
    paired = returns["iql"] - returns["blind_slate_aware"]
    assert_allclose(sparse.gap.estimate, paired.mean())
    assert sparse.gap.low < paired.mean() < sparse.gap.high
    assert sparse.spread == spread_of(paired)
    assert_allclose(dense.gap.estimate, 5 * (planted(10)["iql"] - planted(10)["blind_slate_aware"]).mean())
    assert (sparse.agreeing, sparse.seeds, sparse.episodes) == (3, 3, N)
    assert sparse.p_seed_flips == 0.25  # the least that three seeds can give
    assert sparse.p_conversations < 0.01
    assert sparse.p_conversations < sparse.p_seeds < 0.2
    assert sparse.p_bootstrap < 0.05


def test_a_seed_that_disagrees_is_counted_and_a_single_one_has_no_test_over_seeds():
    shared = planted(0)
    turned = {**shared, "iql": shared["blind_slate_aware"] + np.array([[2.0], [1.0], [-0.5]])}
    alone = {**shared, "slateq": shared["iql"][:1]}
    first = make_report(sparse=turned)
    [made] = compare([first], n_replicates=50)
    assert made.differences[1].agreeing == 2
    second = make_report(sparse=alone)
    second.agents.insert(3, "slateq")
    [made] = compare([second], n_replicates=50)
    assert [(d.learner, d.p_seeds is None) for d in made.differences[1::2]] == [("iql", False), ("slateq", True)]
    table = list(comparison_pages.tables(made))[2]
    assert [row[5] for row in table.rows if row[0] == "slateq"] == ["one seed", "one seed"]
    assert "how many training seeds cannot be said of one" in comparison_pages.power_lines(made)[1]


def test_p_values_of_the_table_are_adjusted_together(both_worlds):
    [made] = both_worlds
    table = list(comparison_pages.tables(made))[2]
    raw = sorted(d.p_seeds for d in made.differences)
    shown = [row[5] for row in table.rows]
    smallest = min((d.p_seeds, number) for number, d in enumerate(made.differences))[1]
    assert shown[smallest] in (f"{8 * raw[0]:.3f}", "< 0.001")
    assert all(text == "< 0.001" or float(text) >= raw[0] for text in shown)


def test_a_long_table_shows_what_a_short_one_does():
    """Twelve rows with 10,000 flips could show no p-value below 0.0012, whatever the difference."""
    reports = [make_report(f"mini_{number}", sparse=planted(number, gain=3)) for number in range(6)]
    [made] = compare(reports, n_replicates=50)
    assert len(made.differences) == 12
    assert {row[4] for row in list(comparison_pages.tables(made))[2].rows} == {"< 0.001"}
    assert [d.p_conversations for d in made.differences] == [
        d.p_conversations for d in compare(reports, n_replicates=50)[0].differences
    ]


def test_what_has_no_scale_or_one_seed_is_not_compared():
    good = planted(0)
    assert len(compare([make_report(sparse=good)], n_replicates=50)) == 1
    for returns in (
        {agent: values for agent, values in good.items() if agent != "clairvoyant"},
        {agent: values for agent, values in good.items() if agent != "random"},
        {**good, "clairvoyant": good["random"] - 1},
        {**good, "iql": good["iql"][:1]},
        {agent: values for agent, values in good.items() if agent != "iql"},
    ):
        assert compare([make_report(sparse=returns)], n_replicates=50) == []
    elsewhere = make_report(sparse=good)
    elsewhere.cells = {("sparse", "diffusion"): elsewhere.cells["sparse", "surrogate"]}
    [made] = compare([elsewhere], n_replicates=50)  # a world without surrogate is at home with its only image model
    assert made.strata == ["sparse"]


def without(returns, *agents):
    return {agent: values for agent, values in returns.items() if agent not in agents}


def test_a_stratum_without_a_reference_is_compared_with_random_and_the_aggregates_name_what_they_lack():
    dense = without(planted(1, scale=5), "blind_slate_aware")
    [made] = compare([make_report(sparse=planted(0), dense=dense)], n_replicates=50)
    assert list(made.runs) == list(made.run_profiles) == ["random", "iql", "clairvoyant"]
    assert list(made.labels) == ["random", "blind_slate_aware", "iql", "clairvoyant"]
    assert list(made.improvement) == [("iql", "random")]
    assert [(d.reference, d.stratum) for d in made.differences] == [
        *(("random", "sparse"), ("random", "dense")),
        ("blind_slate_aware", "sparse"),
    ]
    lines = comparison_pages.power_lines(made)
    assert [line.split(" at 80%")[0] for line in lines] == [
        "dense: to tell iql from random",
        "sparse: to tell iql from blind_slate_aware",
    ]
    note = "Left out of aggregates, improvement and profiles: blind_slate_aware (no run in dense)."
    assert made.notes == [note]
    assert comparison_pages.section(made)[2] == note
    assert comparison_pages._summary(made)["notes"] == [note]


def three_worlds(change=lambda world, returns: returns):
    """Worlds with a second learner, each changed."""
    reports = []
    for number, world in enumerate(("mini", "mini_1", "mini_2")):
        returns = {**planted(number), "slateq": planted(number, gain=1.5)["iql"]}
        report = make_report(world, sparse=change(world, returns))
        report.agents = [
            agent for agent in (*report.agents, "slateq") if agent in report.cells["sparse", "surrogate"].returns
        ]
        reports.append(report)
    return compare(reports, n_replicates=50)


def test_an_agent_that_one_world_lacks_keeps_its_differences_in_the_others():
    [made] = three_worlds(lambda world, returns: without(returns, *["slateq"] * (world == "mini_2")))
    assert made.strata == ["mini sparse", "mini_1 sparse", "mini_2 sparse"]
    found = {(d.learner, d.reference, d.stratum) for d in made.differences}
    assert len(found) == len(made.differences) == 2 * 3 + 2 * 2
    assert ("slateq", "random", "mini_1 sparse") in found
    assert ("slateq", "random", "mini_2 sparse") not in found
    assert "slateq" not in made.runs
    assert made.runs["iql"] == 9
    assert made.notes == ["Left out of aggregates, improvement and profiles: slateq (no run in mini_2 sparse)."]
    assert sum("slateq from blind" in line for line in comparison_pages.power_lines(made)) == 2


def test_a_world_without_the_end_of_the_scale_leaves_the_aggregates_of_the_others():
    [whole] = three_worlds()
    assert whole.notes == []
    [made] = three_worlds(lambda world, returns: without(returns, *["clairvoyant"] * (world == "mini_2")))
    assert made.strata == ["mini sparse", "mini_1 sparse"]
    assert made.runs["slateq"] == 6
    assert {agent for agent, _ in made.improvement} == {"iql", "slateq"}
    # Differences need no scale.
    assert [d.gap.estimate for d in made.differences] == [d.gap.estimate for d in whole.differences]
    why = "mini_2 sparse (no run of clairvoyant)"
    assert made.notes == [f"Left out of aggregates, improvement and profiles: {why}."]

    def turned(world, returns):
        return {**returns, "clairvoyant": returns["random"] - 1} if world == "mini" else returns

    [made] = three_worlds(turned)
    assert made.strata == ["mini_1 sparse", "mini_2 sparse"]
    assert "mini sparse (clairvoyant not above random in every resample)" in made.notes[0]


def test_learners_that_no_stratum_shares_have_differences_alone():
    lacks = {"mini": ["slateq"], "mini_1": ["iql"], "mini_2": []}
    [made] = three_worlds(lambda world, returns: without(returns, *lacks[world]))
    assert made.notes[0].endswith(": iql (no run in mini_1 sparse); slateq (no run in mini sparse).")
    assert made.improvement == {}
    text = "\n".join(comparison_pages.section(made))
    assert "### Probability of improvement" not in text
    assert "### Paired differences" in text
    assert list(made.labels) == ["random", "blind_slate_aware", "iql", "slateq", "clairvoyant"]


def test_seeds_that_differ_between_strata_are_said():
    [made] = three_worlds(lambda world, returns: {**returns, "iql": returns["iql"][: 1 if world == "mini_2" else 3]})
    assert made.runs["iql"] == 7
    assert made.notes == [
        "Strata with more seeds weigh more in aggregates and profiles, where every run counts once. Seeds differ, in "
        "the order mini sparse, mini_1 sparse, mini_2 sparse: iql 3, 3, 1."
    ]
    assert [d.p_seeds is None for d in made.differences[:3]] == [False, False, True]


def test_experiments_stay_apart():
    reports = [make_report(experiment=name, sparse=planted(0)) for name in ("small", "ablation")]
    assert [made.title.split(":")[0] for made in compare(reports, n_replicates=50)] == ["small", "ablation"]


def test_the_rewards_of_a_world_share_conversations_and_worlds_do_not():
    reports = [make_report(world, sparse=planted(0), dense=planted(1)) for world in ("mini", "mini_2")]
    keys = [stratum.conversations for stratum in strata_of(reports)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert [stratum.name for stratum in strata_of(reports[:1])] == ["sparse", "dense"]


def difference(gap, spread, seeds=3, episodes=1000):
    return Difference(
        "iql", "blind_slate_aware", "sparse", Interval(gap, 0, 0), 1, 1, None, 1, 0, seeds, episodes, spread
    )


def test_power_says_what_it_takes(both_worlds):
    spread = Spread(0.02, 1.0, 5.0)
    made = difference(0.3, spread)
    assert made.needs() == (episodes_needed(0.3, spread, 3), seeds_needed(0.3, spread, 1000)) == (235, 5)
    assert made.smallest == smallest_difference(spread, 3, 1000)
    line = comparison_pages._power_line
    assert line(made) == (
        "sparse: to tell iql from blind_slate_aware at 80% power needs about 240 episodes a seed if the difference is "
        "the +0.30 seen here (3 trained as they are, 1,000 episodes now); for the way of training about 5 seeds of "
        "1,000 episodes"
    )
    assert "no number of seeds is enough with 1,000 episodes" in line(difference(-0.05, spread))
    assert "needs more than 10,000,000 episodes a seed" in line(difference(1e-5, spread))
    assert "whose difference is zero" in line(difference(0.0, spread))
    assert len(comparison_pages.power_lines(both_worlds[0])) == 4


@pytest.mark.parametrize(("count", "words"), [(2, 2), (99, 99), (101, 110), (1640, 1700), (16_801, 17_000)])
def test_counts_are_rounded_up_to_two_digits(count, words):
    assert comparison_pages._about(count) == words


def test_all_that_is_written_says_the_same_and_is_the_same_again(tmp_path):
    reports = [make_report(sparse=planted(0), dense=planted(1, scale=5))]
    text, comparisons, written = comparison_pages.write(reports, tmp_path, n_replicates=60)
    assert [path.name for path in written] == ["statistics.json", "profiles.png"]
    [made] = json.loads((tmp_path / "statistics.json").read_text())["experiments"]
    [again] = compare(reports, n_replicates=60)
    assert text == "\n" + "\n".join(comparison_pages.section(again))
    assert made == json.loads(json.dumps(comparison_pages._summary(again)))
    assert [comparison.title for comparison in comparisons] == [again.title]
    found = made["interquartile_mean"]["iql"]
    row = f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    assert f"| iql | 6 | {row} |" in text
    assert "blind_slate_aware \\*" in text
    for heading in ("Aggregates", "Probability of improvement", "Paired differences", "Power"):
        assert f"### {heading}\n" in text
    lengths = {len(row.split("|")) for row in re.findall(r"^\| iql .*\|$", text, flags=re.MULTILINE)}
    assert lengths == {6, 10}
    entry = made["paired_differences"][1]
    assert (entry["over"], entry["stratum"]) == ("random", "dense")
    spread = Spread(entry["variance_seed"], entry["variance_conversation"], entry["variance_rest"])
    assert entry["episodes_needed"] == episodes_needed(entry["estimate"], spread, 3)


def test_nothing_to_compare_writes_nothing(tmp_path):
    returns = {**planted(0), "iql": planted(0)["iql"][:1]}
    assert comparison_pages.write([make_report(sparse=returns)], tmp_path) == ("", [], [])
    assert list(tmp_path.iterdir()) == []
