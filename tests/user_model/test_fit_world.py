import pathlib
import shutil

import numpy as np
import pytest

from pasta_gym import worlds
from pasta_gym.mini.weights import weights_directory
from pasta_gym.trajectories import EnvironmentConfig
from pasta_gym.user_model import UserModel, fit, fit_world
from pasta_gym.worlds import MiniWorld, make_world


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path))
    yield tmp_path
    worlds.make_world.cache_clear()


def fitted(number, n_types):
    """Put a user model where that of a world belongs; its prior tells it from the shipped one."""
    folder = fit_world.model_folder(number, n_types)
    shutil.copytree(weights_directory() / "user_model", folder)
    return folder


def test_worlds_are_named_by_what_differs_and_the_shipped_one_is_the_shipped_one():
    assert MiniWorld().make() is make_world("mini")
    names = [MiniWorld(*arguments).name for arguments in ((), (1,), (0, 4), (2, 16))]
    assert names == ["mini", "mini_1", "mini_types_4", "mini_2_types_16"]
    for wrong in ((-1,), (0, 0), (True,), (1.5,)):
        with pytest.raises(ValueError, match="must be an integer of at least"):
            MiniWorld(*wrong)


def test_a_world_without_its_user_model_names_the_command(cache):
    with pytest.raises(ValueError, match=r"world mini_1_types_4 has no user model in .*fit_world 1 --types 4`"):
        make_world(MiniWorld(1, 4))


def test_a_world_has_the_shipped_parts_and_its_own_users(cache):
    folder = fitted(1, 8)
    world = make_world(MiniWorld(1))
    shipped = make_world("mini")
    assert (world.name, pathlib.Path(world.user_model)) == ("mini_1", folder)
    assert world.text_encoder is shipped.text_encoder
    assert world.image_generators is shipped.image_generators
    assert EnvironmentConfig(world=MiniWorld(1)).world_name == "mini_1"
    assert EnvironmentConfig(user_model=str(folder)).world_name == "mini-mini_world_1_types_8"


def test_a_checkout_brings_two_worlds_along_and_own_fits_go_first(cache):
    for number in (1, 2):
        brought = fit_world.find_model(number, 8)
        assert brought == fit_world.CHECKOUT / f"mini_world_{number}_types_8"
        users = UserModel.load(make_world(MiniWorld(number)).user_model)
        assert users.metadata["data"]["world_seed"] == number
        worlds.make_world.cache_clear()
    assert not fit_world.is_fitted(fit_world.find_model(1, 4))
    own = fitted(2, 8)
    assert fit_world.find_model(2, 8) == own


def test_labels_and_fit_are_made_once_into_the_cache(cache, monkeypatch):
    calls = []

    def label(pool, folder, number):
        calls.append(("label", str(pool), number))
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text("{}")

    def fit_folder(labels, folder, *, n_types, seed):
        calls.append(("fit", labels.name, n_types, seed))
        shutil.copytree(weights_directory() / "user_model", folder)
        return "fitted"

    monkeypatch.setattr(fit_world.rater_data, "label", label)
    monkeypatch.setattr(fit, "fit_folder", fit_folder)
    fit_world.main(["3", "--types", "8", "4", "--pool", "pool"])
    assert calls == [("label", "pool", 3), ("fit", "mini_world_3", 8, 3), ("fit", "mini_world_3", 4, 3)]
    fit_world.main(["3", "--types", "8", "4"])
    assert len(calls) == 3
    users = UserModel.load(make_world(MiniWorld(3)).user_model)
    assert np.isclose(users.prior.sum(), 1)
    with pytest.raises(ValueError, match="0 or more and it has 1 type or more, got -1 and 8"):
        fit_world.fit_world(-1)
