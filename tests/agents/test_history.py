from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from agents.diagnostics import context_effect
from agents.history import LoggedHistories, StateEncoder, histories_from_observations
from agents.networks import PromptNetwork, ValueNetwork, context_average, linear, start_at, update_target
from tests.agents.toy_world import ToyWorld

WORLD = ToyWorld()


@pytest.fixture(scope="module")
def data():
    return WORLD.collect(40)


@pytest.fixture(scope="module")
def logged(data):
    rng = np.random.default_rng(0)
    return LoggedHistories(data, rng.dirichlet(np.ones(2), size=(40, WORLD.horizon + 1)))


def test_logged_histories_equal_those_of_the_observations(data, logged):
    episodes, turns = np.arange(12), np.arange(12) % WORLD.horizon
    gathered = logged.histories(torch.tensor(episodes), torch.tensor(turns))
    observed = histories_from_observations(data.observations(episodes, turns), logged.belief[episodes, turns].numpy())
    for field in fields(gathered):
        left, right = getattr(gathered, field.name), getattr(observed, field.name)
        assert left.shape == right.shape, field.name
        assert left.dtype == right.dtype, field.name
        assert torch.allclose(left, right, atol=1e-6), field.name


def test_a_history_by_hand(data, logged):
    history = logged.histories(torch.tensor([7]), torch.tensor([2]))
    shown = data.candidates[7, 1, data.actions[7, 1]]
    column = data.choices[7, 1]
    images = data.slate_images[7, 1].astype(np.float32)
    assert history.current_prompts[0].numpy() == pytest.approx(WORLD.prompts[shown[column]])
    assert history.current_images[0].numpy() == pytest.approx(images[column].mean(0), abs=1e-6)
    assert history.past[0, 1, 0].numpy() == pytest.approx(WORLD.prompts[shown[column]])
    assert history.past[0, 1, 2].numpy() == pytest.approx(images.mean((0, 1)), abs=1e-6)
    assert history.seen.tolist() == [[True, True, False]]
    assert not history.past[0, 2].any()


def test_before_the_first_slate_the_initial_prompt_is_the_current_one(data, logged):
    history = logged.histories(torch.tensor([3]), torch.tensor([0]))
    assert torch.equal(history.current_prompts, history.initial_prompts)
    initial = data.initial_images[3].astype(np.float32).mean(0)
    assert history.current_images[0].numpy() == pytest.approx(initial, abs=1e-6)
    assert not history.past.any()


def encoder(n_outputs=4, seed=0):
    return StateEncoder(
        embedding_dim=WORLD.embedding_dim,
        horizon=WORLD.horizon,
        n_encoder_outputs=n_outputs,
        width=8,
        generator=torch.Generator().manual_seed(seed),
    )


def test_statistics_standardise_what_was_shown(logged):
    encode = encoder()
    encode.fit_statistics(logged)
    shown = encode.prompts(logged.prompt_embeddings[logged.slates]).flatten(0, 2)
    images = encode.images(logged.chosen_images).flatten(0, 1)
    for values in (shown, images):
        assert values.mean(0).numpy() == pytest.approx(np.zeros(WORLD.embedding_dim), abs=1e-4)
        assert values.std(0, correction=0).numpy() == pytest.approx(np.ones(WORLD.embedding_dim), abs=1e-4)


def test_a_dimension_that_never_varies_stays_finite(data):
    flat = replace(data, prompt_embeddings=np.ones_like(data.prompt_embeddings))
    encode = encoder()
    logged = LoggedHistories(flat, np.zeros((40, WORLD.horizon + 1, 0)))
    encode.fit_statistics(logged)
    state, _ = encode(logged.histories(torch.arange(5), torch.ones(5, dtype=torch.int64)))
    assert state.abs().max() < 10


def test_the_encoder_reads_seen_turns_in_any_order_and_nothing_else(logged):
    encode = encoder()
    histories = logged.histories(torch.arange(6), torch.full((6,), 2))
    state, context = encode(histories)
    assert state.shape == (6, encode.state_dim)
    assert context.shape == (6, 2 + 4)
    assert torch.allclose(context[:, 2:].sum(1), torch.ones(6))
    assert torch.equal(context[:, :2], histories.belief)
    noise = torch.zeros_like(histories.past)
    noise[:, 2] = 9.0
    assert torch.allclose(encode(replace(histories, past=histories.past + noise))[1], context)
    swapped = histories.past[:, [1, 0, 2]]
    assert torch.allclose(encode(replace(histories, past=swapped))[1], context, atol=1e-6)
    noise[:, 1] = 1.0
    assert not torch.allclose(encode(replace(histories, past=histories.past + noise))[1], context, atol=1e-3)


