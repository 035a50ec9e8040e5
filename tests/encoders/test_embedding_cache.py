"""The cache gives back what was put in, computes nothing twice, and survives kills, cuts, rot and company."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.encoders.check import main
from pasta_gym.encoders.embedding_cache import (
    BadImagesError,
    EmbeddingCache,
    fingerprint_of,
    image_key,
    text_key,
)
from pasta_gym.encoders.row_store import RECORD, RowStore

ROOT = pathlib.Path(__file__).parents[2]
DIM = 5


def key(i):
    return hashlib.sha256(str(i).encode()).digest()


def row(i, dim=DIM):
    """What row ``i`` must hold, in any process."""
    return np.random.default_rng(i).standard_normal(dim).astype(np.float32)


def rows(ids):
    return np.array([row(i) for i in ids], dtype=np.float32).reshape(-1, DIM)


def keys(ids):
    return [key(i) for i in ids]


class CountingEncoder:
    """Embeds by hash, and remembers what it was asked for."""

    embedding_dim = DIM

    def __init__(self, name="counting"):
        self.identity = {"model": name}
        self.images, self.texts = [], []

    def encode_images(self, images):
        bad = {i: "no picture" for i, image in enumerate(images) if image == b"bad"}
        if bad:
            raise BadImagesError(bad)
        self.images += images
        return rows([len(image) for image in images])

    def encode_texts(self, texts):
        self.texts += texts
        return rows([len(text) for text in texts])


@pytest.fixture
def store(tmp_path):
    return RowStore(tmp_path, DIM, "float32")


def test_rows_come_back_by_key_in_the_order_they_were_added(store, tmp_path):
    assert store.add(keys([3, 1, 3, 2]), rows([3, 1, 8, 2])).tolist() == [0, 1, 0, 2]  # the first of two counts
    assert store.add(keys([2, 9]), rows([7, 9])).tolist() == [2, 3]  # what is there stays
    assert store.find(keys([9, 8, 1])).tolist() == [3, -1, 1]
    assert np.array_equal(store.table(), rows([3, 1, 2, 9]))
    again = RowStore(tmp_path, DIM, "float32")
    assert again.find(keys([3, 1, 2, 9])).tolist() == [0, 1, 2, 3]
    # By hand: 4 rows of 5 numbers of 4 bytes; 4 records of a key of 32 bytes and two checksums of 4.
    assert (tmp_path / "rows.bin").read_bytes() == rows([3, 1, 2, 9]).tobytes()
    assert (tmp_path / "index.bin").stat().st_size == 4 * 40
    assert (tmp_path / "index.bin").read_bytes()[40:72] == key(1)


def test_the_table_is_a_memory_map_that_others_may_extend_and_nobody_can_write_through(store, tmp_path):
    store.add(keys([1]), rows([1]))
    before = store.table()
    assert isinstance(before, np.memmap)
    store.add(keys([2]), rows([2]))
    assert before.shape == (1, DIM)
    assert np.array_equal(before, rows([1]))
    assert np.array_equal(store.table(), rows([1, 2]))
    before[0, 0] = 99.0
    assert (tmp_path / "rows.bin").read_bytes() == rows([1, 2]).tobytes()
    assert np.array_equal(store.table(), rows([1, 2]))


@pytest.mark.parametrize(
    ("given_keys", "given_rows", "message"),
    [
        ([b"short"], np.zeros((1, DIM)), r"a key has 32 bytes \(a sha-256\), got 5"),
        (keys([1]), np.zeros((1, 4)), r"expected rows of shape \(1, 5\).*got \(1, 4\)"),
        (keys([1]), np.full((1, DIM), np.nan), "must be finite"),
        (keys([1, 2]), np.array([[0.0] * DIM, [np.inf] * DIM]), "must be finite"),
    ],
)
def test_bad_rows_are_refused_and_leave_nothing(store, given_keys, given_rows, message):
    with pytest.raises(ValueError, match=message):
        store.add(given_keys, given_rows)
    assert not (store.folder / "index.bin").exists()


def test_half_precision_refuses_what_it_cannot_hold(tmp_path):
    half = RowStore(tmp_path, DIM, "float16")
    half.add(keys([1]), rows([1]))
    assert half.table().dtype == np.float16
    assert np.allclose(half.table(), rows([1]), rtol=5e-4)
    assert (tmp_path / "rows.bin").stat().st_size == 2 * DIM
    with pytest.raises(ValueError, match=r"at most 65504 in size.*got 70000"):
        half.add(keys([2]), np.full((1, DIM), -70000.0))


def test_a_tail_torn_at_any_byte_is_ignored_and_overwritten(tmp_path):
    whole = RowStore(tmp_path / "whole", DIM, "float32")
    whole.add(keys([0, 1, 2]), rows([0, 1, 2]))
    files = {name: (tmp_path / "whole" / name).read_bytes() for name in ("rows.bin", "index.bin")}
    # The last row and record are cut in the order in which they are written: the row first.
    cuts = [(2 * whole.row_bytes + n, 2 * RECORD.itemsize) for n in range(whole.row_bytes + 1)]
    cuts += [(3 * whole.row_bytes, 2 * RECORD.itemsize + n) for n in range(RECORD.itemsize)]
    cuts += [(2 * whole.row_bytes + n, 3 * RECORD.itemsize) for n in range(whole.row_bytes)]  # rows lost after all
    folder = tmp_path / "torn"
    folder.mkdir()
    for n_rows, n_index in cuts:
        (folder / "rows.bin").write_bytes(files["rows.bin"][:n_rows])
        (folder / "index.bin").write_bytes(files["index.bin"][:n_index])
        torn = RowStore(folder, DIM, "float32")
        assert torn.find(keys([0, 1, 2])).tolist() == [0, 1, -1], (n_rows, n_index)
        assert np.array_equal(torn.table(), rows([0, 1]))
        assert torn.add(keys([7, 2]), rows([7, 2])).tolist() == [2, 3]
        assert not len(RowStore(folder, DIM, "float32").check())
        assert np.array_equal(RowStore(folder, DIM, "float32").table(), rows([0, 1, 7, 2]))


def test_zeros_where_a_record_should_be_are_a_torn_tail(store, tmp_path):
    """A file system may lengthen a file before its bytes arrive."""
    store.add(keys([0]), rows([0]))
    with (tmp_path / "index.bin").open("ab") as index, (tmp_path / "rows.bin").open("ab") as data:
        index.write(bytes(3 * RECORD.itemsize))
        data.write(bytes(3 * store.row_bytes))
    other = RowStore(tmp_path, DIM, "float32")
    assert len(other) == 1
    assert other.add(keys([1]), rows([1])).tolist() == [1]
    assert (tmp_path / "index.bin").stat().st_size == 2 * RECORD.itemsize


DYING = """
    import os, signal, sys, pathlib, hashlib
    import numpy as np
    from pasta_gym.encoders import row_store

    folder, survive = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    pwrite = os.pwrite

    def dying(descriptor, data, offset):
        global survive
        if len(data) > survive:
            pwrite(descriptor, data[:survive], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        survive -= len(data)
        return pwrite(descriptor, data, offset)

    os.pwrite = dying
    row = lambda i: np.random.default_rng(i).standard_normal(5).astype(np.float32)
    key = lambda i: hashlib.sha256(str(i).encode()).digest()
    row_store.RowStore(folder, 5, "float32").add([key(i) for i in (0, 1, 2)], np.array([row(i) for i in (0, 1, 2)]))
"""


def run(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, **options)


def test_a_writer_killed_in_the_middle_of_a_write_leaves_whole_rows_and_no_lock(tmp_path):
    # 60 bytes of rows, then 120 of records: in the rows, between the files, in the first and in the last record.
    survivors = {31: 0, 60: 0, 75: 0, 60 + 40 + 39: 1, 60 + 119: 2}
    writers = {n: run(DYING, tmp_path / str(n), n) for n in survivors}
    for n, whole in survivors.items():
        assert writers[n].wait(timeout=60) == -signal.SIGKILL
        store = RowStore(tmp_path / str(n), DIM, "float32")
        assert len(store) == whole
        assert np.array_equal(store.table(), rows(range(whole)))
        assert store.add(keys([2, 1, 0]), rows([2, 1, 0])).shape == (3,)
        assert not len(store.check())
        assert np.array_equal(store.table()[store.find(keys([0, 1, 2]))], rows([0, 1, 2]))


WRITING = """
    import sys, pathlib, hashlib
    import numpy as np
    from pasta_gym.encoders.row_store import RowStore

    folder, first, n = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store = RowStore(folder, 5, "float32")
    for start in range(first, first + n, 3):
        ids = range(start, start + 3)
        store.add(
            [hashlib.sha256(str(i).encode()).digest() for i in ids],
            np.array([np.random.default_rng(i).standard_normal(5) for i in ids]),
        )
        print(start, flush=True)
"""


def test_two_processes_write_overlapping_rows_and_one_is_killed(tmp_path):
    killed = run(WRITING, tmp_path, 0, 30_000, stdout=subprocess.PIPE)
    other = run(WRITING, tmp_path, 6, 60)
    for _ in range(20):
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert other.wait(timeout=60) == 0
    store = RowStore(tmp_path, DIM, "float32")
    assert not len(store.check())
    found = store.find(keys(range(66)))
    assert found.min() >= 0
    assert len(set(found.tolist())) == 66  # no key twice
    assert np.array_equal(store.table()[found], rows(range(66)))
    table = store.table()
    assert len(table) == len(np.unique(table, axis=0))


def test_a_reader_sees_what_another_has_added_since(store, tmp_path):
    reader = RowStore(tmp_path, DIM, "float32")
    store.add(keys([1]), rows([1]))
    assert reader.find(keys([1])).tolist() == [0]
    assert reader.add(keys([1, 2]), rows([1, 2])).tolist() == [0, 1]
    assert store.find(keys([2])).tolist() == [1]


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(bytes(data))


@settings(max_examples=40, deadline=None)
@given(
    broken=st.lists(st.tuples(st.booleans(), st.integers(0, 5 * 20 - 1)), max_size=4, unique_by=lambda b: b[1] // 20)
)
def test_rot_anywhere_is_found_and_mended_without_moving_a_row(tmp_path_factory, broken):
    folder = tmp_path_factory.mktemp("rot")
    store = RowStore(folder, DIM, "float32")
    store.add(keys(range(6)), rows(range(6)))  # the last row stays whole: rot there is a torn tail
    for in_row, byte in broken:
        flip(folder / ("rows.bin" if in_row else "index.bin"), byte if in_row else byte * 2)
    fresh = RowStore(folder, DIM, "float32")
    damaged = sorted({byte // 20 for _, byte in broken})
    assert fresh.check().tolist() == damaged
    found = fresh.find(keys(range(6)))
    assert np.flatnonzero(found < 0).tolist() == damaged
    missing = [i for i in range(6) if found[i] < 0]
    fresh.add(keys(missing), rows(missing))
    assert not len(fresh.check())
    again = RowStore(folder, DIM, "float32")
    assert not len(again.check())
    found = again.find(keys(range(6)))
    assert np.array_equal(again.table()[found], rows(range(6)))
    lost = {byte // 20 for in_row, byte in broken if not in_row}
    assert all(found[i] == i for i in range(6) if i not in lost)  # row numbers never change hands
    assert [int(r) for i, r in enumerate(found) if i in lost] == list(range(6, 6 + len(lost)))
    assert again.find([bytes(32)]).tolist() == [-1]  # the key of retired rows finds nothing


def test_a_row_that_another_process_mended_is_not_written_again(store, tmp_path):
    store.add(keys([0, 1]), rows([0, 1]))
    flip(tmp_path / "rows.bin", 3)
    first, second = (RowStore(tmp_path, DIM, "float32") for _ in range(2))
    assert first.check().tolist() == second.check().tolist() == [0]
    first.add(keys([0]), rows([0]))
    assert second.add(keys([0]), rows([5])).tolist() == [0]
    assert np.array_equal(second.table(), rows([0, 1]))


def test_keys_tell_kinds_and_contents_apart():
    picture = PIL.Image.new("RGB", (2, 3), (1, 2, 3))
    assert image_key(b"a cat") != text_key("a cat")
    assert text_key("a cat") != text_key("A cat")
    assert image_key(picture) == image_key(picture.copy())
    assert image_key(picture) != image_key(PIL.Image.new("RGB", (3, 2), (1, 2, 3)))
    assert image_key(b"x") == hashlib.sha256(b"image\0x").digest()


def test_nothing_is_computed_twice(tmp_path):
    encoder = CountingEncoder()
    cache = EmbeddingCache.of(encoder, tmp_path)
    found = cache.embed_images(encoder, [b"1", b"22", b"1", b"333"], block=2)
    assert encoder.images == [b"1", b"22", b"333"]
    assert found[0] == found[2]
    assert np.array_equal(cache.get(found), rows([1, 2, 1, 3]))
    resumed = EmbeddingCache.of(encoder, tmp_path)
    assert np.array_equal(resumed.embed_images(encoder, iter([b"333", b"4444", b"1"])), [found[3], 3, found[0]])
    assert encoder.images == [b"1", b"22", b"333", b"4444"]
    texts = resumed.embed_texts(encoder, ["1", "22", "1"])
    assert encoder.texts == ["1", "22"]
    assert np.array_equal(resumed.get(texts), rows([1, 2, 1]))
    assert resumed.rows([text_key("22"), image_key(b"22"), text_key("new")]).tolist() == [texts[1], found[1], -1]
    assert len(cache) == 6
    assert cache.embed_texts(encoder, []).shape == (0,)


def test_a_run_that_was_stopped_keeps_its_blocks(tmp_path):
    class Stopped(CountingEncoder):
        def encode_images(self, images):
            if len(self.images) >= 4:
                raise KeyboardInterrupt
            return super().encode_images(images)

    stopped, images = Stopped(), [b"x" * n for n in range(1, 8)]
    with pytest.raises(KeyboardInterrupt):
        EmbeddingCache.of(stopped, tmp_path).embed_images(stopped, images, block=2)
    encoder = CountingEncoder()
    EmbeddingCache.of(encoder, tmp_path).embed_images(encoder, images, block=2)
    assert encoder.images == images[4:]


def test_bad_images_are_an_error_or_reported_one_by_one(tmp_path):
    encoder = CountingEncoder()
    cache = EmbeddingCache.of(encoder, tmp_path)
    images = [b"1", b"bad", b"22", b"333", b"bad", b"bad"]
    with pytest.raises(BadImagesError, match=r"1 images cannot be decoded \(image 1: no picture\).*pass files"):
        cache.embed_images(encoder, images, block=3)
    seen = []
    found = cache.embed_images(encoder, images, block=3, on_bad=lambda i, why: seen.append((i, why)))
    assert seen == [(1, "no picture"), (4, "no picture"), (5, "no picture")]
    assert (found < 0).tolist() == [False, True, False, False, True, True]
    assert np.array_equal(cache.get(found[found >= 0]), rows([1, 2, 3]))
    with pytest.raises(ValueError, match=r"rows must be in 0\.\.2, got -1\.\.2"):
        cache.get(found)


def test_a_broken_row_is_embedded_again(tmp_path):
    encoder = CountingEncoder()
    cache = EmbeddingCache.of(encoder, tmp_path)
    cache.embed_images(encoder, [b"1", b"22"])
    flip(cache.folder / "rows.bin", 4 * DIM + 1)
    assert cache.check().tolist() == [1]
    assert cache.embed_images(encoder, [b"1", b"22"]).tolist() == [0, 1]
    assert encoder.images == [b"1", b"22", b"22"]
    assert not len(EmbeddingCache.of(encoder, tmp_path).check())


def test_every_encoder_has_a_folder_of_its_own(tmp_path):
    one, other = CountingEncoder("one"), CountingEncoder("other")
    mine = EmbeddingCache.of(one, tmp_path)
    mine.embed_texts(one, ["a"])
    yours = EmbeddingCache.of(other, tmp_path)
    assert yours.rows([text_key("a")]).tolist() == [-1]
    assert mine.folder == tmp_path / fingerprint_of({"model": "one"})
    assert json.loads((mine.folder / "identity.json").read_text()) == {
        "format": 1,
        "dim": DIM,
        "dtype": "float32",
        "identity": {"model": "one"},
    }
    with pytest.raises(ValueError, match=r"holds embeddings of encoder \w+, got encoder \w+; open its own"):
        mine.embed_texts(other, ["b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": {"model": "two"}}, r"with identity \{'model': 'two'\}, asked for identity \{'model': 'counting'"),
        ({"dim": 6}, "with dim 6, asked for dim 5"),
        ({"format": 2}, "with format 2, asked for format 1; use another folder, or delete"),
    ],
)
def test_another_identity_in_the_same_folder_is_refused(tmp_path, change, message):
    encoder = CountingEncoder()
    cache = EmbeddingCache.of(encoder, tmp_path)
    cache.embed_texts(encoder, ["a"])
    path = cache.folder / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        EmbeddingCache.of(encoder, tmp_path)


def test_the_stored_type_is_asked_for_once(tmp_path):
    encoder = CountingEncoder()
    early = EmbeddingCache.of(encoder, tmp_path)  # opened before the folder says anything
    half = EmbeddingCache.of(encoder, tmp_path, dtype="float16")
    half.embed_texts(encoder, ["a"])
    assert EmbeddingCache.of(encoder, tmp_path).dtype == "float16"
    assert half.get(np.array([0])).dtype == np.float32
    for attempt in (
        lambda: EmbeddingCache.of(encoder, tmp_path, dtype="float32"),
        lambda: early.embed_texts(encoder, ["b"]),
    ):
        with pytest.raises(ValueError, match="with dtype float16, asked for dtype float32"):
            attempt()
    with pytest.raises(ValueError, match="dtype must be one of float32, float16 or None, got 'int8'"):
        EmbeddingCache.of(encoder, tmp_path, dtype="int8")


def test_a_broken_description_names_the_file_and_the_cure(tmp_path):
    encoder = CountingEncoder()
    cache = EmbeddingCache.of(encoder, tmp_path)
    cache.embed_texts(encoder, ["a"])
    (cache.folder / "identity.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*identity\.json .*delete the folder"):
        EmbeddingCache.of(encoder, tmp_path)


def test_reading_a_cache_writes_nothing(tmp_path):
    cache = EmbeddingCache(tmp_path / "none", {"model": "x"}, DIM)
    assert cache.rows([text_key("a")]).tolist() == [-1]
    assert cache.table().shape == (0, DIM)
    assert not len(cache.check())
    assert not (tmp_path / "none").exists()


def test_a_bar_counts_items(tmp_path, capsys):
    encoder = CountingEncoder()
    EmbeddingCache.of(encoder, tmp_path).embed_texts(encoder, ["a", "bb"], progress=True)
    assert "embedding: 100%" in capsys.readouterr().err


def test_the_command_lists_caches_and_what_is_broken(tmp_path, capsys):
    one, other = CountingEncoder("one"), CountingEncoder("other")
    first, second = EmbeddingCache.of(one, tmp_path / "images"), EmbeddingCache.of(other, tmp_path / "texts")
    first.embed_images(one, [b"1", b"22"])
    second.embed_texts(other, ["a"])
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{first.folder}: one, 2 embeddings, 0 broken\n" in said
    assert f"{second.folder}: other, 1 embeddings, 0 broken\n" in said
    flip(first.folder / "rows.bin", 25)
    assert main([str(tmp_path)]) == 1
    assert "one, 2 embeddings, 1 broken, first rows [1]: embed the same data again" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no embedding cache in"):
        main([str(tmp_path / "none")])
    second.folder.rename(tmp_path / "texts" / "renamed")
    with pytest.raises(SystemExit, match=r"is not named after its identity, \w{16}; rename it back"):
        main([str(tmp_path)])
