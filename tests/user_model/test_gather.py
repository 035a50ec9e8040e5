"""Gathering keeps every label, points it at the right embeddings, and never lets a bad image through."""

import io
import json
import pathlib
import shutil
from collections import Counter

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.datasets.mini_raters import MiniRaters
from pasta_gym.datasets.pickapic import PickAPic
from pasta_gym.datasets.records import Comparison, DatasetError, Image, LoadReport, Rating, Session, Turn
from pasta_gym.datasets.splits import Split, split_of_prompt, split_of_rater
from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.encoders.embedding_cache import BadImagesError, EmbeddingCache
from pasta_gym.user_model import gather as gather_module
from pasta_gym.user_model.data import NO_IMAGE, SPLITS, load_preferences
from pasta_gym.user_model.gather import RaterSplits, gather
from pasta_gym.user_model.labels import labels_of

LABELS = pathlib.Path(__file__).parents[2] / "data" / "labels_world_0"
DIM = 3


class Encoder:
    """Image ``b"7"`` has embedding (7, 0, 0), a text of n letters (n, 1, 0)."""

    embedding_dim = DIM

    def __init__(self):
        self.identity = {"model": "numbers"}
        self.images, self.texts = [], []

    def encode_images(self, images):
        if bad := {i: "broken" for i, image in enumerate(images) if not image.isdigit()}:
            raise BadImagesError(bad)
        self.images.append(len(images))
        return np.array([[float(image), 0, 0] for image in images], dtype=np.float32).reshape(-1, DIM)

    def encode_texts(self, texts):
        self.texts += texts
        return np.array([[len(text), 1, 0] for text in texts], dtype=np.float32).reshape(-1, DIM)


class Records:
    def __init__(self, *records, name="hand"):
        self.name, self.report, self.records = name, LoadReport(), records

    def _of(self, kind):
        return (record for record in self.records if isinstance(record, kind))

    def comparisons(self):
        return self._of(Comparison)

    def ratings(self):
        return self._of(Rating)

    def sessions(self):
        return self._of(Session)


def image(n, embedding=None):
    def read():
        if n == "missing":
            raise DatasetError("no such file", file="x.jpg")
        return str(n).encode()

    return Image(str(n), read, embedding)


def compare(ranks, images, rater="ann", prompt="cat"):
    return Comparison(rater, prompt, tuple(image(n) for n in images), tuple(map(float, ranks)))


def session(turns, rater="ann", prompt="cat"):
    return Session(rater, prompt, tuple(turns))


def turn(images, choice=0, **said):
    return Turn(tuple(tuple(image(n) for n in column) for column in images), choice, **said)


def seen(data, rows):
    """Which images rows of the table are."""
    return np.asarray(data.image_embeddings)[rows][..., 0].astype(int).tolist()


@pytest.fixture
def run(tmp_path):
    def gathered(*records, **options):
        return gather(Records(*records), Encoder(), tmp_path, **{"max_bad_images": 1.0, **options})

    return gathered


A, B = "a" * 64, "b" * 64


def embedded(encoder, name="given"):
    """A pair of embeddings that came along, of an encoder."""
    images = tuple(image(f"{name}{n}", np.array([n, 1, 0], dtype=np.float32)) for n in (5, 6))
    prompt = np.array([1, 2, 3], dtype=np.float32)
    dataset = Records(Comparison("ann", "cat", images, (0.0, 1.0), prompt), name=name)
    if encoder is not None:
        dataset.encoder_sha256 = encoder
    return dataset


@pytest.mark.parametrize(
    ("theirs", "own", "known"),
    [(A, A, A), (A[:16], A, A), (A, A[:16], A[:16]), (None, A, A), (A, None, A), (None, None, None)],
)
def test_given_embeddings_of_one_encoder_or_of_an_unknown_one_are_gathered(tmp_path, theirs, own, known):
    encoder = Encoder()
    encoder.identity |= {"weights_sha256": own} if own else {}
    assert gather(embedded(theirs), encoder, tmp_path).encoder_sha256 == known


