"""Every dataset configuration that is shipped, on files of the real formats, through the one command."""

import shutil

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from benchmarks import fit_user_model as command
from pasta_gym.datasets import DatasetError
from pasta_gym.mini.pool_pictures import write_pictures
from pasta_gym.user_model.data import SPLITS
from pasta_gym.user_model.user_model import UserModel
from tests.datasets.formats import pickapic_row, write_hpdv2, write_labels, write_pickapic, write_simulacra
from tests.datasets.pasta_files import rows_of, write_images, write_rows

SHIPPED = sorted(path.stem for path in (command.CONFIG_FOLDER / "data" / "preferences").glob("*.yaml"))
RECORDS = {
    "hpdv2": [3 + 3, 0, 0],
    "mini": [4, 3, 3],
    "mini_pictures": [4, 3, 3],
    "paper": [3 + 3 + 8 + 2 + 4, 4, 3],
    "pasta": [0, 0, 3],
    "pickapic": [8 + 2 + 4, 0, 0],
    "simulacra": [0, 4, 0],
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The public datasets' files in the folders that the configurations name; the pictures' folder of HPD v2."""
    data = tmp_path / "public"
    monkeypatch.setenv("PASTA_GYM_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    write_hpdv2(data / "hpdv2")
    write_pickapic(data / "pickapic", [[pickapic_row(i) for i in range(8)]])
    write_pickapic(data / "pickapic", [[pickapic_row(i, user_id=10) for i in (20, 21)]], "validation")
    # User 1 of the training shards is in the test shards too.
    users = (20, 20, 1, 1)
    write_pickapic(data / "pickapic", [[pickapic_row(i + 30, user_id=u) for i, u in enumerate(users)]], "test")
    write_simulacra(data / "simulacra")
    write_rows(data / "pasta" / "sessions.jsonl", rows_of("turns", "path"), "jsonl")
    write_images(data / "pasta")
    write_labels(data / "pictured")
    write_pictures(data / "pictured" / "pictures", 0, np.zeros((3, 10, 4, 4, 3), dtype=np.uint8))
    write_labels(tmp_path / "data")
    shutil.move(tmp_path / "data" / "labels", tmp_path / "data" / "labels_world_0")
    return data / "hpdv2" / "train"


def settings(*overrides):
    with initialize_config_dir(str(command.CONFIG_FOLDER), version_base="1.3"):
        return command.read_settings(compose("fit_user_model", list(overrides)))


def test_the_shipped_ones_are_known():
    assert sorted(RECORDS) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_opens_the_files_it_names(files, name):
    given = settings(f"data=preferences/{name}").resolved
    assert given["data_name"] == name
    opened = [command.open_source(source) for source in given["data"]]
    streams = ("comparisons", "ratings", "sessions")
    assert [sum(len(list(getattr(dataset, s)())) for dataset in opened) for s in streams] == RECORDS[name]
    assert len({dataset.name for dataset in opened}) == len(opened)
    # Whoever decodes pictures while labels are read has a limit of its own, and the command's would not be reached.
    assert not any(dataset.report.images for dataset in opened)


@pytest.fixture
def gathered(files, tmp_path):
    """What a configuration gathers: its data, and the raters of each source and split."""

    def gather(*overrides):
        given = settings(*overrides, "encoder=mini", f"cache={tmp_path / 'cache'}")
        sources = [command.open_source(source) for source in given.resolved["data"]]
        data = command.gather_data(given, sources, command.frozen_encoder(given), None)
        splits = {source.name: data.rater_splits[source.raters] for source in data.sources}
        return data, {name: {SPLITS[split] for split in found} for name, found in splits.items()}

    return gather


@pytest.mark.parametrize("name", ["hpdv2", "pickapic", "paper"])
def test_published_splits_stay_as_they_are(gathered, name):
    data, found = gathered(f"data=preferences/{name}", "+splits.seed=1")
    published = {"hpdv2": "train", "hpdv2_test": "test", "pickapic": "train", "pickapic_validation": "validation",
                 "pickapic_test": "test"}  # fmt: skip
    expected = {source: {split} for source, split in published.items() if source.startswith(name) or name == "paper"}
    assert {source: splits for source, splits in found.items() if source in published} == expected
    raters = {source.name: source.raters for source in data.sources}
    if name != "hpdv2":
        # User 1's labels are tested on, and nothing of what this person said in the training shards is trained on.
        assert [len(raters[f"pickapic{part}"]) for part in ("", "_validation", "_test")] == [2, 1, 2]
        assert np.isin(data.pair_raters, raters["pickapic"]).sum() == 8 - 3
    if name != "pickapic":
        assert np.isin(data.ranking_raters, raters["hpdv2_test"]).all()
        assert len(data.rankings) == 2


@pytest.mark.parametrize("place", ["pickapic/data/test-*", "pickapic/data/validation-*", "hpdv2/test.json"])
def test_a_published_file_that_is_not_there_is_named_before_anything_is_embedded(files, monkeypatch, place):
    (path,) = files.parents[1].glob(place)
    path.unlink()
    monkeypatch.setattr(command, "frozen_encoder", lambda *a: pytest.fail("an encoder was loaded"))
    with pytest.raises(DatasetError, match=rf"{path.name.split('.')[0].split('-')[0]}"):
        command.run(settings("data=preferences/paper"))


TINY = [
    "encoder=mini",
    "user_model=mini",
    "user_model.phase2=false",
    "one_type=false",
    "++user_model.em.n_types=2",
    "++user_model.em.steps=2",
    "++user_model.em.trial_steps=1",
    "++user_model.em.restarts=1",
    "++user_model.em.sorting=null",
    "+splits.seed=1",
]


def test_the_commands_own_limit_decides_on_bad_pictures(files, tmp_path):
    (files / "00000002.jpg").write_bytes(b"no picture")  # one of three pictures of HPD v2
    given = ["data=preferences/paper", *TINY, f"out={tmp_path / 'users'}", f"cache={tmp_path / 'cache'}"]
    with pytest.raises(DatasetError, match=r"1 of 3 images of hpdv2 .* share of 0\.01 that max_bad_images allows"):
        command.run(settings(*given))
    with pytest.raises(DatasetError, match=r"share of 0\.3 that max_bad_images allows"):
        command.run(settings(*given, "limits.max_bad_images=0.3"))
    model = UserModel.load(command.run(settings(*given, "limits.max_bad_images=0.4")))
    counts = model.metadata["data"]["counts"]
    # Two of HPD v2's three pairs show the picture.
    assert (counts["pairs"], counts["rankings"]) == (1 + 1 + (8 - 3) + 2 + 4, 2)
    assert (counts["ratings"], counts["sessions"]) == (4, 3)
    assert model.metadata["data"]["sources"][0]["verify_images"] is False
    assert "bad" in model.metadata["data"]["sources"][0]["report"]
    assert np.isfinite(model.temperature)
    held_out = model.metadata["held_out"]
    # Pick-a-Pic's published pairs alone: two users', the larger half each; HPD v2's rankings here are short.
    assert held_out["by_source"]["pickapic_test"]["pickapic_pairs"] == 2
    assert not {"pickapic", "pickapic_validation", "hpdv2"} & set(held_out["by_source"])
    assert "the longest has 3" in held_out["left_out"]["HPS Spearman"]
    card = (tmp_path / "users" / "card.md").read_text()
    assert "| Pick-a-Pic, the paper's, pickapic_test | " in card
    assert "- pickapic: pickapic_test, test alone\n" in card


def test_data_that_are_misspelt_are_answered_with_those_for_a_fit():
    command.require_named_data(["out=x", "data=preferences/paper", "data=[{kind: x}]", "+data.0.path=y"])
    for name in ("preferences/nope", "pickapic", "simulated"):
        with pytest.raises(
            ValueError, match=f"data must be one of .*preferences/mini, .*preferences/pickapic.*'{name}'"
        ):
            command.require_named_data([f"data={name}"])
        with pytest.raises(ValueError, match=rf"'{name}'"):
            command.require_named_data([f"data=preferences/mini,{name}"])
    for others in (["--config-dir", "mine"], ["--config-dir=mine"], ["hydra.searchpath=[file://mine]"]):
        command.require_named_data([*others, "data=preferences/own"])
    command.require_named_data(["data=preferences/mini,preferences/pasta"])
