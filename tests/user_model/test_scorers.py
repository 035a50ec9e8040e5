import pathlib
import pickle
import sys
import types

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.encoders.open_clip_models import import_open_clip
from pasta_gym.torchvision_ops import ensure_importable
from pasta_gym.user_model import scorers

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PROMPTS = ["a red fox", "a boat at sea", "a red fox"]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(256, size=(40, 52, 3), dtype=np.uint8)) for _ in PROMPTS]


@pytest.fixture(scope="module")
def mini():
    return ClipEncoder.mini(device="cpu")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_clip_score_is_a_cosine(mini, pictures):
    found = scorers.ClipScore(mini).scores(PROMPTS, pictures)
    expected = (unit(mini.encode_texts(PROMPTS)) * unit(mini.encode_images(pictures))).sum(axis=1)
    assert found == pytest.approx(expected, abs=1e-6)
    assert scorers.make_scorer("clip").scores([], []).shape == (0,)
    with pytest.raises(ValueError, match="got 3 prompts and 1 images"):
        scorers.ClipScore(mini).scores(PROMPTS, pictures[:1])


@pytest.fixture(scope="module")
def pickscore_folder(tmp_path_factory):
    ensure_importable()
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("pickscore")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 4096, "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    from pasta_gym.mini import weights

    shipped = weights.weights_directory() / "sdxl" / "tokenizer"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((shipped / file).read_bytes())
    return folder


def test_pickscore_is_on_the_scale_of_a_logit(pickscore_folder, pictures):
    scorer = scorers.PickScore(pickscore_folder)
    found = scorer.scores(PROMPTS, pictures)
    scale = float(scorer._model.logit_scale.detach().exp())
    assert scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert (np.abs(found) <= scale).all()
    # A factor on the weights' logit scale is a factor on the scores.
    with torch.no_grad():
        scorer._model.logit_scale += np.log(7.0)
    assert scorer.scores(PROMPTS, pictures) == pytest.approx(7 * found, rel=1e-4)
    assert len(set(found.round(6))) == 3
    assert scorer.scores(["a red fox " * 40], pictures[:1]).shape == (1,)  # longer than the context
    assert found[2] == pytest.approx(scorers.PickScore(pickscore_folder).scores(PROMPTS[2:], pictures[2:])[0], rel=1e-4)


def test_pickscore_says_which_file_to_fetch(pickscore_folder, tmp_path):
    with pytest.raises(ValueError, match=r"config.json is missing; fetch it with: hf download yuvalkirstain"):
        scorers.PickScore(tmp_path)
    for file in pickscore_folder.iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"preprocessor_config.json is missing; .* laion/CLIP-ViT-H-14"):
        scorers.PickScore(tmp_path)


@pytest.fixture(scope="module")
def hps_state():
    torch.manual_seed(1)
    return import_open_clip().CLIP(**TINY_CLIP).state_dict()


def test_hps_is_a_cosine_not_times_100(hps_state, pictures, tmp_path):
    torch.save({"state_dict": hps_state, "epoch": 3}, tmp_path / "HPS_v2.1_compressed.pt")
    found = scorers.HPSv2(tmp_path, version="v2.1", model_config=TINY_CLIP).scores(PROMPTS, pictures)
    open_clip = import_open_clip()
    model = open_clip.CLIP(**TINY_CLIP).eval()
    model.load_state_dict(hps_state)
    prepare = open_clip.image_transform(32, is_train=False)
    with torch.inference_mode():
        image = model.encode_image(torch.stack([prepare(p) for p in pictures])).numpy()
        text = model.encode_text(open_clip.SimpleTokenizer(context_length=20)(PROMPTS)).numpy()
    assert found == pytest.approx((unit(image) * unit(text)).sum(axis=1), abs=1e-5)
    assert (np.abs(found) <= 1).all()
    # The same weights as safetensors give the same, and come first.
    save_file({k: v.clone() for k, v in hps_state.items()}, tmp_path / "HPS_v2.1_compressed.safetensors")
    (tmp_path / "HPS_v2.1_compressed.pt").write_bytes(b"")
    again = scorers.HPSv2(tmp_path, version="v2.1", model_config=TINY_CLIP)
    assert again.scores(PROMPTS, pictures) == pytest.approx(found)
    assert again.name == "HPS v2.1"