def test_given_embeddings_of_two_encoders_do_not_mix(tmp_path):
    encoder = Encoder()
    encoder.identity["weights_sha256"] = B
    for theirs in (embedded(A), Split(embedded(A), "train", fractions={"train": 1.0})):
        with pytest.raises(
            ValueError, match=rf"{theirs.name} comes with embeddings of encoder a+, and the others are of b+"
        ):
            gather(theirs, encoder, tmp_path)
    with pytest.raises(ValueError, match=r"dataset two comes with embeddings of encoder b+, and the others are of a+;"):
        gather([embedded(A, "one"), embedded(B, "two")])
    with pytest.raises(ValueError, match="dataset given comes with"):  # a hash of fewer digits says too little
        gather(embedded(A[:8]), encoder, tmp_path)


def test_pairs_and_ties(run):
    data = run(compare((0, 1), (5, 6)), compare((2, 1), (6, 7), "bob"), compare((1, 1), (5, 7), "ann", "a dog"))
    assert seen(data, data.pair_images) == [[5, 6], [6, 7], [5, 7]]
    assert data.pair_labels.tolist() == [1.0, 0.0, 0.5]
    assert data.pair_raters.tolist() == [0, 1, 0]
    assert data.prompt_embeddings[data.pair_prompts].tolist() == [[3, 1, 0], [3, 1, 0], [5, 1, 0]]
    assert data.prompt_embeddings.dtype == np.float32
    assert data.n_raters == 2
    assert data.rankings.shape == (0, 2)
    assert len(data.all_pairs()[0]) == 3


def test_untied_rankings_of_any_length_stay_and_others_become_neighbours(run):
    data = run(
        compare((3, 1, 2), (1, 2, 3)),
        compare((1, 2, 3, 4), (4, 5, 6, 7), "bob"),
        compare((9, 8, 7), (1, 2, 3), "cid"),
        compare((2, 1, 1, 3), (1, 2, 3, 4), "dan"),
    )
    lists = [row[:n] for row, n in zip(data.rankings, data.ranking_lengths, strict=True)]
    assert [seen(data, row) for row in lists] == [[2, 3, 1], [4, 5, 6, 7], [3, 2, 1]]
    assert data.rankings[:, 3].tolist() == [NO_IMAGE, lists[1][3], NO_IMAGE]
    assert data.ranking_raters.tolist() == [0, 1, 2]
    assert seen(data, data.pair_images) == [[2, 3], [3, 1], [1, 4]]  # dan's, with a tie
    assert data.pair_labels.tolist() == [0.5, 1.0, 1.0]
    assert data.pair_raters.tolist() == [3, 3, 3]
    raters, _, images, labels = data.all_pairs()
    assert Counter(raters.tolist()) == {0: 2, 1: 3, 2: 2, 3: 3}
    assert seen(data, images[raters == 0]) == [[2, 3], [3, 1]]
    assert labels[raters == 0].tolist() == [1.0, 1.0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=5), min_size=1, max_size=6))
def test_all_pairs_are_neighbours_whatever_the_ranks(tmp_path_factory, several):
    folder = tmp_path_factory.mktemp("cache")
    records = [compare(ranks, range(len(ranks)), str(i)) for i, ranks in enumerate(several)]
    data = gather(Records(*records), Encoder(), folder)
    raters, _, images, labels = data.all_pairs()
    for i, ranks in enumerate(several):
        mine = [*zip(seen(data, images[raters == i]), labels[raters == i].tolist(), strict=True)]
        assert len(mine) == len(ranks) - 1
        for (a, b), label in mine:
            better = 0.5 if ranks[a] == ranks[b] else float(ranks[a] < ranks[b])
            assert label == better
        if len(ranks) > 2:
            chain = [mine[0][0][0], *(b for (_, b), _ in mine)]
            assert sorted(chain) == list(range(len(ranks)))
            assert [ranks[j] for j in chain] == sorted(ranks)


