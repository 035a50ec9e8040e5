"""Simulacra's database, read-only: scaled ratings, survey ids as raters, three places for an image."""

import sqlite3

import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.simulacra import Simulacra
from tests.datasets.formats import picture, write_simulacra


def test_ratings_are_scaled_and_images_found_by_path_name_and_number(tmp_path):
    dataset = Simulacra(*write_simulacra(tmp_path))
    ratings = list(dataset.ratings())
    assert [rating.value for rating in ratings] == [1.0, 0.0, 1 / 3, 2 / 3]
    assert [rating.rater for rating in ratings] == ["7", "7", "8", None]
    assert [rating.prompt for rating in ratings] == ["dream 1", "dream 2", "dream 3", "dream 1"]
    assert [rating.image.read() for rating in ratings] == [picture(i, "PNG") for i in (1, 2, 3, 1)]
    assert ratings[0].image == ratings[3].image != ratings[1].image
    assert dataset.report.records == {"ratings": 4}
    assert list(dataset.comparisons()) == list(dataset.sessions()) == []


def test_rows_that_say_nothing_are_counted(tmp_path):
    ratings = ((7, 1, None), (7, 99, 5), (7, 2, 5), (7, 3, 5))
    dataset = Simulacra(
        *write_simulacra(tmp_path, ratings, statements=("UPDATE generations SET prompt = NULL WHERE id = 102",))
    )
    assert [rating.prompt for rating in dataset.ratings()] == ["dream 3"]
    assert dataset.report.skipped == {"no rating": 1, "unknown image": 1, "no prompt": 1}


def test_two_paths_of_an_image_do_not_double_its_rating(tmp_path):
    dataset = Simulacra(*write_simulacra(tmp_path, statements=("INSERT INTO paths VALUES (1, 'other.png')",)))
    assert len(list(dataset.ratings())) == 4


def test_an_image_without_a_path_is_found_by_its_number(tmp_path):
    dataset = Simulacra(*write_simulacra(tmp_path, ((8, 3, 4),), statements=("DELETE FROM paths",)))
    (rating,) = dataset.ratings()
    assert rating.image.read() == picture(3, "PNG")


def test_a_missing_image_is_counted(tmp_path):
    file, images = write_simulacra(tmp_path, skip={2})
    dataset = Simulacra(file, images, max_bad_images=0.25)
    assert len(list(dataset.ratings())) == 3
    assert dataset.report.skipped == {"bad image": 1}
    with pytest.raises(DatasetError, match=r"(?s)1 of 4 images.*image 2: .*102_dream_2_1.png, 102_1.png"):
        list(Simulacra(file, images).ratings())


def test_paths_never_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(0, "PNG"))
    file, images = write_simulacra(tmp_path, ((7, 1, 5),), statements=("UPDATE paths SET path = '../secret.png'",))
    (rating,) = Simulacra(file, images, verify_images=False).ratings()
    with pytest.raises(DatasetError, match="no image file of that name"):
        rating.image.read()


@pytest.mark.parametrize(
    ("ratings", "statement", "row", "column", "message"),
    [
        (((7, 1, 5), (7, 2, 11)), "SELECT 1", "ratings 2", "rating", "from 1 to 10, got 11"),
        (((7, 1, 0),), "SELECT 1", "ratings 1", "rating", "from 1 to 10, got 0"),
        (((7, 1, "good"),), "SELECT 1", "ratings 1", "rating", "whole number, got 'good'"),
        (((7, 1, 5.5),), "SELECT 1", "ratings 1", "rating", "whole number, got 5.5"),
        (((7, 1, 5),), "UPDATE images SET idx = 'one'", "ratings 1", "idx", "whole number, got 'one'"),
        (((7, 1, 5),), "UPDATE generations SET prompt = x'ff00'", "ratings 1", "prompt", "expected text, got 2 bytes"),
        (((b"x", 1, 5),), "SELECT 1", "ratings 1", "sid", "whole number, got 1 bytes"),
    ],
)
def test_what_makes_no_sense_names_table_row_and_column(tmp_path, ratings, statement, row, column, message):
    file, images = write_simulacra(tmp_path, ratings, statements=(statement,))
    with pytest.raises(DatasetError, match=message) as caught:
        list(Simulacra(file, images).ratings())
    assert (caught.value.file, caught.value.row, caught.value.column) == (str(file), row, column)


def test_missing_tables_and_columns_are_listed(tmp_path):
    file, images = write_simulacra(tmp_path / "a", statements=("ALTER TABLE ratings RENAME COLUMN rating TO score",))
    with pytest.raises(DatasetError, match=r"no column ratings.rating; found ratings.sid, ratings.iid, ratings.score"):
        Simulacra(file, images)
    file, images = write_simulacra(tmp_path / "b", statements=("DROP TABLE paths",))
    with pytest.raises(DatasetError, match=r"no column paths.iid, paths.path; found none"):
        Simulacra(file, images)


def test_a_file_that_is_no_database(tmp_path):
    with pytest.raises(DatasetError, match="no such file; expected sac_public"):
        Simulacra(tmp_path / "none.sqlite", tmp_path)
    file, images = write_simulacra(tmp_path)
    file.write_bytes(b"x" * 4096)
    with pytest.raises(DatasetError, match="cannot be read as SQLite"):
        Simulacra(file, images)


def test_the_database_is_never_written(tmp_path):
    file, images = write_simulacra(tmp_path / "with space #1?")
    before = file.read_bytes()
    dataset = Simulacra(file, images)
    list(dataset.ratings())
    with pytest.raises(DatasetError, match="readonly"):
        list(dataset._query("DELETE FROM ratings", (), "ratings"))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir() if "sqlite" in path.name] == [file.name]
    assert sqlite3.connect(file).execute("SELECT COUNT(*) FROM ratings").fetchone() == (4,)
