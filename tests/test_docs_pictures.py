"""``docs/pictures.md`` says of every picture what the file says of itself."""

import html
import pathlib
import re

import pytest
from PIL import Image

from benchmarks import type_rollouts
from benchmarks.learning_curves import SHOWN

ROOT = pathlib.Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PAGE = (ROOT / "docs" / "pictures.md").read_text()
COMMANDS = re.findall(r"^```\n(python -m .*?)\n```$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["type_rollouts", "learning_curves"])
def test_the_command_in_the_file_is_the_command_of_the_caption(name):
    facts = Image.open(IMAGES / f"{name}.png").text
    assert f"images/{name}.png)" in PAGE
    assert facts["command"] in COMMANDS


def test_the_page_of_an_episode_says_how_it_was_made():
    page = (IMAGES / "episode_page.html").read_text()
    assert "(images/episode_page.html)" in PAGE
    assert html.unescape(re.search(r"Made by <code>(.*?)</code>", page)[1]) in COMMANDS
    assert len(re.findall("<section", page)) == 5
    assert len(re.findall("<img", page)) == 84
    assert len(re.findall("<li", page)) == 5 * 25
    assert len(re.findall('<figure class="chosen"', page)) == 5


def test_the_rollouts_are_of_the_types_and_the_prompt_of_the_caption():
    picture = Image.open(IMAGES / "type_rollouts.png")
    types = [int(k) for k in picture.text["types"].split()]
    assert len(set(types)) == len(types) >= 3
    assert f'all begin with "{picture.text["prompt"]}"' in PAGE
    assert f"Four rows, one a user type, with the pictures of {picture.text['prompt']}" in PAGE
    assert len(types) == 4
    assert picture.text["agent"] == "slateq"
    assert picture.size == type_rollouts.size(len(types), 6, type_rollouts.tile_side(4))
    assert all(0 <= float(value) <= 10 for value in picture.text["last"].split())


def test_the_curves_are_those_of_the_caption():
    panels = Image.open(IMAGES / "learning_curves.png").text["panels"].split("; ")
    assert panels == [f"{agent}: {name}, 3 seeds" for agent, names in SHOWN.items() for name in names]
    assert "three seeds each" in PAGE