def test_the_context_is_the_softmax_of_the_start_plus_each_seen_turns_evidence(logged):
    encode = encoder()
    with torch.no_grad():
        encode.history.start.copy_(torch.tensor([0.5, 0.0, -1.0, 0.25]))
    turns = torch.tensor([0, 3, 1, 0, 2, 3])
    histories = logged.histories(torch.arange(6), turns)
    for i, n_seen in enumerate(turns):
        total = encode.history.start.clone()
        for prompt, image, slate in histories.past[i, :n_seen]:
            image, slate = encode.images(image), encode.images(slate)
            total += encode.history.turn(torch.cat([encode.prompts(prompt), image, image - slate])[None])[0]
        assert torch.allclose(encode(histories)[1][i, 2:], torch.softmax(total, 0), atol=1e-5), i
    nobody = logged.histories(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    assert torch.allclose(encode(nobody)[1][:, 2:], torch.softmax(encode.history.start, 0).expand(3, -1))


def test_a_learner_that_reads_no_past_gathers_none(data, logged):
    spare = LoggedHistories(data, logged.belief.numpy(), reads_past=False)
    episodes, turns = torch.arange(8), torch.arange(8) % (WORLD.horizon + 1)
    without, whole = spare.histories(episodes, turns), logged.histories(episodes, turns)
    assert without.past.shape == (8, 0, 3, whole.past.shape[3])
    for field in fields(whole):
        if field.name != "past":
            assert torch.equal(getattr(without, field.name), getattr(whole, field.name)), field.name


def test_context_average_by_hand():
    # 5 for everybody, plus 1 * .25 + 3 * .75.
    assert context_average(torch.tensor([5.0, 1.0, 3.0]), torch.tensor([0.25, 0.75])).item() == pytest.approx(7.5)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_networks_value_each_prompt_on_its_own(n_layers):
    generator = torch.Generator().manual_seed(0)
    network = PromptNetwork(5, 2, 3, width=8, n_layers=n_layers, generator=generator)
    state, context = torch.randn(4, 5, generator=generator), torch.rand(4, 2, generator=generator)
    prompts = torch.randn(4, 6, 3, generator=generator)
    values = network(state, context, prompts)
    assert values.shape == (4, 6)
    assert torch.allclose(network(state, context, prompts[:, 2:3])[:, 0], values[:, 2], atol=1e-6)
    assert ValueNetwork(5, 2, width=8, n_layers=n_layers, generator=generator)(state, context).shape == (4,)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_a_network_can_start_at_the_mean_return(n_layers):
    network = ValueNetwork(5, 2, width=8, n_layers=n_layers, generator=torch.Generator().manual_seed(0))
    inputs = torch.zeros(1, 5), torch.zeros(1, 2)
    start_at(network, 0.0)
    before = network(*inputs).item()
    start_at(network, 3.0)
    assert network(*inputs).item() - before == pytest.approx(3.0, abs=1e-6)


def test_mean_return_by_hand(data):
    rewards = np.tile([1.0, 2.0, 6.0], (40, 1))
    logged = LoggedHistories(replace(data, rewards=rewards), np.zeros((40, WORLD.horizon + 1, 0)))
    assert logged.mean_return() == pytest.approx((9 + 8 + 6) / 3)


def test_initial_weights_come_from_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (linear(3, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert first.weight.abs().max() <= 3**-0.5


def test_the_target_moves_by_its_rate():
    target, online = (linear(2, 2, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = 0.75 * target.weight + 0.25 * online.weight
    update_target(target, online, 0.25)
    assert torch.allclose(target.weight, expected)
    update_target(target, online, 1.0)
    assert torch.equal(target.weight, online.weight)


def test_context_effect_tells_users_of_the_history_from_others(logged):
    def by_prompt(histories, prompts):
        return prompts[..., 0]

    def by_past(histories, prompts):
        return prompts[..., 0] * histories.past[:, 0, 1, :1]

    def common_shift(histories, prompts):
        return prompts[..., 0] + 100 * histories.past[:, 0, 1, :1]

    def by_belief(histories, prompts):
        return prompts[..., 0] * (histories.belief[:, :1] - 0.5)

    assert context_effect(by_prompt, logged) == 0
    assert context_effect(common_shift, logged) < 1e-3
    assert context_effect(by_past, logged) > 0.5
    assert context_effect(by_belief, logged) > 0.5
    assert context_effect(lambda histories, prompts: torch.zeros(prompts.shape[:2]), logged) == 0
