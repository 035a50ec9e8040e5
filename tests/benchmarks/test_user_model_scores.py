"""Figures of held-out raters who gave unequal numbers of labels, by hand."""

import dataclasses

import numpy as np
import pytest

from benchmarks import user_model_card as card
from benchmarks.user_model_scores import held_out_scores, shown_in_scores
from pasta_gym.user_model.data import Source
from pasta_gym.user_model.label_columns import LabelColumns
from pasta_gym.user_model.predictors import ScorePredictor, table_score
from tests.user_model.test_evaluation import TwoTastes, small_data

PAIRS = [[9, 1], [8, 2]]
DOWN = [[1, 9], [6, 0], [3, 0]]  # the first of each is chosen: type 1 likes it less, then more


def ragged():
    """Rater 0: two pairs, a session. 1: a session. 2: nothing. 3: two sessions. 4: one choice. 5: in training."""
    slates = [[[2, 9], [9, 7], [4, 9]], DOWN, DOWN, DOWN, DOWN, DOWN]
    choices = [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, -1, -1], [0, 0, 0]]
    verdicts = np.full((6, 3), np.nan)
    verdicts[:, 1:] = [[1, 1], [-1, 1], [1, -1], [-1, 1], [np.nan, np.nan], [1, -1]]
    data = small_data(
        PAIRS, [1.0, 1.0], [0, 0], (2, 2, 2, 2, 2, 0), sessions=slates, choices=choices, verdicts=verdicts
    )
    return dataclasses.replace(data, session_raters=np.array([0, 1, 3, 3, 4, 5]))


@pytest.mark.filterwarnings("error")
def test_unequal_raters_by_hand():
    found = held_out_scores(TwoTastes(), ragged(), n_labels=(1,))
    assert found["raters"] == 4
    one = found["1"]
    # Rater 0 is of type 0 and goes up, then down, and says "better" twice: 1 of 2. Raters 1 and 3 chose 1 before 9, so
    # of type 1 rather: both are right in the half of the choices that is predicted. Rater 3's first session is learned
    # from, where the answers are the other way round, and rater 4 has none.
    assert (one["cross_turns"], one["cross_turn_accuracy"]) == (6.0, pytest.approx(5 / 6))
    # One pair and its mirror image: 9 before 1 was seen, 8 before 2 is predicted.
    sure, other = 1 / (1 + np.exp(-8.0)), 1 / (1 + np.exp(-6.0))
    first = sure * other + (1 - sure) * (1 - other)
    assert one["pairs"] == 1
    assert one["pair_log_likelihood"] == pytest.approx(np.log(first))
    assert found["reliability"]["pair"] == {
        "predicted": pytest.approx([1 - first, first]), "observed": [0, 1], "counts": [1, 1]
    }  # fmt: skip
    assert one["choices"] == 3 + 2 + 3 + 1
    curve = {name: np.array(values) for name, values in found["reliability"]["choice"].items()}
    assert curve["counts"].sum() == 2 * 9
    gaps = np.abs(curve["predicted"] - curve["observed"])
    assert one["choice_ece"] == pytest.approx((gaps * curve["counts"]).sum() / 18)
    # Both pairs agree, whichever is learned from.
    assert [found[f"pickapic_{name}"] for name in ("paper", "script", "pairs", "threshold")] == [1, 1, 1, 0]
    assert found["left_out"] == {"HPS Spearman": "no test rater ranked a list"}


def test_lists_count_alike_whoever_ranked_them():
    data = small_data(splits=(2, 2), rankings=[[9, 7, 5, 3, 1], [8, 7, 6, 5, 4], [1, 3, 5, 7, 9]])
    data = dataclasses.replace(data, ranking_raters=np.array([0, 0, 1]))
    found = held_out_scores(ScorePredictor(table_score(np.arange(11) / 10.0)), data)
    assert (found["hps_spearman"], found["hps_lists"], found["hps_images"]) == (pytest.approx(1 / 3), 3, 5)
    short = held_out_scores(TwoTastes(), small_data(rankings=[[4, 3, 2, 1]]))
    assert "lists of 5 images or more are needed" in short["left_out"]["HPS Spearman"]
    assert "the longest has 4" in short["left_out"]["HPS Spearman"]
    mixed = small_data(rankings=[[9, 7, 5, 3, 1], [4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7]])
    found = held_out_scores(ScorePredictor(table_score(np.arange(11) / 10.0)), mixed)
    assert found["hps_spearman"] == pytest.approx(0.0)
    assert (found["hps_lists"], found["hps_fewest_images"], found["hps_images"]) == (2, 5, 7)