def test_ratings(run):
    data = run(Rating("ann", "cat", image(4), 0.25), Rating("bob", "cat", image(4), 1.0))
    assert data.ratings.tolist() == [0.25, 1.0]
    assert seen(data, data.rating_images) == [4, 4]
    assert len(data.image_embeddings) == 1
    assert data.session_images.shape == (0, 0, 1, 1)
    assert data.session_satisfactions is None


def test_sessions_are_padded_and_keep_what_was_said(run):
    data = run(
        session(
            [turn([(1, 2), (3, 4)], 1), turn([(5, 6), (7, 8)], satisfactions=(0.25, 1.0), versus_previous="worse")]
        ),
        session([turn([(2, 3), (4, 5)], versus_previous=None)], "bob", "a dog"),
    )
    assert data.session_choices.tolist() == [[1, 0], [0, -1]]
    assert seen(data, data.session_images[0]) == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert seen(data, data.session_images[1, 0]) == [[2, 3], [4, 5]]
    assert np.array_equal(data.session_satisfactions, [[[np.nan] * 2, [0.25, 1.0]], [[np.nan] * 2] * 2], equal_nan=True)
    assert np.array_equal(data.session_versus_previous, [[np.nan, -1.0], [np.nan, np.nan]], equal_nan=True)
    assert data.session_raters.tolist() == [0, 1]


def test_initial_images_are_never_read(run):
    seen_by_nobody = Session("ann", "cat", (turn([(1,), (2,)]),), initial_images=(image("missing"),))
    assert len(run(seen_by_nobody).image_embeddings) == 2


def test_slates_of_two_sizes_are_refused(run):
    with pytest.raises(ValueError, match=r"must be of one size, got .* \(2, 1\) and \(1, 2\); gather .* apart"):
        run(session([turn([(1,), (2,)])]), session([turn([(1, 2)])]))


def test_a_bad_image_is_counted_and_takes_only_its_own_labels_along(tmp_path):
    said = {"satisfactions": (0.5, 0.75), "versus_previous": "better"}
    dataset = Records(
        compare((1, 2), (1, "missing")),
        compare((1, 2, 3), (1, "torn", 2)),  # goes on as a pair
        compare((1, 2), (3, 4)),
        Rating("ann", "cat", image("torn"), 0.5),
        Rating("ann", "cat", image(1), 0.5),
        session([turn([(1,), (2,)]), turn([(1,), ("torn",)], **said), turn([(3,), (4,)], 1, **said)]),
        session([turn([(1,), ("missing",)])], "gone"),
    )
    data = gather(dataset, Encoder(), tmp_path, max_bad_images=0.5)
    assert seen(data, data.pair_images) == [[1, 2], [3, 4]]
    assert len(data.ratings) == len(data.session_choices) == 1
    assert data.session_choices.tolist() == [[0, -1, 1]]
    assert np.array_equal(data.session_satisfactions, [[[np.nan, np.nan], [0.5, np.nan], [0.5, 0.75]]], equal_nan=True)
    assert data.session_versus_previous is None  # neither slate's neighbour is whole
    assert data.n_raters == 1  # nobody without a label
    assert dataset.report.bad_images == 2
    assert dataset.report.images == 6
    assert sorted(dataset.report.first_bad_images) == ["missing: x.jpg: no such file", "torn: broken"]
    assert dataset.report.skipped == {
        "comparison with fewer than two good images": 1,
        "rating of a bad image": 1,
        "session without a turn of good images": 1,
    }


def test_too_many_bad_images_stop_it(run):
    records = [compare((1, 2), (n, "missing" if n == 9 else n + 1)) for n in range(10)]
    with pytest.raises(
        DatasetError, match=r"(?s)1 of 11 images of hand .*share of 0\.05 .*The first:\n  missing: x\.jpg"
    ):
        run(*records, max_bad_images=0.05)
    assert len(run(*records, max_bad_images=0.1).pair_labels) == 9


