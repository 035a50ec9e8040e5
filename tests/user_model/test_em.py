import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from pasta_gym.user_model.em import (
    EM,
    EMConfig,
    all_rater_log_likelihoods,
    expected_loss,
    fit_score_model,
    rater_log_likelihoods,
    rating_log_likelihood,
    update_prior,
)
from pasta_gym.user_model.labels import Batches, labels_of
from pasta_gym.user_model.metrics import adjusted_rand_index
from pasta_gym.user_model.posterior import choice_log_likelihood, log_evidence, log_posterior
from pasta_gym.user_model.session_losses import bradley_terry
from pasta_gym.user_model.sorting import SortingConfig, first_labels, sort_raters, whitening

SMALL = EMConfig(n_types=3, steps=160, restarts=1, trial_steps=80, batch_labels=800, learning_rate=5e-3, seed=4)


def test_bradley_and_terry_by_hand():
    # Logit 4 * (0.75 - 0.5) = 1 for the first type, 4 * (0.5 - 0.75) = -1 for the second.
    first, second = torch.tensor([[0.75, 0.5]] * 3), torch.tensor([[0.5, 0.75]] * 3)
    got = bradley_terry(first - second, torch.tensor([1.0, 0.0, 0.5]), 4.0)
    win, loss = -math.log(1 + math.exp(-1)), -math.log(1 + math.exp(1))
    expected = [[win, loss], [loss, win], [(win + loss) / 2] * 2]
    assert torch.allclose(got, torch.tensor(expected))


def test_gaussian_ratings_by_hand():
    # (0.5 - 0.9)^2 / (2 * 0.2^2) = 2.
    got = rating_log_likelihood(torch.tensor([[0.5, 0.9]]), torch.tensor([0.9]), 0.2)
    assert torch.allclose(got, torch.tensor([[-2.0, 0.0]]), atol=1e-6)


def test_the_prior_moves_towards_the_mean_posterior_by_hand():
    posterior = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
    got = update_prior(torch.tensor([0.2, 0.8]), posterior, 0.9)
    assert torch.allclose(got, torch.tensor([0.9 * 0.2 + 0.1 * 0.8, 0.9 * 0.8 + 0.1 * 0.2]))


def test_the_posterior_is_prior_times_the_product_over_labels():
    rng = np.random.default_rng(0)
    prior = rng.dirichlet([3.0, 1.0, 0.5])
    p = rng.random((4, 6, 3))
    expected = prior * p.prod(axis=1)
    evidence = np.log(expected.sum(axis=1))
    expected /= expected.sum(axis=1, keepdims=True)
    log_prior, likelihood = torch.from_numpy(np.log(prior)), torch.from_numpy(np.log(p).sum(axis=1))
    assert log_posterior(log_prior, likelihood).exp().numpy() == pytest.approx(expected)
    assert log_evidence(log_prior, likelihood).numpy() == pytest.approx(evidence)


def test_turns_to_come_say_nothing():
    log_p = torch.log(torch.tensor([[[[0.9, 0.1], [0.3, 0.7]], [[0.6, 0.4], [0.2, 0.8]]]]))
    got = choice_log_likelihood(log_p, torch.tensor([[1, -1]]))
    assert torch.allclose(got, torch.log(torch.tensor([[0.1, 0.7]])))


def test_the_loss_weights_pairs_and_ratings_by_hand(planted):
    labels = dataclasses.replace(
        labels_of(planted.data, np.array([0])),
        pair_raters=torch.tensor([0, 1]),
        rating_raters=torch.tensor([1]),
        n_raters=2,
    )
    pairs, ratings = torch.tensor([[-1.0, -3.0], [-2.0, -4.0]]), torch.tensor([[-5.0, -7.0]])
    posterior = torch.tensor([[0.75, 0.25], [0.0, 1.0]])
    # Pairs: (0.75 * 1 + 0.25 * 3 + 4) / 2 = 2.75; ratings: 7, times 0.5.
    assert float(expected_loss(pairs, ratings, posterior, labels, 0.5)) == pytest.approx(6.25)


