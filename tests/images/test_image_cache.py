import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from pasta_gym.images import CachedImages, DiffusionImages, ImageCache, image_cache
from pasta_gym.images.image_cache import CachedImage, image_key
from pasta_gym.seeding import mix
from tests.env.tiny_world import TinyBook

IDENTITY = {"model": "m", "steps": 4}


def key(i):
    return image_key(IDENTITY, f"prompt {i}", i)


def picture(i, size=8):
    rng = np.random.default_rng(i)
    return CachedImage(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), {"enc": rng.normal(size=5).astype("f4")})


def same(found, expected):
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.embeddings.keys() == expected.embeddings.keys()
    for name, embedding in expected.embeddings.items():
        np.testing.assert_array_equal(found.embeddings[name], embedding)


def file_of(cache, i):
    return cache.folder / key(i)[:2] / f"{key(i)[2:]}.safetensors"


def test_what_was_put_comes_back(tmp_path):
    cache = ImageCache(tmp_path / "new" / "folder")
    assert cache.get(key(1)) is None
    assert len(cache) == 0
    assert cache.put(key(1), picture(1), about={"prompt": "a cat"})
    cache.put(key(2), picture(2))
    same(cache.get(key(1)), picture(1))
    same(ImageCache(cache.folder).get(key(2)), picture(2))
    cache.put(key(1), picture(3))
    same(cache.get(key(1)), picture(3))
    assert (cache.stats.hits, cache.stats.misses, cache.stats.corrupt) == (2, 1, 0)
    assert len(cache) == 2
    assert cache.check() == []
    header = file_of(cache, 1).read_bytes()
    assert b'"prompt":"' not in header  # put again without words


def test_many_are_compressed_side_by_side_and_written_in_order(tmp_path, monkeypatch):
    both, packed = threading.Barrier(2, timeout=60), image_cache._packed

    def together(*entry):
        both.wait()  # broken, and so an error, if one came after the other
        return packed(*entry)

    monkeypatch.setattr(image_cache, "_packed", together)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    size = len(packed(key(0), picture(0), {}))
    cache = ImageCache(tmp_path, max_bytes=4 * size)
    cache.put_all([(key(i), picture(i), {}) for i in range(6)])
    assert cache.n_bytes() <= cache.max_bytes
    same(cache.get(key(5)), picture(5))  # the last ones are there
    assert cache.get(key(0)) is None
    cache.put_all([])


def test_the_file_says_what_it_shows(tmp_path):
    cache = ImageCache(tmp_path)
    cache.put(key(1), picture(1), about={"prompt": "a cat"})
    data = file_of(cache, 1).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"]["prompt"] == "a cat"
    assert load(data)["png"].tobytes().startswith(b"\x89PNG")


@given(
    st.tuples(st.dictionaries(st.text(), st.integers()), st.text(), st.integers(0, 2**63 - 1)),
    st.tuples(st.dictionaries(st.text(), st.integers()), st.text(), st.integers(0, 2**63 - 1)),
)
def test_keys_are_equal_exactly_if_everything_is(one, other):
    assert (image_key(*one) == image_key(*other)) is (one == other)


@pytest.mark.parametrize(
    "part",
    ["model", "revision", "scheduler", "scheduler_options", "steps", "guidance", "height", "width", "dtype"],
)
def test_a_key_holds_all_that_a_picture_depends_on(part):
    painter = DiffusionImages(Painter(), TinyBook(), mean_color, 3, size=8, steps=2, guidance=1.5)
    identity = {"model": "m", "revision": "r", **painter.settings}
    assert image_key(identity, "p", 1) != image_key({**identity, part: "other"}, "p", 1)
    assert part in identity


def test_no_change_of_a_byte_goes_unseen(tmp_path):
    cache = ImageCache(tmp_path)
    cache.put(key(1), picture(1))
    file = file_of(cache, 1)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for at in sorted({*range(0, len(whole), 7), *rng.integers(0, len(whole), 50).tolist()}):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(broken))
        found = cache.get(key(1))
        if found is not None:  # a byte of the header's padding or words
            same(found, picture(1))
    for length in range(0, len(whole), 13):
        file.write_bytes(whole[:length])
        assert cache.get(key(1)) is None
        assert cache.check() == [file]
    file.write_bytes(whole + b"x")
    assert cache.get(key(1)) is None


def test_an_entry_under_anothers_name_is_broken(tmp_path):
    cache = ImageCache(tmp_path)
    cache.put(key(1), picture(1))
    other = file_of(cache, 2)
    other.parent.mkdir(exist_ok=True)
    file_of(cache, 1).rename(other)
    assert cache.get(key(2)) is None
    assert cache.stats.corrupt == 1


