import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pasta_gym.user_model.network import ResidualHeads, ScoreModel
from pasta_gym.user_model.temperature import Slopes
from pasta_gym.user_model.user_model import ChoiceNumbers, UserModel

D, K, B, L, M = 6, 3, 5, 4, 2
CHOICE = {"mean": ChoiceNumbers(3.0), "max": ChoiceNumbers(4.0), "softmax": ChoiceNumbers(5.0, 8.0)}


def build(seed=0, aggregator="softmax"):
    generator = torch.Generator().manual_seed(seed)
    model = ScoreModel(
        D, K, image_scale=1.5, text_scale=0.7, noise=1.0, comparison_temperature=6.0, generator=generator
    )
    return UserModel(model, np.array([0.5, 0.3, 0.2]), CHOICE, aggregator, {"data": "made up"})


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    prompts = rng.standard_normal((B, D)).astype(np.float32)
    images = rng.standard_normal((B, L, M, D)).astype(np.float32)
    return prompts, images, np.array([2, 0, 1, 2, 0])


def test_a_score_is_half_of_one_plus_the_cosine_of_the_shifted_embeddings(model, batch):
    prompts, images, types = batch
    heads = model.score_model

    def shifted(part, x, k):
        x = torch.from_numpy(x) / part.scale
        hidden = torch.relu(part.weight2 @ torch.relu(part.weight1 @ x + part.bias1) + part.bias2)
        return x + part.weight3[k] @ hidden + part.bias3[k]

    features = model.prompt_features(prompts)
    got = build(aggregator="mean").utilities(types, features, images)
    for b in range(B):
        text = shifted(heads.text_heads, prompts[b], types[b])
        for column in range(L):
            u = [
                0.5 + 0.5 * torch.cosine_similarity(text, shifted(heads.image_heads, images[b, column, m], types[b]), 0)
                for m in range(M)
            ]
            assert got[b, column] == pytest.approx(float(sum(u)) / M, abs=1e-5)


def test_one_type_is_a_row_of_all_types(model, batch):
    prompts, images, types = batch
    features = model.prompt_features(prompts)
    every = model.all_utilities(features, images)
    assert every.shape == (B, K, L)
    one = model.utilities(types, features, images)
    assert one == pytest.approx(every[np.arange(B), types], abs=1e-5)
    assert (every >= 0).all()
    assert (every <= 1).all()
    assert np.ptp(every, axis=1).max() > 0.01


def test_of_type_agrees_with_all_types():
    heads = ResidualHeads(D, K, scale=2.0, noise=1.0, generator=torch.Generator().manual_seed(3))
    x = torch.randn(7, D, generator=torch.Generator().manual_seed(4))
    every = heads(x)
    assert torch.allclose(every.norm(dim=-1), torch.ones(7, K), atol=1e-5)
    for k in range(K):
        assert torch.allclose(heads.of_type(x / 2.0, heads.hidden(x / 2.0), k), every[:, k], atol=1e-6)


def test_a_utility_does_not_depend_on_its_batch(model, batch):
    prompts, images, types = batch
    features = model.prompt_features(prompts)
    together = model.utilities(types, features, images)
    for b in range(B):
        alone = model.utilities(types[b : b + 1], features[b : b + 1], images[b : b + 1])
        assert alone[0] == pytest.approx(together[b], abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(L)), st.permutations(range(M)))
def test_columns_and_their_images_are_sets(columns, pictures):
    model = build()
    rng = np.random.default_rng(1)
    prompts = rng.standard_normal((2, D)).astype(np.float32)
    images = rng.standard_normal((2, L, M, D)).astype(np.float32)
    features = model.prompt_features(prompts)
    before = model.utilities(np.array([0, 2]), features, images)
    after = model.utilities(np.array([0, 2]), features, images[:, list(columns)][:, :, list(pictures)])
    assert after == pytest.approx(before[:, list(columns)], abs=1e-5)


def test_read_only_arrays_are_welcome(model, batch):
    prompts, images, types = batch
    for array in (prompts, images):
        array.flags.writeable = False
    assert model.utilities(types, model.prompt_features(prompts), images).shape == (B, L)


