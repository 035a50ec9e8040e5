import numpy as np
import pytest

from benchmarks import utility_bounds as command
from benchmarks.rater_scores import Scored, load_raters
from pasta_gym.mini import grammar, raters
from pasta_gym.mini.rater_data import load_truth, pool_of_labels
from pasta_gym.user_model import fit
from pasta_gym.user_model.data import SPLITS
from pasta_gym.user_model.predictors import Predictor
from tests.benchmarks.mini_labels import label_small_world


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    found = label_small_world(folder)
    data = fit.load_preferences(found)
    fit.fit_user_model(data, fit.EMConfig(n_types=2, steps=4, trial_steps=2, restarts=1, sorted_steps=2)).save(
        folder / "model"
    )
    return found


@pytest.fixture(scope="module")
def planted(labels):
    pool, truth = pool_of_labels(labels), load_truth(labels)
    reads = pool.eye.reshape(-1, pool.eye.shape[-1])
    return command.planted_utilities(reads, grammar.slot_values(pool.initial_prompts), truth), truth, pool


def test_an_archetype_judges_as_its_mean_rater_does(labels):
    truth = load_truth(labels)
    values = np.array([[1, 2, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0]])
    of_images = command.planted_utilities(raters.exact_reads(values), values, truth)
    found = of_images(np.array([0, 0]), np.array([[0, 1], [1, 0]]))
    assert found.shape == (2, len(truth.archetypes.shares), 2)
    config, weights = truth.raters.config, truth.archetypes.weights
    right = config.base + weights[:, 1]  # the second value of the first attribute slot, as asked
    wrong = config.base + weights[:, 0] - config.subject_penalty - config.intent_penalty
    np.testing.assert_allclose(found[0], 1 / (1 + np.exp(-np.stack([right, wrong], axis=1))))
    np.testing.assert_allclose(found[1], found[0][:, ::-1])


def test_columns_and_choices_are_judged_as_raters_do(labels, planted, monkeypatch):
    of_images, truth, _ = planted
    monkeypatch.setattr(command, "_ROWS", 3)
    predictor: Predictor = command.TypedUtilities(of_images, truth)
    rng = np.random.default_rng(0)
    slates, prompts = rng.integers(50, size=(7, 4, 2)), rng.integers(3, size=7)
    found = predictor.utilities(prompts, slates)
    flat = of_images(prompts, slates.reshape(7, 8)).reshape(7, -1, 4, 2)
    np.testing.assert_allclose(found, raters.column_utilities(flat, truth.raters.config.best_image_sharpness))
    logits = truth.raters.temperature * found
    np.testing.assert_allclose(
        np.exp(predictor.log_choice_probabilities(found)),
        np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True),
    )
    np.testing.assert_allclose(predictor.prior, truth.archetypes.shares)


def test_heads_learn_utilities_from_embeddings_that_show_them(labels, planted):
    of_images, _, _ = planted
    data = load_raters(labels).data
    rows = data.session_images[0].reshape(-1)

    def share(config, wanted=of_images, split="train"):
        heads = command.fit_heads(data, wanted, config)
        return command.explained(of_images, command.head_utilities(heads, data), data, split)

    long = command.HeadsConfig(steps=150, batch_images=128)
    assert share(long) > 0.5 > 0.0 > share(command.HeadsConfig(steps=1, learning_rate=1e-6))
    assert share(long) > share(long, split="test") > 0.1  # a few pictures say little of others
    assert command.explained(of_images, of_images, data) == 1.0

    def of_others(prompts, images):  # another picture's utilities
        return of_images(prompts, np.random.default_rng(1).permutation(len(data.image_embeddings))[images])

    assert share(long, of_others) < 0.1
    split = next(name for name in SPLITS if data.session_raters[0] in data.raters_of(name))
    pictures, prompts = command.pictures_of(data, split)
    assert (prompts[np.isin(pictures, rows)] == data.session_prompts[0]).all()
    assert np.isin(rows, pictures).all()


def test_every_predictor_meets_the_same_labels(labels):
    found, share = command.score_bounds(labels, labels.parent / "model", command.HeadsConfig(steps=60), n_draws=200)
    assert list(found) == ["uniform", "ceiling", "types alone", "heads without noise", "model"]
    assert all(run.by_rater["choice_log_likelihood@20"].shape == (4,) for run in found.values())
    assert share < 1
    without, _ = command.score_bounds(labels, None, command.HeadsConfig(steps=1), n_draws=20)
    assert "model" not in without


def hand_made(**values):
    """Scores of four raters, one world: by predictor, the same in every metric."""
    wiggle = np.array([-0.01, 0.01, -0.02, 0.02])
    return {
        name.replace("_", " "): Scored(dict.fromkeys(command.METRICS, value + wiggle), {})
        for name, value in values.items()
    }


def test_the_command_prints_what_each_part_costs(labels, tmp_path, monkeypatch, capsys):
    made = hand_made(uniform=-1.4, ceiling=-1.2, types_alone=-1.22, heads_without_noise=-1.25, model=-1.3)
    given = []

    def score_bounds(folder, model, config, n_draws):
        given.append((folder, model, config.steps, n_draws))
        return {name: run for name, run in made.items() if model is not None or name != "model"}, 0.93

    monkeypatch.setattr(command, "score_bounds", score_bounds)
    monkeypatch.setattr(command, "folders_of_world", lambda number: (labels.parent / "model", labels, None))
    page = tmp_path / "page.md"
    page.write_text("<!-- bounds:begin -->\n<!-- bounds:end -->\n")
    command.main(["--worlds", "0", "2", "--steps", "60", "--draws", "300", "--page", str(page)])
    assert given == [(labels, labels.parent / "model", 60, 300)] * 2
    printed = capsys.readouterr().out.strip()
    head, _, *rows = printed.split("\n\n")[0].splitlines()
    assert head.endswith("| types alone | heads without noise | model |")
    assert len(rows) == 2 * len(command.N_LABELS)
    assert rows[3].startswith("| choice log likelihood, n = 20 | 0.900 [")
    assert [cell.split()[0] for cell in rows[3].split("|")[2:5]] == ["0.900", "0.750", "0.500"]
    assert printed.endswith("93%, 93% in worlds 0, 2.")
    assert page.read_text().startswith(
        "<!-- bounds:begin -->\nPrinted by `python -m benchmarks.utility_bounds --worlds"
    )
    monkeypatch.setattr(command, "labels_folder", lambda number: labels / str(number))
    command.main(["--worlds", "5", "--without-model"])
    assert given[-1][:2] == (labels / "5", None)
    assert capsys.readouterr().out.splitlines()[0].endswith("| types alone | heads without noise |")


def test_raters_too_few_for_a_scale_are_said():
    runs = {name: [run] for name, run in hand_made(uniform=-1.2, ceiling=-1.3).items()}
    with pytest.raises(ValueError, match="take worlds with more test raters"):
        command.shares(runs)
