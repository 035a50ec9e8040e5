"""``docs/data.md`` and ``docs/problem.md`` against files and environments of this version."""

import pathlib
import re

import pyarrow.parquet as pq
import pytest

from pasta_gym.trajectories import CollectionConfig, collect, load, read_metadata

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "data.md").read_text()
SIZES = {"N": 3, "H": 5, "C": 25, "L": 4, "M": 4, "d": 64}
TYPES = {"halffloat": "float16", "double": "float64", "float": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return collect(CollectionConfig(n_episodes=3, shard_size=3), root=tmp_path_factory.mktemp("trajectories"))


def rows_after(start):
    table = PAGE.split(start)[1].split("\n\n|", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("name", ["episodes", "turns", "prompts"])
def test_the_columns_on_the_page_are_those_of_the_files(folder, name):
    stated = {}
    for column, kind, length, _ in rows_after(f"\n`{name}.parquet`, "):
        factors = [SIZES[letter] for letter in length.split()]
        n = 1
        for factor in factors:
            n *= factor
        stated[column.strip("`")] = (kind, n if factors else None)
    found = {}
    for field in pq.read_schema(folder / f"{name}.parquet"):
        is_list = hasattr(field.type, "list_size")
        value = str(field.type.value_type if is_list else field.type)
        found[field.name] = (TYPES.get(value, value), field.type.list_size if is_list else None)
    assert list(stated.items()) == list(found.items())


def test_the_arrays_on_the_page_are_those_that_are_loaded(folder):
    data = load(folder)
    sizes = {**SIZES, "P": len(data.prompt_embeddings)}
    stated = {
        name.strip("`"): (tuple(sizes[letter] for letter in re.findall(r"\w+", shape)), kind)
        for name, shape, kind in rows_after("\n## Arrays")
    }
    found = {name: (value.shape, str(value.dtype)) for name, value in vars(data).items() if name != "metadata"}
    assert stated == found


def test_the_page_names_what_the_metadata_holds(folder):
    metadata = read_metadata(folder)
    line = PAGE.split("**Provenance** in `metadata.json`:")[1]
    always, also = line.split("\n\n")[0].split("; ")
    assert set(re.findall(r"`(\w+)`", always)) == set(metadata)
    assert re.findall(r"`(\w+)`", also) == ["candidate_stats"]  # this world counts none
    assert folder.name == metadata["dataset_id"]


def test_seeds_of_collection_and_evaluation_are_as_the_page_says(folder):
    from pasta_gym.trajectories.environment import first_environment_seed

    assert "`2 s 2^20 + e`" in PAGE
    assert "`(2 s + 1) 2^20 + e`" in PAGE
    for seed in (0, 3):
        assert first_environment_seed(seed, stream=0) == 2 * seed * 2**20
        assert first_environment_seed(seed, stream=1) == (2 * seed + 1) * 2**20
    assert pq.read_table(folder / "episodes.parquet")["environment_seed"].to_pylist() == [0, 1, 2]
