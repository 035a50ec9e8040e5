"""Images that lie as files under a folder: found by name when asked for, never outside the folder, never kept open."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from pasta_gym.datasets.records import DatasetError, Image


def inside(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """Join a name from a data file to a folder.

    Args:
        root: The folder.
        name: A relative path; a leading slash is dropped.

    Returns:
        The path, or None where the name would lead out of the folder.
    """
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    kept = [part for part in parts if part not in {"/", "//"}]
    if not kept or ".." in kept or "\0" in name:
        return None
    return root.joinpath(*kept)


def image_in_folder(key: str, root: pathlib.Path, names: Sequence[str]) -> Image:
    """Return an image that reads the first of some files that is there.

    Args:
        key: The image's key.
        root: The folder of the images.
        names: Where to look, best first, relative to the folder.
    """

    def read() -> bytes:
        for name in names:
            path = inside(root, name)
            try:
                if path is not None and path.is_file():
                    return path.read_bytes()
            except (OSError, ValueError) as error:
                raise DatasetError(f"cannot read the image ({error})", file=path) from error
        raise DatasetError(f"no image file of that name; looked for {', '.join(names)}", file=root)

    return Image(key, read)
