"""A picture is known by the file it lies in, not by the path that a table gives it."""

import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.archive import Archive
from pasta_gym.datasets.pasta_images import stored_image
from pasta_gym.datasets.pasta_sessions import PastaSessions
from pasta_gym.datasets.rows import Row
from tests.datasets.formats import picture
from tests.datasets.pasta_files import pixels, rows_of, write_images, write_rows


def without(rows, name):
    return [{key: value for key, value in row.items() if key != name} for row in rows]


@pytest.mark.parametrize("pattern", [None, "images/{session_id}/{turn}_{column}_{image}.jpg"])
def test_equal_paths_beside_two_tables_are_two_pictures(tmp_path, pattern):
    for name in ("human", "simulated"):
        rows = rows_of("turns", "path")
        write_rows(tmp_path / name / "turns.csv", without(rows, "images") if pattern else rows, "csv")
        write_images(tmp_path / name)
    (tmp_path / "simulated/images/s0/0_0_0.jpg").write_bytes(picture(200))
    dataset = PastaSessions(tmp_path, image_pattern=pattern)
    sessions = list(dataset.sessions())
    images = [image for session in sessions for turn in session.turns for column in turn.images for image in column]
    assert len(images) == len({image.key for image in images}) == 2 * 96
    read = {image.key: image.read() for image in images}
    assert read["human/images/s0/0_0_0.jpg"] == pixels(0, 0, 0, 0)
    assert read["simulated/images/s0/0_0_0.jpg"] == picture(200)


def test_one_file_has_one_key_however_its_path_is_written(tmp_path):
    write_images(tmp_path / "human")
    archive, row = Archive(tmp_path), Row("turns.csv", 0, {})

    def image(path):
        return stored_image(row, "images", path, "unused", archive, "human/turns.csv")

    written = ("images/s0/0_0_0.jpg", "human/images/s0/0_0_0.jpg", "/images/s0/0_0_0.jpg", "images\\s0\\0_0_0.jpg")
    assert {image(path).key for path in written} == {"human/images/s0/0_0_0.jpg"}
    lost = image("images/s9/0_0_0.jpg")
    assert lost.key == "human/turns.csv:images/s9/0_0_0.jpg"
    with pytest.raises(DatasetError, match=r"no member images/s9/0_0_0\.jpg, or several of that name"):
        lost.read()
