"""Splits keep raters and prompts apart, whatever else is in the data and in whatever order it comes."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.datasets import Comparison, Image, LoadReport, Rating, Session, Turn
from pasta_gym.datasets.splits import (
    DEFAULT_FRACTIONS,
    Split,
    normalised_prompt,
    people_of,
    split_of_prompt,
    split_of_rater,
)

A, B = Image("a", lambda: b""), Image("b", lambda: b"")
IDS = st.sampled_from(["1", "2", "7", "x", "hash"]) | st.text(string.ascii_letters, min_size=1, max_size=3)


def comparison(rater, prompt):
    return Comparison(rater, prompt, (A, B), (0.0, 1.0))


def rating(rater, prompt):
    return Rating(rater, prompt, A, 0.5)


def session(rater, prompt):
    return Session(rater, prompt, (Turn(((A,), (B,)), 0),))


class Listed:
    def __init__(self, records):
        self.name, self.report, self.records = "listed", LoadReport(), records

    def of(self, kind):
        return (record for record in self.records if isinstance(record, kind))

    def comparisons(self):
        return self.of(Comparison)

    def ratings(self):
        return self.of(Rating)

    def sessions(self):
        return self.of(Session)


RECORDS = st.lists(
    st.builds(
        lambda build, rater, prompt: build(rater, prompt),
        st.sampled_from([comparison, rating, session]),
        st.none() | IDS,
        IDS,
    ),
    max_size=30,
)
THIRDS = {"train": 0.4, "validation": 0.3, "test": 0.3}


def parts(records, by, seed=0):
    splits = {name: Split(Listed(records), name, by, fractions=THIRDS, seed=seed) for name in THIRDS}
    return {name: [*s.comparisons(), *s.ratings(), *s.sessions()] for name, s in splits.items()}, splits


@settings(max_examples=40)
@given(records=RECORDS, by=st.sampled_from(["rater", "prompt", "both"]), seed=st.integers(0, 3))
def test_nobody_and_nothing_is_in_two_splits(records, by, seed):
    kept, splits = parts(records, by, seed)
    for apart in ["rater"] * (by != "prompt") + ["prompt"] * (by != "rater"):
        owners = {}
        for name, members in kept.items():
            for record in members:
                value = getattr(record, apart)
                if value is not None:
                    assert owners.setdefault(normalised_prompt(value) if apart == "prompt" else value, name) == name
    # Without a rater the prompt decides.
    owners = {}
    for name, members in kept.items():
        for record in members:
            if record.rater is None:
                assert owners.setdefault(normalised_prompt(record.prompt), name) == name
    total = sum(len(members) for members in kept.values())
    dropped = splits["test"].report.skipped["rater and prompt in different splits"]
    assert total + dropped == len(records)
    assert dropped == 0 or by == "both"


@settings(max_examples=40)
@given(records=RECORDS, others=RECORDS, by=st.sampled_from(["rater", "prompt", "both"]))
def test_the_assignment_depends_on_no_order_and_no_other_row(records, others, by):
    alone, _ = parts(records, by)
    mixed, _ = parts([*others, *reversed(records)], by)
    for name in alone:
        assert {id(r) for r in alone[name]} <= {id(r) for r in mixed[name]}


@given(prompt=IDS, seed=st.integers(0, 5))
def test_case_and_white_space_are_the_same_prompt(prompt, seed):
    assert split_of_prompt(f"  {prompt.upper()}\t dog ", seed=seed) == split_of_prompt(f"{prompt} DOG", seed=seed)


def test_shares_seeds_and_kinds():
    ids = [str(i) for i in range(4000)]
    count = {name: sum(split_of_rater(i) == name for i in ids) for name in DEFAULT_FRACTIONS}
    # Four standard deviations: 4 * sqrt(4000 * .8 * .2) = 101 and 4 * sqrt(4000 * .1 * .9) = 76.
    assert abs(count["train"] - 3200) < 101
    assert abs(count["test"] - 400) < 76
    agree_by_chance = 0.8**2 + 2 * 0.1**2
    for other in (lambda i: split_of_rater(i, seed=1), split_of_prompt):
        agree = sum(split_of_rater(i) == other(i) for i in ids) / len(ids)
        assert abs(agree - agree_by_chance) < 4 * (agree_by_chance * (1 - agree_by_chance) / len(ids)) ** 0.5


def test_the_assignment_is_frozen():
    """Another hash would move raters between splits of results that are already published."""
    names = list(DEFAULT_FRACTIONS)
    raters = "".join(str(names.index(split_of_rater(str(i)))) for i in range(40))
    prompts = "".join(str(names.index(split_of_prompt(f"a cat {i}"))) for i in range(40))
    assert raters == "0000021002000000010001220000000000000000"
    assert prompts == "0001000000020000012000000002000000020000"


def test_both_drops_what_disagrees():
    records = [comparison(str(i), f"p{j}") for i in range(30) for j in range(30)]
    kept = Split(Listed(records), "train", "both")
    n = len(list(kept.comparisons()))
    by_rater = {str(i) for i in range(30) if split_of_rater(str(i)) == "train"}
    by_prompt = {j for j in range(30) if split_of_prompt(f"p{j}") == "train"}
    assert n == len(by_rater) * len(by_prompt)
    assert kept.report.records == {"comparisons": n}
    assert sum(kept.report.skipped.values()) == 900 - n
    assert kept.name == "listed/train"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Split(Listed([]), "dev"), "name must be one of the splits train, validation, test, got 'dev'"),
        (lambda: Split(Listed([]), "train", "row"), "by must be one of rater, prompt, both, got 'row'"),
        (lambda: split_of_rater("a", {"train": 0.8, "test": 0.1}), "must sum to 1, .* which sum to 0.9"),
        (lambda: split_of_rater("a", {"train": 1.5, "test": -0.5}), "shares from 0 to 1"),
        (lambda: split_of_prompt("a", {}), "shares from 0 to 1"),
        (lambda: split_of_prompt("a", {"train": float("nan")}), "shares from 0 to 1"),
    ],
)
def test_arguments_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_split_of_everything_or_nothing():
    assert {split_of_rater(str(i), {"none": 0.0, "all": 1.0}) for i in range(50)} == {"all"}


def test_files_of_one_kind_are_of_the_same_people_unless_they_say_otherwise():
    class Other(Listed):
        pass

    one, two, other = Listed([]), Listed([]), Other([])
    assert people_of(one) == people_of(two) != people_of(other)
    two.people = "a second village"
    assert people_of(two) == "a second village"
    # A part of a dataset is of the dataset's people.
    assert people_of(Split(one, "test")) == people_of(one)
    assert people_of(Split(two, "test")) == "a second village"
