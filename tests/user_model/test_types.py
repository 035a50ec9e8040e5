import pathlib

import numpy as np
import pytest
import torch

from pasta_gym.user_model import UserModel
from pasta_gym.user_model.em import rater_log_likelihoods
from pasta_gym.user_model.evidence import (
    Choices,
    Comparisons,
    Evidence,
    Ratings,
    Satisfactions,
    Verdicts,
    evidence_of,
    kappas,
    most_likely_type,
    rating_deviation,
    rating_log_likelihoods,
    type_posterior,
)
from pasta_gym.user_model.labels import labels_of
from pasta_gym.user_model.network import ScoreModel
from pasta_gym.user_model.types import (
    behaviour,
    cross_divergences,
    groups_within,
    jensen_shannon,
    merge_types,
    type_distances,
)
from pasta_gym.user_model.user_model import ChoiceNumbers
from tests.user_model import test_sequential as sequential

DIM = 12


def make_model(n_types=3, seed=0, prior=None, noise=4.0):
    model = ScoreModel(
        DIM,
        n_types,
        image_scale=1.0,
        text_scale=1.0,
        noise=noise,
        comparison_temperature=6.0,
        generator=torch.Generator().manual_seed(seed),
    )
    prior = np.full(n_types, 1 / n_types) if prior is None else np.array(prior)
    fit = {"config": {"rating_deviation": 0.1}, "sequential": {"in_turn_weight": 0.3, "cross_turn_weight": 0.7}}
    return UserModel(model, prior, {"softmax": ChoiceNumbers(5.0, 20.0)}, metadata=fit)


@pytest.fixture(scope="module")
def slates():
    rng = np.random.default_rng(3)
    return rng.standard_normal((60, DIM)).astype(np.float32), rng.standard_normal((60, 4, 2, DIM)).astype(np.float32)


def random_evidence(rng, n_raters=3):
    def table(*shape):
        return rng.standard_normal((*shape, DIM)).astype(np.float32)

    who = rng.integers(n_raters, size=9)
    return Evidence(
        n_raters,
        Comparisons(who, table(9), table(9, 2), rng.choice([0, 0.5, 1], size=9)),
        Ratings(who[:5], table(5), table(5), rng.random(5)),
        Choices(who[:6], table(6), table(6, 4, 2), np.array([0, 3, -1, 2, 1, -1])),
        Satisfactions(who[:3], table(3), table(3, 3, 2), np.array([[1, 0.5, 0.5], [0, np.nan, 1], [np.nan] * 3])),
        Verdicts(
            who[2:7],
            table(5),
            table(5, 2, 4, 2),
            np.array([[0, 1], [3, 2], [1, 1], [0, -1], [2, 2]]),
            np.array([1, -1, 0, 1, np.nan]),
        ),
    )


def by_hand(model, evidence):
    """One label, one type at a time, from scores alone."""
    joint = np.tile(np.log(model.prior), (evidence.n_raters, 1))

    def score(prompt, image, k):
        return float(model.scores(model.prompt_features(prompt[None]), image[None, None])[0, k, 0])

    def utility(prompt, images, k):
        s = np.array([score(prompt, image, k) for image in images])
        return (np.exp(20.0 * s) * s).sum() / np.exp(20.0 * s).sum()

    def compared(gap, y):
        p = 1 / (1 + np.exp(-6.0 * gap))
        return y * np.log(p) + (1 - y) * np.log(1 - p)

    for k in range(model.n_types):
        c = evidence.comparisons
        for who, prompt, (first, second), y in zip(c.raters, c.prompts, c.images, c.labels, strict=True):
            joint[who, k] += compared(score(prompt, first, k) - score(prompt, second, k), y)
        r = evidence.ratings
        for who, prompt, image, value in zip(r.raters, r.prompts, r.images, r.values, strict=True):
            joint[who, k] -= (score(prompt, image, k) - value) ** 2 / (2 * 0.1**2)
        for who, prompt, slate, column in zip(*vars(evidence.choices).values(), strict=True):
            if column < 0:
                continue
            z = np.exp(5.0 * np.array([utility(prompt, images, k) for images in slate]))
            joint[who, k] += np.log(z[column] / z.sum())
        for who, prompt, slate, values in zip(*vars(evidence.satisfactions).values(), strict=True):
            for a in range(3):
                for b in range(a + 1, 3):
                    if np.isfinite(values[a]) and np.isfinite(values[b]):
                        gap = utility(prompt, slate[a], k) - utility(prompt, slate[b], k)
                        joint[who, k] += 0.3 * compared(gap, (1 + np.sign(values[a] - values[b])) / 2)
        for who, prompt, turns, (before, now), value in zip(*vars(evidence.verdicts).values(), strict=True):
            if min(before, now) >= 0 and np.isfinite(value):
                gap = utility(prompt, turns[1][now], k) - utility(prompt, turns[0][before], k)
                joint[who, k] += 0.7 * compared(gap, (1 + value) / 2)
    return np.exp(joint) / np.exp(joint).sum(axis=1, keepdims=True)


