"""Datasets that are put into a split whole, and people who are in two of them."""

import numpy as np
import pytest

from pasta_gym.datasets.splits import split_of_prompt, split_of_rater
from pasta_gym.user_model.data import SPLITS
from pasta_gym.user_model.gather import RaterSplits, gather
from tests.user_model.test_gather import Encoder, Records, compare, seen


def names_by_split(*datasets, folder, **options):
    """Raters' first images by source and split: each rater of these tests judges pictures of a number of their own."""
    data = gather(list(datasets), Encoder(), folder, **options)
    found = {}
    for source in data.sources:
        for split in SPLITS:
            theirs = np.isin(data.pair_raters, np.intersect1d(source.raters, data.raters_of(split)))
            if theirs.any():
                found[source.name, split] = sorted(set(seen(data, data.pair_images[theirs, 0])))
    return found


def votes_of(numbers, name, prompt="cat"):
    """Two votes of each rater, about pictures of the rater's number."""
    return Records(*(compare((1, 2), (n, 1000), f"r{n}", prompt) for n in numbers for _ in range(2)), name=name)


def test_all_raters_of_a_dataset_go_where_it_is_put(tmp_path):
    held, free = votes_of(range(1, 41), "held"), Records(compare((1, 2), (50, 1000), None, "a sun"), name="free")
    for split in SPLITS:
        found = names_by_split(free, held, folder=tmp_path, as_split={"held": split})
        assert found.pop(("held", split)) == list(range(1, 41))
        assert found == {("free", split_of_prompt("a sun")): [50]}
    # A dataset's own split yields as well, and so do raters without a name.
    held.rater_split = lambda _: "train"
    held.records = (*held.records, compare((1, 2), (60, 1000), None, "a sun"))
    assert names_by_split(held, folder=tmp_path, as_split={"held": "test"})["held", "test"] == [*range(1, 41), 60]


def test_a_person_of_two_files_is_in_one_split_and_nothing_held_out_is_trained_on(tmp_path, caplog):
    train, test = votes_of(range(1, 21), "train_file"), votes_of((3, 4), "test_file")
    validation = votes_of((4, 5), "validation_file")
    put = {"train_file": "train", "validation_file": "validation", "test_file": "test"}
    for order in ((train, validation, test), (test, train, validation)):
        for dataset in order:
            dataset.report.clear()
        caplog.clear()
        assert names_by_split(*order, folder=tmp_path, as_split=put) == {
            ("test_file", "test"): [3, 4],
            ("validation_file", "validation"): [5],
            ("train_file", "train"): [1, 2, *range(6, 21)],
        }
        reason = "its rater, or prompt, is put into another split by another dataset"
        assert [dataset.report.skipped[reason] for dataset in (train, validation, test)] == [6, 2, 0]
        assert f"6 records of train_file are left out: {reason}" in caplog.text
    # In a file that is put nowhere these people keep what they said, in the split they are in.
    found = names_by_split(train, test, folder=tmp_path, as_split={"test_file": "test"})
    for n in range(1, 21):
        expected = "test" if n in (3, 4) else split_of_rater(f"r{n}")
        assert [split for (name, split), who in found.items() if name == "train_file" and n in who] == [expected]
    train.rater_split = lambda _: "validation"
    found = names_by_split(train, test, folder=tmp_path, as_split={"test_file": "test"})
    assert found["train_file", "test"] == [3, 4]
    assert len(found["train_file", "validation"]) == 18
    # Others of the same ids are other people.
    others = votes_of(range(1, 21), "others")
    others.people = "others"
    kept = names_by_split(others, test, folder=tmp_path, as_split={"others": "train", "test_file": "test"})
    assert kept["others", "train"] == list(range(1, 21))


def test_prompts_of_a_dataset_that_is_put_somewhere_are_kept_apart_if_prompts_are(tmp_path):
    test, train = votes_of((1,), "test_file", "A  Lake"), votes_of((2,), "train_file", "a lake")
    free = Records(*(compare((1, 2), (n, 1000), f"r{n}", "a lake") for n in range(3, 43)), name="free")
    put = {"test_file": "test", "train_file": "train"}
    assert names_by_split(free, train, test, folder=tmp_path, as_split=put)["train_file", "train"] == [2]
    found = names_by_split(free, train, test, folder=tmp_path, as_split=put, splits=RaterSplits(by="both"))
    in_test = [n for n in range(3, 43) if split_of_rater(f"r{n}") == "test"]
    assert found == {("test_file", "test"): [1], ("free", "test"): in_test}
    assert 0 < len(in_test) < 40


def test_where_a_dataset_cannot_be_put(tmp_path):
    for put, words in (
        ({"held": "holdout"}, r"as_split of held must be one of train, validation, test, or left out; got 'holdout'"),
        ({"other": "test"}, r"as_split names the dataset 'other'; those given are held"),
    ):
        with pytest.raises(ValueError, match=words):
            gather(votes_of((1,), "held"), Encoder(), tmp_path, as_split=put)


def test_an_id_of_two_datasets_of_the_same_people_is_one_rater(tmp_path):
    """Labels of both are one person's; in a dataset of other people the id is somebody else's."""
    first = Records(compare((1, 2), (1, 2), "42"), compare((1, 2), (3, 4), "7"), name="v1")
    second = Records(
        compare((1, 2), (5, 6), "9"), compare((2, 1), (7, 8), "42"), compare((1, 2), (9, 1), None), name="v2"
    )
    other = Records(compare((1, 2), (11, 12), "42"), name="other")
    other.people = "others"
    data = gather([first, second, other], Encoder(), tmp_path)
    assert {source.name: source.raters.tolist() for source in data.sources} == {
        "v1": [0, 1],
        "v2": [0, 2, 3],
        "other": [4],
    }
    assert seen(data, data.pair_images[data.pair_raters == 0]) == [[1, 2], [7, 8]]
    assert data.n_raters == 5
    # Who splits its raters itself does so for those that nobody knows yet.
    first.rater_split, second.rater_split = (lambda _: "test"), (lambda _: "train")
    data = gather([first, second], Encoder(), tmp_path)
    assert [SPLITS[split] for split in data.rater_splits] == ["test", "test", "train", SPLITS[data.rater_splits[3]]]


def test_all_that_one_person_said_is_one_latent_rater(tmp_path):
    both = [votes_of(range(1, 31), name) for name in ("v1", "v2")]
    data = gather(both, Encoder(), tmp_path)
    assert data.n_raters == 30
    assert np.bincount(data.pair_raters).tolist() == [4] * 30