def of_two_publications():
    """Raters 0 and 2 are tested on beside a validation rater, 1, of the same publication; 4 beside 3 of another one."""
    pairs, labels = [[9, 1], [4, 2], [5, 3], [9, 1], [5, 3]], [0.0, 0.5, 0.5, 1.0, 0.5]
    lists = [[9, 7, 5, 3, 1], [8, 6, 4, 2, 0], [1, 3, 5, 7, 9]]
    data = small_data(pairs, labels, [0, 1, 2, 3, 4], (2, 1, 2, 1, 2, 2), rankings=lists)
    names = [("train", "P", [0]), ("valid", "P", [1]), ("test", "P", [2]), ("other", "Q", [3, 4]), ("no", "N", [5])]
    sources = tuple(Source(name, people, np.array(raters)) for name, people, raters in names)
    return dataclasses.replace(data, ranking_raters=np.array([2, 2, 4]), sources=sources)


def by_number():
    return ScorePredictor(table_score(np.arange(11) / 10.0), comparison_temperature=4.0)


def test_figures_of_several_datasets_are_theirs_by_hand():
    data = of_two_publications()
    found = held_out_scores(by_number(), data)
    margin = 2 / (1 + np.exp(-4.0 * 0.2)) - 1  # of the validation rater's tie, and of both ties that are tested on
    assert 0.3 < margin < 0.4
    pickapic = ("pickapic_paper", "pickapic_script", "pickapic_pairs", "pickapic_threshold")
    hps = ("hps_spearman", "hps_lists", "hps_images")
    assert set(found["by_source"]) == {"test", "other", "train"}
    train, test, other = (found["by_source"][name] for name in ("train", "test", "other"))
    # The threshold is chosen on all validation raters of the publication and on no others.
    assert [train[name] for name in pickapic] == [0, 0, 1, 0.4]
    assert [test[name] for name in pickapic] == [0, 1, 1, 0.4]
    assert [other[name] for name in pickapic] == [0, 0.5, 1, 0]
    assert [test[name] for name in hps] == [pytest.approx(1), 2, 5]
    assert [other[name] for name in hps] == [pytest.approx(-1), 1, 5]
    assert not set(hps) & set(train)
    assert not set(found) & {*pickapic, *hps}
    assert not {"Pick-a-Pic accuracy", "HPS Spearman"} & set(found["left_out"])
    # Of one dataset nothing is said by dataset; the validation raters' own figures are of theirs alone.
    alone = held_out_scores(by_number(), dataclasses.replace(data, sources=data.sources[:1]))
    assert alone == held_out_scores(by_number(), dataclasses.replace(data, sources=()))
    assert alone["pickapic_pairs"] == alone["hps_lists"] == 3
    validation = held_out_scores(by_number(), data, "validation")["by_source"]
    assert {name: figures["pickapic_pairs"] for name, figures in validation.items()} == {"valid": 1, "other": 1}


def test_what_no_dataset_has_is_left_out_with_its_reason():
    data = dataclasses.replace(of_two_publications(), rankings=np.array([[3, 2, 1, 0]] * 3))
    found = held_out_scores(TwoTastes(), data)
    assert "lists of 5 images or more are needed" in found["left_out"]["HPS Spearman"]
    assert all(name.startswith("pickapic") for figures in found["by_source"].values() for name in figures)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "data",
    [small_data(splits=(0,)), small_data(), LabelColumns().data(np.ones((1, 2)), np.ones((3, 2)), np.array([2]))],
    ids=["no raters", "no labels", "nothing gathered"],
)
def test_without_labels_or_raters_everything_is_left_out(data):
    found = held_out_scores(TwoTastes(), data)
    assert found["raters"] == 0
    names = {"figures of pairs", "figures of choices", "cross-turn accuracy", "Pick-a-Pic accuracy", "HPS Spearman"}
    assert set(found["left_out"]) == names
    assert found["reliability"] == {}
    assert found["50"]["cross_turns"] == found["50"]["pairs"] == 0


