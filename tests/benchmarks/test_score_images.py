"""One scorer's numbers for the pictures of a gathered dataset, by the command."""

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks import fit_user_model, score_images
from pasta_gym.datasets import open_dataset
from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.user_model.gather import gather
from pasta_gym.user_model.predictors import read_scores
from tests.benchmarks.test_fit_user_model import PictureShop, Shop
from tests.datasets.formats import write_hpdv2
from tests.user_model.test_evaluation import small_data
from tests.user_model.test_scorers import aesthetic_state


@pytest.fixture
def hpd(tmp_path, monkeypatch):
    """Pictures in a published format without test prompts, and the words that name them to the command."""
    monkeypatch.setenv("PASTA_GYM_DATA", str(tmp_path))
    rows = [("a red fox", "1.jpg", "2.jpg"), ("a boat at sea", "3.jpg", "2.jpg"), ("Ein Bär", "4.jpg", "1.jpg")]
    train = [{"prompt": p, "image_path": list(images), "human_preference": [1, 0]} for p, *images in rows]
    folder = write_hpdv2(tmp_path / "hpdv2", train, test=[])
    return folder, ["data=preferences/hpdv2", "encoder=mini", f"cache={tmp_path / 'cache'}"]


def run(out, words, *given):
    score_images.main(["--scorer", "clip", "--out", str(out), *given, *words])
    return np.load(out)


def test_every_picture_is_scored_for_the_prompt_it_was_judged_for(hpd, tmp_path, capsys):
    folder, words = hpd
    table = run(tmp_path / "scores" / "clip.npy", words)
    encoder = ClipEncoder.mini()
    data = gather(open_dataset("hpdv2", folder=folder), encoder, tmp_path / "again")
    assert table.shape == (len(data.image_embeddings),)
    text, image = (np.asarray(t, dtype=np.float64) for t in (data.prompt_embeddings, data.image_embeddings))
    prompts, repeated = score_images.prompts_of_images(data)
    assert (prompts.tolist(), repeated) == ([0, 0, 1, 2], 2)
    cosines = (text[prompts] * image).sum(axis=1)
    cosines /= np.linalg.norm(text[prompts], axis=1) * np.linalg.norm(image, axis=1)
    assert table == pytest.approx(cosines, abs=1e-5)
    assert len(set(table.round(6))) == len(table)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["clip.npy", "clip.npy.json"]
    said = capsys.readouterr().out
    assert f"CLIP score of {len(table)} of {len(table)} images" in said
    assert "then: python -m benchmarks.fit_user_model data=preferences/hpdv2 encoder=mini " in said
    assert f" +scores.clip={tmp_path / 'scores' / 'clip.npy'}\n" in said
    read = lambda data: read_scores(tmp_path / "scores" / "clip.npy", len(table), data.images_sha256)  # noqa: E731
    assert np.array_equal(read(data), table)
    turned = open_dataset("hpdv2", folder=folder)
    turned.comparisons = lambda: reversed(list(open_dataset("hpdv2", folder=folder).comparisons()))
    with pytest.raises(ValueError, match=r"clip\.npy holds scores of other images, or in another order, than those"):
        read(gather(turned, encoder, tmp_path / "again"))


def test_scorers_are_found_by_name_with_their_weights(hpd, tmp_path, monkeypatch):
    _, words = hpd
    with pytest.raises(SystemExit, match=r"HPS_v2\.1_compressed\.pt is missing"):
        score_images.main(["--scorer", "hpsv2.1", "--folder", str(tmp_path), "--out", str(tmp_path / "a.npy"), *words])
    assert not (tmp_path / "cache").exists()  # nothing was read before
    monkeypatch.setattr(ClipEncoder, "pretrained", ClipEncoder.mini)
    state = aesthetic_state(64, np.random.default_rng(0))
    save_file(state, tmp_path / "sac+logos+ava1-l14-linearMSE.safetensors")
    given = ["--scorer", "aesthetic", "--folder", str(tmp_path), "--out", str(tmp_path / "a.npy")]
    score_images.main([*given, *words])
    kept = np.load(tmp_path / "a.npy")
    state["layers.7.bias"] += float("nan")
    save_file(state, tmp_path / "sac+logos+ava1-l14-linearMSE.safetensors")
    with pytest.raises(SystemExit, match=r"aesthetic V2 gives image 0 for the prompt 'a red fox' nan.*weights broken"):
        score_images.main([*given, *words])
    assert np.array_equal(np.load(tmp_path / "a.npy"), kept)  # whole, or as it was


