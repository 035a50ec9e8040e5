"""The mini world's raters, as its label command writes them, come back as records with embeddings."""

import copy
import io
import shutil

import numpy as np
import PIL.Image
import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.mini_raters import MiniRaters
from pasta_gym.datasets.splits import people_of
from pasta_gym.mini import grammar
from pasta_gym.mini.pool_pictures import pictures_path, write_pictures
from pasta_gym.user_model.data import load_preferences
from pasta_gym.user_model.gather import gather
from tests.datasets.formats import LABELS, LABELS_METADATA, drain, write_labels


@pytest.fixture
def folder(tmp_path):
    return write_labels(tmp_path)


def numbers(images):
    return [(int(image.embedding[0]), int(image.embedding[1])) for image in images]


def test_pairs_then_rankings(folder):
    pairs = list(MiniRaters(folder).comparisons())
    assert [pair.ranks for pair in pairs] == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0, 2.0)]
    assert [pair.rater for pair in pairs] == ["0", "2", "1", "1"]
    assert [numbers(pair.images) for pair in pairs] == [
        [(0, 3), (0, 9)],
        [(2, 0), (2, 1)],
        [(1, 4), (1, 2)],
        [(1, 5), (1, 0), (1, 2)],
    ]
    assert pairs[0].prompt == grammar.prompt_text(5)
    assert pairs[1].prompt_embedding.tolist() == [2.0] * 4
    assert pairs[0].images[1].key == "0/9"


def test_ratings_are_scaled(folder):
    ratings = list(MiniRaters(folder).ratings())
    assert [rating.value for rating in ratings] == [1.0, 0.0, 1 / 3]
    assert [numbers([rating.image]) for rating in ratings] == [[(1, 8)], [(0, 0)], [(2, 1)]]


def test_sessions_hold_all_that_was_said(folder):
    sessions = list(MiniRaters(folder).sessions())
    assert [session.rater for session in sessions] == ["0", "1", "2"]
    one = sessions[1]
    assert one.prompt == grammar.prompt_text(7)
    assert numbers(one.initial_images) == [(1, 0), (1, 1)]
    assert [[numbers(column) for column in turn.images] for turn in one.turns] == [
        [[(1, 2), (1, 3)], [(1, 4), (1, 5)]],
        [[(1, 6), (1, 7)], [(1, 8), (1, 9)]],
    ]
    assert [turn.choice for turn in one.turns] == [1, 0]
    assert [turn.satisfactions for turn in one.turns] == [(0.25, 1.0), (0.25, 0.75)]
    assert [turn.satisfaction for turn in one.turns] == [0.5, 0.5]
    assert [turn.versus_previous for turn in one.turns] == [None, "better"]
    assert [turn.critique for turn in one.turns] == [None, "less red"]
    assert one.turns[1].prompts == (grammar.prompt_text(41), grammar.prompt_text(81))


def test_splits_are_the_raters_own(folder):
    dataset = MiniRaters(folder)
    assert [dataset.rater_split(str(rater)) for rater in range(3)] == ["train", "train", "test"]
    shutil.copytree(folder.parent, folder.parent / "other_world")
    assert people_of(MiniRaters(folder)) == people_of(dataset)
    assert people_of(MiniRaters(folder.parent / "other_world" / folder.name)) != people_of(dataset)
    with pytest.raises(ValueError, match="no rater '9'; the ids are 0, 1, 2"):
        dataset.rater_split("9")


def test_there_are_no_pixels(folder):
    image = next(MiniRaters(folder).ratings()).image
    with pytest.raises(DatasetError, match="1/8 has no pixels"):
        image.read()


def kept_pictures(folder, n_images=10):
    """Picture i of session s is 4 x 4 pixels of [s, i, 7]."""
    for start, end in ((0, 2), (2, 3)):
        pictures = np.zeros((end - start, n_images, 4, 4, 3), dtype=np.uint8)
        pictures[..., 0] = np.arange(start, end)[:, None, None, None]
        pictures[..., 1] = np.arange(n_images)[:, None, None]
        pictures[..., 2] = 7
        write_pictures(folder, start, pictures)
    return folder


