"""Pick-a-Pic's Parquet, as published: ties, rows without labels, pixels beside labels, shards."""

import gc
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.pickapic import PickAPic
from tests.datasets.formats import PICKAPIC, pickapic_row, picture, write_pickapic, write_table

TIE = {"label_0": 0.5, "label_1": 0.5}


@pytest.fixture
def folder(tmp_path):
    rows = [
        pickapic_row(0),
        pickapic_row(1, label_0=0.0, label_1=1.0),
        pickapic_row(2, has_label=False),
        pickapic_row(3, **TIE),
        pickapic_row(4, caption=" "),
        pickapic_row(5, image_1_uid="uid-10"),
    ]
    return write_pickapic(tmp_path, [rows, [pickapic_row(6, user_id=None)]])


def test_pairs_ties_and_what_is_left_out(folder):
    dataset = PickAPic(folder)
    pairs = list(dataset.comparisons())
    assert [pair.ranks for pair in pairs] == [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)]
    assert [pair.rater for pair in pairs] == ["0", "1", "0", None]
    assert [pair.prompt for pair in pairs] == ["prompt 0", "prompt 0", "prompt 1", "prompt 3"]
    assert [image.key for image in pairs[1].images] == ["uid-2", "uid-3"]
    assert [image.read() for image in pairs[1].images] == [picture(2), picture(3)]
    assert dataset.report.skipped == {"no label": 1, "no prompt": 1, "one image twice": 1}
    assert dataset.report.records == {"comparisons": 4}
    assert (dataset.report.images, dataset.report.bad_images) == (8, 0)
    assert dataset.report.decisions["shards"] == "2 of 2"
    assert list(dataset.ratings()) == list(dataset.sessions()) == []


def test_each_call_starts_a_fresh_stream(folder):
    dataset = PickAPic(folder)
    assert list(dataset.comparisons()) == list(dataset.comparisons())
    assert dataset.report.records == {"comparisons": 8}


@pytest.mark.parametrize("order", [(5, 0, 3, 1, 5), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (9, 8, 7, 6, 5, 4, 3, 2, 1, 0)])
def test_pixels_are_found_in_any_order(tmp_path, order):
    rows = [pickapic_row(i) for i in range(10)]
    dataset = PickAPic(write_pickapic(tmp_path, [rows[:7], rows[7:]], row_group_size=3), verify_images=False)
    pairs = list(dataset.comparisons())
    assert [pairs[i].images[1].read() for i in order] == [picture(2 * i + 1) for i in order]


def test_row_groups_larger_than_a_batch_of_pixels(tmp_path):
    rows = [pickapic_row(i, jpg_0=b"%d" % i) for i in range(80)]
    dataset = PickAPic(write_pickapic(tmp_path, [rows], row_group_size=75), verify_images=False)
    pairs = list(dataset.comparisons())
    for i in (0, 31, 32, 74, 75, 79, 40, 2):
        assert pairs[i].images[0].read() == b"%d" % i


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["train-00000-of-00001-ab.parquet"], "train"),
        (["data/validation_unique-00000-of-00001-ab.parquet", "data/validation-x.parquet"], "validation_unique"),
        (["data/validation-00000-of-00001-ab.parquet", "data/validation_unique-x.parquet"], "validation"),
        (["default/test/0000.parquet"], "test"),
        (["test/0000.parquet"], "test"),
    ],
)
def test_layouts_on_disk(tmp_path, names, split):
    for name in names:
        write_table(tmp_path / name, [pickapic_row(0)], PICKAPIC)
    dataset = PickAPic(tmp_path, split)
    assert [str(shard.relative_to(tmp_path)) for shard in dataset.shards] == names[:1]
    assert len(list(dataset.comparisons())) == 1
    assert len(list(PickAPic(tmp_path / names[0], split).comparisons())) == 1


def test_a_folder_without_the_split_says_what_is_there(folder):
    with pytest.raises(DatasetError, match=r"split 'test'; expected data/test-00000.*found data/train-00000-of-00002"):
        PickAPic(folder, "test")
    with pytest.raises(DatasetError, match="no Parquet files"):
        PickAPic(folder / "nowhere")
    with pytest.raises(ValueError, match="split must be one of train, validation"):
        PickAPic(folder, "dev")


def test_missing_shards_are_seen(folder):
    (folder / "data" / "train-00001-of-00002-0123456789abcdef.parquet").unlink()
    assert PickAPic(folder).report.decisions["shards"] == "1 of 2"


def test_the_variant_without_images_has_labels_and_says_where_pixels_are(tmp_path):
    dataset = PickAPic(write_pickapic(tmp_path, [[pickapic_row(0), pickapic_row(1)]], pixels=False))
    first, _ = dataset.comparisons()
    with pytest.raises(DatasetError, match=r"row 0, column jpg_0: has no pixels.*pickapic_v2"):
        first.images[0].read()
    assert "no columns jpg_0" in dataset.report.decisions["images"]
    assert dataset.report.images == 0


