"""Small worlds solved exactly: the tables against enumeration and simulation, each form where it loses nothing."""

import itertools

import numpy as np
import pytest

from benchmarks import value_gap
from tests.agents.test_losses import expectile


def world_of(seed, **changes):
    sizes = {"n_kinds": 2, "n_items": 3, "slate_size": 2, "is_sparse": False} | changes
    return value_gap.draw_world(np.random.default_rng(seed), **sizes)


@pytest.mark.parametrize("is_sparse", [True, False])
def test_the_best_policy_is_the_best_of_all(is_sparse):
    tables = value_gap.lay_out(world_of(3, is_sparse=is_sparse))
    n_states = len(tables.belief)
    assert n_states == 1 + 3 * 2
    values = [value_gap.value_of(tables, np.array(p)) for p in itertools.product(range(3), repeat=n_states)]
    assert value_gap.value_of(tables, value_gap.best_policy(tables)) == pytest.approx(max(values))
    assert value_gap.uniform_value(tables) == pytest.approx(np.mean(values))


def test_a_policys_value_is_that_of_played_conversations():
    world = world_of(5, n_items=4, slate_size=3, n_kinds=3)
    tables = value_gap.lay_out(world)
    policy = value_gap.best_policy(tables)
    rng = np.random.default_rng(0)
    n = 200_000
    kinds = rng.choice(3, size=n, p=world.shares)
    first = world.slates[policy[0]]
    utilities = world.first[kinds][:, first]
    picked = (world.temperature * utilities + rng.gumbel(size=utilities.shape)).argmax(axis=1)
    states, items = tables.following[policy[0], picked], first[picked]
    slates = world.slates[policy[states]]
    later = np.take_along_axis(world.last[kinds, items], slates, axis=1)
    again = (world.temperature * later + rng.gumbel(size=later.shape)).argmax(axis=1)
    returns = utilities[np.arange(n), picked] + later[np.arange(n), again]
    assert value_gap.value_of(tables, policy) == pytest.approx(returns.mean(), abs=4 * returns.std() / n**0.5)
    # What was chosen tells the kinds apart as it does among the people who chose it.
    mine = states == tables.following[policy[0], 0]
    assert np.bincount(kinds[mine], minlength=3) / mine.sum() == pytest.approx(
        tables.belief[tables.following[policy[0], 0]], abs=0.01
    )


def test_no_form_beats_the_best_and_slateq_reaches_it_where_people_are_alike():
    for seed in range(8):
        for n_kinds, is_sparse in itertools.product((1, 3), (True, False)):
            found = value_gap.gaps(world_of(seed, n_items=5, slate_size=3, n_kinds=n_kinds, is_sparse=is_sparse))
            assert min(found.values()) > -1e-9
            if n_kinds == 1:
                assert found["SlateQ, one softmax, max"] == pytest.approx(0, abs=1e-9)
                assert found["SlateQ, mixture"] == pytest.approx(found["SlateQ, one softmax"], abs=1e-9)


def test_one_softmax_is_found_again_and_two_kinds_are_no_softmax():
    one, two = value_gap.lay_out(world_of(1, n_kinds=1, n_items=4)), value_gap.lay_out(world_of(1, n_items=4))
    for tables, fits in ((one, True), (two, False)):
        logits = value_gap.softmax_scores(tables.chances, tables.slates)[:, tables.slates]
        model = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        assert (np.abs(model - tables.chances).max() < 1e-6) == fits


def test_expectiles_are_those_of_the_loss():
    values = np.random.default_rng(0).normal(size=(4, 9))
    for level in (0.5, 0.7, 0.9):
        found = value_gap.expectile(values, level)
        assert found == pytest.approx([expectile(row, level) for row in values], abs=1e-6)
    assert value_gap.expectile(values, 0.5) == pytest.approx(values.mean(axis=1))


def test_iqls_prompts_are_worth_what_its_losses_say():
    tables = value_gap.lay_out(world_of(7, n_kinds=1))
    by_slate = (tables.chances * tables.rewards).sum(axis=-1)
    state = 2
    # Three items, slates of two: the slate's mean can be met exactly, and its greedy slate is the best one.
    assert value_gap.iql_policy(tables, "slate_mean")[state] == by_slate[state].argmax()
    # Per prompt: the mean of the two slates that show it. The two best prompts are those outside of the worst pair.
    shown = np.array([[(item in slate) for item in range(3)] for slate in tables.slates])
    values = np.array([by_slate[state][shown[:, item]].mean() for item in range(3)])
    best = set(np.argsort(-values)[:2])
    assert set(tables.slates[value_gap.iql_policy(tables, "per_prompt")[state]]) == best


def test_iqls_first_slate_follows_from_its_values_of_what_comes_after():
    for seed in range(12):
        tables = value_gap.lay_out(world_of(seed, n_items=4))
        shown = np.array([[(item in slate) for item in range(4)] for slate in tables.slates])
        by_slate = (tables.chances * tables.rewards).sum(axis=-1)
        after = np.zeros(len(by_slate))
        for state in range(1, len(by_slate)):
            prompts = [by_slate[state][shown[:, item]].mean() for item in range(4)]
            after[state] = expectile(np.array(prompts)[tables.slates].ravel(), value_gap.EXPECTILE)
        targets = (tables.chances[0] * (tables.rewards[0] + after[tables.following])).sum(axis=-1)
        prompts = np.array([targets[shown[:, item]].mean() for item in range(4)])
        chosen = tables.slates[value_gap.iql_policy(tables, "per_prompt")[0]]
        assert set(chosen) == set(np.argsort(-prompts)[:2])


def test_only_the_last_turn_pays_where_rewards_are_sparse():
    sparse, dense = (value_gap.lay_out(world_of(2, is_sparse=is_sparse)) for is_sparse in (True, False))
    assert not sparse.rewards[0].any()
    assert (dense.rewards[0] > 0).all()
    assert np.array_equal(sparse.rewards[1:], dense.rewards[1:])


def test_the_command_fills_its_page(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- value_gap:begin -->\n<!-- value_gap:end -->\n")
    value_gap.main(["--worlds", "2", "--page", str(page)])
    rows = capsys.readouterr().out.strip().splitlines()
    assert len(rows) == 2 + 3 * 2 * 2
    assert "Printed by `python -m benchmarks.value_gap --worlds 2` on" in page.read_text()
    assert rows[2] in page.read_text()
    with pytest.raises(SystemExit):
        value_gap.main(["--worlds", "0"])
