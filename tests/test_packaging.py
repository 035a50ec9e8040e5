"""What is declared, what is pinned and what is installed agree."""

import importlib.metadata
import importlib.resources
import pathlib
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(line.split("==")[0]): Version(line.split("==")[1])
    for line in (ROOT / "constraints.txt").read_text().split("\n")
    if "==" in line and not line.startswith("#")
}
DECLARED = [
    Requirement(text) for text in (*PROJECT["dependencies"], *(r for e in EXTRAS if e != "all" for r in EXTRAS[e]))
]


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_every_declared_package_is_pinned_within_its_range(requirement):
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_the_installed_version_is_within_the_range(requirement):
    assert Version(importlib.metadata.version(requirement.name)) in requirement.specifier


def test_the_extra_all_holds_every_other_extra():
    (everything,) = (Requirement(text) for text in EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all"}


def test_the_core_runs_the_environment_and_not_the_benchmark():
    core = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert {"torch", "diffusers", "transformers", "open_clip_torch", "safetensors", "gymnasium"} <= core
    assert not core & {"d3rlpy", "wandb", "hydra-core", "pyarrow", "pytest", "matplotlib"}


def test_the_package_has_the_mark_of_the_types_that_it_claims():
    assert "Typing :: Typed" in PROJECT["classifiers"]
    mark = importlib.resources.files("pasta_gym") / "py.typed"
    assert mark.is_file()  # without it a type checker takes everything imported from the package as Any
    assert mark.read_text() == ""
