"""A finished fit stands for its labels: other ones are fitted anew, however many they are."""

import dataclasses

from hydra import compose, initialize_config_dir

from benchmarks import fit_user_model as command
from pasta_gym.user_model import phases
from pasta_gym.user_model.user_model import UserModel
from tests.benchmarks.test_fit_user_model import SMALL, Shop


class Flipped(Shop):
    """As many labels of the same raters about the same images, one of them the other way round."""

    def comparisons(self):
        for i, made in enumerate(super().comparisons()):
            yield dataclasses.replace(made, ranks=made.ranks[::-1]) if i == 3 else made


def test_one_label_the_other_way_round_is_another_fit(tmp_path, monkeypatch):
    fitted = []
    for fit in ("fit_phase1", "fit_phase2"):
        real = getattr(phases, fit)
        monkeypatch.setattr(phases, fit, lambda *a, r=real, f=fit, **k: (fitted.append(f), r(*a, **k))[1])
    with initialize_config_dir(str(command.CONFIG_FOLDER), version_base="1.3"):
        places = [f"out={tmp_path / 'users'}", f"cache={tmp_path / 'cache'}", "one_type=false"]
        settings = command.read_settings(compose("fit_user_model", [*SMALL, *places]))

    def counts_of(shop):
        monkeypatch.setattr(command, "open_dataset", lambda kind, **options: shop())
        return UserModel.load(command.run(settings)).metadata["data"]["counts"]

    first = counts_of(Shop)
    assert counts_of(Shop) == first
    assert fitted == ["fit_phase1", "fit_phase2"]
    assert counts_of(Flipped) == first
    assert fitted == 2 * ["fit_phase1", "fit_phase2"]
