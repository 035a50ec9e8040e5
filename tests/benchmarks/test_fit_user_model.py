"""From records to a user model that the environment plays with, and what its card may say."""

import dataclasses
import hashlib
import io
import itertools
import json

import gymnasium as gym
import numpy as np
import PIL.Image
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pasta_gym  # noqa: F401
from benchmarks import fit_user_model as command
from benchmarks.user_model_card import about_prompts, findings
from benchmarks.user_model_scores import held_out_scores
from pasta_gym.datasets import Comparison, Image, Rating, Session, Turn
from pasta_gym.datasets.records import LoadReport
from pasta_gym.user_model import phases, sequential
from pasta_gym.user_model.network import ScoreModel
from pasta_gym.user_model.predictors import ModelPredictor
from pasta_gym.user_model.user_model import ChoiceNumbers, UserModel
from tests.user_model.other_device import pretended

D = 64


class Shop:
    """Twelve raters with pairs, ratings and sessions about random embeddings."""

    name = "shop"
    n_raters, n_pairs = 12, 6

    def __init__(self):
        self.report = LoadReport()
        self._rng = np.random.default_rng(0)
        self._prompt = self._rng.standard_normal(D).astype(np.float32)

    def rater_split(self, rater):
        return "test" if int(rater) >= 3 * self.n_raters // 4 else "train"

    def _image(self, key):
        embedding = np.random.default_rng(list(key.encode())).standard_normal(D).astype(np.float32)
        return Image(key, lambda: b"", embedding)

    def comparisons(self):
        for rater in range(self.n_raters):
            for i in range(self.n_pairs):
                pair = (self._image(f"{rater}a{i}"), self._image(f"{rater}b{i}"))
                yield Comparison(str(rater), "a moon", pair, (0.0, 1.0), self._prompt)

    def ratings(self):
        for rater in range(self.n_raters):
            yield Rating(str(rater), "a moon", self._image(f"{rater}a0"), 0.75, self._prompt)

    def sessions(self):
        for rater in range(self.n_raters):
            turns = []
            for t in range(2):
                columns = tuple(tuple(self._image(f"{rater}s{t}{c}{m}") for m in range(2)) for c in range(3))
                said = None if t == 0 else "better"
                turns.append(Turn(columns, rater % 3, satisfactions=(0.0, 0.5, 1.0), versus_previous=said))
            yield Session(str(rater), "a moon", tuple(turns), prompt_embedding=self._prompt)


SMALL = [
    "++user_model.em.n_types=2",
    "++user_model.em.steps=4",
    "++user_model.em.trial_steps=2",
    "++user_model.em.restarts=1",
    "++user_model.em.sorting=null",
    "++user_model.sequential.steps=3",
]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "open_dataset", lambda kind, **options: Shop())

    def make(*overrides):
        with initialize_config_dir(str(command.CONFIG_FOLDER), version_base="1.3"):
            places = [f"out={tmp_path / 'users'}", f"cache={tmp_path / 'cache'}"]
            return command.read_settings(compose("fit_user_model", [*SMALL, *places, *overrides]))

    return make


