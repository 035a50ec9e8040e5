"""The two stages of the raters' data, with pictures that carry their slot values in the red of six pixels."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pasta_gym.mini import grammar, rater_data, raters
from pasta_gym.mini.rater_sessions import PoolConfig, Studio, baseline_slates, crowd, load_pool, paint_sessions
from pasta_gym.seeding import uniforms
from pasta_gym.types import Images
from pasta_gym.user_model.data import load_preferences

DIM = 20
CONFIG = PoolConfig(
    train_raters=10, validation_raters=2, test_raters=4, batch=8, pilot_sessions=6, horizon=3, images_per_prompt=2
)
LABELS = rater_data.LabelConfig(train_pairs=6, held_out_pairs=12, ratings=3)
PROJECTION = np.random.default_rng(9).standard_normal((raters.READ_SIZE, DIM))


def values_in(pixels):
    return pixels[..., 0, :6, 0].astype(np.int64)


class Toy:
    """Candidates and pictures without weights."""

    embedding_dim = DIM
    n_candidates = 10
    category_titles = ("a", "b", "c", "d", "e")

    def __init__(self):
        self.calls = 0

    def propose(self, history):
        rng = np.random.default_rng(int(history.keys[0] % 2**32))
        values = np.repeat(grammar.slot_values(history.chosen_prompts)[:, None], 10, axis=1)
        categories = np.tile(np.arange(10) % 5, (len(values), 1))
        for c in range(10):
            slot = 1 + c % 5
            values[:, c, slot] = rng.integers(1, grammar.CARDINALITIES[slot], size=len(values))
        return grammar.prompt_ids(values), categories

    def generate(self, prompts, keys):
        self.calls += 1
        values = np.repeat(grammar.slot_values(prompts)[:, None], keys.shape[1], axis=1)
        filled = 1 + (uniforms(keys)[..., None] * (np.array(grammar.CARDINALITIES) - 1)).astype(np.int64)
        values = np.where(values == 0, filled, values)
        pixels = np.zeros((*keys.shape, 8, 8, 3), dtype=np.uint8)
        pixels[..., 0, :6, 0] = values
        return Images((raters.exact_reads(values) @ PROJECTION).astype(np.float32), pixels)


def studio(toy=None, images=None):
    toy = toy or Toy()
    return Studio(
        candidates=dict.fromkeys(grammar.SPLITS, toy),
        images=images or toy,
        encode_texts=lambda texts: np.array([[len(t)] * DIM for t in texts], dtype=np.float32),
        eye=lambda pixels: 0.9 * raters.exact_reads(values_in(pixels)) + 0.01,
        judge=lambda pixels: raters.exact_reads(values_in(pixels)),
    )


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    paint_sessions(studio(), folder, CONFIG, progress=False)
    return folder


@pytest.fixture(scope="module")
def label_folder(pool_folder):
    folder = pool_folder.parent / "labels-0"
    rater_data.label(pool_folder, folder, 0, LABELS)
    return folder


def test_a_pool_holds_whole_sessions(pool_folder):
    pool, config, _, temperature = load_pool(pool_folder)
    assert config == CONFIG
    assert temperature > 0
    n = 32
    assert pool.image_embeddings.shape == (n, 26, DIM)
    assert pool.image_embeddings.dtype == np.float16
    assert pool.eye.shape == pool.judge.shape == (n, 26, 38)
    assert pool.slates.shape == (n, 3, 4)
    assert ((pool.choices >= 0) & (pool.choices < 4)).all()
    assert pool.raters.tolist() == np.repeat(np.arange(16), 2).tolist()
    for split, rows in zip(grammar.SPLITS, (slice(0, 20), slice(20, 24), slice(24, 32)), strict=True):
        assert np.isin(pool.initial_prompts[rows], grammar.initial_prompt_ids(split)).all()


def test_the_first_images_show_the_initial_prompt_and_the_others_the_slates(pool_folder):
    pool = load_pool(pool_folder)[0]
    shown = np.stack(
        [block.argmax(axis=-1) + 1 for block in np.split(pool.judge, np.cumsum(raters.N_VALUES)[:-1], axis=-1)], axis=-1
    )
    said = grammar.slot_values(pool.initial_prompts)[:, None]
    assert ((shown[:, :2] == said) | (said == 0)).all()
    columns = shown[:, 2:].reshape(32, 3, 4, 2, 6)
    slates = grammar.slot_values(pool.slates)[..., None, :]
    assert ((columns == slates) | (slates == 0)).all()


def test_each_turn_edits_the_chosen_prompt(pool_folder):
    pool = load_pool(pool_folder)[0]
    values = grammar.slot_values(pool.slates)
    for turn in (1, 2):
        chosen = values[np.arange(32), turn - 1, pool.choices[:, turn - 1]]
        assert ((values[:, turn] != chosen[:, None]).sum(axis=-1) <= 1).all()


def test_raters_choose_what_they_like(pool_folder):
    pool, config, rater_config, temperature = load_pool(pool_folder)
    _, people = crowd(0, config.n_raters, temperature, rater_config)
    reads = pool.eye[:, 2:].astype(float).reshape(32, 3, 4, 2, 38)
    prompts = grammar.slot_values(pool.initial_prompts)[:, None, None, None]
    u = raters.image_utilities(reads, prompts, people.weights[pool.raters][:, None, None, None], rater_config)
    columns = raters.column_utilities(u, rater_config.best_image_sharpness)
    chosen = np.take_along_axis(columns, pool.choices[..., None], axis=2)
    assert chosen.mean() > columns.mean() + 0.05


def test_painting_goes_on_where_it_stopped(pool_folder, tmp_path):
    copy = tmp_path / "pool"
    shutil.copytree(pool_folder, copy)
    lost = sorted(copy.glob("shard-*.npz"))[1]
    with np.load(lost) as f:
        before = {k: f[k] for k in f.files}
    lost.unlink()
    with pytest.raises(ValueError, match="holds 24 of 32 sessions; paint again"):
        load_pool(copy)
    toy = Toy()
    paint_sessions(studio(toy), copy, CONFIG, progress=False)
    assert toy.calls == 4
    with np.load(lost) as f:
        assert all(np.array_equal(f[k], v) for k, v in before.items())
    with pytest.raises(ValueError, match="pool of another configuration"):
        paint_sessions(studio(), copy, dataclasses.replace(CONFIG, seed=5), progress=False)
    lost.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"cannot read .*shard.*delete it and paint again"):
        load_pool(copy)


def test_raters_need_pixels(tmp_path):
    class Blind(Toy):
        def generate(self, prompts, keys):
            return dataclasses.replace(super().generate(prompts, keys), pixels=None)

    with pytest.raises(ValueError, match="raters judge pixels"):
        paint_sessions(studio(images=Blind()), tmp_path, CONFIG, progress=False)


def test_baseline_slates_take_the_first_of_different_categories():
    candidates = np.arange(20).reshape(2, 10)
    categories = np.tile(np.arange(10) % 5, (2, 1))
    slates = baseline_slates(candidates, categories, 4, np.array([3, 4], dtype=np.uint64))
    assert (slates - [[0], [10]] < 5).all()
    assert all(len(set(row)) == 4 for row in slates.tolist())
    many = baseline_slates(
        np.tile(np.arange(5), (4000, 1)), np.tile(np.arange(5), (4000, 1)), 4, np.arange(4000, dtype=np.uint64)
    )
    assert np.bincount(many.reshape(-1)) / 4000 == pytest.approx(np.full(5, 0.8), abs=0.03)
    with pytest.raises(ValueError, match="a slate of 4 needs as many categories, got 3"):
        baseline_slates(np.zeros((1, 3), dtype=np.int64), np.arange(3)[None], 4, np.zeros(1, dtype=np.uint64))


def test_labels_are_split_by_rater_and_prompt(label_folder):
    table = {n: pq.read_table(label_folder / f"{n}.parquet").to_pydict() for n in ("raters", "pairs", "rankings")}
    split_of = dict(zip(table["raters"]["rater"], table["raters"]["split"], strict=True))
    allowed = {s: set(grammar.initial_prompt_ids(s).tolist()) for s in grammar.SPLITS}
    for name in ("pairs", "rankings"):
        for rater, prompt in zip(table[name]["rater"], table[name]["prompt"], strict=True):
            assert prompt in allowed[split_of[rater]]
    counts = np.bincount(table["pairs"]["rater"])
    assert counts.tolist() == [6] * 10 + [12] * 6
    assert set(table["pairs"]["label"]) <= {0.0, 0.5, 1.0}
    assert all(a != b for a, b in zip(table["pairs"]["first"], table["pairs"]["second"], strict=True))


def test_sessions_carry_every_kind_of_label(pool_folder, label_folder):
    turns = pq.read_table(label_folder / "turns.parquet").to_pydict()
    pool = load_pool(pool_folder)[0]
    assert turns["choice"] == pool.choices.reshape(-1).tolist()
    assert turns["slate"] == pool.slates.reshape(-1, 4).tolist()
    assert {len(row) for row in turns["column_satisfaction"]} == {4}
    assert {s for row in turns["column_satisfaction"] for s in row} <= {1, 2, 3, 4, 5}
    assert set(turns["turn_satisfaction"]) <= {1, 2, 3, 4, 5}
    first = [v for v, t in zip(turns["than_before"], turns["turn"], strict=True) if t == 0]
    assert set(first) == {None}
    assert {v for v in turns["than_before"] if v} <= {"better", "same", "worse"}


def test_about_a_fifth_of_the_sessions_has_a_critique(pool_folder, tmp_path):
    said = dataclasses.replace(LABELS, critique_share=1.0)
    rater_data.label(pool_folder, tmp_path, 0, said)
    turns = pq.read_table(tmp_path / "turns.parquet").to_pydict()
    texts = [c for c in turns["critique"] if c]
    assert len(texts) == 32
    assert all(len(t.split()) <= 12 for t in texts)


def test_another_world_relabels_the_same_pool(pool_folder, label_folder, tmp_path):
    metadata = rater_data.label(pool_folder, tmp_path, 7, LABELS)
    assert not metadata["chosen_on_the_way"]
    assert metadata["best_column_chosen"] == pytest.approx(0.5, abs=0.06)
    own, other = (pq.read_table(f / "turns.parquet").to_pydict() for f in (label_folder, tmp_path))
    assert own["slate"] == other["slate"]
    assert own["choice"] != other["choice"]
    truths = [rater_data.load_truth(f) for f in (label_folder, tmp_path)]
    assert not np.array_equal(truths[0].archetypes.signs, truths[1].archetypes.signs)


def test_labelling_repeats(pool_folder, label_folder, tmp_path):
    rater_data.label(pool_folder, tmp_path, 0, LABELS)
    for name in ("pairs", "ratings", "rankings", "turns"):
        assert pq.read_table(tmp_path / f"{name}.parquet").equals(pq.read_table(label_folder / f"{name}.parquet"))


def test_the_user_models_reader_points_at_the_right_images(pool_folder, label_folder):
    data = load_preferences(label_folder)
    pool = load_pool(pool_folder)[0]
    pairs = pq.read_table(label_folder / "pairs.parquet").to_pydict()
    for row in (0, 17, 100):
        image = pool.image_embeddings[pairs["session"][row], pairs["second"][row]]
        assert np.array_equal(data.image_embeddings[data.pair_images[row, 1]], image)
        prompt = pool.prompt_embeddings[pairs["session"][row]]
        assert np.array_equal(data.prompt_embeddings[data.pair_prompts[row]], prompt)
    assert np.array_equal(
        data.image_embeddings[data.session_images[5, 2, 3]], pool.image_embeddings[5, 2 + 2 * 8 + 3 * 2 :][:2]
    )
    assert data.session_choices.tolist() == pool.choices.tolist()
    assert data.ratings.min() >= 0
    assert data.ratings.max() <= 1
    assert [len(data.raters_of(s)) for s in grammar.SPLITS] == [10, 2, 4]


def test_the_fit_never_needs_the_truth(label_folder, tmp_path):
    copy = tmp_path / "labels"
    shutil.copytree(label_folder, copy)
    (copy / rater_data.TRUTH).unlink()
    metadata = json.loads((copy / "metadata.json").read_text())
    metadata["pool"] = str((label_folder / metadata["pool"]).resolve())
    (copy / "metadata.json").write_text(json.dumps(metadata))
    assert load_preferences(copy).n_raters == 16
    with pytest.raises(ValueError, match=r"cannot read .*truth\.npz"):
        rater_data.load_truth(copy)
    (copy / "pairs.parquet").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"pairs\.parquet: cannot be read as Parquet"):
        load_preferences(copy)


def test_missing_folders_say_which_command_makes_them(tmp_path):
    with pytest.raises(ValueError, match="rater_data paint"):
        load_pool(tmp_path)
    with pytest.raises(ValueError, match="rater_data label"):
        load_preferences(tmp_path)


def test_the_command_line_labels(pool_folder, tmp_path, capsys):
    rater_data.main(["label", "--pool", str(pool_folder), "--out", str(tmp_path / "w"), "--world", "2"])
    assert json.loads(capsys.readouterr().out)["world_seed"] == 2
    with pytest.raises(SystemExit, match="must read module:function, got 'nonsense'"):
        rater_data.main(["paint", "--pool", str(tmp_path), "--studio", "nonsense"])


def test_labels_name_the_encoder_of_their_pool(pool_folder, tmp_path):
    pool = tmp_path / "pool"
    shutil.copytree(pool_folder, pool)
    record = json.loads((pool / "pool.json").read_text())
    for hashed in (None, "0123456789abcdef"):
        (pool / "pool.json").write_text(json.dumps({**record, "encoder_sha256": hashed}))
        assert rater_data.label(pool, tmp_path / "labels", 0, LABELS)["encoder_sha256"] == hashed