def test_hps_asks_for_a_version_and_its_file(hps_state, tmp_path):
    with pytest.raises(ValueError, match=r"version of HPS must be one of v2\.0, v2\.1, got '2\.1'"):
        scorers.HPSv2(tmp_path, version="2.1")
    with pytest.raises(ValueError, match=r"HPS_v2_compressed\.pt is missing.*hf download xswu/HPSv2 HPS_v2_comp"):
        scorers.HPSv2(tmp_path, version="v2.0")
    less = {k: v for k, v in hps_state.items() if k != "logit_scale"}
    torch.save({"state_dict": less}, tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(ValueError, match=r"does not fit the architecture.*logit_scale"):
        scorers.HPSv2(tmp_path, version="v2.0", model_config=TINY_CLIP)


class Harmful:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("ran"),)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": Harmful()}}, tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(ValueError, match="it can run code"):
        scorers.HPSv2(tmp_path, version="v2.0", model_config=TINY_CLIP)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "HPS_v2_compressed.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="cannot read"):
        scorers.HPSv2(tmp_path, version="v2.0", model_config=TINY_CLIP)
    torch.save([torch.ones(1)], tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        scorers.HPSv2(tmp_path, version="v2.0", model_config=TINY_CLIP)


def aesthetic_state(width, rng):
    sizes = [width, 10, 8, 6, 4, 1]
    layers = zip((0, 2, 4, 6, 7), sizes[:-1], sizes[1:], strict=True)
    state = {}
    for place, columns, rows in layers:
        state[f"layers.{place}.weight"] = torch.from_numpy(rng.standard_normal((rows, columns)).astype(np.float32))
        state[f"layers.{place}.bias"] = torch.from_numpy(rng.standard_normal(rows).astype(np.float32))
    return state


def test_aesthetic_score_is_linear_in_the_unit_embedding(mini, pictures, tmp_path):
    state = aesthetic_state(64, np.random.default_rng(0))
    torch.save(state, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    found = scorers.AestheticV2(tmp_path, mini).scores(PROMPTS, pictures)
    x = unit(mini.encode_images(pictures)).astype(np.float64)
    for place in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{place}.weight"].double().numpy().T + state[f"layers.{place}.bias"].double().numpy()
    assert found == pytest.approx(x[:, 0], rel=1e-4)
    assert found == pytest.approx(scorers.AestheticV2(tmp_path, mini).scores(["other"] * 3, pictures))


def test_aesthetic_weights_must_fit(mini, tmp_path):
    with pytest.raises(ValueError, match=r"linearMSE\.pth is missing.*curl -L"):
        scorers.AestheticV2(tmp_path, mini)
    file = tmp_path / "sac+logos+ava1-l14-linearMSE.safetensors"
    save_file(aesthetic_state(48, np.random.default_rng(0)), file)
    with pytest.raises(ValueError, match="embeddings of 48 numbers, and the encoder gives 64"):
        scorers.AestheticV2(tmp_path, mini)
    state = aesthetic_state(64, np.random.default_rng(0))
    del state["layers.6.weight"]
    save_file(state, file)
    with pytest.raises(ValueError, match=r"has no layers\.6\.weight"):
        scorers.AestheticV2(tmp_path, mini)


def test_image_reward_goes_through_its_package(monkeypatch, pictures, tmp_path):
    with pytest.raises(ValueError, match=r"ImageReward\.pt is missing.*THUDM/ImageReward"):
        scorers.ImageReward(tmp_path)
    for file in ("ImageReward.pt", "med_config.json"):
        (tmp_path / file).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(ValueError, match="pip install image-reward"):
        scorers.ImageReward(tmp_path)
    asked = []

    def load(path, device, med_config):
        asked.append((path, device, med_config))
        return types.SimpleNamespace(score=lambda prompt, image: (len(prompt) + image.width - 0.16717) / 1.03334)

    monkeypatch.setitem(sys.modules, "ImageReward", types.SimpleNamespace(load=load))
    scorer = scorers.ImageReward(tmp_path)
    found = scorer.scores(PROMPTS, pictures)
    assert asked == [(str(tmp_path / "ImageReward.pt"), "cpu", str(tmp_path / "med_config.json"))]
    # 9 letters and 52 pixels are 61, before the scaling.
    assert found[0] == pytest.approx((61 - 0.16717) / 1.03334)
    assert scorer.raw(found) == pytest.approx([61, 65, 61])


def test_scorers_by_name(pickscore_folder, tmp_path):
    assert scorers.make_scorer("pickscore", pickscore_folder).name == "PickScore"
    with pytest.raises(ValueError, match="scorer must be one of clip, pickscore"):
        scorers.make_scorer("taste")
    with pytest.raises(ValueError, match=r"hpsv2\.1 needs the folder of its weights"):
        scorers.make_scorer("hpsv2.1")
    with pytest.raises(ValueError, match=r"HPS_v2\.1_compressed\.pt is missing"):
        scorers.make_scorer("hpsv2.1", tmp_path)
