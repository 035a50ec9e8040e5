"""Weights that are missing, broken or of another shape say so and say what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.mini import clip, reader, sdxl, surrogate, weights


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


def _copied(tmp_path, part):
    folder = tmp_path / part
    shutil.copytree(weights.weights_directory() / part, folder)
    return folder, next(folder.glob("*.safetensors"))


def _flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _fill_with_zeros(path):
    save_file({k: torch.zeros_like(v) for k, v in load_file(path).items()}, path, metadata={"format": "pt"})


LOADERS = {
    "clip": clip.load_clip,
    "surrogate": surrogate.load_surrogate,
    "reader_eye": lambda folder: reader.load_reader("eye", folder),
    "reader_judge": lambda folder: reader.load_reader("judge", folder),
}


@pytest.mark.parametrize("harm", [_flip_a_byte, _fill_with_zeros])
@pytest.mark.parametrize("part", LOADERS)
def test_weights_of_the_right_shapes_that_are_not_those_of_their_card_are_refused(part, harm, tmp_path):
    folder, path = _copied(tmp_path, part)
    LOADERS[part](folder)
    harm(path)
    for load in (clip.load_clip, surrogate.load_surrogate, reader.load_reader):
        load.cache_clear()
    with pytest.raises(ValueError, match=rf"{path.name} are not those of card\.json \(.* reinstall pasta-gym"):
        LOADERS[part](folder)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name} are missing; reinstall"):
        LOADERS[part](folder)


def test_the_mini_clip_as_any_open_clip_encoder_is_that_of_its_card(tmp_path, monkeypatch):
    _, path = _copied(tmp_path, "clip")
    monkeypatch.setenv("PASTA_GYM_MINI_WEIGHTS", str(tmp_path))
    _flip_a_byte(path)
    with pytest.raises(ValueError, match=r"are not those of card\.json"):
        ClipEncoder.mini(device="cpu")


def test_weights_of_ones_own_load_with_the_card_of_the_training_command_or_with_none(tmp_path):
    network = surrogate.SurrogateNetwork()
    folder, path = _copied(tmp_path, "surrogate")
    weights.save_weights(network, path)
    weights.write_card(folder, {"part": "surrogate"})  # as `python -m pasta_gym.mini.train` does
    own = surrogate.load_surrogate(folder).network
    torch.testing.assert_close(own.mean.weight, network.mean.weight, atol=1e-3, rtol=1e-3)
    _fill_with_zeros(path)
    (folder / "card.json").unlink()
    surrogate.load_surrogate.cache_clear()
    assert not surrogate.load_surrogate(folder).network.mean.weight.any()


def test_a_card_that_lists_no_files_is_named(tmp_path):
    weights.save_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")
    (tmp_path / "card.json").write_text('{"part": "test"}')
    with pytest.raises(ValueError, match=r"card\.json lists no files; reinstall .* without the old card\.json"):
        weights.load_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")


def test_a_broken_pipeline_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be loaded"):
        sdxl.load_pipeline(tmp_path)