def test_bytes_may_come_in_a_struct(tmp_path):
    schema = pa.schema(
        [
            f if not f.name.startswith("jpg_") else (f.name, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
            for f in PICKAPIC
        ]
    )
    row = pickapic_row(0, jpg_0={"bytes": picture(0), "path": None}, jpg_1={"bytes": picture(1), "path": None})
    write_table(tmp_path / "data" / "train-a.parquet", [row], schema)
    (pair,) = PickAPic(tmp_path).comparisons()
    assert [image.read() for image in pair.images] == [picture(0), picture(1)]


@pytest.mark.parametrize(
    ("changes", "column", "message"),
    [
        ({"label_0": 1.0, "label_1": 1.0}, "label_0", r"got \(1.0, 1.0\)"),
        ({"label_0": 0.7, "label_1": 0.3}, "label_0", r"1, 0 or 0, 1 or 0.5, 0.5, got \(0.7, 0.3\)"),
        ({"label_0": None}, "label_0", "a number from 0 to 1, got nothing"),
        ({"label_1": float("nan")}, "label_1", "got nan"),
        ({"label_1": -1.0}, "label_1", "got -1.0"),
        ({"has_label": None}, "has_label", "true or false, got nothing"),
        ({"image_1_uid": None}, "image_1_uid", "uid"),
    ],
)
def test_what_makes_no_sense_names_file_row_and_column(tmp_path, changes, column, message):
    dataset = PickAPic(write_pickapic(tmp_path, [[pickapic_row(0)], [pickapic_row(1), pickapic_row(2, **changes)]]))
    with pytest.raises(DatasetError, match=message) as caught:
        list(dataset.comparisons())
    assert caught.value.file == str(dataset.shards[1])
    assert (caught.value.row, caught.value.column) == (1, column)


@pytest.mark.parametrize("dropped", ["caption", "label_1", "user_id"])
def test_missing_columns_are_listed_with_those_found(tmp_path, dropped):
    schema = pa.schema([field for field in PICKAPIC if field.name != dropped])
    row = {key: value for key, value in pickapic_row(0).items() if key != dropped}
    write_table(tmp_path / "train-a.parquet", [row], schema)
    with pytest.raises(DatasetError, match=rf"train-a.parquet: no column {dropped}; found are_different, "):
        list(PickAPic(tmp_path).comparisons())


def test_a_shard_cut_short_is_named(folder):
    dataset = PickAPic(folder)
    shard = dataset.shards[1]
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(DatasetError, match="cut short") as caught:
        list(dataset.comparisons())
    assert caught.value.file == str(shard)


def test_bad_images_are_counted_and_skipped_up_to_the_share(tmp_path):
    rows = [pickapic_row(i) for i in range(5)]
    rows[2]["jpg_1"] = picture(9)[:-30]
    rows[3]["jpg_0"] = None
    folder = write_pickapic(tmp_path, [rows])
    dataset = PickAPic(folder, max_bad_images=0.2)
    assert [pair.images[0].key for pair in dataset.comparisons()] == ["uid-0", "uid-2", "uid-8"]
    assert dataset.report.skipped == {"bad image": 2}
    assert (dataset.report.images, dataset.report.bad_images) == (10, 2)
    assert dataset.report.first_bad_images[0].startswith("uid-5: ")
    assert "got nothing" in dataset.report.first_bad_images[1]
    with pytest.raises(DatasetError, match=r"(?s)2 of 10 images.*share of 0.19.*uid-5: .*uid-6: .*column jpg_0"):
        list(PickAPic(folder, max_bad_images=0.19).comparisons())
    assert len(list(PickAPic(folder, verify_images=False).comparisons())) == 5


def test_half_of_the_pixel_columns_is_a_bad_image(tmp_path):
    schema = pa.schema([field for field in PICKAPIC if field.name != "jpg_1"])
    rows = [{key: value for key, value in pickapic_row(0).items() if key != "jpg_1"}]
    write_table(tmp_path / "train-a.parquet", rows, schema)
    (pair,) = PickAPic(tmp_path, verify_images=False).comparisons()
    assert pair.images[0].read() == picture(0)
    with pytest.raises(DatasetError, match="no column jpg_1"):
        pair.images[1].read()


@pytest.mark.parametrize("rows_in_group", [10, 100])
def test_labels_are_streamed_and_pixels_left_on_disk(tmp_path, monkeypatch, rows_in_group):
    """Labels of 20 MB of pixels in far less memory, and no later shard opened before the first pair."""
    blob = bytes(range(256)) * 200
    shards = [[pickapic_row(i, jpg_0=blob + b"%d" % i, jpg_1=blob) for i in range(100)] for _ in range(2)]
    pages = {"write_batch_size": 8, "use_dictionary": False, "compression": "none"}
    folder = write_pickapic(tmp_path, shards, row_group_size=rows_in_group, **pages)
    del shards
    opened = []
    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda source, **options: opened.append(source) or real(source, **options))
    gc.collect()
    arrow_before = pa.total_allocated_bytes()
    tracemalloc.start()
    dataset = PickAPic(folder, verify_images=False)
    stream = dataset.comparisons()
    next(stream)
    assert set(opened) == {dataset.shards[0]}
    arrow_peak = 0
    for pair in stream:
        pair.images[0].read()
        arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - arrow_before)
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(opened) == set(dataset.shards)
    # A row is 100 KB of pixels: 200 of them are 20 MB, a batch of 32 is 3.2 MB, the old beside the new one 6.4 MB.
    assert python_peak < 8_000_000
    assert arrow_peak < 8_000_000
