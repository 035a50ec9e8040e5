import math

import numpy as np
import pytest

from pasta_gym.mini import ceilings, grammar, raters, unsaid

CONFIG = raters.RaterConfig(base=-1.0)


def task(rng, people, who, n_learn=40, n_test=60, n_choices=10):
    prompts = grammar.slot_values(rng.choice(grammar.initial_prompt_ids("test"), size=n_learn + n_test))
    reads = raters.exact_reads(unsaid.fill_unset(np.repeat(prompts, 2, axis=0), rng)).reshape(-1, 2, 38)
    w = people.weights[who]
    u = raters.image_utilities(reads, prompts[:, None], w, people.config)
    labels = raters.sample_comparisons(u[:, 0], u[:, 1], people.temperature, people.config.tie, rng)
    slate_prompts = prompts[:n_choices]
    slates = raters.exact_reads(unsaid.fill_unset(np.repeat(slate_prompts, 12, axis=0), rng))
    slates = slates.reshape(n_choices, 4, 3, 38)
    columns = raters.column_utilities(raters.image_utilities(slates, slate_prompts[:, None, None], w, people.config))
    choices = raters.sample_choices(columns, people.temperature, rng)
    return ceilings.RaterTask(prompts, reads, labels, slate_prompts, slates, choices, n_learn)


@pytest.fixture(scope="module")
def world():
    archetypes = raters.draw_archetypes(5, CONFIG)
    people = raters.draw_raters(archetypes, 12, 5.0, np.random.default_rng(1), config=CONFIG)
    crowd = ceilings.draw_crowd(archetypes, 600, 5.0, np.random.default_rng(2), CONFIG)
    rng = np.random.default_rng(3)
    return crowd, people, [task(rng, people, who) for who in range(12)]


def test_the_posterior_by_hand():
    weights = ceilings.posterior_weights(np.log([[0.5, 0.25, 0.5], [0.4, 0.8, 0.1]]))
    assert weights == pytest.approx(np.array([0.2, 0.2, 0.05]) / 0.45)
    assert ceilings.effective_draws(weights) == pytest.approx(0.45**2 / (0.04 + 0.04 + 0.0025))
    assert ceilings.posterior_weights(np.zeros((0, 4))) == pytest.approx(np.full(4, 0.25))


def test_utilities_are_the_raters_own(world):
    crowd, _, tasks = world
    got = ceilings.utilities(crowd, tasks[0].reads[:5, 0], tasks[0].prompt_values[:5])
    expected = raters.image_utilities(
        tasks[0].reads[:5, None, 0], tasks[0].prompt_values[:5, None], crowd.weights[None], CONFIG
    )
    assert got == pytest.approx(expected, abs=1e-5)


def test_a_prediction_is_bayes_rule_by_enumeration(world):
    crowd, _, tasks = world
    two = ceilings.Crowd(crowd.weights[:2], 5.0, CONFIG)
    [prediction] = ceilings.predict(two, tasks[1], (3,))
    joint = np.ones(2)
    after = np.zeros((2, 2))
    for draw in range(2):
        u = raters.image_utilities(tasks[1].reads, tasks[1].prompt_values[:, None], two.weights[draw], CONFIG)
        for row in range(3):
            p = raters.comparison_probabilities(u[row, 0], u[row, 1], 5.0, CONFIG.tie)
            joint[draw] *= p[int(2 * tasks[1].labels[row])]
        p = raters.comparison_probabilities(u[40, 0], u[40, 1], 5.0, CONFIG.tie)
        after[draw] = p[0], p[2]
    weights = joint / joint.sum()
    lost, won = weights @ after
    assert prediction.preferences[0] == pytest.approx(won / (won + lost), abs=1e-5)
    slate = [
        raters.choice_probabilities(
            raters.column_utilities(
                raters.image_utilities(tasks[1].slate_reads[0], tasks[1].slate_prompt_values[0], w, CONFIG),
                CONFIG.best_image_sharpness,
            ),
            5.0,
        )
        for w in two.weights
    ]
    assert prediction.choices[0] == pytest.approx(weights @ np.array(slate), abs=1e-4)


def test_who_says_more_is_predicted_better(world):
    crowd, _, tasks = world
    likelihood = np.zeros(3)
    for t in tasks:
        for i, p in enumerate(ceilings.predict(crowd, t, (0, 5, 40))):
            y = t.labels[t.n_learn :]
            q = np.where(y == 1, p.preferences, 1 - p.preferences)[y != 0.5]
            likelihood[i] += np.log(q).mean() / len(tasks)
            assert p.choices.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-4)
    assert likelihood[0] < likelihood[1] < likelihood[2]
    assert likelihood[2] > -math.log(2) + 0.05


def test_more_labels_than_there_are_cannot_be_learned_from(world):
    crowd, _, tasks = world
    with pytest.raises(ValueError, match="n_labels must be at most 40, the pairs to learn from, got 41"):
        ceilings.predict(crowd, tasks[0], (5, 41))