def test_the_posterior_of_a_mix_is_that_of_a_double_loop():
    model = make_model(prior=[0.5, 0.3, 0.2])
    evidence = random_evidence(np.random.default_rng(1))
    posterior = type_posterior(model, evidence)
    assert posterior == pytest.approx(by_hand(model, evidence), abs=1e-5)
    assert posterior.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(most_likely_type(model, evidence), posterior.argmax(axis=1))


def test_without_labels_it_is_the_prior_and_each_kind_counts():
    model = make_model(prior=[0.5, 0.3, 0.2])
    evidence = random_evidence(np.random.default_rng(2))
    assert type_posterior(model, Evidence(2)) == pytest.approx(np.tile(model.prior, (2, 1)))
    whole = type_posterior(model, evidence)
    for kind in ("comparisons", "ratings", "choices", "satisfactions", "verdicts"):
        less = Evidence(**{**vars(evidence), kind: None})
        assert not np.allclose(whole, type_posterior(model, less), atol=1e-4)
    with pytest.raises(ValueError, match=r"raters 0\.\.0, got 0\.\.2"):
        type_posterior(model, Evidence(1, comparisons=evidence.comparisons))
    with pytest.raises(ValueError, match="deviation must be above 0"):
        rating_log_likelihoods(model, evidence.ratings, 0.0)


@pytest.mark.parametrize("kind", ["in_turn", "cross_turn", None])
def test_all_that_raters_said_counts_as_in_the_fits_own_e_step(kind):
    data, powers = sequential.make_data(), {**sequential.POWERS, **({} if kind is None else {kind: 0.0})}
    fit = {f"{kind}_weight": powers[kind] for kind in ("in_turn", "cross_turn")} | {"rating_deviation": 0.3}
    scores, prior = sequential.make_scores(), np.array([0.5, 0.3, 0.2])
    model = UserModel(scores, prior, {"softmax": sequential.NUMBERS}, metadata={"sequential": fit})
    who = np.array([3, 0, 1, 2])
    joint = [np.log(prior) + sequential.reference(data, scores, sequential.NUMBERS, r, powers) for r in who]
    expected = [np.exp(j - j.max()) / np.exp(j - j.max()).sum() for j in joint]
    assert type_posterior(model, evidence_of(data, who)) == pytest.approx(np.array(expected), abs=1e-5)


def test_settings_of_the_fit_are_found_where_each_command_leaves_them():
    bare = UserModel(make_model().score_model, np.full(3, 1 / 3), {"softmax": ChoiceNumbers(5.0, 20.0)})
    assert (kappas(bare), rating_deviation(bare)) == ((0.01, 1.0), 0.2)
    whole = {"em": {"rating_deviation": 0.3}, "sequential": {"rating_deviation": 0.4, "in_turn_weight": 0.5}}
    bare.metadata = {"config": whole}  # of the command, which had no phase 2
    assert (kappas(bare), rating_deviation(bare)) == ((0.5, 1.0), 0.3)
    bare.metadata = {"config": whole, "sequential": {"rating_deviation": 0.6, "cross_turn_weight": 0.0}}
    assert (kappas(bare)[1], rating_deviation(bare)) == (0.0, 0.6)


def test_evidence_of_a_dataset_is_what_the_fit_looks_at(planted):
    model = make_model()
    who = np.array([7, 3, 121])
    ours = type_posterior(model, evidence_of(planted.data, who, ("comparisons", "ratings")))
    fits = rater_log_likelihoods(model.score_model, labels_of(planted.data, who), 0.1).softmax(dim=1)
    assert ours == pytest.approx(fits.numpy(), abs=1e-4)
    data = planted.data
    chosen = evidence_of(data, who, ("choices",))
    rows = [np.flatnonzero(data.session_raters == r) for r in who]
    told = [
        model.posterior(
            data.prompt_embeddings[data.session_prompts[mine]],
            data.image_embeddings[data.session_images[mine]],
            data.session_choices[mine],
        )
        for mine in rows
    ]
    # The prior is even, so the posterior of two sessions is the product of theirs.
    products = np.stack([np.prod(p, axis=0) / np.prod(p, axis=0).sum() for p in told])
    assert type_posterior(model, chosen) == pytest.approx(products, abs=1e-6)
    with pytest.raises(ValueError, match="kinds must be among"):
        evidence_of(data, who, ("guesses",))


