"""Modules that are commands start without a warning, and their packages still have the public names."""

import ast
import pathlib
import subprocess
import sys
from collections import defaultdict

import pytest

from pasta_gym import full, trajectories

ROOT = pathlib.Path(__file__).parents[1]


def commands():
    """The modules of each package that can be run."""
    found = defaultdict(list)
    for path in sorted((ROOT / "pasta_gym").rglob("*.py")):
        tests = [node.test for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
        if any("__main__" in ast.dump(test) for test in tests):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[module.rpartition(".")[0]].append(module)
    return dict(found)


COMMANDS = commands()


def test_the_commands_are_found():
    assert {"pasta_gym.full", "pasta_gym.mini", "pasta_gym.trajectories", "pasta_gym.user_model"} <= COMMANDS.keys()
    assert "pasta_gym.trajectories.collect" in COMMANDS["pasta_gym.trajectories"]


@pytest.mark.parametrize("package", COMMANDS)
def test_a_package_does_not_import_its_own_commands(package):
    # Python warns, "found in sys.modules after import of package", and would run the module a second time.
    code = f"import sys, {package}; print([m for m in {COMMANDS[package]} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("pasta_gym.trajectories.collect", ("--policy", "untrained_generator", "--root")),
        ("pasta_gym.trajectories.collect", ("offline data that agents learn from", "--episodes", "(default: 30000)")),
        ("pasta_gym.full.initial_prompts", ("--kind", "KEY=VALUE")),
    ],
)
def test_a_command_says_what_it_does_and_nothing_else(module, said):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    words = " ".join(done.stdout.split())
    assert all(text in words for text in said)


def test_public_names_are_the_functions():
    for package in (full, trajectories):
        assert all(callable(getattr(package, name)) for name in package.__all__)
    from pasta_gym.full.initial_prompts import read_initial_prompts

    assert full.read_initial_prompts is read_initial_prompts
    with pytest.raises(AttributeError, match=r"'pasta_gym\.full' has no attribute 'read_prompts'"):
        full.read_prompts  # noqa: B018
