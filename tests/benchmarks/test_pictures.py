"""Pictures of conversations and of training: the right rows, the right pixels, the right words beside them."""

import base64
import html
import io
import itertools
import json
import re

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import pasta_gym  # noqa: F401  registers the environment
from agents.random_slate import RandomAgent
from benchmarks import episode_page, learning_curves, runs, storyboard, type_rollouts
from benchmarks.evaluate import EpisodeScores, decision_keys
from pasta_gym.envs import PastaConfig
from pasta_gym.worlds import MiniWorld
from tests.env.tiny_world import PRIOR, TINY, tiny_world

CONFIG = PastaConfig(images="diffusion", split="test", **TINY)
H, L, M = TINY["horizon"], TINY["slate_size"], TINY["images_per_prompt"]


def played(user_types=(2, 0, 1), seed=4):
    return storyboard.play(
        RandomAgent(), prompt="prompt 7", user_types=user_types, seed=seed, world=tiny_world(), config=CONFIG
    )


@pytest.fixture(scope="module")
def stories():
    return played()


def test_a_story_is_the_conversation_that_the_environment_plays(stories):
    story = stories[0]
    with gym.make("PastaT2I-v0", world=tiny_world(), images="diffusion", split="test", reveal=True, **TINY) as env:
        observation, info = env.reset(seed=4, options={"prompt": "prompt 7", "user_type": 2})
        assert np.array_equal(story.initial_pixels, env.unwrapped._conversations.initial_pixels[0])
        for scene in story.scenes:
            assert scene.candidates == info["candidates"]
            assert np.array_equal(scene.categories, observation["categories"])
            observation, _, terminated, _, info = env.step(scene.slate)
            assert scene.prompts == info["slate"]
            assert scene.chosen_prompt == info["chosen_prompt"]
            np.testing.assert_allclose(scene.utilities, info["utilities"])
            np.testing.assert_allclose(scene.choice_probabilities, info["choice_probabilities"])
            assert np.array_equal(scene.pixels, env.unwrapped._conversations.slate_pixels[0])
    assert terminated


def test_types_begin_alike_and_part(stories):
    assert [story.user_type for story in stories] == [2, 0, 1]
    assert [story.share for story in stories] == [PRIOR[2], PRIOR[0], PRIOR[1]]
    for story in stories[1:]:
        assert np.array_equal(story.initial_pixels, stories[0].initial_pixels)
        assert story.scenes[0].candidates == stories[0].scenes[0].candidates
        assert np.array_equal(story.scenes[0].pixels, stories[0].scenes[0].pixels)
        assert not np.allclose(story.scenes[0].utilities, stories[0].scenes[0].utilities)
    assert len({story.scenes[-1].candidates for story in stories}) > 1


def test_a_type_is_told_to_privileged_agents_alone():
    seen, keys = [], []

    class Spy(RandomAgent):
        reads_text = True

        def act(self, observations, seeds):
            seen.append(observations)
            keys.append(seeds)
            return super().act(observations, seeds)

    def play(agent):
        storyboard.play(agent, prompt="prompt 7", user_types=[1, 2], world=tiny_world(), config=CONFIG)

    play(Spy())
    expected = [decision_keys(0, np.zeros(2, dtype=np.int64), turn) for turn in range(H)]
    assert np.array_equal(keys, expected)  # as in an evaluation, and the same luck for both types
    assert "user_type" not in seen[0]
    assert seen[0]["initial_prompt_text"].tolist() == ["prompt 7", "prompt 7"]
    assert (seen[1]["slate_texts"][:, 0] != "").all()
    assert (seen[1]["slate_texts"][:, 1:] == "").all()
    spy = Spy()
    spy.privileged = True
    play(spy)
    assert seen[-1]["user_type"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"user_types": [0, 3]}, r"user_types must be one or more of 0\.\.2, got \[0, 3\]"),
        ({"user_types": []}, "user_types must be one or more"),
        ({"config": PastaConfig(images="surrogate", **TINY)}, "paints no pixels; use images='diffusion'"),
        ({"prompt": "a cat"}, "prompt 0"),
    ],
)
def test_what_cannot_be_played_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        storyboard.play(
            RandomAgent(),
            **({"prompt": "prompt 7", "user_types": [0], "world": tiny_world(), "config": CONFIG} | given),
        )


