import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pasta_gym.trajectories import storage


def test_everything_comes_back_across_shards(stored, shards):
    dataset = storage.load(stored)
    assert len(dataset) == 6
    for name in ("categories", "actions", "choices", "rewards", "slate_images", "initial_images"):
        assert_array_equal(getattr(dataset, name), np.concatenate([getattr(s, name) for s in shards]), err_msg=name)
    assert_array_equal(dataset.behaviour_probabilities, np.concatenate([s.behaviour_probabilities for s in shards]))
    assert dataset.slate_images.dtype == np.float16
    assert dataset.slate_images.shape == (6, 3, 2, 5, 7)
    embeddings = {int(p): e for s in shards for p, e in zip(s.prompts, s.prompt_embeddings, strict=True)}
    assert len(dataset.prompt_embeddings) == len(embeddings)
    for shard in shards:
        for i in range(len(shard)):
            e = shard.first_episode + i
            assert_array_equal(
                dataset.prompt_embeddings[dataset.initial_prompts[e]], embeddings[int(shard.initial_prompts[i])]
            )
            for t in range(3):
                for c in range(8):
                    assert_array_equal(
                        dataset.prompt_embeddings[dataset.candidates[e, t, c]],
                        embeddings[int(shard.candidates[i, t, c])],
                    )


def test_the_words_come_back_beside_their_embeddings(stored, shards):
    dataset = storage.load(stored)
    texts = dataset.texts(np.array([5]), np.array([1]))
    assert texts["candidate_texts"][0].tolist() == [f"prompt {i}" for i in shards[1].candidates[1, 1]]
    assert texts["initial_prompt_text"].tolist() == [f"prompt {shards[1].initial_prompts[1]}"]
    assert dataset.prompt_texts.tolist() == storage.read_prompt_texts(stored)


def test_the_tables_can_be_read_without_this_package(stored, shards):
    turns = pq.read_table(stored / "turns.parquet").to_pylist()
    assert len(turns) == 18
    row = turns[4 * 3 + 2]  # episode 4 is the second shard's first
    assert (row["episode"], row["turn"], row["terminated"]) == (4, 2, True)
    assert row["candidates"] == shards[1].candidates[0, 2].tolist()
    assert row["action"] == shards[1].actions[0, 2].tolist()
    assert row["reward"] == shards[1].rewards[0, 2]
    assert_allclose(row["slate_images"], shards[1].slate_images[0, 2].reshape(-1).astype(float))
    episodes = pq.read_table(stored / "episodes.parquet").to_pylist()
    assert [e["environment_seed"] for e in episodes] == [100, 101, 102, 103, 104, 105]
    prompts = pq.read_table(stored / "prompts.parquet").to_pylist()
    assert all(p["text"] == f"prompt {p['prompt']}" for p in prompts)
    assert storage.read_prompt_texts(stored) == [p["text"] for p in prompts]