def test_check_lists_and_removes_what_is_broken(tmp_path):
    cache = ImageCache(tmp_path)
    for i in range(5):
        cache.put(key(i), picture(i))
    tensors = load(file_of(cache, 3).read_bytes())
    tensors["embedding/enc"] = tensors["embedding/enc"] + 1
    file_of(cache, 3).write_bytes(save(tensors))
    assert cache.check() == [file_of(cache, 3)]
    assert len(cache) == 5
    assert cache.check(remove=True) == [file_of(cache, 3)]
    assert len(cache) == 4
    assert cache.check() == []


def test_the_bound_holds_and_what_was_used_last_stays(tmp_path):
    size = len_of_one(tmp_path / "one")
    cache = ImageCache(tmp_path / "many", max_bytes=int(10.5 * size))
    for i in range(10):
        cache.put(key(i), picture(i))
        os.utime(file_of(cache, i), (1000 + i, 1000 + i))
    cache.get(key(0))  # used just now
    cache.put(key(10), picture(10))
    assert cache.n_bytes() <= cache.max_bytes
    kept = [i for i in range(11) if file_of(cache, i).exists()]
    assert kept == [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    for i in range(11, 60):
        cache.put(key(i), picture(i))
        assert cache.n_bytes() <= cache.max_bytes
    same(cache.get(key(59)), picture(59))


def len_of_one(folder):
    cache = ImageCache(folder)
    cache.put(key(0), picture(0))
    return cache.n_bytes()


def test_a_picture_larger_than_the_bound_is_not_kept(tmp_path, caplog):
    cache = ImageCache(tmp_path, max_bytes=100)
    assert not cache.put(key(1), picture(1))
    assert "larger than the whole cache of 100" in caplog.text
    assert cache.get(key(1)) is None


def test_a_lost_count_is_made_again(tmp_path):
    size = len_of_one(tmp_path)
    (tmp_path / "size").write_bytes(b"torn")
    cache = ImageCache(tmp_path, max_bytes=int(2.5 * size))
    cache.put(key(1), picture(1))
    assert int.from_bytes((tmp_path / "size").read_bytes(), "little") == cache.n_bytes()
    (tmp_path / "size").unlink()
    for i in range(2, 6):
        cache.put(key(i), picture(i))
        assert cache.n_bytes() <= cache.max_bytes


def test_trimming_removes_old_partial_files_alone(tmp_path):
    cache = ImageCache(tmp_path)
    assert cache.trim() == 0
    cache.put(key(1), picture(1))
    folder = file_of(cache, 1).parent
    old, young = folder / ".a.partial", folder / ".b.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert cache.trim() == cache.n_bytes()
    assert young.exists()
    assert not old.exists()
    assert cache.trim(0) == 0
    assert len(cache) == 0


@pytest.mark.parametrize(("n_deletions", "is_kept"), [(1, True), (2, False)])
def test_a_folder_that_is_deleted_while_it_is_written_ends_no_run(tmp_path, monkeypatch, caplog, n_deletions, is_kept):
    cache = ImageCache(tmp_path / "pictures")
    real, left = image_cache.exclusive, [None] * n_deletions

    def deleted(path):
        if left:
            left.pop()
            shutil.rmtree(cache.folder)
        return real(path)

    monkeypatch.setattr(image_cache, "exclusive", deleted)
    assert cache.put(key(1), picture(1)) is is_kept
    assert (cache.get(key(1)) is not None) is is_kept
    assert ("was deleted while" in caplog.text) is not is_kept
    assert cache.put(key(2), picture(2))
    assert not list(cache.folder.rglob("*.partial"))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    cache = ImageCache(tmp_path)

    def fails(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(tmp_path), "replace", fails)
    with pytest.raises(OSError, match=r"disk full"):
        cache.put(key(1), picture(1))
    assert [p for p in tmp_path.rglob("*") if p.suffix in {".partial", ".safetensors"}] == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (CachedImage(np.zeros((4, 4), dtype=np.uint8), {}), r"\(height, width, 3\) uint8, got \(4, 4\) uint8"),
        (CachedImage(np.zeros((4, 4, 3)), {}), "got .* float64"),
        (CachedImage(np.zeros((4, 4, 3), dtype=np.uint8), {"e": np.array([np.nan])}), "finite numbers"),
        (CachedImage(np.zeros((4, 4, 3), dtype=np.uint8), {"e": np.zeros((2, 2))}), r"one of shape \(2, 2\)"),
    ],
)
def test_only_pictures_are_kept(tmp_path, image, message):
    with pytest.raises(ValueError, match=message):
        ImageCache(tmp_path).put(key(1), image)
    assert len(ImageCache(tmp_path)) == 0