def test_every_tile_is_the_chosen_column_of_its_row_and_turn(stories):
    picture = np.asarray(type_rollouts.draw(stories))
    side = type_rollouts.tile_side(M)
    assert side == 2 * 64 + 2  # two pictures take a square of four places
    assert picture.shape[:2] == type_rollouts.size(3, H + 1, side)[::-1]
    for row, story in enumerate(stories):
        shown = [story.initial_pixels, *(scene.pixels[scene.choice] for scene in story.scenes)]
        for column, pictures in enumerate(shown):
            left, top = type_rollouts.corner(row, column, side)
            for m, pixels in enumerate(pictures):
                drawn = picture[top : top + 64, left + 66 * m : left + 66 * m + 64]
                assert np.array_equal(drawn, pixels.repeat(8, axis=0).repeat(8, axis=1))


def test_tiles_do_not_overlap_and_stay_inside():
    side = type_rollouts.tile_side(4)
    width, height = type_rollouts.size(4, 6, side)
    corners = [type_rollouts.corner(row, column, side) for row in range(4) for column in range(6)]
    assert min(left for left, _ in corners) >= type_rollouts.LABEL
    assert max(left for left, _ in corners) + side <= width
    assert max(top for _, top in corners) + side + type_rollouts.CAPTION <= height
    for (left, top), (right, below) in itertools.pairwise(corners):
        assert right >= left + side or below >= top + side + type_rollouts.CAPTION


def test_conversations_that_cannot_be_compared_are_not_drawn_together(stories):
    other = storyboard.play(RandomAgent(), prompt="prompt 8", user_types=[0], world=tiny_world(), config=CONFIG)
    with pytest.raises(ValueError, match="must be of one agent, initial prompt and number of turns"):
        type_rollouts.draw([*stories, *other])
    with pytest.raises(ValueError, match="got \\[\\]"):
        type_rollouts.draw([])


def test_the_file_of_rollouts_says_what_it_shows(stories, monkeypatch, tmp_path, capsys):
    asked = {}
    monkeypatch.setattr(type_rollouts, "play", lambda agent, **given: asked.update(given) or stories)
    type_rollouts.main(["--types", "2", "0", "1", "--prompt", "prompt 7", "--out", str(tmp_path / "a.png")])
    assert asked["user_types"] == [2, 0, 1]
    facts = Image.open(tmp_path / "a.png").text
    assert facts["types"] == "2 0 1"
    assert facts["prompt"] == "prompt 7"
    assert facts["command"].startswith("python -m benchmarks.type_rollouts --types 2 0 1 --prompt 'prompt 7' --out")
    assert [float(value) for value in facts["last"].split()] == [
        round(10 * story.scenes[-1].chosen_utility, 1) for story in stories
    ]
    assert "random with types 2, 0, 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        type_rollouts.main(["--types", "2", "0", "2"])


def sections(page):
    return re.findall(r'<section id="turn-\d+">.*?</section>', page, flags=re.DOTALL)


def test_a_page_has_every_candidate_under_its_category_and_the_slate_in_bold(stories):
    page = episode_page.page(stories[0], "the command")
    assert len(sections(page)) == H
    for section, scene in zip(sections(page), stories[0].scenes, strict=True):
        lists = re.findall(r"<h3>(.*?)</h3><ul>(.*?)</ul>", section, flags=re.DOTALL)
        assert [title for title, _ in lists] == list(stories[0].category_titles)
        for category, (_, entries) in enumerate(lists):
            members = np.flatnonzero(scene.categories == category)
            assert re.findall(r"<li[^>]*>(.*?)</li>", entries) == [scene.candidates[i] for i in members]
        bold = re.findall(r'<li class="shown">(.*?)</li>', section)
        assert sorted(bold) == sorted(scene.prompts)


