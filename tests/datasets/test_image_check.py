"""Bad images are counted, and too many of them stop the stream."""

import numpy as np
import pytest

from pasta_gym.datasets import DatasetError, Image, LoadReport
from pasta_gym.datasets.image_check import ImageCheck, decode_image
from pasta_gym.datasets.image_files import image_in_folder, inside
from tests.datasets.formats import SIZE, picture

GOOD, BAD = Image("good", lambda: picture(1)), Image("bad", lambda: b"not a picture")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_decode_to_rgb(kind):
    pixels = decode_image(picture(3, kind))
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    if kind == "PNG":
        expected = np.random.default_rng(3).integers(0, 256, size=(SIZE, SIZE, 3), dtype=np.uint8)
        assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0, 10, 60, 0.8])
def test_pictures_cut_short_do_not(kind, kept):
    whole = picture(3, kind)
    with pytest.raises(DatasetError, match="bytes are not a whole JPEG, PNG or WEBP picture"):
        decode_image(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])


def test_other_formats_are_refused():
    with pytest.raises(DatasetError):
        decode_image(picture(3, "BMP"))


def check(share, **options):
    report = LoadReport()
    return ImageCheck(report, max_bad_images=share, **options), report


def test_a_stream_is_judged_early_on_1000_images_and_at_its_end_on_all():
    checked, report = check(0.01)
    for _ in range(10):
        checked.good([BAD])
    with pytest.raises(DatasetError, match=r"11 of 11 images are .* share of 0\.01"):
        checked.good([BAD])
    checked, report = check(0.01)
    assert checked.good([GOOD] * 98 + [BAD]) == [True] * 98 + [False]
    with pytest.raises(DatasetError, match=r"1 of 99 images(.|\n)*\n  bad: 13 bytes are not"):
        checked.finish()
    checked.good([GOOD])
    checked.finish()
    assert (report.images, report.bad_images) == (100, 1)


def test_the_share_of_none_stops_at_the_first():
    with pytest.raises(DatasetError, match="1 of 2"):
        check(0.0)[0].good([GOOD, BAD])


def test_a_check_that_is_off_reads_nothing():
    def explode():
        raise AssertionError

    checked, report = check(0.0, enabled=False)
    assert checked.all_good([Image("a", explode)])
    checked.finish()
    assert report.images == 0


def test_the_first_few_bad_images_are_kept():
    checked, report = check(1.0)
    checked.good([Image(f"bad {i}", lambda: b"") for i in range(9)])
    assert [said.split(":")[0] for said in report.first_bad_images] == [f"bad {i}" for i in range(5)]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.png", "a.png"),
        ("x/a.png", "x/a.png"),
        ("/x/a.png", "x/a.png"),
        ("x\\a.png", "x/a.png"),
        ("../a.png", None),
        ("x/../../a.png", None),
        ("..\\a.png", None),
        ("", None),
        ("a\0.png", None),
    ],
)
def test_names_stay_inside_the_folder(tmp_path, name, found):
    assert inside(tmp_path, name) == (None if found is None else tmp_path / found)


def test_the_first_file_that_is_there_is_read_each_time_anew(tmp_path):
    image = image_in_folder("a", tmp_path, ("first.png", "second.png"))
    with pytest.raises(DatasetError, match=r"looked for first\.png, second\.png"):
        image.read()
    (tmp_path / "second.png").write_bytes(b"2")
    assert image.read() == b"2"
    (tmp_path / "first.png").write_bytes(b"1")
    assert image.read() == b"1"
