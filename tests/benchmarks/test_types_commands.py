import numpy as np
import pytest

from benchmarks import identifiability, type_gallery
from pasta_gym.mini import grammar
from pasta_gym.types import Images
from tests.user_model.test_types import DIM, make_model

TRAINED = {"frozen_sha256": "a" * 64, "sha256": "c" * 64}


def test_prompts_to_paint_are_of_the_test_split_with_every_attribute():
    subjects, full = type_gallery.prompts_to_paint(40, np.random.default_rng(0))
    values = grammar.slot_values(full)
    assert (values > 0).all()
    assert np.array_equal(grammar.slot_values(subjects)[:, grammar.SUBJECT], values[:, grammar.SUBJECT])
    assert (grammar.slot_values(subjects)[:, list(grammar.ATTRIBUTES)] == 0).all()


def test_words_are_what_favourites_have_more_of():
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(1, c, 400) for c in grammar.CARDINALITIES], axis=1)
    night = 1 + grammar.SLOTS[grammar.LIGHT].values.index("night")
    neon = 1 + grammar.SLOTS[grammar.PALETTE].values.index("neon")
    taste = 2.0 * (values[:, grammar.LIGHT] == night) + 1.0 * (values[:, grammar.PALETTE] == neon)
    assert type_gallery.favourite_words(taste + 1e-3 * rng.random(400), values, 2) == ["night", "neon"]
    assert type_gallery.favourite_words(rng.random(4000), np.tile(values, (10, 1))) == []


def test_the_gallery_is_drawn(monkeypatch, tmp_path, capsys):
    model = make_model(3, prior=[0.2, 0.5, 0.3])

    class World:
        user_model = None

        class text_encoder:  # noqa: N801
            @staticmethod
            def embed(ids):
                return np.ones((len(ids), DIM), dtype=np.float32)

        def image_generator(self, name):
            rng = np.random.default_rng(1)
            return type(
                "Paints",
                (),
                {
                    "encoder_sha256": "a" * 64,
                    "generate": lambda s, p, k: Images(
                        rng.standard_normal((*k.shape, DIM)).astype(np.float32),
                        None if name == "surrogate" else rng.integers(256, size=(*k.shape, 8, 8, 3), dtype=np.uint8),
                    ),
                },
            )()

        def users(self, given):
            return model

    monkeypatch.setattr(type_gallery, "make_world", lambda name: World())
    model.metadata["encoder"] = TRAINED
    with pytest.raises(SystemExit, match="this gallery reads embeddings of the frozen encoder aaaaaaaaaaaaaaaa"):
        type_gallery.main(["--n", "30", "--out", str(tmp_path / "types.png")])
    model.metadata["encoder"] = {"frozen_sha256": "b" * 64, "sha256": "b" * 64}
    with pytest.raises(SystemExit, match="embeddings of encoder bbbbbbbbbbbbbbbb, but images='painter' gives those of"):
        type_gallery.main(["--n", "30", "--images", "painter", "--out", str(tmp_path / "types.png")])
    assert not (tmp_path / "types.png").exists()
    model.metadata["encoder"] = {"frozen_sha256": "a" * 64, "sha256": "a" * 64}
    type_gallery.main(["--n", "30", "--out", str(tmp_path / "types.png")])
    assert (tmp_path / "types.png").read_bytes().startswith(b"\x89PNG")
    assert "5 best of 30 pictures for each of 3 types" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        type_gallery.main(["--n", "30", "--images", "surrogate", "--out", str(tmp_path / "types.png")])


def test_the_same_type_is_found_in_another_fit():
    rng = np.random.default_rng(3)
    slates = rng.standard_normal((30, DIM)).astype(np.float32), rng.standard_normal((30, 4, 2, DIM)).astype(np.float32)
    model = make_model(3)
    null, matched = identifiability.same_type_divergences(model, make_model(3), *slates)
    assert matched.tolist() == [0, 1, 2]
    assert null == pytest.approx(0, abs=1e-9)
    others, _ = identifiability.same_type_divergences(model, make_model(3, seed=5), *slates)
    assert others.min() > 1e-3


@pytest.mark.parametrize("trained", ["first", "second"])
def test_types_that_see_pictures_by_themselves_are_not_told_apart_by_embeddings(trained, monkeypatch, tmp_path):
    def load(folder):
        model = make_model(3)
        model.metadata["encoder"] = TRAINED if folder.name == trained else {}
        return model

    monkeypatch.setattr(identifiability.UserModel, "load", load)
    monkeypatch.setattr(identifiability, "load", lambda folder: None)
    monkeypatch.setattr(identifiability, "identifiability", lambda *a: pytest.fail("computed for nothing"))
    with pytest.raises(SystemExit, match="this analysis reads embeddings of the frozen encoder"):
        identifiability.main(["--data", "data", "--model", "first", "--second", "second"])


def test_figures_of_types_that_see_pictures_by_themselves_are_refused(monkeypatch, tmp_path):
    from pasta_gym.user_model import figures

    model = make_model(3)
    model.metadata["encoder"] = TRAINED
    monkeypatch.setattr(figures.UserModel, "load", lambda folder: model)
    with pytest.raises(ValueError, match="this command reads embeddings of the frozen encoder"):
        figures.all_figures(tmp_path, tmp_path)


def test_matrices_as_tables():
    table = identifiability.matrix_table("both", np.array([[0, 12], [12, 0]]))
    assert table.splitlines() == ["| both | 0 | 1 |", "|---|---|---|", "| 0 | 0 | 12 |", "| 1 | 12 | 0 |"]
    assert identifiability.matrix_table("d", np.array([[0.5]])).endswith("| 0 | 0.500 |")
