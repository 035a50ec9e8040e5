"""``docs/extending.md``: each part of one's own takes five steps, and the page's own code takes them."""

import ast
import csv
import pathlib
import re
import shutil
import sys
import textwrap
import types

import gymnasium as gym
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import pasta_gym  # noqa: F401  registers the environment
from benchmarks import fit_user_model, report, run
from pasta_gym.candidates import MAX_WORDS
from pasta_gym.datasets import DatasetError, open_dataset, registry
from pasta_gym.mini import grammar
from pasta_gym.seeding import mix
from pasta_gym.trajectories import CollectionConfig, collect, load
from pasta_gym.types import NOT_YET, History
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.worlds import make_world
from tests.agents.contract import check_agent, check_learner
from tests.parts.contract import check_candidate_generator, check_image_generator

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
PARTS = ("An agent", "An image model", "A candidate generator", "A dataset")


def section(part):
    return PAGE.read_text().split(f"## {part}, in five steps\n")[1].split("\n## ")[0]


def blocks(part, language):
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", section(part), flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


def taken(part, monkeypatch, folder):
    """The namespace after all Python of a section has run, as the module that its first line names."""
    monkeypatch.chdir(folder)
    code = blocks(part, "python")
    first = re.match(r"# (\w+)\.py\n", code[0])
    module = types.ModuleType(first[1] if first else "page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, block in enumerate(code):
        exec(compile(block, f"{part}, block {number}", "exec"), module.__dict__)
    return module


@pytest.fixture
def conf(tmp_path):
    """The configuration's folder, to add the page's files to."""
    return pathlib.Path(shutil.copytree(run.CONFIG_FOLDER, tmp_path / "conf"))


def composed(conf, name, *overrides):
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose(name, list(overrides))


def test_the_page_has_the_four_parts_with_five_steps_each():
    assert tuple(re.findall(r"^## (.*), in five steps$", PAGE.read_text(), flags=re.MULTILINE)) == PARTS
    for part in PARTS:
        assert re.findall(r"^(\d)\. ", section(part), flags=re.MULTILINE) == list("12345"), part


@pytest.fixture(scope="module")
def observations():
    envs = gym.make_vec("PastaT2I-v0", num_envs=3, vectorization_mode="vector_entry_point", images="surrogate")
    batch, _ = envs.reset(seed=5)
    batch, *_ = envs.step(envs.action_space.sample())
    envs.close()
    return batch


def test_the_agents_of_the_page_keep_the_contract(observations, monkeypatch, tmp_path):
    page = taken("An agent", monkeypatch, tmp_path)
    keys = mix(np.arange(3), 1)
    check_agent(page.Explorer(), observations, keys)
    assert (page.Explorer(exploration=1.0).act(observations, keys) != page.Explorer().act(observations, keys)).any()
    data = load(collect(CollectionConfig(n_episodes=12, shard_size=12), root=tmp_path / "data"))
    check_learner(page.Regression, data, tmp_path, observations, keys)


def test_the_learner_of_the_page_finds_what_returns_grow_with(monkeypatch, tmp_path):
    page = taken("An agent", monkeypatch, tmp_path)
    rng = np.random.default_rng(0)
    data = types.SimpleNamespace(
        candidates=rng.integers(50, size=(300, 2, 6)),
        actions=np.stack([rng.permutation(6)[:4] for _ in range(600)]).reshape(300, 2, 4),
        prompt_embeddings=rng.standard_normal((50, 5)).astype(np.float32),
        horizon=2,
    )
    shown = np.take_along_axis(data.candidates, data.actions, axis=2)
    data.rewards = data.prompt_embeddings[shown].mean(axis=2)[..., 3]  # the fourth number of an embedding is what pays
    agent, logged = page.Regression(penalty=1.0), []
    agent.train(data, seed=0, log=logged.append)
    assert np.abs(agent.weights).argmax() == 3
    assert agent.weights[3] > 0
    assert 0 < logged[0]["explained_variance"] < 1


def test_the_agent_of_the_page_is_in_the_table_after_its_five_steps(conf, monkeypatch, tmp_path):
    taken("An agent", monkeypatch, tmp_path)
    (settings,) = blocks("An agent", "yaml")
    (conf / "agent" / "explorer.yaml").write_text(settings)
    assert "python -m benchmarks.run agent=explorer reward=dense" in section("An agent")
    small = ["evaluation.n_episodes=4", "evaluation.batch_size=4", f"runs={tmp_path / 'runs'}"]
    made = composed(conf, "run", "agent=explorer", "reward=dense", *small)
    assert made.agent.exploration == 0.1
    folder = run.run(run.read_settings(made))
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["agent"] for row in rows] == ["explorer"] * 4
    text, _ = report.write_report(tmp_path / "runs", n_replicates=20)
    assert "| explorer " in text
    # What the page says of an edit: the class is another one, the run is the same until its folder is gone.
    assert "delete the run's folder" in " ".join(section("An agent").split())

    def edited(self, observations, seeds):
        raise RuntimeError("the edited class")

    monkeypatch.setattr("my_agents.Explorer.act", edited)
    assert run.run(run.read_settings(made)) == folder
    shutil.rmtree(folder)
    with pytest.raises(RuntimeError, match="the edited class"):
        run.run(run.read_settings(made))


