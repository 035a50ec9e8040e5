"""HPD v2's JSON, in both spellings, as pairs and as rankings of annotators."""

import copy
import json

import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.hpdv2 import HPDv2
from tests.datasets.formats import HPD_TEST, HPD_TRAIN, picture, write_hpdv2


def renamed(entries, old, new):
    def walk(value):
        if isinstance(value, dict):
            return {new if key == old else key: walk(inner) for key, inner in value.items()}
        return [walk(inner) for inner in value] if isinstance(value, list) else value

    return walk(entries)


@pytest.mark.parametrize("key", ["image_path", "file_path"])
def test_train_pairs_have_no_rater(tmp_path, key):
    dataset = HPDv2(write_hpdv2(tmp_path, train=renamed(HPD_TRAIN, "image_path", key)))
    pairs = list(dataset.comparisons())
    assert [pair.ranks for pair in pairs] == [(0.0, 1.0), (1.0, 0.0), (0.0, 1.0)]
    assert [pair.prompt for pair in pairs] == ["a red fox", "a red fox", "Ein Bär — 熊"]
    assert {pair.rater for pair in pairs} == {None}
    assert [image.key for image in pairs[2].images] == ["train/00000003.jpg", "train/00000001.jpg"]
    assert [image.read() for image in pairs[2].images] == [picture(2), picture(0)]
    assert dataset.report.records == {"comparisons": 3}


@pytest.mark.parametrize("key", ["annotation", "rank"])
def test_each_annotators_ranking_is_a_comparison(tmp_path, key):
    dataset = HPDv2(write_hpdv2(tmp_path, test=renamed(HPD_TEST, "annotation", key)), "test")
    rankings = list(dataset.comparisons())
    assert [ranking.rater for ranking in rankings] == ["f00d", "beef", "f00d"]
    assert [ranking.ranks for ranking in rankings] == [(1.0, 0.0, 2.0), (2.0, 1.0, 0.0), (2.0, 1.0)]
    assert [image.key for image in rankings[2].images] == ["test/d.jpg", "test/a.jpg"]
    # Images of one prompt are looked at once, not once for each annotator.
    assert dataset.report.images == 5


def test_the_averaged_ranking_has_no_rater(tmp_path):
    averaged = list(HPDv2(write_hpdv2(tmp_path), "test", rankings="averaged").comparisons())
    assert [(one.rater, one.ranks) for one in averaged] == [(None, (1.0, 0.0, 2.0)), (None, (2.0, 1.0))]


def test_the_first_release_has_no_annotators(tmp_path):
    first = [{key: value for key, value in entry.items() if key != "raw_annotations"} for entry in HPD_TEST]
    folder = write_hpdv2(tmp_path, test=first)
    with pytest.raises(DatasetError, match=r"row 0, column raw_annotations: .*August 2023.*rankings='averaged'"):
        list(HPDv2(folder, "test").comparisons())
    assert len(list(HPDv2(folder, "test", rankings="averaged").comparisons())) == 2


def test_a_missing_image_drops_its_pairs_but_not_a_ranking(tmp_path):
    folder = write_hpdv2(tmp_path, skip={"00000002.jpg", "a.jpg"})
    pairs = HPDv2(folder, max_bad_images=0.5)
    assert [pair.images[0].key for pair in pairs.comparisons()] == ["train/00000003.jpg"]
    assert pairs.report.skipped == {"bad image": 2}
    assert (pairs.report.images, pairs.report.bad_images) == (6, 2)
    assert "00000002.jpg" in pairs.report.first_bad_images[0]
    rankings = HPDv2(folder, "test", max_bad_images=0.5)
    kept = list(rankings.comparisons())
    assert [(one.ranks, [image.key for image in one.images]) for one in kept] == [
        ((0.0, 2.0), ["test/b.jpg", "test/c.jpg"]),
        ((1.0, 0.0), ["test/b.jpg", "test/c.jpg"]),
    ]
    assert rankings.report.skipped == {"bad image": 1}
    with pytest.raises(DatasetError, match="2 of 6 images are missing or broken"):
        list(HPDv2(folder).comparisons())


def test_images_may_lie_elsewhere_and_names_cannot_lead_out(tmp_path):
    entry = HPD_TRAIN[0] | {"image_path": ["train/00000001.jpg", "../../train.json"]}
    write_hpdv2(tmp_path, train=HPD_TRAIN)
    (tmp_path / "train.json").write_text(json.dumps([entry]))
    (tmp_path / "train").rename(tmp_path / "pictures")
    (pair,) = HPDv2(tmp_path, images=tmp_path / "pictures", verify_images=False).comparisons()
    assert pair.images[0].read() == picture(0)
    with pytest.raises(DatasetError, match=r"no image file of that name; looked for train\.json"):
        pair.images[1].read()


def broken(split, change):
    entries = copy.deepcopy(HPD_TRAIN if split == "train" else HPD_TEST)
    change(entries[1])
    return entries