def test_a_page_has_all_pictures_the_choice_and_what_columns_are_worth(stories):
    page = episode_page.page(stories[0], "the command")
    assert len(re.findall("<img", page)) == M + H * L * M
    for section, scene in zip(sections(page), stories[0].scenes, strict=True):
        figures = re.findall(r"<figure( class=\"chosen\")?>(.*?)</figure>", section)
        assert [bool(mark) for mark, _ in figures] == [column == scene.choice for column in range(L)]
        for column, (_, body) in enumerate(figures):
            assert f"<figcaption>{scene.prompts[column]}" in body
            assert f"satisfaction {10 * scene.utilities[column]:.1f} of 10" in body
            assert f"probability {scene.choice_probabilities[column]:.2f}" in body
            decoded = [
                np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
                for data in re.findall(r'src="data:image/png;base64,([^"]*)"', body)
            ]
            assert np.array_equal(decoded, scene.pixels[column])


def test_a_page_stands_alone_and_prints_words_as_words(stories):
    story = storyboard.Story(**(vars(stories[0]) | {"initial_prompt": "<script>x</script>", "agent": "a & b"}))
    page = episode_page.page(story, "python -m x --prompt '<b>'")
    assert "<script" not in page
    assert html.escape("<script>x</script>") in page
    assert "a &amp; b" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert f"type {story.user_type}, as {story.share:.0%} of users" in page