def test_the_posterior_is_the_closed_form(model, batch):
    rng = np.random.default_rng(2)
    prompts, _, _ = batch
    slates = rng.standard_normal((B, 3, L, M, D)).astype(np.float32)
    choices = np.array([[0, 1, 2], [3, -1, 1], [-1, -1, -1], [2, 2, -1], [1, 0, 3]])
    got = model.posterior(prompts, slates, choices)
    features = model.prompt_features(prompts)
    for b in range(B):
        joint = model.prior.copy()
        for turn in np.flatnonzero(choices[b] >= 0):
            u = model.all_utilities(features[b : b + 1], slates[b : b + 1, turn])[0].astype(float)
            weights = np.exp(5.0 * u)
            joint *= weights[:, choices[b, turn]] / weights.sum(axis=1)
        assert got[b] == pytest.approx(joint / joint.sum(), abs=1e-4)
    assert got[2] == pytest.approx([0.5, 0.3, 0.2])


def test_nothing_shown_yet_leaves_the_prior(model, batch):
    empty = model.posterior(batch[0], np.zeros((B, 2, L, M, D), dtype=np.float32), np.full((B, 2), -1))
    assert empty == pytest.approx(np.tile([0.5, 0.3, 0.2], (B, 1)))


def test_choices_follow_the_aggregators_own_temperature(model):
    utilities = np.array([0.1, 0.4], dtype=np.float32)
    assert model.choice_logits(utilities) == pytest.approx([0.5, 2.0])
    other = model.with_aggregator("max")
    assert other.choice_logits(utilities) == pytest.approx([0.4, 1.6])
    assert np.exp(other.log_choice_probabilities(utilities)).sum() == pytest.approx(1.0)
    assert model.aggregator == "softmax"


def test_saving_and_loading_gives_the_same_user(model, batch, tmp_path):
    prompts, images, types = batch
    model.save(tmp_path / "user")
    read = UserModel.load(tmp_path / "user")
    assert sorted(p.name for p in (tmp_path / "user").iterdir()) == ["metadata.json", "user_model.safetensors"]
    features = read.prompt_features(prompts)
    assert np.array_equal(
        read.utilities(types, features, images), model.utilities(types, model.prompt_features(prompts), images)
    )
    assert read.prior == pytest.approx(model.prior)
    assert read.metadata["data"] == "made up"
    for name, numbers in CHOICE.items():
        again = read.with_aggregator(name)
        assert (again.temperature, again.sharpness) == (numbers.temperature, numbers.sharpness)
    assert read.comparison_temperature == pytest.approx(6.0)


def test_a_temperature_of_the_slate_is_saved_and_used_everywhere(model, batch, tmp_path):
    slopes = Slopes(-1.0, 0.25, 2.0)
    sloped = UserModel(model.score_model, model.prior, CHOICE | {"softmax": ChoiceNumbers(5.0, 8.0, slopes)})
    sloped.save(tmp_path)
    read = UserModel.load(tmp_path)
    assert (read.slopes, read.temperature, read.has_constant_temperature) == (slopes, 5.0, False)
    assert read.with_aggregator("max").has_constant_temperature
    u = np.array([0.4, 0.1, 0.5, 0.2])
    tau = 5.0 * np.exp(-0.1 + 0.25 * 0.6 + 2 * 0.5)
    assert read.choice_logits(u) == pytest.approx(tau * u, rel=1e-5)
    p = np.exp(tau * u) / np.exp(tau * u).sum()
    assert read.log_choice_probabilities(u) == pytest.approx(np.log(p), abs=1e-5)
    prompts, images, _ = batch
    choices = np.array([[1], [0], [3], [2], [1]])
    utilities = read.all_utilities(read.prompt_features(prompts), images)
    log_p = np.take_along_axis(read.log_choice_probabilities(utilities), choices[:, :, None], axis=2)[..., 0]
    joint = read.prior * np.exp(log_p)
    expected = joint / joint.sum(axis=1, keepdims=True)
    assert read.posterior(prompts, images[:, None], choices) == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(
        read.posterior(prompts, images[:, None], choices), model.posterior(prompts, images[:, None], choices)
    )


def out_of_range_slopes(folder):
    tensors = load_file(folder / "user_model.safetensors")
    tensors["choice.max"] = torch.tensor([4.0, 0.0, 0.0, 3.0, 0.0], dtype=torch.float64)
    save_file(tensors, folder / "user_model.safetensors")
    rehash(folder)


def truncate(folder):
    weights = folder / "user_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])


def rehash(folder):
    import hashlib

    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["sha256"] = hashlib.sha256((folder / "user_model.safetensors").read_bytes()).hexdigest()
    (folder / "metadata.json").write_text(json.dumps(metadata))


