"""The encoder gives the model's own embeddings, in any batch, from any source, and says what it will not load."""

import io
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save, save_file

from pasta_gym.encoders.clip_encoder import ClipEncoder, decode
from pasta_gym.encoders.embedding_cache import BadImagesError, EmbeddingCache
from pasta_gym.encoders.open_clip_models import import_open_clip
from pasta_gym.mini.clip import load_clip

open_clip = import_open_clip()

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["a red fox", "an oil painting of a harbour at night", "love"]


def picture(seed, size=(40, 32), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG"):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model in open_clip's own layout."""
    root = tmp_path_factory.mktemp("models") / "tiny"
    root.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = open_clip.CLIP(**TINY)
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, root / "open_clip_model.safetensors")
    (root / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": PREPROCESS}))
    return root


@pytest.fixture(scope="module")
def tiny(folder):
    return ClipEncoder.from_files(folder, device="cpu", batch_size=3, workers=2)


@pytest.fixture(scope="module")
def mini():
    return ClipEncoder.mini(device="cpu")


def test_the_mini_clip_embeds_as_the_mini_world_does(mini):
    pictures = [picture(i, (64, 64)) for i in range(5)]
    expected = load_clip().encode_images(np.stack([np.asarray(p) for p in pictures]))
    assert np.abs(expected).max() > 0.1
    assert np.allclose(mini.encode_images(pictures), expected, atol=1e-5)
    assert np.allclose(mini.encode_images([encoded(p) for p in pictures]), expected, atol=1e-5)
    texts = ["a photo of a cat", "a watercolour dog in the snow", ""]
    assert np.allclose(mini.encode_texts(texts), load_clip().encode_texts(texts), atol=1e-5)
    assert mini.embedding_dim == 64


def test_the_mini_clip_takes_pictures_of_any_size(mini):
    large = picture(1, (64, 64)).resize((192, 128), PIL.Image.Resampling.NEAREST)
    square = large.crop((32, 0, 160, 128)).resize((64, 64), PIL.Image.Resampling.BICUBIC)
    fitted, cut = mini.encode_images([large])[0], mini.encode_images([square])[0]
    assert np.linalg.norm(fitted - cut) < 0.01 * np.linalg.norm(cut)


def test_embeddings_are_the_models_own_before_normalisation(tiny, folder):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pictures = [picture(i, (50, 34)) for i in range(4)]
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([transform(p) for p in pictures])).numpy()
        texts = model.encode_text(tokenizer(TEXTS)).numpy()
    assert np.allclose(tiny.encode_images(pictures), images, atol=1e-5)
    assert np.allclose(tiny.encode_texts(TEXTS), texts, atol=1e-5)
    assert np.abs(np.linalg.norm(images, axis=1) - 1).min() > 0.01
    assert tiny.encode_images(pictures).dtype == np.float32


def test_an_embedding_does_not_depend_on_its_batch(tiny):
    pictures = [picture(i) for i in range(8)]
    together = tiny.encode_images(pictures)
    assert np.allclose(together, np.concatenate([tiny.encode_images([p]) for p in pictures]), atol=1e-5)
    assert np.allclose(together[::-1], tiny.encode_images(pictures[::-1]), atol=1e-5)
    alone = np.concatenate([tiny.encode_texts([t]) for t in TEXTS])
    assert np.allclose(tiny.encode_texts(TEXTS), alone, atol=1e-5)
    assert np.linalg.norm(together[0] - together[1]) > 1e-3


def test_half_precision_is_near_and_another_encoder(tiny, folder):
    half = ClipEncoder.from_files(folder, device="cpu", dtype="bfloat16")
    pictures = [picture(i) for i in range(4)]
    exact, near = tiny.encode_images(pictures), half.encode_images(pictures)
    assert near.dtype == np.float32
    assert np.linalg.norm(exact - near, axis=1).max() < 0.03 * np.linalg.norm(exact, axis=1).max()
    assert not np.array_equal(exact, near)
    assert half.fingerprint != tiny.fingerprint


def test_modes_and_formats_give_the_same_picture(tiny):
    grey = picture(2, mode="L")
    in_rgb = grey.convert("RGB")
    palette = in_rgb.convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=256)
    seen = [grey, in_rgb, in_rgb.convert("RGBA"), encoded(in_rgb), encoded(grey, "PNG"), palette]
    out = tiny.encode_images(seen)
    assert np.allclose(out, out[0], atol=1e-5)
    assert decode(encoded(in_rgb, "JPEG")).size == (40, 32)


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_bad_images_are_named_with_a_reason(tiny, cut):
    whole = encoded(picture(0))
    broken = b"no picture at all" if cut == -1 else whole[:cut]
    with pytest.raises(BadImagesError, match=r"2 images cannot be decoded \(image 1: .*no whole JPEG") as caught:
        tiny.encode_images([whole, broken, whole, broken])
    assert set(caught.value.reasons) == {1, 3}


