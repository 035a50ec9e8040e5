"""Weights that are missing, broken or of another shape say so and say what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pasta_gym.mini import reader, sdxl, weights


def test_a_saved_module_comes_back_within_half_precision(tmp_path):
    module = nn.Linear(3, 2)
    weights.save_weights(module, tmp_path / "w.safetensors")
    other = nn.Linear(3, 2)
    weights.load_weights(other, tmp_path / "w.safetensors")
    assert other.weight.dtype == torch.float32
    torch.testing.assert_close(other.weight, module.weight, atol=1e-3, rtol=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_missing_weights_name_the_file_and_the_cure(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.safetensors are missing; reinstall"):
        weights.read_tensors(tmp_path / "nothing.safetensors")


def test_truncated_weights_name_the_file_and_the_cure(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save_weights(nn.Linear(30, 20), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"w\.safetensors are no readable safetensors file"):
        weights.read_tensors(path)


@pytest.mark.parametrize("other", [nn.Linear(3, 5), nn.Conv2d(3, 2, 1), nn.Sequential(nn.Linear(3, 2))])
def test_weights_of_another_module_are_refused(tmp_path, other):
    weights.save_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="do not fit"):
        weights.load_weights(other, tmp_path / "w.safetensors")


def test_a_card_holds_versions_and_the_hash_of_every_file(tmp_path):
    weights.save_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")
    weights.write_card(tmp_path, {"part": "test"})
    card = weights.read_card(tmp_path)
    assert card["files"] == {"w.safetensors": weights.file_hash(tmp_path / "w.safetensors")}
    assert card["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_a_broken_card_names_the_file(tmp_path):
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ValueError, match=r"card\.json cannot be read"):
        weights.read_card(tmp_path)


def test_shipped_weights_are_those_of_their_cards_and_at_most_30_mb():
    folder = weights.weights_directory()
    files = sorted(folder.rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= 30e6
    cards = [weights.read_card(path.parent) for path in sorted(folder.rglob("card.json"))]
    listed = {
        path.parent / name: digest
        for path in folder.rglob("card.json")
        for name, digest in json.loads(path.read_text())["files"].items()
    }
    in_parts = [f for f in files if any(f.is_relative_to(c.parent) for c in folder.rglob("card.json"))]
    assert {f: weights.file_hash(f) for f in in_parts} == listed
    for card in cards:
        assert {"part", "script", "training", "data", "versions", "files", "figures"} <= card.keys()
        assert card["figures"]
    assert {path.parent.name for path in folder.rglob("card.json")} == {path.name for path in folder.iterdir()}


def test_figures_join_a_card_and_leave_the_rest(tmp_path):
    weights.write_card(tmp_path, {"part": "test", "figures": {"old": 1}})
    before = weights.read_card(tmp_path)
    weights.add_figures(tmp_path, {"accuracy": 0.5})
    assert weights.read_card(tmp_path) == {**before, "figures": {"accuracy": 0.5}}
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_an_unknown_reader_names_the_roles():
    with pytest.raises(ValueError, match=r"role must be one of \('eye', 'judge'\), got 'ear'"):
        reader.Reader("ear")


def test_a_folder_without_a_pipeline_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"model_index\.json is missing"):
        sdxl.load_pipeline(tmp_path)


@pytest.mark.parametrize("part", ["text_encoder_2/model.safetensors", "unet/diffusion_pytorch_model.safetensors"])
def test_a_pipeline_with_other_weights_than_its_card_names_is_refused(part, tmp_path):
    folder = tmp_path / "sdxl"
    shutil.copytree(weights.weights_directory() / "sdxl", folder)
    weights.check_files(folder)
    tensors = load_file(folder / part)
    del tensors[sorted(tensors)[0]]  # what is missing of a text encoder would be drawn at random
    save_file(tensors, folder / part, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"safetensors are not those of card\.json .* reinstall"):
        sdxl.load_pipeline(folder)
    (folder / part).unlink()
    with pytest.raises(ValueError, match=r"safetensors are missing; reinstall"):
        sdxl.load_pipeline(folder)


def test_a_broken_pipeline_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be loaded"):
        sdxl.load_pipeline(tmp_path)