def test_the_page_is_of_the_conversation_that_was_asked_for(stories, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(episode_page, "play", lambda agent, **given: asked.append(given) or stories[:1])
    monkeypatch.setattr(episode_page, "commonest_types", lambda n, world: [5])
    for given in (["--user-type", "0"], []):
        episode_page.main([*given, "--seed", "9", "--out", str(tmp_path / "new" / "page.html")])
    assert [call["user_types"] for call in asked] == [[0], [5]]
    assert asked[0]["seed"] == 9
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")


def test_the_commonest_types_are_those_of_the_largest_share():
    from pasta_gym.worlds import make_world

    prior = make_world("mini").users().prior
    chosen = storyboard.commonest_types(3)
    assert sorted(prior)[-3:][::-1] == [prior[k] for k in chosen]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def finished_run(root, agent, seed, rows, reward="sparse", data="d", world="w"):
    key = runs.RunKey("e", "h", agent, reward, data, world, "surrogate", "test", seed)
    folder = key.folder(root)
    folder.mkdir(parents=True)
    scores = EpisodeScores(np.arange(2), ["a", "b"], np.zeros(2, dtype=int), np.ones(2), np.full((2, 1), 0.1))
    runs.write_scores(folder / runs.SCORES, key, scores)
    (folder / runs.METRICS).write_text(lines(*rows))
    (folder / "started.json").write_text("{}")
    (folder / runs.METADATA).write_text(json.dumps({"privileged": False}))
    return folder


def logs(*losses, step=100):
    return [{"step": float(step * (i + 1)), "training/loss/q": loss} for i, loss in enumerate(losses)]


def test_curves_put_seeds_together_at_the_steps_they_share(tmp_path):
    first = finished_run(tmp_path, "iql", 0, [{"training/belief/x": 1.0}, *logs(3.0, 2.0, 1.0), {"evaluation/y": 4.0}])
    finished_run(tmp_path, "iql", 1, logs(5.0, 4.0))
    finished_run(tmp_path, "iql", 2, logs(9.0, 9.0), reward="dense")
    finished_run(tmp_path, "random", 0, [{"evaluation/y": 4.0}])
    assert learning_curves.logged(first) == {"loss/q": {100: 3.0, 200: 2.0, 300: 1.0}}
    made = learning_curves.of_runs(tmp_path, reward="sparse")
    assert list(made) == ["iql"]
    curve = made["iql"]["loss/q"]
    assert curve.steps.tolist() == [100, 200]
    assert curve.values.tolist() == [[3.0, 2.0], [5.0, 4.0]]


def test_curves_of_other_data_and_other_worlds_are_no_seeds(tmp_path):
    finished_run(tmp_path, "iql", 0, logs(3.0, 2.0))
    finished_run(tmp_path, "iql", 1, logs(5.0, 4.0))
    finished_run(tmp_path, "iql", 0, logs(7.0, 6.0), data="e")
    finished_run(tmp_path, "iql", 0, logs(9.0, 8.0), world="v")
    made = learning_curves.of_runs(tmp_path, reward="sparse")
    found = {name: curve["loss/q"].values[:, 0].tolist() for name, curve in made.items()}
    assert found == {"iql, d, v": [9.0], "iql, d, w": [3.0, 5.0], "iql, e, w": [7.0]}


def written_run(folder, **env):
    folder.mkdir()
    (folder / runs.CONFIG).write_text(OmegaConf.to_yaml({"agent": {}, "env": {"user_model": None} | env}))
    return folder


def test_a_runs_pictures_are_of_its_own_world(tmp_path, monkeypatch):
    monkeypatch.setattr(storyboard, "trained_agent", lambda run: "the agent")
    recipe = {"_target_": "pasta_gym.worlds.MiniWorld", "number": 2}
    assert storyboard.agent_of(written_run(tmp_path / "a", world="mini")) == ("the agent", "mini")
    assert storyboard.agent_of(written_run(tmp_path / "b", world=recipe)) == ("the agent", MiniWorld(2))
    assert storyboard.agent_of(None)[1] == "mini"
    with pytest.raises(ValueError, match="has users of its own, elsewhere; pictures are made with a world's own"):
        storyboard.agent_of(written_run(tmp_path / "c", world="mini", user_model="elsewhere"))


def test_the_interval_over_three_seeds_is_students():
    curve = learning_curves.Curve(np.array([1, 2]), np.array([[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]]))
    low, high = curve.interval()
    half = 4.302653 / np.sqrt(3)  # the 97.5% point of t with two degrees of freedom; the deviation is 1
    np.testing.assert_allclose(low, [2 - half, 4], rtol=1e-6)
    np.testing.assert_allclose(high, [2 + half, 4], rtol=1e-6)
    assert learning_curves.Curve(np.array([1, 2]), np.array([[1.0, 2.0]])).interval() is None


def test_curves_are_drawn_and_the_file_names_its_panels(tmp_path, capsys):
    for seed in range(3):
        finished_run(tmp_path / "runs", "own", seed, logs(3.0 + seed, 2.0, 1.0))
    learning_curves.main([str(tmp_path / "runs"), "--out", str(tmp_path / "curves.png")])
    facts = Image.open(tmp_path / "curves.png").text
    assert facts["panels"] == "own: loss/q, 3 seeds"
    assert (
        facts["command"] == f"python -m benchmarks.learning_curves {tmp_path / 'runs'} --out {tmp_path / 'curves.png'}"
    )
    assert "own: loss/q, 3 seeds" in capsys.readouterr().out


def test_runs_without_curves_and_broken_lines_are_refused(tmp_path):
    folder = finished_run(tmp_path, "random", 0, [{"evaluation/y": 4.0}])
    with pytest.raises(ValueError, match="no finished run with reward=sparse that logged while it trained"):
        learning_curves.of_runs(tmp_path, reward="sparse")
    (folder / runs.METRICS).write_text('{"step": 1}\n{"step": 2, "tr')
    with pytest.raises(ValueError, match="line 2, is no JSON object"):
        learning_curves.logged(folder)