def test_jensen_shannon_by_hand():
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert jensen_shannon(p, q) == pytest.approx(1.0)
    # H(3/4, 1/4) - (0 + 1) / 2 in bits.
    entropy = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert jensen_shannon(p, np.array([0.5, 0.5])) == pytest.approx(entropy - 0.5)
    assert jensen_shannon(p, p) == 0.0


def test_distances_of_types(slates):
    model = make_model(4)
    found = type_distances(model, *slates)
    seen = behaviour(model, *slates)
    for matrix in (found.divergence, found.rank_correlation):
        assert np.allclose(matrix, matrix.T)
    assert np.diag(found.divergence).tolist() == [0] * 4
    assert np.diag(found.rank_correlation).tolist() == [1] * 4
    one = np.mean([jensen_shannon(row[1], row[3]) for row in seen.choice_probabilities])
    assert found.divergence[1, 3] == pytest.approx(one)
    assert (found.divergence[~np.eye(4, dtype=bool)] > 0.001).all()
    with pytest.raises(ValueError, match="there are none"):
        type_distances(model, slates[0][:0], slates[1][:0])


def test_groups_are_of_complete_linkage():
    # A chain 0 - 1 - 2: neighbours are 1 apart, the ends 2. Single linkage would join all three at 1.
    chain = np.abs(np.subtract.outer([0.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, 9.0]))
    assert groups_within(chain, 0.5) == [(0,), (1,), (2,), (3,)]
    assert groups_within(chain, 1.0) == [(0, 1), (2,), (3,)]
    assert groups_within(chain, 2.0) == [(0, 1, 2), (3,)]
    assert groups_within(chain, 9.0) == [(0, 1, 2, 3)]
    with pytest.raises(ValueError, match="0 or more, got -1"):
        groups_within(chain, -1)
    with pytest.raises(ValueError, match="symmetric"):
        groups_within(np.array([[0.0, 1.0], [2.0, 0.0]]), 1)


def test_merging_keeps_how_the_others_behave(slates):
    model = make_model(4, prior=[0.1, 0.4, 0.2, 0.3])
    stale = ("key", "sha256", "held_out", "held_out_one_type", "held_out_baselines")
    model.metadata |= dict.fromkeys(stale, "of four types") | {"encoder": {"sha256": "e"}}
    model.encoder_folder = pathlib.Path("encoder")
    heads = model.score_model
    with torch.no_grad():  # type 3 is type 0 with a touch of noise
        for part in (heads.image_heads, heads.text_heads):
            part.weight3[3] = part.weight3[0] + 1e-3 * torch.randn(part.weight3[0].shape)
            part.bias3[3] = part.bias3[0]
    before = behaviour(model, *slates)
    merged, groups = merge_types(model, *slates, threshold=1e-3)
    assert groups == [(0, 3), (1,), (2,)]
    assert merged.prior == pytest.approx([0.4, 0.4, 0.2])
    assert merged.n_types == 3
    # The commonest type of a group stands for it: 3, not 0.
    assert behaviour(merged, *slates).utilities == pytest.approx(before.utilities[:, [3, 1, 2]], abs=1e-6)
    assert merged.metadata["merged"]["groups"] == [[0, 3], [1], [2]]
    assert not set(stale) & set(merged.metadata)
    assert set(stale) <= set(model.metadata)
    assert (merged.encoder_folder, merged.metadata["encoder"]) == (model.encoder_folder, {"sha256": "e"})
    assert merged.temperature == model.temperature
    assert model.n_types == 4
    assert behaviour(model, *slates).utilities == pytest.approx(before.utilities)
    same, alone = merge_types(model, *slates, threshold=0.0)
    assert same.n_types == 4
    assert len(alone) == 4


def test_a_merged_model_survives_its_file(slates, tmp_path):
    merged, _ = merge_types(make_model(4), *slates, threshold=1.0)
    assert merged.n_types == 1
    merged.save(tmp_path)
    read = UserModel.load(tmp_path)
    assert behaviour(read, *slates).utilities == pytest.approx(behaviour(merged, *slates).utilities)


def test_cross_divergence_finds_the_same_types_of_a_shuffled_model(slates):
    model = make_model(3)
    order = [2, 0, 1]
    shuffled = make_model(3)
    with torch.no_grad():
        for part in ("image_heads", "text_heads"):
            getattr(shuffled.score_model, part).weight3[:] = getattr(model.score_model, part).weight3[order]
    found = cross_divergences(behaviour(model, *slates), behaviour(shuffled, *slates))
    assert found.shape == (3, 3)
    assert found.argmin(axis=0).tolist() == order
    assert found.min(axis=0) == pytest.approx(0, abs=1e-9)
