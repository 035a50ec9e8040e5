import dataclasses

import numpy as np
import pytest

from benchmarks import checks, personalisation, report, score_table, stats
from benchmarks.report import Report
from benchmarks.stats import Interval
from tests.benchmarks.test_comparisons import cell

N = 60


def planted(n_seeds=2):
    """Luck that all share; a belief is worth 1 to IQL, nothing to SlateQ, and 2 to the exact references."""
    rng = np.random.default_rng(3)
    luck = rng.normal(0, 3, size=(1, N))

    def agent(mean, seeds=n_seeds):
        return luck + mean + rng.normal(0, 0.2, size=(seeds, N))

    return {
        "random": luck,
        "iql": agent(2.0),
        "iql_history": agent(1.0, 3),
        "slateq_belief": agent(1.5),
        "slateq_blind": agent(1.5),
        "belief_slate_aware": agent(4.0, 1),
        "blind_slate_aware": agent(2.0, 1),
        "clairvoyant": luck + 5,
    }


def make_report(images="surrogate", normalised=True):
    returns = planted()
    scale = {name: Interval(values.mean() / 5, 0, 1) for name, values in returns.items()} if normalised else {}
    mean = stats.mean_intervals(returns, np.random.default_rng(0), 50)
    own = dataclasses.replace(cell(returns), mean=mean, normalised=scale)
    name, privileged = ("main", "simulated", "mini", "test"), {"belief_slate_aware"}
    return Report(name, "", list(returns), privileged, {("dense", images): own})


def test_planted_worths_are_found_with_their_intervals():
    found = {w.contrast[:2]: w for w in personalisation.worths(make_report(), n_replicates=300)}
    assert list(found) == [
        ("belief_slate_aware", "blind_slate_aware"), ("iql", "iql_history"), ("slateq_belief", "slateq_blind")
    ]  # fmt: skip
    exact, iql, slateq = found.values()
    assert exact.gap.estimate == pytest.approx(2, abs=0.1)
    assert iql.gap.low < 1 < iql.gap.high
    assert 0.8 < iql.gap.low < iql.gap.high < 1.2  # the luck that all share, 3 wide, is not in it
    assert slateq.gap.low < 0 < slateq.gap.high
    assert (iql.seeds, iql.reward) == ((2, 3), "dense")
    assert exact.p < 0.001 < 0.05 < slateq.p
    # The clairvoyant is 5 above random in every resample.
    assert [iql.share.estimate, iql.share.low, iql.share.high] == pytest.approx(
        [iql.gap.estimate / 5, iql.gap.low / 5, iql.gap.high / 5]
    )


def of_same_networks(**returns):
    luck = np.random.default_rng(3).normal(0, 3, size=(1, N))
    made = cell({"random": luck, "clairvoyant": luck + 8, **returns})
    scale = {name: Interval(values.mean() / 8, 0, 1) for name, values in made.returns.items()}
    made = dataclasses.replace(made, normalised=scale)
    name = ("main", "simulated", "mini", "test")
    return Report(name, "", list(made.returns), set(), {("sparse", "surrogate"): made})


def test_the_same_networks_are_compared_seed_by_seed():
    """Three networks far apart, each of which loses 1 where it is shown another's past."""
    noise = np.random.default_rng(4).normal(0, 0.1, size=(3, N))
    networks = np.array([[0.0], [3.0], [6.0]]) + np.random.default_rng(3).normal(0, 3, size=(1, N))
    made = of_same_networks(slateq=networks, slateq_foreign=networks - 1 + noise, slateq_single=networks - 1 + noise)
    single, foreign = personalisation.worths(made, n_replicates=300)
    assert (single.contrast.same_networks, foreign.contrast.same_networks) == (False, True)
    assert foreign.gap.estimate == pytest.approx(1 - noise.mean()) == pytest.approx(single.gap.estimate)
    assert 0.9 < foreign.gap.low < foreign.gap.high < 1.1
    assert single.gap.high - single.gap.low > 3  # networks of another training may be any three
    assert foreign.share.low == pytest.approx(foreign.gap.low / 8)
    assert foreign.seeds == (3, 3)