def test_a_broken_download_stops_early(tmp_path):
    def endless():
        n = 0
        while True:
            n += 1
            yield compare((1, 2), (f"torn{n}", n))

    dataset = Records()
    dataset.comparisons = endless
    with pytest.raises(DatasetError, match="missing or broken"):
        gather(dataset, Encoder(), tmp_path)


def test_the_order_of_images_has_a_name(tmp_path):
    a, b = Records(compare((0, 1), (1, 2)), name="a"), Records(compare((0, 1), (3, 4), "bob"), name="b")
    plain, again, put = (
        gather([a, b], Encoder(), tmp_path, as_split=given) for given in (None, {"a": "train"}, {"b": "test"})
    )
    assert len({len(data.image_embeddings) for data in (plain, again, put)}) == 1
    assert plain.images_sha256 == again.images_sha256
    assert plain.images_sha256 != put.images_sha256  # held-out datasets are read first


def test_datasets_of_different_people_are_kept_apart(tmp_path):
    one = Records(compare((1, 2), (1, 2)), name="one")
    other = Records(compare((1, 2), (2, 1)), Rating("ann", "cat", image(9), 1.0), name="other")
    other.people = "other people"
    data = gather([one, other], Encoder(), tmp_path)
    assert data.pair_raters.tolist() == [0, 1]
    assert data.rating_raters.tolist() == [1]
    assert seen(data, data.pair_images) == [[1, 2], [2, 1]]
    assert len(data.image_embeddings) == 3  # equal contents share a row
    with pytest.raises(ValueError, match=r"two datasets are called 'one'.*pass name="):
        gather([one, one], Encoder(), tmp_path)


def test_images_of_one_key_in_two_datasets_are_different_images(tmp_path):
    one = Records(compare((1, 2), (1, 2)), name="one")
    other = Records(name="other")
    other.comparisons = lambda: iter(
        [Comparison("bob", "cat", (Image("1", lambda: b"8"), Image("2", lambda: b"9")), (1.0, 2.0))]
    )
    data = gather([one, other], Encoder(), tmp_path)
    assert seen(data, data.pair_images) == [[1, 2], [8, 9]]


def test_raters_are_split_by_hash_and_the_unknown_follow_their_prompt(run):
    names = [f"r{i}" for i in range(40)]
    known = [compare((1, 2), (1, 2), name) for name in names]
    unknown = [compare((1, 2), (1, 2), None, f"prompt {i}") for i in range(20)]
    data = run(*known, *unknown)
    assert data.n_raters == 60  # each unknown row is somebody
    expected = [split_of_rater(name) for name in names] + [split_of_prompt(f"prompt {i}") for i in range(20)]
    assert [SPLITS[s] for s in data.rater_splits] == expected
    assert len(set(expected)) == 3
    rule = RaterSplits({"train": 0.5, "test": 0.5}, seed=4)
    again = run(*known, splits=rule)
    assert [SPLITS[s] for s in again.rater_splits] == [split_of_rater(n, rule.fractions, 4) for n in names]