@pytest.mark.parametrize("name", ["episodes.parquet", "turns.parquet", "prompts.parquet", "metadata.json"])
def test_a_missing_file_is_named_with_the_remedy(stored, name):
    (stored / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing.*collect"):
        storage.load(stored)


@pytest.mark.parametrize("name", ["episodes.parquet", "turns.parquet", "prompts.parquet", "metadata.json"])
def test_a_truncated_file_is_named_with_the_remedy(stored, name):
    content = (stored / name).read_bytes()
    (stored / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{name} is broken.*collect"):
        storage.load(stored)


def test_a_flipped_bit_is_found(stored):
    path = stored / "turns.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"turns.parquet is broken"):
        storage.load(stored)


def test_tables_of_two_datasets_do_not_mix(stored):
    metadata = json.loads((stored / "metadata.json").read_text())
    (stored / "metadata.json").write_text(json.dumps({**metadata, "n_episodes": 5}))
    with pytest.raises(ValueError, match=r"episodes.parquet is broken: it has 6 rows where metadata.json says 5"):
        storage.load(stored)


def test_another_format_version_is_refused(stored):
    metadata = json.loads((stored / "metadata.json").read_text())
    (stored / "metadata.json").write_text(json.dumps({**metadata, "format_version": 99}))
    with pytest.raises(ValueError, match=r"format version 99, this release reads 1"):
        storage.load(stored)


def test_turns_out_of_order_are_refused(stored):
    table = pq.read_table(stored / "turns.parquet")
    order = np.arange(len(table))
    order[[1, 2]] = order[[2, 1]]
    pq.write_table(table.take(order), stored / "turns.parquet")
    with pytest.raises(ValueError, match=r"turns.parquet is broken: its turns are not in order"):
        storage.load(stored)


def test_no_shard_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match="at least one shard"):
        storage.save(tmp_path, [], texts=lambda ids: [], metadata={})


def test_shards_survive_the_disk_and_broken_ones_are_named(tmp_path, shards):
    storage.save_shard(tmp_path, shards[1])
    back = storage.load_shard(tmp_path)
    assert back.first_episode == 4
    assert_array_equal(back.slate_images, shards[1].slate_images)
    (tmp_path / "arrays.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match=r"arrays.npz .*delete"):
        storage.load_shard(tmp_path)


def test_a_shard_keeps_its_words_where_it_has_some(tmp_path, shards):
    written = [f"a fox, {i}" for i in shards[0].prompts]
    for name, shard in (("new", replace(shards[0], prompt_texts=tuple(written))), ("old", shards[1])):
        (tmp_path / name).mkdir()
        storage.save_shard(tmp_path / name, shard)
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["arrays.npz"]
    both = [storage.load_shard(tmp_path / name) for name in ("new", "old")]
    asked = []

    def texts(ids):
        asked.extend(ids.tolist())
        return [f"prompt {i}" for i in ids]

    folder = tmp_path / "dataset"
    folder.mkdir()
    storage.save(folder, both, texts=texts, metadata={})
    of_old = sorted(set(shards[1].prompts) - set(shards[0].prompts))
    assert asked == of_old
    known = dict(zip(shards[0].prompts, written, strict=True)) | {i: f"prompt {i}" for i in of_old}
    assert storage.read_prompt_texts(folder) == [known[i] for i in sorted(known)]
    for broken in ("[", "{}", '["one"]'):
        (tmp_path / "new" / "texts.json").write_text(broken)
        with pytest.raises(ValueError, match=r"texts.json is broken.*delete .* collect again"):
            storage.load_shard(tmp_path / "new")


def test_counts_of_the_candidate_generator_are_added_up(tmp_path, shards):
    for name, shard, stats in (("a", shards[0], {"requests": 5, "replies": 4}), ("b", shards[1], {"requests": 2})):
        (tmp_path / name).mkdir()
        storage.save_shard(tmp_path / name, replace(shard, candidate_stats=stats))
    both = [storage.load_shard(tmp_path / name) for name in ("a", "b")]
    for shown, stats in ((both, {"requests": 7, "replies": 4}), (shards, None)):
        storage.save(tmp_path, shown, texts=lambda ids: [str(i) for i in ids], metadata={})
        assert storage.read_metadata(tmp_path).get("candidate_stats") == stats


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("choice", lambda v: [9, *v[1:]], r"column 'choice' must be in 0\.\.1, got 0\.\.9"),
        ("choice", lambda v: [None, *v[1:]], "column 'choice' must hold whole numbers and no gaps"),
        ("action", lambda v: [[30, 0], *v[1:]], r"column 'action' must be in 0\.\.7, got 0\.\.30"),
        ("reward", lambda v: [float("nan"), *v[1:]], "column 'reward' must hold finite numbers"),
        ("reward", lambda v: [str(r) for r in v], "column 'reward' must hold finite numbers"),
        ("behaviour_probability", lambda v: [0.0, *v[1:]], "column 'behaviour_probability' must be above 0"),
        ("terminated", lambda v: [False] * len(v), "column 'terminated' must be true at turn 2"),
    ],
)
def test_values_that_no_conversation_has_are_refused(stored, column, values, said):
    path = stored / "turns.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(column)
    changed = values(table.column(column).to_pylist())
    kept = pa.array(changed, type=table.schema.field(column).type if column == "action" else None)
    pq.write_table(table.set_column(place, column, kept), path)
    with pytest.raises(ValueError, match=f"turns.parquet is broken: {said}"):
        storage.load(stored)