@pytest.mark.parametrize(
    ("split", "change", "row", "column", "message"),
    [
        ("train", lambda e: e.pop("prompt"), 1, "prompt", "expected text, got nothing"),
        ("train", lambda e: e.pop("image_path"), 1, "image_path", "no image_path or file_path; found prompt, human"),
        ("train", lambda e: e.update(image_path="a.jpg"), 1, "image_path", "expected a list, got 'a.jpg'"),
        ("train", lambda e: e.update(image_path=["a.jpg", 2]), 1, "image_path", "list of texts, got 2"),
        ("train", lambda e: e.update(image_path=["a.jpg"]), 1, "image_path", "expected 2 images, got 1"),
        ("train", lambda e: e.update(image_path=["a.jpg", ""]), 1, "image_path", "file name, got ''"),
        ("train", lambda e: e.update(human_preference=[1, 1]), 1, "human_preference", r"got \[1, 1\]"),
        ("train", lambda e: e.update(human_preference=[1]), 1, "human_preference", r"\[1, 0\] or \[0, 1\]"),
        ("train", lambda e: e.pop("human_preference"), 1, "human_preference", "expected a list, got nothing"),
        ("test", lambda e: e["raw_annotations"][0].pop("annotation"), "1, raw_annotations[0]", "annotation", "or rank"),
        ("test", lambda e: e["raw_annotations"].append(3), 1, "raw_annotations[1]", "expected an object, got 3"),
        (
            *("test", lambda e: e["raw_annotations"][0].update(annotation=[1])),
            *("1, raw_annotations[0]", "annotation", r"expected 2 positions, one an image, .*got \[1\]"),
        ),
        (
            *("test", lambda e: e["raw_annotations"][0].update(annotation=[1, None])),
            *("1, raw_annotations[0]", "annotation", r"got \[1, None\]"),
        ),
        (
            *("test", lambda e: e["raw_annotations"][0].update(user_hash=[])),
            *("1, raw_annotations[0]", "user_hash", "whole number, got"),
        ),
    ],
)
def test_what_makes_no_sense_names_file_row_and_key(tmp_path, split, change, row, column, message):
    write_hpdv2(tmp_path)
    (tmp_path / f"{split}.json").write_text(json.dumps(broken(split, change)))
    with pytest.raises(DatasetError, match=message) as caught:
        list(HPDv2(tmp_path, split, max_bad_images=1.0).comparisons())
    assert (caught.value.file, caught.value.row, caught.value.column) == (str(tmp_path / f"{split}.json"), row, column)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([5, 5.5, -3], r"3 positions, one an image, whole numbers of 0 or more, got \[5, 5\.5, -3\]; fetch the file"),
        ([0, -1, 2], r"whole numbers of 0 or more, got \[0, -1, 2\]"),
        ([0, 1, 0.5], r"whole numbers of 0 or more, got \[0, 1, 0\.5\]"),
        ([0, 1, 10**400], r"whole numbers of 0 or more"),
        ([0, 1, float("nan")], r"whole numbers of 0 or more"),
        ([0, 1, True], r"whole numbers of 0 or more, got \[0, 1, True\]"),
    ],
)
def test_an_annotators_positions_are_whole_numbers(tmp_path, positions, message):
    write_hpdv2(tmp_path)
    entries = copy.deepcopy(HPD_TEST)
    entries[0]["raw_annotations"][1]["annotation"] = positions
    (tmp_path / "test.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=message) as caught:
        list(HPDv2(tmp_path, "test").comparisons())
    place = (str(tmp_path / "test.json"), "0, raw_annotations[1]", "annotation")
    assert (caught.value.file, caught.value.row, caught.value.column) == place


def test_an_annotators_ties_are_ties(tmp_path):
    entries = copy.deepcopy(HPD_TEST)
    entries[0]["raw_annotations"][0]["annotation"] = [0, 0.0, 1]
    first = next(HPDv2(write_hpdv2(tmp_path, test=entries), "test").comparisons())
    assert first.ranks == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("row", "rank", "message"),
    [
        (0, [0, 0, 0], r"expected each of 0\.\.2 or of 1\.\.3 once, got \[0, 0, 0\]; fetch the file again"),
        (0, [0, 1, 3], r"each of 0\.\.2 or of 1\.\.3 once, got \[0, 1, 3\]"),
        (0, [2, 3, 4], r"each of 0\.\.2 or of 1\.\.3 once, got \[2, 3, 4\]"),
        (0, [5, 5.5, -3], r"whole numbers of 0 or more, got \[5, 5\.5, -3\]"),
        (1, [0], r"expected 2 positions, one an image, .*got \[0\]"),
    ],
)
def test_the_averaged_ranking_names_each_place_once(tmp_path, row, rank, message):
    write_hpdv2(tmp_path)
    entries = copy.deepcopy(HPD_TEST)
    entries[row]["rank"] = rank
    (tmp_path / "test.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=message) as caught:
        list(HPDv2(tmp_path, "test", rankings="averaged").comparisons())
    place = (str(tmp_path / "test.json"), row, "rank")
    assert (caught.value.file, caught.value.row, caught.value.column) == place


def test_an_empty_prompt_is_counted_and_skipped(tmp_path):
    dataset = HPDv2(write_hpdv2(tmp_path, train=[HPD_TRAIN[0] | {"prompt": ""}, HPD_TRAIN[1]]))
    assert len(list(dataset.comparisons())) == 1
    assert dataset.report.skipped == {"no prompt": 1}


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="split must be one of train, test"):
        HPDv2(tmp_path, "validation")
    with pytest.raises(ValueError, match="rankings must be one of annotators, averaged"):
        HPDv2(tmp_path, "test", rankings="mean")
    with pytest.raises(DatasetError, match=r"no such file; expected train\.json"):
        HPDv2(tmp_path)
    with pytest.raises(ValueError, match="max_bad_images is a share"):
        HPDv2(tmp_path, max_bad_images=1.5)