def test_one_command_gives_a_user_model_that_the_environment_plays_with(settings, monkeypatch, tmp_path):
    out = command.run(settings())
    found = {path.name for path in out.iterdir()}
    assert {"user_model.safetensors", "metadata.json", "card.md", "card.png", "reliability.png", "one_type"} <= found
    assert not [name for name in found if name.startswith(".")]
    model, one = UserModel.load(out), UserModel.load(out / "one_type")
    assert (model.n_types, one.n_types) == (2, 1)
    data = model.metadata["data"]
    assert data["counts"] == {
        "raters": 12, "pairs": 72, "rankings": 0, "ratings": 12, "sessions": 12, "images": 288, "prompts": 1
    }  # fmt: skip
    assert data["sources"][0]["report"] == "nothing read yet"  # the shop counts nothing
    assert len(model.metadata["encoder"]["sha256"]) == 64
    assert {"git", "versions", "configuration", "held_out", "phases"} <= set(model.metadata)
    assert set(model.metadata["phases"]) == {"1", "2"}
    with gym.make("PastaT2I-v0", images="surrogate", user_model=str(out)) as env:
        env.reset(seed=0)
        assert env.step(np.array([0, 5, 10, 15]))[1] == 0.0
    monkeypatch.setattr(command, "fit_in_phases", lambda *a, **k: pytest.fail("fitted again"))
    assert command.run(settings()) == out
    assert list(UserModel.load(out).metadata["held_out_baselines"]) == ["CLIP score"]
    # Scores from a file are another row, and no reason to fit again.
    np.save(tmp_path / "own.npy", np.arange(288.0))
    command.run(settings(f"+scores.own={tmp_path / 'own.npy'}"))
    card = (out / "card.md").read_text()
    for row in ("types, n = 50", "one type, n = 50", "CLIP score", "own"):
        assert f"\n| {row} | " in card
    np.save(tmp_path / "own.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"must hold one score for each of 288 images, got \(3,\)"):
        command.run(settings(f"+scores.own={tmp_path / 'own.npy'}"))
    with pytest.raises(pytest.fail.Exception):
        command.run(settings("++user_model.em.seed=1"))


def test_a_killed_fit_goes_on_after_phase_1(settings, monkeypatch, tmp_path):
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phases, "fit_phase2", die)
        with pytest.raises(KeyboardInterrupt):
            command.run(settings("one_type=false"))
    out = tmp_path / "users"
    assert not (out / "metadata.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(phases, "fit_phase1", lambda *a, **k: pytest.fail("phase 1 was done"))
        command.run(settings("one_type=false"))
    whole = command.run(settings("one_type=false", f"out={tmp_path / 'unbroken'}"))
    tensors = [UserModel.load(folder).score_model.state_dict() for folder in (out, whole)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_phases_can_be_left_out(settings):
    assert set(UserModel.load(command.run(settings("user_model.phase1=false", "one_type=false")))
               .metadata["phases"]) == {"2"}  # fmt: skip
    assert set(UserModel.load(command.run(settings("user_model.phase2=false", "one_type=false")))
               .metadata["phases"]) == {"1"}  # fmt: skip
    with pytest.raises(Exception, match="nothing to fit"):
        settings("user_model.phase1=false", "user_model.phase2=false")


def test_the_papers_tables_are_a_configuration():
    with initialize_config_dir(str(command.CONFIG_FOLDER), version_base="1.3"):
        paper = command.read_settings(compose("fit_user_model", ["user_model=paper"])).phases
    em, sequential = paper.em, paper.sequential
    both = ("steps", "restart_period", "weight_decay", "target_every", "prior_memory")
    for config in (em, sequential):
        assert [getattr(config, name) for name in both] == [50_000, 10_000, 1e-4, 256, 0.999]
    assert (em.learning_rate, em.batch_labels, em.rating_weight) == (3e-4, 2048, 1.0)
    assert (sequential.learning_rate, sequential.batch_sessions, sequential.clip) == (3e-7, 8, 0.5)
    assert (sequential.in_turn_weight, sequential.cross_turn_weight) == (0.01, 1.0)
    # The cosine's mean is half its peak: log tau can move by more than 7, a weight by less than 0.01.
    assert 7 < sequential.choice_learning_rate * sequential.steps / 2 < 8
    assert sequential.learning_rate * sequential.steps / 2 < 0.01


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data=[{folder: x}]", "data must be a list of datasets with a kind"),
        ("data=[{kind: x, as_split: holdout}]", "as_split of x must be one of train, validation, test, .*'holdout'"),
        ("+speed=1", r"unknown keys \['speed'\]"),
        ("scores=own.npy", r"scores must name a file each, as in \+scores\.pickscore=.*'own\.npy'"),
        ("+scores.types=own.npy", r"scores cannot be called 'types', which is a row of the card already"),
        ("checkpoint_every=0", "checkpoint_every must be at least 1, got 0"),
        ("encoder_batch_size=0", "encoder_batch_size must be at least 1, got 0"),
        ("encoder_dtype=half", "encoder_dtype must be one of float32, bfloat16, got 'half'"),
        ("one_type=2", "one_type must be true or false, got 2"),
        (
            "+limits.max_pairs=3",
            "limits must be max_comparisons, max_ratings, max_sessions, max_bad_images, got .*'max_pairs'",
        ),
        ("limits.max_sessions=-1", "max_sessions must be at least 0, got -1; null takes all"),
        ("limits.max_bad_images=2", "max_bad_images is a share of the images, from 0 to 1, got 2"),
        ("+splits.fractions={train:.5,test:.2}", r"fractions must sum to 1, got .*, which sum to 0\.7"),
        ("+user_model.em.clip=0", r"user_model\.em: clip must be above 0, got 0"),
        ("+user_model.em.n_typs=4", r"user_model\.em: .*unexpected keyword argument 'n_typs'"),
        ("+user_model.choice.temperature=-1", r"user_model\.choice: temperature must be above 0, got -1"),
        ("device=gpu", "device must be one of auto, cpu, cuda, got 'gpu'"),
    ],
)
def test_bad_configurations_are_refused_before_anything_is_read(settings, override, words):
    with initialize_config_dir(str(command.CONFIG_FOLDER), version_base="1.3"):
        config = compose("fit_user_model", [] if override.startswith("data") else [override])
    if override.startswith("data"):
        config.data = OmegaConf.create(override.removeprefix("data="))
    with pytest.raises(ValueError, match=words):
        command.read_settings(config)