def test_batches_hold_whole_raters_and_come_round(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    batches = Batches(labels, 300, torch.Generator().manual_seed(1))
    per_rater = torch.bincount(labels.pair_raters) + torch.bincount(labels.rating_raters)
    seen = []
    while len(seen) < labels.n_raters:
        batch = batches.draw()
        size = torch.bincount(batch.pair_raters, minlength=batch.n_raters)
        size += torch.bincount(batch.rating_raters, minlength=batch.n_raters)
        assert torch.equal(size, per_rater[batch.raters])
        own = batch.pair_raters == 0
        everything = labels.pair_raters == batch.raters[0]
        assert torch.equal(batch.pair_images[own], labels.pair_images[everything])
        assert torch.equal(
            batch.ratings[batch.rating_raters == 0], labels.ratings[labels.rating_raters == batch.raters[0]]
        )
        seen += batch.raters.tolist()
    assert sorted(seen) == list(range(labels.n_raters))


def test_rankings_count_as_pairs_of_neighbours(planted):
    data = planted.data
    raters, _, images, labels = data.all_pairs()
    assert len(labels) == len(data.pair_labels) + 3 * len(data.rankings)
    mine = images[raters == 7][-3:]
    assert mine.tolist() == [[a, b] for a, b in zip(data.rankings[7][:-1], data.rankings[7][1:], strict=True)]


def test_the_target_network_waits(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    em = EM(labels, dataclasses.replace(SMALL, target_every=3, sorting=None))
    start = em.target.image_heads.weight3.clone()
    for step in range(1, 4):
        em.step()
        moved = not torch.equal(em.target.image_heads.weight3, start)
        assert moved == (step == 3)
    assert torch.equal(em.target.image_heads.weight3, em.model.image_heads.weight3)


def test_every_weight_learns(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    em = EM(labels, dataclasses.replace(SMALL, sorting=None))
    before = {name: p.clone() for name, p in em.model.named_parameters()}
    em.step()
    em.step()
    still = [name for name, p in em.model.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_planted_types_of_unequal_shares_are_found(planted):
    data = planted.data
    who = data.raters_of("train")
    fitted = fit_score_model(labels_of(data, who), SMALL)
    assert adjusted_rand_index(fitted.posterior.argmax(dim=1).numpy(), planted.types[who]) > 0.8
    shares = np.sort(np.bincount(planted.types[who]) / len(who))
    assert np.sort(fitted.prior.numpy()) == pytest.approx(shares, abs=0.06)
    assert float(fitted.prior.sum()) == pytest.approx(1.0, abs=1e-5)


def test_more_types_explain_more(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    short = dataclasses.replace(SMALL, steps=60, trial_steps=60)
    one = fit_score_model(labels, dataclasses.replace(short, n_types=1))
    three = fit_score_model(labels, short)
    assert one.posterior.shape == (labels.n_raters, 1)
    assert three.log_likelihood > one.log_likelihood + 1.0


def test_a_seed_repeats_and_another_differs(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    tiny = dataclasses.replace(SMALL, steps=3, trial_steps=3, sorting=SortingConfig(starts=2, steps=5))
    fits = [fit_score_model(labels, dataclasses.replace(tiny, seed=s)).log_likelihood for s in (1, 1, 2)]
    assert fits[0] == fits[1] != fits[2]


def test_sorting_alone_finds_most_of_the_types(planted):
    data = planted.data
    who = data.raters_of("train")
    posterior = sort_raters(labels_of(data, who), 3, torch.Generator().manual_seed(0), SortingConfig(starts=3))
    assert adjusted_rand_index(posterior.argmax(dim=1).numpy(), planted.types[who]) > 0.5


def test_whitening_gives_unit_covariance():
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[3.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.2, 0.0, 1.0]]
    )
    mean, matrix = whitening(x + 5)
    y = (x + 5 - mean) @ matrix
    assert torch.allclose(y.T @ y / len(y), torch.eye(3), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_types": 0}, "n_types must be at least 1, got 0"),
        ({"prior_memory": 1.0}, r"prior_memory must be in \[0, 1\), got 1.0"),
        ({"rating_deviation": 0.0}, "rating_deviation must be above 0, got 0.0"),
        ({"e_step_every": -1}, "e_step_every must be at least 0, got -1; 0 is an E-step on each batch"),
        ({"batch_labels": 1.5}, "batch_labels must be an integer of at least 1, got 1.5"),
        ({"restart_period": -5}, "restart_period must be at least 0, got -5"),
        ({"sorted_steps": -1}, "sorted_steps must be at least 0, got -1"),
        ({"learning_rate": -1}, "learning_rate must be above 0, got -1"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"comparison_temperature": 0.0}, "comparison_temperature must be above 0, got 0.0"),
        ({"rating_weight": -3.0}, "rating_weight must be at least 0, got -3.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number of at least 0, got nan"),
        ({"noise": "abc"}, "noise must be a finite number of at least 0, got 'abc'"),
        ({"sorting": 3}, "sorting must be SortingConfig or its fields by name, got 3"),
        ({"sorting": {"starts": 0}}, "starts must be at least 1, got 0"),
        ({"steps": 10, "trial_steps": 20}, r"trial_steps must be at most steps \(10\), got 20"),
    ],
)
def test_impossible_configurations_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        EMConfig(**change)


def test_no_labels_is_an_error(planted):
    with pytest.raises(ValueError, match="no labels to fit on"):
        fit_score_model(labels_of(planted.data, np.zeros(0, dtype=np.int64)), SMALL)


def test_the_log_likelihood_of_a_rater_adds_up(planted):
    labels = labels_of(planted.data, np.array([3, 1]))
    em = EM(labels, dataclasses.replace(SMALL, sorting=None))
    both = rater_log_likelihoods(em.model, labels, 0.2)
    alone = rater_log_likelihoods(em.model, labels_of(planted.data, np.array([1])), 0.2)
    assert torch.allclose(both[1], alone[0], atol=1e-3)
    assert not torch.allclose(both[0], alone[0], atol=1e-1)


def test_pictures_scored_once_give_the_same_likelihoods(planted):
    labels = labels_of(planted.data, np.array([3, 1, 8]))
    model = EM(labels, dataclasses.replace(SMALL, sorting=None)).model
    expected = rater_log_likelihoods(model, labels, 0.2)
    assert torch.allclose(all_rater_log_likelihoods(model, labels, 0.2, size=7), expected, atol=1e-3)


def test_batches_of_labels_hold_every_label_once_before_any_comes_again(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    total = len(labels.pair_labels) + len(labels.ratings)
    batches = Batches(labels, 500, torch.Generator().manual_seed(1))
    drawn = [batches.draw_labels() for _ in range(-(-total // 500))]
    assert [len(b.pair_labels) + len(b.ratings) for b in drawn] == [500] * (total // 500) + [total % 500]

    def rows(parts):
        pairs = [
            (int(r), int(p), *i.tolist(), float(y))
            for b in parts
            for r, p, i, y in zip(b.pair_raters, b.pair_prompts, b.pair_images, b.pair_labels, strict=True)
        ]
        rated = [
            (int(r), int(p), int(i), float(y))
            for b in parts
            for r, p, i, y in zip(b.rating_raters, b.rating_prompts, b.rating_images, b.ratings, strict=True)
        ]
        return sorted(pairs), sorted(rated)

    assert rows(drawn) == rows([labels])
    # Many raters share a batch, where whole raters would be a dozen.
    assert len(drawn[0].pair_raters.unique()) > 90


def by_hand(model, prior, data, rater):
    """The prior times one factor a label of the rater, normalised: label after label, from the raw arrays."""
    temperature = float(model.log_comparison_temperature.exp())

    def score_of(prompt, image):
        text = torch.from_numpy(data.prompt_embeddings[[prompt]])
        return model(text, torch.tensor([0]), torch.from_numpy(data.image_embeddings[[image]]))[0].double().numpy()

    joint, factors = prior.double().numpy().copy(), 0
    for who, prompt, (first, second), label in zip(*data.all_pairs(), strict=True):
        if who == rater:
            wins = 1 / (1 + np.exp(-temperature * (score_of(prompt, first) - score_of(prompt, second))))
            joint, factors = joint * wins**label * (1 - wins) ** (1 - label), factors + 1
    for row in np.flatnonzero(data.rating_raters == rater):
        off = score_of(data.rating_prompts[row], data.rating_images[row]) - data.ratings[row]
        joint, factors = joint * np.exp(-(off**2) / (2 * 0.2**2)), factors + 1
    return joint / joint.sum(), factors


def test_algorithm_1_conditions_each_rater_of_a_batch_on_all_their_labels(planted, monkeypatch):
    data, who, used = planted.data, planted.data.raters_of("train")[20:28], []
    config = dataclasses.replace(
        SMALL, sorting=None, e_step_every=0, batch_labels=60, target_every=2, prior_memory=0.3, noise=0.3
    )
    em = EM(labels_of(data, who), config)
    monkeypatch.setattr(
        "pasta_gym.user_model.em.expected_loss",
        lambda pairs, ratings, posterior, labels, weight: (
            used.append((posterior, labels)) or expected_loss(pairs, ratings, posterior, labels, weight)
        ),
    )
    seen = []
    for _ in range(8):
        target, prior = copy.deepcopy(em.target), em.prior.clone()
        em.step()
        posterior, batch = used[-1]
        # Rows of the loss may repeat a rater; the posterior has one row for each rater of the batch.
        assert posterior.shape == (len(batch.raters), 3)
        expected, factors = zip(*(by_hand(target, prior, data, r) for r in who[batch.raters]), strict=True)
        assert set(factors) == {24 + 3 + 5}  # pairs, neighbours in a ranking, ratings
        assert posterior.numpy() == pytest.approx(np.array(expected), abs=1e-4)
        moved = 0.3 * prior.numpy() + 0.7 * np.mean(expected, axis=0)
        assert em.prior.numpy() == pytest.approx(moved, abs=1e-4)
        seen += batch.raters.tolist()
    # Two of eight raters a batch, everybody before anybody comes again, and types are told apart in the end.
    assert [sorted(seen[:8]), sorted(seen[8:16])] == [list(range(8))] * 2
    assert posterior.max() > 0.9


def test_the_posterior_of_everybody_is_kept_between_e_steps(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    em = EM(labels, dataclasses.replace(SMALL, sorting=None, e_step_every=4, target_every=1))
    kept = []
    for _ in range(6):
        expected = log_posterior(em.prior.log(), rater_log_likelihoods(em.target, labels, 0.2)).exp().detach()
        em.step()
        kept.append(em._posterior)
        if em.taken in (1, 5):
            assert torch.allclose(kept[-1], expected, atol=1e-3)
    assert all(torch.equal(kept[0], k) for k in kept[:4])
    assert not torch.equal(kept[3], kept[4])
    assert torch.equal(kept[4], kept[5])


def test_planted_types_are_found_by_batches_of_labels(planted):
    data = planted.data
    who = data.raters_of("train")
    config = dataclasses.replace(SMALL, e_step_every=20, sorted_steps=60)
    fitted = fit_score_model(labels_of(data, who), config)
    assert adjusted_rand_index(fitted.posterior.argmax(dim=1).numpy(), planted.types[who]) > 0.8
    shares = np.sort(np.bincount(planted.types[who]) / len(who))
    assert np.sort(fitted.prior.numpy()) == pytest.approx(shares, abs=0.06)


def test_sorting_may_look_at_the_first_labels_of_each_rater(planted):
    labels = labels_of(planted.data, np.array([3, 1]))
    few = first_labels(labels, 2)
    assert few.pair_raters.tolist() == few.rating_raters.tolist() == [0, 0, 1, 1]
    second = int((labels.pair_raters == 0).sum())
    assert torch.equal(few.pair_images, labels.pair_images[[0, 1, second, second + 1]])
    assert torch.equal(few.ratings, labels.ratings[[0, 1, 5, 6]])
    with pytest.raises(ValueError, match="labels_per_rater must be at least 0, got -1"):
        SortingConfig(labels_per_rater=-1)


@pytest.mark.parametrize("change", [{"starts": 0}, {"steps": 0}, {"learning_rate": 0}, {"spread": 0}, {"ridge": -1}])
def test_sorting_that_sorts_nothing_is_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be (at least|above) [01], got {change[name]}"):
        SortingConfig(**change)
