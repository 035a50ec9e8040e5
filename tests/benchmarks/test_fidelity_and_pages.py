"""The surrogate's comparison on planted draws, and the blocks of the pages."""

import numpy as np
import pytest

from benchmarks import episode_picture
from benchmarks.pages import fill_block, printed_by
from benchmarks.surrogate_fidelity import Columns, compare, slates_to_compare
from pasta_gym.mini import grammar


def _columns(rng, repeats, spread, shift=0.0):
    level = np.random.default_rng(1).uniform(0.2, 0.8, size=(1, 50, 3, 4)) + shift
    utilities = level + spread * rng.normal(size=(repeats, 50, 3, 4))
    weights = np.exp(10 * utilities)
    return Columns(utilities, weights / weights.sum(axis=-1, keepdims=True))


def test_two_sets_of_the_same_distribution_agree():
    figures = compare(_columns(np.random.default_rng(2), 400, 0.05), _columns(np.random.default_rng(3), 400, 0.05))
    assert figures["spearman"].min() > 0.99
    assert figures["total_variation"].max() < 0.02
    np.testing.assert_allclose(figures["variance_ratio"], 1, atol=0.1)


def test_a_wider_second_set_has_a_variance_ratio_above_one():
    figures = compare(_columns(np.random.default_rng(2), 400, 0.05), _columns(np.random.default_rng(3), 400, 0.1))
    np.testing.assert_allclose(figures["variance_ratio"], 4, rtol=0.1)


def test_unrelated_levels_do_not_agree():
    first = _columns(np.random.default_rng(2), 50, 0.05)
    order = np.random.default_rng(4).permutation(50)
    second = Columns(first.utilities[:, order], first.choice_probabilities[:, order])
    figures = compare(first, second)
    assert np.abs(figures["spearman"]).max() < 0.3
    assert figures["total_variation"].min() > 0.2


def test_total_variation_by_hand():
    utilities = np.arange(8, dtype=float).reshape(2, 1, 1, 4)
    first = Columns(utilities, np.broadcast_to([0.7, 0.1, 0.1, 0.1], (2, 1, 1, 4)))
    second = Columns(utilities, np.broadcast_to([0.1, 0.7, 0.1, 0.1], (2, 1, 1, 4)))
    assert compare(first, second)["total_variation"] == pytest.approx([0.6])


@pytest.mark.parametrize("unseen", [True, False])
def test_slates_show_held_out_triples_or_none(unseen):
    prompts, slates = slates_to_compare(12, unseen=unseen, rng=np.random.default_rng(0))
    assert slates.shape == (12, 4)
    assert (grammar.is_held_out(grammar.slot_values(slates)) == unseen).all()
    said, shown = grammar.slot_values(prompts)[:, None], grammar.slot_values(slates)
    assert ((said == 0) | (said == shown)).all()
    assert all(len(set(row)) == 4 for row in grammar.canonical_ids(shown))
    assert np.isin(prompts, grammar.initial_prompt_ids("test")).all()


def test_a_block_is_replaced_and_the_rest_is_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- table:begin -->\nold\n<!-- table:end -->\ntail\n")
    fill_block(page, "table", "new\n")
    fill_block(page, "table", "newer")
    assert page.read_text() == "head\n<!-- table:begin -->\nnewer\n<!-- table:end -->\ntail\n"


@pytest.mark.parametrize(
    "text", ["", "<!-- t:end --> <!-- t:begin -->", "<!-- t:begin --> <!-- t:begin --><!-- t:end -->"]
)
def test_a_page_without_the_block_is_refused(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="once each, in this order"):
        fill_block(page, "t", "new")
    assert page.read_text() == text


def test_an_episode_is_drawn_of_an_agent_that_was_trained_and_of_no_other(tmp_path):
    with pytest.raises(ValueError, match=r"must be a run directory with config\.yaml and checkpoint/"):
        episode_picture.trained_agent(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "config.yaml").write_text("agent: {_target_: agents.iql.IQLAgent}")
    with pytest.raises(ValueError, match="train the agent"):
        episode_picture.trained_agent(tmp_path)


def test_a_page_names_the_command_without_where_its_results_went(monkeypatch):
    given = ["--worlds", "0", "1", "--out", "somewhere", "--threads", "1", "--draws", "5", "--page", "a b.md"]
    line = printed_by("evaluate_user_model", given)
    assert line.startswith("Printed by `python -m benchmarks.evaluate_user_model --worlds 0 1 --draws 5` on 20")
    monkeypatch.setattr("sys.argv", ["k_study", "--data", "my labels"])
    assert "python -m benchmarks.k_study --data 'my labels'`" in printed_by("k_study", None)