def test_seeds_of_the_same_networks_are_paired_by_number_and_those_of_one_agent_alone_left_out():
    networks = np.array([[0.0], [3.0], [6.0]]) + np.zeros((1, N))
    made = of_same_networks(iql_history=networks, iql_history_foreign=networks[[2, 0]] - 1)
    cell_ = made.cells["sparse", "surrogate"]
    cell_.seeds.update(iql_history=[7, 8, 9], iql_history_foreign=[9, 7])
    [found] = personalisation.worths(made, n_replicates=50)
    assert [found.gap.low, found.gap.estimate, found.gap.high] == pytest.approx([1, 1, 1])
    assert found.seeds == (2, 2)
    cell_.seeds["iql_history_foreign"] = [3, 4]  # nothing to pair: as two agents
    [found] = personalisation.worths(made, n_replicates=50)
    assert found.gap.estimate == pytest.approx(3 - 2)
    assert found.gap.high - found.gap.low > 1
    assert found.seeds == (3, 2)


def test_the_difference_is_the_mean_over_conversations_by_hand():
    returns = planted()
    [found] = [w for w in personalisation.worths(make_report(), n_replicates=50) if w.contrast.knowing == "iql"]
    by_hand = np.mean([returns["iql"][:, e].mean() - returns["iql_history"][:, e].mean() for e in range(N)])
    assert found.gap.estimate == pytest.approx(by_hand)


def test_the_table_says_what_differs_and_adjusts_for_its_rows(monkeypatch):
    made = make_report()
    assert "### What knowing the person is worth" in report.markdown(made)
    found = personalisation.worths(made, n_replicates=50)
    planted_p = [worth._replace(p=p) for worth, p in zip(found, (0.02, 0.01, 0.5), strict=True)]
    monkeypatch.setattr(personalisation, "worths", lambda *args, **options: planted_p)
    rows = [line for line in personalisation.section(made) if line.startswith("| ")][1:]
    start = "| belief_slate_aware \\* | blind_slate_aware | exact posterior against prior, whole slates | dense"
    assert rows[0].startswith(start)
    assert "| 2 and 3 |" in rows[1]
    # Holm by hand: 3 x 0.01, 2 x 0.02, 1 x 0.5.
    assert [row.split(" | ")[6] for row in rows] == ["0.040", "0.030", "0.500"]


def test_a_scale_that_one_resample_turns_over_gives_no_share():
    made = of_same_networks(iql=np.ones((1, N)), iql_history=np.zeros((1, N)))
    returns = made.cells[("sparse", "surrogate")].returns
    returns["clairvoyant"] = returns["random"] + np.where(np.arange(N) < 1, 8.0, -0.01)
    [found] = personalisation.worths(made, n_replicates=300)
    assert found.gap.estimate == pytest.approx(1)
    assert found.share is None


def test_without_a_scale_there_is_no_share_and_without_pairs_no_table():
    lines = personalisation.section(make_report(normalised=False), n_replicates=50)
    assert all(line.endswith("|  |") for line in lines if line.startswith(("| iql", "| slateq")))
    alone = make_report()
    alone.cells[("dense", "surrogate")].returns.pop("iql_history")
    assert "iql" not in "".join(
        line for line in personalisation.section(alone, n_replicates=50) if line[0:5] == "| iql"
    )
    nothing = Report(("main", "simulated", "mini", "test"), "", [], set(), {})
    assert personalisation.section(nothing) == []


def test_every_contrast_is_of_two_agents_that_have_a_file():
    from benchmarks.settings import CONFIG_FOLDER

    agents = {path.stem for path in (CONFIG_FOLDER / "agent").glob("*.yaml")}
    for contrast in personalisation.CONTRASTS:
        assert {contrast.knowing, contrast.ignorant} <= agents


def test_a_world_without_surrogate_is_at_home_where_its_agents_learned():
    made = make_report(images="diffusion")
    assert made.home == "diffusion"
    text = report.markdown(made)
    assert "60 held-out episodes under diffusion." in text
    assert "| iql | iql_history |" in text
    made.checks = checks.headline_checks(made)
    assert [check.claim for check in made.checks if check.claim.startswith("iql above random, dense")]
    header, _ = score_table.table_rows(made)
    assert "dense normalised" in header
