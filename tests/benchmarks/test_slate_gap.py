from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import slate_gap
from pasta_gym.user_model.temperature import slate_temperature


@pytest.fixture(scope="module")
def problems():
    return slate_gap.random_problems(12, 2, seed=3)


@pytest.mark.parametrize("rule", slate_gap.RULES)
@pytest.mark.parametrize("constant", [True, False])
def test_no_optimiser_beats_enumeration_and_fractional_programming_is_exact(problems, rule, constant):
    batch = problems if rule == "one_per_category" else replace(problems, categories=None)
    batch = slate_gap.with_known_type(replace(batch, slate_size=2), seed=0)
    batch = batch if constant else slate_gap.with_slate_temperature(batch, 20.0)
    found = slate_gap.gaps(batch)
    assert set(found) == set(slate_gap.OPTIMISERS) - (set() if constant else {"fractional programming"})
    assert all((gap.percent >= 0).all() for gap in found.values())
    assert found["top L"].percent.mean() > found["coordinate ascent"].percent.mean()
    if constant:
        assert found["fractional programming"].percent.max() < 1e-4


def test_of_a_belief_there_is_no_single_ratio(problems):
    found = slate_gap.gaps(replace(problems, slate_size=2))
    assert "fractional programming" not in found
    assert found["top L"].percent.mean() > 1


def test_a_gap_that_enumeration_missed_is_an_error(problems, monkeypatch):
    monkeypatch.setattr(slate_gap, "exact", slate_gap.top)
    with pytest.raises(ValueError, match="better than the best of all"):
        slate_gap.gaps(replace(problems, slate_size=2))


def test_the_slates_temperature_has_the_mean_of_the_constant_one(problems):
    bent = slate_gap.with_slate_temperature(problems, 20.0)
    slates = slate_gap._some_slates(problems.utilities).numpy()
    logits = bent.choice_logits(slates)
    of_slates = (logits.max(-1) - logits.min(-1)) / (slates.max(-1) - slates.min(-1))
    assert np.exp(np.log(of_slates).mean()) == pytest.approx(20, rel=1e-6)
    assert of_slates.std() > 1
    growth = slate_temperature(slate_gap._some_slates(problems.utilities), 1.0, slate_gap.SLOPES).numpy()
    assert_allclose(of_slates / growth, (of_slates / growth).mean(), rtol=1e-6)


def test_some_slates_hold_one_candidate_of_each_of_four_categories():
    labels = np.broadcast_to(np.repeat(np.arange(4.0), 6), (1, 1, 24))
    assert (slate_gap._some_slates(np.concatenate([labels, labels[..., :1]], axis=2)).numpy() == np.arange(4)).all()


def test_shares_have_an_interval_at_both_ends():
    # By hand: z^2 = 3.8415, centre (10 + 1.9207) / 13.8415, half 1.96 / 13.8415 * 0.98.
    assert slate_gap.wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert slate_gap.wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert slate_gap.wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_a_worlds_problems_are_its_first_turns(tiny):
    made = slate_gap.world_problems(tiny, 8, 2, 0, n_candidates=9, n_categories=3)
    assert made.utilities.shape == (8, 3, 9)
    assert_allclose(made.belief, np.tile(tiny.user_model.prior, (8, 1)))
    assert (made.categories == np.repeat(np.arange(3), 3)).all()
    assert_allclose(made.choice_logits(np.array([[[0.0, 0.5]]])), [[[0.0, 3.0]]])
    assert len(np.unique(made.utilities[:, 0], axis=0)) == 8
    known = slate_gap.with_known_type(made, seed=1)
    assert all(known.utilities[b, 0].tolist() in made.utilities[b].tolist() for b in range(8))


def test_the_command_prints_every_kind_of_problem(capsys, tmp_path, monkeypatch):
    # The mini world's encoder takes longer than a test may.
    monkeypatch.setattr(slate_gap, "make_world", lambda name: name)
    monkeypatch.setattr(
        slate_gap, "world_problems", lambda world, *sizes: replace(slate_gap.random_problems(*sizes), source=world)
    )
    page = tmp_path / "page.md"
    page.write_text("<!-- slate_gap:begin -->\n<!-- slate_gap:end -->\n")
    options = ["--problems", "3", "--slate-sizes", "2", "--images", "1", "--rules", "one_per_category"]
    slate_gap.main([*options, "--page", str(page)])
    printed = capsys.readouterr().out
    assert printed.strip() in page.read_text()
    assert "`python -m benchmarks.slate_gap --problems 3 " in page.read_text()
    rows = [line for line in printed.splitlines() if "one per category" in line]
    assert len(rows) == 8
    assert sum("| mini |" in row for row in rows) == 4
    assert sum(row.rstrip().endswith("|  |") for row in rows) == 6, "only a known type has one ratio"
    with pytest.raises(SystemExit, match="must be 1 or more, got 0"):
        slate_gap.main(["--problems", "0"])