def test_the_encoders_precision_is_the_configurations(settings):
    encoder = command.frozen_encoder(settings("device=cpu", "encoder_dtype=bfloat16"))
    assert (encoder.dtype, str(encoder.device)) == ("bfloat16", "cpu")
    assert encoder.fingerprint != command.frozen_encoder(settings()).fingerprint
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'half'"):
        command.frozen_encoder(settings("encoder_dtype=half"))


def test_the_whole_fit_runs_on_the_configurations_device_and_gives_the_same_users(settings, monkeypatch):
    used = []
    at_home = UserModel.load(command.run(settings("device=cpu")))
    fit = command.fit_in_phases
    monkeypatch.setattr(command, "fit_in_phases", lambda *a, **k: (used.append(k["device"]), fit(*a, **k))[1])
    command.run(settings())  # where the fit ran is no part of it, so this one is read back
    assert used == []
    with pretended() as device:
        monkeypatch.setattr(command, "find_device", lambda name: device)
        away = UserModel.load(command.run(settings("out=${cache}/away")))
    assert used == [device, device]
    assert np.allclose(at_home.prior, away.prior, atol=1e-6)
    assert away.temperature == pytest.approx(at_home.temperature, rel=1e-4)
    for name, weights in at_home.score_model.state_dict().items():
        assert torch.allclose(weights, away.score_model.state_dict()[name], atol=1e-6), name


def test_an_encoder_is_named_in_one_of_three_ways():
    with pytest.raises(ValueError, match=r"encoder must be mini, a folder, or MODEL/TAG.*'clip'"):
        command.make_encoder("clip")