def test_the_card_of_a_fit_on_the_same_data_takes_the_scores(tmp_path, monkeypatch):
    from hydra import compose, initialize_config_dir

    from tests.benchmarks.test_fit_user_model import SMALL

    monkeypatch.setattr(fit_user_model, "open_dataset", lambda kind, **options: PictureShop())
    table = run(tmp_path / "clip.npy", [f"cache={tmp_path / 'cache'}"])
    assert table.shape == (64,)
    assert np.isfinite(table).all()
    with initialize_config_dir(str(fit_user_model.CONFIG_FOLDER), version_base="1.3"):
        places = [f"out={tmp_path / 'users'}", f"cache={tmp_path / 'cache'}", f"+scores.own={tmp_path / 'clip.npy'}"]
        settings = fit_user_model.read_settings(compose("fit_user_model", [*SMALL, *places, "one_type=false"]))
    held = fit_user_model.UserModel.load(fit_user_model.run(settings)).metadata["held_out_baselines"]
    # The mini world's CLIP is the frozen encoder, whose cosine is the card's CLIP score but for the scale.
    for name in ("pair_accuracy", "choice_accuracy", "pickapic_script"):
        found = [held[row].get(name, held[row]["50"].get(name)) for row in ("own", "CLIP score")]
        assert found[0] == pytest.approx(found[1])


def test_data_without_pictures_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_user_model, "open_dataset", lambda kind, **options: Shop())
    with pytest.raises(SystemExit, match=r"image .*0a0'\) comes as an embedding, without pixels.*no scorer can look"):
        run(tmp_path / "clip.npy", [f"cache={tmp_path / 'cache'}"])
    monkeypatch.undo()
    limits = [f"limits.max_{kind}=0" for kind in ("comparisons", "ratings", "sessions")]
    with pytest.raises(SystemExit, match="mini shows no pictures; are its limits 0"):
        run(tmp_path / "clip.npy", [f"cache={tmp_path / 'cache'}", *limits])
    assert not (tmp_path / "clip.npy").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--scorer", "taste", "--out", "a.npy"], "choose from"),
        (["--scorer", "clip", "--out", "a.csv"], "end in .npy"),
        (["--scorer", "clip", "--out", "a.npy", "data=preferences/nope"], "preferences/pickapic"),
    ],
)
def test_bad_arguments(given, words, capsys):
    with pytest.raises(SystemExit):
        score_images.main(given)
    assert words in capsys.readouterr().err


def test_images_get_the_first_prompt_they_were_judged_for():
    slates = [[[1, 9], [2, 8], [0, 0]]]
    data = small_data([[0, 1], [3, 1]], [1, 1], [0, 0], rankings=[[3, 4, 5]], sessions=slates, choices=[[0, 1, -1]])
    data.pair_prompts[:] = [1, 2]
    data.ranking_prompts[:] = 3
    data.session_prompts[:] = 4
    found, repeated = score_images.prompts_of_images(data)
    # Image 1 is in both pairs and a slate, 3 in a pair and the list; the turn without a choice counts for nothing.
    assert found.tolist() == [1, 1, 4, 2, 3, 3, -1, -1, 4, 4, -1]
    assert repeated == 2
    found, repeated = score_images.prompts_of_images(small_data())
    assert (set(found.tolist()), repeated) == ({-1}, 0)


def test_what_no_label_is_about_is_left_out(monkeypatch):
    class Pictures:
        prompts = ["cat", "dog"]

        def images(self, rows):
            return [b"" for _ in rows]

    class Letters:
        name = "letters"

        def scores(self, prompts, images):
            return np.array([ord(p[0]) for p in prompts], dtype=float)

    monkeypatch.setattr(score_images, "decode", lambda picture: picture)
    table = score_images.score_pictures(Letters(), Pictures(), np.array([1, -1, 0]))
    assert np.array_equal(table, [ord("d"), np.nan, ord("c")], equal_nan=True)