def test_an_encoder_that_was_trained_embeds_what_is_scored_and_no_more():
    pairs = [[0, 1], [2, 3], [4, 5]]
    data = small_data(pairs, [1.0] * 3, [0, 1, 2], (0, 1, 2), sessions=[DOWN] * 3, choices=[[0, 0, 0]] * 3)
    data = dataclasses.replace(data, session_raters=np.array([0, 1, 2]), session_images=data.session_images + 1)
    data.session_images[1] = 0  # the validation rater's session
    shown = shown_in_scores(data)
    assert shown.images.tolist() == [1, 2, 3, 4, 5, 7, 10]
    assert shown.prompts.tolist() == [0]


def written(folder, scores, others=None):
    from tests.benchmarks.test_fit_user_model import small_model

    card.write_card(folder, small_model(), scores, scores, others)
    return (folder / "card.md").read_text()


def test_the_card_lays_out_what_there_is_and_says_why_the_rest_is_not(tmp_path):
    data = ragged()
    scores = held_out_scores(TwoTastes(), data)
    clip = held_out_scores(ScorePredictor(table_score(np.arange(11) / 10.0)), data)
    text = written(tmp_path, scores, {"CLIP score": clip})
    assert "| types, n = 50 | 1.000 |" in text
    assert len([line for line in text.splitlines() if line.startswith("| CLIP score | ")]) == 2
    assert "| | Pick-a-Pic, the paper's | Pick-a-Pic, the script's |\n" in text
    assert "| CLIP score | 1.000 | 1.000 (t = 0) |" in text
    assert "Pick-a-Pic: 1 pairs, after the other half of a rater's; cross-turn: 6 answers." in text
    assert "Left out:\n- HPS Spearman: no test rater ranked a list\n" in text
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "![Predicted and observed frequencies](reliability.png)" in text
    assert "nats a choice, after 50 labels" in text
    lists = held_out_scores(TwoTastes(), small_data(rankings=[[9, 7, 5, 3, 1]]))
    assert "HPS: 1 lists of 5 images, after three." in written(tmp_path, lists)
    lists = held_out_scores(TwoTastes(), small_data(rankings=[[9, 7, 5, 3, 1], [9, 7, 5, 3, 1, 0]]))
    assert "HPS: 2 lists of 5 to 6 images, after three." in written(tmp_path, lists)
    # A card of other labels takes the figure of an earlier one away.
    nothing = written(tmp_path, held_out_scores(TwoTastes(), small_data()))
    assert "reliability" not in nothing
    assert not (tmp_path / "reliability.png").exists()
    assert nothing.count("\n- ") >= 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_card_of_several_datasets_names_each(tmp_path):
    from tests.benchmarks.test_fit_user_model import small_model

    data, model = of_two_publications(), small_model()
    sources = [{"kind": "shop", "name": "till", "as_split": None}, {"kind": "shop", "name": "b", "as_split": "test"}]
    model.metadata["data"] = {"sources": sources}
    scores, numbers = held_out_scores(TwoTastes(), data), held_out_scores(by_number(), data)
    card.write_card(tmp_path, model, scores, None, {"by number": numbers})
    text = (tmp_path / "card.md").read_text()
    rules = ("Pick-a-Pic, the paper's", "Pick-a-Pic, the script's")
    columns = [f"{rule}, {name}" for name in ("train", "test", "other") for rule in rules]
    columns.insert(4, "HPS Spearman, test")
    assert f"| | {' | '.join([*columns, 'HPS Spearman, other'])} |\n" in text
    cells = "0.000 | 0.000 (t = 0.4) | 0.000 | 1.000 (t = 0.4) | 1.000 | 0.000 | 0.500 (t = 0) | -1.000"
    assert f"| by number | {cells} |\n" in text
    assert "Pick-a-Pic, test: 1 pairs, after the other half of a rater's; HPS, test: 2 lists of 5 images" in text
    assert "- shop: till\n- shop: b, test alone\n" in text