def test_prompts_can_be_kept_apart_too(tmp_path):
    dataset = Records(*(compare((1, 2), (1, 2), f"r{i % 12}", "p" * (i // 12 + 1)) for i in range(240)))
    data = gather(dataset, Encoder(), tmp_path, splits=RaterSplits({"train": 0.5, "test": 0.5}, by="both"))
    split = data.rater_splits[data.pair_raters]
    letters = data.prompt_embeddings[data.pair_prompts, 0]
    assert len(set(split.tolist())) > 1
    assert max(Counter(letter for letter, _ in set(zip(letters, split, strict=True))).values()) == 1
    assert dataset.report.skipped["in another split than its rater"] == 240 - len(split) > 0


def test_a_dataset_may_split_its_raters_itself(tmp_path):
    dataset = Records(*(compare((1, 2), (1, 2), name) for name in ("ann", "bob", "ann")))
    dataset.rater_split = {"ann": "test", "bob": "validation"}.__getitem__
    assert gather(dataset, Encoder(), tmp_path).rater_splits.tolist() == [2, 1]
    dataset.rater_split = lambda _: "holdout"
    with pytest.raises(ValueError, match=r"rater ann of hand is in split 'holdout', expected one of \('train'"):
        gather(dataset, Encoder(), tmp_path)


def test_limits_count_records_of_each_kind(run):
    records = [*(compare((1, 2), (n, n + 1)) for n in range(5)), *(Rating("a", "b", image(n), 0.0) for n in range(5))]
    data = run(*records, max_comparisons=2, max_ratings=3, max_sessions=0)
    assert (len(data.pair_labels), len(data.ratings)) == (2, 3)
    with pytest.raises(ValueError, match="max_ratings must be 0 or more, or None for all, got -1"):
        run(max_ratings=-1)


def test_nothing_is_embedded_twice_and_the_table_is_the_caches_own(tmp_path, monkeypatch):
    monkeypatch.setattr(gather_module, "WINDOW", 4)
    records = [compare((1, 2), (n, n + 1)) for n in range(10)]
    first, second = Encoder(), Encoder()
    data = gather(Records(*records), first, tmp_path)
    assert sum(first.images) == 11
    assert max(first.images) <= 5  # a window at a time, never the whole set
    assert first.texts == ["cat"]
    again = gather(Records(*records), second, tmp_path)
    assert second.images == second.texts == []
    assert isinstance(again.image_embeddings, np.memmap)
    assert not (EmbeddingCache.of(first, tmp_path / "images").folder / "gathered.npy").exists()
    assert np.array_equal(data.image_embeddings, again.image_embeddings)
    assert np.array_equal(data.pair_images, again.pair_images)


def test_images_are_read_in_step_with_the_stream_and_once(tmp_path):
    log = []

    def stream():
        for n in range(6):
            images = tuple(Image(str(i), lambda i=i: log.append(i) or str(i).encode()) for i in (n, n + 1))
            log.append(f"row {n}")
            yield Comparison("ann", "cat", images, (1.0, 2.0))

    dataset = Records()
    dataset.comparisons = stream
    gather(dataset, Encoder(), tmp_path)
    assert log == ["row 0", 0, 1, *(entry for n in range(1, 6) for entry in (f"row {n}", n + 1))]


def test_a_file_of_pictures_becomes_embeddings_of_the_mini_clip(tmp_path):
    """From Parquet with encoded pictures to arrays, one picture cut short."""
    pictures = [PIL.Image.new("RGB", (70, 64), colour) for colour in ("red", "green", "blue")]
    files = []
    for picture in pictures:
        picture.save(out := io.BytesIO(), "PNG")
        files.append(out.getvalue())
    shown = [(0, 1), (1, 2), (2, 3)]
    table = {
        "caption": ["a red fox", "a red fox", "a blue fox"],
        "has_label": [True] * 3,
        **{f"image_{side}_uid": [f"u{row[side]}" for row in shown] for side in (0, 1)},
        **{f"jpg_{side}": [[*files, files[0][:60]][row[side]] for row in shown] for side in (0, 1)},
        "label_0": [1.0, 0.5, 0.0],
        "label_1": [0.0, 0.5, 1.0],
        "user_id": [5, 5, 6],
    }
    pq.write_table(pa.table(table), tmp_path / "pictures.parquet")
    dataset = PickAPic(tmp_path / "pictures.parquet", verify_images=False)
    encoder = ClipEncoder.mini(device="cpu")
    data = gather(dataset, encoder, tmp_path / "cache", max_bad_images=0.5)
    assert data.pair_labels.tolist() == [1.0, 0.5]
    assert data.pair_raters.tolist() == [0, 0]
    expected = encoder.encode_images(pictures)
    assert np.allclose(data.image_embeddings[data.pair_images], expected[[[0, 1], [1, 2]]], rtol=1e-4, atol=1e-4)
    assert np.allclose(data.prompt_embeddings[data.pair_prompts[0]], encoder.encode_texts(["a red fox"])[0], atol=1e-4)
    assert dataset.report.bad_images == 1


def test_the_arrays_do_not_depend_on_what_the_cache_held_before(tmp_path):
    records = [compare((1, 2), (n, n + 1)) for n in range(5)]
    fresh = gather(Records(*records), Encoder(), tmp_path / "fresh")
    gather(Records(compare((1, 2, 3), (4, 77, 0)), name="before"), Encoder(), tmp_path / "used")
    used = gather(Records(*records), Encoder(), tmp_path / "used")
    assert np.array_equal(fresh.image_embeddings, used.image_embeddings)
    assert np.array_equal(fresh.pair_images, used.pair_images)
    assert isinstance(used.image_embeddings, np.memmap)  # spread over the cache, so copied to a file of its own
    assert not list(tmp_path.rglob(".gathered*"))


def test_the_fit_takes_a_memory_map_as_it_is(tmp_path):
    records = [compare((1, 2), (n, n + 1), f"r{n}") for n in range(5)]
    data = gather(Records(*records), Encoder(), tmp_path)
    labels = labels_of(data, np.arange(5))  # torch would warn of a read-only array
    assert np.shares_memory(labels.image_embeddings.numpy(), data.image_embeddings)


def test_embeddings_that_come_along_skip_the_encoder(tmp_path):
    given_images = tuple(image(n, np.array([n, 5, 5], dtype=np.float16)) for n in (1, 2))
    came = Comparison("ann", "cat", given_images, (1.0, 2.0), np.array([9, 9, 9], dtype=np.float32))
    data = gather(Records(came))
    assert data.image_embeddings.tolist() == [[1, 5, 5], [2, 5, 5]]
    assert data.image_embeddings.dtype == np.float16
    assert data.prompt_embeddings.tolist() == [[9, 9, 9]]
    encoder = Encoder()
    mixed = gather([Records(came, name="came"), Records(compare((2, 1), (1, 3)))], encoder, tmp_path)
    assert mixed.image_embeddings[mixed.pair_images].tolist() == [[[1, 5, 5], [2, 5, 5]], [[1, 0, 0], [3, 0, 0]]]
    assert mixed.prompt_embeddings[mixed.pair_prompts].tolist() == [[9, 9, 9], [3, 1, 0]]
    assert sum(encoder.images) == 2


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.zeros(4), r"must be 3 finite numbers as of the others, got shape \(4,\); embeddings of two encoders"),
        (np.array([1.0, np.nan, 0.0]), r"must be 3 finite numbers"),
        (np.zeros((1, 3)), r"must be 3 finite numbers"),
    ],
)
def test_embeddings_of_another_width_are_refused(tmp_path, embedding, message):
    record = Rating("ann", "cat", image(1, embedding), 0.5)
    with pytest.raises(ValueError, match=message):
        gather(Records(record), Encoder(), tmp_path)


def test_pixels_need_an_encoder_and_an_encoder_a_folder(run):
    with pytest.raises(ValueError, match=r"comes without an embedding; pass an encoder and a cache_folder"):
        gather(Records(compare((1, 2), (1, 2))))
    with pytest.raises(ValueError, match="an encoder needs a cache_folder"):
        gather(Records(), Encoder())
    with pytest.raises(ValueError, match="max_bad_images is a share of the images, from 0 to 1, got 2"):
        run(max_bad_images=2)
    with pytest.raises(ValueError, match="by must be rater or both, got 'row'"):
        RaterSplits(by="row")
    with pytest.raises(ValueError, match="fractions must be by split, train, validation, test, got dev"):
        RaterSplits({"dev": 1.0})


@pytest.mark.parametrize(
    ("fractions", "problem"),
    [
        (
            {"train": 0.5, "test": 0.2},
            r"fractions must sum to 1, got .*'test': 0\.2.*, which sum to 0\.7; a split that",
        ),
        ({"train": 0.9, "validation": 0.1, "test": 0.1}, r"must sum to 1, got .*, which sum to 1\.1"),
        ({"train": 1.5, "test": -0.5}, r"must be shares from 0 to 1 by split, got .*-0\.5"),
        ({"train": float("nan"), "test": 1.0}, "must be shares from 0 to 1 by split, got .*nan"),
        ({}, r"must be shares from 0 to 1 by split, got \{\}"),
    ],
)
def test_shares_of_raters_that_are_none_are_refused_before_anything_is_gathered(fractions, problem):
    with pytest.raises(ValueError, match=problem):
        RaterSplits(fractions)
    assert RaterSplits({"test": 1.0}).fractions == {"test": 1.0}


@pytest.fixture(scope="module")
def few_labels(tmp_path_factory):
    """The first labels of the mini world's raters, over its own pool."""
    folder = tmp_path_factory.mktemp("labels")
    for name, n in (("pairs", 900), ("ratings", 300), ("rankings", 150), ("turns", 200), ("raters", 10_000)):
        pq.write_table(pq.read_table(LABELS / f"{name}.parquet").slice(0, n), folder / f"{name}.parquet")
    metadata = json.loads((LABELS / "metadata.json").read_text())
    metadata["pool"] = str((LABELS / metadata["pool"]).resolve())
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="module")
def loaded(few_labels):
    return load_preferences(few_labels)


