"""Where numbers come from: hashes of the models inside an environment, package versions, git revision."""

from __future__ import annotations

import json
import pathlib
import subprocess
from importlib import metadata
from typing import Any

from pasta_gym.files import digest, file_digest

PACKAGES = ("numpy", "torch", "gymnasium", "diffusers", "transformers", "open_clip_torch", "pyarrow", "safetensors")


def model_hashes(envs: Any) -> dict[str, str]:
    """Name the models that an environment is made of.

    A world answers for itself through ``fingerprint() -> dict[str, str]``. The shipped world is its weight
    files, one hash a file. The users are those that the environment has, whose metadata hold the hash of their weights.

    Args:
        envs: A PASTA environment, single or vector.

    Returns:
        One entry a model, sorted by name.
    """
    world = getattr(envs, "world", None)
    fingerprint = getattr(world, "fingerprint", None)
    if fingerprint is not None:
        hashes = {str(name): str(value) for name, value in fingerprint().items()}
    else:
        import pasta_gym

        hashes = folder_hashes(pathlib.Path(pasta_gym.__file__).parent)
    used = getattr(getattr(envs, "user_model", None), "metadata", None)
    if used:
        hashes["user model in use"] = digest(json.loads(json.dumps(used, default=str)))
    return dict(sorted(hashes.items()))


def folder_hashes(folder: pathlib.Path) -> dict[str, str]:
    """Hash every ``.safetensors`` and ``tokenizer.json`` file under a folder, by its path within it."""
    found = sorted([*folder.rglob("*.safetensors"), *folder.rglob("tokenizer.json")])
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in found}


def by_content(value: Any) -> Any:
    """Replace whole paths of folders in plain data by the hashes of the weights in them, wherever they lie."""
    if isinstance(value, dict):
        return {name: by_content(inner) for name, inner in value.items()}
    if isinstance(value, str) and pathlib.Path(value).is_absolute() and pathlib.Path(value).is_dir():
        return folder_hashes(pathlib.Path(value))
    return value


def recipe_identity(world: Any) -> Any | None:
    """Return what a world's recipe says of itself, with folders by their content; None if it says nothing.

    A recipe with settings that move no conversation has a method ``identity() -> dict`` that leaves them out.
    """
    identity = getattr(world, "identity", None)
    return None if identity is None else by_content(identity())


def package_versions() -> dict[str, str]:
    """List the installed versions of the packages that can move a number."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_revision(folder: pathlib.Path) -> str:
    """Name the checkout's commit, with ``+changes`` if files differ from it; ``"unknown"`` outside of git."""
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+changes" if changed else "")


def _git(folder: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()