def test_nothing_to_embed_is_no_error(tiny):
    assert tiny.encode_images([]).shape == (0, 16)
    assert tiny.encode_texts([]).shape == (0, 16)


def test_the_identity_is_plain_data_that_follows_the_content(tiny, folder, tmp_path):
    assert json.loads(json.dumps(tiny.identity)) == tiny.identity
    assert tiny.identity["embedding_dim"] == 16
    assert tiny.identity["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert tiny.identity["preprocessing"]["size"] in (32, [32, 32])
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert ClipEncoder.from_files(moved, device="cpu", batch_size=99).fingerprint == tiny.fingerprint
    config = {"model_cfg": TINY, "preprocess_cfg": {**PREPROCESS, "interpolation": "bicubic"}}
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    assert ClipEncoder.from_files(moved, device="cpu").fingerprint != tiny.fingerprint


def test_the_cache_takes_the_encoder(tiny, tmp_path):
    cache = EmbeddingCache.of(tiny, tmp_path)
    pictures = [encoded(picture(i)) for i in range(5)]
    rows = cache.embed_images(tiny, [*pictures, b"broken", pictures[0]], on_bad=lambda i, why: None)
    assert rows.tolist() == [0, 1, 2, 3, 4, -1, 0]
    assert np.allclose(cache.get(rows[:5]), tiny.encode_images(pictures), atol=1e-5)
    assert cache.fingerprint == tiny.fingerprint


def test_architecture_and_weights_may_come_apart(tiny, folder, monkeypatch):
    narrow = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "width": 16}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Narrow", narrow)
    weights = folder / "open_clip_model.safetensors"
    same = ClipEncoder.from_files(folder / "open_clip_config.json", weights, device="cpu")
    assert same.fingerprint == tiny.fingerprint
    with pytest.raises(ValueError, match=r"do not fit the model Narrow .*same architecture"):
        ClipEncoder.from_files("Narrow", weights, device="cpu")


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub cache with the tiny model in it, published under two names, one with QuickGELU."""
    entry = {"hf_hub": "somebody/tiny/", **PREPROCESS, "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", TINY)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-quickgelu", {**TINY, "quick_gelu": True})
    for name in ("Tiny", "Tiny-quickgelu"):
        tags = {"own": entry, "other": {**entry, "quick_gelu": False}, "pickled": {"url": "https://x.org/tiny.pt"}}
        tags["pickled"]["quick_gelu"] = tags["other"]["quick_gelu"] = name != "Tiny"
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    repository = tmp_path / "hub" / "models--somebody--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    shutil.copy(folder / "open_clip_model.safetensors", snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return str(tmp_path / "hub")


def test_a_published_model_is_read_from_the_local_cache(hub, folder):
    encoder = ClipEncoder.pretrained("Tiny-quickgelu", "own", cache_dir=hub, device="cpu")
    assert encoder.identity["model"] == "Tiny-quickgelu/own"
    assert encoder.identity["revision"] == COMMIT
    assert encoder.identity["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    model = open_clip.CLIP(**TINY, quick_gelu=True)
    open_clip.load_checkpoint(model, str(folder / "open_clip_model.safetensors"))
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.SimpleTokenizer(context_length=12)(TEXTS)).numpy()
    assert np.allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)
    pinned = ClipEncoder.pretrained("Tiny-quickgelu", "own", revision=COMMIT, cache_dir=hub, device="cpu")
    assert pinned.fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("Tiny", "own", "trained with QuickGELU .* use the model 'Tiny-quickgelu' with 'own'"),
        ("ViT-L-14", "openai", "use the model 'ViT-L-14-quickgelu' with 'openai'"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "'laion2b_s34b_b79k' for ViT-B-32-quickgelu; the tags are"),
        ("Tiny", "none", "has no weights 'none' for Tiny; the tags are own, other, pickled"),
        ("Tiny", "pickled", r"published as a pickle at https://x\.org/tiny\.pt.*weights_only=True"),
        ("ViT-L-15", "openai", "has no model 'ViT-L-15'; close ones are ViT-L-1"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "trained without QuickGELU .* no model of open_clip's fits them"),
    ],
)
def test_published_models_that_are_refused(hub, name, tag, message):
    with pytest.raises(ValueError, match=message):
        ClipEncoder.pretrained(name, tag, cache_dir=hub, device="cpu")


def test_weights_trained_without_quick_gelu_are_refused_the_other_way_round(hub, monkeypatch):
    entry = {"hf_hub": "somebody/tiny/", "quick_gelu": False}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-quickgelu", {"own": entry})
    with pytest.raises(ValueError, match=r"trained without QuickGELU .* use the model 'Tiny' with 'own'"):
        ClipEncoder.pretrained("Tiny-quickgelu", "own", cache_dir=hub, device="cpu")


def test_missing_weights_name_the_file_and_the_command_and_no_network_is_tried(tmp_path, monkeypatch):
    import huggingface_hub

    def fetched(*_, **__):
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    message = (
        r"open_clip_model\.safetensors of timm/vit_large_patch14_clip_224\.openai is not on this machine.*"
        r"hf download timm/vit_large_patch14_clip_224\.openai open_clip_model\.safetensors --cache-dir"
    )
    with pytest.raises(ValueError, match=message):
        ClipEncoder.pretrained(cache_dir=str(tmp_path), device="cpu")

    def unreachable(*_, **__):
        raise ConnectionError("no route\nmore lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ValueError, match=r"could not be fetched \(no route\); on a machine with a connection: hf"):
        ClipEncoder.pretrained(cache_dir=str(tmp_path), allow_download=True, device="cpu")


def test_allowing_downloads_asks_the_hub_for_the_same_files(hub, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(repository, file, **options):
        asked.append((repository, file, options["revision"]))
        return str(pathlib.Path(hub) / "models--somebody--tiny" / "snapshots" / COMMIT / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    ClipEncoder.pretrained("Tiny-quickgelu", "own", revision="v1", allow_download=True, cache_dir=hub, device="cpu")
    assert asked == [("somebody/tiny", "open_clip_model.safetensors", "v1")]


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_are_refused_with_the_conversion(folder, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"cos\nsystem\n")
    with pytest.raises(ValueError, match=r"are a pickle, and a pickle can run code; .*save_file"):
        ClipEncoder.from_files(folder / "open_clip_config.json", path, device="cpu")


def test_broken_files_are_named(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "broken")
    weights, config = root / "open_clip_model.safetensors", root / "open_clip_config.json"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"the weights .*open_clip_model\.safetensors do not fit .*cut short"):
        ClipEncoder.from_files(root, device="cpu")
    weights.unlink()
    with pytest.raises(ValueError, match=r"the weights .*open_clip_model\.safetensors are missing"):
        ClipEncoder.from_files(root, device="cpu")
    for content in ("{", "[]", '{"model_cfg": {"embed_dim": 3}}', '{"model_cfg": 7}'):
        config.write_text(content)
        with pytest.raises(ValueError, match=r"cannot read .*open_clip_config\.json .*expected open_clip's config"):
            ClipEncoder.from_files(root, device="cpu")
    config.unlink()
    with pytest.raises(ValueError, match=r"cannot read .*open_clip_config\.json"):
        ClipEncoder.from_files(root, device="cpu")
    with pytest.raises(ValueError, match=r"weights must be a \.safetensors file, got .*\.npz"):
        ClipEncoder.from_files(folder / "open_clip_config.json", tmp_path / "x.npz", device="cpu")


def test_a_text_tower_that_would_be_fetched_is_refused(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "foreign")
    config = {**TINY, "text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}}
    (root / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(ValueError, match=r"has a text tower of transformers \(roberta-base\)"):
        ClipEncoder.from_files(root, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
    ],
)
def test_bad_arguments(folder, options, message):
    with pytest.raises(ValueError, match=message):
        ClipEncoder.from_files(folder, **{"device": "cpu", **options})


def test_a_missing_gpu_is_said(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU; use cpu or auto"):
        ClipEncoder.from_files(folder, device="cuda")
    assert ClipEncoder.from_files(folder, device="auto").device.type == "cpu"


def test_a_model_is_written_with_other_weights_and_read_again(tiny, tmp_path):
    model = tiny.copy_model()
    assert all(weight.requires_grad for weight in model.parameters())
    assert not model.training
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1
    before = tiny.encode_texts(TEXTS)
    tiny.write_with_weights(save({k: v.contiguous().clone() for k, v in model.state_dict().items()}), tmp_path)
    found = ClipEncoder.from_files(tmp_path, device="cpu")
    for name in ("model_config", "preprocessing", "tokenizer"):
        assert found.identity[name] == tiny.identity[name], name
    with torch.no_grad():
        images = model.encode_image(tiny.prepare([picture(3), encoded(picture(4))])).numpy()
        texts = model.encode_text(tiny.tokenize(TEXTS)).numpy()
    assert np.allclose(found.encode_images([picture(3), picture(4)]), images, atol=1e-5)
    assert np.allclose(found.encode_texts(TEXTS), texts, atol=1e-5)
    assert np.array_equal(tiny.encode_texts(TEXTS), before)
    assert not np.allclose(texts, before, atol=1e-2)
    with pytest.raises(BadImagesError):
        tiny.prepare([b"no picture"])