def test_bounds_and_keys_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"max_bytes must be at least 1, got 0"):
        ImageCache(tmp_path, max_bytes=0)
    with pytest.raises(ValueError, match=r"64 hex digits as image_key makes them, got '\.\./x'"):
        ImageCache(tmp_path).get("../x")


KILLED_WRITERS = """
import os, signal, sys, time
import numpy as np
from pasta_gym.images.image_cache import CachedImage, ImageCache, image_key

folder, max_bytes = sys.argv[1], int(sys.argv[2])
N, WRITERS, ROUNDS = 12, 8, 4

def picture(i):
    rng = np.random.default_rng(i)
    pixels = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return CachedImage(pixels, {"enc": rng.normal(size=64).astype("f4")})

pictures = [picture(i) for i in range(N)]
keys = [image_key({}, "prompt", i) for i in range(N)]
cache = ImageCache(folder, max_bytes=max_bytes)
rng = np.random.default_rng(0)
hits = corrupt = wrong = over = 0
for turn in range(ROUNDS):
    writers = []
    for w in range(WRITERS):
        child = os.fork()
        if child == 0:
            order = np.random.default_rng([turn, w])
            while True:
                i = int(order.integers(N))
                cache.put(keys[i], pictures[i])
        writers.append(child)
    ends = sorted(zip((time.monotonic() + rng.uniform(0.05, 0.6, WRITERS)).tolist(), writers))
    while ends:
        i = int(rng.integers(N))
        found = cache.get(keys[i])
        if found is not None:
            hits += 1
            wrong += not np.array_equal(found.pixels, pictures[i].pixels)
            wrong += not np.array_equal(found.embeddings["enc"], pictures[i].embeddings["enc"])
        while ends and time.monotonic() > ends[0][0]:
            os.kill(ends.pop(0)[1], signal.SIGKILL)
    for child in writers:
        os.waitpid(child, 0)
    over += cache.n_bytes() > max_bytes  # only now: a listing takes time in which others write
partials = len(list(cache.folder.glob("??/.*.partial")))
print(hits, cache.stats.corrupt, wrong, over, len(cache.check()), partials)
"""


def test_eight_writers_killed_at_random_moments_leave_no_corrupt_entry(tmp_path):
    # 12 pictures of 28 kB, and room for 9: writers overwrite each other's entries and trim while others read.
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITERS, str(tmp_path), "250000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    hits, corrupt, wrong, over, broken, _ = (int(n) for n in done.stdout.split())
    assert hits > 0
    assert (corrupt, wrong, broken) == (0, 0, 0)
    assert over == 0
    # A killed writer's partial file is no entry, and goes when it is an hour old.
    for partial in tmp_path.glob("??/.*.partial"):
        os.utime(partial, (0, 0))
    cache = ImageCache(tmp_path, max_bytes=250_000)
    cache.trim()
    assert not list(tmp_path.glob("??/.*.partial"))
    cache.put(key(1), picture(1))
    same(cache.get(key(1)), picture(1))


class Painter:
    """The least of a pipeline: noise by generator; it counts its pictures."""

    def __init__(self):
        self.n = 0

    def __call__(self, prompt, height, width, num_inference_steps, guidance_scale, generator, output_type):
        import types

        import torch

        self.n += len(prompt)
        noise = torch.stack([torch.rand(height, width, 3, generator=g) for g in generator]).numpy()
        level = np.array([int(p.split()[1]) for p in prompt])[:, None, None, None] / 1000
        return types.SimpleNamespace(images=level + 0.2 * noise)


def mean_color(pixels):
    return pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32)


def cached(folder, *, fingerprint="enc", model=None, **settings):
    options = {"size": 8, "steps": 2, "guidance": 1.5, **settings}
    painter = Painter()
    images = DiffusionImages(painter, TinyBook(), mean_color, 3, **options)
    model = model or {"model": "noise"}
    return painter, CachedImages(images, ImageCache(folder), model=model, encoder_fingerprint=fingerprint)


PROMPTS, KEYS = np.array([700, 20, 700]), mix(np.arange(3)[:, None], np.arange(3))


def plain():
    return DiffusionImages(Painter(), TinyBook(), mean_color, 3, size=8, steps=2, guidance=1.5).generate(PROMPTS, KEYS)


def test_a_picture_is_painted_once(tmp_path):
    painter, images = cached(tmp_path)
    first = images.generate(PROMPTS, KEYS)
    np.testing.assert_array_equal(first.pixels, plain().pixels)
    np.testing.assert_array_equal(first.embeddings, plain().embeddings)
    assert painter.n == 9
    painter, images = cached(tmp_path)
    again = images.generate(PROMPTS[[1, 0]], KEYS[[1, 0]])
    np.testing.assert_array_equal(again.pixels, first.pixels[[1, 0]])
    np.testing.assert_array_equal(again.embeddings, first.embeddings[[1, 0]])
    assert painter.n == 0
    images.generate(np.array([20]), mix(np.array([[1, 9]]), np.array([[1, 0]])))
    assert painter.n == 1  # of the two, the first was there