def garble(folder):
    (folder / "user_model.safetensors").write_bytes(b"not tensors at all")
    rehash(folder)


def lose_a_key(folder):
    tensors = load_file(folder / "user_model.safetensors")
    del tensors["image_heads.weight2"]
    save_file(tensors, folder / "user_model.safetensors")
    rehash(folder)


def add_a_key(folder):
    tensors = load_file(folder / "user_model.safetensors")
    tensors["surplus"] = torch.zeros(2)
    save_file(tensors, folder / "user_model.safetensors")
    rehash(folder)


def change_metadata(**changes):
    def change(folder):
        metadata = json.loads((folder / "metadata.json").read_text())
        metadata = {k: v for k, v in (metadata | changes).items() if v is not None}
        (folder / "metadata.json").write_text(json.dumps(metadata))

    return change


def write_metadata(**changes):
    def change(folder):
        metadata = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps(metadata | changes))

    return change


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (truncate, r"user_model\.safetensors is not the file that metadata\.json describes .* truncated"),
        (garble, r"cannot read .*user_model\.safetensors as safetensors"),
        (lose_a_key, r"image_heads\.weight2 is missing, expected \(24, 12\)"),
        (out_of_range_slopes, r"slope inner must be in \[-1, 1\].*got 3"),
        (add_a_key, r"surplus is \(2,\), expected none"),
        (lambda folder: (folder / "user_model.safetensors").unlink(), r"no .*user_model\.safetensors"),
        (lambda folder: (folder / "metadata.json").unlink(), r"no .*metadata\.json"),
        (lambda folder: (folder / "metadata.json").write_text("{"), r"cannot read .*metadata\.json as JSON"),
        (change_metadata(format=99), "format 99, this version reads 1"),
        (change_metadata(n_types=None), "lacks n_types"),
        (change_metadata(n_types=4), "does not hold a user model of 4 types"),
        (change_metadata(aggregator="median"), "aggregator must be one of"),
        (change_metadata(n_types="x"), r"metadata\.json has n_types 'x', which must be a whole number"),
        (change_metadata(embedding_dim=0), r"metadata\.json has embedding_dim 0, which must be a whole number"),
        (change_metadata(embedding_dim=True), r"metadata\.json has embedding_dim True"),
        (write_metadata(embedding_dim=None), r"metadata\.json has embedding_dim None, which must be a whole number"),
        (change_metadata(encoder="abc"), r"metadata\.json has encoder 'abc', which must be an object"),
        (change_metadata(encoder={"sha256": 7}), r"metadata\.json has an encoder whose sha256 is no text"),
        (change_metadata(sha256=5), r"metadata\.json has sha256 5, which must be the hash"),
        (lambda folder: (folder / "metadata.json").write_text("[]"), r"cannot read .*expected an object, got list"),
    ],
)
def test_broken_files_say_what_and_how_to_mend(model, tmp_path, breakage, words):
    model.save(tmp_path)
    breakage(tmp_path)
    with pytest.raises(ValueError, match=words):
        UserModel.load(tmp_path)


def test_bad_arguments_are_named(model, batch):
    prompts, images, types = batch
    features = model.prompt_features(prompts)
    with pytest.raises(ValueError, match=r"user types must be in 0\.\.2, got 0\.\.3"):
        model.utilities(np.array([0, 3, 1, 1, 1]), features, images)
    with pytest.raises(ValueError, match="dimension 6, got shape"):
        model.prompt_features(np.zeros((2, 7), dtype=np.float32))
    with pytest.raises(ValueError, match="dimension 6, got shape"):
        model.utilities(types, features, images[..., :5])
    slates = images[:, None]
    with pytest.raises(ValueError, match=r"choices must be in -1\.\.3"):
        model.posterior(prompts, slates, np.full((B, 1), 4))
    with pytest.raises(ValueError, match=r"choices must have shape \(5, 1\)"):
        model.posterior(prompts, slates, np.zeros((B, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="aggregator must be one of"):
        model.with_aggregator("median")
    with pytest.raises(ValueError, match="prior must be 3 shares that sum to 1"):
        UserModel(model.score_model, np.array([0.5, 0.6, 0.2]), CHOICE)
    with pytest.raises(ValueError, match="no choice model is fitted for aggregator 'mean'"):
        UserModel(model.score_model, model.prior, {"max": ChoiceNumbers(1.0)}, "mean")


def test_the_environments_protocol_is_met(model):
    from pasta_gym.types import UserModelProtocol

    assert isinstance(model, UserModelProtocol)