def small_model(k=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = ScoreModel(D, k, image_scale=1, text_scale=1, noise=2, comparison_temperature=9, generator=generator)
    return UserModel(scores, np.full(k, 1 / k), {"softmax": ChoiceNumbers(5.0, 8.0)})


def test_held_out_raters_are_predicted_from_the_first_half_of_their_pairs():
    data, model = command.gather(Shop()), small_model()
    scores = held_out_scores(ModelPredictor(model, data), data, n_labels=(0, 2))
    who, prompts, images, _ = data.all_pairs()
    hits, likelihoods = [], []
    for rater in data.raters_of("test"):
        rows = np.flatnonzero(who == rater)
        features = model.prompt_features(data.prompt_embeddings[prompts[rows]])
        u = model.scores(features, data.image_embeddings[images[rows]])
        p = 1 / (1 + np.exp(-9.0 * (u[..., 0] - u[..., 1]).astype(float)))
        joint = model.prior * p[:2].prod(axis=0)  # the first of a pair is always preferred
        predicted = p[3:] @ (joint / joint.sum())
        hits += (predicted > 0.5).tolist()
        likelihoods += np.log(predicted).tolist()
    assert scores["2"]["pairs"] == 9 == len(hits)
    assert scores["2"]["pair_accuracy"] == pytest.approx(np.mean(hits))
    assert scores["2"]["pair_log_likelihood"] == pytest.approx(np.mean(likelihoods), abs=1e-4)
    assert scores["0"]["pair_log_likelihood"] != scores["2"]["pair_log_likelihood"]
    assert scores["2"]["choices"] == 6
    assert scores["uniform_choice_log_likelihood"] == pytest.approx(-np.log(3))


def test_raters_without_pairs_are_known_by_their_first_choices():
    full, model = command.gather(Shop()), small_model()
    none = np.zeros(0, dtype=np.int64)
    data = dataclasses.replace(
        full, pair_raters=none, pair_prompts=none, pair_images=none.reshape(0, 2), pair_labels=none.astype(float)
    )
    scores = held_out_scores(ModelPredictor(model, data), data, n_labels=(0, 1))
    assert scores["1"].keys() >= {"choice_accuracy"}
    assert scores["1"]["choices"] == 3
    assert scores["1"]["pairs"] == 0
    assert scores["1"]["largest_posterior"] > scores["0"]["largest_posterior"] == pytest.approx(0.5)


class TwoPrompts(Shop):
    """Test raters 9 to 11 judge a sun, a prompt of training raters; 10 and 11 a star as well, which no other does."""

    def _prompt_of(self, rater, i):
        if int(rater) < 9:
            return "a moon" if i % 2 else "a sun"
        return "a star" if int(rater) > 9 and i < 3 else "a sun"

    def comparisons(self):
        for i, made in enumerate(super().comparisons()):
            text = self._prompt_of(made.rater, i % self.n_pairs)
            yield dataclasses.replace(made, prompt=text, prompt_embedding=np.full(D, len(text), dtype=np.float32))

    def sessions(self):
        for made in super().sessions():
            text = self._prompt_of(made.rater, 0)
            yield dataclasses.replace(made, prompt=text, prompt_embedding=np.full(D, len(text), dtype=np.float32))


def test_the_card_says_how_many_held_out_labels_are_on_prompts_of_training_raters(settings, monkeypatch):
    monkeypatch.setattr(command, "open_dataset", lambda kind, **options: TwoPrompts())
    out = command.run(settings("one_type=false", "user_model.phase2=false"))
    # Pairs: all 6 of rater 9, the last 3 of raters 10 and 11; choices: those of rater 9.
    assert UserModel.load(out).metadata["held_out"]["on_seen_prompts"] == {"pairs": 12 / 18, "choices": 1 / 3}
    card = (out / "card.md").read_text()
    assert "On prompts that training raters judged as well: 67% of their pairs and 33% of their choices." in card
    assert "+splits.by=both keeps prompts apart too" in card
    assert "splits.by" not in about_prompts({"on_seen_prompts": {"pairs": 0.0}})


class Small(Shop):
    """So few raters that none is held out."""

    def rater_split(self, rater):
        return "train"


def test_a_fit_without_test_raters_ends_with_a_card_that_says_so(settings, monkeypatch):
    monkeypatch.setattr(command, "open_dataset", lambda kind, **options: Small())
    out = command.run(settings("one_type=false", "user_model.phase2=false"))
    assert UserModel.load(out).metadata["held_out"]["raters"] == 0
    card = (out / "card.md").read_text()
    assert "only 0 test raters" in card
    assert "## Good for\n- Nothing that was measured." in card


GOOD = {
    "raters": 100,
    "uniform_choice_log_likelihood": -1.386,
    "50": {"pairs": 9.0, "pair_accuracy": 0.7, "pair_log_likelihood": -0.6, "choices": 9.0,
           "choice_accuracy": 0.4, "choice_log_likelihood": -1.28, "choice_ece": 0.01},
}  # fmt: skip


def changed(figures, **changes):
    return {**figures, "50": {**figures["50"], **changes}}


def test_a_card_says_what_the_figures_support_and_no_more():
    good, bad = findings(small_model(), GOOD, changed(GOOD, pair_log_likelihood=-0.65, choice_log_likelihood=-1.30))
    assert len(good) == 4
    assert not bad
    assert "+0.050 nats a pair over one type" in " ".join(good)
    poor = changed(GOOD, pair_accuracy=0.5, choice_log_likelihood=-1.386, choice_ece=0.2)
    good, bad = findings(small_model(), {**poor, "raters": 5}, poor)
    assert not good
    said = " ".join(bad)
    for words in ("0.500 right", "over a uniform guess", "off by 0.200", "only 5 test raters", "+0.000 nats a choice"):
        assert words in said
    json.dumps(GOOD)


class PictureShop(Shop):
    """Fewer such raters, about pictures."""

    n_raters, n_pairs = 4, 2

    def __init__(self):
        super().__init__()
        self._prompt = None

    def _image(self, key):
        def read():
            pixels = np.random.default_rng(list(key.encode())).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            file = io.BytesIO()
            PIL.Image.fromarray(pixels).save(file, "PNG")
            return file.getvalue()

        return Image(key, read)


PAPER = ["user_model=paper", "++user_model.em.trial_steps=1", "++user_model.sequential.learning_rate=1e-3"]
WEIGHTS = "encoder/open_clip_model.safetensors"


@pytest.fixture
def with_pictures(settings, monkeypatch):
    monkeypatch.setattr(command, "open_dataset", lambda kind, **options: PictureShop())
    return lambda *overrides: settings(*PAPER, *overrides)


def test_the_papers_command_trains_the_encoder_and_keeps_it(with_pictures, monkeypatch, tmp_path):
    out = command.run(with_pictures())
    frozen = command.make_encoder("mini")
    model, one = UserModel.load(out), UserModel.load(out / "one_type")
    hashes = {m.metadata["encoder"]["sha256"] for m in (model, one)}
    assert len(hashes | {frozen.identity["weights_sha256"]}) == 3
    for m in (model, one):
        assert m.metadata["encoder"]["frozen_sha256"] == frozen.identity["weights_sha256"]
        assert hashlib.sha256((m.encoder_folder / WEIGHTS[8:]).read_bytes()).hexdigest() in hashes
        assert m.metadata["encoder"]["name"] == "mini"
    assert len([path for path in (tmp_path / "cache" / "pictures").rglob("*") if path.is_file()]) == 64
    # What the card says of held-out raters is said of the embeddings that the user model reads.
    trained = command.ClipEncoder.from_files(out / "encoder")
    data = command.gather(PictureShop(), trained, tmp_path / "again")
    again = held_out_scores(ModelPredictor(model, data), data)
    assert again["50"] == pytest.approx(model.metadata["held_out"]["50"], abs=1e-4)
    unread = command.gather(PictureShop(), frozen, tmp_path / "again")
    with pytest.raises(ValueError, match=r"the user model reads embeddings of encoder .* but the labels are about"):
        ModelPredictor(model, unread)
    unread = dataclasses.replace(unread, encoder_sha256=None)  # as if nobody knew
    others = held_out_scores(ModelPredictor(model, unread), unread)
    assert again["50"]["pair_log_likelihood"] != pytest.approx(others["50"]["pair_log_likelihood"], abs=1e-4)
    with gym.make("PastaT2I-v0", images="painter", user_model=str(out)) as env:
        env.reset(seed=0)
        assert env.step(np.array([0, 5, 10, 15]))[1] == 0.0
    with pytest.raises(ValueError, match="an encoder of their own"):
        gym.make("PastaT2I-v0", images="surrogate", user_model=str(out))
    with monkeypatch.context() as patch:
        patch.setattr(command, "fit_in_phases", lambda *a, **k: pytest.fail("fitted again"))
        assert command.run(with_pictures()) == out
        assert UserModel.load(out).metadata["held_out"] == model.metadata["held_out"]
        # An encoder that was lost takes the fit with it.
        (out / WEIGHTS).unlink()
        with pytest.raises(pytest.fail.Exception):
            command.run(with_pictures())


def test_a_killed_fit_goes_on_with_the_encoder_half_trained(with_pictures, monkeypatch, tmp_path):
    places = ["one_type=false", "checkpoint_every=1"]
    calls, original = itertools.count(1), sequential.SequentialEM.step

    def step_or_die(self):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(sequential.SequentialEM, "step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            command.run(with_pictures(*places))
        assert not (tmp_path / "users" / "metadata.json").exists()
        out = command.run(with_pictures(*places))
    assert next(calls) == 5  # 2 steps before the kill, 1 after
    whole = command.run(with_pictures(*places, f"out={tmp_path / 'unbroken'}"))
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    tensors = [UserModel.load(folder).score_model.state_dict() for folder in (out, whole)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert [path.name for path in (out / "phases").iterdir()] == ["phase1-2-types"]


def test_an_encoder_cannot_be_trained_without_pictures(settings):
    with pytest.raises(ValueError, match=r"without pixels, so no encoder can be trained on it.*train_encoder=false"):
        command.run(settings(*PAPER))
    command.run(settings(*PAPER, "user_model.train_encoder=false", "one_type=false"))