def test_pictures_take_the_place_of_embeddings_where_they_were_kept(folder, tmp_path):
    dataset = MiniRaters(folder, pictures=kept_pictures(tmp_path / "pictures"))
    with_embeddings = MiniRaters(folder)
    found = [*drain(dataset)]
    assert found == drain(with_embeddings)
    for pair, same in zip(dataset.comparisons(), with_embeddings.comparisons(), strict=True):
        assert np.array_equal(pair.prompt_embedding, same.prompt_embedding)
        for image, number in zip(pair.images, numbers(same.images), strict=True):
            assert image.embedding is None
            with PIL.Image.open(io.BytesIO(image.read())) as picture:
                assert np.asarray(picture)[2, 3].tolist() == [*number, 7]


def test_pictures_of_another_pool_are_refused(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"no pictures-\*\.npy"):
        MiniRaters(folder, pictures=tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="holds 9 pictures a session, the labels are about 10"):
        MiniRaters(folder, pictures=kept_pictures(tmp_path / "short", 9))
    some = kept_pictures(tmp_path / "some")
    pictures_path(some, 0).unlink()
    image = next(MiniRaters(folder, pictures=some).ratings()).image
    with pytest.raises(DatasetError, match=r"some, row 1: .*no pictures of session 1; paint them"):
        image.read()


def test_the_records_are_what_the_user_model_is_fitted_on(folder):
    fitted = load_preferences(folder)
    dataset = MiniRaters(folder)

    def rows(indices):
        return [(int(row[0]), int(row[1])) for row in fitted.image_embeddings[indices]]

    pairs = [pair for pair in dataset.comparisons() if len(pair.images) == 2]
    assert [numbers(pair.images) for pair in pairs] == [rows(images) for images in fitted.pair_images]
    assert [1.0 - pair.ranks[0] for pair in pairs] == fitted.pair_labels.tolist()
    assert [rating.value for rating in dataset.ratings()] == fitted.ratings.tolist()
    for index, session in enumerate(dataset.sessions()):
        assert session.rater == str(fitted.session_raters[index])
        assert [turn.choice for turn in session.turns] == fitted.session_choices[index].tolist()
        shown = [[numbers(column) for column in turn.images] for turn in session.turns]
        assert shown == [[rows(column) for column in turn] for turn in fitted.session_images[index]]
        assert np.array_equal(session.prompt_embedding, fitted.prompt_embeddings[fitted.session_prompts[index]])


@pytest.mark.parametrize(
    ("table", "row", "changes", "column", "message"),
    [
        ("pairs", 1, {"label": 0.4}, "label", "1, 0.5 or 0, got 0.4"),
        ("pairs", 0, {"first": 10}, None, r"images 0\.\.9, got 10"),
        ("pairs", 0, {"session": 3}, "session", r"sessions 0\.\.2, got 3"),
        ("pairs", 2, {"rater": 5}, "rater", "rater 5 is not in raters.parquet"),
        ("pairs", 2, {"prompt": -1}, "prompt", "prompt id must be in"),
        ("ratings", 1, {"rating": 11}, "rating", "from 1 to 10, got 11"),
        ("rankings", 0, {"images": [3]}, None, "2 images or more, got 1"),
        ("turns", 3, {"choice": 2}, "choice", "from -1 to 1, got 2"),
        ("turns", 3, {"choice": -2}, "choice", "from -1 to 1, got -2"),
        ("turns", 3, {"choice": None}, "choice", "a whole number, got nothing"),
        ("turns", 3, {"rater": 0}, "rater", "session 1 is of rater 1 in another row"),
        ("raters", 2, {"rater": 1}, "rater", "rater 1 is here a second time"),
        ("raters", 2, {"rater": 3}, "rater", "a whole number from 0 to 2, got 3"),
        ("turns", 0, {"column_satisfaction": [3]}, "column_satisfaction", "for each of 2 columns, got 1"),
        ("turns", 3, {"than_before": "nicer"}, "than_before", "better, same, worse or nothing, got 'nicer'"),
        ("turns", 0, {"column_satisfaction": [0, 3]}, "column_satisfaction", "from 1 to 5, got 0"),
        ("turns", 0, {"slate": [1]}, None, "one prompt for each of 2 columns, got 1"),
        ("turns", 2, {"turn": 1}, "turn", r"turns 0\.\.1 in order, got \[1, 1\]"),
        ("raters", 1, {"split": "dev"}, "split", "train, validation, test, got 'dev'"),
    ],
)
def test_what_makes_no_sense_names_file_row_and_column(tmp_path, table, row, changes, column, message):
    tables = copy.deepcopy(LABELS)
    tables[table][row].update(changes)
    folder = write_labels(tmp_path, tables)
    with pytest.raises(DatasetError, match=message) as caught:
        drain(MiniRaters(folder))
    assert caught.value.file == str(folder / f"{table}.parquet")
    assert (caught.value.row, caught.value.column) == (row, column)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"horizon": 0}, "column horizon: expected a whole number from 1 to 1000, got 0"),
        ({"rating_levels": 1}, "column rating_levels: expected a whole number from 2 to 1000, got 1"),
        ({"encoder_sha256": 7}, "column encoder_sha256: expected text, got 7"),
        ({"slate_size": "two"}, "whole number, got 'two'"),
        ({"pool": None}, "expected text, got nothing"),
        ({"horizon": 3}, r"image_embeddings \(S, 14, d\), got \(2,\), \(2, 4\), \(2, 10, 4\)"),
        ({"pool": "nowhere"}, "no shard"),
    ],
)
def test_metadata_is_checked(tmp_path, metadata, message):
    folder = write_labels(tmp_path, metadata=LABELS_METADATA | {"rating_levels": 10} | metadata)
    with pytest.raises(DatasetError, match=message):
        list(MiniRaters(folder).ratings())