def test_the_mini_worlds_raters_gather_to_what_their_own_reader_loads(few_labels, loaded):
    gathered = gather(MiniRaters(few_labels))
    assert len(gathered.pair_labels) == 900
    assert gathered.image_embeddings.dtype == np.float16
    for name in ("pair_labels", "ratings", "session_choices"):
        assert np.array_equal(getattr(gathered, name), getattr(loaded, name))
    for name in ("session_satisfactions", "session_versus_previous"):
        assert np.array_equal(getattr(gathered, name), getattr(loaded, name), equal_nan=True)
    for name in ("pair_images", "rating_images", "rankings", "session_images"):
        mine, theirs = (data.image_embeddings[getattr(data, name)] for data in (gathered, loaded))
        assert np.array_equal(mine, theirs), name
    met = set()
    for kind in ("pair", "rating", "ranking", "session"):
        raters = [getattr(data, f"{kind}_raters") for data in (gathered, loaded)]
        met |= set(zip(*(column.tolist() for column in raters), strict=True))
        assert np.array_equal(gathered.rater_splits[raters[0]], loaded.rater_splits[raters[1]])
        prompts = [data.prompt_embeddings[getattr(data, f"{kind}_prompts")] for data in (gathered, loaded)]
        assert np.allclose(*prompts, rtol=1e-4, atol=1e-3)
    assert len(met) == len({mine for mine, _ in met}) == len({theirs for _, theirs in met})


