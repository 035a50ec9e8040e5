"""A pool's pictures: kept while it is painted, painted again afterwards, and read one by one."""

import io
import shutil

import numpy as np
import PIL.Image
import pytest

from pasta_gym.mini import grammar, rater_data
from pasta_gym.mini.pool_pictures import PoolPictures, image_keys, pictures_path, write_pictures
from pasta_gym.mini.rater_sessions import PoolConfig, load_pool, paint_sessions
from pasta_gym.seeding import IMAGE, mix
from pasta_gym.types import Images
from tests.raters.test_rater_data import CONFIG, Toy, studio, values_in


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("painted")
    paint_sessions(studio(), folder / "pool", CONFIG, pictures=folder / "pictures", progress=False)
    return folder


def test_every_picture_shows_the_prompt_of_its_place(painted):
    pool, pictures = load_pool(painted / "pool")[0], PoolPictures(painted / "pictures")
    assert (len(pictures), pictures.images_per_session, pictures.picture_shape) == (32, 26, (8, 8, 3))
    for session in (0, 8, 9, 20, 23, 31):  # firsts and lasts of files among them
        shown = values_in(pictures.session(session))
        first = grammar.slot_values(pool.initial_prompts[session])
        slates = grammar.slot_values(pool.slates[session])[:, :, None]
        assert ((shown[:2] == first) | (first == 0)).all()
        assert ((shown[2:].reshape(3, 4, 2, 6) == slates) | (slates == 0)).all()


def test_every_picture_of_a_pool_has_a_key_of_its_own():
    """The shipped pool was painted with these keys; others would be other pictures."""
    sessions = np.array([3, 7])
    keys = [image_keys(5, sessions, turn, columns, 2) for turn, columns in ((0, 1), (1, 4), (2, 4))]
    assert [k.shape for k in keys] == [(2, 1, 2), (2, 4, 2), (2, 4, 2)]
    assert len(np.unique(np.concatenate([k.reshape(-1) for k in keys]))) == 2 * 2 * 9
    assert keys[2][1, 3, 0] == mix(5, 7, 2, 3, 0, IMAGE)
    assert (image_keys(6, sessions, 1, 4, 2) != keys[1]).all()


def test_pictures_of_a_painted_pool_are_the_ones_that_were_judged(painted, tmp_path):
    before = {path.name: path.read_bytes() for path in (painted / "pool").iterdir()}
    toy = Toy()
    paint_sessions(studio(toy), painted / "pool", CONFIG, pictures=tmp_path, part=(1, 2), progress=False)
    assert {path.name: path.read_bytes() for path in (painted / "pool").iterdir()} == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["pictures-000008.npy", "pictures-000020.npy"]
    assert toy.calls == 2 * 4  # the initial prompt and three turns
    for name in names:
        assert np.array_equal(np.load(tmp_path / name), np.load(painted / "pictures" / name))
    paint_sessions(studio(toy), painted / "pool", CONFIG, pictures=tmp_path, part=(1, 2), progress=False)
    assert toy.calls == 2 * 4  # what is there is left alone


def test_other_pictures_than_those_of_the_pool_are_refused(painted, tmp_path):
    class Other(Toy):
        def generate(self, prompts, keys):
            made = super().generate(prompts, keys)
            return Images(made.embeddings[..., ::-1].copy(), made.pixels)

    with pytest.raises(ValueError, match=r"do not match the embeddings in .*shard-000000\.npz \(median cosine"):
        paint_sessions(studio(Other()), painted / "pool", CONFIG, pictures=tmp_path / "new", progress=False)
    assert not list((tmp_path / "new").glob("*"))


def test_one_picture_is_a_png_of_the_same_bytes_every_time(painted):
    pictures = PoolPictures(painted / "pictures")
    once = pictures.encoded(9, 25)
    assert once == PoolPictures(str(painted / "pictures")).encoded(9, 25)
    with PIL.Image.open(io.BytesIO(once)) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), pictures.session(9)[25])
    with pytest.raises(ValueError, match=r"a session has images 0\.\.25, got 26"):
        pictures.encoded(9, 26)
    with pytest.raises(ValueError, match=r"a session has images 0\.\.25, got -1"):
        pictures.encoded(9, -1)


@pytest.mark.parametrize("session", [-1, 8, 19, 32, 1000])
def test_sessions_that_are_not_painted_are_named(painted, tmp_path, session):
    shutil.copytree(painted / "pictures", tmp_path, dirs_exist_ok=True)
    pictures_path(tmp_path, 8).unlink()
    pictures_path(tmp_path, 16).unlink()
    pictures = PoolPictures(tmp_path)
    assert np.array_equal(pictures.session(7), PoolPictures(painted / "pictures").session(7))
    with pytest.raises(ValueError, match=rf"no pictures of session {session}; paint them with: .* --pictures"):
        pictures.session(session)


def test_broken_files_say_what_to_do(painted, tmp_path):
    with pytest.raises(ValueError, match=r"no pictures-\*\.npy in .*; paint them with: "):
        PoolPictures(tmp_path)
    path = pictures_path(tmp_path, 0)
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"cannot read .*pictures-000000\.npy .*delete it and paint again"):
        PoolPictures(tmp_path)
    np.save(path, np.zeros((2, 3, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"must hold \(sessions, images, height, width, 3\) uint8, got .* float64"):
        PoolPictures(tmp_path)
    write_pictures(tmp_path, 0, np.zeros((2, 3, 8, 8, 3), dtype=np.uint8))
    write_pictures(tmp_path, 2, np.zeros((2, 4, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="pictures of several sizes"):
        PoolPictures(tmp_path)


def test_the_command_paints_a_pool_of_any_size(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(rater_data, "_studio", lambda name: name)
    monkeypatch.setattr(rater_data, "paint_sessions", lambda *given, **options: seen.update(given=given, **options))
    rater_data.main(
        ["paint", "--pool", "P", "--pictures", "Q", "--raters", "7", "2", "3", "--sessions", "1", "--part", "1/4"]
    )
    config = PoolConfig(train_raters=7, validation_raters=2, test_raters=3, sessions_per_rater=1)
    assert seen["given"][2] == config
    assert (str(seen["pictures"]), seen["part"]) == ("Q", (1, 4))
    rater_data.main(["paint", "--pool", "P"])
    assert seen["given"][2] == PoolConfig()
    assert seen["pictures"] is None


def test_the_command_asks_for_as_many_pairs_as_it_is_told(painted, tmp_path, capsys):
    rater_data.main(["label", "--pool", str(painted / "pool"), "--out", str(tmp_path), "--pairs", "7"])
    assert '"pairs": 2470' in capsys.readouterr().out  # 10 raters who learn, 6 of 400 pairs
