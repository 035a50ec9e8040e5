from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.token_tree import Segment, joined, token_tree, visible

ROW = [Segment([11, 12, 13]), Segment([21, 22], branch=1, fork=2), Segment([31], branch=2, fork=3)]


def test_a_tree_worked_by_hand():
    tree = token_tree([ROW, [Segment([1]), Segment([2], branch=1, fork=1), Segment([3], branch=2, fork=1)]], padding=9)
    assert tree.tokens.tolist() == [[11, 12, 13, 21, 22, 31], [1, 2, 3, 9, 9, 9]]
    assert tree.positions[0].tolist() == [0, 1, 2, 2, 3, 3]
    assert tree.branches[1].tolist() == [0, 1, 2, -1, -1, -1]
    assert tree.starts.tolist() == [[0, 3, 5], [0, 1, 2]]
    assert tree.n_tokens == 9
    seen = visible(tree, tree)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],  # the first branch left after two tokens
        [1, 1, 0, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_left_padding_moves_the_columns_and_nothing_else():
    rows = [ROW, [Segment([1]), Segment([2], branch=1, fork=1), Segment([3], branch=2, fork=1)]]
    left, right = (token_tree(rows, padding_side=side) for side in ("left", "right"))
    assert left.tokens[1].tolist() == [0, 0, 0, 1, 2, 3]
    assert left.starts[1].tolist() == [3, 4, 5]
    assert torch.equal(visible(left, left)[1, 0, 3:, 3:], visible(right, right)[1, 0, :3, :3])


@st.composite
def trees(draw):
    trunk = draw(st.integers(1, 5))
    forks = draw(st.lists(st.integers(1, trunk), min_size=1, max_size=3))
    lengths = [draw(st.integers(1, 3)) for _ in forks]
    numbers = iter(range(1, 100))
    row = [Segment([next(numbers) for _ in range(trunk)])]
    row += [
        Segment([next(numbers) for _ in range(n)], branch=i + 1, fork=f)
        for i, (f, n) in enumerate(zip(forks, lengths, strict=True))
    ]
    return row


@settings(max_examples=40, deadline=None)
@given(trees(), st.sampled_from(["left", "right"]))
def test_every_token_sees_its_path_and_is_counted_along_it(row, side):
    wide = [Segment([1] * 20), *(Segment([1], branch=i + 1, fork=1) for i in range(len(row) - 1))]
    tree = token_tree([row, wide], padding_side=side)
    mask = visible(tree, tree)[0, 0]
    for segment, start in zip(row, tree.starts[0].tolist(), strict=True):
        for i in range(len(segment.tokens)):
            path = [*row[0].tokens[: segment.fork], *segment.tokens[: i + 1]]
            assert sorted(tree.tokens[0][mask[start + i]].tolist()) == path
            assert tree.positions[0, start + i] == len(path) - 1


def test_a_tree_in_two_parts_is_the_whole_tree():
    whole = token_tree([ROW])
    trunk, branches = token_tree([ROW[:1]]), token_tree([ROW[1:]])
    both = joined(trunk, branches)
    assert torch.equal(both.starts, whole.starts)
    assert torch.equal(visible(branches, both), visible(whole, whole)[:, :, 3:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_row_of_the_mask_is_empty_and_nobody_sees_padding(side):
    tree = token_tree([[Segment([1, 2, 3])], [Segment([4])]], padding_side=side)
    mask = visible(tree, tree)[:, 0].numpy()
    assert mask.any(axis=2).all()
    real = (tree.branches >= 0).numpy()
    assert not (mask & real[:, :, None] & ~real[:, None, :]).any()


@pytest.mark.parametrize(
    ("rows", "side", "message"),
    [
        ([], "right", "the same number of segments, at least 1, got"),
        ([ROW, ROW[:1]], "right", r"got \[1, 3\]"),
        ([[Segment([])]], "right", "at least one token"),
        ([ROW], "top", "padding_side must be 'left' or 'right', got 'top'"),
    ],
)
def test_bad_trees_are_refused(rows, side, message):
    with pytest.raises(ValueError, match=message):
        token_tree(rows, padding_side=side)


def test_tokens_may_be_arrays():
    assert token_tree([[Segment(np.array([5, 6]))]]).tokens.tolist() == [[5, 6]]
