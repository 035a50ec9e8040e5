"""Ranked lists of any lengths: each counts with the images it has, and what fills it up counts nowhere."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.score_images import prompts_of_images
from benchmarks.user_model_scores import held_out_scores
from pasta_gym.datasets.hpdv2 import HPDv2
from pasta_gym.user_model.checkpoint import phase_key
from pasta_gym.user_model.data import NO_IMAGE
from pasta_gym.user_model.features import shown_to
from pasta_gym.user_model.gather import gather
from pasta_gym.user_model.predictors import ScorePredictor, table_score
from pasta_gym.user_model.rankings import hps_correlations, list_correlations, lists_to_rank
from tests.datasets.formats import write_hpdv2
from tests.user_model.test_evaluation import TwoTastes, small_data

LISTS = [[2, 6, 7, 1, 5, 8], [4, 3, 2, 1], [9, 1, 5, 3, 4], [0, 1, 2, 3, 4, 5]]  # the last is of a training rater


class Draws:
    """Draws that are known beforehand, by how many images there are to draw from."""

    def __init__(self, **drawn):
        self.drawn, self.asked = drawn, []

    def choice(self, n, size, replace):
        assert (size, replace) == (3, False)
        self.asked.append(n)
        return np.array(self.drawn[f"of_{n}"])


def of_several_lengths():
    data = small_data(splits=(2, 0, 2), rankings=LISTS)
    return dataclasses.replace(data, ranking_raters=np.array([2, 0, 0, 1]))


def by_number():
    return ScorePredictor(table_score(np.arange(11) / 10.0), comparison_temperature=4.0)


def test_lists_are_ranked_by_what_is_left_of_them():
    # A rater who likes the smaller: best first 0, 1, ...; three of the list tell, the rest are ranked perfectly.
    data = small_data(rankings=[list(range(0, 9)), list(range(1, 10))])
    assert hps_correlations(TwoTastes(), data, np.random.default_rng(0))[0] > 0.9
    upwards = small_data(rankings=[list(range(9, 0, -1))])
    assert hps_correlations(TwoTastes(), upwards, np.random.default_rng(0))[0] > 0.9
    # Two of five are left, which are in order or not; all five would be partly in order.
    five = small_data(rankings=[[0, 4, 1, 3, 2]])
    for seed in range(5):
        score = ScorePredictor(table_score(np.arange(11) / 10.0))
        found = hps_correlations(score, five, np.random.default_rng(seed))
        assert np.abs(found) == pytest.approx([1.0])
    with pytest.raises(ValueError, match="lists of 5 images or more are needed, got 4 at most"):
        hps_correlations(TwoTastes(), small_data(rankings=[[0, 1, 2, 3]]), np.random.default_rng(0))
    nobody, correlations = list_correlations(TwoTastes(), small_data(rankings=LISTS, splits=(0,)), Draws())
    assert len(nobody) == len(correlations) == 0


def test_lists_of_several_lengths_by_hand():
    # A list that likes type 0 by a log-likelihood of x more than type 1 gives it tanh(x / 2) more of the posterior.
    draws = Draws(of_6=[5, 0, 3], of_5=[0, 1, 2])
    raters, found = list_correlations(TwoTastes(), of_several_lengths(), draws)
    assert (raters.tolist(), draws.asked) == ([2, 0], [6, 5])
    # Of six, 2 before 1 before 8 are seen: 1 - 6 - 7 = -12. Left are 6, 7, 5, which type 0 has at .5.
    # Of five, 9 before 1 before 5: 8 + 4 - 4 = 8. Left are 3, 4, which type 0 has the wrong way round.
    assert found == pytest.approx([-0.5 * np.tanh(6), -np.tanh(4)])
    of_raters = hps_correlations(TwoTastes(), of_several_lengths(), Draws(of_6=[0, 3, 5], of_5=[0, 1, 2]))
    assert of_raters == pytest.approx([-np.tanh(4), -0.5 * np.tanh(6)])
    assert lists_to_rank(of_several_lengths()).tolist() == [0, 2]
    assert lists_to_rank(of_several_lengths(), "train").tolist() == [3]


def test_what_fills_a_list_up_is_no_image():
    data = of_several_lengths()
    assert data.ranking_lengths.tolist() == [6, 4, 5, 6]
    assert data.rankings[1].tolist() == [4, 3, 2, 1, NO_IMAGE, NO_IMAGE]
    raters, prompts, images, labels = data.all_pairs()
    listed = {rater: images[raters == rater].tolist() for rater in range(3)}
    assert listed[0] == [[4, 3], [3, 2], [2, 1], [9, 1], [1, 5], [5, 3], [3, 4]]
    assert listed[2] == [[2, 6], [6, 7], [7, 1], [1, 5], [5, 8]]
    assert len(prompts) == len(labels) == 3 + 4 + 5 + 5
    assert shown_to(data, np.array([0])).images.tolist() == [1, 2, 3, 4, 5, 9]
    data.ranking_prompts[:] = [4, 5, 6, 7]
    # Image 10, which -1 would be, is in no list.
    assert prompts_of_images(data) == (pytest.approx([7, 4, 4, 5, 5, 4, 4, 4, 4, 6, -1]), 5)


@given(
    st.integers(2, 8).flatmap(
        lambda n: st.lists(st.permutations(range(11)).map(lambda p: p[:n]), min_size=1, max_size=5)
    ),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_filling_lists_of_one_length_up_changes_no_figure(lists, more, seed):
    data = small_data([[1, 7], [8, 2]], [1.0, 0.5], [0, 0], rankings=lists)
    filling = np.full((len(lists), more), NO_IMAGE)
    filled = dataclasses.replace(data, rankings=np.concatenate([data.rankings, filling], axis=1))
    for one, other in zip(data.all_pairs(), filled.all_pairs(), strict=True):
        assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())
    for predictor in (TwoTastes(), by_number()):
        assert repr(held_out_scores(predictor, data)) == repr(held_out_scores(predictor, filled))
        if len(lists[0]) > 4:
            of_one, of_other = (hps_correlations(predictor, d, np.random.default_rng(seed)) for d in (data, filled))
            assert of_one.tolist() == of_other.tolist()
    assert repr(shown_to(data, np.array([0]))) == repr(shown_to(filled, np.array([0])))
    assert repr(prompts_of_images(data)) == repr(prompts_of_images(filled))


def test_fits_on_lists_of_one_length_keep_their_key():
    data = small_data([[0, 1]], [1.0], [0], rankings=[[5, 9, 1, 2, 3], [3, 2, 1, 7, 6]])
    assert phase_key(data) == "025fe5e3da49df24131f21069e61279a4c964a1c31cc88d0b14b597775aea4ce"
    other = dataclasses.replace(data, rankings=np.array([[5, 9, 1, 2, 3], [3, 2, 1, 7, NO_IMAGE]]))
    assert phase_key(other) != phase_key(data)


class Encoder:
    """Picture after picture, each another embedding."""

    embedding_dim = 1
    identity = {"model": "order"}

    def encode_images(self, images):
        return np.arange(len(images), dtype=np.float32)[:, None]

    def encode_texts(self, texts):
        return np.zeros((len(texts), 1), dtype=np.float32)


def test_the_published_lists_of_nine_and_of_ten_both_count(tmp_path):
    def entry(letter, n, *annotations):
        return {
            "prompt": f"prompt {letter}",
            "image_path": [f"{letter}{i}.jpg" for i in range(n)],
            "rank": list(range(n)),
            "raw_annotations": [{"annotation": ranks, "user_hash": f"hash {i}"} for i, ranks in enumerate(annotations)],
        }

    up, down = list(range(10)), list(range(9, -1, -1))
    tied = [0, 0, 1, 2, 3, 4, 5, 6, 7]
    folder = write_hpdv2(tmp_path / "hpd", test=[entry("a", 9, up[:9], tied), entry("b", 10, down, down)])
    data = gather(HPDv2(folder, "test"), Encoder(), tmp_path / "cache", as_split={"hpdv2": "test"})
    assert data.ranking_lengths.tolist() == [9, 10, 10]
    assert data.rankings.tolist() == [[*range(9), NO_IMAGE], [*range(18, 8, -1)], [*range(18, 8, -1)]]
    assert data.ranking_raters.tolist() == [0, 0, 1]
    assert data.pair_images.tolist() == [[i, i + 1] for i in range(8)]  # the ranking with a tie, and no other
    assert len(data.all_pairs()[0]) == 8 + 8 + 9 + 9
    # A score that falls from row to row has the list of nine in order and both of ten the other way round.
    found = held_out_scores(ScorePredictor(table_score(-np.arange(19.0))), data)
    assert found["hps_spearman"] == pytest.approx(-1 / 3)
    assert (found["hps_lists"], found["hps_fewest_images"], found["hps_images"]) == (3, 9, 10)