def test_the_image_model_of_the_page_keeps_the_contract(monkeypatch, tmp_path):
    page = taken("An image model", monkeypatch, tmp_path)
    assert page.observation["initial_images"].shape == (4, 64)
    model = page.world.image_generator("blurred")
    prompts, keys = make_world("mini").initial_prompts["test"][:3], mix(np.arange(3)[:, None], np.arange(2))
    check_image_generator(model, prompts, keys)


def test_the_candidate_generator_of_the_page_keeps_the_contract(monkeypatch, tmp_path, capsys):
    page = taken("A candidate generator", monkeypatch, tmp_path)
    assert page.info["category_titles"] == page.OneSlotAtATime.category_titles
    assert len(set(page.info["candidates"])) > 15
    assert all("cat" in prompt or "kitten" in prompt for prompt in page.info["candidates"])
    assert len(capsys.readouterr().out.splitlines()) == 5
    generator = page.OneSlotAtATime()
    prompts = grammar.initial_prompt_ids("train")[[0, 500, 900]]
    history = History(
        prompts, np.full((3, 5, 4), NOT_YET), np.full((3, 5), NOT_YET), prompts, np.zeros(3, int), mix(np.arange(3)), 5
    )
    check_candidate_generator(generator, history)
    ids, _ = generator.propose(history)
    before, after = grammar.slot_values(prompts)[:, None], grammar.slot_values(ids)
    assert (after[..., grammar.SUBJECT] == before[..., grammar.SUBJECT]).all()
    changed = (after != before).sum(axis=2)
    assert changed.max() == 1  # one slot at a time
    assert grammar.word_counts(ids).max() <= MAX_WORDS


def test_the_dataset_of_the_page_is_read_split_and_embedded(monkeypatch, tmp_path, capsys):
    page = taken("A dataset", monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert "ann a red fox ['0.png', '1.png']" in printed
    assert "comparisons: 3" in printed
    assert isinstance(page.data, PreferenceData)
    assert page.data.pair_labels.tolist() == [1.0, 1.0, 1.0]
    first = page.data.pair_images[:, 0]  # the winners: red twice, then blue
    assert first[0] == first[1] != first[2]
    votes = tmp_path / "votes" / "votes.csv"
    votes.write_text(votes.read_text() + "bob,a cat,1.png,\n")
    with pytest.raises(DatasetError, match=r"votes\.csv, row 3, column loser"):
        list(page.Votes("votes").comparisons())
    (tmp_path / "votes" / "0.png").unlink()
    with pytest.raises(DatasetError, match=r"0\.png: the picture cannot be read"):
        next(iter(page.Votes("votes").comparisons())).images[0].read()


def test_the_dataset_of_the_page_is_opened_by_configuration(conf, monkeypatch, tmp_path):
    taken("A dataset", monkeypatch, tmp_path)
    line = re.search(r'here `("votes":\s+\(.*?\))`', section("A dataset"), flags=re.DOTALL)[1]
    for kind, place in ast.literal_eval("{" + line.replace("\n", " ") + "}").items():
        monkeypatch.setitem(registry.KINDS, kind, place)
    (settings,) = blocks("A dataset", "yaml")
    (conf / "data" / "preferences" / "votes.yaml").write_text(settings)
    assert "benchmarks.fit_user_model data=preferences/votes user_model=mini out=MODEL" in section("A dataset")
    read = fit_user_model.read_settings(
        composed(conf, "fit_user_model", "data=preferences/votes", "user_model=mini", "out=MODEL")
    )
    assert read.resolved["encoder"] == "mini"
    (source,) = read.resolved["data"]
    dataset = open_dataset(**source)
    assert [vote.rater for vote in dataset.comparisons()] == ["ann", "ann", "bob"]