def test_equal_prompts_and_keys_are_one_picture(tmp_path):
    painter, images = cached(tmp_path)
    same_key = np.tile(KEYS[:1, :1], (2, 2))
    found = images.generate(np.array([20, 20]), same_key).pixels
    assert painter.n == 1
    np.testing.assert_array_equal(found, np.broadcast_to(found[:1, :1], found.shape))


@pytest.mark.parametrize("other", [{"steps": 3}, {"guidance": 2.0}, {"size": 16}, {"model": {"model": "other"}}])
def test_another_model_or_setting_is_another_picture(tmp_path, other):
    cached(tmp_path)[1].generate(PROMPTS, KEYS)
    painter, images = cached(tmp_path, **other)
    images.generate(PROMPTS, KEYS)
    assert painter.n == 9


def test_another_encoder_embeds_again_and_paints_nothing(tmp_path):
    cached(tmp_path)[1].generate(PROMPTS, KEYS)
    painter, images = cached(tmp_path, fingerprint="other")
    images.images.encode_images = lambda pixels: 2 * mean_color(pixels)
    np.testing.assert_allclose(images.generate(PROMPTS, KEYS).embeddings, 2 * plain().embeddings)
    assert painter.n == 0
    back, images = cached(tmp_path)
    images.images.encode_images = None  # both encoders' embeddings are kept
    np.testing.assert_array_equal(images.generate(PROMPTS, KEYS).embeddings, plain().embeddings)
    assert back.n == 0


def test_corrupt_entries_are_painted_again(tmp_path, caplog):
    _, images = cached(tmp_path)
    images.generate(PROMPTS, KEYS)
    files = sorted(tmp_path.glob("??/*.safetensors"))
    assert len(files) == 9
    files[0].write_bytes(files[0].read_bytes()[:100])
    data = bytearray(files[1].read_bytes())
    data[-40] ^= 255
    files[1].write_bytes(bytes(data))
    painter, images = cached(tmp_path)
    np.testing.assert_array_equal(images.generate(PROMPTS, KEYS).pixels, plain().pixels)
    assert painter.n == 2
    assert images.cache.stats.corrupt == 2
    assert "is broken and counts as missing" in caplog.text
    assert images.cache.check() == []


def test_every_batch_is_kept_before_the_next_is_painted(tmp_path):
    _, images = cached(tmp_path, batch_size=2)
    embed, sizes = images.images.encode_images, []

    def dies_at_the_third(pixels):
        sizes.append(len(pixels))
        if len(sizes) == 4:
            raise KeyboardInterrupt
        return embed(pixels)

    images.images.encode_images = dies_at_the_third
    with pytest.raises(KeyboardInterrupt):
        images.generate(PROMPTS, KEYS)
    assert sizes == [2, 1, 2, 1]  # one prompt after the other
    assert len(images.cache) == 5
    painter, images = cached(tmp_path, batch_size=4)
    whole = images.generate(PROMPTS, KEYS)
    assert painter.n == 4
    np.testing.assert_array_equal(whole.pixels, plain().pixels)
    np.testing.assert_array_equal(whole.embeddings, plain().embeddings)


@pytest.mark.parametrize("fill_batches", [False, True])
@pytest.mark.parametrize("is_kept", [True, False], ids=["cached", "not cached"])
def test_an_encoder_that_runs_out_of_memory_is_given_less(tmp_path, is_kept, fill_batches):
    import torch

    _, images = cached(tmp_path, batch_size=4, fill_batches=fill_batches)
    images, own = (images if is_kept else images.images), images.images
    embed, fitted = own.encode_images, []

    def small(pixels):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("no room")
        fitted.append(len(pixels))
        return embed(pixels)

    own.encode_images = small
    found = images.generate(PROMPTS, KEYS)
    assert sum(fitted) == 9
    np.testing.assert_array_equal(found.pixels, plain().pixels)
    np.testing.assert_array_equal(found.embeddings, plain().embeddings)
    assert own.batch_size == (1 if is_kept else 4)  # half of the three pictures of a prompt
    if is_kept:  # under the encoder of another name the pictures are there, and the same holds
        _, images = cached(tmp_path, fingerprint="other", batch_size=4)
        images.images.encode_images = small
        np.testing.assert_array_equal(images.generate(PROMPTS, KEYS).embeddings, plain().embeddings)
        assert len(images.cache.get(next(iter_keys(images.cache))).embeddings) == 2
        assert sum(fitted) == 18


def iter_keys(cache):
    return (path.parent.name + path.name.removesuffix(".safetensors") for path in cache.folder.glob("??/*.safetensors"))