def test_a_pool_with_gaps_broken_shards_or_odd_numbers_is_refused(folder):
    first, second = sorted((folder.parent / "pool").glob("*.npz"))
    with np.load(first) as shard:
        arrays = dict(shard)
    whole = first.read_bytes()
    first.write_bytes(whole[:-50])
    with pytest.raises(DatasetError, match="delete it and paint again"):
        list(MiniRaters(folder).ratings())
    np.savez(first, **arrays | {"image_embeddings": arrays["image_embeddings"] * np.float16("nan")})
    with pytest.raises(DatasetError, match="column image_embeddings: holds numbers that are not finite"):
        list(MiniRaters(folder).ratings())
    first.unlink()
    with pytest.raises(DatasetError, match="hold 1 sessions with gaps"):
        list(MiniRaters(folder).ratings())
    second.unlink()
    with pytest.raises(DatasetError, match=r"no shard-\*.npz"):
        list(MiniRaters(folder).ratings())


def test_what_was_not_said_is_read_by_both(tmp_path):
    tables = copy.deepcopy(LABELS)
    tables["turns"][1].update(choice=-1, column_satisfaction=[None, 3], turn_satisfaction=None)
    tables["turns"][2].update(column_satisfaction=None)
    folder = write_labels(tmp_path, tables)
    first, second, _ = MiniRaters(folder).sessions()
    assert [turn.choice for turn in first.turns] == [0, None]
    assert first.turns[1].satisfactions == (None, 0.5)
    assert (first.turns[1].satisfaction, second.turns[0].satisfactions) == (None, None)
    for data in (load_preferences(folder), gather(MiniRaters(folder))):
        assert data.session_choices.tolist() == [[0, -1], [1, 0], [0, 1]]
        assert np.array_equal(data.session_satisfactions[0, 1], [np.nan, 0.5], equal_nan=True)
        assert np.isnan(data.session_satisfactions[1, 0]).all()


@pytest.mark.parametrize(
    ("turns", "row", "column", "message"),
    [
        ([0, 1, 2, 3, 4], 4, "turn", r"turns 0\.\.1 in order, got \[0\]"),
        ([1, 0, 2, 3, 4, 5], 0, "turn", r"turns 0\.\.1 in order, got \[1, 0\]"),
        ([0, 1, 2, 3, 4, 5, 0, 1], 6, "session", "session 0 is here again, after others; sort the table by session"),
        ([0, 2, 1, 3, 4, 5], 0, "turn", r"got \[0\]"),
    ],
)
def test_sessions_are_whole_and_in_order_for_both(tmp_path, turns, row, column, message):
    folder = write_labels(tmp_path, LABELS | {"turns": [LABELS["turns"][i] for i in turns]})
    for read in (lambda: drain(MiniRaters(folder)), lambda: load_preferences(folder)):
        with pytest.raises(DatasetError, match=message) as caught:
            read()
        assert caught.value.file == str(folder / "turns.parquet")
        assert (caught.value.row, caught.value.column) == (row, column)