def test_the_reader_of_the_mini_world_fills_in_what_raters_said_in_sessions(few_labels, loaded):
    turns = pq.read_table(few_labels / "turns.parquet").to_pylist()
    assert loaded.session_satisfactions.shape == (40, 5, 4)
    for row in (turns[0], turns[7], turns[199]):
        levels = loaded.session_satisfactions[row["session"], row["turn"]] * 4 + 1
        assert levels.tolist() == row["column_satisfaction"]
    said = {(row["session"], row["turn"]): row["than_before"] for row in turns}
    words = {"worse": -1, "same": 0, "better": 1}
    for (at, turn_number), word in said.items():
        value = loaded.session_versus_previous[at, turn_number]
        assert np.isnan(value) if word is None else value == words[word]
    assert set(np.unique(loaded.session_versus_previous[:, 1:])) == {-1.0, 0.0, 1.0}


def test_an_unknown_verdict_is_named(few_labels, tmp_path):
    folder = shutil.copytree(few_labels, tmp_path / "labels")
    turns = pq.read_table(folder / "turns.parquet").to_pydict()
    turns["than_before"][3] = "nicer"
    pq.write_table(pa.table(turns), folder / "turns.parquet")
    with pytest.raises(ValueError, match=r"turns\.parquet, row 3, column than_before: expected one of .* got 'nicer'"):
        load_preferences(folder)
