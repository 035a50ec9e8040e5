"""Command line: list the caches in a folder and verify every embedding in them."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.encoders.embedding_cache import EmbeddingCache, fingerprint_of


def check_folder(folder: pathlib.Path) -> list[str]:
    """Verify all caches under a folder.

    Args:
        folder: What was passed as ``folder`` or ``cache_folder``.

    Returns:
        One line a cache: where it is, its encoder, how many embeddings, and how many of them are broken.

    Raises:
        ValueError: If there is none, or one cannot be read.
    """
    headers = sorted(folder.rglob("identity.json"))
    if not headers:
        raise ValueError(f"no embedding cache in {folder}: expected <fingerprint>/identity.json in it")
    lines = []
    for path in headers:
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
            identity, dim = header["identity"], int(header["dim"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"cannot read {path} ({error!r}); delete its folder to start anew") from error
        if fingerprint_of(identity) != path.parent.name:
            raise ValueError(
                f"{path.parent} is not named after its identity, {fingerprint_of(identity)}; rename it back"
            )
        cache = EmbeddingCache(path.parent.parent, identity, dim)
        broken = cache.check()
        cure = f", first rows {broken[:5].tolist()}: embed the same data again to mend them" if len(broken) else ""
        lines.append(f"{path.parent}: {identity.get('model')}, {len(cache)} embeddings, {len(broken)} broken{cure}")
    return lines


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> int:
    """Check a folder; returns 1 if something is broken."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.encoders.check", description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="folder of the caches")
    lines = check_folder(parser.parse_args(arguments).folder)
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(", 0 broken" not in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
